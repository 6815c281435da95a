//! The metrics of gRFC A78 as a collector sees them, over loopback.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh_core::Snapshot;
use mesh_core::config::{Cluster, ExpectedPeers, MutualTls, Route, Split, TlsMode};
use mesh_xds::client::Report;
use mesh_xds::server::{AdsService, Caller, SnapshotCache};
use mesh_xds::{Bootstrap, Node, XdsClient};
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

/// Longer than any step takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// Values by `name{label=value,...}`, labels in order.
type Values = BTreeMap<String, u64>;

/// Keeps what was exported last.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Values>>);

impl PushMetricExporter for Memory {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let mut values = Values::new();
        for metric in metrics.scope_metrics().flat_map(|scope| scope.metrics()) {
            let mut note = |labels: Vec<String>, value| {
                let mut labels = labels;
                labels.sort();
                values.insert(format!("{}{{{}}}", metric.name(), labels.join(",")), value);
            };
            let texts = |attributes: &mut dyn Iterator<Item = &opentelemetry::KeyValue>| {
                attributes.map(|one| format!("{}={}", one.key, one.value)).collect()
            };
            match metric.data() {
                AggregatedMetrics::U64(MetricData::Gauge(gauge)) => gauge
                    .data_points()
                    .for_each(|point| note(texts(&mut point.attributes()), point.value())),
                AggregatedMetrics::U64(MetricData::Sum(sum)) => sum
                    .data_points()
                    .for_each(|point| note(texts(&mut point.attributes()), point.value())),
                other => panic!("{}: {other:?}", metric.name()),
            }
        }
        *self.0.lock().unwrap() = values;
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}

struct Collector {
    memory: Memory,
    provider: SdkMeterProvider,
}

impl Collector {
    fn new() -> Self {
        let memory = Memory::default();
        let reader = PeriodicReader::builder(memory.clone()).with_interval(Duration::from_secs(3600));
        let provider = SdkMeterProvider::builder().with_reader(reader.build()).build();
        Self { memory, provider }
    }

    fn collect(&self) -> Values {
        self.memory.0.lock().unwrap().clear();
        self.provider.force_flush().unwrap();
        self.memory.0.lock().unwrap().clone()
    }

    fn client(&self, plane: SocketAddr) -> XdsClient {
        let bootstrap = Bootstrap::builder(Node::default()).insecure(&plane.to_string());
        let builder = XdsClient::builder(bootstrap.build().unwrap());
        builder.meter(self.provider.meter("test")).start().unwrap()
    }
}

fn snapshot() -> Snapshot {
    let mutual = TlsMode::Mutual(MutualTls {
        expected: ExpectedPeers::default(),
        sni: None,
        ..MutualTls::default()
    });
    Snapshot::builder()
        .route("good", Route::to(Split::all_to("good-cluster")))
        .cluster(Cluster::new("good-cluster", TlsMode::Plaintext, Vec::new()))
        .route("bad", Route::to(Split::all_to("bad-cluster")))
        .cluster(Cluster::new("bad-cluster", mutual, Vec::new()))
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_instrument_shows_the_report_under_the_labels_of_the_standard() {
    let cache = SnapshotCache::new();
    cache.publish("shop", &snapshot()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plane = listener.local_addr().unwrap();
    let ads = AdsService::new(cache.clone(), |_: &Caller| Ok(Arc::from("shop")));
    let router = Server::builder().add_service(ads);
    let server = tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));

    let collector = Collector::new();
    let client = collector.client(plane);
    let connected = format!("grpc.xds_client.connected{{grpc.target=#mesh,grpc.xds.server={plane}}}");
    assert_eq!(collector.collect(), Values::new(), "nothing is wanted yet");

    let link = client.link();
    let wanted = ["good", "bad"].map(|target| link.interest().watch(target));
    let whole = |report: &Report| report.waiting.is_empty() && report.rejections > 0;
    client.status().until(SOON, whole).await.unwrap();
    let values = collector.collect();
    let of_server = |name: &str, kind: &str| {
        let labels = format!("grpc.target=#mesh,grpc.xds.resource_type={kind},grpc.xds.server={plane}");
        values[&format!("grpc.xds_client.{name}{{{labels}}}")]
    };
    let of_cache = |state: &str, kind: &str| {
        let labels = format!("grpc.target=#mesh,grpc.xds.authority=#old,grpc.xds.cache_state={state},");
        values[&format!("grpc.xds_client.resources{{{labels}grpc.xds.resource_type={kind}}}")]
    };
    let (listener, cluster) = ("envoy.config.listener.v3.Listener", "envoy.config.cluster.v3.Cluster");
    assert_eq!(values[&connected], 1);
    assert!(of_server("resource_updates_valid", listener) >= 2);
    assert_eq!(of_server("resource_updates_invalid", listener), 0);
    assert!(of_server("resource_updates_valid", cluster) >= 1);
    assert!(of_server("resource_updates_invalid", cluster) >= 1);
    assert_eq!(of_cache("acked", listener), 2);
    assert_eq!((of_cache("acked", cluster), of_cache("nacked", cluster)), (1, 1));
    let failure = format!("grpc.xds_client.server_failure{{grpc.target=#mesh,grpc.xds.server={plane}}}");
    assert_eq!(values[&failure], 0);
    assert!(values["mesh.xds_client.config_age{grpc.target=#mesh}"] <= SOON.as_secs());

    // The stream that ended was heard of: the control plane fails only when the next attempt does (A57).
    server.abort();
    cache.close();
    let failing = |report: &Report| report.connection.is_failing;
    client.status().until(SOON, failing).await.unwrap();
    let values = collector.collect();
    assert_eq!((values[&connected], values[&failure]), (0, 1));

    drop((client, link, wanted));
    assert_eq!(collector.collect(), Values::new(), "a meter keeps no client alive");
}
