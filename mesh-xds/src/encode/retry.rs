//! What a route does about failures.

use mesh_core::config::{RateLimitedBackoff, ResetFormat, RetryPolicy};

use super::common::{duration, uint};
use super::matcher::header_match;
use crate::proto::route::{
    HedgePolicy, RetryPolicy as Proto,
    retry_policy::{
        RateLimitedRetryBackOff, ResetHeader, ResetHeaderFormat, RetryBackOff, RetryHostPredicate, RetryPriority,
        retry_host_predicate, retry_priority,
    },
};
use crate::proto::{PreviousHostsPredicate, PreviousPrioritiesConfig, pack, protobuf};

/// The names that Envoy's documents give these extensions.
const PREVIOUS_HOSTS: &str = "envoy.retry_host_predicates.previous_hosts";
const PREVIOUS_PRIORITIES: &str = "envoy.retry_priorities.previous_priorities";

/// The policy, and whether it is to be marked as one that nobody wrote. gRFC A44 refuses zero retries, so "never" is said by leaving the policy
/// out; but for the limits of the one try, which can be said in no other way.
pub(super) fn policy(policy: &RetryPolicy) -> (Option<Proto>, bool) {
    if policy.retries == 0 {
        let limits = Proto {
            num_retries: uint(0),
            per_try_timeout: policy.per_try_timeout.map(duration),
            per_try_idle_timeout: policy.per_try_idle_timeout.map(duration),
            ..Proto::default()
        };
        let limited = policy.per_try_timeout.is_some() || policy.per_try_idle_timeout.is_some();
        return (limited.then_some(limits), false);
    }
    let proto = Proto {
        retry_on: policy.on.to_string(),
        num_retries: uint(policy.retries),
        retriable_status_codes: policy.statuses.iter().map(|code| u32::from(*code)).collect(),
        retriable_headers: policy.headers.iter().map(header_match).collect(),
        retriable_request_headers: policy.request_headers.iter().map(header_match).collect(),
        per_try_timeout: policy.per_try_timeout.map(duration),
        per_try_idle_timeout: policy.per_try_idle_timeout.map(duration),
        retry_back_off: Some(RetryBackOff {
            base_interval: Some(duration(policy.backoff.base())),
            max_interval: Some(duration(policy.backoff.max())),
        }),
        rate_limited_retry_back_off: policy.rate_limited.as_ref().map(rate_limited),
        retry_host_predicate: policy.hosts.other_hosts.then(previous_hosts).into_iter().collect(),
        host_selection_retry_max_attempts: policy.hosts.max_attempts.into(),
        retry_priority: policy.hosts.other_priorities.map(previous_priorities),
        ..Proto::default()
    };
    (Some(proto), !policy.explicit)
}

pub(super) fn hedge(policy: &RetryPolicy) -> Option<HedgePolicy> {
    policy.hedge.then(|| HedgePolicy {
        hedge_on_per_try_timeout: true,
        ..HedgePolicy::default()
    })
}

pub(super) fn buffer_limit(policy: &RetryPolicy) -> Option<protobuf::UInt64Value> {
    policy.replay_bytes.map(|value| protobuf::UInt64Value { value })
}

fn rate_limited(backoff: &RateLimitedBackoff) -> RateLimitedRetryBackOff {
    let header = |header: &mesh_core::config::ResetHeader| ResetHeader {
        name: header.name.to_string(),
        format: match header.format {
            ResetFormat::Seconds => ResetHeaderFormat::Seconds,
            ResetFormat::UnixTimestamp => ResetHeaderFormat::UnixTimestamp,
        } as i32,
    };
    RateLimitedRetryBackOff {
        reset_headers: backoff.headers.iter().map(header).collect(),
        max_interval: Some(duration(backoff.max)),
    }
}

fn previous_hosts() -> RetryHostPredicate {
    RetryHostPredicate {
        name: PREVIOUS_HOSTS.into(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(pack(
            &PreviousHostsPredicate::default(),
        ))),
    }
}

fn previous_priorities(frequency: u32) -> RetryPriority {
    let config = PreviousPrioritiesConfig {
        update_frequency: i32::try_from(frequency).unwrap_or(i32::MAX),
    };
    RetryPriority {
        name: PREVIOUS_PRIORITIES.into(),
        config_type: Some(retry_priority::ConfigType::TypedConfig(pack(&config))),
    }
}
