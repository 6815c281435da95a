//! One kind of resource on one incremental stream: what was asked for, what was told, and so what is to be told next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::sync::Arc;

use crate::resource::ResourceKind;
use crate::server::clients::{Acknowledged, SubscriptionReport};
use crate::server::encoded::TypeSet;
use crate::server::machine::{MAX_NAMES, WILDCARD};
use crate::wire::{DeltaResponse, Raw, Versioned};

/// The most unanswered responses that are remembered. A client that lags further behind goes on being served; what it says
/// to older ones is not reported.
const MAX_UNANSWERED: usize = 64;

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
    /// The newest response that was answered.
    answered: u64,
    /// The published version that the client was brought to.
    version: Option<Arc<str>>,
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
    /// That there is none.
    Absent,
}

impl Told {
    fn version(&self) -> Option<&Arc<str>> {
        match self {
            Self::Sent { version, .. } | Self::Held(version) | Self::Refused { version, .. } => Some(version),
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
        let names = |name: &str| error.is_some_and(|why| why.contains(name));
        let names_some = in_it.iter().any(|name| names(name));
        let why = error.map(Arc::<str>::from);
        for name in &in_it {
            // It may have been sent again since, or not be wanted any more.
            let Some(told) = self.told.get_mut(name) else { continue };
            let version = match told {
                Told::Sent { version, nonce: sent } if *sent == nonce => Arc::clone(version),
                _ => continue,
            };
            *told = match &why {
                Some(why) if !names_some || names(name) => Told::Refused {
                    version,
                    why: Arc::clone(why),
                },
                _ => Told::Held(version),
            };
        }
        if nonce <= self.nonce {
            self.answered = self.answered.max(nonce);
        }
    }

    pub(super) fn change(&mut self, kind: ResourceKind, subscribe: Vec<Arc<str>>, unsubscribe: &[Arc<str>]) {
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
                self.told.insert(name, Told::Held(version));
            }
        }
    }

    /// Whether it asks for more than a stream may.
    pub(super) fn is_too_large(&self) -> bool {
        self.names.len() > MAX_NAMES
    }

    /// The clusters that were told otherwise than they are now. Of other kinds nobody asks.
    pub(super) fn renewed(&self, kind: ResourceKind, set: &TypeSet) -> Vec<Arc<str>> {
        if kind != ResourceKind::Cluster {
            return Vec::new();
        }
        let changed = self.changed(set).map(|(name, _)| name);
        let known = changed.filter(|name| self.told.get(*name).is_some_and(|told| told.version().is_some()));
        known.cloned().collect()
    }

    /// Tells these once more, as if the client had never heard of them.
    pub(super) fn forget(&mut self, names: &[Arc<str>]) {
        for name in names {
            self.told.remove(name);
        }
    }

    /// Whether the client has said something to the newest response.
    pub(super) fn is_answered(&self) -> bool {
        self.nonce == self.answered
    }

    /// Whether something is to be told.
    pub(super) fn differs(&self, set: &TypeSet) -> bool {
        self.changed(set).next().is_some() || self.removed(set, false).next().is_some()
    }

    /// What is to be told, if anything. What is gone is not if `hold`, unless the client never had it.
    pub(super) fn response(
        &mut self,
        kind: ResourceKind,
        set: &TypeSet,
        hold: bool,
        nonce: u64,
    ) -> Option<DeltaResponse> {
        let changed: Vec<_> = self
            .changed(set)
            .map(|(name, version)| (Arc::clone(name), Arc::clone(version)))
            .collect();
        let removed: Vec<Arc<str>> = self.removed(set, hold).cloned().collect();
        self.version = Some(Arc::clone(&set.version));
        if changed.is_empty() && removed.is_empty() && !mem::take(&mut self.owed) {
            return None;
        }
        self.owed = false;
        self.nonce = nonce;
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
        let sent = changed
            .into_iter()
            .map(|(name, version)| (name, Told::Sent { version, nonce }));
        self.told.extend(sent);
        for name in &removed {
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

    pub(super) fn report(&self, kind: ResourceKind) -> SubscriptionReport {
        SubscriptionReport {
            refused_at: None,
            kind,
            names: self.names.iter().cloned().collect(),
            sent: self.version.clone(),
            acknowledged: self.acknowledged(),
        }
    }

    fn acknowledged(&self) -> Acknowledged {
        let refused = self.told.values().find_map(|told| match told {
            Told::Refused { why, .. } => Some(Arc::clone(why)),
            _ => None,
        });
        match refused {
            Some(why) => Acknowledged::Refused(why),
            None if self.version.is_some() && self.is_answered() => Acknowledged::Accepted,
            None => Acknowledged::Waiting,
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    fn changed<'a>(&'a self, set: &'a TypeSet) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<str>)> {
        set.versions.iter().filter(|(name, version)| {
            let told = self.told.get(*name).and_then(Told::version);
            self.wants(name) && told != Some(*version)
        })
    }

    fn removed<'a>(&'a self, set: &'a TypeSet, hold: bool) -> impl Iterator<Item = &'a Arc<str>> {
        let gone = self
            .told
            .iter()
            .filter(move |(_, told)| !hold && told.version().is_some());
        let never_told = self.names.iter().filter(|name| !self.told.contains_key(*name));
        let names = gone.map(|(name, _)| name).chain(never_told);
        names.filter(|name| !set.resources.contains_key(*name))
    }
}
