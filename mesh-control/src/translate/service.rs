//! The services there are for a client: each `Service` of a cluster and each host of each `ServiceEntry`, with its members.
//!
//! Two entries may define one host, each for namespaces of its own. What the client sees comes first, of that its own
//! namespace, then the oldest (Istio's order within a sidecar's scope). A host of which it sees no definition is kept all the
//! same: a rule may name it, and then the reason is not that there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::endpoint::{self, Member};
use super::imports::Imports;
use super::slices::Slices;
use super::{ClientScope, Findings, Mesh, Origin, host};
use crate::diagnostic::{Code, Severity};
use crate::istio::{
    At, Document, Documents, KubernetesService, Location, Meta, Place, Port, Resolution, ServiceEntry, has_all,
};

/// A callable host.
#[derive(Debug)]
pub(super) struct Service<'a> {
    pub(super) host: String,
    pub(super) meta: &'a Meta,
    pub(super) ports: &'a [Port],
    pub(super) members: Vec<Member<'a>>,
    /// Whether workloads may become members that register themselves: then it is no mistake that there are none yet.
    pub(super) awaits: bool,
    /// Called with mutual TLS.
    pub(super) internal: bool,
    /// Of a cluster, and not an entry's.
    of_cluster: bool,
    /// Whether the client's Sidecar lets it be seen.
    pub(super) is_imported: bool,
    export_to: &'a [At<String>],
}

impl Service<'_> {
    /// Whether it is exported to a client, whose Sidecar lets it be seen.
    pub(super) fn is_visible(&self, client: &str) -> bool {
        let names = self.export_to.iter().map(|name| name.as_str());
        self.is_imported && host::is_visible(names, self.meta.namespace(), client)
    }

    pub(super) fn port(&self, number: u32) -> Option<&Port> {
        self.ports.iter().find(|port| *port.number == number)
    }

    /// Where its endpoints on a port were written, by the host and their address.
    pub(super) fn origins(&self, port: &Port) -> impl Iterator<Item = ((Box<str>, SocketAddr), Origin)> {
        let members = self.members.iter();
        members.filter_map(move |member| Some(((self.host.as_str().into(), member.address_at(port)?), member.origin())))
    }

    /// Whose definition of a host counts; the smaller. Between equals the older.
    fn rank(&self, client: &str) -> (bool, bool, bool) {
        let is_own = self.meta.namespace() == client;
        (!self.is_visible(client), !self.of_cluster, !is_own)
    }

    /// The port that a name without one means.
    pub(super) fn lowest_port(&self) -> Option<u32> {
        self.ports.iter().map(|port| *port.number).min()
    }
}

/// Every service, by host.
#[derive(Debug, Default)]
pub(super) struct Registry<'a> {
    services: BTreeMap<String, Service<'a>>,
    /// Hosts that are defined and cannot be served, with the reason.
    unserved: BTreeMap<String, &'static str>,
    /// Every port that some definition gives a host, seen by the client or not.
    ports: BTreeSet<(String, u32)>,
    /// What the client's Sidecar lets it see.
    pub(super) imports: Imports<'a>,
}

impl<'a> Registry<'a> {
    pub(super) fn new(documents: &'a Documents, mesh: &Mesh, scope: &ClientScope, findings: &mut Findings) -> Self {
        let mut registry = Self {
            imports: Imports::new(documents, mesh, scope, findings),
            ..Self::default()
        };
        let slices = Slices::new(documents);
        for document in &documents.services {
            registry.add_of_cluster(document, (documents, &slices), mesh, scope, findings);
        }
        for document in &documents.service_entries {
            registry.add(document, documents, mesh, scope, findings);
        }
        registry
    }

    pub(super) fn get(&self, host: &str) -> Option<&Service<'a>> {
        self.services.get(host)
    }

    pub(super) fn services(&self) -> impl Iterator<Item = &Service<'a>> {
        self.services.values()
    }

    /// Whether some definition of a host, seen by the client or not, has a port.
    pub(super) fn is_port_anywhere(&self, host: &str, port: u32) -> bool {
        self.ports.contains(&(host.to_owned(), port))
    }

    /// Why a host that is defined is not served.
    pub(super) fn why_unserved(&self, host: &str) -> Option<&'static str> {
        self.unserved.get(host).copied()
    }

    /// A service of a cluster. It comes before any entry of its host (Istio).
    fn add_of_cluster(
        &mut self,
        document: &'a Document<KubernetesService>,
        (documents, slices): (&'a Documents, &Slices<'a>),
        mesh: &Mesh,
        scope: &ClientScope,
        findings: &mut Findings,
    ) {
        let Document { meta, spec } = document;
        let host = host::of_cluster(&meta.name, meta.namespace(), &mesh.domain);
        if let Some(why) = spec.unserved {
            self.unserved.entry(host).or_insert(why);
            return;
        }
        check_ports(meta, &spec.ports, findings);
        let service = Service {
            is_imported: self.imports.has(&host, meta.namespace()),
            host,
            meta,
            ports: &spec.ports,
            members: slices.members(document, mesh, findings),
            awaits: !spec.selector.is_empty()
                && endpoint::to_come(documents, meta.namespace()).any(|labels| has_all(labels, &spec.selector)),
            internal: true,
            of_cluster: true,
            export_to: &spec.export_to,
        };
        self.define(service, &meta.place, scope, findings);
    }

    fn add(
        &mut self,
        document: &'a Document<ServiceEntry>,
        documents: &'a Documents,
        mesh: &Mesh,
        scope: &ClientScope,
        findings: &mut Findings,
    ) {
        let Document { meta, spec } = document;
        check_ports(meta, &spec.ports, findings);
        let resolution = spec.resolution.as_ref();
        let unserved = match resolution.map(|at| at.value) {
            Some(Resolution::Static) => None,
            Some(Resolution::Dns) => Some("resolution by DNS is not served by this version"),
            Some(Resolution::None) | None => Some("resolution NONE, Istio's default, needs a proxy: write STATIC"),
        };
        if let Some(why) = unserved {
            let place = resolution.map_or(&spec.place, |at| &at.place);
            findings.say(
                meta,
                Severity::Warning,
                Code::NotServed,
                place,
                format!("{why}: the hosts cannot be called"),
            );
        }
        let members = endpoint::members(document, documents, mesh, findings);
        let selector = spec.workload_selector.as_ref();
        let awaits = selector.is_some_and(|selector| {
            endpoint::to_come(documents, meta.namespace()).any(|labels| selector.selects(labels))
        });
        for name in &spec.hosts {
            let host = host::resolve(name, meta.namespace(), &mesh.domain);
            if host.starts_with('*') {
                let message = "wildcard hosts are not served by this version: they cannot be called";
                findings.say(meta, Severity::Warning, Code::NotServed, &name.place, message);
                self.unserved
                    .entry(host)
                    .or_insert("wildcard hosts are not served by this version");
            } else if !host::is_host(&host) {
                findings.say(
                    meta,
                    Severity::Error,
                    Code::Schema,
                    &name.place,
                    format!("{:?} is not a host", **name),
                );
            } else if let Some(why) = unserved {
                self.unserved.entry(host).or_insert(why);
            } else {
                let internal = spec
                    .location
                    .as_ref()
                    .is_some_and(|at| at.value == Location::MeshInternal);
                let service = Service {
                    is_imported: self.imports.has(&host, meta.namespace()),
                    host,
                    meta,
                    ports: &spec.ports,
                    members: members.clone(),
                    awaits,
                    internal,
                    of_cluster: false,
                    export_to: &spec.export_to,
                };
                self.define(service, &name.place, scope, findings);
            }
        }
    }

    /// Adds a service, unless there is one of that host that counts more.
    fn define(&mut self, service: Service<'a>, place: &Place, scope: &ClientScope, findings: &mut Findings) {
        let client = &*scope.namespace;
        let ports = service.ports.iter().map(|port| (service.host.clone(), *port.number));
        self.ports.extend(ports);
        let Some(older) = self.services.get(&service.host) else {
            self.services.insert(service.host.clone(), service);
            return;
        };
        let wins = service.rank(client) < older.rank(client);
        // Two that no client sees both of are no conflict.
        if service.is_visible(client) && older.is_visible(client) {
            let counts = if wins {
                format!("this definition counts for {scope}")
            } else {
                "the older definition counts".to_owned()
            };
            let message = format!("host {:?} is defined by {} already; {counts}", service.host, older.meta);
            findings.say(service.meta, Severity::Warning, Code::Duplicate, place, message);
        }
        if wins {
            self.services.insert(service.host.clone(), service);
        }
    }
}

fn check_ports(meta: &Meta, ports: &[Port], findings: &mut Findings) {
    for (index, port) in ports.iter().enumerate() {
        if *port.number == 0 {
            findings.say(
                meta,
                Severity::Error,
                Code::Schema,
                &port.number.place,
                "a port is between 1 and 65535",
            );
        }
        let older = &ports[..index];
        if older.iter().any(|other| *other.number == *port.number) {
            let message = format!("port {} is defined twice", *port.number);
            findings.say(meta, Severity::Error, Code::Schema, &port.number.place, message);
        }
        if older.iter().any(|other| *other.name == *port.name) {
            let message = format!("two ports are called {:?}", *port.name);
            findings.say(meta, Severity::Error, Code::Schema, &port.name.place, message);
        }
    }
}
