//! The server's side of one incremental ADS stream, as a state machine: requests in, responses pulled out.
//!
//! It compares the version of each resource that a client was told with the published one, and sends the difference, in the
//! same order as the other variant (see [`order`](super::order)) and by the same rules learned from real clients (see
//! [`ads`](super::ads)). Its own are:
//!
//! - A response is answered by its nonce, however late, and the answer is about the resources that were in it.
//! - A change of subscription is a difference, so it is taken from every request, whatever its nonce.
//! - A name that is subscribed to once more is sent once more: its client may have forgotten it.
//! - A subscribed name that is not published is told to be removed at once.
//! - A client that was here before says what it holds. Calls in its hands may need a cluster of those that is gone.

mod subscription;

use std::sync::Arc;

use tokio::time::Instant;

use super::clients::SubscriptionReport;
use super::encoded::View;
use super::machine::{Machine, Misuse, Overdue};
use super::order::Kinds;
use crate::encode::Dialect;
use crate::resource::ResourceKind;
use crate::wire::{Delta, DeltaRequest, DeltaResponse};

use subscription::Subscription;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct DeltaState {
    kinds: Kinds<Subscription>,
    /// Of the newest response; nonces count from one.
    nonce: u64,
}

impl Machine for DeltaState {
    type Variant = Delta;

    fn new(dialect: Dialect) -> Self {
        Self {
            kinds: Kinds::new(dialect),
            nonce: 0,
        }
    }

    fn on_request(&mut self, request: DeltaRequest) -> Result<(), Misuse> {
        // A type that is not served is not answered: an error would end the stream for all the others.
        let Some(kind) = ResourceKind::from_type_url(&request.type_url) else {
            return Ok(());
        };
        let (subscription, first) = self.kinds.of(kind);
        if let Ok(nonce) = request.nonce.parse() {
            subscription.acknowledge(nonce, request.error.as_deref());
        }
        let unnamed = first && request.subscribe.is_empty();
        subscription.change(kind, request.subscribe, &request.unsubscribe);
        if unnamed {
            subscription.everything(kind);
        }
        let held: Vec<Arc<str>> = request.held.iter().map(|(name, _)| Arc::clone(name)).collect();
        if first {
            subscription.resume(request.held);
        }
        if subscription.is_too_large() {
            return Err(Misuse::TooManyNames(kind));
        }
        if first && kind == ResourceKind::Cluster {
            self.kinds.resume(held.into_iter());
        }
        Ok(())
    }

    fn next_response(&mut self, published: &View, now: Instant) -> Option<DeltaResponse> {
        let nonce = self.nonce + 1;
        let response = self.kinds.next(published, now, |subscription, kind, set, waits| {
            subscription.response(kind, set, waits, nonce)
        })?;
        self.nonce = nonce;
        Some(response)
    }

    fn wakes(&self) -> Option<Instant> {
        self.kinds.wakes()
    }

    fn take_overdue(&mut self) -> Overdue {
        self.kinds.take_overdue()
    }

    fn report(&self) -> Vec<SubscriptionReport> {
        self.kinds.report()
    }
}
