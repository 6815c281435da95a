//! The room that counts: every call once, when its answer has ended or it has failed, as Istio's sidecar of the caller would
//! (`reporter="source"`).
//!
//! Around the tries and not among them: a call that was tried three times is one call, whose destination is that of its last try and
//! whose duration is that of all. Below `route`, since by then it is known which service is meant; what `route` answers or refuses by
//! itself it counts with `unrouted`.
//!
//! What labels say of a destination is put together once for a connection, and of those who reached nobody once for a cluster. A call
//! reads the clock once, when it ends, and adds to what it finds there.

mod call;
mod clusters;
mod future;
mod log;
mod pairs;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use mesh_core::Link;
use mesh_core::report::standard::{Amounts, EdgeLabels, End, Protocol, Reporter, Service as Called, Workload};
use tower::{Layer, Service};

use crate::body::ResponseBody;
use crate::error::Error;
use crate::request::{Call, Routed};
use crate::status::is_grpc;

pub(crate) use call::{Counting, Sending, Sent};
pub use future::TelemetryFuture;
pub(crate) use future::settle;
pub(crate) use log::{Log, Logged};
pub(crate) use pairs::{INTRODUCTION, Pairs, Party};

/// Makes [`TelemetryService`]s.
#[derive(Clone, Debug)]
pub struct TelemetryLayer {
    target: Arc<str>,
}

impl TelemetryLayer {
    /// Counts calls to `target`, by whose name calls are told that name none.
    pub fn new(target: &str) -> Self {
        Self {
            target: crate::target::authority(target).into(),
        }
    }

    /// What is to be known of a call's head, while that is whole: the first call to a cluster says which service it is for, and one
    /// that may be written to the access log what it asked for.
    #[inline]
    pub(crate) fn meet<B>(&self, call: &Call, request: &Request<B>) -> Option<Box<Logged>> {
        let pairs = call.cluster.pairs();
        if pairs.is_unasked() {
            pairs.ask(authority(request, &self.target));
        }
        let log = call.extras.as_ref()?.log.as_ref()?;
        Some(Logged::begin(log, request, &self.target, Some(&call.route)))
    }
}

impl<S> Layer<S> for TelemetryLayer {
    type Service = TelemetryService<S>;

    fn layer(&self, inner: S) -> TelemetryService<S> {
        TelemetryService {
            inner,
            layer: self.clone(),
        }
    }
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct TelemetryService<S> {
    inner: S,
    layer: TelemetryLayer,
}

impl<S, B> Service<Request<Routed<B>>> for TelemetryService<S>
where
    S: Service<Request<Routed<B>>, Response = Response<ResponseBody>, Error = Error>,
{
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = TelemetryFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<Routed<B>>) -> Self::Future {
        let routed = request.body();
        let (cluster, grpc, began) = (Arc::clone(routed.cluster_handle()), routed.is_grpc(), routed.began());
        let logged = self.layer.meet(routed.call(), &request);
        let counting = Counting::begin(cluster, grpc, began, logged);
        TelemetryFuture::new(self.inner.call(request), counting)
    }
}

/// Whom a request is for: as its URI says, its header `host`, or the channel.
fn authority<'a, B>(request: &'a Request<B>, target: &'a str) -> &'a str {
    let of_header = || {
        let host = request.headers().get(http::header::HOST);
        host.and_then(|host| host.to_str().ok())
    };
    let of_uri = request.uri().authority().map(http::uri::Authority::as_str);
    of_uri.or_else(of_header).unwrap_or(target)
}

/// A call that ended before it was known which cluster it would go to, or was not to go to any.
#[cold]
pub(crate) fn unrouted<B>(
    link: &Link,
    request: &Request<B>,
    target: &str,
    took: Duration,
    result: &Result<Box<Response<ResponseBody>>, Error>,
    log: Option<&Arc<Log>>,
) {
    let labels = EdgeLabels {
        service: Arc::new(Called::of_authority(authority(request, target))),
        ..EdgeLabels::new(Reporter::Source, link.workload(), Workload::unknown())
    };
    let protocol = match is_grpc(request.headers()) {
        true => Protocol::Grpc,
        false => Protocol::Http,
    };
    let (end, bytes) = match result {
        Ok(response) => (
            End {
                protocol,
                grpc: response.body().head_status(),
                ..End::http(response.status().as_u16())
            },
            response.body().size_hint().exact().unwrap_or_default(),
        ),
        Err(error) => (call::failed(protocol, error), 0),
    };
    let amounts = Amounts {
        duration: took,
        request_bytes: 0,
        response_bytes: bytes,
    };
    link.edges().edge(&labels).count(end, amounts);
    if let Some(log) = log {
        let mut logged = Logged::begin(log, request, target, None);
        match result {
            Ok(response) => logged.answered(response),
            Err(error) => logged.failed(error),
        }
        logged.write(&end, &amounts, None);
    }
}
