//! The list of HTTP filters (gRFC A39): unique names, and the router the last and only terminal one.

use std::collections::HashSet;

use mesh_core::config::{CallFilter, FilterKind, GlobalFilter, JwtRules, LimitFilter, RbacFilter};
use prost::{Message as _, Name};

use super::Side;
use crate::bootstrap::Profile;
use crate::decode::common::from_this_stream;
use crate::decode::extension::{is_guard, meaning, type_name};
use crate::decode::{Context, Fault, Notes, jwt, limit, rbac};
use crate::proto::core::ExtensionConfigSource;
use crate::proto::hcm::{HttpFilter, http_filter::ConfigType};
use crate::proto::jwt_authn::JwtAuthentication;
use crate::proto::rbac_http;
use crate::proto::router::Router;
use crate::resource::{ExtensionRef, Filter};

/// What the filters ask of this process.
#[derive(Default)]
pub(super) struct Asked {
    /// Those that are resources of their own.
    pub(super) extensions: Vec<ExtensionRef>,
    /// Those that do something to calls.
    pub(super) filters: Vec<CallFilter>,
    /// Those that keep requests out, and whether each does so only where a route says so.
    pub(super) guards: Vec<(RbacFilter, bool)>,
    /// Those that say how many requests there may be.
    pub(super) limits: Vec<LimitFilter>,
    /// Those that ask somebody how many there may be.
    pub(super) global: Vec<GlobalFilter>,
    /// Whose tokens are believed; asked before all guards.
    pub(super) tokens: Option<JwtRules>,
    /// The router adds none of its own headers (`suppress_envoy_headers`).
    pub(super) untold: bool,
}

/// Checks the filters, and says what they ask for.
pub(super) fn read(filters: &[HttpFilter], side: Side, context: &Context, notes: &mut Notes) -> Result<Asked, Fault> {
    let mut names = HashSet::new();
    let mut terminal = None;
    let mut asked = Asked::default();
    for (index, filter) in filters.iter().enumerate() {
        let at = |fault: Fault| fault.within(format_args!("http_filters[{index}]"));
        if !names.insert(filter.name.as_str()) {
            return Err(at(Fault::new("name", format!("{:?} is there twice", filter.name))));
        }
        if side == Side::Server
            && let Some(rules) = tokens(filter, context).map_err(at)?
        {
            // A guard before it would be asked about what is not known yet.
            if !asked.guards.is_empty() || asked.tokens.is_some() {
                let reason = "a filter of tokens must be the only one, and before those that ask for them";
                return Err(at(Fault::new("", reason)));
            }
            asked.tokens = Some(rules).filter(|_| !filter.disabled);
            continue;
        }
        if side == Side::Server
            && let Some(ConfigType::TypedConfig(any)) = &filter.config_type
            && limit::is_local(any)
        {
            let after_guards = asked.tokens.is_some() || !asked.guards.is_empty();
            let read = limit::filter(&filter.name, any, (filter.disabled, after_guards), context);
            asked
                .limits
                .push(read.map_err(|fault| at(fault.within("typed_config")))?);
            continue;
        }
        if side == Side::Server
            && let Some(ConfigType::TypedConfig(any)) = &filter.config_type
            && limit::is_global(any)
        {
            let after_guards = asked.tokens.is_some() || !asked.guards.is_empty();
            let read = limit::global_filter(&filter.name, any, (filter.disabled, after_guards), context);
            asked
                .global
                .push(read.map_err(|fault| at(fault.within("typed_config")))?);
            continue;
        }
        if side == Side::Server
            && let Some(guard) = guard(filter).map_err(at)?
        {
            asked.guards.push((guard, filter.disabled));
            continue;
        }
        let is_router = match one(filter, side, context, notes).map_err(at)? {
            One::Known(Filter::Call(what)) => {
                asked.filters.push(CallFilter {
                    name: filter.name.as_str().into(),
                    what,
                    disabled: filter.disabled,
                });
                false
            }
            One::Known(Filter::Router) => {
                asked.untold = is_untold(filter).map_err(at)?;
                true
            }
            One::Known(_) => false,
            One::Elsewhere(mut extension) => {
                let is_router = may_only_be_router(&extension);
                extension.behind = asked.filters.len();
                asked.extensions.push(extension);
                is_router
            }
        };
        if is_router && terminal.replace(index).is_some() {
            return Err(Fault::new("http_filters", "there is more than one router"));
        }
    }
    match terminal {
        Some(last) if last + 1 == filters.len() => Ok(asked),
        Some(_) => Err(Fault::new("http_filters", "the router must be the last")),
        None => Err(Fault::new("http_filters", "the last must be the router")),
    }
}

/// A filter of tokens, if it is one.
fn tokens(filter: &HttpFilter, context: &Context) -> Result<Option<JwtRules>, Fault> {
    match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) if any.type_url == JwtAuthentication::type_url() => {
            let read = jwt::read(&any.value, context);
            read.map(Some).map_err(|fault| fault.within("typed_config"))
        }
        _ => Ok(None),
    }
}

/// A filter that keeps requests out, if it is one that is understood here.
fn guard(filter: &HttpFilter) -> Result<Option<RbacFilter>, Fault> {
    let Some(ConfigType::TypedConfig(any)) = &filter.config_type else {
        return Ok(None);
    };
    if any.type_url != rbac_http::Rbac::type_url() {
        return Ok(None);
    }
    let rules = rbac::http(&any.value).map_err(|fault| fault.within("typed_config"))?;
    Ok(Some(RbacFilter {
        name: filter.name.as_str().into(),
        rules,
    }))
}

enum One {
    /// The router, one that does something to calls, or one to be passed over.
    Known(Filter),
    Elsewhere(ExtensionRef),
}

fn one(filter: &HttpFilter, side: Side, context: &Context, notes: &mut Notes) -> Result<One, Fault> {
    let (field, what) = match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) => {
            match meaning(any, context, notes).map_err(|fault| fault.within("typed_config"))? {
                (type_url, Filter::Unsupported(why)) if side == Side::Server && is_guard(&type_url) => {
                    return Err(Fault::new("typed_config", why));
                }
                (_, Filter::Unsupported(why)) => ("typed_config", String::from(why)),
                (_, Filter::Call(kind)) if side == Side::Server => match kind {
                    kind if kind.is_empty() => return Ok(One::Known(Filter::NoOp)),
                    FilterKind::Fault(_) => ("typed_config", "faults are not injected at a server".into()),
                    FilterKind::Session(_) => ("typed_config", "a server has no hosts to keep sessions with".into()),
                },
                (_, known) => return Ok(One::Known(known)),
            }
        }
        Some(ConfigType::ConfigDiscovery(source)) if context.profile == Profile::Envoy => {
            let found = reference(filter, source, context, notes).map_err(|fault| fault.within("config_discovery"))?;
            return Ok(One::Elsewhere(found));
        }
        Some(ConfigType::ConfigDiscovery(_)) => ("config_discovery", "is not supported (gRFC A39)".into()),
        None => ("typed_config", "has no typed configuration".into()),
    };
    if filter.is_optional || filter.disabled {
        notes.add(format_args!("http filter {:?} was skipped: {what}", filter.name));
        return Ok(One::Known(Filter::NoOp));
    }
    Err(Fault::new(field, what))
}

/// A filter's resource goes by the filter's name (Envoy).
fn reference(
    filter: &HttpFilter,
    source: &ExtensionConfigSource,
    context: &Context,
    notes: &mut Notes,
) -> Result<ExtensionRef, Fault> {
    from_this_stream("config_source", source.config_source.as_ref())?;
    if filter.name.is_empty() {
        return Err(Fault::new("name", "is empty"));
    }
    if source.type_urls.is_empty() {
        return Err(Fault::new("type_urls", "is empty"));
    }
    let default = source.default_config.as_ref();
    let default = default.map(|any| meaning(any, context, notes).map_err(|fault| fault.within("default_config")));
    let default = default.transpose()?.map(|(_, filter)| filter);
    if source.apply_default_config_without_warming && default.is_none() {
        return Err(Fault::new(
            "apply_default_config_without_warming",
            "asks for a default_config",
        ));
    }
    Ok(ExtensionRef {
        name: filter.name.as_str().into(),
        behind: 0,
        types: source.type_urls.iter().map(|url| url.as_str().into()).collect(),
        default,
        default_without_warming: source.apply_default_config_without_warming,
        optional: filter.is_optional || filter.disabled,
        disabled: filter.disabled,
    })
}

/// Of the router's own settings one is heard.
fn is_untold(filter: &HttpFilter) -> Result<bool, Fault> {
    let Some(ConfigType::TypedConfig(any)) = &filter.config_type else {
        return Ok(false);
    };
    // It may come wrapped in a struct, which only says which filter is meant.
    if type_name(&any.type_url) != Router::full_name() {
        return Ok(false);
    }
    let router = Router::decode(&*any.value).map_err(|error| Fault::new("typed_config", error.to_string()))?;
    Ok(router.suppress_envoy_headers)
}

fn may_only_be_router(extension: &ExtensionRef) -> bool {
    extension.types.iter().all(|url| type_name(url) == Router::full_name())
}
