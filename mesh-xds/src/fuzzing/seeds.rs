//! What fuzzing begins with: small real resources as the serving end writes them, and the ways of peers that hurt.
//!
//! They are code, so that they follow the encoder; `tests/wire/corpus.rs` says how they are written to the corpus.

use std::time::Duration;

use mesh_core::config::{
    Backoff, Cluster, Endpoint, ExpectedPeers, Health, Localities, MutualTls, RateLimitedBackoff, ResetFormat,
    ResetHeader, RetryOn, RetryPolicy, Route, Snapshot, Split, StringMatch, TimeLimits, TlsMode,
};

use super::disk;
use super::stream::{SIDECAR, Speak};
use crate::encode::{self, Calls, Dialect};
use crate::node::{Node, NodeLocality};
use crate::resource::ResourceKind;
use crate::wire::{Delta, Raw, Sotw, bytes};

/// The least bootstrap there is.
const LEAST: &str = r#"{"xds_servers":[{"server_uri":"dns:///x:1","channel_creds":[{"type":"insecure"}]}]}"#;
/// One with most of what may be in it.
const FULL: &str = r#"{"xds_servers":[{"server_uri":"unix:///s","channel_creds":[{"type":"google_default"},
{"type":"tls","config":{"ca_certificate_file":"f"}}],"server_features":["xds_v3",{"a":1}]}],
"node":{"id":"sidecar~1.2.3.4~p.n~n.svc","cluster":"c","metadata":{"GENERATOR":"grpc","L":{"app":["x",1.5,null,true]}},
"locality":{"region":"r","zone":"z","sub_zone":"s"}},
"certificate_providers":{"default":{"plugin_name":"file_watcher","config":{"certificate_file":"c",
"private_key_file":"k","ca_certificate_file":"r","refresh_interval":"600s"}},
"other":{"plugin_name":"unknown","config":{}}},
"client_default_listener_resource_name_template":"a/%s/b","server_listener_resource_name_template":"s/%s",
"x_mesh":{"protocol":"delta"},"authorities":{},"unknown":[{}]}"#;
/// Deeper than protobuf decoders follow.
const DEEP: usize = 200;

/// Inputs by target.
pub fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut all = vec![
        ("listener", "by-name", encode::listener("t", "r", &Calls::default())),
        ("route", "all-to-one", routes("r", "c")),
        ("route", "split-and-retry", rich_routes()),
        ("cluster", "plaintext", cluster("c", TlsMode::Plaintext)),
        ("cluster", "mutual", cluster("c", mutual())),
        (
            "listener",
            "outbound",
            bytes::outbound_listener("0.0.0.0_80", 80, "80", Some("f")),
        ),
        ("listener", "inbound", bytes::inbound_listener("virtualInbound", 15006)),
        ("cluster", "dns", bytes::dns_cluster("c", "a.example")),
        ("cluster", "aggregate", bytes::aggregate_cluster("c", &["d", "e"])),
        ("extension_config", "fault", bytes::extension("f")),
        ("resource_name", "plain", b"outbound|80||a.example".to_vec()),
        (
            "resource_name",
            "structured",
            b"xdstp://a/envoy.config.listener.v3.Listener/b%2Fc/d?k=v&a=%7e#x".to_vec(),
        ),
        (
            "endpoints",
            "none",
            encode::endpoints(&"c".into(), &[], &[], &Localities::default()),
        ),
        ("endpoints", "three", endpoints("c")),
        ("envelope", "empty", Vec::new()),
        ("node", "istio", bytes::node(&istio_node())),
        ("node", "deep", deep_node()),
        ("bootstrap", "least", LEAST.into()),
        ("bootstrap", "full", FULL.into()),
        (
            "bootstrap",
            "duplicate",
            br#"{"xds_servers":[],"xds_servers":[]}"#.to_vec(),
        ),
        ("bootstrap", "deep", "[".repeat(400).into_bytes()),
        ("disk_copy", "whole", disk::body(&tree("t", "c"), true)),
        ("disk_copy", "other-names", disk::body(&tree("u", "c"), false)),
        ("disk_copy", "empty", Vec::new()),
    ];
    for (label, kind, inner) in tree("t", "c") {
        all.push(("envelope", label, bytes::envelope("x", kind.type_url(), inner)));
    }
    for (name, steps) in streams() {
        all.push(("sotw_response", name, steps.clone()));
        all.push(("delta_response", name, steps));
    }
    for (name, steps) in server_streams() {
        all.push(("sotw_request", name, steps.clone()));
        all.push(("delta_request", name, steps));
    }
    all.push(("load_report", "two", bytes::load_reports()));
    all.push(("status_request", "all", Vec::new()));
    all.push(("status_request", "matchers", bytes::status_request()));
    all.extend(super::beside::seeds());
    all.extend(super::filters::seeds());
    all.push(("sotw_response", "raw", raw_stream::<Sotw>()));
    all.push(("delta_response", "raw", raw_stream::<Delta>()));
    all
}

fn cluster(name: &str, tls: TlsMode) -> Vec<u8> {
    encode::cluster(&Cluster::new(name, tls, Vec::new()), Dialect::Mesh)
}

fn mutual() -> TlsMode {
    let names = ["spiffe://cluster.local/ns/a/sa/b", "spiffe://cluster.local/ns/a/sa/c"];
    let exact = names.map(|name| StringMatch::Exact(name.into()));
    let prefix = StringMatch::Prefix("spiffe://cluster.local/ns/b/".into());
    TlsMode::Mutual(MutualTls {
        expected: ExpectedPeers::new(exact.into_iter().chain([prefix]).collect()),
        sni: Some("outbound_.1_._.c".into()),
        ..MutualTls::default()
    })
}

fn endpoints(cluster: &str) -> Vec<u8> {
    let endpoint = |port, health, priority| Endpoint {
        health,
        priority,
        ..Endpoint::new(([127, 0, 0, 1], port).into())
    };
    let list = [
        endpoint(1, Health::Healthy, 0),
        endpoint(2, Health::Draining, 0),
        endpoint(3, Health::Unhealthy, 1),
    ];
    encode::endpoints(&cluster.into(), &list, &[], &Localities::default())
}

fn routes(name: &str, cluster: &str) -> Vec<u8> {
    encoded(name, Route::to(Split::all_to(cluster)), &[cluster])
}

fn rich_routes() -> Vec<u8> {
    let split = Split::weighted([("c".into(), 95), ("d".into(), 5)]).expect("the weights are not all 0");
    let mut route = Route::to(split);
    route.timeout = Some(Duration::from_millis(1500));
    route.retry = RetryPolicy {
        retries: 2,
        on: RetryOn::parse("connect-failure,5xx,unavailable"),
        per_try_timeout: Some(Duration::from_millis(100)),
        backoff: Backoff::new(Duration::from_millis(25), None).expect("an interval of more than 0"),
        statuses: [429, 503].into(),
        rate_limited: Some(RateLimitedBackoff {
            headers: [ResetHeader {
                name: http::header::RETRY_AFTER,
                format: ResetFormat::Seconds,
            }]
            .into(),
            max: RateLimitedBackoff::DEFAULT_MAX,
        }),
        hedge: true,
        ..RetryPolicy::default()
    };
    route.limits = TimeLimits {
        max_stream: Some(Duration::from_secs(60)),
        grpc_max: Some(Duration::ZERO),
        ..TimeLimits::default()
    };
    encoded("r", route, &["c", "d"])
}

fn encoded(name: &str, route: Route, clusters: &[&str]) -> Vec<u8> {
    let mut builder = Snapshot::builder().route(name, route);
    for cluster in clusters {
        builder = builder.cluster(Cluster::new(*cluster, TlsMode::Plaintext, Vec::new()));
    }
    let snapshot = builder.build().expect("every cluster is there");
    let tree = snapshot.target(name).and_then(|tree| tree.as_ref().ok());
    encode::routes(tree.expect("the target was added"))
}

fn istio_node() -> Node {
    let text = r#"{"id":"sidecar~10.0.0.1~p.n~n.svc.cluster.local","cluster":"p.n",
        "metadata":{"GENERATOR":"grpc","NAMESPACE":"n","LABELS":{"app":["p",1,true,null]}}}"#;
    Node {
        locality: NodeLocality {
            zone: "z".into(),
            ..NodeLocality::default()
        },
        features: vec!["envoy.lb.does_not_support_overprovisioning".into()],
        ..serde_json::from_str(text).expect("a node")
    }
}

/// A node whose metadata is a list in a list, and so on.
fn deep_node() -> Vec<u8> {
    let mut value = serde_json::Value::Null;
    for _ in 0..DEEP {
        value = vec![value].into();
    }
    let mut node = Node::default();
    node.metadata.insert("deep".into(), value);
    bytes::node(&node)
}

/// All that a target refers to.
fn tree(target: &str, name: &str) -> [(&'static str, ResourceKind, Vec<u8>); 4] {
    [
        (
            "listener",
            ResourceKind::Listener,
            encode::listener(target, target, &Calls::default()),
        ),
        ("route", ResourceKind::Route, routes(target, name)),
        ("cluster", ResourceKind::Cluster, cluster(name, TlsMode::Plaintext)),
        ("endpoints", ResourceKind::Endpoints, endpoints(name)),
    ]
}

fn streams() -> Vec<(&'static str, Vec<u8>)> {
    let whole = |target, name| {
        tree(target, name)
            .into_iter()
            .flat_map(|(_, kind, bytes)| step(1, kind, &bytes))
    };
    let whole: Vec<u8> = whole("t", "c").chain(whole("u", "c")).collect();
    let unlike = |tail: Vec<u8>| [whole.clone(), tail].concat();
    let two = [
        step(
            2,
            ResourceKind::Listener,
            &encode::listener("t", "t", &Calls::default()),
        ),
        step(
            1,
            ResourceKind::Listener,
            &encode::listener("u", "t", &Calls::default()),
        ),
    ];
    let said_in_silence = [
        vec![7 | 1 << 3],
        step(1, ResourceKind::Cluster, &[0xff; 9]),
        step(1, ResourceKind::Cluster, &cluster("c", mutual())),
        step(1, ResourceKind::Endpoints, &endpoints("c")),
        vec![7],
    ];
    let dns = [
        step(1, ResourceKind::Cluster, &bytes::dns_cluster("c", "a.example")),
        vec![5],
    ];
    let clusters = [
        step(2, ResourceKind::Cluster, &bytes::aggregate_cluster("c", &["d", "c"])),
        step(1, ResourceKind::Cluster, &bytes::dns_cluster("d", "a.example")),
        vec![5],
    ];
    vec![
        ("empty", Vec::new()),
        ("whole", whole.clone()),
        ("two-at-once", two.concat()),
        ("garbage-after-good", unlike(step(1, ResourceKind::Cluster, &[0xff; 9]))),
        (
            "refused-after-good",
            unlike(step(1, ResourceKind::Cluster, b"\x0a\x01c")),
        ),
        (
            "removed",
            unlike([step(3, ResourceKind::Cluster, b"c"), vec![5]].concat()),
        ),
        ("reconnected", unlike([vec![4], whole.clone()].concat())),
        (
            "unwanted-and-wanted",
            unlike([vec![6, 5, 6 | 7 << 3, 5 | 1 << 3, 6 | 1 << 3], whole.clone()].concat()),
        ),
        ("in-silence", unlike(said_in_silence.concat())),
        ("dns", unlike(dns.concat())),
        ("aggregate", unlike(clusters.concat())),
        ("sidecar", sidecar()),
        (
            "another-cluster",
            unlike([step(1, ResourceKind::Route, &routes("t", "d")), vec![5]].concat()),
        ),
    ]
}

/// What clients of each kind say to the serving end; the steps are those of `server::fuzzing`.
fn server_streams() -> Vec<(&'static str, Vec<u8>)> {
    let [listener, route, cluster, endpoints] = [0, 1, 2, 3].map(|at| ResourceKind::ALL[at]);
    let publish = |which: u8| vec![3 | which << 3];
    let speaks = || vec![7; 4];
    let envoy = [
        vec![2],
        publish(1),
        step(1, cluster, b""),
        speaks(),
        step(1, cluster, b""),
        step(1, endpoints, b"a"),
        step(1, listener, b""),
        speaks(),
        step(1, endpoints, b"a"),
        step(1, route, b"80"),
        speaks(),
        publish(3),
        speaks(),
    ];
    let grpc = [
        vec![1],
        publish(3),
        step(1, listener, b"t:80"),
        step(1, route, b"t:80"),
        speaks(),
        step(1, cluster, b"b\na"),
        step(1, endpoints, b"b\nc"),
        speaks(),
        publish(0),
        speaks(),
    ];
    let refuses = [
        vec![0],
        publish(3),
        vec![6 | 2 << 3],
        speaks(),
        step(
            2,
            cluster,
            b"node \"n\" refused 1 of the resources: cluster \"a\": x: is bad; ...",
        ),
        step(
            2,
            cluster,
            b"resource index 0: b: no, Cluster 'a' validation error: can't",
        ),
        publish(1),
        vec![4, 5 | 2 << 3],
        speaks(),
    ];
    vec![
        ("envoy", envoy.concat()),
        ("grpc", grpc.concat()),
        ("refuses", refuses.concat()),
    ]
}

/// What a sidecar hears, with one service of port 80 and a filter that is a resource.
fn sidecar() -> Vec<u8> {
    let name = "outbound|80||t";
    let steps = [
        vec![SIDECAR, 6 | 0b1011 << 3],
        step(
            2,
            ResourceKind::Listener,
            &bytes::outbound_listener("0.0.0.0_80", 80, "80", Some("f")),
        ),
        step(
            1,
            ResourceKind::Listener,
            &bytes::inbound_listener("virtualInbound", 15006),
        ),
        step(1, ResourceKind::ExtensionConfig, &bytes::extension("f")),
        step(1, ResourceKind::Route, &routes("80", name)),
        step(1, ResourceKind::Cluster, &cluster(name, TlsMode::Plaintext)),
        step(1, ResourceKind::Endpoints, &endpoints(name)),
    ];
    steps.concat()
}

/// A step that has a kind and bytes.
fn step(what: u8, kind: ResourceKind, bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("a seed is small").to_le_bytes();
    [&[what | (kind.index() as u8) << 3], &length[..], bytes].concat()
}

/// The same tree as whole messages.
fn raw_stream<V: Speak>() -> Vec<u8> {
    let steps = (1..).zip(tree("t", "c")).map(|(count, (_, kind, bytes))| {
        let raw = Raw {
            type_url: kind.type_url().into(),
            bytes,
        };
        let name = if kind.index() < 2 { "t" } else { "c" };
        let message = V::encode(V::response(kind, count, vec![(name.into(), raw)], None));
        let length = u16::try_from(message.len()).expect("a seed is small").to_le_bytes();
        [&[0], &length[..], &message].concat()
    });
    steps.flatten().collect()
}

#[cfg(test)]
mod tests {
    use mesh_core::Snapshot;

    use super::super::stream::drive;
    use super::*;

    /// A seed that is refused at the door would be no beginning.
    #[test]
    fn seeds_reach_what_they_are_meant_to_reach() {
        let clusters = |snapshot: Snapshot| snapshot.clusters().len();
        for (name, steps) in streams()
            .into_iter()
            .filter(|(name, _)| !["empty", "two-at-once"].contains(name))
        {
            assert!(clusters(drive::<Sotw>(&steps)) > 0, "{name}");
            assert!(clusters(drive::<Delta>(&steps)) > 0, "{name}");
        }
        assert_eq!(clusters(drive::<Sotw>(&raw_stream::<Sotw>())), 1);
        assert_eq!(clusters(drive::<Delta>(&raw_stream::<Delta>())), 1);
    }
}
