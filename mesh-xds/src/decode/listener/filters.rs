//! The list of HTTP filters (gRFC A39): unique names, and the router the last and only terminal one.

use std::collections::HashSet;

use mesh_core::config::{
    AskedAbout, CallFilter, ExtAuthz, FilterKind, GlobalFilter, JwtRules, LimitFilter, RbacFilter, RbacPolicy,
};
use prost::{Message as _, Name};

use super::Side;
use crate::bootstrap::Profile;
use crate::decode::common::from_this_stream;
use crate::decode::extension::{is_guard, meaning, type_name};
use crate::decode::{Context, Fault, Notes, ext_authz, jwt, limit, rbac};
use crate::proto::core::ExtensionConfigSource;
use crate::proto::ext_authz::ExtAuthz as ExtAuthzProto;
use crate::proto::hcm::{HttpFilter, http_filter::ConfigType};
use crate::proto::jwt_authn::JwtAuthentication;
use crate::proto::protobuf::Any;
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
    /// Those who are asked outside of the process.
    pub(super) checks: Vec<ExtAuthz>,
    /// Filters of which no route may say anything: by their dry run somebody is asked, or they share their name.
    pub(super) fixed: HashSet<Box<str>>,
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
    let mut shadows: Vec<Shadow> = Vec::new();
    for (index, filter) in filters.iter().enumerate() {
        let at = |fault: Fault| fault.within(format_args!("http_filters[{index}]"));
        if !names.insert(filter.name.as_str()) {
            // Istio calls all its guards alike, as Envoy lets it (gRFC A39 does not).
            if side != Side::Server || context.profile != Profile::Envoy || !may_share_its_name(filter) {
                return Err(at(Fault::new("name", format!("{:?} is there twice", filter.name))));
            }
            asked.fixed.insert(filter.name.as_str().into());
        }
        if side == Side::Server
            && let Some(rules) = tokens(filter, context).map_err(at)?
        {
            // A guard before it would be asked about what is not known yet.
            if !asked.guards.is_empty() || !asked.checks.is_empty() || asked.tokens.is_some() {
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
            let after_guards = asked.guards_before();
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
            let after_guards = asked.guards_before();
            let read = limit::global_filter(&filter.name, any, (filter.disabled, after_guards), context);
            asked
                .global
                .push(read.map_err(|fault| at(fault.within("typed_config")))?);
            continue;
        }
        if side == Side::Server
            && let Some((guard, prefix)) = guard(filter).map_err(at)?
        {
            shadows.push(Shadow { prefix, told: false });
            asked.guards.push((guard, filter.disabled));
            continue;
        }
        if side == Side::Server
            && let Some(read) = check(filter, notes).map_err(at)?
        {
            asked.check(read, &mut shadows).map_err(at)?;
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
    asked.settle(&shadows);
    match terminal {
        Some(last) if last + 1 == filters.len() => Ok(asked),
        Some(_) => Err(Fault::new("http_filters", "the router must be the last")),
        None => Err(Fault::new("http_filters", "the last must be the router")),
    }
}

/// What is known of the dry run of a guard.
struct Shadow {
    prefix: Box<str>,
    /// Somebody is asked about what it matches, and nothing else is made of it.
    told: bool,
}

impl Asked {
    /// Whether somebody is asked by whom a request is before what comes next.
    fn guards_before(&self) -> bool {
        self.tokens.is_some() || !self.guards.is_empty() || !self.checks.is_empty()
    }

    /// Adds somebody who is asked, with the policies of the dry runs before him that have him asked.
    fn check(&mut self, read: ext_authz::Read, shadows: &mut [Shadow]) -> Result<(), Fault> {
        let mut check = read.check;
        check.after = self.guards.len();
        if let Some(by) = read.by {
            let mut policies: Vec<RbacPolicy> = Vec::new();
            for ((guard, disabled), shadow) in self.guards.iter().zip(shadows.iter_mut()) {
                let Some(rules) = guard.rules.shadow.as_ref().filter(|_| shadow.prefix == by.prefix) else {
                    continue;
                };
                if *disabled {
                    return Err(Fault::new(
                        "filter_enabled_metadata",
                        "turns on a filter that is disabled",
                    ));
                }
                shadow.told = true;
                self.fixed.insert(guard.name.clone());
                let named = rules.policies.iter().filter(|policy| {
                    by.names
                        .as_ref()
                        .is_none_or(|test| test.is_match(policy.name.as_bytes()))
                });
                policies.extend(named.cloned());
            }
            check.about = AskedAbout::Matched(policies);
        }
        self.checks.push(check);
        Ok(())
    }

    /// Takes away dry runs of which something else was made, and guards of which nothing is left.
    fn settle(&mut self, shadows: &[Shadow]) {
        let mut kept = Vec::with_capacity(self.guards.len());
        // Of each place among the guards, how many before it are left.
        let mut left = Vec::with_capacity(self.guards.len() + 1);
        for ((mut guard, disabled), shadow) in self.guards.drain(..).zip(shadows) {
            left.push(kept.len());
            if shadow.told {
                guard.rules.shadow = None;
            }
            if !shadow.told || guard.rules.enforced.is_some() {
                kept.push((guard, disabled));
            }
        }
        left.push(kept.len());
        for check in &mut self.checks {
            check.after = left[check.after];
        }
        self.guards = kept;
    }
}

fn type_of(filter: &HttpFilter) -> Option<&Any> {
    match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) => Some(any),
        _ => None,
    }
}

fn may_share_its_name(filter: &HttpFilter) -> bool {
    type_of(filter).is_some_and(|any| [rbac_http::Rbac::type_url(), ExtAuthzProto::type_url()].contains(&any.type_url))
}

/// Somebody who is asked outside of the process, if the filter is that.
fn check(filter: &HttpFilter, notes: &mut Notes) -> Result<Option<ext_authz::Read>, Fault> {
    match type_of(filter) {
        Some(any) if any.type_url == ExtAuthzProto::type_url() => {
            let read = ext_authz::read(&filter.name, filter.disabled, &any.value, notes);
            read.map(Some).map_err(|fault| fault.within("typed_config"))
        }
        _ => Ok(None),
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
fn guard(filter: &HttpFilter) -> Result<Option<(RbacFilter, Box<str>)>, Fault> {
    let Some(ConfigType::TypedConfig(any)) = &filter.config_type else {
        return Ok(None);
    };
    if any.type_url != rbac_http::Rbac::type_url() {
        return Ok(None);
    }
    let (rules, prefix) = rbac::http(&any.value).map_err(|fault| fault.within("typed_config"))?;
    let guard = RbacFilter {
        name: filter.name.as_str().into(),
        rules,
    };
    Ok(Some((guard, prefix)))
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
            let found = reference(&Place::of(filter), source, context, notes)
                .map_err(|fault| fault.within("config_discovery"))?;
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

/// Where a filter that is a resource of its own stands.
pub(super) struct Place<'a> {
    pub(super) name: &'a str,
    pub(super) optional: bool,
    pub(super) disabled: bool,
}

impl Place<'_> {
    pub(super) fn of(filter: &HttpFilter) -> Place<'_> {
        Place {
            name: &filter.name,
            optional: filter.is_optional,
            disabled: filter.disabled,
        }
    }
}

/// A filter's resource goes by the filter's name (Envoy).
pub(super) fn reference(
    filter: &Place<'_>,
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
        name: filter.name.into(),
        behind: 0,
        types: source.type_urls.iter().map(|url| url.as_str().into()).collect(),
        default,
        default_without_warming: source.apply_default_config_without_warming,
        optional: filter.optional || filter.disabled,
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

pub(super) fn may_only_be_router(extension: &ExtensionRef) -> bool {
    extension.types.iter().all(|url| type_name(url) == Router::full_name())
}
