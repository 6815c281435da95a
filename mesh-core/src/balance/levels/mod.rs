//! Which group of hosts. Before a picker chooses a host, something chooses among whom: the priority, how fit they are, and the
//! locality.
//!
//! Envoy's rules: each priority takes what its callable endpoints are able to, the rest spills to the next ([`Loads`]);
//! degraded endpoints take what healthy ones cannot; a priority of which too few can be called panics and calls all; within a
//! priority a locality may be chosen by its weight. Or gRPC's: the first priority that can be called takes everything. All of
//! it is worked out when the configuration or somebody's health changes ([`Plan`]). What is left for a call is a draw or two
//! ([`LevelPicker`]), and nothing at all where all hosts are one group.

mod loads;
mod picker;
mod plan;
mod rules;
mod slow_start;
mod subset;
#[cfg(test)]
mod tests;

pub use loads::{Census, Count, Load, Loads, effective_weight};
pub use picker::{GoneTo, LevelPicker, Member};
pub use plan::{Group, Plan, Tier, TierKind, shares};
pub use slow_start::Warming;
pub use subset::subset;
