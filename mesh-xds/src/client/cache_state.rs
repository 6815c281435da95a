//! The word for how a subscribed resource stands: one list for CSDS, for metrics and for people (gRFCs A40, A78 and A88).

use std::fmt;

use super::cache::{Row, Trouble};

/// What was heard last of a resource that is subscribed to.
///
/// It does not say whether a value is in use: what was good once is served whatever comes after it (gRFC A88's default).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CacheState {
    /// Nothing yet. What is in use meanwhile, if anything is, is from the copy on disk.
    Requested,
    /// The control plane said so, stopped listing it, or did not send it in time.
    DoesNotExist,
    /// A good value, which is in use.
    Acked,
    /// A bad one, which was refused.
    Nacked,
    /// An error in its place that says nothing of whether it exists (xRFC TP3).
    ReceivedError,
    /// Nothing in time, which counts as the control plane's passing trouble (`resource_timer_is_transient_error`).
    Timeout,
}

impl CacheState {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Requested,
        Self::DoesNotExist,
        Self::Acked,
        Self::Nacked,
        Self::ReceivedError,
        Self::Timeout,
    ];

    pub(crate) fn of(row: &Row<'_>) -> Self {
        match row.trouble {
            Some(Trouble::Refused(_)) => Self::Nacked,
            Some(Trouble::Absent(_)) => Self::DoesNotExist,
            Some(Trouble::Failed(_)) => Self::ReceivedError,
            Some(Trouble::TimedOut(_)) => Self::Timeout,
            // What is from disk, no control plane has told.
            None if row.accepted.is_some() && row.recalled.is_none() => Self::Acked,
            None => Self::Requested,
        }
    }

    /// The value of the metric label `grpc.xds.cache_state`, which also tells whether a value is `in_use` (A78, A88).
    pub fn label(self, in_use: bool) -> &'static str {
        match (self, in_use) {
            (Self::Requested, _) => "requested",
            (Self::DoesNotExist, false) => "does_not_exist",
            (Self::DoesNotExist, true) => "does_not_exist_but_cached",
            (Self::Acked, _) => "acked",
            (Self::Nacked, false) => "nacked",
            (Self::Nacked, true) => "nacked_but_cached",
            (Self::ReceivedError, false) => "received_error",
            (Self::ReceivedError, true) => "received_error_but_cached",
            (Self::Timeout, _) => "timeout",
        }
    }

    /// Whether something is wrong with the resource.
    pub fn is_trouble(self) -> bool {
        !matches!(self, Self::Requested | Self::Acked)
    }
}

/// In capitals, as CSDS has it.
impl fmt::Display for CacheState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requested => "REQUESTED",
            Self::DoesNotExist => "DOES_NOT_EXIST",
            Self::Acked => "ACKED",
            Self::Nacked => "NACKED",
            Self::ReceivedError => "RECEIVED_ERROR",
            Self::Timeout => "TIMEOUT",
        })
    }
}
