//! Servers' listeners that are encoded are decoded to the same value, in both shapes.
//!
//! Istio's says all of the model. gRPC's cannot say what a gRPC server never sees of a connection, and what a process does not
//! speak: a chain that asks for the first takes no connection there (gRFC A36), and a listener with a chain of bytes is refused
//! by its field, so that nobody publishes it and no connection falls through to the next chain.

use std::net::{IpAddr, SocketAddr};

use mesh_core::config::{
    Authorization, ChainIdentity, ChainMatch, Clients, Domain, ExpectedPeers, FilterChain, Inbound, InboundSecurity,
    IpPrefix, RateLimits, SourceType, Traffic, Transport,
};
use proptest::prelude::*;

use super::roundtrip::bytes_in;
use super::strategies::{string_tests, telemetries, text};
use super::*;
use super::{policies, rate_limits};
use crate::convention::NOBODY;
use crate::encode;
use crate::resource::Listener;

/// Seldom something, so that most chains can be said in both shapes.
fn few<S: Strategy>(one: S) -> impl Strategy<Value = Vec<S::Value>>
where
    S::Value: Clone,
{
    prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(one, 1..3)]
}

fn ips() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(|bytes| IpAddr::from(bytes).to_canonical()),
    ]
}

fn ranges() -> impl Strategy<Value = Vec<IpPrefix>> {
    let range = (ips(), 0u32..=128).prop_map(|(ip, bits)| {
        let bits = if ip.is_ipv4() { bits.min(32) } else { bits };
        IpPrefix::new(ip, bits).unwrap()
    });
    few(range)
}

fn matches() -> impl Strategy<Value = ChainMatch> {
    let transport = prop::sample::select(vec![None, None, Some(Transport::RawBuffer), Some(Transport::Tls)]);
    let source_type = prop::sample::select(vec![
        SourceType::Any,
        SourceType::SameIpOrLoopback,
        SourceType::External,
    ]);
    let server_name = prop_oneof!["[a-z.]{1,9}", r"\*\.[a-z.]{1,9}"];
    let server_name = server_name.prop_map(|name| Domain::parse(&name).unwrap());
    let protocol = "[a-z0-9/.]{1,8}".prop_map(Box::from);
    (
        (prop::option::weighted(0.25, 1..=u16::MAX), ranges(), few(server_name)),
        (transport, few(protocol), ranges()),
        (source_type, ranges(), few(1..=u16::MAX)),
    )
        .prop_map(|((port, destinations, server_names), begins, comes)| {
            let (transport, protocols, direct_sources) = begins;
            let (source_type, sources, source_ports) = comes;
            ChainMatch {
                port,
                destinations,
                server_names,
                transport,
                protocols,
                direct_sources,
                source_type,
                sources,
                source_ports,
            }
        })
}

fn securities() -> impl Strategy<Value = InboundSecurity> {
    // None at all, which lets nobody in, among them.
    let named = prop::collection::btree_map(text(), string_tests(), 0..3).prop_map(|tests| {
        let mut tests: Vec<_> = tests.into_values().collect();
        tests.dedup();
        let mut distinct = Vec::new();
        tests.retain(|test| {
            let key = format!("{test:?}");
            let new = !distinct.contains(&key);
            distinct.push(key);
            new
        });
        InboundSecurity::Mutual(Clients::Named(ExpectedPeers::new(tests)))
    });
    prop_oneof![
        Just(InboundSecurity::Plaintext),
        Just(InboundSecurity::OneSided),
        Just(InboundSecurity::Mutual(Clients::Trusted)),
        named,
    ]
}

/// Providers beside the one that the workload's identity comes from.
const OTHERS: [&str; 2] = ["partner", "second"];

/// Of what connections without a client's certificate are judged by, nothing is said.
fn identities(security: &InboundSecurity, [certificate, roots]: [Option<&str>; 2]) -> ChainIdentity {
    let (certificate, roots) = match security {
        InboundSecurity::Plaintext => (None, None),
        InboundSecurity::OneSided => (certificate, certificate),
        InboundSecurity::Mutual(_) => (certificate, roots),
    };
    ChainIdentity {
        certificate: certificate.map(Into::into),
        roots: roots.map(Into::into),
    }
}

/// A process whose bootstrap has them.
fn with_others(profile: Profile) -> Context {
    let whole = Provided {
        shows: true,
        judges: true,
        ..Provided::default()
    };
    let other = |name: &str| (Box::from(name), whole.clone());
    Context {
        others: Arc::new(OTHERS.map(other).into()),
        profile,
        ..context()
    }
}

/// Nothing stands behind guards where there are none; and of those at one place the order is that in which they are.
fn placed(limits: &RateLimits, are_guards: bool) -> RateLimits {
    let (mut filters, mut global) = (limits.filters().to_vec(), limits.global().to_vec());
    filters.iter_mut().for_each(|filter| filter.after_guards &= are_guards);
    global.iter_mut().for_each(|filter| filter.after_guards &= are_guards);
    global.sort_by_key(|filter| filter.after_guards);
    let hosts = limits.hosts().to_vec();
    RateLimits::new(filters, hosts).unwrap().with_global(global).unwrap()
}

fn chains() -> impl Strategy<Value = FilterChain> {
    let traffic = prop_oneof![9 => Just(Traffic::Http), 1 => Just(Traffic::Tcp)];
    let provider = || prop::sample::select(vec![None, None, Some(OTHERS[0]), Some(OTHERS[1])]);
    let how = (
        (securities(), provider(), provider()),
        traffic,
        policies::of_requests(),
        (rate_limits::of_requests(), telemetries()),
    );
    ("[a-z_0-9.]{0,9}", matches(), how).prop_map(
        |(name, matches, (asked, traffic, authorization, (limits, telemetry)))| {
            let (security, certificate, roots) = asked;
            let says_of_hosts = !authorization.hosts().is_empty();
            let limits = placed(&limits, !authorization.request().is_empty());
            FilterChain {
                name: name.into(),
                matches,
                identity: identities(&security, [certificate, roots]),
                security,
                traffic,
                // What passes bytes on has no requests.
                authorization: Arc::new(if traffic == Traffic::Http {
                    authorization
                } else {
                    Authorization::default()
                }),
                limits: Arc::new(match traffic {
                    // Hosts are one list on the wire: what only one of both says is told from what the other does not.
                    Traffic::Http if says_of_hosts => {
                        let own = RateLimits::new(limits.filters().to_vec(), Vec::new()).unwrap();
                        own.with_global(limits.global().to_vec()).unwrap()
                    }
                    Traffic::Http => limits,
                    Traffic::Tcp => RateLimits::default(),
                }),
                telemetry: Some(telemetry).filter(|_| traffic == Traffic::Http).unwrap_or_default(),
            }
        },
    )
}

/// Listeners with a chain or a default one; no two chains take the same connections.
pub(super) fn inbounds() -> impl Strategy<Value = Inbound> {
    let address = (ips(), 1..=u16::MAX).prop_map(SocketAddr::from);
    let default = prop::option::of(chains()).prop_map(|chain| {
        chain.map(|chain| FilterChain {
            matches: ChainMatch::default(),
            ..chain
        })
    });
    let lists = (prop::collection::vec(chains(), 0..5), default, chains());
    (text(), address, lists).prop_map(|(name, address, (drawn, default, instead))| {
        let mut chains: Vec<FilterChain> = Vec::new();
        for chain in drawn {
            if !chains.iter().any(|other| other.matches.overlaps(&chain.matches)) {
                chains.push(chain);
            }
        }
        if chains.is_empty() && default.is_none() {
            chains.push(instead);
        }
        Inbound {
            name,
            address,
            chains,
            default,
        }
    })
}

/// Whether a gRPC server sees what this looks at (gRFC A36).
fn is_seen_by_grpc(chain: &FilterChain) -> bool {
    let matches = &chain.matches;
    matches.port.is_none()
        && matches.server_names.is_empty()
        && matches.transport != Some(Transport::Tls)
        && matches.protocols.is_empty()
}

proptest! {
    #[test]
    fn servers_listeners_survive_the_wire_in_istios_shape(inbound in inbounds()) {
        let read = bytes_in::<Listener>(encode::inbound(&inbound, Profile::Envoy), &with_others(Profile::Envoy));
        prop_assert_eq!(read, Listener::Inbound(Arc::new(inbound)));
    }

    /// And what connections are asked, which gRPC's shape has no words for.
    #[test]
    fn what_connections_are_asked_survives_the_wire(
        chain in chains(), filters in policies::of_connections(), name in text(),
    ) {
        let request = chain.authorization.request().to_vec();
        let hosts = chain.authorization.hosts().to_vec();
        let checks = chain.authorization.checks().to_vec();
        let authorization = Authorization::new(filters.clone(), request, hosts).unwrap();
        let authorization = Arc::new(authorization.with_checks(checks).unwrap());
        let default = FilterChain { matches: ChainMatch::default(), authorization, ..chain };
        let address = ([127, 0, 0, 1], 80).into();
        let inbound = Inbound { name, address, chains: Vec::new(), default: Some(default) };
        let bytes = encode::inbound(&inbound, Profile::Envoy);
        // The same bytes for the same value, or each publication would look like a change.
        if inbound.default.iter().all(|chain| chain.authorization.hosts().is_empty()) {
            prop_assert_eq!(&bytes, &encode::inbound(&inbound, Profile::Envoy));
        }
        let read = bytes_in::<Listener>(bytes, &with_others(Profile::Envoy));
        prop_assert_eq!(read, Listener::Inbound(Arc::new(inbound.clone())));
        let raw = Raw { type_url: Listener::KIND.type_url().into(), bytes: encode::inbound(&inbound, Profile::Grpc) };
        let read = decode::<Listener>(&raw, &with_others(Profile::Grpc)).unwrap();
        let is_said = filters.is_empty() && inbound.default.iter().all(|chain| chain.traffic == Traffic::Http);
        prop_assert_eq!(read.value.is_ok(), is_said);
    }

    #[test]
    fn servers_listeners_survive_the_wire_in_grpcs_shape(inbound in inbounds()) {
        let raw = Raw { type_url: Listener::KIND.type_url().into(), bytes: encode::inbound(&inbound, Profile::Grpc) };
        let read = decode::<Listener>(&raw, &with_others(Profile::Grpc)).unwrap();
        let bytes = inbound.chains.iter().position(|chain| chain.traffic == Traffic::Tcp);
        let in_default = inbound.default.iter().any(|chain| chain.traffic == Traffic::Tcp);
        let at = match bytes {
            Some(index) => Some(format!("filter_chains[{index}].filters[0].typed_config")),
            None if in_default => Some("default_filter_chain.filters[0].typed_config".into()),
            None => None,
        };
        if let Some(at) = at {
            let rejected = read.value.unwrap_err();
            prop_assert_eq!(rejected.field(), at);
        } else {
            for unseen in inbound.chains.iter().filter(|chain| !is_seen_by_grpc(chain)) {
                let told = format!("chain {:?} takes no connection", unseen.name);
                prop_assert!(read.notes.iter().any(|note| note.starts_with(&told)), "{:?}", read.notes);
            }
            let chains = inbound.chains.iter().filter(|chain| is_seen_by_grpc(chain)).cloned().collect();
            prop_assert_eq!(read.value.unwrap(), Listener::Inbound(Arc::new(Inbound { chains, ..inbound })));
        }
    }
}

/// To others an empty list of names is "anybody": they are told a name that nobody has, in both of the lists that there are.
#[test]
#[allow(deprecated, reason = "the list that C-core and grpc-js enforce")]
fn a_server_that_lets_nobody_in_says_so_to_everyone() {
    use crate::proto::core::transport_socket::ConfigType;
    use crate::proto::listener;
    use crate::proto::tls::{DownstreamTlsContext, common_tls_context::ValidationContextType};
    let nobody = Inbound {
        name: "s".into(),
        address: ([127, 0, 0, 1], 80).into(),
        chains: Vec::new(),
        default: Some(FilterChain {
            name: Box::default(),
            matches: ChainMatch::default(),
            security: InboundSecurity::Mutual(Clients::Named(ExpectedPeers::new(Vec::new()))),
            identity: ChainIdentity::default(),
            traffic: Traffic::Http,
            authorization: Arc::default(),
            limits: Arc::default(),
            telemetry: Default::default(),
        }),
    };
    let proto = listener::Listener::decode(&*encode::inbound(&nobody, Profile::Grpc)).unwrap();
    let socket = proto.default_filter_chain.unwrap().transport_socket.unwrap();
    let Some(ConfigType::TypedConfig(any)) = socket.config_type else {
        panic!("typed")
    };
    let tls = DownstreamTlsContext::decode(&*any.value).unwrap();
    assert!(tls.require_client_certificate.unwrap().value);
    let Some(ValidationContextType::ValidationContext(validation)) =
        tls.common_tls_context.unwrap().validation_context_type
    else {
        panic!("a plain context")
    };
    let name = encode_of(NOBODY);
    assert_eq!(validation.match_subject_alt_names, std::slice::from_ref(&name));
    assert_eq!(validation.match_typed_subject_alt_names.len(), 1);
    assert_eq!(validation.match_typed_subject_alt_names[0].matcher, Some(name));
}

fn encode_of(text: &str) -> crate::proto::matcher::StringMatcher {
    crate::proto::matcher::StringMatcher {
        match_pattern: Some(crate::proto::matcher::string_matcher::MatchPattern::Exact(text.into())),
        ..Default::default()
    }
}
