//! A cluster stays for a client that asks for it by name, until the client lets go of it.
//!
//! A gRPC client that got new routes, and said so, still has calls in its hands for which the old ones chose the cluster. It
//! keeps count of them, asks for the cluster for as long as one needs it, and then no more (gRFC A31, `XdsDependencyManager`
//! of A74). If it is told in the meantime that the cluster is no more, these calls fail: UNAVAILABLE, "does not exist". So its
//! end is not told to who still names it.
//!
//! - Only of clusters that routes lead or led to which this client was told. Nobody's calls are on their way to any other.
//! - Not without end: [`RELEASE_LIMIT`] after the client settled on routes without it. One whose routes are refused has the old
//!   ones still, and the time does not begin.
//! - A cluster that routes lead to still, and that is gone nevertheless, is gone because somebody deleted it. It is told.
//! - Who asks for all clusters, as Envoy does, never lets go of one. For such a client it is all that it uses the
//!   newest routes, and until it has said so it is told no end of a cluster that the older ones led to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::encoded::{Names, TypeSet, View};
use crate::resource::ResourceKind;

/// How long a cluster that no route leads to stays for a client that goes on asking for it. gRPC lets go of it when a call's
/// first answer is there, which for most is milliseconds. A client that takes longer may be one that never lets go.
pub(super) const RELEASE_LIMIT: Duration = Duration::from_secs(15);

/// See the module's documentation. What it holds is what the client was told, and what left it a short while ago.
#[derive(Debug, Default)]
pub(super) struct Release {
    /// Of each route configuration that the client has, where it leads.
    leads: BTreeMap<Arc<str>, Arc<Names>>,
    /// The clusters that earlier routes led to, and these do not.
    left: BTreeMap<Arc<str>, Left>,
    wakes: Option<Instant>,
    /// Clusters that were taken from clients who asked for them still, since that was last asked.
    taken: u64,
}

/// How long a cluster stays to which no route leads.
#[derive(Debug)]
struct Left {
    until: Instant,
    /// Whether that counts from when the client settled on other routes, or only from when it was told of them.
    is_settled: bool,
}

impl Left {
    fn new(now: Instant) -> Self {
        Self {
            until: now + RELEASE_LIMIT,
            is_settled: false,
        }
    }

    /// Of what the client does not have nobody waits for it to settle. It may be on its way to ask.
    fn ends(&self, has: bool) -> Option<Instant> {
        (self.is_settled || !has).then_some(self.until)
    }
}

/// What a client said to its newest listeners and routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Routes {
    /// Nothing yet.
    Unsettled,
    /// That it uses them.
    Used,
    /// That it does not, so that it uses older ones.
    Refused,
}

impl Release {
    /// A client has these from before this stream; by which routes is not known.
    pub(super) fn resume(&mut self, clusters: impl Iterator<Item = Arc<str>>, now: Instant) {
        self.left.extend(clusters.map(|name| (name, Left::new(now))));
    }

    /// The client was told the route configurations `current` as they are published in `routes`. Others that it `wants` are
    /// to change; what it wants no more it does not use.
    pub(super) fn learn<'a>(
        &mut self,
        routes: &TypeSet,
        current: impl Iterator<Item = &'a Arc<str>>,
        wants: impl Fn(&str) -> bool,
        now: Instant,
    ) {
        self.leave(|name| !wants(name), now);
        for name in current {
            let Some(clusters) = routes.clusters.get(name) else {
                continue;
            };
            if self.leads.get(name) != Some(clusters) {
                self.leave(|other| *other == **name, now);
                self.leads.insert(Arc::clone(name), Arc::clone(clusters));
            }
        }
        let leads = &self.leads;
        self.left
            .retain(|name, _| !leads.values().any(|clusters| clusters.contains(name)));
    }

    /// These route configurations lead nowhere any more.
    fn leave(&mut self, is_gone: impl Fn(&str) -> bool, now: Instant) {
        let left = &mut self.left;
        self.leads.retain(|name, clusters| {
            let is_gone = is_gone(name);
            for cluster in clusters.iter().filter(|_| is_gone) {
                left.entry(Arc::clone(cluster)).or_insert_with(|| Left::new(now));
            }
            !is_gone
        });
    }

    /// The clusters whose end is not to be told. `wants` says which the client asks for, and `has` which of these it was told of.
    pub(super) fn hold(
        &mut self,
        published: &View,
        wants: impl Fn(&str) -> bool,
        has: impl Fn(&str) -> bool,
        routes: Routes,
        now: Instant,
    ) -> BTreeSet<Arc<str>> {
        let is_published = |kind, name: &str| published.of(kind).resources.contains_key(name);
        if routes != Routes::Unsettled {
            // The client knows that nothing leads to them, and need not ask for them no more to say so.
            self.leave(|name| !is_published(ResourceKind::Route, name), now);
        }
        if routes == Routes::Used {
            for left in self.left.values_mut().filter(|left| !left.is_settled) {
                *left = Left {
                    is_settled: true,
                    ..Left::new(now)
                };
            }
        }
        let mut taken = 0;
        self.left.retain(|name, left| {
            let stays = left.ends(has(name)).is_none_or(|end| now < end);
            let is_missed = has(name) && wants(name) && !is_published(ResourceKind::Cluster, name);
            taken += u64::from(!stays && is_missed);
            stays
        });
        self.taken += taken;
        let is_gone = |name: &&Arc<str>| !is_published(ResourceKind::Cluster, name);
        let left = self.left.iter().filter(|(name, _)| is_gone(name));
        // Of what it does not ask for there will be nothing to tell.
        let asked = left.clone().filter(|(name, _)| wants(name));
        self.wakes = asked.filter_map(|(name, left)| left.ends(has(name))).min();
        let leads = self.leads.values().filter(|_| routes == Routes::Unsettled);
        let leads = leads.flat_map(|clusters| clusters.iter()).filter(is_gone);
        left.map(|(name, _)| name).chain(leads).cloned().collect()
    }

    /// The client uses none of the older routes any more, and said so: nothing is held for them.
    pub(super) fn let_go(&mut self) {
        self.left.clear();
        self.wakes = None;
    }

    /// How many clusters were taken from clients that asked for them still, since this was last asked.
    pub(super) fn take_taken(&mut self) -> u64 {
        std::mem::take(&mut self.taken)
    }

    /// When something that is held will have been held long enough.
    pub(super) fn wakes(&self) -> Option<Instant> {
        self.wakes
    }
}
