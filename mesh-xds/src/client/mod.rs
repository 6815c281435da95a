//! The client's end: a task and a stream for each control plane in use, and what the process knows of the mesh.
//!
//! ```text
//! wire - ads (protocol, cache) - assemble (whole trees) - Link (snapshot) - the data plane
//!         ^ stream.rs moves bytes between them; status.rs shows what happened
//!         ^ fallback.rs decides which control planes are asked; state.rs brings it all together
//! ```

pub(crate) mod ads;
pub(crate) mod assemble;
mod backoff;
pub(crate) mod cache;
mod cache_state;
pub(crate) mod disk;
mod fallback;
mod line;
pub(crate) mod load;
mod lookups;
#[cfg(feature = "measuring")]
#[doc(hidden)]
pub mod measuring;
mod metrics;
mod report;
mod state;
mod status;
mod stream;
mod targets;
mod updates;

#[cfg(test)]
mod tests;

use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh_core::config::{Credential, Reason, ReasonKind};
use mesh_core::identity::Pins;
use mesh_core::link::{Identities, Parts};
use mesh_core::{Link, Snapshot, live};
use opentelemetry::global;
use opentelemetry::metrics::Meter;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};

use crate::bootstrap::{Authority, Bootstrap, Half, Profile, Protocol, Provider, Server, ServerFeature, TrustFile};
use crate::connect::Access;
use crate::connector::Connector;
use crate::convention::PROVIDER;
use crate::decode::{Context, Others, Provided};
use crate::error::StartError;
use crate::node::Node;
use crate::resolver::Resolver;
use crate::wire::{Delta, Sotw};
use crate::{convention, identity};

pub(crate) use backoff::Backoff;
pub use cache_state::CacheState;
pub use disk::{DiskCopy, Serving};
pub use report::{Connection, Phase, RawBytes, Report, ResourceStatus};
pub use status::{ConfigStatus, NotYet};
pub use updates::Updates;

/// Optional abilities that gRPC clients announce: no overprovisioning factor, and resources may come in envelopes.
const FEATURES: [&str; 2] = [
    "envoy.lb.does_not_support_overprovisioning",
    "xds.config.resource-in-sotw",
];

/// The membership of this process in a mesh, fed by a control plane.
///
/// It runs one task for each control plane of the bootstrap, with one ADS stream where that is in use, for any number of
/// targets; and one more where the bootstrap has a certificate provider. All end when this and every clone of its
/// [`link`](Self::link) are dropped.
///
/// Its tasks run on the runtime in which it is started, and share the fate of that: code that blocks a worker thread (a handler that computes
/// or sleeps without `.await`) can stall all tasks of a tokio runtime, also where other workers are idle, and with them the stream and the
/// renewal of certificates. Where such code cannot be kept out, start it on a runtime of its own.
#[derive(Clone)]
pub struct XdsClient {
    link: Link,
    status: ConfigStatus,
}

impl XdsClient {
    /// Starts with the production parts.
    ///
    /// It does not wait: a control plane that cannot be reached is tried again for ever, and calls say why they wait.
    ///
    /// # Errors
    ///
    /// When there is no tokio runtime around.
    pub fn start(bootstrap: Bootstrap) -> Result<Self, StartError> {
        Self::builder(bootstrap).start()
    }

    /// For a client with injected parts.
    pub fn builder(bootstrap: Bootstrap) -> XdsClientBuilder {
        XdsClientBuilder {
            bootstrap,
            parts: Parts::default(),
            connector: Connector::default(),
            resolver: Resolver::default(),
            meter: None,
        }
    }

    /// What channels and servers are made from.
    pub fn link(&self) -> Link {
        self.link.clone()
    }

    /// What the stream is doing.
    pub fn status(&self) -> &ConfigStatus {
        &self.status
    }
}

impl fmt::Debug for XdsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XdsClient").field("status", &self.status).finish()
    }
}

/// See [`XdsClient::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct XdsClientBuilder {
    bootstrap: Bootstrap,
    parts: Parts,
    connector: Connector,
    resolver: Resolver,
    meter: Option<Meter>,
}

impl XdsClientBuilder {
    /// Randomness, wall time, pins.
    pub fn parts(mut self, parts: Parts) -> Self {
        self.parts = parts;
        self
    }

    /// Whom this process calls at all. A control plane is trusted for naming, not for keys: it says who may answer for a
    /// service, and one that lies can name an attacker. It cannot widen what is pinned here: a peer that was not pinned is
    /// refused in the handshake (`not_pinned`), whatever the control plane expects there.
    pub fn pins(mut self, pins: Pins) -> Self {
        self.parts.pins = pins;
        self
    }

    /// The most endpoints of each priority of a cluster that this process calls ([`Parts::subset_size`]). Default: all.
    pub fn subset_size(mut self, size: NonZeroU32) -> Self {
        self.parts.subset_size = Some(size);
        self
    }

    /// How the control plane and the CA are dialled.
    pub fn connector(mut self, connector: Connector) -> Self {
        self.connector = connector;
        self
    }

    /// Where the client's metrics are registered (gRFC A78). Default: `opentelemetry::global::meter("mesh-xds")` at the
    /// moment of the start.
    pub fn meter(mut self, meter: Meter) -> Self {
        self.meter = Some(meter);
        self
    }

    /// How the host names of clusters are resolved. Default: the system's resolver.
    pub fn resolver(mut self, resolver: Resolver) -> Self {
        self.resolver = resolver;
        self
    }

    /// Starts the tasks.
    ///
    /// # Errors
    ///
    /// When there is no tokio runtime around.
    pub fn start(self) -> Result<XdsClient, StartError> {
        let runtime = Handle::try_current().map_err(StartError::no_runtime)?;
        let Self {
            bootstrap,
            parts,
            connector,
            resolver,
            meter,
        } = self;
        let own = bootstrap.identity_provider().map(|(name, _)| name);
        let mut providers = bootstrap.providers().clone();
        providers.retain(|name, _| own != Some(name));
        let identities = Arc::new(identity::Others::new(providers));
        let known = Arc::clone(&identities);
        let (source, link) = Link::new(Parts {
            governs_servers: bootstrap.governs_servers(),
            resource_timer: resource_timer(&bootstrap),
            identities: Identities::new(move |of| known.find(of)),
            ..parts
        });
        if let Some(workload) = bootstrap.node().workload() {
            link.describe(workload);
        }
        let provider = bootstrap.identity_provider();
        let context = Context {
            provider: provider.map(|(name, _)| name.into()),
            others: Arc::new(others(&bootstrap)),
            profile: bootstrap.profile(),
            trusted: false,
        };
        let (reports, receiver) = watch::channel(Arc::new(Report::default()));
        let status = ConfigStatus::new(receiver, link.applied(), Arc::new(node(&bootstrap)));
        let observed = Arc::new(status.clone());
        let meter = meter.unwrap_or_else(|| global::meter("mesh-xds"));
        metrics::register(&meter, &observed);
        metrics::register_identity(&meter, link.downgrade());
        link.keep_alive(observed);
        let begin = Begin {
            runtime: &runtime,
            link: &link,
            snapshots: source.snapshots,
            context,
            reports,
            connector: connector.clone(),
            resolver,
        };
        match bootstrap.protocol() {
            Protocol::Sotw => begin.tasks::<Sotw>(&bootstrap),
            Protocol::Delta => begin.tasks::<Delta>(&bootstrap),
        }
        if let (None, Some(plugin)) = (bootstrap.identity_provider(), bootstrap.unknown_identity_plugin()) {
            let why =
                format!("the certificate provider {PROVIDER:?} is of the plugin {plugin:?}, which is not known here");
            tracing::warn!(plugin, "no identity: {why}");
            let why = format!("the workload has no identity: {why}");
            source.identity.publish(Err(Reason::new(ReasonKind::NoIdentity, why)));
        }
        if let Some((_, provider)) = bootstrap.identity_provider() {
            let (alive, gone) = oneshot::channel::<()>();
            link.keep_alive(alive);
            let supply = identity::Supply::new(provider.clone(), connector.clone(), &link, source.identity);
            let supply = supply.federated(bootstrap.trust_bundles().clone());
            runtime.spawn(supply.run(async move { drop(gone.await) }));
        }
        let (alive, gone) = oneshot::channel::<()>();
        link.keep_alive(alive);
        let maker = identity::Maker::new(&connector, &link);
        runtime.spawn(identities.run(maker, async move { drop(gone.await) }));
        Ok(XdsClient { link, status })
    }
}

/// The longest that any control plane of the bootstrap has for a resource.
fn resource_timer(bootstrap: &Bootstrap) -> Duration {
    let timers = Plan::of(bootstrap).servers.into_iter();
    let timers = timers.map(|(server, _)| ads::Rules::from(&server.features).patience());
    timers.max().unwrap_or_else(|| ads::Rules::default().patience())
}

/// The certificate providers beside the one that the workload's identity comes from.
fn others(bootstrap: &Bootstrap) -> Others {
    let own = bootstrap.identity_provider().map(|(name, _)| name);
    let mut others = Others::new();
    for (name, provider) in bootstrap
        .providers()
        .iter()
        .filter(|(name, _)| own != Some(name.as_str()))
    {
        let (identity, trust) = match provider {
            Provider::FileWatcher(whole) => (Some(&whole.identity), Some(&whole.trust)),
            Provider::Half(half) => match &half.half {
                Half::Certificate(identity) => (Some(identity), None),
                Half::Trust(trust) => (None, Some(trust)),
            },
            Provider::MeshCa(_) | Provider::IstioAgent(_) => (None, None),
            #[cfg(feature = "workload-api")]
            Provider::WorkloadApi(_) => (None, None),
        };
        let is_half = matches!(provider, Provider::Half(_));
        let provided = Provided {
            identity: identity.map(|files| Credential::Files {
                certificate: files.certificate.as_path().into(),
                key: files.private_key.as_path().into(),
            }),
            roots: match trust {
                Some(TrustFile::Roots(path)) => Some(path.as_path().into()),
                Some(TrustFile::BundleMap(_)) | None => None,
            },
            shows: !is_half || identity.is_some(),
            judges: !is_half || trust.is_some(),
        };
        others.insert(name.as_str().into(), provided);
    }
    others
}

/// What the tasks are made of, whichever variant of the protocol they speak.
struct Begin<'a> {
    runtime: &'a Handle,
    link: &'a Link,
    snapshots: live::Writer<Snapshot>,
    context: Context,
    reports: watch::Sender<Arc<Report>>,
    connector: Connector,
    resolver: Resolver,
}

impl Begin<'_> {
    /// Starts a task for each control plane of the bootstrap. Most sleep until they are needed.
    fn tasks<V: ads::Variant>(self, bootstrap: &Bootstrap) {
        let plan = Plan::of(bootstrap);
        let naming = assemble::Naming {
            profile: self.context.profile,
            names: bootstrap.listener_names().clone(),
        };
        let node = Arc::new(node(bootstrap));
        let trusted = |server: &Server| server.features.contains(ServerFeature::TrustedXdsServer);
        let context = |trusted| Context {
            trusted,
            ..self.context.clone()
        };
        let line = |(server, authorities): &(&Server, Vec<String>)| {
            let ads = ads::AdsState::<V>::new(Arc::clone(&node), context(trusted(server)));
            let ads = ads.with_rules(ads::Rules::from(&server.features));
            line::Line::new(ads, server.uri.to_string(), authorities.clone())
        };
        let mut lines: Vec<line::Line<V>> = plan.servers.iter().map(line).collect();
        let bells: Vec<Arc<Notify>> = lines.iter().map(|line| Arc::clone(&line.bell)).collect();
        let interest_changed = Arc::new(AtomicBool::new(true));
        let (flag, ring) = (Arc::clone(&interest_changed), bells.clone());
        let interest_changes = self.link.interest().on_change(move || {
            flag.store(true, Ordering::Release);
            ring.iter().for_each(|bell| bell.notify_one());
        });
        self.link.keep_alive(interest_changes);
        let named = bootstrap.authorities().values();
        let on_reachability = std::iter::once(bootstrap.fallback_on_reachability_only())
            .chain(named.map(Authority::fallback_on_reachability_only));
        let authorities = plan.authorities.into_iter().zip(on_reachability);
        let (lookups, wanted) = watch::channel(lookups::Names::new());
        let copy = disk::of(bootstrap);
        let disk = copy.as_ref().map(|copy| state::Disk::new(lines.len(), copy.path()));
        lines.extend(copy.as_ref().map(|copy| {
            // Whose word the copy is, it does not say.
            let all = plan.servers.iter().all(|(server, _)| trusted(server));
            let ads = ads::AdsState::new(Arc::clone(&node), context(all));
            line::Line::new(ads, copy.path().display().to_string(), Vec::new())
        }));
        let disk_line = copy.as_ref().map(|_| bells.len());
        let authorities = authorities.map(|(lines, only)| {
            let authority = state::Authority::new(lines).on_reachability_only(only);
            authority.with_disk(disk_line)
        });
        let directory = cache::Authorities::new(bootstrap.authorities().keys().map(String::as_str));
        let reports = self.reports.subscribe();
        let state = state::State::new(state::Parts {
            link: self.link,
            snapshots: self.snapshots,
            lines,
            authorities: authorities.collect(),
            disk,
            directory: directory.clone(),
            naming,
            reports: self.reports,
            lookups,
            interest_changed,
        });
        let state = Arc::new(Mutex::new(state));
        let gate = copy.map(|copy| {
            let holds: Arc<dyn disk::Holds> = Arc::clone(&state) as _;
            let keeper = disk::Keeper::new(copy, reports, holds, directory, self.link);
            let gate = keeper.gate();
            let (alive, gone) = oneshot::channel::<()>();
            self.link.keep_alive(alive);
            self.runtime.spawn(keeper.run(async move { drop(gone.await) }));
            gate
        });
        // It ends with the state, which the tasks of the lines keep.
        let told = Arc::downgrade(&state);
        let resolving = lookups::run(wanted, self.resolver, move |host, outcome| {
            if let Some(state) = told.upgrade() {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                state.resolved(host, &outcome, tokio::time::Instant::now().into_std());
            }
        });
        self.runtime.spawn(resolving);
        let reporters = load::Reporters::new(self.link, &node);
        for (id, (bell, (server, authorities))) in bells.into_iter().zip(plan.servers).enumerate() {
            let (entropy, clock) = (self.link.entropy(), self.link.wall_clock());
            let shows_identity = bootstrap.identity_provider().is_some() && server.credentials.shows_identity();
            let task = stream::Task::new(
                stream::Handle::new(Arc::clone(&state), id, bell),
                Access::new(server.clone(), self.connector.clone(), Arc::clone(clock), entropy),
                shows_identity.then(|| self.link.identity().clone()),
                Backoff::new(entropy.clone()),
                reporters.of(authorities),
            );
            // The sender goes with the link; its receiver then tells the task to end.
            let (alive, gone) = oneshot::channel::<()>();
            self.link.keep_alive(alive);
            let read = gate.clone();
            self.runtime.spawn(async move {
                if let Some(gate) = read {
                    gate.passed().await;
                }
                task.run(async move { drop(gone.await) }).await;
            });
        }
    }
}

/// Who is asked for what: equal servers of several authorities are one (gRFC A47).
struct Plan<'a> {
    /// Each once, with the names of the authorities that it serves.
    servers: Vec<(&'a Server, Vec<String>)>,
    /// Places in that list, by authority, in order of priority. The nameless one first.
    authorities: Vec<Vec<usize>>,
}

impl<'a> Plan<'a> {
    fn of(bootstrap: &'a Bootstrap) -> Self {
        let named = bootstrap.authorities().iter();
        let named = named.map(|(name, authority)| (name.as_str(), authority.servers()));
        let mut plan = Self {
            servers: Vec::new(),
            authorities: Vec::new(),
        };
        for (name, servers) in std::iter::once(("", bootstrap.servers())).chain(named) {
            let places = servers.iter().map(|server| plan.place(server, name)).collect();
            plan.authorities.push(places);
        }
        plan
    }

    fn place(&mut self, server: &'a Server, authority: &str) -> usize {
        let known = self.servers.iter().position(|(known, _)| *known == server);
        let place = known.unwrap_or_else(|| {
            self.servers.push((server, Vec::new()));
            self.servers.len() - 1
        });
        let authorities = &mut self.servers[place].1;
        if !authorities.iter().any(|known| known == authority) {
            authorities.push(authority.into());
        }
        place
    }
}

/// The node as the file says, with what only the client can say.
fn node(bootstrap: &Bootstrap) -> Node {
    let node = bootstrap.node();
    let mut features = FEATURES.map(String::from).to_vec();
    let profile = bootstrap.profile();
    if profile != Profile::of(node) {
        features.push(profile.feature().into());
    }
    Node {
        user_agent: convention::OUR_USER_AGENT.into(),
        user_agent_version: env!("CARGO_PKG_VERSION").into(),
        features,
        ..node.clone()
    }
}
