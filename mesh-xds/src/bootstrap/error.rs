//! What is wrong with a bootstrap, and where.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::{CONFIG_VARIABLE, FILE_VARIABLE};

/// A bootstrap that cannot be used.
#[derive(Debug)]
pub struct BootstrapError {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    NotSet,
    Unreadable(PathBuf, io::Error),
    Invalid { path: Box<str>, reason: Box<str> },
}

impl BootstrapError {
    pub(super) fn not_set() -> Self {
        Self { kind: Kind::NotSet }
    }

    pub(super) fn unreadable(path: PathBuf, error: io::Error) -> Self {
        Self {
            kind: Kind::Unreadable(path, error),
        }
    }

    pub(super) fn at(path: impl Into<Box<str>>, reason: impl fmt::Display) -> Self {
        Self {
            kind: Kind::Invalid {
                path: path.into(),
                reason: reason.to_string().into(),
            },
        }
    }

    /// Whether neither environment variable is set.
    pub fn is_not_set(&self) -> bool {
        matches!(self.kind, Kind::NotSet)
    }

    /// The path within the JSON that is wrong, such as `xds_servers[0].server_uri`.
    pub fn path(&self) -> Option<&str> {
        match &self.kind {
            Kind::Invalid { path, .. } => Some(path),
            _ => None,
        }
    }
}

impl fmt::Display for BootstrapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::NotSet => write!(
                f,
                "no xDS bootstrap: neither {FILE_VARIABLE} nor {CONFIG_VARIABLE} is set"
            ),
            Kind::Unreadable(path, _) => write!(f, "the xDS bootstrap {} cannot be read", path.display()),
            Kind::Invalid { path, reason } if path.is_empty() => write!(f, "the xDS bootstrap is invalid: {reason}"),
            Kind::Invalid { path, reason } => write!(f, "the xDS bootstrap is invalid at {path}: {reason}"),
        }
    }
}

impl std::error::Error for BootstrapError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            Kind::Unreadable(_, error) => Some(error),
            _ => None,
        }
    }
}
