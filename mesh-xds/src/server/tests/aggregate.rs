//! Clusters that stand for others: told with those, and nobody waits for endpoints that they do not have.

use prost::Message as _;

use super::*;
use crate::proto::cluster::{Cluster as Proto, cluster::LbPolicy as LbEnum};

fn leaf(name: &str, port: u16) -> Arc<Cluster> {
    let endpoint = Endpoint::new(([127, 0, 0, 1], port).into());
    Arc::new(Cluster::new(name, TlsMode::Plaintext, vec![endpoint]))
}

/// One target `t`, routed to `all`, which stands for these.
fn standing_for(leaves: &[Arc<Cluster>]) -> mesh_core::config::SnapshotBuilder {
    Snapshot::builder()
        .route("t", Route::to(Split::all_to("all")))
        .cluster(Cluster::aggregate("all".into(), leaves.into()))
}

fn names(published: &Encoded, dialect: Dialect, kind: ResourceKind) -> Vec<String> {
    let view = published.view(dialect);
    view.of(kind)
        .resources
        .iter()
        .map(|(name, _)| name.to_string())
        .collect()
}

#[test]
fn leaves_are_clusters_like_others_and_have_the_endpoints() {
    let snapshot = standing_for(&[leaf("x", 1), leaf("y", 2)]).build().unwrap();
    let published = encoded(&snapshot, None, 1);
    let envoy = Dialect::Envoy(crate::encode::EGRESS_ADDRESS);
    for (dialect, policy) in [
        (Dialect::Mesh, LbEnum::RoundRobin),
        (Dialect::Grpc, LbEnum::RoundRobin),
        (Dialect::Sidecar, LbEnum::RoundRobin),
        (envoy, LbEnum::ClusterProvided),
    ] {
        assert_eq!(names(&published, dialect, CDS), ["all", "x", "y"], "{dialect:?}");
        assert_eq!(names(&published, dialect, EDS), ["x", "y"], "{dialect:?}");
        let view = published.view(dialect);
        let all = Proto::decode(&*view.of(CDS).resources["all"]).unwrap();
        assert_eq!(all.lb_policy(), policy, "{dialect:?}");
    }
}

#[test]
fn a_route_follows_when_the_leaves_are_warm() {
    let snapshot = standing_for(&[leaf("x", 1), leaf("y", 2)]).build().unwrap();
    let published = encoded(&snapshot, None, 1);
    let mut client = Client::new(Dialect::Grpc);
    client.asks(CDS, "", &[]);
    client.asks(RDS, "", &["t"]);
    let clusters = client.hears(&published);
    assert_eq!((clusters.kind(), clusters.resources.len()), (Some(CDS), 3));
    client.asks(CDS, &clusters.nonce, &[]);
    client.hears_nothing(&published);
    client.asks(EDS, "", &["x", "y"]);
    let endpoints = client.hears(&published);
    assert_eq!((endpoints.kind(), endpoints.resources.len()), (Some(EDS), 2));
    client.hears_nothing(&published);
    client.asks(EDS, &endpoints.nonce, &["x", "y"]);
    assert_eq!(client.hears(&published).kind(), Some(RDS));
}

#[test]
fn a_leaf_that_is_no_more_stays_as_a_cluster_would() {
    let before = encoded(&standing_for(&[leaf("x", 1), leaf("y", 2)]).build().unwrap(), None, 1);
    let mut client = Client::new(Dialect::Grpc);
    for (kind, asked) in [(CDS, &["all", "x", "y"][..]), (EDS, &["x", "y"]), (RDS, &["t"])] {
        client.asks(kind, "", asked);
        let response = client.hears(&before);
        client.asks(kind, &response.nonce, asked);
    }
    client.hears_nothing(&before);
    let after = encoded(&standing_for(&[leaf("x", 1)]).build().unwrap(), Some(&before), 2);
    let routes = |published: &Encoded| {
        let view = published.view(Dialect::Grpc);
        let set = view.of(RDS);
        (
            Arc::clone(&set.version),
            set.clusters["t"].iter().cloned().collect::<Vec<_>>(),
        )
    };
    let ((version, led), (same, leads)) = (routes(&before), routes(&after));
    assert_eq!(version, same, "the routes are what they were");
    assert_eq!((led.len(), leads), (3, vec![Arc::from("all"), Arc::from("x")]));
    // The client has calls on their way to the other leaf until it lets go of the name.
    let told = client.hears(&after);
    assert_eq!((told.kind(), told.resources.len()), (Some(CDS), 3));
    client.asks(CDS, &told.nonce, &["all", "x"]);
    client.hears_nothing(&after);
}

#[test]
fn two_clusters_of_one_name_are_not_published() {
    let own = Cluster::clone(&leaf("x", 1));
    let snapshot = standing_for(&[leaf("x", 1)]).cluster(own.clone()).build().unwrap();
    assert_eq!(names(&encoded(&snapshot, None, 1), Dialect::Mesh, CDS), ["all", "x"]);
    let snapshot = standing_for(&[leaf("x", 2)]).cluster(own).build().unwrap();
    let error = Encoded::new(&snapshot, None, 1).unwrap_err();
    assert_eq!(error.to_string(), "two different clusters are named \"x\"");
}
