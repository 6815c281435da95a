//! The body of every answer: the stream of the peer, bounded by the call's deadline, and the record of how it ended.
//!
//! One concrete type through all rooms. A call is over only with its last frame (gRPC tells its status in trailers), so what
//! must be known or kept until then lives here: the outcome for balancer and budget, the deadline, and the task that still
//! sends a streaming request.

mod deadline;
mod outcome;
mod pump;
mod trailers;

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::connect::{Http1Answer, StreamError};
use crate::error::Error;

pub(crate) use deadline::{Deadline, Idle};
pub(crate) use outcome::Outcome;
pub(crate) use pump::Pump;
use trailers::without_status;
pub(crate) use trailers::{grpc_status, trailers};

/// The answer of a call, as a stream of frames.
///
/// Dropping it before its end cancels the call at the peer and ends the sending of a streaming request.
#[derive(Debug, Default)]
pub struct ResponseBody {
    stream: Option<Live>,
    /// All of an answer that the mesh made itself.
    own: Option<Bytes>,
    deadline: Option<Deadline>,
    /// Tell failures as gRPC trailers rather than as errors.
    grpc: bool,
    /// A gRPC status is still to come.
    owes_status: bool,
}

#[derive(Debug)]
struct Live {
    frames: Frames,
    outcome: Outcome,
    pump: Option<Pump>,
}

/// Where frames come from.
#[derive(Debug)]
pub(crate) enum Frames {
    Http2 { stream: RecvStream, data_ended: bool },
    Http1(Box<Http1Answer>),
}

impl ResponseBody {
    /// Nothing.
    pub fn empty() -> Self {
        Self::default()
    }

    pub(crate) fn new(frames: Frames, outcome: Outcome, pump: Option<Pump>) -> Self {
        Self {
            stream: Some(Live { frames, outcome, pump }),
            own: None,
            deadline: None,
            grpc: false,
            owes_status: false,
        }
    }

    /// The body of an answer that the mesh makes itself.
    pub(crate) fn own(bytes: Bytes) -> Self {
        let mut body = Self::default();
        body.own = Some(bytes).filter(|bytes| !bytes.is_empty());
        body
    }

    /// From here on the call's limits are kept here; `until` is when it is over as a whole.
    pub(crate) fn bound_by(&mut self, deadline: Option<Deadline>, until: Option<Instant>) {
        // Nothing is left to wait for when the headers were all.
        if self.is_end_stream() {
            return;
        }
        let Some(mut deadline) = deadline else { return };
        deadline.moved();
        if let Some(of_try) = self.deadline.take() {
            deadline.join(of_try, until);
        }
        self.deadline = Some(deadline);
    }

    /// A try may not be idle for longer, its answer included.
    pub(crate) fn idle_at_most(&mut self, limit: Duration) {
        let idle = Idle {
            limit,
            last: Instant::now(),
            activity: None,
            of_try: true,
        };
        if !self.is_end_stream() {
            self.deadline = Some(Deadline::of_try(idle));
        }
    }

    pub(crate) fn tell_as_grpc(&mut self) {
        self.grpc = true;
        self.owes_status = !self.is_end_stream();
    }

    /// The endpoint that answered; `None` for an answer that the mesh made itself.
    pub fn peer(&self) -> Option<std::net::SocketAddr> {
        self.stream.as_ref().map(|live| live.outcome.peer())
    }

    /// The answer came to its end. A gRPC call is over with it; the request of any other may go on (RFC 9113 8.1).
    fn end(&mut self) {
        if let Some(Live { frames, pump, .. }) = self.stream.take() {
            if let Some(pump) = pump
                && !self.grpc
            {
                pump.finish();
            }
            frames.end();
        }
        self.deadline = None;
    }

    fn fail(&mut self, error: Error) -> Option<Result<Frame<Bytes>, Error>> {
        if let Some(live) = &mut self.stream {
            live.outcome.broke_off(&error);
        }
        self.stream = None;
        self.deadline = None;
        Some(if self.grpc {
            Ok(Frame::trailers(trailers(&error)))
        } else {
            Err(error)
        })
    }
}

impl Live {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let polled = match &mut self.frames {
            Frames::Http2 { stream, data_ended } => {
                ready!(poll_http2(stream, data_ended, cx)).map(|frame| frame.map_err(StreamError::from))
            }
            Frames::Http1(answer) => ready!(answer.poll_frame(cx)).map(|frame| frame.map_err(StreamError::from)),
        };
        match &polled {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.outcome.saw_trailers(trailers);
                }
            }
            None => self.outcome.ended(),
            Some(Err(_)) => {}
        }
        Poll::Ready(polled)
    }
}

fn poll_http2(
    stream: &mut RecvStream,
    data_ended: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
    if !*data_ended {
        match ready!(stream.poll_data(cx)) {
            Some(Ok(data)) => {
                // What was handed on may be sent again by the peer. An error means that the stream is over: the next poll
                // tells it.
                let _ = stream.flow_control().release_capacity(data.len());
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => *data_ended = true,
        }
    }
    Poll::Ready(match ready!(stream.poll_trailers(cx)) {
        Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
        Err(error) => Some(Err(error)),
    })
}

impl Frames {
    pub(crate) fn http2(stream: RecvStream) -> Self {
        Self::Http2 {
            stream,
            data_ended: false,
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        match self {
            Self::Http2 { stream, .. } => stream.is_end_stream(),
            Self::Http1(answer) => answer.is_end_stream(),
        }
    }

    /// All of it was read.
    fn end(self) {
        if let Self::Http1(answer) = self {
            answer.end();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let late = self.deadline.as_ref().and_then(Deadline::expired);
        let Some(live) = &mut self.stream else {
            return Poll::Ready(self.own.take().map(|bytes| Ok(Frame::data(bytes))));
        };
        if let Some(error) = late {
            return Poll::Ready(self.fail(error));
        }
        match live.poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(deadline) = &mut self.deadline {
                    deadline.moved();
                }
                if frame.is_trailers() {
                    self.owes_status = false;
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                let error = Error::broken(error, live.outcome.peer());
                Poll::Ready(self.fail(error))
            }
            // A gRPC answer that just ends was cut off somewhere: its caller must not take the part for the whole.
            Poll::Ready(None) if self.owes_status => {
                self.owes_status = false;
                self.end();
                Poll::Ready(Some(Ok(Frame::trailers(without_status()))))
            }
            Poll::Ready(None) => {
                self.end();
                Poll::Ready(None)
            }
            Poll::Pending => match &mut self.deadline {
                Some(deadline) => {
                    let error = ready!(deadline.poll_expired(cx));
                    Poll::Ready(self.fail(error))
                }
                None => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.stream {
            Some(live) => live.frames.is_end_stream(),
            None => self.own.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        if let Some(own) = &self.own {
            return SizeHint::with_exact(own.len() as u64);
        }
        match &self.stream {
            Some(live) if !live.frames.is_end_stream() => match &live.frames {
                Frames::Http2 { .. } => SizeHint::default(),
                Frames::Http1(answer) => answer.size_hint(),
            },
            _ => SizeHint::with_exact(0),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // An answer without a body is at its end though nobody polled it.
        if self.stream.as_ref().is_some_and(|live| live.frames.is_end_stream()) {
            self.end();
        }
    }
}
