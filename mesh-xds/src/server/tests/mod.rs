//! What a client is sent and what is made of what it says.

mod aggregate;
mod converge;
mod delta;
mod load;
mod order;
mod release;
mod services;
mod slow;
mod written;

use std::sync::Arc;

use mesh_core::Snapshot;
use mesh_core::config::{
    Cluster, ClusterName, Domain, Endpoint, LbPolicy, Reason, ReasonKind, Route, RouteTree, Split, TlsMode, VirtualHost,
};
use tokio::time::Instant;

use super::ads::StreamState;
use super::clients::Acknowledged;
use super::encoded::Encoded;
use super::machine::Machine;
use super::*;
use crate::decode::{Context, decode};
use crate::encode::Dialect;
use crate::node::Node;
use crate::resource::{ClusterSpec, ResourceKind};
use crate::wire::{Request, Response};

const LDS: ResourceKind = ResourceKind::Listener;
const RDS: ResourceKind = ResourceKind::Route;
const CDS: ResourceKind = ResourceKind::Cluster;
const EDS: ResourceKind = ResourceKind::Endpoints;

/// One target `t` that routes to `routed`, and clusters with a port each.
fn snapshot(routed: &str, clusters: &[(&str, u16)]) -> Snapshot {
    let mut builder = Snapshot::builder().route("t", Route::to(Split::all_to(routed)));
    for (name, port) in clusters {
        let endpoint = Endpoint::new(([127, 0, 0, 1], *port).into());
        builder = builder.cluster(Cluster::new(*name, TlsMode::Plaintext, vec![endpoint]));
    }
    builder.build().unwrap()
}

fn encoded(snapshot: &Snapshot, previous: Option<&Encoded>, generation: u64) -> Encoded {
    Encoded::new(snapshot, previous, generation).unwrap()
}

fn request(kind: ResourceKind, nonce: &str, names: &[&str]) -> Request {
    Request {
        type_url: kind.type_url().into(),
        nonce: nonce.into(),
        names: names.iter().map(|name| Arc::from(*name)).collect(),
        ..Request::default()
    }
}

/// The dialect of a client of this name.
fn of(user_agent: &str) -> Dialect {
    let node = Node {
        user_agent: user_agent.into(),
        ..Node::default()
    };
    Dialect::of(&node).unwrap()
}

/// A client that answers everything, and what it was sent.
struct Client {
    state: StreamState,
    dialect: Dialect,
}

impl Client {
    fn new(dialect: Dialect) -> Self {
        Self {
            state: StreamState::new(dialect),
            dialect,
        }
    }

    fn asks(&mut self, kind: ResourceKind, nonce: &str, names: &[&str]) {
        self.state.on_request(request(kind, nonce, names)).unwrap();
    }

    #[track_caller]
    fn hears(&mut self, published: &Encoded) -> Response {
        self.state
            .next_response(&published.view(self.dialect), Instant::now())
            .expect("there is something to send")
    }

    #[track_caller]
    fn hears_nothing(&mut self, published: &Encoded) {
        let response = self.state.next_response(&published.view(self.dialect), Instant::now());
        assert!(response.is_none(), "{response:?}");
    }

    fn said(&self, kind: ResourceKind) -> Acknowledged {
        let report = self.state.report();
        let one = report.iter().find(|subscription| subscription.kind == kind).unwrap();
        one.acknowledged.clone()
    }

    /// The versions that were sent, and accepted, last.
    fn versions(&self, kind: ResourceKind) -> (Option<Arc<str>>, Option<Arc<str>>) {
        let report = self.state.report();
        let one = report.iter().find(|subscription| subscription.kind == kind).unwrap();
        (one.sent.clone(), one.accepted.clone())
    }
}

#[test]
fn only_what_was_asked_for_is_sent() {
    let published = encoded(&snapshot("c", &[("c", 1), ("d", 2)]), None, 1);
    let mut client = Client::new(Dialect::Grpc);
    client.hears_nothing(&published);
    client.asks(EDS, "", &["c"]);
    let response = client.hears(&published);
    assert_eq!((response.kind(), response.resources.len()), (Some(EDS), 1));
    client.hears_nothing(&published);
    let mut unknown = request(EDS, "", &["x"]);
    unknown.type_url = "type.googleapis.com/x.Y".into();
    client.state.on_request(unknown).unwrap();
    client.hears_nothing(&published);
}

#[test]
fn a_second_request_without_a_nonce_is_answered_and_the_old_nonce_is_stale() {
    let published = encoded(&snapshot("c", &[("c", 1), ("d", 2)]), None, 1);
    let mut client = Client::new(Dialect::Grpc);
    client.asks(CDS, "", &["c"]);
    let first = client.hears(&published);
    client.asks(CDS, "", &["c", "d"]);
    let second = client.hears(&published);
    assert_eq!(second.resources.len(), 2);
    // The acknowledgement of the first comes late: nothing is taken from it.
    client.asks(CDS, &first.nonce, &["c"]);
    assert_eq!(client.said(CDS), Acknowledged::Waiting);
    client.hears_nothing(&published);
    client.asks(CDS, &second.nonce, &["c", "d"]);
    assert_eq!(client.said(CDS), Acknowledged::Accepted);
    client.hears_nothing(&published);
}

#[test]
fn listeners_and_clusters_are_always_told_whole_and_routes_and_endpoints_by_difference() {
    let one = encoded(&snapshot("c", &[("c", 1), ("d", 2)]), None, 1);
    let mut client = Client::new(Dialect::Grpc);
    for kind in [CDS, EDS] {
        client.asks(kind, "", &["c", "d"]);
        client.hears(&one);
    }
    let mut changed = Cluster::new("d", TlsMode::Plaintext, vec![Endpoint::new(([127, 0, 0, 1], 3).into())]);
    changed.breakers.default.max_requests = 7;
    let snapshot = Snapshot::builder()
        .route("t", Route::to(Split::all_to("c")))
        .cluster(Cluster::new(
            "c",
            TlsMode::Plaintext,
            vec![Endpoint::new(([127, 0, 0, 1], 1).into())],
        ))
        .cluster(changed)
        .build()
        .unwrap();
    let two = encoded(&snapshot, Some(&one), 2);
    let (clusters, endpoints) = (client.hears(&two), client.hears(&two));
    assert_eq!((clusters.kind(), clusters.resources.len()), (Some(CDS), 2));
    assert_eq!((endpoints.kind(), endpoints.resources.len()), (Some(EDS), 1));
    client.hears_nothing(&two);
}

#[test]
fn kinds_that_did_not_change_keep_their_version_and_are_not_sent_again() {
    let one = encoded(&snapshot("c", &[("c", 1)]), None, 1);
    let two = encoded(&snapshot("c", &[("c", 2)]), Some(&one), 2);
    for kind in [LDS, RDS, CDS] {
        assert_eq!(
            one.view(Dialect::Grpc).of(kind).version,
            two.view(Dialect::Grpc).of(kind).version
        );
    }
    assert_ne!(
        one.view(Dialect::Grpc).of(EDS).version,
        two.view(Dialect::Grpc).of(EDS).version
    );
    // The same content after a restart goes by another version than other content of the same generation.
    let restarted = encoded(&snapshot("c", &[("c", 2)]), None, 1);
    assert_ne!(
        one.view(Dialect::Grpc).of(EDS).version,
        restarted.view(Dialect::Grpc).of(EDS).version
    );
}

#[test]
fn a_refusal_is_known_by_its_error_and_not_taken_back_by_a_later_subscription() {
    let published = encoded(&snapshot("c", &[("c", 1), ("d", 2)]), None, 1);
    let mut client = Client::new(Dialect::Grpc);
    client.asks(CDS, "", &["c"]);
    let sent = client.hears(&published);
    let mut nack = request(CDS, &sent.nonce, &["c"]);
    // Some clients send the refused version with their refusal.
    (nack.version, nack.error) = (sent.version, Some("bad".into()));
    client.state.on_request(nack).unwrap();
    assert_eq!(client.said(CDS), Acknowledged::Refused("bad".into()));
    client.hears_nothing(&published);
    client.asks(CDS, &sent.nonce, &["c", "d"]);
    assert_eq!(client.said(CDS), Acknowledged::Refused("bad".into()));
    assert_eq!(client.hears(&published).resources.len(), 2);
}

#[test]
fn what_was_accepted_last_is_known_while_what_came_after_is_refused() {
    let set = [("c", 1), ("d", 2)];
    let one = encoded(&snapshot("c", &set[..1]), None, 1);
    let two = encoded(&snapshot("c", &set), Some(&one), 2);
    let mut client = Client::new(Dialect::Grpc);
    client.asks(CDS, "", &["*"]);
    let first = client.hears(&one);
    let v1 = Some(Arc::from(first.version.as_str()));
    assert_eq!(
        client.versions(CDS),
        (v1.clone(), None),
        "nothing is accepted before its answer"
    );
    client.asks(CDS, &first.nonce, &["*"]);
    assert_eq!(client.versions(CDS), (v1.clone(), v1.clone()));
    let second = client.hears(&two);
    let v2 = Some(Arc::from(second.version.as_str()));
    assert_eq!(client.versions(CDS), (v2.clone(), v1.clone()));
    let mut nack = request(CDS, &second.nonce, &["*"]);
    nack.error = Some("bad".into());
    client.state.on_request(nack).unwrap();
    assert_eq!(client.said(CDS), Acknowledged::Refused("bad".into()));
    assert_eq!(client.versions(CDS), (v2, v1.clone()));
    // And through the next, until that is accepted.
    let three = encoded(&snapshot("c", &set[..1]), Some(&two), 3);
    let third = client.hears(&three);
    let v3 = Some(Arc::from(third.version.as_str()));
    assert_eq!(client.versions(CDS), (v3.clone(), v1));
    client.asks(CDS, &third.nonce, &["*"]);
    assert_eq!(client.versions(CDS), (v3.clone(), v3));
}

#[test]
fn clusters_come_before_the_routes_that_need_them_and_go_after() {
    let old = encoded(&snapshot("a", &[("a", 1)]), None, 1);
    let mut client = Client::new(Dialect::Grpc);
    let mut nonces = std::collections::BTreeMap::new();
    for (kind, names) in [(LDS, "t"), (RDS, "t"), (CDS, "a"), (EDS, "a")] {
        client.asks(kind, "", &[names]);
        let response = client.hears(&old);
        client.asks(kind, &response.nonce, &[names]);
        nonces.insert(kind, response.nonce);
    }
    client.hears_nothing(&old);
    // From a to b. The client learns of b by the route, so it is still subscribed to a.
    let new = encoded(&snapshot("b", &[("b", 2)]), Some(&old), 2);
    let response = client.hears(&new);
    assert_eq!(
        response.kind(),
        Some(RDS),
        "a is neither deleted nor sent again before the routes are settled"
    );
    client.hears_nothing(&new);
    client.asks(RDS, &response.nonce, &["t"]);
    client.hears_nothing(&new);
    // It holds a for its calls. What it is told has a in it, until it asks for a no more.
    client.asks(CDS, &nonces[&CDS], &["a", "b"]);
    let response = client.hears(&new);
    assert_eq!((response.kind(), response.resources.len()), (Some(CDS), 2));
    client.asks(CDS, &response.nonce, &["b"]);
    client.hears_nothing(&new);
}

#[test]
fn a_cluster_held_for_the_routes_is_in_every_response_until_then() {
    let old = encoded(&snapshot("a", &[("a", 1)]), None, 1);
    let mut client = Client::new(Dialect::Grpc);
    let mut endpoints = String::new();
    for (kind, name) in [(CDS, "*"), (EDS, "a"), (RDS, "t")] {
        client.asks(kind, "", &[name]);
        let response = client.hears(&old);
        client.asks(kind, &response.nonce, &[name]);
        if kind == EDS {
            endpoints = response.nonce;
        }
    }
    let new = encoded(&snapshot("b", &[("b", 2)]), Some(&old), 2);
    let clusters = client.hears(&new);
    assert_eq!((clusters.kind(), clusters.resources.len()), (Some(CDS), 2));
    assert!(clusters.version.ends_with("+held"));
    client.asks(CDS, &clusters.nonce, &["*"]);
    client.asks(EDS, &endpoints, &["a", "b"]);
    let endpoints = client.hears(&new);
    client.asks(EDS, &endpoints.nonce, &["a", "b"]);
    let routes = client.hears(&new);
    assert_eq!(routes.kind(), Some(RDS));
    client.asks(RDS, &routes.nonce, &["t"]);
    assert_eq!(client.hears(&new).resources.len(), 1);
    client.hears_nothing(&new);
}

#[test]
fn a_wildcard_is_an_empty_first_list_or_a_star_and_ends_with_names() {
    let published = encoded(&snapshot("c", &[("c", 1), ("d", 2)]), None, 1);
    for first in [&[][..], &["*"][..]] {
        let mut client = Client::new(Dialect::Grpc);
        client.asks(CDS, "", first);
        let all = client.hears(&published);
        assert_eq!(all.resources.len(), 2);
        client.asks(CDS, &all.nonce, first);
        client.hears_nothing(&published);
        client.asks(CDS, &all.nonce, &["c"]);
        client.hears_nothing(&published);
        let more = encoded(&snapshot("c", &[("c", 1), ("d", 2), ("e", 3)]), Some(&published), 2);
        client.hears_nothing(&more);
        // After names an empty list means nothing, not everything.
        client.asks(CDS, &all.nonce, &[]);
        client.hears_nothing(&more);
        client.asks(CDS, &all.nonce, &["*"]);
        assert_eq!(client.hears(&more).resources.len(), 3);
    }
    let mut client = Client::new(Dialect::Grpc);
    client.asks(EDS, "", &[]);
    client.hears_nothing(&published);
}

#[test]
fn our_own_client_is_told_at_once_what_does_not_exist() {
    let published = encoded(&snapshot("c", &[("c", 1)]), None, 1);
    let mut others = Client::new(Dialect::Grpc);
    others.asks(LDS, "", &["gone"]);
    assert_eq!(others.hears(&published).errors, []);
    for (kind, names) in [(LDS, &["gone", "t"]), (EDS, &["gone", "c"])] {
        let mut ours = Client::new(Dialect::Mesh);
        ours.asks(kind, "", names);
        let response = ours.hears(&published);
        assert_eq!((response.resources.len(), response.errors.len()), (1, 1));
        assert_eq!(response.errors[0].name, "gone");
        ours.asks(kind, &response.nonce, names);
        ours.hears_nothing(&published);
    }
}

#[test]
fn cp_7_what_was_told_not_to_exist_is_sent_when_it_comes_back_with_the_bytes_it_had() {
    let one = encoded(&snapshot("c", &[("c", 1), ("d", 2)]), None, 1);
    let without = encoded(&snapshot("c", &[("c", 1)]), Some(&one), 2);
    let mut client = Client::new(Dialect::Mesh);
    client.asks(EDS, "", &["d"]);
    assert_eq!(client.hears(&one).resources.len(), 1);
    assert_eq!(client.hears(&without).errors.len(), 1);
    assert_eq!(client.hears(&one).resources.len(), 1);
    client.hears_nothing(&one);
}

#[test]
fn only_our_own_client_is_told_of_least_request() {
    let published = encoded(&snapshot("c", &[("c", 1)]), None, 1);
    let told = |dialect| {
        let mut client = Client::new(dialect);
        client.asks(CDS, "", &["c"]);
        let raw = client.hears(&published).resources.remove(0);
        decode::<ClusterSpec>(&raw, &Context::default())
            .unwrap()
            .value
            .unwrap()
            .cluster
            .lb
    };
    assert_eq!(told(of("mesh-xds")), LbPolicy::LEAST_REQUEST);
    assert_eq!(told(of("gRPC C-core linux")), LbPolicy::RoundRobin);
}

#[test]
fn what_clients_would_refuse_is_not_published_and_the_group_keeps_what_it_had() {
    let cache = SnapshotCache::new();
    let good = snapshot("c", &[("c", 1)]);
    let versions = cache.publish("g", &good).unwrap();
    let twice = vec![Endpoint::new(([127, 0, 0, 1], 1).into()); 2];
    let bad = Snapshot::builder()
        .cluster(Cluster::new("c", TlsMode::Plaintext, twice))
        .build()
        .unwrap();
    let error = cache.publish("g", &bad).unwrap_err();
    let rejected = error.rejected().unwrap();
    assert_eq!((rejected.kind(), rejected.resource()), (EDS, "c"));
    assert_eq!(cache.publish("g", &good).unwrap(), versions);
}

#[test]
fn several_groups_are_published_to_and_others_retired_or_nothing_is() {
    let cache = SnapshotCache::new();
    let (first, second) = (snapshot("c", &[("c", 1)]), snapshot("c", &[("c", 2)]));
    let versions = cache.publish_all([("a", &first), ("b", &first)], []).unwrap();
    let mut told = cache.watch("a").unwrap();
    told.mark_unchanged();
    let old = cache.watch("b").unwrap();

    let twice = vec![Endpoint::new(([127, 0, 0, 1], 1).into()); 2];
    let bad = Snapshot::builder()
        .cluster(Cluster::new("c", TlsMode::Plaintext, twice))
        .build()
        .unwrap();
    // The good one comes first, and goes out no more than the bad one.
    cache.publish_all([("a", &second), ("z", &bad)], ["b"]).unwrap_err();
    assert!(!told.has_changed().unwrap());
    assert!(old.has_changed().is_ok(), "it is not retired");
    assert_eq!(cache.publish_all([("a", &first)], []).unwrap()["a"], versions["a"]);

    told.mark_unchanged();
    let versions = cache.publish_all([("a", &second)], ["b"]).unwrap();
    assert!(told.has_changed().unwrap());
    assert!(old.has_changed().is_err(), "its streams have ended");
    assert_eq!(versions.keys().map(|group| &**group).collect::<Vec<_>>(), ["a"]);
}

#[test]
fn two_trees_of_one_name_are_not_published() {
    let tree = |domain: &str| {
        let host = VirtualHost::new("h", vec![Domain::parse(domain).unwrap()], Vec::new());
        Ok(Arc::new(RouteTree::new("same", vec![host])))
    };
    let build = |second| {
        Snapshot::builder()
            .target("a", tree("x"))
            .target("b", tree(second))
            .build()
            .unwrap()
    };
    let cache = SnapshotCache::new();
    assert!(cache.publish("g", &build("x")).is_ok());
    assert!(
        cache
            .publish("g", &build("y"))
            .unwrap_err()
            .to_string()
            .contains("\"same\"")
    );
}

/// In state of the world, where a response holds some endpoints and not others.
#[test]
fn a_refusal_stands_until_what_it_names_is_accepted() {
    let ports = |c, d| snapshot("c", &[("c", c), ("d", d)]);
    let one = encoded(&ports(1, 1), None, 1);
    let mut client = Client::new(Dialect::Mesh);
    let both = &["c", "d"];
    client.asks(EDS, "", both);
    let answers = |client: &mut Client, response: Response, error: Option<&str>| {
        let mut answer = request(EDS, &response.nonce, both);
        answer.error = error.map(String::from);
        client.state.on_request(answer).unwrap();
    };
    let why = "node \"n\" refused 1 of the resources: endpoints \"c\": lb_endpoints: is bad";
    let response = client.hears(&one);
    answers(&mut client, response, Some(why));
    let two = encoded(&ports(1, 2), Some(&one), 2);
    let response = client.hears(&two);
    assert_eq!(response.resources.len(), 1, "d alone");
    answers(&mut client, response, None);
    assert_eq!(
        client.said(EDS),
        Acknowledged::Refused(why.into()),
        "c is refused still"
    );
    let three = encoded(&ports(3, 2), Some(&two), 3);
    let response = client.hears(&three);
    assert_eq!(client.said(EDS), Acknowledged::Waiting);
    answers(&mut client, response, None);
    assert_eq!(client.said(EDS), Acknowledged::Accepted);
    // Of what is not named, because the text was cut, nobody knows; and it is not accepted by accepting something else.
    let four = encoded(&ports(4, 4), Some(&three), 4);
    let response = client.hears(&four);
    answers(&mut client, response, Some(&format!("{why}; ...")));
    let five = encoded(&ports(5, 4), Some(&four), 5);
    let response = client.hears(&five);
    answers(&mut client, response, None);
    assert_eq!(client.said(EDS), Acknowledged::Waiting);
    let six = encoded(&ports(5, 6), Some(&five), 6);
    let response = client.hears(&six);
    answers(&mut client, response, None);
    assert_eq!(client.said(EDS), Acknowledged::Accepted);
}

#[test]
fn what_is_an_error_in_the_snapshot_is_not_sent() {
    let gone: ClusterName = "gone".into();
    let reason = Reason::new(ReasonKind::NoCluster, "no");
    let snapshot = Snapshot::builder()
        .route("t", Route::to(Split::all_to(gone.clone())))
        .resolved_cluster(gone, Err(reason))
        .build()
        .unwrap();
    let published = encoded(&snapshot, None, 1);
    assert!(published.view(Dialect::Mesh).of(CDS).resources.is_empty());
    assert_eq!(published.view(Dialect::Mesh).of(RDS).resources.len(), 1);
}

/// The client drops a name and asks for it again before its first word counts, since it answers an older response.
#[test]
fn what_was_dropped_and_is_asked_for_again_is_sent_again() {
    let one = encoded(&snapshot("c", &[("c", 1), ("d", 2)]), None, 1);
    let two = encoded(&snapshot("c", &[("c", 3), ("d", 2)]), Some(&one), 2);
    let mut client = Client::new(Dialect::Grpc);
    client.asks(EDS, "", &["c", "d"]);
    let first = client.hears(&one);
    let second = client.hears(&two);
    assert_eq!(second.resources.len(), 1, "c alone");
    client.asks(EDS, &first.nonce, &["c"]);
    client.hears_nothing(&two);
    client.asks(EDS, &second.nonce, &["c", "d"]);
    assert_eq!(client.hears(&two).resources.len(), 1, "d");
    client.hears_nothing(&two);
}
