//! The rules that a server goes by, followed: the newest for each connection that comes, and a bell for those that are open.
//!
//! What is said of one address changes seldom, and snapshots come many times a second; so the bell rings only when the rules
//! of this address are other ones than before, or when the workload judges its peers by other roots. One door is one server.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::Link;
use mesh_core::config::ServerRules;
use mesh_core::link::{Guard, Standing};
use mesh_core::live::{Reader, Subscription};
use tokio::sync::watch;

use crate::telemetry::{Inbound, WaitingGuard};

/// What a server goes by now.
#[derive(Clone, Debug)]
pub(super) struct Now {
    pub(super) rules: ServerRules,
    /// Counts how often the workload came to judge peers by other roots, or under another name.
    pub(super) trust: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Door {
    now: watch::Receiver<Arc<Now>>,
    _interest: Option<Guard>,
    _subscriptions: [Subscription; 2],
}

/// What both callbacks work on.
struct Follower {
    snapshots: Reader<mesh_core::Snapshot>,
    identity: Reader<Standing>,
    address: Option<Arc<str>>,
    governed: bool,
    inbound: Arc<Inbound>,
    /// The identity that peers were last judged by, and what says that this server waits. Held while a change is looked at, so
    /// that of two callbacks the later one tells the later state.
    last: Mutex<Last>,
    tell: watch::Sender<Arc<Now>>,
}

#[derive(Default)]
struct Last {
    standing: Option<Arc<Standing>>,
    waiting: Option<WaitingGuard>,
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
            trust: 0,
        };
        let (tell, now) = watch::channel(Arc::new(closed));
        let follower = Arc::new(Follower {
            snapshots: link.snapshots().clone(),
            identity: link.identity().clone(),
            address,
            governed,
            inbound: Inbound::of(link),
            last: Mutex::default(),
            tell,
        });
        // Subscribed first and looked at second, so that no change is lost.
        let (first, second) = (Arc::clone(&follower), Arc::clone(&follower));
        let subscriptions = [
            link.snapshots().on_change(move || first.look()),
            link.identity().on_change(move || second.look()),
        ];
        follower.look();
        Self {
            now,
            _interest: interest,
            _subscriptions: subscriptions,
        }
    }

    /// What the server goes by now, and what tells of the next change.
    pub(super) fn follow(&self) -> watch::Receiver<Arc<Now>> {
        self.now.clone()
    }
}

impl Follower {
    fn look(&self) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let rules = ServerRules::of(&self.snapshots.load(), self.address.as_deref(), self.governed);
        let standing = self.identity.load_full();
        let trusts_others = last
            .standing
            .as_deref()
            .is_some_and(|before| !judges_alike(before, &standing));
        // An identity that is lost judges nobody; the one after it is held against the last that did.
        if standing.is_ok() || last.standing.is_none() {
            last.standing = Some(standing);
        }
        last.waiting = match &rules {
            ServerRules::Closed(reason) => Some(self.inbound.waiting(reason.clone())),
            _ => None,
        };
        self.tell.send_if_modified(|now| {
            let changed = trusts_others || !now.rules.is_same_as(&rules);
            if changed {
                *now = Arc::new(Now {
                    rules,
                    trust: now.trust + u64::from(trusts_others),
                });
            }
            changed
        });
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
