//! The control plane as one value: the folder watched, the ports open, until it is dropped or shut down.
//!
//! `meshctl run` is this and a signal handler; tests and examples embed the same assembly, with port 0 and a clock of their
//! own.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::identity::TrustDomain;
use mesh_core::report::Tally;
use mesh_xds::Bootstrap;
use mesh_xds::server::{ClientReport, SnapshotCache};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::ca::{Authority, CaError, DEFAULT_LEAF_LIFETIME, Lifetime};
use crate::enrol::{self, EnrolError, Enrolment};
use crate::publish::{Publisher, Status};
use crate::translate::Mesh;
use crate::{serve, source};

/// How long a shutdown waits for streams to end before it drops them.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// A running control plane. Dropping it closes its ports and streams at once.
#[derive(Debug)]
pub struct ControlPlane {
    address: SocketAddr,
    plaintext_address: Option<SocketAddr>,
    enrolment: Enrolment,
    cache: SnapshotCache,
    status: watch::Receiver<Status>,
    tally: Tally,
    closing: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl ControlPlane {
    /// For a control plane of the YAML in `folder`.
    pub fn builder(folder: impl Into<PathBuf>) -> ControlPlaneBuilder {
        ControlPlaneBuilder {
            folder: folder.into(),
            mesh: Mesh::default(),
            listen: Listen::Address(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            plaintext: None,
            state: None,
            advertised: None,
            names: ["localhost", "127.0.0.1", "::1"].map(String::from).into(),
            clock: Arc::new(DefaultTimeProvider),
            leaf_lifetime: DEFAULT_LEAF_LIFETIME,
        }
    }

    /// The port that serves ADS and the CA over TLS.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The loopback port that serves ADS in the clear, if there is one.
    pub fn plaintext_address(&self) -> Option<SocketAddr> {
        self.plaintext_address
    }

    /// Makes join tokens and bootstraps.
    pub fn enrolment(&self) -> &Enrolment {
        &self.enrolment
    }

    /// A bootstrap for a workload, with a join token that works once within ten minutes.
    ///
    /// # Errors
    ///
    /// When the names do not make a SPIFFE id, or the token cannot be kept.
    pub fn bootstrap(&self, namespace: &str, service_account: &str) -> Result<Bootstrap, EnrolError> {
        self.enrolment.bootstrap(namespace, service_account, Lifetime::default())
    }

    /// A bootstrap for a client that speaks to the plaintext port and gets no identity; `None` without that port.
    pub fn plaintext_bootstrap(&self, namespace: &str, service_account: &str) -> Option<Bootstrap> {
        let server = self.plaintext_address?.to_string();
        let node = enrol::node(namespace, service_account);
        Bootstrap::builder(node).insecure(&server).build().ok()
    }

    /// What became of the folder.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// The status and its changes, to be waited for.
    pub fn status_changes(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// The connected clients, and what each said to what it was sent.
    pub fn clients(&self) -> Vec<ClientReport> {
        self.cache.clients()
    }

    /// Waits for a change among the clients.
    pub fn client_changes(&self) -> watch::Receiver<u64> {
        self.cache.client_changes()
    }

    /// Counts: `configuration` accepted and rejected, `certificate_issued`, `certificate_refused`, `handshake_refused`.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Ends every stream and closes the ports. Clients keep what they have.
    pub async fn shutdown(mut self) {
        self.close();
        let deadline = tokio::time::Instant::now() + SHUTDOWN_TIMEOUT;
        for mut task in std::mem::take(&mut self.tasks) {
            if tokio::time::timeout_at(deadline, &mut task).await.is_err() {
                task.abort();
            }
        }
    }

    fn close(&self) {
        self.closing.send_replace(true);
        self.cache.close();
        // The first task watches the folder and would go on for ever.
        self.tasks.first().inspect(|watching| watching.abort());
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.close();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// See [`ControlPlane::builder`].
#[derive(Debug)]
#[must_use]
pub struct ControlPlaneBuilder {
    folder: PathBuf,
    mesh: Mesh,
    listen: Listen,
    plaintext: Option<Listen>,
    state: Option<PathBuf>,
    advertised: Option<String>,
    names: Vec<String>,
    clock: Arc<dyn TimeProvider>,
    leaf_lifetime: Duration,
}

#[derive(Debug)]
enum Listen {
    Address(SocketAddr),
    Listener(TcpListener),
}

impl ControlPlaneBuilder {
    /// The trust domain. Default: `cluster.local`.
    pub fn trust_domain(mut self, name: &str) -> Self {
        self.mesh.trust_domain = name.into();
        self
    }

    /// Where ADS and the CA are served over TLS. Default: loopback, a free port.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Listen::Address(address);
        self
    }

    /// As [`listen`](Self::listen), on a socket that is bound already.
    pub fn listener(mut self, listener: TcpListener) -> Self {
        self.listen = Listen::Listener(listener);
        self
    }

    /// Serves ADS in the clear too, on a loopback address. Default: no.
    pub fn plaintext(mut self, address: SocketAddr) -> Self {
        self.plaintext = Some(Listen::Address(address));
        self
    }

    /// As [`plaintext`](Self::plaintext), on a socket that is bound already.
    pub fn plaintext_listener(mut self, listener: TcpListener) -> Self {
        self.plaintext = Some(Listen::Listener(listener));
        self
    }

    /// Keeps the root and the join tokens in a directory, so that they survive a restart. Default: in memory.
    pub fn state(mut self, directory: impl Into<PathBuf>) -> Self {
        self.state = Some(directory.into());
        self
    }

    /// The `host:port` that bootstraps name. Default: the address that is listened on. The host is added to the names that
    /// the control plane's certificate is valid for.
    pub fn advertise(mut self, server: &str) -> Self {
        let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
        self.names.push(host.trim_matches(['[', ']']).to_owned());
        self.advertised = Some(server.to_owned());
        self
    }

    /// Wall time, by which certificates are made and judged. Default: the system's.
    pub fn wall_clock(mut self, clock: Arc<dyn TimeProvider>) -> Self {
        self.clock = clock;
        self
    }

    /// How long certificates are valid when a workload does not ask. Default and maximum: 24 hours.
    pub fn leaf_lifetime(mut self, lifetime: Duration) -> Self {
        self.leaf_lifetime = lifetime;
        self
    }

    /// Opens the ports, and reads the folder once before it returns: bad YAML does not keep it from starting, but is in its
    /// [status](ControlPlane::status) then.
    ///
    /// # Errors
    ///
    /// When a port cannot be bound, the plaintext port is not on loopback, the trust domain is no name, or the state
    /// directory cannot be used.
    pub async fn start(self) -> Result<ControlPlane, StartError> {
        let domain = TrustDomain::parse(&self.mesh.trust_domain)
            .map_err(|_| Kind::TrustDomain(self.mesh.trust_domain.clone()))?;
        let listener = self.listen.bind().await?;
        let plaintext = match self.plaintext {
            Some(listen) => Some(listen.bind_loopback().await?),
            None => None,
        };
        let address = local_address(&listener)?;
        let plaintext_address = plaintext.as_ref().map(local_address).transpose()?;
        let state = self.state.as_deref();
        let mut authority = Authority::open(state, domain, Arc::clone(&self.clock), self.leaf_lifetime)?;
        authority.serve_as(self.names.into_iter().chain(concrete(address.ip()))).map_err(Kind::Ca)?;
        let authority = Arc::new(authority);
        let server = self.advertised.unwrap_or_else(|| reachable(address).to_string());
        let enrolment = Enrolment::new(Arc::clone(&authority), server);
        if let Some(state) = state {
            enrolment.note(state).map_err(Kind::Enrol)?;
        }
        let (cache, tally) = (SnapshotCache::new(), Tally::default());
        let publisher = Arc::new(Publisher::new(self.mesh, cache.clone(), tally.clone()));
        let mut status = publisher.status();
        let (closing, closed) = watch::channel(false);
        let shared = serve::Shared {
            authority,
            cache: cache.clone(),
            publisher: Arc::clone(&publisher),
            clock: self.clock,
            tally: tally.clone(),
            closing: closed,
        };
        let watching = source::watch(self.folder, move |reading| publisher.take(reading));
        let mut tasks = vec![tokio::spawn(watching)];
        // The sender lives in the publisher, which the watching task keeps.
        drop(status.wait_for(|status| status.accepted + status.rejected > 0).await);
        tasks.extend(serve::secure(listener, &shared));
        tasks.extend(plaintext.into_iter().flat_map(|listener| serve::plaintext(listener, &shared)));
        Ok(ControlPlane {
            address,
            plaintext_address,
            enrolment,
            cache,
            status,
            tally,
            closing,
            tasks,
        })
    }
}

impl Listen {
    async fn bind(self) -> Result<TcpListener, StartError> {
        match self {
            Self::Listener(listener) => Ok(listener),
            Self::Address(address) => {
                let bound = TcpListener::bind(address).await;
                bound.map_err(|source| Kind::Bind { address, source }.into())
            }
        }
    }

    /// Binds nothing but loopback: it is the only network that a port without TLS may be on.
    async fn bind_loopback(self) -> Result<TcpListener, StartError> {
        let address = match &self {
            Self::Address(address) => *address,
            Self::Listener(listener) => local_address(listener)?,
        };
        if !address.ip().is_loopback() {
            return Err(Kind::NotLoopback(address).into());
        }
        self.bind().await
    }
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|source| Kind::Socket(source).into())
}

/// An address as a name for the certificate, unless it stands for all addresses.
fn concrete(address: IpAddr) -> Option<String> {
    (!address.is_unspecified()).then(|| address.to_string())
}

/// Where a socket that listens everywhere is reached from the same host.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// The control plane cannot start.
#[derive(Debug)]
pub struct StartError {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    TrustDomain(Box<str>),
    Bind { address: SocketAddr, source: io::Error },
    Socket(io::Error),
    NotLoopback(SocketAddr),
    Ca(CaError),
    Enrol(EnrolError),
}

impl StartError {
    /// Whether a port could not be had.
    pub fn is_bind(&self) -> bool {
        matches!(self.kind, Kind::Bind { .. } | Kind::Socket(_))
    }

    /// Whether the plaintext port was to be on something else than loopback.
    pub fn is_not_loopback(&self) -> bool {
        matches!(self.kind, Kind::NotLoopback(_))
    }

    /// Whether the state directory cannot be used.
    pub fn is_state(&self) -> bool {
        matches!(self.kind, Kind::Ca(_) | Kind::Enrol(_))
    }
}

impl From<Kind> for StartError {
    fn from(kind: Kind) -> Self {
        Self { kind }
    }
}

impl From<CaError> for StartError {
    fn from(error: CaError) -> Self {
        Kind::Ca(error).into()
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::TrustDomain(name) => write!(f, "{name:?} is not the name of a trust domain"),
            Kind::Bind { address, .. } => write!(f, "cannot listen on {address}"),
            Kind::Socket(_) => f.write_str("a listening socket has no address"),
            Kind::NotLoopback(address) => write!(f, "the plaintext port must be on loopback, not on {address}"),
            Kind::Ca(error) => write!(f, "{error}"),
            Kind::Enrol(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            Kind::Bind { source, .. } | Kind::Socket(source) => Some(source),
            Kind::Ca(error) => error.source(),
            Kind::Enrol(error) => error.source(),
            Kind::TrustDomain(_) | Kind::NotLoopback(_) => None,
        }
    }
}
