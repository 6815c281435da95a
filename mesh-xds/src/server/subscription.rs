//! One kind of resource on one stream: what was asked for, what was sent, and so what is to be sent next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::clients::Acknowledged;
use super::encoded::TypeSet;
use super::machine::WILDCARD;
use super::nack::{Nack, Verdict};
use super::warming::Answered;
use crate::encode::Dialect;
use crate::resource::ResourceKind;
use crate::wire::{NOT_FOUND, Raw, ResourceError, Response};

#[derive(Debug, Default)]
pub(super) struct Subscription {
    pub(super) wildcard: bool,
    pub(super) names: BTreeSet<Arc<str>>,
    /// A request waits for its answer, even if that has nothing new.
    owed: bool,
    /// Of the newest response; zero before there is one.
    nonce: u64,
    /// The names of what was in it.
    last: Vec<Arc<str>>,
    pub(super) version: Option<Arc<str>>,
    sent: BTreeMap<Arc<str>, Arc<[u8]>>,
    /// Names that the client was told are not there.
    told_absent: BTreeSet<Arc<str>>,
    /// What it said to the newest response.
    acknowledged: Acknowledged,
    /// What it does not use of what was sent last, or may not use, and why. A later response without it takes nothing back.
    doubts: BTreeMap<Arc<str>, Doubt>,
    pub(super) answered: Answered,
}

#[derive(Debug)]
enum Doubt {
    Refused(Arc<str>),
    Unknown,
}

/// What is not to be said yet.
#[derive(Debug)]
pub(super) enum Waits {
    Nothing,
    /// That something is no more.
    Removals,
    /// These.
    These(BTreeSet<Arc<str>>),
}

impl Waits {
    /// Whether this is not to be sent.
    pub(super) fn holds(&self, name: &str) -> bool {
        matches!(self, Self::These(names) if names.contains(name))
    }

    /// Whether something is not to be sent.
    pub(super) fn hold_some(&self) -> bool {
        matches!(self, Self::These(names) if !names.is_empty())
    }
}

impl Subscription {
    /// Takes what the client says to a response. Whether that is the newest one; nothing else counts of a request that
    /// answers another.
    pub(super) fn acknowledge(&mut self, nonce: u64, error: Option<&str>) -> bool {
        self.answered.answer(nonce, self.nonce);
        if nonce != self.nonce || nonce == 0 {
            return false;
        }
        match error {
            Some(text) => {
                let nack = Nack::read(text);
                for (name, verdict) in nack.judge(&self.last) {
                    match verdict {
                        Verdict::Accepted => self.doubts.remove(name),
                        Verdict::Refused => self
                            .doubts
                            .insert(Arc::clone(name), Doubt::Refused(Arc::clone(&nack.why))),
                        Verdict::Unknown => self.doubts.insert(Arc::clone(name), Doubt::Unknown),
                    };
                }
                self.acknowledged = Acknowledged::Refused(nack.why);
            }
            // A change of names after a refusal carries the same nonce and no error: it takes nothing back.
            None if self.acknowledged == Acknowledged::Waiting => self.acknowledged = Acknowledged::Accepted,
            None => {}
        }
        true
    }

    /// What is known of what the client uses.
    pub(super) fn acknowledged(&self) -> Acknowledged {
        let refused = self.doubts.values().find_map(|doubt| match doubt {
            Doubt::Refused(why) => Some(Arc::clone(why)),
            Doubt::Unknown => None,
        });
        match (&self.acknowledged, refused) {
            (Acknowledged::Refused(why), _) => Acknowledged::Refused(Arc::clone(why)),
            (_, Some(why)) => Acknowledged::Refused(why),
            (Acknowledged::Accepted, None) if self.doubts.is_empty() => Acknowledged::Accepted,
            _ => Acknowledged::Waiting,
        }
    }

    /// Whether the newest response is not answered.
    pub(super) fn is_waited_for(&self) -> bool {
        self.version.is_some() && self.acknowledged == Acknowledged::Waiting
    }

    /// Answers as if this were the first request.
    pub(super) fn begin_anew(&mut self, kind: ResourceKind) {
        self.owed = true;
        if !kind.absence_means_deleted() {
            // The others are told whole anyway, with what is held for the routes and stands nowhere else.
            self.sent.clear();
        }
        self.told_absent.clear();
        self.answered.retain(|_| false);
    }

    /// Sends these once more.
    pub(super) fn send_again(&mut self, names: &[Arc<str>]) {
        for name in names {
            self.sent.remove(name);
        }
    }

    /// Sends these once more, as if the client had never had them.
    pub(super) fn forget(&mut self, names: &[Arc<str>]) {
        self.send_again(names);
        for name in names {
            self.answered.forget(name);
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
        self.doubts.retain(|name, _| wildcard || kept.contains(name));
        self.answered.retain(|name| wildcard || kept.contains(name));
        self.names = names;
    }

    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// Whether something that is wanted and published was not sent, or not so; of a kind whose absence deletes, also whether
    /// something is to be deleted.
    pub(super) fn differs(&self, kind: ResourceKind, set: &TypeSet) -> bool {
        let mut gone = self.sent.keys().filter(|name| !set.resources.contains_key(*name));
        self.changed(set).next().is_some() || (kind.absence_means_deleted() && gone.next().is_some())
    }

    /// The names of what is wanted and published and was not sent, or not so.
    pub(super) fn changed<'a>(&'a self, set: &'a TypeSet) -> impl Iterator<Item = &'a Arc<str>> {
        let wanted = set.resources.iter().filter(|(name, _)| self.wants(name));
        let changed = wanted.filter(|(name, bytes)| self.sent.get(*name) != Some(*bytes));
        changed.map(|(name, _)| name)
    }

    /// The clusters that the next response takes away. Of other kinds nobody asks.
    pub(super) fn gone(&self, kind: ResourceKind, set: &TypeSet, waits: &Waits) -> Vec<Arc<str>> {
        if kind != ResourceKind::Cluster || matches!(waits, Waits::Removals) {
            return Vec::new();
        }
        let gone = self.sent.keys().filter(|name| !set.resources.contains_key(*name));
        gone.cloned().collect()
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
        waits: &Waits,
        dialect: Dialect,
        nonce: u64,
    ) -> Option<Response> {
        self.doubts.retain(|name, _| set.resources.contains_key(name));
        let whole = kind.absence_means_deleted();
        let mut wanted: BTreeMap<Arc<str>, Arc<[u8]>> = BTreeMap::new();
        for (name, bytes) in &set.resources {
            let new = whole || self.sent.get(name) != Some(bytes);
            if new && self.wants(name) && !waits.holds(name) {
                wanted.insert(Arc::clone(name), Arc::clone(bytes));
            }
        }
        let mut held = waits.hold_some();
        if matches!(waits, Waits::Removals) {
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
            nonce: nonce.to_string(),
            resources: wanted.values().map(raw).collect(),
            errors,
        };
        self.nonce = nonce;
        self.last = wanted.keys().cloned().collect();
        for name in &self.last {
            self.doubts.remove(name);
            self.answered.told(name, nonce);
        }
        if whole {
            self.answered.retain(|name| wanted.contains_key(name));
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
