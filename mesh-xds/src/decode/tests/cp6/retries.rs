//! Clusters: what cannot be honoured of their limits of retries.

use super::*;
use crate::proto::cluster::{
    CircuitBreakers, Cluster as Proto,
    circuit_breakers::{Thresholds, thresholds::RetryBudget},
};
use crate::proto::percent::Percent;
use crate::resource::ClusterSpec;

fn budget(proto: &mut Proto, value: f64) {
    proto.circuit_breakers = Some(CircuitBreakers {
        thresholds: vec![Thresholds {
            retry_budget: Some(RetryBudget {
                budget_percent: Some(Percent { value }),
                ..Default::default()
            }),
            ..Default::default()
        }],
        ..Default::default()
    });
}

#[test]
fn cp_6_retry_budgets_of_clusters() {
    const AT: &str = "circuit_breakers.thresholds[0].retry_budget.budget_percent";
    let mutators: [Mutator<Proto>; 3] = [
        (AT, |p| budget(p, -1.0)),
        (AT, |p| budget(p, 100.5)),
        (AT, |p| budget(p, f64::NAN)),
    ];
    let base = istiod::proxyless::cluster(istiod::CLUSTER);
    table::<ClusterSpec>(context(), &base, &base, &mutators);
}
