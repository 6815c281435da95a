//! The control-plane stream of an in-process service mesh: both ends of xDS v3 ADS, and the workload's identity.
//!
//! A process reads a gRPC bootstrap, starts one [`XdsClient`], and hands its [`Link`](mesh_core::Link) to the data plane:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use mesh_xds::{Bootstrap, XdsClient};
//!
//! let mesh = XdsClient::start(Bootstrap::from_env()?)?.link();
//! # drop(mesh); Ok(()) }
//! ```
//!
//! There is one ADS stream per process and control plane in use, for any number of targets. Resources are decoded to the values of
//! [`mesh_core::config`]; a bad one is refused by name and field while the last good one stays; a target's configuration is
//! published only when it is whole. Generated protobuf types do not leave this crate.
//!
//! # Map
//!
//! | module | what it does |
//! |---|---|
//! | [`bootstrap`] | where the control plane is, who this process is, where its identity comes from |
//! | [`client`] | the stream, the protocol, the cache, whole trees, the status |
//! | [`ResourceName`] | names, plain or of the `xdstp` scheme, in a normal form |
//! | `credentials` | what a control plane is judged by, and what is shown to it |
//! | `identity` | certificates from files or a CA, renewed before they end |
//! | [`csds`] | client status: asked of this process, or of a control plane |
//! | `decode`, `encode` | resources from and to core values, mirror images |
//! | `server` (feature `server`) | the serving end: a snapshot per group of clients |
//!
//! # Features
//!
//! `server`: the serving end, for control planes and tests. `fuzzing` and `measuring` open doors for the fuzz targets and the
//! benches, which are no part of the API. All are off by default.

pub mod bootstrap;
pub mod client;
mod connect;
mod connector;
mod convention;
mod credentials;
pub mod csds;
mod decode;
#[cfg(feature = "server")]
mod encode;
mod error;
mod first_word;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod last_word;
mod name;
mod node;
mod pem;
mod proto;
mod resolver;
mod resource;
#[cfg(feature = "server")]
pub mod server;
mod wire;

#[cfg(feature = "measuring")]
#[doc(hidden)]
pub use client::measuring;

pub use bootstrap::{Bootstrap, BootstrapError};
pub use client::{ConfigStatus, XdsClient};
pub use connector::Connector;
pub use csds::ClientStatusService;
pub use decode::Rejected;
pub use error::StartError;
pub use name::{InvalidResourceName, ResourceName};
pub use node::{Node, NodeLocality};
pub use resolver::Resolver;
pub use resource::ResourceKind;
