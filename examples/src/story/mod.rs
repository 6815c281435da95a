//! The story every canary starts with, played for real on loopback.
//!
//! Payment v1 serves, v2 gets 5 % of the traffic, v2 starts to fail, the weight goes to 0 in the YAML, nothing is redeployed
//! and nobody else notices; then the control plane goes away, and calls go on. Every part is the one that users run: a
//! control plane that watches a folder, services that join with a token, strict mutual TLS, a tonic client over a channel.

mod folder;
mod mesh;
mod probe;
mod report;

use std::time::Duration;

use tokio::time::Instant;

use crate::load::{Counts, Tally};

use folder::Folder;
use mesh::Mesh;
pub use report::{Report, Split};

/// Calls of the split phase.
const SPLIT_CALLS: u64 = 10_000;
/// Calls after the control plane is gone.
const ALONE_CALLS: u64 = 1_000;
/// Calls made at once in every phase.
const CONCURRENCY: usize = 8;
/// How long v2 fails before somebody edits the YAML, and how long is watched after the save. Not a wait for something to
/// have happened: what happens in it is the figure.
const FAILING_FOR: Duration = Duration::from_millis(500);
const WATCHED_FOR: Duration = Duration::from_millis(1_500);
/// The longest any single step may take before the story is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// What can go wrong in the story itself, as opposed to in its figures.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Plays it. `tell` gets lines for people, as things happen.
///
/// # Errors
///
/// When a part cannot be started or a step takes longer than half a minute.
pub async fn play(tell: &(dyn Fn(String) + Send + Sync)) -> Result<Report, Failure> {
    let folder = Folder::create()?;
    let mesh = soon("the mesh to start", Mesh::start(&folder)).await??;
    tell(format!(
        "control plane at {}, watching a copy of examples/istio",
        mesh.control_address()
    ));
    tell(format!(
        "payment v1 at {}, v2 at {}, joined as {}",
        mesh.v1.address,
        mesh.v2.address,
        mesh.v1.id()
    ));

    tell("\n1. Plaintext to a STRICT workload".into());
    let plaintext_refused = probe::plaintext_is_refused(&mesh.v1).await?;
    tell(format!("   refused before any handler ran: {plaintext_refused}"));

    tell(format!("\n2. A canary: {SPLIT_CALLS} calls at 95/5"));
    let split = split(&mesh, tell).await?;

    tell("\n3. v2 starts to fail; its weight goes to 0 in the YAML".into());
    let revert = revert(&mesh, &folder, tell).await?;

    tell(format!("\n4. The control plane is stopped; {ALONE_CALLS} more calls"));
    let alone = alone(mesh, tell).await?;

    let all = [&split, &revert.counts, &alone];
    Ok(Report {
        calls: all.iter().map(|counts| counts.total()).sum(),
        failed_by_mesh: all.iter().map(|counts| counts.failed_by_mesh).sum(),
        split: Split {
            v1: split.of("v1"),
            v2: split.of("v2"),
        },
        plaintext_refused,
        revert_ms: revert.took.as_secs_f64() * 1e3,
        failed_during_revert: revert.counts.failed_by_mesh,
        served_after_control_plane_stopped: alone.ok,
        alone_calls: ALONE_CALLS,
    })
}

async fn split(mesh: &Mesh, tell: &(dyn Fn(String) + Send + Sync)) -> Result<Counts, Failure> {
    let tally = Tally::default();
    let began = Instant::now();
    soon("the calls of the split", mesh.call(&tally, SPLIT_CALLS, CONCURRENCY)).await?;
    let counts = tally.counts();
    let rate = counts.total() as f64 / began.elapsed().as_secs_f64();
    tell(format!("   {}   {rate:.0} calls/s", report::bar(&counts)));
    Ok(counts)
}

struct Revert {
    counts: Counts,
    /// From the save to the start of the last call that reached v2.
    took: Duration,
}

async fn revert(mesh: &Mesh, folder: &Folder, tell: &(dyn Fn(String) + Send + Sync)) -> Result<Revert, Failure> {
    let tally = Tally::default();
    let edit = async {
        mesh.v2.payments.fail(1.0);
        tokio::time::sleep(FAILING_FOR).await;
        tell(format!("   {}   v2 fails", report::bar(&tally.counts())));
        let saved = folder.set_weights(100, 0)?;
        tokio::time::sleep(WATCHED_FOR).await;
        Ok::<Instant, Failure>(saved)
    };
    let saved = tokio::select! {
        saved = edit => saved?,
        () = mesh.call(&tally, u64::MAX, CONCURRENCY) => return Err("the calls ended by themselves".into()),
    };
    let counts = tally.counts();
    let took = counts
        .last_v2
        .map_or(Duration::ZERO, |last| last.saturating_duration_since(saved));
    tell(format!("   {}   weight 0", report::bar(&counts)));
    tell(format!(
        "   last call that reached v2 began {:.1} ms after the save",
        took.as_secs_f64() * 1e3
    ));
    tell(format!(
        "   calls that failed for another reason than v2 itself: {}",
        counts.failed_by_mesh
    ));
    Ok(Revert { counts, took })
}

async fn alone(mesh: Mesh, tell: &(dyn Fn(String) + Send + Sync)) -> Result<Counts, Failure> {
    let mesh = soon("the control plane to stop", mesh.without_control_plane()).await?;
    let tally = Tally::default();
    soon(
        "the calls without a control plane",
        mesh.call(&tally, ALONE_CALLS, CONCURRENCY),
    )
    .await?;
    let counts = tally.counts();
    tell(format!("   {}", report::bar(&counts)));
    Ok(counts)
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::time::timeout(PATIENCE, future)
        .await
        .map_err(|_| format!("waited {PATIENCE:?} for {what}").into())
}
