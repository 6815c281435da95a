//! One response into the cache: each resource by itself, so that the good ones of a bad response are used (gRFC A46).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::kind::{Timer, Waits};
use super::read::{Item, What, normal};
use super::rules::Rules;
use crate::client::cache::{Cached, MAX_RESOURCES, Names as _, Table, Trouble};
use crate::decode::{Decoded, Fault, Rejected, clip};
use crate::wire::{NOT_FOUND, ResourceError};

/// The most bytes of a control plane's own words that are kept: they are told to callers.
const MAX_WORDS_BYTES: usize = 512;
/// gRPC's PERMISSION_DENIED.
const PERMISSION_DENIED: i32 = 7;

/// The taking in of one response.
pub(crate) struct Taking<'a, R> {
    rules: Rules,
    heard: Heard<'a>,
    table: &'a mut Table<R>,
    /// What the response spoke of.
    present: HashSet<Arc<str>>,
    /// The last one whose name could not be read, which may be any.
    nameless: Option<Rejected>,
    /// There was more than word that something is as it was.
    has_news: bool,
    /// The version of the whole type, where there is one.
    version: Option<Arc<str>>,
    taken: Taken,
}

/// What came of a response.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// How many resources were good.
    pub(crate) valid: usize,
    /// Those that were not.
    pub(crate) rejected: Vec<Rejected>,
    /// The names that the control plane deleted, whose last good value is kept.
    pub(crate) deleted: Vec<Arc<str>>,
    /// The names that it had deleted and has again.
    pub(crate) returned: Vec<Arc<str>>,
}

/// What hearing of a name ends and begins: the wait for it, and its time to live.
pub(crate) struct Heard<'a> {
    pub(super) names: &'a mut BTreeMap<Arc<str>, Timer>,
    pub(super) waits: &'a mut Waits,
    pub(super) lives: &'a mut BTreeMap<Arc<str>, Instant>,
    pub(super) now: Instant,
}

impl Heard<'_> {
    fn of(&mut self, name: &Arc<str>) {
        if let Some(timer) = self.names.get_mut(name) {
            self.waits.is_over(timer);
        }
    }

    fn lives(&mut self, name: &Arc<str>, ttl: Option<Duration>) {
        match ttl.and_then(|ttl| self.now.checked_add(ttl)) {
            Some(end) => drop(self.lives.insert(Arc::clone(name), end)),
            None => drop(self.lives.remove(name)),
        }
    }
}

impl<'a, R: Cached> Taking<'a, R> {
    pub(super) fn new(rules: Rules, heard: Heard<'a>, table: &'a mut Table<R>) -> Self {
        Self {
            rules,
            heard,
            table,
            present: HashSet::new(),
            nameless: None,
            has_news: false,
            version: None,
            taken: Taken::default(),
        }
    }

    /// What came of it.
    pub(super) fn taken(self) -> Taken {
        self.table.nameless(self.nameless, self.version.as_ref());
        self.taken
    }

    /// What came for one resource.
    pub(super) fn item(&mut self, item: Item<R>) {
        let Item {
            version,
            own,
            ttl,
            what,
        } = item;
        self.has_news |= !matches!(what, What::Heartbeat(_));
        match what {
            What::Heartbeat(name) => self.heartbeat(name, &version, &own, ttl),
            What::Nameless(rejected) => {
                self.nameless = Some(rejected.clone());
                self.taken.rejected.push(rejected);
            }
            What::Resource { decoded, bytes } => self.resource(decoded, bytes, (&version, &own), ttl),
        }
    }

    fn resource(
        &mut self,
        mut decoded: Decoded<R>,
        bytes: Arc<Vec<u8>>,
        (version, own): (&Arc<str>, &Arc<str>),
        ttl: Option<Duration>,
    ) {
        self.heard.of(&decoded.name);
        if !self.present.insert(Arc::clone(&decoded.name)) {
            let fault = Fault::new("name", "is there twice in one response");
            decoded.value = Err(Rejected::new(R::KIND, Arc::clone(&decoded.name), fault));
        }
        if decoded.value.is_ok() && !self.table.has_room(&decoded.name) {
            let fault = Fault::new("", format!("there are more than {MAX_RESOURCES} of them"));
            decoded.value = Err(Rejected::new(R::KIND, Arc::clone(&decoded.name), fault));
        }
        if let Err(why) = &decoded.value {
            self.taken.rejected.push(why.clone());
            if self.rules.fail_on_data_errors {
                self.table.discard(&decoded.name);
            }
        } else {
            self.taken.valid += 1;
            if self.table.is_deleted(&decoded.name) {
                self.taken.returned.push(Arc::clone(&decoded.name));
            }
            self.heard.lives(&decoded.name, ttl);
            if self.table.confirm(&decoded.name, &bytes, version, own) {
                return;
            }
        }
        self.table.receive(decoded, bytes, version, own);
    }

    /// All that comes is of this version, as in state of the world.
    pub(super) fn of_version(self, version: &str) -> Self {
        Self {
            version: Some(version.into()),
            ..self
        }
    }

    /// Word that a resource is there as it was. One of a version that is not held says nothing; but where the version is the
    /// type's, it moves on with others' news, and what nothing was said against since is held in the newest.
    ///
    /// One that says a version of its own is measured by that where what is held came with one too, whatever became of the
    /// type's; where it came with none there is nothing to compare, and the response's counts, as with Envoy. Rather too much is
    /// renewed than too little: what is held a while too long was once true, and what ends too early fails every call.
    fn heartbeat(&mut self, name: Arc<str>, version: &Arc<str>, own: &Arc<str>, ttl: Option<Duration>) {
        let (table, newest) = (&*self.table, self.version.as_ref());
        let is_held =
            |said: &Arc<str>| table.holds(&name, said) || (newest == Some(said) && table.is_undisputed(&name));
        let by_own = !own.is_empty() && is_held(own);
        let by_response = (own.is_empty() || !table.has_own_version(&name)) && is_held(version);
        if by_own || by_response {
            self.heard.of(&name);
            self.heard.lives(&name, ttl);
        }
        self.present.insert(name);
    }

    /// An error in the place of a resource: it is not there, or the control plane has trouble of its own, which passes and
    /// says nothing about the resource (gRFC A88).
    pub(super) fn error(&mut self, error: ResourceError) {
        let ResourceError { name, code, message } = error;
        let name = normal(name.into());
        let message = clip(&message, MAX_WORDS_BYTES);
        let why = format!("{} {name:?}: the control plane says: {message}", R::KIND);
        if matches!(code, NOT_FOUND | PERMISSION_DENIED) {
            return self.absent(name, why);
        }
        self.heard.of(&name);
        self.table.trouble(&name, Trouble::Failed(why.into()));
        self.present.insert(name);
    }

    /// Word that a resource is not there. One that is in the same response is.
    pub(super) fn remove(&mut self, name: Arc<str>) {
        let name = normal(name);
        if !self.present.contains(&name) {
            let why = match self.table.has(&name) {
                true => self.deleted(&name),
                false => format!("{} {name:?} does not exist: the control plane says so", R::KIND),
            };
            self.absent(name, why);
        }
    }

    /// What a response that lists everything did not speak of was deleted, if it was ever there. One of heartbeats alone lists
    /// nothing, and one with a resource whose name cannot be read may speak of any.
    pub(super) fn delete_the_rest(&mut self) {
        if self.nameless.is_some() || self.is_heartbeat() {
            return;
        }
        let told = self.table.told().filter(|name| !self.present.contains(*name));
        let gone: Vec<Arc<str>> = told.cloned().collect();
        for name in gone {
            let why = match self.table.has(&name) {
                true => self.deleted(&name),
                false => format!("{} {name:?} was refused, and is not listed any more", R::KIND),
            };
            self.gone(&name, why);
        }
    }

    /// Where everything was asked for, the control plane has now said what there is.
    pub(super) fn complete(&mut self) {
        if !self.is_heartbeat() {
            self.table.complete();
        }
    }

    fn is_heartbeat(&self) -> bool {
        !self.has_news && !self.present.is_empty()
    }

    fn absent(&mut self, name: Arc<str>, why: String) {
        self.heard.of(&name);
        self.gone(&name, why);
        self.present.insert(name);
    }

    fn gone(&mut self, name: &Arc<str>, why: String) {
        self.heard.lives(name, None);
        if self.rules.fail_on_data_errors {
            self.table.discard(name);
        }
        if self.table.trouble(name, Trouble::Absent(why.into())) {
            self.taken.deleted.push(Arc::clone(name));
        }
        if !self.heard.names.contains_key(name) {
            self.table.remove(name);
        }
    }

    fn deleted(&self, name: &str) -> String {
        let kept = match self.rules.fail_on_data_errors {
            true => "",
            false => "; its last value is kept",
        };
        format!("{} {name:?} was deleted by the control plane{kept}", R::KIND)
    }
}
