//! What is asked for, answered from a copy on disk instead of a stream: the same decoding and the same judgement.
//!
//! What the copy does not have is not known, and waits for a control plane. So does what is refused here: unlike a control
//! plane's refused resource it is not the newest word on anything.

use std::sync::Arc;
use std::time::Instant;

use mesh_core::config::RouteTree;

use super::kind::Timer;
use super::{AdsState, Variant};
use crate::client::cache::{Cached, Names as _, Recalled, Trouble, normal_form};
use crate::client::disk::{Kept, moment};
use crate::decode::{Fault, Rejected, admit, decode};
use crate::resource::{ClusterSpec, Endpoints, Extension, Listener, ResourceKind};
use crate::wire::Raw;

/// A copy, and now by both clocks.
pub(crate) struct Recall<'a> {
    pub(crate) copy: &'a Kept,
    /// Whether a name is of those of which everything can be asked for.
    pub(crate) is_plain: &'a dyn Fn(&str) -> bool,
    pub(crate) now: Instant,
    /// Seconds since 1970.
    pub(crate) wall_time: Option<u64>,
}

impl<V: Variant> AdsState<V> {
    /// Answers what was asked for since the last time; says how many answers there were, and what was refused of the copy.
    pub(crate) fn recall(&mut self, recall: &Recall<'_>) -> (usize, Vec<Rejected>) {
        let recalled = ResourceKind::ALL.map(|kind| match kind {
            ResourceKind::Listener => self.recall_kind::<Listener>(recall),
            ResourceKind::Route => self.recall_kind::<RouteTree>(recall),
            ResourceKind::Cluster => self.recall_kind::<ClusterSpec>(recall),
            ResourceKind::Endpoints => self.recall_kind::<Endpoints>(recall),
            ResourceKind::ExtensionConfig => self.recall_kind::<Extension>(recall),
        });
        let (mut answered, mut refused) = (0, Vec::new());
        for (answers, rejected) in recalled {
            answered += answers;
            refused.extend(rejected);
        }
        (answered, refused)
    }

    fn recall_kind<R: Cached>(&mut self, recall: &Recall<'_>) -> (usize, Vec<Rejected>) {
        let state = &mut self.types[R::KIND.index()];
        let mut asked: Vec<Arc<str>> = Vec::new();
        for (name, timer) in &mut state.names {
            if std::mem::replace(timer, Timer::Done) == Timer::Idle {
                asked.push(Arc::clone(name));
            }
        }
        let is_first = !std::mem::replace(&mut state.asked, state.everything);
        let all = state.everything && is_first;
        if state.everything {
            asked.clear();
        }
        if all {
            let names = recall.copy.entries.keys().filter(|(kind, _)| *kind == R::KIND);
            asked = names
                .map(|(_, name)| Arc::clone(name))
                .filter(|name| (recall.is_plain)(name))
                .collect();
        }
        let (mut answered, mut refused) = (0, Vec::new());
        for name in &asked {
            match self.recall_one::<R>(name, recall) {
                Ok(is_answer) => answered += usize::from(is_answer),
                Err(rejected) => refused.push(rejected),
            }
        }
        // What was refused may be what is looked for.
        if all && refused.is_empty() && recall.copy.listed[R::KIND.index()] {
            R::table_mut(&mut self.cache).complete();
            answered += 1;
        }
        (answered, refused)
    }

    /// Whether the copy has an answer.
    fn recall_one<R: Cached>(&mut self, name: &Arc<str>, recall: &Recall<'_>) -> Result<bool, Rejected> {
        let Some(entry) = recall.copy.entries.get(&(R::KIND, Arc::clone(name))) else {
            return Ok(false);
        };
        let table = R::table_mut(&mut self.cache);
        let Some(good) = &entry.good else {
            let why = format!(
                "{} {name:?}: there was none when the copy on disk was made, and no control plane has spoken since",
                R::KIND
            );
            table.trouble(name, Trouble::Failed(why.into()));
            return Ok(true);
        };
        let Some(lives) = recall.copy.lives(good, recall.wall_time) else {
            return Ok(false);
        };
        // Whoever wrote the file may have known no such bound.
        if let Err(heavy) = admit(Some(R::KIND), &good.bytes, good.bytes.len()) {
            return Err(Rejected::new(R::KIND, Arc::clone(name), Fault::new("", heavy)));
        }
        let raw = Raw {
            type_url: R::KIND.type_url().into(),
            bytes: good.bytes.to_vec(),
        };
        let decoded = match decode::<R>(&raw, &self.context) {
            Ok(decoded) if normal_form(&decoded.name) == **name => decoded,
            Ok(decoded) => {
                let fault = Fault::new("name", format!("is {:?} inside", decoded.name));
                return Err(Rejected::new(R::KIND, Arc::clone(name), fault));
            }
            Err(nameless) => return Err(nameless.of(name)),
        };
        let value = decoded.value?;
        let recalled = Recalled {
            told: moment(good.told),
        };
        table.recall(name, (value, decoded.notes), &good.bytes, &good.version, recalled);
        let ends = lives.and_then(|lives| recall.now.checked_add(lives));
        if let Some(ends) = ends {
            self.types[R::KIND.index()].lives.insert(Arc::clone(name), ends);
        }
        Ok(true)
    }
}
