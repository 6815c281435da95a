//! Why the CA cannot work. What a *caller* did wrong is told to the caller by `service.rs`, not here.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The certificate authority cannot be opened or cannot sign.
#[derive(Debug)]
pub struct CaError {
    kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    Exposed(PathBuf),
    InUse(PathBuf),
    Malformed {
        path: PathBuf,
        why: &'static str,
    },
    TrustDomain {
        path: PathBuf,
        found: String,
    },
    Expired,
    Clock,
    Random,
    Sign(rcgen::Error),
    TooManyTokens,
}

impl CaError {
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Kind::Io {
            doing,
            path: path.to_owned(),
            source,
        }
        .into()
    }

    /// Whether a secret file may be read by others than its owner.
    pub fn is_exposed(&self) -> bool {
        matches!(self.kind, Kind::Exposed(_))
    }

    /// Whether another control plane has the state directory.
    pub fn is_in_use(&self) -> bool {
        matches!(self.kind, Kind::InUse(_))
    }

    /// Whether the file system refused.
    pub fn is_io(&self) -> bool {
        matches!(self.kind, Kind::Io { .. })
    }
}

impl From<Kind> for CaError {
    fn from(kind: Kind) -> Self {
        Self { kind }
    }
}

impl fmt::Display for CaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Io { doing, path, .. } => write!(f, "cannot {doing} {}", path.display()),
            Kind::Exposed(path) => write!(
                f,
                "{} holds a secret and must be a regular file that only its owner may read (mode 0600)",
                path.display()
            ),
            Kind::InUse(path) => write!(
                f,
                "{} is the state directory of a control plane that runs: two would each keep tokens, keys and roots of their own; give one \
                 of them another directory",
                path.display()
            ),
            Kind::Malformed { path, why } => write!(f, "{}: {why}", path.display()),
            Kind::TrustDomain { path, found } => {
                write!(
                    f,
                    "{} is the root of trust domain {found:?}, not of this one",
                    path.display()
                )
            }
            Kind::Expired => f.write_str("the root certificate is not valid at this time"),
            Kind::Clock => f.write_str("the wall clock cannot be read"),
            Kind::Random => f.write_str("the operating system gives no randomness"),
            Kind::Sign(_) => f.write_str("cannot make a certificate"),
            Kind::TooManyTokens => f.write_str("too many join tokens are waiting to be used"),
        }
    }
}

impl std::error::Error for CaError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            Kind::Io { source, .. } => Some(source),
            Kind::Sign(source) => Some(source),
            _ => None,
        }
    }
}
