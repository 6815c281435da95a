//! What a connection has to say, sent when its task has no more of it.
//!
//! HTTP/2 hands an answer's head and body over, and then its trailers, and asks for each to be sent at once: two TLS records and two system
//! calls, of which the peer pays the like. Here small pieces are kept until the connection's future waits for something, and leave
//! together. A piece is never kept for longer than that, so nobody waits for it: the future is polled, and what it said is sent, in one go.
//!
//! The byte stream is shared between the connection, which writes to it, and [`Gathered`], which polls the connection and then sends.

use std::error::Error as StdError;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most that is kept, in bytes: one TLS record's payload (RFC 8446 5.1). What is longer is sent at once, with what was kept before it.
const MAX_KEPT: usize = 16 * 1024;
/// So many pieces of one write are sent with what was kept; h2 and hyper have fewer.
const MAX_SLICES: usize = 16;

/// The connection's end of the byte stream.
pub(super) struct Gather<IO> {
    shared: Arc<Mutex<Kept<IO>>>,
}

struct Kept<IO> {
    io: IO,
    kept: Vec<u8>,
    /// What of it was sent.
    sent: usize,
    /// Something was written since the byte stream was flushed.
    unflushed: bool,
}

pin_project! {
    /// A connection and what sends for it. Resolves as the connection does, or when nothing can be sent.
    pub(super) struct Gathered<C: Future, IO> {
        #[pin]
        connection: C,
        shared: Arc<Mutex<Kept<IO>>>,
        // It has ended, and its last words are being sent.
        ended: Option<C::Output>,
    }
}

impl<IO> Gather<IO> {
    pub(super) fn new(io: IO) -> Self {
        let kept = Kept {
            io,
            kept: Vec::new(),
            sent: 0,
            unflushed: false,
        };
        Self {
            shared: Arc::new(Mutex::new(kept)),
        }
    }

    /// Sends for the connection that `serve` makes of this.
    pub(super) fn with<C: Future>(self, serve: impl FnOnce(Self) -> C) -> Gathered<C, IO> {
        let shared = Arc::clone(&self.shared);
        Gathered {
            connection: serve(self),
            shared,
            ended: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept<IO>> {
        lock(&self.shared)
    }
}

fn lock<IO>(shared: &Mutex<Kept<IO>>) -> MutexGuard<'_, Kept<IO>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<IO: AsyncWrite + Unpin> Kept<IO> {
    /// Keeps `slices` if there is room for all of them, or else sends what was kept, and as much of them as is taken.
    fn poll_take(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        self.unflushed = true;
        if self.kept.len() + total <= MAX_KEPT {
            for slice in slices {
                self.kept.extend_from_slice(slice);
            }
            return Poll::Ready(Ok(total));
        }
        loop {
            let before = self.kept.len() - self.sent;
            if before == 0 {
                return Pin::new(&mut self.io).poll_write_vectored(cx, slices);
            }
            let mut all = [IoSlice::new(&[]); MAX_SLICES + 1];
            all[0] = IoSlice::new(&self.kept[self.sent..]);
            let more = slices.len().min(MAX_SLICES);
            all[1..=more].copy_from_slice(&slices[..more]);
            let taken = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &all[..=more]))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.was_sent(taken.min(before));
            if taken > before {
                return Poll::Ready(Ok(taken - before));
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.kept.len() {
            let taken = ready!(Pin::new(&mut self.io).poll_write(cx, &self.kept[self.sent..]))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.was_sent(taken);
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn was_sent(&mut self, length: usize) {
        self.sent += length;
        if self.sent == self.kept.len() {
            self.sent = 0;
            self.kept.clear();
        }
    }
}

impl<C: Future, IO> Gathered<C, IO> {
    /// The connection.
    pub(super) fn connection(self: Pin<&mut Self>) -> Pin<&mut C> {
        self.project().connection
    }
}

impl<C, IO, E> Future for Gathered<C, IO>
where
    C: Future<Output = Result<(), E>>,
    IO: AsyncWrite + Unpin,
    E: From<Box<dyn StdError + Send + Sync>>,
{
    type Output = Result<(), E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        let this = self.project();
        if this.ended.is_none()
            && let Poll::Ready(ended) = this.connection.poll(cx)
        {
            *this.ended = Some(ended);
        }
        let sent = lock(this.shared).poll_send(cx);
        match (this.ended.take(), sent) {
            (None, Poll::Pending | Poll::Ready(Ok(()))) => Poll::Pending,
            (None, Poll::Ready(Err(error))) => Poll::Ready(Err(E::from(error.into()))),
            (ended, Poll::Pending) => {
                *this.ended = ended;
                Poll::Pending
            }
            (Some(ended), Poll::Ready(_)) => Poll::Ready(ended),
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Gather<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lock().io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Gather<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.lock().poll_take(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.lock().poll_take(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What was written is sent when the connection has been polled.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut kept = self.lock();
        ready!(kept.poll_send(cx))?;
        Pin::new(&mut kept.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// Takes at most so much of each write, notes them, and waits as often as it is told to.
    #[derive(Default)]
    struct Noted {
        most: usize,
        writes: Vec<Vec<u8>>,
        waits: usize,
    }

    impl AsyncWrite for Noted {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            if self.waits > 0 {
                self.waits -= 1;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let taken = buf.len().min(self.most);
            self.writes.push(buf[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            self.poll_write(cx, &all)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    type Failed = Box<dyn StdError + Send + Sync>;

    /// What is written of pieces that are each flushed, by a connection that then waits once.
    async fn written(pieces: &[&[u8]], io: Noted) -> Vec<Vec<u8>> {
        let gather = Gather::new(io);
        let shared = Arc::clone(&gather.shared);
        let gathered = gather.with(|mut io| async move {
            for piece in pieces {
                io.write_all(piece).await?;
                io.flush().await?;
            }
            tokio::task::yield_now().await;
            io.shutdown().await?;
            Ok::<_, Failed>(())
        });
        gathered.await.unwrap();
        std::mem::take(&mut lock(&shared).io.writes)
    }

    #[tokio::test]
    async fn what_is_said_in_one_go_leaves_in_one_write() {
        let io = Noted {
            most: usize::MAX,
            ..Noted::default()
        };
        assert_eq!(
            written(&[b"head", b"body", b"trailers"], io).await,
            [b"headbodytrailers"]
        );
    }

    #[tokio::test]
    async fn what_is_long_is_sent_at_once_with_what_was_kept() {
        let io = Noted {
            most: usize::MAX,
            ..Noted::default()
        };
        let long = vec![7; MAX_KEPT];
        let writes = written(&[b"head", &long, b"tail"], io).await;
        assert_eq!(writes, [[&b"head"[..], &long].concat(), b"tail".to_vec()]);
    }

    #[tokio::test]
    async fn order_holds_whatever_is_taken_of_each_write() {
        let pieces: Vec<Vec<u8>> = (0..60u8).map(|n| vec![n; usize::from(n) * 37]).collect();
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        for (most, waits) in [(1, 3), (5, 0), (1_000, 2), (usize::MAX, 1)] {
            let io = Noted {
                most,
                waits,
                ..Noted::default()
            };
            assert!(written(&pieces, io).await.concat() == pieces.concat(), "{most} {waits}");
        }
    }

    #[tokio::test]
    async fn a_byte_stream_that_takes_nothing_ends_its_connection() {
        let gathered = Gather::new(Noted::default()).with(|mut io| async move {
            io.write_all(b"head").await?;
            std::future::pending::<Result<(), Failed>>().await
        });
        assert!(gathered.await.is_err());
    }

    #[tokio::test]
    async fn no_more_is_kept_than_may_be() {
        let io = Noted {
            most: usize::MAX,
            waits: usize::MAX,
            ..Noted::default()
        };
        let mut gather = Gather::new(io);
        let mut taken = 0;
        let full = poll_fn(|cx| {
            for _ in 0..100 {
                match Pin::new(&mut gather).poll_write(cx, &[1; 1_000]) {
                    Poll::Ready(length) => taken += length.unwrap(),
                    Poll::Pending => return Poll::Ready(true),
                }
            }
            Poll::Ready(false)
        });
        assert!(full.await && taken <= MAX_KEPT, "{taken}");
    }
}
