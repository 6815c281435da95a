//! One kind of resource on one stream: what was asked for, what was sent, and so what is to be sent next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::clients::Acknowledged;
use super::encoded::TypeSet;
use super::machine::WILDCARD;
use crate::encode::Dialect;
use crate::resource::ResourceKind;
use crate::wire::{NOT_FOUND, Raw, ResourceError, Response};

#[derive(Debug, Default)]
pub(super) struct Subscription {
    wildcard: bool,
    pub(super) names: BTreeSet<Arc<str>>,
    /// A request waits for its answer, even if that has nothing new.
    pub(super) owed: bool,
    /// Of the newest response.
    pub(super) nonce: String,
    pub(super) version: Option<Arc<str>>,
    pub(super) sent: BTreeMap<Arc<str>, Arc<[u8]>>,
    /// Names that the client was told are not there.
    pub(super) told_absent: BTreeSet<Arc<str>>,
    pub(super) acknowledged: Acknowledged,
}

impl Subscription {
    pub(super) fn acknowledge(&mut self, error: Option<&str>) {
        match error {
            Some(why) => self.acknowledged = Acknowledged::Refused(why.into()),
            // A change of names after a refusal carries the same nonce and no error: it takes nothing back.
            None if self.acknowledged == Acknowledged::Waiting => self.acknowledged = Acknowledged::Accepted,
            None => {}
        }
    }

    pub(super) fn subscribe(&mut self, kind: ResourceKind, names: Vec<Arc<str>>, first: bool) {
        let mut names: BTreeSet<Arc<str>> = names.into_iter().collect();
        let star = names.remove(WILDCARD);
        if kind.absence_means_deleted() {
            // An empty list is a wildcard as a stream's first word, and stays one until names are said.
            self.wildcard = star || (names.is_empty() && (first || self.wildcard));
        }
        let (wildcard, kept) = (self.wildcard, &names);
        self.sent.retain(|name, _| wildcard || kept.contains(name));
        self.told_absent.retain(|name| kept.contains(name));
        self.names = names;
    }

    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// Whether something that is wanted and published was not sent, or not so; of a kind whose absence deletes, also whether
    /// something is to be deleted.
    pub(super) fn differs(&self, kind: ResourceKind, set: &TypeSet) -> bool {
        let mut wanted = set.resources.iter().filter(|(name, _)| self.wants(name));
        let mut gone = self.sent.keys().filter(|name| !set.resources.contains_key(*name));
        wanted.any(|(name, bytes)| self.sent.get(name) != Some(bytes))
            || (kind.absence_means_deleted() && gone.next().is_some())
    }

    /// The clusters that were sent otherwise than they are now. Of other kinds nobody asks.
    pub(super) fn renewed(&self, kind: ResourceKind, set: &TypeSet) -> Vec<Arc<str>> {
        if kind != ResourceKind::Cluster {
            return Vec::new();
        }
        let renewed =
            |(name, bytes): &(&Arc<str>, &Arc<[u8]>)| set.resources.get(*name).is_some_and(|new| new != *bytes);
        let sent = self.sent.iter().filter(renewed);
        sent.map(|(name, _)| Arc::clone(name)).collect()
    }

    pub(super) fn response(
        &mut self,
        kind: ResourceKind,
        set: &TypeSet,
        hold: bool,
        dialect: Dialect,
    ) -> Option<Response> {
        let whole = kind.absence_means_deleted();
        let mut wanted: BTreeMap<Arc<str>, Arc<[u8]>> = BTreeMap::new();
        for (name, bytes) in &set.resources {
            let new = whole || self.sent.get(name) != Some(bytes);
            if new && self.wants(name) {
                wanted.insert(Arc::clone(name), Arc::clone(bytes));
            }
        }
        let mut held = false;
        if hold {
            for (name, bytes) in &self.sent {
                if !set.resources.contains_key(name) {
                    held = true;
                    wanted.insert(Arc::clone(name), Arc::clone(bytes));
                }
            }
        }
        let errors = self.absent(kind, set, &wanted, dialect);
        let changed = if whole { wanted != self.sent } else { !wanted.is_empty() };
        // Of routes and endpoints, absence says nothing: the answer comes when there is something to say.
        let owed = std::mem::take(&mut self.owed) && (whole || !wanted.is_empty());
        if !changed && !owed && errors.is_empty() {
            return None;
        }
        let raw = |bytes: &Arc<[u8]>| Raw {
            type_url: kind.type_url().into(),
            bytes: bytes.to_vec(),
        };
        let response = Response {
            type_url: kind.type_url().into(),
            version: format!("{}{}", set.version, if held { "+held" } else { "" }),
            nonce: String::new(),
            resources: wanted.values().map(raw).collect(),
            errors,
        };
        if whole {
            self.sent = wanted;
        } else {
            self.sent.extend(wanted);
        }
        self.version = Some(response.version.as_str().into());
        self.acknowledged = Acknowledged::Waiting;
        Some(response)
    }

    /// Tells our own client at once of names that do not exist (xRFC TP3), where others find out by waiting.
    fn absent(
        &mut self,
        kind: ResourceKind,
        set: &TypeSet,
        held: &BTreeMap<Arc<str>, Arc<[u8]>>,
        dialect: Dialect,
    ) -> Vec<ResourceError> {
        self.told_absent.retain(|name| !set.resources.contains_key(name));
        if dialect != Dialect::Mesh {
            return Vec::new();
        }
        let missing: Vec<Arc<str>> = self
            .names
            .iter()
            .filter(|name| !set.resources.contains_key(*name) && !held.contains_key(*name))
            .filter(|name| !self.told_absent.contains(*name))
            .cloned()
            .collect();
        self.told_absent.extend(missing.iter().cloned());
        // What comes back is news, even with the bytes that it had.
        for name in &missing {
            self.sent.remove(name);
        }
        let error = |name: Arc<str>| ResourceError {
            message: format!("there is no {kind} {name:?}"),
            name: String::from(&*name),
            code: NOT_FOUND,
        };
        missing.into_iter().map(error).collect()
    }
}
