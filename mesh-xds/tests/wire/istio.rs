//! Istio's certificate service as its agent uses it, against a stand-in written from the protocol: real sockets, TLS to istiod's name
//! by Istio's root, the projected token each time. Unproven against a real istiod.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use mesh_core::Link;
use mesh_core::identity::{Identity, tls};
use mesh_core::testing::TestCa;
use mesh_xds::server::{Io, Line, Peer};
use mesh_xds::{Bootstrap, Connector, Node, XdsClient};
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use rcgen::{DnType, KeyUsagePurpose, SanType};
use rustls::time_provider::DefaultTimeProvider;
use time::OffsetDateTime;
use tokio::net::{TcpListener, TcpStream};
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
const ID: &str = "spiffe://cluster.local/ns/shop/sa/payment";
const ISTIOD: &str = "istiod.istio-system.svc";

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

/// What istiod saw of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    token: String,
    cluster: String,
    had_certificate: bool,
    validity: i64,
}

/// istiod: a signer below a root, as with plugged-in certificates, whose answers have both above the leaf.
struct Istiod {
    signer: Issuer<'static, KeyPair>,
    above: [String; 2],
    lifetime: Duration,
    seen: mpsc::UnboundedSender<Seen>,
}

impl Istiod {
    fn issue(&self, request: &Request<Ask>) -> Result<Answer, Status> {
        let text = |name: &str| {
            let value = request.metadata().get(name).and_then(|value| value.to_str().ok());
            value.map(str::to_owned).unwrap_or_default()
        };
        let line = request
            .extensions()
            .get::<Line>()
            .map(Line::peer)
            .cloned()
            .unwrap_or_default();
        let seen = Seen {
            token: text("authorization"),
            cluster: text("clusterid"),
            had_certificate: line.identity.is_some(),
            validity: request.get_ref().validity,
        };
        let is_known = seen.token.starts_with("Bearer ");
        self.seen.send(seen).unwrap();
        if !is_known {
            return Err(Status::unauthenticated("request authenticate failure"));
        }
        let mut csr = CertificateSigningRequestParams::from_pem(&request.get_ref().csr)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        csr.params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        csr.params.not_before = OffsetDateTime::now_utc() - Duration::from_secs(120);
        csr.params.not_after = OffsetDateTime::now_utc() + self.lifetime;
        let leaf = csr.signed_by(&self.signer).unwrap().pem();
        Ok(Answer {
            chain: [vec![leaf], self.above.to_vec()].concat(),
        })
    }
}

#[derive(Clone)]
struct CaService(Arc<Istiod>);

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
        let path = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
        assert_eq!(request.uri().path(), path);
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<Answer, Ask>::default());
            Ok(grpc.unary(service, request).await)
        })
    }
}

struct Rig {
    address: SocketAddr,
    folder: tempfile::TempDir,
    seen: mpsc::UnboundedReceiver<Seen>,
}

/// istiod, whose certificate is good for `name`, and a pod's folder with its root and a token.
async fn rig(name: &str, lifetime: Duration) -> Rig {
    let authority = |uri: &str, unit: &str| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.distinguished_name.push(DnType::OrganizationName, unit);
        (params, KeyPair::generate().unwrap())
    };
    let (params, key) = authority("spiffe://cluster.local", "root");
    let root = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let (params, key) = authority("spiffe://cluster.local", "istiod");
    let middle = params.signed_by(&key, &issuer).unwrap();
    let (sender, seen) = mpsc::unbounded_channel();
    let istiod = Istiod {
        signer: Issuer::new(params, key),
        above: [middle.pem(), root.pem()],
        lifetime,
        seen: sender,
    };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("root-cert.pem"), root.pem()).unwrap();
    std::fs::write(folder.path().join("istio-token"), "first\n").unwrap();

    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
    let shown = params.signed_by(&key, &issuer).unwrap();
    let clock = Arc::new(DefaultTimeProvider);
    let certified = rustls::ServerConfig::builder_with_details(Arc::clone(tls::provider()), clock)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![shown.der().clone()], key.into());
    let mut config = certified.unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ready, incoming) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(stream) = TlsAcceptor::from(Arc::clone(&config)).accept(stream).await {
                let io = Io::new(stream, Peer::default());
                drop(ready.send(Ok::<_, std::io::Error>(io)).await);
            }
        }
    });
    let router = tonic::transport::Server::builder().add_service(CaService(Arc::new(istiod)));
    tokio::spawn(router.serve_with_incoming(ReceiverStream::new(incoming)));
    Rig { address, folder, seen }
}

impl Rig {
    /// A pod's process: its node is what Istio's agent makes of the pod, and the folders are where the test has them.
    fn start(&self, more: &[(&str, &str)]) -> XdsClient {
        let node: Node = serde_json::from_value(serde_json::json!({
            "id": "sidecar~10.0.0.1~payment-0.shop~shop.svc.cluster.local",
            "metadata": {"NAMESPACE": "shop", "SERVICE_ACCOUNT": "payment", "CLUSTER_ID": "Kubernetes", "GENERATOR": "grpc"},
        }))
        .unwrap();
        let builder = Bootstrap::builder(node)
            .insecure("unix:///no/such/control/plane")
            .istio_agent();
        let mut file: serde_json::Value = serde_json::from_str(&builder.build().unwrap().to_json()).unwrap();
        let path = |name: &str| self.folder.path().join(name).to_str().unwrap().to_owned();
        let config = &mut file["certificate_providers"]["default"]["config"];
        config["token_file"] = path("istio-token").into();
        config["ca_certificate_file"] = path("root-cert.pem").into();
        config["credentials_directory"] = path("credentials").into();
        for (key, value) in more {
            config[*key] = (*value).into();
        }
        let bootstrap = Bootstrap::from_json(&file.to_string()).unwrap();
        // Cluster DNS: istiod's name leads to where it listens.
        let address = self.address;
        let connector = Connector::new(move |_| TcpStream::connect(address));
        XdsClient::builder(bootstrap).connector(connector).start().unwrap()
    }

    async fn seen(&mut self) -> Seen {
        tokio::time::timeout(SOON, self.seen.recv()).await.unwrap().unwrap()
    }
}

/// Waits for an identity.
async fn identity(link: &Link) -> Identity {
    let bell = Arc::new(tokio::sync::Notify::new());
    let ring = Arc::clone(&bell);
    let _subscription = link.identity().on_change(move || ring.notify_one());
    let found = async {
        loop {
            if let Ok(identity) = &**link.identity().load() {
                return identity.clone();
            }
            bell.notified().await;
        }
    };
    tokio::time::timeout(SOON, found).await.unwrap()
}

#[tokio::test]
async fn a_pods_token_is_read_anew_and_shown_each_time_with_its_cluster() {
    let mut rig = rig(ISTIOD, Duration::from_secs(3)).await;
    let client = rig.start(&[]);
    let link = client.link();
    let seen = |token: &str| Seen {
        token: format!("Bearer {token}"),
        cluster: "Kubernetes".into(),
        had_certificate: false,
        validity: 0,
    };
    assert_eq!(rig.seen().await, seen("first"));
    let identity = identity(&link).await;
    assert_eq!((identity.id().as_str(), identity.svid().chain().len()), (ID, 2));
    let own = identity.id().trust_domain();
    assert_eq!(
        identity.bundle().roots(own).len(),
        1,
        "the root is the last of the answer"
    );
    // As kubelet renews it.
    std::fs::write(rig.folder.path().join("next"), "second").unwrap();
    std::fs::rename(rig.folder.path().join("next"), rig.folder.path().join("istio-token")).unwrap();
    assert_eq!(rig.seen().await, seen("second"));
}

#[tokio::test]
async fn an_istiod_of_another_name_is_not_told_the_token_unless_that_is_its_name() {
    let mut rig = rig("istiod-canary.istio-system.svc", Duration::from_secs(60)).await;
    let client = rig.start(&[]);
    let link = client.link();
    let failed = async {
        while link.tally().get("identity", "failed") == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, failed).await.unwrap();
    assert!(link.identity().load().is_err());
    assert!(rig.seen.try_recv().is_err(), "nothing was told");
    drop(client);
    let named = rig.start(&[("ca_server_name", "istiod-canary.istio-system.svc")]);
    identity(&named.link()).await;
    assert_eq!(rig.seen().await.token, "Bearer first");
}

#[tokio::test]
async fn mounted_certificates_go_before_the_token() {
    let mut rig = rig(ISTIOD, Duration::from_secs(60)).await;
    let credentials = rig.folder.path().join("credentials");
    mount(&credentials, &TestCa::new("cluster.local"));
    let client = rig.start(&[]);
    let identity = identity(&client.link()).await;
    assert_eq!(identity.id().as_str(), ID);
    assert!(rig.seen.try_recv().is_err(), "istiod was not asked");
}

/// Lays certificates out as Istio's agent expects a CSI driver to do.
fn mount(folder: &Path, ca: &TestCa) {
    use base64::Engine as _;
    let pem = |label: &str, der: &[u8]| {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    };
    let issued = ca.leaf(ID).issue();
    std::fs::create_dir(folder).unwrap();
    let files = [
        ("cert-chain.pem", pem("CERTIFICATE", &issued.chain[0])),
        ("key.pem", pem("PRIVATE KEY", issued.key.secret_der())),
        ("root-cert.pem", pem("CERTIFICATE", &ca.root())),
    ];
    for (name, text) in files {
        std::fs::write(folder.join(name), text).unwrap();
    }
}
