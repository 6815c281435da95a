//! Until when a connection takes calls.
//!
//! Who the peer is was asked once, when the connection was made. So it must not outlive what was shown then: it takes its
//! last call when the first of the two certificates expires, whatever age it may otherwise reach. Wall time can jump where
//! monotonic time does not (a laptop that slept), so it is read anew each time.
//!
//! It is left before that, at nine tenths of the time that there was when it was made: by then both ends have had newer certificates for
//! long, calls go to a connection that was made under those, and what is still in flight has the last tenth to end by itself.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::Entropy;
use mesh_core::config::Connections;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use tokio::time::Instant;

/// How long calls in flight may go on when what their connection was agreed under holds no more: after it they are cut off. Those on a
/// connection that merely takes no more, for its age or because the peer says so, go on to their own end.
pub(super) const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// At which part of the time that its certificates had left a connection is replaced, in percent: drawn from between these, so that those
/// made together are not replaced together.
const REPLACED_AT_PERCENT: [u64; 2] = [88, 92];
/// Nobody is replaced for the last seconds of a certificate: there is no newer one then.
const TOO_LATE: Duration = Duration::from_secs(10);
/// How long an HTTP/2 connection is kept without a call when nothing is said (Envoy's and Istio's default).
const IDLE_HTTP2: Duration = Duration::from_secs(3600);
/// The same over HTTP/1.1, where a server that closes a quiet connection races with the next request on it: less than the 60 s
/// or more that common servers and load balancers wait.
const IDLE_HTTP1: Duration = Duration::from_secs(50);
/// A connection's age varies by this share of it in either direction, so that those made together do not end together.
const AGE_JITTER_PERCENT: u32 = 10;

/// Until when a connection takes calls.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    wall_clock: Arc<dyn TimeProvider>,
    not_after: Option<UnixTime>,
    /// From when on another one is used.
    replaced_at: Option<UnixTime>,
    aged_at: Option<Instant>,
    idle: Option<Duration>,
    pub(super) max_requests: Option<NonZeroU32>,
}

impl Terms {
    /// For a connection made now, to a peer of HTTP/2 or of HTTP/1.1. `not_after` is the earlier end of the two certificates.
    pub(super) fn new(
        settings: &Connections,
        http2: bool,
        not_after: Option<UnixTime>,
        wall_clock: Arc<dyn TimeProvider>,
        entropy: &Entropy,
    ) -> Self {
        let jittered = |age: Duration| {
            let percent = 100 - AGE_JITTER_PERCENT + entropy.draw().below(u64::from(2 * AGE_JITTER_PERCENT + 1)) as u32;
            age.checked_mul(percent).map_or(age, |age| age / 100)
        };
        let idle = match settings.idle_timeout {
            Some(Duration::ZERO) => None,
            Some(idle) => Some(idle),
            None if http2 => Some(IDLE_HTTP2),
            None => Some(IDLE_HTTP1),
        };
        let replaced_at = not_after.zip(wall_clock.current_time()).and_then(|(end, now)| {
            let [least, most] = REPLACED_AT_PERCENT;
            let left = Duration::from_secs(end.as_secs().checked_sub(now.as_secs())?);
            let percent = least + entropy.draw().below(most - least + 1);
            let replaced = Duration::from_secs(now.as_secs() + left.as_secs() * percent / 100);
            (left > TOO_LATE).then(|| UnixTime::since_unix_epoch(replaced))
        });
        Self {
            wall_clock,
            not_after,
            replaced_at,
            aged_at: settings
                .max_age
                .map(jittered)
                .and_then(|age| Instant::now().checked_add(age)),
            idle,
            max_requests: settings.max_requests,
        }
    }

    /// How long it may still take calls, for all that can be said now; `None`: for ever.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        let of_age = self.aged_at.map(|at| at.saturating_duration_since(now));
        let replaced = self.replaced_at.map(|at| self.until(at));
        of_age.into_iter().chain(replaced).chain(self.certified_left()).min()
    }

    /// How long both certificates still hold, for all that can be said now; `None`: for ever, since there are none. Their last second is
    /// still of their time (RFC 5280, 4.1.2.5): who was let in during it may make a call.
    pub(super) fn certified_left(&self) -> Option<Duration> {
        let over = |end: UnixTime| UnixTime::since_unix_epoch(Duration::from_secs(end.as_secs().saturating_add(1)));
        self.not_after.map(|end| self.until(over(end)))
    }

    fn until(&self, moment: UnixTime) -> Duration {
        // A clock that cannot tell the time makes everything look expired: nothing is trusted then.
        let now = self.wall_clock.current_time().map_or(u64::MAX, |now| now.as_secs());
        Duration::from_secs(moment.as_secs().saturating_sub(now))
    }

    /// Whether one of the certificates that it was agreed under has expired.
    pub(super) fn have_expired(&self) -> bool {
        self.certified_left().is_some_and(|left| left.is_zero())
    }

    /// Whether it takes no more calls.
    pub(super) fn are_over(&self, now: Instant) -> bool {
        self.left(now).is_some_and(|left| left.is_zero())
    }

    /// How much longer it is kept when it was last used at `used`; `None`: for ever.
    pub(super) fn idle_left(&self, used: Instant, now: Instant) -> Option<Duration> {
        Some((used + self.idle?).saturating_duration_since(now))
    }
}
