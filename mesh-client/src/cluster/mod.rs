//! The live side of the configuration: hosts with connections and counters, clusters with budgets, breakers and ejections, and
//! the manager that reconciles them with each snapshot.

mod anywhere;
mod breakers;
mod counting;
mod followed;
mod handle;
mod host;
mod leaves;
mod living;
mod manager;
#[cfg(feature = "measuring")]
#[doc(hidden)]
pub mod measuring;
mod modes;
mod out_of_band;
mod outliers;
mod pace;
mod selector;
mod set;
mod status;

use mesh_core::config::ReasonKind;
use mesh_core::link::Standing;

pub(crate) use anywhere::{Found, Wish};
pub(crate) use breakers::{ConnectionPlace, Open, PendingPlace, Room};
pub(crate) use handle::ClusterHandle;
pub(crate) use host::Host;
pub use manager::AlreadyRunning;
pub(crate) use manager::{ClusterManager, with_connector};
pub(crate) use selector::{Extras, Leads, Selector, Target};
pub(crate) use set::HostSet;
pub(crate) use status::status_of;
pub use status::{BreakerStatus, ClusterStatus, EjectedEndpoint, PriorityStatus, Usage, clusters};

/// Whether the workload is still being given its identity, as opposed to lacking one.
pub(crate) fn is_on_its_way(standing: &Standing) -> bool {
    standing
        .as_ref()
        .is_err_and(|reason| reason.kind() == ReasonKind::Waiting)
}
