//! The room that lets only verified peers through.
//!
//! A server of this crate never gives it a request without a [`PeerIdentity`]. It is for the servers that are not: whoever
//! wraps a service and then serves it on a plain listener by mistake gets refusals, and no handler runs. What a peer may do
//! is another room's question.
//!
//! The refusal is what the caller understands: PERMISSION_DENIED in a trailers-only response for gRPC, else 403. Envoy's
//! RBAC filter answers alike.

mod layer;

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use mesh_core::report::Tally;
use tower::Service;

pub use layer::AuthenticateLayer;

use crate::accept::PeerIdentity;
use crate::refusal::{MaybeRefused, Refusal, ResponseFuture};

const MESSAGE: &str = "the peer is not a verified workload of the mesh";

/// See [`AuthenticateLayer`].
#[derive(Clone, Debug)]
pub struct Authenticate<S> {
    inner: S,
    plaintext: bool,
    tally: Tally,
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

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if self.plaintext || request.extensions().get::<PeerIdentity>().is_some() {
            return ResponseFuture::admitted(self.inner.call(request));
        }
        self.tally.count("request_refused", "no_peer_identity");
        tracing::warn!("request refused: it did not come through the mesh's acceptor");
        ResponseFuture::refused(Refusal::forbidden(&request, MESSAGE))
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
