//! The HTTP connection manager: where the routes are, and the filters on the way.

use std::sync::Arc;

use mesh_core::config::{RouteTree, TimeLimits};

use super::routed::Guarding;
use super::{Side, filters};
use crate::bootstrap::Profile;
use crate::decode::common::from_this_stream;
use crate::decode::route::time::said;
use crate::decode::{Context, Fault, Notes, Resource, telemetry};
use crate::proto::hcm::{HttpConnectionManager, Rds, http_connection_manager::RouteSpecifier};
use crate::proto::route::RouteConfiguration;
use crate::resource::{Http, Routes};

/// Reads a client's connection manager.
pub(super) fn http(
    manager: &HttpConnectionManager,
    listener: &str,
    context: &Context,
    notes: &mut Notes,
) -> Result<Http, Fault> {
    let asked = common(manager, Side::Client, context, notes)?;
    let routes = match &manager.route_specifier {
        Some(RouteSpecifier::Rds(rds)) => by_name(rds).map_err(|fault| fault.within("rds"))?,
        Some(RouteSpecifier::RouteConfig(config)) => {
            let mut tree = RouteTree::decode(config, context, notes).map_err(|fault| fault.within("route_config"))?;
            if tree.name.is_empty() {
                tree.name = listener.into();
            }
            Routes::Inline(Arc::new(tree))
        }
        Some(RouteSpecifier::ScopedRoutes(_)) => return Err(Fault::new("scoped_routes", "is not supported")),
        None => return Err(Fault::new("route_specifier", "is missing")),
    };
    Ok(Http {
        routes,
        extensions: asked.extensions.into(),
        filters: asked.filters.into(),
        limits: TimeLimits {
            untold: asked.untold,
            ..limits(manager, context)?
        },
        telemetry: telemetry::of(manager, notes),
    })
}

/// What holds for streams where their routes say nothing. Envoy ends a stream that is idle for 5 minutes unless it is told
/// otherwise; gRPC ends none. How long the *connection* to a proxy may be idle or last is not this process's matter.
fn limits(manager: &HttpConnectionManager, context: &Context) -> Result<TimeLimits, Fault> {
    let options = manager.common_http_protocol_options.as_ref();
    let max_stream = options.and_then(|options| options.max_stream_duration.as_ref());
    let max_stream =
        said("max_stream_duration", max_stream).map_err(|fault| fault.within("common_http_protocol_options"))?;
    let idle = said("stream_idle_timeout", manager.stream_idle_timeout.as_ref())?;
    Ok(TimeLimits {
        max_stream,
        idle: match context.profile {
            Profile::Grpc => idle,
            Profile::Envoy => idle.or(Some(TimeLimits::ENVOY_IDLE)),
        },
        ..TimeLimits::default()
    })
}

/// Reads a server's connection manager: what it asks of requests. Its routes choose no cluster here: the application serves what it
/// is called for.
pub(super) fn server<'a>(
    manager: &'a HttpConnectionManager,
    context: &Context,
    notes: &mut Notes,
) -> Result<(Guarding, ServedBy<'a>), Fault> {
    let asked = common(manager, Side::Server, context, notes)?;
    // Those of the chain's own stand in their places by now (`discovered`); a manager that is itself one brings none.
    if let Some(first) = asked.extensions.first() {
        let reason = format!("{:?} is a resource that a resource asks for", first.name);
        return Err(Fault::new("http_filters", reason));
    }
    let routes = match &manager.route_specifier {
        Some(RouteSpecifier::RouteConfig(config)) => ServedBy::Inline(config),
        Some(RouteSpecifier::Rds(rds)) => match by_name(rds).map_err(|fault| fault.within("rds"))? {
            Routes::Named(name) => ServedBy::Named(name),
            Routes::Inline(_) => return Err(Fault::new("rds", "is inline")),
        },
        Some(RouteSpecifier::ScopedRoutes(_)) => return Err(Fault::new("scoped_routes", "is not supported")),
        None => return Err(Fault::new("route_specifier", "is missing")),
    };
    let guarding = Guarding {
        profile: context.profile,
        connection: Vec::new(),
        tokens: asked.tokens.map(Arc::new),
        checks: asked.checks,
        guards: asked.guards,
        fixed: asked.fixed,
        limits: asked.limits,
        global: asked.global,
    };
    Ok((guarding, routes))
}

/// Where a server's routes are.
pub(super) enum ServedBy<'a> {
    Inline(&'a RouteConfiguration),
    Named(Arc<str>),
}

fn common(
    manager: &HttpConnectionManager,
    side: Side,
    context: &Context,
    notes: &mut Notes,
) -> Result<filters::Asked, Fault> {
    let hops = [
        ("xff_num_trusted_hops", manager.xff_num_trusted_hops != 0),
        (
            "original_ip_detection_extensions",
            !manager.original_ip_detection_extensions.is_empty(),
        ),
    ];
    for (field, present) in hops {
        match context.profile {
            _ if !present => {}
            Profile::Grpc => return Err(Fault::new(field, "must not be set (gRFC A41)")),
            // The peer's address is the peer's address here.
            Profile::Envoy => notes.add(format_args!("{field} is not applied")),
        }
    }
    filters::read(&manager.http_filters, side, context, notes)
}

fn by_name(rds: &Rds) -> Result<Routes, Fault> {
    from_this_stream("config_source", rds.config_source.as_ref())?;
    if rds.route_config_name.is_empty() {
        return Err(Fault::new("route_config_name", "is empty"));
    }
    Ok(Routes::Named(rds.route_config_name.as_str().into()))
}
