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

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body, Frame, SizeHint};

use crate::error::Error;

pub(crate) use deadline::Deadline;
pub(crate) use outcome::Outcome;
pub(crate) use pump::Pump;
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
}

#[derive(Debug)]
struct Live {
    frames: RecvStream,
    data_ended: bool,
    outcome: Outcome,
    pump: Option<Pump>,
}

impl ResponseBody {
    /// Nothing.
    pub fn empty() -> Self {
        Self::default()
    }

    pub(crate) fn new(frames: RecvStream, outcome: Outcome, pump: Option<Pump>) -> Self {
        Self {
            stream: Some(Live {
                frames,
                data_ended: false,
                outcome,
                pump,
            }),
            own: None,
            deadline: None,
            grpc: false,
        }
    }

    /// The body of an answer that the mesh makes itself.
    pub(crate) fn own(bytes: Bytes) -> Self {
        let mut body = Self::default();
        body.own = Some(bytes).filter(|bytes| !bytes.is_empty());
        body
    }

    pub(crate) fn bound_by(&mut self, deadline: Option<Deadline>) {
        // Nothing is left to wait for when the headers were all.
        if !self.is_end_stream() {
            self.deadline = deadline;
        }
    }

    pub(crate) fn tell_as_grpc(&mut self) {
        self.grpc = true;
    }

    /// The endpoint that answered; `None` for an answer that the mesh made itself.
    pub fn peer(&self) -> Option<std::net::SocketAddr> {
        self.stream.as_ref().map(|live| live.outcome.peer())
    }

    /// The answer came to its end. A gRPC call is over with it; the request of any other may go on (RFC 9113 8.1).
    fn end(&mut self) {
        if let Some(pump) = self.stream.take().and_then(|live| live.pump)
            && !self.grpc
        {
            pump.finish();
        }
        self.deadline = None;
    }

    fn fail(&mut self, error: Error) -> Option<Result<Frame<Bytes>, Error>> {
        if let Some(live) = &mut self.stream {
            live.outcome.failed();
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
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_ended {
            match ready!(self.frames.poll_data(cx)) {
                Some(Ok(data)) => {
                    // What was handed on may be sent again by the peer. An error means that the stream is over: the next
                    // poll tells it.
                    let _ = self.frames.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_ended = true,
            }
        }
        match ready!(self.frames.poll_trailers(cx)) {
            Ok(Some(trailers)) => {
                self.outcome.saw_trailers(&trailers);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Ok(None) => {
                self.outcome.ended();
                Poll::Ready(None)
            }
            Err(error) => Poll::Ready(Some(Err(error))),
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
                if frame.is_trailers() {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                let error = Error::from_h2(error, live.outcome.peer());
                Poll::Ready(self.fail(error))
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
            SizeHint::with_exact(own.len() as u64)
        } else if self.is_end_stream() {
            SizeHint::with_exact(0)
        } else {
            SizeHint::default()
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
