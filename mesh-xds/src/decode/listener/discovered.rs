//! A server's chain some of whose filters are resources of their own (ECDS, Envoy `config_discovery`), in a sidecar's shape.
//!
//! What a filter asks means something only at its place among the others: tokens come before those that ask for them, a route may
//! speak of it by its name. So the chain is kept as it came, and read as a whole once each of its filters is known, with what was
//! found in its place; until then nobody is served by it. It is read once when it comes, too, with no-ops in the places of those, so
//! that what is wrong with the rest is told at once.

use std::fmt;
use std::sync::Arc;

use prost::{Message as _, Name as _};

use super::filters::{Place, may_only_be_router, reference};
use super::inbound::{Asks, asks};
use crate::bootstrap::Profile;
use crate::decode::extension::is_guard;
use crate::decode::{Context, Fault, Notes};
use crate::proto::core::TypedExtensionConfig;
use crate::proto::hcm::{HttpConnectionManager, http_filter};
use crate::proto::listener::{Filter, FilterChain, filter};
use crate::proto::pack;
use crate::proto::protobuf::Any;
use crate::proto::router::Router;
use crate::resource::ExtensionRef;

/// Types that do nothing here: what stands in the place of a filter that is left out, of requests and of connections.
const NO_HTTP: &str = "type.googleapis.com/istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig";
const NO_NETWORK: &str = "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange";

/// See the module.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Discovered {
    /// As it came.
    chain: Arc<[u8]>,
    profile: Profile,
    /// The filters that are resources of their own, in order.
    pub(crate) filters: Box<[Found]>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) extension: ExtensionRef,
    /// What it is where its resource is not there.
    default: Option<Box<[u8]>>,
    /// What stands in its place where it is left out.
    nothing: &'static str,
}

impl Found {
    /// One that may be a guard is never left out, not even where it is called optional, or asks only where routes say so.
    fn may_be_left_out(&self) -> bool {
        self.extension.optional && !self.extension.types.iter().any(|url| is_guard(url))
    }
}

/// The discovered filters of a chain; `None` where it has none. gRPC knows none at a server (gRFC A39).
pub(super) fn of(chain: &FilterChain, context: &Context, notes: &mut Notes) -> Result<Option<Discovered>, Fault> {
    if context.profile == Profile::Grpc {
        return Ok(None);
    }
    let mut found = Vec::new();
    for (index, filter) in chain.filters.iter().enumerate() {
        let at = |fault: Fault| fault.within(format_args!("filters[{index}]"));
        if let Some(filter::ConfigType::ConfigDiscovery(source)) = &filter.config_type {
            let place = Place {
                name: &filter.name,
                optional: false,
                disabled: false,
            };
            let extension = reference(&place, source, context, notes);
            found.push(Found {
                extension: extension.map_err(|fault| at(fault.within("config_discovery")))?,
                default: source.default_config.as_ref().map(|any| any.encode_to_vec().into()),
                nothing: NO_NETWORK,
            });
        }
        let Some(manager) = manager(filter).map_err(at)? else {
            continue;
        };
        for (http, filter) in manager.http_filters.iter().enumerate() {
            let at =
                |fault: Fault| at(fault.within(format_args!("typed_config.http_filters[{http}].config_discovery")));
            let Some(http_filter::ConfigType::ConfigDiscovery(source)) = &filter.config_type else {
                continue;
            };
            let extension = reference(&Place::of(filter), source, context, notes).map_err(at)?;
            found.push(Found {
                extension,
                default: source.default_config.as_ref().map(|any| any.encode_to_vec().into()),
                nothing: NO_HTTP,
            });
        }
    }
    Ok((!found.is_empty()).then(|| Discovered {
        chain: chain.encode_to_vec().into(),
        profile: context.profile,
        filters: found.into(),
    }))
}

fn manager(filter: &Filter) -> Result<Option<HttpConnectionManager>, Fault> {
    match &filter.config_type {
        Some(filter::ConfigType::TypedConfig(any)) if any.type_url == HttpConnectionManager::type_url() => {
            let manager = HttpConnectionManager::decode(&*any.value);
            manager.map(Some).map_err(|error| Fault::new("typed_config", error))
        }
        _ => Ok(None),
    }
}

impl Discovered {
    /// The chain without what is not known yet: what can be said of it when it comes.
    pub(super) fn tried(&self) -> Result<FilterChain, Fault> {
        let stands_in = |found: &Found| match &found.default {
            Some(default) => any(default),
            None if may_only_be_router(&found.extension) => Ok(pack(&Router::default())),
            None => Ok(nothing(found)),
        };
        self.with(self.filters.iter().map(stands_in).collect::<Result<_, _>>()?)
    }

    /// What the chain asks, where each of its filters is this: the bytes of its resource, or why it is not there.
    ///
    /// # Errors
    ///
    /// When it cannot be kept here, or one that must not be left out is not there: nobody may be served by it.
    pub(crate) fn asked(&self, filters: &[Result<&[u8], &str>]) -> Result<Asks, Fault> {
        let mut configs = Vec::with_capacity(filters.len());
        for (found, filter) in self.filters.iter().zip(filters) {
            let name = &found.extension.name;
            configs.push(match (filter, &found.default) {
                (Ok(bytes), _) => {
                    let extension = TypedExtensionConfig::decode(*bytes).map_err(|error| Fault::new("", error))?;
                    extension.typed_config.unwrap_or_default()
                }
                (Err(_), Some(default)) => any(default)?,
                (Err(_), None) if found.may_be_left_out() => nothing(found),
                (Err(why), None) => {
                    return Err(Fault::new("filters", format!("{name:?} must not be left out: {why}")));
                }
            });
        }
        let context = Context {
            profile: self.profile,
            ..Context::default()
        };
        asks(&self.with(configs)?, &context, &mut Notes::default())
    }

    /// The chain with these in the places of its discovered filters.
    fn with(&self, configs: Vec<Any>) -> Result<FilterChain, Fault> {
        let mut chain = FilterChain::decode(&*self.chain).map_err(|error| Fault::new("", error))?;
        let mut configs = configs.into_iter();
        for filter in &mut chain.filters {
            if let Some(filter::ConfigType::ConfigDiscovery(_)) = &filter.config_type {
                filter.config_type = configs.next().map(filter::ConfigType::TypedConfig);
                continue;
            }
            let Some(mut manager) = manager(filter)? else {
                continue;
            };
            for http in &mut manager.http_filters {
                if let Some(http_filter::ConfigType::ConfigDiscovery(_)) = &http.config_type {
                    http.config_type = configs.next().map(http_filter::ConfigType::TypedConfig);
                }
            }
            filter.config_type = Some(filter::ConfigType::TypedConfig(pack(&manager)));
        }
        Ok(chain)
    }
}

fn nothing(found: &Found) -> Any {
    Any {
        type_url: found.nothing.into(),
        value: Vec::new(),
    }
}

fn any(bytes: &[u8]) -> Result<Any, Fault> {
    Any::decode(bytes).map_err(|error| Fault::new("default_config", error))
}

impl fmt::Debug for Discovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovered")
            .field("filters", &self.filters)
            .finish_non_exhaustive()
    }
}
