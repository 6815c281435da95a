//! Clusters: those that have endpoints, and those that stand for others.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::{
    BalanceFactor, ChainIdentity, ClientWeights, Cluster, ClusterName, CommonLb, Connections, Credential, DropOverload,
    ExpectedPeers, Health, HealthSet, Http2Settings, KeepAlive, LbPolicy, LeastRequest, LoadReporting, Maglev,
    MutualTls, NameKind, NameMatch, OutlierRules, Percent, Protocol, ReportedMetric, RingFunction, RingHash, Roots,
    Service, SlowStart, StringMatch, TRANSPORT_SOCKET_MATCH, TcpKeepAlive, TlsMatch, TlsMode, TlsOrigination,
};
use proptest::prelude::*;

use super::endpoints::{endpoint_lists, localities_of};
use super::{metadata, string_tests, text};
use crate::decode::tests::limits::{breakers, outliers};
use crate::decode::tests::{BUNDLE_MAP, CA};

/// A cluster that stands for up to three others, each with endpoints, weights of localities and drops of its own.
pub(crate) fn aggregates() -> impl Strategy<Value = Cluster> {
    let weights = (prop::collection::vec(1u32..5000, 0..10), 1u32..300, any::<bool>());
    let drops = prop::collection::vec(("[a-z]{0,3}", 1..=DropOverload::ALL), 0..3);
    let leaf = (clusters(), endpoint_lists(), weights, drops);
    let leaf = leaf.prop_map(|(leaf, endpoints, (weights, factor, by_weight), drops)| {
        let drop = |(category, per_million): (String, u32)| DropOverload {
            category: category.into(),
            per_million,
        };
        Cluster {
            localities: localities_of(&endpoints, &weights, factor, by_weight),
            endpoints: endpoints.into(),
            drops: drops.into_iter().map(drop).collect(),
            ..leaf
        }
    });
    prop::collection::vec(leaf, 1..4).prop_map(|leaves| {
        let named = |(index, leaf): (usize, Cluster)| {
            // No two of one name.
            let name: ClusterName = format!("{index}|{}", leaf.name).into();
            let (mut tls, mut matches) = (leaf.tls.clone(), leaf.tls_matches.to_vec());
            let modes = matches.iter_mut().map(|one| &mut one.mode).chain([&mut tls]);
            modes.for_each(|mode| say_its_name(mode, name.as_str()));
            Arc::new(Cluster {
                load_reporting: leaf.load_reporting.map(|reporting| LoadReporting {
                    metrics: reporting.metrics,
                    ..LoadReporting::of(name.as_str())
                }),
                name,
                tls,
                tls_matches: matches.into(),
                ..leaf
            })
        };
        Cluster::aggregate("c".into(), leaves.into_iter().enumerate().map(named).collect())
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

fn policies() -> impl Strategy<Value = LbPolicy> {
    let functions = prop::sample::select(vec![RingFunction::XxHash, RingFunction::Murmur2]);
    let balance = || prop::option::of((100u32..).prop_map(|percent| BalanceFactor::new(percent).unwrap()));
    let ring = (1..=RingHash::MAX_SIZE, 1..=RingHash::MAX_SIZE, functions, balance());
    let ring = ring.prop_map(|(one, other, function, balance)| RingHash {
        min_size: one.min(other),
        max_size: one.max(other),
        function,
        balance,
    });
    let least = (2..=LeastRequest::MAX_CHOICES, any::<u32>());
    let table = prop::sample::select(vec![2, 251, 65_537, 5_000_011]);
    prop_oneof![
        Just(LbPolicy::RoundRobin),
        Just(LbPolicy::Random),
        least.prop_map(|(choices, bias_per_mille)| {
            LbPolicy::LeastRequest(LeastRequest {
                choices,
                bias_per_mille,
            })
        }),
        ring.prop_map(LbPolicy::RingHash),
        (table, balance())
            .prop_map(|(size, balance)| { LbPolicy::Maglev(Maglev::new(size).unwrap().balanced(balance)) }),
        client_weights().prop_map(LbPolicy::ClientSideWeightedRoundRobin),
        any::<bool>().prop_map(|shuffle| LbPolicy::PickFirst { shuffle }),
    ]
}

fn client_weights() -> impl Strategy<Value = ClientWeights> {
    let time = |least: u64| (least..1 << 40).prop_map(Duration::from_nanos);
    let update = ClientWeights::MIN_UPDATE.as_nanos() as u64;
    // As fine as a float of 32 bits holds it.
    let penalty = 0u32..1 << 23;
    (
        prop::option::of(time(0)),
        time(0),
        time(0),
        time(update),
        penalty,
        prop::collection::vec(reported_metrics(), 0..4),
    )
        .prop_map(
            |(out_of_band, blackout, expiration, update, error_penalty_per_mille, metrics)| ClientWeights {
                out_of_band,
                blackout,
                expiration,
                update,
                error_penalty_per_mille,
                metrics: metrics.into(),
            },
        )
}

fn reported_metrics() -> impl Strategy<Value = ReportedMetric> {
    prop_oneof![
        Just(ReportedMetric::CpuUtilization),
        Just(ReportedMetric::MemUtilization),
        Just(ReportedMetric::ApplicationUtilization),
        Just(ReportedMetric::AllNamed),
        "[a-z.]{1,9}".prop_map(|key| ReportedMetric::Named(key.into())),
    ]
}

pub(crate) fn clusters() -> impl Strategy<Value = Cluster> {
    let lb = policies();
    let expected = prop::collection::btree_map(text(), string_tests(), 0..3);
    let sni = prop::option::of("[a-z_.]{1,20}").prop_map(|sni| sni.map(Box::from));
    let mutual = (expected, sni, identities()).prop_map(|(expected, sni, (identity, anonymous))| {
        TlsMode::Mutual(MutualTls {
            expected: ExpectedPeers::new(expected.into_iter().map(|(text, test)| unlike(text, &test)).collect()),
            sni,
            identity,
            anonymous,
        })
    });
    let outside = outside().prop_map(|outside| TlsMode::Origination(Box::new(outside)));
    let tls = prop_oneof![Just(TlsMode::Plaintext), mutual, outside].boxed();
    let one = ("[a-z-]{0,9}", metadata(&[TRANSPORT_SOCKET_MATCH]), tls.clone());
    let one = one.prop_map(|(name, when, mode)| TlsMatch {
        name: name.into(),
        when,
        mode,
    });
    let matches = prop::collection::vec(one, 0..3);
    let metrics = prop::option::of(prop::collection::vec(reported_metrics(), 0..4));
    let limits = (
        breakers(),
        prop::option::of(prop_oneof![outliers(OutlierRules::Grpc), outliers(OutlierRules::Envoy)]),
    );
    let service = prop::option::of(("[a-z.]{1,9}", "[a-z]{0,5}", "[a-z]{0,5}"));
    (
        "[a-z|.]{1,20}",
        lb,
        tls,
        matches,
        1u64..1 << 40,
        limits,
        (metrics, connections(), common_lbs(), service),
    )
        .prop_map(
            |(
                name,
                lb,
                mut tls,
                mut matches,
                nanos,
                (breakers, outlier),
                (metrics, connections, common_lb, service),
            )| {
                let modes = matches.iter_mut().map(|one| &mut one.mode).chain([&mut tls]);
                modes.for_each(|mode| say_its_name(mode, &name));
                Cluster {
                    common_lb: CommonLb {
                        // Of others it cannot be said.
                        slow_start: common_lb
                            .slow_start
                            .filter(|_| matches!(lb, LbPolicy::RoundRobin | LbPolicy::LeastRequest(_))),
                        ..common_lb
                    },
                    lb,
                    connections: Arc::new(connections),
                    tls_matches: matches.into(),
                    connect_timeout: Duration::from_nanos(nanos),
                    breakers,
                    outlier,
                    // Endpoints go by the cluster's name at our serving end.
                    load_reporting: metrics.map(|metrics| LoadReporting {
                        metrics: metrics.into(),
                        ..LoadReporting::of(name.as_str())
                    }),
                    service: service.map(|(host, name, namespace)| Arc::new(Service::new(&host, &name, &namespace))),
                    ..Cluster::new(name.as_str(), tls, Vec::new())
                }
            },
        )
}

/// Without a name, a part of the cluster's stands in where that has the form for it (Istio's, of four parts).
fn say_its_name(mode: &mut TlsMode, cluster: &str) {
    if let TlsMode::Origination(outside) = mode
        && cluster.split('|').count() == 4
    {
        outside.sni.get_or_insert_with(|| "n".into());
    }
}

fn connections() -> impl Strategy<Value = Connections> {
    let some = |most: u32| prop::option::of((1..most).prop_map(|value| NonZeroU32::new(value).unwrap()));
    let window = || prop::option::of(Http2Settings::MIN_WINDOW..=Http2Settings::MAX_WINDOW);
    let keep_alive = prop::option::of((1_000u64..90_000, 1u64..90_000)).prop_map(|times| {
        times.map(|(interval, timeout)| KeepAlive {
            interval: Duration::from_millis(interval),
            timeout: Duration::from_millis(timeout),
        })
    });
    let http2 = (some(1 << 31), window(), window(), keep_alive);
    let http2 = http2.prop_map(
        |(max_streams, stream_window, connection_window, keep_alive)| Http2Settings {
            max_streams,
            stream_window,
            connection_window,
            keep_alive,
        },
    );
    let tcp = prop::option::of((
        prop::option::of(0u32..9),
        prop::option::of(0u64..9_999),
        prop::option::of(0u64..99),
    ));
    let tcp = tcp.prop_map(|tcp| {
        tcp.map(|(probes, time, interval)| TcpKeepAlive {
            probes,
            time: time.map(Duration::from_secs),
            interval: interval.map(Duration::from_secs),
        })
    });
    let protocol = prop::sample::select(vec![
        Protocol::Http2,
        Protocol::Http1,
        Protocol::Request,
        Protocol::Negotiated,
    ]);
    let idle = prop::option::of(0u64..u64::from(u32::MAX)).prop_map(|nanos| nanos.map(Duration::from_nanos));
    let age = prop::option::of(1u64..u64::from(u32::MAX)).prop_map(|nanos| nanos.map(Duration::from_nanos));
    (protocol, http2, idle, age, some(u32::MAX), tcp).prop_map(
        |(protocol, http2, idle_timeout, max_age, max_requests, tcp_keep_alive)| Connections {
            protocol,
            // Where HTTP/2 is not spoken to anybody but gRPC there is no place to say more of it.
            http2: if protocol == Protocol::Http1 {
                Http2Settings::default()
            } else {
                http2
            },
            idle_timeout,
            max_age,
            max_requests,
            tcp_keep_alive,
        },
    )
}

/// Whose certificate is shown, if any, and by whose roots peers are judged: of providers that [`context`](crate::decode::tests::context)
/// has.
fn identities() -> impl Strategy<Value = (ChainIdentity, bool)> {
    let (ca, map) = (|| Some(Box::from(CA)), || Some(Box::from(BUNDLE_MAP)));
    let of = |certificate, roots, anonymous| (ChainIdentity { certificate, roots }, anonymous);
    prop::sample::select(vec![
        of(None, None, false),
        of(ca(), None, false),
        of(None, ca(), false),
        of(ca(), ca(), false),
        of(ca(), ca(), true),
        of(None, map(), false),
        of(ca(), map(), false),
        of(None, map(), true),
    ])
}

fn outside() -> impl Strategy<Value = TlsOrigination> {
    let path = || "/[a-z/.]{1,9}".prop_map(|path| Path::new(&path).into());
    let name = || "[a-z:/.-]{1,9}".prop_map(Box::from);
    let roots = prop_oneof![
        Just(Roots::System),
        Just(Roots::Workload),
        path().prop_map(Roots::File),
        name().prop_map(Roots::Named)
    ];
    let shown = prop_oneof![
        Just(None),
        Just(Some(Credential::Workload)),
        Just(Some(Credential::Provider(CA.into()))),
        name().prop_map(|name| Some(Credential::Named(name))),
        (path(), path()).prop_map(|(certificate, key)| Some(Credential::Files { certificate, key })),
    ];
    let kinds = prop::sample::select(vec![NameKind::Dns, NameKind::Uri, NameKind::Ip, NameKind::Email]);
    let typed = prop::collection::vec((kinds, string_tests()), 0..3);
    // There is one list of each sort on the wire, and the older is of any kind.
    let untyped = prop::collection::vec((Just(NameKind::Any), string_tests()), 0..3);
    let names = prop_oneof![typed, untyped].prop_map(|names| {
        let names = names.into_iter().map(|(kind, test)| NameMatch { kind, test });
        names.collect::<Box<[_]>>()
    });
    let sni = prop::option::of("[a-z.]{1,9}").prop_map(|sni| sni.map(Box::from));
    (roots, sni, names, shown, any::<bool>()).prop_map(|(roots, sni, names, shown, unverified)| TlsOrigination {
        sni,
        names,
        // A certificate of an authority and the mesh's roots are mutual TLS with the mesh.
        shown: shown.filter(|shown| {
            let of_authority = matches!(shown, Credential::Workload | Credential::Provider(_));
            roots != Roots::Workload || !of_authority
        }),
        roots,
        unverified,
    })
}

/// gRPC's rules, or any of Envoy's that can be said together.
fn common_lbs() -> impl Strategy<Value = CommonLb> {
    let slow = (1u64..1 << 40, 1u32..10_000, 0u32..=100).prop_map(|(nanos, aggression_per_mille, percent)| SlowStart {
        window: Duration::from_nanos(nanos),
        aggression_per_mille,
        min_weight: Percent::new(percent).unwrap(),
    });
    let envoys = (0u32..=100, any::<bool>(), any::<bool>());
    let envoys = envoys.prop_map(|(percent, by_locality, fail_on_panic)| CommonLb {
        panic_threshold: Percent::new(percent).unwrap(),
        by_locality,
        fail_on_panic,
        ..CommonLb::ENVOY
    });
    let rules = prop_oneof![Just(CommonLb::GRPC), envoys];
    let held = prop::sample::subsequence(Health::ALL.to_vec(), 0..=4).prop_map(HealthSet::from_iter);
    let few = prop::option::of((1..=u32::MAX).prop_map(|size| NonZeroU32::new(size).unwrap()));
    (rules, prop::option::of(slow), held, few).prop_map(|(common, slow_start, held, subset_size)| CommonLb {
        slow_start,
        held,
        subset_size,
        ..common
    })
}
