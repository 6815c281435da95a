//! What the listeners of servers hold of filters: guards, limits, tokens, and the routes that they may leave to a resource of their own.
//!
//! In a whole listener a fuzzer seldom reaches them: a type's URL and three levels of messages are in the way. Here each is written around
//! what it says. Whatever that is, it is refused with a short reason, or taken, the same way twice; and of what was taken, no request
//! passes that no route serves.

use http::Request;
use mesh_core::authorize::Facts;
use mesh_core::config::{Authorization, Unserved};
use mesh_core::route::RequestHead;

use super::resource::{bounded, check, contexts};
use crate::decode::Rejected;
use crate::resource::{Elsewhere, Listener, ResourceKind};
use crate::wire::filters;

/// Requests that differ in what routes look at.
const ASKED: [&str; 4] = [
    "http://a.test/",
    "http://a.test/open",
    "http://b.test:80/x?q=1",
    "http://c/x",
];

/// An HTTP filter of a server's listener: which is said by the first byte.
pub fn server_filter(input: &[u8]) {
    if let Some((kind, config)) = input.split_first() {
        listener(&filters::with_request_filter(*kind, config));
    }
}

/// A filter of a server's connections.
pub fn connection_filter(input: &[u8]) {
    listener(&filters::with_connection_filter(input));
}

/// The routes of a server with a guard, as a resource of their own.
pub fn server_routes(input: &[u8]) {
    let bytes = filters::with_routes_elsewhere();
    for context in contexts() {
        let Some((_, Listener::Routed(routed))) = check::<Listener>(&bytes, &context) else {
            panic!("the listener is good, and its routes are elsewhere");
        };
        for elsewhere in &routed.elsewhere {
            let Elsewhere::Routes(_, guarding) = &elsewhere.what else {
                panic!("nothing but the routes is elsewhere");
            };
            match guarding.routed(input) {
                Err(fault) => bounded(&Rejected::new(ResourceKind::Route, "r", fault)),
                Ok((authorization, limits)) => {
                    let again = guarding.routed(input).ok();
                    guarded(&authorization);
                    assert_eq!(again, Some((authorization, limits)));
                }
            }
        }
        let inbound = &routed.inbound;
        for chain in inbound.chains.iter().chain(&inbound.default) {
            for uri in ASKED {
                let request = Request::get(uri).body(()).expect("a good URI");
                let head = RequestHead::of(&request, "");
                assert!(matches!(chain.authorization.serves(&head), Err(Unserved::Unknown(_))));
            }
            guarded(&chain.authorization);
        }
    }
}

fn listener(bytes: &[u8]) {
    for context in contexts() {
        let Some((name, Listener::Inbound(inbound))) = check::<Listener>(bytes, &context) else {
            continue;
        };
        let again = check::<Listener>(bytes, &context);
        assert_eq!(again, Some((name, Listener::Inbound(inbound.clone()))));
        for chain in inbound.chains.iter().chain(&inbound.default) {
            guarded(&chain.authorization);
        }
    }
}

/// Nothing passes that is not served.
fn guarded(authorization: &Authorization) {
    for uri in ASKED {
        let request = Request::get(uri).body(()).expect("a good URI");
        let head = RequestHead::of(&request, "");
        let facts = Facts {
            source: None,
            destination: None,
            server_name: None,
            peer: None,
            claims: None,
            head: Some(head),
        };
        let passes = authorization.request_passes(&facts, &mut |_| ()).is_ok();
        assert!(!passes || authorization.serves(&head).is_ok(), "{uri} passes unserved");
    }
}

/// Inputs by target.
pub(super) fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let labels = ["rbac", "ext-authz", "jwt", "local-limit", "rate-limit", "fault"];
    let empty = (0u8..)
        .zip(labels)
        .map(|(kind, label)| ("server_filter", label, vec![kind]));
    let [guard, of_connections, routes, nobody] = filters::examples();
    let mut all: Vec<_> = empty.collect();
    all.push(("server_filter", "deny", [vec![0], guard].concat()));
    all.push(("connection_filter", "allow", of_connections));
    all.push(("server_routes", "open", routes));
    all.push(("server_routes", "none", nobody));
    all
}
