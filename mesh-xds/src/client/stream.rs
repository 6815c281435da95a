//! The task of one control plane: it moves bytes and watches clocks, and decides nothing.
//!
//! One stream for any number of targets. Requests are handed over only when there is room for one, so no queue builds up; a
//! response is taken in whole before the next is read, which is the flow control the protocol asks for. It is read without
//! the state, and a large one apart from the tasks that serve calls; the bell and the clock are heard meanwhile.
//!
//! Dropping the task's future closes the stream; nothing is left half done, since [`State`] changes between awaits only.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_core::identity::Identity;
use mesh_core::link::Standing;
use mesh_core::live;
use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};

use super::ads::Variant;
use super::backoff::Backoff;
use super::load::Reporter;
use super::report::Phase;
use super::state::State;
use crate::connect::Access;
use crate::credentials::Credentialed;
use crate::wire::Incoming;

/// Stands in for "no deadline" in a timer that must have one.
const FAR: Duration = Duration::from_secs(24 * 60 * 60);

/// The most bytes of a response that are read in the task itself: about a millisecond's work. More are read on a thread for
/// what blocks, since this task may share its own with the calls of the process.
const MAX_READ_HERE_BYTES: usize = 64 * 1024;

/// The state that all tasks share, and which of its lines this one drives.
pub(super) struct Handle<V: Variant> {
    state: Arc<Mutex<State<V>>>,
    id: usize,
    /// Rung when there is something to look at.
    bell: Arc<Notify>,
}

/// Everything one task owns.
pub(super) struct Task<V: Variant> {
    line: Handle<V>,
    access: Access,
    /// Set when the control plane is to be shown an identity that a provider gives.
    identity: Option<live::Reader<Standing>>,
    backoff: Backoff,
    reporter: Reporter,
    /// A connection on which the control plane sent a stream away and said when to come again. It is used then: a thousand
    /// that dial twice, and shake hands twice, are two thousand. If it broke meanwhile, that is one more attempt that failed.
    kept: Option<Credentialed>,
}

impl<V: Variant> Handle<V> {
    pub(super) fn new(state: Arc<Mutex<State<V>>>, id: usize, bell: Arc<Notify>) -> Self {
        Self { state, id, bell }
    }

    /// For one step; never kept across an await.
    fn state(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_wanted(&self) -> bool {
        self.state().line(self.id).is_wanted
    }

    /// Whether what the task has is to be let go of.
    fn is_over(&self) -> bool {
        let state = self.state();
        let line = state.line(self.id);
        line.is_to_leave || !line.is_wanted
    }

    /// The next moment at which time alone changes something.
    fn wake(&self) -> Instant {
        let deadline = self.state().deadline(self.id, now());
        deadline.map_or_else(|| Instant::now() + FAR, Instant::from_std)
    }

    /// Reads a response and takes it in, unless it is nobody's business any more by then.
    ///
    /// # Errors
    ///
    /// When nobody is there to read it.
    async fn hear(&self, response: V::Response) -> Result<(), String> {
        let reading = self.state().listen(self.id, response);
        let read = match reading.bytes() <= MAX_READ_HERE_BYTES {
            true => reading.read(),
            false => match self.meanwhile(spawn_blocking(move || reading.read())).await {
                Some(Ok(read)) => read,
                Some(Err(error)) => return Err(format!("a response could not be read: {error}")),
                None => return Ok(()),
            },
        };
        self.state().receive(self.id, read, now());
        Ok(())
    }

    /// Keeps up with the bell and the clock while `work` is done. `None` when there is no reason to do it any more.
    async fn meanwhile<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        while !self.is_over() {
            tokio::select! {
                done = &mut work => return Some(done),
                () = self.bell.notified() => self.state().attend(now()),
                () = sleep_until(self.wake()) => self.state().on_timer(self.id, now()),
            }
        }
        None
    }
}

impl<V: Variant> Task<V> {
    pub(super) fn new(
        line: Handle<V>,
        access: Access,
        identity: Option<live::Reader<Standing>>,
        backoff: Backoff,
        reporter: Reporter,
    ) -> Self {
        Self {
            line,
            access,
            identity,
            backoff,
            reporter,
            kept: None,
        }
    }

    /// Runs until `stop` completes.
    pub(super) async fn run(mut self, stop: impl Future<Output = ()>) {
        tokio::select! {
            () = stop => {}
            never = self.serve() => match never {},
        }
        self.line.state().phase(self.line.id, Phase::Stopped);
    }

    async fn serve(&mut self) -> Infallible {
        loop {
            self.until_wanted().await;
            while let Some(ended) = self.session().await {
                let pause = self.backoff.next();
                self.line.state().ended(self.line.id, &ended.why, ended.is_clean, now());
                self.line.state().phase(self.line.id, Phase::BackingOff(pause));
                if self.line.meanwhile(sleep(pause)).await.is_none() {
                    break;
                }
            }
            self.kept = None;
            self.line.state().left(self.line.id);
        }
    }

    /// A process that asks for nothing opens no stream, and a fallback that is not needed is left alone.
    async fn until_wanted(&mut self) {
        loop {
            self.line.state().attend(now());
            if self.line.is_wanted() {
                return;
            }
            self.line.bell.notified().await;
        }
    }

    /// One connection, to its end, and why it ended. `None` when there is no reason to have it any more.
    async fn session(&mut self) -> Option<Over> {
        let identity = match self.identity.clone() {
            Some(reader) => Some(self.line.meanwhile(joined(&self.line, &reader)).await?),
            None => None,
        };
        self.line.state().connecting(self.line.id);
        if let Some(channel) = self.kept.take() {
            return self.stream(channel).await;
        }
        let connecting = self.access.connect(identity.as_ref());
        match self.line.meanwhile(connecting).await? {
            Ok(channel) => self.stream(channel).await,
            Err(error) => Some(Over::broken(format!(
                "connecting to {}: {error}",
                self.access.server().uri
            ))),
        }
    }

    /// Talks until the stream ends.
    async fn stream(&mut self, channel: Credentialed) -> Option<Over> {
        let (requests, outgoing) = mpsc::channel::<V::Request>(1);
        // On the same connection, and ended with it.
        let reporter = self.reporter.clone();
        let reporting = reporter.run(channel.clone());
        let mut incoming = Incoming::<V>::open(channel.clone(), outgoing);
        self.line.state().opened(self.line.id);
        let ended = tokio::select! {
            ended = self.talk(&requests, &mut incoming) => ended?,
            never = reporting => match never {},
        };
        self.kept = self.backoff.is_asked().then_some(channel);
        Some(Over {
            why: format!("stream to {}: {}", self.access.server().uri, ended.why),
            ..ended
        })
    }

    async fn talk(&mut self, requests: &mpsc::Sender<V::Request>, incoming: &mut Incoming<V>) -> Option<Over> {
        let Self {
            line, backoff, access, ..
        } = self;
        loop {
            let (has_request, can_receive) = {
                let state = line.state();
                let ads = &state.line(line.id).ads;
                (ads.has_request(now()), ads.can_receive())
            };
            let step = async {
                tokio::select! {
                    room = requests.reserve(), if has_request => {
                        let Ok(room) = room else { return Some(Over::broken("closed by the control plane")) };
                        if let Some(request) = line.state().next_request(line.id, now()) {
                            room.send(request);
                        }
                    }
                    response = incoming.next(), if can_receive => match response {
                        Ok(response) => {
                            backoff.heard();
                            if let Err(why) = line.hear(response).await {
                                return Some(Over::broken(why));
                            }
                        }
                        Err(ended) => {
                            backoff.asked_for(ended.pushback);
                            if ended.unauthenticated {
                                access.doubt_tokens();
                            }
                            return Some(Over { why: ended.why, is_clean: ended.is_clean });
                        }
                    },
                    () = line.bell.notified() => line.state().attend(now()),
                    () = sleep_until(line.wake()) => line.state().on_timer(line.id, now()),
                }
                None
            };
            if line.is_over() {
                return None;
            }
            if let Some(ended) = step.await {
                return Some(ended);
            }
        }
    }
}

/// Why a connection ended, or was none.
struct Over {
    why: String,
    /// The control plane ended the stream in order.
    is_clean: bool,
}

impl Over {
    fn broken(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            is_clean: false,
        }
    }
}

/// Waits for the identity that the control plane asks to see.
async fn joined<V: Variant>(line: &Handle<V>, reader: &live::Reader<Standing>) -> Identity {
    let changed = Arc::new(Notify::new());
    let ring = Arc::clone(&changed);
    let _subscription = reader.on_change(move || ring.notify_one());
    loop {
        match &**reader.load() {
            Ok(identity) => return identity.clone(),
            Err(reason) => line.state().joining(line.id, reason),
        }
        changed.notified().await;
    }
}

/// tokio's time, which a test may pause.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}
