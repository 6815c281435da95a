//! What is wrong with a bootstrap, and where.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::{CONFIG_VARIABLE, FILE_VARIABLE};

/// A bootstrap that cannot be used.
#[derive(Debug)]
pub struct BootstrapError {
    kind: Kind,
    /// The file that it was read of.
    file: Option<PathBuf>,
}

#[derive(Debug)]
enum Kind {
    NotSet,
    Unreadable(io::Error),
    Invalid { path: Box<str>, reason: Box<str> },
}

impl Kind {
    fn within(self, file: PathBuf) -> BootstrapError {
        BootstrapError {
            kind: self,
            file: Some(file),
        }
    }
}

impl From<Kind> for BootstrapError {
    fn from(kind: Kind) -> Self {
        Self { kind, file: None }
    }
}

impl BootstrapError {
    pub(super) fn not_set() -> Self {
        Kind::NotSet.into()
    }

    pub(super) fn unreadable(path: PathBuf, error: io::Error) -> Self {
        Kind::Unreadable(error).within(path)
    }

    pub(super) fn at(path: impl Into<Box<str>>, reason: impl fmt::Display) -> Self {
        let kind = Kind::Invalid {
            path: path.into(),
            reason: reason.to_string().into(),
        };
        kind.into()
    }

    /// Says which file it was.
    pub(super) fn of(self, file: PathBuf) -> Self {
        self.kind.within(file)
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

    /// The file that cannot be read, or in which something is wrong; `None` of JSON that is in no file.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

impl fmt::Display for BootstrapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.as_ref().map(|file| format!(" {}", file.display()));
        let file = file.unwrap_or_default();
        match &self.kind {
            Kind::NotSet => write!(
                f,
                "no xDS bootstrap: neither {FILE_VARIABLE} nor {CONFIG_VARIABLE} is set"
            ),
            Kind::Unreadable(_) => write!(f, "the xDS bootstrap{file} cannot be read"),
            Kind::Invalid { path, reason } if path.is_empty() => {
                write!(f, "the xDS bootstrap{file} is invalid: {reason}")
            }
            Kind::Invalid { path, reason } => write!(f, "the xDS bootstrap{file} is invalid at {path}: {reason}"),
        }
    }
}

impl std::error::Error for BootstrapError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            Kind::Unreadable(error) => Some(error),
            _ => None,
        }
    }
}
