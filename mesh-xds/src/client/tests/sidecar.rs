//! Trees in the shape of a sidecar: every listener is sent, and those are found by port. Unproven against a real istiod, as
//! the fixtures say.

use std::collections::BTreeSet;

use mesh_core::config::{Action, CallFilter, FilterKind, ReasonKind};

use super::assemble::{Mesh, Seen, grpc, kind_of, missing};
use super::*;
use crate::bootstrap::Profile;
use crate::client::ads::{AdsState, Rules};
use crate::client::assemble::{Assembler, Naming};
use crate::decode::tests::discovered::{Any, TypedExtensionConfig};
use crate::decode::tests::{envoy, istiod, raw as raw_of};
use crate::node::Node;

const TARGET: &str = "payment.default.svc.cluster.local:50051";
const SERVED: &str = "10.0.0.1:8080";

/// An empty list names nothing that could have changed, and ends the wait all the same.
#[test]
fn a_sidecars_target_is_told_that_there_is_no_listener_at_all() {
    let mut mesh = Mesh::new(&[]);
    mesh.assembler = Assembler::new(Naming {
        profile: Profile::Envoy,
        ..grpc("%s")
    });
    mesh.targets = names(&["t:80"]);
    assert_eq!(mesh.step().waiting.len(), 1);
    let seen = mesh.hear(ResourceKind::Listener, Vec::new());
    let snapshot = seen.snapshot.expect("the target is known not to be there");
    assert_eq!(kind_of(snapshot.target("t:80").unwrap()), Some(ReasonKind::NoListener));
    assert!(seen.waiting.is_empty());
}

/// A mesh whose control plane takes it for a sidecar, as far as istiod's fixtures tell it: all but the endpoints.
fn sidecar_mesh(target: &str, allow_any: bool, rules: Rules) -> Mesh {
    let mut mesh = Mesh::new(&[]);
    mesh.ads = AdsState::new(Arc::new(Node::default()), envoy()).with_rules(rules);
    mesh.ads.stream_opened();
    mesh.assembler = Assembler::new(Naming {
        profile: Profile::Envoy,
        ..grpc("%s")
    });
    mesh.targets = names(&[target]);
    mesh.step();
    mesh.hear(
        ResourceKind::Listener,
        istiod::sidecar::listeners(true).iter().map(raw_of).collect(),
    );
    mesh.hear(
        ResourceKind::Cluster,
        istiod::sidecar::clusters().iter().map(raw_of).collect(),
    );
    mesh.hear(ResourceKind::Route, vec![raw_of(&istiod::sidecar::routes(allow_any))]);
    mesh
}

#[test]
fn a_sidecars_configuration_leads_a_target_to_its_endpoints_each_with_its_own_tls() {
    let mut mesh = sidecar_mesh(TARGET, true, Rules::default());
    let needed = mesh.seen.needs[ResourceKind::Endpoints.index()].clone();
    let subsets = [istiod::subset("v1"), istiod::subset("v2")].map(|name| Arc::from(&*name));
    assert_eq!(
        needed,
        BTreeSet::from(subsets.clone()),
        "only the target's own clusters are looked into"
    );
    let endpoints = needed.iter().map(|name| raw_of(&istiod::endpoints(name))).collect();
    let snapshot = mesh.hear(ResourceKind::Endpoints, endpoints).snapshot.unwrap();
    let tree = snapshot.target(TARGET).unwrap().as_ref().unwrap();
    assert_eq!(
        tree.virtual_hosts.len(),
        1,
        "the other virtual hosts of the port are not its business"
    );
    for name in subsets {
        let cluster = snapshot.cluster(&name.into()).unwrap().as_ref().unwrap();
        let [meshed, bare] = &cluster.endpoints[..] else {
            panic!("{:?}", cluster.endpoints)
        };
        assert!(matches!(cluster.tls_for(meshed), TlsMode::Mutual(_)));
        assert_eq!(*cluster.tls_for(bare), TlsMode::Plaintext);
    }
}

#[test]
fn a_host_that_a_sidecars_mesh_does_not_know_passes_where_it_may_and_is_told_why_not_otherwise() {
    let target = "elsewhere.example:50051";
    let of = |allow_any| sidecar_mesh(target, allow_any, Rules::default()).seen.snapshot.unwrap();
    let tree = |snapshot: &Snapshot| Arc::clone(snapshot.target(target).unwrap().as_ref().unwrap());
    let allowed = of(true);
    let cluster = tree(&allowed).clusters().next().unwrap().clone();
    let cluster = allowed.cluster(&cluster).unwrap().as_ref().unwrap();
    assert!(cluster.by_authority && cluster.endpoints.is_empty(), "{cluster:?}");
    let refused = tree(&of(false));
    let Action::Respond(response) = &refused.virtual_hosts[0].routes[0].action else {
        panic!("{refused:?}")
    };
    assert_eq!((response.status.as_u16(), refused.clusters().count()), (502, 0));
}

/// The port need not be one that a service of the mesh has.
#[test]
fn a_host_of_a_port_that_nobody_serves_passes_where_it_may_and_finds_nobody_otherwise() {
    let target = "elsewhere.example:8443";
    for (cluster, passes) in [("PassthroughCluster", true), ("BlackHoleCluster", false)] {
        let mut mesh = sidecar_mesh(target, passes, Rules::default());
        let mut listeners = istiod::sidecar::listeners(true);
        listeners[0] = istiod::sidecar::catching(cluster);
        mesh.hear(ResourceKind::Listener, listeners.iter().map(raw_of).collect());
        let snapshot = mesh.published.clone().unwrap();
        let tree = snapshot.target(target).unwrap().as_ref().unwrap();
        assert_eq!(tree.clusters().map(|name| name.as_str()).collect::<Vec<_>>(), [cluster]);
        let found = snapshot.cluster(&cluster.into()).unwrap().as_ref().unwrap();
        // Without endpoints a call has the flag UH, as a connection has in an Envoy.
        assert_eq!((found.by_authority, found.endpoints.len()), (passes, 0), "{found:?}");
    }
}

/// A fault filter may be a resource of its own (ECDS): the routes wait for it, and it acts at its place.
#[test]
fn faults_that_are_resources_of_their_own_are_waited_for_and_used_each_at_its_place() {
    use istiod::sidecar::{by_port_between, clusters, delay, routes};
    let mut mesh = sidecar_mesh(TARGET, true, Rules::default());
    mesh.hear(ResourceKind::Listener, vec![raw_of(&by_port_between("first", "last"))]);
    mesh.hear(ResourceKind::Cluster, clusters().iter().map(raw_of).collect());
    mesh.hear(ResourceKind::Route, vec![raw_of(&routes(true))]);
    let lacks = missing(&mesh.seen, TARGET);
    assert_eq!(
        lacks,
        ["first", "last"].map(|name| (ResourceKind::ExtensionConfig, name.to_owned())),
        "it may be one that guards"
    );
    mesh.hear(ResourceKind::ExtensionConfig, vec![raw_of(&delay("first"))]);
    assert_eq!(missing(&mesh.seen, TARGET).len(), 1);
    mesh.hear(ResourceKind::ExtensionConfig, vec![raw_of(&delay("last"))]);
    let endpoints = ["v1", "v2"].map(|subset| raw_of(&istiod::endpoints(&istiod::subset(subset))));
    let snapshot = mesh.hear(ResourceKind::Endpoints, endpoints.to_vec()).snapshot.unwrap();
    let tree = snapshot.target(TARGET).unwrap().as_ref().unwrap();
    let delays = |filter: &CallFilter| matches!(&filter.what, FilterKind::Fault(fault) if fault.delay.is_some());
    let filters: Vec<(&str, bool)> = tree.filters.iter().map(|one| (&*one.name, delays(one))).collect();
    // Istio's own, which does nothing by itself, is between them.
    let own = ("envoy.filters.http.fault", false);
    assert_eq!(filters, [("first", true), own, ("last", true)]);
}

/// What istiod says of a plugin, where a process cannot run one: Envoy goes on with the last filter that it took, or with the default; only
/// where there is neither nobody may pass.
#[test]
fn a_filter_that_cannot_be_used_leaves_the_last_good_one_or_the_default_in_its_place() {
    use istiod::sidecar::{RBAC, by_port_between_or, clusters, delay, routes};
    let filter = |type_url: &str, value: &[u8]| Any {
        type_url: type_url.into(),
        value: value.to_vec(),
    };
    let wasm = filter("type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm", b"");
    let stats = filter("type.googleapis.com/stats.PluginConfig", b"");
    // `rules: {}`, which nobody passes; and none, which all do.
    let (deny, pass) = (filter(RBAC, b"\x0a\x00"), filter(RBAC, b""));
    let plugin = |config: Any| {
        let named = |name: &str| {
            raw_of(&TypedExtensionConfig {
                name: name.into(),
                typed_config: Some(config.clone()),
            })
        };
        vec![named("first"), named("last")]
    };
    for (default, said, expected) in [
        // What may not be, or is not understood, is the default.
        (
            Some(pass.clone()),
            vec![wasm.clone(), stats.clone()],
            vec![Ok(0), Ok(0)],
        ),
        (Some(deny.clone()), vec![wasm.clone()], vec![Err(ReasonKind::Refused)]),
        // What is understood is better than that, and is kept.
        (Some(deny.clone()), vec![pass.clone(), wasm.clone()], vec![Ok(0), Ok(0)]),
        (None, vec![wasm.clone()], vec![Err(ReasonKind::Refused)]),
        (None, vec![pass.clone(), wasm.clone()], vec![Ok(0), Ok(0)]),
        (None, vec![stats], vec![Err(ReasonKind::Refused)]),
        (None, vec![deny], vec![Err(ReasonKind::Refused)]),
    ] {
        let mut mesh = sidecar_mesh(TARGET, true, Rules::default());
        mesh.hear(
            ResourceKind::Listener,
            vec![raw_of(&by_port_between_or("first", "last", default.as_ref()))],
        );
        mesh.hear(ResourceKind::Cluster, clusters().iter().map(raw_of).collect());
        mesh.hear(ResourceKind::Route, vec![raw_of(&routes(true))]);
        mesh.hear_endpoints();
        for (said, expected) in said.into_iter().zip(expected) {
            mesh.hear(ResourceKind::ExtensionConfig, plugin(said.clone()));
            mesh.hear_endpoints();
            let snapshot = mesh.published.clone().unwrap();
            let tree = snapshot.target(TARGET).unwrap().as_ref();
            let of_resource = |filter: &&CallFilter| ["first", "last"].contains(&&*filter.name);
            let acting = tree.map(|tree| tree.filters.iter().filter(of_resource).count());
            let about = (&default, said.type_url);
            assert_eq!(acting.map_err(|reason| reason.kind()), expected, "{about:?}");
        }
    }
    // One that acts is kept as it was.
    let mut mesh = sidecar_mesh(TARGET, true, Rules::default());
    mesh.hear(
        ResourceKind::Listener,
        vec![raw_of(&by_port_between_or("first", "last", Some(&pass)))],
    );
    mesh.hear(ResourceKind::Cluster, clusters().iter().map(raw_of).collect());
    mesh.hear(ResourceKind::Route, vec![raw_of(&routes(true))]);
    mesh.hear(
        ResourceKind::ExtensionConfig,
        vec![raw_of(&delay("first")), raw_of(&delay("last"))],
    );
    mesh.hear_endpoints();
    let filters = |mesh: &Mesh| {
        let snapshot = mesh.published.clone().unwrap();
        snapshot.target(TARGET).unwrap().as_ref().unwrap().filters.clone()
    };
    let before = filters(&mesh);
    assert_eq!(before.len(), 3);
    mesh.hear(ResourceKind::ExtensionConfig, plugin(wasm));
    assert_eq!(filters(&mesh), before);
}

impl Mesh {
    fn hear_listeners(&mut self, listeners: Vec<Raw>) -> Seen {
        self.hear(ResourceKind::Listener, listeners)
    }

    /// All that is asked for.
    fn hear_endpoints(&mut self) {
        let needed = self.seen.needs[ResourceKind::Endpoints.index()].clone();
        let endpoints = needed.iter().map(|name| raw_of(&istiod::endpoints(name))).collect();
        self.hear(ResourceKind::Endpoints, endpoints);
    }

    /// The target's routes, and how many chains the server has; or the kinds of what is wrong.
    fn stands(&self) -> (Result<String, ReasonKind>, Result<usize, ReasonKind>) {
        let snapshot = self.published.as_ref().expect("something was published");
        let target = snapshot.target(TARGET).unwrap().as_ref();
        let inbound = snapshot.inbound(SERVED).unwrap().as_ref();
        (
            target.map(|tree| tree.name.to_string()).map_err(|reason| reason.kind()),
            inbound
                .map(|inbound| inbound.chains.len())
                .map_err(|reason| reason.kind()),
        )
    }
}

/// A whole mesh that is called and served through.
fn served(rules: Rules) -> Mesh {
    let mut mesh = sidecar_mesh(TARGET, true, rules);
    mesh.inbound = names(&[SERVED]);
    mesh.hear_endpoints();
    mesh
}

#[test]
fn cp_8_a_sidecars_deleted_listeners_go_on_serving() {
    let mut mesh = served(Rules::default());
    let before = (Ok(istiod::sidecar::ROUTES.to_owned()), Ok(3));
    assert_eq!(mesh.stands(), before);
    mesh.hear_listeners(Vec::new());
    assert_eq!(mesh.stands(), before, "all were deleted");
    mesh.hear_listeners(Vec::new());
    mesh.hear(ResourceKind::Cluster, Vec::new());
    assert_eq!(mesh.stands(), before, "and again");
    let kept = mesh.ads.cache().rows().filter(|row| row.kind == ResourceKind::Listener);
    let kept: Vec<&str> = kept.map(|row| &**row.name).collect();
    assert_eq!(
        kept,
        [istiod::sidecar::BY_PORT, "virtualInbound"],
        "only what is in use is kept"
    );
    mesh.targets.clear();
    mesh.inbound.clear();
    mesh.step();
    assert_eq!(mesh.ads.cache().rows().count(), 0, "and no longer than that");
}

#[test]
fn cp_8_a_sidecars_deleted_listeners_fail_where_the_bootstrap_says_so() {
    let mut mesh = served(Rules {
        fail_on_data_errors: true,
        ..Rules::default()
    });
    mesh.hear_listeners(Vec::new());
    let gone = (Err(ReasonKind::NoListener), Err(ReasonKind::NoListener));
    assert_eq!(mesh.stands(), gone);
    mesh.hear_listeners(istiod::sidecar::listeners(true).iter().map(raw_of).collect());
    mesh.hear(ResourceKind::Route, vec![raw_of(&istiod::sidecar::routes(true))]);
    mesh.hear_endpoints();
    assert_eq!(mesh.stands(), (Ok(istiod::sidecar::ROUTES.to_owned()), Ok(3)));
}

/// What was deleted stands in only where nothing takes its place.
#[test]
fn cp_8_a_listener_under_another_name_takes_a_deleted_ones_place() {
    let mut mesh = served(Rules::default());
    let mut renamed = istiod::sidecar::by_port();
    renamed.name = "zz_50051".into();
    mesh.hear_listeners(Vec::new());
    mesh.hear_listeners(vec![raw_of(&renamed)]);
    let listeners = mesh.ads.cache().rows().filter(|row| row.kind == ResourceKind::Listener);
    let listeners: Vec<&str> = listeners.map(|row| &**row.name).collect();
    assert_eq!(listeners, ["virtualInbound", "zz_50051"]);
    assert_eq!(mesh.stands(), (Ok(istiod::sidecar::ROUTES.to_owned()), Ok(3)));
}

/// One that is deleted and cannot stand in is forgotten, and with it what only it asked for.
#[test]
fn cp_8_what_a_deleted_listener_asked_for_does_not_outlive_it() {
    use istiod::sidecar::by_port_between;
    let mut mesh = sidecar_mesh(TARGET, true, Rules::default());
    mesh.hear_listeners(vec![raw_of(&by_port_between("first", "last"))]);
    assert_eq!(mesh.seen.needs[ResourceKind::ExtensionConfig.index()].len(), 2);
    // The control plane does not have its filters.
    mesh.time_out();
    let told = |mesh: &Mesh| kind_of(mesh.published.as_ref().unwrap().target(TARGET).unwrap());
    assert_eq!(told(&mesh), Some(ReasonKind::Refused));
    mesh.hear_listeners(Vec::new());
    assert_eq!(told(&mesh), Some(ReasonKind::NoListener));
    assert!(mesh.seen.needs.names().next().is_none(), "{:?}", mesh.seen.needs);
    assert_eq!(
        mesh.ads
            .cache()
            .rows()
            .filter(|row| row.kind != ResourceKind::Cluster)
            .count(),
        0
    );
}
