//! The network filters of a chain: in the end there is one that speaks HTTP, or one that passes bytes on.

use mesh_core::config::{RbacFilter, Traffic};
use prost::Name;

use crate::bootstrap::Profile;
use crate::decode::common::unpack;
use crate::decode::extension::{is_guard, type_name};
use crate::decode::{Context, Fault, Notes, rbac};
use crate::proto::hcm::HttpConnectionManager;
use crate::proto::listener::{Filter, FilterChain, filter::ConfigType};
use crate::proto::protobuf::Any;
use crate::proto::rbac_network;

/// Passes bytes to a cluster.
const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";

/// Network filters that istiod adds and that mean nothing in process: they tell the other proxy who this one is, and count.
const NO_OPS: [&str; 2] = [
    "envoy.tcp.metadataexchange.config.MetadataExchange",
    "stats.PluginConfig",
];

/// What the last filter of a chain is.
pub(super) enum Terminal {
    Http {
        manager: Box<HttpConnectionManager>,
        index: usize,
    },
    Tcp,
}

impl Terminal {
    pub(super) fn traffic(&self) -> Traffic {
        match self {
            Self::Http { .. } => Traffic::Http,
            Self::Tcp => Traffic::Tcp,
        }
    }
}

/// Reads a chain's filters. In gRPC's profile there is the connection manager and nothing else (gRFC A36).
pub(super) fn terminal(
    chain: &FilterChain,
    context: &Context,
    notes: &mut Notes,
) -> Result<(Terminal, Vec<RbacFilter>), Fault> {
    let (mut found, mut guards) = (None, Vec::new());
    for (index, filter) in chain.filters.iter().enumerate() {
        let at = |fault: Fault| fault.within(format_args!("filters[{index}]"));
        let any = typed(filter).map_err(at)?;
        let name = type_name(&any.type_url);
        let terminal = if context.profile == Profile::Envoy && name == rbac_network::Rbac::full_name() {
            let rules = rbac::network(&any.value).map_err(|fault| at(fault.within("typed_config")))?;
            guards.push(RbacFilter {
                name: filter.name.as_str().into(),
                rules,
            });
            continue;
        } else if name == HttpConnectionManager::full_name() {
            let manager = Box::new(unpack::<HttpConnectionManager>("typed_config", any).map_err(at)?);
            Terminal::Http { manager, index }
        } else if context.profile == Profile::Envoy && name == TCP_PROXY {
            Terminal::Tcp
        } else if context.profile == Profile::Envoy && NO_OPS.contains(&name) {
            continue;
        } else {
            let what = if is_guard(&any.type_url) {
                "guards, and is not enforced here"
            } else {
                "is not supported"
            };
            return Err(at(Fault::new(
                "typed_config",
                format!("network filter {:?} {what}", any.type_url),
            )));
        };
        if index + 1 != chain.filters.len() {
            return Err(at(Fault::new("typed_config", "must be the last of the chain")));
        }
        found = Some(terminal);
    }
    match &found {
        Some(Terminal::Tcp) => notes.add(format_args!(
            "chain {:?} passes bytes on, which only a proxy does",
            chain.name
        )),
        Some(Terminal::Http { .. }) | None => {}
    }
    let found = found.ok_or_else(|| Fault::new("filters", "has no HTTP connection manager"))?;
    Ok((found, guards))
}

fn typed(filter: &Filter) -> Result<&Any, Fault> {
    match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) => Ok(any),
        Some(ConfigType::ConfigDiscovery(_)) => Err(Fault::new("config_discovery", "is not supported")),
        None => Err(Fault::new("typed_config", "is missing")),
    }
}
