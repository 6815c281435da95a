//! From what is reported and published to services and edges. Pure: it is given all it looks at.
//!
//! Who calls is what a client's node says it is, in the namespace that its certificate vouches for; who is called is the application
//! behind the cluster, so that a service that calls others is one place in the picture and not two.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_core::Snapshot;
use mesh_core::config::Service;
use mesh_core::identity::SpiffeId;
use mesh_core::report::CallReport;
use mesh_core::report::calls::bounds_ms;
use mesh_core::report::standard::Workload;
use mesh_xds::server::{Acknowledged, ClientLoad, ClientReport, ReportedLoad, SubscriptionReport};
use mesh_xds::{Node, ResourceKind};

use super::api;
use super::numbers::Numbers;
use super::rules::{Id, Known, Name, Told};
use crate::publish::Status;
use crate::roster::moment;

/// The most services that are shown, and the most edges: more than anybody can look at, and a bound for what one answer costs.
const MAX_SERVICES: usize = 2_000;
const MAX_EDGES: usize = 10_000;

/// What there is to look at.
pub(super) struct Seen {
    pub(super) clients: Vec<ClientReport>,
    pub(super) loads: Vec<ClientLoad>,
    pub(super) snapshots: BTreeMap<Box<str>, Snapshot>,
    pub(super) status: Status,
    pub(super) interval: Duration,
}

/// A client, by what all of its streams say alike.
type Key<'a> = (&'a str, Option<&'a SpiffeId>, Option<SocketAddr>);

/// One process: its streams of resources, and that of its reports.
struct Process<'a> {
    name: String,
    node: &'a Node,
    peer: Option<&'a SpiffeId>,
    address: Option<SocketAddr>,
    group: &'a str,
    subscriptions: Vec<&'a SubscriptionReport>,
    load: Option<&'a ClientLoad>,
}

#[derive(Default)]
struct Sums<'a> {
    edges: BTreeMap<(Id, Id), EdgeSum<'a>>,
    services: BTreeMap<Id, ServiceSum>,
    left_out: usize,
}

#[derive(Default)]
struct EdgeSum<'a> {
    clusters: BTreeMap<&'a str, ClusterSum>,
    rules: Vec<api::Rule>,
    clients: BTreeSet<usize>,
}

struct ClusterSum {
    name: String,
    configured: Option<f64>,
    numbers: Numbers,
    report: CallReport,
    drops: BTreeMap<Option<String>, u64>,
}

#[derive(Default)]
struct ServiceSum {
    host: Option<String>,
    endpoints: BTreeMap<String, [usize; 2]>,
    clients: BTreeSet<usize>,
}

/// The answer.
pub(super) fn mesh(seen: &Seen, now: SystemTime) -> api::Mesh {
    let told: BTreeMap<&str, Told> = seen
        .snapshots
        .iter()
        .map(|(group, one)| (&**group, Told::of(one)))
        .collect();
    let processes = processes(&seen.clients, &seen.loads);
    let mut sums = Sums::default();
    for known in told.values().flat_map(Told::clusters) {
        sums.configured(known);
    }
    for (at, process) in processes.iter().enumerate() {
        sums.process(at, process, told.get(process.group));
    }
    let clients: Vec<_> = processes.iter().map(show).collect();
    let mut totals = Numbers::default();
    let mut inbound: BTreeMap<&Id, Numbers> = BTreeMap::new();
    let mut edges = Vec::new();
    for ((from, to), edge) in &sums.edges {
        let mut all = Numbers::default();
        edge.clusters.values().for_each(|cluster| all.add(&cluster.numbers));
        totals.add(&all);
        inbound.entry(to).or_default().add(&all);
        edges.push(edge.show(from, to, &all, &clients));
    }
    let services = sums
        .services
        .iter()
        .map(|(id, service)| service.show(id, inbound.get(id), &clients));
    api::Mesh {
        now: moment(now),
        interval_ms: u64::try_from(seen.interval.as_millis()).unwrap_or(u64::MAX),
        bounds_ms: bounds_ms().collect(),
        configuration: api::Configuration {
            accepted: seen.status.accepted,
            rejected: seen.status.rejected,
            is_rejected: seen.status.is_rejected(),
            diagnostics: seen.status.diagnostics.to_vec(),
        },
        totals: totals.show(),
        services: services.collect(),
        edges,
        clients,
        left_out: sums.left_out,
    }
}

/// The processes behind the streams. One has several where it asks for each kind by itself, and reports come by another.
fn processes<'a>(clients: &'a [ClientReport], loads: &'a [ClientLoad]) -> Vec<Process<'a>> {
    let mut all: Vec<Process<'a>> = Vec::new();
    let mut known: BTreeMap<Key<'a>, usize> = BTreeMap::new();
    for client in clients {
        let key = (client.node.id.as_str(), client.peer.as_ref(), client.address);
        let at = *known.entry(key).or_insert_with(|| {
            all.push(Process {
                name: client.stream.to_string(),
                node: &client.node,
                peer: client.peer.as_ref(),
                address: client.address,
                group: &client.group,
                subscriptions: Vec::new(),
                load: None,
            });
            all.len() - 1
        });
        all[at].subscriptions.extend(&client.subscriptions);
    }
    for load in loads {
        let key = (load.node.id.as_str(), load.peer.as_ref(), load.address);
        match known.get(&key).filter(|at| all[**at].load.is_none()) {
            Some(at) => all[*at].load = Some(load),
            None => all.push(Process {
                name: format!("reports-{}", load.stream),
                node: &load.node,
                peer: load.peer.as_ref(),
                address: load.address,
                group: &load.group,
                subscriptions: Vec::new(),
                load: Some(load),
            }),
        }
    }
    all
}

/// Who a process is, as far as anybody knows.
fn application(node: &Node, peer: Option<&SpiffeId>) -> Id {
    let workload = node.workload().unwrap_or_else(|| Workload::named(&node.id, ""));
    Id::of(&match peer {
        Some(peer) => workload.vouched_by(peer),
        None => workload,
    })
}

impl<'a> Sums<'a> {
    fn service(&mut self, id: &Id) -> Option<&mut ServiceSum> {
        if !self.services.contains_key(id) && self.services.len() >= MAX_SERVICES {
            self.left_out += 1;
            return None;
        }
        Some(self.services.entry(id.clone()).or_default())
    }

    fn configured(&mut self, known: &Known) {
        let Some(service) = self.service(&known.service) else {
            return;
        };
        service.host.clone_from(&known.host);
        let version = service.endpoints.entry(known.name.clone()).or_default();
        // The same to several groups, more or less.
        *version = (*version).max(known.endpoints);
    }

    fn process(&mut self, at: usize, process: &Process<'a>, told: Option<&Told>) {
        let own = application(process.node, process.peer);
        if let Some(service) = self.service(&own) {
            service.clients.insert(at);
        }
        for load in process.load.into_iter().flat_map(|load| &load.clusters) {
            self.cluster(at, &own, load.total.cluster.as_str(), Some(load), told);
        }
        // What it asked for and did not call is an edge, too.
        let asked = process
            .subscriptions
            .iter()
            .copied()
            .filter(|one| one.kind == ResourceKind::Cluster);
        for name in asked.flat_map(|one| &one.names) {
            if told.is_some_and(|told| told.cluster(name).is_some()) {
                self.cluster(at, &own, name, None, told);
            }
        }
    }

    fn cluster(&mut self, at: usize, own: &Id, name: &'a str, load: Option<&ReportedLoad>, told: Option<&Told>) {
        let known = told.and_then(|told| told.cluster(name)).cloned();
        let known = known.unwrap_or_else(|| gone(name));
        let key = (own.clone(), known.service.clone());
        let is_new = !self.edges.contains_key(&key);
        if is_new {
            if self.edges.len() >= MAX_EDGES {
                self.left_out += 1;
                return;
            }
            let Some(service) = self.service(&known.service) else {
                return;
            };
            if service.host.is_none() {
                service.host.clone_from(&known.host);
            }
        }
        let edge = self.edges.entry(key).or_default();
        edge.clients.insert(at);
        for rule in told.map_or(&[][..], |told| told.rules_of(&known.service)) {
            if !edge.rules.contains(rule) {
                edge.rules.push(rule.clone());
            }
        }
        let cluster = edge.clusters.entry(name).or_insert_with(|| ClusterSum {
            name: known.name.clone(),
            configured: known.configured,
            numbers: Numbers::default(),
            report: CallReport::default(),
            drops: BTreeMap::new(),
        });
        // Clients of several groups may be told different shares.
        if cluster.configured != known.configured {
            cluster.configured = None;
        }
        if let Some(load) = load {
            cluster.numbers.add(&Numbers::of(load));
            for locality in &load.total.localities {
                cluster.report.add(&locality.figures);
            }
            let drops = load
                .total
                .drops
                .iter()
                .map(|(category, calls)| (Some(category.to_string()), *calls));
            for (category, calls) in drops.chain([(None, load.total.uncategorised_drops)]) {
                let sum = cluster.drops.entry(category).or_default();
                *sum = sum.saturating_add(calls);
            }
        }
    }
}

/// A cluster that is not configured any more, or never was by us.
fn gone(name: &str) -> Known {
    let parts = Name::of(name);
    let service = Service::of_authority(parts.host);
    Known {
        service: Id::new(service.namespace(), service.name()),
        host: Some(parts.host.to_owned()),
        name: if parts.subset.is_empty() { "all" } else { parts.subset }.to_owned(),
        configured: None,
        endpoints: [0, 0],
    }
}

impl EdgeSum<'_> {
    fn show(&self, from: &Id, to: &Id, all: &Numbers, clients: &[api::Client]) -> api::Edge {
        let mut clusters: Vec<_> = self.clusters.iter().map(|(name, cluster)| cluster.show(name)).collect();
        clusters.retain(|cluster| self.clusters.len() == 1 || is_of_use(cluster));
        clusters.sort_by(|a, b| a.name.cmp(&b.name));
        api::Edge {
            id: format!("{from}>{to}"),
            from: from.to_string(),
            to: to.to_string(),
            numbers: all.show(),
            clusters,
            routes: self.rules.clone(),
            clients: self.clients.iter().map(|at| clients[*at].stream.clone()).collect(),
        }
    }
}

/// A cluster that is given nothing and got nothing is nobody's version: that of the whole service beside its subsets, mostly.
fn is_of_use(cluster: &api::Cluster) -> bool {
    let numbers = &cluster.numbers;
    cluster.configured.is_none_or(|share| share > 0.0)
        || [
            numbers.tries.total,
            numbers.calls.total,
            numbers.dropped.total,
            numbers.in_progress,
        ] != [0; 4]
}

impl ClusterSum {
    fn show(&self, name: &str) -> api::Cluster {
        let failures = self.report.failed.iter().map(|(failure, calls)| api::Failure {
            protocol: failure.protocol.to_string(),
            code: failure.code,
            flags: failure.flags.to_string(),
            calls: *calls,
        });
        let drops = self.drops.iter().filter(|(_, calls)| **calls > 0);
        api::Cluster {
            cluster: name.to_owned(),
            name: self.name.clone(),
            configured: self.configured,
            numbers: self.numbers.show(),
            failures: failures.collect(),
            drops: drops
                .map(|(category, calls)| api::Drop {
                    category: category.clone(),
                    calls: *calls,
                })
                .collect(),
        }
    }
}

impl ServiceSum {
    fn show(&self, id: &Id, inbound: Option<&Numbers>, clients: &[api::Client]) -> api::Service {
        let own = || self.clients.iter().map(|at| &clients[*at]);
        let refuses = |client: &&api::Client| client.resources.iter().any(|one| one.state == REFUSED);
        api::Service {
            id: id.to_string(),
            name: id.name.clone(),
            namespace: id.namespace.clone(),
            host: self.host.clone(),
            endpoints: self
                .endpoints
                .iter()
                .map(|(version, [healthy, all])| api::Endpoints {
                    version: version.clone(),
                    healthy: *healthy,
                    all: *all,
                })
                .collect(),
            clients: own().map(|client| client.stream.clone()).collect(),
            processes: self.clients.len(),
            refusing: own().filter(refuses).count(),
            inbound: inbound.map(Numbers::show),
        }
    }
}

const REFUSED: &str = "refused";

fn show(process: &Process<'_>) -> api::Client {
    let resources = process.subscriptions.iter().map(|one| {
        let (state, reason) = match &one.acknowledged {
            Acknowledged::Accepted => ("accepted", None),
            Acknowledged::Refused(reason) => (REFUSED, Some(reason.to_string())),
            Acknowledged::Waiting => ("waiting", None),
        };
        let text = |version: &Arc<str>| version.to_string();
        api::Resources {
            kind: kind(one.kind),
            names: one.names.len(),
            sent: one.sent.as_ref().map(text),
            accepted: one.accepted.as_ref().map(text),
            state,
            reason,
            refused_at: one.refused_at.and_then(moment),
        }
    });
    api::Client {
        stream: process.name.clone(),
        node: process.node.id.clone(),
        name: process.node.workload().map(|workload| workload.name().to_owned()),
        identity: process.peer.map(ToString::to_string),
        address: process.address.map(|address| address.to_string()),
        group: process.group.to_owned(),
        resources: resources.collect(),
        reports: process.load.map(|load| load.reports),
        left_out: process.load.map_or(0, |load| load.left_out),
    }
}

fn kind(kind: ResourceKind) -> &'static str {
    match kind {
        ResourceKind::Listener => "LDS",
        ResourceKind::Route => "RDS",
        ResourceKind::Cluster => "CDS",
        ResourceKind::Endpoints => "EDS",
        ResourceKind::ExtensionConfig => "ECDS",
    }
}
