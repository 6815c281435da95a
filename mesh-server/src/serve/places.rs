//! How many requests a server works on at once, and when it takes no more: by a number, by how long requests take, by how much memory
//! the process has.
//!
//! Asked of each request before anything else is, so that what is refused costs next to nothing: an atomic add, and a look at the clock
//! where memory is watched. Whoever is refused is told that nothing was processed, and may go elsewhere.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_core::Entropy;
use mesh_core::adaptive::GradientController;
use mesh_core::config::AdaptiveConcurrency;
use tokio::time::Instant;

use super::body::Waiting;
use crate::telemetry::Early;

/// How often it is looked at how much memory the process has. A hundred requests of a megabyte each may come in between.
const MEMORY_INTERVAL: Duration = Duration::from_millis(20);

/// Requests are taken again once the process has less than so many percent of what it may have.
const RESUME_PERCENT: u64 = 95;

/// See the module.
#[derive(Debug)]
pub(super) struct Places {
    taken: AtomicUsize,
    most: usize,
    /// Requests whose bodies have stopped.
    waiting: Mutex<Waiting>,
    adaptive: Option<Adaptive>,
    memory: Option<Memory>,
}

#[derive(Debug)]
struct Adaptive {
    controller: GradientController,
    entropy: Entropy,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// So many are worked on, or it takes too long.
    Requests,
    /// The process has as much memory as it may have.
    Memory,
}

impl From<Full> for Early {
    fn from(full: Full) -> Self {
        match full {
            Full::Requests => Self::Overloaded,
            Full::Memory => Self::Memory,
        }
    }
}

impl Places {
    pub(super) fn new(most: usize) -> Self {
        Self {
            taken: AtomicUsize::new(0),
            most,
            waiting: Mutex::new(Waiting::new(most)),
            adaptive: None,
            memory: None,
        }
    }

    /// And no more at once than `config` finds good.
    pub(super) fn adaptive(self, config: Option<AdaptiveConcurrency>, entropy: &Entropy) -> Self {
        let adaptive = config.map(|config| Adaptive {
            controller: GradientController::new(config, Instant::now().into_std()),
            entropy: entropy.clone(),
        });
        Self { adaptive, ..self }
    }

    /// And none while the process has more than what `memory` says.
    pub(super) fn memory(self, memory: Option<Memory>) -> Self {
        Self { memory, ..self }
    }

    /// Takes one, if there is one.
    pub(super) fn take(&self) -> Result<(), Full> {
        if self.memory.as_ref().is_some_and(Memory::is_short) {
            return Err(Full::Memory);
        }
        let most = match &self.adaptive {
            None => self.most,
            Some(adaptive) => self.most.min(adaptive.controller.limit() as usize),
        };
        let one_more = |taken| (taken < most).then_some(taken + 1);
        let took = self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        took.map(drop).map_err(|_| {
            // Whoever has kept the server waiting for longest; dropping it tells. The place is for the next one.
            drop(self.waiting().first());
            Full::Requests
        })
    }

    /// Requests whose bodies have stopped.
    pub(super) fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // A queue is whole whatever its holder was doing when it panicked.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }

    /// A request was answered that began then.
    pub(super) fn answered(&self, began: Instant) {
        if let Some(Adaptive { controller, entropy }) = &self.adaptive {
            let now = Instant::now().into_std();
            let at_once = u32::try_from(self.taken.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
            controller.observe(began.into_std(), now, at_once, &mut entropy.draw());
        }
    }
}

/// What the process may have in memory, and what says how much it has.
pub(super) struct Memory {
    most: u64,
    read: Arc<dyn Fn() -> Option<u64> + Send + Sync>,
    since: Instant,
    /// When it was looked at last, in milliseconds since then; and what came of it.
    looked_at: AtomicU64,
    short: AtomicBool,
}

impl Memory {
    pub(super) fn new(most: u64, read: Arc<dyn Fn() -> Option<u64> + Send + Sync>) -> Self {
        Self {
            most,
            read,
            since: Instant::now(),
            looked_at: AtomicU64::new(u64::MAX),
            short: AtomicBool::new(false),
        }
    }

    fn is_short(&self) -> bool {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let last = self.looked_at.load(Ordering::Relaxed);
        let due = last == u64::MAX || now.saturating_sub(last) >= MEMORY_INTERVAL.as_millis() as u64;
        // One looks; the others go by what was seen last.
        if due
            && self
                .looked_at
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            let was_short = self.short.load(Ordering::Relaxed);
            self.short
                .store(is_short((self.read)(), self.most, was_short), Ordering::Relaxed);
        }
        self.short.load(Ordering::Relaxed)
    }
}

/// Whether a process that has so much, and may have `most`, is short of it. Nobody is kept out by what cannot be told.
fn is_short(has: Option<u64>, most: u64, was_short: bool) -> bool {
    let most = match was_short {
        true => most / 100 * RESUME_PERCENT,
        false => most,
    };
    has.is_some_and(|has| has > most)
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("most", &self.most)
            .finish_non_exhaustive()
    }
}

/// What this process has in memory, in bytes, where its operating system tells (Linux).
pub(crate) fn resident() -> Option<u64> {
    // Pages of 4 KiB wherever this runs; a larger page reads as less, and sheds later.
    const PAGE: u64 = 4096;
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let resident = pages.split(' ').nth(1)?.parse::<u64>().ok()?;
    Some(resident * PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_short_of_memory_takes_no_more_until_there_is_room() {
        let cases = [
            (Some(1_000), false, false),
            (Some(1_001), false, true),
            (Some(1_000), true, true),
            (Some(951), true, true),
            (Some(950), true, false),
            (None, true, false),
        ];
        for (has, was, is) in cases {
            assert_eq!(is_short(has, 1_000, was), is, "{has:?} {was}");
        }
        assert!(resident().is_none_or(|bytes| bytes > 1 << 20));
    }
}
