//! What is configured goes on without the control plane, and a bad neighbour of it takes nothing along.

use examples::load::Tally;
use tests::{Canary, interval_million};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_on_after_the_control_plane_stopped() {
    let mut canary = Canary::start().await;
    canary.mesh.stop_control().await;
    let tally = Tally::default();
    tally.run(&canary.client, 4_000, 8).await;
    let counts = tally.counts();
    assert_eq!((counts.ok, counts.failed), (4_000, 0), "{:?}", counts.errors);
    // And they are divided as before.
    assert!(
        interval_million(4_000, 0.05).contains(&counts.of("v2")),
        "{}",
        counts.of("v2")
    );
}
