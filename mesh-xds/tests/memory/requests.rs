//! CP-5, the other way about: whatever a client sends, its control plane holds no more for one message than it says. Real sockets, both
//! variants of the protocol and load reports; the client says bytes, piece by piece, so that what is held is the control plane's.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use mesh_xds::server::{Caller, DiscoveryServices, LoadBoard, LoadService, SnapshotCache};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint, Server};
use tower::{Service as _, ServiceExt as _};

use crate::{ALONE, Peak, held};

/// Longer than any step takes on a busy machine.
const SOON: Duration = Duration::from_secs(120);
const PIECE: usize = 64 * 1024;
/// The largest request and the largest report that are taken.
const REQUEST: usize = 16 << 20;
const REPORT: usize = 8 << 20;
/// What either may take with all that is made of it.
const HELD: usize = 64 << 20;
/// gRPC's words for a message that is not taken, and for one that cannot be read.
const REFUSED: [&str; 3] = ["8", "11", "13"];

const SOTW: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const LOAD: &str = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";

/// A message: heads of fields that hold one another, and what the innermost is filled with.
struct Said {
    about: &'static str,
    method: &'static str,
    heads: Vec<u8>,
    filled: Vec<u8>,
    content: usize,
    /// Whether it is refused unread. What is read may be refused for what it says: a type it must name, for one.
    is_refused: bool,
}

impl Said {
    /// Each of `path` is the number of a field that holds the next.
    fn new(about: &'static str, method: &'static str, path: &[u8], filled: &[u8], most: usize) -> Self {
        let content = (most - 64) / filled.len() * filled.len();
        let (mut heads, mut length) = (Vec::new(), content);
        for number in path.iter().rev() {
            let mut head = vec![(number << 3) | 2];
            let mut rest = length;
            while rest > 0x7f {
                head.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            head.push(rest as u8);
            length += head.len();
            heads = [head, heads].concat();
        }
        Self {
            about,
            method,
            heads,
            filled: filled.to_vec(),
            content,
            is_refused: true,
        }
    }

    fn taken(self) -> Self {
        Self {
            is_refused: false,
            ..self
        }
    }

    /// Says it on a stream of its own, and nothing more; the status that comes of it.
    async fn say(&self, channel: &mut Channel) -> String {
        let (pieces, receiver) = mpsc::channel::<Bytes>(1);
        let frames = ReceiverStream::new(receiver).map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
        let request = http::Request::post(format!("http://plane{}", self.method))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::new(StreamBody::new(frames)))
            .unwrap();
        let answer = channel.ready().await.unwrap().call(request);
        let sends = async {
            let mut first = vec![0];
            first.extend(((self.heads.len() + self.content) as u32).to_be_bytes());
            first.extend(&self.heads);
            // A stream that is over takes no more.
            if pieces.send(first.into()).await.is_err() {
                return;
            }
            let piece: Bytes = self.filled.repeat((PIECE / self.filled.len()).max(1)).into();
            let mut left = self.content;
            while left > 0 {
                let some = piece.slice(..left.min(piece.len()));
                left -= some.len();
                if pieces.send(some).await.is_err() {
                    return;
                }
            }
            drop(pieces);
        };
        let reads = async {
            let answer = answer.await.unwrap();
            let told = answer.headers().get("grpc-status").cloned();
            let trailers = answer.into_body().collect().await.ok();
            let trailers = trailers.and_then(|body| body.trailers().cloned()).unwrap_or_default();
            let status = told.or_else(|| trailers.get("grpc-status").cloned());
            status.map_or_else(String::new, |status| status.to_str().unwrap().into())
        };
        let (_, status) = tokio::time::timeout(SOON, async { tokio::join!(sends, reads) })
            .await
            .unwrap();
        status
    }
}

/// Of both variants, by the numbers of their fields.
fn requests() -> Vec<Said> {
    let name = [&[0x1a, 60][..], &[b'n'; 60]].concat();
    // `field 1000: 1`, which nobody knows.
    let unknown = [0xc0, 0x3e, 0x01];
    vec![
        Said::new("names of nothing", SOTW, &[], &[0x1a, 0], REQUEST),
        Said::new("locators of nothing", SOTW, &[], &[0x3a, 0], REQUEST),
        Said::new("extensions of a node", SOTW, &[2], &[0x4a, 0], REQUEST),
        Said::new("metadata of a node", SOTW, &[2, 3], &[0x0a, 0], REQUEST),
        Said::new("details of an error", SOTW, &[6], &[0x1a, 0], REQUEST),
        Said::new("names up to the limit", SOTW, &[], &name, REQUEST).taken(),
        Said::new("more than the limit", SOTW, &[], &unknown, REQUEST + 128),
        Said::new("what nobody knows up to the limit", SOTW, &[], &unknown, REQUEST).taken(),
        Said::new("subscriptions to nothing", DELTA, &[], &[0x1a, 0], REQUEST),
        Said::new("ends of nothing", DELTA, &[], &[0x22, 0], REQUEST),
        Said::new("versions of nothing", DELTA, &[], &[0x2a, 0], REQUEST),
        Said::new("extensions of a node", DELTA, &[1], &[0x4a, 0], REQUEST),
        Said::new("details of an error", DELTA, &[7], &[0x1a, 0], REQUEST),
        Said::new("more than the limit", DELTA, &[], &unknown, REQUEST + 128),
    ]
}

fn reports() -> Vec<Said> {
    vec![
        Said::new("clusters of nothing", LOAD, &[], &[0x12, 0], REPORT),
        Said::new("localities of nothing", LOAD, &[2], &[0x12, 0], REPORT),
        Said::new("figures of a locality", LOAD, &[2, 2], &[0x2a, 0], REPORT),
        Said::new("drops of a cluster", LOAD, &[2], &[0x2a, 0], REPORT),
        Said::new("metadata of a node", LOAD, &[1, 3], &[0x0a, 0], REPORT),
        Said::new("more than the limit", LOAD, &[], &[0xc0, 0x3e, 0x01], REPORT + 128),
    ]
}

async fn holds_no_more_than_it_may(all: Vec<Said>) {
    let _alone = ALONE.lock().await;
    let cache = SnapshotCache::new();
    cache.publish("g", &mesh_core::Snapshot::empty()).unwrap();
    let services = DiscoveryServices::new(cache, |_: &Caller| Ok("g".into()));
    let loads = LoadService::new(LoadBoard::default(), |_: &Caller| Ok("g".into()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let router = Server::builder().add_routes(services.into_routes()).add_service(loads);
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
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
    let mut seen = Vec::new();
    for said in all {
        let mut channel = Endpoint::from_shared(address.clone()).unwrap().connect().await.unwrap();
        let steady = held();
        peak.forget();
        let status = said.say(&mut channel).await;
        let most = peak.bytes().saturating_sub(steady);
        println!(
            "CP-5 {}: {}: status {status}, at most {} KiB held",
            said.method,
            said.about,
            most / 1024
        );
        seen.push((said, status, most));
    }
    looks.store(false, Ordering::Relaxed);
    looking.join().unwrap();
    for (said, status, most) in seen {
        let about = (said.method, said.about);
        assert!(most <= HELD, "{about:?}: {most} bytes");
        assert_eq!(REFUSED.contains(&&*status), said.is_refused, "{about:?}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cp_5_a_control_plane_holds_no_more_for_a_request_than_it_says() {
    holds_no_more_than_it_may(requests()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cp_5_a_control_plane_holds_no_more_for_a_load_report_than_it_says() {
    holds_no_more_than_it_may(reports()).await;
}
