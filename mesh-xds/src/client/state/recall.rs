//! The copy on disk as the source of last resort: see [`disk`](crate::client::disk).
//!
//! It stands as a line without a task, behind all others: what is subscribed to there is answered at once. It is let go of,
//! authority by authority, when a control plane takes over.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use super::State;
use crate::client::ads::{Recall, Variant};
use crate::client::cache::{Changed, Trouble};
use crate::client::disk::{DiskCopy, Holds, Kept, Key, Serving, moment};
use crate::client::report::Word;

/// What the state knows of the copy.
#[derive(Debug)]
pub(in crate::client) struct Disk {
    /// The last of the lines: nobody's.
    pub(super) line: usize,
    /// What it held at the start, as long as it may be needed.
    copy: Option<Arc<Kept>>,
    /// It has answered something that nothing was made of yet.
    has_answered: bool,
    /// Its values that a control plane took over, of which nothing was told yet.
    pub(super) inherited: Vec<Changed>,
    status: DiskCopy,
    /// The count of changes that the file is up to.
    saved: u64,
}

impl Disk {
    pub(in crate::client) fn new(line: usize, path: &Path) -> Self {
        Self {
            line,
            copy: None,
            has_answered: false,
            inherited: Vec::new(),
            status: DiskCopy::new(path),
            saved: 0,
        }
    }

    /// Whether it has answered anything since this was last asked.
    pub(super) fn has_answered(&mut self) -> bool {
        std::mem::take(&mut self.has_answered)
    }
}

impl<V: Variant> State<V> {
    /// Takes in what the file held.
    fn loaded(&mut self, loaded: Result<Option<Arc<Kept>>, Arc<str>>, now: Instant) {
        let Some(disk) = &mut self.disk else { return };
        match loaded {
            Ok(copy) if self.authorities.iter().any(|authority| authority.disk.is_some()) => disk.copy = copy,
            Ok(_) => {}
            Err(why) => disk.status.refused = Some(why),
        }
        self.recall(now);
        // What ends, ends by the clock of whoever has one.
        self.lines.iter().for_each(|line| line.bell.notify_one());
        self.refresh(now);
    }

    /// Answers from the copy what is asked of it.
    pub(super) fn recall(&mut self, now: Instant) {
        let Some(Disk {
            copy: Some(copy),
            line,
            has_answered,
            ..
        }) = &mut self.disk
        else {
            return;
        };
        let line = &mut self.lines[*line];
        if !line.is_wanted {
            return;
        }
        let (answered, refused) = line.ads.recall(&Recall {
            copy,
            is_plain: &|name| self.directory.of(name) == Ok(0),
            now,
            wall_time: self.clock.current_time().map(|time| time.as_secs()),
        });
        *has_answered |= answered > 0;
        for rejected in refused {
            tracing::warn!(%rejected, "a resource of the copy on disk was refused");
            self.tally.count("xds_disk", "resource_refused");
        }
    }

    /// An authority has no need of the copy any more.
    pub(super) fn let_go_of_disk(&mut self) {
        if self.authorities.iter().all(|authority| authority.disk.is_none())
            && let Some(disk) = &mut self.disk
        {
            disk.copy = None;
        }
    }

    /// A control plane has taken over from the copy, and these are still its values: what of them is needed and not had by the control plane
    /// is as if it had deleted it.
    pub(super) fn tell_of_kept(&mut self) {
        let inherited = self.disk.as_mut().map(|disk| std::mem::take(&mut disk.inherited));
        for (kind, name) in inherited.into_iter().flatten() {
            let Ok(place) = self.directory.of(&name) else { continue };
            let line = &self.lines[self.authorities[place].source()];
            let row = line.ads.cache().row(kind, &name);
            if let Some(Trouble::Absent(why)) = row.and_then(|row| row.trouble) {
                let server = &line.connection.server;
                tracing::warn!(server, %kind, name = &*name, why = &**why, "the value of the copy on disk is kept");
                self.tally.count("xds_disk", "kept");
            }
        }
    }

    /// Whose word each authority's is, and whether any of it is the copy's.
    pub(super) fn tell_of_disk(&mut self) {
        let Some(disk) = &mut self.disk else { return };
        let words = self.authorities.iter().map(|authority| Word {
            server: self.lines[authority.spoken_to()].connection.server.as_str().into(),
            is_told: authority.disk.is_none(),
            is_needed: authority.is_needed,
        });
        let words: Vec<Word> = words.collect();
        let listed = self.lines[self.authorities[0].source()].ads.cache().listed();
        if (&words, listed) != (&self.report.words, self.report.listed) {
            (self.report.words, self.report.listed) = (words, listed);
            self.report.changes += 1;
        }
        let mut needed = self.authorities.iter().filter(|authority| authority.is_needed);
        let serves = needed.any(|authority| authority.source() == disk.line)
            && self.lines[disk.line].ads.cache().has_any(|_| true);
        let path = disk.status.path.display();
        match (serves, &disk.status.serving) {
            (true, None) => {
                let now = self.clock.current_time().map(|time| time.as_secs());
                let serving = Serving {
                    since: now.and_then(moment),
                    written: disk.copy.as_ref().and_then(|copy| moment(copy.written)),
                };
                let age = serving.since.and_then(|now| serving.age(now));
                tracing::info!(%path, ?age, "served from the copy on disk until a control plane has told everything");
                self.tally.count("xds_disk", "served");
                disk.status.serving = Some(serving);
            }
            (false, Some(_)) => {
                tracing::info!(%path, "a control plane has told everything: the copy on disk is asked no more");
                disk.status.serving = None;
            }
            _ => {}
        }
        disk.status.is_current = disk.saved == self.report.changes;
        self.report.disk = Some(disk.status.clone());
    }

    fn saved(&mut self, outcome: Result<(u64, Option<SystemTime>), Arc<str>>) {
        let Some(disk) = &mut self.disk else { return };
        match outcome {
            Ok((changes, written)) => {
                disk.saved = changes;
                disk.status.written = written.or(disk.status.written);
                disk.status.failure = None;
            }
            Err(why) => disk.status.failure = Some(why),
        }
        self.tell();
    }

    /// The resources of those whose word counts that end, and when.
    fn lives(&self, now: Instant) -> BTreeMap<Key, u64> {
        let Some(wall_time) = self.clock.current_time().map(|time| time.as_secs()) else {
            return BTreeMap::new();
        };
        let mut lives = BTreeMap::new();
        for (place, authority) in self.authorities.iter().enumerate() {
            for (key, ends) in self.lines[authority.source()].ads.lives() {
                if self.directory.of(&key.1) == Ok(place) {
                    // Cut to the second: none lives longer for it.
                    lives.insert(key, wall_time + ends.saturating_duration_since(now).as_secs());
                }
            }
        }
        lives
    }
}

impl<V: Variant> Holds for Mutex<State<V>> {
    fn loaded(&self, loaded: Result<Option<Arc<Kept>>, Arc<str>>, now: Instant) {
        let mut state = self.lock().unwrap_or_else(PoisonError::into_inner);
        state.loaded(loaded, now);
    }

    fn lives(&self, now: Instant) -> BTreeMap<Key, u64> {
        self.lock().unwrap_or_else(PoisonError::into_inner).lives(now)
    }

    fn saved(&self, outcome: Result<(u64, Option<SystemTime>), Arc<str>>) {
        self.lock().unwrap_or_else(PoisonError::into_inner).saved(outcome);
    }
}
