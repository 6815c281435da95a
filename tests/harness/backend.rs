//! A served payment service, on loopback, over strict mutual TLS.

use std::net::SocketAddr;
use std::time::Duration;

use examples::service::Payments;
use mesh_core::config::Endpoint;
use mesh_core::identity::Identity;
use mesh_core::testing::TestCa;
use mesh_core::{Link, Snapshot};
use mesh_server::MeshLayer;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tower::Layer as _;

use crate::{PAYMENT, listener, soon};

/// A payment server that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it does and how often it did.
    pub payments: Payments,
    /// Its membership, with its counters.
    pub link: Link,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<usize>,
}

impl Backend {
    /// Serves `version` as the payment service of `ca`.
    pub async fn serve(ca: &TestCa, version: &str) -> Self {
        Self::serve_as(ca.identity(PAYMENT), version).await
    }

    /// Serves `version` with an identity of the test's choice.
    pub async fn serve_as(identity: Identity, version: &str) -> Self {
        let (listener, _) = listener().await;
        Self::serve_on(listener, Link::fixed(Snapshot::empty(), Some(identity)), version)
    }

    /// Serves `version` on `listener` as the member that `link` belongs to.
    pub fn serve_on(listener: TcpListener, link: Link, version: &str) -> Self {
        let address = listener.local_addr().expect("a bound listener has an address");
        let payments = Payments::new(version, Duration::ZERO);
        let service = MeshLayer::new(&link).layer(payments.clone().into_service());
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = mesh_server::serve(listener, &link, service).with_graceful_shutdown(async move {
            // A dropped sender stops it too.
            let _ = stopped.await;
        });
        let task = tokio::spawn(async move { serving.await.cut() });
        Self {
            address,
            payments,
            link,
            stop: Some(stop),
            task,
        }
    }

    /// Ends it gracefully; how many connections had to be cut.
    pub async fn stop(mut self) -> usize {
        drop(self.stop.take());
        soon("the server's graceful end", self.task)
            .await
            .expect("the server did not panic")
    }

    /// Where it is to be called.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::new(self.address)
    }

    /// Calls that reached a handler.
    pub fn handled(&self) -> u64 {
        let (charged, refused) = self.payments.counts();
        charged + refused
    }
}
