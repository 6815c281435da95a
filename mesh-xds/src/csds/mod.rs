//! Client status discovery (CSDS): what each client of a mesh was told and what it made of it, to be asked for over gRPC.
//!
//! ```text
//! XdsClient ──────── Report ──┐                          ┌─ ClientStatusService ─ any CSDS reader
//!                             ├─ ClientView ─ wire ──────┤
//! SnapshotCache ─ clients() ──┘ (feature `server`)       └─ fetch() ─ `meshctl status`
//! ```
//!
//! Both ends of xDS can answer, and answer different questions (gRFC A40). A workload tells resource by resource what it holds,
//! in [`ClientStatusService::new`]. A control plane tells of each of its clients, type by type, what that was sent and said to
//! it, in `ClientStatusService::of_clients` (feature `server`); this is what `istioctl proxy-status` shows of Istio.
//!
//! No secret of ours is in an answer. Keys and tokens are not xDS resources here: TLS settings name a certificate provider of
//! the bootstrap, and TLS settings that carry a key are refused. A node is shown as it is sent to the control plane, so what is
//! in its metadata is no secret either. Another control plane may still write secrets into parts that mean nothing here, and
//! contents are told as they came: those in which a private key can be seen are left out, and the port is on loopback.

mod local;
mod read;
#[cfg(feature = "server")]
mod remote;
mod service;
#[cfg(test)]
mod tests;
mod view;

pub use read::{FetchError, fetch};
#[cfg(feature = "server")]
pub use remote::{Reader, Readers};
pub use service::ClientStatusService;
pub use view::{ClientView, Failure, ResourceView, Seen, Sync};

pub(crate) use service::Tell;

/// What a client tells whoever asks.
#[cfg(test)]
pub(crate) fn told_by(client: &crate::XdsClient) -> Vec<ClientView> {
    let local = local::Local::new(vec![client.status().clone()]);
    let told = local.tell(&Default::default(), &tonic::Extensions::default());
    told.unwrap()
}
