//! How endpoints' own reports become weights (gRFCs A58, A114).

use mesh_core::config::{ClientWeights, ReportedMetric};

use super::lb::per_mille;
use crate::decode::common::duration;
use crate::decode::{Fault, Notes};
use crate::proto::lb::client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin;

/// The most figures that are looked for in a report: each report is held against all of them.
const MAX_METRICS: usize = 16;

pub(super) fn settings(proto: &ClientSideWeightedRoundRobin, notes: &mut Notes) -> Result<ClientWeights, Fault> {
    let default = ClientWeights::default();
    let time = |field, value: Option<&_>, default| match value {
        None => Ok(default),
        Some(value) => duration(field, value),
    };
    let period = time(
        "oob_reporting_period",
        proto.oob_reporting_period.as_ref(),
        ClientWeights::DEFAULT_OUT_OF_BAND,
    )?;
    let out_of_band = proto.enable_oob_load_report.is_some_and(|enabled| enabled.value);
    let mut metrics = Vec::new();
    for name in &proto.metric_names_for_computing_utilization {
        match ReportedMetric::parse(name) {
            Some(metric) if metrics.len() < MAX_METRICS => metrics.push(metric),
            _ => notes.add(format_args!(
                "{name:?} of metric_names_for_computing_utilization is not looked for"
            )),
        }
    }
    Ok(ClientWeights {
        out_of_band: out_of_band.then_some(period),
        blackout: time("blackout_period", proto.blackout_period.as_ref(), default.blackout)?,
        expiration: time(
            "weight_expiration_period",
            proto.weight_expiration_period.as_ref(),
            default.expiration,
        )?,
        update: time(
            "weight_update_period",
            proto.weight_update_period.as_ref(),
            default.update,
        )?
        .max(ClientWeights::MIN_UPDATE),
        error_penalty_per_mille: match proto.error_utilization_penalty {
            None => default.error_penalty_per_mille,
            Some(penalty) => per_mille("error_utilization_penalty", penalty.value.into())?,
        },
        metrics: metrics.into(),
    })
}
