//! Certificate providers: where the workload's identity comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use mesh_core::identity::{SpiffeId, TrustDomain};

use super::BootstrapError;
use super::file::{FileWatcherConfig, MeshCaConfig, ProviderEntry};
use super::server::{certificate_files, config, path, refresh_interval, roots};
use super::{CertificateFiles, Roots, ServerUri};

/// A source of the workload's identity.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Provider {
    /// Files that somebody else renews (`file_watcher`, gRFC A29).
    FileWatcher(FileWatcher),
    /// Files of which one half is there: roots alone, or a certificate alone. It gives no identity; what it has is for clusters that
    /// name it (gRFC A29).
    Half(HalfWatcher),
    /// A CA that is asked for a certificate (`mesh_ca`).
    MeshCa(MeshCa),
}

/// A `file_watcher` with one half of an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HalfWatcher {
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
                Whole(files) => Provider::FileWatcher(files),
                Part(half) => Provider::Half(half),
            },
            "mesh_ca" => Provider::MeshCa(mesh_ca(&at, config(&at, &entry.config)?)?),
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
    match (identity, trust) {
        (Some(identity), Some(trust)) => Ok(Whole(FileWatcher {
            identity,
            trust,
            refresh_interval,
        })),
        (Some(identity), None) => Ok(Part(HalfWatcher::Certificate(identity))),
        (None, Some(trust)) => Ok(Part(HalfWatcher::Trust(trust))),
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
        roots: roots(config.ca_certificate, config.ca_certificate_file).ok_or_else(|| {
            BootstrapError::at(
                at,
                "needs ca_certificate_file (a PEM file) or ca_certificate (PEM itself)",
            )
        })?,
        id,
        token,
    })
}
