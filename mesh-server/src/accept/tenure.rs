//! How long a connection that was let in may stay.
//!
//! Who a peer is and whether it may come in was asked once, so a connection ends with whatever the answer rested on: the first
//! of the two certificates, the roots they were judged by, the rules of the listener. From that moment on nothing new is taken
//! from it ([`ConnectionInfo::is_revoked`]), also if the peer pays no attention to a GOAWAY; what is in flight may end, but for what the
//! rules of the listener forbid from then on: each open request is judged again when they change (`authorize/open.rs`).
//!
//! Two clocks count the time of a certificate, and the first that says it is over is believed. The one that timers go by stands still while
//! a machine sleeps, so wall time is read too: with each request, and every [`LOOK_AGAIN`] for a connection that only answers. And wall time
//! may be set back, which gives an open connection no more time than it had.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::ChainIdentity;
use mesh_core::report::Tally;
use rustls::pki_types::UnixTime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::ConnectionInfo;
use super::door::Now;

/// How often the wall clock is read for a connection that stays open without a request: as late as this one ends whose certificate ended
/// while the machine slept.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub(crate) struct Tenure {
    info: ConnectionInfo,
    /// How long after the handshake the first of the certificates expires, and when that is; `None`: never, as far as clocks go.
    valid_for: Duration,
    until: Option<Instant>,
    /// What it was let in under, and what tells of other rules. `None`: nothing that changes.
    under: Option<Under>,
    tally: Tally,
}

#[derive(Debug)]
pub(super) struct Under {
    pub(super) follow: watch::Receiver<Arc<Now>>,
    pub(super) floor: bool,
    /// What was shown to it and judged it, where it is TLS, and the count of its trust then.
    pub(super) shown: Option<(u64, ChainIdentity)>,
}

impl Tenure {
    pub(super) fn new(info: ConnectionInfo, valid_for: Duration, under: Option<Under>, tally: Tally) -> Self {
        Self {
            info,
            valid_for,
            // From the handshake on, whenever somebody comes to wait for it.
            until: Instant::now().checked_add(valid_for),
            under,
            tally,
        }
    }

    pub(super) fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    pub(super) fn valid_for(&self) -> Duration {
        self.valid_for
    }

    /// Resolves when the connection must go; it is revoked then, counted as `connection_revoked` and logged.
    pub(crate) async fn over(self) {
        let Self {
            info,
            valid_for: _,
            until,
            under,
            tally,
        } = self;
        let reason = tokio::select! {
            () = expired(&info, until) => "certificate_expired",
            reason = unfit(&info, under) => reason,
        };
        info.revoke();
        tally.count("connection_revoked", reason);
        tracing::info!(peer = %info.source(), reason, "connection is drained: it would not be let in now");
    }
}

/// Waits for the end of the first certificate, by whichever clock it comes.
async fn expired(info: &ConnectionInfo, until: Option<Instant>) {
    while let Some(left) = info.certified_left().filter(|left| !left.is_zero()) {
        let look = Instant::now() + left.min(LOOK_AGAIN);
        match until {
            Some(until) if until <= look => return sleep_until(until).await,
            _ => sleep_until(look).await,
        }
    }
    if info.certified_left().is_none() {
        pending().await
    }
}

/// How long it is from `now` until the last second of a certificate, `until`, is over; no time at all where that is past.
pub(super) fn span(now: UnixTime, until: UnixTime) -> Duration {
    Duration::from_secs(until.as_secs().saturating_add(1).saturating_sub(now.as_secs()))
}

/// Waits for rules that would not let the connection in.
async fn unfit(info: &ConnectionInfo, under: Option<Under>) -> &'static str {
    let Some(mut under) = under else {
        return pending().await;
    };
    // The door is gone with its server, which ends the connection by itself.
    while under.follow.changed().await.is_ok() {
        let now = Arc::clone(&under.follow.borrow_and_update());
        info.log_by(&now);
        info.change();
        if let Some((trust, identity)) = &under.shown
            && info.peer_id().is_some()
            && now.trust_of(identity) != *trust
        {
            return "trust_changed";
        }
        let verdict = info
            .facts()
            .with(|facts| now.rules.holds(facts, info.entered(), under.floor));
        if let Err(why) = verdict {
            info.no_longer_fits();
            info.change();
            return why.as_str();
        }
        if let Some((_, identity)) = &under.shown
            && info.facts().with(|facts| now.rules.identity(facts)) != *identity
        {
            return "security_changed";
        }
    }
    pending().await
}
