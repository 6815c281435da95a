//! A workload joins a CA and then shows its certificate to the control plane, over real sockets and real TLS.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use mesh_core::Snapshot;
use mesh_core::config::{Cluster, ReasonKind, Route, Split, TlsMode};
use mesh_core::identity::{Identity, SpiffeId, TrustBundle, TrustDomain, tls, verify};
use mesh_core::testing::TestCa;
use mesh_xds::client::Phase;
use mesh_xds::server::{AdsService, Caller, Io, Line, Peer, Refusal, SnapshotCache};
use mesh_xds::{Bootstrap, Node, XdsClient};
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use rcgen::{KeyUsagePurpose, SanType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::time_provider::DefaultTimeProvider;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;

/// Longer than any step takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);
const ID: &str = "spiffe://d/ns/shop/sa/payment";
const TOKEN: &str = "open-sesame";

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Ask {
    #[prost(string, tag = "1")]
    csr: String,
    #[prost(int64, tag = "3")]
    validity: i64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Answer {
    #[prost(string, repeated, tag = "1")]
    chain: Vec<String>,
}

/// How a caller proved itself.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Proof {
    Token,
    Certificate(SpiffeId),
}

/// A CA whose tokens are good once and whose certificates are good for a few seconds.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: String,
    lifetime: Duration,
    token_is_good: Mutex<bool>,
    /// Set to have every request refused.
    is_ill: Arc<AtomicBool>,
    /// Set to have the next renewal refused until there was a token, which is good then.
    wants_token: Arc<AtomicBool>,
    served: mpsc::UnboundedSender<Proof>,
}

impl Authority {
    fn issue(&self, request: &Request<Ask>) -> Result<Answer, Status> {
        if self.is_ill.load(Ordering::Relaxed) {
            return Err(Status::unavailable("ill"));
        }
        let peer = request
            .extensions()
            .get::<Line>()
            .map(Line::peer)
            .cloned()
            .unwrap_or_default();
        let token = request.metadata().get("authorization");
        let proof = match (peer.identity, token) {
            (Some(_), None) if self.wants_token.swap(false, Ordering::Relaxed) => {
                *self.token_is_good.lock().unwrap() = true;
                return Err(Status::unauthenticated("no token for too long"));
            }
            (Some(id), None) => Proof::Certificate(id),
            (None, Some(token)) if token == &format!("Bearer {TOKEN}") => {
                let mut good = self.token_is_good.lock().unwrap();
                if !std::mem::take(&mut *good) {
                    return Err(Status::unauthenticated("the token was used"));
                }
                Proof::Token
            }
            other => return Err(Status::unauthenticated(format!("{:?}", other.0))),
        };
        let mut csr = CertificateSigningRequestParams::from_pem(&request.get_ref().csr)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        csr.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        csr.params.not_before = OffsetDateTime::now_utc() - Duration::from_secs(60);
        csr.params.not_after = OffsetDateTime::now_utc() + self.lifetime;
        let leaf = csr.signed_by(&self.issuer).unwrap().pem();
        self.served.send(proof).unwrap();
        Ok(Answer {
            chain: vec![leaf, self.root.clone()],
        })
    }
}

#[derive(Clone)]
struct CaService(Arc<Authority>);

impl NamedService for CaService {
    const NAME: &'static str = "istio.v1.auth.IstioCertificateService";
}

impl UnaryService<Ask> for CaService {
    type Response = Answer;
    type Future = Ready<Result<Response<Answer>, Status>>;

    fn call(&mut self, request: Request<Ask>) -> Self::Future {
        ready(self.0.issue(&request).map(Response::new))
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
        assert_eq!(
            request.uri().path(),
            "/istio.v1.auth.IstioCertificateService/CreateCertificate"
        );
        Box::pin(async move {
            Ok(Grpc::new(ProstCodec::<Answer, Ask>::default())
                .unary(service, request)
                .await)
        })
    }
}

struct Plane {
    address: SocketAddr,
    cache: SnapshotCache,
    root: String,
    is_ill: Arc<AtomicBool>,
    wants_token: Arc<AtomicBool>,
    served: mpsc::UnboundedReceiver<Proof>,
}

/// ADS and CA on one TLS port, as our control plane has them; ADS asks for a certificate.
async fn plane(lifetime: Duration) -> Plane {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.subject_alt_names = vec![SanType::URI("spiffe://d".try_into().unwrap())];
    let root = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let own = own_identity(&issuer, root.der().clone());
    let (sender, served) = mpsc::unbounded_channel();
    let (is_ill, wants_token) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
    let authority = Authority {
        issuer,
        root: root.pem(),
        lifetime,
        token_is_good: Mutex::new(true),
        is_ill: Arc::clone(&is_ill),
        wants_token: Arc::clone(&wants_token),
        served: sender,
    };
    let cache = SnapshotCache::new();
    let ads = AdsService::new(cache.clone(), |caller: &Caller| match &caller.peer.identity {
        Some(id) => Ok(Arc::from(id.as_str())),
        None => Err(Refusal::new("show a certificate")),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let clock = Arc::new(DefaultTimeProvider);
    let config = tls::server_config(&own, tls::ClientAuth::Optional, clock, &[b"h2"]).unwrap();
    let (ready, incoming) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let (stream, address) = listener.accept().await.unwrap();
            let Ok(stream) = TlsAcceptor::from(Arc::clone(&config)).accept(stream).await else {
                continue;
            };
            let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let peer = Peer {
                identity: leaf.map(|leaf| verify::leaf_id(leaf).unwrap()),
                address: Some(address),
                ..Peer::default()
            };
            drop(ready.send(Ok::<_, std::io::Error>(Io::new(stream, peer))).await);
        }
    });
    let router = tonic::transport::Server::builder()
        .add_service(ads)
        .add_service(CaService(Arc::new(authority)));
    tokio::spawn(router.serve_with_incoming(ReceiverStream::new(incoming)));
    Plane {
        address,
        cache,
        root: root.pem(),
        is_ill,
        wants_token,
        served,
    }
}

fn own_identity(issuer: &Issuer<'static, KeyPair>, root: CertificateDer<'static>) -> Identity {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.subject_alt_names = vec![
        SanType::URI("spiffe://d/ns/mesh/sa/control".try_into().unwrap()),
        SanType::IpAddress([127, 0, 0, 1].into()),
    ];
    let leaf = params.signed_by(&key, issuer).unwrap();
    let svid = mesh_core::identity::Svid::new(vec![leaf.der().clone()], key.into()).unwrap();
    let bundle = TrustBundle::new(TrustDomain::parse("d").unwrap(), vec![root]).unwrap();
    Identity::new(svid, bundle)
}

fn bootstrap(plane: &Plane, root: &str) -> Bootstrap {
    let address = plane.address.to_string();
    Bootstrap::builder(Node::default())
        .tls(&address, root)
        .mesh_ca(&address, root, "d", "shop", "payment", TOKEN)
        .build()
        .unwrap()
}

fn snapshot() -> Snapshot {
    Snapshot::builder()
        .route("t", Route::to(Split::all_to("c")))
        .cluster(Cluster::new("c", TlsMode::Plaintext, Vec::new()))
        .build()
        .unwrap()
}

async fn served(plane: &mut Plane) -> Proof {
    tokio::time::timeout(SOON, plane.served.recv()).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_workload_joins_with_its_token_and_renews_with_its_certificate() {
    let mut plane = plane(Duration::from_secs(5)).await;
    plane.cache.publish(ID, &snapshot()).unwrap();
    let client = XdsClient::start(bootstrap(&plane, &plane.root)).unwrap();
    let link = client.link();
    let _guard = link.interest().watch("t");
    let report = client
        .status()
        .until(SOON, |report| report.published.0 > 0)
        .await
        .unwrap();
    assert_eq!(report.connection.streams, 1, "the stream waited for the identity");
    assert_eq!(served(&mut plane).await, Proof::Token);
    let first = link.identity().load_full().as_ref().as_ref().unwrap().clone();
    assert_eq!(first.id().as_str(), ID);
    assert_eq!(plane.cache.clients()[0].peer.as_ref().unwrap().as_str(), ID);

    let expected = Proof::Certificate(SpiffeId::parse(ID).unwrap());
    assert_eq!(served(&mut plane).await, expected);
    assert_eq!(served(&mut plane).await, expected);
    let renewed = link.identity().load_full().as_ref().as_ref().unwrap().clone();
    assert!(renewed.svid().not_after() > first.svid().not_after());
    // The stream that the first certificate opened went on.
    assert_eq!(client.status().report().connection.streams, 1);
}

/// A CA that renews by certificates for so long and no longer is shown the token again, before the identity ends.
#[tokio::test]
async fn id_a_workload_shows_its_token_to_a_ca_that_wants_one_again() {
    let mut plane = plane(Duration::from_secs(8)).await;
    plane.wants_token.store(true, Ordering::Relaxed);
    let client = XdsClient::start(bootstrap(&plane, &plane.root)).unwrap();
    let link = client.link();
    assert_eq!(served(&mut plane).await, Proof::Token);
    assert_eq!(
        served(&mut plane).await,
        Proof::Token,
        "its certificate was refused once"
    );
    assert!(link.identity().load().is_ok());
    assert_eq!(link.tally().get("identity", "failed"), 1);
    let expected = Proof::Certificate(SpiffeId::parse(ID).unwrap());
    assert_eq!(served(&mut plane).await, expected);
}

#[tokio::test]
async fn an_identity_lasts_as_long_as_it_is_valid_and_what_is_wrong_is_told_after_that() {
    let mut plane = plane(Duration::from_secs(4)).await;
    let client = XdsClient::start(bootstrap(&plane, &plane.root)).unwrap();
    let link = client.link();
    assert_eq!(served(&mut plane).await, Proof::Token);
    plane.is_ill.store(true, Ordering::Relaxed);
    let failing = async {
        while link.tally().get("identity", "failed") == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, failing).await.unwrap();
    assert!(link.identity().load().is_ok(), "half of its life is left");
    let over = async {
        while link.identity().load().is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, over).await.unwrap();
    let standing = link.identity().load_full();
    let reason = standing.as_ref().as_ref().unwrap_err();
    assert_eq!(reason.kind(), ReasonKind::NoIdentity);
    assert!(reason.to_string().contains("Unavailable: ill"), "{reason}");
}

#[tokio::test]
async fn a_control_plane_of_another_root_is_not_spoken_to() {
    let plane = plane(Duration::from_secs(60)).await;
    let other = TestCa::new("d").root();
    let pem = pem_of(&other);
    let client = XdsClient::start(bootstrap(&plane, &pem)).unwrap();
    let link = client.link();
    let _guard = link.interest().watch("t");
    client
        .status()
        .until(SOON, |report| report.connection.phase == Phase::Joining)
        .await
        .unwrap();
    let failed = async {
        loop {
            match &**link.identity().load() {
                Err(reason) if reason.to_string().contains("TLS handshake") => return reason.clone(),
                _ => tokio::task::yield_now().await,
            }
        }
    };
    let reason = tokio::time::timeout(SOON, failed).await.unwrap();
    assert_eq!(reason.kind(), ReasonKind::NoIdentity);
    assert!(!reason.to_string().contains(TOKEN));
    assert_eq!(link.tally().get("identity", "issued"), 0);
}

#[tokio::test]
async fn a_token_that_was_used_is_told_by_name() {
    let mut plane = plane(Duration::from_secs(60)).await;
    let first = XdsClient::start(bootstrap(&plane, &plane.root)).unwrap();
    assert_eq!(served(&mut plane).await, Proof::Token);
    let second = XdsClient::start(bootstrap(&plane, &plane.root)).unwrap();
    let link = second.link();
    let refused = async {
        while link.tally().get("identity", "failed") == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, refused).await.unwrap();
    let standing = link.identity().load_full();
    let reason = standing.as_ref().as_ref().unwrap_err().to_string();
    assert!(
        reason.contains("Unauthenticated") && reason.contains("the token was used"),
        "{reason}"
    );
    drop(first);
}

#[tokio::test]
async fn files_are_read_at_the_start_and_when_they_change() {
    let ca = TestCa::new("d");
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let write = |id: &str| {
        let issued = ca.leaf(id).issue();
        let chain: String = issued.chain.iter().map(pem_of).collect();
        std::fs::write(path("key.pem"), pem_text("PRIVATE KEY", issued.key.secret_der())).unwrap();
        std::fs::write(path("chain.pem"), chain).unwrap();
    };
    let plane = plane(Duration::from_secs(60)).await;
    let bootstrap = Bootstrap::builder(Node::default())
        .insecure(&plane.address.to_string())
        .file_watcher(&path("chain.pem"), &path("key.pem"), &path("root.pem"), "0.1s")
        .build()
        .unwrap();
    let client = XdsClient::start(bootstrap).unwrap();
    let link = client.link();
    let becomes = async |id: &str| {
        let changed = async {
            loop {
                match &**link.identity().load() {
                    Ok(identity) if identity.id().as_str() == id => return,
                    _ => tokio::task::yield_now().await,
                }
            }
        };
        tokio::time::timeout(SOON, changed).await.unwrap();
    };
    std::fs::write(path("root.pem"), pem_of(&ca.root())).unwrap();
    write(ID);
    becomes(ID).await;
    // Half of a pair: what was good stays.
    let failures = link.tally().get("identity", "failed");
    std::fs::write(path("chain.pem"), pem_of(&ca.leaf(ID).issue().chain[0])).unwrap();
    while link.tally().get("identity", "failed") == failures {
        tokio::task::yield_now().await;
    }
    assert!(link.identity().load().is_ok());
    write("spiffe://d/ns/shop/sa/other");
    becomes("spiffe://d/ns/shop/sa/other").await;
}

fn pem_of(certificate: &CertificateDer<'_>) -> String {
    let pem = pem_text("CERTIFICATE", certificate);
    assert_eq!(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap(), *certificate);
    pem
}

/// Base64, since no crate here encodes PEM of bytes that others made.
fn pem_text(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    for chunk in der.chunks(3) {
        let mut word = [0; 3];
        word[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, word[0], word[1], word[2]]);
        for place in 0..4 {
            let letter = ALPHABET[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() { letter as char } else { '=' });
        }
    }
    let body = text.split_off(text.find('\n').unwrap() + 1);
    for line in body.as_bytes().chunks(64) {
        text.push_str(std::str::from_utf8(line).unwrap());
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}
