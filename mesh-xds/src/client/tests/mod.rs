//! The protocol, the assembly and the task.

mod ads;
mod aggregate;
mod assemble;
mod delta;
mod discovered;
mod disk;
mod dns;
mod fallback;
mod federation;
mod garbage;
mod heavy;
mod limits;
mod outage;
mod plane;
mod reading;
mod routed;
mod sidecar;
mod steps;
mod stream;

use std::sync::Arc;

use mesh_core::Snapshot;
use mesh_core::config::{Cluster, Endpoint, Localities, Route, Split, TlsMode};

use crate::encode::{self, Dialect};
use crate::resource::ResourceKind;
use crate::wire::{Raw, Response};

fn raw(kind: ResourceKind, bytes: Vec<u8>) -> Raw {
    Raw {
        type_url: kind.type_url().into(),
        bytes,
    }
}

/// A response; its nonce is its version.
fn response(kind: ResourceKind, version: &str, resources: Vec<Raw>) -> Response {
    Response {
        type_url: kind.type_url().into(),
        version: version.into(),
        nonce: version.into(),
        resources,
        errors: Vec::new(),
    }
}

fn listener(target: &str, routes: &str) -> Raw {
    raw(
        ResourceKind::Listener,
        encode::listener(target, routes, &encode::Calls::default()),
    )
}

/// A route configuration that sends everything to one cluster.
fn routes(name: &str, cluster: &str) -> Raw {
    let snapshot = Snapshot::builder()
        .route(name, Route::to(Split::all_to(cluster)))
        .cluster(Cluster::new(cluster, TlsMode::Plaintext, Vec::new()))
        .build()
        .unwrap();
    let tree = snapshot.target(name).unwrap().as_ref().unwrap();
    raw(ResourceKind::Route, encode::routes(tree))
}

fn cluster(name: &str) -> Raw {
    let cluster = Cluster::new(name, TlsMode::Plaintext, Vec::new());
    raw(ResourceKind::Cluster, encode::cluster(&cluster, Dialect::Mesh))
}

/// A cluster that is refused: its TLS names a certificate provider that the process does not have.
fn bad_cluster(name: &str) -> Raw {
    let cluster = Cluster::new(
        name,
        TlsMode::Mutual(mesh_core::config::MutualTls {
            expected: mesh_core::config::ExpectedPeers::default(),
            sni: None,
            ..Default::default()
        }),
        Vec::new(),
    );
    raw(ResourceKind::Cluster, encode::cluster(&cluster, Dialect::Mesh))
}

fn endpoints(cluster: &str, ports: &[u16]) -> Raw {
    let endpoints: Vec<Endpoint> = ports
        .iter()
        .map(|port| Endpoint::new(([127, 0, 0, 1], *port).into()))
        .collect();
    raw(
        ResourceKind::Endpoints,
        encode::endpoints(&cluster.into(), &endpoints, &[], &Localities::default()),
    )
}

fn names(list: &[&str]) -> Vec<Arc<str>> {
    list.iter().map(|name| Arc::from(*name)).collect()
}
