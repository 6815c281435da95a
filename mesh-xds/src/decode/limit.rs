//! Rate limits of servers: `LocalRateLimit`, and what virtual hosts and routes say of it.
//!
//! A limit that is read as less than it says lets more in than its author meant, so what is not understood is refused by its field. What
//! Envoy's runtime could change is not: there is none here, so the defaults hold.

use std::collections::HashMap;
use std::sync::Arc;

use http::StatusCode;
use mesh_core::config::{
    DescribeBy, Describing, DescriptorEntry, Domain, Fraction, GlobalFilter, GlobalRateLimit, HeaderEdits, Instead,
    LimitFilter, LimitHost, LimitRoute, LocalDescriptor, LocalRateLimit, RateLimits, TokenBucket, VirtualHostLimits,
};
use prost::Name as _;

use super::common::{duration, runtime_fraction, unpack};
use super::route::headers;
use super::{Context, Fault, matcher};
use crate::proto::core::grpc_service::TargetSpecifier;
use crate::proto::global_limit::RateLimit as GlobalProto;
use crate::proto::local_limit::LocalRateLimit as Proto;
use crate::proto::percent::TokenBucket as BucketProto;
use crate::proto::protobuf::{Any, BoolValue, UInt32Value};
use crate::proto::rate_limit::{LocalRateLimitDescriptor, VhRateLimitsOptions, XRateLimitHeadersRfcVersion};
use crate::proto::route::{
    FilterConfig, RateLimit, Route, RouteConfiguration, VirtualHost,
    rate_limit::{Action, action::ActionSpecifier},
    route::Action as RouteAction,
    route_action::ClusterSpecifier,
};

/// Whom a limit concerns that does not say so (Envoy: for safety).
const NOBODY: Fraction = Fraction::percent(0);

/// Whether a type, by URL, is that of a local rate limit.
pub(super) fn is_local(any: &Any) -> bool {
    any.type_url == Proto::type_url()
}

/// Reads a filter, and whether it stands behind those that ask who may.
pub(super) fn filter(
    name: &str,
    any: &Any,
    (disabled, after_guards): (bool, bool),
    context: &Context,
) -> Result<LimitFilter, Fault> {
    let limit = local(any, context)?;
    Ok(LimitFilter {
        name: name.into(),
        limit: (!disabled).then(|| Arc::new(limit)),
        after_guards,
    })
}

/// Whether a type, by URL, is that of a limit that somebody else keeps.
pub(super) fn is_global(any: &Any) -> bool {
    any.type_url == GlobalProto::type_url()
}

/// Reads a filter that asks a rate limit service.
pub(super) fn global_filter(
    name: &str,
    any: &Any,
    (disabled, after_guards): (bool, bool),
    context: &Context,
) -> Result<GlobalFilter, Fault> {
    let limit = global(any, context)?;
    Ok(GlobalFilter {
        name: name.into(),
        limit: limit.filter(|_| !disabled).map(Arc::new),
        after_guards,
    })
}

/// Reads the filter's own; `None`: it is for requests from elsewhere, which none here is.
fn global(any: &Any, context: &Context) -> Result<Option<GlobalRateLimit>, Fault> {
    let proto = unpack::<GlobalProto>("", any)?;
    let refused = [
        ("filter_enabled", proto.filter_enabled.is_some()),
        ("filter_enforced", proto.filter_enforced.is_some()),
        ("failure_mode_deny_percent", proto.failure_mode_deny_percent.is_some()),
    ];
    if let Some((field, _)) = refused.iter().find(|(_, present)| *present) {
        return Err(Fault::new(*field, "is not supported"));
    }
    let service = proto.rate_limit_service.as_ref();
    let service = service.and_then(|service| service.grpc_service.as_ref());
    let service = match service.and_then(|service| service.target_specifier.as_ref()) {
        Some(TargetSpecifier::EnvoyGrpc(envoy)) => non_empty("envoy_grpc.cluster_name", &envoy.cluster_name),
        Some(TargetSpecifier::GoogleGrpc(google)) => non_empty("google_grpc.target_uri", &google.target_uri),
        None => Err(Fault::new("", "is missing")),
    };
    let service = service.map_err(|fault| fault.within("rate_limit_service.grpc_service"))?;
    if proto.stage > 10 {
        return Err(Fault::new("stage", "must be at most 10"));
    }
    let timeout = proto.timeout.as_ref().map(|timeout| duration("timeout", timeout));
    let external = match proto.request_type.as_str() {
        "" | "both" | "internal" => false,
        "external" => true,
        _ => return Err(Fault::new("request_type", "is not one of internal, external, both")),
    };
    let code = |status: &Option<crate::proto::percent::HttpStatus>| status.as_ref().map(|status| status.code);
    let on_error = match code(&proto.status_on_error) {
        None => StatusCode::INTERNAL_SERVER_ERROR,
        Some(on_error) => status(Some(on_error)).map_err(|_| Fault::new("status_on_error.code", "is not a status"))?,
    };
    let limited = status(code(&proto.rate_limited_status));
    let limit = GlobalRateLimit {
        stage: proto.stage,
        describing: describing(&proto.rate_limits, context)?,
        timeout: timeout.transpose()?.unwrap_or(GlobalRateLimit::DEFAULT_TIMEOUT),
        deny_on_failure: proto.failure_mode_deny,
        status: limited.map_err(|_| Fault::new("rate_limited_status.code", "is not a status"))?,
        status_on_error: on_error,
        resource_exhausted: proto.rate_limited_as_resource_exhausted,
        quota_headers: proto.enable_x_ratelimit_headers != 0,
        tells: !proto.disable_x_envoy_ratelimited_header,
        response_headers: literal(
            "response_headers_to_add",
            headers::additions("response", &proto.response_headers_to_add)?,
        )?,
        ..GlobalRateLimit::new(non_empty("domain", &proto.domain)?, service)
    };
    Ok((!external).then_some(limit))
}

/// The limits of a chain: its filters, and what its routes say of them.
pub(super) fn limits(
    filters: Vec<LimitFilter>,
    global: Vec<GlobalFilter>,
    config: &RouteConfiguration,
    context: &Context,
) -> Result<RateLimits, Fault> {
    if filters.is_empty() && global.is_empty() {
        return Ok(RateLimits::default());
    }
    says_nothing_of(&global, config)?;
    if filters
        .iter()
        .any(|filter| config.typed_per_filter_config.contains_key(&*filter.name))
    {
        let reason = "of a rate limit is supported at virtual hosts and routes";
        return Err(Fault::new("typed_per_filter_config", reason));
    }
    let wants_cluster = global
        .iter()
        .filter_map(|filter| filter.limit.as_ref())
        .any(|limit| want_cluster(&limit.describing));
    let mut hosts = Vec::new();
    for (index, host) in config.virtual_hosts.iter().enumerate() {
        let read = self::host(host, &filters, wants_cluster, context);
        hosts.push(read.map_err(|fault| fault.within(format_args!("virtual_hosts[{index}]")))?);
    }
    // One that says nothing must not have its requests judged by another, so it is kept; but that of the rest, which nobody else takes.
    hosts.retain(|host| !is_silent(host) || host.domains != [Domain::Any]);
    if hosts.iter().all(is_silent) {
        hosts.clear();
    }
    let limits = RateLimits::new(filters, hosts).and_then(|limits| limits.with_global(global));
    limits.map_err(|error| Fault::new("", error))
}

/// What routes say in the place of a limit that somebody else keeps is not looked at, so it is refused.
fn says_nothing_of(global: &[GlobalFilter], config: &RouteConfiguration) -> Result<(), Fault> {
    let hosts = config.virtual_hosts.iter();
    let of_hosts = hosts.clone().map(|host| &host.typed_per_filter_config);
    let of_routes = hosts
        .flat_map(|host| &host.routes)
        .map(|route| &route.typed_per_filter_config);
    let mut all = of_hosts.chain(of_routes).chain([&config.typed_per_filter_config]);
    match all.any(|said| global.iter().any(|filter| said.contains_key(&*filter.name))) {
        true => Err(Fault::new(
            "typed_per_filter_config",
            "of a rate limit service is not supported",
        )),
        false => Ok(()),
    }
}

fn is_silent(host: &LimitHost) -> bool {
    host.describing.is_empty() && host.instead.is_empty() && host.routes.is_empty()
}

fn host(
    host: &VirtualHost,
    filters: &[LimitFilter],
    wants_cluster: bool,
    context: &Context,
) -> Result<LimitHost, Fault> {
    let domain = |(index, text): (usize, &String)| {
        Domain::parse(text).map_err(|error| Fault::new(format!("domains[{index}]"), error))
    };
    let described = describing(&host.rate_limits, context)?;
    let wants_cluster = wants_cluster || filters_want_cluster(filters) || want_cluster(&described);
    let mut routes = Vec::new();
    for (index, proto) in host.routes.iter().enumerate() {
        let read = route(proto, filters, wants_cluster, context);
        routes.push(read.map_err(|fault| fault.within(format_args!("routes[{index}]")))?);
    }
    // What no route takes is limited like what one takes that says nothing.
    while routes.last().is_some_and(|last| match last {
        Ok(route) => route.describing.is_empty() && route.instead.is_empty() && route.cluster.is_none(),
        Err(_) => true,
    }) {
        routes.pop();
    }
    let routes = routes.into_iter().enumerate().map(|(index, route)| {
        // What cannot be told apart here must not be limited by what another route asks.
        route.map_err(|why| Fault::new(format!("routes[{index}].match"), why))
    });
    Ok(LimitHost {
        domains: host.domains.iter().enumerate().map(domain).collect::<Result<_, _>>()?,
        describing: described,
        instead: instead(&host.typed_per_filter_config, filters, context)?,
        routes: routes.collect::<Result<_, _>>()?,
    })
}

/// Reads a route; the inner error is why its requests cannot be told from others.
fn route(
    proto: &Route,
    filters: &[LimitFilter],
    wants_cluster: bool,
    context: &Context,
) -> Result<Result<LimitRoute, String>, Fault> {
    let instead = instead(&proto.typed_per_filter_config, filters, context)?;
    let (mut cluster, mut said, mut includes_host) = (None, Vec::new(), false);
    if let Some(RouteAction::Route(action)) = &proto.action {
        let at = |fault: Fault| fault.within("route");
        said = describing(&action.rate_limits, context).map_err(at)?;
        includes_host = includes(action);
        cluster = match &action.cluster_specifier {
            // Which of several it would be is nobody's to say where nothing is forwarded.
            Some(ClusterSpecifier::Cluster(name)) if wants_cluster || want_cluster(&said) => Some(name.as_str().into()),
            _ => None,
        };
    }
    let matches = proto
        .r#match
        .as_ref()
        .ok_or_else(|| Fault::new("match", "is missing"))?;
    let matches = match matcher::route_match(matches, context.profile).map_err(|fault| fault.within("match"))? {
        Ok(matches) if matches.fraction.is_none() => matches,
        Ok(_) => {
            return Ok(Err(
                "a runtime_fraction is not supported beside a rate limit of a route".into(),
            ));
        }
        Err(why) => return Ok(Err(why)),
    };
    Ok(Ok(LimitRoute {
        matches,
        cluster,
        describing: said,
        includes_host,
        instead,
    }))
}

#[allow(deprecated, reason = "Envoy reads it still")]
fn includes(action: &crate::proto::route::RouteAction) -> bool {
    action.include_vh_rate_limits.is_some_and(|flag| flag.value)
}

/// Whether a limit of the chain describes requests by their cluster.
fn filters_want_cluster(filters: &[LimitFilter]) -> bool {
    let mut limits = filters.iter().filter_map(|filter| filter.limit.as_ref());
    limits.any(|limit| want_cluster(&limit.describing))
}

fn want_cluster(all: &[Describing]) -> bool {
    let mut parts = all.iter().flat_map(|one| &one.by);
    parts.any(|part| *part == DescribeBy::DestinationCluster)
}

fn instead(configs: &HashMap<String, Any>, filters: &[LimitFilter], context: &Context) -> Result<Vec<Instead>, Fault> {
    let mut all = Vec::new();
    for filter in filters {
        let Some(any) = configs.get(&*filter.name) else {
            continue;
        };
        let at = |fault: Fault| fault.within(format_args!("typed_per_filter_config[{:?}]", filter.name));
        let limit = if any.type_url == FilterConfig::type_url() {
            let wrapper = unpack::<FilterConfig>("", any).map_err(at)?;
            match (&wrapper.config, wrapper.disabled) {
                (_, true) => None,
                (Some(inner), false) => Some(of_route(inner, context).map_err(|fault| at(fault.within("config")))?),
                (None, false) => continue,
            }
        } else {
            Some(of_route(any, context).map_err(at)?)
        };
        all.push(Instead {
            filter: filter.name.clone(),
            limit: limit.map(Arc::new),
        });
    }
    Ok(all)
}

/// Envoy: a route's must have a bucket.
fn of_route(any: &Any, context: &Context) -> Result<LocalRateLimit, Fault> {
    let limit = local(any, context)?;
    match limit.bucket {
        Some(_) => Ok(limit),
        None => Err(Fault::new("token_bucket", "is missing")),
    }
}

fn local(any: &Any, context: &Context) -> Result<LocalRateLimit, Fault> {
    let proto = unpack::<Proto>("", any)?;
    if proto.local_cluster_rate_limit.is_some() {
        let reason = "is not supported: a limit is each process's";
        return Err(Fault::new("local_cluster_rate_limit", reason));
    }
    if proto.stage > 10 {
        return Err(Fault::new("stage", "must be at most 10"));
    }
    let descriptor = |(index, proto): (usize, &LocalRateLimitDescriptor)| {
        descriptor(proto).map_err(|fault| fault.within(format_args!("descriptors[{index}]")))
    };
    let descriptors: Vec<LocalDescriptor> = proto
        .descriptors
        .iter()
        .enumerate()
        .map(descriptor)
        .collect::<Result<_, _>>()?;
    for (index, one) in descriptors.iter().enumerate() {
        if descriptors[..index].iter().any(|other| other.entries == one.entries) {
            return Err(Fault::new(format!("descriptors[{index}]"), "is there twice"));
        }
    }
    let max_dynamic = number(&proto.max_dynamic_descriptors, LocalRateLimit::DEFAULT_MAX_DYNAMIC);
    if max_dynamic == 0 || max_dynamic > LocalRateLimit::MAX_DYNAMIC {
        let reason = format!("must be between 1 and {}", LocalRateLimit::MAX_DYNAMIC);
        return Err(Fault::new("max_dynamic_descriptors", reason));
    }
    let fraction = |field: &str, proto| {
        let read = Option::map(proto, runtime_fraction).transpose();
        let read = read.map_err(|fault: Fault| fault.within(field));
        Ok(read?.unwrap_or(NOBODY))
    };
    let quota_headers = match XRateLimitHeadersRfcVersion::try_from(proto.enable_x_ratelimit_headers) {
        Ok(XRateLimitHeadersRfcVersion::Off) => false,
        Ok(XRateLimitHeadersRfcVersion::DraftVersion03) => true,
        Err(_) => return Err(Fault::new("enable_x_ratelimit_headers", "is not known")),
    };
    let host = match VhRateLimitsOptions::try_from(proto.vh_rate_limits) {
        Ok(VhRateLimitsOptions::Override) => VirtualHostLimits::Override,
        Ok(VhRateLimitsOptions::Include) => VirtualHostLimits::Include,
        Ok(VhRateLimitsOptions::Ignore) => VirtualHostLimits::Ignore,
        Err(_) => return Err(Fault::new("vh_rate_limits", "is not known")),
    };
    let bucket = proto.token_bucket.as_ref().map(bucket).transpose();
    Ok(LocalRateLimit {
        bucket: bucket.map_err(|fault| fault.within("token_bucket"))?,
        descriptors,
        enabled: fraction("filter_enabled", proto.filter_enabled.as_ref())?,
        enforced: fraction("filter_enforced", proto.filter_enforced.as_ref())?,
        status: status(proto.status.as_ref().map(|status| status.code))?,
        resource_exhausted: proto.rate_limited_as_resource_exhausted,
        response_headers: literal(
            "response_headers_to_add",
            headers::additions("response", &proto.response_headers_to_add)?,
        )?,
        request_headers: literal(
            "request_headers_to_add_when_not_enforced",
            headers::additions("request", &proto.request_headers_to_add_when_not_enforced)?,
        )?,
        stage: proto.stage,
        per_connection: proto.local_rate_limit_per_downstream_connection,
        quota_headers,
        host,
        always_consume_default: flag(&proto.always_consume_default_token_bucket, true),
        describing: describing(&proto.rate_limits, context)?,
        max_dynamic,
    })
}

/// Envoy: what is no error is 429.
fn status(code: Option<i32>) -> Result<StatusCode, Fault> {
    match code {
        None | Some(0..400) => Ok(StatusCode::TOO_MANY_REQUESTS),
        Some(code) => {
            let code = u16::try_from(code).ok().filter(|code| *code < 600);
            let status = code.and_then(|code| StatusCode::from_u16(code).ok());
            status.ok_or_else(|| Fault::new("status.code", "is not a status"))
        }
    }
}

/// What is put in is the same for all requests: nothing is known of one that is refused but that there were too many.
fn literal(field: &str, edits: HeaderEdits) -> Result<HeaderEdits, Fault> {
    match edits.add.iter().position(|edit| !edit.value().is_literal()) {
        None => Ok(edits),
        Some(index) => {
            let reason = "is not the same for all requests, which is not supported here";
            Err(Fault::new(format!("{field}[{index}].header.value"), reason))
        }
    }
}

fn bucket(proto: &BucketProto) -> Result<TokenBucket, Fault> {
    let interval = proto
        .fill_interval
        .as_ref()
        .ok_or_else(|| Fault::new("fill_interval", "is missing"))?;
    let interval = duration("fill_interval", interval)?;
    let per_fill = number(&proto.tokens_per_fill, 1);
    TokenBucket::new(proto.max_tokens, per_fill, interval).map_err(|error| Fault::new("", error))
}

fn descriptor(proto: &LocalRateLimitDescriptor) -> Result<LocalDescriptor, Fault> {
    if proto.entries.is_empty() || proto.entries.len() > Describing::MAX_PARTS {
        let reason = format!("must hold between 1 and {} entries", Describing::MAX_PARTS);
        return Err(Fault::new("entries", reason));
    }
    let mut entries = Vec::new();
    for (index, entry) in proto.entries.iter().enumerate() {
        if entry.key.is_empty() {
            return Err(Fault::new(format!("entries[{index}].key"), "is empty"));
        }
        entries.push(DescriptorEntry::new(entry.key.as_str(), entry.value.as_str()));
    }
    let bucket = proto
        .token_bucket
        .as_ref()
        .ok_or_else(|| Fault::new("token_bucket", "is missing"))?;
    Ok(LocalDescriptor {
        entries,
        bucket: self::bucket(bucket).map_err(|fault| fault.within("token_bucket"))?,
        shadow: proto.shadow_mode,
    })
}

fn describing(protos: &[RateLimit], context: &Context) -> Result<Vec<Describing>, Fault> {
    let one = |(index, proto): (usize, &RateLimit)| {
        one_describing(proto, context).map_err(|fault| fault.within(format_args!("rate_limits[{index}]")))
    };
    protos.iter().enumerate().map(one).collect()
}

fn one_describing(proto: &RateLimit, context: &Context) -> Result<Describing, Fault> {
    let refused = [
        ("hits_addend", proto.hits_addend.is_some()),
        ("apply_on_stream_done", proto.apply_on_stream_done),
        ("limit", proto.limit.is_some()),
    ];
    if let Some((field, _)) = refused.iter().find(|(_, present)| *present) {
        return Err(Fault::new(*field, "is not supported"));
    }
    if proto.actions.is_empty() || proto.actions.len() > Describing::MAX_PARTS {
        let reason = format!("must hold between 1 and {} actions", Describing::MAX_PARTS);
        return Err(Fault::new("actions", reason));
    }
    let part = |(index, action): (usize, &Action)| {
        part(action, context).map_err(|fault| fault.within(format_args!("actions[{index}]")))
    };
    Ok(Describing {
        stage: number(&proto.stage, 0),
        by: proto.actions.iter().enumerate().map(part).collect::<Result<_, _>>()?,
    })
}

fn part(action: &Action, context: &Context) -> Result<DescribeBy, Fault> {
    use ActionSpecifier as Spec;
    let Some(specifier) = &action.action_specifier else {
        return Err(Fault::new("", "has no action"));
    };
    let unsupported = |field: &str| Err(Fault::new(field, "is not supported"));
    match specifier {
        Spec::GenericKey(key) => {
            let field = |fault: Fault| fault.within("generic_key");
            if !key.default_value.is_empty() {
                return unsupported("generic_key.default_value");
            }
            let value = words("descriptor_value", &key.descriptor_value).map_err(field)?;
            let key = or(&key.descriptor_key, "generic_key");
            Ok(DescribeBy::Generic(DescriptorEntry::new(key, value)))
        }
        Spec::RequestHeaders(header) => Ok(DescribeBy::Header {
            subject: matcher::subject("request_headers.header_name", &header.header_name, context.profile)?,
            key: non_empty("request_headers.descriptor_key", &header.descriptor_key)?,
            skip_if_absent: header.skip_if_absent,
        }),
        Spec::QueryParameters(query) => Ok(DescribeBy::Query {
            name: non_empty("query_parameters.query_parameter_name", &query.query_parameter_name)?,
            key: non_empty("query_parameters.descriptor_key", &query.descriptor_key)?,
            skip_if_absent: query.skip_if_absent,
        }),
        Spec::RemoteAddress(_) => Ok(DescribeBy::RemoteAddress),
        Spec::MaskedRemoteAddress(masked) => {
            let bits = |field: &str, said: &Option<UInt32Value>, most: u8| {
                let bits = u8::try_from(number(said, most.into()))
                    .ok()
                    .filter(|bits| *bits <= most);
                bits.ok_or_else(|| Fault::new(format!("masked_remote_address.{field}"), "is too long"))
            };
            Ok(DescribeBy::MaskedRemoteAddress {
                v4: bits("v4_prefix_mask_len", &masked.v4_prefix_mask_len, 32)?,
                v6: bits("v6_prefix_mask_len", &masked.v6_prefix_mask_len, 128)?,
            })
        }
        Spec::HeaderValueMatch(of) => {
            let field = |fault: Fault| fault.within("header_value_match");
            if !of.default_value.is_empty() {
                return unsupported("header_value_match.default_value");
            }
            if of.headers.is_empty() {
                return Err(field(Fault::new("headers", "is empty")));
            }
            let headers = matcher::header_matches(&of.headers, context.profile).map_err(field)?;
            let headers = headers.map_err(|why| field(Fault::new("headers", why)))?;
            let value = words("descriptor_value", &of.descriptor_value).map_err(field)?;
            Ok(DescribeBy::HeaderValueMatch {
                entry: DescriptorEntry::new(or(&of.descriptor_key, "header_match"), value),
                headers,
                expect: flag(&of.expect_match, true),
            })
        }
        Spec::DestinationCluster(_) => Ok(DescribeBy::DestinationCluster),
        Spec::SourceCluster(_) => unsupported("source_cluster"),
        Spec::QueryParameterValueMatch(_) => unsupported("query_parameter_value_match"),
        _ => Err(Fault::new("", "has an action that is not supported")),
    }
}

fn or<'a>(said: &'a str, default: &'a str) -> &'a str {
    match said {
        "" => default,
        said => said,
    }
}

fn non_empty(field: &str, text: &str) -> Result<Box<str>, Fault> {
    match text {
        "" => Err(Fault::new(field, "is empty")),
        text => Ok(text.into()),
    }
}

/// Words that are the same for all requests: Envoy lets them be put together of what a request says.
fn words(field: &str, text: &str) -> Result<Box<str>, Fault> {
    match text.contains('%') {
        true => Err(Fault::new(field, "holds an operator, which is not supported")),
        false => non_empty(field, text),
    }
}

fn number(said: &Option<UInt32Value>, default: u32) -> u32 {
    said.as_ref().map_or(default, |said| said.value)
}

fn flag(said: &Option<BoolValue>, default: bool) -> bool {
    said.as_ref().map_or(default, |said| said.value)
}
