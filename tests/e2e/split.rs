//! Traffic is divided as the weights say.

use examples::load::Tally;
use examples::proto::payment_client::PaymentClient;
use mesh_client::Channel;
use mesh_core::testing::TestCa;
use tests::{Backend, caller, interval_999, split};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_calls_over_mutual_tls_split_95_to_5() {
    let ca = TestCa::new("cluster.local");
    let (v1, v2) = (Backend::serve(&ca, "v1").await, Backend::serve(&ca, "v2").await);
    let (source, link) = caller(&ca);
    source.snapshots.publish(split((95, v1.endpoint()), (5, v2.endpoint())));
    let tally = Tally::default();
    let client = PaymentClient::new(Channel::new(&link, "xds:///payment"));
    tally.run(&client, 10_000, 16).await;
    let counts = tally.counts();
    println!("{}", tally.report());
    assert_eq!((counts.ok, counts.failed), (10_000, 0), "{:?}", counts.errors);
    assert!(
        interval_999(10_000, 0.05).contains(&counts.of("v2")),
        "{}",
        counts.of("v2")
    );
    assert_eq!((v1.handled(), v2.handled()), (counts.of("v1"), counts.of("v2")));
    assert_eq!((v1.stop().await, v2.stop().await), (0, 0));
}
