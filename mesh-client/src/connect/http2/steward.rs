//! Looks after one HTTP/2 connection from a task of its own, so that calls pay nothing for it.
//!
//! Three things end a connection. It takes no more calls for its age, for a long quiet, after the last request it may carry, or because
//! the peer says so (GOAWAY): those in flight go on to their own end, as behind Envoy and in gRPC. What it was agreed under holds no more
//! (its certificates, the rules of a swap, its endpoint): those in flight have a limit. And a peer is silent while calls wait: a host that
//! is gone without a word would otherwise hold them for ever, so they fail.

use std::sync::{Arc, Weak};
use std::time::Duration;

use h2::{Ping, PingPong};
use mesh_core::config::KeepAlive;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::super::pool::Pool;
use super::super::terms::{DRAIN_LIMIT, Terms};
use super::Connection;

/// How often a connection with calls in flight is asked for a sign of life, and how long it may take, when nothing is said.
const KEEP_ALIVE: KeepAlive = KeepAlive {
    interval: Duration::from_secs(10),
    timeout: Duration::from_secs(5),
};
/// Pings in a row while no call begins and nothing of an answer comes, after which they are rarer. gRPC servers end a connection whose
/// client pings a quiet one more often (`too_many_pings`), and gRPC's clients keep to the same number.
const MAX_PINGS_WITHOUT_A_CALL: u32 = 2;
/// How often a connection is asked after that: what gRPC servers let pass (gRFC A8, `MIN_RECV_PING_INTERVAL_WITHOUT_DATA`).
const QUIET_INTERVAL: Duration = Duration::from_secs(300);
/// A quiet connection is looked at no more often, however short a quiet is allowed: one in use would be looked at without end.
const MIN_LOOK: Duration = Duration::from_millis(100);

pub(super) struct Steward {
    live: Weak<Connection>,
    changed: Arc<Notify>,
    pings: Option<PingPong>,
    driver: AbortHandle,
    terms: Terms,
    pool: Weak<Pool>,
    keep_alive: KeepAlive,
    /// The configuration says how often: then it is that often.
    told: bool,
    /// Streams opened when it last looked, pings since they became more or something was heard, and when the last was sent.
    seen: u32,
    pinged: u32,
    pinged_at: Instant,
    /// Streams opened when it last looked for use, and when it last saw any.
    looked: u32,
    used: Instant,
    /// It takes no more calls, and the pool knows.
    retired: bool,
    /// When what is in flight is cut off, once it was revoked.
    cut_at: Option<Instant>,
}

impl Steward {
    pub(super) fn new(
        connection: &Arc<Connection>,
        pings: Option<PingPong>,
        driver: AbortHandle,
        terms: Terms,
        pool: Weak<Pool>,
        keep_alive: Option<KeepAlive>,
    ) -> Self {
        Self {
            live: Arc::downgrade(connection),
            changed: Arc::clone(&connection.changed),
            pings,
            driver,
            terms,
            pool,
            keep_alive: keep_alive.unwrap_or(KEEP_ALIVE),
            told: keep_alive.is_some(),
            seen: 0,
            pinged: 0,
            pinged_at: Instant::now(),
            looked: 0,
            used: Instant::now(),
            retired: false,
            cut_at: None,
        }
    }

    /// Until the connection is gone.
    pub(super) async fn attend(mut self) {
        let mut ping_at = Instant::now() + self.keep_alive.interval;
        loop {
            let now = Instant::now();
            let wake_at = self.next_look(now).map_or(ping_at, |left| ping_at.min(now + left));
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep_until(wake_at) => {}
            }
            let Some(connection) = self.live.upgrade() else { return };
            let now = Instant::now();
            self.look(&connection, now);
            if self.cut_at.is_some_and(|at| now >= at) {
                tracing::info!(limit = ?DRAIN_LIMIT, "calls on a connection whose rules hold no more were cut off");
                self.driver.abort();
                return;
            }
            if now < ping_at {
                continue;
            }
            ping_at = now + self.keep_alive.interval;
            let (busy, opened) = (connection.is_busy(), connection.opened());
            if connection.take_heard() || opened != self.seen {
                (self.seen, self.pinged) = (opened, 0);
            }
            drop(connection);
            let often = self.told || self.pinged < MAX_PINGS_WITHOUT_A_CALL;
            let is_due = often || now >= self.pinged_at + QUIET_INTERVAL;
            if busy && is_due && !self.is_answered().await {
                return;
            }
        }
    }

    /// How long until something is to be done without being woken, besides pinging.
    fn next_look(&self, now: Instant) -> Option<Duration> {
        if let Some(cut_at) = self.cut_at {
            return Some(cut_at.saturating_duration_since(now));
        }
        if self.retired {
            return self.terms.certified_left();
        }
        let idle = self.terms.idle_left(self.used, now).map(|left| left.max(MIN_LOOK));
        self.terms.left(now).into_iter().chain(idle).min()
    }

    /// Retires the connection when its time is over, and lets the pool forget one that is retired.
    fn look(&mut self, connection: &Arc<Connection>, now: Instant) {
        let opened = connection.opened();
        if connection.is_busy() || opened != self.looked {
            (self.looked, self.used) = (opened, now);
        }
        if self.cut_at.is_some() {
            return;
        }
        let idle = self.terms.idle_left(self.used, now).is_some_and(|left| left.is_zero());
        if self.terms.have_expired() {
            connection.revoke();
        } else if !self.retired && (idle || self.terms.are_over(now)) {
            connection.retire();
        }
        if connection.is_revoked() {
            self.cut_at = Some(now + DRAIN_LIMIT);
        }
        if connection.is_closed() && !self.retired {
            self.retired = true;
            // With the pool's handle gone, the last call's is the last: h2 closes then.
            if let Some(pool) = self.pool.upgrade() {
                pool.forget(connection);
            }
        }
    }

    /// Whether the peer answers. When it does not, the connection is ended.
    async fn is_answered(&mut self) -> bool {
        let Some(pings) = &mut self.pings else { return true };
        (self.pinged, self.pinged_at) = (self.pinged.saturating_add(1), Instant::now());
        let limit = self.keep_alive.timeout;
        match tokio::time::timeout(limit, pings.ping(Ping::opaque())).await {
            Ok(Ok(_pong)) => true,
            // It ended by itself.
            Ok(Err(_)) => false,
            Err(_silence) => {
                if let Some(connection) = self.live.upgrade() {
                    connection.retire();
                    if let Some(pool) = self.pool.upgrade() {
                        pool.forget(&connection);
                    }
                }
                tracing::warn!(timeout = ?limit, "the peer answered no ping: the connection is ended");
                // Dropping h2's connection fails its streams.
                self.driver.abort();
                false
            }
        }
    }
}
