//! The one task of an [`XdsClient`](super::XdsClient): it moves bytes and watches clocks, and decides nothing.
//!
//! One stream for any number of targets. Requests are handed over only when there is room for one, so no queue builds up; a
//! response is taken in whole before the next is read, which is the flow control the protocol asks for.
//!
//! Dropping the task's future closes the stream; nothing is left half done, since [`State`] changes between awaits only.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::identity::Identity;
use mesh_core::link::Standing;
use mesh_core::live;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

use super::ads::Variant;
use super::backoff::Backoff;
use super::report::Phase;
use super::state::State;
use crate::connect::Access;
use crate::credentials::Credentialed;
use crate::wire::Incoming;

/// Stands in for "no deadline" in a timer that must have one.
const FAR: Duration = Duration::from_secs(24 * 60 * 60);

/// Everything the task owns.
pub(super) struct Task<V: Variant> {
    pub(super) state: State<V>,
    /// Rung when the interest changes.
    pub(super) bell: Arc<Notify>,
    pub(super) access: Access,
    /// Set when the control plane is to be shown an identity that a provider gives.
    pub(super) identity: Option<live::Reader<Standing>>,
    pub(super) backoff: Backoff,
}

impl<V: Variant> Task<V> {
    /// Runs until `stop` completes.
    pub(super) async fn run(mut self, stop: impl Future<Output = ()>) {
        tokio::select! {
            () = stop => {}
            never = self.serve() => match never {},
        }
        self.state.phase(Phase::Stopped);
    }

    async fn serve(&mut self) -> Infallible {
        loop {
            self.until_wanted().await;
            let ended = match self.open().await {
                Ok(channel) => self.stream(channel).await,
                Err(why) => why,
            };
            self.state.ended(&ended);
            let pause = self.backoff.next();
            self.state.phase(Phase::BackingOff(pause));
            self.attend(Instant::now() + pause).await;
        }
    }

    /// A process that asks for nothing opens no stream.
    async fn until_wanted(&mut self) {
        loop {
            self.state.refresh(now());
            if self.state.is_wanted() {
                return;
            }
            self.state.phase(Phase::Idle);
            self.bell.notified().await;
        }
    }

    /// Keeps up with what is wanted until `until`.
    async fn attend(&mut self, until: Instant) {
        let mut pause = pin!(sleep_until(until));
        loop {
            tokio::select! {
                () = &mut pause => return,
                () = self.bell.notified() => self.state.refresh(now()),
            }
        }
    }

    async fn open(&mut self) -> Result<Credentialed, String> {
        let identity = match self.identity.clone() {
            Some(reader) => Some(self.joined(&reader).await),
            None => None,
        };
        self.state.connecting();
        let connected = self.access.connect(identity.as_ref()).await;
        connected.map_err(|error| format!("connecting to {}: {error}", self.access.server().uri))
    }

    /// Waits for the identity that the control plane asks to see.
    async fn joined(&mut self, reader: &live::Reader<Standing>) -> Identity {
        let changed = Arc::new(Notify::new());
        let ring = Arc::clone(&changed);
        let _subscription = reader.on_change(move || ring.notify_one());
        loop {
            match &**reader.load() {
                Ok(identity) => return identity.clone(),
                Err(reason) => self.state.joining(reason),
            }
            tokio::select! {
                () = changed.notified() => {}
                () = self.bell.notified() => self.state.refresh(now()),
            }
        }
    }

    /// Talks until the stream ends, and says why it did.
    async fn stream(&mut self, channel: Credentialed) -> String {
        let (requests, outgoing) = mpsc::channel::<V::Request>(1);
        let mut incoming = Incoming::<V>::open(channel, outgoing);
        self.state.opened();
        let ended = self.talk(&requests, &mut incoming).await;
        format!("stream to {}: {ended}", self.access.server().uri)
    }

    async fn talk(&mut self, requests: &mpsc::Sender<V::Request>, incoming: &mut Incoming<V>) -> String {
        loop {
            let wake = self
                .state
                .deadline(now())
                .map_or_else(|| Instant::now() + FAR, Instant::from_std);
            tokio::select! {
                room = requests.reserve(), if self.state.ads.has_request(now()) => {
                    let Ok(room) = room else { return "closed by the control plane".into() };
                    if let Some(request) = self.state.ads.next_request(now()) {
                        room.send(request);
                    }
                }
                response = incoming.next(), if self.state.ads.can_receive() => match response {
                    Ok(response) => {
                        self.backoff.heard();
                        self.state.receive(response, now());
                    }
                    Err(ended) => {
                        self.backoff.asked_for(ended.pushback);
                        return ended.why;
                    }
                },
                () = self.bell.notified() => self.state.refresh(now()),
                () = sleep_until(wake) => self.state.on_timer(now()),
            }
        }
    }
}

/// tokio's time, which a test may pause.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}
