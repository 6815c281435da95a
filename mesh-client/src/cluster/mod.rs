//! The live side of the configuration: hosts with connections and counters, clusters with budgets, and the manager that
//! reconciles them with each snapshot.

mod handle;
mod host;
mod manager;
mod selector;

pub(crate) use handle::{ClusterHandle, HostSet};
pub(crate) use host::Host;
pub use manager::AlreadyRunning;
pub(crate) use manager::{ClusterManager, with_connector};
pub(crate) use selector::{Selector, Target};
