//! When to look at the folder: after an event and a little quiet, once nobody is writing, and now and then without any.
//!
//! A save is several events: the file is emptied, written, closed. Where the system tells of the closing (Linux), reading
//! waits for it, so that half a save is not taken for the whole. The wait is bounded, since a file may be kept open for ever.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::Event;
use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind};
use tokio::sync::Notify;
use tokio::time::{self, Instant};

/// Reading begins when there was no event for this long.
const QUIET: Duration = Duration::from_millis(5);
/// But never later than this after the first: one file that is written to all the time must not hold up the others.
const LONGEST_WAIT: Duration = Duration::from_millis(50);
/// The folder is also read when nothing was heard: events get lost, and some file systems have none.
pub(super) const RESCAN: Duration = Duration::from_secs(2);

/// What was heard of the folder since it was last read.
#[derive(Debug, Default)]
pub(super) struct Events {
    bell: Notify,
    /// Files that were opened or written to and not closed yet; no more than the folder has.
    writing: Mutex<HashSet<PathBuf>>,
}

impl Events {
    /// Takes note of an event, on the watcher's thread.
    pub(super) fn take(&self, event: Event) {
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => self.closed(&event),
            // Our own reading is an event too, and must not wake us.
            EventKind::Access(_) => return,
            EventKind::Create(CreateKind::File) | EventKind::Modify(ModifyKind::Data(_)) => {
                self.writing().extend(event.paths);
            }
            EventKind::Modify(ModifyKind::Metadata(_)) => {}
            _ => self.closed(&event),
        }
        self.ring();
    }

    /// Something may have changed.
    pub(super) fn ring(&self) {
        self.bell.notify_one();
    }

    /// Waits for an event and for what follows it to be over, or for the next look without one. Whether there was an event.
    pub(super) async fn settle(&self) -> bool {
        if time::timeout(RESCAN, self.bell.notified()).await.is_err() {
            return false;
        }
        let latest = Instant::now() + LONGEST_WAIT;
        loop {
            let quiet = latest.min(Instant::now() + QUIET);
            let until = if self.writing().is_empty() { quiet } else { latest };
            if time::timeout_at(until, self.bell.notified()).await.is_err() || Instant::now() >= latest {
                break;
            }
        }
        // Not every creation is followed by a closing (a link is not), and none may delay the next save.
        self.writing().clear();
        true
    }

    fn closed(&self, event: &Event) {
        let mut writing = self.writing();
        for path in &event.paths {
            writing.remove(path);
        }
    }

    fn writing(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use notify::event::DataChange;

    use super::*;

    const WRITE: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    const CLOSE: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
    const READ: EventKind = EventKind::Access(AccessKind::Open(AccessMode::Any));

    fn events(kinds: &[EventKind]) -> Events {
        let events = Events::default();
        for kind in kinds {
            events.take(Event::new(*kind).add_path("a.yaml".into()));
        }
        events
    }

    async fn settled_after(kinds: &[EventKind]) -> (bool, Duration) {
        let events = events(kinds);
        let start = Instant::now();
        (events.settle().await, start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_is_waited_for_and_not_for_ever() {
        assert_eq!(settled_after(&[WRITE, CLOSE]).await, (true, QUIET));
        assert_eq!(settled_after(&[WRITE, CLOSE, WRITE]).await, (true, LONGEST_WAIT));
        assert_eq!(settled_after(&[READ]).await, (false, RESCAN));
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_while_waiting_begins_the_quiet_anew() {
        let events = events(&[WRITE]);
        let start = Instant::now();
        let close = async {
            time::sleep(Duration::from_millis(20)).await;
            events.take(Event::new(CLOSE).add_path("a.yaml".into()));
        };
        let (told, ()) = tokio::join!(events.settle(), close);
        assert_eq!((told, start.elapsed()), (true, Duration::from_millis(20) + QUIET));
    }
}
