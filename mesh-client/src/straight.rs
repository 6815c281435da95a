//! The default rooms as one: the way of a call that has nothing to wait for before it is sent.
//!
//! A room is a tower service, so each takes the request by value and gives back a future of its own around the next one's. That is what
//! makes rooms something to compose, and it has its price: a request and an answer of some hundred bytes are moved from room to room. Where
//! the application put no layer of its own among the rooms, a call is one after the other of what they do, said here in their order, with
//! the request, and then the answer, in one place. Each step is the room's own function: nothing is decided here. What belongs to the call
//! stands in one box that a thread uses again, so its future is a pointer and needs no allocation.
//!
//! Whatever is more goes the rooms' way from there on, with what was done until then: a target that is not known yet, a body that streams, a
//! call that a fault holds up, one whose slow tries are raced, and every try but the first.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::thread::LocalKey;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use mesh_core::route::{Answer as Edit, RequestHead};
use tokio::time::Instant;
use tower::Service as _;

use crate::alarm::Alarms;
use crate::attempt::{AttemptService, Limits};
use crate::balance::{Balance, BalanceFuture};
use crate::body::{Deadline, ResponseBody};
use crate::channel::All;
use crate::deadline::{Above, Asked, DeadlineFuture, bound, limit};
use crate::erase::Erased;
use crate::error::Error;
use crate::fault::FaultService;
use crate::mirror::MirrorService;
use crate::peek::{Peeked, peek};
use crate::request::{Payload, Routed, Said, Taken};
use crate::retry::{Kept, Place, RetryFuture, RetryService, is_hedged};
use crate::reuse::{self, Reuse, Reused};
use crate::rewrite::{RewriteFuture, RewriteService};
use crate::route::{Decision, Given, RouteFuture, RouteLayer};
use crate::status::{StatusFuture, spend, told};
use crate::telemetry::{Counting, TelemetryFuture, TelemetryLayer, settle};

/// The rooms below `deadline`, with none of the application's among them.
pub(crate) type Below = FaultService<RewriteService<RetryService<MirrorService<AttemptService<Balance>>>>>;

/// What the rooms from `deadline` on come to, where they go their own way.
type Timed = TelemetryFuture<DeadlineFuture<Erased>>;
type Result<T = Response<ResponseBody>> = std::result::Result<T, Error>;

/// The rooms that are gone through.
#[derive(Clone, Debug)]
pub(crate) struct Straight {
    rooms: Arc<Passed>,
}

#[derive(Debug)]
struct Passed {
    route: RouteLayer,
    telemetry: TelemetryLayer,
    alarms: Arc<Alarms>,
    below: Below,
}

impl Straight {
    pub(crate) fn new(route: RouteLayer, telemetry: TelemetryLayer, alarms: Arc<Alarms>, below: Below) -> Self {
        let rooms = Passed {
            route,
            telemetry,
            alarms,
            below,
        };
        Self { rooms: Arc::new(rooms) }
    }

    /// Makes a call. One that has to wait before it is sent is taken by `all` the rooms.
    #[inline]
    pub(crate) fn call<B>(&self, request: Request<B>, all: &mut All<B>) -> CallFuture
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let rooms = &*self.rooms;
        let (mut call, given) = match rooms.route.decide(&request) {
            Decision::Go(call, given) => (call, given),
            other => return CallFuture::whole(StatusFuture::new(all.inner_mut().decided(request, other))),
        };
        let logged = rooms.telemetry.meet(&call, &request);
        let said = Said::by(request.headers());
        call.grpc = said.grpc;
        let began = Instant::now();
        let (parts, mut body) = request.into_parts();
        let bytes = match peek(&mut body).unwrap_or(Peeked::Failed) {
            Peeked::Whole(Some(bytes)) => bytes,
            other => {
                let routed = Routed::peeked(body, other, call, began, said);
                let request = Request::from_parts(parts, routed);
                return CallFuture::whole(StatusFuture::new(all.inner_mut().routed(request, given)));
            }
        };
        drop(body);
        let mut going = Reused::<Going>::take();
        going.counting = Some(Counting::begin(Arc::clone(&call.cluster), said.grpc, began, logged));
        let routed = Routed::peeked(Taken, Peeked::Whole(Some(bytes)), call, began, said);
        let state = match rooms.begin(&mut going, parts, routed) {
            Ok(None) => State::First(going),
            Ok(Some(erased)) => State::Timed(going.timed(erased)),
            Err(error) => State::Failed(going, Some(error)),
        };
        CallFuture {
            state,
            given,
            grpc: said.grpc,
            fresh: true,
            rooms: Some(Arc::clone(&self.rooms)),
        }
    }
}

impl Passed {
    /// Sends the first try of a call, or hands it to the rooms that hold it.
    fn begin(&self, going: &mut Going, mut parts: Parts, mut routed: Routed<Taken>) -> Result<Option<Erased>> {
        let fault = &self.below;
        let rewrite = fault.inner();
        let retry = rewrite.inner();
        let mirror = retry.inner();
        let attempt = mirror.inner();
        let (began, said) = (routed.began(), routed.said());
        let above = Above::here();
        if let Some(trace) = &above.trace {
            trace.pass_on(&mut parts.headers, routed.stays_inside());
        }
        let asked = Asked::take(said, &mut parts.headers);
        (going.deadline, going.until) = limit(&self.alarms, &mut routed, asked, &above)?;
        if let Some(extras) = routed.extras().map(Arc::clone) {
            let head = RequestHead {
                method: &parts.method,
                uri: &parts.uri,
                headers: &parts.headers,
                target: fault.target(),
            };
            if let Some(injected) = fault.injects(&extras, head) {
                // All of these rooms are always ready.
                let held = fault.clone().inject(injected, Request::from_parts(parts, routed));
                return Ok(Some(Box::pin(held)));
            }
            going.edit = rewrite.edit(&extras, &mut parts)?;
        }
        let (payload, call) = routed.into_payload()?;
        if is_hedged(&call, &payload) {
            let whole = match payload {
                Payload::Whole(bytes) => Peeked::Whole(Some(bytes)),
                Payload::Streaming(_) => unreachable!("only whole bodies come here"),
            };
            let routed = Routed::peeked(Taken, whole, call, began, said);
            let raced = retry.clone().call(Request::from_parts(parts, routed));
            return Ok(Some(Box::pin(RewriteFuture::go(raced, going.edit.take()))));
        }
        let (kept, first) = Kept::begin(&parts, payload, call, false);
        going.kept = Some(kept);
        let mut request = Request::from_parts(parts, first);
        mirror.copy(&request);
        going.limits = attempt.begin(&mut request);
        going.first = Some(attempt.inner().begin(&mut Some(request)));
        Ok(None)
    }
}

/// What belongs to a call while its first try is under way.
#[derive(Debug, Default)]
struct Going {
    first: Option<BalanceFuture<Taken>>,
    /// What limits the try of its own.
    limits: Option<Reused<Limits>>,
    kept: Option<Kept<Taken>>,
    /// What is to be edited in the answer's head.
    edit: Option<Edit>,
    deadline: Option<Deadline>,
    /// When the call is over as a whole.
    until: Option<Instant>,
    counting: Option<Counting>,
}

/// The invariant of [`Going::counting`].
const COUNTED: &str = "counted from when its cluster was chosen";

impl Reuse for Going {
    fn kept() -> &'static LocalKey<reuse::Kept<Self>> {
        thread_local! {
            static KEPT: reuse::Kept<Going> = const { reuse::Kept::new(Vec::new()) };
        }
        &KEPT
    }

    fn clear(&mut self) {
        // The try first: what the call held is given back when the peer knows that it is over.
        self.first = None;
        self.limits = None;
        self.kept = None;
        self.edit = None;
        self.deadline = None;
        self.until = None;
        self.counting = None;
    }
}

impl Going {
    /// Polls the first try, and makes of what came what each room makes of it. Another try is to follow where a place for it is given.
    #[inline]
    fn poll(&mut self, polled: &mut Poll<Result>, cx: &mut Context<'_>, rooms: &Passed) -> Option<Place> {
        let first = self.first.as_mut().expect("sent when the call was made");
        *polled = Pin::new(first).poll(cx);
        if let Some(limits) = &mut self.limits {
            limits.bound(polled, cx);
        }
        if let Poll::Ready(answer) = polled {
            let kept = self.kept.as_mut().expect("kept since the first try");
            if let Some(place) = kept.judge(answer, rooms.below.inner().inner().shared()) {
                return Some(place);
            }
            kept.tell_sent(answer);
            if let (Some(edit), Ok(response)) = (&self.edit, answer) {
                edit.apply(response.status(), response.headers_mut());
            }
        }
        bound(&mut self.deadline, self.until, polled, cx);
        if let Poll::Ready(result) = polled
            && let Some(counting) = self.counting.take()
        {
            settle(counting, result);
        }
        None
    }

    /// The tries that follow the first.
    #[cold]
    fn another(&mut self, place: Place, rooms: &Passed) -> Pin<Box<Timed>> {
        // One that is over gives back what it held before the next begins.
        self.first = None;
        let kept = self.kept.take().expect("kept since the first try");
        let retry = rooms.below.inner().inner();
        let tries = RetryFuture::another(retry.inner().clone(), kept, place, Arc::clone(retry.shared()));
        let edit = self.edit.take();
        self.timed(Box::pin(RewriteFuture::go(tries, edit)))
    }

    /// The rooms' way from the deadline on.
    #[cold]
    fn timed(&mut self, erased: Erased) -> Pin<Box<Timed>> {
        let timed = DeadlineFuture::new(erased, self.deadline.take(), self.until);
        Box::pin(TelemetryFuture::new(timed, self.counting.take().expect(COUNTED)))
    }
}

/// The future of a [`Channel`](crate::Channel)'s call.
///
/// Dropping it cancels the call at the peer (RST_STREAM) and gives back every place that the call held.
pub struct CallFuture {
    state: State,
    given: Option<Box<Given>>,
    grpc: bool,
    /// It was not polled yet.
    fresh: bool,
    /// `None`: it is the rooms' from the start.
    rooms: Option<Arc<Passed>>,
}

enum State {
    First(Reused<Going>),
    Failed(Reused<Going>, Option<Error>),
    // Off the common path, so in boxes.
    Timed(Pin<Box<Timed>>),
    Whole(Pin<Box<StatusFuture<RouteFuture<Timed>>>>),
}

impl CallFuture {
    /// Of a call that goes through the rooms.
    pub(crate) fn whole(future: StatusFuture<RouteFuture<Timed>>) -> Self {
        Self {
            state: State::Whole(Box::pin(future)),
            given: None,
            grpc: false,
            fresh: false,
            rooms: None,
        }
    }
}

impl Future for CallFuture {
    type Output = Result;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result> {
        let this = &mut *self;
        ready!(spend(&mut this.fresh, cx));
        let mut polled = Poll::Pending;
        loop {
            match (&mut this.state, &this.rooms) {
                (State::First(going), Some(rooms)) => {
                    let Some(place) = going.poll(&mut polled, cx, rooms) else {
                        break;
                    };
                    let timed = going.another(place, rooms);
                    this.state = State::Timed(timed);
                }
                (State::Timed(timed), _) => {
                    polled = timed.as_mut().poll(cx);
                    break;
                }
                (State::Failed(going, error), _) => {
                    let mut failed = Err(error.take().expect("polled after it was done"));
                    settle(going.counting.take().expect(COUNTED), &mut failed);
                    polled = Poll::Ready(failed);
                    break;
                }
                (State::Whole(future), _) => return future.as_mut().poll(cx),
                (State::First(_), None) => unreachable!("who goes straight has the rooms"),
            }
        }
        if let Poll::Ready(result) = &mut polled {
            if let (Ok(response), Some(given)) = (&mut *result, this.given.take()) {
                given.write(response);
            }
            told(result, this.grpc);
        }
        polled
    }
}

impl fmt::Debug for CallFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallFuture").finish_non_exhaustive()
    }
}
