//! Whole trees, one target at a time.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::config::{CallFilter, Delay, Fault, FaultDelay, Fraction, ReasonKind, Version};

use super::aggregate::THIRTY_PERCENT;
use super::*;
use crate::bootstrap::Profile;
use crate::client::ads::{AdsState, Needs};
use crate::client::assemble::{Assembler, Missing, Naming, Wanted};
use crate::decode::Context;
use crate::decode::tests::limited_listener;
use crate::node::Node;
use crate::wire::Sotw;

pub(super) fn grpc(template: &str) -> Naming {
    Naming {
        profile: Profile::Grpc,
        names: template.into(),
    }
}

fn wanted(targets: &[Arc<str>]) -> Wanted {
    Wanted {
        targets: targets.into(),
        inbound: Vec::new(),
    }
}

/// The state machines of a client, and a control plane that says only what it is told to.
pub(super) struct Mesh {
    pub(super) ads: AdsState<Sotw>,
    pub(super) assembler: Assembler,
    pub(super) targets: Vec<Arc<str>>,
    pub(super) inbound: Vec<Arc<str>>,
    /// The host names that are to be resolved.
    pub(super) lookups: BTreeSet<Arc<str>>,
    version: u32,
    pub(super) seen: Seen,
    pub(super) published: Option<Snapshot>,
}

/// How things stand after a step; what it did not say is what was said before.
#[derive(Clone, Default)]
pub(super) struct Seen {
    pub(super) snapshot: Option<Snapshot>,
    pub(super) needs: Needs,
    pub(super) waiting: BTreeMap<Arc<str>, Vec<Missing>>,
}

impl Mesh {
    pub(super) fn new(targets: &[&str]) -> Self {
        Self::within(targets, Context::default())
    }

    pub(super) fn within(targets: &[&str], context: Context) -> Self {
        let mut mesh = Self {
            ads: AdsState::new(Arc::new(Node::default()), context),
            assembler: Assembler::new(grpc("%s")),
            targets: names(targets),
            inbound: Vec::new(),
            lookups: BTreeSet::new(),
            version: 0,
            seen: Seen::default(),
            published: None,
        };
        mesh.ads.stream_opened();
        mesh.step();
        mesh
    }

    pub(super) fn wanted(&self) -> Wanted {
        Wanted {
            targets: self.targets.clone(),
            inbound: self.inbound.clone(),
        }
    }

    /// What a response says, before anything is made of it.
    pub(super) fn hear_only(&mut self, kind: ResourceKind, resources: Vec<Raw>) {
        self.version += 1;
        let now = std::time::Instant::now();
        self.ads.hear(response(kind, &self.version.to_string(), resources), now);
    }

    pub(super) fn step(&mut self) -> Seen {
        let changed = self.ads.take_changed();
        let wanted = self.wanted();
        let assembly = self.assembler.assemble(&wanted, self.ads.cache(), &changed);
        if let Some(needs) = assembly.needs {
            self.ads.subscribe(&needs);
            drop(self.ads.take_changed());
            self.seen.needs = needs;
        }
        if let Some(waiting) = assembly.waiting {
            self.seen.waiting = waiting;
        }
        if let Some(lookups) = assembly.lookups {
            self.lookups = lookups.into_keys().collect();
        }
        self.seen.snapshot = assembly.snapshot;
        self.published = self.seen.snapshot.clone().or_else(|| self.published.take());
        while self.ads.next_request(std::time::Instant::now()).is_some() {}
        self.seen.clone()
    }

    pub(super) fn hear(&mut self, kind: ResourceKind, resources: Vec<Raw>) -> Seen {
        self.hear_only(kind, resources);
        self.step()
    }

    /// Nothing more is to come of what was asked for.
    pub(super) fn time_out(&mut self) -> Seen {
        let deadline = self.ads.deadline(std::time::Instant::now()).unwrap();
        self.ads.on_timer(deadline);
        self.step()
    }

    pub(super) fn whole(&mut self, target: &str, cluster_name: &str, port: u16) -> Snapshot {
        self.hear(ResourceKind::Listener, vec![listener(target, target)]);
        self.hear(ResourceKind::Route, vec![routes(target, cluster_name)]);
        self.hear(ResourceKind::Cluster, vec![cluster(cluster_name)]);
        self.hear(ResourceKind::Endpoints, vec![endpoints(cluster_name, &[port])])
            .snapshot
            .unwrap()
    }
}

pub(super) fn kind_of<T>(resolved: &Result<T, mesh_core::config::Reason>) -> Option<ReasonKind> {
    resolved.as_ref().err().map(|reason| reason.kind())
}

pub(super) fn missing(assembly: &Seen, target: &str) -> Vec<(ResourceKind, String)> {
    let missing = &assembly.waiting[target];
    let named = |one: &Missing| match one {
        Missing::Resource(kind, name) => (*kind, name.to_string()),
        other => panic!("{other:?}"),
    };
    missing.iter().map(named).collect()
}

#[test]
fn a_target_is_published_when_its_whole_tree_is_there_and_not_before() {
    let mut mesh = Mesh::new(&["t"]);
    let waits = |assembly: &Seen| (assembly.snapshot.is_none(), missing(assembly, "t"));
    assert_eq!(waits(&mesh.step()), (true, vec![(ResourceKind::Listener, "t".into())]));
    let heard = mesh.hear(ResourceKind::Listener, vec![listener("t", "r")]);
    assert_eq!(waits(&heard), (true, vec![(ResourceKind::Route, "r".into())]));
    let heard = mesh.hear(ResourceKind::Route, vec![routes("r", "c")]);
    assert_eq!(waits(&heard), (true, vec![(ResourceKind::Cluster, "c".into())]));
    let heard = mesh.hear(ResourceKind::Cluster, vec![cluster("c")]);
    assert_eq!(waits(&heard), (true, vec![(ResourceKind::Endpoints, "c".into())]));
    let heard = mesh.hear(ResourceKind::Endpoints, vec![endpoints("c", &[1])]);
    let snapshot = heard.snapshot.unwrap();
    assert_eq!(snapshot.version(), Version(1));
    assert_eq!(
        snapshot.cluster(&"c".into()).unwrap().as_ref().unwrap().endpoints.len(),
        1
    );
    assert!(mesh.step().snapshot.is_none(), "the same again is not published again");
}

#[test]
fn one_target_never_waits_for_another() {
    let mut mesh = Mesh::new(&["slow", "t"]);
    let snapshot = mesh.whole("t", "c", 1);
    assert!(snapshot.target("t").is_some() && snapshot.target("slow").is_none());
}

#[test]
fn an_update_that_is_not_whole_leaves_the_last_tree_in_place_and_alive() {
    let mut mesh = Mesh::new(&["t"]);
    let first = mesh.whole("t", "old", 1);
    // The new route names a cluster that is not there yet: nothing changes.
    let heard = mesh.hear(ResourceKind::Route, vec![routes("t", "new")]);
    assert!(heard.snapshot.is_none());
    assert_eq!(missing(&heard, "t"), [(ResourceKind::Cluster, "new".into())]);
    // The cluster in use is still subscribed to and goes on being updated.
    assert!(heard.needs[ResourceKind::Cluster.index()].contains("old"));
    let heard = mesh.hear(ResourceKind::Endpoints, vec![endpoints("old", &[2])]);
    let second = heard.snapshot.unwrap();
    assert!(second.version() > first.version());
    assert_eq!(
        second.cluster(&"old".into()).unwrap().as_ref().unwrap().endpoints[0]
            .address
            .port(),
        2
    );
    mesh.hear(ResourceKind::Cluster, vec![cluster("old"), cluster("new")]);
    let third = mesh.hear(ResourceKind::Endpoints, vec![endpoints("new", &[3])]);
    let snapshot = third.snapshot.unwrap();
    assert!(snapshot.cluster(&"new".into()).is_some() && snapshot.cluster(&"old".into()).is_none());
    assert!(!third.needs[ResourceKind::Cluster.index()].contains("old"));
}

#[test]
fn what_did_not_change_keeps_its_value() {
    let mut mesh = Mesh::new(&["t"]);
    let first = mesh.whole("t", "c", 1);
    let second = mesh
        .hear(ResourceKind::Endpoints, vec![endpoints("c", &[1, 2])])
        .snapshot
        .unwrap();
    let tree = |snapshot: &Snapshot| Arc::clone(snapshot.target("t").unwrap().as_ref().unwrap());
    assert!(Arc::ptr_eq(&tree(&first), &tree(&second)));
    let resent = mesh.hear(ResourceKind::Cluster, vec![cluster("c")]);
    assert!(resent.snapshot.is_none());
}

#[test]
fn what_is_to_be_dropped_comes_with_the_endpoints() {
    let mut world = Mesh::new(&["t"]);
    let drops = |snapshot: Snapshot| {
        let cluster = snapshot.cluster(&"c".into()).unwrap().as_ref().unwrap();
        let drops = cluster.drops.iter();
        drops
            .map(|one| (one.category.to_string(), one.per_million))
            .collect::<Vec<_>>()
    };
    assert_eq!(drops(world.whole("t", "c", 1)), []);
    let mut overloaded = endpoints("c", &[1]);
    overloaded.bytes.extend(THIRTY_PERCENT);
    let heard = world.hear(ResourceKind::Endpoints, vec![overloaded]);
    assert_eq!(drops(heard.snapshot.unwrap()), [("lb".to_owned(), 300_000)]);
}

#[test]
fn a_listener_that_does_not_exist_fails_its_target_alone() {
    let mut mesh = Mesh::new(&["gone", "t"]);
    mesh.whole("t", "c", 1);
    let snapshot = mesh.time_out().snapshot.unwrap();
    assert_eq!(kind_of(snapshot.target("gone").unwrap()), Some(ReasonKind::NoListener));
    assert!(snapshot.target("t").unwrap().is_ok());
}

#[test]
fn lost_routes_clusters_and_endpoints_are_data_in_the_tree() {
    let mut mesh = Mesh::new(&["t"]);
    mesh.hear(ResourceKind::Listener, vec![listener("t", "r")]);
    let snapshot = mesh.time_out().snapshot.unwrap();
    assert_eq!(kind_of(snapshot.target("t").unwrap()), Some(ReasonKind::NoRoute));

    mesh.hear(ResourceKind::Route, vec![routes("r", "c")]);
    let snapshot = mesh.time_out().snapshot.unwrap();
    assert!(snapshot.target("t").unwrap().is_ok());
    assert_eq!(
        kind_of(snapshot.cluster(&"c".into()).unwrap()),
        Some(ReasonKind::NoCluster)
    );

    mesh.hear(ResourceKind::Cluster, vec![cluster("c")]);
    let snapshot = mesh.time_out().snapshot.unwrap();
    assert_eq!(
        kind_of(snapshot.cluster(&"c".into()).unwrap()),
        Some(ReasonKind::NoEndpoints)
    );

    let healed = mesh
        .hear(ResourceKind::Endpoints, vec![endpoints("c", &[1])])
        .snapshot
        .unwrap();
    assert!(healed.cluster(&"c".into()).unwrap().is_ok());
}

#[test]
fn cp_5_a_refused_cluster_without_a_good_one_fails_its_calls_by_name() {
    let mut mesh = Mesh::new(&["t"]);
    mesh.hear(ResourceKind::Listener, vec![listener("t", "t")]);
    mesh.hear(ResourceKind::Route, vec![routes("t", "c")]);
    let snapshot = mesh
        .hear(ResourceKind::Cluster, vec![bad_cluster("c")])
        .snapshot
        .unwrap();
    let reason = snapshot.cluster(&"c".into()).unwrap().as_ref().unwrap_err();
    assert_eq!(reason.kind(), ReasonKind::Refused);
    assert!(
        reason.to_string().contains("\"c\"") && reason.to_string().contains("instance_name"),
        "{reason}"
    );
}

#[test]
fn cp_5_a_refused_cluster_with_a_good_one_goes_on() {
    let mut mesh = Mesh::new(&["t"]);
    mesh.whole("t", "c", 1);
    assert!(
        mesh.hear(ResourceKind::Cluster, vec![bad_cluster("c")])
            .snapshot
            .is_none()
    );
}

#[test]
fn an_unwanted_target_leaves_the_snapshot_and_its_subscriptions() {
    let mut mesh = Mesh::new(&["t"]);
    mesh.whole("t", "c", 1);
    mesh.targets.clear();
    let assembly = mesh.step();
    let snapshot = assembly.snapshot.unwrap();
    assert!(snapshot.targets().is_empty() && snapshot.clusters().is_empty());
    assert!(assembly.needs.iter().all(|names| names.is_empty()));
}

#[test]
fn targets_that_share_a_cluster_share_its_value_and_its_updates() {
    let mut mesh = Mesh::new(&["a", "b"]);
    mesh.hear(ResourceKind::Listener, vec![listener("a", "r"), listener("b", "s")]);
    mesh.hear(ResourceKind::Route, vec![routes("r", "c"), routes("s", "c")]);
    mesh.hear(ResourceKind::Cluster, vec![cluster("c")]);
    let snapshot = mesh
        .hear(ResourceKind::Endpoints, vec![endpoints("c", &[1])])
        .snapshot
        .unwrap();
    assert_eq!((snapshot.targets().len(), snapshot.clusters().len()), (2, 1));
}

#[test]
fn the_template_makes_a_listeners_name_of_a_targets() {
    let mut assembler = Assembler::new(grpc("mesh/%s/v1"));
    let ads = AdsState::<Sotw>::new(Arc::new(Node::default()), Context::default());
    let needs = assembler.assemble(&wanted(&names(&["t"])), ads.cache(), &[]).needs;
    assert!(needs.unwrap()[ResourceKind::Listener.index()].contains("mesh/t/v1"));
}

#[test]
fn a_target_of_an_unknown_authority_is_told_at_once() {
    let mut assembler = Assembler::new(grpc("%s"));
    let ads = AdsState::<Sotw>::new(Arc::new(Node::default()), Context::default());
    let assembly = assembler.assemble(&wanted(&names(&["xds://nobody/t"])), ads.cache(), &[]);
    assert!(assembly.waiting.unwrap().is_empty());
    let snapshot = assembly.snapshot.unwrap();
    let reason = snapshot.target("xds://nobody/t").unwrap().as_ref().unwrap_err();
    assert_eq!(reason.kind(), ReasonKind::NoListener);
    assert!(
        reason.to_string().contains("the bootstrap has no authority \"nobody\""),
        "{reason}"
    );
}

fn fault_filter(fault: Fault) -> CallFilter {
    CallFilter::new("fault", fault.into())
}

fn some_fault() -> Fault {
    let delay = FaultDelay {
        fraction: Fraction::ALL,
        delay: Delay::Fixed(std::time::Duration::from_secs(1)),
    };
    Fault {
        delay: Some(delay),
        ..Fault::default()
    }
}

#[test]
fn a_listeners_faults_come_to_the_routes_of_its_target_and_empty_ones_change_nothing() {
    let mut mesh = Mesh::new(&["t"]);
    let first = mesh.whole("t", "c", 1);
    let tree = |snapshot: &Snapshot| Arc::clone(snapshot.target("t").unwrap().as_ref().unwrap());
    let with = |fault| {
        raw(
            ResourceKind::Listener,
            encode::listener(
                "t",
                "t",
                &encode::Calls {
                    filters: &[fault_filter(fault)],
                    ..encode::Calls::default()
                },
            ),
        )
    };
    let same = mesh.hear(ResourceKind::Listener, vec![with(Fault::default())]);
    assert!(same.snapshot.is_none(), "what does nothing is no change");
    let second = mesh
        .hear(ResourceKind::Listener, vec![with(some_fault())])
        .snapshot
        .unwrap();
    assert_eq!(tree(&second).filters, [fault_filter(some_fault())]);
    assert_eq!(tree(&first).filters, []);
    let resent = mesh.hear(ResourceKind::Listener, vec![with(some_fault())]);
    assert!(resent.snapshot.is_none());
}

/// What a connection manager says of streams holds for the routes that say nothing, and a tree that is put together anew out of
/// the same parts is the value that it was.
#[test]
fn a_connection_managers_limits_hold_where_routes_say_nothing() {
    use mesh_core::config::TimeLimits;

    let limited = |idle| limited_listener("t", "r", idle, 60);
    let route_of = |snapshot: &Snapshot| {
        let tree = Arc::clone(snapshot.target("t").unwrap().as_ref().unwrap());
        let limits = tree.virtual_hosts[0].routes[0].limits;
        (tree, limits)
    };
    let mut mesh = Mesh::new(&["t"]);
    mesh.hear(ResourceKind::Listener, vec![limited(30)]);
    mesh.hear(ResourceKind::Route, vec![routes("r", "c")]);
    mesh.hear(ResourceKind::Cluster, vec![cluster("c")]);
    let first = mesh
        .hear(ResourceKind::Endpoints, vec![endpoints("c", &[1])])
        .snapshot
        .unwrap();
    let (tree, limits) = route_of(&first);
    let expected = |idle| TimeLimits {
        max_stream: Some(std::time::Duration::from_secs(60)),
        idle: Some(std::time::Duration::from_secs(idle)),
        ..TimeLimits::default()
    };
    assert_eq!(limits, expected(30));
    // Another cluster's endpoints make another snapshot, with the same tree.
    let second = mesh
        .hear(ResourceKind::Endpoints, vec![endpoints("c", &[2])])
        .snapshot
        .unwrap();
    assert!(Arc::ptr_eq(&route_of(&second).0, &tree));
    assert!(mesh.hear(ResourceKind::Listener, vec![limited(30)]).snapshot.is_none());
    let third = mesh.hear(ResourceKind::Listener, vec![limited(40)]).snapshot.unwrap();
    assert_eq!(route_of(&third).1, expected(40));
}
