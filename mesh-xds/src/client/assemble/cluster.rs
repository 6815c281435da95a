//! What a cluster's name resolves to: its own endpoints, however they are found, or those of the clusters it stands for.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::{Cluster, ClusterName, Endpoint, Failover, Health, Reason, ReasonKind, Resolved};

use super::Key;
use super::hosts::{Addresses, Answer};
use super::walk::{Walk, reason};
use crate::client::cache::Found;
use crate::resource::{ClusterSpec, Discovery, DnsCluster, DnsHost, DnsKind, Endpoints};

/// How deep aggregate clusters may stand in one another (gRFC A37).
const MAX_DEPTH: usize = 16;
/// The most clusters that one may stand for, however they are nested: sixteen levels of two are more than any mesh means.
const MAX_LEAVES: usize = 256;
/// The most names that are looked up for one, whether there are such clusters or not: those that are not are asked for.
const MAX_NAMES: usize = 1024;

/// The most addresses of a `LOGICAL_DNS` host that are tried one after another: no call lasts longer than so many attempts.
const MAX_IN_ORDER: usize = 64;

/// What a cluster last resolved to.
#[derive(Debug)]
pub(super) struct Memo {
    /// The names that were looked up for it.
    pub(super) looked_at: Vec<Key>,
    /// How often its hosts are to be resolved, in their order.
    refreshes: Vec<Duration>,
    /// What it was made of, so that unchanged parts give the same `Arc`. Empty for an error.
    made_of: Vec<Part>,
    /// The clusters that it stands for, each with what it was made of.
    leaves: Vec<Leaf>,
    pub(super) resolved: Resolved<Cluster>,
    /// It is what it was before something went missing.
    pub(super) waits: bool,
}

/// What a name resolved to, and what that was made of.
#[derive(Debug)]
pub(super) struct Made {
    parts: Vec<Part>,
    leaves: Vec<Leaf>,
    resolved: Resolved<Cluster>,
}

impl Made {
    fn failed(reason: Reason) -> Self {
        Self {
            parts: Vec::new(),
            leaves: Vec::new(),
            resolved: Err(reason),
        }
    }
}

/// One of the values that a cluster was made of.
#[derive(Debug)]
pub(super) enum Part {
    Spec(Arc<ClusterSpec>),
    Endpoints(Arc<Endpoints>),
    Addresses(Addresses),
    /// A member that could not be had, or a name that does not resolve.
    Without(Reason),
}

impl Memo {
    pub(super) fn new(
        looked_at: Vec<Key>,
        refreshes: Vec<Duration>,
        Made {
            parts: made_of,
            leaves,
            resolved,
        }: Made,
    ) -> Self {
        Self {
            looked_at,
            refreshes,
            made_of,
            leaves,
            resolved,
            waits: false,
        }
    }

    /// Whether both ask for the same.
    pub(super) fn asks_like(&self, other: &Self) -> bool {
        self.looked_at == other.looked_at && self.refreshes == other.refreshes
    }

    /// Whether both came of the same resource, so that what differs is where its endpoints are.
    pub(super) fn has_spec_of(&self, other: &Self) -> bool {
        match (self.made_of.first(), other.made_of.first()) {
            (Some(this @ Part::Spec(_)), Some(other @ Part::Spec(_))) => this.is(other),
            _ => false,
        }
    }

    /// Whether both came of the same values, or are the same error.
    pub(super) fn is_made_like(&self, other: &Self) -> bool {
        match (&self.resolved, &other.resolved) {
            (Err(this), Err(other)) => this == other,
            (Ok(_), Ok(_)) => {
                let mut pairs = self.made_of.iter().zip(&other.made_of);
                self.made_of.len() == other.made_of.len() && pairs.all(|(this, other)| this.is(other))
            }
            _ => false,
        }
    }
}

impl Part {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Spec(this), Self::Spec(other)) => Arc::ptr_eq(this, other),
            (Self::Endpoints(this), Self::Endpoints(other)) => Arc::ptr_eq(this, other),
            (Self::Addresses(this), Self::Addresses(other)) => Arc::ptr_eq(this, other) || this == other,
            (Self::Without(this), Self::Without(other)) => this == other,
            _ => false,
        }
    }
}

/// A cluster that has endpoints of its own, and those.
#[derive(Debug)]
struct Leaf {
    spec: Arc<ClusterSpec>,
    endpoints: Arc<Endpoints>,
    /// Set where another stands for it.
    cluster: Option<Arc<Cluster>>,
}

impl Leaf {
    /// As one that another stands for: the same value as before, where it was made of the same.
    fn shared(mut self, before: &[Self]) -> Self {
        let is_same = |one: &&Self| {
            Arc::ptr_eq(&one.spec, &self.spec)
                && (Arc::ptr_eq(&one.endpoints, &self.endpoints)
                    // Those that come with the cluster, or with an answer to its names, are few and made anew each time.
                    || (!matches!(self.spec.discovery, Discovery::Eds(_)) && one.endpoints == self.endpoints))
        };
        let known = before.iter().find(is_same).and_then(|one| one.cluster.clone());
        self.cluster = known.or_else(|| Some(Arc::new(self.cluster())));
        self
    }

    fn cluster(&self) -> Cluster {
        Cluster {
            endpoints: Arc::clone(&self.endpoints.endpoints),
            drops: Arc::clone(&self.endpoints.drops),
            localities: self.endpoints.localities.clone(),
            ..with_rules(&self.spec)
        }
    }
}

/// What the clusters that one stands for come to.
#[derive(Default)]
struct Members {
    seen: HashSet<ClusterName>,
    parts: Vec<Part>,
    leaves: Vec<Leaf>,
    /// What is wrong with the whole, so that nothing of it counts: too many of them, or too deep.
    excess: Option<Reason>,
}

impl Walk<'_> {
    /// What a cluster's name resolves to. While something is missing it is an error of no meaning: whoever asks looks at
    /// `missing` first.
    pub(super) fn resolve(&mut self, name: &ClusterName, before: Option<&Memo>) -> Made {
        let mut members = Members::default();
        let spec = match self.member(name, &mut members, 0) {
            Ok(spec) => spec,
            Err(reason) => return Made::failed(reason),
        };
        let Members {
            parts, leaves, excess, ..
        } = members;
        if let Some(excess) = excess {
            return Made::failed(excess);
        }
        let cluster = match (&spec.discovery, &leaves[..]) {
            (Discovery::Aggregate(_), []) => {
                let without = parts.iter().find_map(|part| match part {
                    Part::Without(reason) => Some(reason.clone()),
                    _ => None,
                });
                let none = || {
                    Reason::new(
                        ReasonKind::NoEndpoints,
                        format!("cluster {name:?} stands for no cluster"),
                    )
                };
                return Made::failed(without.unwrap_or_else(none));
            }
            (Discovery::Aggregate(_), _) => {
                let before = before.map_or(&[][..], |before| &before.leaves);
                let leaves: Vec<Leaf> = leaves.into_iter().map(|leaf| leaf.shared(before)).collect();
                let clusters = leaves.iter().filter_map(|leaf| leaf.cluster.clone()).collect();
                return Made {
                    parts,
                    leaves,
                    resolved: Ok(Arc::new(Cluster::aggregate(name.clone(), clusters))),
                };
            }
            (_, [leaf]) => leaf.cluster(),
            _ => return Made::failed(not_yet()),
        };
        Made {
            parts,
            leaves: Vec::new(),
            resolved: Ok(Arc::new(cluster)),
        }
    }

    /// Follows one name: to its endpoints, or through the clusters it stands for, of which those that cannot be had are left
    /// out (gRFC A74).
    fn member(&mut self, name: &ClusterName, to: &mut Members, depth: usize) -> Result<Arc<ClusterSpec>, Reason> {
        to.seen.insert(name.clone());
        let spec = match self.look::<ClusterSpec>(&name.as_str().into()) {
            Found::Value(spec) => spec,
            Found::None(trouble) => return Err(reason(trouble, ReasonKind::NoCluster)),
            Found::Pending => return Err(not_yet()),
        };
        to.parts.push(Part::Spec(Arc::clone(&spec)));
        let endpoints = match &spec.discovery {
            Discovery::Eds(resource) => match self.look::<Endpoints>(resource) {
                Found::Value(endpoints) => {
                    to.parts.push(Part::Endpoints(Arc::clone(&endpoints)));
                    endpoints
                }
                Found::None(trouble) => return Err(reason(trouble, ReasonKind::NoEndpoints)),
                Found::Pending => return Err(not_yet()),
            },
            // The specification holds them, and is a part already.
            Discovery::Static(endpoints) => Arc::new(endpoints.clone()),
            Discovery::Dns(dns) => Arc::new(self.dns(dns, &mut to.parts)?),
            Discovery::Unserved(why) => {
                let text = format!("cluster {name:?} cannot be called from within a process: {why}");
                return Err(Reason::new(ReasonKind::Refused, text));
            }
            // Which clusters go wherever a request says is in the specification.
            Discovery::OriginalDestination => Arc::new(Endpoints::default()),
            Discovery::Aggregate(members) => {
                if depth == MAX_DEPTH {
                    let text = format!("cluster {name:?} stands more than {MAX_DEPTH} deep in others (gRFC A37)");
                    to.excess = Some(Reason::new(ReasonKind::NoCluster, text));
                    return Ok(spec);
                }
                for member in members {
                    // A cluster that is there twice counts where it came first.
                    if to.excess.is_some() || to.seen.contains(member) {
                        continue;
                    }
                    if to.seen.len() == MAX_NAMES {
                        let text =
                            format!("it names more than {MAX_NAMES} clusters, of which {member:?} is one too many");
                        to.excess = Some(Reason::new(ReasonKind::NoCluster, text));
                        continue;
                    }
                    if let Err(reason) = self.member(member, to, depth + 1) {
                        to.parts.push(Part::Without(reason));
                    }
                }
                return Ok(spec);
            }
        };
        if to.leaves.len() == MAX_LEAVES {
            let text = format!("it stands for more than {MAX_LEAVES} clusters, of which {name:?} is one too many");
            to.excess = Some(Reason::new(ReasonKind::NoCluster, text));
            return Ok(spec);
        }
        to.leaves.push(Leaf {
            spec: Arc::clone(&spec),
            endpoints,
            cluster: None,
        });
        Ok(spec)
    }

    /// The endpoints that a cluster's host names resolve to. A name that does not resolve adds none; when none does, that is
    /// what is wrong with the cluster.
    ///
    /// Each address of a `STRICT_DNS` host is an endpoint like the others. Those of a `LOGICAL_DNS` host are one destination
    /// (gRFCs A37 and A61: `pick_first` over all of them; Envoy: the first): each is a priority of its own in the order of the
    /// answer, so the first is called, and the next where that cannot be.
    fn dns(&mut self, dns: &DnsCluster, parts: &mut Vec<Part>) -> Result<Endpoints, Reason> {
        let (mut endpoints, mut failed, mut waits) = (Vec::new(), None, false);
        for host in &dns.hosts {
            let answer = match host.host.parse::<IpAddr>() {
                Ok(address) => Some(Answer::Addresses([address].into())),
                Err(_) => self.resolve_host(&host.host, dns.refresh),
            };
            match answer {
                None => waits = true,
                Some(Answer::Addresses(addresses)) => {
                    match dns.kind {
                        DnsKind::Strict => {
                            let mut sorted = addresses.to_vec();
                            sorted.sort_unstable();
                            endpoints.extend(sorted.into_iter().map(|address| endpoint(host, address, host.priority)));
                        }
                        // It has the one host.
                        DnsKind::Logical => {
                            let in_order = addresses.iter().take(MAX_IN_ORDER).zip(0..);
                            endpoints.extend(in_order.map(|(address, priority)| endpoint(host, *address, priority)));
                        }
                    }
                    parts.push(Part::Addresses(addresses));
                }
                Some(Answer::Failed(why)) => {
                    let reason = Reason::new(ReasonKind::NoEndpoints, format!("resolving {:?}: {why}", host.host));
                    parts.push(Part::Without(reason.clone()));
                    failed = failed.or(Some(reason));
                }
            }
        }
        match failed {
            _ if waits => Err(not_yet()),
            Some(reason) if endpoints.is_empty() => Err(reason),
            _ => Ok(Endpoints {
                endpoints: endpoints.into(),
                localities: dns.localities.clone(),
                ..Endpoints::default()
            }),
        }
    }
}

/// The addresses of a `LOGICAL_DNS` host are tried one after the other, as its calls can be made: none of them is there for a
/// share of the calls.
fn with_rules(spec: &ClusterSpec) -> Cluster {
    let mut cluster = spec.cluster.clone();
    if let Discovery::Dns(DnsCluster {
        kind: DnsKind::Logical, ..
    }) = &spec.discovery
    {
        cluster.common_lb.failover = Failover::FirstReady;
    }
    cluster
}

fn endpoint(host: &DnsHost, address: IpAddr, priority: u32) -> Endpoint {
    Endpoint {
        address: SocketAddr::new(address, host.port),
        weight: host.weight,
        health: Health::Healthy,
        priority,
        locality: Arc::clone(&host.locality),
        // As in Envoy, without the port.
        hostname: Some((*host.host).into()),
        metadata: Arc::clone(&host.metadata),
    }
}

pub(super) fn not_yet() -> Reason {
    Reason::new(ReasonKind::Waiting, "it is still waited for")
}
