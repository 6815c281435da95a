//! Certificate providers: where the workload's identity comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use mesh_core::identity::{SpiffeId, TrustDomain};

use super::BootstrapError;
use super::file::{FileWatcherConfig, IstioAgentConfig, MeshCaConfig, ProviderEntry};
use super::server::{certificate_files, config, path, refresh_interval, roots};
use super::{CertificateFiles, Roots, ServerUri};
use crate::node::Node;

/// A source of the workload's identity.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Provider {
    /// Files that somebody else renews (`file_watcher`, gRFC A29).
    FileWatcher(FileWatcher),
    /// Files of which one half is there: roots alone, or a certificate alone. It gives no identity; what it has is for clusters and
    /// filter chains that name it (gRFC A29).
    Half(HalfWatcher),
    /// A CA that is asked for a certificate (`mesh_ca`).
    MeshCa(MeshCa),
    /// What Istio gives a pod: certificates in files if there are some, else a token for its CA (`istio_agent`).
    IstioAgent(Box<IstioAgent>),
    /// SPIRE's agent, or who else serves the SPIFFE Workload API (`spiffe_workload_api`).
    #[cfg(feature = "workload-api")]
    WorkloadApi(WorkloadApi),
}

/// `spiffe_workload_api`: certificate, key and roots come from an agent on this machine, which renews them.
#[cfg(feature = "workload-api")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadApi {
    /// The agent's socket: `endpoint_socket`, else `SPIFFE_ENDPOINT_SOCKET`. Only a Unix socket: the agent sends a private
    /// key in the clear, which is for nobody else's network.
    pub endpoint: ServerUri,
    /// Which of several identities to take, by the operator's name for it: `hint`. Default: the first (SPIFFE Workload API 5.3).
    pub hint: Option<Box<str>>,
}

/// A `file_watcher` with one half of an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HalfWatcher {
    /// What it has.
    pub half: Half,
    /// How often that is read again. Default: 600 s. A cluster's handshakes read it each time.
    pub refresh_interval: Duration,
}

/// One half of an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Half {
    /// A certificate and its key.
    Certificate(CertificateFiles),
    /// Whom to trust.
    Trust(TrustFile),
}

/// `file_watcher`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileWatcher {
    /// The workload's certificate and key.
    pub identity: CertificateFiles,
    /// Whom the workload trusts.
    pub trust: TrustFile,
    /// How often they are read again. Default: 600 s.
    pub refresh_interval: Duration,
}

/// A file that says whom a workload trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustFile {
    /// The roots of the workload's own trust domain, in PEM (`ca_certificate_file`).
    Roots(PathBuf),
    /// The SPIFFE bundle of each trust domain, in JSON (`spiffe_trust_bundle_map_file`, gRFC A87). Roots named beside it
    /// are ignored: they are for clients that do not know it.
    BundleMap(PathBuf),
}

/// `mesh_ca`: the workload makes its key, sends a certificate signing request to an `IstioCertificateService`, and proves who
/// it is with a token the first time and with its certificate after that.
#[derive(Clone, Debug)]
pub struct MeshCa {
    /// Where the CA is.
    pub uri: ServerUri,
    /// What the CA's own certificate is judged by.
    pub roots: Roots,
    /// Whom the certificate will name: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.
    pub id: SpiffeId,
    /// What proves it.
    pub token: Token,
    /// How often the token is shown. Default: once.
    pub proof: Proof,
    /// The name that the CA's certificate is good for. Default: the host of `uri`.
    pub server_name: Option<Box<str>>,
    /// The cluster that the workload is in, for a CA that serves several (Istio's `ClusterID`). Default: it is not told.
    pub cluster_id: Option<Box<str>>,
}

/// What proves who a workload is to its CA once it has a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Proof {
    /// The certificate: the token is shown while there is none that is valid.
    #[default]
    TokenOnce,
    /// The token, read anew each time: as Istio's agent does it with the projected token of a service account.
    TokenAlways,
}

/// `istio_agent`: the paths and the protocol of Istio's agent. Which of the two is used is settled when the process starts.
#[derive(Clone, Debug)]
pub struct IstioAgent {
    /// Certificate, key and roots in `/var/run/secrets/workload-spiffe-credentials`, if its `cert-chain.pem` is there.
    pub files: FileWatcher,
    /// Else istiod, or another CA that speaks its protocol.
    pub ca: MeshCa,
}

/// A join token. It has no `Debug` that shows it.
#[derive(Clone)]
pub enum Token {
    /// The token itself.
    Inline(String),
    /// A file that holds it, read at each use since such tokens are renewed in place.
    File(PathBuf),
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("Inline(..)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// What Istio's injector mounts into a pod, and where istiod is in its default installation.
const ISTIO_CREDENTIALS: &str = "/var/run/secrets/workload-spiffe-credentials";
const ISTIO_TOKEN: &str = "/var/run/secrets/tokens/istio-token";
const ISTIO_ROOT: &str = "/var/run/secrets/istio/root-cert.pem";
const ISTIO_CA: &str = "istiod.istio-system.svc:15012";
/// What names the socket of somebody who serves the workload's certificate by SDS.
const ISTIO_SOCKET_VARIABLE: &str = "CREDENTIAL_UDS";
/// Istio's agent watches the files; who renews them there does it long before they end.
const ISTIO_REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// The kind of provider that speaks the SPIFFE Workload API.
pub(super) const WORKLOAD_API: &str = "spiffe_workload_api";

/// Where the agent's socket is (SPIFFE Workload Endpoint 4).
#[cfg(feature = "workload-api")]
const ENDPOINT_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

/// The entries of a known kind. Others belong to other readers of the file.
pub(super) fn known(
    entries: &BTreeMap<String, ProviderEntry>,
    node: &Node,
) -> Result<BTreeMap<String, Provider>, BootstrapError> {
    let mut known = BTreeMap::new();
    for (name, entry) in entries {
        let at = format!("certificate_providers.{name}.config");
        let provider = match entry.plugin_name.as_str() {
            "file_watcher" => match file_watcher(&at, config(&at, &entry.config)?)? {
                Whole(files) => Provider::FileWatcher(files),
                Part(half) => Provider::Half(half),
            },
            "mesh_ca" => Provider::MeshCa(mesh_ca(&at, config(&at, &entry.config)?)?),
            "istio_agent" => {
                let socket = std::env::var(ISTIO_SOCKET_VARIABLE).ok();
                no_socket(&at, socket.as_deref())?;
                Provider::IstioAgent(Box::new(istio_agent(&at, config(&at, &entry.config)?, node)?))
            }
            WORKLOAD_API => workload_api(&at, &entry.config)?,
            _ => continue,
        };
        known.insert(name.clone(), provider);
    }
    Ok(known)
}

/// What a `file_watcher` has.
enum Files {
    Whole(FileWatcher),
    Part(HalfWatcher),
}
use Files::{Part, Whole};

fn file_watcher(at: &str, config: FileWatcherConfig) -> Result<Files, BootstrapError> {
    let refresh_interval = refresh_interval(at, config.refresh_interval.as_deref())?;
    let trust = path(config.spiffe_trust_bundle_map_file).map(TrustFile::BundleMap);
    let trust = trust.or_else(|| path(config.ca_certificate_file).map(TrustFile::Roots));
    let identity = certificate_files(at, config.certificate_file, config.private_key_file)?;
    let half = |half| Part(HalfWatcher { half, refresh_interval });
    match (identity, trust) {
        (Some(identity), Some(trust)) => Ok(Whole(FileWatcher {
            identity,
            trust,
            refresh_interval,
        })),
        (Some(identity), None) => Ok(half(Half::Certificate(identity))),
        (None, Some(trust)) => Ok(half(Half::Trust(trust))),
        (None, None) => Err(BootstrapError::at(
            at,
            "names no file: it needs certificate_file and private_key_file, and ca_certificate_file or \
             spiffe_trust_bundle_map_file",
        )),
    }
}

fn mesh_ca(at: &str, config: MeshCaConfig) -> Result<MeshCa, BootstrapError> {
    let field = |name: &str| format!("{at}.{name}");
    let uri = ServerUri::parse(&config.server_uri).map_err(|error| BootstrapError::at(field("server_uri"), error))?;
    let id = workload_id(at, &config.trust_domain, &config.namespace, &config.service_account)?;
    let token = match (config.token, config.token_file) {
        (Some(token), _) => Token::Inline(token),
        (None, Some(path)) => Token::File(path.into()),
        (None, None) => return Err(BootstrapError::at(at, "needs token or token_file")),
    };
    Ok(MeshCa {
        uri,
        roots: roots(config.ca_certificate, config.ca_certificate_file).ok_or_else(|| {
            BootstrapError::at(
                at,
                "needs ca_certificate_file (a PEM file) or ca_certificate (PEM itself)",
            )
        })?,
        id,
        token,
        proof: Proof::TokenOnce,
        server_name: config.server_name.filter(|name| !name.is_empty()).map(Into::into),
        cluster_id: None,
    })
}

fn workload_id(at: &str, domain: &str, namespace: &str, account: &str) -> Result<SpiffeId, BootstrapError> {
    let field = |name: &str| format!("{at}.{name}");
    let domain = TrustDomain::parse(domain).map_err(|error| BootstrapError::at(field("trust_domain"), error))?;
    let text = format!("spiffe://{domain}/ns/{namespace}/sa/{account}");
    SpiffeId::parse(&text).map_err(|error| BootstrapError::at(field("service_account"), error))
}

/// Whoever set the variable meant certificates that somebody else issues. To ask istiod for others instead would give the process an identity
/// of another authority, and nobody would know why peers refuse it.
fn no_socket(at: &str, socket: Option<&str>) -> Result<(), BootstrapError> {
    match socket.filter(|socket| !socket.is_empty()) {
        None => Ok(()),
        Some(socket) => Err(BootstrapError::at(
            at,
            format!(
                "{ISTIO_SOCKET_VARIABLE} names {socket:?}, which serves certificates by SDS, and that is not spoken here: have them in files, \
                 or by the SPIFFE Workload API ({WORKLOAD_API})"
            ),
        )),
    }
}

/// What is not said is as Istio's injector lays it out, or what the node's metadata say, which Istio's agent fills in.
fn istio_agent(at: &str, config: IstioAgentConfig, node: &Node) -> Result<IstioAgent, BootstrapError> {
    let or =
        |said: Option<String>, default: &str| said.filter(|text| !text.is_empty()).unwrap_or_else(|| default.into());
    let of_node = |name: &str, said: Option<String>, key: &str| {
        let said = said.or_else(|| node.metadata_text(key).map(Into::into));
        said.filter(|text| !text.is_empty())
            .ok_or_else(|| BootstrapError::at(at, format!("needs {name}, or {key} in the metadata of the node")))
    };
    let namespace = of_node("namespace", config.namespace, "NAMESPACE")?;
    let account = of_node("service_account", config.service_account, "SERVICE_ACCOUNT")?;
    let directory = PathBuf::from(or(config.credentials_directory, ISTIO_CREDENTIALS));
    let address = or(config.ca_address, ISTIO_CA);
    let uri = ServerUri::parse(&address).map_err(|error| BootstrapError::at(format!("{at}.ca_address"), error))?;
    let cluster = config
        .cluster_id
        .or_else(|| node.metadata_text("CLUSTER_ID").map(Into::into));
    Ok(IstioAgent {
        files: FileWatcher {
            identity: CertificateFiles {
                certificate: directory.join("cert-chain.pem"),
                private_key: directory.join("key.pem"),
            },
            trust: TrustFile::Roots(directory.join("root-cert.pem")),
            refresh_interval: ISTIO_REFRESH_INTERVAL,
        },
        ca: MeshCa {
            uri,
            roots: Roots::File(or(config.ca_certificate_file, ISTIO_ROOT).into()),
            id: workload_id(at, &or(config.trust_domain, "cluster.local"), &namespace, &account)?,
            token: Token::File(or(config.token_file, ISTIO_TOKEN).into()),
            proof: Proof::TokenAlways,
            server_name: config.ca_server_name.filter(|name| !name.is_empty()).map(Into::into),
            cluster_id: cluster.filter(|id| !id.is_empty()).map(Into::into),
        },
    })
}

#[cfg(feature = "workload-api")]
fn workload_api(at: &str, entry: &serde_json::Value) -> Result<Provider, BootstrapError> {
    let from_env = std::env::var(ENDPOINT_VARIABLE).ok();
    Ok(Provider::WorkloadApi(agent(at, config(at, entry)?, from_env)?))
}

/// Who wrote this provider meant an identity, and a process that passed it over would wait for one for ever.
#[cfg(not(feature = "workload-api"))]
fn workload_api(at: &str, _: &serde_json::Value) -> Result<Provider, BootstrapError> {
    Err(BootstrapError::at(
        at,
        format!("{WORKLOAD_API} needs mesh-xds with the feature workload-api"),
    ))
}

#[cfg(feature = "workload-api")]
fn agent(
    at: &str,
    config: super::file::WorkloadApiConfig,
    from_env: Option<String>,
) -> Result<WorkloadApi, BootstrapError> {
    let at = format!("{at}.endpoint_socket");
    let endpoint = config.endpoint_socket.or(from_env).filter(|text| !text.is_empty());
    let endpoint =
        endpoint.ok_or_else(|| BootstrapError::at(&*at, format!("is not set, and neither is {ENDPOINT_VARIABLE}")))?;
    let uri = ServerUri::parse(&endpoint).map_err(|error| BootstrapError::at(&*at, error))?;
    match uri.socket_path() {
        Some(path) if path.is_absolute() => Ok(WorkloadApi {
            endpoint: uri,
            hint: config.hint.filter(|hint| !hint.is_empty()).map(Into::into),
        }),
        _ => Err(BootstrapError::at(
            &*at,
            "must be a Unix socket's absolute path, such as unix:///run/spire/sockets/agent.sock",
        )),
    }
}

#[cfg(all(test, feature = "workload-api"))]
mod tests {
    use super::super::file::WorkloadApiConfig;
    use super::*;

    #[test]
    fn the_agent_is_where_the_file_says_or_else_the_environment() {
        let socket = "unix:///run/spire/agent.sock";
        let resolve = |file: Option<&str>, env: Option<&str>| {
            let config = WorkloadApiConfig {
                endpoint_socket: file.map(Into::into),
                hint: None,
            };
            agent("p", config, env.map(Into::into)).map(|api| api.endpoint.to_string())
        };
        let told = "unix:/run/spire/agent.sock";
        assert_eq!(resolve(Some(socket), Some("unix:///other")).unwrap(), told);
        assert_eq!(resolve(None, Some(socket)).unwrap(), told);
        for bad in [
            None,
            Some(""),
            Some("tcp://127.0.0.1:8081"),
            Some("127.0.0.1:8081"),
            Some("unix:agent.sock"),
        ] {
            let error = resolve(bad, None).unwrap_err().to_string();
            assert!(error.contains("p.endpoint_socket"), "{bad:?}: {error}");
        }
    }
}

#[cfg(test)]
mod socket_tests {
    use super::*;

    #[test]
    fn certificates_by_sds_are_refused_by_the_name_that_asks_for_them() {
        assert!(no_socket("p", None).is_ok() && no_socket("p", Some("")).is_ok());
        let error = no_socket("p", Some("/var/run/secrets/workload-spiffe-uds/socket")).unwrap_err();
        assert!(
            error.to_string().contains("CREDENTIAL_UDS") && error.to_string().contains("SDS"),
            "{error}"
        );
    }
}
