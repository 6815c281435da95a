//! The room that edits heads: headers are put in, taken out and overwritten, authority and path become others, on the way out;
//! headers again on the way back.
//!
//! It stands above retry, so every try sends the same head, and below faults. What is edited how was resolved when the
//! configuration came ([`mesh_core::route::Edits`]); a call whose route edits nothing pays for one look. An answer that the
//! mesh itself makes of a failure is not edited.

mod future;

use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower::{Layer, Service};

use crate::body::ResponseBody;
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
    S: Service<Request<Routed<B>>, Response = Response<ResponseBody>, Error = Error>,
{
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = RewriteFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<Routed<B>>) -> Self::Future {
        let Some(edits) = request.body().extras().and_then(|extras| extras.edits.clone()) else {
            return RewriteFuture::go(self.inner.call(request), None);
        };
        let (mut parts, body) = request.into_parts();
        match edits.apply(&parts.method, &mut parts.uri, &mut parts.headers, &self.target) {
            Ok(answer) => RewriteFuture::go(self.inner.call(Request::from_parts(parts, body)), answer),
            Err(_) => {
                let why = "what the route rewrites its path to is not a path";
                RewriteFuture::fail(Error::new(Kind::InvalidRequest(why)))
            }
        }
    }
}
