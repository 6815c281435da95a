//! The room around one try: its own time limit, when the policy gives it one, and what its peer is told about it.

mod future;
mod tell;

use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use mesh_core::Link;
use tower::{Layer, Service};

use crate::alarm::Alarms;
use crate::body::ResponseBody;
use crate::cluster::ClusterManager;
use crate::error::Error;
use crate::request::Attempt;
use crate::reuse::Reused;

pub use future::AttemptFuture;
pub(crate) use future::{Limits, late};

/// Makes [`AttemptService`]s.
#[derive(Clone, Debug)]
pub struct AttemptLayer {
    alarms: Arc<Alarms>,
}

impl AttemptLayer {
    /// Keeps time by `link`'s alarms.
    ///
    /// # Panics
    ///
    /// As [`RouteLayer::new`](crate::route::RouteLayer::new).
    pub fn new(link: &Link) -> Self {
        Self {
            alarms: Arc::clone(ClusterManager::of(link).alarms()),
        }
    }
}

impl<S> Layer<S> for AttemptLayer {
    type Service = AttemptService<S>;

    fn layer(&self, inner: S) -> AttemptService<S> {
        AttemptService {
            inner,
            alarms: Arc::clone(&self.alarms),
        }
    }
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct AttemptService<S> {
    inner: S,
    alarms: Arc<Alarms>,
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

    #[inline]
    fn call(&mut self, mut request: Request<Attempt<B>>) -> Self::Future {
        let limits = self.begin(&mut request);
        AttemptFuture::new(self.inner.call(request), limits)
    }
}

impl<S> AttemptService<S> {
    /// The service below.
    pub(crate) fn inner(&self) -> &S {
        &self.inner
    }

    /// Tells the peer about a try, and limits it.
    #[inline]
    pub(crate) fn begin<B>(&self, request: &mut Request<Attempt<B>>) -> Option<Reused<Limits>> {
        tell::tell(request);
        let (limit, idle) = (request.body().limit, request.body().route().retry.per_try_idle_timeout);
        if limit.is_none() && idle.is_none() {
            return None;
        }
        let activity = request.body().call.time.activity.as_ref();
        Some(Limits::begin(&self.alarms, limit, idle, activity))
    }
}
