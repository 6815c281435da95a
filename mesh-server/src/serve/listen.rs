//! Connections from a listener, whatever it takes: the one accept loop of this crate's servers.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// The first pause after an accept that failed for want of something.
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// The longest pause. File descriptors come back when other connections end, so there is nothing to gain from waiting
/// longer, and nothing from asking more often.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A source of connections. Implement it to serve from something other than a TCP listener.
pub trait Listen: Send + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next connection and where it comes from. Must be cancel-safe, as [`TcpListener::accept`] is.
    ///
    /// # Errors
    ///
    /// Whatever stands in the way now. The caller tries again.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, SocketAddr)>> + Send;

    /// The address it listens on, which is what the control plane knows the server by. Default: unknown; nobody configures the
    /// server then, and it is STRICT.
    fn address(&self) -> Option<SocketAddr> {
        None
    }

    /// The address a connection was made to. Default: the one it listens on.
    fn destination(&self, _connection: &Self::Io) -> Option<SocketAddr> {
        self.address()
    }
}

impl Listen for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = Self::accept(self).await?;
        // Responses are written whole; Nagle's algorithm would only hold them back.
        stream.set_nodelay(true)?;
        Ok((stream, peer))
    }

    fn address(&self) -> Option<SocketAddr> {
        self.local_addr().ok()
    }

    fn destination(&self, connection: &TcpStream) -> Option<SocketAddr> {
        connection.local_addr().ok()
    }
}

/// A listener that only ever yields connections.
#[derive(Debug)]
pub(crate) struct Incoming<L> {
    listener: L,
    pause: Duration,
    resume_at: Option<Instant>,
}

impl<L: Listen> Incoming<L> {
    pub(crate) fn new(listener: L) -> Self {
        Self {
            listener,
            pause: FIRST_PAUSE,
            resume_at: None,
        }
    }

    /// The address that is listened on.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.listener.address()
    }

    /// The address a connection was made to.
    pub(crate) fn destination(&self, connection: &L::Io) -> Option<SocketAddr> {
        self.listener.destination(connection)
    }

    /// The next connection. Cancel-safe: a pause that was begun is not begun again.
    pub(crate) async fn next(&mut self) -> (L::Io, SocketAddr) {
        loop {
            if let Some(resume_at) = self.resume_at {
                tokio::time::sleep_until(resume_at).await;
                self.resume_at = None;
            }
            match self.listener.accept().await {
                Ok(connection) => {
                    self.pause = FIRST_PAUSE;
                    return connection;
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, pause = ?self.pause, "cannot accept connections now");
                    self.resume_at = Some(Instant::now() + self.pause);
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

/// Whether the error is that of a connection which ended before it was accepted (`accept(2)`): the next may be fine. The
/// others, such as EMFILE, would come again at once.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process out of file descriptors, for a while.
    struct Exhausted {
        failures: usize,
        asked_at: Vec<Duration>,
        since: Instant,
    }

    impl Listen for Exhausted {
        type Io = tokio::io::DuplexStream;

        async fn accept(&mut self) -> io::Result<(Self::Io, SocketAddr)> {
            self.asked_at.push(self.since.elapsed());
            if self.asked_at.len() <= self.failures {
                return Err(io::Error::from_raw_os_error(24));
            }
            Ok((tokio::io::duplex(1).0, ([127, 0, 0, 1], 1).into()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_survives_exhaustion_and_does_not_spin() {
        let mut incoming = Incoming::new(Exhausted {
            failures: 12,
            asked_at: Vec::new(),
            since: Instant::now(),
        });
        incoming.next().await;
        let gaps: Vec<u128> = incoming
            .listener
            .asked_at
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).as_millis())
            .collect();
        assert_eq!(gaps, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000, 1000]);
        assert_eq!(incoming.pause, FIRST_PAUSE);
    }
}
