//! The room that bounds the whole call: tries, pauses and the response body to its end.
//!
//! The limit is the least of what the route, the caller (`grpc-timeout`) and the inbound request that the call is made for allow;
//! [`mesh_core::deadline`] says which. The last is found in the task's place ([`mesh_core::inherit`]), without the handler's help.
//! One alarm serves the call; it moves into the response body with the answer, because a gRPC call is not over before its
//! trailers. A call whose time is over before it begins is not begun.
//!
//! The room also reads what the request asks for in Envoy's `x-envoy-` headers and takes them out: they are for the rooms below.

mod future;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response};
use mesh_core::Link;
use mesh_core::deadline::{self, Caller, GRPC_TIMEOUT, Limit, Of, parse_grpc_timeout};
use mesh_core::inherit;
use mesh_core::retry::Overrides;
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::alarm::Alarms;
use crate::body::{Deadline, Idle, ResponseBody};
use crate::cluster::ClusterManager;
use crate::error::{Error, Kind};
use crate::headers::find;
use crate::request::{Activity, CallTime, Routed};

pub use future::DeadlineFuture;

/// Makes [`DeadlineService`]s.
#[derive(Clone, Debug)]
pub struct DeadlineLayer {
    alarms: Arc<Alarms>,
}

impl DeadlineLayer {
    /// Keeps time by `link`'s alarms.
    ///
    /// # Panics
    ///
    /// As [`RouteLayer::new`](crate::route::RouteLayer::new).
    pub fn new(link: &Link) -> Self {
        Self {
            alarms: Arc::clone(ClusterManager::of(link).alarms()),
        }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = DeadlineService<S>;

    fn layer(&self, inner: S) -> DeadlineService<S> {
        DeadlineService {
            inner,
            alarms: Arc::clone(&self.alarms),
        }
    }
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct DeadlineService<S> {
    inner: S,
    alarms: Arc<Alarms>,
}

impl<S, B> Service<Request<Routed<B>>> for DeadlineService<S>
where
    S: Service<Request<Routed<B>>, Response = Response<ResponseBody>, Error = Error>,
{
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<Routed<B>>) -> Self::Future {
        let head = Head::of(request.headers());
        let asked = match head.has_overrides {
            true => Overrides::take(request.headers_mut()).map(Arc::from),
            false => None,
        };
        let above = inherit::with(|inherited| (inherited.deadline(), inherited.is_retry()));
        let (deadline, is_retry) = above.unwrap_or_default();
        match time(&self.alarms, request.body(), &head, asked.as_deref(), deadline) {
            Time::Late(limit) => DeadlineFuture::late(Error::new(Kind::Late(limit.total))),
            Time::Left(time, deadline) => {
                let until = time.deadline;
                request.body_mut().timed(asked, CallTime { is_retry, ..time });
                DeadlineFuture::new(self.inner.call(request), deadline, until)
            }
        }
    }
}

/// What the room reads of a request's head, in one pass that hashes nothing.
#[derive(Default)]
struct Head {
    grpc: bool,
    grpc_timeout: Option<Duration>,
    has_overrides: bool,
}

impl Head {
    fn of(headers: &HeaderMap) -> Self {
        let mut head = Self::default();
        for (name, value) in headers {
            if *name == CONTENT_TYPE {
                head.grpc = value.as_bytes().starts_with(b"application/grpc");
            } else if *name == GRPC_TIMEOUT {
                head.grpc_timeout = parse_grpc_timeout(value);
            } else if name.as_str().starts_with("x-envoy-") {
                head.has_overrides = true;
            }
        }
        head
    }
}

enum Time {
    /// It is over already.
    Late(Limit),
    Left(CallTime, Option<Deadline>),
}

fn time<B>(
    alarms: &Arc<Alarms>,
    routed: &Routed<B>,
    head: &Head,
    asked: Option<&Overrides>,
    above: Option<std::time::Instant>,
) -> Time {
    let (route, waited) = (routed.route(), routed.waited());
    let idle = route.limits.idle.filter(|limit| !limit.is_zero());
    // Limits count from when the call began, which is when it began to wait.
    let left = |now: Instant, above: std::time::Instant| above.saturating_duration_since(now.into_std()) + waited;
    let mut now = above.map(|_| Instant::now());
    let caller = Caller {
        grpc: head.grpc,
        grpc_timeout: head.grpc_timeout,
        asked: asked.and_then(|asked| asked.timeout),
        inherited: now.zip(above).map(|(now, above)| left(now, above)),
    };
    let limit = deadline::limit(route, &caller);
    let expected = !route.limits.untold;
    if limit.is_none() && idle.is_none() {
        let time = CallTime {
            expected,
            grpc: head.grpc && expected,
            ..CallTime::default()
        };
        return Time::Left(time, None);
    }
    let now = *now.get_or_insert_with(Instant::now);
    let total = limit.map(|limit| (limit.total.min(Deadline::MAX).saturating_sub(waited), limit));
    if let Some((_, limit)) = total.filter(|(left, _)| left.is_zero()) {
        return Time::Late(limit);
    }
    let activity = idle.map(|_| Arc::new(Activity::begin(now)));
    let idle = idle.map(|limit| Idle {
        limit: limit.min(Deadline::MAX),
        last: now,
        activity: activity.clone(),
        of_try: false,
    });
    let whole = limit.is_some_and(|limit| limit.of == Of::Caller && Some(limit.total) == head.grpc_timeout);
    let time = CallTime {
        deadline: total.map(|(left, _)| now + left),
        fresh: limit.map(|limit| limit.total).filter(|_| waited.is_zero()),
        expected,
        // Where nothing is told, a limit that is not meant for gRPC is not either (Envoy); but a caller's longer one is not left
        // standing beside it.
        grpc: head.grpc
            && (expected
                || head.grpc_timeout.is_some()
                || route.limits.grpc_max.is_some()
                || limit.is_some_and(|limit| limit.of != Of::Route)),
        told: whole && waited.is_zero(),
        is_retry: false,
        activity,
    };
    Time::Left(time, Deadline::new(alarms, now, total, idle))
}

/// The time that is given to a call before its route is known: by its own `grpc-timeout`, and by the request it is made for.
pub(crate) fn of_caller(headers: &HeaderMap) -> Option<Duration> {
    let above = inherit::with(|inherited| inherited.deadline()).flatten();
    let above = above.map(|above| above.saturating_duration_since(Instant::now().into_std()));
    let own = find(headers, &GRPC_TIMEOUT).and_then(parse_grpc_timeout);
    own.into_iter().chain(above).min()
}
