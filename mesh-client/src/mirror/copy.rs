//! One copy: its place, its authority, and the task that sends it and throws the answer away.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Uri};
use http_body::{Body, Frame};
use mesh_core::report::Tally;
use mesh_core::route::RequestHead;
use tower::ServiceExt as _;

use super::{EVENT, MAX_ANSWER_BYTES, MAX_COPIES};
use crate::balance::Balance;
use crate::body::ResponseBody;
use crate::cluster::ClusterHandle;
use crate::error::Error;
use crate::request::Attempt;

/// What is appended to the host of a copy's authority.
const SHADOW: &str = "-shadow";

/// A place among the copies on their way to a cluster, given back when it is dropped.
pub(super) struct Place(Arc<ClusterHandle>);

impl Place {
    /// A place, unless all are taken.
    pub(super) fn take(cluster: &Arc<ClusterHandle>) -> Option<Self> {
        let max = MAX_COPIES.min(cluster.hosts().load().cluster.breakers.default.max_requests / 2);
        let place = Self(Arc::clone(cluster));
        // A place that is not to be had is given back by being dropped.
        (cluster.mirrors().fetch_add(1, Ordering::Relaxed) < max).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.mirrors().fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of a copy beyond what is whole: there is none.
pub(super) enum NoBody {}

impl Body for NoBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match *self {}
    }
}

/// Appends `-shadow` to the host of the request's authority, before its port. An IPv6 address stays: it would not be one.
pub(super) fn shadow<B>(request: &mut Request<B>, target: &str) {
    let authority = RequestHead::of(request, target).authority();
    let (host, port) = match authority.rsplit_once(':') {
        _ if authority.contains(['[', ']']) => return,
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let shadow = match port {
        Some(port) => format!("{host}{SHADOW}:{port}"),
        None => format!("{host}{SHADOW}"),
    };
    let Ok(shadow) = Authority::try_from(shadow) else {
        return;
    };
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.authority = Some(shadow);
    parts.scheme.get_or_insert(Scheme::HTTP);
    parts
        .path_and_query
        .get_or_insert_with(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).expect("a URI with a scheme, an authority and a path");
}

/// Sends a copy and reads its answer to the end, or to a bound. Nobody hears of what came of it but the tally.
pub(super) async fn run(balance: Balance, copy: Request<Attempt<NoBody>>, place: Place, limit: Duration, tally: Tally) {
    let exchange = async {
        let response = balance.oneshot(copy).await?;
        drain(response.into_body()).await
    };
    match tokio::time::timeout(limit, exchange).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tally.count(EVENT, error.response_flag()),
        Err(_) => tally.count(EVENT, "timeout"),
    }
    drop(place);
}

async fn drain(mut body: ResponseBody) -> Result<(), Error> {
    let mut read = 0;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        read += frame?.data_ref().map_or(0, Bytes::len);
        if read > MAX_ANSWER_BYTES {
            break;
        }
    }
    Ok(())
}
