//! What is published to the clients of [the property](super): of each kind a few names, and of each name four resources, two
//! that its client uses and two that it refuses. All kinds come and go by themselves, as documents of many owners do.
//!
//! There are two shapes of everything, gRPC's and Envoy's, as istiod tells the same mesh (see
//! [`istiod`](crate::decode::tests::istiod)). A control plane of ours would publish none that its own client refuses; here it is told
//! to, since clients differ. Secrets are in no stream of this kind: a workload's key is made where it is used.

use std::collections::BTreeMap;
use std::iter;
use std::sync::{Arc, LazyLock};

use mesh_core::config::RouteTree;
use mesh_core::entropy::Draw;
use prost::Message;

use crate::client::cache::Cached;
use crate::decode::tests::istiod::{self, proxyless, sidecar};
use crate::decode::{Context, decode, tests};
use crate::encode::Dialect;
use crate::proto::cluster::{Cluster, cluster::ClusterDiscoveryType};
use crate::proto::core::TypedExtensionConfig;
use crate::proto::endpoint::{ClusterLoadAssignment, Endpoint, lb_endpoint::HostIdentifier};
use crate::proto::listener::{ApiListener, Listener as ListenerProto};
use crate::proto::protobuf::{Any, Duration};
use crate::proto::route::RouteConfiguration;
use crate::resource::{ClusterSpec, Endpoints, Extension, Listener, ResourceKind};
use crate::server::encoded::{TypeSet, View, type_set};
use crate::wire::Raw;

pub(super) const CLUSTERS: [&str; 5] = ["c0", "c1", "c2", "c3", "c4"];

/// The names of each kind, as [`ResourceKind::index`] counts them.
pub(super) const NAMES: [&[&str]; ResourceKind::COUNT] = [
    &["t0", "t1", "t2"],
    &["r0", "r1", "r2"],
    &CLUSTERS,
    &CLUSTERS,
    &["e0", "e1", "e2"],
];

/// How many resources there are of one name; the second half is refused.
const VARIANTS: usize = 4;

/// Which of istiod's two shapes everything has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// What is asked for by name.
    Grpc,
    /// What a sidecar asks for: all listeners and all clusters, and by name what these lead to.
    Envoy,
}

impl Shape {
    pub(super) fn dialect(self) -> Dialect {
        match self {
            Self::Grpc => Dialect::Mesh,
            Self::Envoy => Dialect::Sidecar,
        }
    }

    pub(super) fn context(self) -> Context {
        match self {
            Self::Grpc => tests::context(),
            Self::Envoy => tests::envoy(),
        }
    }

    fn all(self) -> &'static All {
        static GRPC: LazyLock<All> = LazyLock::new(|| all(Shape::Grpc));
        static ENVOY: LazyLock<All> = LazyLock::new(|| all(Shape::Envoy));
        match self {
            Self::Grpc => &GRPC,
            Self::Envoy => &ENVOY,
        }
    }

    /// The resource that these bytes are.
    pub(super) fn whose(self, kind: ResourceKind, bytes: &[u8]) -> Arc<str> {
        let mut names = self.all()[kind.index()].iter();
        let is_of = |variants: &Variants| variants.iter().any(|one| **one == *bytes);
        let found = names.find(|(_, variants)| is_of(variants));
        Arc::clone(found.expect("nothing else is published").0)
    }

    /// Any of all this, and where its routes lead. What was published before keeps its version where it stays.
    pub(super) fn publish(self, draw: &mut Draw, before: Option<&View>, generation: u64) -> View {
        let mut there: [BTreeMap<Arc<str>, Arc<[u8]>>; ResourceKind::COUNT] = Default::default();
        let mut leads = BTreeMap::new();
        // Clusters come first: routes lead to those that are there.
        for kind in [
            ResourceKind::Cluster,
            ResourceKind::Route,
            ResourceKind::Listener,
            ResourceKind::Endpoints,
            ResourceKind::ExtensionConfig,
        ] {
            for (place, (name, variants)) in self.all()[kind.index()].iter().enumerate() {
                if draw.below(4) == 0 {
                    continue;
                }
                // Two of three are good.
                let mut variant = [0, 0, 1, 1, 2, 3][draw.below(6) as usize];
                if kind == ResourceKind::Route {
                    // One in eight leads where it may: somebody took the cluster away.
                    let to_any = draw.below(8) == 0;
                    let leads_on = |variant: &usize| to_any || there[CDS].contains_key(lead(place, *variant));
                    let mut from_here = (0..VARIANTS).map(|more| (variant + more) % VARIANTS);
                    let Some(found) = from_here.find(leads_on) else {
                        continue;
                    };
                    variant = found;
                    let clusters = iter::once(Arc::from(lead(place, variant))).collect();
                    leads.insert(Arc::clone(name), Arc::new(clusters));
                }
                there[kind.index()].insert(Arc::clone(name), Arc::clone(&variants[variant]));
            }
        }
        let sets = ResourceKind::ALL.map(|kind| -> Arc<TypeSet> {
            let before = before.map(|before| before.of(kind));
            let leads = match kind {
                ResourceKind::Route => std::mem::take(&mut leads),
                _ => BTreeMap::new(),
            };
            type_set(before, generation, std::mem::take(&mut there[kind.index()]), leads)
        });
        View(sets)
    }
}

const CDS: usize = ResourceKind::Cluster as usize;

type Variants = [Arc<[u8]>; VARIANTS];
type All = [BTreeMap<Arc<str>, Variants>; ResourceKind::COUNT];

/// Where one of the resources of a route configuration leads: each to another cluster.
fn lead(place: usize, variant: usize) -> &'static str {
    CLUSTERS[(2 * place + variant) % CLUSTERS.len()]
}

fn all(shape: Shape) -> All {
    let of = |kind: ResourceKind| {
        let names = NAMES[kind.index()].iter().map(|name| Arc::from(*name));
        names
            .map(|name: Arc<str>| {
                let variants = std::array::from_fn(|variant| written(shape, kind, &name, variant).into());
                is_as_it_should_be(shape, kind, &variants);
                (name, variants)
            })
            .collect()
    };
    ResourceKind::ALL.map(of)
}

fn written(shape: Shape, kind: ResourceKind, name: &str, variant: usize) -> Vec<u8> {
    match kind {
        ResourceKind::Listener => listener(shape, name, variant).encode_to_vec(),
        ResourceKind::Route => routes(shape, name, variant).encode_to_vec(),
        ResourceKind::Cluster => cluster(shape, name, variant).encode_to_vec(),
        ResourceKind::Endpoints => endpoints(name, variant).encode_to_vec(),
        ResourceKind::ExtensionConfig => extension(name, variant).encode_to_vec(),
    }
}

/// Nothing here is refused by mistake, or used by mistake.
fn is_as_it_should_be(shape: Shape, kind: ResourceKind, variants: &Variants) {
    fn check<R: Cached>(shape: Shape, variants: &Variants) {
        for (variant, bytes) in variants.iter().enumerate() {
            let raw = Raw {
                type_url: R::KIND.type_url().into(),
                bytes: bytes.to_vec(),
            };
            let value = decode::<R>(&raw, &shape.context()).expect("it has a name").value;
            assert_eq!(
                value.is_ok(),
                variant < VARIANTS / 2,
                "{} {variant} in {shape:?}: {:?}",
                R::KIND,
                value.err()
            );
        }
    }
    match kind {
        ResourceKind::Listener => check::<Listener>(shape, variants),
        ResourceKind::Route => check::<RouteTree>(shape, variants),
        ResourceKind::Cluster => check::<ClusterSpec>(shape, variants),
        ResourceKind::Endpoints => check::<Endpoints>(shape, variants),
        ResourceKind::ExtensionConfig => check::<Extension>(shape, variants),
    }
}

/// For calls, or for servers; without its connection manager, or with another thing in its place.
fn listener(shape: Shape, name: &str, variant: usize) -> ListenerProto {
    let mut listener = match (shape, variant) {
        (Shape::Grpc, 0) => proxyless::listener(),
        (Shape::Grpc, 1) => proxyless::inbound(true),
        (Shape::Envoy, 0) => sidecar::by_port(),
        (Shape::Envoy, 1) => sidecar::virtual_inbound(true),
        _ => proxyless::listener(),
    };
    let other = |api_listener| Some(ApiListener { api_listener });
    match variant {
        2 => listener.api_listener = other(None),
        3 => listener.api_listener = other(Some(Any::default())),
        _ => {}
    }
    listener.name = name.into();
    listener
}

/// With ports ignored or not; of a domain without a name, or with a route that says nothing of what it matches.
fn routes(shape: Shape, name: &str, variant: usize) -> RouteConfiguration {
    let mut routes = match shape {
        Shape::Grpc => proxyless::routes(),
        Shape::Envoy => sidecar::routes(true),
    };
    match variant {
        0 => routes.ignore_port_in_host_matching ^= true,
        2 => routes.virtual_hosts[0].domains[0].clear(),
        3 => routes.virtual_hosts[0].routes[0].r#match = None,
        _ => {}
    }
    routes.name = name.into();
    routes
}

/// With one time to connect or another; of a kind, or balanced by a rule, that nobody knows.
fn cluster(shape: Shape, name: &str, variant: usize) -> Cluster {
    let mut cluster = match shape {
        Shape::Grpc => proxyless::cluster(name),
        // By the name of one its certificates are known.
        Shape::Envoy => Cluster {
            name: name.into(),
            ..sidecar::cluster(istiod::CLUSTER)
        },
    };
    match variant {
        2 => cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(99)),
        3 => cluster.lb_policy = 99,
        _ => {
            cluster.connect_timeout = Some(Duration {
                seconds: 1 + variant as i64,
                nanos: 0,
            });
        }
    }
    cluster
}

/// With two endpoints or one; with one that is none, or one without an address.
fn endpoints(name: &str, variant: usize) -> ClusterLoadAssignment {
    let mut endpoints = istiod::endpoints(name);
    let locality = &mut endpoints.endpoints[0];
    match variant {
        1 => drop(locality.lb_endpoints.pop()),
        2 => locality.lb_endpoints[1].host_identifier = None,
        3 => {
            let hidden = Endpoint::default();
            locality.lb_endpoints[0].host_identifier = Some(HostIdentifier::Endpoint(hidden));
        }
        _ => {}
    }
    endpoints
}

/// A delay, or a filter that is not supported here, which is for its listener to judge; empty, or not to be read.
fn extension(name: &str, variant: usize) -> TypedExtensionConfig {
    let mut extension = sidecar::delay(name);
    let Some(config) = &mut extension.typed_config else {
        return extension;
    };
    match variant {
        1 => config.type_url = "type.googleapis.com/envoy.extensions.filters.http.csrf.v3.CsrfPolicy".into(),
        2 => extension.typed_config = None,
        3 => config.value = vec![0xff],
        _ => {}
    }
    extension
}
