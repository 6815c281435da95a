//! The room that bounds the whole call: tries, pauses and the response body to its end.
//!
//! The limit is the least of what the route, the caller (`grpc-timeout`) and the inbound request that the call is made for allow;
//! [`mesh_core::deadline`] says which. What the route gives the answer begins with the end of the request, so that a long upload is not
//! cut off (Envoy): whether that is there already is asked of the body, and only where there is such a limit. The last is found in the task's place ([`mesh_core::inherit`]), without the handler's help.
//! One alarm serves the call; it moves into the response body with the answer, because a gRPC call is not over before its
//! trailers. A call whose time is over before it begins is not begun.
//!
//! With that comes which trace the request is part of; the call says it too, where it says nothing itself ([`mesh_core::trace`]).
//!
//! The room also reads what the request asks for in Envoy's `x-envoy-` headers and takes them out: they are for the rooms below.

mod future;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use mesh_core::Link;
use mesh_core::config::TimeLimits;
use mesh_core::deadline::{self, Caller, GRPC_TIMEOUT, Limit, Of, parse_grpc_timeout};
use mesh_core::inherit;
use mesh_core::retry::{Overrides, Rules};
use mesh_core::trace::TraceHeaders;
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::alarm::Alarms;
use crate::body::{Deadline, Idle, ResponseBody};
use crate::cluster::ClusterManager;
use crate::error::{Error, Kind};
use crate::headers::find;
use crate::request::{Routed, Said};
use crate::time::{Activity, CallTime};

pub use future::DeadlineFuture;
pub(crate) use future::bound;

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
    S: Service<Request<Routed<B>>, Response = Response<ResponseBody>, Error = Error> + Clone,
    B: Body<Data = Bytes> + Unpin,
{
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<Routed<B>>) -> Self::Future {
        let above = Above::here();
        if let Some(trace) = &above.trace {
            let inside = request.body().stays_inside();
            trace.pass_on(request.headers_mut(), inside);
        }
        let said = request.body().said();
        let asked = Asked::take(said, request.headers_mut());
        match limit(&self.alarms, request.body_mut(), asked, &above) {
            Err(error) => {
                // What was reserved for it is given back.
                self.inner = self.inner.clone();
                DeadlineFuture::late(error)
            }
            Ok((deadline, until)) => DeadlineFuture::new(self.inner.call(request), deadline, until),
        }
    }
}

/// What the request that a call is made for passes on to it.
#[derive(Debug, Default)]
pub(crate) struct Above {
    deadline: Option<std::time::Instant>,
    is_retry: bool,
    pub(crate) trace: Option<Arc<TraceHeaders>>,
}

impl Above {
    /// What is found in the task's place, without the handler's help.
    #[inline]
    pub(crate) fn here() -> Self {
        let found = inherit::with(|inherited| Self {
            deadline: inherited.deadline(),
            is_retry: inherited.is_retry(),
            trace: inherited.trace().cloned(),
        });
        found.unwrap_or_default()
    }
}

/// What a request's head asks for of its time and its tries.
#[derive(Default)]
pub(crate) struct Asked {
    grpc_timeout: Option<Duration>,
    overrides: Option<Arc<Overrides>>,
}

impl Asked {
    /// Reads it, and takes out what is for the rooms alone.
    #[inline]
    pub(crate) fn take(said: Said, headers: &mut HeaderMap) -> Self {
        Self {
            grpc_timeout: match said.timeout {
                true => find(headers, &GRPC_TIMEOUT).and_then(parse_grpc_timeout),
                false => None,
            },
            overrides: match said.overrides {
                true => Overrides::take(headers).map(Arc::from),
                false => None,
            },
        }
    }
}

/// Limits a call's time, and tells it: what ends it then, and when it is over as a whole.
///
/// # Errors
///
/// When its time is over already, or its body failed.
#[inline]
pub(crate) fn limit<B>(
    alarms: &Arc<Alarms>,
    routed: &mut Routed<B>,
    Asked {
        grpc_timeout,
        overrides,
    }: Asked,
    above: &Above,
) -> Result<(Option<Deadline>, Option<Instant>), Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    let (above, is_retry) = (above.deadline, above.is_retry);
    let time = match overrides.is_none() && above.is_none() && grpc_timeout.is_none() {
        true => of_route_alone(alarms, routed)?,
        false => None,
    };
    let (time, deadline) = match time {
        Some(time) => time,
        None => time_of(alarms, routed, grpc_timeout, overrides.as_deref(), above)?,
    };
    let until = time.deadline;
    routed.timed(overrides, CallTime { is_retry, ..time });
    Ok((deadline, until))
}

/// As [`time_of`] of most calls, whose route has a timeout and no other limit, and which say and inherit none: what begins with the end of
/// the request begins now, since it is there. `None`: it is not one of them.
#[inline]
fn of_route_alone<B>(
    alarms: &Arc<Alarms>,
    routed: &mut Routed<B>,
) -> Result<Option<(CallTime, Option<Deadline>)>, Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    let (now, is_grpc) = (routed.routed_at(), routed.is_grpc());
    let TimeLimits {
        idle: None,
        max_stream: None,
        grpc_max: None,
        untold,
        ..
    } = routed.route().limits
    else {
        return Ok(None);
    };
    let Some(total) = routed.route().timeout.filter(|total| *total <= Deadline::MAX) else {
        return Ok(None);
    };
    if !routed.waited().is_zero() || total.is_zero() || routed.may_be_held() || !routed.is_whole()? {
        return Ok(None);
    }
    let limit = Limit { total, of: Of::Route };
    let time = CallTime {
        deadline: Some(now + total),
        fresh: Some(total),
        expected: !untold,
        grpc: is_grpc && !untold,
        ..CallTime::default()
    };
    Ok(Some((
        time,
        Deadline::new(alarms, now, Some((total, limit)), None, None),
    )))
}

/// How long the call may take, and what ends it then. An error when its time is over already, or its body failed.
fn time_of<B>(
    alarms: &Arc<Alarms>,
    routed: &mut Routed<B>,
    grpc_timeout: Option<Duration>,
    asked: Option<&Overrides>,
    above: Option<std::time::Instant>,
) -> Result<(CallTime, Option<Deadline>), Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    let (route, waited) = (routed.route(), routed.waited());
    let (is_grpc, now) = (routed.is_grpc(), routed.routed_at());
    let idle = route.limits.idle.filter(|limit| !limit.is_zero());
    // Limits count from when the call began, which is when it began to wait.
    let left = |above: std::time::Instant| above.saturating_duration_since(now.into_std()) + waited;
    let caller = Caller {
        grpc: is_grpc,
        grpc_timeout,
        asked: asked.and_then(|asked| asked.timeout),
        inherited: above.map(left),
    };
    let limits = deadline::limits(route, &caller);
    let limit = limits.least();
    let expected = !route.limits.untold;
    // Where nothing is told, a limit that is not meant for gRPC is not either (Envoy); but a caller's longer one is not left standing
    // beside it.
    let grpc = is_grpc
        && (expected
            || grpc_timeout.is_some()
            || route.limits.grpc_max.is_some()
            || limit.is_some_and(|limit| limit.of != Of::Route));
    let begins_later = limits.answer.is_some() || Rules::new(&route.retry, asked).per_try_timeout().is_some();
    let is_whole = !begins_later || routed.is_whole()?;
    let is_open = begins_later && (!is_whole || routed.may_be_held());
    if limit.is_none() && idle.is_none() && !is_open {
        let time = CallTime {
            expected,
            grpc: is_grpc && expected,
            ..CallTime::default()
        };
        return Ok((time, None));
    }
    let most = |limit: Duration| limit.min(Deadline::MAX);
    let answer = limits.answer.filter(|_| is_open).map(most);
    let total = if is_open { limits.whole } else { limit };
    let total = total.map(|limit| (most(limit.total).saturating_sub(waited), limit));
    if let Some((_, limit)) = total.filter(|(left, _)| left.is_zero()) {
        return Err(Error::new(Kind::Late(limit.total)));
    }
    let activity = (idle.is_some() || is_open).then(|| Arc::new(Activity::begin(now, is_whole, answer)));
    let idle = idle.map(|limit| Idle {
        limit: most(limit),
        last: now,
        activity: activity.clone(),
        of_try: false,
    });
    let deadline = Deadline::new(alarms, now, total, idle, activity.clone().filter(|_| answer.is_some()));
    let told = limit.is_some_and(|limit| limit.of == Of::Caller && Some(limit.total) == grpc_timeout);
    let time = CallTime {
        deadline: total.map(|(left, _)| now + left),
        fresh: limit.map(|limit| limit.total).filter(|_| waited.is_zero()),
        expected,
        grpc,
        told: told && waited.is_zero(),
        is_retry: false,
        activity,
    };
    Ok((time, deadline))
}

/// The time that is given to a call before its route is known: by its own `grpc-timeout`, and by the request it is made for.
pub(crate) fn of_caller(headers: &HeaderMap) -> Option<Duration> {
    let above = inherit::with(|inherited| inherited.deadline()).flatten();
    let above = above.map(|above| above.saturating_duration_since(Instant::now().into_std()));
    let own = find(headers, &GRPC_TIMEOUT).and_then(parse_grpc_timeout);
    own.into_iter().chain(above).min()
}
