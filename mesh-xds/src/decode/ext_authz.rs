//! `ExtAuthz`: who outside of the process is asked whether requests may pass (Envoy; Istio's action CUSTOM).
//!
//! What would have more requests refused, or an authorizer obeyed less, and is not looked at here, is refused. What only tells the
//! authorizer more, or counts, is not done, with a note where somebody may miss it. Names of headers are compared in lower case, whatever
//! is said of case: they have none.

use std::collections::HashMap;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use mesh_core::config::{
    AskedAbout, CheckBody, CheckService, CheckSettings, ExtAuthz, Fraction, GrpcCheck, HttpCheck, OnFailure, Per,
    SentHeaders, StringMatch,
};
use prost::Name as _;

use super::common::{decode_whole, duration, runtime_fraction, unpack, unpack_whole};
use super::{Fault, Notes, matcher};
use crate::convention::{JWT_FILTER, SHADOW_POLICY};
use crate::proto::core::{
    ApiVersion, GrpcService, HeaderValue as HeaderProto, grpc_service::TargetSpecifier, http_uri,
};
use crate::proto::ext_authz::{
    BufferSettings, CheckSettings as SettingsProto, ExtAuthz as Proto, ExtAuthzPerRoute, HttpService,
    ext_authz::Services, ext_authz_per_route::Override,
};
use crate::proto::matcher::{
    ListStringMatcher, MetadataMatcher, StringMatcher, metadata_matcher::path_segment::Segment,
    string_matcher::MatchPattern, value_matcher,
};
use crate::proto::percent::HttpStatus;
use crate::proto::protobuf::{Any, Duration as DurationProto};
use crate::proto::route::FilterConfig;

/// An authorizer, and by which policies of earlier filters it is asked.
pub(super) struct Read {
    /// It says [`AskedAbout::Everything`] where [`by`](Self::by) is to be looked up.
    pub(super) check: ExtAuthz,
    pub(super) by: Option<ByShadow>,
}

/// Asked about what the dry run of an earlier filter matched.
pub(super) struct ByShadow {
    /// How that filter calls what it finds (`shadow_rules_stat_prefix`).
    pub(super) prefix: Box<str>,
    /// The policies that count, by name; `None`: all.
    pub(super) names: Option<StringMatch>,
}

/// Reads the filter `name`.
pub(super) fn read(name: &str, disabled: bool, bytes: &[u8], notes: &mut Notes) -> Result<Read, Fault> {
    let proto = decode_whole::<Proto>(bytes)?;
    refused(&proto)?;
    let (cluster, service, timeout, of_request) = service(proto.services.as_ref())?;
    if proto.include_peer_certificate {
        notes.add(format_args!(
            "authorizer {name:?} is told the peer's id, and not its certificate"
        ));
    }
    let allowed = match (&proto.allowed_headers, of_request) {
        (Some(_), Some(_)) => {
            let reason = "is said here and of the request to the authorizer";
            return Err(Fault::new("allowed_headers", reason));
        }
        (Some(list), None) | (None, Some(list)) => Some(names("allowed_headers", Some(list))?),
        (None, None) => None,
    };
    let others = proto
        .metadata_context_namespaces
        .iter()
        .filter(|name| *name != JWT_FILTER);
    let others = others.count() + proto.typed_metadata_context_namespaces.len();
    if others > 0 {
        notes.add(format_args!(
            "authorizer {name:?} is told of tokens, and of no other metadata"
        ));
    }
    let most = usize::try_from(proto.max_denied_response_body_bytes).unwrap_or(usize::MAX);
    let check = ExtAuthz {
        name: name.into(),
        after: 0,
        disabled,
        about: AskedAbout::Everything,
        cluster,
        service,
        timeout,
        on_failure: OnFailure {
            allow: proto.failure_mode_allow,
            tell: proto.failure_mode_allow_header_add,
            status: status(proto.status_on_error.as_ref())?,
        },
        body: proto.with_request_body.as_ref().map(body).transpose()?,
        headers: SentHeaders {
            allowed,
            disallowed: names("disallowed_headers", proto.disallowed_headers.as_ref())?,
            raw: proto.encode_raw_headers,
        },
        server_name: proto.include_tls_session,
        claims: proto.metadata_context_namespaces.iter().any(|name| name == JWT_FILTER),
        max_denied_body: match most {
            0 => ExtAuthz::MAX_DENIED_BODY_BYTES,
            most => most.min(ExtAuthz::MAX_DENIED_BODY_BYTES),
        },
    };
    let by = proto.filter_enabled_metadata.as_ref().map(by_shadow).transpose();
    Ok(Read {
        check,
        by: by.map_err(|fault| fault.within("filter_enabled_metadata"))?,
    })
}

fn refused(proto: &Proto) -> Result<(), Fault> {
    let v3 = [ApiVersion::Auto as i32, ApiVersion::V3 as i32];
    let part = proto.filter_enabled.as_ref().map(runtime_fraction).transpose();
    let part = part.map_err(|fault| fault.within("filter_enabled"))?;
    let denies = proto
        .deny_at_disable
        .as_ref()
        .and_then(|flag| flag.default_value.as_ref());
    let cases = [
        ("transport_api_version", !v3.contains(&proto.transport_api_version)),
        ("filter_enabled", part.is_some_and(|part| !takes_all(part))),
        ("deny_at_disable", denies.is_some_and(|flag| flag.value)),
        (
            "decoder_header_mutation_rules",
            proto.decoder_header_mutation_rules.is_some(),
        ),
        ("shadow_mode", proto.shadow_mode),
    ];
    match cases.iter().find(|(_, asked)| *asked) {
        Some((field, _)) => Err(Fault::new(*field, "is not supported with this value")),
        None => Ok(()),
    }
}

fn takes_all(part: Fraction) -> bool {
    part.of
        >= match part.per {
            Per::Hundred => 100,
            Per::TenThousand => 10_000,
            Per::Million => 1_000_000,
        }
}

type Service<'a> = (Box<str>, CheckService, Duration, Option<&'a ListStringMatcher>);

fn service(services: Option<&Services>) -> Result<Service<'_>, Fault> {
    match services {
        Some(Services::GrpcService(grpc)) => {
            let (cluster, check) = by_grpc(grpc).map_err(|fault| fault.within("grpc_service"))?;
            let timeout = timeout(grpc.timeout.as_ref()).map_err(|fault| fault.within("grpc_service"))?;
            Ok((cluster, CheckService::Grpc(check), timeout, None))
        }
        Some(Services::HttpService(http)) => by_http(http).map_err(|fault| fault.within("http_service")),
        None => Err(Fault::new("services", "is missing")),
    }
}

fn by_grpc(grpc: &GrpcService) -> Result<(Box<str>, GrpcCheck), Fault> {
    let Some(TargetSpecifier::EnvoyGrpc(envoy)) = &grpc.target_specifier else {
        return Err(Fault::new("target_specifier", "must be envoy_grpc"));
    };
    if envoy.cluster_name.is_empty() {
        return Err(Fault::new("envoy_grpc.cluster_name", "is empty"));
    }
    let check = GrpcCheck {
        authority: envoy.authority.as_str().into(),
        metadata: headers("initial_metadata", &grpc.initial_metadata)?,
    };
    Ok((envoy.cluster_name.as_str().into(), check))
}

#[allow(deprecated, reason = "Istio writes the deprecated allowed_headers")]
fn by_http(http: &HttpService) -> Result<Service<'_>, Fault> {
    let uri = http
        .server_uri
        .as_ref()
        .ok_or_else(|| Fault::new("server_uri", "is missing"))?;
    let cluster = match &uri.http_upstream_type {
        Some(http_uri::HttpUpstreamType::Cluster(cluster)) if !cluster.is_empty() => cluster.as_str(),
        _ => return Err(Fault::new("server_uri.cluster", "is missing")),
    };
    if !http.path_prefix.is_empty() && !http.path_prefix.starts_with('/') {
        return Err(Fault::new("path_prefix", "does not begin with a slash"));
    }
    let instead = Some(http.path_override.as_str()).filter(|path| !path.is_empty());
    if instead.is_some_and(|path| !path.starts_with('/') || !http.path_prefix.is_empty()) {
        return Err(Fault::new(
            "path_override",
            "does not begin with a slash, or stands beside a prefix",
        ));
    }
    let request = http.authorization_request.as_ref();
    let response = http.authorization_response.as_ref();
    let add = request.map_or(&[][..], |request| &request.headers_to_add);
    let of = |field: &'static str, list: Option<&ListStringMatcher>| {
        names(field, list).map_err(|fault| fault.within("authorization_response"))
    };
    let deny = response.and_then(|response| response.allowed_client_headers.as_ref());
    let check = HttpCheck {
        path_prefix: http.path_prefix.as_str().into(),
        path_override: instead.map(Into::into),
        add: headers("headers_to_add", add).map_err(|fault| fault.within("authorization_request"))?,
        upstream: of(
            "allowed_upstream_headers",
            response.and_then(|response| response.allowed_upstream_headers.as_ref()),
        )?,
        upstream_append: of(
            "allowed_upstream_headers_to_append",
            response.and_then(|response| response.allowed_upstream_headers_to_append.as_ref()),
        )?,
        client_on_deny: deny.map(|list| of("allowed_client_headers", Some(list))).transpose()?,
        client_on_allow: of(
            "allowed_client_headers_on_success",
            response.and_then(|response| response.allowed_client_headers_on_success.as_ref()),
        )?,
    };
    let timeout = timeout(uri.timeout.as_ref()).map_err(|fault| fault.within("server_uri"))?;
    let allowed = request.and_then(|request| request.allowed_headers.as_ref());
    Ok((cluster.into(), CheckService::Http(Box::new(check)), timeout, allowed))
}

/// Zero is Envoy's word for none, and there is always one here.
fn timeout(proto: Option<&DurationProto>) -> Result<Duration, Fault> {
    match proto.map(|proto| duration("timeout", proto)).transpose()? {
        None => Ok(ExtAuthz::DEFAULT_TIMEOUT),
        Some(Duration::ZERO) => Ok(ExtAuthz::MAX_TIMEOUT),
        Some(timeout) => Ok(timeout.min(ExtAuthz::MAX_TIMEOUT)),
    }
}

fn status(proto: Option<&HttpStatus>) -> Result<StatusCode, Fault> {
    let code = proto.map_or(0, |status| status.code);
    let code = if code == 0 { 403 } else { code };
    let status = u16::try_from(code)
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.filter(|status| !status.is_informational());
    status.ok_or_else(|| Fault::new("status_on_error", format!("is not a status: {code}")))
}

fn body(proto: &BufferSettings) -> Result<CheckBody, Fault> {
    if proto.max_request_bytes == 0 {
        return Err(Fault::new("with_request_body.max_request_bytes", "is 0"));
    }
    Ok(CheckBody {
        max_bytes: proto.max_request_bytes,
        allow_partial: proto.allow_partial_message,
        as_bytes: proto.pack_as_bytes,
    })
}

fn headers(field: &str, protos: &[HeaderProto]) -> Result<Vec<(HeaderName, HeaderValue)>, Fault> {
    let one = |proto: &HeaderProto| {
        let bytes = if proto.raw_value.is_empty() {
            proto.value.as_bytes()
        } else {
            &proto.raw_value
        };
        let name = HeaderName::from_bytes(proto.key.as_bytes()).ok();
        let value = HeaderValue::from_bytes(bytes).ok().filter(|_| !bytes.contains(&b'%'));
        let both = name.zip(value);
        both.ok_or_else(|| {
            Fault::new(
                field,
                format!("{:?} is no header, or has a value that is made up", proto.key),
            )
        })
    };
    protos.iter().map(one).collect()
}

/// Tests of names in lower case.
fn names(field: &str, list: Option<&ListStringMatcher>) -> Result<Vec<StringMatch>, Fault> {
    let one = |proto: &StringMatcher| {
        let mut proto = proto.clone();
        if let Some(
            MatchPattern::Exact(text)
            | MatchPattern::Prefix(text)
            | MatchPattern::Suffix(text)
            | MatchPattern::Contains(text),
        ) = &mut proto.match_pattern
        {
            text.make_ascii_lowercase();
            proto.ignore_case = false;
        }
        matcher::string_match(&proto)
    };
    let all = list.into_iter().flat_map(|list| &list.patterns).map(one);
    all.collect::<Result<_, _>>()
        .map_err(|fault: Fault| fault.within(field))
}

/// The one question about metadata that is understood: which policy of a filter that enforces nothing matched.
fn by_shadow(proto: &MetadataMatcher) -> Result<ByShadow, Fault> {
    let not_that = || Fault::new("", "is supported for what the dry run of an RBAC filter matched");
    let [segment] = &*proto.path else {
        return Err(not_that());
    };
    let Some(Segment::Key(key)) = &segment.segment else {
        return Err(not_that());
    };
    let prefix = key.strip_suffix(SHADOW_POLICY).ok_or_else(not_that)?;
    if proto.filter != "envoy.filters.http.rbac" || proto.invert {
        return Err(not_that());
    }
    let value = proto.value.as_ref().and_then(|value| value.match_pattern.as_ref());
    let names = match value {
        Some(value_matcher::MatchPattern::PresentMatch(true)) => None,
        Some(value_matcher::MatchPattern::StringMatch(test)) => {
            Some(matcher::string_match(test).map_err(|fault| fault.within("value.string_match"))?)
        }
        _ => return Err(not_that()),
    };
    Ok(ByShadow {
        prefix: prefix.into(),
        names,
    })
}

/// Reads what a `typed_per_filter_config` says of the filter `name`. `general`: what is said at a wider place, which what is said here is
/// added to.
pub(super) fn per_route(
    configs: &HashMap<String, Any>,
    name: &str,
    general: Option<&CheckSettings>,
) -> Result<Option<CheckSettings>, Fault> {
    let Some(any) = configs.get(name) else {
        return Ok(None);
    };
    let at = |fault: Fault| fault.within(format_args!("typed_per_filter_config[{name:?}]"));
    if any.type_url != FilterConfig::type_url() {
        return settings(any, general).map(Some).map_err(at);
    }
    let wrapper = unpack::<FilterConfig>("", any).map_err(at)?;
    match (&wrapper.config, wrapper.disabled) {
        (_, true) => Ok(Some(off())),
        (None, false) => Ok(Some(on(general))),
        (Some(inner), false) => settings(inner, general).map(Some).map_err(at),
    }
}

fn off() -> CheckSettings {
    CheckSettings {
        disabled: true,
        ..CheckSettings::default()
    }
}

fn on(general: Option<&CheckSettings>) -> CheckSettings {
    CheckSettings {
        disabled: false,
        ..general.cloned().unwrap_or_default()
    }
}

fn settings(any: &Any, general: Option<&CheckSettings>) -> Result<CheckSettings, Fault> {
    let proto = unpack_whole::<ExtAuthzPerRoute>("", any)?;
    match &proto.r#override {
        Some(Override::Disabled(true)) => Ok(off()),
        Some(Override::Disabled(false)) => Ok(on(general)),
        Some(Override::CheckSettings(said)) => {
            merged(said, on(general)).map_err(|fault| fault.within("check_settings"))
        }
        None => Err(Fault::new("override", "is missing")),
    }
}

fn merged(said: &SettingsProto, mut general: CheckSettings) -> Result<CheckSettings, Fault> {
    if said.service_override.is_some() {
        return Err(Fault::new("service_override", "is not supported"));
    }
    let mut context: std::collections::BTreeMap<Box<str>, Box<str>> = general.context.drain(..).collect();
    let own = said.context_extensions.iter();
    context.extend(own.map(|(key, value)| (key.as_str().into(), value.as_str().into())));
    let body = match (&said.with_request_body, said.disable_request_body_buffering) {
        (Some(_), true) => return Err(Fault::new("with_request_body", "is said to be and not to be sent")),
        (Some(proto), false) => Some(Some(body(proto)?)),
        (None, true) => Some(None),
        (None, false) => general.body,
    };
    Ok(CheckSettings {
        disabled: false,
        context: context.into_iter().collect(),
        body,
    })
}
