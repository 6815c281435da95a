//! Who outside of the process is asked, as Envoy's `ExtAuthz`.
//!
//! One who is asked about what policies match is two filters, as istiod writes it: the policies as the dry run of an RBAC filter, and the
//! authorizer asked when that found one. Each has a prefix of its own, so that none is asked for what another's policies matched.

use std::collections::BTreeMap;

use http::StatusCode;
use mesh_core::config::{
    AskedAbout, Authorization, CheckBody, CheckReplaced, CheckService, ExtAuthz, HttpCheck, Rbac, RbacAction,
    StringMatch,
};
use prost::{Message, Name};

use super::common::duration;
use super::matcher::string_match;
use super::rbac;
use crate::convention::{EXT_AUTHZ_SHADOW, JWT_FILTER, SHADOW_POLICY};
use crate::proto::core::{
    ApiVersion, GrpcService, HeaderValue, HttpUri, grpc_service, grpc_service::TargetSpecifier, http_uri,
};
use crate::proto::ext_authz::{
    AuthorizationRequest, AuthorizationResponse, BufferSettings, ExtAuthz as Proto, ExtAuthzPerRoute, HttpService,
    ext_authz::Services, ext_authz_per_route::Override,
};
use crate::proto::hcm::{HttpFilter, http_filter::ConfigType};
use crate::proto::matcher::{
    ListStringMatcher, MetadataMatcher, ValueMatcher,
    metadata_matcher::{PathSegment, path_segment::Segment},
    value_matcher,
};
use crate::proto::pack;
use crate::proto::percent::HttpStatus;
use crate::proto::protobuf::Any;

/// Whoever is asked and what is enforced, in the order of the chain.
pub(super) fn filters(authorization: &Authorization) -> Vec<HttpFilter> {
    let mut checks = authorization.checks().iter().enumerate().peekable();
    let mut all = Vec::new();
    for (place, guard) in authorization.request().iter().enumerate() {
        while let Some((index, check)) = checks.next_if(|(_, check)| check.after <= place) {
            all.extend(filter(index, check));
        }
        all.push(rbac::request(guard));
    }
    all.extend(checks.flat_map(|(index, check)| filter(index, check)));
    all
}

fn filter(index: usize, check: &ExtAuthz) -> Vec<HttpFilter> {
    let mut proto = proto(check);
    let mut both = Vec::new();
    if let AskedAbout::Matched(policies) = &check.about {
        let prefix = match index {
            0 => EXT_AUTHZ_SHADOW.to_owned(),
            index => format!("{EXT_AUTHZ_SHADOW}{index}_"),
        };
        proto.filter_enabled_metadata = Some(MetadataMatcher {
            filter: "envoy.filters.http.rbac".into(),
            path: vec![PathSegment {
                segment: Some(Segment::Key(format!("{prefix}{SHADOW_POLICY}"))),
            }],
            value: Some(ValueMatcher {
                match_pattern: Some(value_matcher::MatchPattern::PresentMatch(true)),
            }),
            invert: false,
        });
        let rules = Rbac {
            action: RbacAction::Deny,
            policies: policies.clone(),
        };
        both.push(rbac::dry_run(&format!("{}-rules", check.name), &rules, prefix));
    }
    both.push(HttpFilter {
        name: check.name.clone().into(),
        disabled: check.disabled,
        config_type: Some(ConfigType::TypedConfig(pack(&proto))),
        ..HttpFilter::default()
    });
    both
}

fn proto(check: &ExtAuthz) -> Proto {
    let (services, of_request) = match &check.service {
        CheckService::Grpc(grpc) => {
            let envoy = grpc_service::EnvoyGrpc {
                cluster_name: check.cluster.clone().into(),
                authority: grpc.authority.clone().into(),
                ..Default::default()
            };
            let service = GrpcService {
                target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)),
                timeout: Some(duration(check.timeout)),
                initial_metadata: headers(&grpc.metadata),
                ..GrpcService::default()
            };
            (Services::GrpcService(service), None)
        }
        CheckService::Http(http) => {
            let allowed = check.headers.allowed.as_deref().map(list);
            (Services::HttpService(by_http(check, http, allowed.clone())), allowed)
        }
    };
    Proto {
        transport_api_version: ApiVersion::V3 as i32,
        failure_mode_allow: check.on_failure.allow,
        failure_mode_allow_header_add: check.on_failure.tell,
        status_on_error: (check.on_failure.status != StatusCode::FORBIDDEN).then(|| HttpStatus {
            code: check.on_failure.status.as_u16().into(),
        }),
        with_request_body: check.body.map(body),
        // As istiod has it, by HTTP that is said of the request to the authorizer.
        allowed_headers: match of_request {
            Some(_) => None,
            None => check.headers.allowed.as_deref().map(list),
        },
        disallowed_headers: (!check.headers.disallowed.is_empty()).then(|| list(&check.headers.disallowed)),
        encode_raw_headers: check.headers.raw,
        include_tls_session: check.server_name,
        metadata_context_namespaces: check.claims.then(|| JWT_FILTER.into()).into_iter().collect(),
        max_denied_response_body_bytes: match check.max_denied_body {
            ExtAuthz::MAX_DENIED_BODY_BYTES => 0,
            most => u32::try_from(most).unwrap_or(0),
        },
        services: Some(services),
        ..Proto::default()
    }
}

#[allow(deprecated, reason = "as istiod writes it")]
fn by_http(check: &ExtAuthz, http: &HttpCheck, allowed_headers: Option<ListStringMatcher>) -> HttpService {
    let some = |tests: &[StringMatch]| (!tests.is_empty()).then(|| list(tests));
    let headers_to_add = headers(&http.add);
    let request = (allowed_headers.is_some() || !headers_to_add.is_empty()).then_some(AuthorizationRequest {
        allowed_headers,
        headers_to_add,
    });
    let response = AuthorizationResponse {
        allowed_upstream_headers: some(&http.upstream),
        allowed_upstream_headers_to_append: some(&http.upstream_append),
        allowed_client_headers: http.client_on_deny.as_deref().map(list),
        allowed_client_headers_on_success: some(&http.client_on_allow),
        ..AuthorizationResponse::default()
    };
    HttpService {
        server_uri: Some(HttpUri {
            uri: format!("http://{}", check.target()),
            timeout: Some(duration(check.timeout)),
            http_upstream_type: Some(http_uri::HttpUpstreamType::Cluster(check.cluster.clone().into())),
        }),
        path_prefix: http.path_prefix.clone().into(),
        path_override: http.path_override.clone().map(String::from).unwrap_or_default(),
        authorization_request: request,
        authorization_response: (response != AuthorizationResponse::default()).then_some(response),
        ..HttpService::default()
    }
}

fn headers(all: &[(http::HeaderName, http::HeaderValue)]) -> Vec<HeaderValue> {
    let one = |(name, value): &(http::HeaderName, http::HeaderValue)| HeaderValue {
        key: name.as_str().into(),
        value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
        ..HeaderValue::default()
    };
    all.iter().map(one).collect()
}

fn list(tests: &[StringMatch]) -> ListStringMatcher {
    ListStringMatcher {
        patterns: tests.iter().map(string_match).collect(),
    }
}

fn body(body: CheckBody) -> BufferSettings {
    BufferSettings {
        max_request_bytes: body.max_bytes,
        allow_partial_message: body.allow_partial,
        pack_as_bytes: body.as_bytes,
    }
}

/// `CheckSettings`, in order: the context is a map there.
#[derive(Clone, PartialEq, Message)]
struct Settings {
    #[prost(btree_map = "string, string", tag = "1")]
    context: BTreeMap<String, String>,
    #[prost(bool, tag = "2")]
    no_body: bool,
    #[prost(message, optional, tag = "3")]
    body: Option<BufferSettings>,
}

/// `ExtAuthzPerRoute` of the same.
#[derive(Clone, PartialEq, Message)]
struct PerRoute {
    #[prost(message, optional, tag = "2")]
    settings: Option<Settings>,
}

/// What is said of whoever is asked, by the names of their filters.
pub(super) fn per_filter(all: &[CheckReplaced]) -> impl Iterator<Item = (String, Any)> + '_ {
    all.iter().map(|replaced| {
        let said = &replaced.with;
        let any = match said.disabled {
            true => pack(&ExtAuthzPerRoute {
                r#override: Some(Override::Disabled(true)),
            }),
            false => {
                let context = said.context.iter();
                let settings = Settings {
                    context: context
                        .map(|(key, value)| (key.to_string(), value.to_string()))
                        .collect(),
                    no_body: said.body == Some(None),
                    body: said.body.flatten().map(body),
                };
                Any {
                    type_url: ExtAuthzPerRoute::type_url(),
                    value: PerRoute {
                        settings: Some(settings),
                    }
                    .encode_to_vec(),
                }
            }
        };
        (replaced.filter.to_string(), any)
    })
}
