//! A certificate authority with a clock of its own, behind real TLS and gRPC over pipes in memory, so that paused time moves
//! both ends; and the workload that asks it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use mesh_core::identity::{Identity, Svid, TrustBundle, TrustDomain, tls};
use mesh_core::link::{Parts, Standing};
use mesh_core::{Entropy, Link};
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use rcgen::{KeyUsagePurpose, SanType};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::time_provider::TimeProvider;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;

use crate::bootstrap::{MeshCa, Proof, Provider, Roots, ServerUri, Token};
use crate::connector::Connector;
use crate::identity::Supply;
use crate::proto::istio::{CREATE_CERTIFICATE, CreateCertificateRequest, CreateCertificateResponse};
use crate::server::{Io, Peer};

pub(super) const ID: &str = "spiffe://d/ns/shop/sa/payment";

/// A wall clock that goes with tokio's, and can be set.
#[derive(Debug)]
pub(super) struct Wall {
    start: Instant,
    base: u64,
    offset: AtomicI64,
}

impl Wall {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            base: 1_800_000_000,
            offset: AtomicI64::new(0),
        })
    }

    /// Sets it to so many seconds beside the true time.
    pub(super) fn set_off(&self, seconds: i64) {
        self.offset.store(seconds, Ordering::Relaxed);
    }

    pub(super) fn seconds(&self) -> u64 {
        let true_time = self.base + self.start.elapsed().as_secs();
        true_time.saturating_add_signed(self.offset.load(Ordering::Relaxed))
    }
}

impl TimeProvider for Wall {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.seconds())))
    }
}

/// The authority, and what it saw.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: rcgen::Certificate,
    /// Its clock, which need not be the workload's.
    pub(super) clock: Arc<Wall>,
    lifetime: u64,
    backdated: u64,
    is_down: AtomicBool,
    /// When it was dialled, down or not.
    pub(super) dialled: Mutex<Vec<Instant>>,
    /// When it was asked.
    pub(super) asked: Mutex<Vec<Instant>>,
}

impl Authority {
    pub(super) fn new(lifetime: u64) -> Arc<Self> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.subject_alt_names = vec![SanType::URI("spiffe://d".try_into().unwrap())];
        let root = params.self_signed(&key).unwrap();
        Arc::new(Self {
            issuer: Issuer::new(params, key),
            root,
            clock: Wall::new(),
            lifetime,
            backdated: 120,
            is_down: AtomicBool::new(false),
            dialled: Mutex::default(),
            asked: Mutex::default(),
        })
    }

    pub(super) fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::Relaxed);
    }

    /// A workload of its own making that lives as long as any test.
    pub(super) fn peer(&self, id: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.subject_alt_names = vec![
            SanType::URI(id.try_into().unwrap()),
            SanType::DnsName("ca".try_into().unwrap()),
        ];
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let svid = Svid::new(vec![leaf.der().clone()], key.into()).unwrap();
        let roots = vec![CertificateDer::from(self.root.der().to_vec())];
        Identity::new(svid, TrustBundle::new(TrustDomain::parse("d").unwrap(), roots).unwrap())
    }

    /// Dials it: refused while it is down.
    pub(super) fn connector(self: &Arc<Self>) -> Connector {
        let (ready, incoming) = mpsc::channel::<io::Result<Io<_>>>(16);
        let service = CaService(Arc::clone(self));
        let serving = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(serving.serve_with_incoming(ReceiverStream::new(incoming)));
        let own = self.peer("spiffe://d/ns/mesh/sa/ca");
        let clock = Arc::clone(&self.clock) as Arc<dyn TimeProvider>;
        let config = tls::server_config(&own, tls::ClientAuth::Optional, clock, &[b"h2"]).unwrap();
        let authority = Arc::clone(self);
        Connector::new(move |_| {
            authority.dialled.lock().unwrap().push(Instant::now());
            let (config, ready) = (Arc::clone(&config), ready.clone());
            let is_down = authority.is_down.load(Ordering::Relaxed);
            async move {
                if is_down {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                let (near, far) = tokio::io::duplex(64 * 1024);
                tokio::spawn(async move {
                    if let Ok(stream) = TlsAcceptor::from(config).accept(far).await {
                        drop(ready.send(Ok(Io::new(stream, Peer::default()))).await);
                    }
                });
                Ok(near)
            }
        })
    }

    fn issue(&self, request: &CreateCertificateRequest) -> Result<CreateCertificateResponse, Status> {
        self.asked.lock().unwrap().push(Instant::now());
        let csr = CertificateSigningRequestParams::from_pem(&request.csr);
        let mut csr = csr.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let now = self.clock.seconds();
        let date = |seconds: u64| OffsetDateTime::from_unix_timestamp(seconds as i64).unwrap();
        csr.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        csr.params.not_before = date(now - self.backdated);
        csr.params.not_after = date(now + self.lifetime);
        let leaf = csr.signed_by(&self.issuer).unwrap().pem();
        Ok(CreateCertificateResponse {
            cert_chain: vec![leaf, self.root.pem()],
        })
    }
}

/// A workload whose identity comes from an authority.
pub(super) struct Workload {
    pub(super) link: Link,
    /// Its clock.
    pub(super) clock: Arc<Wall>,
}

impl Workload {
    /// Begins to ask. The task ends with the test's runtime.
    pub(super) fn start(authority: &Arc<Authority>) -> Self {
        Self::start_federated(authority, BTreeMap::new())
    }

    /// As [`start`](Self::start), trusting the domains of `files` too.
    pub(super) fn start_federated(authority: &Arc<Authority>, files: BTreeMap<TrustDomain, PathBuf>) -> Self {
        let clock = Wall::new();
        let (source, link) = Link::new(Parts {
            entropy: Entropy::seeded(7),
            wall_clock: Arc::clone(&clock) as Arc<dyn TimeProvider>,
            ..Parts::default()
        });
        let provider = Provider::MeshCa(MeshCa {
            uri: ServerUri::parse("ca:15012").unwrap(),
            roots: Roots::Inline(authority.root.pem()),
            id: mesh_core::identity::SpiffeId::parse(ID).unwrap(),
            token: Token::Inline("good for ever".into()),
            proof: Proof::TokenOnce,
            server_name: None,
            cluster_id: None,
        });
        let supply = Supply::new(provider, authority.connector(), &link, source.identity);
        tokio::spawn(supply.federated(files).run(std::future::pending()));
        Self { link, clock }
    }

    pub(super) fn standing(&self) -> Standing {
        self.link.identity().load_full().as_ref().clone()
    }

    pub(super) fn counted(&self, reason: &'static str) -> u64 {
        self.link.tally().get("identity", reason)
    }
}

#[derive(Clone)]
struct CaService(Arc<Authority>);

impl NamedService for CaService {
    const NAME: &'static str = "istio.v1.auth.IstioCertificateService";
}

impl UnaryService<CreateCertificateRequest> for CaService {
    type Response = CreateCertificateResponse;
    type Future = Ready<Result<Response<CreateCertificateResponse>, Status>>;

    fn call(&mut self, request: Request<CreateCertificateRequest>) -> Self::Future {
        ready(self.0.issue(request.get_ref()).map(Response::new))
    }
}

impl Service<http::Request<Body>> for CaService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        assert_eq!(request.uri().path(), CREATE_CERTIFICATE);
        let codec = ProstCodec::<CreateCertificateResponse, CreateCertificateRequest>::default();
        Box::pin(async move { Ok(Grpc::new(codec).unary(service, request).await) })
    }
}
