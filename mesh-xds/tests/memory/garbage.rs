//! CP-5: whatever a control plane sends, its client holds no more than twice what it takes in one message. Real sockets, in
//! both variants of the protocol; the control plane says bytes, piece by piece, so that what is held is the client's.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use mesh_xds::bootstrap::Protocol;
use mesh_xds::client::Report;
use mesh_xds::{Bootstrap, Node, XdsClient};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::body::Body;
use tonic::server::NamedService;

use crate::{ALONE, Peak, held};

/// The largest message that a client takes.
const LIMIT: usize = 256 * 1024 * 1024;
/// Longer than any step takes on a busy machine.
const SOON: Duration = Duration::from_secs(120);
const PIECE: usize = 64 * 1024;
/// A hundredth of it would be gigabytes as values.
const SMALL: usize = 8 << 20;
const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";

type Pieces = mpsc::Sender<Bytes>;

/// Hands every stream to the test.
#[derive(Clone)]
struct Mouth(mpsc::UnboundedSender<Pieces>);

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
        let (pieces, receiver) = mpsc::channel(1);
        drop(self.0.send(pieces));
        // The client's half is read to its end, or its window would fill.
        let mut said = request.into_body();
        tokio::spawn(async move { while let Some(Ok(_)) = http_body_util::BodyExt::frame(&mut said).await {} });
        let frames = ReceiverStream::new(receiver).map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
        let response = http::Response::builder().header("content-type", "application/grpc");
        ready(Ok(response.body(Body::new(StreamBody::new(frames))).unwrap()))
    }
}

/// A field of a message: its tag and its bytes, with their length before them.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [head(number, bytes.len()), bytes.to_vec()].concat()
}

fn head(number: u8, mut length: usize) -> Vec<u8> {
    let mut head = vec![(number << 3) | 2];
    while length > 0x7f {
        head.push(length as u8 | 0x80);
        length >>= 7;
    }
    head.push(length as u8);
    head
}

/// A response about listeners: its bytes until the content of its only resource, how long that is, and a byte that fills it.
struct Said {
    about: &'static str,
    before: Vec<u8>,
    content: usize,
    filled: &'static [u8],
    after: Vec<u8>,
    /// Whether it costs the stream.
    ends: bool,
}

impl Said {
    /// A resource named `t` whose bytes begin so and go on with `filled`, so many bytes in all.
    fn new(about: &'static str, protocol: Protocol, begins: &[u8], filled: &'static [u8], content: usize) -> Self {
        let content = content / filled.len() * filled.len();
        let inner = begins.len() + content;
        let any = [field(1, LISTENER.as_bytes()), head(2, inner), begins.to_vec()].concat();
        let any_length = any.len() + content;
        let resource = match protocol {
            Protocol::Delta => {
                let named = [field(1, b"1"), field(3, b"t"), head(2, any_length), any].concat();
                let length = named.len() + content;
                [head(2, length), named].concat()
            }
            _ => [head(2, any_length), any].concat(),
        };
        Self {
            about,
            before: [field(1, b"1"), resource].concat(),
            content,
            filled,
            after: [field(4, LISTENER.as_bytes()), field(5, b"1")].concat(),
            ends: content > LIMIT,
        }
    }

    /// A resource named `t` with a field that holds a field that holds `filled`; each of `path` is the head of such a field.
    fn nested(about: &'static str, protocol: Protocol, path: &[&[u8]], filled: &'static [u8], content: usize) -> Self {
        let content = content / filled.len() * filled.len();
        let mut begins = Vec::new();
        for key in path.iter().rev() {
            let length = head(1, begins.len() + content)[1..].to_vec();
            begins = [key.to_vec(), length, begins].concat();
        }
        Self::new(about, protocol, &[field(1, b"t"), begins].concat(), filled, content)
    }

    /// No resource that could be read, but so many that say nothing.
    fn hollow(about: &'static str, content: usize) -> Self {
        Self {
            about,
            before: field(1, b"1"),
            content,
            filled: &[0x12, 0],
            after: [field(4, LISTENER.as_bytes()), field(5, b"1")].concat(),
            ends: true,
        }
    }

    async fn send(&self, pieces: &Pieces) {
        let length = self.before.len() + self.content + self.after.len();
        let mut frame = vec![0];
        frame.extend((length as u32).to_be_bytes());
        frame.extend(&self.before);
        pieces.send(frame.into()).await.unwrap();
        let piece: Bytes = self.filled.repeat(PIECE / self.filled.len()).into();
        let mut left = self.content;
        while left > 0 {
            let some = piece.slice(..left.min(piece.len()));
            left -= some.len();
            // A stream that its client has ended takes no more.
            if pieces.send(some).await.is_err() {
                return;
            }
        }
        drop(pieces.send(self.after.clone().into()).await);
    }
}

async fn holds_no_more_than_it_may(protocol: Protocol) {
    let _alone = ALONE.lock().await;
    let (sender, mut streams) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = tonic::transport::Server::builder().add_service(Mouth(sender));
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    let bootstrap = Bootstrap::builder(Node::default())
        .protocol(protocol)
        .insecure(&address);
    let client = XdsClient::start(bootstrap.build().unwrap()).unwrap();
    let _guard = client.link().interest().watch("t");

    let (peak, looks) = (Peak::default(), Arc::new(AtomicBool::new(true)));
    let looking = std::thread::spawn({
        let (peak, looks) = (peak.clone(), Arc::clone(&looks));
        move || {
            while looks.load(Ordering::Relaxed) {
                peak.look();
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    // A name, and then fields that nobody knows: number 1000, a varint, 1.
    let (name, unknown) = (field(1, b"t"), &[0xc0, 0x3e, 0x01][..]);
    // What else a stream holds fits into the rest.
    let almost = LIMIT - (1 << 20);
    let all = [
        Said::new("64 MiB of nothing", protocol, &[], &[0xff], 64 << 20),
        Said::new("a million unknown fields", protocol, &name, unknown, 3_000_000),
        Said::new("unknown fields up to the limit", protocol, &name, unknown, almost),
        Said::new("nothing up to the limit", protocol, &[], &[0xff], almost),
        Said::new("empty filter chains", protocol, &name, &[0x1a, 0], SMALL),
        Said::new(
            "empty filter chains up to the limit",
            protocol,
            &name,
            &[0x1a, 0],
            almost,
        ),
        Said::nested("empty filters of a chain", protocol, &[&[0x1a]], &[0x1a, 0], SMALL),
        // api_listener, its `Any`, the manager's routes, a virtual host.
        Said::nested(
            "empty routes",
            protocol,
            &[&[0x9a, 1], &[0x0a], &[0x12], &[0x22], &[0x12]],
            &[0x1a, 0],
            SMALL,
        ),
        Said::hollow("empty resources", SMALL),
        Said::hollow("empty resources up to the limit", almost),
        Said::new("more than the limit", protocol, &name, unknown, LIMIT + 1),
    ];
    let seen = Mutex::new(Vec::new());
    let mut stream = tokio::time::timeout(SOON, streams.recv()).await.unwrap().unwrap();
    for said in all {
        let (steady, before) = (held(), client.status().report().connection.streams);
        peak.forget();
        let refused = client.status().report().connection.responses;
        said.send(&stream).await;
        // It is answered, or costs the stream, and then there is another.
        let over = |report: &Report| report.connection.responses > refused || report.connection.streams > before;
        client.status().until(SOON, over).await.unwrap();
        if said.ends {
            tokio::time::timeout(SOON, stream.closed()).await.unwrap();
            stream = tokio::time::timeout(SOON, streams.recv()).await.unwrap().unwrap();
        }
        let most = peak.bytes().saturating_sub(steady);
        println!("CP-5 {protocol:?}: {}: at most {} KiB held", said.about, most / 1024);
        seen.lock().unwrap().push((said.about, most));
    }
    looks.store(false, Ordering::Relaxed);
    looking.join().unwrap();
    for (about, most) in seen.into_inner().unwrap() {
        assert!(most <= 2 * LIMIT, "{about}: {most} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cp_5_state_of_the_world_holds_at_most_twice_the_largest_message() {
    holds_no_more_than_it_may(Protocol::Sotw).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cp_5_incremental_holds_at_most_twice_the_largest_message() {
    holds_no_more_than_it_may(Protocol::Delta).await;
}
