//! The head of an HTTP/1.1 request, which may not come one byte a minute, and may not say twice where the request ends (`framing`).
//!
//! hyper has one bound for a head and for the wait before it. A kept connection should wait longer than a head may take, or its
//! client would send into a connection that is just being closed; so that one stays as it is, and this one runs from the first
//! byte of a head. Nothing of it costs where a head comes in one piece: the timer is made when a read has to wait in mid-head.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::{fmt, io};

use tokio::time::{Sleep, sleep};

use super::conduct::Conduct;
use super::connection::HEAD_TIMEOUT;
use super::framing::Framing;
use crate::accept::Watch;

/// Times the heads of a connection, if its protocol is HTTP/1.1.
#[derive(Debug)]
pub(super) struct Heads {
    conduct: Option<Arc<Conduct>>,
    framing: Framing,
    /// How many requests had come when bytes came last that belong to none.
    in_head_after: Option<u64>,
    /// When the head that has begun must be there.
    until: Option<Pin<Box<Sleep>>>,
}

/// Why a connection ends on which a head did not come to its end.
#[derive(Debug)]
pub(super) struct LateHead;

impl fmt::Display for LateHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the head of a request took too long")
    }
}

impl std::error::Error for LateHead {}

impl Heads {
    /// Times heads where `conduct`, which counts the requests, is given.
    pub(super) fn new(conduct: Option<Arc<Conduct>>) -> Self {
        Self {
            conduct,
            framing: Framing::default(),
            in_head_after: None,
            until: None,
        }
    }
}

impl Watch for Heads {
    fn watch(&mut self, cx: &mut Context<'_>, read: Poll<io::Result<()>>, bytes: &[u8]) -> Poll<io::Result<()>> {
        let Some(conduct) = &self.conduct else {
            return read;
        };
        if read.is_ready() {
            if !bytes.is_empty() {
                self.in_head_after = Some(conduct.begun());
            }
            // Told before hyper has the bytes.
            if let Some(number) = self.framing.take(bytes) {
                conduct.refuse_from(number);
            }
            return read;
        }
        // Bytes have come that no request was made of yet, while none is being answered.
        let is_in_head = conduct.is_quiet() && self.in_head_after == Some(conduct.begun());
        if !is_in_head {
            self.until = None;
            return Poll::Pending;
        }
        let until = self.until.get_or_insert_with(|| Box::pin(sleep(HEAD_TIMEOUT)));
        match until.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, LateHead))),
            Poll::Pending => Poll::Pending,
        }
    }
}
