//! How connections to a control plane are dialled, so that tests and simulations can do it their way.
//!
//! Of a name with several addresses they are raced ([`mesh_core::race`]): a control plane that one of them leads to is not given up on
//! for another one that swallows packets until the time for a connection is over.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use mesh_core::race::Race;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::bootstrap::ServerUri;

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Dial = dyn Fn(ServerUri) -> Boxed<io::Result<Io>> + Send + Sync;
/// A dialled connection.
pub(crate) type Io = Box<dyn Duplex>;

/// Both directions of a byte stream.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// How connections to a control plane are dialled. Default: as the address says, TCP or a socket file. Tests and simulations inject their own.
#[derive(Clone)]
pub struct Connector(Arc<Dial>);

impl Connector {
    /// TCP, with Nagle's algorithm off; and the Unix socket of an address that is one.
    pub fn tcp() -> Self {
        Self::new(|uri: ServerUri| async move {
            if let Some(path) = uri.socket_path() {
                return socket(path).await;
            }
            let addresses = tokio::net::lookup_host((uri.host(), uri.port())).await?;
            let stream = raced(Race::new(addresses), TcpStream::connect::<SocketAddr>).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Io)
        })
    }

    /// Dials with `dial`.
    pub fn new<F, R, S>(dial: F) -> Self
    where
        F: Fn(ServerUri) -> R + Send + Sync + 'static,
        R: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self(Arc::new(move |uri| {
            let dialling = dial(uri);
            Box::pin(async move { Ok(Box::new(dialling.await?) as Io) })
        }))
    }

    pub(crate) async fn dial(&self, uri: ServerUri) -> io::Result<Io> {
        (self.0)(uri).await
    }
}

/// The first connection that is there, or the last failure. Dropping it ends all attempts.
async fn raced<S, F>(mut race: Race, dial: impl Fn(SocketAddr) -> F) -> io::Result<S>
where
    F: Future<Output = io::Result<S>>,
{
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    // No more than one for each delay of the race, within the time that a connection may take.
    let mut attempts: Vec<Pin<Box<F>>> = Vec::new();
    loop {
        while let Some(address) = race.begin(Instant::now().into_std()) {
            attempts.push(Box::pin(dial(address)));
        }
        if attempts.is_empty() {
            return Err(failure);
        }
        let wake = race.wake();
        let time = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let ended = poll_fn(|cx| {
            for (index, attempt) in attempts.iter_mut().enumerate() {
                if let Poll::Ready(end) = attempt.as_mut().poll(cx) {
                    return Poll::Ready((index, end));
                }
            }
            Poll::Pending
        });
        tokio::select! {
            // What is there is taken, however late it is.
            biased;
            (index, end) = ended => {
                match end {
                    Ok(stream) => return Ok(stream),
                    Err(error) => failure = error,
                }
                drop(attempts.swap_remove(index));
                race.failed();
            }
            () = time => {}
        }
    }
}

#[cfg(unix)]
async fn socket(path: &Path) -> io::Result<Io> {
    Ok(Box::new(tokio::net::UnixStream::connect(path).await?))
}

#[cfg(not(unix))]
async fn socket(_: &Path) -> io::Result<Io> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Default for Connector {
    fn default() -> Self {
        Self::tcp()
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Whom a race of three comes to and after how many milliseconds: each address answers so late, or is refused, or swallows all.
    async fn outcome(answers: [Result<u64, bool>; 3]) -> (Option<u16>, u64) {
        let addresses = ["[::1]:0", "127.0.0.1:1", "[::1]:2"];
        let race = Race::new(addresses.map(|text| text.parse::<SocketAddr>().unwrap()));
        let begun = Instant::now();
        let dial = |address: SocketAddr| async move {
            match answers[usize::from(address.port())] {
                Ok(after) => {
                    tokio::time::sleep(Duration::from_millis(after)).await;
                    Ok(address.port())
                }
                Err(true) => Err(io::ErrorKind::ConnectionRefused.into()),
                Err(false) => std::future::pending().await,
            }
        };
        let found = raced(race, dial).await;
        if let Err(error) = &found {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        }
        (found.ok(), begun.elapsed().as_millis() as u64)
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_swallows_everything_costs_a_quarter_of_a_second() {
        const SWALLOWED: Result<u64, bool> = Err(false);
        const REFUSED: Result<u64, bool> = Err(true);
        for (answers, expected) in [
            ([Ok(5), SWALLOWED, SWALLOWED], (Some(0), 5)),
            ([SWALLOWED, Ok(5), SWALLOWED], (Some(1), 255)),
            ([SWALLOWED, SWALLOWED, Ok(5)], (Some(2), 505)),
            ([REFUSED, REFUSED, Ok(5)], (Some(2), 5)),
            ([REFUSED, REFUSED, REFUSED], (None, 0)),
            // One that is slow is not given up on for the next.
            ([Ok(400), Ok(300), SWALLOWED], (Some(0), 400)),
            ([Ok(400), Ok(100), SWALLOWED], (Some(1), 350)),
        ] {
            assert_eq!(outcome(answers).await, expected, "{answers:?}");
        }
    }

    #[tokio::test]
    async fn a_name_is_dialled_over_real_sockets() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        // It may stand for the other loopback address, too, where nobody listens.
        let uri = ServerUri::parse(&format!("localhost:{}", listener.local_addr().unwrap().port())).unwrap();
        let connector = Connector::tcp();
        let (dialled, accepted) = tokio::join!(connector.dial(uri), listener.accept());
        assert!(dialled.is_ok() && accepted.is_ok());
    }
}
