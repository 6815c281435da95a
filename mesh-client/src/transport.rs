//! The connections of an endpoint without the rooms above them: what a benchmark takes off, to know what the rooms cost.
//!
//! What is left is what no room does: a place on a connection, the stream, its frames. Not part of the API: it is there with
//! the feature `measuring` alone, and may change with any commit.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::Reason;
use h2::client::ResponseFuture;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri, Version};
use http_body::{Body, Frame};
use mesh_core::Link;
use mesh_core::config::Carrier;
use tower::Service;

use crate::body::Http2Frames;
use crate::cluster::ClusterManager;
use crate::connect::{Http2Permit, Permit, Pool};

/// Sends over the connections that calls of other channels have made to the first endpoint of a cluster.
#[derive(Clone, Debug)]
pub struct Transport {
    pool: Arc<Pool>,
    authority: Authority,
}

impl Transport {
    /// The first endpoint of `cluster`, if `link` knows it. Requests without an authority get `authority`.
    pub fn of(link: &Link, cluster: &str, authority: Authority) -> Option<Self> {
        let clusters = ClusterManager::of(link).live_clusters();
        let cluster = clusters.iter().find(|live| live.name().as_str() == cluster)?;
        let pool = Arc::clone(cluster.hosts().load().hosts.first()?.pool());
        Some(Self { pool, authority })
    }
}

impl<B> Service<Request<B>> for Transport
where
    B: Body<Data = Bytes> + Unpin,
{
    type Response = Response<Answer>;
    type Error = h2::Error;
    type Future = Sent;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Sent {
        let Some(Permit::Http2(permit)) = self.pool.try_permit(Carrier::Http2) else {
            return Sent(None);
        };
        let (mut parts, mut body) = request.into_parts();
        // tonic's encoder has its one message at once.
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut cx) else {
            return Sent(None);
        };
        let mut uri = parts.uri.into_parts();
        uri.authority.get_or_insert_with(|| self.authority.clone());
        uri.scheme = Some(Scheme::HTTPS);
        uri.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
        let Ok(uri) = Uri::from_parts(uri) else {
            return Sent(None);
        };
        parts.uri = uri;
        parts.version = Version::HTTP_2;
        let Ok((response, mut stream)) = permit.open(Request::from_parts(parts, ()), false) else {
            return Sent(None);
        };
        // An error means that the stream is over: the answer tells what of.
        let _ = stream.send_data(frame.into_data().unwrap_or_default(), true);
        Sent(Some((response, permit)))
    }
}

/// Resolves to the head of the answer.
pub struct Sent(Option<(ResponseFuture, Http2Permit)>);

impl Future for Sent {
    type Output = Result<Response<Answer>, h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some((response, _)) = &mut self.0 else {
            return Poll::Ready(Err(Reason::INTERNAL_ERROR.into()));
        };
        let response = ready!(Pin::new(response).poll(cx))?;
        let permit = self.0.take().map(|(_, permit)| permit);
        Poll::Ready(Ok(response.map(|stream| Answer {
            frames: Http2Frames::new(stream, false),
            _permit: permit,
        })))
    }
}

/// The frames of an answer, on the stream's place.
pub struct Answer {
    frames: Http2Frames,
    _permit: Option<Http2Permit>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        self.frames.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_end_stream()
    }
}

impl std::fmt::Debug for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sent").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").finish_non_exhaustive()
    }
}
