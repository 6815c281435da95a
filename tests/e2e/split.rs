//! Traffic is divided as the weights say.

use examples::load::Tally;
use examples::proto::payment_client::PaymentClient;
use mesh_client::Channel;
use mesh_core::testing::TestCa;
use tests::{Backend, Canary, caller, interval_999, interval_million, split};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_from_yaml_over_ads_with_joined_identities() {
    let canary = Canary::start().await;
    let tally = Tally::default();
    tally.run(&canary.client, 10_000, 16).await;
    let counts = tally.counts();
    println!("{}", tally.report());
    assert_eq!((counts.ok, counts.failed), (10_000, 0), "{:?}", counts.errors);
    assert!(
        interval_million(10_000, 0.05).contains(&counts.of("v2")),
        "{}",
        counts.of("v2")
    );
    // One stream of the caller, however many resources.
    assert_eq!(canary.checkout.status().report().connection.streams, 1);
}
