//! The serving end of xDS, for a control plane (feature `server`).
//!
//! ```text
//! Snapshot - publish - SnapshotCache (encoded once per group) - stream.rs - StreamState or DeltaState - wire
//! ```
//!
//! Clients are grouped by whoever runs the control plane ([`Grouping`]); a group shares one snapshot. What is published is
//! first read back as a client would read it, so that nothing goes out that would be refused.

mod ads;
mod beside;
mod cache;
mod clients;
mod delta;
mod encoded;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod layers;
mod load;
mod machine;
mod nack;
mod order;
mod pace;
mod peer;
mod release;
mod room;
mod served;
mod service;
mod stream;
mod subscription;
mod undescribed;
mod unfinished;
mod warming;

#[cfg(test)]
mod tests;

pub use beside::Beside;
pub use cache::{SnapshotCache, Versions};
pub use clients::{Acknowledged, ClientReport, SubscriptionReport};
pub use encoded::Unpublishable;
pub use load::{ClientLoad, LoadBoard, LoadService, ReportedLoad};
pub use peer::{Io, Line, Peer, Shown};
pub use service::{AdsService, Caller, DiscoveryServices, Grouping, Refusal};
