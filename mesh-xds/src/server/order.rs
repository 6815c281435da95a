//! What is said next on a stream, and what must wait: the order that both variants of the protocol keep.
//!
//! Kinds are told in [`SEND_ORDER`]. Three things may wait, so that no client of any kind passes through a state in which its
//! calls fail:
//!
//! - a route, for the clusters that it leads to: [`warming`](super::warming);
//! - that a cluster is no more to which routes led, or its endpoints, until a client that asks for all clusters has said
//!   that it uses routes without it, and so none of the old ones;
//! - the same for one that asks by name, until it lets go of the name: [`release`](super::release).
//!
//! How a kind is told differs: one variant says all there is and the other what changed. That is [`Told`].

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::clients::SubscriptionReport;
use super::encoded::{TypeSet, View};
use super::machine::{Overdue, SEND_ORDER};
use super::release::{Release, Routes};
use super::warming::{Answered, Warming};
use crate::encode::Dialect;
use crate::resource::ResourceKind;

/// One kind of resource on one stream: what was asked for and what was told.
pub(super) trait Told: Default {
    /// Whether everything is asked for.
    fn is_wildcard(&self) -> bool;

    /// Whether this is asked for.
    fn wants(&self, name: &str) -> bool;

    /// Whether this is asked for and was told.
    fn has(&self, name: &str) -> bool;

    /// What was told as it is published.
    fn current<'a>(&'a self, set: &'a TypeSet) -> impl Iterator<Item = &'a Arc<str>>;

    /// What is asked for and published and was not told, or not so.
    fn changed<'a>(&'a self, set: &'a TypeSet) -> impl Iterator<Item = &'a Arc<str>>;

    /// What was told otherwise than it is published.
    fn renewed(&self, set: &TypeSet) -> Vec<Arc<str>>;

    /// What was told, is no more, and need not wait.
    fn gone(&self, set: &TypeSet, waits: &Waits) -> Vec<Arc<str>>;

    /// Whether the client has said something to what was told last, and that is all there is to tell.
    fn is_settled(&self, kind: ResourceKind, set: &TypeSet) -> bool;

    /// Whether something that was told is not used.
    fn is_refused(&self) -> bool;

    /// What the client has worked through.
    fn answered(&self) -> &Answered;

    /// Tells these once more.
    fn send_again(&mut self, names: &[Arc<str>]);

    /// Tells these once more, as if the client had never heard of them.
    fn forget(&mut self, names: &[Arc<str>]);

    fn report(&self, kind: ResourceKind) -> SubscriptionReport;
}

/// What is not to be said yet.
#[derive(Debug)]
pub(super) enum Waits {
    Nothing,
    /// That something is no more.
    Removals,
    /// That these are no more.
    RemovalsOf(BTreeSet<Arc<str>>),
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

    /// Whether it is not to be said that this is no more, or never was.
    pub(super) fn keep(&self, name: &str) -> bool {
        match self {
            Self::Removals => true,
            Self::RemovalsOf(names) => names.contains(name),
            Self::Nothing | Self::These(_) => false,
        }
    }
}

/// All kinds of one stream.
#[derive(Debug)]
pub(super) struct Kinds<T> {
    pub(super) dialect: Dialect,
    one: [Option<T>; ResourceKind::COUNT],
    warming: Warming,
    release: Release,
    /// The clusters that the client said it has, until the next response is asked for: only then it is known what time it is.
    resumed: Vec<Arc<str>>,
}

impl<T: Told> Kinds<T> {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            one: Default::default(),
            warming: Warming::default(),
            release: Release::default(),
            resumed: Vec::new(),
        }
    }

    /// The subscription that a request is about, and whether that is its first.
    pub(super) fn of(&mut self, kind: ResourceKind) -> (&mut T, bool) {
        let one = &mut self.one[kind.index()];
        let is_first = one.is_none();
        (one.get_or_insert_default(), is_first)
    }

    /// The client has these clusters from before this stream, and calls in its hands may need them.
    pub(super) fn resume(&mut self, clusters: impl Iterator<Item = Arc<str>>) {
        self.resumed.extend(clusters);
    }

    /// The next response, which `respond` makes: the first that there is to any of the kinds.
    pub(super) fn next<R>(
        &mut self,
        published: &View,
        now: Instant,
        mut respond: impl FnMut(&mut T, ResourceKind, &TypeSet, &Waits) -> Option<R>,
    ) -> Option<R> {
        let removals = self.removals(published, now);
        let routes = Waits::These(self.cold_routes(published, now));
        for kind in SEND_ORDER {
            let set = published.of(kind);
            let waits = match kind {
                ResourceKind::Cluster | ResourceKind::Endpoints => &removals,
                ResourceKind::Route => &routes,
                ResourceKind::Listener | ResourceKind::ExtensionConfig => &Waits::Nothing,
            };
            let Some(told) = &mut self.one[kind.index()] else {
                continue;
            };
            let (renewed, gone) = match kind {
                ResourceKind::Cluster => (told.renewed(set), told.gone(set, waits)),
                _ => Default::default(),
            };
            let Some(response) = respond(told, kind, set, waits) else {
                continue;
            };
            match self.dialect {
                Dialect::Envoy(_) => self.warm(&renewed, &gone),
                Dialect::Mesh | Dialect::Grpc | Dialect::Sidecar => {}
            }
            if kind == ResourceKind::Route {
                // Before something else is published.
                self.learn(published, now);
            }
            return Some(response);
        }
        None
    }

    /// When something that waits will have waited long enough.
    pub(super) fn wakes(&self) -> Option<Instant> {
        self.warming.wakes().into_iter().chain(self.release.wakes()).min()
    }

    /// What came of waits that took too long, since this was last asked.
    pub(super) fn take_overdue(&mut self) -> Overdue {
        Overdue {
            cold: self.warming.take_given_up(),
            missed: self.release.take_taken(),
        }
    }

    pub(super) fn report(&self) -> Vec<SubscriptionReport> {
        let one = |kind: ResourceKind| Some(self.one[kind.index()].as_ref()?.report(kind));
        ResourceKind::ALL.into_iter().filter_map(one).collect()
    }

    /// Envoy makes a changed cluster anew and waits for its endpoints before it uses it, even if they are those that it has
    /// (xDS protocol, "Resource warming"). With a cluster that is gone it forgets the endpoints, if it comes back or not.
    fn warm(&mut self, renewed: &[Arc<str>], gone: &[Arc<str>]) {
        if let Some(endpoints) = &mut self.one[ResourceKind::Endpoints.index()] {
            endpoints.send_again(renewed);
            endpoints.forget(gone);
        }
    }

    /// The route configurations that wait for clusters that the client has not warmed.
    fn cold_routes(&mut self, published: &View, now: Instant) -> BTreeSet<Arc<str>> {
        let [routes, clusters, endpoints] = [ResourceKind::Route, ResourceKind::Cluster, ResourceKind::Endpoints]
            .map(|kind| self.one[kind.index()].as_ref());
        // A sidecar of ours uses no routes before it has all that they lead to, and asks for endpoints when it has read them.
        let warms = clusters.filter(|clusters| clusters.is_wildcard() && self.dialect != Dialect::Sidecar);
        let (Some(routes), Some(clusters)) = (routes, warms) else {
            return self.warming.none();
        };
        let with_endpoints = published.of(ResourceKind::Endpoints);
        let is_warm = |name: &str| {
            // One that stands for others has none of its own.
            let has_endpoints = !with_endpoints.resources.contains_key(name)
                || endpoints.is_some_and(|endpoints| endpoints.answered().has(name));
            clusters.answered().has(name) && has_endpoints
        };
        let set = published.of(ResourceKind::Route);
        let clusters = published.of(ResourceKind::Cluster);
        self.warming.hold(routes.changed(set), set, clusters, is_warm, now)
    }

    /// Which clusters' and endpoints' end is not to be told yet.
    fn removals(&mut self, published: &View, now: Instant) -> Waits {
        self.release.resume(self.resumed.drain(..), now);
        self.learn(published, now);
        let routes = self.routes(published);
        let clusters = self.one[ResourceKind::Cluster.index()].as_ref();
        let Some(clusters) = clusters else {
            return match routes {
                Routes::Unsettled => Waits::Removals,
                Routes::Used | Routes::Refused => Waits::Nothing,
            };
        };
        // Who refuses the newest routes calls by the old ones.
        if clusters.is_wildcard() && routes == Routes::Used {
            self.release.let_go();
            return Waits::Nothing;
        }
        // Who asks for endpoints without their cluster is to hear of their end all the same.
        let endpoints = self.one[ResourceKind::Endpoints.index()].as_ref();
        let wants = |name: &str| clusters.wants(name) || endpoints.is_some_and(|endpoints| endpoints.wants(name));
        let has = |name: &str| clusters.has(name);
        Waits::RemovalsOf(self.release.hold(published, wants, has, routes, now))
    }

    /// What the client has said to the newest listeners and routes.
    fn routes(&self, published: &View) -> Routes {
        let told = |kind: ResourceKind| Some((kind, self.one[kind.index()].as_ref()?));
        let leading = [ResourceKind::Listener, ResourceKind::Route];
        let mut told = leading.into_iter().filter_map(told);
        if !told
            .clone()
            .all(|(kind, told)| told.is_settled(kind, published.of(kind)))
        {
            return Routes::Unsettled;
        }
        match told.any(|(_, told)| told.is_refused()) {
            true => Routes::Refused,
            false => Routes::Used,
        }
    }

    /// Where the routes lead that the client has now.
    fn learn(&mut self, published: &View, now: Instant) {
        let set = published.of(ResourceKind::Route);
        if let Some(routes) = &self.one[ResourceKind::Route.index()] {
            self.release
                .learn(set, routes.current(set), |name| routes.wants(name), now);
        }
    }
}
