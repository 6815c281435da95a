//! The five kinds of resource a data plane asks for, and the values they decode to.
//!
//! A listener names a route configuration, which names clusters, which name their endpoints; its filters may be resources of
//! their own. Here each is a value by itself, still full of names; `client::assemble` follows the names and makes one
//! consistent snapshot of them.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::decode::{Discovered, Guarding};
use mesh_core::config::{
    CallFilter, Cluster, ClusterName, DropOverload, Endpoint, FilterKind, Inbound, Localities, Locality, Metadata,
    RouteTree, Telemetry, TimeLimits, Weight,
};

/// A kind of xDS resource, by the names of the discovery services: LDS, RDS, CDS, EDS and ECDS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKind {
    /// `envoy.config.listener.v3.Listener`
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration`
    Route,
    /// `envoy.config.cluster.v3.Cluster`
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`
    Endpoints,
    /// `envoy.config.core.v3.TypedExtensionConfig`: an HTTP filter that a listener refers to by name.
    ExtensionConfig,
}

impl ResourceKind {
    /// How many there are.
    pub const COUNT: usize = 5;

    /// In the order in which a client meets them.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Listener,
        Self::Route,
        Self::Cluster,
        Self::Endpoints,
        Self::ExtensionConfig,
    ];

    /// The type's URL on the wire.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::ExtensionConfig => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        }
    }

    /// The kind that a type's URL stands for, if it is one of these.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// Whether a response holds every subscribed resource of this kind, so that an absent one was deleted. True of LDS
    /// and CDS only (xDS protocol, "Deleting Resources").
    pub fn absence_means_deleted(self) -> bool {
        matches!(self, Self::Listener | Self::Cluster)
    }

    /// Its place in a table of [`COUNT`](Self::COUNT).
    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listener => "listener",
            Self::Route => "route configuration",
            Self::Cluster => "cluster",
            Self::Endpoints => "endpoints",
            Self::ExtensionConfig => "extension configuration",
        })
    }
}

/// A decoded listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listener {
    /// What a gRPC client asks for by a target's name (gRFC A27).
    Api(Http),
    /// What a sidecar would listen on: requests to this address go by these routes (Istio: `0.0.0.0_<port>`,
    /// `<VIP>_<port>`).
    Outbound { address: SocketAddr, http: Http },
    /// What a server asks for: whom it lets in and how.
    Inbound(Arc<Inbound>),
    /// Where a sidecar sends what no other listener is for (Istio `virtualOutbound`: to `PassthroughCluster`, or to `BlackHoleCluster`).
    CatchAll(ClusterName),
    /// The same, where routes or filters of a chain are resources of their own.
    Routed(Arc<Routed>),
    /// A good listener that means nothing in this process, and why.
    Other(Box<str>),
}

/// A server's listener that does not hold all of what its chains ask: routes (gRFC A36) or filters (ECDS) are elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Routed {
    /// What is known by it alone: by a chain that is not known as a whole nobody is served.
    pub(crate) inbound: Arc<Inbound>,
    pub(crate) elsewhere: Vec<ChainElsewhere>,
}

/// A chain of which something is elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChainElsewhere {
    /// Its place among the chains; `None`: the default one.
    pub(crate) chain: Option<usize>,
    pub(crate) what: Elsewhere,
}

/// What of a chain is elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Elsewhere {
    /// Its route configuration, by name; and what it asks beside that.
    Routes(Arc<str>, Guarding),
    /// Some of its filters, and perhaps its routes as well.
    Filters(Discovered),
}

/// Where an HTTP listener's routes are, and which of its filters are resources of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Http {
    pub(crate) routes: Routes,
    /// In order, each at its place among `filters`. Until each is known and needs nothing of this process, the routes must not be used: a filter that is not
    /// there may be the one that guards.
    pub(crate) extensions: Arc<[ExtensionRef]>,
    /// The filters that stand in the listener itself and do something to calls, in order.
    pub(crate) filters: Arc<[CallFilter]>,
    /// What holds for streams where their routes say nothing.
    pub(crate) limits: TimeLimits,
    /// What is told of calls.
    pub(crate) telemetry: Telemetry,
}

/// Where routes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Routes {
    /// In the listener itself.
    Inline(Arc<RouteTree>),
    /// In the route configuration of this name.
    Named(Arc<str>),
}

/// A filter whose configuration is a resource of the filter's name (ECDS, Envoy `config_discovery`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExtensionRef {
    pub(crate) name: Arc<str>,
    /// How many of the listener's own [`filters`](Http::filters) stand before it.
    pub(crate) behind: usize,
    /// The types it may have, by URL; another one counts as not there.
    pub(crate) types: Box<[Box<str>]>,
    /// What the filter is while the resource is not there.
    pub(crate) default: Option<Filter>,
    /// Whether that default is used from the start, instead of waiting for the resource.
    pub(crate) default_without_warming: bool,
    /// Whether the filter may be left out where it is not supported.
    pub(crate) optional: bool,
    /// Whether it does nothing where no route says otherwise.
    pub(crate) disabled: bool,
}

/// What an HTTP filter means in this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// The router, which every list ends with.
    Router,
    /// One that does nothing here, and needs not.
    NoOp,
    /// One that does something to calls.
    Call(FilterKind),
    /// One that would do something which is not done here: why the listener cannot be used, unless the filter is optional.
    Unsupported(Box<str>),
}

/// A decoded extension configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extension {
    /// Its type, by URL; inside a `TypedStruct`, the type that stands there.
    pub(crate) type_url: Box<str>,
    pub(crate) filter: Filter,
}

impl Extension {
    /// Whether it would do something that is not done here.
    pub(crate) fn is_unsupported(&self) -> bool {
        matches!(self.filter, Filter::Unsupported(_))
    }
}

/// A decoded cluster: how it is called, and where that can be learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterSpec {
    /// The cluster, without endpoints.
    pub(crate) cluster: Cluster,
    pub(crate) discovery: Discovery,
}

/// How a cluster's endpoints are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Discovery {
    /// By the endpoints resource of this name (`service_name`, or the cluster's own).
    Eds(Arc<str>),
    /// They are these.
    Static(Endpoints),
    /// By resolving host names.
    Dns(DnsCluster),
    /// They are those of these clusters, the first of which that can be called is (gRFC A37). Never empty; names may be
    /// there twice, or lead back here: whoever follows them keeps the first and ends at a depth.
    Aggregate(Vec<ClusterName>),
    /// There are none: each request says where it goes (Istio's `PassthroughCluster`, where a proxy would take the address
    /// that the connection was going to before it was caught).
    OriginalDestination,
    /// It may not be called: why. A sidecar is told of every cluster of the mesh, and one that only a proxy can call must not cost the others.
    Unserved(Box<str>),
}

/// A cluster whose hosts are names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DnsCluster {
    pub(crate) kind: DnsKind,
    /// Of a logical one there is exactly one.
    pub(crate) hosts: Vec<DnsHost>,
    /// How long an answer is used before the name is resolved again.
    pub(crate) refresh: Duration,
    pub(crate) localities: Localities,
}

/// What the addresses of a name are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DnsKind {
    /// Each is an endpoint.
    Strict,
    /// They are one endpoint, reached by any of them (gRFC A37).
    Logical,
}

/// A name to resolve, and what its addresses will have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DnsHost {
    pub(crate) host: Box<str>,
    pub(crate) port: u16,
    pub(crate) weight: Weight,
    pub(crate) priority: u32,
    pub(crate) locality: Arc<Locality>,
    pub(crate) metadata: Arc<Metadata>,
}

/// Decoded endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Endpoints {
    pub(crate) endpoints: Arc<[Endpoint]>,
    /// Shares of the calls that are to fail at once, each tried by itself and in order.
    pub(crate) drops: Arc<[DropOverload]>,
    pub(crate) localities: Localities,
}
