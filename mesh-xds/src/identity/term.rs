//! When to renew, and how soon to try again: pure arithmetic of a certificate's life.
//!
//! A life begins when the certificate was made and not at its `notBefore`, which authorities put into the past for peers whose
//! clocks are behind: of a certificate of one minute that would be most of it.

use std::time::Duration;

use mesh_core::Entropy;
use mesh_core::identity::Identity;
use rustls::pki_types::UnixTime;

/// Renewal begins at half of a certificate's life, a tenth earlier or later, so that workloads that started together do not
/// renew together.
const JITTER_DIVISOR: u64 = 10;
/// Of a life, how much may pass between two attempts at renewal.
const RETRY_DIVISOR: u64 = 12;
/// Attempts are a fifth apart from that, or more or less.
const RETRY_JITTER_DIVISOR: u64 = 5;
/// The least time between two requests for a certificate, however short they live and whatever the clock does.
pub(super) const MIN_TERM: Duration = Duration::from_secs(1);

/// From when until when a certificate lives, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    begin: u64,
    end: u64,
}

impl Life {
    /// The life of a certificate that was made at `begin`, or before.
    pub(super) fn new(begin: UnixTime, identity: &Identity) -> Self {
        Self {
            begin: begin.as_secs().max(identity.svid().not_before().as_secs()),
            end: identity.svid().not_after().as_secs(),
        }
    }

    /// How long it is.
    pub(super) fn length(self) -> Duration {
        Duration::from_secs(self.end.saturating_sub(self.begin))
    }

    /// When `percent` of it are over.
    pub(super) fn at(self, percent: u64) -> UnixTime {
        let part = u128::from(self.length().as_secs()) * u128::from(percent) / 100;
        let part = u64::try_from(part).unwrap_or(u64::MAX);
        UnixTime::since_unix_epoch(Duration::from_secs(self.begin.saturating_add(part)))
    }
}

/// How long an identity is still valid.
pub(super) fn remaining(identity: &Identity, now: UnixTime) -> Duration {
    let end = identity.svid().not_after().as_secs();
    Duration::from_secs(end.saturating_sub(now.as_secs()))
}

/// `term` after `now`.
pub(super) fn after(now: UnixTime, term: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs().saturating_add(term.as_secs())))
}

/// How long to wait before a certificate that was just made is renewed. `None` when it has ended already, by this clock. One
/// that has not begun is renewed at half of its length: what is left of it by a clock that is behind is more than it lives.
pub(super) fn renewal(identity: &Identity, now: UnixTime, entropy: &Entropy) -> Option<Duration> {
    let life = remaining(identity, now).min(Life::new(now, identity).length());
    if life.is_zero() {
        return None;
    }
    let half = life.as_millis() as u64 / 2;
    let spread = half / JITTER_DIVISOR;
    let term = half - spread + entropy.draw().below(2 * spread + 1);
    Some(Duration::from_millis(term).max(MIN_TERM))
}

/// How long to wait after a failure, where the backoff would wait for `pause`: of a life of one minute, two minutes are too long.
pub(super) fn retry(pause: Duration, life: Option<Life>, entropy: &Entropy) -> Duration {
    let longest = life.map_or(pause, |life| {
        let part = life.length().as_millis() as u64 / RETRY_DIVISOR;
        let spread = part / RETRY_JITTER_DIVISOR;
        Duration::from_millis(part - spread + entropy.draw().below(2 * spread + 1))
    });
    pause.min(longest).max(MIN_TERM)
}
