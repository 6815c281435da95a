//! When an authorizer is not asked for a while.
//!
//! One that is down costs every request its whole timeout, and a place of the server meanwhile. So after some failures in a row nobody
//! asks for a moment, and then a few requests do, for all: an answer to one of them closes the circuit. Requests are refused while
//! it is open, also where a configuration lets pass what an authorizer fails at: nobody may open the door to others by making it fail.
//!
//! Nor may one caller shut it for others. Whoever sends what the authorizer is slow at, or what its connection breaks at, fails alone for as
//! long as all others are answered; so failures open the circuit when they are of [two callers or more](Caller), and none of them was
//! answered in between. While it is open each caller tries for itself, so that one whose requests always fail is not the only one that is
//! asked about. Envoy has no such circuit for external authorization: there each request waits for itself.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::identity::SpiffeId;
use crate::identity::hashed::Hashed;

/// How many failures in a row open it: Envoy's `consecutive_5xx`.
const FAILURES_TO_OPEN: u32 = 5;

/// How long it stays open: short, since nobody else is asked meanwhile.
const OPEN_FOR: Duration = Duration::from_secs(1);

/// How many callers may try in so long, once it was open for so long.
const MAX_PROBES: usize = 4;

/// Whose request is asked about: an identity, or an address without one. Of two whose hashes are the same, one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller(u64);

impl Caller {
    /// Of a connection that showed `peer`, or nobody, and comes from `source`. One address of IPv6 is not another of its network: whoever
    /// has one there has all.
    pub fn of(peer: Option<&SpiffeId>, source: IpAddr) -> Self {
        Self(match (peer, source) {
            (Some(peer), _) => match peer.hashed() {
                Hashed::Of { id, .. } => id,
                // Of those that are not as Istio's are, one counts for all.
                Hashed::Odd => 0,
            },
            (None, IpAddr::V4(address)) => address.to_bits().into(),
            (None, IpAddr::V6(address)) => (address.to_bits() >> 64) as u64,
        })
    }
}

/// The state of one authorizer. Memory, and so outside of the snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Circuit {
    failures: u32,
    /// Whose request failed first of those in a row, and whether another's did.
    first: Option<Caller>,
    several: bool,
    open_until: Option<Instant>,
    /// Who has tried since it was open for long enough, and when they may again.
    probers: [Option<Caller>; MAX_PROBES],
    probing_until: Option<Instant>,
}

impl Circuit {
    /// Whether a request of `caller` may ask at `now`. Where it was open, each of the first few callers may once, and so again after as long.
    pub fn lets(&mut self, caller: Caller, now: Instant) -> bool {
        match self.open_until {
            None => return true,
            Some(until) if now < until => return false,
            Some(_) => {}
        }
        if self.probing_until.is_none_or(|until| now >= until) {
            self.probers = [None; MAX_PROBES];
            self.probing_until = Some(now + OPEN_FOR);
        }
        if self.probers.contains(&Some(caller)) {
            return false;
        }
        let free = self.probers.iter_mut().find(|prober| prober.is_none());
        free.is_some_and(|free| {
            *free = Some(caller);
            true
        })
    }

    /// What came of asking for `caller`: an answer, whatever it said, or none.
    pub fn saw(&mut self, answered: bool, caller: Caller, now: Instant) {
        if answered {
            *self = Self::default();
            return;
        }
        self.failures = self.failures.saturating_add(1);
        self.several |= *self.first.get_or_insert(caller) != caller;
        if self.failures >= FAILURES_TO_OPEN && self.several && self.open_until.is_none() {
            self.open_until = Some(now + OPEN_FOR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Caller = Caller(1);
    const OTHER: Caller = Caller(2);

    #[allow(clippy::disallowed_methods, reason = "a test has to begin somewhere")]
    fn instant() -> Instant {
        Instant::now()
    }

    fn opened(now: Instant) -> Circuit {
        let mut circuit = Circuit::default();
        (1..FAILURES_TO_OPEN).for_each(|_| circuit.saw(false, ONE, now));
        circuit.saw(false, OTHER, now);
        circuit
    }

    #[test]
    fn ov_2_failures_in_a_row_of_several_open_it_and_few_try_for_all() {
        let (mut circuit, start) = (Circuit::default(), instant());
        for _ in 0..FAILURES_TO_OPEN - 1 {
            circuit.saw(false, ONE, start);
        }
        // Any answer between begins anew, whoever's.
        circuit.saw(true, OTHER, start);
        for _ in 1..FAILURES_TO_OPEN {
            assert!(circuit.lets(ONE, start));
            circuit.saw(false, ONE, start);
        }
        circuit.saw(false, OTHER, start);
        assert!(!circuit.lets(ONE, start) && !circuit.lets(OTHER, start + OPEN_FOR / 2));
        let later = start + OPEN_FOR;
        assert!(circuit.lets(ONE, later), "one tries");
        assert!(!circuit.lets(ONE, later), "and once");
        circuit.saw(false, ONE, later);
        assert!(!circuit.lets(ONE, later + OPEN_FOR / 2), "in vain");
        assert!(circuit.lets(ONE, later + OPEN_FOR));
        circuit.saw(true, ONE, later + OPEN_FOR);
        assert!(
            circuit.lets(ONE, later + OPEN_FOR) && circuit.lets(ONE, later + OPEN_FOR),
            "it answers"
        );
    }

    #[test]
    fn az_one_caller_neither_opens_it_for_others_nor_keeps_it_open() {
        let (mut circuit, start) = (Circuit::default(), instant());
        (0..100).for_each(|_| circuit.saw(false, ONE, start));
        assert!(circuit.lets(OTHER, start) && circuit.lets(ONE, start));
        // It opens when somebody else finds the same.
        circuit.saw(false, OTHER, start);
        assert!(!circuit.lets(OTHER, start) && !circuit.lets(ONE, start));
        // And whoever is always first to try, in vain, is not the only one.
        let later = start + OPEN_FOR;
        assert!(circuit.lets(ONE, later));
        circuit.saw(false, ONE, later);
        assert!(circuit.lets(OTHER, later));
        circuit.saw(true, OTHER, later);
        assert!(circuit.lets(ONE, later));
    }

    #[test]
    fn ov_2_who_tries_and_never_tells_does_not_keep_it_open() {
        let start = instant();
        let mut circuit = opened(start);
        // Its caller went away.
        assert!(circuit.lets(ONE, start + OPEN_FOR));
        assert!(circuit.lets(ONE, start + OPEN_FOR * 2));
        let tries = (0..100).filter(|who| circuit.lets(Caller(10 + who), start + OPEN_FOR * 2));
        assert_eq!(tries.count(), MAX_PROBES - 1, "no stampede");
    }

    #[test]
    fn callers_are_identities_or_networks() {
        let of = |address: &str| Caller::of(None, address.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        let (a, b) = ["spiffe://d/a", "spiffe://d/b"]
            .map(|id| SpiffeId::parse(id).unwrap())
            .into();
        let address = "192.0.2.1".parse().unwrap();
        assert_ne!(Caller::of(Some(&a), address), Caller::of(Some(&b), address));
    }
}
