//! Traffic policies: precedence by rule, port and subset; what each block becomes; and whom a client calls by where it is.

use std::num::NonZeroU32;
use std::time::Duration;

use mesh_core::config::{
    Action, Cluster, Credential, HashBy, LbPolicy, Maglev, OutlierRules, Percent, RingHash, Roots, TlsMode,
};

use super::*;

const SERVICE: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: pay, namespace: default}
spec:
  hosts: [pay.default.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 90, name: grpc, protocol: GRPC}
  endpoints:
  - {address: 10.0.0.1, labels: {version: v1}, locality: eu/a/1, serviceAccount: pay}
  - {address: 10.0.0.2, labels: {version: v1}, locality: eu/a/2, serviceAccount: pay}
  - {address: 10.0.0.3, labels: {version: v2}, locality: eu/b/1, serviceAccount: pay}
  - {address: 10.0.0.4, labels: {version: v2}, locality: us/a/1, serviceAccount: pay}
  - {address: 10.0.0.5, labels: {version: v2}, locality: asia/a/1, weight: 3, serviceAccount: pay}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: pay, namespace: default}
spec:
  host: pay
";

fn translated(policy: &str, place: &[&str]) -> Translation {
    let mut documents = Documents::default();
    let text = format!("{SERVICE}{policy}");
    let mut diagnostics = documents.read("f.yaml", &text);
    if diagnostics.iter().any(Diagnostic::is_error) {
        return Translation {
            snapshot: None,
            diagnostics,
            origins: None,
        };
    }
    let scope = ClientScope::namespace("default").at(ClientPlace::new(place.iter().copied()));
    let mut translation = translate(&documents, &Mesh::default(), &scope);
    diagnostics.append(&mut translation.diagnostics);
    Translation {
        diagnostics,
        ..translation
    }
}

fn cluster_of(policy: &str, port: u32, subset: &str, place: &[&str]) -> Cluster {
    let translation = translated(policy, place);
    let snapshot = translation
        .snapshot
        .unwrap_or_else(|| panic!("{:?}", translation.diagnostics));
    let name = cluster::name("pay.default.svc.cluster.local", port, subset);
    (**snapshot.cluster(&name).unwrap().as_ref().unwrap()).clone()
}

#[test]
fn blocks_replace_blocks_and_ports_replace_all() {
    let policy = "
  trafficPolicy:
    loadBalancer: {simple: RANDOM}
    connectionPool: {tcp: {maxConnections: 7}}
    portLevelSettings:
    - port: {number: 90}
      loadBalancer: {simple: ROUND_ROBIN}
  subsets:
  - name: v1
    labels: {version: v1}
    trafficPolicy:
      connectionPool: {http: {http2MaxRequests: 3}}
  - name: v2
    labels: {version: v2}
    trafficPolicy:
      portLevelSettings:
      - port: {number: 80}
        outlierDetection: {}
";
    let told = |port, subset| {
        let cluster = cluster_of(policy, port, subset, &[]);
        let limits = cluster.breakers.default;
        let limit = |limit: u32| (limit != u32::MAX).then_some(limit);
        (
            cluster.lb,
            limit(limits.max_connections),
            limit(limits.max_requests),
            cluster.outlier.is_some(),
        )
    };
    let least = LbPolicy::LEAST_REQUEST;
    let cases = [
        ((80, ""), (LbPolicy::Random, Some(7), None, false)),
        // What the port does not say is not what stands above.
        ((90, ""), (LbPolicy::RoundRobin, None, None, false)),
        // The whole block, and no other.
        ((80, "v1"), (LbPolicy::Random, None, Some(3), false)),
        ((90, "v1"), (LbPolicy::RoundRobin, None, Some(3), false)),
        // All four blocks.
        ((80, "v2"), (least, None, None, true)),
        ((90, "v2"), (LbPolicy::RoundRobin, None, None, false)),
    ];
    for ((port, subset), expected) in cases {
        assert_eq!(told(port, subset), expected, "{port} {subset:?}");
    }
}

#[test]
fn a_connection_pool_says_all_that_a_cluster_knows() {
    let cluster = cluster_of(
        "
  trafficPolicy:
    connectionPool:
      tcp:
        maxConnections: 1
        connectTimeout: 2s
        maxConnectionDuration: 1h
        tcpKeepalive: {probes: 3, time: 4s, interval: 5s}
      http:
        http1MaxPendingRequests: 6
        http2MaxRequests: 7
        maxRequestsPerConnection: 8
        maxRetries: 9
        idleTimeout: 10s
        maxConcurrentStreams: 11
        http2KeepAlive: {interval: 12s, timeout: 13s}
",
        80,
        "",
        &[],
    );
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let limits = cluster.breakers.high;
    assert_eq!(
        (limits.max_connections, limits.max_pending_requests, limits.max_requests),
        (1, 6, 7)
    );
    assert_eq!(
        (limits.retries.max, Some(cluster.connect_timeout)),
        (Some(9), seconds(2))
    );
    let connections = &cluster.connections;
    assert_eq!(
        (connections.idle_timeout, connections.max_age, connections.max_requests),
        (seconds(10), seconds(3600), NonZeroU32::new(8))
    );
    let tcp = connections.tcp_keep_alive.unwrap();
    assert_eq!((tcp.probes, tcp.time, tcp.interval), (Some(3), seconds(4), seconds(5)));
    let alive = connections.http2.keep_alive.unwrap();
    assert_eq!((Some(alive.interval), Some(alive.timeout)), (seconds(12), seconds(13)));
    assert_eq!(connections.http2.max_streams, NonZeroU32::new(11));
}

/// Istio: five errors once the block is there, success rates off, panic off.
#[test]
fn outlier_detection_with_istios_defaults() {
    let of = |block: &str| {
        cluster_of(
            &format!("  trafficPolicy: {{outlierDetection: {block}}}\n"),
            80,
            "",
            &[],
        )
    };
    let cluster = of("{}");
    let outlier = cluster.outlier.unwrap();
    assert_eq!(outlier.rules, OutlierRules::Envoy);
    assert_eq!(
        (outlier.consecutive_5xx.count, outlier.consecutive_5xx.enforcing),
        (5, Percent::ALL)
    );
    assert_eq!(outlier.consecutive_gateway_failure.enforcing, Percent::ZERO);
    assert_eq!(outlier.success_rate.enforcing, Percent::ZERO);
    assert_eq!(
        (outlier.max_ejection_percent.get(), outlier.always_eject_one_host),
        (10, true)
    );
    assert_eq!(cluster.common_lb.panic_threshold, Percent::ZERO);
    let cluster = of(
        "{consecutive5xxErrors: 0, consecutiveGatewayErrors: 2, interval: 1s, baseEjectionTime: 10m, \
                      maxEjectionPercent: 100, minHealthPercent: 30, splitExternalLocalOriginErrors: true, \
                      consecutiveLocalOriginFailures: 4}",
    );
    let outlier = cluster.outlier.unwrap();
    assert_eq!(
        (outlier.consecutive_5xx.count, outlier.consecutive_5xx.enforcing),
        (0, Percent::ZERO)
    );
    let gateway = outlier.consecutive_gateway_failure;
    assert_eq!((gateway.count, gateway.enforcing), (2, Percent::ALL));
    assert_eq!(outlier.interval, Duration::from_secs(1));
    let ten_minutes = Duration::from_secs(600);
    assert_eq!(
        (outlier.base_ejection_time, outlier.max_ejection_time),
        (ten_minutes, ten_minutes)
    );
    assert_eq!(outlier.consecutive_local_origin_failure.count, 4);
    assert!(outlier.split_external_local_origin_errors);
    assert_eq!(outlier.max_ejection_percent, Percent::ALL);
    assert_eq!(cluster.common_lb.panic_threshold.get(), 30);
}

#[test]
fn consistent_hashing_names_a_policy_and_what_routes_hash() {
    let told = |hash: &str| {
        let policy = format!("  trafficPolicy: {{loadBalancer: {{consistentHash: {hash}}}}}\n");
        let translation = translated(&policy, &[]);
        let snapshot = translation
            .snapshot
            .unwrap_or_else(|| panic!("{:?}", translation.diagnostics));
        let tree = snapshot.target("pay:80").unwrap().as_ref().unwrap();
        let route = &tree.virtual_hosts[0].routes[0];
        let Action::Forward(forward) = &route.action else {
            panic!("{route:?}")
        };
        let [policy] = &forward.hash[..] else {
            panic!("{route:?}")
        };
        assert!(!route.retry.hosts.other_hosts, "tries keep to the host of the hash");
        (
            cluster_of(
                &format!("  trafficPolicy: {{loadBalancer: {{consistentHash: {hash}}}}}\n"),
                80,
                "",
                &[],
            )
            .lb,
            policy.by.clone(),
        )
    };
    let ring = LbPolicy::RingHash(RingHash::DEFAULT);
    let (lb, by) = told("{httpHeaderName: x-user}");
    assert!(matches!(by, HashBy::Header { rewrite: None, .. }), "{by:?}");
    assert_eq!(lb, ring);
    assert_eq!(told("{useSourceIp: true}"), (ring, HashBy::SourceIp));
    let (lb, by) = told("{httpQueryParameterName: user, maglev: {tableSize: 251}}");
    assert_eq!(
        (lb, by),
        (
            LbPolicy::Maglev(Maglev::new(251).unwrap()),
            HashBy::Query("user".into())
        )
    );
    let (lb, by) = told(
        "{httpCookie: {name: who, path: /a, ttl: 60s, attributes: [{name: Secure}]}, ringHash: {minimumRingSize: 9}}",
    );
    let HashBy::Cookie(cookie) = by else { panic!("{by:?}") };
    assert_eq!(
        (&*cookie.name, &*cookie.path, cookie.ttl),
        ("who", "/a", Some(Duration::from_secs(60)))
    );
    assert_eq!(cookie.attributes.len(), 1);
    assert!(matches!(lb, LbPolicy::RingHash(RingHash { min_size: 9, .. })), "{lb:?}");
    assert_eq!(
        told("{useSourceIp: true, maglev: {}}").0,
        LbPolicy::Maglev(Maglev::DEFAULT)
    );
}

#[test]
fn tls_by_every_mode() {
    let tls = |block: &str| cluster_of(&format!("  trafficPolicy: {{tls: {block}}}\n"), 80, "", &[]).tls;
    assert_eq!(tls("{mode: DISABLE}"), TlsMode::Plaintext);
    let TlsMode::Mutual(mutual) = tls("{mode: ISTIO_MUTUAL, sni: other}") else {
        panic!("mutual")
    };
    assert!(mutual.expected.admits("spiffe://cluster.local/ns/default/sa/pay"));
    assert_eq!(mutual.sni.as_deref(), Some("other"));
    let TlsMode::Mutual(mutual) = tls("{mode: ISTIO_MUTUAL, subjectAltNames: ['spiffe://a/b']}") else {
        panic!("mutual")
    };
    assert!(
        mutual.expected.admits("spiffe://a/b") && !mutual.expected.admits("spiffe://cluster.local/ns/default/sa/pay")
    );
    assert!(mutual.sni.is_some(), "as without the block");
    let TlsMode::Origination(simple) =
        tls("{mode: SIMPLE, sni: api.example, subjectAltNames: [api.example, 10.0.0.1]}")
    else {
        panic!("simple")
    };
    assert_eq!(
        (&simple.roots, simple.shown.is_none(), simple.names.len()),
        (&Roots::System, true, 2)
    );
    assert!(!simple.unverified);
    let TlsMode::Origination(own) = tls("{mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /r}")
    else {
        panic!("mutual of one's own")
    };
    assert!(matches!(&own.shown, Some(Credential::Files { .. })) && matches!(&own.roots, Roots::File(_)));
    let TlsMode::Origination(named) = tls("{mode: MUTUAL, credentialName: key}") else {
        panic!("by name")
    };
    assert_eq!(
        (&named.shown, &named.roots),
        (&Some(Credential::Named("key".into())), &Roots::Named("key".into()))
    );
}

#[test]
fn what_says_nothing_that_can_be_done_is_refused() {
    for (block, field) in [
        ("tls: {mode: TLS}", "tls.mode"),
        ("tls: {mode: MUTUAL}", "tls.mode"),
        ("tls: {mode: ISTIO_MUTUAL, privateKey: /k}", "tls.mode"),
        ("tls: {mode: SIMPLE, caCrl: /c}", "tls.caCrl"),
        ("loadBalancer: {simple: PASSTHROUGH}", "loadBalancer.simple"),
        ("loadBalancer: {simple: FASTEST}", "loadBalancer.simple"),
        (
            "loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}",
            "loadBalancer",
        ),
        ("loadBalancer: {consistentHash: {}}", "loadBalancer.consistentHash"),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, httpHeaderName: x}}",
            "loadBalancer.consistentHash",
        ),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 10}}}",
            "loadBalancer.consistentHash.maglev.tableSize",
        ),
        (
            "loadBalancer: {consistentHash: {httpHeaderName: 'a b'}}",
            "loadBalancer.consistentHash.httpHeaderName",
        ),
        (
            "loadBalancer: {localityLbSetting: {distribute: [{from: eu, to: {eu: 50}}]}}",
            "loadBalancer.localityLbSetting.distribute[0]",
        ),
        (
            "loadBalancer: {localityLbSetting: {failover: [{from: eu, to: eu}]}}",
            "loadBalancer.localityLbSetting",
        ),
        (
            "outlierDetection: {maxEjectionPercent: 101}",
            "outlierDetection.maxEjectionPercent",
        ),
        (
            "connectionPool: {tcp: {maxConnections: many}}",
            "connectionPool.tcp.maxConnections",
        ),
        (
            "portLevelSettings: [{loadBalancer: {simple: RANDOM}}]",
            "portLevelSettings[0]",
        ),
        ("loadBalancr: {}", "loadBalancr"),
    ] {
        let translation = translated(&format!("  trafficPolicy: {{{block}}}\n"), &[]);
        assert!(translation.snapshot.is_none(), "{block}");
        let field = format!("spec.trafficPolicy.{field}");
        let told: Vec<_> = translation
            .diagnostics
            .iter()
            .filter_map(|one| one.field.as_deref())
            .collect();
        assert!(told.contains(&&*field), "{block}: {told:?}");
    }
}

/// Which endpoints, by their last byte, are of which priority.
fn priorities(policy: &str, place: &[&str]) -> Vec<Vec<u8>> {
    let cluster = cluster_of(policy, 80, "", place);
    let mut all: Vec<Vec<u8>> = Vec::new();
    for endpoint in cluster.endpoints.iter() {
        let std::net::IpAddr::V4(ip) = endpoint.address.ip() else {
            panic!("{endpoint:?}")
        };
        let priority = endpoint.priority as usize;
        all.resize(all.len().max(priority + 1), Vec::new());
        all[priority].push(ip.octets()[3]);
    }
    all
}

#[test]
fn the_nearest_comes_first_where_outliers_are_watched_for() {
    let nearest = "  trafficPolicy: {outlierDetection: {}}\n";
    assert_eq!(
        priorities(nearest, &["eu", "a", "1"]),
        [vec![1], vec![2], vec![3], vec![4, 5]]
    );
    assert_eq!(priorities(nearest, &["eu", "a"]), [vec![1, 2], vec![3], vec![4, 5]]);
    assert_eq!(priorities(nearest, &["us", "a", "1"]), [vec![4], vec![1, 2, 3, 5]]);
    assert_eq!(priorities(nearest, &["mars"]), [vec![1, 2, 3, 4, 5]]);
    assert_eq!(priorities(nearest, &[]), [vec![1, 2, 3, 4, 5]]);
    // Without it nothing would ever fail over, so nothing is nearer.
    let never = "  trafficPolicy: {loadBalancer: {simple: RANDOM}}\n";
    assert_eq!(priorities(never, &["eu", "a", "1"]), [vec![1, 2, 3, 4, 5]]);
    let off = "  trafficPolicy: {outlierDetection: {}, loadBalancer: {localityLbSetting: {enabled: false}}}\n";
    assert_eq!(priorities(off, &["eu", "a", "1"]), [vec![1, 2, 3, 4, 5]]);
    let to = "  trafficPolicy: {outlierDetection: {}, loadBalancer: {localityLbSetting: {failover: [{from: eu, to: asia}]}}}\n";
    assert_eq!(
        priorities(to, &["eu", "b", "1"]),
        [vec![3], vec![1, 2], vec![5], vec![4]]
    );
    assert_eq!(priorities(to, &["us", "a", "1"]), [vec![4], vec![1, 2, 3, 5]]);
    let labels = "  trafficPolicy: {outlierDetection: {}, loadBalancer: {localityLbSetting: {failoverPriority: \
                  ['topology.kubernetes.io/region', 'topology.kubernetes.io/zone']}}}\n";
    assert_eq!(priorities(labels, &["eu", "a", "9"]), [vec![1, 2], vec![3], vec![4, 5]]);
}

#[test]
fn shares_of_a_place_are_divided_as_its_endpoints_weigh() {
    let policy = "  trafficPolicy: {loadBalancer: {localityLbSetting: {distribute: [{from: 'eu/a/*', to: {'eu/*': 90, us: 10}}]}}}\n";
    let cluster = cluster_of(policy, 80, "", &["eu", "a", "1"]);
    assert!(cluster.common_lb.by_locality);
    assert_eq!(cluster.endpoints.len(), 4, "asia gets nothing");
    let weight = |region: &str| -> u32 {
        let of_region = cluster
            .localities
            .weights
            .iter()
            .filter(|one| &*one.locality.region == region);
        of_region.map(|one| one.weight.0).sum()
    };
    assert_eq!((weight("eu"), weight("us"), weight("asia")), (90_000, 10_000, 0));
    // Who is elsewhere is not meant.
    let elsewhere = cluster_of(policy, 80, "", &["eu", "b"]);
    assert_eq!((elsewhere.endpoints.len(), elsewhere.localities.weights.len()), (5, 0));
}

#[test]
fn warmup_is_for_those_who_weigh() {
    let of = |block: &str| {
        cluster_of(&format!("  trafficPolicy: {{loadBalancer: {block}}}\n"), 80, "", &[])
            .common_lb
            .slow_start
    };
    let slow = of("{simple: ROUND_ROBIN, warmup: {duration: 30s, minimumPercent: 20, aggression: 1.5}}").unwrap();
    assert_eq!(
        (slow.window, slow.min_weight.get(), slow.aggression_per_mille),
        (Duration::from_secs(30), 20, 1_500)
    );
    assert_eq!(of("{warmupDurationSecs: 10s}").unwrap().min_weight.get(), 10);
    assert_eq!(of("{simple: RANDOM, warmup: {duration: 30s}}"), None);
}
