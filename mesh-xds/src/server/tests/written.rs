//! How much is written for whom: a publish costs what those who are connected ask for.

use std::path::Path;

use mesh_core::config::{Credential, Roots, TlsOrigination};
use prost::Message as _;

use super::*;
use crate::encode::{CLUSTERS_WRITTEN, EGRESS_ADDRESS};
use crate::server::encoded::View;

const CLUSTERS: usize = 3;

fn snapshot(endpoints: usize) -> Snapshot {
    let one = |n| {
        let endpoint = |port| Endpoint::new(([127, 0, 0, 1], port).into());
        let endpoints = (1..=endpoints as u16).map(endpoint).collect();
        Cluster::new(format!("c{n}").as_str(), TlsMode::Plaintext, endpoints)
    };
    let builder = (0..CLUSTERS)
        .map(one)
        .fold(Snapshot::builder(), |b, cluster| b.cluster(cluster));
    builder.build().unwrap()
}

/// How many clusters this writes.
fn written<T>(act: impl FnOnce() -> T) -> (T, usize) {
    let before = CLUSTERS_WRITTEN.get();
    let done = act();
    (done, CLUSTERS_WRITTEN.get() - before)
}

#[test]
fn what_nobody_speaks_is_not_written_and_what_somebody_does_once() {
    let (one, cost) = written(|| Encoded::new(&snapshot(1), None, 1).unwrap());
    assert_eq!(cost, 2 * CLUSTERS, "for our clients and for gRPC's");
    for dialect in [Dialect::Mesh, Dialect::Grpc] {
        assert_eq!(written(|| one.view(dialect)).1, 0);
    }
    for dialect in [Dialect::Sidecar, Dialect::Envoy(EGRESS_ADDRESS)] {
        let (first, cost) = written(|| one.view(dialect));
        assert_eq!(cost, CLUSTERS);
        let (again, cost) = written(|| one.view(dialect));
        assert_eq!(cost, 0);
        let clusters = |view: &View| Arc::clone(view.of(ResourceKind::Cluster));
        assert!(Arc::ptr_eq(&clusters(&first), &clusters(&again)));
    }
    // An Envoy elsewhere differs in its listeners alone.
    let elsewhere = Dialect::Envoy([127, 0, 0, 2].into());
    assert_eq!(written(|| one.view(elsewhere)).1, 0);
}

/// A certificate or roots in files of the caller are none of the certificate providers that gRPC's clients know: they are told a cluster that
/// they take and whose calls fail at once, and ours are told all of it.
#[test]
fn a_cluster_with_certificates_of_the_callers_own_is_one_without_endpoints_to_grpcs_clients() {
    let files = || Credential::Files {
        certificate: Path::new("/c.pem").into(),
        key: Path::new("/k.pem").into(),
    };
    let outside = |roots, shown| {
        TlsMode::Origination(Box::new(TlsOrigination {
            roots,
            sni: Some("a.example".into()),
            names: Box::default(),
            shown,
            unverified: false,
        }))
    };
    let (file, named) = (Roots::File(Path::new("/r.pem").into()), Roots::Named("r".into()));
    for (mode, is_served) in [
        (outside(Roots::System, Some(files())), false),
        (outside(file, None), false),
        (outside(named, None), false),
        (outside(Roots::System, Some(Credential::Named("c".into()))), false),
        (outside(Roots::System, None), true),
        (outside(Roots::System, Some(Credential::Workload)), true),
        (TlsMode::Plaintext, true),
    ] {
        let endpoint = Endpoint::new(([127, 0, 0, 1], 1).into());
        let cluster = Cluster::new("c", mode.clone(), vec![endpoint]);
        let encoded = Encoded::new(&Snapshot::builder().cluster(cluster).build().unwrap(), None, 1).unwrap();
        let told = |dialect: Dialect| {
            let view = encoded.view(dialect);
            let bytes = view.of(ResourceKind::Cluster).resources.get("c").unwrap().clone();
            crate::proto::cluster::Cluster::decode(&*bytes).unwrap()
        };
        let (grpc, ours) = (told(Dialect::Grpc), told(Dialect::Mesh));
        let endpoints = |proto: &crate::proto::cluster::Cluster| proto.eds_cluster_config.clone().unwrap().service_name;
        assert_eq!(endpoints(&ours), "c", "{mode:?}");
        assert_eq!(ours.transport_socket.is_some(), mode != TlsMode::Plaintext, "{mode:?}");
        assert_eq!(endpoints(&grpc) == "c", is_served, "{mode:?}");
        let view = encoded.view(Dialect::Grpc);
        let nobody = view
            .of(ResourceKind::Endpoints)
            .resources
            .get(endpoints(&grpc).as_str())
            .cloned();
        let assignment = crate::proto::endpoint::ClusterLoadAssignment::decode(&*nobody.unwrap()).unwrap();
        assert_eq!(assignment.endpoints.is_empty(), !is_served, "{mode:?}");
        // Nothing of it names what they do not know, and nothing is in the clear that has an endpoint.
        assert_eq!(grpc.transport_socket == ours.transport_socket, is_served, "{mode:?}");
        assert!(is_served || grpc.transport_socket.is_none());
    }
}

/// What was told of a dialect is remembered over publishes at which nobody spoke it.
#[test]
fn a_version_outlives_a_publish_that_was_not_written() {
    let version = |encoded: &Encoded| Arc::clone(&encoded.view(Dialect::Sidecar).of(ResourceKind::Cluster).version);
    let one = Encoded::new(&snapshot(1), None, 1).unwrap();
    let told = version(&one);
    let (two, cost) = written(|| Encoded::new(&snapshot(2), Some(&one), 2).unwrap());
    assert_eq!(cost, 2 * CLUSTERS);
    let three = Encoded::new(&snapshot(3), Some(&two), 3).unwrap();
    assert_eq!(version(&three), told, "only endpoints changed");
}
