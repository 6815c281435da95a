//! The room that lets only those through whom a door of this crate let in.
//!
//! A server of this crate gives it only requests of verified peers, and of those whom its configuration lets in unasked (Istio's
//! PERMISSIVE and DISABLE). It is for the servers that are not: whoever wraps a service and then serves it on a plain listener
//! by mistake gets refusals, and no handler runs. What a peer may do is another room's question.
//!
//! The refusal is what the caller understands: PERMISSION_DENIED in a trailers-only response for gRPC, else 403, as of Envoy's
//! RBAC filter. What comes by a connection that the rules admit no longer is unavailable: the peer may come again, and is judged
//! again. The loop of this crate asks the same before, and tells in the protocol's words that nothing was processed; of what is
//! revoked between the two it tells so, too.

mod layer;

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use mesh_core::report::Tally;
use tower::Service;

pub use layer::AuthenticateLayer;

use crate::accept::{ConnectionInfo, PeerIdentity};
use crate::log_limit::LogLimit;
use crate::refusal::{MaybeRefused, Refusal, ResponseFuture};

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// Nobody verified its sender, and nothing says that this is not needed.
    NoPeer,
    /// Its connection is no longer admitted.
    Revoked,
}

impl Why {
    fn as_str(self) -> &'static str {
        match self {
            Self::NoPeer => "no_peer_identity",
            Self::Revoked => "connection_revoked",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::NoPeer => "the peer is not a verified workload of the mesh",
            Self::Revoked => "the connection is no longer admitted: make another",
        }
    }

    fn refusal<B>(self, request: &Request<B>) -> Refusal {
        match self {
            Self::NoPeer => Refusal::forbidden(request, self.message()),
            Self::Revoked => Refusal::revoked(request, self.message()),
        }
    }
}

/// See [`AuthenticateLayer`].
#[derive(Clone, Debug)]
pub struct Authenticate<S> {
    inner: S,
    plaintext: bool,
    tally: Tally,
    log: Arc<LogLimit>,
}

impl<S, B, R> Service<Request<B>> for Authenticate<S>
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
        match self.judge(&mut request) {
            Ok(()) => ResponseFuture::admitted(self.inner.call(request)),
            Err(why) => {
                self.tally.count("request_refused", why.as_str());
                if self.log.admits("unauthenticated") {
                    tracing::warn!("request refused: {}", why.message());
                }
                ResponseFuture::refused(why.refusal(&request))
            }
        }
    }
}

impl<S> Authenticate<S> {
    fn judge<B>(&self, request: &mut Request<B>) -> Result<(), Why> {
        let extensions = request.extensions_mut();
        let admitted = match ConnectionInfo::of(extensions) {
            Some(info) if info.is_revoked() => return Err(Why::Revoked),
            Some(info) => info.is_configured(),
            None => false,
        };
        if !admitted && !self.plaintext {
            return Err(Why::NoPeer);
        }
        // A server loop that is not ours knows the connection, and handlers ask for the peer.
        let peer = extensions.get::<ConnectionInfo>().and_then(ConnectionInfo::peer);
        if let Some(peer) = peer {
            extensions.insert::<PeerIdentity>(peer);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt, Empty};
    use mesh_core::{Link, Snapshot};
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;
    use crate::MeshLayer;

    async fn answer(_: Request<Empty<Bytes>>) -> Result<Response<Empty<Bytes>>, Infallible> {
        Ok(Response::new(Empty::new()))
    }

    async fn call(layer: MeshLayer, content_type: &str) -> (u16, Option<String>, Bytes) {
        let request = Request::builder()
            .header("host", "payment.shop")
            .header("content-type", content_type)
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = layer.layer(service_fn(answer)).oneshot(request).await.unwrap();
        let status = response.headers().get("grpc-status");
        let status = status.map(|value| value.to_str().unwrap().to_owned());
        let code = response.status().as_u16();
        (code, status, response.into_body().collect().await.unwrap().to_bytes())
    }

    #[tokio::test]
    async fn id_5_a_wrapped_service_on_a_plain_listener_refuses() {
        let link = Link::fixed(Snapshot::empty(), None);
        let grpc = Some("7".to_owned());
        let layer = || MeshLayer::new(&link);
        assert_eq!(
            call(layer(), "application/grpc").await,
            (200, grpc.clone(), Bytes::new())
        );
        assert_eq!(call(layer(), "application/grpc+proto").await, (200, grpc, Bytes::new()));
        for content_type in ["application/grpc-web", "application/json"] {
            let (code, status, body) = call(layer(), content_type).await;
            assert_eq!((code, status, body.is_empty()), (403, None, false), "{content_type}");
        }
        assert_eq!(link.tally().get("request_refused", "no_peer_identity"), 4);
    }

    #[tokio::test]
    async fn id_5_plaintext_is_served_only_if_code_says_so() {
        let link = Link::fixed(Snapshot::empty(), None);
        let layer = MeshLayer::new(&link).dangerous().plaintext();
        assert_eq!(call(layer, "application/json").await, (200, None, Bytes::new()));
    }
}
