//! `meshctl precheck`: what about this machine would make a mesh slow or keep it from working, said before the first run.
//!
//! Looking and judging are apart. What is looked at comes in as text, times and outcomes (a folder in the place of `/proc`, a clock); each
//! check is a function of that alone, so a machine that is out of order can be written down in a test.

mod clock;
mod machine;
mod peer;
mod state;

use std::fmt;
use std::net::{SocketAddr, TcpListener};

pub use clock::{certificate, clock};
pub use machine::{Machine, cores, cpu_steal, entropy, kernel, open_files};
pub use peer::{Met, meet, peer};
pub use state::{Entry, look, state_directory};

use serde::Serialize;

/// What was found of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was seen, and what to do about it where it is not good.
    pub message: String,
}

impl Check {
    fn new(name: &'static str, verdict: Verdict, message: impl Into<String>) -> Self {
        Self {
            name,
            verdict,
            message: message.into(),
        }
    }

    fn unknown(name: &'static str, why: &str) -> Self {
        Self::new(name, Verdict::Info, format!("cannot be told: {why}"))
    }
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Only to be known.
    Info,
    /// It works, and not well.
    Warning,
    /// It does not work.
    Error,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// Whether an address can be listened on: it is, for a moment.
pub fn try_listen(address: SocketAddr) -> std::io::Result<()> {
    TcpListener::bind(address).map(drop)
}

/// Judges [`try_listen`].
pub fn port(address: SocketAddr, tried: &std::io::Result<()>) -> Check {
    match tried {
        Ok(()) => Check::new("port", Verdict::Ok, format!("{address} is free")),
        Err(error) => {
            let message =
                format!("{address} cannot be listened on: {error}; choose another with --listen or --plaintext-ads");
            Check::new("port", Verdict::Error, message)
        }
    }
}

#[cfg(test)]
mod tests;
