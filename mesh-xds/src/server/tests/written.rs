//! How much is written for whom: a publish costs what those who are connected ask for.

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
