//! Errors of starting.

use std::fmt;

use tokio::runtime::TryCurrentError;

/// Why a client could not be started: there is no tokio runtime to run it on.
#[derive(Debug)]
pub struct StartError {
    source: TryCurrentError,
}

impl StartError {
    pub(crate) fn no_runtime(source: TryCurrentError) -> Self {
        Self { source }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an xDS client needs a tokio runtime to run on")
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
