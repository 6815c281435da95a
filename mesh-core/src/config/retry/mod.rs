//! Retries, as configured. The memory that goes with them (budget, backoff state) lives in [`crate::retry`], outside the
//! snapshot, so that a swap never refills it.

mod backoff;
mod limits;
mod on;

use std::sync::Arc;
use std::time::Duration;

use super::HeaderMatch;

pub use backoff::{Backoff, InvalidBackoff, RateLimitedBackoff, ResetFormat, ResetHeader};
pub use limits::{RetryBudget, RetryLimits};
pub use on::RetryOn;

/// When and how often a call is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RetryPolicy {
    /// Tries after the first; 0 means never again.
    pub retries: u32,
    /// What counts as worth another try.
    pub on: RetryOn,
    /// Answers that [`RetryOn::RETRIABLE_STATUS_CODES`] means.
    pub statuses: Arc<[u16]>,
    /// Answers that [`RetryOn::RETRIABLE_HEADERS`] means: those whose headers pass any of these.
    pub headers: Arc<[HeaderMatch]>,
    /// Requests that may be tried again at all: those whose headers pass any of these, and every one where there is none
    /// (Envoy `retriable_request_headers`).
    pub request_headers: Arc<[HeaderMatch]>,
    /// The longest one try may take; `None`: as long as the call.
    pub per_try_timeout: Option<Duration>,
    /// The longest one try may go without a byte from its peer; `None`: any time.
    pub per_try_idle_timeout: Option<Duration>,
    /// Begin another try when one has reached `per_try_timeout`, and let the two race (Envoy `hedge_on_per_try_timeout`).
    pub hedge: bool,
    /// The pause before each further try.
    pub backoff: Backoff,
    /// The pause that an answer may ask for in its headers instead; `None`: it is not asked.
    pub rate_limited: Option<RateLimitedBackoff>,
    /// Where further tries go.
    pub hosts: HostSelection,
    /// The most bytes of a request that are sent again; `None`: [`Self::DEFAULT_REPLAY_BYTES`] of one that streams,
    /// [`Self::DEFAULT_WHOLE_REPLAY_BYTES`] of one that was whole when its call began.
    pub replay_bytes: Option<u64>,
    /// Tell the peer which try it sees (`x-envoy-attempt-count`, Envoy `include_request_attempt_count`).
    pub announce_attempts: bool,
    /// Somebody wrote this policy, rather than the default standing in. A default never repeats a call that may have been
    /// processed and is not idempotent; what a user wrote is obeyed.
    pub explicit: bool,
}

impl RetryPolicy {
    /// What is kept of a request's body when nothing is said: Linkerd keeps as much, gRPC four times that per call (gRFC A6).
    /// Most requests are far smaller, and what is larger is an upload that nobody expects to be sent twice by itself.
    pub const DEFAULT_REPLAY_BYTES: u64 = 64 * 1024;
    /// How long a body may be that was whole when its call began, to be sent again when nothing is said: as much as Envoy buffers. It is
    /// there anyway, so this spares the network and the server rather than memory.
    pub const DEFAULT_WHOLE_REPLAY_BYTES: u64 = 1024 * 1024;

    /// Never again.
    pub fn never() -> Self {
        Self {
            retries: 0,
            on: RetryOn::NONE,
            hosts: HostSelection::ANY,
            ..Self::default()
        }
    }

    /// How long a body may be that is whole from the beginning, to be sent again after somebody may have worked on it, or to be raced.
    pub fn whole_replay_limit(&self) -> u64 {
        self.replay_bytes.unwrap_or(Self::DEFAULT_WHOLE_REPLAY_BYTES)
    }

    /// The most bytes of a request that are kept while it streams.
    pub fn replay_limit(&self) -> u64 {
        self.replay_bytes.unwrap_or(Self::DEFAULT_REPLAY_BYTES)
    }

    /// Whether an answer that is a plain success may be worth another try.
    pub fn minds_good_answers(&self) -> bool {
        self.on
            .intersects(RetryOn::RETRIABLE_STATUS_CODES | RetryOn::RETRIABLE_HEADERS)
    }

    /// The words of this policy under which a call that is not idempotent may run twice: what an analyzer warns of. Empty for a
    /// default, which never does that.
    ///
    /// ```
    /// use mesh_core::config::{RetryOn, RetryPolicy};
    /// let on = RetryOn::parse("connect-failure,5xx");
    /// let written = RetryPolicy { on, explicit: true, ..RetryPolicy::default() };
    /// assert_eq!(written.may_repeat_work(), RetryOn::SERVER_ERROR);
    /// assert_eq!(RetryPolicy::default().may_repeat_work(), RetryOn::NONE);
    /// ```
    pub fn may_repeat_work(&self) -> RetryOn {
        match self.explicit && self.retries > 0 {
            true => self.on.without(RetryOn::UNPROCESSED),
            false => RetryOn::NONE,
        }
    }
}

impl Default for RetryPolicy {
    /// Istio's default since 1.24: two retries on `connect-failure,refused-stream,unavailable,cancelled`, 25 ms base backoff,
    /// on another host. The `retriable-status-codes` that Istio writes too is without codes, and so without effect.
    fn default() -> Self {
        let on = RetryOn::CONNECT_FAILURE | RetryOn::REFUSED_STREAM | RetryOn::UNAVAILABLE | RetryOn::CANCELLED;
        Self {
            retries: 2,
            on,
            statuses: Arc::default(),
            headers: Arc::default(),
            request_headers: Arc::default(),
            per_try_timeout: None,
            per_try_idle_timeout: None,
            hedge: false,
            backoff: Backoff::DEFAULT,
            rate_limited: None,
            hosts: HostSelection::ISTIO,
            replay_bytes: None,
            announce_attempts: false,
            explicit: false,
        }
    }
}

/// Where further tries of a call go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostSelection {
    /// Not to a host that an earlier try went to, as far as another is found (Envoy `previous_hosts`).
    pub other_hosts: bool,
    /// How often another host is drawn for that (Envoy `host_selection_retry_max_attempts`).
    pub max_attempts: u32,
    /// To priorities that no earlier try went to; how many tries until those gone to are taken anew (Envoy
    /// `previous_priorities`, Istio `retryRemoteLocalities`).
    pub other_priorities: Option<u32>,
}

impl HostSelection {
    /// Wherever the balancer says.
    pub const ANY: Self = Self {
        other_hosts: false,
        max_attempts: 1,
        other_priorities: None,
    };
    /// Istio's default.
    pub const ISTIO: Self = Self {
        other_hosts: true,
        max_attempts: 5,
        other_priorities: None,
    };
}
