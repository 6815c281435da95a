//! The ways to a control plane that a bootstrap can describe, walked over real sockets: a socket file, a certificate in
//! files, a token on the stream, and roots of several trust domains.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use mesh_core::Snapshot;
use mesh_core::config::{Cluster, Route, Split, TlsMode};
use mesh_core::identity::{Identity, tls, verify};
use mesh_core::link::Parts;
use mesh_core::testing::{Issued, NOT_AFTER_SECONDS, Name, SettableClock, TestCa};
use mesh_xds::bootstrap::ServerEntry;
use mesh_xds::client::{Phase, Report};
use mesh_xds::server::{AdsService, Caller, Io, Peer, Refusal, SnapshotCache};
use mesh_xds::{Bootstrap, Node, XdsClient};
use rustls::time_provider::DefaultTimeProvider;
use tempfile::TempDir;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};

/// Longer than any step takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);
const PAYMENT: &str = "spiffe://d/ns/shop/sa/payment";
const GROUP: &str = "all";
const OPERATOR: &str = "spiffe://d/ns/shop/sa/operator";

/// Serves one group, and tells what each stream had in `authorization`.
struct Plane {
    cache: SnapshotCache,
    /// The one that it believes; `None`: all.
    believed: Arc<Mutex<Option<String>>>,
    tokens: mpsc::UnboundedReceiver<Option<String>>,
}

impl Plane {
    fn new() -> (Self, impl Fn() -> tonic::transport::server::Router) {
        let snapshot = Snapshot::builder()
            .route("t", Route::to(Split::all_to("c")))
            .cluster(Cluster::new("c", TlsMode::Plaintext, Vec::new()));
        let cache = SnapshotCache::new();
        cache.publish(GROUP, &snapshot.build().unwrap()).unwrap();
        let (sender, tokens) = mpsc::unbounded_channel();
        let served = cache.clone();
        let believed = Arc::new(Mutex::new(None::<String>));
        let believes = Arc::clone(&believed);
        let router = move || {
            let (sender, believes) = (sender.clone(), Arc::clone(&believes));
            let ads = AdsService::new(served.clone(), |_: &Caller| Ok::<_, Refusal>(Arc::from(GROUP)));
            let note = move |request: Request<()>| -> Result<Request<()>, Status> {
                let token = request.metadata().get("authorization");
                let token = token.map(|token| token.to_str().unwrap().to_owned());
                let believed = believes.lock().unwrap();
                let is_believed = believed.is_none() || *believed == token;
                sender
                    .send(token)
                    .map_err(|_| Status::unavailable("the test is over"))?;
                match is_believed {
                    true => Ok(request),
                    false => Err(Status::unauthenticated("nobody signed that")),
                }
            };
            tonic::transport::Server::builder().add_service(InterceptedService::new(ads, note))
        };
        let plane = Self {
            cache,
            believed,
            tokens,
        };
        (plane, router)
    }

    /// At a socket file.
    fn at_file(path: &Path) -> Self {
        let (plane, router) = Self::new();
        let listener = UnixListener::bind(path).unwrap();
        tokio::spawn(router().serve_with_incoming(UnixListenerStream::new(listener)));
        plane
    }

    /// On a TLS port that takes certificates but asks for none.
    async fn over_tls(own: &Identity) -> (Self, String) {
        let (plane, router) = Self::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let clock = Arc::new(DefaultTimeProvider);
        let config = tls::server_config(own, tls::ClientAuth::Optional, clock, &[b"h2"]).unwrap();
        let (ready, incoming) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Ok((stream, address)) = listener.accept().await {
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
        tokio::spawn(router().serve_with_incoming(ReceiverStream::new(incoming)));
        (plane, format!("localhost:{port}"))
    }
}

/// A folder of files.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// A chain and its key.
    fn pair(&self, name: &str, issued: &Issued) -> (String, String) {
        let chain: String = issued.chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
        let key = pem("PRIVATE KEY", issued.key.secret_der());
        (
            self.write(&format!("{name}.chain"), &chain),
            self.write(&format!("{name}.key"), &key),
        )
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        STANDARD.encode(der)
    )
}

/// A JWT that lasts until the year 2100.
fn jwt() -> String {
    jwt_until(NOT_AFTER_SECONDS)
}

fn jwt_until(exp: u64) -> String {
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let claims = format!(r#"{{"aud":["istio-ca"],"exp":{exp}}}"#);
    format!(
        "{}.{}.{}",
        encode(r#"{"alg":"RS256"}"#),
        encode(&claims),
        encode("signed")
    )
}

fn own(ca: &TestCa) -> Identity {
    let svid = ca
        .leaf("spiffe://d/ns/mesh/sa/control")
        .name(Name::Dns, "localhost")
        .svid();
    Identity::new(svid, ca.bundle())
}

fn client(server: ServerEntry) -> XdsClient {
    let bootstrap = Bootstrap::builder(Node::default()).server(server);
    XdsClient::start(bootstrap.build().unwrap()).unwrap()
}

/// Waits until a target has a configuration.
async fn configured(client: &XdsClient) {
    let _guard = client.link().interest().watch("t");
    let reached = client.status().until(SOON, |report| report.published.0 > 0).await;
    reached.unwrap();
}

async fn token(plane: &mut Plane) -> Option<String> {
    tokio::time::timeout(SOON, plane.tokens.recv()).await.unwrap().unwrap()
}

/// Waits until a stream that is newer than this one is served; which it is.
async fn served(plane: &Plane, before: u64) -> u64 {
    let mut changes = plane.cache.client_changes();
    let newest = || plane.cache.clients().iter().map(|client| client.stream).max();
    let newer = changes.wait_for(|_| newest() > Some(before));
    tokio::time::timeout(SOON, newer).await.unwrap().unwrap();
    newest().unwrap_or(before)
}

#[tokio::test]
async fn through_a_socket_file_with_a_token() {
    let files = Files::new();
    let socket = files.path("xds");
    let mut plane = Plane::at_file(Path::new(&socket));
    let with_token = ServerEntry::insecure(&format!("unix://{socket}")).call_credentials(&files.write("token", &jwt()));
    let client = client(with_token);
    configured(&client).await;
    assert_eq!(token(&mut plane).await, Some(format!("Bearer {}", jwt())));
    let report = client.status().report();
    assert_eq!(report.connection.server, format!("unix:{socket}"));
}

#[tokio::test]
async fn without_call_credentials_no_header_is_sent() {
    let files = Files::new();
    let socket = files.path("xds");
    let mut plane = Plane::at_file(Path::new(&socket));
    configured(&client(ServerEntry::insecure(&format!("unix:{socket}")))).await;
    assert_eq!(token(&mut plane).await, None);
}

#[tokio::test]
async fn a_certificate_in_files_is_shown_instead_of_the_identity() {
    let (ca, files) = (TestCa::new("d"), Files::new());
    let (mut plane, uri) = Plane::over_tls(&own(&ca)).await;
    let roots = files.write("roots.pem", &pem("CERTIFICATE", &ca.root()));
    let (chain, key) = files.pair("operator", &ca.leaf(OPERATOR).issue());
    let server = ServerEntry::tls_file(&uri, &roots)
        .certificate(&chain, &key)
        .call_credentials(&files.write("token", &jwt()));
    let (chain, key) = files.pair("payment", &ca.leaf(PAYMENT).issue());
    let bootstrap = |server| {
        let builder = Bootstrap::builder(Node::default()).server(server);
        builder.file_watcher(&chain, &key, &roots, "600s").build().unwrap()
    };
    let seen = |plane: &Plane| plane.cache.clients()[0].peer.as_ref().unwrap().as_str().to_owned();

    let client = XdsClient::start(bootstrap(server)).unwrap();
    configured(&client).await;
    assert_eq!(seen(&plane), OPERATOR);
    assert_eq!(token(&mut plane).await, Some(format!("Bearer {}", jwt())));
    assert!(
        client.link().identity().load().is_ok(),
        "the workload has its own to show to its peers"
    );

    let (plane, uri) = Plane::over_tls(&own(&ca)).await;
    let client = XdsClient::start(bootstrap(ServerEntry::tls_file(&uri, &roots))).unwrap();
    configured(&client).await;
    assert_eq!(seen(&plane), PAYMENT);
}

/// gRFC A97: each stream has the token that is good then, and none is begun with one that has ended.
#[tokio::test]
async fn a_token_that_ends_is_renewed_before_the_next_stream() {
    let files = Files::new();
    let socket = files.path("xds");
    let mut plane = Plane::at_file(Path::new(&socket));
    let clock = SettableClock::at(1_000);
    let server = ServerEntry::insecure(&format!("unix://{socket}"));
    let server = server.call_credentials(&files.write("token", &jwt_until(2_000)));
    let bootstrap = Bootstrap::builder(Node::default()).server(server).build().unwrap();
    let parts = Parts {
        wall_clock: Arc::new(clock.clone()),
        ..Parts::default()
    };
    let client = XdsClient::builder(bootstrap).parts(parts).start().unwrap();
    let _guard = client.link().interest().watch("t");
    let bearer = |exp| Some(format!("Bearer {}", jwt_until(exp)));
    assert_eq!(token(&mut plane).await, bearer(2_000));
    let first = served(&plane, 0).await;
    // Every stream ends here, and the next begins with what the file says by then.
    files.write("token", &jwt_until(9_000));
    clock.set(1_975);
    plane.cache.retire(GROUP);
    assert_eq!(token(&mut plane).await, bearer(9_000));
    served(&plane, first).await;
    // Nobody renewed it.
    clock.set(9_500);
    plane.cache.retire(GROUP);
    let ended = |report: &Report| {
        let why = report.connection.last_error.as_deref().unwrap_or_default();
        why.contains("Unauthenticated") && why.contains("it has ended")
    };
    client.status().until(SOON, ended).await.unwrap();
    assert!(plane.tokens.try_recv().is_err(), "nothing was sent");
    files.write("token", &jwt_until(20_000));
    assert_eq!(token(&mut plane).await, bearer(20_000));
}

/// One that has an hour to go is not shown for an hour to a control plane that does not believe it.
#[tokio::test]
async fn a_token_that_is_not_believed_is_replaced_by_what_its_file_has() {
    let files = Files::new();
    let socket = files.path("xds");
    let mut plane = Plane::at_file(Path::new(&socket));
    let server = ServerEntry::insecure(&format!("unix://{socket}"));
    let client = client(server.call_credentials(&files.write("token", &jwt())));
    configured(&client).await;
    let bearer = |token: &str| Some(format!("Bearer {token}"));
    assert_eq!(token(&mut plane).await, bearer(&jwt()));
    let first = served(&plane, 0).await;
    // The issuer has a new key, and whoever renews the file was there before.
    let renewed = jwt_until(NOT_AFTER_SECONDS - 1);
    *plane.believed.lock().unwrap() = bearer(&renewed);
    files.write("token", &renewed);
    let _guard = client.link().interest().watch("t");
    plane.cache.retire(GROUP);
    assert_eq!(
        token(&mut plane).await,
        bearer(&jwt()),
        "nobody has said yet that it is no good"
    );
    assert_eq!(token(&mut plane).await, bearer(&renewed));
    served(&plane, first).await;
}

#[tokio::test]
async fn without_a_good_token_no_call_is_made() {
    let files = Files::new();
    let socket = files.path("xds");
    let mut plane = Plane::at_file(Path::new(&socket));
    let opaque = files.write("token", "open-sesame");
    let client = client(ServerEntry::insecure(&format!("unix://{socket}")).call_credentials(&opaque));
    let link = client.link();
    let _guard = link.interest().watch("t");
    let report = client
        .status()
        .until(SOON, |report| matches!(report.connection.phase, Phase::BackingOff(_)))
        .await
        .unwrap();
    let why = report.connection.last_error.clone().unwrap();
    assert!(
        why.contains("Unauthenticated: no call was made without the token in "),
        "{why}"
    );
    assert!(why.contains("it is not a JWT") && !why.contains("sesame"), "{why}");
    assert!(plane.tokens.try_recv().is_err(), "nothing was sent");
    // A good one in the file is found at the next attempt.
    files.write("token", &jwt());
    configured(&client).await;
    assert_eq!(token(&mut plane).await, Some(format!("Bearer {}", jwt())));
}

#[tokio::test]
async fn roots_of_several_trust_domains_come_from_one_file() {
    let (ca, other, files) = (TestCa::new("d"), TestCa::new("e"), Files::new());
    let bundle = |ca: &TestCa| {
        let root = STANDARD.encode(ca.root());
        format!(r#"{{"keys": [{{"kty": "EC", "use": "x509-svid", "x5c": ["{root}"]}}]}}"#)
    };
    let write = |domains: &str| files.write("map.json", &format!(r#"{{"trust_domains": {{{domains}}}}}"#));
    let map = write(&format!(r#""d": {}, "e": {}"#, bundle(&ca), bundle(&other)));
    let (chain, key) = files.pair("payment", &ca.leaf(PAYMENT).issue());
    let json = format!(
        r#"{{"xds_servers": [{{"server_uri": "unix:none", "channel_creds": [{{"type": "insecure"}}]}}],
            "certificate_providers": {{"default": {{"plugin_name": "file_watcher", "config": {{
                "certificate_file": "{chain}", "private_key_file": "{key}", "ca_certificate_file": "not-read.pem",
                "spiffe_trust_bundle_map_file": "{map}", "refresh_interval": "0.1s"}}}}}}}}"#
    );
    let client = XdsClient::start(Bootstrap::from_json(&json).unwrap()).unwrap();
    let link = client.link();
    let until = async |is: &dyn Fn(&Identity) -> bool| {
        let becomes = async {
            loop {
                match &**link.identity().load() {
                    Ok(identity) if is(identity) => return identity.clone(),
                    _ => tokio::task::yield_now().await,
                }
            }
        };
        tokio::time::timeout(SOON, becomes).await.unwrap()
    };
    let identity = until(&|_| true).await;
    let domains: Vec<&str> = identity.bundle().domains().map(|domain| domain.as_str()).collect();
    assert_eq!(domains, ["d", "e"]);
    for (ca, domain) in identity
        .bundle()
        .domains()
        .zip([&ca, &other])
        .map(|(domain, ca)| (ca, domain))
    {
        assert_eq!(identity.bundle().roots(domain), [ca.root()]);
    }
    // Half of a map changes nothing; a map without anybody trusts nobody.
    let failures = link.tally().get("identity", "failed");
    files.write(
        "map.json",
        r#"{"trust_domains": {"d": {"keys": [{"use": "x509-svid"}]}}}"#,
    );
    let refused = async {
        while link.tally().get("identity", "failed") == failures {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, refused).await.unwrap();
    assert_eq!(
        link.identity()
            .load()
            .as_ref()
            .as_ref()
            .unwrap()
            .bundle()
            .domains()
            .count(),
        2
    );
    write("");
    let empty = until(&|identity| identity.bundle().domains().count() == 1).await;
    assert!(empty.bundle().roots(identity.id().trust_domain()).is_empty());
}
