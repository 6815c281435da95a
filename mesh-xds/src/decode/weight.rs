//! What resources may cost in memory while they are decoded, by kind: the shapes that [`weigh`] goes by.
//!
//! Sizes are those of the generated types. What is repeated and large is told field by field, down to where a process without a
//! proxy reads no further; the rest of a kind is told by the largest that it repeats.

use crate::proto::{core, endpoint, hcm, listener, route};
use crate::resource::ResourceKind;
use crate::wire::MAX_RESPONSE_BYTES;
use crate::wire::weigh::{Heavy, Shape, TooHeavy, list, way, weigh};

/// What one resource may cost. One hundred thousand endpoints with Istio's metadata stay below it by this measure, as do ten thousand
/// routes with retries and header matches; of what is nothing but empty messages a small part of a response is beyond it.
const MAX_DECODED_BYTES: usize = MAX_RESPONSE_BYTES;

/// Weighs a resource, or the envelope of one (`None`), of a response of so many bytes: its own copies, and twice what is found here,
/// are no more than twice the largest response.
pub(crate) fn admit(kind: Option<ResourceKind>, bytes: &[u8], response: usize) -> Result<(), TooHeavy> {
    let limit = MAX_DECODED_BYTES.min(MAX_RESPONSE_BYTES.saturating_sub(response));
    // What can become no more than this need not be looked at.
    if bytes.len() <= LIGHT_BYTES {
        return Ok(());
    }
    weigh(bytes, shape(kind), limit).map(drop)
}

/// The largest that is taken unseen: most resources are smaller, and a message cannot have more parts than half its bytes.
const LIGHT_BYTES: usize = 16 * 1024;

fn shape(kind: Option<ResourceKind>) -> &'static Shape {
    match kind {
        Some(ResourceKind::Listener) => &LISTENER,
        Some(ResourceKind::Route) => &ROUTE,
        Some(ResourceKind::Cluster) => &CLUSTER,
        Some(ResourceKind::Endpoints) => &ENDPOINTS,
        Some(ResourceKind::ExtensionConfig) | None => &EXTENSION,
    }
}

/// Beside these there are addresses, 104 bytes, and maps of metadata, 80 an entry.
const ENDPOINTS: Shape = Shape {
    first: 64,
    more: 128,
    heavy: LOCALITIES,
};
const LOCALITIES: &[Heavy] = &[list::<endpoint::LocalityLbEndpoints>(
    2,
    &[list::<endpoint::LbEndpoint>(2, &[])],
)];

/// Beside these there are filters' own words, of which RBAC's policies are the largest: 496 bytes.
const ROUTE: Shape = Shape {
    first: 64,
    more: 512,
    heavy: VIRTUAL_HOSTS,
};
const VIRTUAL_HOSTS: &[Heavy] = &[list::<route::VirtualHost>(2, &[list::<route::Route>(3, ROUTE_ACTION)])];
const ROUTE_ACTION: &[Heavy] = &[way(
    2,
    &[way(3, &[list::<route::weighted_cluster::ClusterWeight>(1, &[])])],
)];

/// Beside these there are gRPC services and certificates: 672 bytes.
const LISTENER: Shape = Shape {
    first: 64,
    more: 1024,
    heavy: &[
        list::<listener::FilterChain>(3, FILTERS),
        way(25, FILTERS),
        way(19, &[way(1, MANAGER)]),
    ],
};
const FILTERS: &[Heavy] = &[list::<listener::Filter>(3, &[way(4, MANAGER)])];
/// A connection manager in its `Any`.
const MANAGER: &[Heavy] = &[way(2, &[way(4, VIRTUAL_HOSTS), list::<hcm::HttpFilter>(5, &[])])];

const CLUSTER: Shape = Shape {
    first: 64,
    more: 1024,
    heavy: &[list::<core::HealthCheck>(8, &[]), way(33, LOCALITIES)],
};

/// An envelope's aliases are texts, and less.
const EXTENSION: Shape = Shape {
    first: 64,
    more: 512,
    heavy: &[],
};
