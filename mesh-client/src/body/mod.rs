//! The body of every answer: the stream of the peer, bounded by the call's deadline, and the record of how it ended.
//!
//! One concrete type through all rooms. A call is over only with its last frame (gRPC tells its status in trailers), so what
//! must be known or kept until then lives here: the outcome for balancer and budget, the deadline, and the task that still
//! sends a streaming request.

mod deadline;
mod outcome;
mod pump;
mod stream;
mod trailers;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::thread::LocalKey;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::response::Parts;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::alarm::Alarms;
use crate::connect::{Http1Answer, Mark, StreamError};
use crate::error::Error;
use crate::reuse::{Kept, Reuse, Reused};
use crate::telemetry::{Counting, Sent};
use crate::time::Expiry;

pub(crate) use deadline::{Deadline, Idle};
pub(crate) use outcome::Outcome;
pub(crate) use pump::Pump;
pub(crate) use stream::Http2Frames;
pub(crate) use trailers::{code_of_http, grpc_status, trailers, without_status};

/// The answer of a call, as a stream of frames.
///
/// Dropping it before its end cancels the call at the peer and ends the sending of a streaming request.
#[derive(Debug, Default)]
pub struct ResponseBody {
    source: Source,
    /// `grpc-status`, where it stood in the head. Several rooms ask for it.
    head_status: Option<u8>,
    /// The head was all. Asked of the stream once, since each answer of its takes a lock.
    headers_only: bool,
    /// Tell failures as gRPC trailers rather than as errors.
    grpc: bool,
    /// A gRPC status is still to come; what is said in its place if none does.
    owes_status: Option<u8>,
}

/// What is still to come.
#[derive(Debug, Default)]
enum Source {
    #[default]
    Nothing,
    Live(Reused<Live>),
    /// All of an answer that the mesh made itself.
    Own(Bytes),
}

/// What a try holds from its beginning to the end of its answer. In a box that is used again, since every room moves the try and then the
/// answer, and so does whoever called.
#[derive(Debug, Default)]
pub(crate) struct Live {
    frames: Option<Frames>,
    /// There once its host was found.
    pub(crate) outcome: Option<Outcome>,
    pub(crate) pump: Option<Pump>,
    /// When the time to its answer is up, if that is limited.
    pub(crate) expires: Expiry,
    pub(crate) limited: Option<Limited>,
    deadline: Option<Deadline>,
    /// What was sent for it.
    sent: Sent,
    /// Counts the call.
    counting: Option<Counting>,
}

/// Of a try that has a limit of its own.
#[derive(Debug)]
pub(crate) struct Limited {
    /// When it has had that much time since it was sent.
    pub(crate) over: Instant,
    pub(crate) mark: Mark,
}

impl Reuse for Live {
    fn kept() -> &'static LocalKey<Kept<Self>> {
        thread_local! {
            static KEPT: Kept<Live> = const { Kept::new(Vec::new()) };
        }
        &KEPT
    }

    fn clear(&mut self) {
        // The stream first: what the call held is given back when the peer knows that it is over.
        self.frames = None;
        self.pump = None;
        self.deadline = None;
        self.expires = Expiry::default();
        self.limited = None;
        self.outcome = None;
        self.sent = Sent::Unknown;
        self.counting = None;
    }
}

/// The invariant of [`Live::outcome`].
const OUTCOME: &str = "held from when the host was found to the end of the answer";

/// Where frames come from.
#[derive(Debug)]
pub(crate) enum Frames {
    Http2(Http2Frames),
    Http1(Http1Answer),
}

impl ResponseBody {
    /// Nothing.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Of the answer with `head` to the try that is given.
    pub(crate) fn new(head: &Parts, frames: Frames, mut live: Reused<Live>) -> Self {
        let head_status = grpc_status(&head.headers);
        let outcome = live.outcome_mut();
        outcome.saw_headers(head.status, head_status, &head.headers);
        let headers_only = frames.is_end_stream();
        if headers_only {
            outcome.ended();
        }
        live.frames = Some(frames);
        Self {
            source: Source::Live(live),
            head_status,
            headers_only,
            grpc: false,
            owes_status: None,
        }
    }

    /// The body of an answer that the mesh makes itself.
    pub(crate) fn own(bytes: Bytes) -> Self {
        let mut body = Self::default();
        if !bytes.is_empty() {
            body.source = Source::Own(bytes);
        }
        body
    }

    /// What was sent of the request that it answers.
    #[inline]
    pub(crate) fn answers(&mut self, sent: Sent) {
        if let Source::Live(live) = &mut self.source {
            live.sent = sent;
        }
    }

    /// The try that was answered.
    #[inline]
    pub(crate) fn outcome(&self) -> Option<&Outcome> {
        match &self.source {
            Source::Live(live) => live.outcome.as_ref(),
            Source::Nothing | Source::Own(_) => None,
        }
    }

    /// From here on the call is counted here, when it ends.
    #[inline]
    pub(crate) fn counted_by(&mut self, mut counting: Counting) {
        match &mut self.source {
            Source::Live(live) => {
                counting.sent(std::mem::take(&mut live.sent));
                if self.headers_only {
                    counting.ended();
                } else {
                    live.counting = Some(counting);
                }
            }
            Source::Own(own) => counting.ended_with(own.len()),
            Source::Nothing => counting.ended(),
        }
    }

    /// From here on the call's limits are kept here; `until` is when it is over as a whole.
    pub(crate) fn bound_by(&mut self, deadline: &mut Option<Deadline>, until: Option<Instant>) {
        // Nothing is left to wait for when the headers were all.
        let Source::Live(live) = &mut self.source else { return };
        if self.headers_only || deadline.is_none() {
            return;
        }
        let of_try = std::mem::replace(&mut live.deadline, deadline.take());
        if let Some(deadline) = &mut live.deadline {
            deadline.moved();
            if let Some(of_try) = of_try {
                deadline.join(of_try, until);
            }
        }
    }

    /// A try may not be idle for longer, its answer included.
    pub(crate) fn idle_at_most(&mut self, limit: Duration, alarms: &Arc<Alarms>) {
        let Source::Live(live) = &mut self.source else { return };
        if !self.headers_only {
            let idle = Idle {
                limit,
                last: Instant::now(),
                activity: None,
                of_try: true,
            };
            live.deadline = Some(Deadline::of_try(alarms, idle));
        }
    }

    /// It answers a gRPC call, with such a status. One that comes without one of gRPC's, as proxies answer, is told by that.
    pub(crate) fn tell_as_grpc(&mut self, status: StatusCode) {
        self.grpc = true;
        let owes = !self.headers_only && matches!(self.source, Source::Live(_) | Source::Own(_));
        self.owes_status = owes.then(|| code_of_http(status));
    }

    /// Whether nothing comes that could tell how a gRPC call ended.
    pub(crate) fn tells_no_status(&self) -> bool {
        self.grpc && self.head_status.is_none() && self.owes_status.is_none()
    }

    /// `grpc-status`, where it stood in the head.
    pub(crate) fn head_status(&self) -> Option<u8> {
        self.head_status
    }

    /// The endpoint that answered; `None` for an answer that the mesh made itself.
    pub fn peer(&self) -> Option<std::net::SocketAddr> {
        match &self.source {
            Source::Live(live) => Some(live.outcome().peer()),
            Source::Nothing | Source::Own(_) => None,
        }
    }

    /// The answer came to its end. A gRPC call is over with it; the request of any other may go on (RFC 9113 8.1).
    fn end(&mut self) {
        let Source::Live(mut live) = std::mem::take(&mut self.source) else {
            return;
        };
        if let Some(mut counting) = live.counting.take() {
            counting.ended();
        }
        if !self.grpc
            && let Some(pump) = live.pump.take()
        {
            pump.finish();
        }
        if let Some(Frames::Http1(answer)) = live.frames.take_if(|frames| matches!(frames, Frames::Http1(_))) {
            // All of it was read: the connection may serve another.
            answer.end();
        }
    }

    fn fail(&mut self, error: Error) -> Option<Result<Frame<Bytes>, Error>> {
        if let Source::Live(live) = &mut self.source {
            if let Some(outcome) = &mut live.outcome {
                outcome.broke_off(&error);
            }
            if let Some(mut counting) = live.counting.take() {
                counting.broke_off(&error);
            }
        }
        self.source = Source::Nothing;
        Some(if self.grpc {
            Ok(Frame::trailers(trailers(&error, error.grpc_code_of_stream())))
        } else {
            Err(error)
        })
    }
}

impl Live {
    /// Of a try whose host was found.
    pub(crate) fn outcome(&self) -> &Outcome {
        self.outcome.as_ref().expect(OUTCOME)
    }

    /// Of a try whose host was found.
    pub(crate) fn outcome_mut(&mut self) -> &mut Outcome {
        self.outcome.as_mut().expect(OUTCOME)
    }

    /// Whether its request streams.
    pub(crate) fn is_sending(&self) -> bool {
        self.pump.is_some()
    }

    fn is_end_stream(&self) -> bool {
        self.frames.as_ref().is_none_or(Frames::is_end_stream)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let Some(frames) = &mut self.frames else {
            return Poll::Ready(None);
        };
        let polled = match frames {
            Frames::Http2(frames) => ready!(frames.poll_frame(cx)).map(|frame| frame.map_err(StreamError::from)),
            Frames::Http1(answer) => ready!(answer.poll_frame(cx)).map(|frame| frame.map_err(StreamError::from)),
        };
        match &polled {
            Some(Ok(frame)) => self.passes(frame),
            None => {
                if let Some(outcome) = &mut self.outcome {
                    outcome.ended();
                }
            }
            Some(Err(_)) => {}
        }
        Poll::Ready(polled)
    }

    /// Tells of a frame to who counts them.
    fn passes(&mut self, frame: &Frame<Bytes>) {
        if let Some(trailers) = frame.trailers_ref() {
            let grpc = grpc_status(trailers);
            if let Some(outcome) = &mut self.outcome {
                outcome.saw_trailers(grpc, trailers);
            }
            if let Some(counting) = &mut self.counting {
                counting.told(grpc);
            }
        } else {
            if let Some(outcome) = &self.outcome {
                outcome.heard();
            }
            if let (Some(counting), Some(data)) = (&mut self.counting, frame.data_ref()) {
                counting.received(data);
            }
        }
    }
}

impl Frames {
    pub(crate) fn is_end_stream(&self) -> bool {
        match self {
            Self::Http2(frames) => frames.is_end_stream(),
            Self::Http1(answer) => answer.is_end_stream(),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Source::Live(live) = &mut self.source else {
            let own = std::mem::take(&mut self.source);
            return Poll::Ready(match own {
                Source::Own(bytes) => Some(Ok(Frame::data(bytes))),
                Source::Nothing | Source::Live(_) => None,
            });
        };
        if let Some(error) = live.deadline.as_ref().and_then(Deadline::expired) {
            return Poll::Ready(self.fail(error));
        }
        let polled = live.poll_frame(cx);
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(deadline) = &mut live.deadline {
                    deadline.moved();
                }
                if frame.is_trailers() {
                    self.owes_status = None;
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                let error = Error::broken(error, live.outcome().peer());
                Poll::Ready(self.fail(error))
            }
            // A gRPC answer that just ends was cut off somewhere: its caller must not take the part for the whole.
            Poll::Ready(None) => {
                self.end();
                let owed = self.owes_status.take();
                Poll::Ready(owed.map(|code| Ok(Frame::trailers(without_status(code)))))
            }
            Poll::Pending => {
                let Some(deadline) = &mut live.deadline else {
                    return Poll::Pending;
                };
                let error = ready!(deadline.poll_expired(cx));
                Poll::Ready(self.fail(error))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Live(live) => live.is_end_stream(),
            Source::Nothing => true,
            Source::Own(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(own) => SizeHint::with_exact(own.len() as u64),
            Source::Live(live) if !live.is_end_stream() => match &live.frames {
                Some(Frames::Http1(answer)) => answer.size_hint(),
                Some(Frames::Http2(_)) | None => SizeHint::default(),
            },
            _ => SizeHint::with_exact(0),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // An answer without a body is at its end though nobody polled it.
        if matches!(&self.source, Source::Live(live) if live.is_end_stream()) {
            self.end();
        }
    }
}
