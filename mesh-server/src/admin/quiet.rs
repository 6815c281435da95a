//! Connections to the admin port that ask for nothing, and who of them gives way.
//!
//! A place costs whoever takes it one packet, and any process of the machine can take all of them. A probe that is not answered has the
//! process killed. So where no place is free for one who comes, the connection goes that has been without a request for longest; one whose
//! request is being answered never does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_core::crowd::Crowd;
use tokio::sync::Notify;

/// The connections without a request, the longest first; each by what it is told by.
#[derive(Clone, Debug)]
pub(super) struct Quiet(Arc<Mutex<Crowd<Arc<Notify>>>>);

impl Quiet {
    /// Of so many connections.
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::new(Mutex::new(Crowd::new(most))))
    }

    /// Tells the one that has been quiet for longest to go, if one is.
    pub(super) fn make_room(&self) {
        let first = self.lock().first();
        if let Some(told) = first {
            told.notify_one();
        }
    }

    /// One more connection, which is quiet.
    pub(super) fn enter(&self) -> Arc<Seat> {
        let seat = Seat {
            quiet: self.clone(),
            told: Arc::default(),
            asks: Mutex::default(),
        };
        seat.sit(&mut seat.lock());
        Arc::new(seat)
    }

    fn lock(&self) -> MutexGuard<'_, Crowd<Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's.
#[derive(Debug)]
pub(super) struct Seat {
    quiet: Quiet,
    told: Arc<Notify>,
    asks: Mutex<Asks>,
}

#[derive(Debug, Default)]
struct Asks {
    /// How many of its requests are being answered.
    open: usize,
    /// What it is called among the quiet, while it is.
    number: Option<u64>,
}

impl Seat {
    /// Resolves when it has to go.
    pub(super) async fn gives_way(&self) {
        self.told.notified().await;
    }

    /// A request of it begins; it is answered when what is given is dropped.
    pub(super) fn asks(self: &Arc<Self>) -> Asking {
        let mut asks = self.lock();
        asks.open += 1;
        if let Some(number) = asks.number.take() {
            drop(self.quiet.lock().leave(number));
        }
        Asking(Arc::clone(self))
    }

    fn sit(&self, asks: &mut Asks) {
        let (number, crowded_out) = self.quiet.lock().enter(Arc::clone(&self.told));
        asks.number = Some(number);
        if let Some(told) = crowded_out {
            told.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Asks> {
        self.asks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let number = self.lock().number;
        if let Some(number) = number {
            drop(self.quiet.lock().leave(number));
        }
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Asking(Arc<Seat>);

impl Drop for Asking {
    fn drop(&mut self) {
        let mut asks = self.0.lock();
        asks.open -= 1;
        if asks.open == 0 {
            self.0.sit(&mut asks);
        }
    }
}
