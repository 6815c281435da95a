//! Filters that do something to calls, and what is said of them below the listener.

use std::collections::HashMap;

use mesh_core::config::{CallFilter, FilterKind, FilterOverride, Override};

use super::{fault, session};
use crate::proto::hcm::{HttpFilter, http_filter::ConfigType};
use crate::proto::pack;
use crate::proto::protobuf::Any;
use crate::proto::route::FilterConfig;
use crate::proto::stateful_session::{StatefulSessionPerRoute, stateful_session_per_route};

pub(super) fn filter(filter: &CallFilter) -> HttpFilter {
    let config = match &filter.what {
        FilterKind::Fault(with) => pack(&fault::fault(with)),
        FilterKind::Session(with) => pack(&session::session(with)),
    };
    HttpFilter {
        name: filter.name.clone().into(),
        disabled: filter.disabled,
        config_type: Some(ConfigType::TypedConfig(config)),
        ..HttpFilter::default()
    }
}

/// A `typed_per_filter_config`.
pub(super) fn overrides(said: &[FilterOverride]) -> HashMap<String, Any> {
    let one = |one: &FilterOverride| {
        let config = match &one.what {
            Override::With(FilterKind::Fault(with)) => pack(&fault::fault(with)),
            Override::With(FilterKind::Session(with)) => pack(&StatefulSessionPerRoute {
                r#override: Some(stateful_session_per_route::Override::StatefulSession(session::session(
                    with,
                ))),
            }),
            Override::Enabled => pack(&FilterConfig::default()),
            Override::Disabled => pack(&FilterConfig {
                disabled: true,
                ..FilterConfig::default()
            }),
        };
        (one.filter.clone().into(), config)
    };
    said.iter().map(one).collect()
}
