//! One writer, many readers, whole values only.
//!
//! Everything that is hot-swapped goes through [`channel`]: the snapshot, a target's selector, a cluster's hosts, the
//! workload's identity. A load is wait-free (`arc-swap`), because it happens on every request; a publish is one store.
//! Change is told by callback rather than by a future, so that this crate needs no runtime: the callback rings whatever
//! bell its owner has (a `tokio::sync::Notify`, usually), and a burst of publishes is one change for whoever wakes late.
//!
//! This is the only file that names `ArcSwap` (ARCHITECTURE.md, invariant 5).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::{ArcSwap, Guard};

type Callback = Arc<dyn Fn() + Send + Sync>;

/// Makes a cell that holds `value`.
///
/// ```
/// let (writer, reader) = mesh_core::live::channel(1);
/// writer.publish(2);
/// assert_eq!(**reader.load(), 2);
/// ```
pub fn channel<T>(value: T) -> (Writer<T>, Reader<T>) {
    let cell = Arc::new(Cell {
        value: ArcSwap::from_pointee(value),
        listeners: Mutex::default(),
        next_listener: AtomicU64::new(0),
    });
    (
        Writer {
            cell: Arc::clone(&cell),
        },
        Reader { cell },
    )
}

struct Cell<T> {
    value: ArcSwap<T>,
    listeners: Mutex<Vec<(u64, Callback)>>,
    next_listener: AtomicU64,
}

/// The writing end. Readers keep the last value when it is dropped.
pub struct Writer<T> {
    cell: Arc<Cell<T>>,
}

impl<T> Writer<T> {
    /// Replaces the value and rings every listener, in this task.
    pub fn publish(&self, value: T) {
        self.publish_shared(Arc::new(value));
    }

    /// As [`publish`](Self::publish), for a value that is shared already.
    pub fn publish_shared(&self, value: Arc<T>) {
        self.cell.value.store(value);
        // Cloned out, so that a callback may subscribe or unsubscribe without a deadlock.
        let listeners: Vec<Callback> = self.cell.lock().iter().map(|(_, f)| Arc::clone(f)).collect();
        for listener in listeners {
            listener();
        }
    }

    /// A reader of this cell.
    pub fn reader(&self) -> Reader<T> {
        Reader {
            cell: Arc::clone(&self.cell),
        }
    }
}

/// A reading end; clones read the same cell.
pub struct Reader<T> {
    cell: Arc<Cell<T>>,
}

impl<T> Reader<T> {
    /// A reader of a value that never changes.
    pub fn fixed(value: T) -> Self {
        channel(value).1
    }

    /// The current value, without a reference count: for the length of a request's decision. Do not hold the guard across
    /// an await; [`load_full`](Self::load_full) is for that.
    pub fn load(&self) -> Guard<Arc<T>> {
        self.cell.value.load()
    }

    /// The current value, owned.
    pub fn load_full(&self) -> Arc<T> {
        self.cell.value.load_full()
    }

    /// Calls `callback` after each publish until the subscription is dropped.
    ///
    /// The callback runs in the publisher's task: it must be short and must not block. To lose no change, subscribe
    /// first and load second.
    pub fn on_change(&self, callback: impl Fn() + Send + Sync + 'static) -> Subscription
    where
        T: Send + Sync + 'static,
    {
        let id = self.cell.next_listener.fetch_add(1, Ordering::Relaxed);
        self.cell.lock().push((id, Arc::new(callback)));
        let cell: Weak<Cell<T>> = Arc::downgrade(&self.cell);
        Subscription {
            cancel: Some(Box::new(move || {
                if let Some(cell) = cell.upgrade() {
                    cell.lock().retain(|(other, _)| *other != id);
                }
            })),
        }
    }
}

impl<T> Cell<T> {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(u64, Callback)>> {
        // A list of callbacks is whole whatever its holder was doing when it panicked.
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a callback registered; dropping it ends that.
#[must_use = "the callback is removed when this is dropped"]
pub struct Subscription {
    cancel: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(cancel) = self.cancel.take() {
            cancel();
        }
    }
}

impl<T> Clone for Reader<T> {
    fn clone(&self) -> Self {
        Self {
            cell: Arc::clone(&self.cell),
        }
    }
}

// Values may hold secrets (an identity), so no cell prints what it holds.
impl<T> fmt::Debug for Writer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Reader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_publish_is_told_until_the_subscription_is_dropped() {
        let (writer, reader) = channel(0);
        let told = Arc::new(AtomicU64::new(0));
        let bell = Arc::clone(&told);
        let subscription = reader.on_change(move || {
            bell.fetch_add(1, Ordering::Relaxed);
        });
        writer.publish(1);
        writer.publish(2);
        assert_eq!((told.load(Ordering::Relaxed), **reader.load()), (2, 2));
        drop(subscription);
        writer.publish(3);
        assert_eq!((told.load(Ordering::Relaxed), **reader.load()), (2, 3));
    }

    #[test]
    fn a_callback_may_unsubscribe_itself() {
        let (writer, reader) = channel(0);
        let slot: Arc<Mutex<Option<Subscription>>> = Arc::default();
        let inner = Arc::clone(&slot);
        *slot.lock().unwrap() = Some(reader.on_change(move || drop(inner.lock().unwrap().take())));
        writer.publish(1);
        assert!(slot.lock().unwrap().is_none());
    }
}
