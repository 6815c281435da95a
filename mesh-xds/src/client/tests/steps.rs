//! However a configuration came about, step by step and in whatever order, it is what one would make of the whole at once; and a
//! step costs what it touches.
//!
//! Two worlds of events: gRPC's, with clusters of every kind, and a sidecar's as Envoy is told it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mesh_core::config::Cluster;
use proptest::prelude::*;

use super::assemble::{Mesh, Seen, grpc};
use super::*;
use crate::bootstrap::Profile;
use crate::client::ads::{AdsState, Needs};
use crate::client::assemble::{Assembler, Naming};
use crate::decode::tests::kinds::{self, logical_dns, strict_dns};
use crate::decode::tests::{envoy, istiod, listener_with, raw as raw_of};
use crate::node::Node;

/// Events of a stream, as they come in any order: what a control plane says, what it leaves out, what is wanted, what names
/// resolve to.
#[derive(Clone, Debug)]
enum Event {
    /// A listener of each of these targets, with the name of its routes or with routes to a cluster; the others are deleted.
    Listeners(Vec<(usize, Routes)>),
    /// A route configuration and the cluster it leads to.
    Routes(usize, usize),
    /// These clusters; the others are deleted.
    Clusters(Vec<(usize, Kind)>),
    Endpoints(usize, Vec<u16>),
    /// What a name resolves to; nothing: it does not.
    Resolved(usize, Vec<u8>),
    Sidecar(Sidecar),
    /// Nothing more is to come of what was asked for.
    TimeOut,
    /// The stream breaks and is opened again.
    Reconnect,
    /// These targets are wanted, by bits.
    Want(u8),
}

#[derive(Clone, Debug)]
enum Routes {
    Named(usize),
    Inline(usize),
}

/// How a cluster's endpoints are found.
#[derive(Clone, Debug)]
enum Kind {
    Eds,
    /// It is refused.
    Bad,
    Strict(Vec<usize>),
    Logical(usize),
    /// It stands for these, itself perhaps among them.
    Aggregate(Vec<usize>),
}

/// What a control plane tells a sidecar: which of what istiod has, by bits.
#[derive(Clone, Debug)]
enum Sidecar {
    Listeners(u8, bool),
    /// Whether unknown destinations pass.
    Routes(bool),
    Clusters(u8),
    /// Of which subset, at which ports; `None`: as istiod tells them.
    Endpoints(bool, Option<Vec<u16>>),
}

const TARGETS: [&str; 3] = ["t", "u", "v"];
const ROUTES: [&str; 3] = ["r", "s", "q"];
const CLUSTERS: [&str; 5] = ["a", "b", "c", "d", "e"];
const HOSTS: [&str; 3] = ["x.example", "y.example", "10.9.9.9"];

fn kinds_of_cluster() -> impl Strategy<Value = Kind> {
    prop_oneof![
        5 => Just(Kind::Eds),
        2 => Just(Kind::Bad),
        2 => prop::collection::vec(0..HOSTS.len(), 1..3).prop_map(Kind::Strict),
        1 => (0..HOSTS.len()).prop_map(Kind::Logical),
        4 => prop::collection::vec(0..CLUSTERS.len(), 1..4).prop_map(Kind::Aggregate),
    ]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let of_target = prop_oneof![
        3 => (0..ROUTES.len()).prop_map(Routes::Named),
        1 => (0..CLUSTERS.len()).prop_map(Routes::Inline),
    ];
    let listeners = prop::collection::vec((0..TARGETS.len(), of_target), 0..4);
    let clusters = prop::collection::vec((0..CLUSTERS.len(), kinds_of_cluster()), 0..6);
    let event = prop_oneof![
        3 => listeners.prop_map(Event::Listeners),
        3 => (0..ROUTES.len(), 0..CLUSTERS.len()).prop_map(|(routes, cluster)| Event::Routes(routes, cluster)),
        4 => clusters.prop_map(Event::Clusters),
        5 => (0..CLUSTERS.len(), ports()).prop_map(|(cluster, ports)| Event::Endpoints(cluster, ports)),
        3 => (0..HOSTS.len(), prop::collection::vec(1u8..5, 0..3)).prop_map(|(host, last)| Event::Resolved(host, last)),
        1 => Just(Event::TimeOut),
        1 => Just(Event::Reconnect),
        1 => (0u8..8).prop_map(Event::Want),
    ];
    prop::collection::vec(event, 1..40)
}

fn events_of_a_sidecar() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => (prop_oneof![3 => Just(15u8), 2 => 0u8..16], any::<bool>()).prop_map(|(which, strict)| Sidecar::Listeners(which, strict)),
        3 => any::<bool>().prop_map(Sidecar::Routes),
        3 => prop_oneof![3 => Just(127u8), 2 => 0u8..128].prop_map(Sidecar::Clusters),
        5 => (any::<bool>(), prop::option::of(ports())).prop_map(|(second, ports)| Sidecar::Endpoints(second, ports)),
    ];
    let event = prop_oneof![
        14 => event.prop_map(Event::Sidecar),
        1 => Just(Event::TimeOut),
        1 => Just(Event::Reconnect),
        1 => (0u8..8).prop_map(Event::Want),
    ];
    prop::collection::vec(event, 1..30)
}

/// The same, of which a control plane deletes any listener.
fn events_with_deletions() -> impl Strategy<Value = Vec<Sidecar>> {
    let event = prop_oneof![
        4 => (prop_oneof![1 => Just(15u8), 2 => 0u8..16], any::<bool>()).prop_map(|(which, strict)| Sidecar::Listeners(which, strict)),
        2 => any::<bool>().prop_map(Sidecar::Routes),
        2 => Just(Sidecar::Clusters(127)),
        3 => any::<bool>().prop_map(|second| Sidecar::Endpoints(second, None)),
    ];
    prop::collection::vec(event, 1..30)
}

fn ports() -> impl Strategy<Value = Vec<u16>> {
    prop::collection::btree_set(1u16..5, 0..3).prop_map(|ports| ports.into_iter().collect())
}

/// A mesh, what is known of its names, and how its targets are called.
struct World {
    mesh: Mesh,
    naming: fn() -> Naming,
    /// Targets, and what is served, by the bits of [`Event::Want`].
    targets: &'static [&'static str],
    served: &'static [&'static str],
    answers: BTreeMap<Arc<str>, Result<Vec<IpAddr>, Arc<str>>>,
    /// Whether an equal snapshot may follow.
    may_repeat: bool,
}

fn sidecars() -> Naming {
    Naming {
        profile: Profile::Envoy,
        ..grpc("%s")
    }
}

impl World {
    fn of_grpc() -> Self {
        Self {
            mesh: Mesh::new(&TARGETS[..2]),
            may_repeat: false,
            naming: || grpc("%s"),
            targets: &TARGETS,
            served: &[],
            answers: BTreeMap::new(),
        }
    }

    fn of_a_sidecar() -> Self {
        let targets = &["payment.default.svc.cluster.local:50051", "elsewhere.example:50051"];
        let mut mesh = Mesh::new(&[]);
        mesh.ads = AdsState::new(Arc::new(Node::default()), envoy());
        mesh.ads.stream_opened();
        mesh.assembler = Assembler::new(sidecars());
        mesh.targets = names(targets);
        mesh.step();
        Self {
            mesh,
            may_repeat: true,
            naming: sidecars,
            targets,
            served: &["10.0.0.1:8080"],
            answers: BTreeMap::new(),
        }
    }

    fn take(&mut self, event: Event) -> Seen {
        let mesh = &mut self.mesh;
        let seen = match event {
            Event::Listeners(list) => {
                let each = once(list).map(|(target, routes)| match routes {
                    Routes::Named(name) => listener(TARGETS[target], ROUTES[name]),
                    Routes::Inline(to) => listener_with(TARGETS[target], &routes_to(TARGETS[target], CLUSTERS[to])),
                });
                mesh.hear(ResourceKind::Listener, each.collect())
            }
            Event::Routes(name, to) => mesh.hear(ResourceKind::Route, vec![routes(ROUTES[name], CLUSTERS[to])]),
            Event::Clusters(list) => {
                let each = once(list).map(|(index, kind)| cluster_of(CLUSTERS[index], &kind));
                mesh.hear(ResourceKind::Cluster, each.collect())
            }
            Event::Endpoints(index, ports) => {
                mesh.hear(ResourceKind::Endpoints, vec![endpoints(CLUSTERS[index], &ports)])
            }
            Event::Resolved(index, last) => {
                self.resolved(HOSTS[index], &last);
                self.mesh.step()
            }
            Event::Sidecar(told) => tell_sidecar(mesh, told),
            Event::TimeOut => match mesh.ads.deadline(std::time::Instant::now()) {
                Some(_) => mesh.time_out(),
                None => mesh.step(),
            },
            Event::Reconnect => {
                mesh.ads.stream_closed();
                mesh.ads.stream_opened();
                mesh.step()
            }
            Event::Want(bits) => {
                let all = self.targets.iter().chain(self.served).enumerate();
                let is_wanted = |name: &&str| all.clone().any(|(bit, one)| one == name && bits >> bit & 1 == 1);
                let wanted = |list: &[&'static str]| {
                    let list: Vec<&str> = list.iter().copied().filter(is_wanted).collect();
                    names(&list)
                };
                (mesh.targets, mesh.inbound) = (wanted(self.targets), wanted(self.served));
                mesh.step()
            }
        };
        // Who asks for a name no more forgets what it was.
        self.answers.retain(|host, _| self.mesh.lookups.contains(host));
        seen
    }

    /// The resolver's answer to what was asked; it stands until a better one comes, its known addresses first.
    fn resolved(&mut self, host: &str, last: &[u8]) {
        let Some(host) = self.mesh.lookups.get(host).cloned() else {
            return;
        };
        let outcome: Result<Vec<IpAddr>, Arc<str>> = match last {
            [] => Err("no such name".into()),
            last => Ok(last.iter().map(|last| IpAddr::from([10, 0, 0, *last])).collect()),
        };
        self.mesh.assembler.resolved(&host, outcome.clone());
        let before = self.answers.remove(&host);
        let now = match (outcome, before) {
            (Ok(new), Some(Ok(known))) => {
                let mut all: Vec<IpAddr> = known.into_iter().filter(|one| new.contains(one)).collect();
                for one in new {
                    if !all.contains(&one) {
                        all.push(one);
                    }
                }
                Ok(all)
            }
            (Err(_), Some(Ok(known))) => Ok(known),
            (outcome, _) => outcome,
        };
        self.answers.insert(host, now);
    }

    /// What somebody makes of the cache, and of what names resolve to, who was never told of a change.
    fn afresh(&self) -> (Snapshot, Needs, bool) {
        let mut assembler = Assembler::new((self.naming)());
        for (host, answer) in &self.answers {
            assembler.resolved(host, answer.clone());
        }
        let fresh = assembler.assemble(&self.mesh.wanted(), self.mesh.ads.cache(), &[]);
        // Where nothing is wanted nothing was walked.
        let is_whole = fresh.waiting.is_none_or(|waiting| waiting.is_empty());
        let snapshot = fresh.snapshot.unwrap_or_else(Snapshot::empty);
        (snapshot, fresh.needs.unwrap_or_default(), is_whole)
    }

    /// Takes each event, and compares; how often there was something whole that is not empty.
    fn holds(&mut self, events: Vec<Event>) -> Result<(), TestCaseError> {
        let mut published = Snapshot::empty();
        for event in events {
            let told = format!("{event:?}");
            let seen = self.take(event);
            if let Some(snapshot) = seen.snapshot {
                prop_assert!(snapshot.version() > published.version(), "{}", told);
                // What is forgotten and told again is a new value, and may be an equal one.
                let is_news = !snapshot.is_same_as(&published);
                prop_assert!(is_news || self.may_repeat, "published twice after {}", told);
                published = snapshot;
            }
            let (snapshot, needs, is_whole) = self.afresh();
            // The other way round it may be less: a cluster that resolved before is not waited for.
            prop_assert!(seen.waiting.is_empty() || !is_whole, "{}: {:?}", told, seen.waiting);
            if is_whole {
                prop_assert!(
                    published.is_same_as(&snapshot),
                    "{}: {:#?} is not {:#?}",
                    told,
                    published,
                    snapshot
                );
                prop_assert_eq!(seen.needs, needs, "{}", told);
            }
        }
        Ok(())
    }
}

/// Each index where it comes first: a name that comes twice in one response is refused, which is another property's business.
fn once<T>(list: Vec<(usize, T)>) -> impl Iterator<Item = (usize, T)> {
    let mut seen = BTreeSet::new();
    list.into_iter().filter(move |(index, _)| seen.insert(*index))
}

fn routes_to(name: &str, cluster: &str) -> Vec<u8> {
    routes(name, cluster).bytes
}

fn cluster_of(name: &str, kind: &Kind) -> Raw {
    match kind {
        Kind::Eds => cluster(name),
        Kind::Bad => bad_cluster(name),
        Kind::Strict(hosts) => {
            let hosts: BTreeSet<&str> = hosts.iter().map(|host| HOSTS[*host]).collect();
            strict_dns(name, &hosts.into_iter().collect::<Vec<_>>(), 5)
        }
        Kind::Logical(host) => logical_dns(name, &[HOSTS[*host]], 5),
        Kind::Aggregate(members) => aggregate(name, &members.iter().map(|index| CLUSTERS[*index]).collect::<Vec<_>>()),
    }
}

fn aggregate(name: &str, members: &[&str]) -> Raw {
    let mut cluster = kinds::aggregate(members);
    cluster.name = name.into();
    raw_of(&cluster)
}

fn tell_sidecar(mesh: &mut Mesh, told: Sidecar) -> Seen {
    let is_told = |bits: u8| move |(bit, _): &(usize, _)| bits >> *bit & 1 == 1;
    match told {
        Sidecar::Listeners(bits, strict) => {
            let listeners = istiod::sidecar::listeners(strict).into_iter().enumerate();
            let told = listeners.filter(|(bit, _)| bits >> *bit & 1 == 1);
            mesh.hear(ResourceKind::Listener, told.map(|(_, one)| raw_of(&one)).collect())
        }
        Sidecar::Routes(allow_any) => mesh.hear(ResourceKind::Route, vec![raw_of(&istiod::sidecar::routes(allow_any))]),
        Sidecar::Clusters(bits) => {
            let clusters = istiod::sidecar::clusters()
                .into_iter()
                .enumerate()
                .filter(is_told(bits));
            mesh.hear(ResourceKind::Cluster, clusters.map(|(_, one)| raw_of(&one)).collect())
        }
        Sidecar::Endpoints(second, ports) => {
            let name = istiod::subset(if second { "v2" } else { "v1" });
            let told = match ports {
                Some(ports) => endpoints(&name, &ports),
                None => raw_of(&istiod::endpoints(&name)),
            };
            mesh.hear(ResourceKind::Endpoints, vec![told])
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever happened on the way, what was assembled step by step is what is made of the whole at once.
    #[test]
    fn what_is_assembled_in_steps_is_what_is_assembled_at_once(events in events()) {
        World::of_grpc().holds(events)?;
    }

    /// The same in the shape of a sidecar, which asks for everything, and of which any listener is deleted, that of the service's own
    /// port among them: what is served on is what is remembered, and a reason is the same whatever was deleted before what.
    #[test]
    fn what_a_sidecar_assembles_in_steps_is_what_it_assembles_at_once(events in events_of_a_sidecar()) {
        World::of_a_sidecar().holds(events)?;
    }

    /// Whatever listeners are deleted, that of the service's own port among them: what was served once is served on (gRFC A88).
    #[test]
    fn a_sidecar_serves_on_whatever_listeners_are_deleted(events in events_with_deletions()) {
        let mut world = World::of_a_sidecar();
        let (target, mut was_served) = (world.targets[0], false);
        for event in events {
            let told = format!("{event:?}");
            world.take(Event::Sidecar(event));
            let published = world.mesh.published.as_ref();
            let is_served = published.and_then(|snapshot| snapshot.target(target)).is_some_and(Result::is_ok);
            prop_assert!(is_served || !was_served, "not after {}", told);
            was_served |= is_served;
        }
    }

    /// A change below a whole tree, of endpoints or of what a name resolves to, changes the clusters that look at it and nothing
    /// else: no tree is walked, and what another cluster or leaf is stays the value that it was.
    #[test]
    fn a_change_touches_what_looks_at_it(changes in prop::collection::vec(change(), 1..20)) {
        let mut world = whole();
        let mut last = world.mesh.published.clone().expect("it is whole");
        for change in changes {
            let touched = change.tell(&mut world);
            let changed = world.mesh.ads.take_changed();
            let wanted = world.mesh.wanted();
            let assembly = world.mesh.assembler.assemble(&wanted, world.mesh.ads.cache(), &changed);
            prop_assert!(
                assembly.needs.is_none() && assembly.waiting.is_none() && assembly.lookups.is_none(),
                "all trees were walked after {change:?}"
            );
            let (fresh, ..) = world.afresh();
            let Some(next) = assembly.snapshot else {
                prop_assert!(fresh.is_same_as(&last), "{change:?}");
                continue;
            };
            prop_assert!(fresh.is_same_as(&next), "{change:?}");
            for target in TARGETS {
                let tree = |snapshot: &Snapshot| Arc::clone(snapshot.target(target).unwrap().as_ref().unwrap());
                prop_assert!(Arc::ptr_eq(&tree(&last), &tree(&next)));
            }
            for (name, (before, after)) in values(&last).into_iter().zip(values(&next)).map(|(a, b)| (a.0, (a.1, b.1))) {
                let is_looked_at = touched.contains(&name.rsplit('/').next().unwrap()) || touched.contains(&&*name);
                prop_assert_eq!(Arc::ptr_eq(&before, &after), !is_looked_at, "{} after {:?}", name, change);
            }
            last = next;
        }
    }
}

/// Each cluster and each leaf of one, by the path to it.
fn values(snapshot: &Snapshot) -> Vec<(String, Arc<Cluster>)> {
    let mut values = Vec::new();
    for (name, cluster) in snapshot.clusters().iter() {
        let cluster = cluster.as_ref().unwrap();
        values.push((name.to_string(), Arc::clone(cluster)));
        let leaves = cluster.leaves.iter();
        values.extend(leaves.map(|leaf| (format!("{name}/{}", leaf.name), Arc::clone(leaf))));
    }
    values.sort_by(|a, b| a.0.cmp(&b.0));
    values
}

/// A change below a whole tree.
#[derive(Clone, Debug)]
enum Change {
    /// Of the endpoints of the cluster that is called by itself and through another.
    Shared(u16),
    /// Of those of one that is only a leaf.
    Leaf(u16),
    /// Of a name of another leaf, and of one called by itself.
    Name(u8),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (1u16..1000).prop_map(Change::Shared),
        (1u16..1000).prop_map(Change::Leaf),
        (1u8..200).prop_map(Change::Name),
    ]
}

impl Change {
    /// Tells it; the clusters that look at it.
    fn tell(&self, world: &mut World) -> &'static [&'static str] {
        match self {
            Self::Shared(port) => {
                world
                    .mesh
                    .hear_only(ResourceKind::Endpoints, vec![endpoints("a", &[*port])]);
                &["a", "c"]
            }
            Self::Leaf(port) => {
                world
                    .mesh
                    .hear_only(ResourceKind::Endpoints, vec![endpoints("b", &[*port])]);
                &["b", "c"]
            }
            Self::Name(last) => {
                world.resolved(HOSTS[0], &[*last]);
                &["e", "c"]
            }
        }
    }
}

/// Targets of an ordinary cluster `a`, of `c` that stands for `a`, `b` and the names of `e`, and of `e` by itself; and `d`, which
/// nothing touches.
fn whole() -> World {
    let mut world = World::of_grpc();
    let clusters = [
        (0, Kind::Eds),
        (1, Kind::Eds),
        (2, Kind::Aggregate(vec![0, 1, 4, 3])),
        (3, Kind::Eds),
        (4, Kind::Strict(vec![0])),
    ];
    let routed = [0, 2, 4];
    for event in [
        Event::Want(7),
        Event::Listeners(vec![
            (0, Routes::Named(0)),
            (1, Routes::Named(1)),
            (2, Routes::Inline(4)),
        ]),
        Event::Routes(0, routed[0]),
        Event::Routes(1, routed[1]),
        Event::Clusters(clusters.to_vec()),
        // What the whole stands for is asked for once that is known.
        Event::Clusters(clusters.to_vec()),
        Event::Endpoints(0, vec![1]),
        Event::Endpoints(1, vec![2]),
        Event::Endpoints(3, vec![3]),
        Event::Resolved(0, vec![4]),
    ] {
        world.take(event);
    }
    world
}

/// The routes name the second subset more than once; the first is not there.
#[test]
fn a_cluster_that_a_tree_names_twice_is_waited_for_and_comes() {
    let mut world = World::of_a_sidecar();
    let told = [
        Sidecar::Clusters(0b10100),
        Sidecar::Listeners(15, false),
        Sidecar::Routes(false),
    ];
    let waiting = told.map(|told| world.take(Event::Sidecar(told)).waiting.len());
    assert_eq!(waiting, [2, 2, 1]);
    let seen = world.take(Event::Sidecar(Sidecar::Endpoints(true, None)));
    assert!(seen.waiting.is_empty(), "{:?}", seen.waiting);
    let snapshot = seen.snapshot.expect("it is whole");
    let cluster = snapshot.cluster(&istiod::subset("v2").into()).unwrap();
    assert_eq!(cluster.as_ref().unwrap().endpoints.len(), 2);
}

/// The one address of a name, by either kind of a cluster of names.
#[test]
fn a_cluster_that_is_found_otherwise_and_is_what_it_was_is_not_published_again() {
    let found = |kind| Event::Clusters(vec![(1, kind)]);
    let events = vec![
        Event::Listeners(vec![(0, Routes::Inline(1))]),
        found(Kind::Strict(vec![2])),
        found(Kind::Logical(2)),
    ];
    World::of_grpc().holds(events).unwrap();
}
