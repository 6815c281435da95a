//! What configurations, virtual hosts, routes and shares say of filters: `typed_per_filter_config` (gRFC A39).

use std::collections::HashMap;
use std::sync::Arc;

use mesh_core::config::{FilterKind, FilterOverride, Override};
use prost::Name;

use super::common::unpack;
use super::{Context, Fault, Notes, fault, rbac, session};
use crate::proto::fault::HttpFault;
use crate::proto::protobuf::Any;
use crate::proto::rbac_http::RbacPerRoute;
use crate::proto::route::FilterConfig;
use crate::proto::stateful_session::StatefulSessionPerRoute;

/// Reads what is said of filters, in the order of their names.
pub(super) fn overrides(
    configs: &HashMap<String, Any>,
    context: &Context,
    notes: &mut Notes,
) -> Result<Vec<FilterOverride>, Fault> {
    let mut said = Vec::new();
    for (filter, any) in configs {
        let at = |fault: Fault| fault.within(format_args!("typed_per_filter_config[{filter:?}]"));
        let what = if any.type_url == FilterConfig::type_url() {
            let wrapper = unpack::<FilterConfig>("", any).map_err(at)?;
            match (&wrapper.config, wrapper.disabled) {
                // Whose it is nobody says; where no filter has its name, it is heard by none.
                (_, true) => Some(Override::Disabled),
                (None, false) => Some(Override::Enabled),
                (Some(inner), false) => one(inner, context, notes).map_err(|fault| at(fault.within("config")))?,
            }
        } else {
            one(any, context, notes).map_err(at)?
        };
        match what {
            Some(what) => said.push(FilterOverride {
                filter: filter.as_str().into(),
                what,
            }),
            None => notes.add(format_args!("typed_per_filter_config of {filter:?} is not applied")),
        }
    }
    said.sort_unstable_by(|a, b| a.filter.cmp(&b.filter));
    Ok(said)
}

fn one(any: &Any, context: &Context, notes: &mut Notes) -> Result<Option<Override>, Fault> {
    if any.type_url == HttpFault::type_url() {
        let fault = fault::read(&any.value, context, notes)?;
        return Ok(Some(Override::With(fault.into())));
    }
    if any.type_url == StatefulSessionPerRoute::type_url() {
        let session = session::of_route(&any.value, notes)?;
        return Ok(Some(match session {
            None => Override::Disabled,
            Some(session) => Override::With(FilterKind::Session(Arc::new(session))),
        }));
    }
    if any.type_url == RbacPerRoute::type_url() {
        // For servers, and only beside their listener's filters. One that is wrong is refused here, where the last good one stays.
        rbac::check_per_route(any)?;
    }
    Ok(None)
}
