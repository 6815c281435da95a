//! When to look at the folder: after an event and a little quiet, and now and then without any. And who is writing there.
//!
//! A save is several events: the file is emptied, written, closed. Where the system tells of the closing (Linux), a file that
//! was written to and not closed is known to be half a save. The knowledge ends after a while, since a file may be kept open
//! for ever, and a truncation by name has no closing at all.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::Event;
use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind};
use tokio::sync::Notify;
use tokio::time::{self, Instant};

use super::files::{self, MAX_FILES};

/// Reading begins when there was no event for this long.
const QUIET: Duration = Duration::from_millis(5);
/// But never later than this after the first: one file that is written to all the time must not hold up the others.
const LONGEST_WAIT: Duration = Duration::from_millis(50);
/// How long a file that is open for writing is taken for half written. Slow savers take a few hundred milliseconds.
const LONGEST_WRITE: Duration = Duration::from_secs(2);
/// The folder is also read when nothing was heard: events get lost, and some file systems have none.
pub(super) const RESCAN: Duration = Duration::from_secs(2);
/// Whether the system tells when a writer closes its file (inotify). Elsewhere nobody is known to be writing for long.
const CLOSINGS_ARE_TOLD: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// What was heard of the folder since it was last read.
#[derive(Debug, Default)]
pub(super) struct Events {
    bell: Notify,
    /// Files that were made or written to and not closed yet; no more than are read.
    open: Mutex<HashMap<OsString, Open>>,
}

/// A file that somebody has open for writing.
#[derive(Clone, Copy, Debug)]
struct Open {
    /// Since when.
    since: Instant,
    /// When it was last heard of.
    last: Instant,
    /// Something was written. Creation alone proves no writer: links are made too.
    written: bool,
}

impl Open {
    /// When it will not be taken for half written any more.
    fn end(&self) -> Option<Instant> {
        (self.written && CLOSINGS_ARE_TOLD).then(|| self.since + LONGEST_WRITE)
    }
}

impl Events {
    /// Takes note of an event, on the watcher's thread.
    pub(super) fn take(&self, event: &Event) {
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => self.closed(event),
            // Our own reading is an event too, and must not wake us.
            EventKind::Access(_) => return,
            EventKind::Create(CreateKind::File) => drop(self.opened(event, false)),
            // What is known to be half a save is not worth a look.
            EventKind::Modify(ModifyKind::Data(_)) if !self.opened(event, true) => return,
            EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)) => {}
            _ => self.closed(event),
        }
        self.ring();
    }

    /// Something may have changed.
    pub(super) fn ring(&self) {
        self.bell.notify_one();
    }

    /// The files that are half written now.
    pub(super) fn writing(&self) -> HashSet<OsString> {
        let now = Instant::now();
        let open = self.open();
        let half = open.iter().filter(|(_, open)| open.end().is_some_and(|end| now < end));
        half.map(|(name, _)| name.clone()).collect()
    }

    /// Waits for an event and for what follows it to be over, or for the next look without one: at `again`, or when a file
    /// was half written for too long. Whether something was heard of what is to be seen.
    pub(super) async fn settle(&self, again: Option<Instant>) -> bool {
        let rescan = Instant::now() + RESCAN;
        let written = self.next_end();
        let next = [Some(rescan), again, written].into_iter().flatten().min();
        if time::timeout_at(next.unwrap_or(rescan), self.bell.notified())
            .await
            .is_err()
        {
            return written.is_some_and(|end| end <= Instant::now());
        }
        let latest = Instant::now() + LONGEST_WAIT;
        loop {
            let quiet = latest.min(Instant::now() + QUIET);
            let until = if self.is_opening() { latest } else { quiet };
            if time::timeout_at(until, self.bell.notified()).await.is_err() || Instant::now() >= latest {
                break;
            }
        }
        // Not every creation is followed by a closing, and none may delay the next save.
        self.open().retain(|_, open| open.end().is_some());
        true
    }

    /// When the first of the half-written files will not be taken for that any more.
    fn next_end(&self) -> Option<Instant> {
        let now = Instant::now();
        let open = self.open();
        open.values().filter_map(Open::end).filter(|end| now < *end).min()
    }

    /// Whether a save began just now. One that takes longer is not waited for: the file keeps its last text meanwhile.
    fn is_opening(&self) -> bool {
        let now = Instant::now();
        self.open().values().any(|open| now < open.since + LONGEST_WAIT)
    }

    /// Whether that was not known.
    fn opened(&self, event: &Event, written: bool) -> bool {
        let now = Instant::now();
        let mut open = self.open();
        let mut is_new = event.paths.is_empty();
        for name in names(event) {
            // Long silence after an end that was not told (a truncation by name, a lost event): this is another save.
            let known = open.get(name).copied().filter(|open| now < open.last + LONGEST_WRITE);
            let is_half = |open: Open| open.end().is_some_and(|end| now < end);
            is_new |= !known.is_some_and(is_half);
            if files::is_read(name) && (open.contains_key(name) || open.len() < MAX_FILES) {
                let (since, before) = known.map_or((now, false), |known| (known.since, known.written));
                let written = written || before;
                let last = now;
                open.insert(name.to_owned(), Open { since, last, written });
            }
        }
        is_new
    }

    fn closed(&self, event: &Event) {
        let mut open = self.open();
        for name in names(event) {
            open.remove(name);
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<OsString, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn names(event: &Event) -> impl Iterator<Item = &OsStr> {
    event.paths.iter().filter_map(|path| path.file_name())
}

#[cfg(test)]
mod tests {
    use notify::event::{DataChange, RemoveKind, RenameMode};

    use super::*;

    const WRITE: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    const CLOSE: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
    const RENAMED: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::To));
    const REMOVED: EventKind = EventKind::Remove(RemoveKind::File);
    const LINKED: EventKind = EventKind::Create(CreateKind::File);
    const READ: EventKind = EventKind::Access(AccessKind::Open(AccessMode::Any));

    fn events(kinds: &[EventKind]) -> Events {
        let events = Events::default();
        for kind in kinds {
            events.take(&Event::new(*kind).add_path("a.yaml".into()));
        }
        events
    }

    async fn settled_after(kinds: &[EventKind]) -> (bool, Duration) {
        let events = events(kinds);
        let start = Instant::now();
        (events.settle(None).await, start.elapsed())
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
            events.take(&Event::new(CLOSE).add_path("a.yaml".into()));
        };
        let (told, ()) = tokio::join!(events.settle(None), close);
        assert_eq!((told, start.elapsed()), (true, Duration::from_millis(20) + QUIET));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_half_written_until_it_is_closed_or_for_too_long() {
        let half = |events: &Events| !events.writing().is_empty() || !CLOSINGS_ARE_TOLD;
        assert!(half(&events(&[WRITE])) && half(&events(&[CLOSE, WRITE, READ])));
        for whole in [&[WRITE, CLOSE][..], &[WRITE, RENAMED], &[WRITE, REMOVED], &[LINKED]] {
            assert!(events(whole).writing().is_empty(), "{whole:?}");
        }
        let kept_open = events(&[WRITE]);
        assert!(kept_open.settle(None).await && half(&kept_open));
        // It is not waited for again, and more of it is no news.
        kept_open.take(&Event::new(WRITE).add_path("a.yaml".into()));
        kept_open.take(&Event::new(RENAMED).add_path("b.yaml".into()));
        let start = Instant::now();
        assert!(kept_open.settle(None).await && half(&kept_open));
        assert_eq!(start.elapsed(), QUIET);
        // Then the end of its time is what is heard.
        let again = start + Duration::from_millis(500);
        assert_eq!((kept_open.settle(Some(again)).await, Instant::now()), (false, again));
        assert_eq!(kept_open.settle(None).await, CLOSINGS_ARE_TOLD);
        assert!(kept_open.writing().is_empty());
        // A writer that goes on is believed as it goes; after a long silence it is another one.
        kept_open.take(&Event::new(WRITE).add_path("a.yaml".into()));
        assert!(kept_open.writing().is_empty());
        time::advance(LONGEST_WRITE).await;
        kept_open.take(&Event::new(WRITE).add_path("a.yaml".into()));
        assert!(half(&kept_open));
    }
}
