//! What a workload asks of its clients (Istio `PeerAuthentication`), and what that makes of the two ends: the listener that its
//! server goes by, and how its clients call it.
//!
//! One answer for both, so that they agree: mesh, then namespace, then workload, then port, where the narrower document wins and
//! `UNSET` inherits; of several on one level the oldest counts. Without any the answer is STRICT, where Istio's is PERMISSIVE.
//! Istio has one more rule, which is not taken over: that DISABLE for a namespace turns off the clients' TLS also where a workload
//! says STRICT, so that its calls fail.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use mesh_core::config::{
    Authorization, ChainIdentity, ChainMatch, Clients, FilterChain, Inbound, InboundSecurity, IpPrefix, RateLimits,
    Telemetry, Traffic, Transport,
};

use super::authorization::{self, Policies};
use super::endpoint;
use super::limits::{self, Limits};
use super::service::Registry;
use super::telemetry::{self, Told};
use super::{ClientScope, Findings, Mesh, Origin};
use crate::SERVER_LISTENERS;
use crate::diagnostic::{Code, Severity};
use crate::istio::{Document, Documents, Meta, Mode, PeerAuthentication};

type Labels = BTreeMap<String, String>;

/// What is asked where.
type Places = BTreeMap<SocketAddr, Asked>;

/// What a workload asks of its clients at an address.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    mode: Mode,
    /// Of each of its requests.
    authorization: Arc<Authorization>,
    /// How many of them it takes.
    limits: Arc<RateLimits>,
    /// What it tells of them.
    telemetry: Telemetry,
}

impl Asked {
    /// What both ask.
    fn and(&self, other: &Self) -> Self {
        Self {
            mode: self.mode.max(other.mode),
            authorization: authorization::both(&self.authorization, &other.authorization),
            limits: limits::both(&self.limits, &other.limits),
            telemetry: telemetry::both(&self.telemetry, &other.telemetry),
        }
    }
}

/// The documents by what they are for.
#[derive(Debug, Default)]
pub(super) struct Authentication<'a> {
    mesh: Option<&'a Document<PeerAuthentication>>,
    namespaces: BTreeMap<&'a str, &'a Document<PeerAuthentication>>,
    /// Oldest first.
    workloads: BTreeMap<&'a str, Vec<&'a Document<PeerAuthentication>>>,
    limits: Limits<'a>,
    told: Told<'a>,
}

impl<'a> Authentication<'a> {
    pub(super) fn new(documents: &'a Documents, mesh: &Mesh, findings: &mut Findings) -> Self {
        let mut all = Self::default();
        for document in &documents.peer_authentications {
            let (namespace, spec) = (document.meta.namespace(), &document.spec);
            match (&spec.selector, namespace == &*mesh.root_namespace) {
                (None, true) => drop(all.mesh.get_or_insert(document)),
                (None, false) => drop(all.namespaces.entry(namespace).or_insert(document)),
                (Some(_), false) => all.workloads.entry(namespace).or_default().push(document),
                (Some(selector), true) => {
                    let message = "a document with a selector has no effect in the root namespace (Istio)";
                    findings.say(
                        &document.meta,
                        Severity::Warning,
                        Code::NotServed,
                        &selector.place,
                        message,
                    );
                }
            }
        }
        all.limits = Limits::new(documents, mesh, findings);
        all.told = Told::new(documents, mesh, findings);
        all
    }

    /// What is told of calls.
    pub(super) fn told(&self) -> &Told<'a> {
        &self.told
    }

    /// What a workload of `namespace` with `labels` asks on its own port `port`.
    pub(super) fn mode(&self, namespace: &str, labels: &Labels, port: u16) -> Mode {
        self.decided(namespace, labels, port)
            .map_or(Mode::Strict, |(mode, _)| mode)
    }

    /// The same, and the document that says so; `None`: none does.
    fn decided(&self, namespace: &str, labels: &Labels, port: u16) -> Option<(Mode, &'a Meta)> {
        let workloads = self.workloads.get(namespace).into_iter().flatten();
        let selects = |one: &&&Document<PeerAuthentication>| {
            let selector = one.spec.selector.as_ref();
            selector.is_some_and(|selector| selector.selects(labels))
        };
        let own = workloads.copied().find(|one| selects(&one));
        let of_port = own.and_then(|one| Some((one.spec.ports.get(&port).copied().flatten()?, &one.meta)));
        let of = |one: Option<&'a Document<PeerAuthentication>>| one.and_then(|one| Some((one.spec.mode?, &one.meta)));
        of_port
            .or_else(|| of(own))
            .or_else(|| of(self.namespaces.get(namespace).copied()))
            .or_else(|| of(self.mesh))
    }

    /// Which document says how connections to an address are taken (the strictest workload's, where several are there), and the labels of
    /// all workloads there.
    pub(super) fn origin<'d>(
        &self,
        documents: &'d Documents,
        namespace: &str,
        registry: &Registry<'d>,
        address: SocketAddr,
    ) -> (Option<Origin>, Vec<&'d Labels>) {
        let there = workloads(documents, namespace, registry).into_iter();
        let there = there.filter(|one| one.ip == address.ip() && one.ports.contains(&address.port()));
        let labels: Vec<&Labels> = there.map(|one| one.labels).collect();
        let decided = labels
            .iter()
            .filter_map(|one| self.decided(namespace, one, address.port()));
        let strictest = decided.max_by_key(|(mode, _)| *mode);
        (strictest.map(|(_, meta)| Origin::new(meta, &meta.place)), labels)
    }

    /// The listeners that servers of the scope's namespace go by: one for each address where a workload is, and one for each
    /// port of them on every address, since a server mostly listens on all.
    pub(super) fn listeners(
        &self,
        documents: &Documents,
        policies: &Policies<'_>,
        (scope, registry): (&ClientScope, &Registry<'_>),
        findings: &mut Findings,
    ) -> Vec<(Arc<str>, Arc<Inbound>)> {
        let mut authorize = |labels: &Labels, mode: Mode| {
            if mode != Mode::Strict {
                policies.warn_of_plaintext(&scope.namespace, labels, findings);
            }
            policies.of_workload(&scope.namespace, labels, findings)
        };
        let places = self.places(documents, scope, registry, &mut authorize);
        let own = places
            .iter()
            .map(|(address, asked)| (*address, chains(asked, &[], None), None));
        let everywhere = everywhere(&places);
        let all = own.chain(everywhere).map(|(address, chains, default)| {
            let text = address.to_string();
            let inbound = Inbound {
                name: SERVER_LISTENERS.replace("%s", &text).into(),
                address,
                chains,
                default,
            };
            (text.into(), Arc::new(inbound))
        });
        all.collect()
    }

    /// What the scope's servers go by at an address that no document describes. Where a document knows the workload and not the port,
    /// selectors mean it all the same: a policy is for a workload, by whatever port. At other addresses nobody knows whose server it is: it may
    /// be any of those that a selector means, one whose `WorkloadEntry` was taken away, or is misspelt, or to come. So what holds there is what
    /// all of them ask together: a policy that closes goes on closing, and nobody is let in because a document is not there.
    pub(super) fn undescribed(
        &self,
        documents: &Documents,
        policies: &Policies<'_>,
        (scope, registry): (&ClientScope, &Registry<'_>),
        findings: &mut Findings,
    ) -> Arc<Inbound> {
        let namespace = &*scope.namespace;
        let mut asked = |labels: &Labels, port: Option<u16>| {
            let mode = self.mode(namespace, labels, port.unwrap_or(NO_PORT));
            if mode != Mode::Strict {
                policies.warn_of_plaintext(namespace, labels, findings);
            }
            Asked {
                mode,
                authorization: Arc::new(policies.of_workload(namespace, labels, findings)),
                limits: self.limits.of_workload(namespace, labels, port.unwrap_or(NO_PORT)),
                telemetry: self.told.of_server(namespace, labels),
            }
        };
        let workloads = workloads(documents, namespace, registry);
        let selectors = selected(documents, namespace, policies.root());
        // A chain for a port hides those for every port, so each port of which a document says something has all of them.
        let documents = self.workloads.get(namespace).into_iter().flatten();
        let ports = documents.flat_map(|one| one.spec.ports.keys().copied());
        let ports: BTreeSet<u16> = ports.chain(self.limits.ports(namespace)).collect();
        let mut all = Vec::new();
        for port in ports.into_iter().map(Some).chain([None]) {
            // Many workloads have the same labels, and what is the same then is the same value.
            let mut by_labels: BTreeMap<&Labels, Asked> = BTreeMap::new();
            let mut known: BTreeMap<IpAddr, Asked> = BTreeMap::new();
            for workload in &workloads {
                let own = by_labels.entry(workload.labels);
                let own = own.or_insert_with(|| asked(workload.labels, port)).clone();
                let stricter = |known: &mut Asked| *known = known.and(&own);
                known
                    .entry(workload.ip)
                    .and_modify(stricter)
                    .or_insert_with(|| own.clone());
            }
            let mut others = asked(&Labels::new(), port);
            for labels in &selectors {
                others = others.and(&asked(labels, port));
            }
            let narrow = grouped(known.iter().map(|(ip, asked)| (*ip, asked)), &others);
            all.extend(
                narrow
                    .into_iter()
                    .flat_map(|(asked, places)| chains(asked, &places, port)),
            );
            all.extend(chains(&others, &[], port));
        }
        Arc::new(Inbound {
            name: SERVER_LISTENERS.into(),
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), NO_PORT),
            chains: all,
            default: None,
        })
    }

    /// What is asked at each address of the namespace's workloads. Where two documents have one address, and make different
    /// workloads of it, the stricter of both.
    fn places(
        &self,
        documents: &Documents,
        scope: &ClientScope,
        registry: &Registry<'_>,
        authorize: &mut dyn FnMut(&Labels, Mode) -> Authorization,
    ) -> Places {
        let namespace = &*scope.namespace;
        let mut places = Places::new();
        for workload in workloads(documents, namespace, registry) {
            for port in workload.ports {
                let mode = self.mode(namespace, workload.labels, port);
                let asked = Asked {
                    mode,
                    authorization: Arc::new(authorize(workload.labels, mode)),
                    limits: self.limits.of_workload(namespace, workload.labels, port),
                    telemetry: self.told.of_server(namespace, workload.labels),
                };
                let stricter = |known: &mut Asked| *known = known.and(&asked);
                places
                    .entry(SocketAddr::new(workload.ip, port))
                    .and_modify(stricter)
                    .or_insert_with(|| asked.clone());
            }
        }
        places
    }

    /// Warns of selectors that mean no workload: one that is misspelt leaves open what it was to close.
    pub(super) fn warn_of_nobody(
        &self,
        documents: &Documents,
        mesh: &Mesh,
        (scope, registry): (&ClientScope, &Registry<'_>),
        findings: &mut Findings,
    ) {
        let workloads = workloads(documents, &scope.namespace, registry);
        let (modes, policies) = (&documents.peer_authentications, &documents.authorization_policies);
        let modes = modes.iter().map(|document| (&document.meta, &document.spec.selector));
        let policies = policies
            .iter()
            .map(|document| (&document.meta, &document.spec.selector));
        let tokens = documents.request_authentications.iter();
        let tokens = tokens.map(|document| (&document.meta, &document.spec.selector));
        for (meta, selector) in modes.chain(policies).chain(tokens) {
            let Some(selector) = selector else { continue };
            let is_own = meta.namespace() == &*scope.namespace && meta.namespace() != &*mesh.root_namespace;
            let there = workloads.iter().map(|workload| workload.labels);
            let to_come = endpoint::to_come(documents, &scope.namespace);
            if is_own && !there.chain(to_come).any(|labels| selector.selects(labels)) {
                let message =
                    "selects no workload that a WorkloadEntry, ServiceEntry or WorkloadGroup describes, and so nobody";
                findings.say(meta, Severity::Warning, Code::NoWorkload, &selector.place, message);
            }
        }
    }
}

/// Stands for no port of which a document says something.
const NO_PORT: u16 = 0;

/// A workload of a namespace that a document describes.
struct Workload<'a> {
    ip: IpAddr,
    ports: Vec<u16>,
    labels: &'a Labels,
}

fn workloads<'a>(documents: &'a Documents, namespace: &str, registry: &Registry<'a>) -> Vec<Workload<'a>> {
    let mut all = Vec::new();
    for service in registry.services().filter(|service| service.internal) {
        for member in service.members.iter().filter(|member| member.namespace() == namespace) {
            let ports = service.ports.iter().filter_map(|port| member.address_at(port));
            all.push(Workload {
                ip: member.ip(),
                ports: ports.map(|address| address.port()).collect(),
                labels: member.labels,
            });
        }
    }
    for pod in documents.pods.iter().filter(|pod| pod.meta.namespace() == namespace) {
        let ip = pod.spec.ip.as_ref().and_then(|ip| ip.parse().ok());
        all.extend(ip.map(|ip| Workload {
            ip,
            ports: Vec::new(),
            labels: &pod.spec.labels,
        }));
    }
    // Those that no service has selected yet listen all the same.
    for entry in documents
        .workload_entries
        .iter()
        .filter(|entry| entry.meta.namespace() == namespace)
    {
        let Ok(ip) = entry.spec.address.parse::<IpAddr>() else {
            continue;
        };
        let ports = entry.spec.ports.values();
        let ports = ports.filter_map(|port| u16::try_from(port.value).ok().filter(|port| *port > 0));
        all.push(Workload {
            ip,
            ports: ports.collect(),
            labels: &entry.spec.labels,
        });
    }
    all
}

/// The labels by which the namespace's documents, and those of the root namespace, select workloads, each once: a workload that has them is
/// meant by all of them whose labels are among its own.
fn selected(documents: &Documents, namespace: &str, root: &str) -> Vec<Labels> {
    let modes = documents.peer_authentications.iter();
    let modes = modes.map(|document| (&document.meta, &document.spec.selector));
    let policies = documents.authorization_policies.iter();
    let policies = policies.map(|document| (&document.meta, &document.spec.selector));
    let tokens = documents.request_authentications.iter();
    let tokens = tokens.map(|document| (&document.meta, &document.spec.selector));
    let limits = documents.envoy_filters.iter();
    let limits = limits.map(|document| (&document.meta, &document.spec.selector));
    let all = modes.chain(policies).chain(tokens).chain(limits);
    let own = all.filter(|(meta, _)| [namespace, root].contains(&meta.namespace()));
    let labels: BTreeSet<&Labels> = own
        .filter_map(|(_, selector)| Some(&selector.as_ref()?.labels))
        .collect();
    labels.into_iter().cloned().collect()
}

/// The addresses at which something else is asked than `others`, by what that is; the stricter modes first.
fn grouped<'a>(places: impl Iterator<Item = (IpAddr, &'a Asked)>, others: &Asked) -> Vec<(&'a Asked, Vec<IpPrefix>)> {
    let mut groups: Vec<(&Asked, Vec<IpPrefix>)> = Vec::new();
    for (place, asked) in places.filter(|(_, asked)| *asked != others) {
        match groups.iter_mut().find(|(other, _)| *other == asked) {
            Some((_, places)) => places.push(whole(place)),
            None => groups.push((asked, vec![whole(place)])),
        }
    }
    groups.sort_by_key(|(asked, _)| Reverse(asked.mode));
    groups
}

/// For servers that listen on every address: a port is asked for what the strictest of its workloads asks, and less only at the
/// addresses of those that ask for less.
fn everywhere(places: &Places) -> impl Iterator<Item = (SocketAddr, Vec<FilterChain>, Option<FilterChain>)> {
    let ports: BTreeSet<u16> = places.keys().map(SocketAddr::port).collect();
    let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let named: BTreeSet<SocketAddr> = places
        .keys()
        .copied()
        .filter(|place| place.ip().is_unspecified())
        .collect();
    let each = ports
        .into_iter()
        .flat_map(move |port| any.map(|any| SocketAddr::new(any, port)));
    each.filter(move |address| !named.contains(address))
        .filter_map(move |address| {
            let of_port = places.iter().filter(|(place, _)| place.port() == address.port());
            // A socket for IPv4 takes nothing else; one for IPv6 takes both.
            let of_port: Vec<_> = of_port
                .filter(|(place, _)| place.is_ipv4() || address.is_ipv6())
                .map(|(place, asked)| (place.ip(), asked))
                .collect();
            // Connections to an address that no workload has are asked for what all of them ask together.
            let (_, first) = of_port.first()?;
            let strictest = of_port.iter().fold((*first).clone(), |all, (_, asked)| all.and(asked));
            let narrow = grouped(of_port.into_iter(), &strictest).into_iter();
            let narrow = narrow.flat_map(|(asked, places)| chains(asked, &places, None));
            let chains = narrow.chain(chains(&strictest, &[], None)).collect();
            Some((address, chains, None))
        })
}

/// The range that is one address.
fn whole(address: IpAddr) -> IpPrefix {
    let bits = if address.to_canonical().is_ipv4() { 32 } else { 128 };
    IpPrefix::new(address, bits).expect("every address has as many bits as its kind")
}

/// The chains of one mode for connections to `destinations`; none: to any. Plaintext is told by how it begins, which is all that
/// gRPC's shape can say (A36); TLS is what is left.
fn chains(asked: &Asked, destinations: &[IpPrefix], port: Option<u16>) -> Vec<FilterChain> {
    let chain = |name: &str, transport, security| FilterChain {
        name: name.into(),
        matches: ChainMatch {
            port,
            transport,
            destinations: destinations.to_vec(),
            ..ChainMatch::default()
        },
        security,
        identity: ChainIdentity::default(),
        traffic: Traffic::Http,
        authorization: Arc::clone(&asked.authorization),
        limits: Arc::clone(&asked.limits),
        telemetry: asked.telemetry.clone(),
    };
    let mutual = || chain("mutual", None, InboundSecurity::Mutual(Clients::Trusted));
    match asked.mode {
        Mode::Strict => vec![mutual()],
        Mode::Permissive => {
            let plaintext = chain("plaintext", Some(Transport::RawBuffer), InboundSecurity::Plaintext);
            vec![plaintext, mutual()]
        }
        Mode::Disable => vec![chain("plaintext", None, InboundSecurity::Plaintext)],
    }
}
