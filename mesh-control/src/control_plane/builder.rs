//! What a control plane is made of, and the order in which it is put together.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::Entropy;
use mesh_core::identity::{SpiffeId, TrustDomain};
use mesh_core::report::Tally;
use mesh_xds::server::{LoadBoard, SnapshotCache};
use rustls::pki_types::CertificateDer;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::ControlPlane;
use super::error::{Kind, StartError};
use crate::ca::{
    Authority, DEFAULT_LEAF_LIFETIME, DEFAULT_MAX_RENEWAL, ReviewRefusal, Reviewer, ServiceAccountTokens,
    lock_directory,
};
use crate::emptied::Emptied;
use crate::enrol::Enrolment;
use crate::jwks::{Fetcher, JwksConnector, JwksStore, REFRESH_INTERVAL, Records};
use crate::page::{self, Page};
use crate::publish::Publisher;
use crate::registration::Kept;
use crate::rotation::RootRotation;
use crate::translate::Mesh;
use crate::{registration, serve, source};

/// See [`ControlPlane::builder`].
#[derive(Debug)]
#[must_use]
pub struct ControlPlaneBuilder {
    folder: PathBuf,
    mesh: Mesh,
    listen: Listen,
    plaintext: Option<Listen>,
    admin: Option<Listen>,
    state: Option<PathBuf>,
    advertised: Option<String>,
    names: Vec<String>,
    clock: Arc<dyn TimeProvider>,
    leaf_lifetime: Duration,
    max_renewal: Duration,
    allow_empty: bool,
    review: Option<Review>,
    accepts_rsa: bool,
    load_interval: Duration,
    jwks_connector: JwksConnector,
    jwks_roots: Option<Vec<CertificateDer<'static>>>,
    jwks_interval: Duration,
    registration_grace: Duration,
}

/// Who says whose a token is that is none of the CA's own.
#[derive(Debug)]
enum Review {
    Hook(Reviewer),
    ServiceAccounts(Box<ServiceAccountTokens>),
}

#[derive(Debug)]
enum Listen {
    Address(SocketAddr),
    Listener(TcpListener),
}

impl ControlPlaneBuilder {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            mesh: Mesh::default(),
            listen: Listen::Address(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            plaintext: None,
            admin: None,
            state: None,
            advertised: None,
            names: ["localhost", "127.0.0.1", "::1"].map(String::from).into(),
            clock: Arc::new(DefaultTimeProvider),
            leaf_lifetime: DEFAULT_LEAF_LIFETIME,
            max_renewal: DEFAULT_MAX_RENEWAL,
            allow_empty: false,
            review: None,
            accepts_rsa: false,
            load_interval: LoadBoard::DEFAULT_INTERVAL,
            jwks_connector: JwksConnector::tcp(),
            jwks_roots: None,
            jwks_interval: REFRESH_INTERVAL,
            registration_grace: registration::GRACE,
        }
    }

    /// The trust domain. Default: `cluster.local`.
    pub fn trust_domain(mut self, name: &str) -> Self {
        self.mesh.trust_domain = name.into();
        self
    }

    /// Other names of the trust domain (Istio `trustDomainAliases`): workloads of these domains are expected and admitted wherever those of
    /// the mesh's own are, by whom their certificates are believed ([`Bootstrap::trust_bundles`](mesh_xds::Bootstrap::trust_bundles)).
    /// Default: none.
    pub fn trust_domain_aliases<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        self.mesh.trust_domain_aliases = names.into_iter().map(Into::into).collect();
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

    /// Serves the page of the mesh, and what it shows as JSON (`/api/v1/mesh`), over HTTP on a loopback address; it only reads.
    /// Default: no.
    pub fn admin(mut self, address: SocketAddr) -> Self {
        self.admin = Some(Listen::Address(address));
        self
    }

    /// As [`admin`](Self::admin), on a socket that is bound already.
    pub fn admin_listener(mut self, listener: TcpListener) -> Self {
        self.admin = Some(Listen::Listener(listener));
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

    /// Who says whose a token is that is none of the CA's own, such as Kubernetes' TokenReview: `review` is given the token of a
    /// workload that has no certificate, and answers with its id, which must be of this trust domain. It has 5 s, at most 64 are in
    /// progress at once, and an address that failed ten times in a minute does not get that far. Default: nobody, so that a token that
    /// the CA did not make is refused.
    pub fn token_review<F, R>(mut self, review: F) -> Self
    where
        F: Fn(String) -> R + Send + Sync + 'static,
        R: Future<Output = Result<SpiffeId, ReviewRefusal>> + Send + 'static,
    {
        self.review = Some(Review::Hook(Reviewer::new(review)));
        self
    }

    /// Believes the tokens of a cluster's service accounts, as Istio's CA does: `NAMESPACE` and `NAME` become
    /// `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME`. It takes the place of a [hook](Self::token_review).
    pub fn service_account_tokens(mut self, tokens: ServiceAccountTokens) -> Self {
        self.review = Some(Review::ServiceAccounts(Box::new(tokens)));
        self
    }

    /// Signs RSA keys of 2048 bits and more too, which Istio's sidecars ask for by default. Default: P-256, P-384 and Ed25519 alone.
    pub fn accept_rsa(mut self) -> Self {
        self.accepts_rsa = true;
        self
    }

    /// How long certificates are valid when a workload does not ask. Default and maximum: 24 hours; at least a minute.
    pub fn leaf_lifetime(mut self, lifetime: Duration) -> Self {
        self.leaf_lifetime = lifetime;
        self
    }

    /// For how long after a token a workload's certificates are renewed by certificates alone; then it has to show a token again. Default:
    /// 90 days. Zero: for ever. A workload whose token worked once needs another one in time: the log of target `audit` says so from three
    /// quarters of the time on (`certificate_renewal_ending`).
    pub fn max_renewal(mut self, most: Duration) -> Self {
        self.max_renewal = most;
        self
    }

    /// How often clients report their load. Default: 10 s. Clients keep to at least 100 ms.
    pub fn load_interval(mut self, interval: Duration) -> Self {
        self.load_interval = interval;
        self
    }

    /// Who vouches for the servers that keys of issuers are fetched from (Istio `jwksUri`, and OpenID discovery), in the place of the
    /// system's roots.
    pub fn jwks_roots(mut self, roots: Vec<CertificateDer<'static>>) -> Self {
        self.jwks_roots = Some(roots);
        self
    }

    /// How connections to those servers are made, such as through a proxy. Default: [`JwksConnector::tcp`].
    pub fn jwks_connector(mut self, connector: JwksConnector) -> Self {
        self.jwks_connector = connector;
        self
    }

    /// How often they are asked again, with a tenth of chance. Default: 20 minutes (Istio); at least 100 ms. After a failure they are asked
    /// again after 10 s, and twice as long after each further one, up to this.
    pub fn jwks_refresh_interval(mut self, interval: Duration) -> Self {
        self.jwks_interval = interval;
        self
    }

    /// How long a workload of a `WorkloadGroup` stays registered when its stream has gone. Default: 10 s (Istio).
    pub fn registration_grace(mut self, grace: Duration) -> Self {
        self.registration_grace = grace;
        self
    }

    /// Choices that give up the protection of the mesh.
    pub fn dangerous(self) -> Dangerous {
        Dangerous(self)
    }

    /// Opens the ports, and reads the folder once before it returns: bad YAML does not keep it from starting, but is in its
    /// [status](ControlPlane::status) then.
    ///
    /// # Errors
    ///
    /// When a port cannot be bound, the plaintext port or that of the page is not on loopback, the trust domain is no name, or the state
    /// directory cannot be used, or is used by another control plane.
    pub async fn start(self) -> Result<ControlPlane, StartError> {
        let domain = TrustDomain::parse(&self.mesh.trust_domain)
            .map_err(|_| Kind::TrustDomain(self.mesh.trust_domain.clone()))?;
        for alias in &self.mesh.trust_domain_aliases {
            TrustDomain::parse(alias).map_err(|_| Kind::TrustDomain(alias.clone()))?;
        }
        let listener = self.listen.bind().await?;
        let plaintext = match self.plaintext {
            Some(listen) => Some(listen.bind_loopback().await?),
            None => None,
        };
        let admin = match self.admin {
            Some(listen) => Some(listen.bind_loopback().await?),
            None => None,
        };
        let address = local_address(&listener)?;
        let plaintext_address = plaintext.as_ref().map(local_address).transpose()?;
        let admin_address = admin.as_ref().map(local_address).transpose()?;
        let state = self.state.as_deref();
        let lock = state.map(lock_directory).transpose()?;
        let emptied = Emptied::open(&self.folder, state, self.allow_empty)?;
        let mut authority = Authority::open(state, domain.clone(), Arc::clone(&self.clock), self.leaf_lifetime)?;
        match self.review {
            None => {}
            Some(Review::Hook(reviewer)) => authority.review_by(reviewer),
            Some(Review::ServiceAccounts(tokens)) => {
                let clock = Arc::clone(&self.clock);
                authority.review_by(Reviewer::of_service_accounts(*tokens, domain, clock));
            }
        }
        authority.limit_renewal(self.max_renewal);
        if self.accepts_rsa {
            authority.accept_rsa();
        }
        authority
            .serve_as(self.names.into_iter().chain(concrete(address.ip())))
            .map_err(Kind::Ca)?;
        let authority = Arc::new(authority);
        let server = self.advertised.unwrap_or_else(|| reachable(address).to_string());
        let enrolment = Enrolment::new(Arc::clone(&authority), server);
        if let Some(state) = state {
            enrolment
                .note(state, plaintext_address, admin_address)
                .map_err(Kind::Enrol)?;
        }
        let tally = Tally::default();
        let cache = SnapshotCache::counting(tally.clone());
        let loads = LoadBoard::counting(self.load_interval, tally.clone());
        let fetcher = Fetcher {
            connector: self.jwks_connector,
            roots: self.jwks_roots,
            clock: Arc::clone(&self.clock),
            plaintext: self.mesh.plaintext_jwks,
        };
        let records = state
            .map(|state| Records::open(state, Arc::clone(&self.clock)))
            .transpose();
        let jwks = Arc::new(JwksStore::new(self.jwks_interval, records.map_err(Kind::Ca)?));
        let publisher = Publisher::new(self.mesh, cache.clone(), tally.clone(), Arc::clone(&jwks), emptied);
        let publisher = Arc::new(publisher);
        let (kept, restored) = state.map(Kept::open).transpose()?.unzip();
        let restored = restored.unwrap_or_default();
        publisher.restore(restored.clone());
        let mut status = publisher.status();
        let (closing, closed) = watch::channel(false);
        let connected = serve::Connected::default();
        let rotation = RootRotation::new(Arc::clone(&authority), connected.clone());
        let shared = serve::Shared {
            authority,
            connected,
            cache: cache.clone(),
            loads: loads.clone(),
            publisher: Arc::clone(&publisher),
            clock: self.clock,
            tally: tally.clone(),
            closing: closed,
        };
        let watching = source::watch(self.folder, move |reading| publisher.take(reading));
        let publisher = Arc::clone(&shared.publisher);
        let fetching = Arc::clone(&jwks).keep(fetcher, Entropy::from_os(), tally.clone(), move || {
            publisher.take_keys()
        });
        let registering = registration::keep(
            cache.clone(),
            Arc::clone(&shared.publisher),
            self.registration_grace,
            (kept, restored),
        );
        let mut tasks = vec![tokio::spawn(watching), tokio::spawn(fetching)];
        #[cfg(unix)]
        if let Some(state) = state {
            match crate::rotation::listen(state) {
                Ok(socket) => tasks.push(tokio::spawn(crate::rotation::serve(socket, rotation.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "the root can be replaced by this process alone: no socket in the state directory")
                }
            }
        }
        // The sender lives in the publisher, which the watching task keeps.
        drop(status.wait_for(|status| status.accepted + status.rejected > 0).await);
        jwks.asked_once().await;
        // Whose stream is to come back can come from now on.
        tasks.push(tokio::spawn(registering));
        let endless = tasks.len();
        tasks.extend(serve::secure(listener, &shared));
        tasks.extend(
            plaintext
                .into_iter()
                .flat_map(|listener| serve::plaintext(listener, &shared)),
        );
        if let Some(listener) = admin {
            let page = Page::new(cache.clone(), loads.clone(), Arc::clone(&shared.publisher));
            tasks.push(page::serve(listener, Arc::new(page), shared.closing.clone()));
        }
        Ok(ControlPlane {
            address,
            plaintext_address,
            admin_address,
            enrolment,
            rotation,
            cache,
            loads,
            status,
            tally,
            closing,
            tasks,
            endless,
            _lock: lock,
        })
    }
}

/// See [`ControlPlaneBuilder::dangerous`].
#[derive(Debug)]
#[must_use]
pub struct Dangerous(ControlPlaneBuilder);

impl Dangerous {
    /// Believes it when all documents of the folder, or all those of security, vanish at once. Default: that is refused, what was published
    /// stays, and the [status](ControlPlane::status) says so, since a folder that was lost looks like this.
    pub fn allow_empty(mut self) -> ControlPlaneBuilder {
        self.0.allow_empty = true;
        self.0
    }

    /// Fetches keys of issuers in plaintext from other hosts than this one, where a document says `http`: whoever is on the way there may
    /// sign tokens.
    pub fn plaintext_jwks(mut self) -> ControlPlaneBuilder {
        self.0.mesh.plaintext_jwks = true;
        self.0
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
