//! How long anybody waits for the word of a control plane.
//!
//! Two ends wait: who asks a control plane for a resource takes it for missing at some time, and a call waits for what comes of that. Were
//! the second to end no later than the first, the calls that a process begins with would fail at the very moment at which is known what to
//! do with them. So both are of this file, and the second is made of the first.

use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a resource that was asked for may stay unheard of before it counts as not existing (gRFC A57).
pub const DOES_NOT_EXIST_AFTER: Duration = Duration::from_secs(15);
/// The same where silence is the control plane's trouble and no answer (gRFC A88).
pub const TIMED_OUT_AFTER: Duration = Duration::from_secs(30);
/// The longest that dialling a control plane and both handshakes may take, until the first byte of its HTTP/2.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long what is answered may take that comes before the last question: a listener names its routes, those their clusters, and those
/// their endpoints.
const QUESTIONS: Duration = Duration::from_secs(5);

/// How long a call waits for a target's first configuration, of a source that takes a resource for missing after `resource_timer`: longer
/// than that, with a connection to be made before and the questions that come first.
pub const fn first_answer_limit(resource_timer: Duration) -> Duration {
    resource_timer.saturating_add(CONNECT_TIMEOUT).saturating_add(QUESTIONS)
}

/// What a target waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// In words: a kind of resource and its name.
    pub what: Arc<str>,
    /// Since when it is looked for.
    pub since: Instant,
}

impl Awaited {
    /// In words, as of `now`, to the tenth of a second.
    pub fn told(&self, now: Instant) -> String {
        let waited = now.saturating_duration_since(self.since).as_secs_f64();
        format!("{}, looked for since {waited:.1} s", self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_waits_longer_than_any_resource_is_waited_for_and_a_connection_takes() {
        for timer in [DOES_NOT_EXIST_AFTER, TIMED_OUT_AFTER] {
            assert!(first_answer_limit(timer) > timer + CONNECT_TIMEOUT, "{timer:?}");
        }
    }
}
