//! Payment v1 and v2, their caller, and what the example programs share.

pub mod load;
#[rustfmt::skip]
pub mod proto;
pub mod service;
pub mod story;

use std::io;
use std::sync::Arc;

use mesh_core::link::Standing;
use mesh_core::live;
use mesh_server::admin::Admin;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing_subscriber::EnvFilter;

/// Logs to standard error, by `RUST_LOG`; by `default` when that is not set.
pub fn logs(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .init();
}

/// Resolves when the workload has an identity, without which it neither serves nor calls. Dropped, it leaves nothing behind.
pub async fn identified(identity: live::Reader<Standing>) {
    let changed = Arc::new(Notify::new());
    let ring = Arc::clone(&changed);
    let _subscription = identity.on_change(move || ring.notify_one());
    while identity.load().is_err() {
        changed.notified().await;
    }
}

/// Runs an admin port beside the service; a process that has none goes on, and says why.
pub fn admin(admin: Admin, anywhere: bool) -> JoinHandle<()> {
    let admin = if anywhere {
        admin.dangerous().any_address()
    } else {
        admin
    };
    tokio::spawn(async move {
        let Err(error) = admin.await;
        tracing::error!(%error, "no admin port");
    })
}

/// Resolves when the process is asked to end (SIGINT or SIGTERM).
///
/// # Errors
///
/// When the handlers cannot be installed.
pub fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
