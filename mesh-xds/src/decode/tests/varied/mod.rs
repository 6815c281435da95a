//! The generators of the properties leave no field of the model as it is: each takes several values. A field that is new does
//! not compile here until it is named, and fails until it is varied.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use mesh_core::config::{
    ChainIdentity, ClientWeights, Cluster, CommonLb, Connections, DropOverload, Endpoint, HostSelection, Http2Settings,
    KeepAlive, LbPolicy, LeastRequest, LoadReporting, Localities, Locality, LocalityWeight, MutualTls, NameMatch,
    RateLimitedBackoff, ResetHeader, RetryPolicy, RingHash, Route, RouteTree, SlowStart, TcpKeepAlive, TimeLimits,
    TlsMatch, TlsMode, TlsOrigination, VirtualHost,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::strategies::{aggregates, clusters, endpoint_lists, localities_of, trees};
use super::{others, rate_limits, served};

/// How many values of each generator are looked at. Each field takes another value in one of ten or more.
const VALUES: usize = 200;

/// What no generator varies, and where it is said instead.
const ELSEWHERE: [&str; 2] = [
    // Travel with the listener: `filters_survive_the_wire`.
    "RouteTree.filters",
    "RouteTree.telemetry",
];

/// The values that each field took, two of them at most.
#[derive(Default)]
struct Seen(BTreeMap<&'static str, BTreeSet<String>>);

impl Seen {
    fn note(&mut self, field: &'static str, value: &dyn Debug) {
        let values = self.0.entry(field).or_default();
        if values.len() < 2 {
            values.insert(format!("{value:?}"));
        }
    }
}

/// Takes a value apart, without a rest.
macro_rules! note {
    ($seen:expr, $value:expr => $of:ident { $($field:ident),* $(,)? }) => {
        let $of { $($field),* } = $value;
        $($seen.note(concat!(stringify!($of), ".", stringify!($field)), $field);)*
    };
}

mod limits;
mod routes;
mod servers;

fn each<S: Strategy>(strategy: S, mut look: impl FnMut(S::Value)) {
    let mut runner = TestRunner::deterministic();
    for _ in 0..VALUES {
        look(strategy.new_tree(&mut runner).unwrap().current());
    }
}

impl Seen {
    fn cluster(&mut self, cluster: &Cluster) {
        note!(self, cluster => Cluster {
            name, lb, common_lb, tls, tls_matches, connect_timeout, connections, breakers, outlier, load_reporting, drops,
            by_authority, localities, endpoints, service, leaves,
        });
        note!(self, common_lb => CommonLb {
            failover, panic_threshold, fail_on_panic, by_locality, subset_size, held, slow_start,
        });
        if let Some(slow_start) = slow_start {
            note!(self, slow_start => SlowStart { window, aggression_per_mille, min_weight });
        }
        self.balancing(lb);
        self.tls(tls);
        for one in &**tls_matches {
            note!(self, one => TlsMatch { name, when, mode });
            self.tls(mode);
        }
        note!(self, &**connections => Connections {
            protocol, http2, idle_timeout, max_age, max_requests, tcp_keep_alive,
        });
        note!(self, http2 => Http2Settings { max_streams, stream_window, connection_window, keep_alive });
        if let Some(keep_alive) = keep_alive {
            note!(self, keep_alive => KeepAlive { interval, timeout });
        }
        if let Some(keep_alive) = tcp_keep_alive {
            note!(self, keep_alive => TcpKeepAlive { probes, time, interval });
        }
        if let Some(reporting) = load_reporting {
            note!(self, reporting => LoadReporting { service, metrics });
        }
        self.breakers(breakers);
        if let Some(outlier) = outlier {
            self.outlier(outlier);
        }
        for share in &**drops {
            note!(self, share => DropOverload { category, per_million });
        }
        self.localities(localities);
        leaves.iter().for_each(|leaf| self.cluster(leaf));
    }

    fn balancing(&mut self, lb: &LbPolicy) {
        match lb {
            LbPolicy::LeastRequest(least) => {
                note!(self, least => LeastRequest { choices, bias_per_mille });
            }
            LbPolicy::RingHash(ring) => {
                note!(self, ring => RingHash { min_size, max_size, function, balance });
            }
            LbPolicy::ClientSideWeightedRoundRobin(weights) => {
                note!(self, weights => ClientWeights {
                    out_of_band, blackout, expiration, update, error_penalty_per_mille, metrics,
                });
            }
            LbPolicy::Maglev(maglev) => {
                self.note("Maglev.size", &maglev.size());
                self.note("Maglev.balance", &maglev.balance);
            }
            LbPolicy::PickFirst { shuffle } => self.note("PickFirst.shuffle", shuffle),
            LbPolicy::RoundRobin | LbPolicy::Random => {}
        }
    }

    fn tls(&mut self, mode: &TlsMode) {
        match mode {
            TlsMode::Plaintext => {}
            TlsMode::Mutual(mutual) => {
                note!(self, mutual => MutualTls { expected, sni, identity, anonymous });
                self.note("MutualTls.sni is said", &sni.is_some());
                note!(self, identity => ChainIdentity { certificate, roots });
            }
            TlsMode::Origination(outside) => {
                note!(self, &**outside => TlsOrigination { roots, sni, names, shown, unverified });
                self.note("TlsOrigination.sni is said", &sni.is_some());
                for name in &**names {
                    note!(self, name => NameMatch { kind, test });
                }
            }
        }
    }

    fn localities(&mut self, localities: &Localities) {
        note!(self, localities => Localities { weights, overprovisioning_factor, weighted_health });
        for one in &**weights {
            note!(self, one => LocalityWeight { priority, locality, weight });
        }
    }

    fn endpoint(&mut self, endpoint: &Endpoint) {
        note!(self, endpoint => Endpoint { address, weight, health, priority, locality, hostname, metadata });
        self.note("Endpoint.address is IPv6", &address.is_ipv6());
        note!(self, &**locality => Locality { region, zone, sub_zone });
    }

    fn tree(&mut self, tree: &RouteTree) {
        note!(self, tree => RouteTree {
            name, virtual_hosts, ignore_port, headers, closest_rules_last, filters, filter_overrides, telemetry,
        });
        self.headers(headers.as_deref());
        self.overrides(filter_overrides);
        for host in virtual_hosts {
            note!(self, host => VirtualHost { name, domains, routes, headers, filter_overrides });
            self.headers(headers.as_deref());
            self.overrides(filter_overrides);
            routes.iter().for_each(|route| self.route(route));
        }
    }

    fn route(&mut self, route: &Route) {
        note!(self, route => Route {
            name, matches, action, timeout, limits, retry, priority, headers, filter_overrides,
        });
        if let Some(timeout) = timeout {
            self.note("Route.timeout is whole seconds", &(timeout.subsec_nanos() == 0));
        }
        self.route_match(matches);
        self.limits(limits);
        self.action(action);
        self.headers(headers.as_deref());
        self.overrides(filter_overrides);
        note!(self, retry => RetryPolicy {
            retries, on, statuses, headers, request_headers, per_try_timeout, per_try_idle_timeout, hedge, backoff,
            rate_limited, hosts, replay_bytes, announce_attempts, explicit,
        });
        note!(self, hosts => HostSelection { other_hosts, max_attempts, other_priorities });
        if let Some(limited) = rate_limited {
            note!(self, limited => RateLimitedBackoff { headers, max });
            for header in &**headers {
                note!(self, header => ResetHeader { name, format });
            }
        }
    }

    fn limits(&mut self, limits: &TimeLimits) {
        note!(self, limits => TimeLimits { max_stream, grpc_max, grpc_offset, idle, untold });
        self.note(
            "TimeLimits.max_stream is none",
            &(*max_stream == Some(std::time::Duration::ZERO)),
        );
        self.note("TimeLimits.idle is none", &(*idle == Some(std::time::Duration::ZERO)));
    }
}

#[test]
fn no_field_of_the_model_is_left_as_it_is() {
    let mut seen = Seen::default();
    each(clusters(), |cluster| seen.cluster(&cluster));
    each(aggregates(), |cluster| seen.cluster(&cluster));
    each(others::specs(), |spec| seen.cluster(&spec.cluster));
    each(others::limits(), |limits| seen.limits(&limits));
    each(endpoint_lists(), |list| {
        list.iter().for_each(|endpoint| seen.endpoint(endpoint))
    });
    let localities = (
        endpoint_lists(),
        prop::collection::vec(1u32..5000, 0..10),
        1u32..300,
        any::<bool>(),
    );
    each(localities, |(list, weights, factor, by_weight)| {
        seen.localities(&localities_of(&list, &weights, factor, by_weight));
    });
    each(trees(), |tree| seen.tree(&tree));
    each(served::inbounds(), |inbound| seen.inbound(&inbound));
    each(rate_limits::of_sidecars(), |limits| seen.rate_limits(&limits));
    let alike = seen.0.iter().filter(|(_, values)| values.len() < 2);
    let alike: Vec<&str> = alike.map(|(field, _)| *field).collect();
    let left: Vec<&&str> = alike.iter().filter(|field| !ELSEWHERE.contains(field)).collect();
    assert!(left.is_empty(), "never varied: {left:?}");
    // And nothing is excused that is varied.
    assert_eq!(alike.len(), ELSEWHERE.len(), "{alike:?}");
}

/// Zero says no limit, and so does nothing: only of limits that stand further out they differ.
#[test]
fn a_timeout_of_zero_is_none_and_ends_no_search_for_a_limit() {
    use mesh_core::config::{Route, Split};
    let mut route = Route::to(Split::all_to("c"));
    route.timeout = Some(std::time::Duration::ZERO);
    let host = VirtualHost::new(
        "h",
        vec![mesh_core::config::Domain::parse("*").unwrap()],
        vec![route.into()],
    );
    let tree = RouteTree::new("t", vec![host]);
    let read: RouteTree = super::roundtrip::bytes_in(crate::encode::routes(&tree), &super::context());
    let read = &read.virtual_hosts[0].routes[0];
    assert_eq!((read.timeout, read.limits), (None, TimeLimits::default()));
}
