//! One live cluster: what survives swaps (budget, calls in flight, TLS configurations) and the host set that is swapped.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use mesh_core::Entropy;
use mesh_core::balance::Picker;
use mesh_core::config::{Cluster, ClusterName, Endpoint, Health, MutualTls, TlsMode};
use mesh_core::live;
use mesh_core::report::Tally;
use mesh_core::retry::Budget;
use rustls::time_provider::TimeProvider;

use super::Host;
use crate::connect::TlsConfigs;

/// What every live thing is made with.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) entropy: Entropy,
    pub(crate) wall_clock: Arc<dyn TimeProvider>,
    pub(crate) tally: Tally,
}

/// A live cluster, shared by every channel and every call of the process.
#[derive(Debug)]
pub(crate) struct ClusterHandle {
    name: ClusterName,
    hosts: live::Reader<HostSet>,
    writer: live::Writer<HostSet>,
    in_flight: AtomicU32,
    budget: Budget,
    tls_configs: Arc<TlsConfigs>,
}

/// The hosts of a cluster with the picker made for them and the settings they are called by: swapped as one, or a pick
/// would point at the wrong host.
#[derive(Debug)]
pub(crate) struct HostSet {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) mutual_tls: Option<Arc<MutualTls>>,
    pub(crate) hosts: Box<[Arc<Host>]>,
    pub(crate) picker: Picker,
}

impl ClusterHandle {
    pub(crate) fn new(cluster: &Arc<Cluster>, parts: &Parts) -> Self {
        let (writer, hosts) = live::channel(HostSet::make(Arc::clone(cluster), None, parts));
        Self {
            name: cluster.name.clone(),
            hosts,
            writer,
            in_flight: AtomicU32::new(0),
            budget: Budget::default(),
            tls_configs: Arc::new(TlsConfigs::new(Arc::clone(&parts.wall_clock))),
        }
    }

    /// Takes over a new configuration, keeping every host whose address and security did not change.
    pub(crate) fn update(&self, cluster: &Arc<Cluster>, parts: &Parts) {
        let old = self.hosts.load_full();
        if Arc::ptr_eq(&old.cluster, cluster) || old.cluster == *cluster {
            return;
        }
        self.writer
            .publish(HostSet::make(Arc::clone(cluster), Some(&old), parts));
    }

    pub(crate) fn name(&self) -> &ClusterName {
        &self.name
    }

    pub(crate) fn hosts(&self) -> &live::Reader<HostSet> {
        &self.hosts
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(crate) fn tls_configs(&self) -> &Arc<TlsConfigs> {
        &self.tls_configs
    }

    /// Counts one more call; `false` when `max` are in flight (gRFC A32).
    pub(crate) fn begin_call(&self, max: u32) -> bool {
        if self.in_flight.fetch_add(1, Ordering::Relaxed) < max {
            return true;
        }
        self.end_call();
        false
    }

    pub(crate) fn end_call(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl HostSet {
    fn make(cluster: Arc<Cluster>, old: Option<&Self>, parts: &Parts) -> Self {
        // Other security means other connections: what was agreed under the old rules is not carried over.
        let kept = old.filter(|old| old.cluster.tls == cluster.tls);
        let known: HashMap<SocketAddr, &Arc<Host>> = kept
            .iter()
            .flat_map(|old| &old.hosts)
            .map(|host| (host.address(), host))
            .collect();
        let hosts = callable(&cluster.endpoints)
            .map(|endpoint| match known.get(&endpoint.address) {
                Some(host) => {
                    host.reweigh(endpoint.weight.0);
                    Arc::clone(host)
                }
                None => Arc::new(Host::new(endpoint.address, endpoint.weight.0, parts)),
            })
            .collect();
        let picker = Picker::new(cluster.lb, &mut parts.entropy.draw());
        let mutual_tls = match &cluster.tls {
            TlsMode::Mutual(tls) => Some(Arc::new(tls.clone())),
            TlsMode::Plaintext => None,
        };
        Self {
            cluster,
            mutual_tls,
            hosts,
            picker,
        }
    }
}

/// The healthy endpoints of the first priority that has any.
fn callable(endpoints: &[Endpoint]) -> impl Iterator<Item = &Endpoint> {
    let healthy = |endpoint: &&Endpoint| endpoint.health == Health::Healthy;
    let first = endpoints.iter().filter(healthy).map(|endpoint| endpoint.priority).min();
    endpoints
        .iter()
        .filter(healthy)
        .filter(move |endpoint| Some(endpoint.priority) == first)
}
