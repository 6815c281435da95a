//! hyper's own services in a tower stack.

use std::task::{Context, Poll};

use hyper::service::Service as HyperService;
use tower::Service;

/// A `hyper::service::Service`, such as `hyper::service::service_fn` makes, as a tower service: what [`serve`](crate::serve)
/// and [`MeshLayer`](crate::MeshLayer) take. hyper-util has only the way back.
///
/// ```
/// use std::convert::Infallible;
///
/// use http_body_util::Empty;
/// use hyper::body::Bytes;
/// use hyper::{Request, Response};
/// use mesh_server::RequestBody;
///
/// async fn hello(_: Request<RequestBody>) -> Result<Response<Empty<Bytes>>, Infallible> {
///     Ok(Response::new(Empty::new()))
/// }
///
/// let service = mesh_server::FromHyper::new(hyper::service::service_fn(hello));
/// # let _ = service;
/// ```
#[derive(Clone, Debug)]
pub struct FromHyper<S> {
    inner: S,
}

impl<S> FromHyper<S> {
    /// Wraps `inner`, which hyper regards as always ready.
    pub fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S: HyperService<R>, R> Service<R> for FromHyper<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        self.inner.call(request)
    }
}
