//! From a connection to a peer: STRICT mutual TLS, or nothing.
//!
//! The only door into this crate's servers, and usable in front of any other. Each handshake takes the newest identity that
//! the [`Link`] holds, so a renewal needs no restart. Who does not speak TLS, or shows no good certificate, gets no byte of
//! an HTTP answer, as with Istio's STRICT: the connection is closed, the reason logged and counted as
//! `handshake_refused`.
//!
//! What an unverified stranger may cost is bounded: [`MAX_HANDSHAKES`] at once, [`HANDSHAKE_TIMEOUT`] each, and the sizes
//! that rustls and the verifier allow. Further connections wait for a place within the same timeout.

mod peer;
mod refused;
mod stream;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::Link;
use mesh_core::identity::Identity;
use mesh_core::identity::verify::{Leaf, Refusal};
use rustls::ServerConnection;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

pub use peer::PeerIdentity;
pub use refused::Refused;
pub use stream::MeshStream;
pub(crate) use tls::usable_identity;

/// The longest from a connection to a verified peer, waiting for a place included. A handshake takes two round trips and a
/// few milliseconds; five seconds leave room for a lost packet or two, and none for a peer that only holds the place.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The most handshakes at once. Each may hold a chain of 64 KiB and as much of rustls' buffers: 32 MiB in all.
pub const MAX_HANDSHAKES: usize = 256;

/// How long a refused peer is listened to after its alert was sent, and for how many bytes. Closing a socket with unread
/// bytes in it resets the connection, and the reset would overtake the alert that tells the peer why.
const LINGER: Duration = Duration::from_millis(250);
const LINGER_BYTES: usize = 16 * 1024;

/// Accepts connections under STRICT mutual TLS. Clones share the limit of handshakes.
#[derive(Clone, Debug)]
pub struct Acceptor {
    link: Link,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    configs: tls::Configs,
    places: Semaphore,
}

impl Acceptor {
    /// An acceptor that shows the identity of `link`, whatever it is when a connection arrives. Acceptors of one link share
    /// their limits.
    pub fn new(link: &Link) -> Self {
        let shared = link.attached(|| Shared {
            configs: tls::Configs::default(),
            places: Semaphore::new(MAX_HANDSHAKES),
        });
        Self {
            link: link.clone(),
            shared,
        }
    }

    /// Shakes hands with `peer` over `io`. Dropping the future closes the connection.
    ///
    /// # Errors
    ///
    /// When the peer is not verified, for whatever reason. It is logged and counted already.
    pub async fn accept<IO>(&self, io: IO, peer: SocketAddr) -> Result<MeshStream<IO>, Refused>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let accepted = timeout(HANDSHAKE_TIMEOUT, self.handshake(io, peer)).await;
        let (refused, io) = match accepted {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err((refused, io))) => (refused, io),
            Err(_) => (Refused::timeout(), None),
        };
        let reason = refused.reason();
        self.link.tally().count("handshake_refused", reason);
        tracing::warn!(%peer, reason, "connection refused: {refused}");
        if let Some(io) = io.filter(|_| refused.sends_alert()) {
            linger(io).await;
        }
        Err(refused)
    }

    async fn handshake<IO>(&self, io: IO, peer: SocketAddr) -> Result<MeshStream<IO>, (Refused, Option<IO>)>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let _place = self.shared.places.acquire().await;
        let own = |refused| (refused, None);
        let identity = usable_identity(&self.link).map_err(own)?;
        let config = self.shared.configs.of(&identity, &self.link).map_err(own)?;
        let tls = TlsAcceptor::from(config).accept(io).into_fallible().await;
        let tls = tls.map_err(|(error, io)| (Refused::handshake(error), Some(io)))?;
        let leaf = verified_leaf(tls.get_ref().1).map_err(own)?;
        let now = self.link.wall_clock().current_time();
        let now = now.ok_or_else(|| own(Refused::own_certificate_expired()))?;
        Ok(MeshStream::new(
            tls,
            PeerIdentity::verified(leaf.id().clone(), peer),
            now,
            earlier(&leaf, &identity),
        ))
    }
}

/// What the peer proved in a handshake that is complete.
fn verified_leaf(connection: &ServerConnection) -> Result<Leaf, Refused> {
    // rustls refuses a client that offers only protocols we lack, but takes one that offers none.
    connection.alpn_protocol().ok_or_else(Refused::no_protocol)?;
    let chain = connection.peer_certificates().unwrap_or_default();
    let leaf = chain.first().ok_or_else(|| Refused::peer(Refusal::NoCertificate))?;
    Leaf::read(leaf).map_err(Refused::peer)
}

/// Which of the two certificates expires first.
fn earlier(leaf: &Leaf, own: &Identity) -> rustls::pki_types::UnixTime {
    leaf.not_after().min(own.svid().not_after())
}

async fn linger<IO: AsyncRead + AsyncWrite + Unpin>(mut io: IO) {
    let drained = async {
        io.shutdown().await?;
        let mut sink = [0; 1024];
        for _ in 0..LINGER_BYTES / sink.len() {
            if io.read(&mut sink).await? == 0 {
                break;
            }
        }
        std::io::Result::Ok(())
    };
    // Neither an error nor the timeout matters: the peer is gone, or has been listened to for long enough.
    let _ = timeout(LINGER, drained).await;
}
