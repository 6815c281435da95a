//! From a connection to whom it is of: by mutual TLS, or as the server's own configuration says, or not at all.
//!
//! The only door into this crate's servers, and usable in front of any other. Each connection is judged by the newest rules:
//! STRICT where nothing configures servers; the chains of the listener that the control plane has for the server's address
//! where it does, be they STRICT, PERMISSIVE or DISABLE in Istio's words; and nobody is let in before that listener was heard
//! (gRFC A36). Each handshake takes the newest identity that the [`Link`] holds, so a renewal needs no restart.
//!
//! Who does not speak TLS where it is asked for, or shows no good certificate, gets no byte of an HTTP answer, as with Istio's
//! STRICT: the connection is closed, the reason logged and counted as `handshake_refused`.
//!
//! What an unverified stranger may cost is bounded: [`MAX_HANDSHAKES`] at once, [`HANDSHAKE_TIMEOUT`] each, and the sizes
//! that rustls and the verifier allow. Where more come, the one that has been at it longest gives way (`handshake_refused.crowded_out`):
//! strangers who say nothing keep nobody out.

mod beginning;
mod door;
mod info;
mod peer;
mod refused;
mod stream;
mod tenure;
mod tls;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_core::Link;
use mesh_core::config::{Clients, InboundSecurity};
use mesh_core::crowd::Crowd;
use mesh_core::identity::Identity;
use mesh_core::identity::verify::{Leaf, Refusal};
use rustls::ServerConnection;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use crate::dangerous::Dangerous;
use door::Door;
use info::{Expiry, Facts, Kind};
use tenure::{Under, span};

pub(crate) use beginning::{Beginning, Peeked, Watch};
pub use info::ConnectionInfo;
pub(crate) use info::Guard;
pub use peer::PeerIdentity;
pub use refused::Refused;
pub use stream::MeshStream;
pub(crate) use tenure::Tenure;
use tls::usable;
pub(crate) use tls::usable_identity;

/// The longest from a connection to a verified peer, waiting for the first byte included. A handshake takes
/// two round trips and a few milliseconds; five seconds leave room for a lost packet or two, and none for a peer that only
/// holds the place.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The most handshakes at once; of more, the oldest gives way. Each may hold a chain of 64 KiB and as much of rustls' buffers: 64 MiB in
/// all. As many good clients as that may come at once, after a restart say.
pub const MAX_HANDSHAKES: usize = 512;

/// How long a refused peer is listened to after its alert was sent, and for how many bytes. Closing a socket with unread
/// bytes in it resets the connection, and the reset would overtake the alert that tells the peer why.
const LINGER: Duration = Duration::from_millis(250);
const LINGER_BYTES: usize = 16 * 1024;

/// Stands for an address that is not known.
const UNSPECIFIED: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Accepts connections. Clones share the limit of handshakes.
#[derive(Clone, Debug)]
pub struct Acceptor {
    link: Link,
    shared: Arc<Shared>,
    address: Option<SocketAddr>,
    door: Arc<Door>,
    floor: bool,
}

#[derive(Debug)]
struct Shared {
    configs: tls::Configs,
    strangers: Mutex<Crowd<oneshot::Sender<()>>>,
}

/// One of the handshakes, until it is dropped.
struct Stranger<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Shared {
    /// One more handshake, and what tells it to give way.
    fn enter(&self) -> (Stranger<'_>, oneshot::Receiver<()>) {
        let (tell, told) = oneshot::channel();
        let (number, gone) = self.lock().enter(tell);
        // Dropping it tells.
        drop(gone);
        (Stranger { shared: self, number }, told)
    }

    fn lock(&self) -> MutexGuard<'_, Crowd<oneshot::Sender<()>>> {
        // A queue is whole whatever its holder was doing when it panicked.
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stranger<'_> {
    fn drop(&mut self) {
        self.shared.lock().leave(self.number);
    }
}

impl Acceptor {
    /// An acceptor that is STRICT whatever the control plane says, and shows the identity of `link`, whatever it is when a
    /// connection arrives. Acceptors of one link share their limits.
    pub fn new(link: &Link) -> Self {
        Self::of(link, None, false)
    }

    /// An acceptor of a server that listens on `address`: it goes by the listener that the control plane has for that. STRICT
    /// where the link's source configures no servers.
    pub fn listening_on(link: &Link, address: SocketAddr) -> Self {
        Self::of(link, Some(address), false)
    }

    fn of(link: &Link, address: Option<SocketAddr>, unconfigured: bool) -> Self {
        let shared = link.attached(|| Shared {
            configs: tls::Configs::default(),
            strangers: Mutex::new(Crowd::new(MAX_HANDSHAKES)),
        });
        Self {
            link: link.clone(),
            shared,
            address,
            door: Arc::new(Door::new(link, address, unconfigured)),
            floor: false,
        }
    }

    /// Lets nobody in without mutual TLS, whatever the configuration says: it can ask for certain clients, and for nothing
    /// less.
    #[must_use]
    pub fn require_mutual_tls(mut self) -> Self {
        self.floor = true;
        self
    }

    /// Choices that give up the protection of the mesh.
    pub fn dangerous(self) -> Dangerous<Self> {
        Dangerous(self)
    }

    /// Shakes hands with `peer` over `io`. Dropping the future closes the connection.
    ///
    /// # Errors
    ///
    /// When the peer is not let in, for whatever reason. It is logged and counted already.
    pub async fn accept<IO>(&self, io: IO, peer: SocketAddr) -> Result<MeshStream<IO>, Refused>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        self.accept_at(io, peer, self.address.unwrap_or(UNSPECIFIED)).await
    }

    /// As [`accept`](Self::accept), of a connection that was made to `destination`: chains may look at that.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn accept_at<IO>(
        &self,
        io: IO,
        peer: SocketAddr,
        destination: SocketAddr,
    ) -> Result<MeshStream<IO>, Refused>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let (stranger, gives_way) = self.shared.enter();
        let accepted = tokio::select! {
            // What is done is done, also for one that is told to go in the same moment.
            biased;
            accepted = timeout(HANDSHAKE_TIMEOUT, self.handshake(io, peer, destination)) => accepted,
            _ = gives_way => Ok(Err((Refused::crowded_out(), None))),
        };
        drop(stranger);
        let (refused, io) = match accepted {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(refused)) => refused,
            Err(_) => (Refused::timeout(), None),
        };
        let reason = refused.reason();
        self.link.tally().count("handshake_refused", reason);
        // Strangers must not fill the log: of each reason the first, the second, the fourth...; the counter has all.
        let count = self.link.tally().get("handshake_refused", reason);
        match count.is_power_of_two() {
            true => tracing::warn!(%peer, reason, count, "connection refused: {refused}"),
            false => tracing::debug!(%peer, reason, count, "connection refused: {refused}"),
        }
        if let Some(io) = io.filter(|_| refused.sends_alert()) {
            linger(io).await;
        }
        Err(refused)
    }

    async fn handshake<IO>(
        &self,
        io: IO,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Result<MeshStream<IO>, (Refused, Option<Peeked<IO>>)>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let mut io = Peeked::new(io);
        // What is changed from here on is told to whoever serves the connection, however long the handshake takes.
        let mut follow = self.door.follow();
        let now = Arc::clone(&follow.borrow_and_update());
        let under = Under {
            follow: follow.clone(),
            shown: None,
            floor: self.floor,
        };
        let beginning = match self.floor || now.rules.looks_at_beginning() {
            true => Some(io.beginning().await.map_err(|error| own(Refused::io(error)))?),
            false => None,
        };
        let protocol = match beginning {
            Some(Beginning::Tls) => return self.shake_hands(io, source, destination, &now, under).await,
            // What Envoy's HTTP inspector calls them, which chains match as protocols.
            Some(Beginning::Http2) => Some("h2c"),
            Some(Beginning::Other) => Some("http/1.1"),
            None => None,
        };
        let facts = Facts::plaintext(source, destination, protocol);
        let security = facts.with(|facts| now.rules.security(facts, self.floor).cloned());
        security.map_err(|why| own(Refused::not_taken(why)))?;
        let info = permitted(
            &now,
            ConnectionInfo::new(facts, Kind::Plaintext, None, Some(follow.clone())),
        )?;
        let tenure = Tenure::new(info, Duration::MAX, Some(under), self.link.tally().clone());
        Ok(MeshStream::plaintext(io, tenure))
    }

    async fn shake_hands<IO>(
        &self,
        io: Peeked<IO>,
        source: SocketAddr,
        destination: SocketAddr,
        now: &door::Now,
        mut under: Under,
    ) -> Result<MeshStream<IO>, (Refused, Option<Peeked<IO>>)>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let begun = begin(io).await?;
        let facts = Facts::tls(source, destination, &begun.client_hello());
        let security = facts.with(|facts| now.rules.security(facts, self.floor).cloned());
        let clients = match security.map_err(|why| own(Refused::not_taken(why)))? {
            InboundSecurity::Mutual(clients) => Some(clients),
            // The rules do not send a TLS connection to a chain without TLS.
            InboundSecurity::OneSided | InboundSecurity::Plaintext => None,
        };
        let shown = facts.with(|facts| now.rules.identity(facts));
        let identity = usable(&self.link, &shown).map_err(own)?;
        let config = self.shared.configs.of(&shown, &identity, clients.as_ref(), &self.link);
        under.shown = Some((now.trust_of(&shown), shown));
        let tls = begun.into_stream(config.map_err(own)?).into_fallible().await;
        let tls = tls.map_err(|(error, io)| (Refused::handshake(error), Some(io)))?;
        let (entered, until) = entered(tls.get_ref().1, clients.as_ref(), &identity).map_err(own)?;
        let clock = self.link.wall_clock().current_time();
        let clock = clock.ok_or_else(|| own(Refused::own_certificate_expired()))?;
        let shown = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let facts = match &entered {
            Kind::Mutual(_) => facts.verified(identity.id(), shown),
            _ => facts,
        };
        let expiry = Expiry {
            until,
            clock: Arc::clone(self.link.wall_clock()),
        };
        let info = ConnectionInfo::new(facts, entered, Some(expiry), Some(under.follow.clone()));
        let info = permitted(now, info)?;
        let tenure = Tenure::new(info, span(clock, until), Some(under), self.link.tally().clone());
        Ok(MeshStream::encrypted(tls, tenure))
    }
}

impl Dangerous<Acceptor> {
    /// Is STRICT, instead of closed, where the control plane configures servers and has not yet said anything of this one or
    /// says that there is nothing: nobody comes in unverified, but what else its configuration would forbid is not known.
    #[must_use]
    pub fn unconfigured(self) -> Acceptor {
        let Acceptor {
            link, address, floor, ..
        } = self.0;
        let open = Acceptor::of(&link, address, true);
        Acceptor { floor, ..open }
    }
}

impl ConnectionInfo {
    /// A connection of a server that code made plaintext: no configuration was asked.
    pub(crate) fn unasked(source: SocketAddr, destination: Option<SocketAddr>) -> Self {
        let facts = Facts::plaintext(source, destination.unwrap_or(UNSPECIFIED), None);
        Self::new(facts, Kind::Unasked, None, None)
    }
}

/// The connection, if no policy forbids it.
fn permitted<IO>(now: &door::Now, info: ConnectionInfo) -> Result<ConnectionInfo, (Refused, Option<IO>)> {
    let permits = info.facts().with(|facts| now.rules.permits(facts, info.entered()));
    permits.map_err(|why| own(Refused::not_taken(why)))?;
    Ok(info)
}

/// A refusal after which the connection is dropped at once.
fn own<IO>(refused: Refused) -> (Refused, Option<IO>) {
    (refused, None)
}

/// Reads the client hello.
async fn begin<IO>(io: Peeked<IO>) -> Result<StartHandshake<Peeked<IO>>, (Refused, Option<Peeked<IO>>)>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io);
    let begun = (&mut hello).await;
    begun.map_err(|error| (Refused::handshake(error), hello.take_io()))
}

/// How the peer of a complete handshake came in, and which certificate expires first.
fn entered(
    connection: &ServerConnection,
    clients: Option<&Clients>,
    own: &Identity,
) -> Result<(Kind, rustls::pki_types::UnixTime), Refused> {
    // rustls refuses a client that offers only protocols we lack, but takes one that offers none.
    connection.alpn_protocol().ok_or_else(Refused::no_protocol)?;
    let own = own.svid().not_after();
    if clients.is_none() {
        return Ok((Kind::OneSided, own));
    }
    let chain = connection.peer_certificates().unwrap_or_default();
    let leaf = chain.first().ok_or_else(|| Refused::peer(Refusal::NoCertificate))?;
    let leaf = Leaf::read(leaf).map_err(Refused::peer)?;
    Ok((Kind::Mutual(leaf.id().clone()), leaf.not_after().min(own)))
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
