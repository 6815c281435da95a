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

use mesh_core::config::{ChainMatch, Clients, FilterChain, Inbound, InboundSecurity, IpPrefix, Traffic, Transport};

use super::service::Registry;
use super::{ClientScope, Findings, Mesh};
use crate::SERVER_LISTENERS;
use crate::diagnostic::{Code, Severity};
use crate::istio::{Documents, Mode, PeerAuthentication};

type Labels = BTreeMap<String, String>;

/// Who has what labels where.
type Places = BTreeMap<SocketAddr, Mode>;

/// The documents by what they are for.
#[derive(Debug, Default)]
pub(super) struct Authentication<'a> {
    mesh: Option<Mode>,
    namespaces: BTreeMap<&'a str, Option<Mode>>,
    /// Oldest first.
    workloads: BTreeMap<&'a str, Vec<&'a PeerAuthentication>>,
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
        scope: &ClientScope,
        registry: &Registry<'_>,
    ) -> Vec<(Arc<str>, Arc<Inbound>)> {
        let places = self.places(documents, scope, registry);
        let own = places
            .iter()
            .map(|(address, mode)| (*address, chains(*mode, Vec::new()), None));
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

    /// What is asked at each address of the namespace's workloads. Where two documents have one address, and make different
    /// workloads of it, the stricter of both.
    fn places(&self, documents: &Documents, scope: &ClientScope, registry: &Registry<'_>) -> Places {
        let namespace = &*scope.namespace;
        let mut places = Places::new();
        let mut add = |address: SocketAddr, labels: &Labels| {
            let mode = self.mode(namespace, labels, address.port());
            let stricter = |known: &mut Mode| *known = (*known).max(mode);
            places.entry(address).and_modify(stricter).or_insert(mode);
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
                .map(|(place, mode)| (place.ip(), *mode))
                .collect();
            let strictest = of_port.iter().map(|(_, mode)| *mode).max()?;
            let mut lax: Vec<_> = of_port.into_iter().filter(|(_, mode)| *mode != strictest).collect();
            lax.sort_by_key(|(place, mode)| (Reverse(*mode), *place));
            let narrow = lax.chunk_by(|(_, a), (_, b)| a == b).flat_map(|alike| {
                let places = alike.iter().map(|(place, _)| whole(*place)).collect();
                chains(alike[0].1, places)
            });
            let chains = narrow.chain(chains(strictest, Vec::new())).collect();
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
fn chains(mode: Mode, destinations: Vec<IpPrefix>) -> Vec<FilterChain> {
    let chain = |name: &str, transport, security| FilterChain {
        name: name.into(),
        matches: ChainMatch {
            transport,
            destinations: destinations.clone(),
            ..ChainMatch::default()
        },
        security,
        traffic: Traffic::Http,
    };
    let mutual = || chain("mutual", None, InboundSecurity::Mutual(Clients::Trusted));
    match mode {
        Mode::Strict => vec![mutual()],
        Mode::Permissive => {
            let plaintext = chain("plaintext", Some(Transport::RawBuffer), InboundSecurity::Plaintext);
            vec![plaintext, mutual()]
        }
        Mode::Disable => vec![chain("plaintext", None, InboundSecurity::Plaintext)],
    }
}
