//! Servers say how busy they are, and those who are less busy get more of the calls: between this mesh's own two ends and out of the
//! box, whether it is said with each answer or in a stream beside them (ORCA, gRFCs A51 and A58).

use std::future::IntoFuture;
use std::time::Duration;

use examples::proto::payment_client::PaymentClient;
use examples::proto::payment_server::PaymentServer;
use examples::proto::{ChargeReply, ChargeRequest};
use examples::service::Payments;
use mesh_client::Channel;
use mesh_core::config::{ClientWeights, Cluster, Endpoint, LbPolicy, RetryPolicy, Route, Snapshot, Split};
use mesh_core::report::orca;
use mesh_core::testing::TestCa;
use mesh_core::{Link, link};
use mesh_server::MeshLayer;
use mesh_server::orca::{LoadReports, OpenRcaService, ServerLoad};
use tests::{PAYMENT, caller, listener, mutual, soon};
use tonic::Response;
use tower::Layer as _;

type Client = PaymentClient<Channel<tonic::body::Body>>;

/// How often reports are told and taken over: the shortest that is had.
const OFTEN: Duration = Duration::from_millis(100);

/// How a server tells its load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tells {
    WithAnswers,
    InStreams,
    /// By a service among the application's own, which counts nothing by itself.
    AsAService,
    Nothing,
}

/// Serves payments as `version`, so busy.
async fn serve(ca: &TestCa, version: &str, tells: Tells, cpu: f64) -> (Endpoint, Link) {
    let (socket, address) = listener().await;
    let link = Link::fixed(Snapshot::empty(), Some(ca.identity(PAYMENT)));
    let load = ServerLoad::new();
    load.cpu(Some(cpu));
    load.named("queue", Some(3.0));
    let payments = PaymentServer::new(Payments::new(version, Duration::ZERO));
    let mesh = MeshLayer::new(&link);
    let reports = LoadReports::new(&load);
    let reports = match tells {
        Tells::WithAnswers => reports.streams(None),
        Tells::InStreams => reports.with_answers(false).streams(Some(OFTEN)),
        Tells::AsAService | Tells::Nothing => reports.with_answers(false).streams(None),
    };
    if tells == Tells::AsAService {
        load.rate(Some(100.0));
        let streams = OpenRcaService::new(&load).min_interval(OFTEN);
        let routes = tonic::service::Routes::new(streams).add_service(payments);
        tokio::spawn(mesh_server::serve(socket, &link, mesh.layer(routes)).into_future());
    } else {
        let app = mesh.layer(reports.layer(payments));
        tokio::spawn(mesh_server::serve(socket, &link, app).into_future());
    }
    (Endpoint::new(address), link)
}

/// A caller of an idle server, `v1`, and a busy one.
struct Rig {
    client: Client,
    _source: link::Source,
    _links: [Link; 3],
}

impl Rig {
    async fn new(tells: Tells) -> Self {
        let ca = TestCa::new("cluster.local");
        let (idle, one) = serve(&ca, "v1", tells, 0.1).await;
        let (busy, two) = serve(&ca, "v2", tells, 1.0).await;
        let (source, link) = caller(&ca);
        let mut cluster = Cluster::new("payment", mutual(), vec![idle, busy]);
        cluster.lb = LbPolicy::ClientSideWeightedRoundRobin(ClientWeights {
            out_of_band: (tells != Tells::WithAnswers).then_some(OFTEN),
            blackout: Duration::ZERO,
            update: OFTEN,
            ..ClientWeights::default()
        });
        let route = Route {
            retry: RetryPolicy::never(),
            ..Route::to(Split::all_to("payment"))
        };
        let snapshot = Snapshot::builder().route("payment", route).cluster(cluster);
        source.snapshots.publish(snapshot.build().unwrap());
        let channel = Channel::new(&link, "payment");
        channel.ready().await;
        Self {
            client: PaymentClient::new(channel),
            _source: source,
            _links: [link, one, two],
        }
    }

    async fn charge(&self) -> Response<ChargeReply> {
        self.client.clone().charge(ChargeRequest::default()).await.unwrap()
    }

    /// How many of so many calls the idle one took.
    async fn of_idle(&self, calls: u32) -> u32 {
        let mut count = 0;
        for _ in 0..calls {
            count += u32::from(self.charge().await.into_inner().version == "v1");
        }
        count
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_less_busy_gets_more_of_the_calls_however_it_is_told() {
    for tells in [Tells::WithAnswers, Tells::InStreams, Tells::AsAService] {
        let rig = Rig::new(tells).await;
        // Ten times as much for its utilisation; at a tenth, what was counted before counts still.
        let by_load = async { while rig.of_idle(100).await < 80 {} };
        soon("calls to go by what servers report", by_load).await;
    }
    // Who says nothing is weighed as everybody.
    let rig = Rig::new(Tells::Nothing).await;
    assert_eq!(rig.of_idle(200).await, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_sees_the_report_among_the_trailers() {
    let rig = Rig::new(Tells::WithAnswers).await;
    let answer = rig.charge().await;
    let mut told = Vec::new();
    let headers = answer.metadata().clone().into_headers();
    assert!(orca::read(&headers, |metric, value| told.push((format!("{metric:?}"), value))));
    let cpu = if answer.get_ref().version == "v1" { 0.1 } else { 1.0 };
    let told: Vec<_> = told.iter().map(|(metric, value)| (metric.as_str(), *value)).collect();
    let [("Cpu", told_cpu), ("Rate", rate), ("Named(\"queue\")", 3.0)] = told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(told_cpu.to_bits(), f64::to_bits(cpu));
    assert!(rate > 0.0, "{rate}");
    let rig = Rig::new(Tells::InStreams).await;
    assert_eq!(rig.charge().await.metadata().get_bin("endpoint-load-metrics-bin"), None);
}
