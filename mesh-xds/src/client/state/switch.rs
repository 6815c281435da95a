//! Who is asked for an authority's names, and the change from one control plane to another without mixing them.
//!
//! The decision is [`Roles`]'; here it is given its facts, and carried out: the candidate is looked ahead for, and when it has
//! told everything its cache is the one that counts from the next look on.

use std::time::Instant;

use super::State;
use crate::client::ads::{Needs, Variant};
use crate::client::assemble::{Assembler, Missing};
use crate::client::cache::Changed;
use crate::client::fallback::{Condition, Roles};
use crate::client::lookups;

/// What an authority's names are asked of.
#[derive(Debug)]
pub(in crate::client) struct Authority {
    /// Places in the list of lines, in order of priority. Never empty.
    pub(super) lines: Vec<usize>,
    /// Their positions; behind the last is the disk's.
    pub(super) roles: Roles,
    /// The line of the copy on disk, until one of the others has taken over.
    pub(super) disk: Option<usize>,
    /// A control plane that does not answer is reason enough to fall back, even if nothing is lacking (gRFC A95).
    pub(super) on_reachability_only: bool,
    /// Something of it is wanted.
    pub(super) is_needed: bool,
}

impl Authority {
    pub(in crate::client) fn new(lines: Vec<usize>) -> Self {
        Self {
            lines,
            roles: Roles::default(),
            disk: None,
            on_reachability_only: false,
            is_needed: false,
        }
    }

    /// With a copy on disk that is served from until one of the lines has told everything.
    pub(in crate::client) fn with_disk(mut self, line: Option<usize>) -> Self {
        self.disk = line;
        self.rest();
        self
    }

    /// Goes back to the beginning: nothing is wanted any more.
    pub(super) fn rest(&mut self) {
        self.roles = match self.disk {
            Some(_) => Roles::behind(self.lines.len()),
            None => Roles::default(),
        };
    }

    pub(in crate::client) fn on_reachability_only(self, on_reachability_only: bool) -> Self {
        Self {
            on_reachability_only,
            ..self
        }
    }

    pub(super) fn source(&self) -> usize {
        self.line(self.roles.source())
    }

    pub(super) fn next_source(&self) -> usize {
        self.line(self.roles.next_source())
    }

    /// The control plane to tell of: the source, or the one that may become it.
    pub(super) fn spoken_to(&self) -> usize {
        let source = self.lines.get(self.roles.source());
        let next = source.or_else(|| self.lines.get(self.roles.next_source()));
        *next.unwrap_or(&self.lines[0])
    }

    fn line(&self, position: usize) -> usize {
        let line = self.lines.get(position).copied().or(self.disk);
        line.expect("a role is a line's, or the disk's while there is one")
    }

    fn is_from_disk(&self) -> bool {
        self.disk == Some(self.source())
    }

    /// Whether a line is to be asked for this authority's names.
    pub(super) fn asks(&self, line: usize) -> bool {
        let mut open = self.lines.iter().enumerate();
        let is_open = open.any(|(position, id)| *id == line && self.roles.is_open(position));
        self.is_needed && (is_open || self.disk == Some(line))
    }

    /// The lines that are to be asked for its names.
    pub(super) fn asked(&self) -> impl Iterator<Item = usize> {
        let open = self.lines.iter().enumerate();
        open.filter(|(position, _)| self.roles.is_open(*position))
            .map(|(_, id)| *id)
    }
}

/// A look at what there would be if the candidates had taken over.
#[derive(Debug)]
pub(super) struct Ahead {
    pub(super) assembler: Assembler,
    pub(super) needs: Needs,
    pub(super) lookups: lookups::Names,
    /// What is missing of it.
    pub(super) missing: Vec<Missing>,
}

impl<V: Variant> State<V> {
    /// Decides for one authority who is asked, or whose word counts. `None` when all is as it should be; else what may look
    /// different now.
    pub(super) fn turn(&mut self) -> Option<Vec<Changed>> {
        for place in 0..self.authorities.len() {
            let authority = &mut self.authorities[place];
            if !authority.is_needed {
                continue;
            }
            let lines = authority.lines.iter();
            let lines = lines.chain(&authority.disk);
            let conditions: Vec<Condition> = lines.map(|id| self.lines[*id].condition()).collect();
            let servers = authority.lines.len();
            let before = authority.roles;
            if authority.roles.elect(&conditions) {
                self.look_ahead();
                return Some(Vec::new());
            }
            if authority.roles != before {
                return Some(Vec::new());
            }
            if authority.roles.candidate().is_some() {
                if self.is_ready(place) {
                    return Some(self.take_over(place));
                }
            } else if authority.roles.all_fail(&conditions)
                && (self.authorities[place].on_reachability_only || self.lacks(place))
                && self.authorities[place].roles.fall_back(&conditions[..servers])
            {
                return Some(Vec::new());
            }
        }
        None
    }

    /// Nothing came on a line's stream in the time that a resource has: one that takes streams and says nothing has failed as if it had ended
    /// them (gRFC A57). Where another can be asked, what did not come is waited for once more meanwhile. Whether
    /// it was so.
    pub(super) fn suspect(&mut self, id: usize, now: Instant) -> bool {
        let line = &mut self.lines[id];
        if !line.ads.is_found_mute(now) {
            return false;
        }
        let server = &line.connection.server;
        let seconds = line.ads.rules().patience().as_secs();
        let why = format!("stream to {server}: timed out, nothing was heard on it in {seconds} s");
        tracing::warn!(server, reason = why, "a control plane says nothing");
        self.tally.count("xds_stream", "mute");
        line.fails(true, &why);
        let may_help = |other: &usize| *other != id && !self.lines[*other].connection.is_failing;
        let mut authorities = self.authorities.iter().filter(|authority| authority.asks(id));
        if authorities.any(|authority| authority.lines.iter().any(may_help)) {
            self.lines[id].ads.wait_again(now);
        }
        true
    }

    /// Begins to look ahead anew, if there is a candidate.
    fn look_ahead(&mut self) {
        let mut authorities = self.authorities.iter();
        let is_needed = authorities.any(|authority| authority.roles.candidate().is_some());
        self.ahead = is_needed.then(|| Ahead {
            assembler: Assembler::new(self.naming.clone()),
            needs: Needs::default(),
            lookups: lookups::Names::new(),
            missing: Vec::new(),
        });
    }

    /// Whether an authority's candidate has told everything, or there is nothing that its word could be mixed with.
    fn is_ready(&self, place: usize) -> bool {
        let belongs = |name: &str| self.directory.of(name) == Ok(place);
        let source = &self.lines[self.authorities[place].source()];
        let lacks = |missing: &Missing| match missing {
            Missing::Resource(_, name) => belongs(name),
            Missing::All(_) => place == 0,
            // Nobody's word.
            Missing::Host(_) => false,
        };
        let whole = |ahead: &Ahead| !ahead.missing.iter().any(lacks);
        !source.ads.cache().has_any(belongs) || self.ahead.as_ref().is_some_and(whole)
    }

    /// Whether something that is wanted of an authority is not known. What only the copy on disk says is not: a fallback
    /// that lives is better.
    fn lacks(&self, place: usize) -> bool {
        if self.authorities[place].is_from_disk() {
            return true;
        }
        let source = &self.lines[self.authorities[place].source()];
        let cache = source.ads.cache();
        let belongs = |name: &str| self.directory.of(name) == Ok(place);
        // What one that never said a word was given up on for its silence is no more known than before.
        let is_mute = source.connection.responses == 0 && !cache.has_any(belongs);
        let mut names = self.needs.names();
        let everything = place == 0 && cache.awaits_everything();
        everything || names.any(|(kind, name)| belongs(name) && (is_mute || cache.is_unknown(kind, name)))
    }

    /// From now on the candidate's word counts. Of what it does not have, the last good values go on (gRFC A88), another control plane's and
    /// those on disk alike: one that comes back empty must not end the calls that it was missed for.
    fn take_over(&mut self, place: usize) -> Vec<Changed> {
        let authority = &mut self.authorities[place];
        let old = authority.source();
        authority.roles.take_over();
        let new = authority.source();
        let from_disk = authority.disk.take_if(|disk| *disk == old).is_some();
        let (is_asked, directory) = (authority.asks(old), &self.directory);
        let belongs = |name: &str| directory.of(name) == Ok(place);
        if !from_disk {
            tracing::info!(
                from = self.lines[old].connection.server,
                to = self.lines[new].connection.server,
                "another control plane's word counts"
            );
        }
        let of_place = |(kind, name): Changed| belongs(&name).then_some((kind, name));
        let mut changed: Vec<Changed> = self.lines[old].ads.cache().names().filter_map(of_place).collect();
        changed.extend(self.lines[new].ads.cache().names().filter_map(of_place));
        if let Ok([old, new]) = self.lines.get_disjoint_mut([old, new])
            && !new.ads.rules().fail_on_data_errors
        {
            let inherited = new.ads.inherit(&old.ads, belongs);
            if let Some(disk) = self.disk.as_mut().filter(|_| from_disk) {
                disk.inherited.extend(inherited);
            }
        }
        self.look_no_further();
        self.let_go_of_disk();
        // What it said before is not to be believed when it comes back: the other may have gone on since.
        if is_asked && old != new {
            self.forget(old, place);
        }
        changed
    }

    /// Stops looking ahead when nobody is to take over any more. What that found needed is, until the next look at what is.
    pub(super) fn look_no_further(&mut self) {
        let mut authorities = self.authorities.iter();
        if authorities.any(|authority| authority.roles.candidate().is_some()) {
            return;
        }
        if let Some(ahead) = self.ahead.take() {
            self.needs = self.needs.union(&ahead.needs);
        }
    }

    /// Makes a line forget what it said of an authority, in such a way that it says it anew.
    fn forget(&mut self, id: usize, place: usize) {
        let others = |name: &str| {
            let of = self.directory.of(name);
            of.is_ok_and(|other| other != place && self.authorities[other].asks(id))
        };
        let kept = self.needs.filter(others, place != 0 && self.authorities[0].asks(id));
        let line = &mut self.lines[id];
        match kept.is_empty() {
            true => line.ads.reset(),
            false => {
                line.ads.subscribe(&kept);
                line.ads.forget_versions();
            }
        }
        line.leave();
    }
}
