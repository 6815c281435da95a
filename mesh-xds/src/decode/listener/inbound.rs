//! What a server accepts connections by: gRFC A36's listeners, and Istio's `virtualInbound`.
//!
//! A server that left out what it does not understand would let in whom the control plane keeps out. So everything that
//! could keep a connection or a call out is honoured or refused; only what shapes a proxy is passed over.

use std::sync::Arc;

use mesh_core::config::{
    Authorization, ChainIdentity, ChainMatch, FilterChain, Inbound, InboundSecurity, RateLimits, Reason, ReasonKind,
    Routing, Telemetry, Traffic,
};

use super::chain::{self, Rules};
use super::discovered::{self, Discovered};
use super::manager::{self, ServedBy};
use super::network::{Terminal, terminal};
use super::routed::Guarding;
use crate::bootstrap::Profile;
use crate::decode::address::socket_address;
use crate::decode::extension::type_name;
use crate::decode::{Context, Fault, Notes, telemetry, tls};
use crate::proto::listener::{
    FilterChain as ChainProto, Listener as Proto, ListenerFilter, listener_filter::ConfigType,
};
use crate::resource::{ChainElsewhere, Elsewhere, Listener, Routed};

/// The most chains of a listener: Istio writes a few for each port of a workload, and each is held against all others.
const MAX_CHAINS: usize = 1024;

/// Listener filters that only look at how a connection begins, which a server here does by itself.
const LISTENER_NO_OPS: [&str; 3] = [
    "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
    "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
];

pub(super) fn inbound(proto: &Proto, context: &Context, notes: &mut Notes) -> Result<Listener, Fault> {
    listener_wide(proto, context)?;
    let address = socket_address(proto.address.as_ref()).map_err(|fault| fault.within("address"))?;
    if proto.filter_chains.is_empty() && proto.default_filter_chain.is_none() {
        return Err(Fault::new(
            "filter_chains",
            "is empty, and there is no default_filter_chain",
        ));
    }
    if proto.filter_chains.len() > MAX_CHAINS {
        let reason = format!("holds more than {MAX_CHAINS} chains");
        return Err(Fault::new("filter_chains", reason));
    }
    let mut chains: Vec<(usize, FilterChain)> = Vec::new();
    let mut elsewhere = Vec::new();
    let mut rules = Rules::default();
    for (index, chain) in proto.filter_chains.iter().enumerate() {
        let at = |fault: Fault| fault.within(format_args!("filter_chains[{index}]"));
        // Also of one that takes nothing: it is no less wrong for that (gRFC A36).
        let read = filter_chain(chain, context, notes).map_err(at)?;
        let matches = chain::matches(chain.filter_chain_match.as_ref(), &mut rules, context);
        let matches = matches.map_err(|fault| at(fault.within("filter_chain_match")))?;
        let matches = match matches {
            Ok(matches) => matches,
            Err(why) => {
                notes.add(format_args!("chain {:?} takes no connection: {why}", chain.name));
                continue;
            }
        };
        if let Some((other, _)) = chains.iter().find(|(_, other)| other.matches.overlaps(&matches)) {
            let reason = format!("takes the same connections as filter_chains[{other}]");
            return Err(at(Fault::new("filter_chain_match", reason)));
        }
        elsewhere.extend(read.elsewhere.map(|what| ChainElsewhere {
            chain: Some(chains.len()),
            what,
        }));
        let name = chain.name.as_str().into();
        chains.push((
            index,
            FilterChain {
                name,
                matches,
                security: read.security,
                identity: read.identity,
                traffic: read.traffic,
                authorization: read.authorization,
                limits: read.limits,
                telemetry: read.telemetry,
            },
        ));
    }
    let default = proto.default_filter_chain.as_ref().map(|chain| {
        let read = filter_chain(chain, context, notes).map_err(|fault| fault.within("default_filter_chain"));
        read.map(|read| {
            elsewhere.extend(read.elsewhere.map(|what| ChainElsewhere { chain: None, what }));
            FilterChain {
                name: chain.name.as_str().into(),
                matches: ChainMatch::default(),
                security: read.security,
                identity: read.identity,
                traffic: read.traffic,
                authorization: read.authorization,
                limits: read.limits,
                telemetry: read.telemetry,
            }
        })
    });
    let inbound = Arc::new(Inbound {
        name: proto.name.as_str().into(),
        address,
        chains: chains.into_iter().map(|(_, chain)| chain).collect(),
        default: default.transpose()?,
    });
    Ok(match elsewhere.is_empty() {
        true => Listener::Inbound(inbound),
        false => Listener::Routed(Arc::new(Routed { inbound, elsewhere })),
    })
}

fn listener_wide(proto: &Proto, context: &Context) -> Result<(), Fault> {
    if context.profile == Profile::Grpc {
        if !proto.listener_filters.is_empty() {
            return Err(Fault::new("listener_filters", "must be empty (gRFC A36)"));
        }
        if proto.use_original_dst.is_some_and(|flag| flag.value) {
            return Err(Fault::new("use_original_dst", "must not be set (gRFC A36)"));
        }
    }
    for (index, filter) in proto.listener_filters.iter().enumerate() {
        known(filter).map_err(|fault| fault.within(format_args!("listener_filters[{index}]")))?;
    }
    let refused = [
        ("filter_chain_matcher", proto.filter_chain_matcher.is_some()),
        ("fcds_config", proto.fcds_config.is_some()),
        ("udp_listener_config", proto.udp_listener_config.is_some()),
    ];
    match refused.iter().find(|(_, present)| *present) {
        Some((field, _)) => Err(Fault::new(*field, "is not supported")),
        None => Ok(()),
    }
}

fn known(filter: &ListenerFilter) -> Result<(), Fault> {
    match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) if LISTENER_NO_OPS.contains(&type_name(&any.type_url)) => Ok(()),
        Some(ConfigType::TypedConfig(any)) => {
            let reason = format!("listener filter {:?} is not supported", any.type_url);
            Err(Fault::new("typed_config", reason))
        }
        Some(ConfigType::ConfigDiscovery(_)) => Err(Fault::new("config_discovery", "is not supported")),
        None => Err(Fault::new("typed_config", "is missing")),
    }
}

/// A chain, but for what it is called and what it matches.
struct Read {
    security: InboundSecurity,
    identity: ChainIdentity,
    traffic: Traffic,
    authorization: Arc<Authorization>,
    limits: Arc<RateLimits>,
    telemetry: Telemetry,
    /// What is known of it later.
    elsewhere: Option<Elsewhere>,
}

#[allow(deprecated, reason = "a deprecated field that changes who the peer is")]
fn filter_chain(chain: &ChainProto, context: &Context, notes: &mut Notes) -> Result<Read, Fault> {
    if chain.use_proxy_proto.is_some_and(|flag| flag.value) {
        return Err(Fault::new("use_proxy_proto", "is not supported"));
    }
    let discovered = discovered::of(chain, context, notes)?;
    let tried = discovered.as_ref().map(Discovered::tried).transpose()?;
    let (traffic, telemetry, asked) = read(tried.as_ref().unwrap_or(chain), context, notes)?;
    let (authorization, limits, elsewhere) = match (asked, discovered) {
        (asked, Some(discovered)) => {
            let names = discovered.filters.iter().map(|found| &*found.extension.name);
            let text = format!("filters {:?} were not heard of yet", names.collect::<Vec<_>>());
            let closed = asked.authorization()?.with_routing(not_yet(text));
            (closed, RateLimits::default(), Some(Elsewhere::Filters(discovered)))
        }
        (Asks::Now(authorization, limits), None) => (authorization, limits, None),
        (Asks::ByRoutes(routes, guarding), None) => {
            let closed = guarding.closed(unheard(&routes))?;
            (closed, RateLimits::default(), Some(Elsewhere::Routes(routes, guarding)))
        }
    };
    let (security, identity) = match &chain.transport_socket {
        None => (InboundSecurity::Plaintext, ChainIdentity::default()),
        Some(socket) => tls::downstream(socket, context, notes).map_err(|fault| fault.within("transport_socket"))?,
    };
    Ok(Read {
        security,
        identity,
        traffic,
        authorization: Arc::new(authorization),
        limits: Arc::new(limits),
        telemetry,
        elsewhere,
    })
}

/// What a chain asks of requests.
#[derive(Debug)]
pub(crate) enum Asks {
    /// This.
    Now(Authorization, RateLimits),
    /// What comes of its filters and of the routes of this name.
    ByRoutes(Arc<str>, Guarding),
}

impl Asks {
    /// As far as it is known: by a chain whose routes are not there nobody is served.
    fn authorization(&self) -> Result<Authorization, Fault> {
        match self {
            Self::Now(authorization, _) => Ok(authorization.clone()),
            Self::ByRoutes(name, guarding) => guarding.closed(unheard(name)),
        }
    }
}

fn unheard(routes: &str) -> Routing {
    not_yet(format!("route configuration {routes:?} was not heard of yet"))
}

fn not_yet(text: String) -> Routing {
    Routing::Nothing(Reason::new(ReasonKind::Waiting, text))
}

/// What a chain asks of requests whose filters all stand in it.
pub(super) fn asks(chain: &ChainProto, context: &Context, notes: &mut Notes) -> Result<Asks, Fault> {
    read(chain, context, notes).map(|(_, _, asked)| asked)
}

fn read(chain: &ChainProto, context: &Context, notes: &mut Notes) -> Result<(Traffic, Telemetry, Asks), Fault> {
    let (terminal, connection) = terminal(chain, context, notes)?;
    let mut told = Telemetry::default();
    let asked = match &terminal {
        Terminal::Http { manager, index } => {
            told = telemetry::of(manager, notes);
            let at = |fault: Fault| fault.within(format_args!("filters[{index}].typed_config"));
            let (mut guarding, routes) = manager::server(manager, context, notes).map_err(at)?;
            guarding.connection = connection;
            match routes {
                ServedBy::Inline(config) => {
                    let said = guarding.inline(config);
                    let (authorization, limits) =
                        guarding.with(said.map_err(|fault| at(fault.within("route_config")))?)?;
                    Asks::Now(authorization, limits)
                }
                ServedBy::Named(name) => Asks::ByRoutes(name, guarding),
            }
        }
        Terminal::Tcp => {
            let authorization = Authorization::new(connection, Vec::new(), Vec::new());
            let authorization = authorization.map_err(|error| Fault::new("filters", error))?;
            Asks::Now(authorization, RateLimits::default())
        }
    };
    Ok((terminal.traffic(), told, asked))
}
