//! The resources of one kind.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::time::SystemTime;

use super::refused::{Kept, Room};
use super::{Found, Row, Trouble};
use crate::decode::{Decoded, Rejected, Resource};

/// The most resources of one kind that are kept where everything is asked for. Beyond them what a control plane sends is
/// refused: it is not for this process to hold a registry of any size.
pub(crate) const MAX_RESOURCES: usize = 200_000;

/// Resources of one kind, by name.
#[derive(Debug)]
pub(crate) struct Table<R> {
    /// What nobody named is kept too.
    everything: bool,
    /// Of everything, the control plane has said what there is.
    complete: bool,
    entries: BTreeMap<Arc<str>, Entry<R>>,
    /// What was refused of the last response without that its name could be read. It is shown by the empty name, which no resource has.
    nameless: Option<Nameless>,
    /// The names of which something changed since that was last asked.
    changed: Vec<Arc<str>>,
    /// For what was refused.
    room: Room,
}

/// One subscribed resource.
#[derive(Debug)]
struct Entry<R> {
    good: Option<Good<R>>,
    /// The version that the last word on it came with.
    received: Arc<str>,
    trouble: Option<Trouble>,
    /// What came and was refused. Only beside that trouble.
    refused: Option<Kept>,
}

/// What could not even be named.
#[derive(Debug)]
struct Nameless {
    name: Arc<str>,
    received: Arc<str>,
    trouble: Trouble,
}

#[derive(Debug)]
struct Good<R> {
    value: Arc<R>,
    bytes: Arc<Vec<u8>>,
    version: Arc<str>,
    /// That of its envelope, where it came in one with a version beside its response's. Empty otherwise. Heartbeats name it.
    own: Arc<str>,
    notes: Vec<Box<str>>,
    recalled: Option<Recalled>,
}

/// Where a value is from that no control plane of this process told: the copy on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recalled {
    /// When it had come, by the wall clock.
    pub(crate) told: Option<SystemTime>,
}

impl<R> Clone for Good<R> {
    fn clone(&self) -> Self {
        Self {
            value: Arc::clone(&self.value),
            bytes: Arc::clone(&self.bytes),
            version: Arc::clone(&self.version),
            own: Arc::clone(&self.own),
            notes: self.notes.clone(),
            recalled: self.recalled,
        }
    }
}

impl<R> Entry<R> {
    fn is_deleted(&self) -> bool {
        self.good.is_some() && matches!(self.trouble, Some(Trouble::Absent(_)))
    }
}

impl<R: Resource> Table<R> {
    pub(super) fn find(&self, name: &str) -> Found<R> {
        match self.entries.get(name) {
            Some(Entry { good: Some(good), .. }) => Found::Value(Arc::clone(&good.value)),
            Some(Entry {
                trouble: Some(trouble), ..
            }) => Found::None(trouble.clone()),
            _ if self.complete => Found::None(Trouble::Absent(unlisted::<R>(name))),
            _ => Found::Pending,
        }
    }

    /// A name that is not there now, is not there.
    pub(crate) fn complete(&mut self) {
        if self.everything && !self.complete {
            self.complete = true;
            let unknown = self.entries.iter().filter(|(_, entry)| entry.good.is_none());
            self.changed.extend(unknown.map(|(name, _)| Arc::clone(name)));
        }
    }

    /// Whether one more name may come in.
    pub(crate) fn has_room(&self, name: &str) -> bool {
        !self.everything || self.entries.len() < MAX_RESOURCES || self.entries.contains_key(name)
    }

    /// Whether `bytes` are the last good ones: the same value again, which keeps its `Arc`. If so, what was wrong since is
    /// forgotten.
    pub(crate) fn confirm(&mut self, name: &Arc<str>, bytes: &[u8], version: &Arc<str>, own: &Arc<str>) -> bool {
        let Some(entry) = self.entries.get_mut(name) else {
            return false;
        };
        match &mut entry.good {
            Some(good) if *good.bytes == *bytes => {
                let news = good.version != *version
                    || entry.received != *version
                    || entry.trouble.is_some()
                    || good.recalled.is_some();
                good.recalled = None;
                good.version = Arc::clone(version);
                good.own = Arc::clone(own);
                entry.received = Arc::clone(version);
                (entry.trouble, entry.refused) = (None, None);
                if news {
                    self.changed.push(Arc::clone(name));
                }
                true
            }
            _ => false,
        }
    }

    /// Stores what came, if it is subscribed.
    pub(crate) fn receive(&mut self, decoded: Decoded<R>, bytes: Arc<Vec<u8>>, version: &Arc<str>, own: &Arc<str>) {
        if self.everything && self.has_room(&decoded.name) {
            self.insert(&decoded.name);
        }
        let Some(entry) = self.entries.get_mut(&decoded.name) else {
            return;
        };
        self.changed.push(decoded.name);
        entry.received = Arc::clone(version);
        match decoded.value {
            Err(rejected) => {
                // What was kept before gives its room back first.
                entry.refused = None;
                entry.refused = self.room.keep(bytes);
                entry.trouble = Some(Trouble::Refused(rejected));
            }
            Ok(value) => {
                (entry.trouble, entry.refused) = (None, None);
                entry.good = Some(Good {
                    value: Arc::new(value),
                    bytes,
                    version: Arc::clone(version),
                    own: Arc::clone(own),
                    notes: decoded.notes,
                    recalled: None,
                });
            }
        }
    }

    /// Notes the refusal of what had no name, or that the last response had none such.
    pub(crate) fn nameless(&mut self, rejected: Option<Rejected>, version: Option<&Arc<str>>) {
        if rejected.is_none() && self.nameless.is_none() {
            return;
        }
        let name: Arc<str> = "".into();
        self.changed.push(Arc::clone(&name));
        self.nameless = rejected.map(|rejected| Nameless {
            name,
            received: version.cloned().unwrap_or_default(),
            trouble: Trouble::Refused(rejected),
        });
    }

    /// Stores what a copy on disk holds, if it is subscribed. No control plane has said a word.
    pub(crate) fn recall(
        &mut self,
        name: &Arc<str>,
        (value, notes): (R, Vec<Box<str>>),
        bytes: &Arc<Vec<u8>>,
        version: &Arc<str>,
        recalled: Recalled,
    ) {
        if self.everything && self.has_room(name) {
            self.insert(name);
        }
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        self.changed.push(Arc::clone(name));
        entry.trouble = None;
        entry.good = Some(Good {
            value: Arc::new(value),
            bytes: Arc::clone(bytes),
            version: Arc::clone(version),
            own: Arc::default(),
            notes,
            recalled: Some(recalled),
        });
    }

    /// Whether there is a good value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.get(name).is_some_and(|entry| entry.good.is_some())
    }

    /// Whether the good value is of this version: the one it came with, or its envelope's.
    pub(crate) fn holds(&self, name: &str, version: &str) -> bool {
        let good = self.entries.get(name).and_then(|entry| entry.good.as_ref());
        good.is_some_and(|good| &*good.version == version || (!good.own.is_empty() && &*good.own == version))
    }

    /// Whether what is held came in an envelope that said a version.
    pub(crate) fn has_own_version(&self, name: &str) -> bool {
        let good = self.entries.get(name).and_then(|entry| entry.good.as_ref());
        good.is_some_and(|good| !good.own.is_empty())
    }

    /// Whether there is a good value, and nothing was said against it since.
    pub(crate) fn is_undisputed(&self, name: &str) -> bool {
        let entry = self.entries.get(name);
        entry.is_some_and(|entry| entry.good.is_some() && entry.trouble.is_none())
    }

    /// The names of which something came, good or refused.
    pub(crate) fn told(&self) -> impl Iterator<Item = &Arc<str>> {
        let told = |entry: &Entry<R>| entry.good.is_some() || matches!(entry.trouble, Some(Trouble::Refused(_)));
        self.entries
            .iter()
            .filter(move |(_, entry)| told(entry))
            .map(|(name, _)| name)
    }

    /// The subscribed names that have a good value.
    pub(super) fn known(&self) -> impl Iterator<Item = &Arc<str>> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.good.is_some())
            .map(|(name, _)| name)
    }

    /// Every good value and its name: those that the control plane has in order of names, then likewise those that it
    /// deleted and that are kept.
    pub(super) fn values(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<R>)> {
        let of = |deleted: bool| {
            let entries = self
                .entries
                .iter()
                .filter(move |(_, entry)| entry.is_deleted() == deleted);
            entries.filter_map(|(name, entry)| Some((name, &entry.good.as_ref()?.value)))
        };
        of(false).chain(of(true))
    }

    /// Whether a good value is kept that the control plane no longer has.
    pub(crate) fn is_deleted(&self, name: &str) -> bool {
        self.entries.get(name).is_some_and(Entry::is_deleted)
    }

    /// Gives a good value up.
    pub(crate) fn discard(&mut self, name: &str) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.good = None;
        }
    }

    /// Takes over another table's good values of the names that have none here, and says which. Those that are said not to be there are
    /// kept like any that was deleted.
    pub(super) fn inherit(&mut self, from: &Self, belongs: &dyn Fn(&str) -> bool) -> Vec<Arc<str>> {
        let mut inherited = Vec::new();
        let mine = self.entries.iter_mut();
        for (name, entry) in mine.filter(|(name, entry)| entry.good.is_none() && belongs(name)) {
            let Some(good) = from.entries.get(name).and_then(|entry| entry.good.as_ref()) else {
                continue;
            };
            entry.good = Some(good.clone());
            let absent = match &entry.trouble {
                Some(Trouble::Absent(why)) => Some(Arc::clone(why)),
                None if self.complete => Some(unlisted::<R>(name)),
                _ => None,
            };
            if let Some(why) = absent {
                entry.trouble = Some(Trouble::Absent(format!("{why}; its last value is kept").into()));
            }
            inherited.push(Arc::clone(name));
        }
        self.changed.extend(inherited.iter().cloned());
        inherited
    }

    /// Whether everything was asked for and told.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }
}

/// What a table does with names, whatever its resources are.
pub(crate) trait Names {
    /// Begins the memory of a name.
    fn insert(&mut self, name: &Arc<str>);
    /// Forgets a name that nobody looks at any more, unless it goes on being told of anyway.
    fn remove(&mut self, name: &str);
    /// Whether resources that nobody named are kept too.
    fn open(&mut self, everything: bool);
    /// Notes what is wrong with a name, beside its good value; whether there is one, and nothing of the sort was wrong before.
    fn trouble(&mut self, name: &Arc<str>, trouble: Trouble) -> bool;
    /// Ends a good value.
    fn end(&mut self, name: &Arc<str>, why: &Arc<str>);
    /// Names and versions of the good values that nothing was said against since.
    fn held(&self) -> Vec<(Arc<str>, Arc<str>)>;
    /// Names of what was refused.
    fn refused(&self) -> Vec<Arc<str>>;
    /// Forgets everything.
    fn clear(&mut self);
    /// Every name of which something is remembered.
    fn names(&self) -> Vec<Arc<str>>;
    /// Whether nothing definite was heard of a name.
    fn is_unknown(&self, name: &str) -> bool;
    /// Whether everything was asked for and is not told yet.
    fn awaits_everything(&self) -> bool;
    /// Whether everything was asked for and told.
    fn is_listed(&self) -> bool;
    /// Whether there is a good value of any name that `belongs`.
    fn has_any(&self, belongs: &dyn Fn(&str) -> bool) -> bool;
    fn take_changed(&mut self) -> Vec<Arc<str>>;
    fn row(&self, name: &str) -> Option<Row<'_>>;
    #[cfg(any(test, feature = "fuzzing"))]
    fn rows(&self) -> Vec<Row<'_>>;
}

impl<R: Resource> Names for Table<R> {
    fn insert(&mut self, name: &Arc<str>) {
        let changed = &mut self.changed;
        self.entries.entry(Arc::clone(name)).or_insert_with(|| {
            changed.push(Arc::clone(name));
            Entry {
                good: None,
                received: "".into(),
                trouble: None,
                refused: None,
            }
        });
    }

    fn remove(&mut self, name: &str) {
        // What is listed is remembered, good or refused: it is not sent again to who looks at it again.
        let told = |entry: &Entry<R>| match entry.trouble {
            Some(Trouble::Refused(_)) => true,
            Some(Trouble::Absent(_)) => false,
            _ => entry.good.is_some(),
        };
        if self.everything && self.entries.get(name).is_some_and(told) {
            return;
        }
        if let Some((name, _)) = self.entries.remove_entry(name) {
            self.changed.push(name);
        }
    }

    fn open(&mut self, everything: bool) {
        self.everything = everything;
        self.complete &= everything;
    }

    fn trouble(&mut self, name: &Arc<str>, trouble: Trouble) -> bool {
        let Some(entry) = self.entries.get_mut(name) else {
            return false;
        };
        let before = entry.trouble.as_ref().map(mem::discriminant);
        let is_new = before != Some(mem::discriminant(&trouble));
        (entry.trouble, entry.refused) = (Some(trouble), None);
        self.changed.push(Arc::clone(name));
        is_new && entry.good.is_some()
    }

    fn end(&mut self, name: &Arc<str>, why: &Arc<str>) {
        self.discard(name);
        self.trouble(name, Trouble::Absent(Arc::clone(why)));
    }

    fn clear(&mut self) {
        self.changed.extend(mem::take(&mut self.entries).into_keys());
        self.nameless(None, None);
        (self.everything, self.complete) = (false, false);
    }

    fn names(&self) -> Vec<Arc<str>> {
        self.entries.keys().cloned().collect()
    }

    fn is_unknown(&self, name: &str) -> bool {
        matches!(self.find(name), Found::Pending | Found::None(Trouble::TimedOut(_)))
    }

    fn awaits_everything(&self) -> bool {
        self.everything && !self.complete
    }

    fn is_listed(&self) -> bool {
        self.everything && self.complete
    }

    fn has_any(&self, belongs: &dyn Fn(&str) -> bool) -> bool {
        self.known().any(|name| belongs(name))
    }

    fn held(&self) -> Vec<(Arc<str>, Arc<str>)> {
        let undisputed = self.entries.iter().filter(|(_, entry)| entry.trouble.is_none());
        // A version of the copy on disk is no control plane's word.
        let good = undisputed.filter_map(|(name, entry)| Some((name, entry.good.as_ref()?)));
        good.filter(|(_, good)| good.recalled.is_none())
            .map(|(name, good)| (Arc::clone(name), Arc::clone(&good.version)))
            .collect()
    }

    fn refused(&self) -> Vec<Arc<str>> {
        let is_refused = |entry: &Entry<R>| matches!(entry.trouble, Some(Trouble::Refused(_)));
        let refused = self.entries.iter().filter(|(_, entry)| is_refused(entry));
        refused.map(|(name, _)| Arc::clone(name)).collect()
    }

    fn take_changed(&mut self) -> Vec<Arc<str>> {
        mem::take(&mut self.changed)
    }

    fn row(&self, name: &str) -> Option<Row<'_>> {
        if let Some(nameless) = self.nameless.as_ref().filter(|_| name.is_empty()) {
            return Some(nameless_row::<R>(nameless));
        }
        let (name, entry) = self.entries.get_key_value(name)?;
        Some(row::<R>(name, entry))
    }

    #[cfg(any(test, feature = "fuzzing"))]
    fn rows(&self) -> Vec<Row<'_>> {
        self.entries.iter().map(|(name, entry)| row::<R>(name, entry)).collect()
    }
}

/// Why a name is not there that is not listed.
fn unlisted<R: Resource>(name: &str) -> Arc<str> {
    format!("{} {name:?} is none of those that the control plane lists", R::KIND).into()
}

fn row<'a, R: Resource>(name: &'a Arc<str>, entry: &'a Entry<R>) -> Row<'a> {
    let good = entry.good.as_ref();
    Row {
        kind: R::KIND,
        name,
        received: &entry.received,
        accepted: good.map(|good| &good.version),
        notes: good.map_or(&[], |good| &good.notes),
        bytes: good.map(|good| &good.bytes),
        recalled: good.and_then(|good| good.recalled),
        trouble: entry.trouble.as_ref(),
        refused: entry.refused.as_ref().map(Kept::bytes),
    }
}

fn nameless_row<R: Resource>(nameless: &Nameless) -> Row<'_> {
    Row {
        kind: R::KIND,
        name: &nameless.name,
        received: &nameless.received,
        accepted: None,
        notes: &[],
        bytes: None,
        recalled: None,
        trouble: Some(&nameless.trouble),
        refused: None,
    }
}

impl<R> Default for Table<R> {
    fn default() -> Self {
        Self {
            everything: false,
            complete: false,
            entries: BTreeMap::new(),
            nameless: None,
            changed: Vec::new(),
            room: Room::default(),
        }
    }
}
