//! What the task knows, and the one step that follows every event: assemble, subscribe to what is missing, publish what is
//! whole, report. No IO and no clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use mesh_core::config::{Reason, ReasonKind, Snapshot};
use mesh_core::link::{Interest, WeakLink};
use mesh_core::live;
use mesh_core::report::Tally;
use tokio::sync::watch;

use super::ads::{AdsState, Variant};
use super::assemble::{Assembler, Missing, Wanted};
use super::report::{self, Phase, Report};
use super::targets::Targets;

/// The most names told in the reason for a wait; the report has them all.
const MAX_NAMED: usize = 3;

/// See the module's documentation.
pub(super) struct State<V: Variant> {
    link: WeakLink,
    interest: Interest,
    snapshots: live::Writer<Snapshot>,
    pub(super) ads: AdsState<V>,
    assembler: Assembler,
    targets: Targets,
    report: Report,
    reports: watch::Sender<Arc<Report>>,
    tally: Tally,
    /// Why nothing can be heard at the moment.
    trouble: Option<Reason>,
}

impl<V: Variant> State<V> {
    pub(super) fn new(
        link: &mesh_core::Link,
        snapshots: live::Writer<Snapshot>,
        ads: AdsState<V>,
        assembler: Assembler,
        reports: watch::Sender<Arc<Report>>,
        server: String,
    ) -> Self {
        let mut report = Report::default();
        report.connection.server = server;
        Self {
            link: link.downgrade(),
            interest: link.interest().clone(),
            snapshots,
            ads,
            assembler,
            targets: Targets::default(),
            report,
            reports,
            tally: link.tally().clone(),
            trouble: None,
        }
    }

    /// Whether there is a reason to have a stream.
    pub(super) fn is_wanted(&self) -> bool {
        !self.targets.is_empty()
    }

    /// What follows every event.
    pub(super) fn refresh(&mut self, now: Instant) {
        self.targets.update(&self.interest.wanted(), now);
        let wanted = Wanted {
            targets: self.targets.list(),
            inbound: self.interest.wanted_inbound(),
        };
        let mut changed = self.ads.take_changed();
        let assembly = self.assembler.assemble(&wanted, self.ads.cache(), &changed);
        if let Some(needs) = &assembly.needs {
            self.ads.subscribe(needs);
            changed.extend(self.ads.take_changed());
        }
        if let Some(snapshot) = assembly.snapshot {
            self.report.published = snapshot.version();
            self.snapshots.publish(snapshot);
        }
        if let Some(waiting) = assembly.waiting {
            let waiting = waiting.into_iter();
            self.report.waiting = waiting
                .map(|(target, names)| (target, names.iter().map(Missing::to_string).collect()))
                .collect();
        }
        report::update(&mut self.report.resources, self.ads.cache(), changed);
        self.tell();
    }

    /// Takes in what the control plane said.
    pub(super) fn receive(&mut self, response: V::Response, now: Instant) {
        self.report.connection.attempts = 0;
        self.report.connection.responses += 1;
        self.report.connection.last_error = None;
        self.trouble = None;
        let received = self.ads.receive(response, now);
        for rejected in &received.rejected {
            tracing::warn!(%rejected, "a resource was refused; the last good one stays");
            self.tally.count("xds_resource", "refused");
        }
        self.report.rejections += received.rejected.len() as u64;
        if let Some(last) = received.rejected.into_iter().next_back() {
            self.report.last_rejection = Some(last);
        }
        self.refresh(now);
    }

    /// When [`on_timer`](Self::on_timer) has something to do.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        [self.ads.deadline(now), self.targets.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    pub(super) fn on_timer(&mut self, now: Instant) {
        let expired = self.ads.on_timer(now);
        if expired || self.targets.deadline().is_some_and(|deadline| deadline <= now) {
            self.refresh(now);
        }
    }

    pub(super) fn connecting(&mut self) {
        self.report.connection.attempts += 1;
        self.phase(Phase::Connecting);
    }

    pub(super) fn opened(&mut self) {
        self.ads.stream_opened();
        self.tally.count("xds_stream", "opened");
        self.report.connection.streams += 1;
        self.phase(Phase::Connected);
    }

    /// A stream, or the attempt at one, ended. What is known stays.
    pub(super) fn ended(&mut self, why: &str) {
        tracing::warn!(
            server = self.report.connection.server,
            reason = why,
            "no stream to the control plane"
        );
        self.ads.stream_closed();
        self.tally.count("xds_stream", "failed");
        self.report.connection.last_error = Some(why.into());
        self.trouble = Some(Reason::new(ReasonKind::Waiting, why));
    }

    /// The workload has no identity to show yet.
    pub(super) fn joining(&mut self, why: &Reason) {
        self.trouble = Some(why.clone());
        self.phase(Phase::Joining);
    }

    pub(super) fn phase(&mut self, phase: Phase) {
        self.report.connection.phase = phase;
        self.tell();
    }

    fn tell(&self) {
        if let Some(link) = self.link.upgrade() {
            let reason = self.waiting_reason();
            if link.waiting_reason() != reason {
                link.set_waiting(reason);
            }
        }
        self.reports.send_replace(Arc::new(self.report.clone()));
    }

    /// What a call to a target that is not there yet is told.
    fn waiting_reason(&self) -> Option<Reason> {
        if self.trouble.is_some() || self.report.waiting.is_empty() {
            return self.trouble.clone();
        }
        let Report {
            connection, waiting, ..
        } = &self.report;
        let text = match connection.phase {
            Phase::Connected => format!("waiting for {} from {}", some(waiting), connection.server),
            _ => format!("connecting to {}", connection.server),
        };
        Some(Reason::new(ReasonKind::Waiting, text))
    }
}

/// The first few names of a list.
fn some(waiting: &BTreeMap<Arc<str>, Vec<String>>) -> String {
    let names: Vec<&str> = waiting.values().flatten().map(String::as_str).collect();
    let told = names[..names.len().min(MAX_NAMED)].join(", ");
    match names.len().saturating_sub(MAX_NAMED) {
        0 => told,
        more => format!("{told} and {more} more"),
    }
}
