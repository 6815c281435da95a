//! Routes wait for the clusters that they lead to, at a client that asks for all clusters: Envoy.
//!
//! A cluster that Envoy is told of is warmed first: it asks for the endpoints, and until it has them the cluster is not there
//! (xDS protocol, "Resource warming"). A route that names it in the meantime is taken at once, and its calls fail with 503
//! `NC`. So a new cluster is followed by the route to it only when the client has answered to the cluster and to its
//! endpoints. What is merely changed is used as it was while the change is warmed, and is not waited for.
//!
//! - Nothing that was told before is taken back meanwhile: the old routes, and the clusters they lead to, stay.
//! - A refusal is an answer. A cluster that its client does not use will not become warm by waiting, and everybody else's
//!   routes are in the same configuration.
//! - Nor is it waited for without end: a client may never ask for the endpoints.
//! - A client that asks for clusters by name, as gRPC's do, learns the names from the route, which so must come first. Such
//!   a client changes its routes when everything is there (gRFC A74).
//! - Listeners lead to no cluster themselves, and a new one waits for its routes in the client.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::encoded::TypeSet;

/// How long a route waits for a cluster. It takes two round trips; what takes longer than this will not come. Envoy itself
/// gives a cluster or a listener up to 15 s for what it needs first (`initial_fetch_timeout`), and is to be told before.
pub(super) const WARMING_LIMIT: Duration = Duration::from_secs(10);

/// See the module's documentation. It remembers since when each cluster is waited for.
#[derive(Debug, Default)]
pub(super) struct Warming {
    waits: BTreeMap<Arc<str>, Wait>,
    wakes: Option<Instant>,
    /// Clusters that were waited for in vain since that was last asked.
    given_up: u64,
}

#[derive(Debug)]
struct Wait {
    since: Instant,
    is_given_up: bool,
}

impl Warming {
    /// Those of the route configurations `changed` that wait.
    pub(super) fn hold<'a>(
        &mut self,
        changed: impl Iterator<Item = &'a Arc<str>>,
        routes: &TypeSet,
        clusters: &TypeSet,
        is_warm: impl Fn(&str) -> bool,
        now: Instant,
    ) -> BTreeSet<Arc<str>> {
        self.wakes = None;
        self.waits
            .retain(|name, _| clusters.resources.contains_key(name) && !is_warm(name));
        let mut held = BTreeSet::new();
        for name in changed {
            let cold = routes
                .clusters
                .get(name)
                .into_iter()
                .flat_map(|clusters| clusters.iter());
            // One that is not published is not to come.
            let cold = cold.filter(|cluster| clusters.resources.contains_key(cluster) && !is_warm(cluster));
            let mut waits = false;
            for cluster in cold {
                let wait = self.waits.entry(Arc::clone(cluster)).or_insert(Wait {
                    since: now,
                    is_given_up: false,
                });
                let until = wait.since + WARMING_LIMIT;
                if now < until {
                    waits = true;
                    self.wakes = Some(self.wakes.map_or(until, |wakes| wakes.min(until)));
                } else if !wait.is_given_up {
                    wait.is_given_up = true;
                    self.given_up += 1;
                }
            }
            if waits {
                held.insert(Arc::clone(name));
            }
        }
        held
    }

    /// Nothing waits: the client does not ask for both.
    pub(super) fn none(&mut self) -> BTreeSet<Arc<str>> {
        *self = Self {
            given_up: self.given_up,
            ..Self::default()
        };
        BTreeSet::new()
    }

    /// How many clusters were waited for in vain since this was last asked.
    pub(super) fn take_given_up(&mut self) -> u64 {
        std::mem::take(&mut self.given_up)
    }

    /// When something that waits will have waited long enough.
    pub(super) fn wakes(&self) -> Option<Instant> {
        self.wakes
    }
}

/// Which resources of a kind a client has answered to since it was first told of them on this stream, and so has worked
/// through, as it reads one response after the other.
#[derive(Debug, Default)]
pub(super) struct Answered {
    /// The response that each was told in first since it was last gone.
    told: BTreeMap<Arc<str>, u64>,
    /// The newest response that was answered.
    newest: u64,
}

impl Answered {
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// An answer to this response or an earlier one. `last` is the newest that was made.
    pub(super) fn answer(&mut self, nonce: u64, last: u64) {
        if nonce <= last {
            self.newest = self.newest.max(nonce);
        }
    }

    pub(super) fn told(&mut self, name: &Arc<str>, nonce: u64) {
        self.told.entry(Arc::clone(name)).or_insert(nonce);
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.told.remove(name);
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.told.retain(|name, _| keep(name));
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.told.get(name).is_some_and(|nonce| *nonce <= self.newest)
    }
}
