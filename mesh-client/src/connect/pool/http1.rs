//! The HTTP/1.1 connections of one endpoint: a stack of idle ones, the last used on top, so that those of a burst grow old
//! together and go.
//!
//! A call that finds none idle has one made for itself, and takes the first that comes free meanwhile: its own, or one that
//! another call is done with.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::super::cut::Cut;
use super::super::dial::{Made, Plan, dial};
use super::super::http1::{Http1, Place};
use super::super::{ConnectError, ConnectKind};
use super::{Pool, State};
use crate::cluster::{ConnectionPlace, Open};
use crate::error::Error;

/// HTTP/1.1 connections to one endpoint, in use or idle. Each carries one call, so this bounds the calls that one process has
/// in flight to it; the default of `max_requests` for a whole cluster is as high.
const MAX_HTTP1: u32 = 1024;
/// Of those, the ones kept idle.
const MAX_IDLE: usize = 128;
/// Dials at once to one endpoint: a burst of calls must not become a burst of handshakes that a server sheds.
const MAX_DIALS: u32 = 32;
/// How often one call looks again when connections came free and others were faster.
const MAX_LOOKS: usize = 1024;
/// Idle connections are looked through no more often.
const MIN_SWEEP: Duration = Duration::from_millis(100);

/// What became of a wish for another connection.
enum Wished {
    Dialled(oneshot::Receiver<Result<Http1, ConnectError>>),
    /// It is to be asked again when another has gone; which breaker says so, if one does.
    Later(Option<&'static str>),
}

/// What those who wait are rung for. Two bells, or who has a dial of its own would take the ring that another needs.
#[derive(Default)]
struct Bells {
    /// A connection came free.
    idle: Notify,
    /// One more may be made.
    place: Notify,
}

#[derive(Default)]
pub(super) struct Side {
    idle: Vec<Http1>,
    /// In use, idle or being made.
    live: u32,
    dialling: u32,
    bells: Arc<Bells>,
    sweeping: bool,
    /// What ends those that are in use.
    cuts: Vec<Weak<Cut>>,
}

/// Connections of rules that hold no more.
pub(super) struct Closing {
    idle: Vec<Http1>,
    cuts: Vec<Weak<Cut>>,
}

impl Closing {
    /// Closes what is idle at once, and what is in use in its time.
    pub(super) fn begin(self) {
        drop(self.idle);
        Cut::soon(self.cuts);
    }
}

impl Side {
    /// Those there are and those being made.
    pub(super) fn connections(&self) -> usize {
        (self.live + self.dialling) as usize
    }

    /// Takes in an idle connection; hands it back when there are enough.
    pub(super) fn keep(&mut self, connection: Http1) -> Option<Http1> {
        if self.idle.len() >= MAX_IDLE {
            return Some(connection);
        }
        self.idle.push(connection);
        self.bells.idle.notify_one();
        None
    }

    /// Takes out what is idle, to be closed, and what ends the others. Whoever waits looks again. What is returned must not be dropped
    /// under the lock.
    pub(super) fn close(&mut self) -> Closing {
        self.ring_all();
        Closing {
            idle: std::mem::take(&mut self.idle),
            cuts: std::mem::take(&mut self.cuts),
        }
    }

    /// Everybody looks again.
    fn ring_all(&self) {
        self.bells.idle.notify_waiters();
        self.bells.place.notify_waiters();
    }
}

impl Pool {
    pub(super) fn side<'a>(&self, state: &'a mut State) -> &'a mut Side {
        state.http1.get_or_insert_default()
    }

    /// An idle connection that can take a request now.
    pub(super) fn take_idle(&self) -> Option<Http1> {
        let now = Instant::now();
        loop {
            // One that is of no use is dropped outside of the lock, which its place needs.
            let mut connection = self.lock().http1.as_mut()?.idle.pop()?;
            if connection.is_usable(now) {
                return Some(connection);
            }
        }
    }

    /// Counts a place for one more connection.
    pub(in super::super) fn place(self: &Arc<Self>) -> Place {
        let mut state = self.lock();
        let side = self.side(&mut state);
        side.live += 1;
        let cut = Arc::new(Cut::default());
        side.cuts.retain(|cut| cut.strong_count() > 0);
        side.cuts.push(Arc::downgrade(&cut));
        Place {
            pool: Arc::downgrade(self),
            cut,
        }
    }

    pub(in super::super) fn lost_http1(&self) {
        if let Some(side) = &mut self.lock().http1 {
            side.live -= 1;
            side.bells.place.notify_one();
        }
    }

    /// Takes back a connection whose last answer is read.
    pub(in super::super) fn put_http1(self: &Arc<Self>, connection: Http1) {
        let unwanted = {
            let mut state = self.lock();
            if state.retired || state.epoch != connection.epoch() {
                Some(connection)
            } else {
                let side = self.side(&mut state);
                let unwanted = side.keep(connection);
                // Without a runtime there is nobody to keep the time: whoever takes it next does.
                if !side.sweeping
                    && let Ok(runtime) = Handle::try_current()
                {
                    side.sweeping = true;
                    runtime.spawn(sweep(Arc::downgrade(self)));
                }
                unwanted
            }
        };
        drop(unwanted);
    }

    /// A connection for one call, waited for if need be.
    pub(super) async fn http1(self: &Arc<Self>, plan: &Plan) -> Result<Http1, Error> {
        let (bells, _waiting) = {
            let mut state = self.lock();
            self.may_wait(&state, &plan.room)?;
            let bells = Arc::clone(&self.side(&mut state).bells);
            (bells, self.waits(&mut state))
        };
        let mut refused_by = None;
        let served = async {
            let mut own = None;
            for _ in 0..MAX_LOOKS {
                let mut idle = std::pin::pin!(bells.idle.notified());
                let mut place = std::pin::pin!(bells.place.notified());
                // From here on no ring is missed.
                idle.as_mut().enable();
                if own.is_none() {
                    place.as_mut().enable();
                }
                if let Some(connection) = self.take_idle() {
                    return Ok(connection);
                }
                if own.is_none() {
                    match self.dial_http1(plan)? {
                        Wished::Dialled(dialled) => (own, refused_by) = (Some(dialled), None),
                        Wished::Later(limit) => refused_by = limit,
                    }
                }
                let Some(dialled) = &mut own else {
                    tokio::select! {
                        () = idle => {}
                        () = place => {}
                    }
                    continue;
                };
                tokio::select! {
                    biased;
                    made = dialled => return made
                        .unwrap_or_else(|_| Err(ConnectError::new(ConnectKind::Stopped)))
                        .map_err(|error| self.failure(error)),
                    () = idle => {}
                }
            }
            Err(self.overflow("HTTP/1.1 connections per endpoint"))
        };
        match (tokio::time::timeout(plan.timeout, served).await, refused_by) {
            (Ok(result), _) => result,
            // It was a limit of ours that kept it waiting, and not the endpoint.
            (Err(_elapsed), Some(limit)) => Err(self.overflow(limit)),
            (Err(_elapsed), None) => Err(self.failure(ConnectError::new(ConnectKind::Timeout(plan.timeout)))),
        }
    }

    /// Has a connection made, unless as many are being made as may be. Where a breaker is open the call waits for one of those
    /// that there are, as it does at an Envoy: of the calls that wait, the breakers limit the number.
    fn dial_http1(self: &Arc<Self>, plan: &Plan) -> Result<Wished, Error> {
        let mut state = self.lock();
        self.may_dial(&state)?;
        let (epoch, here) = (state.epoch, state.connections());
        let side = self.side(&mut state);
        if side.live + side.dialling >= MAX_HTTP1 {
            return Err(self.overflow("HTTP/1.1 connections per endpoint"));
        }
        if side.dialling >= MAX_DIALS {
            return Ok(Wished::Later(None));
        }
        let place = match plan.room.connection(here) {
            Ok(place) => place,
            Err(Open(limit)) => return Ok(Wished::Later(Some(limit))),
        };
        side.dialling += 1;
        let (done, dialled) = oneshot::channel();
        // Not under the lock: a runtime that shuts down drops a task as it is begun.
        drop(state);
        tokio::spawn(Arc::clone(self).run_http1_dial(plan.clone(), place, epoch, done));
        Ok(Wished::Dialled(dialled))
    }

    async fn run_http1_dial(
        self: Arc<Self>,
        plan: Plan,
        place: ConnectionPlace,
        epoch: u32,
        done: oneshot::Sender<Result<Http1, ConnectError>>,
    ) {
        let result = dial(&self, &plan, place, epoch).await;
        let result = {
            let mut state = self.lock();
            let side = self.side(&mut state);
            side.dialling -= 1;
            side.bells.place.notify_one();
            match result {
                Ok(_) if state.retired || state.epoch != epoch => Err(ConnectError::new(ConnectKind::Retired)),
                Ok(Made::Http1(connection)) => Ok(connection),
                // It was not asked for.
                Ok(Made::Http2(_)) => Err(ConnectError::new(ConnectKind::Alpn)),
                Err(error) => {
                    self.note_failure(&mut state, &error);
                    // The others are told the same.
                    self.side(&mut state).ring_all();
                    Err(error)
                }
            }
        };
        // Whom it was for may have found another, or gave up.
        if let Err(Ok(connection)) = done.send(result) {
            self.put_http1(connection);
        }
    }

    /// Closes what was idle for too long; how long until there is more to close.
    fn close_stale(&self, now: Instant) -> Option<Duration> {
        let (stale, next) = {
            let mut state = self.lock();
            let side = self.side(&mut state);
            let (stale, idle) = std::mem::take(&mut side.idle)
                .into_iter()
                .partition::<Vec<_>, _>(|connection| connection.is_stale(now));
            side.idle = idle;
            let next = side.idle.iter().filter_map(|connection| connection.kept_for(now)).min();
            side.sweeping = next.is_some();
            (stale, next)
        };
        drop(stale);
        next
    }
}

/// Closes connections that are idle for too long, until there is none.
async fn sweep(pool: Weak<Pool>) {
    let mut next = Duration::ZERO;
    loop {
        tokio::time::sleep(next.max(MIN_SWEEP)).await;
        let Some(left) = pool.upgrade().and_then(|pool| pool.close_stale(Instant::now())) else {
            return;
        };
        next = left;
    }
}
