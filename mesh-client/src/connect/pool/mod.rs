//! The connections of one endpoint: found without waiting when one has room, dialled otherwise.
//!
//! A pool belongs to one endpoint of one cluster under one kind of security, and never shares a connection with another: what
//! was agreed with a peer under one set of expected identities, roots, names and protocols proves nothing under another. When
//! those change by a swap, or the endpoint goes, the pool is retired: its connections take no new call from that moment.
//!
//! A dial runs in a task of its own, so that a caller who gives up does not end the attempt that others wait for. Over HTTP/2
//! as many run per endpoint as those who wait are expected to fill, which is mostly one; over HTTP/1.1, where each call needs a
//! connection for itself, a bounded number. This is the only place of the data plane where a call queues: behind a connection
//! being made, in a bounded number, under the try's own time.

mod http1;

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mesh_core::Entropy;
use mesh_core::config::Carrier;
use mesh_core::link::WeakLink;
use mesh_core::report::Tally;
use rustls::time_provider::TimeProvider;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use super::dial::{Made, Plan, Security, dial};
use super::http1::Http1;
use super::http2::{self, Connection};
use super::{Connect, ConnectError, ConnectKind};
use crate::cluster::{ConnectionPlace, Open, Room};
use crate::error::{Error, Kind};
use http1::Side;

/// HTTP/2 connections to one endpoint when the peer's stream limit is reached (gRFC A105 caps at the same).
const MAX_CONNECTIONS: usize = 10;
/// Calls that may wait for connections being made where nothing is said (Envoy `max_pending_requests` default).
const MAX_WAITING: u32 = 1024;
/// The most that may be said of it.
const MOST_WAITING: u32 = 65_536;
/// How often one call looks again when connections were made and others were faster: as many as may wait, since each that is made
/// serves one of them.
const MAX_LOOKS: usize = MOST_WAITING as usize;
/// Calls that a new connection is expected to carry at once where nothing is said (`http2` assumes as many of a peer).
const EXPECTED_STREAMS: u32 = 100;
/// The pause after a failed dial: while it runs, calls fail at once with what it failed with.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// The growth of that pause with each further failure, and its bound.
const BACKOFF_FACTOR: f64 = 1.6;
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// What all pools of a link make their connections with.
pub(crate) struct Means {
    pub(crate) connector: Arc<dyn Connect>,
    pub(crate) entropy: Entropy,
    pub(crate) tally: Tally,
    pub(crate) wall_clock: Arc<dyn TimeProvider>,
    /// Who calls, which peers are told.
    pub(crate) link: WeakLink,
}

/// The connections of one endpoint.
pub(crate) struct Pool {
    address: SocketAddr,
    means: Arc<Means>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ready: Vec<Arc<Connection>>,
    /// Boxed, since few pools have any and there may be a hundred thousand.
    draining: Option<Box<Draining>>,
    /// Made when HTTP/1.1 is first spoken.
    http1: Option<Box<Side>>,
    /// Being made, to be shared by calls.
    dials: usize,
    failed: Option<Box<Failed>>,
    waiting: u32,
    /// Connections in a row that ended before anything was answered on them.
    unserved: u32,
    /// Moves when what connections were made by holds no more: those of an earlier one are not taken in.
    epoch: u32,
    retired: bool,
    /// What the peer chose when it had the choice.
    chosen: Option<Carrier>,
    /// Rung when such a connection was made or was not; there once somebody waits for one.
    bell: Option<Arc<Notify>>,
}

/// Connections that take no more calls and serve those they have, which may take any time: known here so that they end when what they
/// were agreed under holds no more.
#[derive(Default)]
struct Draining {
    connections: Vec<Weak<Connection>>,
    /// How many there may be before those that have ended are taken out.
    sweep_at: usize,
}

impl Draining {
    fn push(&mut self, connection: &Arc<Connection>) {
        if self.connections.len() >= self.sweep_at {
            self.connections.retain(|one| one.strong_count() > 0);
            self.sweep_at = MAX_CONNECTIONS.max(2 * self.connections.len());
        }
        self.connections.push(Arc::downgrade(connection));
    }
}

impl State {
    /// Takes out those that take no more calls. What is returned must not be dropped under the lock.
    fn set_aside(&mut self, closed: impl Fn(&Arc<Connection>) -> bool) -> Vec<Arc<Connection>> {
        let aside: Vec<_> = self.ready.extract_if(.., |one| closed(one)).collect();
        for connection in &aside {
            self.draining.get_or_insert_default().push(connection);
        }
        aside
    }

    /// Those there are and those being made.
    fn connections(&self) -> usize {
        let http1 = self.http1.as_ref().map_or(0, |side| side.connections());
        self.ready.len() + self.dials + http1
    }
}

struct Failed {
    error: ConnectError,
    until: Instant,
    pause: Duration,
}

/// A way to send one request.
pub(crate) enum Permit {
    /// A place for a stream on a shared connection.
    Http2(http2::Permit),
    /// A connection.
    Http1(Http1),
}

impl Pool {
    pub(crate) fn new(address: SocketAddr, means: Arc<Means>) -> Self {
        Self {
            address,
            means,
            state: Mutex::default(),
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn means(&self) -> &Means {
        &self.means
    }

    /// A way to send a request, if there is one now.
    pub(crate) fn try_permit(&self, carrier: Carrier) -> Option<Permit> {
        let http2 = || self.try_http2().map(Permit::Http2);
        let http1 = || self.take_idle().map(Permit::Http1);
        match carrier {
            Carrier::Http2 => http2(),
            Carrier::Http1 => http1(),
            Carrier::Any => http2().or_else(http1),
        }
    }

    fn try_http2(&self) -> Option<http2::Permit> {
        let mut state = self.lock();
        if let Some(permit) = state.ready.first().and_then(Connection::permit) {
            return Some(permit);
        }
        let aside = state.set_aside(|connection| connection.is_closed());
        let permit = state.ready.iter().find_map(Connection::permit);
        drop((state, aside));
        permit
    }

    /// Rung whenever a connection that calls share was made, or was not.
    pub(crate) fn bell(&self) -> Arc<Notify> {
        Arc::clone(self.lock().bell.get_or_insert_default())
    }

    /// Whether there is a connection.
    pub(crate) fn is_connected(&self) -> bool {
        let state = self.lock();
        let http1 = state.http1.as_ref().is_some_and(|side| side.connections() > 0);
        http1 || state.ready.iter().any(|connection| !connection.is_closed())
    }

    /// Whether the last dial failed and its pause still runs.
    pub(crate) fn is_backing_off(&self, now: Instant) -> bool {
        self.lock().failed.as_ref().is_some_and(|failed| now < failed.until)
    }

    /// Takes no new call on the connections there are; what is in flight may end, within a limit. New ones may be made.
    pub(crate) fn drain(&self) {
        self.end_epoch(false);
    }

    /// As [`drain`](Self::drain), and no new ones are made.
    pub(crate) fn retire(&self) {
        self.end_epoch(true);
    }

    fn end_epoch(&self, retired: bool) {
        let (ready, draining, closing) = {
            let mut state = self.lock();
            state.epoch = state.epoch.wrapping_add(1);
            state.retired |= retired;
            state.chosen = None;
            let closing = state.http1.as_mut().map(|side| side.close());
            (std::mem::take(&mut state.ready), state.draining.take(), closing)
        };
        let draining = draining.into_iter().flat_map(|draining| draining.connections);
        for connection in ready.into_iter().chain(draining.filter_map(|one| one.upgrade())) {
            connection.revoke();
        }
        if let Some(closing) = closing {
            closing.begin();
        }
    }

    /// Lets go of a connection that takes no more calls.
    pub(super) fn forget(&self, connection: &Arc<Connection>) {
        let forgotten = self.lock().set_aside(|one| Arc::ptr_eq(one, connection));
        drop(forgotten);
    }

    /// A way to send a request, made if need be.
    ///
    /// Cancel safe: a dial that was begun goes on for the others.
    pub(crate) async fn permit(self: &Arc<Self>, plan: Plan) -> Result<Permit, Error> {
        let (bell, waiting) = {
            let mut state = self.lock();
            self.may_wait(&state, &plan.room)?;
            (Arc::clone(state.bell.get_or_insert_default()), self.waits(&mut state))
        };
        for _ in 0..MAX_LOOKS {
            // What fails without waiting would otherwise keep a caller who calls on and on from ever letting go of its thread, and a
            // runtime from shutting down.
            consume_budget().await;
            let mut rung = pin!(bell.notified());
            // From here on no ring is missed.
            rung.as_mut().enable();
            if let Some(permit) = self.try_permit(plan.carrier) {
                return Ok(permit);
            }
            if self.carrier(&plan) == Carrier::Http1 {
                drop(waiting);
                return self.http1(&plan).await.map(Permit::Http1);
            }
            self.dial_for_all(&plan)?;
            rung.await;
        }
        Err(self.overflow("streams per endpoint"))
    }

    /// What is to be spoken, as far as it is known before it is agreed upon.
    fn carrier(&self, plan: &Plan) -> Carrier {
        match (plan.carrier, &plan.security) {
            // Nobody is there to choose (Envoy wants ALPN for it).
            (Carrier::Any, Security::Plaintext) => Carrier::Http1,
            (Carrier::Any, _) => self.lock().chosen.unwrap_or(Carrier::Any),
            (fixed, _) => fixed,
        }
    }

    /// Has as many connections made as those who wait are expected to fill. Where none may be, that is an error to whom nothing is
    /// being made.
    fn dial_for_all(self: &Arc<Self>, plan: &Plan) -> Result<(), Error> {
        let mut begun = Vec::new();
        let mut state = self.lock();
        let wanted = match (state.chosen, &state.failed) {
            (Some(Carrier::Http2), None) => state.waiting.div_ceil(capacity(plan)) as usize,
            // Whether anybody is there, and what it will carry, is found out by one: a burst of calls is no burst of dials.
            _ => 1,
        };
        while state.dials < wanted {
            match self.begin_dial(&mut state, plan) {
                Ok(dial) => begun.push(dial),
                Err(_) if state.dials > 0 => break,
                Err(error) => return Err(error),
            }
        }
        let epoch = state.epoch;
        drop(state);
        // Not under the lock: a runtime that shuts down drops a task as it is begun, and with it what takes the lock to say so.
        for (dialling, place) in begun {
            let task = tokio::spawn(dialling.run(plan.clone(), place, epoch));
            if is_cancelled(task) {
                return Err(self.failure(ConnectError::new(ConnectKind::Stopped)));
            }
        }
        Ok(())
    }

    /// Counts one more dial. What is returned must not be dropped under the lock.
    fn begin_dial(self: &Arc<Self>, state: &mut State, plan: &Plan) -> Result<(Dialling, ConnectionPlace), Error> {
        self.may_dial(state)?;
        if state.ready.len() + state.dials >= MAX_CONNECTIONS {
            return Err(self.overflow("connections per endpoint"));
        }
        let place = plan.room.connection(state.connections());
        let place = place.map_err(|Open(limit)| self.overflow(limit))?;
        state.dials += 1;
        let dialling = Dialling {
            pool: Arc::clone(self),
            is_over: false,
        };
        Ok((dialling, place))
    }

    /// Whether one more call may wait for a connection being made.
    fn may_wait(&self, state: &State, room: &Room) -> Result<(), Error> {
        if state.waiting >= room.max_pending().map_or(MAX_WAITING, |max| max.min(MOST_WAITING)) {
            return Err(self.overflow("calls waiting for a connection"));
        }
        Ok(())
    }

    /// Counts one more call that waits. What is returned must not be dropped under the lock.
    fn waits(self: &Arc<Self>, state: &mut State) -> Waiting {
        state.waiting += 1;
        Waiting { pool: Arc::clone(self) }
    }

    /// Whether another dial may be begun at all.
    fn may_dial(&self, state: &State) -> Result<(), Error> {
        if state.retired {
            return Err(self.failure(ConnectError::new(ConnectKind::Retired)));
        }
        match &state.failed {
            Some(failed) if Instant::now() < failed.until => Err(self.failure(failed.error.clone())),
            _ => Ok(()),
        }
    }

    /// Keeps a new connection; hands it back if it is not to be used, to be dropped when the lock is free.
    fn take_in(&self, state: &mut State, made: Made, epoch: u32) -> Option<Made> {
        let current = state.epoch == epoch && !state.retired;
        match made {
            Made::Http2(connection) if current => {
                state.chosen = Some(Carrier::Http2);
                state.ready.push(connection);
                None
            }
            Made::Http1(connection) if current => {
                state.chosen = Some(Carrier::Http1);
                self.side(state).keep(connection).map(Made::Http1)
            }
            // What it was agreed under holds no more: whoever waits begins anew.
            Made::Http2(connection) => {
                connection.retire();
                Some(Made::Http2(connection))
            }
            Made::Http1(connection) => Some(Made::Http1(connection)),
        }
    }

    /// An answer came over a connection that was made: what failed before is over.
    pub(crate) fn served(&self) {
        let mut state = self.lock();
        state.failed = None;
        state.unserved = 0;
    }

    /// A connection ended before anything was answered on it. A peer that accepts connections and serves nobody must not be
    /// dialled without a pause, so from the second in a row on it counts as a dial that failed. The first may be a server's
    /// ordinary end that came at that moment.
    pub(crate) fn unserved(&self) {
        let mut state = self.lock();
        state.unserved = state.unserved.saturating_add(1);
        let now = Instant::now();
        let pausing = state.failed.as_ref().is_some_and(|failed| now < failed.until);
        // Of calls that met the same end one counts.
        if state.unserved > 1 && !pausing {
            self.note_failure(&mut state, &ConnectError::new(ConnectKind::Unserved));
        }
    }

    fn note_failure(&self, state: &mut State, error: &ConnectError) {
        let pause = next_pause(state.failed.as_deref());
        let jitter = 0.8 + 0.4 * (self.means.entropy.draw().below(1_000) as f64 / 1_000.0);
        state.failed = Some(Box::new(Failed {
            error: error.clone(),
            until: Instant::now() + pause.mul_f64(jitter),
            pause,
        }));
        self.means.tally.count("connect_failed", error.as_str());
        tracing::warn!(endpoint = %self.address, reason = error.as_str(), %error, "connect failed");
    }

    fn failure(&self, error: ConnectError) -> Error {
        Error::at(Kind::Connect(error), self.address)
    }

    fn overflow(&self, limit: &'static str) -> Error {
        Error::at(Kind::Overflow(limit), self.address)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn next_pause(last: Option<&Failed>) -> Duration {
    last.map_or(FIRST_BACKOFF, |failed| {
        failed.pause.mul_f64(BACKOFF_FACTOR).min(MAX_BACKOFF)
    })
}

/// Whether a task that was just begun has already been dropped, which is how a runtime that shuts down takes one.
fn is_cancelled(mut task: JoinHandle<()>) -> bool {
    let ended = Pin::new(&mut task).poll(&mut Context::from_waker(Waker::noop()));
    matches!(ended, Poll::Ready(Err(error)) if error.is_cancelled())
}

/// How many calls a connection is expected to carry.
fn capacity(plan: &Plan) -> u32 {
    let streams = plan
        .settings
        .http2
        .max_streams
        .map_or(EXPECTED_STREAMS, |max| max.get().min(EXPECTED_STREAMS));
    plan.settings.max_requests.map_or(streams, |max| max.get().min(streams))
}

/// Counts a connection being made, and tells those who wait when it is over, however it ends.
struct Dialling {
    pool: Arc<Pool>,
    is_over: bool,
}

impl Dialling {
    async fn run(mut self, plan: Plan, place: ConnectionPlace, epoch: u32) {
        let pool = Arc::clone(&self.pool);
        let result = dial(&pool, &plan, place, epoch).await;
        let mut state = pool.lock();
        self.end(&mut state);
        let unwanted = match result {
            Ok(made) => pool.take_in(&mut state, made, epoch),
            Err(error) => {
                pool.note_failure(&mut state, &error);
                None
            }
        };
        drop(state);
        drop(unwanted);
    }

    fn end(&mut self, state: &mut State) {
        self.is_over = true;
        state.dials -= 1;
        if let Some(bell) = &state.bell {
            bell.notify_waiters();
        }
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        if !self.is_over {
            let pool = Arc::clone(&self.pool);
            self.end(&mut pool.lock());
        }
    }
}

/// Counts a waiting call for as long as it waits.
struct Waiting {
    pool: Arc<Pool>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pool.lock().waiting -= 1;
    }
}

impl std::fmt::Debug for Means {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Means").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
