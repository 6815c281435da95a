//! The shape of the bootstrap file, to read and to print.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::options::Options;
use crate::node::{Node, distinct, nullable};

#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct File {
    pub(super) xds_servers: Vec<XdsServer>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "distinct")]
    pub(super) authorities: BTreeMap<String, XdsAuthority>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) node: Node,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "distinct")]
    pub(super) certificate_providers: BTreeMap<String, ProviderEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) client_default_listener_resource_name_template: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) server_listener_resource_name_template: Option<String>,
    #[serde(default, skip_serializing_if = "Options::is_default", deserialize_with = "nullable")]
    pub(super) x_mesh: Options,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct XdsServer {
    pub(super) server_uri: String,
    pub(super) channel_creds: Vec<CredsEntry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub(super) call_creds: Vec<CredsEntry>,
    /// Unknown features are ignored whatever their JSON type (gRFC A30).
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub(super) server_features: Vec<Value>,
}

/// Whose names are asked of which servers (gRFC A47).
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct XdsAuthority {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) client_listener_resource_name_template: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub(super) xds_servers: Vec<XdsServer>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not", deserialize_with = "nullable")]
    pub(super) fallback_on_reachability_only: bool,
}

/// Credentials of some kind; the configuration is read once the kind is known to be one of ours.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct CredsEntry {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(super) config: Value,
}

/// A certificate provider of some kind.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct ProviderEntry {
    pub(super) plugin_name: String,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(super) config: Value,
}

/// `tls` (gRFC A65), with the roots inline if so wished.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct TlsConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ca_certificate_file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ca_certificate: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) certificate_file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) private_key_file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) refresh_interval: Option<String>,
}

/// `jwt_token_file` (gRFC A97).
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct JwtTokenFileConfig {
    #[serde(default)]
    pub(super) jwt_token_file: Option<String>,
}

/// `file_watcher` (gRFC A29).
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct FileWatcherConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) certificate_file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) private_key_file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ca_certificate_file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) spiffe_trust_bundle_map_file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) refresh_interval: Option<String>,
}

/// `mesh_ca`: ours.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct MeshCaConfig {
    pub(super) server_uri: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ca_certificate: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ca_certificate_file: Option<String>,
    pub(super) trust_domain: String,
    pub(super) namespace: String,
    pub(super) service_account: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token_file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) server_name: Option<String>,
}

/// `istio_agent`: ours. Everything has a default.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct IstioAgentConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ca_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ca_certificate_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ca_server_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trust_domain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) service_account: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cluster_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) credentials_directory: Option<String>,
}

/// `spiffe_workload_api`: ours.
#[cfg(feature = "workload-api")]
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct WorkloadApiConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) endpoint_socket: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hint: Option<String>,
}
