//! What the tasks know, and the one step that follows every event: assemble, subscribe to what is missing, publish what is
//! whole, report. No IO and no clock.
//!
//! There is a [`Line`] for each control plane and a task for each line. They share this state behind a lock that is held for
//! one step and never across an await; a step that gives another line something to do rings that line's bell.
//!
//! While one control plane is to take over from another, a second assembler looks ahead: it builds the trees that there
//! would be, so that what the newcomer has to be asked for is found, and the moment is known at which it has told it all.

mod recall;
mod switch;
mod told;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use mesh_core::config::{Reason, Snapshot};
use mesh_core::link::{Interest, WeakLink};
use mesh_core::live;
use mesh_core::report::Tally;
use rustls::time_provider::TimeProvider;
use tokio::sync::watch;

pub(super) use self::recall::Disk;
use self::switch::Ahead;
pub(super) use self::switch::Authority;
use super::ads::{Needs, Read, Reading, Variant};
use super::assemble::{Assembler, Naming, Wanted};
use super::cache::{Authorities, Cache, Changed, Sources};
use super::line::Line;
use super::lookups;
use super::report::{self, Phase, Report};
use super::targets::Targets;

/// What a [`State`] is made of.
pub(super) struct Parts<'a, V: Variant> {
    pub(super) link: &'a mesh_core::Link,
    pub(super) snapshots: live::Writer<Snapshot>,
    pub(super) lines: Vec<Line<V>>,
    /// The nameless one first.
    pub(super) authorities: Vec<Authority>,
    /// The copy on disk, whose line is the last.
    pub(super) disk: Option<Disk>,
    pub(super) directory: Authorities,
    pub(super) naming: Naming,
    pub(super) reports: watch::Sender<Arc<Report>>,
    /// The host names that are to be resolved.
    pub(super) lookups: watch::Sender<lookups::Names>,
    /// Set when the interest changed since it was last looked at.
    pub(super) interest_changed: Arc<AtomicBool>,
}

/// See the module's documentation.
pub(super) struct State<V: Variant> {
    link: WeakLink,
    interest: Interest,
    interest_changed: Arc<AtomicBool>,
    snapshots: live::Writer<Snapshot>,
    lines: Vec<Line<V>>,
    authorities: Vec<Authority>,
    disk: Option<Disk>,
    directory: Authorities,
    naming: Naming,
    assembler: Assembler,
    needs: Needs,
    /// The host names that are needed, and how often.
    resolves: lookups::Names,
    ahead: Option<Ahead>,
    targets: Targets,
    report: Report,
    reports: watch::Sender<Arc<Report>>,
    lookups: watch::Sender<lookups::Names>,
    tally: Tally,
    clock: Arc<dyn TimeProvider>,
}

impl<V: Variant> State<V> {
    pub(super) fn new(parts: Parts<'_, V>) -> Self {
        let mut state = Self {
            link: parts.link.downgrade(),
            interest: parts.link.interest().clone(),
            interest_changed: parts.interest_changed,
            snapshots: parts.snapshots,
            lines: parts.lines,
            authorities: parts.authorities,
            disk: parts.disk,
            directory: parts.directory,
            assembler: Assembler::new(parts.naming.clone()),
            naming: parts.naming,
            needs: Needs::default(),
            resolves: lookups::Names::new(),
            ahead: None,
            targets: Targets::default(),
            report: Report::default(),
            reports: parts.reports,
            lookups: parts.lookups,
            tally: parts.link.tally().clone(),
            clock: Arc::clone(parts.link.wall_clock()),
        };
        state.tell();
        state
    }

    pub(super) fn line(&self, id: usize) -> &Line<V> {
        &self.lines[id]
    }

    /// What the bell of a line may have meant: other targets, for one.
    pub(super) fn attend(&mut self, now: Instant) {
        if self.interest_changed.swap(false, Ordering::AcqRel) {
            self.refresh(now);
        }
    }

    /// What follows every event.
    pub(super) fn refresh(&mut self, now: Instant) {
        self.targets.update(&self.interest.wanted(), now);
        self.look_no_further();
        let mut changed = self.take_changed();
        self.assemble_all(&mut changed, now);
        // What is known decides who is asked, and who is asked what is known. Each turn connects one more or lets one take
        // over, and after an event neither can happen to a control plane twice.
        let turns: usize = self
            .authorities
            .iter()
            .map(|authority| 2 * (authority.lines.len() + 1))
            .sum();
        for _ in 0..turns {
            let Some(more) = self.turn() else { break };
            self.subscribe(now);
            changed.extend(more);
            changed.extend(self.take_changed());
            self.assemble_all(&mut changed, now);
        }
        changed.extend(self.take_changed());
        self.tell_of_kept();
        self.report.changes += u64::from(!changed.is_empty());
        let caches = caches(&self.lines, &self.authorities, Authority::source);
        let sources = Sources::Each(&self.directory, &caches);
        let wall_time = self.clock.current_time();
        let wall_time = wall_time.map(|time| SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs()));
        report::update(&mut self.report.resources, sources, changed, wall_time);
        self.tell();
    }

    fn take_changed(&mut self) -> Vec<Changed> {
        let lines = self.lines.iter_mut();
        lines.flat_map(|line| line.ads.take_changed()).collect()
    }

    /// Assembles, and again while what that asked for was on disk: a reference further each time, and no name twice.
    fn assemble_all(&mut self, changed: &mut Vec<Changed>, now: Instant) {
        self.assemble(changed, now);
        while self.disk.as_mut().is_some_and(Disk::has_answered) {
            changed.extend(self.take_changed());
            self.assemble(changed, now);
        }
    }

    /// Brings the snapshot, and the look ahead, up to what is known.
    fn assemble(&mut self, changed: &[Changed], now: Instant) {
        let wanted = Wanted {
            targets: self.targets.list(),
            inbound: self.interest.wanted_inbound(),
        };
        let known = caches(&self.lines, &self.authorities, Authority::source);
        let known = Sources::Each(&self.directory, &known);
        let assembly = self.assembler.assemble(&wanted, known, changed);
        let mut needs_changed = assembly.needs.is_some();
        self.needs = assembly.needs.unwrap_or_else(|| std::mem::take(&mut self.needs));
        let mut lookups_changed = false;
        if let Some(lookups) = assembly.lookups {
            self.resolves = lookups;
            lookups_changed = true;
        }
        if let Some(ahead) = &mut self.ahead {
            let then = caches(&self.lines, &self.authorities, Authority::next_source);
            let then = Sources::Each(&self.directory, &then);
            let look = ahead.assembler.assemble(&wanted, then, changed);
            if let Some(needs) = look.needs {
                ahead.needs = needs;
                needs_changed = true;
            }
            if let Some(lookups) = look.lookups {
                ahead.lookups = lookups;
                lookups_changed = true;
            }
            if let Some(waiting) = look.waiting {
                ahead.missing = waiting.into_values().flatten().collect();
            }
        }
        if let Some(snapshot) = assembly.snapshot {
            self.report.published = snapshot.version();
            self.snapshots.publish(snapshot);
        }
        if let Some(waiting) = assembly.waiting {
            self.await_all(waiting, now);
        }
        if lookups_changed {
            self.look_up();
        }
        if needs_changed {
            self.subscribe(now);
        }
    }

    /// Has the names resolved that anything is made of.
    fn look_up(&mut self) {
        let mut names = self.resolves.clone();
        for (name, refresh) in self.ahead.iter().flat_map(|ahead| &ahead.lookups) {
            let often = names.entry(Arc::clone(name)).or_insert(*refresh);
            *often = (*often).min(*refresh);
        }
        self.lookups.send_if_modified(|wanted| {
            let news = *wanted != names;
            *wanted = names;
            news
        });
    }

    /// Takes in what a host name resolved to.
    pub(super) fn resolved(&mut self, host: &Arc<str>, outcome: &lookups::Outcome, now: Instant) {
        if outcome.is_err() {
            self.tally.count("xds_dns", "failed");
        }
        self.assembler.resolved(host, outcome.clone());
        if let Some(ahead) = &mut self.ahead {
            ahead.assembler.resolved(host, outcome.clone());
        }
        self.refresh(now);
    }

    /// Asks each line for what it is to be asked for, and lets go of lines that are asked for nothing.
    fn subscribe(&mut self, now: Instant) {
        let wanted = match &self.ahead {
            Some(ahead) => Cow::Owned(self.needs.union(&ahead.needs)),
            None => Cow::Borrowed(&self.needs),
        };
        let directory = &self.directory;
        for (place, authority) in self.authorities.iter_mut().enumerate() {
            authority.is_needed = wanted.any(|name| directory.of(name) == Ok(place), place == 0);
            if !authority.is_needed {
                authority.rest();
            }
        }
        let whole = !wanted.any(|name| directory.of(name) != Ok(0), false);
        for (id, line) in self.lines.iter_mut().enumerate() {
            let asked = |place: usize| self.authorities[place].asks(id);
            let is_wanted = (0..self.authorities.len()).any(asked);
            line.want(is_wanted);
            if !is_wanted {
                continue;
            }
            match whole && asked(0) {
                true => line.ads.subscribe(&wanted),
                false => {
                    let of_line = |name: &str| directory.of(name).is_ok_and(asked);
                    line.ads.subscribe(&wanted.filter(of_line, asked(0)));
                }
            }
            line.bell.notify_one();
        }
        self.recall(now);
    }

    /// What is to be read of what a control plane said. Whoever reads it lets go of this state first.
    pub(super) fn listen(&self, id: usize, response: V::Response) -> Reading<V> {
        self.lines[id].ads.listen(response)
    }

    /// Takes in what a control plane said.
    pub(super) fn receive(&mut self, id: usize, read: Read<V>, now: Instant) {
        if self.hear(id, read, now) {
            self.refresh(now);
        }
    }

    /// The first half of that: what is said is known, and nothing is made of it yet. Whether it was heard at all.
    pub(super) fn hear(&mut self, id: usize, read: Read<V>, now: Instant) -> bool {
        let line = &mut self.lines[id];
        // It is being let go of, and what it says is nobody's business any more.
        if line.is_to_leave || !line.is_wanted {
            return false;
        }
        line.connection.attempts = 0;
        line.connection.responses += 1;
        line.connection.last_error = None;
        line.connection.is_failing = false;
        line.connection.last_heard = Some(now);
        line.trouble = None;
        line.answers = true;
        self.report.last_heard = Some(now);
        let received = line.ads.receive(read, now);
        self.note(id, received);
        true
    }

    /// When [`on_timer`](Self::on_timer) has something to do.
    pub(super) fn deadline(&self, id: usize, now: Instant) -> Option<Instant> {
        let recalled = self.disk.as_ref().map(|disk| &self.lines[disk.line]);
        let lines = [Some(&self.lines[id]), recalled].into_iter().flatten();
        let ends = lines.filter_map(|line| line.ads.deadline(now));
        ends.chain(self.targets.deadline()).min()
    }

    pub(super) fn on_timer(&mut self, id: usize, now: Instant) {
        let mut expired = self.suspect(id, now);
        expired |= self.lines[id].ads.on_timer(now);
        if let Some(disk) = &self.disk {
            expired |= self.lines[disk.line].ads.on_timer(now);
        }
        if expired || self.targets.deadline().is_some_and(|deadline| deadline <= now) {
            self.refresh(now);
        }
    }

    /// The next request to a control plane, for somebody who can send it at once.
    pub(super) fn next_request(&mut self, id: usize, now: Instant) -> Option<V::Request> {
        self.lines[id].ads.next_request(now)
    }

    pub(super) fn connecting(&mut self, id: usize) {
        self.lines[id].connection.attempts += 1;
        self.phase(id, Phase::Connecting);
    }

    pub(super) fn opened(&mut self, id: usize) {
        let line = &mut self.lines[id];
        if !line.is_wanted {
            // Its task has not noticed, and must, even if it is wanted again by then.
            line.is_to_leave = true;
            return;
        }
        line.ads.stream_opened();
        line.connection.streams += 1;
        self.tally.count("xds_stream", "opened");
        self.phase(id, Phase::Connected);
    }

    /// A stream, or the attempt at one, ended. What is known stays. Only one that ended before a word came is a failure
    /// (gRFC A57); one that answered and ended in order (`is_clean`) is not even worth a warning.
    pub(super) fn ended(&mut self, id: usize, why: &str, is_clean: bool, now: Instant) {
        let is_source = self.authorities.iter().any(|authority| authority.source() == id);
        let line = &mut self.lines[id];
        if line.is_to_leave || !line.is_wanted {
            // It was to end anyway.
            return;
        }
        let server = &line.connection.server;
        let fails = !std::mem::take(&mut line.answers);
        match is_clean && !fails {
            true => {
                tracing::info!(server, reason = why, "the control plane ended its stream");
                self.tally.count("xds_stream", "ended");
            }
            false => {
                tracing::warn!(server, reason = why, "no stream to the control plane");
                self.tally.count("xds_stream", "failed");
            }
        }
        line.ads.stream_closed();
        line.fails(fails, why);
        if !is_source && !fails {
            // It was to take over, perhaps, and did not get to it; by the next time it may have other things to say.
            line.ads.reset();
            self.subscribe(now);
        }
        self.refresh(now);
    }

    /// A line's task left what it had, as it was told.
    pub(super) fn left(&mut self, id: usize) {
        let line = &mut self.lines[id];
        line.is_to_leave = false;
        line.ads.stream_closed();
        self.phase(id, Phase::Idle);
    }

    /// The workload has no identity to show yet.
    pub(super) fn joining(&mut self, id: usize, why: &Reason) {
        self.lines[id].trouble = Some(why.clone());
        self.phase(id, Phase::Joining);
    }

    pub(super) fn phase(&mut self, id: usize, phase: Phase) {
        self.lines[id].connection.phase = phase;
        self.tell();
    }
}

/// The cache that counts for each authority.
fn caches<'a, V: Variant>(
    lines: &'a [Line<V>],
    authorities: &[Authority],
    choice: impl Fn(&Authority) -> usize,
) -> Vec<&'a Cache> {
    let chosen = authorities.iter().map(choice);
    chosen.map(|id| lines[id].ads.cache()).collect()
}
