//! `common_lb_config`: among which priorities and localities an endpoint is chosen.
//!
//! gRPC knows nothing of it and has rules of its own (A56). But a control plane that says by which share of healthy endpoints a
//! priority panics writes for somebody who spills and panics, as Envoy does; so there Envoy's rules hold, by whatever profile.

use mesh_core::config::{CommonLb, Health, HealthSet, Percent};

use super::lb::Around;
use crate::bootstrap::Profile;
use crate::decode::{Context, Fault, Notes};
use crate::proto::cluster::Cluster as Proto;
use crate::proto::cluster::cluster::CommonLbConfig;
use crate::proto::cluster::cluster::common_lb_config::LocalityConfigSpecifier;
use crate::proto::core::{HealthStatus as Status, HealthStatusSet};

pub(super) fn common_lb(
    proto: &Proto,
    around: Around,
    context: &Context,
    notes: &mut Notes,
) -> Result<CommonLb, Fault> {
    let config = proto.common_lb_config.as_ref();
    let threshold = config.and_then(|config| config.healthy_panic_threshold.as_ref());
    let Around {
        by_locality,
        subset_size,
        slow_start,
    } = around;
    let held = match config.and_then(|config| config.override_host_status.as_ref()) {
        None => HealthSet::CALLABLE,
        Some(set) => held(set, notes),
    };
    if context.profile == Profile::Grpc && threshold.is_none() {
        return Ok(CommonLb {
            held,
            subset_size,
            slow_start,
            ..CommonLb::GRPC
        });
    }
    let inner = |fault: Fault| fault.within("common_lb_config");
    let panic_threshold = match threshold {
        None => CommonLb::DEFAULT_PANIC_THRESHOLD,
        Some(threshold) => percent(threshold.value).map_err(inner)?,
    };
    let specifier = config.and_then(|config| config.locality_config_specifier.as_ref());
    let mut common = CommonLb {
        held,
        panic_threshold,
        by_locality,
        subset_size,
        slow_start,
        ..CommonLb::ENVOY
    };
    match specifier {
        None => {}
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => common.by_locality = true,
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zones)) => {
            common.fail_on_panic = zones.fail_traffic_on_panic;
            if proto.common_lb_config.as_ref().is_some_and(asks_for_zones) {
                notes.add("zone_aware_lb_config is not had: endpoints of all zones are called alike");
            }
        }
    }
    Ok(common)
}

/// Envoy's default is to route by zone, but only for who knows the cluster of its own: with nothing said there is nothing to note.
fn asks_for_zones(config: &CommonLbConfig) -> bool {
    matches!(
        &config.locality_config_specifier,
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zones))
            if zones.routing_enabled.is_some() || zones.min_cluster_size.is_some()
    )
}

/// Of what is one word here and two there, either says both.
fn held(proto: &HealthStatusSet, notes: &mut Notes) -> HealthSet {
    let known = |status: &i32| match Status::try_from(*status) {
        Ok(Status::Unknown | Status::Healthy) => Some(Health::Healthy),
        Ok(Status::Degraded) => Some(Health::Degraded),
        Ok(Status::Draining) => Some(Health::Draining),
        Ok(Status::Unhealthy | Status::Timeout) => Some(Health::Unhealthy),
        Err(_) => None,
    };
    if proto.statuses.iter().any(|status| known(status).is_none()) {
        notes.add("an override_host_status that nobody knows is not heard");
    }
    proto.statuses.iter().filter_map(known).collect()
}

/// Envoy cuts off what is less than a percent.
fn percent(value: f64) -> Result<Percent, Fault> {
    let whole = (0.0..=100.0).contains(&value).then_some(value as u32);
    whole
        .and_then(Percent::new)
        .ok_or_else(|| Fault::new("healthy_panic_threshold", "must be a percentage"))
}
