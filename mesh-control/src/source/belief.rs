//! What is believed of the folder, which is not always what is seen of it.
//!
//! A save is not one step. A program that rewrites a file in place leaves a prefix for a while, and a prefix of YAML that
//! ends at `---` is good YAML; an editor that renames the old file away leaves none. To believe either would publish a
//! configuration that nobody wrote. So a file that is open for writing keeps its last text until it is closed (`events.rs`
//! says which), and one that vanished keeps it for [`GRACE`]. A file that is renamed over another, or a `..data` link that
//! Kubernetes swaps, is neither: it is believed at once.
//!
//! Pure: sights and times come in, files and the time of the next look go out.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::files::Sight;

/// How long what vanished is still believed. Editors are without the file for some tens of milliseconds; a removal that is
/// meant has its effect half a second later.
pub(super) const GRACE: Duration = Duration::from_millis(500);

/// What is believed, and what it is believed for.
#[derive(Debug, Default)]
pub(super) struct Belief {
    /// The last sight.
    seen: Option<Sight>,
    believed: Option<Sight>,
    /// Believed files that are not there, since when.
    missing: BTreeMap<OsString, Instant>,
    /// Since when the folder cannot be read.
    folder_missing: Option<Instant>,
}

impl Belief {
    /// What is believed; `None` before the first sight.
    pub(super) fn files(&self) -> Option<&Sight> {
        self.believed.as_ref()
    }

    /// Whether a sight differs from the last one in a file that is not in `held`.
    pub(super) fn is_news(&self, sight: &Sight, held: &HashSet<OsString>) -> bool {
        match (self.seen.as_ref(), sight) {
            (Some(Ok(old)), Ok(new)) => {
                let old = old.iter().filter(|(name, _)| !held.contains(*name));
                let new = new.iter().filter(|(name, _)| !held.contains(*name));
                !old.eq(new)
            }
            (old, new) => old != Some(new),
        }
    }

    /// Remembers a sight without believing it.
    pub(super) fn note(&mut self, sight: Sight) {
        self.seen = Some(sight);
    }

    /// Takes a sight, in which the files in `held` are open for writing. Whether it changed what is believed.
    pub(super) fn take(&mut self, sight: Sight, held: &HashSet<OsString>, now: Instant) -> bool {
        let next = self.judge(&sight, held, now);
        self.seen = Some(sight);
        let is_new = self.believed.as_ref() != Some(&next);
        self.believed = Some(next);
        is_new
    }

    /// When something that is missing will not be believed any more.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let since = self.missing.values().chain(&self.folder_missing).min();
        since.map(|since| *since + GRACE)
    }

    fn judge(&mut self, sight: &Sight, held: &HashSet<OsString>, now: Instant) -> Sight {
        let nothing = BTreeMap::new();
        let believed = match &self.believed {
            Some(Ok(files)) => files,
            _ => &nothing,
        };
        let seen = sight.as_ref().unwrap_or(&nothing);
        for name in believed.keys() {
            if seen.contains_key(name) {
                self.missing.remove(name);
            } else {
                self.missing.entry(name.clone()).or_insert(now);
            }
        }
        self.missing.retain(|_, since| now < *since + GRACE);
        let gone = self.folder_missing.take();
        if let Err(why) = sight {
            let since = gone.unwrap_or(now);
            if matches!(self.believed, Some(Ok(_))) && now < since + GRACE {
                self.folder_missing = Some(since);
                return Ok(believed.clone());
            }
            self.missing.clear();
            return Err(Arc::clone(why));
        }
        let is_kept =
            |name: &OsString| self.missing.contains_key(name) || (held.contains(name) && seen.contains_key(name));
        let kept = believed.iter().filter(|(name, _)| is_kept(name));
        // A new file that is open for writing has no text yet.
        let told = seen.iter().filter(|(name, _)| !held.contains(*name));
        Ok(kept
            .chain(told)
            .map(|(name, text)| (name.clone(), text.clone()))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sight of files and their texts.
    fn sight(files: &[(&str, &str)]) -> Sight {
        let named = files.iter().map(|(name, text)| ((*name).into(), Ok((*text).into())));
        Ok(named.collect())
    }

    fn held(names: &[&str]) -> HashSet<OsString> {
        names.iter().map(|name| (*name).into()).collect()
    }

    /// A belief in one file, and when it began.
    fn belief() -> (Belief, Instant) {
        let (mut belief, start) = (Belief::default(), Instant::now());
        assert!(belief.take(sight(&[("a", "old")]), &held(&[]), start));
        (belief, start)
    }

    #[track_caller]
    fn believes(belief: &Belief, files: &[(&str, &str)]) {
        assert_eq!(belief.files(), Some(&sight(files)));
    }

    #[test]
    fn what_is_open_for_writing_keeps_its_text_and_holds_up_nothing_else() {
        let (mut belief, now) = belief();
        let half = sight(&[("a", "half"), ("b", "whole"), ("c", "half")]);
        assert!(belief.take(half.clone(), &held(&["a", "c"]), now));
        believes(&belief, &[("a", "old"), ("b", "whole")]);
        assert_eq!(belief.next_look(), None);
        assert!(belief.take(half, &held(&[]), now));
        believes(&belief, &[("a", "half"), ("b", "whole"), ("c", "half")]);
    }

    #[test]
    fn what_is_renamed_away_and_rewritten_was_never_absent() {
        let (mut belief, start) = belief();
        let at = |millis| start + Duration::from_millis(millis);
        assert!(!belief.take(sight(&[]), &held(&[]), start));
        assert_eq!(belief.next_look(), Some(start + GRACE));
        assert!(!belief.take(sight(&[("a", "")]), &held(&["a"]), at(30)));
        // The grace ends with the file's return, not with the end of writing.
        assert_eq!(belief.next_look(), None);
        assert!(!belief.take(sight(&[("a", "ne")]), &held(&["a"]), at(900)));
        believes(&belief, &[("a", "old")]);
        assert!(belief.take(sight(&[("a", "new")]), &held(&[]), at(901)));
        believes(&belief, &[("a", "new")]);
    }

    #[test]
    fn a_removal_is_believed_after_the_grace() {
        let (mut belief, start) = belief();
        assert!(!belief.take(sight(&[]), &held(&[]), start));
        // Another save meanwhile does not wait, and does not begin the grace anew.
        assert!(belief.take(sight(&[("b", "new")]), &held(&[]), start + GRACE / 2));
        believes(&belief, &[("a", "old"), ("b", "new")]);
        assert!(belief.take(sight(&[("b", "new")]), &held(&[]), start + GRACE));
        believes(&belief, &[("b", "new")]);
        assert_eq!(belief.next_look(), None);
    }

    #[test]
    fn a_folder_may_be_gone_for_the_grace_too() {
        let (mut belief, start) = belief();
        let gone = || Err(Arc::from("gone"));
        assert!(!belief.take(gone(), &held(&[]), start));
        assert!(!belief.take(sight(&[("a", "old")]), &held(&[]), start + GRACE / 2));
        assert_eq!(belief.next_look(), None);
        assert!(!belief.take(gone(), &held(&[]), start + GRACE));
        assert!(belief.take(gone(), &held(&[]), start + GRACE * 2));
        assert_eq!((belief.files(), belief.next_look()), (Some(&gone()), None));
        assert!(!belief.take(gone(), &held(&[]), start + GRACE * 3));
        assert!(belief.take(sight(&[("a", "old")]), &held(&[]), start + GRACE * 4));
    }

    #[test]
    fn news_are_changes_that_no_open_file_explains() {
        let (belief, _) = belief();
        assert!(!belief.is_news(&sight(&[("a", "old")]), &held(&[])));
        assert!(!belief.is_news(&sight(&[("a", "half")]), &held(&["a"])));
        assert!(belief.is_news(&sight(&[("a", "new")]), &held(&[])));
        assert!(belief.is_news(&sight(&[("a", "old"), ("b", "new")]), &held(&["a"])));
    }
}
