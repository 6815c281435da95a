//! The room that gives every request its one form, before a policy or a handler sees it ([`mesh_core::canonical`]).
//!
//! The request itself is rewritten: path, authority, cookies, and what its sender had no right to say of itself. What has no
//! canonical form is refused with 400 (gRPC: INTERNAL) and counted as `request_refused` with the reason; over HTTP/1.1 the
//! connection closes after that.

mod forwarded;

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use mesh_core::Link;
use mesh_core::canonical::{PathNormalization, Rewrite};
use mesh_core::report::Tally;
use tower::{Layer, Service};

pub use forwarded::ForwardedClientCert;

use crate::accept::ConnectionInfo;
use crate::refusal::{MaybeRefused, Refusal, ResponseFuture};

/// Brings requests to their canonical form, or refuses them. Part of [`MeshLayer`](crate::MeshLayer).
#[derive(Clone, Debug)]
pub struct CanonicalLayer {
    paths: PathNormalization,
    forwarded: ForwardedClientCert,
    tally: Tally,
}

impl CanonicalLayer {
    /// Counts what it refuses for `link`, as `request_refused`. Paths: [`PathNormalization::default`].
    pub fn new(link: &Link) -> Self {
        Self {
            paths: PathNormalization::default(),
            forwarded: ForwardedClientCert::default(),
            tally: link.tally().clone(),
        }
    }

    /// How much of a path's spelling is taken away.
    #[must_use]
    pub fn paths(self, paths: PathNormalization) -> Self {
        Self { paths, ..self }
    }

    /// What handlers are told of the peer's certificate.
    #[must_use]
    pub fn client_cert(self, forwarded: ForwardedClientCert) -> Self {
        Self { forwarded, ..self }
    }
}

impl<S> Layer<S> for CanonicalLayer {
    type Service = Canonical<S>;

    fn layer(&self, inner: S) -> Canonical<S> {
        Canonical {
            inner,
            paths: self.paths,
            forwarded: self.forwarded,
            tally: self.tally.clone(),
        }
    }
}

/// See [`CanonicalLayer`].
#[derive(Clone, Debug)]
pub struct Canonical<S> {
    inner: S,
    paths: PathNormalization,
    forwarded: ForwardedClientCert,
    tally: Tally,
}

impl<S, B, R> Service<Request<B>> for Canonical<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    type Response = Response<MaybeRefused<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match Rewrite::of(&request, self.paths) {
            Ok(rewrite) => {
                let connection = ConnectionInfo::of(request.extensions());
                let forwarded = self.forwarded.value(request.headers(), connection);
                rewrite.apply(&mut request);
                ForwardedClientCert::set(request.headers_mut(), forwarded);
                ResponseFuture::admitted(self.inner.call(request))
            }
            Err(reason) => {
                self.tally.count("request_refused", reason.as_str());
                tracing::debug!(reason = reason.as_str(), "request refused: it has no canonical form");
                ResponseFuture::refused(Refusal::malformed(&request, reason))
            }
        }
    }
}
