//! When an authorizer is not asked for a while.
//!
//! One that is down costs every request its whole timeout, and a place of the server meanwhile. So after some failures in a row nobody
//! asks for a moment, and then one request does, for all: what comes of it closes the circuit or opens it again. Requests are refused while
//! it is open, also where a configuration lets pass what an authorizer fails at: nobody may open the door to others by making it fail.

use std::time::{Duration, Instant};

/// How many failures in a row open it: Envoy's `consecutive_5xx`.
const FAILURES_TO_OPEN: u32 = 5;

/// How long it stays open: short, since nobody else is asked meanwhile.
const OPEN_FOR: Duration = Duration::from_secs(1);

/// The state of one authorizer. Memory, and so outside of the snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Circuit {
    failures: u32,
    open_until: Option<Instant>,
}

impl Circuit {
    /// Whether a request may ask at `now`. Where it was open, the first that may is the only one for as long again.
    pub fn lets(&mut self, now: Instant) -> bool {
        match self.open_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                self.open_until = Some(now + OPEN_FOR);
                true
            }
        }
    }

    /// What came of asking: an answer, whatever it said, or none.
    pub fn saw(&mut self, answered: bool, now: Instant) {
        if answered {
            *self = Self::default();
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES_TO_OPEN {
            self.open_until = Some(now + OPEN_FOR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods, reason = "a test has to begin somewhere")]
    fn instant() -> Instant {
        Instant::now()
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_request_tries_for_all() {
        let (mut circuit, start) = (Circuit::default(), instant());
        for _ in 0..FAILURES_TO_OPEN - 1 {
            assert!(circuit.lets(start));
            circuit.saw(false, start);
        }
        // Any answer between begins anew.
        circuit.saw(true, start);
        for _ in 0..FAILURES_TO_OPEN {
            assert!(circuit.lets(start));
            circuit.saw(false, start);
        }
        assert!(!circuit.lets(start) && !circuit.lets(start + OPEN_FOR / 2));
        let later = start + OPEN_FOR;
        assert!(circuit.lets(later), "one tries");
        assert!(!circuit.lets(later), "and only one");
        circuit.saw(false, later);
        assert!(!circuit.lets(later + OPEN_FOR / 2), "in vain");
        assert!(circuit.lets(later + OPEN_FOR));
        circuit.saw(true, later + OPEN_FOR);
        assert!(
            circuit.lets(later + OPEN_FOR) && circuit.lets(later + OPEN_FOR),
            "it answers"
        );
    }

    #[test]
    fn who_tries_and_never_tells_does_not_keep_it_open() {
        let (mut circuit, start) = (Circuit::default(), instant());
        (0..FAILURES_TO_OPEN).for_each(|_| circuit.saw(false, start));
        // Its caller went away.
        assert!(circuit.lets(start + OPEN_FOR));
        assert!(circuit.lets(start + OPEN_FOR * 2));
    }
}
