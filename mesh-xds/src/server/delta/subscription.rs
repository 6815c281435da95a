//! One kind of resource on one incremental stream: what was asked for, what was told, and so what is to be told next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::sync::Arc;

use crate::resource::ResourceKind;
use crate::server::clients::{Acknowledged, SubscriptionReport};
use crate::server::encoded::TypeSet;
use crate::server::machine::{MAX_NAMES, MAX_UNANSWERED, WILDCARD};
use crate::server::nack::{Nack, Verdict};
use crate::server::order::{self, Told as _, Waits};
use crate::server::warming::Answered;
use crate::wire::{DeltaResponse, Raw, Versioned};

#[derive(Debug, Default)]
pub(super) struct Subscription {
    wildcard: bool,
    names: BTreeSet<Arc<str>>,
    /// What the client was told, of the names that it wants.
    told: BTreeMap<Arc<str>, Told>,
    /// A wildcard waits for its first answer, even if that has nothing new.
    owed: bool,
    /// The responses that were not answered, the oldest first, and the names of what was in them.
    unanswered: VecDeque<(u64, Vec<Arc<str>>)>,
    /// Of the newest response; zero before there is one.
    nonce: u64,
    answered: Answered,
    /// The published version that the client was brought to.
    version: Option<Arc<str>>,
    /// The newest before that one of which it uses everything.
    accepted: Option<Arc<str>>,
}

/// What a client was told of one name.
#[derive(Debug)]
enum Told {
    /// This version, in a response that is not answered.
    Sent { version: Arc<str>, nonce: u64 },
    /// This version, which it uses.
    Held(Arc<str>),
    /// This version, which it does not use. It is not sent again; any other is.
    Refused { version: Arc<str>, why: Arc<str> },
    /// This version, of which a refusal that was cut does not say whether it is used. It is sent again with what changes next.
    Unknown(Arc<str>),
    /// That there is none.
    Absent,
}

impl Told {
    fn version(&self) -> Option<&Arc<str>> {
        match self {
            Self::Sent { version, .. }
            | Self::Held(version)
            | Self::Refused { version, .. }
            | Self::Unknown(version) => Some(version),
            Self::Absent => None,
        }
    }
}

impl Subscription {
    /// Takes what the client says to a response. One whose refusal names some resources of the response uses the others.
    pub(super) fn acknowledge(&mut self, nonce: u64, error: Option<&str>) {
        let place = self.unanswered.iter().position(|(sent, _)| *sent == nonce);
        let (_, in_it) = place
            .and_then(|place| self.unanswered.remove(place))
            .unwrap_or_default();
        let nack = error.map(Nack::read);
        let verdicts = match &nack {
            Some(nack) => nack.judge(&in_it, false),
            None => in_it.iter().map(|name| (name, Verdict::Accepted)).collect(),
        };
        for (name, verdict) in verdicts {
            // It may have been sent again since, or not be wanted any more.
            let Some(told) = self.told.get_mut(name) else { continue };
            let version = match told {
                Told::Sent { version, nonce: sent } if *sent == nonce => Arc::clone(version),
                _ => continue,
            };
            *told = match (verdict, &nack) {
                (Verdict::Refused, Some(Nack { why, .. })) => Told::Refused {
                    version,
                    why: Arc::clone(why),
                },
                (Verdict::Unknown, _) => Told::Unknown(version),
                (Verdict::Accepted | Verdict::Refused, _) => Told::Held(version),
            };
        }
        self.answered.answer(nonce, self.nonce);
    }

    pub(super) fn change(&mut self, kind: ResourceKind, subscribe: Vec<Arc<str>>, unsubscribe: &[Arc<str>]) {
        if subscribe.is_empty() && unsubscribe.is_empty() {
            return;
        }
        for name in unsubscribe {
            self.wildcard &= &**name != WILDCARD;
            self.names.remove(name);
            // Under a wildcard it is wanted still, and is told anew (xDS protocol, "Unsubscribing From Resources").
            self.told.remove(name);
        }
        for name in subscribe {
            if &*name == WILDCARD {
                self.everything(kind);
            } else {
                self.told.remove(&name);
                self.names.insert(name);
            }
        }
        let (wildcard, names) = (self.wildcard, &self.names);
        self.told.retain(|name, _| wildcard || names.contains(name));
        // What was unsubscribed and is wanted still was forgotten by its client too.
        self.answered.retain(|name| self.told.contains_key(name));
    }

    /// Subscribes to all there is. Only listeners and clusters can be asked for so.
    pub(super) fn everything(&mut self, kind: ResourceKind) {
        if kind.absence_means_deleted() {
            self.wildcard = true;
            self.owed = true;
        }
    }

    /// Takes the client's word for what it holds from before this stream.
    pub(super) fn resume(&mut self, held: Vec<(Arc<str>, Arc<str>)>) {
        for (name, version) in held {
            if self.wants(&name) {
                self.answered.told(&name, 0);
                self.told.insert(name, Told::Held(version));
            }
        }
    }

    /// Whether it asks for more than a stream may.
    pub(super) fn is_too_large(&self) -> bool {
        self.names.len() > MAX_NAMES
    }

    /// What is to be told, if anything, and need not wait. That something is gone does not if the client never had it.
    pub(super) fn response(
        &mut self,
        kind: ResourceKind,
        set: &TypeSet,
        waits: &Waits,
        nonce: u64,
    ) -> Option<DeltaResponse> {
        let mut changed: Vec<_> = self
            .changed_versions(set)
            .filter(|(name, _)| !waits.holds(name))
            .map(|(name, version)| (Arc::clone(name), Arc::clone(version)))
            .collect();
        let removed: Vec<Arc<str>> = self.removed(set, waits).cloned().collect();
        let version = Some(match waits.hold_some() {
            true => format!("{}+held", set.version).into(),
            false => Arc::clone(&set.version),
        });
        if version != self.version {
            self.accepted = self.accepted();
            self.version = version;
        }
        if changed.is_empty() && removed.is_empty() && !mem::take(&mut self.owed) {
            return None;
        }
        self.owed = false;
        self.nonce = nonce;
        if !changed.is_empty() {
            changed.extend(self.unknown(set));
        }
        let resource = |(name, version): &(Arc<str>, Arc<str>)| Versioned {
            name: Arc::clone(name),
            version: Arc::clone(version),
            raw: Some(Raw {
                type_url: kind.type_url().into(),
                bytes: set.resources[name].to_vec(),
            }),
            ttl: None,
        };
        let resources = changed.iter().map(resource).collect();
        if self.unanswered.len() == MAX_UNANSWERED {
            self.unanswered.pop_front();
        }
        let names = changed.iter().map(|(name, _)| Arc::clone(name)).collect();
        self.unanswered.push_back((nonce, names));
        for (name, _) in &changed {
            self.answered.told(name, nonce);
        }
        let sent = changed
            .into_iter()
            .map(|(name, version)| (name, Told::Sent { version, nonce }));
        self.told.extend(sent);
        for name in &removed {
            self.answered.forget(name);
            self.told.remove(name);
            if self.names.contains(name) {
                self.told.insert(Arc::clone(name), Told::Absent);
            }
        }
        Some(DeltaResponse {
            type_url: kind.type_url().into(),
            version: String::from(&*set.version),
            nonce: nonce.to_string(),
            resources,
            removed,
            errors: Vec::new(),
        })
    }

    fn acknowledged(&self) -> Acknowledged {
        let refused = self.told.values().find_map(|told| match told {
            Told::Refused { why, .. } => Some(Arc::clone(why)),
            _ => None,
        });
        match refused {
            Some(why) => Acknowledged::Refused(why),
            None if self.version.is_some() && self.is_answered() && !self.is_in_doubt() => Acknowledged::Accepted,
            None => Acknowledged::Waiting,
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

    fn is_in_doubt(&self) -> bool {
        self.told.values().any(|told| matches!(told, Told::Unknown(_)))
    }

    fn changed_versions<'a>(&'a self, set: &'a TypeSet) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<str>)> {
        set.versions.iter().filter(|(name, version)| {
            let told = self.told.get(*name).and_then(Told::version);
            self.wants(name) && told != Some(*version)
        })
    }

    fn unknown(&self, set: &TypeSet) -> Vec<(Arc<str>, Arc<str>)> {
        let unknown = self.told.iter().filter_map(|(name, told)| match told {
            Told::Unknown(version) if set.versions.get(name) == Some(version) => {
                Some((Arc::clone(name), Arc::clone(version)))
            }
            _ => None,
        });
        unknown.collect()
    }

    /// Whether the client has said something to the newest response.
    fn is_answered(&self) -> bool {
        self.nonce == self.answered.newest()
    }

    fn removed<'a>(&'a self, set: &'a TypeSet, waits: &'a Waits) -> impl Iterator<Item = &'a Arc<str>> {
        let gone = self.told.iter().filter(|(_, told)| told.version().is_some());
        let never_told = self.names.iter().filter(|name| !self.told.contains_key(*name));
        let names = gone.map(|(name, _)| name).chain(never_told);
        names.filter(move |name| !set.resources.contains_key(name) && !waits.keep(name))
    }
}

impl order::Told for Subscription {
    fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    fn has(&self, name: &str) -> bool {
        self.told.get(name).and_then(Told::version).is_some()
    }

    fn current<'a>(&'a self, set: &'a TypeSet) -> impl Iterator<Item = &'a Arc<str>> {
        let told = self
            .told
            .iter()
            .filter_map(|(name, told)| Some((name, told.version()?)));
        let current = told.filter(|(name, version)| set.versions.get(name) == Some(*version));
        current.map(|(name, _)| name)
    }

    fn changed<'a>(&'a self, set: &'a TypeSet) -> impl Iterator<Item = &'a Arc<str>> {
        self.changed_versions(set).map(|(name, _)| name)
    }

    fn renewed(&self, set: &TypeSet) -> Vec<Arc<str>> {
        self.changed(set).filter(|name| self.has(name)).cloned().collect()
    }

    fn gone(&self, set: &TypeSet, waits: &Waits) -> Vec<Arc<str>> {
        self.removed(set, waits).cloned().collect()
    }

    fn is_settled(&self, _: ResourceKind, set: &TypeSet) -> bool {
        self.is_answered() && self.changed(set).next().is_none() && self.removed(set, &Waits::Nothing).next().is_none()
    }

    fn is_refused(&self) -> bool {
        self.told.values().any(|told| matches!(told, Told::Refused { .. }))
    }

    fn answered(&self) -> &Answered {
        &self.answered
    }

    fn send_again(&mut self, names: &[Arc<str>]) {
        for name in names {
            self.told.remove(name);
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
