//! A control plane that says anything at all, down to the bytes, in both variants of the protocol. What it may cost in memory
//! is tested from outside, in `tests/memory`.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::body::Body;
use tonic::server::NamedService;

use super::plane::{EVER, ports, settle};
use super::*;
use crate::Connector;
use crate::bootstrap::{Bootstrap, Protocol};
use crate::client::{Phase, XdsClient};
use crate::node::Node;
use crate::wire::{Delta, DeltaRequest, DeltaResponse, Request, Sotw, Variant, Versioned};

const PROTOCOLS: [Protocol; 2] = [Protocol::Sotw, Protocol::Delta];

/// The bytes of a frame's head: whether it is compressed, and how long it is.
const HEAD_BYTES: usize = 5;

/// One stream from the server's side, as bytes.
struct Line {
    protocol: Protocol,
    out: mpsc::UnboundedSender<Bytes>,
    requests: mpsc::UnboundedReceiver<Said>,
}

/// What a client said, in either variant.
struct Said {
    type_url: String,
    nonce: String,
    /// Of what it holds: in state of the world of a kind, in the incremental variant of the first resource that it names.
    version: String,
    error: Option<String>,
}

impl From<Request> for Said {
    fn from(request: Request) -> Self {
        Self {
            type_url: request.type_url,
            nonce: request.nonce,
            version: request.version,
            error: request.error,
        }
    }
}

impl From<DeltaRequest> for Said {
    fn from(request: DeltaRequest) -> Self {
        let held = request.held.first();
        Self {
            type_url: request.type_url,
            nonce: request.nonce,
            version: held.map(|(_, version)| version.to_string()).unwrap_or_default(),
            error: request.error,
        }
    }
}

/// Hands every stream to the test.
#[derive(Clone)]
struct Mouth {
    lines: mpsc::UnboundedSender<Line>,
    encoding: Arc<Mutex<Option<&'static str>>>,
}

impl NamedService for Mouth {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl tower::Service<http::Request<Body>> for Mouth {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (out, chunks) = mpsc::unbounded_channel();
        let (heard, requests) = mpsc::unbounded_channel();
        let protocol = match request.uri().path().ends_with("/DeltaAggregatedResources") {
            true => Protocol::Delta,
            false => Protocol::Sotw,
        };
        tokio::spawn(listen(protocol, request.into_body(), heard));
        drop(self.lines.send(Line {
            protocol,
            out,
            requests,
        }));
        let frames = UnboundedReceiverStream::new(chunks).map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)));
        let response = http::Response::builder().header("content-type", "application/grpc");
        let response = match *self.encoding.lock().unwrap() {
            Some(encoding) => response.header("grpc-encoding", encoding),
            None => response,
        };
        ready(Ok(response.body(Body::new(StreamBody::new(frames))).unwrap()))
    }
}

async fn listen(protocol: Protocol, mut body: Body, heard: mpsc::UnboundedSender<Said>) {
    let mut buffer = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        buffer.extend_from_slice(&frame.into_data().unwrap_or_default());
        while buffer.len() >= HEAD_BYTES {
            let length = (&buffer[1..HEAD_BYTES]).get_u32() as usize;
            if buffer.len() < HEAD_BYTES + length {
                break;
            }
            let message = buffer.split_to(HEAD_BYTES + length).split_off(HEAD_BYTES);
            if heard.send(decoded(protocol, message)).is_err() {
                return;
            }
        }
    }
}

/// A message in its frame.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = vec![0];
    frame.extend((message.len() as u32).to_be_bytes());
    frame.extend(message);
    frame.into()
}

fn decoded(protocol: Protocol, message: BytesMut) -> Said {
    match protocol {
        Protocol::Sotw => Request::from(<Sotw as Variant>::RequestMessage::decode(message).unwrap()).into(),
        Protocol::Delta => DeltaRequest::from(<Delta as Variant>::RequestMessage::decode(message).unwrap()).into(),
    }
}

fn encoded(protocol: Protocol, response: Response) -> Vec<u8> {
    match protocol {
        Protocol::Sotw => <Sotw as Variant>::ResponseMessage::from(response).encode_to_vec(),
        Protocol::Delta => <Delta as Variant>::ResponseMessage::from(incremental(response)).encode_to_vec(),
    }
}

/// The same in the incremental variant: each resource by its name, which is the first field of every kind.
fn incremental(response: Response) -> DeltaResponse {
    let name = |bytes: &[u8]| {
        let named = bytes.split_first_chunk::<2>().filter(|([tag, _], _)| *tag == 0x0a);
        let name = named.and_then(|([_, length], rest)| rest.get(..usize::from(*length)));
        String::from_utf8_lossy(name.unwrap_or(b"x")).into_owned()
    };
    let versioned = |raw: Raw| Versioned {
        name: name(&raw.bytes).into(),
        version: response.version.as_str().into(),
        raw: Some(raw),
        ttl: None,
    };
    DeltaResponse {
        type_url: response.type_url,
        version: response.version.clone(),
        nonce: response.nonce,
        resources: response.resources.into_iter().map(versioned).collect(),
        ..DeltaResponse::default()
    }
}

impl Line {
    fn say(&self, response: Response) {
        self.out.send(framed(&encoded(self.protocol, response))).unwrap();
    }

    /// The next request of a kind.
    async fn request(&mut self, kind: ResourceKind) -> Said {
        loop {
            let next = tokio::time::timeout(EVER, self.requests.recv());
            let request = next.await.unwrap().expect("the stream is open");
            if request.type_url == kind.type_url() {
                return request;
            }
        }
    }

    /// Everything that was said until now.
    async fn heard(&mut self) -> Vec<Said> {
        settle().await;
        std::iter::from_fn(|| self.requests.try_recv().ok()).collect()
    }

    /// Tells a whole tree, each part when it is asked for.
    async fn tell(&mut self) {
        for (kind, resource) in [
            (ResourceKind::Listener, listener("t", "t")),
            (ResourceKind::Route, routes("t", "c")),
            (ResourceKind::Cluster, cluster("c")),
            (ResourceKind::Endpoints, endpoints("c", &[1])),
        ] {
            self.request(kind).await;
            self.say(response(kind, "1", vec![resource]));
        }
    }
}

struct Scene {
    client: XdsClient,
    link: mesh_core::Link,
    lines: mpsc::UnboundedReceiver<Line>,
    encoding: Arc<Mutex<Option<&'static str>>>,
    _guard: mesh_core::link::Guard,
}

impl Scene {
    async fn begin(protocol: Protocol) -> (Self, Line) {
        let (sender, lines) = mpsc::unbounded_channel();
        let (arrivals, incoming) = mpsc::unbounded_channel::<std::io::Result<tokio::io::DuplexStream>>();
        let encoding = Arc::new(Mutex::new(None));
        let service = Mouth {
            lines: sender,
            encoding: Arc::clone(&encoding),
        };
        let router = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(router.serve_with_incoming(UnboundedReceiverStream::new(incoming)));
        let connector = Connector::new(move |_| {
            let (client, server) = tokio::io::duplex(1 << 20);
            let sent = arrivals.send(Ok(server));
            async move {
                sent.map(|()| client)
                    .map_err(|_| std::io::ErrorKind::ConnectionRefused.into())
            }
        });
        let builder = Bootstrap::builder(Node::default()).protocol(protocol);
        let bootstrap = builder.insecure("raw:1").build().unwrap();
        let client = XdsClient::builder(bootstrap).connector(connector).start().unwrap();
        let link = client.link();
        let guard = link.interest().watch("t");
        let mut scene = Self {
            client,
            link,
            lines,
            encoding,
            _guard: guard,
        };
        let mut line = scene.next().await;
        line.tell().await;
        let published = |report: &crate::client::Report| report.published.0 == 1;
        scene.client.status().until(EVER, published).await.unwrap();
        line.heard().await;
        (scene, line)
    }

    async fn next(&mut self) -> Line {
        tokio::time::timeout(EVER, self.lines.recv()).await.unwrap().unwrap()
    }

    #[track_caller]
    fn assert_unmoved(&self, about: &str) {
        let snapshot = self.link.snapshots().load_full();
        assert_eq!(
            (snapshot.version().0, ports(&snapshot, "t")),
            (1, "c:1".into()),
            "{about}"
        );
        assert_ne!(
            self.client.status().report().connection.phase,
            Phase::Stopped,
            "{about}"
        );
    }
}

/// A message of `count` fields that no schema knows.
fn unknown_fields(count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count * 4);
    for _ in 0..count {
        // Field 1000, a varint, 1.
        bytes.extend([0xc0, 0x3e, 0x01]);
    }
    bytes
}

#[tokio::test(start_paused = true)]
async fn cp_5_what_is_no_message_ends_the_stream_and_nothing_else() {
    for protocol in PROTOCOLS {
        what_is_no_message_ends_the_stream_and_nothing_else(protocol).await;
    }
}

async fn what_is_no_message_ends_the_stream_and_nothing_else(protocol: Protocol) {
    let mut seed = 7u64;
    let mut random = |count: usize| -> Vec<u8> {
        let next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as u8
        };
        std::iter::repeat_with(next).take(count).collect()
    };
    let mut bomb = vec![1];
    bomb.extend(64u32.to_be_bytes());
    bomb.extend(random(64));
    // The length of a message that would not fit into memory; none of it comes.
    let endless = [&[0, 0xff, 0xff, 0xff, 0xff][..], &random(1000)].concat();
    let noise = [&[9][..], &random(4096)].concat();
    let no_message = framed(&[&[0xff; 3][..], &random(500)].concat());
    let cases: [(&str, Option<&'static str>, Bytes, &str); 5] = [
        ("bytes without a frame", None, noise.into(), "invalid compression flag"),
        ("a frame of no message", None, no_message, "failed to decode Protobuf"),
        (
            "a message beyond the limit",
            None,
            endless.into(),
            "the limit is: 268435456",
        ),
        (
            "compressed without a word",
            None,
            bomb.clone().into(),
            "no grpc-encoding",
        ),
        (
            "compressed, never offered",
            Some("gzip"),
            bomb.into(),
            "isn't supported",
        ),
    ];
    let (mut scene, mut line) = Scene::begin(protocol).await;
    for (about, encoding, bytes, told) in cases {
        if encoding.is_some() {
            // It is said when a stream begins.
            *scene.encoding.lock().unwrap() = encoding;
            drop(line);
            line = scene.next().await;
        }
        let _ = line.out.send(bytes);
        *scene.encoding.lock().unwrap() = None;
        line = scene.next().await;
        scene.assert_unmoved(about);
        let why = scene.client.status().report().connection.last_error.clone().unwrap();
        assert!(why.contains(told), "{about}: {why}");
        // It says what it had, and all goes on.
        let again = line.request(ResourceKind::Listener).await;
        assert_eq!((again.version.as_str(), again.nonce.as_str()), ("1", ""), "{about}");
        line.say(response(ResourceKind::Listener, "1", vec![listener("t", "t")]));
        settle().await;
        assert_eq!(scene.client.status().report().connection.last_error, None);
    }
}

#[tokio::test(start_paused = true)]
async fn cp_5_a_control_plane_that_begins_with_garbage_is_asked_less_and_less() {
    for protocol in PROTOCOLS {
        a_control_plane_that_begins_with_garbage_is_asked_less_and_less(protocol).await;
    }
}

async fn a_control_plane_that_begins_with_garbage_is_asked_less_and_less(protocol: Protocol) {
    let (mut scene, mut line) = Scene::begin(protocol).await;
    let mut pauses = Vec::new();
    for _ in 0..8 {
        line.out.send(framed(&[0xff; 100])).unwrap();
        let began = Instant::now();
        line = scene.next().await;
        pauses.push(began.elapsed().as_secs_f64());
    }
    // The first stream had answers; each that followed began with garbage.
    let mut base = 1.0;
    for pause in &pauses[1..] {
        assert!(*pause > base * 0.8 - 0.01, "{pauses:?}");
        base *= 1.6;
    }
    scene.assert_unmoved("garbage first");
}

#[tokio::test(start_paused = true)]
async fn cp_5_what_is_a_message_and_makes_no_sense_is_refused_once_or_ignored() {
    for protocol in PROTOCOLS {
        what_is_a_message_and_makes_no_sense_is_refused_once_or_ignored(protocol).await;
    }
}

async fn what_is_a_message_and_makes_no_sense_is_refused_once_or_ignored(protocol: Protocol) {
    let (scene, mut line) = Scene::begin(protocol).await;
    let huge = raw(ResourceKind::Cluster, vec![0xff; 64 << 20]);
    let mut padded = cluster("c");
    padded.bytes.extend(unknown_fields(1_000_000));
    let stranger = Raw {
        type_url: "type.googleapis.com/x.Y".into(),
        bytes: vec![1, 2, 3],
    };
    let many = (0..2000).map(|index| bad_cluster(&format!("cluster-{index}")));
    // What is said, and whether it is refused.
    let cases = [
        ("another type inside", vec![stranger], true),
        ("a listener among clusters", vec![listener("c", "t")], true),
        ("the same name twice", vec![cluster("c"), cluster("c")], true),
        ("64 MiB of nothing", vec![huge], true),
        ("two thousand bad ones", many.collect(), true),
        ("a million unknown fields", vec![padded], false),
    ];
    for (round, (about, resources, is_refused)) in cases.into_iter().enumerate() {
        let version = format!("c{round}");
        line.say(response(ResourceKind::Cluster, &version, resources));
        let answer = line.request(ResourceKind::Cluster).await;
        assert_eq!(answer.nonce, version, "{about}");
        let detail = answer.error;
        assert_eq!(detail.is_some(), is_refused, "{about}: {detail:?}");
        assert!(detail.unwrap_or_default().len() <= 4096, "{about}");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(line.heard().await.is_empty(), "{about}: answered once");
        if is_refused {
            scene.assert_unmoved(about);
        }
    }
    // A type that nobody knows, or that was not asked for, is not answered.
    let mut unknown = response(ResourceKind::Cluster, "x", vec![]);
    unknown.type_url = "type.googleapis.com/x.Y".into();
    line.say(unknown);
    let padded = [
        encoded(protocol, response(ResourceKind::Route, "2", vec![routes("t", "c")])),
        unknown_fields(1_000_000),
    ]
    .concat();
    line.out.send(framed(&padded)).unwrap();
    // A version that goes back is another version, and an empty nonce is one like any other.
    let mut back = response(ResourceKind::Route, "1", vec![routes("t", "c")]);
    back.nonce = String::new();
    line.say(back);
    let heard: Vec<(String, String, bool)> = line
        .heard()
        .await
        .into_iter()
        .map(|request| (request.version, request.nonce, request.error.is_some()))
        .collect();
    // An answer in the incremental variant says no version.
    let version = |version: &str| match protocol {
        Protocol::Sotw => version.to_owned(),
        Protocol::Delta => String::new(),
    };
    let expected = |told: &str, nonce: &str| (version(told), nonce.to_owned(), false);
    assert_eq!(heard, [expected("2", "2"), expected("1", "")]);
    assert_eq!(
        scene.client.status().report().connection.streams,
        1,
        "none of it cost the stream"
    );
    assert_eq!(ports(&scene.link.snapshots().load(), "t"), "c:1");
}

#[tokio::test(start_paused = true)]
async fn cp_5_a_control_plane_that_repeats_bad_resources_at_once_is_answered_at_a_bounded_rate() {
    for protocol in PROTOCOLS {
        a_control_plane_that_repeats_bad_resources_at_once_is_answered_at_a_bounded_rate(protocol).await;
    }
}

async fn a_control_plane_that_repeats_bad_resources_at_once_is_answered_at_a_bounded_rate(protocol: Protocol) {
    let (scene, mut line) = Scene::begin(protocol).await;
    let (began, mut refusals) = (Instant::now(), 0u32);
    line.say(response(ResourceKind::Cluster, "0", vec![bad_cluster("c")]));
    while began.elapsed() < Duration::from_secs(60) {
        let answer = line.request(ResourceKind::Cluster).await;
        assert!(answer.error.is_some());
        refusals += 1;
        line.say(response(
            ResourceKind::Cluster,
            &refusals.to_string(),
            vec![bad_cluster("c")],
        ));
    }
    // 0, 1, 2.6, 5.2, 9.3, 15.9, 26.4 and 43.2 s.
    assert_eq!(refusals, 9, "and the one that the loop waited for last");
    scene.assert_unmoved("bad ones at wire speed");
}
