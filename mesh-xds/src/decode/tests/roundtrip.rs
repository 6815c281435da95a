//! What is encoded is decoded to the same value: all that our control plane sends, to each kind of client, over the whole of the
//! model that it can say.
//!
//! It never sends, and so has no encoder for: routes inside a listener, filters that are resources of their own (ECDS), what a
//! server accepts (inbound listeners with filter chains), and clusters that are not EDS under their own name (another
//! `service_name`, STATIC, STRICT_DNS, LOGICAL_DNS, ORIGINAL_DST, aggregate). What those are decoded to is written down by hand
//! in the tables beside this, and that no bytes of them are fatal is fuzzed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use mesh_core::config::{
    Backoff, Cluster, Domain, Endpoint, ExpectedPeers, HeaderMatch, HeaderTest, Health, LbPolicy, LoadReporting,
    Metadata, MutualTls, PathMatch, Pattern, ReportedMetric, RetryOn, RetryPolicy, Route, RouteMatch, RouteTree, Split,
    StringMatch, TRANSPORT_SOCKET_MATCH, TlsMatch, TlsMode, VirtualHost,
};
use proptest::prelude::*;

use super::endpoint::in_zone;
use super::*;
use crate::encode::{self, Dialect};
use crate::resource::{ClusterSpec, Discovery, Endpoints, Extension, Http, Listener, Routes};

fn text() -> impl Strategy<Value = Box<str>> {
    "[a-z/.{}*\u{e9}-]{1,12}".prop_map(Box::from)
}

fn string_tests() -> impl Strategy<Value = StringMatch> {
    prop_oneof![
        text().prop_map(StringMatch::Exact),
        text().prop_map(StringMatch::Prefix),
        text().prop_map(StringMatch::Suffix),
        text().prop_map(StringMatch::Contains),
        "[a-z]{1,4}[+*?]".prop_map(|source| StringMatch::Regex(Pattern::new(&source).unwrap())),
    ]
}

fn route_matches() -> impl Strategy<Value = RouteMatch> {
    let path = prop_oneof![
        text().prop_map(PathMatch::Exact),
        "[a-z/]{0,9}".prop_map(|prefix| PathMatch::Prefix(prefix.into())),
        "/[a-z]{1,4}[+*?]".prop_map(|source| PathMatch::Regex(Pattern::new(&source).unwrap())),
    ];
    let test = prop_oneof![Just(HeaderTest::Present), string_tests().prop_map(HeaderTest::Value)];
    let header = ("x-[a-z]{1,8}", test, any::<bool>()).prop_map(|(name, test, invert)| HeaderMatch {
        name: name.parse().unwrap(),
        test,
        invert,
    });
    (path, prop::collection::vec(header, 0..3)).prop_map(|(path, headers)| RouteMatch { path, headers })
}

fn retries() -> impl Strategy<Value = RetryPolicy> {
    let words = vec![
        "connect-failure",
        "refused-stream",
        "reset",
        "5xx",
        "gateway-error",
        "cancelled",
        "deadline-exceeded",
        "internal",
        "resource-exhausted",
        "unavailable",
    ];
    let all = words.len();
    let on = prop::sample::subsequence(words, 0..=all);
    let timeout = prop::option::of(1u64..1 << 40).prop_map(|nanos| nanos.map(Duration::from_nanos));
    // From Envoy's least, a millisecond.
    let base = 1_000_000u64..1 << 32;
    let some = (1u32..9, on, timeout, base, 1u64..9, any::<bool>()).prop_map(
        |(retries, on, per_try_timeout, base, factor, explicit)| RetryPolicy {
            retries,
            on: RetryOn::parse(&on.join(",")),
            per_try_timeout,
            backoff: Backoff::new(Duration::from_nanos(base), Some(Duration::from_nanos(base * factor))).unwrap(),
            explicit,
        },
    );
    prop_oneof![Just(RetryPolicy::never()), some]
}

fn trees() -> impl Strategy<Value = RouteTree> {
    let share = ("[a-z|]{1,9}", 1u32..1000).prop_map(|(name, weight)| (name.into(), weight));
    let split = prop::collection::vec(share, 1..4).prop_map(|shares| Split::weighted(shares).unwrap());
    let timeout = prop::option::of(1u64..u64::from(u32::MAX)).prop_map(|nanos| nanos.map(Duration::from_nanos));
    let route = ("[a-z]{0,5}", route_matches(), split, timeout, retries()).prop_map(
        |(name, matches, split, timeout, retry)| {
            Arc::new(Route {
                name: name.into(),
                matches,
                split,
                timeout,
                retry,
            })
        },
    );
    let domain = prop_oneof!["[a-z.]{1,9}", r"\*[a-z.]{1,9}", r"[a-z.]{1,9}\*", Just("*".to_owned())];
    let domain = domain.prop_map(|text| Domain::parse(&text).unwrap());
    let host = (
        "[a-z]{1,5}",
        prop::collection::vec(domain, 1..3),
        prop::collection::vec(route, 0..4),
    );
    let host = host.prop_map(|(name, domains, routes)| VirtualHost {
        name: name.into(),
        domains,
        routes,
    });
    let hosts = prop::collection::vec(host, 0..3);
    ("[a-z]{1,9}", hosts, any::<bool>()).prop_map(|(name, virtual_hosts, ignore_port)| RouteTree {
        ignore_port,
        ..RouteTree::new(name, virtual_hosts)
    })
}

/// The same test of another text, so that no two of a list are equal: equal ones become one.
fn unlike(text: Box<str>, test: &StringMatch) -> StringMatch {
    match test {
        StringMatch::Exact(_) => StringMatch::Exact(text),
        StringMatch::Prefix(_) => StringMatch::Prefix(text),
        StringMatch::Suffix(_) => StringMatch::Suffix(text),
        StringMatch::Contains(_) | StringMatch::Regex(_) => StringMatch::Contains(text),
    }
}

fn clusters() -> impl Strategy<Value = Cluster> {
    let lb = prop_oneof![
        Just(LbPolicy::RoundRobin),
        Just(LbPolicy::Random),
        (2u32..=10).prop_map(|choices| LbPolicy::LeastRequest { choices }),
    ];
    let expected = prop::collection::btree_map(text(), string_tests(), 0..3);
    let sni = prop::option::of("[a-z_.]{1,20}").prop_map(|sni| sni.map(Box::from));
    let mutual = (expected, sni).prop_map(|(expected, sni)| {
        TlsMode::Mutual(MutualTls {
            expected: ExpectedPeers::new(expected.into_iter().map(|(text, test)| unlike(text, &test)).collect()),
            sni,
        })
    });
    let tls = prop_oneof![Just(TlsMode::Plaintext), mutual].boxed();
    let one = ("[a-z-]{0,9}", metadata(&[TRANSPORT_SOCKET_MATCH]), tls.clone());
    let one = one.prop_map(|(name, when, mode)| TlsMatch {
        name: name.into(),
        when,
        mode,
    });
    let matches = prop::collection::vec(one, 0..3);
    let metric = prop_oneof![
        Just(ReportedMetric::CpuUtilization),
        Just(ReportedMetric::MemUtilization),
        Just(ReportedMetric::ApplicationUtilization),
        Just(ReportedMetric::AllNamed),
        "[a-z.]{1,9}".prop_map(|key| ReportedMetric::Named(key.into())),
    ];
    let metrics = prop::option::of(prop::collection::vec(metric, 0..4));
    ("[a-z|.]{1,20}", lb, tls, matches, 1u64..1 << 40, any::<u32>(), metrics).prop_map(
        |(name, lb, tls, matches, nanos, max_requests, metrics)| Cluster {
            lb,
            tls_matches: matches.into(),
            connect_timeout: Duration::from_nanos(nanos),
            max_requests,
            // Endpoints go by the cluster's name at our serving end.
            load_reporting: metrics.map(|metrics| LoadReporting {
                metrics: metrics.into(),
                ..LoadReporting::of(name.as_str())
            }),
            ..Cluster::new(name.as_str(), tls, Vec::new())
        },
    )
}

/// Up to four values under these filters.
fn metadata(filters: &'static [&'static str]) -> impl Strategy<Value = Metadata> {
    let value = (prop::sample::select(filters), "[a-z]{1,3}", "[a-z0-9]{0,5}");
    prop::collection::vec(value, 0..4).prop_map(|values| {
        let values = values
            .iter()
            .map(|(filter, key, value)| (*filter, key.as_str(), value.as_str()));
        Metadata::new(values).unwrap()
    })
}

/// Up to three priorities without gaps; in each, localities in order, and endpoints with addresses of their own.
fn endpoint_lists() -> impl Strategy<Value = Vec<Endpoint>> {
    let health = prop::sample::select(vec![
        Health::Healthy,
        Health::Degraded,
        Health::Draining,
        Health::Unhealthy,
    ]);
    let member = (
        1u32..1000,
        health,
        metadata(&[TRANSPORT_SOCKET_MATCH, "istio", "envoy.lb"]),
    );
    let zones = prop::collection::btree_map("[a-c]{0,2}", prop::collection::vec(member, 1..4), 1..4);
    prop::collection::vec(zones, 0..3).prop_map(|priorities| {
        let mut all = Vec::new();
        for (priority, zones) in (0..).zip(priorities) {
            for (zone, members) in zones {
                for (weight, health, metadata) in members {
                    let port = 1 + all.len() as u16;
                    all.push(Endpoint {
                        health,
                        priority,
                        metadata: Arc::new(metadata),
                        ..in_zone(&zone, port, weight)
                    });
                }
            }
        }
        all
    })
}

fn bytes_of<R: Resource>(bytes: Vec<u8>) -> R {
    bytes_in(bytes, &context())
}

fn bytes_in<R: Resource>(bytes: Vec<u8>, context: &Context) -> R {
    let raw = Raw {
        type_url: R::KIND.type_url().into(),
        bytes,
    };
    decode::<R>(&raw, context).unwrap().value.unwrap()
}

/// To expect nobody is said to others by a name that nobody has: an empty list would be everybody to them.
fn told_to_others(mode: &TlsMode) -> TlsMode {
    match mode {
        TlsMode::Mutual(mutual) if mutual.expected.tests().is_empty() => TlsMode::Mutual(MutualTls {
            expected: ExpectedPeers::new(vec![StringMatch::Exact("spiffe://nobody.invalid/".into())]),
            ..mutual.clone()
        }),
        other => other.clone(),
    }
}

proptest! {
    #[test]
    fn routes_survive_the_wire(tree in trees()) {
        prop_assert_eq!(bytes_of::<RouteTree>(encode::routes(&tree)), tree);
    }

    #[test]
    fn listeners_survive_the_wire(target in text(), routes in text(), port in 1..=u16::MAX, v6 in any::<bool>()) {
        let named = |name: &str| Http { routes: Routes::Named(name.into()), extensions: Arc::default() };
        let read = bytes_of::<Listener>(encode::listener(&target, &routes));
        prop_assert_eq!(read, Listener::Api(named(&routes)));
        let address: IpAddr = if v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        let read = bytes_in::<Listener>(encode::socket_listener(address, port), &envoy());
        let expected = Listener::Outbound { address: (address, port).into(), http: named(&port.to_string()) };
        prop_assert_eq!(read, expected);
    }

    /// As Envoy is told: what differs are the names of certificates, which are ours in another shape.
    #[test]
    fn clusters_survive_the_wire_to_a_sidecar(cluster in clusters()) {
        let told = encode::cluster(&cluster, Dialect::Envoy(encode::EGRESS_ADDRESS));
        let read = bytes_in::<ClusterSpec>(told, &envoy());
        prop_assert_eq!(read.discovery, Discovery::Eds(cluster.name.as_str().into()));
        let tls_matches = cluster.tls_matches.iter();
        let tls_matches = tls_matches.map(|one| TlsMatch { mode: told_to_others(&one.mode), ..one.clone() }).collect();
        // It is not asked for load reports.
        let expected =
            Cluster { tls: told_to_others(&cluster.tls), tls_matches, load_reporting: None, ..cluster };
        prop_assert_eq!(read.cluster, expected);
    }

    #[test]
    fn clusters_survive_the_wire(cluster in clusters()) {
        let read = bytes_of::<ClusterSpec>(encode::cluster(&cluster, Dialect::Mesh));
        prop_assert_eq!(read.discovery, Discovery::Eds(cluster.name.as_str().into()));
        prop_assert_eq!(&read.cluster, &cluster);
        // For others only the balancing differs, that nobody is said by a name, that they know one kind of security and get
        // the better one, and that they are not asked for load reports.
        let told = bytes_of::<ClusterSpec>(encode::cluster(&cluster, Dialect::Grpc)).cluster;
        let secure = cluster.tls_matches.iter().map(|one| &one.mode).find(|mode| **mode != TlsMode::Plaintext);
        let tls = match (&cluster.tls, secure) {
            (TlsMode::Plaintext, Some(secure)) => secure.clone(),
            (own, _) => own.clone(),
        };
        let tls = told_to_others(&tls);
        let expected = Cluster { lb: LbPolicy::RoundRobin, tls, tls_matches: Arc::default(), load_reporting: None, ..cluster };
        prop_assert_eq!(told, expected);
    }

    #[test]
    fn endpoints_survive_the_wire(list in endpoint_lists()) {
        let read = bytes_of::<Endpoints>(encode::endpoints(&"c".into(), &list));
        prop_assert_eq!(&*read.endpoints, &*list);
        prop_assert!(read.drops.is_empty());
    }

    #[test]
    fn bytes_from_anywhere_are_refused_or_taken_but_never_fatal(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let raw = |url: &str| Raw { type_url: url.into(), bytes: bytes.clone() };
        drop(decode::<Listener>(&raw(Listener::KIND.type_url()), &context()));
        drop(decode::<RouteTree>(&raw(RouteTree::KIND.type_url()), &context()));
        drop(decode::<ClusterSpec>(&raw(ClusterSpec::KIND.type_url()), &context()));
        drop(decode::<Endpoints>(&raw(Endpoints::KIND.type_url()), &context()));
        drop(decode::<Extension>(&raw(Extension::KIND.type_url()), &envoy()));
        drop(decode::<Listener>(&raw(Listener::KIND.type_url()), &envoy()));
    }
}
