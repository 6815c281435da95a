//! The task that reads the copy once, before anybody connects, and then follows the reports of the client and writes what
//! they hold: never in the way of the stream or of a call, and at most every [`INTERVAL`].
//!
//! A disk that fails costs the next start its copy, and this process nothing: that is told once when it begins and once when
//! it ends, counted, and tried again.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_core::report::Tally;
use rustls::time_provider::TimeProvider;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::file::{CopyFile, Unused};
use super::kept::{self, Kept, Key};
use crate::client::cache::Authorities;
use crate::client::report::{Report, Word};

/// How long what changed is gathered before it is written: one start tells much in little time, and a mesh whose endpoints
/// come and go must not wear out a disk.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long a disk that failed is left alone.
const RETRY: Duration = Duration::from_secs(30);
/// How often resources with a time to live are written anew while the control plane renews them: without that they would be
/// over when they are read.
const RENEWAL: Duration = Duration::from_secs(30);

/// How long a control plane is not asked because the copy is still being read: so that what is known from disk is known when
/// the first word comes. A disk that hangs is not waited for.
const READ_LIMIT: Duration = Duration::from_secs(1);

/// Opens when the copy was read, or cannot be.
#[derive(Clone, Debug)]
pub(in crate::client) struct Gate(watch::Receiver<bool>);

impl Gate {
    /// Waits for that, for a limited time.
    pub(in crate::client) async fn passed(mut self) {
        // It opens too when nobody reads any more.
        drop(timeout(READ_LIMIT, self.0.wait_for(|is_read| *is_read)).await);
    }
}

/// What the keeper asks of the client, and tells it.
pub(in crate::client) trait Holds: Send + Sync {
    /// What the file held at the start, or why it is not used.
    fn loaded(&self, loaded: Result<Option<Arc<Kept>>, Arc<str>>, now: std::time::Instant);

    /// When the resources end that do, by the wall clock.
    fn lives(&self, now: std::time::Instant) -> BTreeMap<Key, u64>;

    /// What was known at this count of changes needs no writing any more, and when it was written if it was; or why it could
    /// not be.
    fn saved(&self, outcome: Result<(u64, Option<SystemTime>), Arc<str>>);
}

/// See the module's documentation.
pub(in crate::client) struct Keeper {
    file: CopyFile,
    reports: watch::Receiver<Arc<Report>>,
    holds: Arc<dyn Holds>,
    directory: Authorities,
    clock: Arc<dyn TimeProvider>,
    tally: Tally,
    /// What is in the file.
    last: Option<Arc<Kept>>,
    /// The count of changes that were looked at last.
    changes: u64,
    is_failing: bool,
    /// When what has a time to live is to be written again.
    renewal: Option<Instant>,
    gate: watch::Sender<bool>,
}

impl Keeper {
    pub(in crate::client) fn new(
        file: CopyFile,
        reports: watch::Receiver<Arc<Report>>,
        holds: Arc<dyn Holds>,
        directory: Authorities,
        link: &mesh_core::Link,
    ) -> Self {
        Self {
            file,
            reports,
            holds,
            directory,
            clock: Arc::clone(link.wall_clock()),
            tally: link.tally().clone(),
            last: None,
            changes: 0,
            is_failing: false,
            renewal: None,
            gate: watch::Sender::new(false),
        }
    }

    /// What others wait for until the copy was read.
    pub(in crate::client) fn gate(&self) -> Gate {
        Gate(self.gate.subscribe())
    }

    /// Runs until `gone` completes, and writes once more then what is not written yet.
    pub(in crate::client) async fn run(mut self, gone: impl Future<Output = ()>) {
        let mut gone = pin!(gone);
        tokio::select! {
            () = self.load() => {}
            // What the file holds is not known, and must not be replaced with less.
            () = &mut gone => return,
        }
        self.gate.send_replace(true);
        loop {
            let is_over = tokio::select! {
                () = self.due() => false,
                () = &mut gone => true,
            };
            self.keep().await;
            if is_over {
                return;
            }
        }
    }

    async fn load(&mut self) {
        let file = self.file.clone();
        // It ends early only with the runtime.
        let Ok(loaded) = spawn_blocking(move || file.load()).await else {
            return;
        };
        let path = self.file.path();
        let loaded = match loaded {
            Ok(None) => Ok(None),
            Ok(Some(kept)) => {
                tracing::info!(path = %path.display(), resources = kept.entries.len(), "a copy of the last configuration was read");
                let kept = Arc::new(kept);
                self.last = Some(Arc::clone(&kept));
                Ok(Some(kept))
            }
            Err(why) => {
                tracing::warn!(path = %path.display(), reason = %why, "the copy of the last configuration is not used");
                self.tally.count("xds_disk", "unused");
                Err(why.to_string().into())
            }
        };
        self.holds.loaded(loaded, Instant::now().into_std());
    }

    /// Waits until something is to be written, and then for what else may be.
    async fn due(&mut self) {
        let (changes, renewal) = (self.changes, self.renewal);
        let renewed = async {
            match renewal {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            is_over = async { self.reports.wait_for(|report| report.changes != changes).await.is_err() } => if is_over {
                // Nothing comes any more but the end.
                return std::future::pending().await;
            },
            () = renewed => {}
        }
        sleep(if self.is_failing { RETRY } else { INTERVAL }).await;
    }

    /// Writes what is known now, if there is news.
    async fn keep(&mut self) {
        let report = Arc::clone(&self.reports.borrow_and_update());
        let is_renewal = self.renewal.is_some_and(|at| at <= Instant::now());
        if report.changes == self.changes && !is_renewal {
            return;
        }
        // Until a control plane was heard there is nothing that the file does not hold.
        if !report.words.iter().any(Word::counts) {
            self.changes = report.changes;
            return self.holds.saved(Ok((report.changes, None)));
        }
        let lives = self.holds.lives(Instant::now().into_std());
        self.renewal = (!lives.is_empty()).then(|| Instant::now() + RENEWAL);
        let wall_time = self.clock.current_time().map(|time| time.as_secs());
        let next = kept::next(
            &report,
            self.last.as_deref(),
            &self.directory,
            &lives,
            wall_time.unwrap_or_default(),
        );
        let (file, next) = (self.file.clone(), Arc::new(next));
        let written = Arc::clone(&next);
        let Ok(saved) = spawn_blocking(move || file.save(&written)).await else {
            return;
        };
        let saved = self.note(saved).map(|()| {
            self.changes = report.changes;
            self.last = Some(next);
            (report.changes, wall_time.and_then(kept::moment))
        });
        self.holds.saved(saved);
    }

    /// Tells of a change for the worse or the better.
    fn note(&mut self, saved: Result<(), Unused>) -> Result<(), Arc<str>> {
        let was_failing = std::mem::replace(&mut self.is_failing, saved.is_err());
        let path = self.file.path().display();
        match saved {
            Ok(()) => {
                self.tally.count("xds_disk", "written");
                if was_failing {
                    tracing::info!(%path, "the configuration is kept on disk again");
                }
                Ok(())
            }
            Err(why) => {
                self.tally.count("xds_disk", "write_failed");
                if !was_failing {
                    tracing::warn!(%path, reason = %why, "the configuration cannot be kept on disk; an older copy may be there");
                }
                Err(why.to_string().into())
            }
        }
    }
}
