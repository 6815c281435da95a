//! Requests that nothing of the service saw, nor anything that counts who called: they were refused at the connection.

use mesh_core::report::Tally;

/// Why a request was refused there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Early {
    /// It says twice where it ends.
    AmbiguousLength,
    /// It says that its body is longer than the server takes.
    BodyTooLarge,
    /// Its head is longer than the server takes (HTTP/1.1; of HTTP/2 nobody is told).
    HeadTooLarge,
    /// Its head did not come to its end in time.
    HeadTooSlow,
    /// It is none (HTTP/1.1).
    Malformed,
    /// The process has as much memory as it may have.
    Memory,
    /// There is no place for one more.
    Overloaded,
    /// Its connection is not admitted any more.
    Revoked,
}

impl Early {
    /// All of them, in the order of their names.
    pub(super) const ALL: [Self; 8] = [
        Self::AmbiguousLength,
        Self::BodyTooLarge,
        Self::HeadTooLarge,
        Self::HeadTooSlow,
        Self::Malformed,
        Self::Memory,
        Self::Overloaded,
        Self::Revoked,
    ];

    /// For a counter.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::AmbiguousLength => "ambiguous_length",
            Self::BodyTooLarge => "body_too_large",
            Self::HeadTooLarge => "head_too_large",
            Self::HeadTooSlow => "head_too_slow",
            Self::Malformed => "malformed",
            Self::Memory => "memory",
            Self::Overloaded => "overloaded",
            Self::Revoked => "connection_revoked",
        }
    }

    /// Counts it among what the process counts of everything.
    pub(super) fn count(self, tally: &Tally) {
        tally.count("request_refused", self.as_str());
    }
}
