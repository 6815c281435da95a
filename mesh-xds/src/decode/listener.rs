//! `Listener`: an API listener, which is what a gRPC client asks for (gRFC A27), holds an HTTP connection manager that says
//! where the routes are. A listener with an address belongs to a server and is refused here.

use std::collections::HashSet;
use std::sync::Arc;

use mesh_core::config::RouteTree;
use prost::Name;

use super::common::{from_this_stream, unpack};
use super::{Context, Fault, Notes, Resource};
use crate::proto::fault::HttpFault;
use crate::proto::hcm::{
    HttpConnectionManager, HttpFilter, Rds, http_connection_manager::RouteSpecifier, http_filter::ConfigType,
};
use crate::proto::listener::Listener as Proto;
use crate::proto::router::Router;
use crate::resource::{Listener, ResourceKind};

impl Resource for Listener {
    const KIND: ResourceKind = ResourceKind::Listener;
    type Proto = Proto;

    fn name(proto: &Proto) -> &str {
        &proto.name
    }

    fn decode(proto: &Proto, context: &Context, notes: &mut Notes) -> Result<Self, Fault> {
        let any = proto
            .api_listener
            .as_ref()
            .and_then(|api| api.api_listener.as_ref())
            .ok_or_else(|| Fault::new("api_listener", "is missing: only API listeners are for clients"))?;
        let manager = unpack::<HttpConnectionManager>("api_listener", any)?;
        connection_manager(&manager, &proto.name, context, notes).map_err(|fault| fault.within("api_listener"))
    }
}

fn connection_manager(
    manager: &HttpConnectionManager,
    listener: &str,
    context: &Context,
    notes: &mut Notes,
) -> Result<Listener, Fault> {
    if manager.xff_num_trusted_hops != 0 {
        return Err(Fault::new("xff_num_trusted_hops", "must be 0 (gRFC A41)"));
    }
    if !manager.original_ip_detection_extensions.is_empty() {
        return Err(Fault::new(
            "original_ip_detection_extensions",
            "must be empty (gRFC A41)",
        ));
    }
    let common = manager.common_http_protocol_options.as_ref();
    if common.is_some_and(|common| common.max_stream_duration.is_some()) {
        notes.add("common_http_protocol_options.max_stream_duration is not applied");
    }
    filters(&manager.http_filters, notes)?;
    match &manager.route_specifier {
        Some(RouteSpecifier::Rds(rds)) => by_name(rds).map_err(|fault| fault.within("rds")),
        Some(RouteSpecifier::RouteConfig(config)) => {
            let mut tree = RouteTree::decode(config, context, notes).map_err(|fault| fault.within("route_config"))?;
            if tree.name.is_empty() {
                tree.name = listener.into();
            }
            Ok(Listener::Inline(Arc::new(tree)))
        }
        Some(RouteSpecifier::ScopedRoutes(_)) => Err(Fault::new("scoped_routes", "is not supported")),
        None => Err(Fault::new("route_specifier", "is missing")),
    }
}

fn by_name(rds: &Rds) -> Result<Listener, Fault> {
    from_this_stream("config_source", rds.config_source.as_ref())?;
    if rds.route_config_name.is_empty() {
        return Err(Fault::new("route_config_name", "is empty"));
    }
    Ok(Listener::Named(rds.route_config_name.as_str().into()))
}

/// gRFC A39: filters have unique names, and the router is the last and only terminal one. An unknown filter that is not
/// optional may be what keeps a call from going where it must not, so it is refused.
fn filters(filters: &[HttpFilter], notes: &mut Notes) -> Result<(), Fault> {
    let mut names = HashSet::new();
    let mut terminal = None;
    for (index, filter) in filters.iter().enumerate() {
        if !names.insert(filter.name.as_str()) {
            let reason = format!("{:?} is there twice", filter.name);
            return Err(Fault::new(format!("http_filters[{index}].name"), reason));
        }
        let is_router = known(filter, notes).map_err(|fault| fault.within(format_args!("http_filters[{index}]")))?;
        if is_router && terminal.replace(index).is_some() {
            return Err(Fault::new("http_filters", "there is more than one router"));
        }
    }
    match terminal {
        Some(last) if last + 1 == filters.len() => Ok(()),
        Some(_) => Err(Fault::new("http_filters", "the router must be the last")),
        None => Err(Fault::new("http_filters", "the last must be the router")),
    }
}

/// Whether a filter that may be there is the router.
fn known(filter: &HttpFilter, notes: &mut Notes) -> Result<bool, Fault> {
    let unknown = |what: &str, notes: &mut Notes| {
        if filter.is_optional || filter.disabled {
            notes.add(format_args!("http filter {:?} was skipped: {what}", filter.name));
            return Ok(false);
        }
        Err(Fault::new("typed_config", what))
    };
    let Some(ConfigType::TypedConfig(any)) = &filter.config_type else {
        return unknown("has no typed configuration", notes);
    };
    if any.type_url == Router::type_url() {
        return Ok(true);
    }
    // istiod puts an empty fault filter into every listener, as the place where routes would hang their faults.
    if any.type_url == HttpFault::type_url() && any.value.is_empty() {
        return Ok(false);
    }
    unknown(&format!("filter type {:?} is not supported", any.type_url), notes)
}
