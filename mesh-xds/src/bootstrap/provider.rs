//! Certificate providers: where the workload's identity comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use mesh_core::identity::{SpiffeId, TrustDomain};

use super::BootstrapError;
use super::file::{FileWatcherConfig, MeshCaConfig, ProviderEntry};
use super::server::{Roots, ServerUri, config, roots};

/// How often files are read again when nothing is said (gRFC A65, grpc-go).
const DEFAULT_REFRESH: Duration = Duration::from_secs(600);
/// More often than this is a busy loop.
const MIN_REFRESH: Duration = Duration::from_millis(100);

/// A source of the workload's identity.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Provider {
    /// Files that somebody else renews (`file_watcher`, gRFC A29).
    FileWatcher(FileWatcher),
    /// A CA that is asked for a certificate (`mesh_ca`).
    MeshCa(MeshCa),
}

/// `file_watcher`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileWatcher {
    /// The certificate chain, leaf first, in PEM.
    pub certificate: PathBuf,
    /// The leaf's private key, in PEM.
    pub private_key: PathBuf,
    /// The roots of the trust domain, in PEM.
    pub roots: PathBuf,
    /// How often they are read again. Default: 600 s.
    pub refresh_interval: Duration,
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

/// The entries of a known kind. Others belong to other readers of the file.
pub(super) fn known(entries: &BTreeMap<String, ProviderEntry>) -> Result<BTreeMap<String, Provider>, BootstrapError> {
    let mut known = BTreeMap::new();
    for (name, entry) in entries {
        let at = format!("certificate_providers.{name}.config");
        let provider = match entry.plugin_name.as_str() {
            "file_watcher" => match file_watcher(&at, config(&at, &entry.config)?)? {
                Some(files) => Provider::FileWatcher(files),
                None => continue,
            },
            "mesh_ca" => Provider::MeshCa(mesh_ca(&at, config(&at, &entry.config)?)?),
            _ => continue,
        };
        known.insert(name.clone(), provider);
    }
    Ok(known)
}

/// `None` for one that gives no identity: gRPC has uses for a certificate without roots, and for roots alone.
fn file_watcher(at: &str, config: FileWatcherConfig) -> Result<Option<FileWatcher>, BootstrapError> {
    let missing = |field: &str| BootstrapError::at(format!("{at}.{field}"), "is missing");
    let refresh_interval = match config.refresh_interval.as_deref().map(seconds) {
        None => DEFAULT_REFRESH,
        Some(Some(interval)) => interval.max(MIN_REFRESH),
        Some(None) => {
            let reason = "is not a duration such as \"600s\" or \"0.5s\"";
            return Err(BootstrapError::at(format!("{at}.refresh_interval"), reason));
        }
    };
    let path = |text: Option<String>| text.filter(|path| !path.is_empty()).map(PathBuf::from);
    let roots = path(config.ca_certificate_file);
    let (certificate, private_key) = match (path(config.certificate_file), path(config.private_key_file)) {
        (Some(certificate), Some(private_key)) => (certificate, private_key),
        (Some(_), None) => return Err(missing("private_key_file")),
        (None, Some(_)) => return Err(missing("certificate_file")),
        (None, None) if roots.is_none() => return Err(missing("ca_certificate_file")),
        (None, None) => return Ok(None),
    };
    Ok(roots.map(|roots| FileWatcher {
        certificate,
        private_key,
        roots,
        refresh_interval,
    }))
}

/// Reads protobuf's JSON form of a duration.
fn seconds(text: &str) -> Option<Duration> {
    let number: f64 = text.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(number).ok()
}

fn mesh_ca(at: &str, config: MeshCaConfig) -> Result<MeshCa, BootstrapError> {
    let field = |name: &str| format!("{at}.{name}");
    let uri = ServerUri::parse(&config.server_uri).map_err(|error| BootstrapError::at(field("server_uri"), error))?;
    let domain =
        TrustDomain::parse(&config.trust_domain).map_err(|error| BootstrapError::at(field("trust_domain"), error))?;
    let text = format!(
        "spiffe://{domain}/ns/{}/sa/{}",
        config.namespace, config.service_account
    );
    let id = SpiffeId::parse(&text).map_err(|error| BootstrapError::at(field("service_account"), error))?;
    let token = match (config.token, config.token_file) {
        (Some(token), _) => Token::Inline(token),
        (None, Some(path)) => Token::File(path.into()),
        (None, None) => return Err(BootstrapError::at(at, "needs token or token_file")),
    };
    Ok(MeshCa {
        uri,
        roots: roots(at, config.ca_certificate, config.ca_certificate_file)?,
        id,
        token,
    })
}
