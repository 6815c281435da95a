//! Where the data plane meets the source of its configuration.
//!
//! mesh-client, mesh-server and mesh-xds do not know one another; each knows a [`Link`]. A source (the xDS client, or
//! [`Link::fixed`]) makes one and keeps its [`Source`] end; channels and servers take the link. It holds the readers of the
//! swapped values, the way to say what is wanted, and what travels back. One link is one mesh membership of the process:
//! all channels that are made from it share pools, budgets and counters.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustls::time_provider::{DefaultTimeProvider, TimeProvider};

use crate::config::{ChainIdentity, Reason, ReasonKind, Snapshot, Version};
use crate::entropy::Entropy;
use crate::identity::{Credentials, Identity, Pins};
use crate::live;
use crate::patience::{self, Awaited};
use crate::report::standard::{Edges, Workload};
use crate::report::{Expose, Exposition, Loads, Tally};

/// The workload's identity, or why there is none.
pub type Standing = Result<Identity, Reason>;

/// The data plane's end. Cheap to clone; clones are the same membership.
#[derive(Clone)]
pub struct Link {
    shared: Arc<Shared>,
}

struct Shared {
    snapshots: live::Reader<Snapshot>,
    identity: live::Reader<Standing>,
    identities: Identities,
    interest: Interest,
    applied: live::Writer<Version>,
    waiting: live::Writer<Option<Reason>>,
    awaited: Mutex<BTreeMap<Arc<str>, Arc<[Awaited]>>>,
    resource_timer: Duration,
    heard: Mutex<Option<Instant>>,
    tally: Tally,
    loads: Loads,
    edges: Edges,
    workload: OnceLock<Arc<Workload>>,
    exposed: Mutex<Vec<Weak<dyn Expose>>>,
    entropy: Entropy,
    wall_clock: Arc<dyn TimeProvider>,
    pins: Pins,
    credentials: Credentials,
    subset_size: Option<NonZeroU32>,
    governs_servers: bool,
    attached: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
    /// What must live as long as somebody uses the link: the xDS client's task, for one.
    keep_alive: Mutex<Vec<Box<dyn Any + Send + Sync>>>,
}

/// The configuration source's end: the writers.
#[derive(Debug)]
pub struct Source {
    /// Publishes configurations.
    pub snapshots: live::Writer<Snapshot>,
    /// Publishes the workload's identity.
    pub identity: live::Writer<Standing>,
}

/// Injected parts of a link, with production defaults.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Randomness. Default: seeded by the operating system.
    pub entropy: Entropy,
    /// Wall time, by which certificates are judged. Default: the system's.
    pub wall_clock: Arc<dyn TimeProvider>,
    /// Whom this process calls at all, whatever its configuration says. Default: nothing is pinned.
    pub pins: Pins,
    /// What is shown to servers outside of the mesh, and what they are judged by, where a configuration names it. Default:
    /// nothing.
    pub credentials: Credentials,
    /// The most endpoints of each priority of a cluster that this process calls: its own few of many, so that a large mesh is
    /// not a connection from everybody to everybody (gRFC A68). Default: all. How many are enough is for the process to say and
    /// not for its configuration, since it depends on how many of its kind there are.
    pub subset_size: Option<NonZeroU32>,
    /// Identities beside the workload's own. The source's to set.
    pub identities: Identities,
    /// Whether the source also says what servers ask of their clients, so that a server has to wait for its word. Default: no,
    /// and servers are STRICT. The source's to set.
    pub governs_servers: bool,
    /// How long the source waits for a resource before it takes it for missing: calls wait for it a little longer
    /// ([`Link::first_answer_limit`]). Default: [`DOES_NOT_EXIST_AFTER`](patience::DOES_NOT_EXIST_AFTER). The source's to set.
    pub resource_timer: Duration,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            entropy: Entropy::from_os(),
            wall_clock: Arc::new(DefaultTimeProvider),
            pins: Pins::default(),
            credentials: Credentials::default(),
            subset_size: None,
            identities: Identities::default(),
            governs_servers: false,
            resource_timer: patience::DOES_NOT_EXIST_AFTER,
        }
    }
}

/// Identities beside the workload's own, by the certificate providers that they come from (gRFC A29): a server may be told to show one of
/// them, and a client to call a cluster by one.
#[derive(Clone, Default)]
pub struct Identities(Option<Arc<Lookup>>);

type Lookup = dyn Fn(&ChainIdentity) -> Option<live::Reader<Standing>> + Send + Sync;

impl Identities {
    /// Those that `find` knows. It is asked whenever somebody needs one, also for one that nobody needed before, which it has fetched then:
    /// until that is there the reader says why there is none. It is called while a configuration is published, so it must not wait, and
    /// for one identity it answers with readers of one cell.
    pub fn new(find: impl Fn(&ChainIdentity) -> Option<live::Reader<Standing>> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(find)))
    }

    /// The identity of these certificate providers; `None`: there is no such provider.
    pub fn find(&self, of: &ChainIdentity) -> Option<live::Reader<Standing>> {
        self.0.as_ref()?(of)
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identities").field(&self.0.is_some()).finish()
    }
}

impl Link {
    /// A link and the end that feeds it.
    pub fn new(parts: Parts) -> (Source, Self) {
        let (snapshots, snapshot_reader) = live::channel(Snapshot::empty());
        let nobody = Reason::new(
            ReasonKind::NoIdentity,
            "the workload has no identity: nothing was configured to provide one",
        );
        let (identity, identity_reader) = live::channel(Err(nobody));
        let shared = Shared {
            snapshots: snapshot_reader,
            identity: identity_reader,
            identities: parts.identities,
            interest: Interest::default(),
            applied: live::channel(Version::default()).0,
            waiting: live::channel(None).0,
            awaited: Mutex::default(),
            resource_timer: parts.resource_timer,
            heard: Mutex::default(),
            tally: Tally::default(),
            loads: Loads::default(),
            edges: Edges::default(),
            workload: OnceLock::new(),
            exposed: Mutex::default(),
            entropy: parts.entropy,
            wall_clock: parts.wall_clock,
            pins: parts.pins,
            credentials: parts.credentials,
            subset_size: parts.subset_size,
            governs_servers: parts.governs_servers,
            attached: Mutex::default(),
            keep_alive: Mutex::default(),
        };
        (
            Source { snapshots, identity },
            Self {
                shared: Arc::new(shared),
            },
        )
    }

    /// A link whose configuration never changes: no control plane at all.
    ///
    /// `identity` is `None` only for a mesh without mutual TLS, which channels and servers refuse unless told otherwise in
    /// code.
    pub fn fixed(snapshot: Snapshot, identity: Option<Identity>) -> Self {
        let (source, link) = Self::new(Parts::default());
        source.snapshots.publish(snapshot);
        if let Some(identity) = identity {
            source.identity.publish(Ok(identity));
        }
        link
    }

    /// The newest configuration. Requests read what the data plane made of it, not this.
    pub fn snapshots(&self) -> &live::Reader<Snapshot> {
        &self.shared.snapshots
    }

    /// The workload's identity, swapped at renewal.
    pub fn identity(&self) -> &live::Reader<Standing> {
        &self.shared.identity
    }

    /// Identities beside the workload's own.
    pub fn identities(&self) -> &Identities {
        &self.shared.identities
    }

    /// What the data plane wants to know about.
    pub fn interest(&self) -> &Interest {
        &self.shared.interest
    }

    /// The version that requests are served by now. It follows [`snapshots`](Self::snapshots) after live clusters were
    /// reconciled; a process without a channel stays at 0.
    pub fn applied(&self) -> live::Reader<Version> {
        self.shared.applied.reader()
    }

    /// Says that requests are served by `version` now. The data plane's to call.
    pub fn mark_applied(&self, version: Version) {
        self.shared.applied.publish(version);
    }

    /// Why the source has nothing to tell at the moment, such as a control plane that refuses the connection; `None` while
    /// nothing is wrong. It explains an absent target and says nothing about those that are there.
    pub fn waiting_reason(&self) -> Option<Reason> {
        (**self.shared.waiting.reader().load()).clone()
    }

    /// Says why there is nothing to tell, or that there is again. The source's to call.
    pub fn set_waiting(&self, reason: Option<Reason>) {
        self.shared.waiting.publish(reason);
    }

    /// What a target waits for, and since when; nothing where it is there, or where the source does not tell.
    pub fn awaited(&self, target: &str) -> Arc<[Awaited]> {
        let awaited = self.shared.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        awaited.get(target).cloned().unwrap_or_default()
    }

    /// Says what targets wait for. The source's to call.
    pub fn set_awaited(&self, targets: BTreeMap<Arc<str>, Arc<[Awaited]>>) {
        *self.shared.awaited.lock().unwrap_or_else(PoisonError::into_inner) = targets;
    }

    /// How long a call waits for a target's first configuration.
    pub fn first_answer_limit(&self) -> Duration {
        patience::first_answer_limit(self.shared.resource_timer)
    }

    /// When the source last heard of the configuration, whether or not anything was new in it: as old as that it may be.
    /// `None` until then, and for ever of a source that never changes.
    pub fn last_heard(&self) -> Option<Instant> {
        *self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that the source heard of the configuration at this moment. The source's to call.
    pub fn set_heard(&self, at: Instant) {
        *self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    /// Counts of rare events.
    pub fn tally(&self) -> &Tally {
        &self.shared.tally
    }

    /// Counts of calls, by cluster and locality.
    pub fn loads(&self) -> &Loads {
        &self.shared.loads
    }

    /// Counts of calls, by who called whom and how they ended: Istio's standard metrics.
    pub fn edges(&self) -> &Edges {
        &self.shared.edges
    }

    /// What the labels of metrics say of this process: nothing is known of it until [`describe`](Self::describe) is called.
    pub fn workload(&self) -> Arc<Workload> {
        self.shared.workload.get().cloned().unwrap_or_default()
    }

    /// Says what the labels of metrics are to say of this process. The source's to call, when it knows that from its bootstrap; the
    /// application's where no source does. The first word counts, and counts for what is called after it.
    ///
    /// ```
    /// use mesh_core::report::standard::Workload;
    /// use mesh_core::{Link, Snapshot};
    ///
    /// let mesh = Link::fixed(Snapshot::empty(), None);
    /// mesh.describe(Workload::named("checkout", "shop"));
    /// mesh.describe(Workload::named("somebody", "else"));
    /// assert_eq!(mesh.workload().name(), "checkout");
    /// ```
    pub fn describe(&self, workload: Workload) {
        // It was described before.
        let _ = self.shared.workload.set(Arc::new(workload));
    }

    /// Has `what` write into each scrape of this process's metrics for as long as it lives.
    pub fn expose(&self, what: Weak<dyn Expose>) {
        let mut exposed = self.shared.exposed.lock().unwrap_or_else(PoisonError::into_inner);
        exposed.retain(|known| known.strong_count() > 0);
        exposed.push(what);
    }

    /// Writes all that this process's metrics are, for Prometheus. `now` is the moment of the scrape.
    pub fn scrape(&self, now: Instant, out: &mut Exposition) {
        self.edges().expose(now, out);
        crate::report::own::expose(self, now, out);
        let exposed = self
            .shared
            .exposed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for what in exposed.iter().filter_map(Weak::upgrade) {
            what.expose(now, out);
        }
    }

    /// Randomness for this process's decisions.
    pub fn entropy(&self) -> &Entropy {
        &self.shared.entropy
    }

    /// Wall time, by which certificates are judged.
    pub fn wall_clock(&self) -> &Arc<dyn TimeProvider> {
        &self.shared.wall_clock
    }

    /// Whom the application pinned, whatever the source says.
    pub fn pins(&self) -> &Pins {
        &self.shared.pins
    }

    /// Certificates and roots by name, for servers outside of the mesh. The application's to fill, at any time.
    pub fn credentials(&self) -> &Credentials {
        &self.shared.credentials
    }

    /// The most endpoints of each priority of a cluster that this process calls; `None`: all.
    pub fn subset_size(&self) -> Option<NonZeroU32> {
        self.shared.subset_size
    }

    /// Whether the source also configures servers ([`Parts::governs_servers`]).
    pub fn governs_servers(&self) -> bool {
        self.shared.governs_servers
    }

    /// The one `T` of this link, made by `init` when first asked for. It lives as long as the link: this is how all
    /// channels of a process come to share one cluster manager without this crate knowing of it.
    ///
    /// `init` runs under a lock: it must not call `attached` again.
    pub fn attached<T: Any + Send + Sync>(&self, init: impl FnOnce() -> T) -> Arc<T> {
        let mut attached = self.shared.attached.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = attached.entry(TypeId::of::<T>()).or_insert_with(|| Arc::new(init()));
        Arc::clone(entry)
            .downcast()
            .expect("the map is keyed by the type of its values")
    }

    /// Drops `value` when the last clone of this link is dropped.
    pub fn keep_alive(&self, value: impl Any + Send + Sync) {
        self.shared
            .keep_alive
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Box::new(value));
    }

    /// A handle that does not keep the link alive, for the tasks that the link itself keeps.
    pub fn downgrade(&self) -> WeakLink {
        WeakLink {
            shared: Arc::downgrade(&self.shared),
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.shared.snapshots.load().version();
        f.debug_struct("Link")
            .field("snapshot", &version)
            .field("interest", &self.shared.interest)
            .finish_non_exhaustive()
    }
}

/// See [`Link::downgrade`].
#[derive(Clone, Debug)]
pub struct WeakLink {
    shared: Weak<Shared>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl WeakLink {
    /// The link, while somebody still uses it.
    pub fn upgrade(&self) -> Option<Link> {
        self.shared.upgrade().map(|shared| Link { shared })
    }
}

/// What somebody in this process wants to be told of, counted: targets that are called, addresses that are served. Clones
/// share the counts.
#[derive(Clone, Debug)]
pub struct Interest {
    wanted: Arc<Mutex<BTreeMap<Want, usize>>>,
    bell: Arc<live::Writer<u64>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Want {
    Target(Arc<str>),
    Inbound(Arc<str>),
}

impl Default for Interest {
    fn default() -> Self {
        Self {
            wanted: Arc::default(),
            bell: Arc::new(live::channel(0).0),
        }
    }
}

impl Interest {
    /// Asks for `target` until the guard is dropped. The source may keep it a while longer.
    pub fn watch(&self, target: impl Into<Arc<str>>) -> Guard {
        self.want(Want::Target(target.into()))
    }

    /// Asks what is to be asked of the clients of a server at `address`, written as `ip:port`, until the guard is dropped.
    pub fn watch_inbound(&self, address: impl Into<Arc<str>>) -> Guard {
        self.want(Want::Inbound(address.into()))
    }

    /// The targets that are wanted now, in order.
    pub fn wanted(&self) -> Vec<Arc<str>> {
        let target = |want: &Want| match want {
            Want::Target(name) => Some(Arc::clone(name)),
            Want::Inbound(_) => None,
        };
        self.lock().keys().filter_map(target).collect()
    }

    /// The addresses that are served now, in order.
    pub fn wanted_inbound(&self) -> Vec<Arc<str>> {
        let address = |want: &Want| match want {
            Want::Inbound(address) => Some(Arc::clone(address)),
            Want::Target(_) => None,
        };
        self.lock().keys().filter_map(address).collect()
    }

    fn want(&self, want: Want) -> Guard {
        *self.lock().entry(want.clone()).or_default() += 1;
        self.ring();
        Guard {
            interest: self.clone(),
            want,
        }
    }

    /// Calls `callback` whenever the set may have changed, until the subscription is dropped.
    pub fn on_change(&self, callback: impl Fn() + Send + Sync + 'static) -> live::Subscription {
        self.bell.reader().on_change(callback)
    }

    fn ring(&self) {
        self.bell.publish(0);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Want, usize>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a target or an address wanted; dropping it ends that.
#[derive(Debug)]
#[must_use = "it is unsubscribed when this is dropped"]
pub struct Guard {
    interest: Interest,
    want: Want,
}

impl Drop for Guard {
    fn drop(&mut self) {
        {
            let mut wanted = self.interest.lock();
            let Some(count) = wanted.get_mut(&self.want) else {
                return;
            };
            *count -= 1;
            if *count > 0 {
                return;
            }
            wanted.remove(&self.want);
        }
        self.interest.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interest_is_counted() {
        let (_source, link) = Link::new(Parts::default());
        let first = link.interest().watch("a");
        let second = link.interest().watch("a");
        drop(first);
        assert_eq!(link.interest().wanted(), ["a".into()]);
        let served = link.interest().watch_inbound("127.0.0.1:1");
        assert_eq!(link.interest().wanted_inbound(), ["127.0.0.1:1".into()]);
        assert_eq!(link.interest().wanted(), ["a".into()]);
        drop((second, served));
        assert!(link.interest().wanted().is_empty() && link.interest().wanted_inbound().is_empty());
    }

    #[test]
    fn what_is_attached_is_one() {
        let link = Link::fixed(Snapshot::empty(), None);
        let first = link.attached(|| 1u32);
        let clone = Link::clone(&link);
        assert_eq!((*first, *clone.attached(|| 2u32), *link.attached(|| 3u32)), (1, 1, 1));
    }
}
