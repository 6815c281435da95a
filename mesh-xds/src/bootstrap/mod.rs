//! The bootstrap file of a gRPC xDS client (gRFCs A27, A29, A47, A65, A71, A87, A97), with one certificate provider more:
//! joining a CA. An object of our own at the top level, such as `"x_mesh": {"protocol": "delta"}`, says what other clients
//! have no word for.
//!
//! The file is read in two steps. [`file`] is its shape, one set of structs to read and to print; here the parts that come
//! in kinds (credentials, providers) or belong together (authorities and their servers) are resolved, so that a
//! [`Bootstrap`] that exists is usable as far as a file can say. gRPC's readers skip what they do not know, at every level,
//! so one file serves them and us; an error says which path of the file is wrong.

mod authority;
mod builder;
mod error;
mod features;
mod file;
mod json;
mod options;
mod provider;
mod server;
mod uri;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use mesh_core::identity::TrustDomain;

use crate::convention::PROVIDER;
use crate::node::Node;

pub use authority::{Authority, InvalidTarget, NoServerListener};
pub use builder::{AuthorityEntry, BootstrapBuilder, ServerEntry};
pub use error::BootstrapError;
pub use features::{ServerFeature, ServerFeatures};
pub use options::{Profile, Protocol};
#[cfg(feature = "workload-api")]
pub use provider::WorkloadApi;
pub use provider::{FileWatcher, Half, HalfWatcher, IstioAgent, MeshCa, Proof, Provider, Token, TrustFile};
pub use server::{CallCredentials, CertificateFiles, Credentials, Roots, Server, TlsCredentials};
pub use uri::{InvalidServerUri, ServerUri};

pub(crate) use authority::ListenerNames;

use file::File;
use json::Json;

/// Names the bootstrap file. Wins over [`CONFIG_VARIABLE`].
pub const FILE_VARIABLE: &str = "GRPC_XDS_BOOTSTRAP";
/// Holds the bootstrap itself.
pub const CONFIG_VARIABLE: &str = "GRPC_XDS_BOOTSTRAP_CONFIG";

/// The most bytes a bootstrap may have; an ordinary one has a few thousand.
const MAX_BYTES: usize = 1024 * 1024;

/// What a process needs to know to take part in a mesh: the control plane, its own name, and how to come by an identity.
///
/// It may hold a join token, which neither `Debug` nor any serialisation shows but [`to_json`](Self::to_json).
#[derive(Clone)]
pub struct Bootstrap {
    file: File,
    /// At least one.
    servers: Vec<Server>,
    authorities: BTreeMap<String, Authority>,
    names: ListenerNames,
    providers: BTreeMap<String, Provider>,
    trust_bundles: BTreeMap<TrustDomain, PathBuf>,
}

impl Bootstrap {
    /// Reads the file that `GRPC_XDS_BOOTSTRAP` names, else the JSON in `GRPC_XDS_BOOTSTRAP_CONFIG`. Empty is not set.
    ///
    /// # Errors
    ///
    /// When neither is set, the file cannot be read, or it is not a bootstrap.
    pub fn from_env() -> Result<Self, BootstrapError> {
        Self::from_variables(|name| env::var_os(name))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, BootstrapError> {
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        match (variable(FILE_VARIABLE), variable(CONFIG_VARIABLE)) {
            (Some(path), _) => Self::from_file(path),
            (None, Some(json)) => match json.to_str() {
                Some(json) => Self::from_json(json),
                None => Err(BootstrapError::at("", format!("{CONFIG_VARIABLE} is not UTF-8"))),
            },
            (None, None) => Err(BootstrapError::not_set()),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is not a bootstrap; the error names the file, and the path within it.
    pub fn from_file(path: impl Into<PathBuf>) -> Result<Self, BootstrapError> {
        let path = path.into();
        match read(&path) {
            Ok(json) => Self::from_json(&json).map_err(|error| error.of(path)),
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
        let at = |error: serde_path_to_error::Error<serde_json::Error>| {
            let path = error.path().to_string();
            // Text that is not JSON leaves a question mark where it broke off.
            let path = path.strip_suffix('?').unwrap_or(&path).trim_matches('.');
            BootstrapError::at(path, error.into_inner())
        };
        let text: Json = serde_path_to_error::deserialize(&mut reader).map_err(at)?;
        reader.end().map_err(|error| BootstrapError::at("", error))?;
        let file: File = serde_path_to_error::deserialize(text).map_err(at)?;
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

    /// The control planes in order of priority: a later one is a fallback for those before it (gRFC A71). At least one.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The control plane that is asked first.
    pub fn server(&self) -> &Server {
        &self.servers[0]
    }

    /// Those whose names are asked of servers of their own (gRFC A47), by name. Names without an authority are not here.
    pub fn authorities(&self) -> &BTreeMap<String, Authority> {
        &self.authorities
    }

    /// Whom to ask for names of this authority, in order of priority: of `None`, which plain names have, those at the top
    /// of the file. `None` is the answer for an authority that the file does not know.
    pub fn servers_for(&self, authority: Option<&str>) -> Option<&[Server]> {
        match authority {
            None => Some(&self.servers),
            Some(name) => self.authorities.get(name).map(Authority::servers),
        }
    }

    /// The name of a target's listener (gRFC A47): a bare name, `xds:name` and `xds:///name` go by the template at the top
    /// of the file, `xds://AUTHORITY/name` by the authority's own. The value is percent-encoded where the template is one of
    /// `xdstp:` names.
    ///
    /// # Errors
    ///
    /// When the target is empty or malformed, or the file does not know its authority, or that of the name made of it.
    pub fn listener_name(&self, target: &str) -> Result<String, InvalidTarget> {
        self.names.of_target(target)
    }

    /// The name of the listener of a server at `address`, as in `127.0.0.1:80` or `[::1]:80` (gRFC A36).
    ///
    /// # Errors
    ///
    /// When the file has no template for such names, or does not know the authority of the name.
    pub fn server_listener_name(&self, address: &str) -> Result<String, NoServerListener> {
        self.names.of_address(address)
    }

    /// The variant of xDS that the stream speaks.
    pub fn protocol(&self) -> Protocol {
        self.file.x_mesh.protocol
    }

    /// For whom the control plane shapes its resources.
    pub fn profile(&self) -> Profile {
        let options = &self.file.x_mesh;
        options.profile.unwrap_or_else(|| Profile::of(&self.file.node))
    }

    /// Where the last good configuration is kept for a start without a control plane: `x_mesh.cache_directory`. `None`: it is
    /// not kept.
    ///
    /// The client has one file there, `xds-<digest>.copy`, by the node's id, the profile and the control planes of this
    /// bootstrap, so that processes which differ in them may share a directory; two that do not, replace each other's. It is
    /// made with the directory when something was accepted, replaced as a whole, readable by its owner alone, and at most
    /// 64 MiB. A file that is damaged, too large, of a later format, of somebody else, or that others may write, is not used:
    /// that is told, and the file is put aside as `.bad`. Keys and certificates are never in it; a workload whose identity
    /// comes from a CA still needs that one. A control plane that comes back without something that is wanted deletes it by that: the copy's
    /// value is served on, unless the bootstrap says `fail_on_data_errors`. See [`client::DiskCopy`](crate::client::DiskCopy) for what a client says of it.
    pub fn cache_directory(&self) -> Option<&Path> {
        self.file.x_mesh.cache_directory.as_deref().map(Path::new)
    }

    /// Whether the next control plane of plain names is asked as soon as those before it cannot be reached:
    /// `x_mesh.fallback_on_reachability_only`, as an authority has it by the key of that name (gRFC A95). Else only while something that is
    /// wanted is not known (gRFC A71), so that a client that knows everything hears of no change until the first is back. For control planes
    /// that say the same.
    pub fn fallback_on_reachability_only(&self) -> bool {
        self.file.x_mesh.fallback_on_reachability_only
    }

    /// The certificate providers of a known kind, by instance name.
    pub fn providers(&self) -> &BTreeMap<String, Provider> {
        &self.providers
    }

    /// The provider that the workload's identity comes from, and its instance name: `default`, or the only one that gives one.
    /// The others are for who names them (gRFC A29): a cluster, whose handshakes read their files, or a filter chain, which shows and judges
    /// by what any kind of them has.
    pub fn identity_provider(&self) -> Option<(&str, &Provider)> {
        let gives = |(_, provider): &(&String, &Provider)| !matches!(provider, Provider::Half(_));
        let (name, provider) = match self.providers.get_key_value(PROVIDER).filter(gives) {
            Some(default) => default,
            None => {
                let mut all = self.providers.iter().filter(gives);
                all.next().filter(|_| all.next().is_none())?
            }
        };
        Some((name, provider))
    }

    /// The plugin of the provider `default`, which a workload's identity is looked for in first, where that is none that is known here.
    pub fn unknown_identity_plugin(&self) -> Option<&str> {
        let entry = self.file.certificate_providers.get(PROVIDER)?;
        (!self.providers.contains_key(PROVIDER)).then_some(entry.plugin_name.as_str())
    }

    /// The roots of other trust domains, each in a file: `x_mesh.trust_bundles`, an object of paths by trust domain. A file is a SPIFFE
    /// bundle (JSON, of which the `x509-svid` keys count) or certificates in PEM, and is read again every minute. A certificate of
    /// such a domain is judged by these roots alone, and they are good for no other domain's. What the workload's identity
    /// comes with has the first word: its own domain's roots never come from here.
    pub fn trust_bundles(&self) -> &BTreeMap<TrustDomain, PathBuf> {
        &self.trust_bundles
    }

    /// Makes a listener's name of a target's: every `%s` stands for the target. [`listener_name`](Self::listener_name) uses
    /// it.
    pub fn client_listener_template(&self) -> &str {
        self.names.client_template()
    }

    /// Makes a listener's name of an address that a server listens on, if the file says how (gRFC A36).
    pub fn server_listener_template(&self) -> Option<&str> {
        self.names.server_template()
    }

    /// Whether the control plane is asked what servers of this process demand of their clients: by a listener of each address
    /// (gRFC A36), or because it configures the process like a sidecar.
    pub fn governs_servers(&self) -> bool {
        self.profile() == Profile::Envoy || self.server_listener_template().is_some()
    }

    pub(crate) fn listener_names(&self) -> &ListenerNames {
        &self.names
    }

    fn resolve(file: File) -> Result<Self, BootstrapError> {
        let servers = server::all("xds_servers", &file.xds_servers)?;
        if servers.is_empty() {
            return Err(BootstrapError::at("xds_servers", "is empty"));
        }
        let authorities = authority::all(&file.authorities, &servers)?;
        let template = |at: &str, template: &Option<String>| match template.as_deref() {
            None | Some("") => Ok(None),
            Some(template) => authority::check(at, template).map(|()| Some(template.to_owned())),
        };
        let client = template(
            "client_default_listener_resource_name_template",
            &file.client_default_listener_resource_name_template,
        )?;
        let server = template(
            "server_listener_resource_name_template",
            &file.server_listener_resource_name_template,
        )?;
        let trust_bundles = file.x_mesh.check()?;
        Ok(Self {
            trust_bundles,
            names: ListenerNames::new(client.as_deref(), server.as_deref(), &authorities),
            providers: provider::known(&file.certificate_providers, &file.node)?,
            file,
            servers,
            authorities,
        })
    }
}

/// Reads no more than could be a bootstrap.
fn read(path: &Path) -> io::Result<String> {
    let mut json = String::new();
    let file = std::fs::File::open(path)?;
    file.take(MAX_BYTES as u64 + 1).read_to_string(&mut json)?;
    Ok(json)
}

impl fmt::Debug for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bootstrap")
            .field("servers", &self.servers)
            .field("authorities", &self.authorities)
            .field("node", &self.file.node.id)
            .field("providers", &self.providers)
            .finish_non_exhaustive()
    }
}
