//! A snapshot as it goes over the wire, encoded once for all streams of a group.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use mesh_core::Snapshot;
use mesh_core::config::{ChainIdentity, Inbound, RouteTree, TlsMode};

use super::beside::Beside;
use super::layers::Layers;
use super::served::{self, Served};
use super::undescribed::Undescribed;
use crate::bootstrap::Profile;
use crate::convention::{PROVIDER, VIRTUAL_INBOUND};
use crate::decode::{self, Context, Others, Rejected, Resource};
use crate::encode::{self, Calls, Dialect, EGRESS_ADDRESS};
use crate::resource::{ClusterSpec, Endpoints, Extension, Listener, ResourceKind};
use crate::wire::Raw;

/// The resources of one kind and the version they go by.
#[derive(Debug)]
pub(crate) struct TypeSet {
    pub(crate) version: Arc<str>,
    pub(crate) resources: Layers<Arc<[u8]>>,
    /// Of each resource by itself: a hash of its bytes, so that a client that comes back to a control plane that was
    /// restarted, or to another one, is not sent what it holds.
    pub(crate) versions: Layers<Arc<str>>,
    /// Of each route configuration, the clusters that it leads to, and the leaves of those; of other kinds empty.
    pub(crate) clusters: BTreeMap<Arc<str>, Arc<Names>>,
}

pub(crate) type Names = BTreeSet<Arc<str>>;

/// What one group of clients is told, in each dialect.
///
/// What our clients and gRPC's are told is written and read back when it is published. Clusters for sidecars differ from those in
/// the names of secrets alone; they are written when the first client asks for them, by the stream that asks.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    snapshot: Snapshot,
    generation: u64,
    mesh: View,
    grpc: View,
    sidecar: Later,
    /// For Envoys whose listeners are on the usual address.
    envoy: Later,
    egress_routes: Arc<TypeSet>,
    sidecar_extensions: Arc<TypeSet>,
    /// The ports of Envoy's listeners, with what happens to the calls of each; its hosts are elsewhere.
    ports: Arc<[(u16, RouteTree)]>,
    undescribed: Option<Undescribed>,
}

/// A dialect whose clusters are written when somebody speaks it.
#[derive(Clone, Debug)]
struct Later {
    dialect: Dialect,
    listeners: Arc<TypeSet>,
    clusters: OnceLock<Arc<TypeSet>>,
    /// The last that were written of those published before.
    before: Option<Arc<TypeSet>>,
}

impl Later {
    fn new(dialect: Dialect, listeners: Arc<TypeSet>, previous: Option<&Self>) -> Self {
        let before = previous.and_then(|previous| previous.clusters.get().or(previous.before.as_ref()));
        Self {
            dialect,
            listeners,
            clusters: OnceLock::new(),
            before: before.cloned(),
        }
    }
}

/// What one client is told: the sets of its dialect.
#[derive(Clone, Debug)]
pub(crate) struct View(pub(super) [Arc<TypeSet>; ResourceKind::COUNT]);

impl View {
    pub(crate) fn of(&self, kind: ResourceKind) -> &Arc<TypeSet> {
        &self.0[kind.index()]
    }
}

/// A snapshot that clients could not use. Nothing of it is sent: a bad resource over the wire could cost them the good one
/// that they have.
#[derive(Clone, Debug)]
pub struct Unpublishable {
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Refused(Rejected),
    TwoTrees(Arc<str>),
    TwoListeners(Arc<str>),
    TwoClusters(Arc<str>),
}

impl Unpublishable {
    /// What our own client would say to it.
    pub fn rejected(&self) -> Option<&Rejected> {
        match &self.kind {
            Kind::Refused(rejected) => Some(rejected),
            Kind::TwoTrees(_) | Kind::TwoListeners(_) | Kind::TwoClusters(_) => None,
        }
    }
}

impl fmt::Display for Unpublishable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Refused(_) => f.write_str("clients would refuse a resource of this snapshot"),
            Kind::TwoTrees(name) => write!(f, "two different route configurations are named {name:?}"),
            Kind::TwoListeners(name) => write!(f, "two different listeners are named {name:?}"),
            Kind::TwoClusters(name) => write!(f, "two different clusters are named {name:?}"),
        }
    }
}

impl std::error::Error for Unpublishable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            Kind::Refused(rejected) => Some(rejected),
            Kind::TwoTrees(_) | Kind::TwoListeners(_) | Kind::TwoClusters(_) => None,
        }
    }
}

/// Where the listeners of a client are that is a sidecar without a socket: on every address, by Istio's habit.
const EVERYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The port of that listener at a sidecar (Istio).
const VIRTUAL_INBOUND_PORT: u16 = 15006;

pub(super) type Resources = BTreeMap<Arc<str>, Arc<[u8]>>;

impl Encoded {
    /// As [`with`](Self::with), with nothing beside.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn new(snapshot: &Snapshot, previous: Option<&Self>, generation: u64) -> Result<Self, Unpublishable> {
        Self::with(snapshot, &Beside::default(), previous, generation)
    }

    /// Encodes and checks. Kinds whose resources are those of `previous` keep their version; the others get `generation`.
    pub(super) fn with(
        snapshot: &Snapshot,
        beside: &Beside,
        previous: Option<&Self>,
        generation: u64,
    ) -> Result<Self, Unpublishable> {
        if let Some(name) = served::twice(snapshot) {
            let kind = Kind::TwoClusters(name.as_str().into());
            return Err(Unpublishable { kind });
        }
        let served = Served::of(snapshot);
        let (mut listeners, trees) = listeners_and_trees(snapshot)?;
        serve(&mut listeners, snapshot, Profile::Grpc)?;
        let mut routes = written(trees.values().map(|tree| &***tree));
        let leading = served.leading(trees.values().map(|tree| &***tree));
        let endpoints = served.endpoints();
        let egress = encode::by_port(snapshot);
        let mut egress_routes = written(egress.values());
        let egress_leading = served.leading(egress.values());
        let without_hosts = |(port, tree)| {
            (
                port,
                RouteTree {
                    virtual_hosts: Vec::new(),
                    ..tree
                },
            )
        };
        let ports: Arc<[_]> = egress.into_iter().map(without_hosts).collect();
        let sockets = sockets(&ports, EGRESS_ADDRESS);
        let mut for_sidecars = self::sockets(&ports, EVERYWHERE);
        serve(&mut for_sidecars, snapshot, Profile::Envoy)?;
        let undescribed = snapshot.any_inbound().and_then(Undescribed::new);
        let others = Arc::new(providers(snapshot));
        if let Some(any) = snapshot.any_inbound() {
            let any = Inbound {
                name: VIRTUAL_INBOUND.into(),
                address: SocketAddr::new(EVERYWHERE, VIRTUAL_INBOUND_PORT),
                ..(**any).clone()
            };
            // What an Envoy-shaped server goes by that no listener is for.
            for_sidecars.insert(VIRTUAL_INBOUND.into(), encode::inbound(&any, Profile::Envoy).into());
            // Written when it is asked for, so it is read here once.
            let trial = encode::inbound(&any, Profile::Grpc).into();
            check::<Listener>(
                &Resources::from([(VIRTUAL_INBOUND.into(), trial)]),
                Profile::Grpc,
                &others,
            )?;
        }
        beside.over(Profile::Grpc, ResourceKind::Listener, &mut listeners);
        beside.over(Profile::Grpc, ResourceKind::Route, &mut routes);
        beside.over(Profile::Envoy, ResourceKind::Listener, &mut for_sidecars);
        beside.over(Profile::Envoy, ResourceKind::Route, &mut egress_routes);
        let extensions_of = |profile| {
            let mut extensions = Resources::new();
            beside.over(profile, ResourceKind::ExtensionConfig, &mut extensions);
            extensions
        };
        // No filter of ours is a resource of its own.
        let (extensions, sidecars_extensions) = (extensions_of(Profile::Grpc), extensions_of(Profile::Envoy));
        let for_mesh = served.clusters(Dialect::Mesh);
        let for_grpc = served.clusters(Dialect::Grpc);
        check::<Listener>(&listeners, Profile::Grpc, &others)?;
        check::<Listener>(&for_sidecars, Profile::Envoy, &others)?;
        check::<RouteTree>(&routes, Profile::Grpc, &others)?;
        check::<RouteTree>(&egress_routes, Profile::Grpc, &others)?;
        check::<Extension>(&extensions, Profile::Grpc, &others)?;
        check::<Extension>(&sidecars_extensions, Profile::Envoy, &others)?;
        check::<Endpoints>(&endpoints, Profile::Grpc, &others)?;
        check::<ClusterSpec>(&for_mesh, Profile::Grpc, &others)?;
        check::<ClusterSpec>(&for_grpc, Profile::Grpc, &others)?;
        let leads = |before: fn(&Self) -> &Arc<TypeSet>, resources, clusters| {
            type_set(previous.map(before), generation, resources, clusters)
        };
        let set = |before, resources| leads(before, resources, BTreeMap::new());
        let listeners = set(|e| e.mesh.of(ResourceKind::Listener), listeners);
        let routes = leads(|e| e.mesh.of(ResourceKind::Route), routes, leading);
        let endpoints = set(|e| e.mesh.of(ResourceKind::Endpoints), endpoints);
        let extensions = set(|e| e.mesh.of(ResourceKind::ExtensionConfig), extensions);
        let grpc = |clusters| {
            View([
                listeners.clone(),
                routes.clone(),
                clusters,
                endpoints.clone(),
                extensions.clone(),
            ])
        };
        let for_sidecars = set(|e| &e.sidecar.listeners, for_sidecars);
        let sockets = set(|e| &e.envoy.listeners, sockets);
        Ok(Self {
            snapshot: snapshot.clone(),
            generation,
            mesh: grpc(set(|e| e.mesh.of(ResourceKind::Cluster), for_mesh)),
            grpc: grpc(set(|e| e.grpc.of(ResourceKind::Cluster), for_grpc)),
            sidecar: Later::new(Dialect::Sidecar, for_sidecars, previous.map(|e| &e.sidecar)),
            envoy: Later::new(Dialect::Envoy(EGRESS_ADDRESS), sockets, previous.map(|e| &e.envoy)),
            egress_routes: leads(|e| &e.egress_routes, egress_routes, egress_leading),
            sidecar_extensions: set(|e| &e.sidecar_extensions, sidecars_extensions),
            ports,
            undescribed,
        })
    }

    /// How often something was published to its group.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    fn later(&self, later: &Later) -> View {
        let write = || {
            let clusters = Served::of(&self.snapshot).clusters(later.dialect);
            type_set(later.before.as_ref(), self.generation, clusters, BTreeMap::new())
        };
        View([
            Arc::clone(&later.listeners),
            Arc::clone(&self.egress_routes),
            Arc::clone(later.clusters.get_or_init(write)),
            Arc::clone(self.mesh.of(ResourceKind::Endpoints)),
            Arc::clone(&self.sidecar_extensions),
        ])
    }

    /// What such a client is told that asks for these listeners, some of which are perhaps of servers that no document describes.
    pub(crate) fn view_for(&self, dialect: Dialect, listeners: &[Arc<str>]) -> View {
        let mut view = self.view(dialect);
        let (Dialect::Mesh | Dialect::Grpc, Some(of_servers)) = (dialect, &self.undescribed) else {
            return view;
        };
        let usual = view.of(ResourceKind::Listener);
        let own = of_servers.listeners(listeners.iter().filter(|name| !usual.resources.contains_key(name)));
        if own.is_empty() {
            return view;
        }
        let with_own = TypeSet {
            version: format!("{}+{:08x}", usual.version, hash_of(&own)).into(),
            versions: usual.versions.with(versions(&own)),
            resources: usual.resources.with(own),
            clusters: BTreeMap::new(),
        };
        view.0[ResourceKind::Listener.index()] = Arc::new(with_own);
        view
    }

    /// What a client of this dialect is told. Cheap, but for the first sidecar, whose clusters are written here for all, and an
    /// Envoy with an address of its own, whose listeners are: ask once for each publish and stream.
    pub(crate) fn view(&self, dialect: Dialect) -> View {
        match dialect {
            Dialect::Mesh => self.mesh.clone(),
            Dialect::Grpc => self.grpc.clone(),
            Dialect::Sidecar => self.later(&self.sidecar),
            Dialect::Envoy(EGRESS_ADDRESS) => self.later(&self.envoy),
            Dialect::Envoy(address) => {
                let mut view = self.later(&self.envoy);
                let usual = view.of(ResourceKind::Listener);
                let resources = sockets(&self.ports, address);
                let elsewhere = TypeSet {
                    // The same ports on another address: it changes when the usual ones do, and only then.
                    version: format!("{}@{address}", usual.version).into(),
                    versions: versions(&resources).into(),
                    resources: resources.into(),
                    clusters: BTreeMap::new(),
                };
                view.0[ResourceKind::Listener.index()] = Arc::new(elsewhere);
                view
            }
        }
    }
}

/// The set of these; the one before where nothing changed.
pub(super) fn type_set(
    before: Option<&Arc<TypeSet>>,
    generation: u64,
    resources: Resources,
    clusters: BTreeMap<Arc<str>, Arc<Names>>,
) -> Arc<TypeSet> {
    match before {
        Some(before) if before.resources.shared() == &resources && before.clusters == clusters => Arc::clone(before),
        // A cluster stands for others than it did: that is told with it, and here it is remembered.
        Some(before) if before.resources.shared() == &resources => Arc::new(TypeSet {
            version: Arc::clone(&before.version),
            versions: before.versions.clone(),
            resources: before.resources.clone(),
            clusters,
        }),
        _ => Arc::new(TypeSet {
            version: version(generation, &resources),
            versions: versions(&resources).into(),
            resources: resources.into(),
            clusters,
        }),
    }
}

fn sockets(ports: &[(u16, RouteTree)], address: IpAddr) -> Resources {
    let one = |(port, tree): &(u16, RouteTree)| {
        let listener = encode::socket_listener(address, *port, &Calls::of(tree));
        (encode::socket_name(*port).into(), listener.into())
    };
    ports.iter().map(one).collect()
}

/// Adds what servers accept connections by, each under the name that its server asks for.
fn serve(listeners: &mut Resources, snapshot: &Snapshot, shape: Profile) -> Result<(), Unpublishable> {
    for (_, inbound) in snapshot.inbounds().iter() {
        let Ok(inbound) = inbound else { continue };
        let name: Arc<str> = (&*inbound.name).into();
        let bytes: Arc<[u8]> = encode::inbound(inbound, shape).into();
        let first = listeners.entry(Arc::clone(&name)).or_insert_with(|| Arc::clone(&bytes));
        if *first != bytes {
            let kind = Kind::TwoListeners(name);
            return Err(Unpublishable { kind });
        }
    }
    Ok(())
}

type Trees<'a> = BTreeMap<&'a Arc<str>, &'a Arc<RouteTree>>;

fn listeners_and_trees(snapshot: &Snapshot) -> Result<(Resources, Trees<'_>), Unpublishable> {
    let mut listeners = Resources::new();
    let mut trees = Trees::new();
    for (target, tree) in snapshot.targets().iter() {
        let Ok(tree) = tree else { continue };
        listeners.insert(
            Arc::clone(target),
            encode::listener(target, &tree.name, &Calls::of(tree)).into(),
        );
        let first = trees.entry(&tree.name).or_insert(tree);
        if **first != *tree {
            let kind = Kind::TwoTrees(Arc::clone(&tree.name));
            return Err(Unpublishable { kind });
        }
    }
    Ok((listeners, trees))
}

fn written<'a>(trees: impl Iterator<Item = &'a RouteTree>) -> Resources {
    let one = |tree: &RouteTree| (Arc::clone(&tree.name), encode::routes(tree).into());
    trees.map(one).collect()
}

/// The certificate providers that bootstraps must have, beside the one of the identity: whatever listeners and clusters name.
fn providers(snapshot: &Snapshot) -> Others {
    let mut others = Others::new();
    let inbounds = snapshot
        .inbounds()
        .iter()
        .filter_map(|(_, inbound)| inbound.as_ref().ok());
    for inbound in inbounds.chain(snapshot.any_inbound()) {
        for chain in inbound.chains.iter().chain(&inbound.default) {
            name(&chain.identity, &mut others);
        }
    }
    let clusters = snapshot
        .clusters()
        .iter()
        .filter_map(|(_, cluster)| cluster.as_ref().ok());
    for whole in clusters {
        for cluster in std::iter::once(whole).chain(&*whole.leaves) {
            let modes = std::iter::once(&cluster.tls).chain(cluster.tls_matches.iter().map(|one| &one.mode));
            for identity in modes.filter_map(TlsMode::identity) {
                name(&identity, &mut others);
            }
        }
    }
    others
}

/// Each with the half that is asked of it.
fn name(ChainIdentity { certificate, roots }: &ChainIdentity, others: &mut Others) {
    if let Some(name) = certificate {
        others.entry(name.clone()).or_default().shows = true;
    }
    if let Some(name) = roots {
        others.entry(name.clone()).or_default().judges = true;
    }
}

/// Reads everything back as a client of this profile would.
fn check<R: Resource>(resources: &Resources, profile: Profile, others: &Arc<Others>) -> Result<(), Unpublishable> {
    let context = Context {
        provider: Some(PROVIDER.into()),
        profile,
        others: Arc::clone(others),
        trusted: true,
    };
    for bytes in resources.values() {
        let raw = Raw {
            type_url: R::KIND.type_url().into(),
            bytes: bytes.to_vec(),
        };
        decode::decode::<R>(&raw, &context)
            .and_then(|decoded| decoded.value)
            .map_err(|rejected| Unpublishable {
                kind: Kind::Refused(rejected),
            })?;
    }
    Ok(())
}

/// A number for people, and a hash, so that a control plane that was restarted does not give an old version to new content.
fn version(generation: u64, resources: &Resources) -> Arc<str> {
    format!("{generation}-{:08x}", hash_of(resources)).into()
}

fn hash_of(resources: &Resources) -> u64 {
    let parts = resources.iter().flat_map(|(name, bytes)| [name.as_bytes(), bytes]);
    let hash = hash(parts.flatten());
    (hash >> 32) ^ (hash & 0xffff_ffff)
}

fn versions(resources: &Resources) -> BTreeMap<Arc<str>, Arc<str>> {
    let version = |bytes: &[u8]| format!("{:016x}", hash(bytes.iter())).into();
    resources
        .iter()
        .map(|(name, bytes)| (Arc::clone(name), version(bytes)))
        .collect()
}

/// FNV-1a, 64 bits: it tells versions apart, it protects nothing.
fn hash<'a>(bytes: impl Iterator<Item = &'a u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
