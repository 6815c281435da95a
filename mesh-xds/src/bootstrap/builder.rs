//! Writes a bootstrap, for a program that hands them out.

use serde_json::{Value, json};

use super::file::{CredsEntry, File, MeshCaConfig, ProviderEntry, XdsAuthority, XdsServer};
use super::{Bootstrap, BootstrapError, Profile, Protocol, ServerFeature};
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

    /// A control plane. The first is asked first; each later one is a fallback for those before it.
    pub fn server(mut self, server: ServerEntry) -> Self {
        self.file.xds_servers.push(server.entry);
        self
    }

    /// A control plane that is spoken to in the clear.
    pub fn insecure(self, server_uri: &str) -> Self {
        self.server(ServerEntry::insecure(server_uri))
    }

    /// A control plane that is spoken to over TLS and judged by these PEM certificates alone.
    pub fn tls(self, server_uri: &str, roots_pem: &str) -> Self {
        self.server(ServerEntry::tls(server_uri, roots_pem))
    }

    /// An authority whose names have servers or a template of their own (gRFC A47).
    pub fn authority(mut self, name: &str, authority: AuthorityEntry) -> Self {
        self.file.authorities.insert(name.into(), authority.entry);
        self
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

    /// The same, where the token is in a file that somebody else renews, such as the projected token of a Kubernetes service account. So the
    /// bootstrap holds no secret.
    pub fn mesh_ca_by_token_file(
        self,
        server_uri: &str,
        roots_pem: &str,
        trust_domain: &str,
        namespace: &str,
        service_account: &str,
        token_file: &str,
    ) -> Self {
        let config = MeshCaConfig {
            server_uri: server_uri.into(),
            ca_certificate: Some(roots_pem.into()),
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
            token_file: Some(token_file.into()),
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

    /// The SPIFFE Workload API at `endpoint_socket`, such as `unix:///run/spire/sockets/agent.sock`; `None`: where
    /// `SPIFFE_ENDPOINT_SOCKET` says.
    #[cfg(feature = "workload-api")]
    pub fn workload_api(self, endpoint_socket: Option<&str>) -> Self {
        let config = match endpoint_socket {
            Some(socket) => json!({ "endpoint_socket": socket }),
            None => json!({}),
        };
        self.provider("spiffe_workload_api", config)
    }

    /// The template that makes a listener's name of a target's. Default: `%s`.
    pub fn client_listener_template(mut self, template: &str) -> Self {
        self.file.client_default_listener_resource_name_template = Some(template.into());
        self
    }

    /// The template that makes a listener's name of an address that a server listens on. There is no default.
    pub fn server_listener_template(mut self, template: &str) -> Self {
        self.file.server_listener_resource_name_template = Some(template.into());
        self
    }

    /// For whom the control plane shapes its resources. Default: as the node says.
    pub fn profile(mut self, profile: Profile) -> Self {
        self.file.x_mesh.profile = Some(profile);
        self
    }

    /// Where the last good configuration is kept for a start without a control plane: see
    /// [`Bootstrap::cache_directory`](super::Bootstrap::cache_directory). Default: nowhere.
    pub fn cache_directory(mut self, path: &str) -> Self {
        self.file.x_mesh.cache_directory = Some(path.into());
        self
    }

    /// Asks the next control plane as soon as those before it cannot be reached: see
    /// [`Bootstrap::fallback_on_reachability_only`](super::Bootstrap::fallback_on_reachability_only). Default: no.
    pub fn fallback_on_reachability_only(mut self) -> Self {
        self.file.x_mesh.fallback_on_reachability_only = true;
        self
    }

    /// The roots of another trust domain, in a file: see [`Bootstrap::trust_bundles`](super::Bootstrap::trust_bundles).
    pub fn trust_bundle(mut self, trust_domain: &str, path: &str) -> Self {
        let bundles = &mut self.file.x_mesh.trust_bundles;
        bundles.insert(trust_domain.into(), path.into());
        self
    }

    /// What Istio gives a pod: certificates in files, or istiod and a token, where Istio's injector puts them. The node says which
    /// namespace and service account: `NAMESPACE` and `SERVICE_ACCOUNT` of its metadata. A file may say where else things are, by
    /// the keys of `istio_agent`.
    pub fn istio_agent(self) -> Self {
        self.provider("istio_agent", json!({}))
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

/// A control plane in a bootstrap that is being built.
#[derive(Clone)]
#[must_use]
pub struct ServerEntry {
    entry: XdsServer,
}

impl ServerEntry {
    /// Spoken to in the clear.
    pub fn insecure(server_uri: &str) -> Self {
        Self::new(server_uri, "insecure", Value::Null)
    }

    /// Spoken to over TLS and judged by these PEM certificates alone. The workload's identity is shown, if it has one.
    pub fn tls(server_uri: &str, roots_pem: &str) -> Self {
        Self::new(server_uri, "tls", json!({ "ca_certificate": roots_pem }))
    }

    /// Spoken to over TLS and judged by the PEM certificates in a file alone.
    pub fn tls_file(server_uri: &str, roots_file: &str) -> Self {
        Self::new(server_uri, "tls", json!({ "ca_certificate_file": roots_file }))
    }

    /// Shows the certificate in these PEM files instead of the workload's identity. Of no effect in the clear.
    pub fn certificate(mut self, certificate_file: &str, private_key_file: &str) -> Self {
        for creds in &mut self.entry.channel_creds {
            if let Value::Object(config) = &mut creds.config {
                config.insert("certificate_file".into(), certificate_file.into());
                config.insert("private_key_file".into(), private_key_file.into());
            }
        }
        self
    }

    /// Shows the JWT in a file with every call (gRFC A97). In the clear that is refused, unless through a socket file.
    pub fn call_credentials(mut self, jwt_token_file: &str) -> Self {
        self.entry.call_creds.push(CredsEntry {
            kind: "jwt_token_file".into(),
            config: json!({ "jwt_token_file": jwt_token_file }),
        });
        self
    }

    /// What the server can do, or is trusted with.
    pub fn feature(mut self, feature: ServerFeature) -> Self {
        self.entry.server_features.push(feature.as_str().into());
        self
    }

    fn new(server_uri: &str, kind: &str, config: Value) -> Self {
        let entry = XdsServer {
            server_uri: server_uri.into(),
            channel_creds: vec![CredsEntry {
                kind: kind.into(),
                config,
            }],
            call_creds: Vec::new(),
            server_features: vec![ServerFeature::XdsV3.as_str().into()],
        };
        Self { entry }
    }
}

/// An authority in a bootstrap that is being built. By default it has the servers of the others, and names its listeners
/// `xdstp://NAME/envoy.config.listener.v3.Listener/TARGET`.
#[derive(Clone, Default)]
#[must_use]
pub struct AuthorityEntry {
    entry: XdsAuthority,
}

impl AuthorityEntry {
    /// A control plane of its own. The first is asked first; each later one is a fallback for those before it.
    pub fn server(mut self, server: ServerEntry) -> Self {
        self.entry.xds_servers.push(server.entry);
        self
    }

    /// The template that makes a listener's name of a target's. It begins with `xdstp://NAME/`.
    pub fn client_listener_template(mut self, template: &str) -> Self {
        self.entry.client_listener_resource_name_template = Some(template.into());
        self
    }

    /// Only an unreachable server makes clients fall back to the next (gRFC A95).
    pub fn fallback_on_reachability_only(mut self) -> Self {
        self.entry.fallback_on_reachability_only = true;
        self
    }
}

impl std::fmt::Debug for ServerEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerEntry")
            .field("server_uri", &self.entry.server_uri)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for AuthorityEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let template = &self.entry.client_listener_resource_name_template;
        f.debug_struct("AuthorityEntry")
            .field("template", template)
            .finish_non_exhaustive()
    }
}
