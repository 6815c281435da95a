//! The room around one try: its own time limit, when the policy gives it one, and what its peer is told about it.

mod future;
mod tell;

use std::task::{Context, Poll};

use http::{Request, Response};
use tower::{Layer, Service};

use crate::body::ResponseBody;
use crate::error::Error;
use crate::request::Attempt;

pub use future::AttemptFuture;

/// Makes [`AttemptService`]s.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttemptLayer;

impl<S> Layer<S> for AttemptLayer {
    type Service = AttemptService<S>;

    fn layer(&self, inner: S) -> AttemptService<S> {
        AttemptService { inner }
    }
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct AttemptService<S> {
    inner: S,
}

impl<S, B> Service<Request<Attempt<B>>> for AttemptService<S>
where
    S: Service<Request<Attempt<B>>, Response = Response<ResponseBody>, Error = Error>,
{
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = AttemptFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Attempt<B>>) -> Self::Future {
        tell::tell(&mut request);
        let (limit, idle) = (request.body().limit, request.body().route().retry.per_try_idle_timeout);
        AttemptFuture::new(self.inner.call(request), limit, idle)
    }
}
