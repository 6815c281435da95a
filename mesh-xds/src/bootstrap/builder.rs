//! Writes a bootstrap, for a program that hands them out.

use serde_json::{Value, json};

use super::file::{CredsEntry, File, MeshCaConfig, ProviderEntry, XdsServer};
use super::{Bootstrap, BootstrapError, Protocol};
use crate::convention::PROVIDER;
use crate::node::Node;

/// Collects what a [`Bootstrap`] will hold.
#[derive(Clone)]
#[must_use]
pub struct BootstrapBuilder {
    file: File,
}

impl BootstrapBuilder {
    pub(super) fn new(node: Node) -> Self {
        Self {
            file: File {
                node,
                ..File::default()
            },
        }
    }

    /// A control plane that is spoken to in the clear.
    pub fn insecure(self, server_uri: &str) -> Self {
        self.server(server_uri, "insecure", Value::Null)
    }

    /// A control plane that is spoken to over TLS and judged by these PEM certificates alone.
    pub fn tls(self, server_uri: &str, roots_pem: &str) -> Self {
        self.server(server_uri, "tls", json!({ "ca_certificate": roots_pem }))
    }

    /// A CA at `server_uri`, judged by these PEM certificates, that is asked for the identity
    /// `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT` on the strength of a token.
    pub fn mesh_ca(
        self,
        server_uri: &str,
        roots_pem: &str,
        trust_domain: &str,
        namespace: &str,
        service_account: &str,
        token: &str,
    ) -> Self {
        let config = MeshCaConfig {
            server_uri: server_uri.into(),
            ca_certificate: Some(roots_pem.into()),
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
            token: Some(token.into()),
            ..MeshCaConfig::default()
        };
        let config = serde_json::to_value(config).expect("a struct of texts is JSON");
        self.provider("mesh_ca", config)
    }

    /// PEM files of the workload's chain and key and of the roots, that somebody else renews.
    pub fn file_watcher(self, certificate: &str, private_key: &str, roots: &str, refresh_interval: &str) -> Self {
        let config = json!({
            "certificate_file": certificate,
            "private_key_file": private_key,
            "ca_certificate_file": roots,
            "refresh_interval": refresh_interval,
        });
        self.provider("file_watcher", config)
    }

    /// The template that makes a listener's name of a target's. Default: `%s`.
    pub fn client_listener_template(mut self, template: &str) -> Self {
        self.file.client_default_listener_resource_name_template = Some(template.into());
        self
    }

    /// The variant of xDS that the stream speaks. Default: state of the world.
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.file.x_mesh.protocol = protocol;
        self
    }

    /// Checks it as if it had been read.
    ///
    /// # Errors
    ///
    /// When it could not be used; the error names the path within the JSON.
    pub fn build(self) -> Result<Bootstrap, BootstrapError> {
        Bootstrap::resolve(self.file)
    }

    fn server(mut self, server_uri: &str, kind: &str, config: Value) -> Self {
        self.file.xds_servers.push(XdsServer {
            server_uri: server_uri.into(),
            channel_creds: vec![CredsEntry {
                kind: kind.into(),
                config,
            }],
            server_features: vec![Value::from("xds_v3")],
        });
        self
    }

    fn provider(mut self, plugin_name: &str, config: Value) -> Self {
        let entry = ProviderEntry {
            plugin_name: plugin_name.into(),
            config,
        };
        self.file.certificate_providers.insert(PROVIDER.into(), entry);
        self
    }
}

// The configuration may hold a token.
impl std::fmt::Debug for BootstrapBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BootstrapBuilder")
            .field("node", &self.file.node.id)
            .finish_non_exhaustive()
    }
}
