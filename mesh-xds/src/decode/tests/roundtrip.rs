//! What is encoded is decoded to the same value: all that our control plane sends, to each kind of client, over the whole of the
//! model that it can say. Servers' listeners, in both of their shapes, are in [`served`](super::served).
//!
//! It never sends, and so has no encoder for: routes inside a listener, filters that are resources of their own (ECDS), and
//! clusters that are not EDS under their own name. Of those the same is said in [`others`](super::others), so that nothing of the
//! model is left out. That no bytes are fatal is fuzzed.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use mesh_core::config::{
    Backoff, CallFilter, ClientWeights, Cluster, CommonLb, Connections, Credential, Domain, DropOverload, Endpoint,
    ExpectedPeers, Failover, FilterKind, HeaderMatch, HeaderTest, Health, HealthSet, HostSelection, Http2Settings,
    KeepAlive, LbPolicy, LeastRequest, LoadReporting, Localities, Locality, LocalityWeight, Maglev, Metadata,
    MutualTls, NameKind, NameMatch, OutlierRules, Pattern, Percent, Protocol, RateLimitedBackoff, ReportedMetric,
    ResetFormat, ResetHeader, RetryBudget, RetryLimits, RetryOn, RetryPolicy, RingFunction, RingHash, Roots, Route,
    RouteTree, RoutingPriority, SlowStart, StringMatch, TRANSPORT_SOCKET_MATCH, TcpKeepAlive, TimeLimits, TlsMatch,
    TlsMode, TlsOrigination, VirtualHost, Weight,
};
use proptest::prelude::*;

use super::endpoint::in_zone;
use super::limits::{breakers, outliers};
use super::strategies::{actions, header_rules, kinds, overrides, route_matches};
use super::*;
use crate::encode::{self, Dialect};
use crate::resource::{ClusterSpec, Discovery, Endpoints, Extension, Http, Listener, Routes};

pub(super) fn text() -> impl Strategy<Value = Box<str>> {
    "[a-z/.{}*\u{e9}-]{1,12}".prop_map(Box::from)
}

pub(super) fn string_tests() -> impl Strategy<Value = StringMatch> {
    prop_oneof![
        text().prop_map(StringMatch::Exact),
        text().prop_map(StringMatch::Prefix),
        text().prop_map(StringMatch::Suffix),
        text().prop_map(StringMatch::Contains),
        "[a-z]{1,4}[+*?]".prop_map(|source| StringMatch::Regex(Pattern::new(&source).unwrap())),
    ]
}

fn header_tests() -> impl Strategy<Value = HeaderMatch> {
    let test = prop_oneof![Just(HeaderTest::Present), string_tests().prop_map(HeaderTest::Value)];
    ("x-[a-z]{1,8}", test, any::<bool>()).prop_map(|(name, test, invert)| HeaderMatch {
        invert,
        ..HeaderMatch::new(name.parse::<http::HeaderName>().unwrap(), test)
    })
}

fn millis(most: u64) -> impl Strategy<Value = Option<Duration>> {
    prop::option::of(1..most).prop_map(|millis| millis.map(Duration::from_millis))
}

fn backoffs() -> impl Strategy<Value = (Backoff, Option<RateLimitedBackoff>)> {
    let format = prop_oneof![Just(ResetFormat::Seconds), Just(ResetFormat::UnixTimestamp)];
    let header = ("x-[a-z]{1,8}", format).prop_map(|(name, format)| ResetHeader {
        name: name.parse().unwrap(),
        format,
    });
    let limited = (prop::collection::vec(header, 1..3), 1u64..1000).prop_map(|(headers, max)| RateLimitedBackoff {
        headers: headers.into(),
        max: Duration::from_secs(max),
    });
    let jittered = (1u64..500, 1u64..9).prop_map(|(base, factor)| {
        Backoff::new(Duration::from_millis(base), Some(Duration::from_millis(base * factor))).unwrap()
    });
    (jittered, prop::option::of(limited))
}

fn retries() -> impl Strategy<Value = RetryPolicy> {
    let words: Vec<&str> = RetryOn::all().map(|(word, _)| word).collect();
    let on = prop::sample::subsequence(words.clone(), 0..words.len());
    let headers = || prop::collection::vec(header_tests(), 0..3);
    let hosts = (any::<bool>(), 1u32..100, prop::option::of(1u32..9));
    let hosts = hosts.prop_map(|(other_hosts, max_attempts, other_priorities)| HostSelection {
        other_hosts,
        max_attempts,
        other_priorities,
    });
    let statuses = prop::collection::vec(100u16..600, 0..3);
    let some = (
        (1u32..9, on, statuses, headers(), headers()),
        (millis(10_000), millis(10_000), backoffs(), hosts, any::<bool>()),
    );
    let some = some.prop_map(|((retries, on, statuses, headers, request_headers), rest)| {
        let (per_try_timeout, per_try_idle_timeout, (backoff, rate_limited), hosts, explicit) = rest;
        RetryPolicy {
            retries,
            on: RetryOn::parse(&on.join(",")),
            statuses: statuses.into(),
            headers: headers.into(),
            request_headers: request_headers.into(),
            per_try_timeout,
            per_try_idle_timeout,
            backoff,
            rate_limited,
            hosts,
            explicit,
            ..RetryPolicy::default()
        }
    });
    let policy = prop_oneof![Just(RetryPolicy::never()), some];
    (policy, any::<bool>(), prop::option::of(any::<u64>())).prop_map(|(policy, hedge, replay_bytes)| RetryPolicy {
        hedge,
        replay_bytes,
        ..policy
    })
}

/// Of each limit nothing, none, or some time: whole seconds, and never a route's timeout, which is said the same way.
fn limits() -> impl Strategy<Value = TimeLimits> {
    let limit = || prop::option::of(0u64..1000).prop_map(|seconds| seconds.map(Duration::from_secs));
    let offset = millis(1000);
    (limit(), limit(), offset, limit()).prop_map(|(max_stream, grpc_max, grpc_offset, idle)| TimeLimits {
        max_stream,
        grpc_max,
        grpc_offset,
        idle,
        ..TimeLimits::default()
    })
}

pub(super) fn trees() -> impl Strategy<Value = RouteTree> {
    // An odd number of nanoseconds is no whole number of seconds.
    let timeout = prop::option::of(0..u64::from(u32::MAX) / 2);
    let timeout = timeout.prop_map(|half| half.map(|half| Duration::from_nanos(2 * half + 1)));
    let priority = prop::sample::select(vec![RoutingPriority::Default, RoutingPriority::High]);
    let policies = (timeout, limits(), retries(), header_rules(), overrides(), priority);
    let route = ("[a-z]{0,5}", route_matches(), actions(), policies).prop_map(
        |(name, matches, action, (timeout, limits, retry, headers, filter_overrides, priority))| {
            let mut route = Route {
                name: name.into(),
                matches,
                headers,
                filter_overrides,
                ..Route::doing(action)
            };
            if route.forward().is_some() {
                (route.timeout, route.limits, route.retry) = (timeout, limits, retry);
                route.priority = priority;
            }
            route
        },
    );
    let domain = prop_oneof!["[a-z.]{1,9}", r"\*[a-z.]{1,9}", r"[a-z.]{1,9}\*", Just("*".to_owned())];
    let domain = domain.prop_map(|text| Domain::parse(&text).unwrap());
    let lists = (prop::collection::vec(domain, 1..3), prop::collection::vec(route, 0..4));
    let host = ("[a-z]{1,5}", lists, any::<bool>(), header_rules(), overrides());
    let host = host.prop_map(|(name, (domains, mut routes), announce, headers, filter_overrides)| {
        for route in routes.iter_mut().filter(|route| route.forward().is_some()) {
            // Said of a virtual host as a whole.
            route.retry.announce_attempts = announce;
        }
        VirtualHost {
            headers,
            filter_overrides,
            ..VirtualHost::new(name, domains, routes.into_iter().map(Arc::new).collect())
        }
    });
    let hosts = prop::collection::vec(host, 0..3);
    let flags = (any::<bool>(), any::<bool>());
    ("[a-z]{1,9}", hosts, flags, header_rules(), overrides()).prop_map(
        |(name, virtual_hosts, (ignore_port, closest_rules_last), headers, filter_overrides)| RouteTree {
            ignore_port,
            closest_rules_last,
            headers,
            filter_overrides,
            ..RouteTree::new(name, virtual_hosts)
        },
    )
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
    let ring = (1..=RingHash::MAX_SIZE, 1..=RingHash::MAX_SIZE, functions);
    let ring = ring.prop_map(|(one, other, function)| RingHash {
        min_size: one.min(other),
        max_size: one.max(other),
        function,
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
        table.prop_map(|size| LbPolicy::Maglev(Maglev::new(size).unwrap())),
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

/// What gRPC's other clients are told in its place.
fn policy_told_to_grpc(policy: &LbPolicy) -> LbPolicy {
    match policy {
        LbPolicy::LeastRequest(_) | LbPolicy::Random => LbPolicy::RoundRobin,
        LbPolicy::Maglev(_) => LbPolicy::RingHash(RingHash::DEFAULT),
        LbPolicy::RingHash(config) => LbPolicy::RingHash(RingHash {
            function: RingFunction::XxHash,
            ..*config
        }),
        LbPolicy::RoundRobin | LbPolicy::ClientSideWeightedRoundRobin(_) | LbPolicy::PickFirst { .. } => policy.clone(),
    }
}

pub(super) fn clusters() -> impl Strategy<Value = Cluster> {
    let lb = policies();
    let expected = prop::collection::btree_map(text(), string_tests(), 0..3);
    let sni = prop::option::of("[a-z_.]{1,20}").prop_map(|sni| sni.map(Box::from));
    let mutual = (expected, sni).prop_map(|(expected, sni)| {
        TlsMode::Mutual(MutualTls {
            expected: ExpectedPeers::new(expected.into_iter().map(|(text, test)| unlike(text, &test)).collect()),
            sni,
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
        retry_limits(),
        prop::option::of(outliers(OutlierRules::Grpc)),
    );
    (
        "[a-z|.]{1,20}",
        lb,
        tls,
        matches,
        1u64..1 << 40,
        limits,
        (metrics, connections(), common_lbs()),
    )
        .prop_map(
            |(name, lb, tls, matches, nanos, (breakers, retry_limits, outlier), (metrics, connections, common_lb))| {
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
                    retry_limits,
                    outlier,
                    // Endpoints go by the cluster's name at our serving end.
                    load_reporting: metrics.map(|metrics| LoadReporting {
                        metrics: metrics.into(),
                        ..LoadReporting::of(name.as_str())
                    }),
                    ..Cluster::new(name.as_str(), tls, Vec::new())
                }
            },
        )
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

fn outside() -> impl Strategy<Value = TlsOrigination> {
    let path = || "/[a-z/.]{1,9}".prop_map(|path| Path::new(&path).into());
    let name = || "[a-z:/.-]{1,9}".prop_map(Box::from);
    let roots = prop_oneof![
        Just(Roots::System),
        path().prop_map(Roots::File),
        name().prop_map(Roots::Named)
    ];
    let shown = prop_oneof![
        Just(None),
        Just(Some(Credential::Workload)),
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
    // Without a name, that of the cluster would stand in where it has the form for it.
    let sni = "[a-z.]{1,9}".prop_map(|sni| Some(Box::from(sni)));
    (roots, sni, names, shown, any::<bool>()).prop_map(|(roots, sni, names, shown, unverified)| TlsOrigination {
        roots,
        sni,
        names,
        shown,
        unverified,
    })
}

fn retry_limits() -> impl Strategy<Value = RetryLimits> {
    let budget = (0u32..=10_000, any::<u32>()).prop_map(|(share, min_retry_concurrency)| RetryBudget {
        share,
        min_retry_concurrency,
    });
    let limits = (prop::option::of(budget), prop::option::of(any::<u32>()));
    limits.prop_map(|(budget, max)| RetryLimits { budget, max })
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
pub(super) fn endpoint_lists() -> impl Strategy<Value = Vec<Endpoint>> {
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

/// What is said of the localities of `list` beside their endpoints: weights of all of them or of none.
pub(super) fn localities_of(
    list: &[Endpoint],
    weights: &[u32],
    overprovisioning_factor: u32,
    weighted_health: bool,
) -> Localities {
    let mut sums: BTreeMap<(u32, Arc<Locality>), u32> = BTreeMap::new();
    for endpoint in list {
        *sums
            .entry((endpoint.priority, Arc::clone(&endpoint.locality)))
            .or_default() += endpoint.weight.0;
    }
    let mut weights = weights.iter().copied();
    let mut all = Vec::new();
    let mut as_written = true;
    for ((priority, locality), sum) in sums {
        let weight = weights.next().unwrap_or(sum);
        as_written &= weight == sum;
        all.push(LocalityWeight {
            priority,
            locality,
            weight: Weight(weight),
        });
    }
    Localities {
        weights: if as_written { Arc::default() } else { all.into() },
        overprovisioning_factor,
        weighted_health,
    }
}

/// gRPC's rules, or any of Envoy's that can be said together.
fn common_lbs() -> impl Strategy<Value = CommonLb> {
    let slow = (1u64..1 << 40, 1u32..10_000, 0u32..=100).prop_map(|(nanos, aggression_per_mille, percent)| SlowStart {
        window: Duration::from_nanos(nanos),
        aggression_per_mille,
        min_weight: Percent::new(percent).unwrap(),
    });
    let envoys = (0u32..=100, 0u32..3).prop_map(|(percent, sort)| CommonLb {
        panic_threshold: Percent::new(percent).unwrap(),
        by_locality: sort == 1,
        fail_on_panic: sort == 2,
        ..CommonLb::ENVOY
    });
    let rules = prop_oneof![Just(CommonLb::GRPC), envoys];
    let held = prop::sample::subsequence(Health::ALL.to_vec(), 0..=4).prop_map(HealthSet::from_iter);
    (rules, prop::option::of(slow), held).prop_map(|(common, slow_start, held)| CommonLb {
        slow_start,
        held,
        ..common
    })
}

fn bytes_of<R: Resource>(bytes: Vec<u8>) -> R {
    bytes_in(bytes, &context())
}

pub(super) fn bytes_in<R: Resource>(bytes: Vec<u8>, context: &Context) -> R {
    let raw = Raw {
        type_url: R::KIND.type_url().into(),
        bytes,
    };
    decode::<R>(&raw, context).unwrap().value.unwrap()
}

proptest! {
    #[test]
    fn routes_survive_the_wire(tree in trees()) {
        prop_assert_eq!(bytes_of::<RouteTree>(encode::routes(&tree)), tree);
    }

    /// The filters of a listener travel with it, and not with its routes.
    #[test]
    fn filters_survive_the_wire(
        filters in prop::collection::btree_map("[a-z.]{1,5}", (kinds(), any::<bool>()), 0..3)
    ) {
        let filter = |(name, (what, disabled)): (String, (FilterKind, bool))| CallFilter {
            name: name.into(),
            what,
            disabled,
        };
        let filters: Arc<[CallFilter]> = filters.into_iter().map(filter).collect();
        let read = bytes_of::<Listener>(encode::listener("t", "r", &filters));
        let http = Http { routes: Routes::Named("r".into()), extensions: Arc::default(), filters, limits: TimeLimits::default() };
        prop_assert_eq!(read, Listener::Api(http));
    }

    #[test]
    fn listeners_survive_the_wire(target in text(), routes in text(), port in 1..=u16::MAX, v6 in any::<bool>()) {
        let named = |name: &str| Http { routes: Routes::Named(name.into()), extensions: Arc::default(), limits: TimeLimits::default(), filters: Arc::default() };
        let read = bytes_of::<Listener>(encode::listener(&target, &routes, &[]));
        prop_assert_eq!(read, Listener::Api(named(&routes)));
        let address: IpAddr = if v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        let read = bytes_in::<Listener>(encode::socket_listener(address, port, &[]), &envoy());
        // Of an Envoy's streams something holds where nothing is said.
        let limits = TimeLimits { idle: Some(Duration::from_secs(300)), ..TimeLimits::default() };
        let http = Http { limits, ..named(&port.to_string()) };
        let expected = Listener::Outbound { address: (address, port).into(), http };
        prop_assert_eq!(read, expected);
    }

    /// As a sidecar is told, of ours and of Envoy's make: what differs are the names of certificates, which are ours in another
    /// shape, and that the most retries are always said. Outlier detection by Envoy's rules has a property of its own
    /// ([`limits`](super::limits)).
    #[test]
    fn clusters_survive_the_wire_to_a_sidecar(cluster in clusters(), ours in any::<bool>()) {
        let dialect = if ours { Dialect::Sidecar } else { Dialect::Envoy(encode::EGRESS_ADDRESS) };
        // Credentials of TLS to the outside have names of their own at an Envoy; our control plane sends it none.
        let inside = |mode: &TlsMode| ours || !matches!(mode, TlsMode::Origination(_));
        let tls = Some(cluster.tls.clone()).filter(inside).unwrap_or(TlsMode::Plaintext);
        let tls_matches = cluster.tls_matches.iter().filter(|one| inside(&one.mode)).cloned().collect();
        let cluster = Cluster { outlier: None, tls, tls_matches, ..cluster };
        let told = encode::cluster(&cluster, dialect);
        let read = bytes_in::<ClusterSpec>(told, &envoy());
        prop_assert_eq!(read.discovery, Discovery::Eds(cluster.name.as_str().into()));
        let max = cluster.retry_limits.max.unwrap_or(cluster.breakers.default.max_requests);
        let retry_limits = RetryLimits { max: Some(max), ..cluster.retry_limits };
        // It knows no other rules of failover than its own.
        let common_lb = match cluster.common_lb.failover {
            Failover::Spill => cluster.common_lb,
            Failover::FirstReady => CommonLb {
                slow_start: cluster.common_lb.slow_start,
                held: cluster.common_lb.held,
                ..CommonLb::ENVOY
            },
        };
        // An Envoy is not asked for load reports.
        let load_reporting = cluster.load_reporting.filter(|_| ours);
        let expected = Cluster { load_reporting, retry_limits, common_lb, ..cluster };
        prop_assert_eq!(read.cluster, expected);
    }

    #[test]
    fn clusters_survive_the_wire(cluster in clusters()) {
        let read = bytes_of::<ClusterSpec>(encode::cluster(&cluster, Dialect::Mesh));
        prop_assert_eq!(read.discovery, Discovery::Eds(cluster.name.as_str().into()));
        prop_assert_eq!(&read.cluster, &cluster);
        // For others only the balancing differs, and that they know one kind of security and get the better one.
        let told = bytes_of::<ClusterSpec>(encode::cluster(&cluster, Dialect::Grpc)).cluster;
        let secure = cluster.tls_matches.iter().map(|one| &one.mode).find(|mode| **mode != TlsMode::Plaintext);
        let tls = match (&cluster.tls, secure) {
            (TlsMode::Plaintext, Some(secure)) => secure.clone(),
            (own, _) => own.clone(),
        };
        let lb = policy_told_to_grpc(&cluster.lb);
        let common_lb = CommonLb { held: cluster.common_lb.held, ..CommonLb::GRPC };
        let expected = Cluster { lb, common_lb, tls, tls_matches: Arc::default(), ..cluster };
        prop_assert_eq!(told, expected);
    }

    #[test]
    fn endpoints_survive_the_wire(
        list in endpoint_lists(),
        shares in prop::collection::vec(("[a-z]{0,3}", 1..=DropOverload::ALL), 0..4),
        weights in prop::collection::vec(1u32..5000, 0..10),
        factor in 1u32..300,
        by_weight in any::<bool>(),
    ) {
        let localities = localities_of(&list, &weights, factor, by_weight);
        let drop = |(category, per_million): (String, u32)| DropOverload { category: category.into(), per_million };
        let drops: Vec<DropOverload> = shares.into_iter().map(drop).collect();
        let read = bytes_of::<Endpoints>(encode::endpoints(&"c".into(), &list, &drops, &localities));
        prop_assert_eq!(&*read.endpoints, &*list);
        prop_assert_eq!(&*read.drops, &*drops);
        prop_assert_eq!(&read.localities, &localities);
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
