//! The room that edits heads: headers are put in, taken out and overwritten, authority and path become others, on the way out;
//! headers again on the way back.
//!
//! It stands above retry, so every try sends the same head, and below faults. What is edited how was resolved when the
//! configuration came ([`mesh_core::route::Edits`]); a call whose route edits nothing pays for one look. An answer that the
//! mesh itself makes of a failure is not edited.

mod future;

use std::sync::Arc;
use std::task::{Context, Poll};

use http::request::Parts;
use http::{Request, Response};
use mesh_core::route::Answer;
use tower::{Layer, Service};

use crate::body::ResponseBody;
use crate::cluster::Extras;
use crate::error::{Error, Kind};
use crate::request::Routed;

pub use future::RewriteFuture;

/// Makes [`RewriteService`]s for one target.
#[derive(Clone, Debug)]
pub struct RewriteLayer {
    target: Arc<str>,
}

impl RewriteLayer {
    /// A request that names no authority has that of `target`, which is `xds:///name` or just `name`.
    pub fn new(target: &str) -> Self {
        Self {
            target: crate::target::authority(target).into(),
        }
    }
}

impl<S> Layer<S> for RewriteLayer {
    type Service = RewriteService<S>;

    fn layer(&self, inner: S) -> RewriteService<S> {
        RewriteService {
            inner,
            target: Arc::clone(&self.target),
        }
    }
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct RewriteService<S> {
    inner: S,
    target: Arc<str>,
}

impl<S, B> Service<Request<Routed<B>>> for RewriteService<S>
where
    S: Service<Request<Routed<B>>, Response = Response<ResponseBody>, Error = Error> + Clone,
{
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = RewriteFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<Routed<B>>) -> Self::Future {
        let Some(extras) = request.body().extras().filter(|extras| extras.edits.is_some()) else {
            return RewriteFuture::go(self.inner.call(request), None);
        };
        let extras = Arc::clone(extras);
        let (mut parts, body) = request.into_parts();
        match self.edit(&extras, &mut parts) {
            Ok(answer) => RewriteFuture::go(self.inner.call(Request::from_parts(parts, body)), answer),
            Err(error) => {
                // What was reserved for it is given back.
                self.inner = self.inner.clone();
                RewriteFuture::fail(error)
            }
        }
    }
}

impl<S> RewriteService<S> {
    /// The service below.
    pub(crate) fn inner(&self) -> &S {
        &self.inner
    }

    /// Edits a request's head; what is to be edited in its answer's.
    ///
    /// # Errors
    ///
    /// When its path would become none.
    #[inline]
    pub(crate) fn edit(&self, extras: &Extras, parts: &mut Parts) -> Result<Option<Answer>, Error> {
        let Some(edits) = &extras.edits else { return Ok(None) };
        let why = "what the route rewrites its path to is not a path";
        edits
            .apply(&parts.method, &mut parts.uri, &mut parts.headers, &self.target)
            .map_err(|_| Error::new(Kind::InvalidRequest(why)))
    }
}
