//! The rules that a server goes by, followed: the newest for each connection that comes, and a bell for those that are open.
//!
//! What is said of one address changes seldom, and snapshots come many times a second; so the bell rings only when the rules
//! of this address are other ones than before, or when an identity that it shows judges its peers by other roots. One door is one server.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::Link;
use mesh_core::config::{ChainIdentity, ServerRules};
use mesh_core::link::{Guard, Identities, Standing};
use mesh_core::live::{Reader, Subscription};
use tokio::sync::watch;

use crate::telemetry::{Inbound, WaitingGuard};

/// What a server goes by now.
#[derive(Clone, Debug)]
pub(super) struct Now {
    pub(super) rules: ServerRules,
    /// Counts how often an identity came to judge peers by other roots, or to have another name. What is absent is 0.
    trust: BTreeMap<ChainIdentity, u64>,
}

impl Now {
    /// What changes whenever this identity judges its peers otherwise than before.
    pub(super) fn trust_of(&self, identity: &ChainIdentity) -> u64 {
        self.trust.get(identity).copied().unwrap_or_default()
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Door {
    now: watch::Receiver<Arc<Now>>,
    _interest: Option<Guard>,
    _snapshots: Subscription,
}

/// What all callbacks work on.
struct Follower {
    snapshots: Reader<mesh_core::Snapshot>,
    identity: Reader<Standing>,
    identities: Identities,
    address: Option<Arc<str>>,
    governed: bool,
    inbound: Arc<Inbound>,
    /// Held while a change is looked at, so that of two callbacks the later one tells the later state.
    last: Mutex<Last>,
    tell: watch::Sender<Arc<Now>>,
}

#[derive(Default)]
struct Last {
    /// The workload's own identity, and the others that its rules ever named: as many as there are pairs of certificate providers, at
    /// the most. None is let go of, so that its count does not begin anew.
    identities: BTreeMap<ChainIdentity, Followed>,
    /// What says that this server waits.
    waiting: Option<WaitingGuard>,
}

/// An identity that peers are judged by.
struct Followed {
    reader: Reader<Standing>,
    judged_by: Arc<Standing>,
    trust: u64,
    _subscription: Subscription,
}

impl Door {
    /// The door of a server at `address`. `None`: an address that nobody configures. `unconfigured`: code lets it be STRICT
    /// where it would have to wait for its configuration.
    pub(super) fn new(link: &Link, address: Option<SocketAddr>, unconfigured: bool) -> Self {
        let address: Option<Arc<str>> = address.map(|address| address.to_string().into());
        let interest = address
            .as_ref()
            .map(|address| link.interest().watch_inbound(Arc::clone(address)));
        let governed = link.governs_servers() && address.is_some() && !unconfigured;
        let closed = Now {
            rules: ServerRules::of(&mesh_core::Snapshot::empty(), None, governed),
            trust: BTreeMap::new(),
        };
        let (tell, now) = watch::channel(Arc::new(closed));
        let follower = Arc::new(Follower {
            snapshots: link.snapshots().clone(),
            identity: link.identity().clone(),
            identities: link.identities().clone(),
            address,
            governed,
            inbound: Inbound::of(link),
            last: Mutex::default(),
            tell,
        });
        // Subscribed first and looked at second, so that no change is lost.
        let snapshots = Arc::clone(&follower);
        let snapshots = link.snapshots().on_change(move || snapshots.look());
        follower.look();
        Self {
            now,
            _interest: interest,
            _snapshots: snapshots,
        }
    }

    /// What the server goes by now, and what tells of the next change.
    pub(super) fn follow(&self) -> watch::Receiver<Arc<Now>> {
        self.now.clone()
    }
}

impl Follower {
    fn look(self: &Arc<Self>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let rules = ServerRules::of(&self.snapshots.load(), self.address.as_deref(), self.governed);
        self.follow(&mut last, &rules);
        last.identities.values_mut().for_each(Followed::look);
        last.waiting = match &rules {
            ServerRules::Closed(reason) => Some(self.inbound.waiting(reason.clone())),
            _ => None,
        };
        let counts = last.identities.iter().filter(|(_, followed)| followed.trust > 0);
        let trust = counts.map(|(name, followed)| (name.clone(), followed.trust)).collect();
        self.tell.send_if_modified(|now| {
            let changed = now.trust != trust || !now.rules.is_same_as(&rules);
            if changed {
                *now = Arc::new(Now { rules, trust });
            }
            changed
        });
    }

    /// Follows the workload's own identity, and those that the rules name.
    fn follow(self: &Arc<Self>, last: &mut Last, rules: &ServerRules) {
        let own = ChainIdentity::default();
        for name in [&own].into_iter().chain(rules.other_identities()) {
            if last.identities.contains_key(name) {
                continue;
            }
            let reader = match name.is_own() {
                true => Some(self.identity.clone()),
                false => self.identities.find(name),
            };
            // What is not to be had is said to whoever knocks.
            let Some(reader) = reader else { continue };
            let follower = Arc::downgrade(self);
            let look = move || {
                if let Some(follower) = follower.upgrade() {
                    follower.look();
                }
            };
            // Subscribed first and loaded second, so that no change is lost.
            let subscription = reader.on_change(look);
            let followed = Followed {
                judged_by: reader.load_full(),
                reader,
                trust: 0,
                _subscription: subscription,
            };
            last.identities.insert(name.clone(), followed);
        }
    }
}

impl Followed {
    fn look(&mut self) {
        let standing = self.reader.load_full();
        if !judges_alike(&self.judged_by, &standing) {
            self.trust += 1;
        }
        // An identity that is lost judges nobody; the one after it is held against the last that did.
        if standing.is_ok() {
            self.judged_by = standing;
        }
    }
}

/// Whether peers that were let in under `before` would be judged the same under `after`. While there is no identity nobody is
/// judged, and who is there stays.
fn judges_alike(before: &Standing, after: &Standing) -> bool {
    match (before, after) {
        (Ok(before), Ok(after)) => after.is_renewal_of(before),
        _ => true,
    }
}
