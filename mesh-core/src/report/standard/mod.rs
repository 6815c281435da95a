//! Istio's standard metrics: who calls whom, how often, how long, how much, and with what end.
//!
//! What a sidecar would tell Prometheus, told from inside of the process. The labels of Istio are two dozen texts, and a map of
//! them per call would cost more than the call; so they are sorted by when they are known. What stands for a peer is an [`Edge`],
//! made once and then held by the connection. What differs from call to call, its [`End`], is packed into one number, by which
//! the edge finds the numbers to add to: no lock, no allocation and no text once the same end was seen before.
//!
//! An edge is everything about a pair but its numbers, so that edges with equal labels are one: a hundred thousand hosts of a few
//! workloads have a few edges.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use mesh_core::report::{Exposition, standard::{Amounts, EdgeLabels, Edges, End, Reporter, Workload}};
//!
//! let edges = Edges::default();
//! let labels = EdgeLabels::new(Reporter::Source, Workload::named("checkout", "shop"), Workload::unknown());
//! let edge = edges.edge(&labels);
//! edge.count(End::http(200), Amounts { duration: Duration::from_micros(250), ..Amounts::default() });
//! let mut out = Exposition::default();
//! edges.expose(Instant::now(), &mut out);
//! assert!(out.text().contains("response_code=\"200\",grpc_response_status=\"\",response_flags=\"-\""));
//! ```

mod edge;
mod edges;
mod end;
mod flags;
mod labels;
mod messages;
mod numbers;
mod peer;
mod scrape;
mod workload;

#[cfg(test)]
mod tests;

pub use edge::Edge;
pub use edges::Edges;
pub use end::{End, Protocol};
pub use flags::Flags;
pub use labels::{EdgeLabels, Reporter};
pub use messages::Messages;
pub(super) use numbers::bucket_of;
pub use numbers::{Amounts, BOUNDS};
pub use peer::{PEER_METADATA, PEER_METADATA_ID, PeerMetadata};
pub use workload::Workload;

pub use crate::config::{Service, UNKNOWN};
