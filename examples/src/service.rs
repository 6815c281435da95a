//! The payment service: an ordinary tonic service, which knows nothing of the mesh but whom it may ask who is calling.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mesh_core::Entropy;
use mesh_server::PeerIdentity;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use crate::proto::payment_server::{Payment, PaymentServer};
use crate::proto::{ChargeReply, ChargeRequest};

/// What a failing version answers with: its own error, which nobody must take for the mesh's.
pub const INJECTED: &str = "injected by --fail-rate";
/// Confirmations that may wait for a slow caller of `ChargeMany`.
const MAX_UNREAD: usize = 16;

/// One version of the payment service. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Payments {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    version: String,
    delay: Duration,
    entropy: Entropy,
    /// Of a million calls, how many fail.
    failing: AtomicU64,
    charged: AtomicU64,
    refused: AtomicU64,
}

impl Payments {
    /// A service that calls itself `version` and takes `delay` for each payment.
    pub fn new(version: &str, delay: Duration) -> Self {
        let shared = Shared {
            version: version.into(),
            delay,
            entropy: Entropy::from_os(),
            failing: AtomicU64::new(0),
            charged: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// From now on this share of calls, between 0 and 1, fails with INTERNAL.
    pub fn fail(&self, rate: f64) {
        self.shared
            .failing
            .store((rate.clamp(0.0, 1.0) * 1e6) as u64, Ordering::Relaxed);
    }

    /// Calls that were confirmed, and calls that were made to fail.
    pub fn counts(&self) -> (u64, u64) {
        (
            self.shared.charged.load(Ordering::Relaxed),
            self.shared.refused.load(Ordering::Relaxed),
        )
    }

    /// The tonic service, to be served by the mesh.
    pub fn into_service(self) -> PaymentServer<Self> {
        PaymentServer::new(self)
    }

    async fn charge_one(&self, request: ChargeRequest, caller: &str) -> Result<ChargeReply, Status> {
        if !self.shared.delay.is_zero() {
            tokio::time::sleep(self.shared.delay).await;
        }
        if self.shared.entropy.draw().below(1_000_000) < self.shared.failing.load(Ordering::Relaxed) {
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Status::internal(format!("{}: {INJECTED}", self.shared.version)));
        }
        self.shared.charged.fetch_add(1, Ordering::Relaxed);
        let ChargeRequest { id, note, .. } = request;
        Ok(ChargeReply {
            id,
            version: self.shared.version.clone(),
            note,
            caller: caller.into(),
        })
    }
}

#[tonic::async_trait]
impl Payment for Payments {
    async fn charge(&self, request: Request<ChargeRequest>) -> Result<Response<ChargeReply>, Status> {
        let caller = caller(&request);
        self.charge_one(request.into_inner(), &caller).await.map(Response::new)
    }

    type ChargeManyStream = std::pin::Pin<Box<dyn Stream<Item = Result<ChargeReply, Status>> + Send>>;

    async fn charge_many(
        &self,
        request: Request<Streaming<ChargeRequest>>,
    ) -> Result<Response<Self::ChargeManyStream>, Status> {
        let caller = caller(&request);
        let mut requests = request.into_inner();
        let (replies, unread) = mpsc::channel(MAX_UNREAD);
        let service = self.clone();
        tokio::spawn(async move {
            while let Some(Ok(request)) = requests.next().await {
                let reply = service.charge_one(request, &caller).await;
                if replies.send(reply).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(unread))))
    }
}

/// Who calls, as the mesh verified it; empty when it was told not to.
fn caller<T>(request: &Request<T>) -> String {
    request
        .extensions()
        .get::<PeerIdentity>()
        .map(ToString::to_string)
        .unwrap_or_default()
}
