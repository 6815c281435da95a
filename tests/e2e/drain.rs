//! A server that ends gracefully is not missed.

use examples::load::Tally;
use examples::proto::payment_client::PaymentClient;
use mesh_client::Channel;
use mesh_core::config::{Cluster, Route, Snapshot, Split};
use mesh_core::testing::TestCa;
use tests::{Backend, caller, mutual};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_servers_drains_under_load_without_a_failed_call() {
    let ca = TestCa::new("cluster.local");
    let (stays, goes) = (Backend::serve(&ca, "v1").await, Backend::serve(&ca, "v2").await);
    let (source, link) = caller(&ca);
    let cluster = Cluster::new("c", mutual(), vec![stays.endpoint(), goes.endpoint()]);
    let snapshot = Snapshot::builder()
        .route("payment", Route::to(Split::all_to("c")))
        .cluster(cluster);
    source.snapshots.publish(snapshot.build().unwrap());
    let tally = Tally::default();
    let client = PaymentClient::new(Channel::new(&link, "payment"));
    let end = async {
        while tally.counts().of("v2") < 200 {
            tokio::task::yield_now().await;
        }
        let cut = goes.stop().await;
        let after = tally.counts().total();
        while tally.counts().total() < after + 2_000 {
            tokio::task::yield_now().await;
        }
        cut
    };
    let cut = tokio::select! {
        cut = end => cut,
        () = tally.run(&client, u64::MAX, 16) => unreachable!("the calls do not end by themselves"),
    };
    let counts = tally.counts();
    assert_eq!((cut, counts.failed), (0, 0), "{:?}", counts.errors);
}
