//! One kind of resource on one stream: what was asked for, what was sent, and so what is to be sent next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::clients::{Acknowledged, SubscriptionReport};
use super::encoded::TypeSet;
use super::machine::{MAX_UNANSWERED, WILDCARD};
use super::nack::{Nack, Verdict};
use super::order::{Told, Waits};
use super::warming::Answered;
use crate::encode::Dialect;
use crate::resource::ResourceKind;
use crate::wire::{NOT_FOUND, Raw, ResourceError, Response};

#[derive(Debug, Default)]
pub(super) struct Subscription {
    wildcard: bool,
    names: BTreeSet<Arc<str>>,
    /// A request waits for its answer, even if that has nothing new.
    owed: bool,
    /// Of the newest response; zero before there is one.
    nonce: u64,
    /// The responses of which something is not answered for and was not sent again since, the oldest first, and the names of what
    /// was in them. The last is the newest.
    unanswered: VecDeque<(u64, Vec<Arc<str>>)>,
    version: Option<Arc<str>>,
    /// The newest version before that one of which the client uses everything.
    accepted: Option<Arc<str>>,
    sent: BTreeMap<Arc<str>, Arc<[u8]>>,
    /// Of those, what the client did not ask for in between.
    dropped: BTreeSet<Arc<str>>,
    /// Names that the client was told are not there.
    told_absent: BTreeSet<Arc<str>>,
    /// What it said to the newest response.
    acknowledged: Acknowledged,
    /// What it does not use of what was sent last, or may not use, and why. A later response without it takes nothing back.
    doubts: BTreeMap<Arc<str>, Doubt>,
    answered: Answered,
}

#[derive(Debug)]
enum Doubt {
    Refused(Arc<str>),
    Unknown,
}

impl Subscription {
    /// Takes what the client says to a response. Whether that is the newest one; of a request that answers another nothing else counts
    /// than what it refuses.
    pub(super) fn acknowledge(&mut self, nonce: u64, error: Option<&str>) -> bool {
        self.answered.answer(nonce, self.nonce);
        let is_newest = nonce == self.nonce && nonce != 0;
        let refused = error.map(|text| self.refuse(nonce, &Nack::read(text)));
        // An answer stands for all before it.
        let newest = self.nonce;
        self.unanswered.retain(|(sent, _)| *sent > nonce || *sent == newest);
        if !is_newest {
            return false;
        }
        match refused {
            Some(why) => self.acknowledged = Acknowledged::Refused(why),
            // A change of names after a refusal carries the same nonce and no error: it takes nothing back.
            None if self.acknowledged == Acknowledged::Waiting => self.acknowledged = Acknowledged::Accepted,
            None => {}
        }
        true
    }

    /// Takes a refusal of a response, and of what was told before it. What was sent again since is not what was refused.
    fn refuse(&mut self, nonce: u64, nack: &Nack) -> Arc<str> {
        let later = self.unanswered.iter().filter(|(sent, _)| *sent > nonce);
        let again: BTreeSet<Arc<str>> = later.flat_map(|(_, names)| names).cloned().collect();
        let of_it = self.unanswered.iter().find(|(sent, _)| *sent == nonce);
        let in_it: Vec<Arc<str>> = of_it.map(|(_, names)| names.clone()).unwrap_or_default();
        let named = nack.named(&self.sent);
        for (name, verdict) in nack.judge(&in_it, !named.is_empty()) {
            if again.contains(name) {
                continue;
            }
            match verdict {
                Verdict::Accepted => self.doubts.remove(name),
                Verdict::Refused => self
                    .doubts
                    .insert(Arc::clone(name), Doubt::Refused(Arc::clone(&nack.why))),
                Verdict::Unknown => self.doubts.insert(Arc::clone(name), Doubt::Unknown),
            };
        }
        for name in named.into_iter().filter(|name| !again.contains(name)) {
            self.doubts.insert(name, Doubt::Refused(Arc::clone(&nack.why)));
        }
        Arc::clone(&nack.why)
    }

    /// What is known of what the client uses.
    fn acknowledged(&self) -> Acknowledged {
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

    fn accepted(&self) -> Option<Arc<str>> {
        let newest = self.acknowledged() == Acknowledged::Accepted;
        if newest {
            self.version.clone()
        } else {
            self.accepted.clone()
        }
    }

    /// These names came with an answer to an older response. That is no change of subscription, and is said again with the
    /// answer to the newest. But a name that is not among them its client may have dropped in between, with what it was told.
    pub(super) fn stale(&mut self, kind: ResourceKind, names: &[Arc<str>]) {
        // Of the others the newest response has everything.
        if !kind.absence_means_deleted() {
            let names: BTreeSet<&Arc<str>> = names.iter().collect();
            let dropped = self.sent.keys().filter(|name| !names.contains(name));
            self.dropped.extend(dropped.cloned());
        }
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

    pub(super) fn subscribe(&mut self, kind: ResourceKind, names: Vec<Arc<str>>, first: bool) {
        let mut names: BTreeSet<Arc<str>> = names.into_iter().collect();
        let star = names.remove(WILDCARD);
        if kind.absence_means_deleted() {
            // An empty list is a wildcard as a stream's first word, and stays one until names are said.
            self.wildcard = star || (names.is_empty() && (first || self.wildcard));
        }
        let (wildcard, kept) = (self.wildcard, &names);
        let dropped = std::mem::take(&mut self.dropped);
        self.sent
            .retain(|name, _| wildcard || (kept.contains(name) && !dropped.contains(name)));
        self.told_absent.retain(|name| kept.contains(name));
        self.doubts.retain(|name, _| wildcard || kept.contains(name));
        self.answered.retain(|name| wildcard || kept.contains(name));
        self.names = names;
    }

    pub(super) fn response(
        &mut self,
        kind: ResourceKind,
        set: &TypeSet,
        waits: &Waits,
        dialect: Dialect,
        nonce: u64,
    ) -> Option<Response> {
        let accepted = self.accepted();
        self.doubts
            .retain(|name, _| set.resources.contains_key(name) || waits.keep(name));
        let whole = kind.absence_means_deleted();
        let mut wanted: BTreeMap<Arc<str>, Arc<[u8]>> = BTreeMap::new();
        for (name, bytes) in set.resources.iter() {
            let new = whole || self.sent.get(name) != Some(bytes);
            if new && self.wants(name) && !waits.holds(name) {
                wanted.insert(Arc::clone(name), Arc::clone(bytes));
            }
        }
        let mut held = waits.hold_some();
        for (name, bytes) in self.sent.iter().filter(|_| whole) {
            if waits.keep(name) && !set.resources.contains_key(name) {
                held = true;
                wanted.insert(Arc::clone(name), Arc::clone(bytes));
            }
        }
        let errors = self.absent(kind, set, waits, dialect);
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
        for name in wanted.keys() {
            self.doubts.remove(name);
            self.answered.told(name, nonce);
        }
        if whole {
            // Everything is in it again.
            self.unanswered.clear();
        } else if self.unanswered.len() == MAX_UNANSWERED {
            self.unanswered.pop_front();
        }
        self.unanswered.push_back((nonce, wanted.keys().cloned().collect()));
        if whole {
            self.answered.retain(|name| wanted.contains_key(name));
            self.sent = wanted;
        } else {
            self.sent.extend(wanted);
        }
        self.accepted = accepted;
        self.version = Some(response.version.as_str().into());
        self.acknowledged = Acknowledged::Waiting;
        Some(response)
    }

    /// Tells our own client at once of names that do not exist (xRFC TP3), where others find out by waiting.
    fn absent(&mut self, kind: ResourceKind, set: &TypeSet, waits: &Waits, dialect: Dialect) -> Vec<ResourceError> {
        self.told_absent.retain(|name| !set.resources.contains_key(name));
        if !dialect.is_ours() {
            return Vec::new();
        }
        let missing: Vec<Arc<str>> = self
            .names
            .iter()
            .filter(|name| !set.resources.contains_key(name))
            .filter(|name| !waits.keep(name))
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

impl Told for Subscription {
    fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    fn has(&self, name: &str) -> bool {
        self.sent.contains_key(name)
    }

    fn current<'a>(&'a self, set: &'a TypeSet) -> impl Iterator<Item = &'a Arc<str>> {
        let current = self
            .sent
            .iter()
            .filter(|(name, bytes)| set.resources.get(name) == Some(*bytes));
        current.map(|(name, _)| name)
    }

    fn changed<'a>(&'a self, set: &'a TypeSet) -> impl Iterator<Item = &'a Arc<str>> {
        let wanted = set.resources.iter().filter(|(name, _)| self.wants(name));
        let changed = wanted.filter(|(name, bytes)| self.sent.get(*name) != Some(*bytes));
        changed.map(|(name, _)| name)
    }

    fn renewed(&self, set: &TypeSet) -> Vec<Arc<str>> {
        let renewed =
            |(name, bytes): &(&Arc<str>, &Arc<[u8]>)| set.resources.get(name).is_some_and(|new| new != *bytes);
        let sent = self.sent.iter().filter(renewed);
        sent.map(|(name, _)| Arc::clone(name)).collect()
    }

    fn gone(&self, set: &TypeSet, waits: &Waits) -> Vec<Arc<str>> {
        let gone = self
            .sent
            .keys()
            .filter(|name| !set.resources.contains_key(name) && !waits.keep(name));
        gone.cloned().collect()
    }

    fn is_settled(&self, kind: ResourceKind, set: &TypeSet) -> bool {
        let is_waited_for = self.version.is_some() && self.acknowledged == Acknowledged::Waiting;
        // Of other kinds nothing is deleted.
        let deletes = kind.absence_means_deleted() && !self.gone(set, &Waits::Nothing).is_empty();
        !is_waited_for && !deletes && self.changed(set).next().is_none()
    }

    fn is_refused(&self) -> bool {
        matches!(self.acknowledged(), Acknowledged::Refused(_))
    }

    fn answered(&self) -> &Answered {
        &self.answered
    }

    fn send_again(&mut self, names: &[Arc<str>]) {
        for name in names {
            self.sent.remove(name);
        }
    }

    fn forget(&mut self, names: &[Arc<str>]) {
        self.send_again(names);
        for name in names {
            self.answered.forget(name);
        }
    }

    fn report(&self, kind: ResourceKind) -> SubscriptionReport {
        SubscriptionReport {
            refused_at: None,
            kind,
            names: self.names.iter().cloned().collect(),
            sent: self.version.clone(),
            accepted: self.accepted(),
            acknowledged: self.acknowledged(),
        }
    }
}
