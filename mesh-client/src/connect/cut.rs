//! Ends an HTTP/1.1 connection under the call that uses it, when what was agreed with its peer holds no more.
//!
//! Such a connection belongs to its call, which alone drives it: nobody else could end it. So its byte stream fails when it is told to,
//! which hyper tells the call like any other failure, whatever that is waiting for. Calls have [`DRAIN_LIMIT`] to end by themselves.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::terms::{DRAIN_LIMIT, Terms};

/// How long the wall clock is not looked at: it may jump (HTTP/2 connections look as often).
const MAX_LOOK: Duration = Duration::from_secs(10);

/// Says whether a connection is to end. It is there while the connection is.
#[derive(Debug, Default)]
pub(super) struct Cut {
    is_due: AtomicBool,
    /// Who waits for the byte stream.
    waker: Mutex<Option<Waker>>,
    /// Rung when the connection is gone.
    gone: Notify,
}

impl Cut {
    /// Ends those that are left once calls had their time. It begins a task, and so is not for under a lock.
    pub(super) fn soon(cuts: Vec<Weak<Self>>) {
        if cuts.is_empty() {
            return;
        }
        let later = async move {
            sleep(DRAIN_LIMIT).await;
            for cut in cuts.iter().filter_map(Weak::upgrade) {
                cut.now();
            }
        };
        // Without a runtime nothing drives the connections either.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(later);
        }
    }

    /// Ends it so long after its certificates.
    pub(super) fn with_certificates(self: &Arc<Self>, terms: &Terms) {
        if terms.certified_left().is_none() {
            return;
        }
        let (cut, terms) = (Arc::clone(self), terms.clone());
        tokio::spawn(async move {
            let over = async {
                while let Some(left) = terms.certified_left().filter(|left| !left.is_zero()) {
                    sleep(left.min(MAX_LOOK)).await;
                }
                sleep(DRAIN_LIMIT).await;
            };
            tokio::select! {
                () = over => cut.now(),
                () = cut.gone.notified() => {}
            }
        });
    }

    /// The connection is gone.
    pub(super) fn end(&self) {
        self.gone.notify_one();
    }

    fn now(&self) {
        let waker = {
            let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
            self.is_due.store(true, Ordering::Relaxed);
            waker.take()
        };
        if let Some(waker) = waker {
            tracing::info!(limit = ?DRAIN_LIMIT, "a call on a connection whose rules hold no more was cut off");
            waker.wake();
        }
    }

    /// Whether it is due; if not, `cx` is woken when it is.
    fn poll_due(&self, cx: &Context<'_>) -> bool {
        // The flag is set under the lock: either it is seen here, or the waker is there when it is set.
        let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = self.is_due();
        if !is_due && waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        is_due
    }

    fn is_due(&self) -> bool {
        self.is_due.load(Ordering::Relaxed)
    }
}

/// A byte stream that fails when it is cut.
pub(super) struct Cuttable<T> {
    inner: T,
    cut: Arc<Cut>,
}

impl<T> Cuttable<T> {
    pub(super) fn new(inner: T, cut: Arc<Cut>) -> Self {
        Self { inner, cut }
    }

    /// What came of an operation. One that is never without progress ends as well.
    fn unless_cut<R>(&self, polled: Poll<io::Result<R>>, cx: &Context<'_>) -> Poll<io::Result<R>> {
        let is_cut = match &polled {
            Poll::Pending => self.cut.poll_due(cx),
            Poll::Ready(_) => self.cut.is_due(),
        };
        match is_cut {
            true => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            false => polled,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Cuttable<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.unless_cut(polled, cx)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Cuttable<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.unless_cut(polled, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.unless_cut(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.unless_cut(polled, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
