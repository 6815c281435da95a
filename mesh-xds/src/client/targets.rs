//! Which targets are subscribed to: the wanted ones, and for a while those that no longer are.
//!
//! An application that drops its last channel to a target and makes another a moment later should not wait for the control
//! plane again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a target stays subscribed after the last one who wanted it is gone.
const GRACE: Duration = Duration::from_secs(15);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    /// With the moment at which an unwanted one is given up.
    until: BTreeMap<Arc<str>, Option<Instant>>,
}

impl Targets {
    /// Takes in what is wanted now.
    pub(crate) fn update(&mut self, wanted: &[Arc<str>], now: Instant) {
        for (target, until) in &mut self.until {
            if !wanted.contains(target) {
                until.get_or_insert(now + GRACE);
            }
        }
        for target in wanted {
            self.until.insert(Arc::clone(target), None);
        }
        self.until.retain(|_, until| until.is_none_or(|until| now < until));
    }

    /// When the next unwanted one is to be given up.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.until.values().flatten().min().copied()
    }

    pub(crate) fn list(&self) -> Vec<Arc<str>> {
        self.until.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unwanted_target_stays_for_its_grace() {
        let (mut targets, start) = (Targets::default(), Instant::now());
        let [a, b]: [Arc<str>; 2] = ["a".into(), "b".into()];
        targets.update(&[Arc::clone(&a), Arc::clone(&b)], start);
        assert_eq!((targets.list().len(), targets.deadline()), (2, None));
        targets.update(std::slice::from_ref(&a), start);
        assert_eq!((targets.list().len(), targets.deadline()), (2, Some(start + GRACE)));
        targets.update(&[Arc::clone(&a), b], start + GRACE / 2);
        assert_eq!(targets.deadline(), None);
        targets.update(std::slice::from_ref(&a), start);
        targets.update(std::slice::from_ref(&a), start + GRACE);
        assert_eq!(targets.list(), [a]);
    }
}
