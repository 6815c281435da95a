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
    Authorization, ChainMatch, Clients, FilterChain, Inbound, InboundSecurity, IpPrefix, RateLimits, Traffic, Transport,
};

use super::authorization::{self, Policies};
use super::limits::{self, Limits};
use super::service::Registry;
use super::{ClientScope, Findings, Mesh};
use crate::SERVER_LISTENERS;
use crate::diagnostic::{Code, Severity};
use crate::istio::{Documents, Mode, PeerAuthentication};

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
}

impl Asked {
    /// What both ask.
    fn and(&self, other: &Self) -> Self {
        Self {
            mode: self.mode.max(other.mode),
            authorization: authorization::both(&self.authorization, &other.authorization),
            limits: limits::both(&self.limits, &other.limits),
        }
    }
}

/// The documents by what they are for.
#[derive(Debug, Default)]
pub(super) struct Authentication<'a> {
    mesh: Option<Mode>,
    namespaces: BTreeMap<&'a str, Option<Mode>>,
    /// Oldest first.
    workloads: BTreeMap<&'a str, Vec<&'a PeerAuthentication>>,
    limits: Limits<'a>,
}

impl<'a> Authentication<'a> {
    pub(super) fn new(documents: &'a Documents, mesh: &Mesh, findings: &mut Findings) -> Self {
        let mut all = Self::default();
        let mut of_mesh = None;
        for document in &documents.peer_authentications {
            let (namespace, spec) = (document.meta.namespace(), &document.spec);
            match (&spec.selector, namespace == &*mesh.root_namespace) {
                (None, true) => drop(of_mesh.get_or_insert(spec.mode)),
                (None, false) => drop(all.namespaces.entry(namespace).or_insert(spec.mode)),
                (Some(_), false) => all.workloads.entry(namespace).or_default().push(spec),
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
        all.mesh = of_mesh.flatten();
        all.limits = Limits::new(documents, mesh, findings);
        all
    }

    /// What a workload of `namespace` with `labels` asks on its own port `port`.
    pub(super) fn mode(&self, namespace: &str, labels: &Labels, port: u16) -> Mode {
        let workloads = self.workloads.get(namespace).into_iter().flatten();
        let selects = |spec: &&&PeerAuthentication| spec.selector.as_ref().is_some_and(|one| one.selects(labels));
        let own = workloads.clone().find(selects);
        let of_port = own.and_then(|spec| spec.ports.get(&port).copied().flatten());
        of_port
            .or_else(|| own.and_then(|spec| spec.mode))
            .or_else(|| self.namespaces.get(namespace).copied().flatten())
            .or(self.mesh)
            .unwrap_or(Mode::Strict)
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
        let mut authorize = |labels: &Labels| policies.of_workload(&scope.namespace, labels, findings);
        let places = self.places(documents, scope, registry, &mut authorize);
        let own = places
            .iter()
            .map(|(address, asked)| (*address, chains(asked, &[]), None));
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

    /// What the scope's servers go by that no document describes: what holds for every workload of the namespace. Selectors mean
    /// none of them, since nobody knows their labels; one that is to be meant by a selector has a `WorkloadEntry`.
    pub(super) fn undescribed(
        &self,
        policies: &Policies<'_>,
        scope: &ClientScope,
        findings: &mut Findings,
    ) -> Arc<Inbound> {
        // Modes of one port come with a selector, so the port plays no part.
        let (nothing, any_port) = (Labels::new(), 0);
        let asked = Asked {
            mode: self.mode(&scope.namespace, &nothing, any_port),
            authorization: Arc::new(policies.of_workload(&scope.namespace, &nothing, findings)),
            limits: self.limits.of_workload(&scope.namespace, &nothing, any_port),
        };
        Arc::new(Inbound {
            name: SERVER_LISTENERS.into(),
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), any_port),
            chains: chains(&asked, &[]),
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
        authorize: &mut dyn FnMut(&Labels) -> Authorization,
    ) -> Places {
        let namespace = &*scope.namespace;
        let mut places = Places::new();
        let mut add = |address: SocketAddr, labels: &Labels| {
            let asked = Asked {
                mode: self.mode(namespace, labels, address.port()),
                authorization: Arc::new(authorize(labels)),
                limits: self.limits.of_workload(namespace, labels, address.port()),
            };
            let stricter = |known: &mut Asked| *known = known.and(&asked);
            places
                .entry(address)
                .and_modify(stricter)
                .or_insert_with(|| asked.clone());
        };
        let internal = registry.services().filter(|service| service.internal);
        for service in internal {
            let own = service.members.iter().filter(|member| member.namespace() == namespace);
            for member in own {
                let ports = service.ports.iter().filter_map(|port| member.address_at(port));
                ports.for_each(|address| add(address, member.labels));
            }
        }
        // Those that no service has selected yet listen all the same.
        let entries = documents.workload_entries.iter();
        for entry in entries.filter(|entry| entry.meta.namespace() == namespace) {
            let Ok(address) = entry.spec.address.parse::<IpAddr>() else {
                continue;
            };
            let ports = entry
                .spec
                .ports
                .values()
                .filter_map(|port| u16::try_from(port.value).ok());
            ports
                .filter(|port| *port > 0)
                .for_each(|port| add(SocketAddr::new(address, port), &entry.spec.labels));
        }
        places
    }
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
            let mut others: Vec<(&Asked, Vec<IpPrefix>)> = Vec::new();
            for (place, asked) in of_port.into_iter().filter(|(_, asked)| **asked != strictest) {
                match others.iter_mut().find(|(other, _)| *other == asked) {
                    Some((_, places)) => places.push(whole(place)),
                    None => others.push((asked, vec![whole(place)])),
                }
            }
            others.sort_by_key(|(asked, _)| Reverse(asked.mode));
            let narrow = others.into_iter().flat_map(|(asked, places)| chains(asked, &places));
            let chains = narrow.chain(chains(&strictest, &[])).collect();
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
fn chains(asked: &Asked, destinations: &[IpPrefix]) -> Vec<FilterChain> {
    let chain = |name: &str, transport, security| FilterChain {
        name: name.into(),
        matches: ChainMatch {
            transport,
            destinations: destinations.to_vec(),
            ..ChainMatch::default()
        },
        security,
        traffic: Traffic::Http,
        authorization: Arc::clone(&asked.authorization),
        limits: Arc::clone(&asked.limits),
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
