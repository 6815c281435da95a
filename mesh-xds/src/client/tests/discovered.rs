//! A server's filters that are resources of their own (ECDS): by their chain nobody is served until they are there, and then as they
//! say, each at its place. In a sidecar's shape: gRPC has them at no server (gRFC A39).

use mesh_core::authorize::Facts;
use mesh_core::config::{FilterChain, ReasonKind, Routing};
use mesh_core::identity::SpiffeId;
use mesh_core::route::RequestHead;

use super::assemble::{Mesh, grpc, missing};
use super::*;
use crate::bootstrap::Profile;
use crate::client::ads::AdsState;
use crate::client::assemble::{Assembler, Naming};
use crate::decode::tests::discovered::{
    Action, CHAIN, ExtensionConfigSource, FILTER, HttpFilter, deny, guard, guard_of_connections, listener,
    listener_of_connections,
};
use crate::decode::tests::{envoy, istiod, raw as raw_of};
use crate::node::Node;

const SERVED: &str = "10.0.0.1:50051";

fn server(listener: Raw) -> Mesh {
    let mut mesh = Mesh::new(&[]);
    mesh.ads = AdsState::new(Arc::new(Node::default()), envoy());
    mesh.ads.stream_opened();
    mesh.assembler = Assembler::new(Naming {
        profile: Profile::Envoy,
        ..grpc("%s")
    });
    mesh.inbound = names(&[SERVED]);
    mesh.step();
    mesh.hear(ResourceKind::Listener, vec![listener]);
    mesh
}

fn chain(mesh: &Mesh) -> FilterChain {
    let snapshot = mesh.published.as_ref().expect("something was published");
    let inbound = snapshot.inbound(SERVED).unwrap().as_ref().unwrap();
    inbound
        .chains
        .iter()
        .find(|chain| &*chain.name == CHAIN)
        .unwrap()
        .clone()
}

/// What becomes of a request by the chain: it passes, is denied, or nobody is served, and for which kind of reason.
fn outcome(mesh: &Mesh) -> Result<&'static str, ReasonKind> {
    let chain = chain(mesh);
    let request = http::Request::get("/").body(()).unwrap();
    let head = RequestHead::of(&request, "a.test");
    let facts = Facts {
        source: None,
        destination: None,
        server_name: None,
        peer: None::<&SpiffeId>,
        claims: None,
        head: Some(head),
    };
    if chain.authorization.connection_passes(&facts, &mut |_| ()).is_err() {
        return Ok("no connection");
    }
    if let Routing::Nothing(reason) = chain.authorization.routing() {
        assert!(chain.authorization.serves(&head).is_err());
        return Err(reason.kind());
    }
    Ok(match chain.authorization.request_passes(&facts, &mut |_| ()) {
        Ok(()) => "passes",
        Err(_) => "denied",
    })
}

#[test]
fn az_10_a_servers_filter_of_its_own_is_waited_for_and_then_holds() {
    let mut mesh = server(listener(|_, _| {}));
    assert_eq!(outcome(&mesh), Err(ReasonKind::Waiting));
    let lacks = (ResourceKind::ExtensionConfig, FILTER.to_owned());
    assert_eq!(missing(&mesh.seen, SERVED), [lacks], "it is asked for by name");
    for (said, expected) in [
        (guard(Action::Allow), Ok("passes")),
        (guard(Action::Deny), Ok("denied")),
        // What it may not be, or is not understood: nobody is served in its place.
        (raw_of(&istiod::sidecar::delay(FILTER)), Err(ReasonKind::Refused)),
        (guard(Action::Allow), Ok("passes")),
    ] {
        mesh.hear(ResourceKind::ExtensionConfig, vec![said]);
        assert_eq!(outcome(&mesh), expected);
    }
    // A listener that asks for another filter waits for it, and the one before goes on.
    let serving = mesh.published.clone().unwrap();
    mesh.hear(
        ResourceKind::Listener,
        vec![listener(|filter, _| filter.name = "ns.other".into())],
    );
    assert_eq!(missing(&mesh.seen, SERVED).len(), 1);
    assert_eq!(outcome(&mesh), Ok("passes"));
    let same = [&serving, mesh.published.as_ref().unwrap()].map(|one| one.inbound(SERVED).unwrap().clone().unwrap());
    assert!(Arc::ptr_eq(&same[0], &same[1]), "nobody is asked anew");
    mesh.time_out();
    assert_eq!(
        outcome(&mesh),
        Err(ReasonKind::Refused),
        "it does not exist, and that is known"
    );
}

#[test]
fn az_10_a_servers_filter_that_is_not_there_is_its_default_or_nobody_is_served() {
    let no_op = "type.googleapis.com/istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig";
    type Change = fn(&mut HttpFilter, &mut ExtensionConfigSource);
    let optional: Change = |filter, _| filter.is_optional = true;
    let disabled: Change = |filter, _| filter.disabled = true;
    // A guard is never left out, whatever it is called.
    for change in [(|_, _| {}) as Change, optional, disabled] {
        let mut mesh = server(listener(change));
        mesh.time_out();
        assert_eq!(outcome(&mesh), Err(ReasonKind::Refused));
    }
    // One that could do nothing to requests may be, where that is said.
    for (is_optional, expected) in [(true, Ok("passes")), (false, Err(ReasonKind::Refused))] {
        let mut mesh = server(listener(|filter, source| {
            (filter.is_optional, source.type_urls) = (is_optional, vec![no_op.into()]);
        }));
        mesh.time_out();
        assert_eq!(outcome(&mesh), expected);
    }
    let mut mesh = server(listener(|_, source| source.default_config = deny()));
    assert_eq!(outcome(&mesh), Err(ReasonKind::Waiting));
    mesh.time_out();
    assert_eq!(outcome(&mesh), Ok("denied"));
    mesh.hear(ResourceKind::ExtensionConfig, vec![guard(Action::Allow)]);
    assert_eq!(outcome(&mesh), Ok("passes"));
    // Without a wait.
    let mut mesh = server(listener(|_, source| {
        (source.default_config, source.apply_default_config_without_warming) = (deny(), true);
    }));
    assert_eq!((outcome(&mesh), mesh.seen.waiting.len()), (Ok("denied"), 0));
    mesh.hear(ResourceKind::ExtensionConfig, vec![guard(Action::Allow)]);
    assert_eq!(outcome(&mesh), Ok("passes"));
}

#[test]
fn az_10_a_filter_of_a_servers_connections_is_waited_for_too() {
    let mut mesh = server(listener_of_connections());
    assert_eq!(outcome(&mesh), Err(ReasonKind::Waiting));
    for (action, expected) in [(Action::Allow, "passes"), (Action::Deny, "no connection")] {
        mesh.hear(ResourceKind::ExtensionConfig, vec![guard_of_connections(action)]);
        assert_eq!(outcome(&mesh), Ok(expected));
    }
}
