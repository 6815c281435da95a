//! A host that fails is left alone, over real sockets and mutual TLS; and nobody is called twice for it.

use std::time::Duration;

use examples::proto::ChargeRequest;
use examples::proto::payment_client::PaymentClient;
use mesh_client::{Channel, clusters};
use mesh_core::Link;
use mesh_core::config::{
    Cluster, LbPolicy, OutlierDetection, OutlierRules, Percent, RetryPolicy, Route, Snapshot, Split,
};
use mesh_core::testing::TestCa;
use tests::{Backend, caller, mutual, soon};
use tokio::time::Instant;

type Client = PaymentClient<Channel<tonic::body::Body>>;

/// Five backends behind one cluster, in turn and without retries: each call is one try.
async fn five(detection: OutlierDetection) -> (Vec<Backend>, mesh_core::link::Source, Link, Client) {
    let ca = TestCa::new("cluster.local");
    let mut backends = Vec::new();
    for n in 1..=5 {
        backends.push(Backend::serve(&ca, &n.to_string()).await);
    }
    let (source, link) = caller(&ca);
    let mut route = Route::to(Split::all_to("payment"));
    route.retry = RetryPolicy::never();
    let cluster = Cluster {
        lb: LbPolicy::RoundRobin,
        outlier: Some(detection),
        ..Cluster::new("payment", mutual(), backends.iter().map(Backend::endpoint).collect())
    };
    let snapshot = Snapshot::builder().route("payment", route).cluster(cluster).build();
    source.snapshots.publish(snapshot.unwrap());
    let client = PaymentClient::new(Channel::new(&link, "payment"));
    (backends, source, link, client)
}

/// What Istio's users mostly write.
fn istio() -> OutlierDetection {
    let mut detection = OutlierDetection {
        max_ejection_percent: Percent::ALL,
        interval: Duration::from_millis(50),
        base_ejection_time: Duration::from_secs(2),
        ..OutlierDetection::new(OutlierRules::Envoy)
    };
    detection.success_rate.enforcing = Percent::ZERO;
    detection
}

async fn charge(client: &Client) -> Result<String, tonic::Status> {
    let answer = client.clone().charge(ChargeRequest::default()).await;
    answer.map(|reply| reply.into_inner().version)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_errors_in_a_row_are_the_last_that_a_caller_sees_until_the_host_is_well() {
    let (backends, _source, link, client) = five(istio()).await;
    backends[0].payments.fail(1.0);
    let mut failed = 0;
    // The fifth error comes with the 25th call at the latest: hosts are called in turn.
    for _ in 0..25 {
        failed += usize::from(charge(&client).await.is_err());
    }
    assert_eq!(failed, 5);
    let ejected = clusters(&link)[0].ejected.clone();
    assert_eq!(
        ejected.iter().map(|one| one.address).collect::<Vec<_>>(),
        [backends[0].address]
    );
    assert_eq!(ejected[0].cause, "consecutive_5xx");
    backends[0].payments.fail(0.0);
    let again = async {
        while charge(&client).await.unwrap() != "1" {
            tokio::task::yield_now().await;
        }
    };
    soon("the host to return", again).await;
    assert_eq!(link.tally().get("outlier_returned", "consecutive_5xx"), 1);
}

/// A host is killed while its address is still listed, and its port refuses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ep_2_a_killed_host_gets_less_than_a_hundredth_of_the_calls_after_a_second() {
    let mut detection = istio();
    detection.base_ejection_time = Duration::from_secs(30);
    let (mut backends, _source, link, client) = five(detection).await;
    for _ in 0..20 {
        charge(&client).await.unwrap();
    }
    let dead = backends.remove(0);
    let address = dead.address;
    dead.stop().await;
    let killed = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let (mut late, mut failed_late) = (0u32, 0u32);
    loop {
        let at = ticks.tick().await.saturating_duration_since(killed);
        if at > Duration::from_secs(4) {
            break;
        }
        let failed = charge(&client).await.is_err();
        if at > Duration::from_secs(1) {
            late += 1;
            failed_late += u32::from(failed);
        }
    }
    assert!(late >= 500 && failed_late * 100 < late, "{failed_late} of {late}");
    let ejected = clusters(&link)[0].ejected.clone();
    println!("{failed_late} of {late} calls after the first second; {ejected:?}");
    assert!(ejected.iter().all(|one| one.address == address));
}
