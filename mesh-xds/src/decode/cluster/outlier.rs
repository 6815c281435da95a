//! Outlier detection. One message, read by gRFC A50 or by Envoy's documentation as the profile says.
//!
//! In gRPC's profile Envoy's rules hold where `successful_active_health_check_uneject_host` is said: an Envoy's field, which gRPC does not
//! know, and which means nothing here besides. Our control plane says it, so that one configuration means one thing to all of our clients.
//!
//! Consecutive errors are Envoy's. A control plane of gRPC's kind that writes them means them, so they are honoured in either
//! profile; but where they are not written, gRPC's silence means none and Envoy's means five.

use std::time::Duration;

use mesh_core::config::{Consecutive, FailurePercentage, OutlierDetection, OutlierRules, Percent, SuccessRate};

use crate::bootstrap::Profile;
use crate::decode::common::duration;
use crate::decode::{Context, Fault, Notes};
use crate::proto::cluster::OutlierDetection as Proto;
use crate::proto::protobuf::{Duration as DurationProto, UInt32Value};

pub(super) fn outlier(proto: &Proto, context: &Context, notes: &mut Notes) -> Result<OutlierDetection, Fault> {
    let rules = match context.profile {
        Profile::Grpc if proto.successful_active_health_check_uneject_host.is_none() => OutlierRules::Grpc,
        Profile::Grpc | Profile::Envoy => OutlierRules::Envoy,
    };
    if !proto.monitors.is_empty() {
        notes.add("outlier_detection.monitors has no effect");
    }
    if proto.detect_degraded_hosts.is_some_and(|wanted| wanted.value) {
        notes.add("outlier_detection.detect_degraded_hosts has no effect");
    }
    let unsaid = OutlierDetection::new(rules);
    let (base_ejection_time, max_ejection_time) = ejection_times(proto, &unsaid)?;
    let jitter = proto.max_ejection_time_jitter.as_ref();
    Ok(OutlierDetection {
        rules,
        interval: interval(proto, &unsaid, notes)?,
        base_ejection_time,
        max_ejection_time,
        max_ejection_time_jitter: time("max_ejection_time_jitter", jitter, unsaid.max_ejection_time_jitter)?,
        max_ejection_percent: percent(
            "max_ejection_percent",
            proto.max_ejection_percent,
            unsaid.max_ejection_percent,
        )?,
        always_eject_one_host: proto.always_eject_one_host.is_some_and(|always| always.value),
        split_external_local_origin_errors: proto.split_external_local_origin_errors,
        consecutive_5xx: Consecutive {
            count: number(proto.consecutive_5xx, unsaid.consecutive_5xx.count),
            enforcing: percent(
                "enforcing_consecutive_5xx",
                proto.enforcing_consecutive_5xx,
                unsaid.consecutive_5xx.enforcing,
            )?,
        },
        consecutive_gateway_failure: Consecutive {
            count: number(
                proto.consecutive_gateway_failure,
                unsaid.consecutive_gateway_failure.count,
            ),
            enforcing: percent(
                "enforcing_consecutive_gateway_failure",
                proto.enforcing_consecutive_gateway_failure,
                unsaid.consecutive_gateway_failure.enforcing,
            )?,
        },
        consecutive_local_origin_failure: Consecutive {
            count: number(
                proto.consecutive_local_origin_failure,
                unsaid.consecutive_local_origin_failure.count,
            ),
            enforcing: percent(
                "enforcing_consecutive_local_origin_failure",
                proto.enforcing_consecutive_local_origin_failure,
                unsaid.consecutive_local_origin_failure.enforcing,
            )?,
        },
        success_rate: success_rate(proto, unsaid.success_rate)?,
        failure_percentage: failure_percentage(proto, unsaid.failure_percentage)?,
    })
}

fn success_rate(proto: &Proto, unsaid: SuccessRate) -> Result<SuccessRate, Fault> {
    Ok(SuccessRate {
        minimum_hosts: number(proto.success_rate_minimum_hosts, unsaid.minimum_hosts),
        request_volume: number(proto.success_rate_request_volume, unsaid.request_volume),
        stdev_factor: number(proto.success_rate_stdev_factor, unsaid.stdev_factor),
        enforcing: percent("enforcing_success_rate", proto.enforcing_success_rate, unsaid.enforcing)?,
        enforcing_local_origin: percent(
            "enforcing_local_origin_success_rate",
            proto.enforcing_local_origin_success_rate,
            unsaid.enforcing_local_origin,
        )?,
    })
}

fn failure_percentage(proto: &Proto, unsaid: FailurePercentage) -> Result<FailurePercentage, Fault> {
    Ok(FailurePercentage {
        threshold: percent(
            "failure_percentage_threshold",
            proto.failure_percentage_threshold,
            unsaid.threshold,
        )?,
        minimum_hosts: number(proto.failure_percentage_minimum_hosts, unsaid.minimum_hosts),
        request_volume: number(proto.failure_percentage_request_volume, unsaid.request_volume),
        enforcing: percent(
            "enforcing_failure_percentage",
            proto.enforcing_failure_percentage,
            unsaid.enforcing,
        )?,
        enforcing_local_origin: percent(
            "enforcing_failure_percentage_local_origin",
            proto.enforcing_failure_percentage_local_origin,
            unsaid.enforcing_local_origin,
        )?,
    })
}

/// Envoy refuses an interval of nothing; gRFC A50 allows it, and has nobody go through hosts all the time for it.
fn interval(proto: &Proto, unsaid: &OutlierDetection, notes: &mut Notes) -> Result<Duration, Fault> {
    let least = OutlierDetection::MIN_INTERVAL;
    match time("interval", proto.interval.as_ref(), unsaid.interval)? {
        zero if zero.is_zero() && unsaid.rules == OutlierRules::Envoy => {
            Err(Fault::new("interval", "must be more than 0"))
        }
        short if short < least => {
            notes.add(format_args!(
                "outlier_detection.interval {short:?} was raised to {least:?}"
            ));
            Ok(least)
        }
        interval => Ok(interval),
    }
}

/// The first ejection and the longest. By Envoy's rules the second must be no shorter; gRFC A50 takes the longer of the two.
fn ejection_times(proto: &Proto, unsaid: &OutlierDetection) -> Result<(Duration, Duration), Fault> {
    let base = time(
        "base_ejection_time",
        proto.base_ejection_time.as_ref(),
        unsaid.base_ejection_time,
    )?;
    let said = proto.max_ejection_time.as_ref();
    let max = time("max_ejection_time", said, unsaid.max_ejection_time)?;
    if unsaid.rules == OutlierRules::Envoy {
        if base.is_zero() {
            return Err(Fault::new("base_ejection_time", "must be more than 0"));
        }
        if said.is_some() && max < base {
            let reason = format!("must be no less than base_ejection_time {base:?}, not {max:?}");
            return Err(Fault::new("max_ejection_time", reason));
        }
    }
    Ok((base, max.max(base)))
}

fn time(field: &str, value: Option<&DurationProto>, unsaid: Duration) -> Result<Duration, Fault> {
    value.map_or(Ok(unsaid), |value| duration(field, value))
}

fn number(value: Option<UInt32Value>, unsaid: u32) -> u32 {
    value.map_or(unsaid, |value| value.value)
}

fn percent(field: &str, value: Option<UInt32Value>, unsaid: Percent) -> Result<Percent, Fault> {
    let Some(value) = value else { return Ok(unsaid) };
    let percent = Percent::new(value.value);
    percent.ok_or_else(|| Fault::new(field, format!("must be at most 100, not {}", value.value)))
}
