//! What is told of how things stand: to the log and the counters, in the report, and to calls that wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use mesh_core::config::{Reason, ReasonKind};
use mesh_core::patience::Awaited;

use super::State;
use crate::client::ads::{Received, Variant};
use crate::client::assemble::Missing;
use crate::client::report::{self, Phase};

/// The most names told in the reason for a wait; the report has them all.
const MAX_NAMED: usize = 3;

impl<V: Variant> State<V> {
    /// Shows what came of a response.
    pub(super) fn note(&mut self, id: usize, received: Received) {
        let (Received { kind, taken }, line) = (received, &mut self.lines[id]);
        let Some(kind) = kind else { return };
        let (server, failing) = (&line.connection.server, line.ads.rules().fail_on_data_errors);
        let refused = taken.rejected.len();
        line.connection.updates.count(kind, taken.valid + refused, refused);
        for rejected in &taken.rejected {
            match failing {
                true => tracing::warn!(server, %rejected, "a resource was refused and is out of use"),
                false => tracing::warn!(server, %rejected, "a resource was refused; the last good one stays"),
            }
            self.tally.count("xds_resource", "refused");
        }
        for name in &taken.deleted {
            tracing::warn!(server, %kind, name = &**name, "deleted by the control plane; the last value is kept");
            self.tally.count("xds_resource", "deleted");
        }
        for name in &taken.returned {
            tracing::info!(server, %kind, name = &**name, "the control plane has it again");
        }
        self.report.rejections += taken.rejected.len() as u64;
        if let Some(last) = taken.rejected.into_iter().next_back() {
            self.report.last_rejection = Some(last);
        }
    }

    /// Notes what targets wait for, and since when each part is looked for.
    pub(super) fn await_all(&mut self, waiting: BTreeMap<Arc<str>, Vec<Missing>>, now: Instant) {
        let Some(link) = self.link.upgrade() else { return };
        let mut told = BTreeMap::new();
        let mut awaited = BTreeMap::new();
        for (target, missing) in waiting {
            let before = link.awaited(&target);
            let names: Vec<String> = missing.iter().map(Missing::to_string).collect();
            let each = names.iter().map(|name| {
                let known = before.iter().find(|known| *known.what == **name);
                known.cloned().unwrap_or_else(|| Awaited {
                    what: name.as_str().into(),
                    since: now,
                })
            });
            awaited.insert(Arc::clone(&target), each.collect());
            told.insert(target, names);
        }
        link.set_awaited(awaited);
        self.report.waiting = told;
    }

    pub(super) fn tell(&mut self) {
        if let Some(link) = self.link.upgrade() {
            let reason = self.waiting_reason();
            if link.waiting_reason() != reason {
                link.set_waiting(reason);
            }
            if let Some(heard) = self.report.last_heard {
                link.set_heard(heard);
            }
        }
        let in_use = |id: usize| {
            let mut needed = self.authorities.iter().filter(|authority| authority.is_needed);
            needed.any(|authority| authority.source() == id)
        };
        let servers = self.lines.len() - usize::from(self.disk.is_some());
        let lines = self.lines.iter().enumerate().take(servers);
        let connections = lines.map(|(id, line)| report::Connection {
            in_use: in_use(id),
            ..line.connection.clone()
        });
        self.report.connections = connections.collect();
        self.report.connection = self.report.connections[self.authorities[0].spoken_to()].clone();
        self.tell_of_disk();
        self.reports.send_replace(Arc::new(self.report.clone()));
    }

    /// What a call to a target that is not there yet is told. Trouble with one control plane is no reason while another may
    /// help.
    fn waiting_reason(&self) -> Option<Reason> {
        let needed = || self.authorities.iter().filter(|authority| authority.is_needed);
        for authority in needed() {
            let mut asked: Vec<usize> = authority.asked().collect();
            asked.dedup();
            let troubles: Option<Vec<&Reason>> = asked.iter().map(|id| self.lines[*id].trouble.as_ref()).collect();
            match troubles.as_deref() {
                Some([only]) => return Some((*only).clone()),
                Some(all) => {
                    let all: Vec<String> = all.iter().map(|reason| reason.to_string()).collect();
                    return Some(Reason::new(ReasonKind::Waiting, all.join("; ")));
                }
                None => {}
            }
        }
        if self.report.waiting.is_empty() {
            return None;
        }
        let hopeful = needed().flat_map(|authority| authority.asked());
        let mut hopeful = hopeful.filter(|id| self.lines[*id].trouble.is_none());
        let connection = &self.lines[hopeful.next()?].connection;
        let text = match connection.phase {
            Phase::Connected => format!("waiting for {} from {}", some(&self.report.waiting), connection.server),
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
