//! The bootstrap file of a gRPC xDS client (gRFCs A27, A29, A65), with one certificate provider more: joining a CA. A key of
//! our own at the top level, `"x_mesh": {"protocol": "delta"}`, chooses the incremental variant of xDS for the stream.
//!
//! The file is read in two steps. [`file`] is its shape, one set of structs to read and to print; here the parts that come
//! in kinds (credentials, providers) are resolved. gRPC's readers skip what they do not know, at every level, so one file
//! serves them and us; an error says which path of the file is wrong.

mod builder;
mod error;
mod file;
mod provider;
mod server;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::convention::PROVIDER;
use crate::node::Node;

pub use builder::BootstrapBuilder;
pub use error::BootstrapError;
pub use provider::{FileWatcher, MeshCa, Provider, Token};
pub use server::{Credentials, InvalidServerUri, Roots, Server, ServerUri};

use file::File;

/// Names the bootstrap file. Wins over [`CONFIG_VARIABLE`].
pub const FILE_VARIABLE: &str = "GRPC_XDS_BOOTSTRAP";
/// Holds the bootstrap itself.
pub const CONFIG_VARIABLE: &str = "GRPC_XDS_BOOTSTRAP_CONFIG";

/// The template that makes a listener's name of a target's (gRFC A47).
const DEFAULT_CLIENT_TEMPLATE: &str = "%s";

/// The most bytes a bootstrap may have; an ordinary one has a few thousand.
const MAX_BYTES: usize = 1024 * 1024;

/// The variant of xDS that the stream speaks: `x_mesh.protocol`. State of the world unless the file says otherwise, since
/// every control plane serves that, and the `GENERATOR=grpc` of istiod is not tested with the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Protocol {
    /// State of the world (`"sotw"`): listeners and clusters come whole with every change.
    #[default]
    Sotw,
    /// Incremental (`"delta"`): only what changed comes, and after a lost stream only what changed meanwhile.
    Delta,
}

/// What a process needs to know to take part in a mesh: the control plane, its own name, and how to come by an identity.
///
/// It may hold a join token, which neither `Debug` nor any serialisation shows but [`to_json`](Self::to_json).
#[derive(Clone)]
pub struct Bootstrap {
    file: File,
    server: Server,
    providers: BTreeMap<String, Provider>,
}

impl Bootstrap {
    /// Reads the file that `GRPC_XDS_BOOTSTRAP` names, else the JSON in `GRPC_XDS_BOOTSTRAP_CONFIG`.
    ///
    /// # Errors
    ///
    /// When neither is set, the file cannot be read, or it is not a bootstrap.
    pub fn from_env() -> Result<Self, BootstrapError> {
        if let Some(path) = env::var_os(FILE_VARIABLE).filter(|path| !path.is_empty()) {
            return Self::from_file(path);
        }
        match env::var(CONFIG_VARIABLE) {
            Ok(json) if !json.is_empty() => Self::from_json(&json),
            _ => Err(BootstrapError::not_set()),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is not a bootstrap.
    pub fn from_file(path: impl Into<PathBuf>) -> Result<Self, BootstrapError> {
        let path = path.into();
        match std::fs::read_to_string(&path) {
            Ok(json) => Self::from_json(&json),
            Err(error) => Err(BootstrapError::unreadable(path, error)),
        }
    }

    /// Reads JSON.
    ///
    /// # Errors
    ///
    /// When it is not a bootstrap; the error names the path within it.
    pub fn from_json(json: &str) -> Result<Self, BootstrapError> {
        if json.len() > MAX_BYTES {
            return Err(BootstrapError::at("", "is longer than 1 MiB"));
        }
        let mut reader = serde_json::Deserializer::from_str(json);
        let file: File = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let path = error.path().to_string();
            BootstrapError::at(path.trim_matches('.'), error.into_inner())
        })?;
        Self::resolve(file)
    }

    /// Begins one.
    pub fn builder(node: Node) -> BootstrapBuilder {
        BootstrapBuilder::new(node)
    }

    /// The file's text, for the workload that it is meant for: it shows the join token.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(&self.file).expect("a bootstrap has no key that is not text")
    }

    /// Who asks.
    pub fn node(&self) -> &Node {
        &self.file.node
    }

    /// The control plane: the first server of the list whose credentials are supported.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The variant of xDS that the stream speaks.
    pub fn protocol(&self) -> Protocol {
        self.file.x_mesh.protocol
    }

    /// The certificate providers of a known kind, by instance name.
    pub fn providers(&self) -> &BTreeMap<String, Provider> {
        &self.providers
    }

    /// The provider that the workload's identity comes from, and its instance name: `default`, or the only one.
    pub fn identity_provider(&self) -> Option<(&str, &Provider)> {
        let (name, provider) = match self.providers.get_key_value(PROVIDER) {
            Some(default) => default,
            None if self.providers.len() == 1 => self.providers.first_key_value()?,
            None => return None,
        };
        Some((name, provider))
    }

    /// Makes a listener's name of a target's: every `%s` stands for the target.
    pub fn client_listener_template(&self) -> &str {
        self.file
            .client_default_listener_resource_name_template
            .as_deref()
            .unwrap_or(DEFAULT_CLIENT_TEMPLATE)
    }

    /// Makes a listener's name of an address that a server listens on, if the file says how (gRFC A36).
    pub fn server_listener_template(&self) -> Option<&str> {
        self.file.server_listener_resource_name_template.as_deref()
    }

    fn resolve(file: File) -> Result<Self, BootstrapError> {
        let server = server::first_usable(&file.xds_servers)?;
        let providers = provider::known(&file.certificate_providers)?;
        Ok(Self {
            file,
            server,
            providers,
        })
    }
}

impl fmt::Debug for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bootstrap")
            .field("server", &self.server)
            .field("node", &self.file.node.id)
            .field("providers", &self.providers)
            .finish_non_exhaustive()
    }
}
