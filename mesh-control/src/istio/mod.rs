//! Istio's documents, read and typed: text to [`Documents`].
//!
//! The first room of the flow `YAML → istio → translate → publish`. It knows the schema and nothing else: no defaults, no
//! names resolved, no document looks at another. What it hands on keeps its position, so that the translator, which finds
//! the errors that need two documents, can point as exactly as the parser.
//!
//! All versions of a kind have one schema in Istio, so the version only has to be one that exists. Kubernetes' own kinds are
//! passed over with a note, but for those that say which services there are, and the `ConfigMap` in which Istio keeps what holds for the whole mesh. Kinds of Istio that this version does not serve are passed over with a warning, except those
//! that restrict access: a policy that is read and not enforced would be a hole, so it is an error.

mod authorization_policy;
mod destination_rule;
mod document;
mod envoy_filter;
mod extension_provider;
mod fields;
mod gateway_route;
mod http_effects;
mod kubernetes;
mod load_balancer;
mod mesh_config;
mod peer_authentication;
mod request_authentication;
mod service_entry;
mod sidecar;
mod telemetry;
mod traffic_policy;
mod value;
mod values;
mod virtual_service;
mod workload_entry;
mod workload_group;
mod yaml;

pub use authorization_policy::{Attribute, AuthorizationPolicy, PolicyAction, PolicyRule, Tested};
pub use destination_rule::{DestinationRule, Subset};
pub use document::{Document, Meta};
pub use envoy_filter::{EnvoyFilter, LimitPatch};
pub use extension_provider::{Authorizer, AuthorizerHttp};
pub(crate) use gateway_route::escaped;
pub use gateway_route::{Backend, GatewayRoute, GatewayRule, Parent, ReferenceGrant};
pub use http_effects::{
    AbortStatus, HeaderOp, HeaderOps, HttpAbort, HttpDelay, HttpDirectResponse, HttpFault, HttpMirror, HttpRedirect,
    HttpRewrite,
};
pub use kubernetes::{EndpointSlice, Family, KubernetesService, Pod, SliceEndpoint};
pub use load_balancer::{
    ConsistentHash, HashKey, LoadBalancer, LocalityRule, LocalitySetting, Policy as LbChoice, Warmup,
};
pub use mesh_config::MeshConfig;
pub use peer_authentication::{Mode, PeerAuthentication};
pub use request_authentication::{FetchedKeys, RequestAuthentication, TokenRule};
pub use service_entry::{Location, Port, Resolution, ServiceEntry};
pub use sidecar::{Import, Sidecar};
pub use telemetry::{AccessLogging, Ends, Telemetry};
pub use traffic_policy::{Blocks, ClientTls, ConnectionPool, OutlierDetection, TlsMode as TlsWord, TrafficPolicy};
pub use value::{At, Place};
pub use values::{Selector, StringMatch, has_all, parse_duration};
pub use virtual_service::{Destination, HttpMatch, HttpRoute, Retries, VirtualService};
pub use workload_entry::WorkloadEntry;
pub use workload_group::WorkloadGroup;

use crate::diagnostic::Diagnostic;

/// Everything that was read, each kind in the order of files and of documents in them. That order stands in for
/// Kubernetes' creation time wherever Istio lets the oldest document win.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    /// Routes.
    pub virtual_services: Vec<Document<VirtualService>>,
    /// Subsets.
    pub destination_rules: Vec<Document<DestinationRule>>,
    /// Transport security.
    pub peer_authentications: Vec<Document<PeerAuthentication>>,
    /// Whose tokens are believed.
    pub request_authentications: Vec<Document<RequestAuthentication>>,
    /// Who may call what.
    pub authorization_policies: Vec<Document<AuthorizationPolicy>>,
    /// Rate limits.
    pub envoy_filters: Vec<Document<EnvoyFilter>>,
    /// Services.
    pub service_entries: Vec<Document<ServiceEntry>>,
    /// Workloads.
    pub workload_entries: Vec<Document<WorkloadEntry>>,
    /// Services of a cluster.
    pub services: Vec<Document<KubernetesService>>,
    /// Their endpoints.
    pub endpoint_slices: Vec<Document<EndpointSlice>>,
    /// Who these are.
    pub pods: Vec<Document<Pod>>,
    /// Routes of the Gateway API for services.
    pub gateway_routes: Vec<Document<GatewayRoute>>,
    /// Whom they may name in other namespaces.
    pub reference_grants: Vec<Document<ReferenceGrant>>,
    /// What clients see.
    pub sidecars: Vec<Document<Sidecar>>,
    /// What is told of calls.
    pub telemetries: Vec<Document<Telemetry>>,
    /// What workloads are like that register themselves.
    pub workload_groups: Vec<Document<WorkloadGroup>>,
    /// What holds for the whole mesh: that of the root namespace counts.
    pub mesh_configs: Vec<Document<MeshConfig>>,
}

impl Documents {
    /// The longest text of one file, in bytes. Real folders hold a few kilobytes a file; etcd caps an object at 1.5 MiB.
    pub const MAX_FILE_BYTES: usize = 1024 * 1024;

    /// Adds what stands in one file. `file` is the name that diagnostics will show.
    ///
    /// The rest of a document with an error, and of its file, is still read, so that all errors are told at once. While one
    /// of the returned diagnostics is an error the documents have holes: they must be neither translated nor published.
    pub fn read(&mut self, file: &str, text: &str) -> Vec<Diagnostic> {
        let mut diagnostics = Vec::new();
        document::read_file(self, file, text, &mut diagnostics);
        diagnostics
    }
}
