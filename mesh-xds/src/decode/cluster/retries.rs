//! The circuit breakers that are about retries.

use mesh_core::config::{RetryBudget, RetryLimits};

use crate::bootstrap::Profile;
use crate::decode::{Context, Fault};
use crate::proto::cluster::{CircuitBreakers, circuit_breakers::thresholds::RetryBudget as BudgetProto};
use crate::proto::core::RoutingPriority;

/// The first threshold of the priority counts. Where nothing is said Envoy has a limit of its own and gRPC has none.
pub(super) fn limits(
    breakers: &CircuitBreakers,
    priority: RoutingPriority,
    context: &Context,
) -> Result<RetryLimits, Fault> {
    let mut thresholds = breakers.thresholds.iter().enumerate();
    let found = thresholds.find(|(_, one)| one.priority == priority as i32);
    let said = found
        .and_then(|(_, threshold)| threshold.max_retries.as_ref())
        .map(|max| max.value);
    let budget = found.and_then(|(index, threshold)| threshold.retry_budget.as_ref().map(|proto| (index, proto)));
    let budget = budget.map(|(index, proto)| {
        let at = format!("thresholds[{index}].retry_budget");
        self::budget(proto).map_err(|fault| fault.within(at))
    });
    Ok(RetryLimits {
        budget: budget.transpose()?,
        max: match context.profile {
            Profile::Grpc => said,
            Profile::Envoy => said.or(Some(RetryLimits::ENVOY_MAX)),
        },
    })
}

fn budget(proto: &BudgetProto) -> Result<RetryBudget, Fault> {
    let default = RetryBudget::default();
    let share = match &proto.budget_percent {
        None => default.share,
        Some(percent) if (0.0..=100.0).contains(&percent.value) => (percent.value * 100.0).round() as u32,
        Some(percent) => {
            let reason = format!("is not between 0 and 100: {}", percent.value);
            return Err(Fault::new("budget_percent", reason));
        }
    };
    let least = proto.min_retry_concurrency.as_ref();
    Ok(RetryBudget {
        share,
        min_retry_concurrency: least.map_or(default.min_retry_concurrency, |least| least.value),
    })
}
