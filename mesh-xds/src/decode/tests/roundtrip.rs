//! What is encoded is decoded to the same value: all that our control plane sends, to each kind of client, over the whole of the
//! model that it can say. Servers' listeners, in both of their shapes, are in [`served`](super::served).
//!
//! Clusters that stand for others are put together of several resources: theirs is in the client's tests
//! (`aggregates_survive_the_wire`).
//!
//! It never sends, and so has no encoder for: routes inside a listener, filters that are resources of their own (ECDS), and
//! clusters of other kinds than EDS under their own name. Of those the same is said in [`others`](super::others), so that nothing of the
//! model is left out. That no bytes are fatal is fuzzed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use mesh_core::config::{
    CallFilter, Cluster, CommonLb, DropOverload, Failover, FilterKind, LbPolicy, RingFunction, RingHash, RouteTree,
    TimeLimits, TlsMode,
};
use proptest::prelude::*;

use super::strategies::{clusters, endpoint_lists, kinds, localities_of, telemetries, text, trees};
use super::*;
use crate::encode::{self, Calls, Dialect};
use crate::resource::{ClusterSpec, Discovery, Endpoints, Extension, Http, Listener, Routes};

/// What gRPC's other clients are told in its place.
fn policy_told_to_grpc(policy: &LbPolicy) -> LbPolicy {
    match policy {
        LbPolicy::LeastRequest(_) | LbPolicy::Random => LbPolicy::RoundRobin,
        LbPolicy::Maglev(_) => LbPolicy::RingHash(RingHash::DEFAULT),
        LbPolicy::RingHash(config) => LbPolicy::RingHash(RingHash {
            function: RingFunction::XxHash,
            balance: None,
            ..*config
        }),
        LbPolicy::RoundRobin | LbPolicy::ClientSideWeightedRoundRobin(_) | LbPolicy::PickFirst { .. } => policy.clone(),
    }
}

fn bytes_of<R: Resource>(bytes: Vec<u8>) -> R {
    let trusted = Context {
        trusted: true,
        ..context()
    };
    bytes_in(bytes, &trusted)
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
        filters in prop::collection::btree_map("[a-z.]{1,5}", (kinds(), any::<bool>()), 0..3),
        telemetry in telemetries(),
    ) {
        let filter = |(name, (what, disabled)): (String, (FilterKind, bool))| CallFilter {
            name: name.into(),
            what,
            disabled,
        };
        let filters: Arc<[CallFilter]> = filters.into_iter().map(filter).collect();
        let calls = Calls { filters: &filters, telemetry: Some(&telemetry) };
        let read = bytes_of::<Listener>(encode::listener("t", "r", &calls));
        let http = Http {
            routes: Routes::Named("r".into()), extensions: Arc::default(), filters, limits: TimeLimits::default(), telemetry,
        };
        prop_assert_eq!(read, Listener::Api(http));
    }

    #[test]
    fn listeners_survive_the_wire(target in text(), routes in text(), port in 1..=u16::MAX, v6 in any::<bool>(), telemetry in telemetries()) {
        let calls = Calls { filters: &[], telemetry: Some(&telemetry) };
        let named = |name: &str| Http { routes: Routes::Named(name.into()), extensions: Arc::default(), limits: TimeLimits::default(), filters: Arc::default(), telemetry: telemetry.clone() };
        let read = bytes_of::<Listener>(encode::listener(&target, &routes, &calls));
        prop_assert_eq!(read, Listener::Api(named(&routes)));
        let address: IpAddr = if v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        let read = bytes_in::<Listener>(encode::socket_listener(address, port, &calls), &envoy());
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
        let mut breakers = cluster.breakers;
        for of in [&mut breakers.default, &mut breakers.high] {
            of.retries.max = Some(of.retries.max.unwrap_or(of.max_requests));
        }
        // It knows no other rules of failover than its own, and an Envoy no few of its own.
        let rules = match cluster.common_lb.failover {
            Failover::Spill => cluster.common_lb,
            Failover::FirstReady => CommonLb {
                slow_start: cluster.common_lb.slow_start,
                held: cluster.common_lb.held,
                ..CommonLb::ENVOY
            },
        };
        let common_lb = CommonLb { subset_size: cluster.common_lb.subset_size.filter(|_| ours), ..rules };
        // An Envoy is not asked for load reports.
        let load_reporting = cluster.load_reporting.filter(|_| ours);
        let expected = Cluster { load_reporting, breakers, common_lb, ..cluster };
        prop_assert_eq!(read.cluster, expected);
    }

    #[test]
    fn clusters_survive_the_wire(cluster in clusters()) {
        let read = bytes_of::<ClusterSpec>(encode::cluster(&cluster, Dialect::Mesh));
        prop_assert_eq!(read.discovery, Discovery::Eds(cluster.name.as_str().into()));
        prop_assert_eq!(&read.cluster, &cluster);
        // For others only the balancing differs, and that they know one kind of security and get the better one, and cannot call what asks
        // for files of their own.
        let told = bytes_of::<ClusterSpec>(encode::cluster(&cluster, Dialect::Grpc)).cluster;
        let secure = cluster.tls_matches.iter().map(|one| &one.mode).find(|mode| **mode != TlsMode::Plaintext);
        let tls = match (&cluster.tls, secure) {
            (TlsMode::Plaintext, Some(secure)) => secure.clone(),
            (own, _) => own.clone(),
        };
        let is_served = |tls: &TlsMode| !matches!(tls, TlsMode::Origination(outside) if outside.asks_for_the_callers_own());
        let load_reporting = cluster.load_reporting.clone().filter(|_| is_served(&tls));
        let tls = Some(tls).filter(is_served).unwrap_or(TlsMode::Plaintext);
        let lb = policy_told_to_grpc(&cluster.lb);
        let CommonLb { held, subset_size, .. } = cluster.common_lb;
        let common_lb = CommonLb { held, subset_size, ..CommonLb::GRPC };
        let expected = Cluster { lb, common_lb, tls, load_reporting, tls_matches: Arc::default(), ..cluster };
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
