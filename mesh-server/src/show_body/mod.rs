//! The room that reads the beginning of a request's body, where an authorizer outside of the process is to see it (Envoy
//! `with_request_body`; Istio `includeRequestBodyInCheck`).
//!
//! It stands before `authorize`, and only where an application asks for it: what its service is given then is a body with the part that was
//! read before the rest ([`ShownBody`]), and no longer the server's own. Services that take any body (axum's, tonic's) do not mind.
//!
//! A request of which nobody is to see the body passes untouched, and is not waited for. What is read is kept until the handler takes it,
//! up to what is to be seen. Who sends too slowly is answered 408. One whose body is longer than may be shown, where a part of it would not
//! do, is answered 413 by `authorize`, and nobody is asked.

mod body;
mod future;

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use mesh_core::Link;
use mesh_core::authorize::Facts;
use mesh_core::config::ExtAuthz;
use mesh_core::report::Tally;
use mesh_core::route::RequestHead;
use tower::{Layer, Service};

pub use body::ShownBody;
pub use future::ResponseFuture;

use crate::accept::{ConnectionInfo, Guard};
use crate::refusal::MaybeRefused;

/// How long a body may take to be read as far as it is shown: as hyper gives a request's head.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads what authorizers are to see. Part of [`MeshLayer`](crate::MeshLayer) where [asked for](crate::MeshLayer::show_bodies).
#[derive(Clone, Debug)]
pub struct ShowBodyLayer {
    tally: Tally,
}

impl ShowBodyLayer {
    /// Counts what it refuses for `link`, as `request_refused`.
    pub fn new(link: &Link) -> Self {
        Self {
            tally: link.tally().clone(),
        }
    }

    pub(crate) fn counting(tally: Tally) -> Self {
        Self { tally }
    }
}

impl<S> Layer<S> for ShowBodyLayer {
    type Service = ShowBody<S>;

    fn layer(&self, inner: S) -> ShowBody<S> {
        ShowBody {
            inner,
            tally: self.tally.clone(),
        }
    }
}

/// See [`ShowBodyLayer`].
#[derive(Clone, Debug)]
pub struct ShowBody<S> {
    inner: S,
    tally: Tally,
}

impl<S, B, R> Service<Request<B>> for ShowBody<S>
where
    S: Service<Request<ShownBody<B>>, Response = Response<R>> + Clone,
    B: Body<Data = Bytes> + Unpin,
    R: Body<Data = Bytes>,
{
    type Response = Response<MaybeRefused<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, B, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(most) = wanted(&request) else {
            return ResponseFuture::calling(self.inner.call(request.map(ShownBody::unread)));
        };
        let clone = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, clone);
        ResponseFuture::reading(ready, request, most, self.tally.clone())
    }
}

/// How many bytes of a request's body are to be seen by somebody who may be asked about it; `None`: none. What a token says is not known
/// yet, so a rule that turns on that may match.
fn wanted<B>(request: &Request<B>) -> Option<usize> {
    let info = ConnectionInfo::of(request.extensions())?;
    let Guard::By(authorization) = info.guard() else {
        return None;
    };
    if authorization.checks().is_empty() {
        return None;
    }
    let head = RequestHead::of(request, "");
    let facts = Facts {
        source: Some(info.source().ip()),
        destination: info.known_destination(),
        server_name: info.server_name(),
        peer: info.peer_id(),
        claims: None,
        head: Some(head),
    };
    let bodies = authorization.may_ask(&facts).filter_map(|index| {
        let check = &authorization.checks()[index];
        check.body_of(authorization.settings(index, &head))
    });
    let most = bodies.map(|body| body.max_bytes.min(ExtAuthz::MAX_BODY_BYTES)).max()?;
    usize::try_from(most).ok()
}
