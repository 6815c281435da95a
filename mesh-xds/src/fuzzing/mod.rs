//! The door for fuzzers: bytes from anywhere through the production decoders and the protocol's state machines.
//!
//! Not part of the API: it is there with the feature `fuzzing` alone, hidden from the documentation, and may change with any
//! commit. It exists because what is worth fuzzing is private, and because a target that is a plain function is replayed by
//! stable Rust too: `tests/wire/corpus.rs` hands every file of `tests/fuzz/corpus` to the function that its folder names, with
//! every run of the tests.
//!
//! Each target panics when a promise is broken: nothing that a peer sent may panic; what was decoded and encoded again
//! decodes to the same, as far as the serving end can say it; a refusal names the kind and the resource, and its text is
//! bounded however long the input is. What the targets of whole streams promise besides is told in `stream`, for the
//! serving end in `server::fuzzing`; what reaches a client beside them in `beside`, what a copy on disk may do
//! in `disk`, and what the filters and routes of a server may in `filters`.

mod beside;
mod disk;
mod filters;
mod resource;
mod seeds;
mod stream;

use mesh_core::config::RouteTree;

use crate::bootstrap::Bootstrap;
use crate::decode::{self, Context, Rejected, Unwrapped};
use crate::encode::{self, Calls, Dialect};
use crate::name::ResourceName;
use crate::resource::{ClusterSpec, Endpoints, Extension, Http, Listener, ResourceKind, Routes};
use crate::server;
use crate::wire::{Delta, Raw, Sotw, bytes};

use resource::{check, read, read_by};

pub use beside::{load_response, orca_report, pem_file, status_response, token, trust_bundle_map};
pub use disk::disk_copy;
pub use filters::{connection_filter, server_filter, server_routes};
pub use seeds::seeds;

/// A fuzz target: it panics when a promise is broken.
pub type Target = fn(&[u8]);

/// Every target by the name of its corpus.
pub const TARGETS: [(&str, Target); 25] = [
    ("listener", listener),
    ("route", route),
    ("cluster", cluster),
    ("endpoints", endpoints),
    ("extension_config", extension_config),
    ("envelope", envelope),
    ("resource_name", resource_name),
    ("node", node),
    ("bootstrap", bootstrap),
    ("sotw_response", sotw_response),
    ("delta_response", delta_response),
    ("disk_copy", disk_copy),
    ("sotw_request", sotw_request),
    ("delta_request", delta_request),
    ("load_report", load_report),
    ("status_request", status_request),
    ("load_response", load_response),
    ("status_response", status_response),
    ("token", token),
    ("pem_file", pem_file),
    ("trust_bundle_map", trust_bundle_map),
    ("orca_report", orca_report),
    ("server_filter", server_filter),
    ("connection_filter", connection_filter),
    ("server_routes", server_routes),
];

/// A `Listener`.
pub fn listener(bytes: &[u8]) {
    for context in resource::contexts() {
        let Some((name, value)) = check::<Listener>(bytes, &context) else {
            continue;
        };
        match &value {
            Listener::Api(Http {
                routes: Routes::Named(routes),
                extensions,
                filters,
                limits,
                telemetry,
            }) if extensions.is_empty() && limits.is_empty() => {
                let calls = Calls {
                    filters,
                    telemetry: Some(telemetry),
                };
                let again = read_by::<Listener>(encode::listener(&name, routes, &calls), &context);
                assert_eq!(again, value, "a listener of {name:?}");
            }
            Listener::Api(http) | Listener::Outbound { http, .. } => {
                if let Routes::Inline(tree) = &http.routes {
                    resource::same_routes(tree, &context);
                }
            }
            Listener::Inbound(_) | Listener::Routed(_) | Listener::CatchAll(_) | Listener::Other(_) => {}
        }
    }
}

/// A `RouteConfiguration`.
pub fn route(bytes: &[u8]) {
    for context in resource::contexts() {
        if let Some((_, tree)) = check::<RouteTree>(bytes, &context) {
            resource::same_routes(&tree, &context);
        }
    }
}

/// A `Cluster`.
pub fn cluster(bytes: &[u8]) {
    for context in resource::contexts() {
        if let Some((_, spec)) = check::<ClusterSpec>(bytes, &context) {
            let again = read::<ClusterSpec>(encode::cluster(&spec.cluster, Dialect::Mesh));
            assert_eq!(again.cluster, resource::as_served(spec.cluster));
        }
    }
}

/// A `ClusterLoadAssignment`.
pub fn endpoints(bytes: &[u8]) {
    for context in resource::contexts() {
        if let Some((name, list)) = check::<Endpoints>(bytes, &context) {
            resource::same_endpoints(&name, &list, &context);
        }
    }
}

/// A `TypedExtensionConfig`.
pub fn extension_config(bytes: &[u8]) {
    for context in resource::contexts() {
        drop(check::<Extension>(bytes, &context));
    }
}

/// A `discovery.v3.Resource` around another resource, as its envelope in state of the world.
pub fn envelope(bytes: &[u8]) {
    let raw = Raw {
        type_url: decode::ENVELOPE.into(),
        bytes: bytes.into(),
    };
    let inner = match decode::unwrap(raw) {
        Err(fault) => return resource::bounded(&Rejected::new(ResourceKind::Listener, "", fault)),
        Ok(Unwrapped::Heartbeat { name, .. }) => return assert!(!name.is_empty()),
        Ok(Unwrapped::Plain(raw) | Unwrapped::Envelope { raw, .. }) => raw,
    };
    match ResourceKind::from_type_url(&inner.type_url) {
        Some(ResourceKind::Listener) => listener(&inner.bytes),
        Some(ResourceKind::Route) => route(&inner.bytes),
        Some(ResourceKind::Cluster) => cluster(&inner.bytes),
        Some(ResourceKind::Endpoints) => endpoints(&inner.bytes),
        Some(ResourceKind::ExtensionConfig) => extension_config(&inner.bytes),
        None => assert!(decode::decode::<Listener>(&inner, &Context::default()).is_err()),
    }
}

/// The name of a resource: every spelling has one normal form, which is read as the same name.
pub fn resource_name(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match ResourceName::parse(text) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(name) => {
            let normal = name.to_string();
            assert_eq!(ResourceName::parse(&normal).as_ref(), Ok(&name));
            for kind in ResourceKind::ALL {
                let as_kind = ResourceName::parse_as(kind, text);
                assert!(as_kind.is_err() || as_kind.as_ref() == Ok(&name));
            }
        }
    }
}

/// A `core.v3.Node`: what once came from the wire goes there and comes back as it was.
pub fn node(input: &[u8]) {
    if let Some(node) = bytes::read_node(input) {
        // What nests too deep to travel is left out the first time.
        let once = bytes::read_node(&bytes::node(&node)).expect("what was encoded is a node");
        let twice = bytes::read_node(&bytes::node(&once)).expect("what was encoded is a node");
        assert_eq!(once, twice);
        assert_eq!(
            (&once.id, &once.locality, &once.features),
            (&node.id, &node.locality, &node.features)
        );
    }
}

/// The text of a bootstrap file.
pub fn bootstrap(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match Bootstrap::from_json(text) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(bootstrap) => {
            let printed = bootstrap.to_json();
            let again = Bootstrap::from_json(&printed).expect("what was printed is a bootstrap");
            assert_eq!(again.to_json(), printed);
            assert_eq!(again.node(), bootstrap.node());
            assert_eq!(again.providers().len(), bootstrap.providers().len());
            assert_eq!(format!("{again:?}"), format!("{bootstrap:?}"));
        }
    }
}

/// A whole stream of state of the world: see `stream`.
pub fn sotw_response(bytes: &[u8]) {
    drop(stream::drive::<Sotw>(bytes));
}

/// A whole incremental stream: see `stream`.
pub fn delta_response(bytes: &[u8]) {
    drop(stream::drive::<Delta>(bytes));
}

/// What a client says to the serving end in state of the world: see `server::fuzzing`.
pub fn sotw_request(bytes: &[u8]) {
    server::fuzzing::sotw_request(bytes);
}

/// What a client says to the serving end incrementally: see `server::fuzzing`.
pub fn delta_request(bytes: &[u8]) {
    server::fuzzing::delta_request(bytes);
}

/// Load reports to the serving end: see `server::fuzzing`.
pub fn load_report(bytes: &[u8]) {
    server::fuzzing::load_report(bytes);
}

/// A question about clients, with its matchers: see `server::fuzzing`.
pub fn status_request(bytes: &[u8]) {
    server::fuzzing::status_request(bytes);
}
