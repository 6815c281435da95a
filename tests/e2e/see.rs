//! Who calls whom, and how it ends, as Prometheus is told by both ends and as Kiali would draw it: over real sockets and mutual TLS,
//! scraped from the admin ports.

use std::convert::Infallible;
use std::future::{IntoFuture, pending};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::client::legacy::Client as Http;
use hyper_util::rt::TokioExecutor;
use mesh_client::Channel;
use mesh_core::Link;
use mesh_core::config::{
    Cluster, Endpoint, ExpectedPeers, Metadata, MutualTls, RetryPolicy, Route, Service, Snapshot, Split, TimeLimits,
    TlsMode,
};
use mesh_core::report::Exposition;
use mesh_core::report::standard::Workload;
use mesh_core::testing::TestCa;
use mesh_server::{MeshLayer, RequestBody, admin};
use tests::prometheus::{self, Sample};
use tests::{CHECKOUT, PAYMENT, listener, member, soon};
use tower::{Layer as _, Service as _, service_fn};

type Caller = Channel<Full<Bytes>>;

/// The longest that a call to `slow` may take.
const TIMEOUT: Duration = Duration::from_millis(50);
/// A message of gRPC: its prefix, and three bytes.
const MESSAGE: &[u8] = b"\0\0\0\0\x03abc";

/// A caller, a server, and their admin ports.
struct Pair {
    caller: Link,
    called: Link,
    ports: [SocketAddr; 2],
}

impl Pair {
    async fn start() -> Self {
        let ca = TestCa::new("cluster.local");
        let (_, called) = member(ca.identity(PAYMENT));
        called.describe(workload("payment", "v1"));
        let (socket, address) = listener().await;
        let app = MeshLayer::new(&called).layer(service_fn(answer));
        tokio::spawn(mesh_server::serve(socket, &called, app).into_future());
        let (source, caller) = member(ca.identity(CHECKOUT));
        caller.describe(workload("checkout", "v1"));
        source.snapshots.publish(configuration(address));
        let ports = [port(&caller).await, port(&called).await];
        Self { caller, called, ports }
    }

    fn channel(&self, target: &str) -> Caller {
        Channel::new(&self.caller, target)
    }

    /// What either end tells Prometheus, the caller first.
    async fn scrapes(&self) -> [Vec<Sample>; 2] {
        let [caller, called] = self.ports;
        [
            scrape(caller, "/stats/prometheus").await,
            scrape(called, "/metrics").await,
        ]
    }

    /// Waits until the server has counted so many calls: one that its caller gave up it sees later.
    async fn counted(&self, calls: f64) {
        soon("the server to count", async {
            loop {
                let mut out = Exposition::default();
                self.called.scrape(std::time::Instant::now(), &mut out);
                let samples = prometheus::parse(out.text());
                let requests = samples.iter().filter(|sample| sample.name == REQUESTS);
                if requests.map(|sample| sample.value).sum::<f64>() >= calls {
                    return;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

const REQUESTS: &str = "istio_requests_total";

fn workload(app: &'static str, version: &'static str) -> Workload {
    let name = format!("{app}-{version}");
    Workload::labelled(&name, "default", |label| match label {
        "app" => Some(app),
        "version" => Some(version),
        _ => None,
    })
}

/// Each target is a route of its own, and all but `nobody` lead to the server.
fn configuration(address: SocketAddr) -> Snapshot {
    let mutual = TlsMode::Mutual(MutualTls {
        expected: ExpectedPeers::exactly([PAYMENT]),
        sni: None,
        ..MutualTls::default()
    });
    let workload = workload("payment", "v1").endpoint_metadata();
    let endpoint = Endpoint {
        metadata: Arc::new(Metadata::new([("istio", "workload", &*workload)]).unwrap()),
        ..Endpoint::new(address)
    };
    let cluster = |name: &str, endpoints| Cluster {
        service: Some(Arc::new(Service::new(
            "payment.default.svc.cluster.local",
            "payment",
            "default",
        ))),
        ..Cluster::new(name, mutual.clone(), endpoints)
    };
    let route = |cluster: &str| Route {
        retry: RetryPolicy::never(),
        ..Route::to(Split::all_to(cluster))
    };
    let slow = Route {
        timeout: Some(TIMEOUT),
        // Told of it, the server would give up at the same moment.
        limits: TimeLimits {
            untold: true,
            ..TimeLimits::default()
        },
        ..route("payment")
    };
    Snapshot::builder()
        .cluster(cluster("payment", vec![endpoint]))
        .cluster(cluster("nobody", Vec::new()))
        .route("payment", route("payment"))
        .route("slow", slow)
        .route("nobody", route("nobody"))
        .build()
        .unwrap()
}

/// What the server answers, by the path that it is asked for.
async fn answer(request: Request<RequestBody>) -> Result<Response<Answer>, Infallible> {
    let path = request.uri().path().to_owned();
    drop(request.into_body().collect().await);
    let body = |bytes: &'static [u8], status: Option<u16>| {
        let trailers = status.map(|status| Ok(HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.into())])));
        Full::new(Bytes::from_static(bytes)).with_trailers(std::future::ready(trailers))
    };
    let response = Response::builder();
    let response = match &*path {
        "/ok" => response.body(body(b"paid", None)),
        "/fails" => response.status(500).body(body(b"", None)),
        "/a.B/Ok" => response
            .header(CONTENT_TYPE, "application/grpc")
            .body(body(MESSAGE, Some(0))),
        "/a.B/Unavailable" => response
            .header(CONTENT_TYPE, "application/grpc")
            .body(body(b"", Some(14))),
        _ => pending().await,
    };
    Ok(response.unwrap())
}

type Trailers = std::future::Ready<Option<Result<HeaderMap, Infallible>>>;
type Answer = http_body_util::combinators::WithTrailers<Full<Bytes>, Trailers>;

async fn port(link: &Link) -> SocketAddr {
    let (socket, address) = listener().await;
    tokio::spawn(admin::serve(socket, link).calls_only().into_future());
    address
}

async fn scrape(port: SocketAddr, path: &str) -> Vec<Sample> {
    let http = Http::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let response = http.get(format!("http://{port}{path}").parse().unwrap()).await.unwrap();
    assert_eq!(
        response.headers()[CONTENT_TYPE],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let text = response.into_body().collect().await.unwrap().to_bytes();
    prometheus::parse(std::str::from_utf8(&text).unwrap())
}

/// One whole call; the HTTP status, or the flags of an error.
async fn call(channel: &Caller, path: &str, grpc: bool) -> Result<u16, String> {
    let mut request = Request::post(format!("http://payment{path}"));
    let mut body = Bytes::from_static(b"please");
    if grpc {
        request = request.header(CONTENT_TYPE, "application/grpc");
        body = Bytes::from_static(MESSAGE);
    }
    let mut channel = channel.clone();
    let response = soon("an answer", channel.call(request.body(Full::new(body)).unwrap())).await;
    let response = response.map_err(|error| error.response_flags().to_string())?;
    let status = response.status().as_u16();
    response.into_body().collect().await.unwrap();
    Ok(status)
}

/// The scenario of every test here: what an operator may find in one hour.
async fn everything(pair: &Pair) {
    let (payment, slow, nobody) = (pair.channel("payment"), pair.channel("slow"), pair.channel("nobody"));
    for _ in 0..3 {
        assert_eq!(call(&payment, "/ok", false).await, Ok(200));
    }
    assert_eq!(call(&payment, "/fails", false).await, Ok(500));
    assert_eq!(call(&payment, "/a.B/Ok", true).await, Ok(200));
    assert_eq!(call(&payment, "/a.B/Unavailable", true).await, Ok(200));
    assert_eq!(call(&nobody, "/ok", false).await, Err("UH".to_owned()));
    assert_eq!(call(&nobody, "/a.B/Ok", true).await, Ok(200));
    assert_eq!(call(&slow, "/never", false).await, Err("UT".to_owned()));
    pair.counted(7.0).await;
}

fn requests(samples: &[Sample]) -> Vec<&Sample> {
    samples.iter().filter(|sample| sample.name == REQUESTS).collect()
}

/// How calls ended and how many, with whom.
fn ends(samples: &[Sample]) -> Vec<String> {
    let end = |sample: &&Sample| {
        let of = |name| sample.label(name);
        format!(
            "{} {} {} {} {} -> {} = {}",
            of("reporter"),
            of("request_protocol"),
            of("response_code"),
            of("grpc_response_status"),
            of("response_flags"),
            of("destination_workload"),
            sample.value
        )
    };
    let mut ends: Vec<_> = requests(samples).iter().map(end).collect();
    ends.sort();
    ends
}

#[tokio::test]
async fn see_both_ends_count_every_call_once() {
    let pair = Pair::start().await;
    everything(&pair).await;
    let [caller, called] = pair.scrapes().await;
    assert_eq!(
        ends(&caller),
        [
            "source grpc 200 0 - -> payment-v1 = 1",
            "source grpc 200 14 - -> payment-v1 = 1",
            "source grpc 200 14 UH -> unknown = 1",
            "source http 200  - -> payment-v1 = 3",
            "source http 500  - -> payment-v1 = 1",
            "source http 503  UH -> unknown = 1",
            "source http 504  UT -> unknown = 1",
        ]
    );
    assert_eq!(
        ends(&called),
        [
            "destination grpc 200 0 - -> payment-v1 = 1",
            "destination grpc 200 14 - -> payment-v1 = 1",
            "destination http 0  DC -> payment-v1 = 1",
            "destination http 200  - -> payment-v1 = 3",
            "destination http 500  - -> payment-v1 = 1",
        ]
    );
}

#[tokio::test]
async fn see_the_labels_are_istios() {
    let pair = Pair::start().await;
    everything(&pair).await;
    for (samples, own) in pair.scrapes().await.iter().zip(["source", "destination"]) {
        let good = requests(samples)
            .into_iter()
            .find(|sample| sample.label("response_code") == "200" && sample.label("request_protocol") == "http");
        let (is_source, policy) = (own == "source", if own == "source" { "unknown" } else { "mutual_tls" });
        // No endpoint tells its labels (Istio), so a caller does not know them.
        let told = |text| if is_source { "unknown" } else { text };
        let expected = [
            ("reporter", own),
            ("source_workload", "checkout-v1"),
            ("source_canonical_service", "checkout"),
            ("source_canonical_revision", "v1"),
            ("source_workload_namespace", "default"),
            ("source_principal", CHECKOUT),
            ("source_app", "checkout"),
            ("source_version", "v1"),
            ("source_cluster", "Kubernetes"),
            ("destination_workload", "payment-v1"),
            ("destination_workload_namespace", "default"),
            ("destination_principal", PAYMENT),
            ("destination_app", told("payment")),
            ("destination_version", told("v1")),
            ("destination_service", "payment.default.svc.cluster.local"),
            ("destination_canonical_service", "payment"),
            ("destination_canonical_revision", "v1"),
            ("destination_service_name", "payment"),
            ("destination_service_namespace", "default"),
            ("destination_cluster", "Kubernetes"),
            ("request_protocol", "http"),
            ("response_code", "200"),
            ("response_flags", "-"),
            ("connection_security_policy", policy),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(good.unwrap().labels, expected.into_iter().collect(), "{own}");
    }
}

/// What Kiali's code asks of a series before it draws it, and by what it takes the two reporters' for one.
#[tokio::test]
async fn see_kiali_draws_every_series_and_none_twice() {
    let pair = Pair::start().await;
    everything(&pair).await;
    let [caller, called] = pair.scrapes().await;
    for sample in requests(&caller).into_iter().chain(requests(&called)) {
        assert_eq!(prometheus::skipped(sample), None, "{sample:?}");
        for principal in ["source_principal", "destination_principal"] {
            assert!(!sample.label(principal).is_empty(), "no padlock is drawn of {sample:?}");
        }
    }
    let edges = |samples: &[Sample], answered: bool| {
        let of_answered = |sample: &&Sample| !answered || sample.label("response_flags") == "-";
        let of = requests(samples).into_iter().filter(of_answered);
        let mut edges: Vec<_> = of
            .map(|sample| (prometheus::edge(sample), sample.value as u64))
            .collect();
        edges.sort();
        edges
    };
    // Whatever was answered both tell alike, labels and numbers.
    assert_eq!(edges(&caller, true), edges(&called, true));
    assert_eq!(edges(&called, true).len(), 4);
    // And a call that found nobody Kiali finds by the host that it was for (its first query).
    let lost = requests(&caller)
        .into_iter()
        .filter(|sample| sample.label("destination_workload") == "unknown");
    for sample in lost {
        assert_eq!(sample.label("destination_service"), "payment.default.svc.cluster.local");
        assert_eq!(sample.label("source_workload_namespace"), "default");
    }
}

#[tokio::test]
async fn see_histograms_hold_what_was_measured() {
    let pair = Pair::start().await;
    everything(&pair).await;
    let [caller, called] = pair.scrapes().await;
    let sum = |samples: &[Sample], name: &str, code: &str| {
        let of = samples
            .iter()
            .filter(|sample| sample.name == name && sample.label("response_code") == code);
        of.map(|sample| sample.value).sum::<f64>()
    };
    for samples in [&caller, &called] {
        // Three of six bytes to four, and two of gRPC, of a message each; answered by one and by none.
        assert_eq!(sum(samples, "istio_response_bytes_sum", "200"), 12.0 + 8.0);
        let messages = |name: &str| {
            let of = samples.iter().filter(|sample| sample.name == name);
            of.map(|sample| sample.value).collect::<Vec<_>>()
        };
        assert_eq!(messages("istio_response_messages_total").iter().sum::<f64>(), 1.0);
        for sample in requests(samples) {
            for name in [
                "istio_request_duration_milliseconds",
                "istio_request_bytes",
                "istio_response_bytes",
            ] {
                let of = |suffix: &'static str| {
                    samples.iter().filter(move |other| {
                        let same = sample.labels.iter().all(|(key, value)| other.label(key) == value);
                        same && other.name.strip_prefix(name) == Some(suffix)
                            && other.label("grpc_response_status") == sample.label("grpc_response_status")
                    })
                };
                let buckets: Vec<f64> = of("_bucket").map(|bucket| bucket.value).collect();
                assert_eq!(buckets.len(), 20);
                assert!(buckets.is_sorted(), "{buckets:?}");
                assert_eq!(buckets[19], sample.value);
                assert_eq!(
                    of("_count").map(|count| count.value).collect::<Vec<_>>(),
                    [sample.value]
                );
                assert_eq!(of("_sum").count(), 1);
            }
        }
    }
    assert_eq!(sum(&called, "istio_request_bytes_sum", "200"), 18.0 + 16.0);
    // A call that timed out took as long as it may.
    let waited = sum(&caller, "istio_request_duration_milliseconds_sum", "504");
    assert!(waited >= TIMEOUT.as_secs_f64() * 1e3, "{waited}");
    // And one that did not takes a part of a millisecond or several, and never none.
    assert!(sum(&caller, "istio_request_duration_milliseconds_sum", "200") > 0.0);
}
