//! AZ-10: a server whose routes are a resource of their own serves nobody until they are there, and what they say from then on
//! (gRFC A36). Over a real stream, in both variants, and by the state machines where the order matters.

use mesh_core::authorize::Facts;
use mesh_core::config::{Inbound, Reason, ReasonKind, Resolved, Routing};
use mesh_core::identity::SpiffeId;
use mesh_core::route::RequestHead;

use super::assemble::{Mesh, missing};
use super::plane::{BOTH, EVER, Net, Plane, Subject};
use super::*;
use crate::bootstrap::{Bootstrap, ListenerNames, Profile, Protocol};
use crate::client::assemble::{Assembler, Naming};
use crate::decode::tests::routed::Bad;
use crate::decode::tests::routed::{LISTENER, SERVED, listener_of, routes_of, routes_that_are};
use crate::node::Node;

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
        plane.set(ResourceKind::Route, "r", routes_of("r"));
        until(&subject, ROUTED, None).await;
        // A bad one is refused by its field, and the good one stays.
        plane.set(ResourceKind::Route, "r", routes_that_are(Bad::Override, "r"));
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
        plane.set(ResourceKind::Route, "r", routes_that_are(Bad::Match, "r"));
        until(&subject, CLOSED, Some(ReasonKind::Refused)).await;
        // What a client could go by and this server cannot keep: a share of the requests of a route.
        plane.set(ResourceKind::Route, "r", routes_that_are(Bad::Share, "r"));
        until(&subject, CLOSED, Some(ReasonKind::Refused)).await;
        plane.set(ResourceKind::Route, "r", routes_of("r"));
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
    let (routed, waiting, before) = stands(&mut mesh, ResourceKind::Route, routes_of("a"));
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
    let (routed, waiting, _) = stands(&mut mesh, ResourceKind::Route, routes_of("b"));
    assert_eq!((routed, waiting), (ROUTED, 0));
    // The same again is the same value, or every push would have each open connection asked anew.
    let before = mesh.published.clone().unwrap();
    let (_, _, after) = stands(&mut mesh, ResourceKind::Listener, listener_of("b"));
    assert!(before.is_same_as(&after));
}
