//! Waiting for a swapped value, with the bell that its cell rings.

use std::sync::Arc;

use mesh_core::live;
use tokio::sync::Notify;

/// Resolves once `holds` is true of the cell's value. Cancel safe; its limit is the caller's to set.
pub(crate) async fn until<T: Send + Sync + 'static>(cell: &live::Reader<T>, holds: impl Fn(&T) -> bool) {
    let bell = Arc::new(Notify::new());
    let ring = Arc::clone(&bell);
    // Subscribed before the first look, so that no change falls between the two.
    let _subscription = cell.on_change(move || ring.notify_one());
    while !holds(&cell.load()) {
        bell.notified().await;
    }
}
