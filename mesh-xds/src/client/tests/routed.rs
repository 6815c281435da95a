//! AZ-10: a server whose routes are a resource of their own serves nobody until they are there, and what they say from then on
//! (gRFC A36). Over a real stream, in both variants, and by the state machines where the order matters.

use mesh_core::authorize::Facts;
use mesh_core::config::{Inbound, Reason, ReasonKind, Resolved, Routing};
use mesh_core::identity::SpiffeId;
use mesh_core::route::RequestHead;
use prost::Message as _;

use super::assemble::{Mesh, missing};
use super::plane::{BOTH, EVER, Net, Plane, Subject};
use super::*;
use crate::bootstrap::{Bootstrap, ListenerNames, Profile, Protocol};
use crate::client::assemble::{Assembler, Naming};
use crate::decode::tests::raw as raw_of;
use crate::node::Node;
use crate::proto::hcm::http_filter::ConfigType;
use crate::proto::hcm::{HttpConnectionManager, HttpFilter, Rds, http_connection_manager::RouteSpecifier};
use crate::proto::listener::{Listener, filter};
use crate::proto::rbac::{Permission, Policy, Principal, Rbac, permission, principal, rbac::Action};
use crate::proto::route::{Route as RouteProto, RouteConfiguration, VirtualHost, route, route_match::PathSpecifier};
use crate::proto::{core, pack, rbac_http};

const SERVED: &str = "10.0.0.1:8080";
const LISTENER: &str = "server/10.0.0.1:8080";
const GUARD: &str = "envoy.filters.http.rbac";

/// Denies or allows everybody.
fn rules(action: Action) -> rbac_http::Rbac {
    let permission = permission::Rule::Any(true);
    let principal = principal::Identifier::Any(true);
    let policy = Policy {
        permissions: vec![Permission { rule: Some(permission) }],
        principals: vec![Principal {
            identifier: Some(principal),
        }],
        ..Policy::default()
    };
    rbac_http::Rbac {
        rules: Some(Rbac {
            action: action as i32,
            policies: [("p".to_owned(), policy)].into(),
            ..Rbac::default()
        }),
        ..rbac_http::Rbac::default()
    }
}

/// A listener of one chain that denies everything itself, with its routes in `routes`.
fn listener_of(routes: &str) -> Raw {
    let chain = mesh_core::config::FilterChain {
        name: "c".into(),
        matches: Default::default(),
        security: mesh_core::config::InboundSecurity::Plaintext,
        traffic: mesh_core::config::Traffic::Http,
        authorization: Arc::default(),
        limits: Arc::default(),
    };
    let inbound = Inbound {
        name: LISTENER.into(),
        address: SERVED.parse().unwrap(),
        chains: vec![chain],
        default: None,
    };
    let mut proto = Listener::decode(&*encode::inbound(&inbound, Profile::Grpc)).unwrap();
    let Some(filter::ConfigType::TypedConfig(any)) = &mut proto.filter_chains[0].filters[0].config_type else {
        panic!("the filter has a configuration")
    };
    let mut manager = HttpConnectionManager::decode(&*any.value).unwrap();
    let guard = HttpFilter {
        name: GUARD.into(),
        config_type: Some(ConfigType::TypedConfig(pack(&rules(Action::Deny)))),
        ..HttpFilter::default()
    };
    manager.http_filters.insert(0, guard);
    manager.route_specifier = Some(RouteSpecifier::Rds(Rds {
        config_source: Some(core::ConfigSource {
            config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(Default::default())),
            ..Default::default()
        }),
        route_config_name: routes.into(),
    }));
    *any = pack(&manager);
    raw_of(&proto)
}

/// Routes of one host: `/open` is allowed to everybody, `/away` is answered by a redirect, `/on` is forwarded, and the rest is served as
/// the listener says; what no path begins so is taken by none.
fn routes_of(name: &str) -> RouteConfiguration {
    let route = |prefix: &str, action: route::Action| RouteProto {
        r#match: Some(crate::proto::route::RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(prefix.into())),
            ..Default::default()
        }),
        action: Some(action),
        ..RouteProto::default()
    };
    let own = || route::Action::NonForwardingAction(Default::default());
    let mut open = route("/open", own());
    let instead = rbac_http::RbacPerRoute {
        rbac: Some(rules(Action::Allow)),
    };
    open.typed_per_filter_config.insert(GUARD.into(), pack(&instead));
    let forward = route::Action::Route(crate::proto::route::RouteAction {
        cluster_specifier: Some(crate::proto::route::route_action::ClusterSpecifier::Cluster("c".into())),
        ..Default::default()
    });
    RouteConfiguration {
        name: name.into(),
        virtual_hosts: vec![VirtualHost {
            name: "v".into(),
            domains: vec!["*".into()],
            routes: vec![
                open,
                route("/away", route::Action::Redirect(Default::default())),
                route("/on", forward),
                route("/own", own()),
            ],
            ..VirtualHost::default()
        }],
        ..RouteConfiguration::default()
    }
}

/// What becomes of a request: it passes, is denied, or is not served, and for which reason.
fn outcome(inbound: &Resolved<Inbound>, path: &str) -> &'static str {
    let Ok(inbound) = inbound else {
        return "no listener";
    };
    let request = http::Request::get(path).body(()).unwrap();
    let head = RequestHead::of(&request, "a.test");
    let authorization = &inbound.chains[0].authorization;
    let facts = Facts {
        source: None,
        destination: None,
        server_name: None,
        peer: None::<&SpiffeId>,
        claims: None,
        head: Some(head),
    };
    // Connections are taken, whatever is known of requests.
    assert!(authorization.connection_passes(&facts, &mut |_| ()).is_ok());
    let passes = authorization.request_passes(&facts, &mut |_| ()).is_ok();
    match (authorization.serves(&head), passes) {
        (Ok(()), true) => "passes",
        (Ok(()), false) => "denied",
        (Err(why), false) => why.as_str(),
        (Err(why), true) => panic!("{path} passes unguarded: {why}"),
    }
}

const PATHS: [&str; 5] = ["/open", "/own", "/on", "/away", "/nowhere"];
const CLOSED: [&str; 5] = ["routes_unknown"; 5];
const ROUTED: [&str; 5] = ["passes", "denied", "route_refused", "route_refused", "no_route"];

fn outcomes(snapshot: &Snapshot) -> Option<[&'static str; 5]> {
    let inbound = snapshot.inbound(SERVED)?;
    Some(PATHS.map(|path| outcome(inbound, path)))
}

/// Why nobody is served.
fn why(snapshot: &Snapshot) -> Reason {
    let inbound = snapshot.inbound(SERVED).unwrap().as_ref().unwrap();
    match inbound.chains[0].authorization.routing() {
        Routing::Nothing(reason) => reason.clone(),
        other => panic!("{other:?}"),
    }
}

async fn until(subject: &Subject, expected: [&'static str; 5], reason: Option<ReasonKind>) {
    let snapshots = subject.link.snapshots().clone();
    let is_it = |_: &crate::client::Report| {
        let snapshot = snapshots.load();
        outcomes(&snapshot) == Some(expected) && reason.is_none_or(|reason| why(&snapshot).kind() == reason)
    };
    let reached = subject.client.status().until(EVER, is_it).await;
    assert!(
        reached.is_ok(),
        "{:?} is not {expected:?}",
        outcomes(&subject.link.snapshots().load())
    );
}

fn start(protocol: Protocol) -> (Arc<Plane>, Subject, mesh_core::link::Guard) {
    let net = Net::default();
    let plane = net.plane("plane:1");
    let builder = Bootstrap::builder(Node::default())
        .protocol(protocol)
        .insecure("plane:1");
    let subject = Subject::start(&net, builder.server_listener_template("server/%s"), &[]);
    let guard = subject.link.interest().watch_inbound(SERVED);
    (plane, subject, guard)
}

#[tokio::test(start_paused = true)]
async fn az_10_a_server_serves_nobody_before_its_routes_are_there_and_then_what_they_say() {
    for protocol in BOTH {
        let (plane, subject, _guard) = start(protocol);
        plane.set(ResourceKind::Listener, LISTENER, listener_of("r"));
        until(&subject, CLOSED, Some(ReasonKind::Waiting)).await;
        let asked = plane.log().asked;
        assert!(
            asked.contains(&(ResourceKind::Route, "r".into())),
            "they are asked for by name"
        );
        plane.set(ResourceKind::Route, "r", raw_of(&routes_of("r")));
        until(&subject, ROUTED, None).await;
        // A bad one is refused by its field, and the good one stays.
        let mut bad = routes_of("r");
        let said = &mut bad.virtual_hosts[0].routes[0].typed_per_filter_config;
        let mut unheard = rules(Action::Allow);
        unheard.rules.as_mut().unwrap().action = 9;
        said.insert(GUARD.into(), pack(&rbac_http::RbacPerRoute { rbac: Some(unheard) }));
        plane.set(ResourceKind::Route, "r", raw_of(&bad));
        let refused = |report: &crate::client::Report| {
            let row = report.resource(ResourceKind::Route, "r");
            row.is_some_and(|row| row.rejected.is_some())
        };
        subject.client.status().until(EVER, refused).await.unwrap();
        assert_eq!(outcomes(&subject.link.snapshots().load()), Some(ROUTED));
        let nacks = plane.log().nacks;
        let field = "virtual_hosts[0].routes[0].typed_per_filter_config[\"envoy.filters.http.rbac\"].rbac.rules.action";
        assert!(nacks.iter().any(|nack| nack.contains(field)), "{nacks:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn az_10_a_server_whose_routes_do_not_exist_or_are_refused_serves_nobody() {
    for protocol in BOTH {
        let (plane, subject, _guard) = start(protocol);
        plane.set(ResourceKind::Listener, LISTENER, listener_of("r"));
        until(&subject, CLOSED, Some(ReasonKind::NoRoute)).await;
        let mut bad = routes_of("r");
        bad.virtual_hosts[0].routes[1].r#match = None;
        plane.set(ResourceKind::Route, "r", raw_of(&bad));
        until(&subject, CLOSED, Some(ReasonKind::Refused)).await;
        // What a client could go by and this server cannot keep: a share of the requests of a route.
        let mut part = routes_of("r");
        let matches = part.virtual_hosts[0].routes[3].r#match.as_mut().unwrap();
        matches.runtime_fraction = Some(core::RuntimeFractionalPercent {
            default_value: Some(crate::proto::percent::FractionalPercent {
                numerator: 50,
                denominator: 0,
            }),
            ..Default::default()
        });
        plane.set(ResourceKind::Route, "r", raw_of(&part));
        until(&subject, CLOSED, Some(ReasonKind::Refused)).await;
        plane.set(ResourceKind::Route, "r", raw_of(&routes_of("r")));
        until(&subject, ROUTED, None).await;
    }
}

/// One that takes a listener's place waits for its routes, and the one before goes on; with the first there is nothing to go on with.
#[test]
fn az_10_a_listener_with_other_routes_waits_for_them_while_the_one_before_serves() {
    let mut mesh = Mesh::new(&[]);
    mesh.assembler = Assembler::new(Naming {
        profile: Profile::Grpc,
        names: ListenerNames::new(None, Some("server/%s"), &Default::default()),
    });
    mesh.inbound = names(&[SERVED]);
    mesh.step();
    let stands = |mesh: &mut Mesh, kind, raw| {
        mesh.hear(kind, vec![raw]);
        let published = mesh.published.clone().unwrap();
        (outcomes(&published).unwrap(), mesh.seen.waiting.len(), published)
    };
    let (first, waiting, _) = stands(&mut mesh, ResourceKind::Listener, listener_of("a"));
    assert_eq!((first, waiting), (CLOSED, 1));
    let (routed, waiting, before) = stands(&mut mesh, ResourceKind::Route, raw_of(&routes_of("a")));
    assert_eq!((routed, waiting), (ROUTED, 0));
    let (kept, waiting, after) = stands(&mut mesh, ResourceKind::Listener, listener_of("b"));
    assert_eq!((kept, waiting), (ROUTED, 1));
    let lacks = (ResourceKind::Route, "b".to_owned());
    assert_eq!(missing(&mesh.seen, SERVED), [lacks]);
    let same = [&before, &after].map(|one| Arc::clone(one.inbound(SERVED).unwrap().as_ref().unwrap()));
    assert!(Arc::ptr_eq(&same[0], &same[1]), "nobody is asked anew");
    mesh.time_out();
    let published = mesh.published.clone().unwrap();
    assert_eq!(
        outcomes(&published),
        Some(CLOSED),
        "it does not exist, and that is known"
    );
    assert_eq!(why(&published).kind(), ReasonKind::NoRoute);
    let (routed, waiting, _) = stands(&mut mesh, ResourceKind::Route, raw_of(&routes_of("b")));
    assert_eq!((routed, waiting), (ROUTED, 0));
    // The same again is the same value, or every push would have each open connection asked anew.
    let before = mesh.published.clone().unwrap();
    let (_, _, after) = stands(&mut mesh, ResourceKind::Listener, listener_of("b"));
    assert!(before.is_same_as(&after));
}
