//! Rooms without their types.
//!
//! As tower's `BoxCloneSyncService`, but that the future of a call goes straight into its box: tower hands it through a closure
//! first, which moves it once more, and it is the largest thing that a call has.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower::Service;

use crate::body::ResponseBody;
use crate::error::Error;
use crate::request::Routed;

/// The future of rooms without types.
pub(crate) type Erased = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Error>> + Send>>;

/// Some rooms.
pub(crate) struct Rooms<B>(Box<dyn Room<B>>);

trait Room<B>: Send + Sync {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>>;
    fn call(&mut self, request: Request<Routed<B>>) -> Erased;
    fn again(&self) -> Box<dyn Room<B>>;
}

impl<S, B> Room<B> for S
where
    S: Service<Request<Routed<B>>, Response = Response<ResponseBody>, Error = Error>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Service::poll_ready(self, cx)
    }

    fn call(&mut self, request: Request<Routed<B>>) -> Erased {
        Box::pin(Service::call(self, request))
    }

    fn again(&self) -> Box<dyn Room<B>> {
        Box::new(self.clone())
    }
}

impl<B> Rooms<B> {
    pub(crate) fn new<S>(inner: S) -> Self
    where
        S: Service<Request<Routed<B>>, Response = Response<ResponseBody>, Error = Error>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        Self(Box::new(inner))
    }
}

impl<B> Service<Request<Routed<B>>> for Rooms<B> {
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = Erased;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<Routed<B>>) -> Erased {
        self.0.call(request)
    }
}

impl<B> Clone for Rooms<B> {
    fn clone(&self) -> Self {
        Self(self.0.again())
    }
}

impl<B> fmt::Debug for Rooms<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rooms").finish_non_exhaustive()
    }
}
