//! The one task of an [`XdsClient`](super::XdsClient): it moves bytes and watches clocks, and decides nothing.
//!
//! One stream for any number of targets. Requests are handed over only when there is room for one, so no queue builds up; a
//! response is taken in whole before the next is read, which is the flow control the protocol asks for. After every event
//! the same step follows: assemble, subscribe to what is missing, publish what is whole, report.
//!
//! Dropping the task's future closes the stream; nothing is left half done, since state changes between awaits only.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::{Reason, ReasonKind, Snapshot};
use mesh_core::link::{Interest, Standing, WeakLink};
use mesh_core::live;
use rustls::time_provider::TimeProvider;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tonic::transport::Channel;

use super::ads::AdsState;
use super::assemble::{Assembler, Missing};
use super::backoff::Backoff;
use super::status::{self, Phase, Report};
use super::targets::Targets;
use crate::bootstrap::Server;
use crate::connect::{Connector, connect};
use crate::wire::{Incoming, Request, Response};

/// Stands in for "no deadline" in a timer that must have one.
const FAR: Duration = Duration::from_secs(24 * 60 * 60);

/// Everything the task owns.
pub(super) struct Task {
    pub(super) link: WeakLink,
    pub(super) interest: Interest,
    /// Rung when the interest changes.
    pub(super) bell: Arc<Notify>,
    pub(super) snapshots: live::Writer<Snapshot>,
    pub(super) server: Server,
    pub(super) connector: Connector,
    pub(super) clock: Arc<dyn TimeProvider>,
    /// Set when the control plane is to be shown an identity that a provider gives.
    pub(super) identity: Option<live::Reader<Standing>>,
    pub(super) ads: AdsState,
    pub(super) assembler: Assembler,
    pub(super) backoff: Backoff,
    pub(super) reports: watch::Sender<Arc<Report>>,
    pub(super) targets: Targets,
    pub(super) report: Report,
}

impl Task {
    /// Runs until `stop` completes.
    pub(super) async fn run(mut self, stop: impl Future<Output = ()>) {
        self.report.connection.server = self.server.uri.to_string();
        {
            let mut stop = pin!(stop);
            tokio::select! {
                () = &mut stop => {}
                never = self.serve() => match never {},
            }
        }
        self.phase(Phase::Stopped);
    }

    async fn serve(&mut self) -> Infallible {
        loop {
            self.until_wanted().await;
            let ended = match self.open().await {
                Ok(channel) => self.stream(channel).await,
                Err(why) => why,
            };
            tracing::warn!(server = %self.server.uri, reason = %ended, "no stream to the control plane");
            self.report.connection.last_error = Some(ended.clone());
            if let Some(link) = self.link.upgrade() {
                link.set_waiting(Some(Reason::new(ReasonKind::Waiting, ended)));
            }
            let pause = self.backoff.next();
            self.phase(Phase::BackingOff(pause));
            self.attend(Instant::now() + pause).await;
        }
    }

    /// A process that asks for nothing opens no stream.
    async fn until_wanted(&mut self) {
        loop {
            self.refresh();
            if !self.targets.list().is_empty() {
                return;
            }
            self.phase(Phase::Idle);
            self.bell.notified().await;
        }
    }

    /// Keeps up with what is wanted until `until`.
    async fn attend(&mut self, until: Instant) {
        let mut pause = pin!(sleep_until(until));
        let bell = Arc::clone(&self.bell);
        loop {
            tokio::select! {
                () = &mut pause => return,
                () = bell.notified() => self.refresh(),
            }
        }
    }

    async fn open(&mut self) -> Result<Channel, String> {
        let identity = match self.identity.clone() {
            Some(reader) => Some(self.identity(&reader).await),
            None => None,
        };
        self.report.connection.attempts += 1;
        self.phase(Phase::Connecting);
        let Server { uri, credentials } = &self.server;
        connect(&self.connector, uri, credentials, identity.as_ref(), &self.clock)
            .await
            .map_err(|error| format!("connecting to {uri}: {error}"))
    }

    /// Waits for the identity that the control plane asks to see.
    async fn identity(&mut self, reader: &live::Reader<Standing>) -> mesh_core::identity::Identity {
        let bell = Arc::new(Notify::new());
        let ring = Arc::clone(&bell);
        let _subscription = reader.on_change(move || ring.notify_one());
        loop {
            match &**reader.load() {
                Ok(identity) => return identity.clone(),
                Err(reason) => {
                    if let Some(link) = self.link.upgrade() {
                        link.set_waiting(Some(reason.clone()));
                    }
                }
            }
            self.phase(Phase::Joining);
            let interest = Arc::clone(&self.bell);
            tokio::select! {
                () = bell.notified() => {}
                () = interest.notified() => self.refresh(),
            }
        }
    }

    /// Talks until the stream ends, and says why it did.
    async fn stream(&mut self, channel: Channel) -> String {
        let (requests, outgoing) = mpsc::channel::<Request>(1);
        let mut incoming = Incoming::open(channel, outgoing);
        self.ads.stream_opened();
        self.report.connection.streams += 1;
        self.phase(Phase::Connected);
        let ended = self.talk(&requests, &mut incoming).await;
        self.ads.stream_closed();
        format!("stream to {}: {ended}", self.server.uri)
    }

    async fn talk(&mut self, requests: &mpsc::Sender<Request>, incoming: &mut Incoming) -> String {
        let bell = Arc::clone(&self.bell);
        loop {
            let now = Instant::now();
            let wake = [self.ads.deadline(), self.targets.deadline()]
                .into_iter()
                .flatten()
                .min()
                .map_or(now + FAR, Instant::from_std);
            tokio::select! {
                room = requests.reserve(), if self.ads.has_request(now.into_std()) => {
                    let Ok(room) = room else { return "closed by the control plane".into() };
                    if let Some(request) = self.ads.next_request(Instant::now().into_std()) {
                        room.send(request);
                    }
                }
                response = incoming.next() => match response {
                    Ok(response) => self.receive(response),
                    Err(why) => return why,
                },
                () = bell.notified() => self.refresh(),
                () = sleep_until(wake) => {
                    let expired = self.ads.on_timer(Instant::now().into_std());
                    if expired || self.targets.deadline().is_some() {
                        self.refresh();
                    }
                }
            }
        }
    }

    fn receive(&mut self, response: Response) {
        self.backoff.reset();
        self.report.connection.attempts = 0;
        self.report.connection.responses += 1;
        self.report.connection.last_error = None;
        if let Some(link) = self.link.upgrade().filter(|link| link.waiting_reason().is_some()) {
            link.set_waiting(None);
        }
        let received = self.ads.receive(response);
        for rejected in &received.rejected {
            tracing::warn!(%rejected, "a resource was refused; the last good one stays");
        }
        self.report.rejections += received.rejected.len() as u64;
        if let Some(last) = received.rejected.into_iter().next_back() {
            self.report.last_rejection = Some(last);
        }
        self.refresh();
    }

    /// What follows every event.
    fn refresh(&mut self) {
        self.targets.update(&self.interest.wanted(), Instant::now().into_std());
        let assembly = self.assembler.assemble(&self.targets.list(), self.ads.cache());
        self.ads.subscribe(&assembly.needs);
        if let Some(snapshot) = assembly.snapshot {
            self.report.published = snapshot.version();
            self.snapshots.publish(snapshot);
        }
        let missing = |missing: &Missing| format!("{} {:?}", missing.kind, missing.name);
        self.report.waiting = assembly
            .waiting
            .into_iter()
            .map(|(target, names)| (target, names.iter().map(missing).collect()))
            .collect();
        self.report.resources = status::resources(self.ads.cache());
        self.tell();
    }

    fn phase(&mut self, phase: Phase) {
        self.report.connection.phase = phase;
        self.tell();
    }

    fn tell(&self) {
        self.reports.send_replace(Arc::new(self.report.clone()));
    }
}
