//! Outlier detection, every field said: what a reader makes of one that is not said differs.

use mesh_core::config::{OutlierDetection, OutlierRules, Percent};

use super::Dialect;
use super::common::{duration, uint};
use crate::proto::cluster::OutlierDetection as Proto;
use crate::proto::protobuf::{BoolValue, UInt32Value};

pub(super) fn outlier(outlier: &OutlierDetection, dialect: Dialect) -> Proto {
    let OutlierDetection {
        success_rate,
        failure_percentage,
        ..
    } = outlier;
    Proto {
        interval: Some(duration(outlier.interval)),
        base_ejection_time: Some(duration(outlier.base_ejection_time)),
        max_ejection_time: Some(duration(outlier.max_ejection_time)),
        max_ejection_time_jitter: Some(duration(outlier.max_ejection_time_jitter)),
        max_ejection_percent: percent(outlier.max_ejection_percent),
        always_eject_one_host: Some(BoolValue {
            value: outlier.always_eject_one_host || by_rounding(outlier, dialect),
        }),
        split_external_local_origin_errors: outlier.split_external_local_origin_errors,
        consecutive_5xx: uint(outlier.consecutive_5xx.count),
        enforcing_consecutive_5xx: percent(outlier.consecutive_5xx.enforcing),
        consecutive_gateway_failure: uint(outlier.consecutive_gateway_failure.count),
        enforcing_consecutive_gateway_failure: percent(outlier.consecutive_gateway_failure.enforcing),
        consecutive_local_origin_failure: uint(outlier.consecutive_local_origin_failure.count),
        enforcing_consecutive_local_origin_failure: percent(outlier.consecutive_local_origin_failure.enforcing),
        success_rate_minimum_hosts: uint(success_rate.minimum_hosts),
        success_rate_request_volume: uint(success_rate.request_volume),
        success_rate_stdev_factor: uint(success_rate.stdev_factor),
        enforcing_success_rate: percent(success_rate.enforcing),
        enforcing_local_origin_success_rate: percent(success_rate.enforcing_local_origin),
        failure_percentage_threshold: percent(failure_percentage.threshold),
        failure_percentage_minimum_hosts: uint(failure_percentage.minimum_hosts),
        failure_percentage_request_volume: uint(failure_percentage.request_volume),
        enforcing_failure_percentage: percent(failure_percentage.enforcing),
        enforcing_failure_percentage_local_origin: percent(failure_percentage.enforcing_local_origin),
        successful_active_health_check_uneject_host: by_envoys_rules(outlier, dialect),
        ..Proto::default()
    }
}

/// Whose rules are meant, for who reads by gRPC's where nothing says otherwise. The value is what an Envoy takes it for unsaid, and there
/// is no active health checking in the mesh.
fn by_envoys_rules(outlier: &OutlierDetection, dialect: Dialect) -> Option<BoolValue> {
    (!dialect.is_envoys() && outlier.rules == OutlierRules::Envoy).then_some(BoolValue { value: true })
}

/// By gRFC A50's rule one host of few may go at any percentage but 0. An Envoy must be told so.
fn by_rounding(outlier: &OutlierDetection, dialect: Dialect) -> bool {
    dialect.is_envoys() && outlier.rules == OutlierRules::Grpc && outlier.max_ejection_percent > Percent::ZERO
}

fn percent(value: Percent) -> Option<UInt32Value> {
    uint(value.get())
}
