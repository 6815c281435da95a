//! A certificate that grows old without a successor.
//!
//! Renewal begins at half of a life, so nothing that is well gets to three quarters of it: that is worth an alarm while the old
//! certificate still lasts. At its end the identity is taken away at that second. The provider may be waiting for its next
//! look at a file, or for a CA that does not answer, and an application should hear the reason from us and not from its peers'
//! refusals.
//!
//! | count | when |
//! |---|---|
//! | `identity.overdue_75` | three quarters of a certificate's life are over |
//! | `identity.overdue_90` | nine tenths |
//! | `identity.expired` | all of it: there is no identity |
//!
//! Each is counted once for a certificate, whichever way the clock is set.

use std::convert::Infallible;
use std::sync::Arc;

use mesh_core::identity::Identity;
use rustls::pki_types::UnixTime;
use tokio::sync::Notify;

use super::Outlet;
use super::term::Life;

/// How much of a life is over, in percent, and what is counted then. The last is its end.
const MARKS: [(u64, &str); 3] = [(75, "overdue_75"), (90, "overdue_90"), (100, "expired")];

/// Watches what `outlet` publishes.
pub(super) async fn watch(outlet: &Outlet) -> Infallible {
    let bell = Arc::new(Notify::new());
    let ring = Arc::clone(&bell);
    let _subscription = outlet.writer.reader().on_change(move || ring.notify_one());
    let mut age = Age::default();
    loop {
        let Some((identity, life)) = outlet.newest() else {
            bell.notified().await;
            continue;
        };
        let now = outlet.now();
        for (_, name) in age.passed(&identity, life, now) {
            tracing::warn!(id = %identity.id(), not_after = identity.svid().not_after().as_secs(), mark = name, "a certificate was not renewed in time");
            outlet.tally.count(outlet.event, name);
        }
        if age.is_over() && outlet.standing().is_ok() {
            outlet.ended();
        }
        let Some(next) = age.next(life) else {
            bell.notified().await;
            continue;
        };
        let left = std::time::Duration::from_secs(next.as_secs().saturating_sub(now.as_secs()));
        tokio::select! {
            () = bell.notified() => {}
            () = outlet.rest(left.max(super::term::MIN_TERM), None) => {}
        }
    }
}

/// Which marks the newest certificate has passed.
#[derive(Default)]
struct Age {
    generation: u64,
    passed: usize,
}

impl Age {
    /// The marks that were passed since the last question. A certificate of another generation begins anew.
    fn passed(&mut self, identity: &Identity, life: Life, now: UnixTime) -> &'static [(u64, &'static str)] {
        if self.generation != identity.generation() {
            *self = Self {
                generation: identity.generation(),
                passed: 0,
            };
        }
        let before = self.passed;
        let over = MARKS
            .iter()
            .filter(|(percent, _)| now.as_secs() >= life.at(*percent).as_secs());
        self.passed = before.max(over.count());
        &MARKS[before..self.passed]
    }

    fn is_over(&self) -> bool {
        self.passed == MARKS.len()
    }

    /// When to look again.
    fn next(&self, life: Life) -> Option<UnixTime> {
        MARKS.get(self.passed).map(|(percent, _)| life.at(*percent))
    }
}
