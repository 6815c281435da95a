//! Rate limits of servers.

use std::collections::HashMap;

use mesh_core::config::{
    DescribeBy, Describing, DescriptorEntry, GlobalFilter, GlobalRateLimit, HeaderEdits, Instead, LimitFilter,
    LimitHost, LimitRoute, LocalDescriptor, LocalRateLimit, TokenBucket, VirtualHostLimits,
};

use super::common::{duration, runtime_fraction, uint};
use super::headers;
use super::matcher::{header_matches, route_match};
use crate::bootstrap::Profile;
use crate::proto::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
use crate::proto::core::{ApiVersion, GrpcService, HeaderValueOption};
use crate::proto::global_limit::RateLimit as GlobalProto;
use crate::proto::hcm::{HttpFilter, http_filter::ConfigType};
use crate::proto::limit_service::RateLimitServiceConfig;
use crate::proto::local_limit::LocalRateLimit as Proto;
use crate::proto::pack;
use crate::proto::percent::{HttpStatus, TokenBucket as BucketProto};
use crate::proto::protobuf::{Any, BoolValue, UInt32Value};
use crate::proto::rate_limit::{
    LocalRateLimitDescriptor, VhRateLimitsOptions, XRateLimitHeadersRfcVersion, rate_limit_descriptor::Entry,
};
use crate::proto::route::{
    FilterConfig, RateLimit, Route, RouteAction, VirtualHost,
    rate_limit::{Action, action, action::ActionSpecifier},
    route,
    route_action::ClusterSpecifier,
};

/// A filter. A server of gRPC knows none of this and passes over what is optional; ours reads it all the same.
pub(super) fn filter(filter: &LimitFilter, shape: Profile) -> HttpFilter {
    // Of one that asks nothing it is said all the same what it is: routes may ask in its place.
    let limit = filter.limit.as_deref().map(local).unwrap_or_else(|| Proto {
        stat_prefix: STAT_PREFIX.into(),
        ..Proto::default()
    });
    HttpFilter {
        name: filter.name.clone().into(),
        config_type: Some(ConfigType::TypedConfig(pack(&limit))),
        is_optional: shape == Profile::Grpc,
        disabled: filter.limit.is_none(),
    }
}

/// A filter that asks a rate limit service.
pub(super) fn global(filter: &GlobalFilter, shape: Profile) -> HttpFilter {
    // One that asks nothing still says what it is.
    let nothing = GlobalRateLimit::new("none", "none");
    let limit = filter.limit.as_deref().unwrap_or(&nothing);
    let status = |status: http::StatusCode| {
        Some(HttpStatus {
            code: status.as_u16().into(),
        })
    };
    let proto = GlobalProto {
        domain: limit.domain.clone().into(),
        stage: limit.stage,
        timeout: Some(duration(limit.timeout)),
        failure_mode_deny: limit.deny_on_failure,
        rate_limited_as_resource_exhausted: limit.resource_exhausted,
        rate_limit_service: Some(RateLimitServiceConfig {
            grpc_service: Some(GrpcService {
                target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                    cluster_name: limit.service.clone().into(),
                    ..EnvoyGrpc::default()
                })),
                ..GrpcService::default()
            }),
            transport_api_version: ApiVersion::V3 as i32,
        }),
        enable_x_ratelimit_headers: limit.quota_headers.into(),
        disable_x_envoy_ratelimited_header: !limit.tells,
        rate_limited_status: status(limit.status),
        response_headers_to_add: additions(&limit.response_headers),
        status_on_error: status(limit.status_on_error),
        rate_limits: limit.describing.iter().map(describing).collect(),
        ..GlobalProto::default()
    };
    HttpFilter {
        name: filter.name.clone().into(),
        config_type: Some(ConfigType::TypedConfig(pack(&proto))),
        is_optional: shape == Profile::Grpc,
        disabled: filter.limit.is_none(),
    }
}

/// Adds what hosts say of limits to `written`, which say what their routes ask besides. Both were read of one list, so that a host, and a
/// route of it, is the same in both.
pub(super) fn add_to(written: &mut Vec<VirtualHost>, hosts: &[LimitHost], action: &route::Action) {
    for (index, limits) in hosts.iter().enumerate() {
        let domains: Vec<String> = limits.domains.iter().map(ToString::to_string).collect();
        let place = written.iter().position(|host| host.domains == domains);
        let host = match place {
            Some(place) => &mut written[place],
            None => {
                // Before the one for the rest, which is the last.
                let place = written.len().saturating_sub(1);
                written.insert(
                    place,
                    VirtualHost {
                        name: format!("limits-{index}"),
                        domains,
                        routes: written.last().map(|rest| rest.routes.clone()).unwrap_or_default(),
                        ..VirtualHost::default()
                    },
                );
                &mut written[place]
            }
        };
        host.rate_limits = limits.describing.iter().map(describing).collect();
        host.typed_per_filter_config.extend(per_filter(&limits.instead));
        for (index, limits) in limits.routes.iter().enumerate() {
            let matches = Some(route_match(&limits.matches));
            // The last takes the rest.
            if index + 1 >= host.routes.len() || host.routes[index].r#match != matches {
                let new = Route {
                    r#match: matches,
                    ..Route::default()
                };
                host.routes.insert(index, new);
            }
            let route = &mut host.routes[index];
            route.typed_per_filter_config.extend(per_filter(&limits.instead));
            route.action = Some(self::action(limits, action));
        }
    }
}

#[allow(deprecated, reason = "Envoy reads it still")]
fn action(limits: &LimitRoute, action: &route::Action) -> route::Action {
    let route::Action::Route(forward) = action else {
        // What a server of gRPC does by itself says nothing of limits.
        return action.clone();
    };
    route::Action::Route(RouteAction {
        cluster_specifier: match &limits.cluster {
            Some(cluster) => Some(ClusterSpecifier::Cluster(cluster.clone().into())),
            None => forward.cluster_specifier.clone(),
        },
        rate_limits: limits.describing.iter().map(describing).collect(),
        include_vh_rate_limits: limits.includes_host.then_some(BoolValue { value: true }),
        ..forward.clone()
    })
}

fn per_filter(all: &[Instead]) -> HashMap<String, Any> {
    let one = |instead: &Instead| {
        let config = match &instead.limit {
            Some(limit) => pack(&local(limit)),
            None => pack(&FilterConfig {
                disabled: true,
                ..FilterConfig::default()
            }),
        };
        (String::from(&*instead.filter), config)
    };
    all.iter().map(one).collect()
}

/// Envoy demands one.
const STAT_PREFIX: &str = "http_local_rate_limiter";

fn local(limit: &LocalRateLimit) -> Proto {
    let host = match limit.host {
        VirtualHostLimits::Override => VhRateLimitsOptions::Override,
        VirtualHostLimits::Include => VhRateLimitsOptions::Include,
        VirtualHostLimits::Ignore => VhRateLimitsOptions::Ignore,
    };
    let quota = match limit.quota_headers {
        true => XRateLimitHeadersRfcVersion::DraftVersion03,
        false => XRateLimitHeadersRfcVersion::Off,
    };
    Proto {
        stat_prefix: STAT_PREFIX.into(),
        status: Some(HttpStatus {
            code: limit.status.as_u16().into(),
        }),
        token_bucket: limit.bucket.as_ref().map(bucket),
        filter_enabled: Some(runtime_fraction(limit.enabled)),
        filter_enforced: Some(runtime_fraction(limit.enforced)),
        request_headers_to_add_when_not_enforced: additions(&limit.request_headers),
        response_headers_to_add: additions(&limit.response_headers),
        descriptors: limit.descriptors.iter().map(descriptor).collect(),
        stage: limit.stage,
        local_rate_limit_per_downstream_connection: limit.per_connection,
        enable_x_ratelimit_headers: quota as i32,
        vh_rate_limits: host as i32,
        always_consume_default_token_bucket: Some(BoolValue {
            value: limit.always_consume_default,
        }),
        rate_limited_as_resource_exhausted: limit.resource_exhausted,
        rate_limits: limit.describing.iter().map(describing).collect(),
        max_dynamic_descriptors: uint(limit.max_dynamic),
        ..Proto::default()
    }
}

fn additions(edits: &HeaderEdits) -> Vec<HeaderValueOption> {
    edits.add.iter().map(headers::edit).collect()
}

fn bucket(of: &TokenBucket) -> BucketProto {
    BucketProto {
        max_tokens: of.max(),
        tokens_per_fill: uint(of.per_fill()),
        fill_interval: Some(duration(of.interval())),
    }
}

fn descriptor(of: &LocalDescriptor) -> LocalRateLimitDescriptor {
    let entry = |entry: &DescriptorEntry| Entry {
        key: entry.key.clone().into(),
        value: entry.value.clone().into(),
    };
    LocalRateLimitDescriptor {
        entries: of.entries.iter().map(entry).collect(),
        token_bucket: Some(bucket(&of.bucket)),
        shadow_mode: of.shadow,
    }
}

fn describing(of: &Describing) -> RateLimit {
    RateLimit {
        stage: (of.stage != 0).then_some(UInt32Value { value: of.stage }),
        actions: of.by.iter().map(part).collect(),
        ..RateLimit::default()
    }
}

fn part(of: &DescribeBy) -> Action {
    let specifier = match of {
        DescribeBy::Generic(entry) => ActionSpecifier::GenericKey(action::GenericKey {
            descriptor_key: entry.key.clone().into(),
            descriptor_value: entry.value.clone().into(),
            ..action::GenericKey::default()
        }),
        DescribeBy::Header {
            subject,
            key,
            skip_if_absent,
        } => ActionSpecifier::RequestHeaders(action::RequestHeaders {
            header_name: subject.to_string(),
            descriptor_key: key.clone().into(),
            skip_if_absent: *skip_if_absent,
        }),
        DescribeBy::Query {
            name,
            key,
            skip_if_absent,
        } => ActionSpecifier::QueryParameters(action::QueryParameters {
            query_parameter_name: name.clone().into(),
            descriptor_key: key.clone().into(),
            skip_if_absent: *skip_if_absent,
        }),
        DescribeBy::RemoteAddress => ActionSpecifier::RemoteAddress(action::RemoteAddress {}),
        DescribeBy::MaskedRemoteAddress { v4, v6 } => {
            ActionSpecifier::MaskedRemoteAddress(action::MaskedRemoteAddress {
                v4_prefix_mask_len: uint((*v4).into()),
                v6_prefix_mask_len: uint((*v6).into()),
            })
        }
        DescribeBy::HeaderValueMatch { entry, headers, expect } => {
            ActionSpecifier::HeaderValueMatch(action::HeaderValueMatch {
                descriptor_key: entry.key.clone().into(),
                descriptor_value: entry.value.clone().into(),
                expect_match: Some(BoolValue { value: *expect }),
                headers: header_matches(headers),
                ..action::HeaderValueMatch::default()
            })
        }
        DescribeBy::DestinationCluster => ActionSpecifier::DestinationCluster(action::DestinationCluster {}),
    };
    Action {
        action_specifier: Some(specifier),
    }
}
