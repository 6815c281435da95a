//! What labels say of a destination, for each cluster and each connection.
//!
//! A connection leads to one endpoint of one cluster, and who answers there was asked when it was made: so the pair is its, and is
//! looked up by its first call. Endpoints hold nothing for it: a hundred thousand of them of which ten are called have ten pairs at
//! most, and as few as they have workloads.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use http::{HeaderName, HeaderValue};
use mesh_core::identity::SpiffeId;
use mesh_core::link::WeakLink;
use mesh_core::report::standard::{
    Edge, EdgeLabels, Edges, PEER_METADATA, PeerMetadata, Reporter, Service, UNKNOWN, Workload,
};

use crate::cluster::{ClusterHandle, HostSet};

/// The filter and the key under which an endpoint's metadata says whose it is (Istio).
const ISTIO: &str = "istio";
const WORKLOAD: &str = "workload";

/// In which header a peer is told who calls.
pub(crate) const INTRODUCTION: HeaderName = HeaderName::from_static(PEER_METADATA);

/// Where the calls of one cluster are counted.
#[derive(Debug)]
pub(crate) struct Pairs {
    edges: Edges,
    link: WeakLink,
    /// What its first call asked for: the name of its service where the configuration tells none.
    asked: OnceLock<Arc<Service>>,
    /// Calls that reached nobody.
    nobody: OnceLock<Arc<Edge>>,
}

/// Who is at the other end of a connection, and where calls over it are counted.
#[derive(Debug, Default)]
pub(crate) struct Party {
    id: Option<SpiffeId>,
    /// What the peer is told of who calls, once.
    introduction: Option<HeaderValue>,
    edge: OnceLock<Arc<Edge>>,
}

impl Party {
    /// A peer with this certificate, if it is one of the mesh's, which is told who `workload` is and for what `service` its calls are.
    pub(crate) fn new(id: Option<SpiffeId>, workload: &Workload, service: Option<&Service>) -> Self {
        // Nobody outside of the mesh is told anything.
        let told = id.as_ref().and_then(|_| PeerMetadata::encode(workload, service));
        Self {
            introduction: told.and_then(|told| HeaderValue::try_from(told).ok()),
            id,
            edge: OnceLock::new(),
        }
    }

    /// What the first request of the connection tells the peer of who calls.
    pub(crate) fn introduction(&self) -> Option<&HeaderValue> {
        self.introduction.as_ref()
    }

    /// Where calls over the connection are counted.
    #[inline]
    pub(crate) fn edge(&self, make: impl FnOnce(Option<&SpiffeId>) -> Arc<Edge>) -> &Arc<Edge> {
        self.edge.get_or_init(|| make(self.id.as_ref()))
    }
}

impl Pairs {
    pub(crate) fn new(edges: Edges, link: WeakLink) -> Self {
        Self {
            edges,
            link,
            asked: OnceLock::new(),
            nobody: OnceLock::new(),
        }
    }

    /// Whether no call has been made yet.
    #[inline]
    pub(crate) fn is_unasked(&self) -> bool {
        self.asked.get().is_none()
    }

    /// A call asks for `authority`.
    #[cold]
    pub(crate) fn ask(&self, authority: &str) {
        self.asked.get_or_init(|| Arc::new(Service::of_authority(authority)));
    }

    /// Where calls that reached nobody of `set` are counted.
    pub(crate) fn nobody(&self, set: &HostSet) -> &Arc<Edge> {
        self.nobody.get_or_init(|| {
            let labels = EdgeLabels {
                service: self.service(set),
                ..EdgeLabels::new(Reporter::Source, self.own(), Workload::unknown())
            };
            self.edges.edge(&labels)
        })
    }

    /// Where calls to the endpoint at `place` of `set` are counted, which has shown that it is `id`. The set may be that of a
    /// cluster which this one stands in for.
    #[cold]
    pub(crate) fn pair(&self, set: &HostSet, place: Option<usize>, id: Option<&SpiffeId>) -> Arc<Edge> {
        let own = self.own();
        let told = place.and_then(|place| set.endpoint(place).metadata.value(ISTIO, WORKLOAD));
        let mut called = match told {
            Some(told) => {
                let told = Workload::of_endpoint(told);
                // Kiali draws nobody who is nowhere; who does not say is where the caller is.
                match told.is_known() && told.cluster() == UNKNOWN {
                    true => told.in_cluster(own.cluster()),
                    false => told,
                }
            }
            None => Workload::unknown(),
        };
        if let Some(id) = id {
            called = called.vouched_by(id);
        }
        let labels = EdgeLabels {
            source_principal: id.and_then(|_| self.own_id()),
            destination_principal: id.cloned(),
            service: self.service(set),
            ..EdgeLabels::new(Reporter::Source, own, called)
        };
        self.edges.edge(&labels)
    }

    fn service(&self, set: &HostSet) -> Arc<Service> {
        let cluster = &set.cluster;
        if let Some(told) = &cluster.service {
            return Arc::clone(told);
        }
        // Wherever a request says may be anywhere: it is not for a caller's requests to make series.
        if cluster.by_authority {
            return Arc::new(Service::new(cluster.name.as_str(), cluster.name.as_str(), ""));
        }
        let asked = self.asked.get().cloned();
        asked.unwrap_or_else(|| Arc::new(Service::of_authority(cluster.name.as_str())))
    }

    fn own(&self) -> Arc<Workload> {
        self.link.upgrade().map(|link| link.workload()).unwrap_or_default()
    }

    fn own_id(&self) -> Option<SpiffeId> {
        let link = self.link.upgrade()?;
        match &**link.identity().load() {
            Ok(identity) => Some(identity.svid().id().clone()),
            Err(_) => None,
        }
    }
}

impl ClusterHandle {
    /// Where calls that reached nobody are counted.
    #[cold]
    pub(crate) fn nobody(&self) -> &Arc<Edge> {
        self.pairs().nobody(&self.hosts().load())
    }

    /// Where a call is counted that failed at the endpoint of an address, who may or may not have shown who it is.
    #[cold]
    pub(crate) fn pair(self: &Arc<Self>, peer: SocketAddr) -> Arc<Edge> {
        let called = self.that_called(Some(peer));
        let set = called.hosts().load();
        self.pairs().pair(&set, set.place_of(&peer), None)
    }
}
