//! Configuration changes under load, and nobody notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use examples::load::Tally;
use examples::proto::payment_client::PaymentClient;
use mesh_client::connect::{Connect, Connecting, Tcp};
use mesh_client::{Channel, use_connector};
use mesh_core::testing::TestCa;
use tests::{Backend, Canary, caller, routes, split};
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weight_0_in_the_yaml_ends_the_canary_without_a_failed_call() {
    let canary = Canary::start().await;
    let tally = Tally::default();
    let edit = async {
        while tally.counts().of("v2") < 20 {
            tokio::task::yield_now().await;
        }
        let saved = canary.mesh.save("routes.yaml", &routes(100, 0));
        // Not waited for: watched. What begins at v2 in this time is what the test is about.
        tokio::time::sleep_until(saved + 2 * Canary::REVERT_LIMIT).await;
        saved
    };
    let saved = tokio::select! {
        saved = edit => saved,
        () = tally.run(&canary.client, u64::MAX, 8) => unreachable!("the calls do not end by themselves"),
    };
    let counts = tally.counts();
    let last = counts.last_v2.expect("v2 was called before the save");
    let took = last.saturating_duration_since(saved);
    println!(
        "last call on v2 began {took:?} after the save, {} calls",
        counts.total()
    );
    assert!(took <= Canary::REVERT_LIMIT, "{took:?}");
    assert_eq!(counts.failed, 0, "{:?}", counts.errors);
}

/// Counts connections, over real TCP.
struct Counted(Arc<AtomicUsize>);

impl Connect for Counted {
    fn connect(&self, address: std::net::SocketAddr) -> Connecting {
        self.0.fetch_add(1, Ordering::Relaxed);
        Tcp.connect(address)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_swaps_a_second_and_ten_channels_keep_one_connection_per_endpoint() {
    let ca = TestCa::new("cluster.local");
    let (v1, v2) = (Backend::serve(&ca, "v1").await, Backend::serve(&ca, "v2").await);
    let (source, link) = caller(&ca);
    let dials = Arc::new(AtomicUsize::new(0));
    use_connector(&link, Counted(Arc::clone(&dials))).unwrap();
    source
        .snapshots
        .publish(split((50, v1.endpoint()), (50, v2.endpoint())));
    let tally = Tally::default();
    let clients: Vec<_> = (0..10)
        .map(|_| PaymentClient::new(Channel::new(&link, "payment")))
        .collect();
    let swaps = async {
        let began = Instant::now();
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        for swap in 1..=200u32 {
            ticks.tick().await;
            // v2 goes and comes back with every other swap.
            let v2_weight = if swap.is_multiple_of(2) { 50 } else { 0 };
            source
                .snapshots
                .publish(split((50, v1.endpoint()), (v2_weight, v2.endpoint())));
        }
        began.elapsed()
    };
    let calls = async {
        let mut running = tokio::task::JoinSet::new();
        for client in clients {
            let tally = tally.clone();
            running.spawn(async move { tally.run(&client, u64::MAX, 1).await });
        }
        while running.join_next().await.is_some() {}
    };
    let took = tokio::select! {
        took = swaps => took,
        () = calls => unreachable!("the calls do not end by themselves"),
    };
    let counts = tally.counts();
    println!(
        "200 swaps in {took:?}, {} calls, {} connections",
        counts.total(),
        dials.load(Ordering::Relaxed)
    );
    assert_eq!(counts.failed, 0, "{:?}", counts.errors);
    assert!(counts.of("v1") > 0 && counts.of("v2") > 0);
    assert_eq!(dials.load(Ordering::Relaxed), 2);
}
