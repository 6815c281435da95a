//! What is configured goes on without the control plane, and a bad neighbour of it takes nothing along.

use std::time::Duration;

use examples::load::Tally;
use tests::{Canary, interval_million};
use tokio::time::Instant;

/// Calls between two looks at the clock. `CP_SECONDS` is how long to go on: one such batch where nobody says.
const BATCH: u64 = 4_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cp_1_calls_go_on_after_the_control_plane_stopped() {
    let seconds = std::env::var("CP_SECONDS").ok().and_then(|text| text.parse().ok());
    let outage = Duration::from_secs(seconds.unwrap_or(0));
    let mut canary = Canary::start().await;
    canary.mesh.stop_control().await;
    let (tally, stopped, mut calls) = (Tally::default(), Instant::now(), 0);
    while calls == 0 || stopped.elapsed() < outage {
        tally.run(&canary.client, BATCH, 8).await;
        calls += BATCH;
    }
    let counts = tally.counts();
    println!(
        "CP-1: {:?} without a control plane, {calls} calls, {} failed",
        stopped.elapsed(),
        counts.failed
    );
    assert_eq!((counts.ok, counts.failed), (calls, 0), "{:?}", counts.errors);
    // And they are divided as before.
    assert!(
        interval_million(calls, 0.05).contains(&counts.of("v2")),
        "{} of {calls}",
        counts.of("v2")
    );
}
