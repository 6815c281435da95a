//! What the end-to-end tests share: backends that serve, channels that call, memberships that are told by hand.
//!
//! Everything goes through the production assembly; only what is injectable in production is injected here.

mod backend;
mod mesh;
pub mod prometheus;
mod stats;

pub use backend::Backend;
pub use mesh::{Canary, Mesh, admitted, identity, listener, routes, workloads};
pub use stats::{interval_999, interval_million};

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use mesh_core::config::{Cluster, Endpoint, ExpectedPeers, MutualTls, Route, Snapshot, Split, TlsMode};
use mesh_core::identity::Identity;
use mesh_core::link::Source;
use mesh_core::testing::TestCa;
use mesh_core::{Entropy, Link, link};

/// Who serves payments in the tests.
pub const PAYMENT: &str = "spiffe://cluster.local/ns/default/sa/payment";
/// Who calls them.
pub const CHECKOUT: &str = "spiffe://cluster.local/ns/default/sa/checkout";

/// What the tests' randomness begins with.
const SEED: u64 = 20_261_122;

/// The longest any single wait of a test may take: far beyond what a slow machine needs, and an end all the same.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A membership with `identity` whose configuration the test publishes, with seeded randomness.
pub fn member(identity: Identity) -> (Source, Link) {
    let parts = link::Parts {
        entropy: Entropy::seeded(SEED),
        ..link::Parts::default()
    };
    let (source, link) = Link::new(parts);
    source.identity.publish(Ok(identity));
    (source, link)
}

/// A membership of the caller.
pub fn caller(ca: &TestCa) -> (Source, Link) {
    member(ca.identity(CHECKOUT))
}

/// Mutual TLS that expects the payment service.
pub fn mutual() -> TlsMode {
    TlsMode::Mutual(MutualTls {
        expected: ExpectedPeers::exactly([PAYMENT]),
        sni: None,
        ..MutualTls::default()
    })
}

/// Target `payment`, split by weight over one endpoint each.
pub fn split(v1: (u32, Endpoint), v2: (u32, Endpoint)) -> Snapshot {
    let split = Split::weighted([("v1".into(), v1.0), ("v2".into(), v2.0)]).expect("weights of a test");
    let builder = Snapshot::builder().route("payment", Route::to(split));
    let builder = builder.cluster(Cluster::new("v1", mutual(), vec![v1.1]));
    builder
        .cluster(Cluster::new("v2", mutual(), vec![v2.1]))
        .build()
        .expect("both clusters are there")
}

/// Target `payment`, all to one endpoint.
pub fn all_to(endpoint: Endpoint) -> Snapshot {
    let builder = Snapshot::builder().route("payment", Route::to(Split::all_to("v1")));
    builder
        .cluster(Cluster::new("v1", mutual(), vec![endpoint]))
        .build()
        .expect("the cluster is there")
}

/// Ends a wait that takes too long.
///
/// # Panics
///
/// After [`PATIENCE`], saying `what` was waited for.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
}

/// Begins all calls before any can end: those that are on their way, and what those came to that were over at once. However
/// much work that is, it is one turn of the task, so on a runtime of one thread what is in use at once is exact.
pub async fn begun<F: Future + Unpin>(mut calls: Vec<F>) -> (Vec<F>, Vec<F::Output>) {
    let mut over = Vec::new();
    let pass = poll_fn(|cx| {
        calls.retain_mut(|call| match Pin::new(call).poll(cx) {
            Poll::Pending => true,
            Poll::Ready(output) => {
                over.push(output);
                false
            }
        });
        Poll::Ready(())
    });
    tokio::task::unconstrained(pass).await;
    (calls, over)
}
