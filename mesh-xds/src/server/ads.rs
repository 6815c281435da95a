//! The server's side of one ADS stream, state of the world, as a state machine: requests in, responses pulled out.
//!
//! It holds what this client is subscribed to and what it was sent, and compares that with what is published: the next
//! response is whatever differs, in the order that nothing is named before it is there, and is not gone before nobody needs
//! it, see [`order`](super::order). Rules learned from real clients:
//!
//! - Only types that were asked for are sent; gRPC C-core stops reading a stream that brings another.
//! - A listener or cluster response holds all that is subscribed, since absence deletes. A cluster that is no longer
//!   published stays in it as long as the client may need it; clients fail calls otherwise.
//! - A request with a nonce other than the newest is stale: no subscription is taken from it, and only what it refuses counts:
//!   of routes and endpoints the newest response holds some, and not those. What it does not name is told again if the next does. One without a nonce is answered even if it is not the first.
//! - A refusal is known by its error and nonce alone; its version may be anything.

use tokio::time::Instant;

use super::clients::SubscriptionReport;
use super::encoded::View;
use super::machine::{MAX_NAMES, Machine, Misuse, Overdue};
use super::order::Kinds;
use super::subscription::Subscription;
use crate::encode::Dialect;
use crate::resource::ResourceKind;
use crate::wire::{Request, Response, Sotw};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct StreamState {
    kinds: Kinds<Subscription>,
    /// Of the newest response; nonces count from one.
    nonce: u64,
}

impl Machine for StreamState {
    type Variant = Sotw;

    fn new(dialect: Dialect) -> Self {
        Self {
            kinds: Kinds::new(dialect),
            nonce: 0,
        }
    }

    fn on_request(&mut self, request: Request) -> Result<(), Misuse> {
        // A type that is not served is not answered: an error would end the stream for all the others.
        let Some(kind) = ResourceKind::from_type_url(&request.type_url) else {
            return Ok(());
        };
        if request.names.len() > MAX_NAMES {
            return Err(Misuse::TooManyNames(kind));
        }
        let (subscription, first) = self.kinds.of(kind);
        if !first && !request.nonce.is_empty() {
            let Ok(nonce) = request.nonce.parse() else {
                return Ok(());
            };
            if !subscription.acknowledge(nonce, request.error.as_deref()) {
                subscription.stale(kind, &request.names);
                return Ok(());
            }
        }
        subscription.subscribe(kind, request.names, first);
        if request.nonce.is_empty() || first {
            subscription.begin_anew(kind);
        }
        Ok(())
    }

    fn next_response(&mut self, published: &View, now: Instant) -> Option<Response> {
        let (dialect, nonce) = (self.kinds.dialect, self.nonce + 1);
        let response = self.kinds.next(published, now, |subscription, kind, set, waits| {
            subscription.response(kind, set, waits, dialect, nonce)
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
