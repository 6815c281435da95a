//! What is counted, and where others read it.
//!
//! The data plane writes here and calls nobody; load reports, metrics and the admin port read. Two shapes: [`Tally`] for
//! rare events named by two static words (a refused handshake and its reason), and [`Loads`] for calls, by cluster and
//! locality, which a [`LoadReader`] takes in windows. How the calls of a cluster ended is counted in [`Calls`], for load reports to
//! a control plane that asks. What a line of an access log tells of a request is [`access`]'s. Calls by who called whom and how they ended are [`standard`]'s; Prometheus is
//! told all of it in an [`Exposition`].

pub mod access;
mod call;
pub mod calls;
pub mod exposition;
mod load;
mod loads;
pub mod orca;
pub(crate) mod own;
pub mod standard;
mod tally;
mod window;

#[cfg(test)]
mod tests;

pub use call::Counted;
pub use calls::{CallReport, Calls};
pub use exposition::{Expose, Exposition, FamilyKind};
pub use load::{Drops, Load};
pub use loads::{LoadReader, Loads};
pub use tally::Tally;
pub use window::{ClusterLoad, Counts, Figure, LocalityLoad, Window};
