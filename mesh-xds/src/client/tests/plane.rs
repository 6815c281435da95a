//! Control planes in memory, and a network to them that can be cut, silent or slow. On paused time, with the production
//! client and tonic's server.
//!
//! A plane says what it holds of the names that it is asked for, and nothing of those it does not hold. It keeps to the
//! letter of the protocol: what a client claims to have is not sent again, so a client that carries a version from one plane
//! to another never hears of its resources. All planes count versions in the same way, so such versions do look alike.
//!
//! One file, though a long one: what a plane holds, how it talks in each variant, the network and the subject are one apparatus, of which
//! every test of this folder uses all.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use mesh_core::link::{Guard, Parts};
use mesh_core::{Entropy, Link};
use rustls::time_provider::TimeProvider;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, copy_bidirectional, duplex, split};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Extensions, Status};

use super::*;
use crate::Connector;
use crate::bootstrap::{Bootstrap, BootstrapBuilder, Protocol};
use crate::client::XdsClient;
use crate::node::Node;
use crate::resolver::Resolver;
use crate::wire::{self, Delta, DeltaRequest, DeltaResponse, Request, Requests, Responses, Serve, Sotw, Versioned};

/// Longer than anything takes in virtual time, unless it never happens.
pub(super) const EVER: Duration = Duration::from_secs(1000);
/// What a pipe holds, as a kernel would.
const PIPE_BYTES: usize = 1 << 20;

pub(super) const BOTH: [Protocol; 2] = [Protocol::Sotw, Protocol::Delta];

/// What the way to a plane does to what is sent on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Open,
    /// Connections break, and none are made.
    Down,
    /// Nothing arrives on the connections that there are, now or later, and nobody is told.
    Black,
    /// A byte a second comes from the plane.
    Slow,
}

/// What a plane holds: each resource with the count of its versions.
type Store = BTreeMap<(ResourceKind, Arc<str>), (u64, Raw)>;

/// A control plane.
pub(super) struct Plane {
    way: watch::Sender<Way>,
    store: watch::Sender<Store>,
    arrivals: mpsc::UnboundedSender<io::Result<DuplexStream>>,
    log: Mutex<Log>,
    /// Streams are refused with this.
    refuses: Mutex<Option<Status>>,
    /// Rung for each stream to end in order.
    ends: watch::Sender<()>,
}

/// What happened to a plane.
#[derive(Clone, Default)]
pub(super) struct Log {
    /// When somebody tried to connect.
    pub(super) dials: Vec<Instant>,
    pub(super) streams: usize,
    pub(super) open: usize,
    /// Names that were asked for.
    pub(super) asked: BTreeSet<(ResourceKind, Arc<str>)>,
    /// What was claimed to be held in the first requests of streams.
    pub(super) claims: Vec<String>,
    pub(super) nacks: Vec<String>,
}

impl Plane {
    /// What happened until now.
    pub(super) fn log(&self) -> Log {
        self.note().clone()
    }

    fn note(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap()
    }

    pub(super) fn go(&self, way: Way) {
        self.way.send_replace(way);
    }

    /// Every stream is refused with this status from now on, or none.
    pub(super) fn refuse(&self, status: Option<Status>) {
        *self.refuses.lock().unwrap() = status;
    }

    /// Ends every stream that there is with the status OK.
    pub(super) fn end_streams(&self) {
        self.ends.send_replace(());
    }

    pub(super) fn set(&self, kind: ResourceKind, name: &str, raw: Raw) {
        self.store.send_modify(|store| {
            let entry = store.entry((kind, name.into())).or_insert_with(|| (0, raw.clone()));
            *entry = (entry.0 + 1, raw);
        });
    }

    pub(super) fn delete(&self, kind: ResourceKind, name: &str) {
        self.store.send_modify(|store| drop(store.remove(&(kind, name.into()))));
    }

    /// Holds a whole tree for a target: its cluster is named by `cluster`, and is at `port`.
    pub(super) fn tell(&self, target: &str, cluster: &str, port: u16) {
        self.set(ResourceKind::Listener, target, listener(target, target));
        self.set(ResourceKind::Route, target, routes(target, cluster));
        self.cluster(cluster, port);
    }

    pub(super) fn cluster(&self, cluster: &str, port: u16) {
        self.set(ResourceKind::Cluster, cluster, super::cluster(cluster));
        self.set(ResourceKind::Endpoints, cluster, endpoints(cluster, &[port]));
    }

    /// What there is of these names; of everything if that was asked for, as a sidecar does with its first word.
    fn held(&self, kind: ResourceKind, asked: &Asked) -> Vec<(Arc<str>, u64, Raw)> {
        let store = self.store.borrow();
        if asked.everything {
            let all = store.iter().filter(|((of, _), _)| *of == kind);
            return all
                .map(|((_, name), (version, raw))| (Arc::clone(name), *version, raw.clone()))
                .collect();
        }
        let names = &asked.names;
        let held = names.iter().filter_map(|name| {
            let (version, raw) = store.get(&(kind, Arc::clone(name)))?;
            Some((Arc::clone(name), *version, raw.clone()))
        });
        held.collect()
    }
}

/// Planes by their addresses.
#[derive(Clone, Default)]
pub(super) struct Net(Arc<Mutex<BTreeMap<String, Arc<Plane>>>>);

impl Net {
    /// A plane at `address`.
    pub(super) fn plane(&self, address: &str) -> Arc<Plane> {
        let (arrivals, incoming) = mpsc::unbounded_channel();
        let plane = Arc::new(Plane {
            way: watch::channel(Way::Open).0,
            store: watch::channel(Store::new()).0,
            arrivals,
            log: Mutex::default(),
            refuses: Mutex::default(),
            ends: watch::channel(()).0,
        });
        let service = wire::service(Host(Arc::clone(&plane)));
        let router = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(router.serve_with_incoming(UnboundedReceiverStream::new(incoming)));
        self.0.lock().unwrap().insert(address.into(), Arc::clone(&plane));
        plane
    }

    pub(super) fn connector(&self) -> Connector {
        let net = self.clone();
        Connector::new(move |uri| {
            let plane = net.0.lock().unwrap().get(&uri.to_string()).cloned();
            async move { plane.ok_or(io::ErrorKind::NotFound)?.dial() }
        })
    }
}

impl Plane {
    fn dial(&self) -> io::Result<DuplexStream> {
        self.note().dials.push(Instant::now());
        if *self.way.borrow() == Way::Down {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, client) = duplex(PIPE_BYTES);
        let (theirs, server) = duplex(PIPE_BYTES);
        tokio::spawn(carry(ours, theirs, self.way.subscribe()));
        self.arrivals
            .send(Ok(server))
            .map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(client)
    }
}

/// Carries what a client and a plane send, as the way does.
async fn carry(mut client: DuplexStream, mut plane: DuplexStream, mut way: watch::Receiver<Way>) {
    loop {
        let now = *way.borrow_and_update();
        let carried = async {
            match now {
                Way::Open => drop(copy_bidirectional(&mut client, &mut plane).await),
                Way::Slow => trickle(&mut client, &mut plane).await,
                Way::Down | Way::Black => {}
            }
        };
        if now == Way::Black {
            // Whatever becomes of the way, this connection is lost and neither end knows.
            return std::future::pending().await;
        }
        tokio::select! {
            () = carried => return,
            changed = way.changed() => if changed.is_err() { return },
        }
    }
}

async fn trickle(client: &mut DuplexStream, plane: &mut DuplexStream) {
    let ((mut from_client, mut to_client), (mut from_plane, mut to_plane)) = (split(client), split(plane));
    let forth = tokio::io::copy(&mut from_client, &mut to_plane);
    let back = async {
        loop {
            let byte = from_plane.read_u8().await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            to_client.write_u8(byte).await?;
        }
    };
    tokio::select! {
        _ = forth => {}
        end = back => { let _: io::Result<()> = end; }
    }
}

/// A plane as a service.
struct Host(Arc<Plane>);

impl Host {
    fn admit(&self) -> Result<Arc<Plane>, Status> {
        if let Some(status) = self.0.refuses.lock().unwrap().clone() {
            return Err(status);
        }
        let mut log = self.0.note();
        log.streams += 1;
        log.open += 1;
        Ok(Arc::clone(&self.0))
    }
}

impl Serve for Host {
    fn begin(&self, _: &Extensions, mut incoming: Requests<Sotw>) -> Result<Responses<Sotw>, Status> {
        let plane = self.admit()?;
        let (responses, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut talk = Talk::default();
            let (mut changes, mut ends) = (plane.store.subscribe(), plane.ends.subscribe());
            loop {
                tokio::select! {
                    request = incoming.next() => match request.ok().flatten() {
                        Some(request) => talk.hear(&plane, &request),
                        None => break,
                    },
                    changed = changes.changed() => if changed.is_err() { break },
                    _ = ends.changed() => break,
                    () = responses.closed() => break,
                }
                for response in talk.say(&plane) {
                    drop(responses.send(Ok(response)).await);
                }
            }
            plane.note().open -= 1;
        });
        Ok(receiver)
    }

    fn begin_delta(&self, _: &Extensions, mut incoming: Requests<Delta>) -> Result<Responses<Delta>, Status> {
        let plane = self.admit()?;
        let (responses, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut talk = Talk::default();
            let (mut changes, mut ends) = (plane.store.subscribe(), plane.ends.subscribe());
            loop {
                tokio::select! {
                    request = incoming.next() => match request.ok().flatten() {
                        Some(request) => talk.hear_delta(&plane, &request),
                        None => break,
                    },
                    changed = changes.changed() => if changed.is_err() { break },
                    _ = ends.changed() => break,
                    () = responses.closed() => break,
                }
                for response in talk.say_delta(&plane) {
                    drop(responses.send(Ok(response)).await);
                }
            }
            plane.note().open -= 1;
        });
        Ok(receiver)
    }
}

/// What a client is subscribed to of one kind.
#[derive(Default)]
struct Asked {
    names: BTreeSet<Arc<str>>,
    everything: bool,
}

/// What a plane remembers of one stream.
#[derive(Default)]
struct Talk {
    names: BTreeMap<ResourceKind, Asked>,
    /// What the client has, by kind: versions by name.
    has: BTreeMap<ResourceKind, BTreeMap<Arc<str>, u64>>,
    nonce: u64,
}

/// The version of a whole response: that of its newest resource, and how many there are.
fn whole(has: &BTreeMap<Arc<str>, u64>) -> String {
    format!("{}.{}", has.values().max().unwrap_or(&0), has.len())
}

impl Talk {
    fn hear(&mut self, plane: &Plane, request: &Request) {
        let kind = ResourceKind::from_type_url(&request.type_url).unwrap();
        let is_first = !self.names.contains_key(&kind);
        let names: BTreeSet<Arc<str>> = request.names.iter().cloned().collect();
        let mut log = plane.note();
        log.asked.extend(names.iter().map(|name| (kind, Arc::clone(name))));
        log.nacks.extend(request.error.clone());
        let asked = self.names.entry(kind).or_default();
        asked.everything |= is_first && names.is_empty();
        asked.names = names;
        if is_first && !request.version.is_empty() {
            log.claims.push(request.version.clone());
            let held: BTreeMap<Arc<str>, u64> = self.held(plane, kind);
            if whole(&held) == request.version {
                self.has.insert(kind, held);
            }
        } else if request.nonce.is_empty() {
            // As if for the first time.
            self.has.remove(&kind);
        }
    }

    fn held(&self, plane: &Plane, kind: ResourceKind) -> BTreeMap<Arc<str>, u64> {
        let held = plane.held(kind, &self.names[&kind]);
        held.into_iter().map(|(name, version, _)| (name, version)).collect()
    }

    fn say(&mut self, plane: &Plane) -> Vec<Response> {
        let mut said = Vec::new();
        for (kind, names) in &self.names {
            let held = plane.held(*kind, names);
            let now: BTreeMap<Arc<str>, u64> = held
                .iter()
                .map(|(name, version, _)| (Arc::clone(name), *version))
                .collect();
            let before = self.has.entry(*kind).or_default();
            if *before == now {
                continue;
            }
            self.nonce += 1;
            let resources = held.into_iter().map(|(_, _, raw)| raw).collect();
            said.push(Response {
                nonce: self.nonce.to_string(),
                ..response(*kind, &whole(&now), resources)
            });
            *before = now;
        }
        said
    }

    fn hear_delta(&mut self, plane: &Plane, request: &DeltaRequest) {
        let kind = ResourceKind::from_type_url(&request.type_url).unwrap();
        let mut log = plane.note();
        let subscribed = request.subscribe.iter();
        log.asked.extend(subscribed.map(|name| (kind, Arc::clone(name))));
        log.nacks.extend(request.error.clone());
        log.claims
            .extend(request.held.iter().map(|(_, version)| version.to_string()));
        let is_first = !self.names.contains_key(&kind);
        let asked = self.names.entry(kind).or_default();
        asked.everything |= is_first && request.subscribe.is_empty();
        let names = &mut asked.names;
        let has = self.has.entry(kind).or_default();
        for name in &request.unsubscribe {
            names.remove(name);
            has.remove(name);
        }
        for (name, version) in &request.held {
            has.extend(version.parse().ok().map(|version| (Arc::clone(name), version)));
        }
        for name in &request.subscribe {
            // One that is subscribed to again is told again, unless it is claimed to be held.
            if !names.insert(Arc::clone(name)) {
                has.remove(name);
            }
        }
    }

    fn say_delta(&mut self, plane: &Plane) -> Vec<DeltaResponse> {
        let mut said = Vec::new();
        for (kind, names) in &self.names {
            let (held, has) = (plane.held(*kind, names), self.has.entry(*kind).or_default());
            let there: BTreeSet<&Arc<str>> = held.iter().map(|(name, _, _)| name).collect();
            let removed: Vec<Arc<str>> = has.keys().filter(|name| !there.contains(name)).cloned().collect();
            let new = |(name, version, _): &&(Arc<str>, u64, Raw)| has.get(name) != Some(version);
            let resources: Vec<Versioned> = held
                .iter()
                .filter(new)
                .map(|(name, version, raw)| Versioned {
                    name: Arc::clone(name),
                    version: version.to_string().into(),
                    raw: Some(raw.clone()),
                    ttl: None,
                })
                .collect();
            *has = held
                .iter()
                .map(|(name, version, _)| (Arc::clone(name), *version))
                .collect();
            if resources.is_empty() && removed.is_empty() {
                continue;
            }
            self.nonce += 1;
            said.push(DeltaResponse {
                type_url: kind.type_url().into(),
                nonce: self.nonce.to_string(),
                resources,
                removed,
                ..DeltaResponse::default()
            });
        }
        said
    }
}

/// A client, and every snapshot that it published.
pub(super) struct Subject {
    pub(super) client: XdsClient,
    pub(super) link: Link,
    published: Arc<Mutex<Vec<Arc<Snapshot>>>>,
    _subscription: mesh_core::live::Subscription,
    guards: Vec<Guard>,
}

impl Subject {
    /// A client of these planes, in order of priority.
    pub(super) fn of(net: &Net, protocol: Protocol, planes: &[&str], targets: &[&str]) -> Self {
        let builder = Bootstrap::builder(Node::default()).protocol(protocol);
        let insecure = |builder: BootstrapBuilder, address: &&str| builder.insecure(address);
        Self::start(net, planes.iter().fold(builder, insecure), targets)
    }

    pub(super) fn start(net: &Net, bootstrap: BootstrapBuilder, targets: &[&str]) -> Self {
        Self::begin(
            net,
            bootstrap,
            targets,
            Parts::default().wall_clock,
            Resolver::default(),
        )
    }

    /// One whose wall clock is `clock`.
    pub(super) fn at(net: &Net, bootstrap: BootstrapBuilder, targets: &[&str], clock: Arc<dyn TimeProvider>) -> Self {
        Self::begin(net, bootstrap, targets, clock, Resolver::default())
    }

    /// One whose host names are resolved by `resolver`.
    pub(super) fn resolving(net: &Net, bootstrap: BootstrapBuilder, targets: &[&str], resolver: Resolver) -> Self {
        Self::begin(net, bootstrap, targets, Parts::default().wall_clock, resolver)
    }

    fn begin(
        net: &Net,
        bootstrap: BootstrapBuilder,
        targets: &[&str],
        clock: Arc<dyn TimeProvider>,
        resolver: Resolver,
    ) -> Self {
        let parts = Parts {
            entropy: Entropy::seeded(7),
            wall_clock: clock,
            ..Parts::default()
        };
        let builder = XdsClient::builder(bootstrap.build().unwrap()).parts(parts);
        let client = builder.connector(net.connector()).resolver(resolver).start().unwrap();
        let link = client.link();
        let published = Arc::new(Mutex::new(Vec::new()));
        let (reader, record) = (link.snapshots().clone(), Arc::clone(&published));
        let subscription = link
            .snapshots()
            .on_change(move || record.lock().unwrap().push(reader.load_full()));
        Self {
            guards: targets.iter().map(|target| link.interest().watch(*target)).collect(),
            _subscription: subscription,
            client,
            link,
            published,
        }
    }

    /// Wants one more target.
    pub(super) fn want(&mut self, target: &str) {
        self.guards.push(self.link.interest().watch(target));
    }

    /// Wants nothing any more.
    pub(super) fn forget(&mut self) {
        self.guards.clear();
    }

    /// Every snapshot so far, as [`ports`] shows it.
    pub(super) fn history(&self, target: &str) -> Vec<String> {
        let published = self.published.lock().unwrap();
        let mut history: Vec<String> = published.iter().map(|snapshot| ports(snapshot, target)).collect();
        history.dedup();
        history
    }

    pub(super) fn ports(&self, target: &str) -> String {
        ports(&self.link.snapshots().load(), target)
    }

    /// Waits until calls to `target` go where `expected` says.
    #[track_caller]
    pub(super) fn until(&self, target: &str, expected: &str) -> impl Future<Output = ()> {
        let at = std::panic::Location::caller();
        let reports = self.client.status().clone();
        let (snapshots, target, expected) = (self.link.snapshots().clone(), target.to_owned(), expected.to_owned());
        async move {
            let reached = |_: &crate::client::Report| ports(&snapshots.load(), &target) == expected;
            if let Err(error) = reports.until(EVER, reached).await {
                panic!(
                    "{at}: {:?} is not {expected:?}: {error}",
                    ports(&snapshots.load(), &target)
                );
            }
        }
    }
}

/// Where calls to a target go: `cluster:port` of each of its clusters, or why there is none.
pub(super) fn ports(snapshot: &Snapshot, target: &str) -> String {
    let tree = match snapshot.target(target) {
        None => return "nothing".into(),
        Some(Err(reason)) => return format!("error: {reason}"),
        Some(Ok(tree)) => tree,
    };
    let clusters = tree.clusters().map(|name| match snapshot.cluster(name) {
        Some(Ok(cluster)) => {
            let ports = cluster.endpoints.iter().map(|one| one.address.port().to_string());
            format!("{}:{}", name.as_str(), ports.collect::<Vec<_>>().join("+"))
        }
        Some(Err(reason)) => format!("{}: {reason}", name.as_str()),
        None => panic!("{} dangles", name.as_str()),
    });
    clusters.collect::<Vec<_>>().join(" ")
}

/// Lets everything happen that can happen without time.
pub(super) async fn settle() {
    // Under paused time the clock moves only when nothing else can.
    tokio::time::sleep(Duration::from_millis(1)).await;
}
