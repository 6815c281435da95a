//! Down the references of targets and clusters, noting each name that is needed and each that is missing.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::{ClusterName, Reason, ReasonKind};

use super::cluster::Memo;
use super::hosts::{Answer, Hosts};
use super::{Key, Missing};
use crate::client::ads::Needs;
use crate::client::cache::{Cached, Found, Sources, Trouble, normal_form};
use crate::resource::Extension;

/// A walk down the references of targets or clusters.
pub(super) struct Walk<'a> {
    pub(super) sources: Sources<'a>,
    hosts: &'a Hosts,
    pub(super) needs: Needs,
    /// The last filter of each name (ECDS) that could be used.
    pub(super) filters: BTreeMap<Arc<str>, Arc<Extension>>,
    /// The names to be resolved, and how often.
    pub(super) lookups: BTreeMap<Arc<str>, Duration>,
    pub(super) missing: Lacks,
    /// Whether something is missing of the cluster that was resolved last: a name that is missing twice is noted once.
    pub(super) waits: bool,
    /// What the cluster that is being resolved was looked up by.
    looked_at: Vec<Key>,
    /// How often its hosts are to be resolved.
    refreshes: Vec<Duration>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(sources: Sources<'a>, hosts: &'a Hosts) -> Self {
        Self {
            sources,
            hosts,
            needs: Needs::default(),
            filters: BTreeMap::new(),
            lookups: BTreeMap::new(),
            missing: Lacks::default(),
            waits: false,
            looked_at: Vec::new(),
            refreshes: Vec::new(),
        }
    }

    /// What a cluster resolves to now. Where something of it is missing, that is noted, and the value says so.
    /// `before` is what it last resolved to, of which what is the same stays.
    pub(super) fn cluster(&mut self, name: &ClusterName, before: Option<&Memo>) -> Memo {
        self.waits = false;
        self.looked_at.clear();
        self.refreshes.clear();
        let made = self.resolve(name, before);
        let (looked_at, refreshes) = (mem::take(&mut self.looked_at), mem::take(&mut self.refreshes));
        Memo::new(looked_at, refreshes, made)
    }

    /// What a name is, noting that it was looked at, and that it is missing if it is.
    pub(super) fn look<R: Cached>(&mut self, name: &Arc<str>) -> Found<R> {
        let name = &match normal_form(name) {
            Cow::Borrowed(_) => Arc::clone(name),
            Cow::Owned(normal) => normal.into(),
        };
        self.needs[R::KIND.index()].insert(Arc::clone(name));
        self.looked_at.push(Key::Resource(R::KIND, Arc::clone(name)));
        let found = self.sources.find(name);
        if matches!(found, Found::Pending) {
            self.misses(Missing::Resource(R::KIND, Arc::clone(name)));
        }
        found
    }

    /// What a host name resolved to; `None` while it is not known.
    pub(super) fn resolve_host(&mut self, host: &str, refresh: Duration) -> Option<Answer> {
        let name: Arc<str> = host.into();
        self.looked_at.push(Key::Host(Arc::clone(&name)));
        self.refreshes.push(refresh);
        let often = self.lookups.entry(Arc::clone(&name)).or_insert(refresh);
        *often = refresh.min(*often);
        let answer = self.hosts.find(host).cloned();
        if answer.is_none() {
            self.misses(Missing::Host(name));
        }
        answer
    }

    /// Waits for all there is of a kind.
    pub(super) fn misses_all<R: Cached>(&mut self) {
        self.misses(Missing::All(R::KIND));
    }

    fn misses(&mut self, missing: Missing) {
        self.waits = true;
        self.missing.add(missing);
    }
}

/// What is missing, each once and in the order in which it was met. A route may wait for thousands of clusters.
#[derive(Debug, Default)]
pub(super) struct Lacks {
    in_order: Vec<Missing>,
    known: HashSet<Missing>,
}

impl Lacks {
    fn add(&mut self, missing: Missing) {
        if self.known.insert(missing.clone()) {
            self.in_order.push(missing);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.in_order.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.in_order.len()
    }

    /// Forgets what was added since there were `len`.
    pub(super) fn truncate(&mut self, len: usize) {
        for missing in self.in_order.drain(len..) {
            self.known.remove(&missing);
        }
    }

    /// Takes them all.
    pub(super) fn take(&mut self) -> Vec<Missing> {
        self.known.clear();
        mem::take(&mut self.in_order)
    }
}

pub(super) fn reason(trouble: Trouble, absent: ReasonKind) -> Reason {
    match trouble {
        Trouble::Absent(why) => Reason::new(absent, why),
        Trouble::Failed(why) | Trouble::TimedOut(why) => Reason::new(ReasonKind::Waiting, why),
        Trouble::Refused(rejected) => Reason::new(
            ReasonKind::Refused,
            format!("refused, and there was no good one before: {rejected}"),
        ),
    }
}
