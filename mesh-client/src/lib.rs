//! The outbound data plane of an in-process service mesh.
//!
//! An application wraps nothing: it gives a [`Channel`] to its tonic client, or calls it as a `tower::Service`, and its
//! requests are routed, split by weight, balanced, retried and carried over mutual TLS as the mesh's configuration says, which
//! may change at any moment.
//!
//! The rooms of a channel are public tower layers, for who wants another order, less, or layers of their own between:
//! [`status`], [`route`], [`deadline`], [`retry`], [`attempt`] and the innermost [`balance`]. [`channel`] puts them together.
//!
//! # Cancel safety
//!
//! Dropping the future of a call, or its response body, cancels the call at the peer (RST_STREAM), ends the sending of a
//! streaming request and gives back every place that the call held. Connections being made go on, for other calls.

pub mod attempt;
pub mod balance;
mod body;
pub mod channel;
mod cluster;
pub mod connect;
pub mod deadline;
mod error;
mod request;
pub mod retry;
pub mod route;
pub mod status;

pub use body::ResponseBody;
pub use channel::{Channel, ChannelBuilder, use_connector};
pub use cluster::AlreadyRunning;
pub use error::Error;
pub use request::{Attempt, Routed};

#[cfg(test)]
mod tests;
