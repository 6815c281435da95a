//! What an authorizer outside of the process is asked, and what comes of its answer: [`ExtAuthz`](crate::config::ExtAuthz) applied to a
//! request (Envoy's `ext_authz`; Istio's action CUSTOM).
//!
//! Pure. `ask` makes what is sent; `answer` makes a [`Verdict`] of what came back, whichever protocol it came by; `circuit` knows when to
//! ask no longer for a while. Whoever does the calling tells of its own troubles by a [`CheckFailure`], and what that does to a request is
//! decided here, too.
//!
//! An authorizer is trusted to decide and to add headers. It is not trusted to write well: an answer that asks for what cannot be, or for
//! what would change how a request is framed or where it is sent, is no answer, and the request is treated like one of which nothing was
//! learnt.

mod answer;
mod ask;
mod circuit;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;

use bytes::Bytes;

pub use answer::{Allowed, CheckAnswer, Denied, Mutation, Said, Verdict};
pub use circuit::{Caller, Circuit};

/// The most of an answer's headers that are looked at, and the most edits that it may ask for.
pub const MAX_ANSWER_HEADERS: usize = 100;

/// The most of an answer's body that is read, in bytes: an answer by gRPC with all its headers, or a page for whoever is denied.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Tells a handler that nobody was asked about its request (Envoy).
pub const FAILURE_ALLOWED: &str = "x-envoy-auth-failure-mode-allowed";

/// Tells an authorizer whether the body that it sees is all of it (Envoy).
pub const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";

/// By which an authorizer by HTTP names headers to be taken off the request (Envoy).
pub const TO_REMOVE: &str = "x-envoy-auth-headers-to-remove";

/// What was read of a request's body before its handler runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadBody {
    /// Its beginning.
    pub bytes: Bytes,
    /// There is more.
    pub partial: bool,
}

/// Why nothing was learnt of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CheckFailure {
    /// The application gave nobody who can be asked.
    NoAuthorizer,
    /// As many requests are asked about as may be.
    Busy,
    /// It failed too often just now to be asked.
    CircuitOpen,
    /// It did not answer in time.
    TimedOut,
    /// It could not be called.
    Unreachable,
    /// It said that it failed: 5xx, or a gRPC status.
    Failed,
    /// What it said made no sense, or was more than is read.
    Malformed,
    /// The configuration wants the body to be shown, and nothing in the process reads it first.
    BodyNotRead,
}

impl CheckFailure {
    /// A stable lower-case word, fit for a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoAuthorizer => "no_authorizer",
            Self::Busy => "busy",
            Self::CircuitOpen => "circuit_open",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::Failed => "failed",
            Self::Malformed => "malformed",
            Self::BodyNotRead => "body_not_read",
        }
    }

    /// Whether a configuration may let a request pass because of it. What the application left out is no failure of anybody, and a
    /// configuration that bears with failures does not mean it. Nor does it mean that nobody was asked about this request because of what
    /// others did: whoever makes an authorizer fail would have the door opened to all.
    pub fn may_pass(self) -> bool {
        !matches!(
            self,
            Self::NoAuthorizer | Self::BodyNotRead | Self::CircuitOpen | Self::Busy
        )
    }

    /// Whether it says that the authorizer is not well: it is not there, or not in time. An answer that says "failed", or that makes no sense, may be
    /// an answer to this one request, which its sender chose.
    pub fn is_its_own(self) -> bool {
        matches!(self, Self::TimedOut | Self::Unreachable)
    }
}

impl fmt::Display for CheckFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAuthorizer => "nobody was given who can be asked",
            Self::Busy => "too many requests are asked about",
            Self::CircuitOpen => "the authorizer failed too often just now",
            Self::TimedOut => "the authorizer did not answer in time",
            Self::Unreachable => "the authorizer could not be called",
            Self::Failed => "the authorizer failed",
            Self::Malformed => "the authorizer's answer made no sense",
            Self::BodyNotRead => "the authorizer is to see the body, which is not read before the handler",
        })
    }
}

impl std::error::Error for CheckFailure {}
