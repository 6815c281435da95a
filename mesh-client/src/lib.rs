//! The outbound data plane of an in-process service mesh.
//!
//! An application wraps nothing: it gives a [`Channel`] to its tonic client, or calls it as a `tower::Service`, and its
//! requests are routed, split by weight, balanced, retried and carried over mutual TLS as the mesh's configuration says, which
//! may change at any moment.
//!
//! ```
//! use http_body_util::Empty;
//! use mesh_client::Channel;
//! use mesh_core::Link;
//! use mesh_core::config::{Cluster, ExpectedPeers, MutualTls, ReasonKind, Route, Snapshot, Split, TlsMode};
//! use tower::ServiceExt as _;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Usually an `XdsClient` provides the link; a fixed configuration does too.
//! let expected = ExpectedPeers::exactly(["spiffe://cluster.local/ns/default/sa/payment"]);
//! let tls = TlsMode::Mutual(MutualTls { expected, sni: None, ..MutualTls::default() });
//! let snapshot = Snapshot::builder()
//!     .route("payment", Route::to(Split::all_to("payment-v1")))
//!     .cluster(Cluster::new("payment-v1", tls, vec![]))
//!     .build()?;
//! let link = Link::fixed(snapshot, None);
//!
//! let channel = Channel::new(&link, "xds:///payment");
//! let request = http::Request::get("/receipts/7").body(Empty::<bytes::Bytes>::new())?;
//! let error = channel.oneshot(request).await.unwrap_err();
//! assert_eq!(error.reason_kind(), Some(ReasonKind::NoEndpoints));
//! assert_eq!((error.response_flag(), error.status().as_u16()), ("UH", 503));
//! # Ok(())
//! # }
//! ```
//!
//! The rooms of a channel are public tower layers, for who wants another order, less, or layers of their own between:
//! [`status`], [`route`], [`deadline`], [`fault`], [`rewrite`], [`retry`], [`mirror`], [`attempt`] and the innermost [`balance`].
//! [`channel`] puts them together; this is less by hand, with a limit on concurrent calls:
//!
//! ```
//! use http_body_util::Empty;
//! use mesh_client::{attempt::AttemptLayer, balance::Balance, deadline::DeadlineLayer, retry::RetryLayer, route::RouteLayer};
//! use mesh_core::{Link, Snapshot, config::{Reason, ReasonKind}};
//! use tower::{ServiceBuilder, ServiceExt as _, limit::ConcurrencyLimitLayer};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let gone = Reason::new(ReasonKind::NoListener, "there is no listener \"payment\"");
//! let link = Link::fixed(Snapshot::builder().target("payment", Err(gone)).build()?, None);
//! let stack = ServiceBuilder::new()
//!     .layer(ConcurrencyLimitLayer::new(100))
//!     .layer(RouteLayer::new(&link, "payment"))
//!     .layer(DeadlineLayer::new(&link))
//!     .layer(RetryLayer::new(&link))
//!     .layer(AttemptLayer::new(&link))
//!     .service(Balance::new(&link, "payment"));
//! let request = http::Request::get("/").body(Empty::<bytes::Bytes>::new())?;
//! assert!(stack.oneshot(request).await.unwrap_err().is_no_route());
//! # Ok(())
//! # }
//! ```
//!
//! # Time
//!
//! A call may take as long as the least of these allows: its route, its own `grpc-timeout`, and what is left of the inbound
//! request that it is made for, which a handler need not pass on ([`mesh_core::inherit`]). Work that a handler spawns is another
//! task and inherits nothing, unless it is wrapped: `tokio::spawn(mesh_core::inherit::carry(work))`. The peer is told what is
//! left. A route, a listener or a request (`x-envoy-upstream-rq-timeout-ms` and the other headers of
//! [`Overrides`](mesh_core::retry::Overrides)) can limit tries and idle streams too; a stream without any limit may last and be
//! idle for ever, as in gRPC, unless the control plane speaks as to an Envoy, which ends one that is idle for 5 minutes.
//!
//! # Cancel safety
//!
//! Dropping the future of a call, or its response body, cancels the call at the peer (RST_STREAM), ends the sending of a
//! streaming request and gives back every place that the call held. Connections being made go on, for other calls.

mod alarm;
pub mod attempt;
pub mod balance;
mod body;
pub mod channel;
mod cluster;
pub mod connect;
pub mod deadline;
mod erase;
mod error;
pub mod fault;
mod flags;
mod headers;
pub mod mirror;
mod peek;
mod replay;
mod request;
pub mod retry;
mod reuse;
pub mod rewrite;
pub mod route;
pub mod status;
mod straight;
mod target;
pub mod telemetry;
mod time;

#[cfg(feature = "measuring")]
#[doc(hidden)]
pub mod transport;
mod wait;

pub use body::ResponseBody;
pub use channel::{CallFuture, Channel, ChannelBuilder, use_connector};
#[cfg(feature = "measuring")]
#[doc(hidden)]
pub use cluster::measuring;
pub use cluster::{AlreadyRunning, BreakerStatus, ClusterStatus, EjectedEndpoint, PriorityStatus, Usage, clusters};
pub use error::Error;
pub use flags::ResponseFlags;
pub use request::{Attempt, Routed};

#[cfg(test)]
mod tests;
