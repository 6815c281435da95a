//! The SPIFFE Workload API as a source of identity, against an agent written from the protocol: on a real Unix socket, over real
//! HTTP/2. Unproven against SPIRE.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use mesh_core::Link;
use mesh_core::config::{ExpectedPeers, ReasonKind};
use mesh_core::identity::verify::Refusal;
use mesh_core::identity::{Identity, TrustDomain, tls};
use mesh_core::testing::TestCa;
use mesh_xds::{Bootstrap, Node, XdsClient};
use rustls::pki_types::ServerName;
use rustls::time_provider::DefaultTimeProvider;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, ServerStreamingService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;

/// Longer than any step takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);
const ID: &str = "spiffe://d/ns/shop/sa/payment";
const OTHER: &str = "spiffe://d/ns/shop/sa/other";

/// `X509SVIDRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Ask {}

/// `X509SVIDResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct Told {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<Svid>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    crl: Vec<Vec<u8>>,
    #[prost(map = "string, bytes", tag = "3")]
    federated: HashMap<String, Vec<u8>>,
}

/// `X509SVID`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Svid {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(bytes = "vec", tag = "2")]
    chain: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    bundle: Vec<u8>,
    #[prost(string, tag = "5")]
    hint: String,
}

/// What `ca` gives a workload.
fn svid(ca: &TestCa, id: &str, hint: &str) -> Svid {
    let issued = ca.leaf(id).issue();
    Svid {
        id: id.into(),
        chain: issued.chain.iter().flat_map(|one| one.to_vec()).collect(),
        key: issued.key.secret_der().to_vec(),
        bundle: ca.root().to_vec(),
        hint: hint.into(),
    }
}

fn told(svids: impl IntoIterator<Item = Svid>) -> Told {
    Told {
        svids: svids.into_iter().collect(),
        ..Told::default()
    }
}

type Word = Result<Told, Status>;

/// An agent: it says the newest word, on each stream at once and whenever there is another. An error ends the stream.
struct Agent {
    folder: tempfile::TempDir,
    word: watch::Sender<Word>,
    streams: Arc<AtomicUsize>,
    serving: Mutex<Option<JoinHandle<()>>>,
}

impl Agent {
    fn new(word: Word) -> Self {
        let agent = Self {
            folder: tempfile::tempdir().unwrap(),
            word: watch::Sender::new(word),
            streams: Arc::default(),
            serving: Mutex::default(),
        };
        agent.start();
        agent
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    fn start(&self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let api = Api {
            word: self.word.clone(),
            streams: Arc::clone(&self.streams),
        };
        let server = tonic::transport::Server::builder().add_service(api);
        let serving = server.serve_with_incoming(UnixListenerStream::new(listener));
        let task = tokio::spawn(async move { drop(serving.await) });
        *self.serving.lock().unwrap() = Some(task);
    }

    /// Ends as a process does: its connections break and its socket is refused.
    async fn kill(&self) {
        let task = self.serving.lock().unwrap().take().unwrap();
        task.abort();
        drop(task.await);
        // What serves a connection is a task of its own, and ends by an error on its stream.
        self.say(Err(Status::unavailable("the agent is going")));
        std::fs::remove_file(self.socket()).unwrap();
    }

    fn say(&self, word: Word) {
        drop(self.word.send_replace(word));
    }

    fn client(&self) -> XdsClient {
        client(&self.socket(), None)
    }
}

/// A process that knows its agent, and a control plane that is not there.
fn client(socket: &Path, hint: Option<&str>) -> XdsClient {
    let socket = format!("unix://{}", socket.display());
    let plain = Bootstrap::builder(Node::default()).insecure("unix:///no/such/control/plane");
    let bootstrap = plain.workload_api(Some(&socket)).build().unwrap();
    let mut file: serde_json::Value = serde_json::from_str(&bootstrap.to_json()).unwrap();
    if let Some(hint) = hint {
        file["certificate_providers"]["default"]["config"]["hint"] = hint.into();
    }
    XdsClient::start(Bootstrap::from_json(&file.to_string()).unwrap()).unwrap()
}

#[derive(Clone)]
struct Api {
    word: watch::Sender<Word>,
    streams: Arc<AtomicUsize>,
}

impl NamedService for Api {
    const NAME: &'static str = "SpiffeWorkloadAPI";
}

impl ServerStreamingService<Ask> for Api {
    type Response = Told;
    type ResponseStream = Pin<Box<dyn tokio_stream::Stream<Item = Word> + Send>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Ask>) -> Self::Future {
        // Workload Endpoint 5: whoever does not say this did not mean to call.
        if request
            .metadata()
            .get("workload.spiffe.io")
            .map(|value| value.as_bytes())
            != Some(b"true")
        {
            return ready(Err(Status::invalid_argument("security header missing")));
        }
        self.streams.fetch_add(1, Ordering::Relaxed);
        let words = WatchStream::new(self.word.subscribe());
        let stream: Self::ResponseStream = Box::pin(words);
        ready(Ok(Response::new(stream)))
    }
}

impl Service<http::Request<Body>> for Api {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != "/SpiffeWorkloadAPI/FetchX509SVID" {
                return Ok(Status::unimplemented("no such method").into_http());
            }
            let mut grpc = Grpc::new(ProstCodec::<Told, Ask>::default());
            Ok(grpc.server_streaming(service, request).await)
        })
    }
}

/// Waits until the standing is as wanted.
async fn until<T>(link: &Link, what: &str, wanted: impl Fn(&mesh_core::link::Standing) -> Option<T>) -> T {
    let bell = Arc::new(tokio::sync::Notify::new());
    let ring = Arc::clone(&bell);
    let _subscription = link.identity().on_change(move || ring.notify_one());
    let found = async {
        loop {
            if let Some(found) = wanted(&link.identity().load()) {
                return found;
            }
            bell.notified().await;
        }
    };
    tokio::time::timeout(SOON, found)
        .await
        .unwrap_or_else(|_| panic!("waited for {what}; it is {:?}", link.identity().load()))
}

async fn identity(link: &Link, chain: &[u8]) -> Identity {
    until(link, "the identity", |standing| {
        let identity = standing.as_ref().ok()?;
        let shown: Vec<u8> = identity.svid().chain().iter().flat_map(|one| one.to_vec()).collect();
        (shown == chain).then(|| identity.clone())
    })
    .await
}

/// Waits until a failure was counted after so many.
async fn failed(link: &Link, before: u64) {
    let counted = async {
        while link.tally().get("identity", "failed") == before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, counted).await.unwrap();
}

/// A handshake of a workload of the mesh with a server whose identity is `server`.
async fn called(caller: &Identity, server: &Identity) -> Result<(), Refusal> {
    let expected = ExpectedPeers::exactly([server.id().as_str()]);
    let clock = || Arc::new(DefaultTimeProvider);
    let client = tls::client_config(caller, &expected, clock(), &[b"h2"]).unwrap();
    let accepts = tls::server_config(server, tls::ClientAuth::Required, clock(), &[b"h2"]).unwrap();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from("payment").unwrap();
    let connector = TlsConnector::from(client);
    let (served, called) = tokio::join!(TlsAcceptor::from(accepts).accept(far), connector.connect(name, near));
    let reason = |error: std::io::Error| {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        inner.and_then(Refusal::from_error).cloned()
    };
    match (called.map_err(reason), served.map_err(reason)) {
        (Ok(_), Ok(_)) => Ok(()),
        (Err(Some(refusal)), _) | (_, Err(Some(refusal))) => Err(refusal),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_identity_is_pushed_and_pushed_again() {
    let ca = TestCa::new("d");
    let first = svid(&ca, ID, "");
    let agent = Agent::new(Ok(told([first.clone()])));
    let client = agent.client();
    let link = client.link();
    let one = identity(&link, &first.chain).await;
    assert_eq!((one.id().as_str(), one.bundle().domains().count()), (ID, 1));
    let second = svid(&ca, ID, "");
    agent.say(Ok(told([second.clone()])));
    let two = identity(&link, &second.chain).await;
    assert!(two.generation() > one.generation() && two.is_renewal_of(&one));
    assert_eq!(agent.streams.load(Ordering::Relaxed), 1, "over one stream");
    called(&two, &one).await.unwrap();
}

#[tokio::test]
async fn the_first_identity_is_taken_or_the_one_with_the_hint() {
    let ca = TestCa::new("d");
    let (first, second) = (svid(&ca, ID, "internal"), svid(&ca, OTHER, "external"));
    let agent = Agent::new(Ok(told([first.clone(), second.clone()])));
    let (unhinted, hinted) = (agent.client(), client(&agent.socket(), Some("external")));
    assert_eq!(identity(&unhinted.link(), &first.chain).await.id().as_str(), ID);
    assert_eq!(identity(&hinted.link(), &second.chain).await.id().as_str(), OTHER);
}

#[tokio::test]
async fn each_domain_is_judged_by_its_own_roots_and_for_as_long_as_they_are_told() {
    let (ours, theirs) = (TestCa::new("d"), TestCa::new("their.test"));
    let first = svid(&ours, ID, "");
    let mut word = told([first.clone()]);
    word.federated
        .insert("spiffe://their.test".into(), theirs.root().to_vec());
    // Whoever federates with us does not choose our own roots.
    word.federated.insert("spiffe://d".into(), theirs.root().to_vec());
    let agent = Agent::new(Ok(word));
    let client = agent.client();
    let link = client.link();
    let us = identity(&link, &first.chain).await;

    let federated = |ca: &TestCa, id: &str| {
        let bundle = theirs
            .bundle()
            .with_domain(TrustDomain::parse("d").unwrap(), vec![ours.root()]);
        Identity::new(ca.svid(id), bundle.unwrap())
    };
    let them = federated(&theirs, "spiffe://their.test/ns/a/sa/b");
    called(&us, &them).await.unwrap();
    called(&them, &us).await.unwrap();
    // Neither vouches for the other's names.
    let forged = federated(&theirs, OTHER);
    assert_eq!(called(&us, &forged).await, Err(Refusal::UnknownIssuer));
    assert_eq!(called(&forged, &us).await, Err(Refusal::UnknownIssuer));
    let forged = federated(&ours, "spiffe://their.test/ns/a/sa/b");
    assert_eq!(called(&us, &forged).await, Err(Refusal::UnknownIssuer));

    // What is told no more is so no more (4.4).
    let second = svid(&ours, ID, "");
    agent.say(Ok(told([second.clone()])));
    let us = identity(&link, &second.chain).await;
    let domain = TrustDomain::parse("their.test").unwrap();
    assert_eq!(called(&us, &them).await, Err(Refusal::ForeignTrustDomain(domain)));
}

#[tokio::test]
async fn what_is_wrong_is_discarded_and_the_last_good_one_stays() {
    let ca = TestCa::new("d");
    let first = svid(&ca, ID, "");
    let agent = Agent::new(Ok(told([first.clone()])));
    let client = agent.client();
    let link = client.link();
    identity(&link, &first.chain).await;
    let edited = |edit: fn(&mut Svid)| {
        let mut bad = svid(&ca, ID, "");
        edit(&mut bad);
        told([bad])
    };
    let mut domain = told([svid(&ca, ID, "")]);
    domain.federated.insert("spiffe://NOT A DOMAIN".into(), Vec::new());
    let mut roots = told([svid(&ca, ID, "")]);
    roots.federated.insert("spiffe://e".into(), b"0\x03abc".to_vec());
    let bad = [
        told([]),
        edited(|svid| svid.key = TestCa::new("d").leaf(ID).issue().key.secret_der().to_vec()),
        edited(|svid| svid.key.clear()),
        edited(|svid| svid.chain.clear()),
        edited(|svid| svid.chain.truncate(100)),
        edited(|svid| svid.id = OTHER.into()),
        edited(|svid| svid.bundle = b"not DER".to_vec()),
        domain,
        roots,
    ];
    for word in bad {
        let before = link.tally().get("identity", "failed");
        agent.say(Ok(word));
        failed(&link, before).await;
        identity(&link, &first.chain).await;
    }
    let next = svid(&ca, ID, "");
    agent.say(Ok(told([next.clone()])));
    identity(&link, &next.chain).await;
    assert_eq!(agent.streams.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn who_is_entitled_to_nothing_has_nothing_until_it_is() {
    let ca = TestCa::new("d");
    let agent = Agent::new(Err(Status::permission_denied("no identity issued")));
    let client = agent.client();
    let link = client.link();
    let denied = async |said: &str| {
        until(&link, said, |standing| {
            let reason = standing.as_ref().err()?;
            let is_it = reason.kind() == ReasonKind::NoIdentity && reason.to_string().contains(said);
            is_it.then_some(())
        })
        .await;
    };
    denied("PermissionDenied: no identity issued").await;
    // Registered, and then no longer (5.2.1).
    let first = svid(&ca, ID, "");
    agent.say(Ok(told([first.clone()])));
    identity(&link, &first.chain).await;
    agent.say(Err(Status::permission_denied("gone")));
    denied("PermissionDenied: gone").await;
}

#[tokio::test]
async fn an_agent_that_comes_back_is_found_and_nothing_is_lost_meanwhile() {
    let ca = TestCa::new("d");
    let first = svid(&ca, ID, "");
    let agent = Agent::new(Ok(told([first.clone()])));
    let client = agent.client();
    let link = client.link();
    let one = identity(&link, &first.chain).await;
    let before = link.tally().get("identity", "failed");
    agent.kill().await;
    failed(&link, before).await;
    assert_eq!(
        link.identity().load().as_ref().as_ref().unwrap().generation(),
        one.generation()
    );
    let second = svid(&ca, ID, "");
    agent.say(Ok(told([second.clone()])));
    agent.start();
    identity(&link, &second.chain).await;
    assert!(agent.streams.load(Ordering::Relaxed) >= 2);
}
