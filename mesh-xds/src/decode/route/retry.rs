//! `RetryPolicy`, by gRFC A44, with Envoy's and Istio's fields that gRPC leaves out.

use std::sync::Arc;

use http::HeaderName;
use mesh_core::config::{
    Backoff, HeaderMatch, HostSelection, RateLimitedBackoff, ResetFormat, ResetHeader, RetryOn, RetryPolicy, Subject,
};

use super::is_marked;
use super::predicates;
use crate::bootstrap::Profile;
use crate::convention::RETRY_IS_DEFAULT;
use crate::decode::common::{duration, limit};
use crate::decode::{Fault, Notes, matcher};
use crate::proto::route::{
    HeaderMatcher, HedgePolicy, RetryPolicy as Proto, Route, RouteAction, VirtualHost,
    retry_policy::{RateLimitedRetryBackOff, ResetHeaderFormat, RetryBackOff},
};

/// The retries of a policy that does not say (Envoy, gRFC A44).
const DEFAULT_RETRIES: u32 = 1;
/// The most matchers of one list: each is held against every answer.
const MAX_HEADERS: usize = 32;

/// Reads what a route does about failures. Its own policy replaces the virtual host's as a whole (gRFC A44), and its own hedging
/// and buffer limit likewise (Envoy).
pub(super) fn read(
    proto: &Route,
    action: &RouteAction,
    host: &VirtualHost,
    profile: Profile,
    notes: &mut Notes,
) -> Result<RetryPolicy, Fault> {
    let policy = action.retry_policy.as_ref().or(host.retry_policy.as_ref());
    let policy = match policy {
        None => RetryPolicy::never(),
        Some(policy) => self::policy(policy, profile, notes).map_err(|fault| fault.within("retry_policy"))?,
    };
    Ok(RetryPolicy {
        explicit: policy.retries > 0 && !is_marked(proto, RETRY_IS_DEFAULT),
        hedge: hedges(action.hedge_policy.as_ref().or(host.hedge_policy.as_ref()), notes),
        replay_bytes: buffer_limit(proto, host),
        announce_attempts: host.include_request_attempt_count,
        ..policy
    })
}

/// Reads a policy. `num_retries: 0` is no retry, where gRFC A44 refuses it: that is how a user says so.
fn policy(proto: &Proto, profile: Profile, notes: &mut Notes) -> Result<RetryPolicy, Fault> {
    let backoff = proto.retry_back_off.as_ref().map(backoff).transpose()?;
    let mut policy = RetryPolicy {
        retries: proto.num_retries.as_ref().map_or(DEFAULT_RETRIES, |count| count.value),
        on: RetryOn::parse(&proto.retry_on),
        statuses: statuses(&proto.retriable_status_codes)?,
        headers: headers("retriable_headers", &proto.retriable_headers, true, profile)?.unwrap_or_else(|why| {
            notes.add(format_args!("retriable_headers are not applied: {why}"));
            Arc::default()
        }),
        per_try_timeout: limit("per_try_timeout", proto.per_try_timeout.as_ref())?,
        per_try_idle_timeout: limit("per_try_idle_timeout", proto.per_try_idle_timeout.as_ref())?,
        backoff: backoff.unwrap_or(Backoff::DEFAULT),
        rate_limited: proto
            .rate_limited_retry_back_off
            .as_ref()
            .map(rate_limited)
            .transpose()?,
        hosts: HostSelection {
            other_hosts: predicates::previous_hosts(&proto.retry_host_predicate, notes),
            max_attempts: predicates::attempts(proto.host_selection_retry_max_attempts),
            other_priorities: predicates::previous_priorities(proto.retry_priority.as_ref(), notes)?,
        },
        ..RetryPolicy::never()
    };
    match headers(
        "retriable_request_headers",
        &proto.retriable_request_headers,
        false,
        profile,
    )? {
        Ok(headers) => policy.request_headers = headers,
        // Leaving the list out would retry what was meant to be left alone.
        Err(why) => {
            notes.add(format_args!("nothing is retried: retriable_request_headers: {why}"));
            policy.retries = 0;
        }
    }
    if !proto.retry_options_predicates.is_empty() {
        notes.add("retry_options_predicates are not applied");
    }
    if proto.refresh_cluster_on_retry {
        notes.add("refresh_cluster_on_retry is not applied: all tries of a call go to one cluster");
    }
    if policy.retries == 0 {
        // The limits of its one try hold; of the rest nothing can come to effect.
        policy = RetryPolicy {
            per_try_timeout: policy.per_try_timeout,
            per_try_idle_timeout: policy.per_try_idle_timeout,
            ..RetryPolicy::never()
        };
    }
    Ok(policy)
}

fn statuses(codes: &[u32]) -> Result<Arc<[u16]>, Fault> {
    let status = |(index, code): (usize, &u32)| {
        let code = u16::try_from(*code).ok().filter(|code| (100..600).contains(code));
        code.ok_or_else(|| Fault::new(format!("retriable_status_codes[{index}]"), "is no HTTP status"))
    };
    codes.iter().enumerate().map(status).collect()
}

/// Reads matchers. The inner error is why they cannot be applied.
fn headers(
    field: &str,
    protos: &[HeaderMatcher],
    of_answers: bool,
    profile: Profile,
) -> Result<Result<Arc<[HeaderMatch]>, String>, Fault> {
    if protos.len() > MAX_HEADERS {
        return Err(Fault::new(field, format!("has more than {MAX_HEADERS} entries")));
    }
    let mut headers = Vec::with_capacity(protos.len());
    for (index, proto) in protos.iter().enumerate() {
        let read = matcher::header_match(proto, profile);
        match read.map_err(|fault| fault.within(format_args!("{field}[{index}]")))? {
            // An answer has no such.
            Ok(HeaderMatch {
                subject: subject @ (Subject::Authority | Subject::Method | Subject::Path | Subject::Scheme),
                ..
            }) if of_answers => {
                return Ok(Err(format!(
                    "it matches on the pseudo header {:?}",
                    subject.to_string()
                )));
            }
            Ok(header) => headers.push(header),
            Err(why) => return Ok(Err(why)),
        }
    }
    Ok(Ok(headers.into()))
}

fn backoff(proto: &RetryBackOff) -> Result<Backoff, Fault> {
    let outer = |fault: Fault| fault.within("retry_back_off");
    let Some(base) = &proto.base_interval else {
        return Err(outer(Fault::new("base_interval", "is missing")));
    };
    let base = duration("base_interval", base).map_err(outer)?;
    let max = proto.max_interval.as_ref().map(|max| duration("max_interval", max));
    Backoff::new(base, max.transpose().map_err(outer)?).map_err(|error| Fault::new("retry_back_off", error))
}

fn rate_limited(proto: &RateLimitedRetryBackOff) -> Result<RateLimitedBackoff, Fault> {
    let outer = |fault: Fault| fault.within("rate_limited_retry_back_off");
    let header = |(index, header): (usize, &crate::proto::route::retry_policy::ResetHeader)| {
        let at = |field, reason: String| outer(Fault::new(format!("reset_headers[{index}].{field}"), reason));
        let name = HeaderName::from_bytes(header.name.as_bytes());
        let name = name.map_err(|_| at("name", format!("is not a header name: {:?}", header.name)))?;
        let format = match ResetHeaderFormat::try_from(header.format) {
            Ok(ResetHeaderFormat::Seconds) => ResetFormat::Seconds,
            Ok(ResetHeaderFormat::UnixTimestamp) => ResetFormat::UnixTimestamp,
            Err(_) => return Err(at("format", format!("is not known: {}", header.format))),
        };
        Ok(ResetHeader { name, format })
    };
    if proto.reset_headers.is_empty() || proto.reset_headers.len() > MAX_HEADERS {
        let reason = format!("has not between 1 and {MAX_HEADERS} entries");
        return Err(outer(Fault::new("reset_headers", reason)));
    }
    let max = match &proto.max_interval {
        None => RateLimitedBackoff::DEFAULT_MAX,
        Some(max) => duration("max_interval", max).map_err(outer)?,
    };
    if max.is_zero() {
        return Err(outer(Fault::new("max_interval", "must be more than 0")));
    }
    Ok(RateLimitedBackoff {
        headers: proto
            .reset_headers
            .iter()
            .enumerate()
            .map(header)
            .collect::<Result<_, _>>()?,
        max,
    })
}

/// Of hedging Envoy does one thing, and so does this client.
fn hedges(proto: Option<&HedgePolicy>, notes: &mut Notes) -> bool {
    let Some(proto) = proto else { return false };
    if proto.initial_requests.as_ref().is_some_and(|count| count.value > 1) || proto.additional_request_chance.is_some()
    {
        notes.add("initial_requests and additional_request_chance have no effect, as in Envoy");
    }
    proto.hedge_on_per_try_timeout
}

#[allow(deprecated, reason = "older control planes write per_request_buffer_limit_bytes")]
fn buffer_limit(route: &Route, host: &VirtualHost) -> Option<u64> {
    let of_route = route.request_body_buffer_limit.as_ref().map(|limit| limit.value);
    let of_route = of_route.or_else(|| Some(route.per_request_buffer_limit_bytes.as_ref()?.value.into()));
    let of_host = || host.request_body_buffer_limit.as_ref().map(|limit| limit.value);
    let of_host = || of_host().or_else(|| Some(host.per_request_buffer_limit_bytes.as_ref()?.value.into()));
    of_route.or_else(of_host)
}
