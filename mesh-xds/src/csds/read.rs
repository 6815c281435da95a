//! Asking somebody else for the status it tells: a workload at its admin port, a control plane at its plaintext port.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::time_provider::DefaultTimeProvider;

use super::view::ClientView;
use crate::bootstrap::{Credentials, ServerUri};
use crate::connect::connect;
use crate::connector::Connector;
use crate::wire::csds;

/// The longest that asking may take, from the connection to the last byte of the answer: a person waits for it.
const FETCH_TIMEOUT: Duration = Duration::from_secs(15);

/// Asks `address` (`host:port`, in the clear) for the status of all clients it knows.
///
/// # Errors
///
/// When `address` is none, nobody answers there in 15 s, or the answer is a refusal.
pub async fn fetch(address: &str) -> Result<Vec<ClientView>, FetchError> {
    let uri = ServerUri::parse(address).map_err(|error| Kind::Address(error.to_string()))?;
    let fetching = async {
        let clock = Arc::new(DefaultTimeProvider) as _;
        let channel = connect(&Connector::tcp(), &uri, &Credentials::Insecure, None, &clock).await;
        let channel = channel.map_err(|error| Kind::Unreachable(format!("{uri}: {error}")))?;
        let answer = csds::fetch(channel).await;
        answer.map_err(|why| FetchError::from(Kind::Refused(format!("{uri}: {why}"))))
    };
    let late = |_| Kind::Unreachable(format!("{uri}: no answer within {} s", FETCH_TIMEOUT.as_secs()));
    tokio::time::timeout(FETCH_TIMEOUT, fetching).await.map_err(late)?
}

/// No status was told.
#[derive(Debug)]
pub struct FetchError {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Address(String),
    Unreachable(String),
    Refused(String),
}

impl FetchError {
    /// Whether nobody answers there.
    pub fn is_unreachable(&self) -> bool {
        matches!(self.kind, Kind::Unreachable(_))
    }

    /// Whether somebody answered, with a refusal or with something else than a status.
    pub fn is_refused(&self) -> bool {
        matches!(self.kind, Kind::Refused(_))
    }
}

impl From<Kind> for FetchError {
    fn from(kind: Kind) -> Self {
        Self { kind }
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Address(why) => write!(f, "no address to ask: {why}"),
            Kind::Unreachable(why) | Kind::Refused(why) => write!(f, "cannot read the status from {why}"),
        }
    }
}

impl std::error::Error for FetchError {}
