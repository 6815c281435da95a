//! The room that tries again.
//!
//! Ours rather than tower's, which clones request and service for every call. Here a body is first polled without waiting: a
//! unary call's body is whole then and can be replayed for nothing; a streaming one is kept while it is sent, up to a limit. The
//! head is kept aside as a flat list and rebuilt into a map only when another try is due.
//!
//! Nothing is retried after an answer was committed to: the caller gets the first response whose headers the policy does not
//! name (gRFC A6). Whether it may be retried at all is [`mesh_core::retry`]'s to say. What comes of that for every method and
//! every failure is in `RETRIES.md` beside this crate's manifest, which a test writes.

mod fates;
mod future;
mod head;
mod kept;
mod race;
mod turn;

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use mesh_core::{Entropy, Link};
use rustls::time_provider::TimeProvider;
use tower::{Layer, Service};

use crate::body::ResponseBody;
use crate::error::Error;
use crate::request::{Attempt, Routed};

pub(crate) use fates::Fates;
pub use future::RetryFuture;
pub(crate) use future::is_hedged;
pub(crate) use kept::{Kept, Place};

/// Makes [`RetryService`]s.
#[derive(Clone, Debug)]
pub struct RetryLayer {
    shared: Arc<Shared>,
}

/// What decisions need of the world.
#[derive(Debug)]
pub(crate) struct Shared {
    entropy: Entropy,
    clock: Arc<dyn TimeProvider>,
}

impl RetryLayer {
    /// Draws its jitter from `link`'s entropy, and reads `link`'s wall clock for answers that say when to come again by the
    /// calendar.
    pub fn new(link: &Link) -> Self {
        let shared = Shared {
            entropy: link.entropy().clone(),
            clock: Arc::clone(link.wall_clock()),
        };
        Self {
            shared: Arc::new(shared),
        }
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = RetryService<S>;

    fn layer(&self, inner: S) -> RetryService<S> {
        RetryService {
            inner,
            shared: Arc::clone(&self.shared),
        }
    }
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct RetryService<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, B> Service<Request<Routed<B>>> for RetryService<S>
where
    S: Service<Request<Attempt<B>>, Response = Response<ResponseBody>, Error = Error> + Clone,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
{
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = RetryFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<Routed<B>>) -> RetryFuture<S, B> {
        let clone = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, clone);
        RetryFuture::begin(ready, request, Arc::clone(&self.shared))
    }
}

impl<S> RetryService<S> {
    /// The service below.
    pub(crate) fn inner(&self) -> &S {
        &self.inner
    }

    /// What decisions need of the world.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}
