//! The connections of one endpoint: found without waiting when one has room, dialled once for all who wait otherwise.
//!
//! A dial runs in a task of its own, so that a caller who gives up does not end the attempt that others wait for, and at most
//! one runs per endpoint. This is the only place of the data plane where a call queues: behind a connection being made, in a
//! bounded number, under the try's own time.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh_core::Entropy;
use mesh_core::report::Tally;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Connect, ConnectError, Connection, Permit, Security, dial};
use crate::cluster::{ConnectionPlace, Open, Room};
use crate::error::{Error, Kind};

/// Connections to one endpoint when the peer's stream limit is reached (gRFC A105 caps at the same).
const MAX_CONNECTIONS: usize = 10;
/// Calls that may wait for one connection being made (Envoy `max_pending_requests` default).
const MAX_WAITING: usize = 1024;
/// How often one call waits for a connection on which others then took all places.
const MAX_ROUNDS: usize = 8;
/// The pause after a failed dial: while it runs, calls fail at once with what it failed with.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// The growth of that pause with each further failure, and its bound.
const BACKOFF_FACTOR: f64 = 1.6;
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// What came of a dial; `None` while it runs.
type Dialled = Option<Result<(), ConnectError>>;

/// The connections of one endpoint.
pub(crate) struct Pool {
    address: SocketAddr,
    entropy: Entropy,
    tally: Tally,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ready: Vec<Arc<Connection>>,
    dialling: Option<watch::Receiver<Dialled>>,
    waiting: usize,
    failed: Option<Failed>,
}

struct Failed {
    error: ConnectError,
    until: Instant,
    pause: Duration,
}

impl Pool {
    pub(crate) fn new(address: SocketAddr, entropy: Entropy, tally: Tally) -> Self {
        Self {
            address,
            entropy,
            tally,
            state: Mutex::default(),
        }
    }

    /// A place on a live connection, if one has room now.
    pub(crate) fn try_permit(&self) -> Option<Permit> {
        let mut state = self.lock();
        if let Some(permit) = state.ready.first().and_then(Connection::permit) {
            return Some(permit);
        }
        state.ready.retain(|connection| !connection.is_closed());
        state.ready.iter().find_map(Connection::permit)
    }

    /// Whether the last dial failed and its pause still runs.
    pub(crate) fn is_backing_off(&self, now: Instant) -> bool {
        self.lock().failed.as_ref().is_some_and(|failed| now < failed.until)
    }

    /// A place on a live connection, made if need be.
    ///
    /// Cancel safe: a dial that was begun goes on for the others.
    pub(crate) async fn permit(
        self: &Arc<Self>,
        connector: &Arc<dyn Connect>,
        security: Security,
        timeout: Duration,
        room: &Room,
    ) -> Result<Permit, Error> {
        for _ in 0..MAX_ROUNDS {
            if let Some(permit) = self.try_permit() {
                return Ok(permit);
            }
            let (mut dialled, _waiting) = self.join_dial(connector, security.clone(), timeout, room)?;
            let outcome = match dialled.wait_for(Option::is_some).await {
                Ok(value) => (*value).clone(),
                // The dial's task ended without a word: the runtime is shutting down.
                Err(_closed) => None,
            };
            if let Some(Err(error)) = outcome {
                return Err(Error::at(Kind::Connect(error), self.address));
            }
        }
        Err(Error::at(Kind::Overflow("streams per endpoint"), self.address))
    }

    /// Joins the dial that runs, or begins one.
    fn join_dial(
        self: &Arc<Self>,
        connector: &Arc<dyn Connect>,
        security: Security,
        timeout: Duration,
        room: &Room,
    ) -> Result<(watch::Receiver<Dialled>, Waiting), Error> {
        let mut state = self.lock();
        if state.waiting >= MAX_WAITING {
            return Err(Error::at(
                Kind::Overflow("calls waiting for a connection"),
                self.address,
            ));
        }
        let dialled = match &state.dialling {
            Some(running) => running.clone(),
            None => {
                if let Some(failed) = &state.failed
                    && Instant::now() < failed.until
                {
                    return Err(Error::at(Kind::Connect(failed.error.clone()), self.address));
                }
                if state.ready.len() >= MAX_CONNECTIONS {
                    return Err(Error::at(Kind::Overflow("connections per endpoint"), self.address));
                }
                let place = room
                    .connection(state.ready.len())
                    .map_err(|Open(limit)| Error::at(Kind::Overflow(limit), self.address))?;
                let (done, dialled) = watch::channel(None);
                state.dialling = Some(dialled.clone());
                tokio::spawn(Arc::clone(self).run_dial(Arc::clone(connector), security, timeout, place, done));
                dialled
            }
        };
        state.waiting += 1;
        Ok((dialled, Waiting { pool: Arc::clone(self) }))
    }

    async fn run_dial(
        self: Arc<Self>,
        connector: Arc<dyn Connect>,
        security: Security,
        timeout: Duration,
        place: ConnectionPlace,
        done: watch::Sender<Dialled>,
    ) {
        let result = dial(&*connector, self.address, security, timeout).await;
        let outcome = {
            let mut state = self.lock();
            state.dialling = None;
            match result {
                Ok(connection) => {
                    state.failed = None;
                    connection.counts(place);
                    state.ready.push(connection);
                    Ok(())
                }
                Err(error) => {
                    let pause = next_pause(state.failed.as_ref());
                    let jitter = 0.8 + 0.4 * (self.entropy.draw().below(1_000) as f64 / 1_000.0);
                    let until = Instant::now() + pause.mul_f64(jitter);
                    state.failed = Some(Failed {
                        error: error.clone(),
                        until,
                        pause,
                    });
                    self.tally.count("connect_failed", error.as_str());
                    tracing::warn!(endpoint = %self.address, reason = error.as_str(), %error, "connect failed");
                    Err(error)
                }
            }
        };
        // Nobody may be waiting any more.
        let _ = done.send(Some(outcome));
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

/// Counts a waiting call for as long as it waits.
struct Waiting {
    pool: Arc<Pool>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pool.lock().waiting -= 1;
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
