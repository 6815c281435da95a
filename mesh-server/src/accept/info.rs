//! What is known of a connection that was let in, for as long as it is open.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::{Extensions, HeaderValue};
use mesh_core::authorize;
use mesh_core::config::{Authorization, ConnectionFacts, Entered, LogFilter, ServerRules, Transport};
use mesh_core::identity::{SpiffeId, forwarded_client_cert};
use mesh_core::jwt::JwtClaims;
use mesh_core::limit::{Buckets, Limiter, Places};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ClientHello;
use rustls::time_provider::TimeProvider;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::door::Now;
use super::{PeerIdentity, UNSPECIFIED};
use crate::telemetry::{Live, Pairs};

/// The most protocols of a client hello that filter chains are matched with. Clients offer three; a chain that is for the
/// seventeenth is not found.
const MAX_PROTOCOLS: usize = 16;

/// A connection that was let in: by whom and to where it was made, and whether the rules still admit it. Found in a request's
/// extensions by [`ConnectionInfo::of`]. Cheap to clone; clones are the same connection.
#[derive(Clone)]
pub struct ConnectionInfo {
    shared: Arc<Shared>,
}

struct Shared {
    facts: Facts,
    entered: Kind,
    /// `None`: it rests on no certificate.
    expiry: Option<Expiry>,
    revoked: AtomicBool,
    /// The rules of its server; `None`: code made it plaintext.
    follow: Option<watch::Receiver<Arc<Now>>>,
    /// What its requests must pass, by the rules that were last seen. A lock for a moment: requests of one connection seldom meet.
    guard: Mutex<Option<(Arc<Now>, Guard)>>,
    /// How many of them there may be, likewise.
    limiter: Mutex<Limited>,
    /// What this connection took of limits that are each connection's.
    buckets: OnceLock<Buckets>,
    /// What its requests are counted under.
    pairs: Pairs,
    /// Whether it is in use, where a loop that is not ours wants to know.
    live: OnceLock<Arc<Live>>,
    /// Which of its requests are written to the access log, and whether any may be: asked of each, where mostly none is.
    log: Mutex<Option<Arc<LogFilter>>>,
    logs: AtomicBool,
    /// How often the rules of its server changed while it was open, and what tells its open requests of that.
    changes: AtomicU64,
    bell: Arc<Notify>,
    /// The rules do not let it in any more.
    unfit: AtomicBool,
}

/// When the first of the two certificates that a connection rests on ends, by the wall: no other clock counts what passes while a machine
/// sleeps.
pub(super) struct Expiry {
    pub(super) until: UnixTime,
    pub(super) clock: Arc<dyn TimeProvider>,
}

impl Expiry {
    /// How long there is until its last second is over (RFC 5280, 4.1.2.5: that is still of it). None at all where the clock cannot be read:
    /// nothing is trusted then.
    fn left(&self) -> Duration {
        let now = self.clock.current_time();
        now.map_or(Duration::ZERO, |now| {
            Duration::from_secs((self.until.as_secs() + 1).saturating_sub(now.as_secs()))
        })
    }
}

/// How many requests of a connection there may be, and by which rules.
type Limited = Option<(Arc<Now>, Option<Arc<Limiter>>)>;

/// What the requests of a connection must pass.
#[derive(Clone, Debug)]
pub(crate) enum Guard {
    /// Nothing: nobody configures it.
    Free,
    /// Nothing passes: nobody knows what may.
    Closed,
    /// This.
    By(Arc<Authorization>),
}

/// [`Entered`], owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// In plaintext, because code said so and nobody was asked.
    Unasked,
    /// In plaintext, because the configuration said so.
    Plaintext,
    /// Under TLS without a certificate, because the configuration said so.
    OneSided,
    /// Under mutual TLS.
    Mutual(SpiffeId),
}

/// [`ConnectionFacts`], owned.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    transport: Transport,
    server_name: Option<Box<str>>,
    protocols: Vec<Box<str>>,
    /// What handlers are told of the peer's certificate.
    forwarded: Option<HeaderValue>,
}

impl Facts {
    /// A connection of which nothing was read, or that began in plaintext as `protocol`.
    pub(super) fn plaintext(source: SocketAddr, destination: SocketAddr, protocol: Option<&str>) -> Self {
        Self {
            source,
            destination,
            transport: Transport::RawBuffer,
            server_name: None,
            protocols: protocol.into_iter().map(Box::from).collect(),
            forwarded: None,
        }
    }

    /// A connection that began with `hello`.
    pub(super) fn tls(source: SocketAddr, destination: SocketAddr, hello: &ClientHello<'_>) -> Self {
        let offered = hello.alpn().into_iter().flatten().take(MAX_PROTOCOLS);
        Self {
            source,
            destination,
            transport: Transport::Tls,
            server_name: hello.server_name().map(Box::from),
            protocols: offered.map(|name| String::from_utf8_lossy(name).into()).collect(),
            forwarded: None,
        }
    }

    /// The peer has shown this certificate to `own`, who has verified it.
    pub(super) fn verified(self, own: &SpiffeId, certificate: Option<&CertificateDer<'_>>) -> Self {
        Self {
            forwarded: certificate.and_then(|certificate| forwarded_client_cert(own, certificate).ok()),
            ..self
        }
    }

    /// Hands them to `ask` in the form that decisions take.
    pub(super) fn with<T>(&self, ask: impl FnOnce(&ConnectionFacts<'_>) -> T) -> T {
        let protocols: Vec<&str> = self.protocols.iter().map(|name| &**name).collect();
        ask(&ConnectionFacts {
            destination: self.destination,
            source: self.source,
            transport: self.transport,
            server_name: self.server_name.as_deref(),
            protocols: &protocols,
        })
    }
}

impl ConnectionInfo {
    pub(super) fn new(
        facts: Facts,
        entered: Kind,
        expiry: Option<Expiry>,
        follow: Option<watch::Receiver<Arc<Now>>>,
    ) -> Self {
        let log = follow.as_ref().and_then(|follow| access_log(&follow.borrow(), &facts));
        Self {
            shared: Arc::new(Shared {
                logs: AtomicBool::new(log.is_some()),
                log: Mutex::new(log),
                facts,
                entered,
                expiry,
                revoked: AtomicBool::new(false),
                follow,
                guard: Mutex::default(),
                limiter: Mutex::default(),
                buckets: OnceLock::new(),
                pairs: Pairs::default(),
                live: OnceLock::new(),
                changes: AtomicU64::new(0),
                bell: Arc::default(),
                unfit: AtomicBool::new(false),
            }),
        }
    }

    /// The connection that a request came by; `None` where it came by no door of this crate.
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        let of_peer = extensions.get::<PeerIdentity>().map(PeerIdentity::connection);
        of_peer.or_else(|| extensions.get())
    }

    /// Who is at the other end; `None` on plaintext, and under TLS without a client's certificate.
    pub fn peer(&self) -> Option<PeerIdentity> {
        PeerIdentity::of(self)
    }

    /// The verified id of the other end, if it has one.
    pub fn peer_id(&self) -> Option<&SpiffeId> {
        match &self.shared.entered {
            Kind::Mutual(id) => Some(id),
            Kind::Unasked | Kind::Plaintext | Kind::OneSided => None,
        }
    }

    /// What Envoy would say of the peer's certificate.
    pub(crate) fn forwarded_client_cert(&self) -> Option<&HeaderValue> {
        self.shared.facts.forwarded.as_ref()
    }

    /// Where it came from, as the socket says.
    pub fn source(&self) -> SocketAddr {
        self.shared.facts.source
    }

    /// The address it was made to; unspecified where the listener could not tell.
    pub fn destination(&self) -> SocketAddr {
        self.shared.facts.destination
    }

    /// The address it was made to, where the listener could tell.
    pub(crate) fn known_destination(&self) -> Option<SocketAddr> {
        Some(self.destination()).filter(|address| *address != UNSPECIFIED)
    }

    /// The server name (SNI) of its TLS handshake.
    pub fn server_name(&self) -> Option<&str> {
        self.shared.facts.server_name.as_deref()
    }

    /// Whether it is encrypted.
    pub fn is_encrypted(&self) -> bool {
        matches!(self.shared.entered, Kind::OneSided | Kind::Mutual(_))
    }

    /// What its requests are counted under.
    pub(crate) fn pairs(&self) -> &Pairs {
        &self.shared.pairs
    }

    /// Whether it is in use, where somebody wants to know.
    pub(crate) fn live(&self) -> Option<&Arc<Live>> {
        self.shared.live.get()
    }

    /// Has requests tell `live` of themselves. The first to be given counts.
    #[cfg(feature = "tonic")]
    pub(crate) fn tell(&self, live: Arc<Live>) {
        self.shared.live.get_or_init(|| live);
    }

    /// Whether the configuration let it in, whoever it is of.
    pub(crate) fn is_configured(&self) -> bool {
        self.shared.entered != Kind::Unasked
    }

    /// Whether the rules no longer admit it, or a certificate behind it has ended. What it had begun may end; nothing that comes by it now is
    /// served.
    pub fn is_revoked(&self) -> bool {
        self.shared.revoked.load(Ordering::Acquire) || self.certified_left().is_some_and(|left| left.is_zero())
    }

    /// How long both certificates still hold, for all that can be said now; `None`: for ever, since there are none.
    pub(super) fn certified_left(&self) -> Option<Duration> {
        self.shared.expiry.as_ref().map(Expiry::left)
    }

    /// What a decision is told of it, and of what a request's token says.
    pub(crate) fn facts_of<'a>(&'a self, claims: Option<&'a JwtClaims>) -> authorize::Facts<'a> {
        authorize::Facts {
            source: Some(self.source().ip()),
            destination: self.known_destination(),
            server_name: self.server_name(),
            peer: self.peer_id(),
            claims,
            head: None,
        }
    }

    /// What its requests must pass now.
    pub(crate) fn guard(&self) -> Guard {
        let Some(follow) = &self.shared.follow else {
            return Guard::Free;
        };
        let mut last = self.shared.guard.lock().unwrap_or_else(PoisonError::into_inner);
        let now = follow.borrow();
        match &*last {
            Some((seen, guard)) if Arc::ptr_eq(seen, &now) => guard.clone(),
            _ => {
                let guard = self.shared.facts.with(|facts| Guard::of(&now.rules, facts));
                *last = Some((Arc::clone(&now), guard.clone()));
                guard
            }
        }
    }

    /// How many requests of its chain there may be now; `shared` are the buckets of the process.
    pub(crate) fn limiter(&self, shared: &Buckets) -> Option<Arc<Limiter>> {
        let follow = self.shared.follow.as_ref()?;
        let mut last = self.shared.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        let now = follow.borrow();
        match &*last {
            Some((seen, limiter)) if Arc::ptr_eq(seen, &now) => limiter.clone(),
            _ => {
                let limits = self.shared.facts.with(|facts| {
                    now.rules
                        .limits(facts)
                        .map(|(scope, limits)| (scope, Arc::clone(limits)))
                });
                let limiter = limits.map(|(scope, limits)| {
                    let at = Instant::now().into_std();
                    let connection = self.shared.buckets.get_or_init(|| Buckets::new(at));
                    Arc::new(Limiter::new(&limits, &scope, Places { shared, connection }, at))
                });
                *last = Some((Arc::clone(&now), limiter.clone()));
                limiter
            }
        }
    }

    /// Which of its requests are written to the access log, if any may be.
    #[inline]
    pub(crate) fn access_log(&self) -> Option<Arc<LogFilter>> {
        match self.shared.logs.load(Ordering::Relaxed) {
            false => None,
            true => self.shared.log.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Goes by other rules in what is written from now on.
    pub(super) fn log_by(&self, now: &Now) {
        let log = access_log(now, &self.shared.facts);
        let mut last = self.shared.log.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.logs.store(log.is_some(), Ordering::Relaxed);
        *last = log;
    }

    /// How often its open requests had to be looked at again.
    pub(crate) fn changes(&self) -> u64 {
        self.shared.changes.load(Ordering::Acquire)
    }

    /// What rings when that is once more.
    pub(crate) fn bell(&self) -> &Arc<Notify> {
        &self.shared.bell
    }

    /// Has its open requests looked at again.
    pub(super) fn change(&self) {
        self.shared.changes.fetch_add(1, Ordering::Release);
        self.shared.bell.notify_waiters();
    }

    /// Whether the rules would not let it in now.
    pub(crate) fn is_unfit(&self) -> bool {
        self.shared.unfit.load(Ordering::Acquire)
    }

    /// The rules would not let it in now: what is open on it may not go on.
    pub(super) fn no_longer_fits(&self) {
        self.shared.unfit.store(true, Ordering::Release);
    }

    /// Whether there are rules that may change.
    pub(crate) fn has_rules(&self) -> bool {
        self.shared.follow.is_some()
    }

    /// Takes no further request from it.
    pub(crate) fn revoke(&self) {
        self.shared.revoked.store(true, Ordering::Release);
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.shared.facts
    }

    pub(super) fn entered(&self) -> Entered<'_> {
        match &self.shared.entered {
            Kind::Unasked | Kind::Plaintext => Entered::Plaintext,
            Kind::OneSided => Entered::OneSided,
            Kind::Mutual(id) => Entered::Mutual(id),
        }
    }
}

fn access_log(now: &Now, facts: &Facts) -> Option<Arc<LogFilter>> {
    facts.with(|facts| now.rules.telemetry(facts)?.access_log.clone())
}

impl Guard {
    fn of(rules: &ServerRules, facts: &ConnectionFacts<'_>) -> Self {
        match rules.authorization(facts) {
            Ok(None) => Self::Free,
            Ok(Some(authorization)) => Self::By(Arc::clone(authorization)),
            Err(_) => Self::Closed,
        }
    }
}

impl fmt::Debug for ConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionInfo")
            .field("source", &self.source())
            .field("destination", &self.destination())
            .field("entered", &self.shared.entered)
            .field("revoked", &self.is_revoked())
            .finish_non_exhaustive()
    }
}
