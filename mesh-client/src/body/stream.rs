//! The frames of an answer over HTTP/2, with as few visits to its stream as may be: each takes a lock that the whole connection has.
//!
//! Two are saved to an answer of one message. Its trailers are asked for before more data is, since they mostly come next. And what was
//! handed on is given back to the peer's window when there is nothing more to hand on, or when it has become much: of an answer that is
//! over by then nobody sends more, and `h2` gives its part of the connection's window back by itself.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http_body::Frame;

/// The most that was handed on and is not given back yet, in bytes: a TLS record. A reader that waits owes nothing.
const MOST_OWED: usize = 16 * 1024;

/// An answer's stream.
#[derive(Debug)]
pub(crate) struct Http2Frames {
    stream: RecvStream,
    next: Next,
    /// What was handed on and not given back.
    owed: usize,
    /// Others hold the stream: what is owed would not be given back with this.
    is_shared: bool,
}

/// What is asked for next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Data,
    /// Trailers, for there was one piece of data; if it is not they, data.
    Guess,
    /// Data, since there was more of it than one piece.
    More,
    /// There is no more data.
    Trailers,
}

impl Http2Frames {
    /// `is_shared`: its request is still being sent.
    pub(crate) fn new(stream: RecvStream, is_shared: bool) -> Self {
        Self {
            stream,
            next: Next::Data,
            owed: 0,
            is_shared,
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if self.next == Next::Guess {
            self.next = Next::More;
            // Pending means that there is data first, or nothing yet: data is asked for then, and whoever waits is woken either way.
            if let Poll::Ready(trailers) = self.poll_trailers(cx) {
                return Poll::Ready(trailers);
            }
        }
        if self.next != Next::Trailers {
            match self.stream.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    self.handed_on(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => self.next = Next::Trailers,
                Poll::Pending => {
                    self.give_back();
                    return Poll::Pending;
                }
            }
        }
        self.poll_trailers(cx)
    }

    fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        Poll::Ready(match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => Some(Err(error)),
        })
    }

    fn handed_on(&mut self, length: usize) {
        self.owed += length;
        self.next = match self.next {
            Next::Data => Next::Guess,
            _ => Next::More,
        };
        if self.is_shared || self.owed >= MOST_OWED {
            self.give_back();
        }
    }

    /// What was handed on may be sent again by the peer. An error means that the stream is over: the next poll tells it.
    fn give_back(&mut self) {
        if self.owed > 0 {
            let owed = std::mem::take(&mut self.owed);
            let _ = self.stream.flow_control().release_capacity(owed);
        }
    }
}
