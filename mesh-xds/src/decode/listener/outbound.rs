//! What a sidecar catches outbound requests with (Istio): one listener per port (`0.0.0.0_<port>`) or per address and port
//! (`<VIP>_<port>`), whose routes go by the port's name.
//!
//! A process that calls by name looks its target's port up among these. Where there is none for it, the listener that everything is
//! redirected to says whether what nobody knows may pass. What only a proxy can do is a good resource that serves nobody: chains
//! that pass bytes on.

use prost::{Message as _, Name};

use super::manager;
use super::network::{Terminal, terminal};
use crate::decode::address::{is_at_no_port, socket_address};
use crate::decode::{Context, Fault, Notes};
use crate::proto::hcm::HttpConnectionManager;
use crate::proto::listener::{FilterChain, FilterChainMatch, Listener as Proto, filter::ConfigType};
use crate::proto::tcp_proxy::{TcpProxy, tcp_proxy::ClusterSpecifier};
use crate::resource::Listener;

pub(super) fn outbound(proto: &Proto, context: &Context, notes: &mut Notes) -> Result<Listener, Fault> {
    // Istio's `virtualOutbound`: it hands each connection to the listener of where it was going, and keeps what there is none for.
    if proto.use_original_dst.is_some_and(|flag| flag.value) {
        return Ok(match catches_all(proto) {
            Some(cluster) => Listener::CatchAll(cluster.as_str().into()),
            None => other(
                "hands connections on to other listeners, which only a proxy does",
                notes,
            ),
        });
    }
    // A pipe (Istio's `egress.bind` of `unix://`) or a place inside a proxy: who calls by name comes by neither.
    if is_at_no_port(proto.address.as_ref()) {
        return Ok(other("is at a pipe, or inside a proxy, and at no port", notes));
    }
    if proto.filter_chain_matcher.is_some() {
        return Ok(other("chooses among its chains by a matcher", notes));
    }
    if proto.listener_specifier.is_some() {
        return Ok(other("is inside a proxy", notes));
    }
    let mut managers = Vec::new();
    for (at, chain) in chains(proto) {
        let found = speaks_http(chain, context, notes).map_err(|fault| fault.within(&at))?;
        managers.extend(found.map(|(manager, index)| (format!("{at}.filters[{index}].typed_config"), manager)));
    }
    let (at, manager) = match (managers.pop(), managers.is_empty()) {
        (None, _) => return Ok(other("passes bytes on, which only a proxy does", notes)),
        (Some(only), true) => only,
        (Some(_), false) => return Ok(other("has several chains that speak HTTP", notes)),
    };
    let address = socket_address(proto.address.as_ref()).map_err(|fault| fault.within("address"))?;
    let http = manager::http(&manager, &proto.name, context, notes).map_err(|fault| fault.within(at))?;
    Ok(Listener::Outbound { address, http })
}

/// The cluster that the chain for every connection passes bytes to, and nothing else.
fn catches_all(proto: &Proto) -> Option<String> {
    let takes_all = |chain: &&FilterChain| {
        let matches = chain.filter_chain_match.as_ref();
        matches.is_none_or(|matches| *matches == FilterChainMatch::default())
    };
    let chain = proto.filter_chains.iter().find(takes_all);
    let last = chain.or(proto.default_filter_chain.as_ref())?.filters.last()?;
    let Some(ConfigType::TypedConfig(any)) = &last.config_type else {
        return None;
    };
    if any.type_url != TcpProxy::type_url() {
        return None;
    }
    match TcpProxy::decode(&*any.value).ok()?.cluster_specifier? {
        ClusterSpecifier::Cluster(name) if !name.is_empty() => Some(name),
        _ => None,
    }
}

fn other(why: &str, notes: &mut Notes) -> Listener {
    notes.add(format_args!("the listener {why}: it serves nobody here"));
    Listener::Other(why.into())
}

fn chains(proto: &Proto) -> impl Iterator<Item = (String, &FilterChain)> {
    let listed = proto.filter_chains.iter().enumerate();
    let listed = listed.map(|(index, chain)| (format!("filter_chains[{index}]"), chain));
    let default = proto.default_filter_chain.iter();
    listed.chain(default.map(|chain| ("default_filter_chain".into(), chain)))
}

/// The connection manager of a chain that ends with one. What a chain of bytes holds decides about bytes that do not come by
/// here; before a connection manager it could be a guard.
fn speaks_http(
    chain: &FilterChain,
    context: &Context,
    notes: &mut Notes,
) -> Result<Option<(Box<HttpConnectionManager>, usize)>, Fault> {
    let last = chain.filters.last().and_then(|last| last.config_type.as_ref());
    match last {
        Some(ConfigType::TypedConfig(any)) if any.type_url == HttpConnectionManager::type_url() => {}
        _ => return Ok(None),
    }
    let (terminal, guards) = terminal(chain, context, notes)?;
    if !guards.is_empty() {
        return Err(Fault::new(
            "filters",
            "an RBAC filter guards, and is not enforced of a client's connections",
        ));
    }
    match terminal {
        Terminal::Http { manager, index } => Ok(Some((manager, index))),
        Terminal::Tcp => Ok(None),
    }
}
