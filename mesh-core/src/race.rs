//! In which order the addresses of a name are tried, and how soon after one another (Happy Eyeballs, RFC 8305).
//!
//! A name with several addresses is often one that is reached by some of them alone: the machine has no way to one of the families, or
//! a replica is gone and its packets with it. One after the other, each such address would cost all the time that a connection may
//! take. Here the families take turns, another address is tried when the last one has not answered for a while, or at once when it
//! has failed; and whichever answers first is taken.
//!
//! The state machine knows no socket: whoever dials asks what to begin, tells what failed, and drops the others when one is there.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long an attempt goes on alone (RFC 8305, 8: "Connection Attempt Delay").
pub const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The attempts at one connection. Those that go on at once are no more than fit into the time that a connection may take.
#[derive(Clone, Debug)]
pub struct Race {
    left: VecDeque<SocketAddr>,
    /// When the next one begins; `None`: at once.
    next: Option<Instant>,
}

impl Race {
    /// Attempts at these, in the order in which the resolver prefers them but for the families, which take turns (RFC 8305, 4).
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let (mut first, mut other) = (VecDeque::new(), VecDeque::new());
        let mut family = None;
        for address in addresses {
            let of = address.is_ipv6();
            let is_first = *family.get_or_insert(of) == of;
            let list = if is_first { &mut first } else { &mut other };
            if !list.contains(&address) {
                list.push_back(address);
            }
        }
        let mut left = VecDeque::with_capacity(first.len() + other.len());
        while !(first.is_empty() && other.is_empty()) {
            left.extend(first.pop_front());
            left.extend(other.pop_front());
        }
        Self { left, next: None }
    }

    /// The address to begin an attempt at now. `None`: it is not time, or none is left.
    pub fn begin(&mut self, now: Instant) -> Option<SocketAddr> {
        if self.next.is_some_and(|next| now < next) {
            return None;
        }
        let address = self.left.pop_front()?;
        self.next = Some(now + ATTEMPT_DELAY);
        Some(address)
    }

    /// An attempt has failed: the next one begins at once.
    pub fn failed(&mut self) {
        self.next = None;
    }

    /// When to ask again, if nothing happens until then. `None`: no address is left.
    pub fn wake(&self) -> Option<Instant> {
        self.next.filter(|_| !self.left.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// The order, and when each begins where the attempts of these places fail at once and the others never end.
    fn begun(of: &[&str], failing: &[usize]) -> Vec<(String, u64)> {
        #[allow(clippy::disallowed_methods, reason = "a test has to begin somewhere")]
        let start = Instant::now();
        let (mut race, mut now, mut order) = (Race::new(addresses(of)), start, Vec::new());
        loop {
            while let Some(address) = race.begin(now) {
                if failing.contains(&order.len()) {
                    race.failed();
                }
                order.push((address.to_string(), (now - start).as_millis() as u64));
            }
            let Some(wake) = race.wake() else { return order };
            now = wake;
        }
    }

    #[test]
    fn families_take_turns_and_the_next_waits_a_quarter_of_a_second() {
        let of = ["[::1]:1", "[::2]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"];
        let expected = [("[::1]:1", 0), ("1.1.1.1:1", 250), ("[::2]:1", 500), ("[::3]:1", 750)];
        let expected = expected.map(|(address, at)| (address.to_owned(), at));
        assert_eq!(begun(&of, &[]), expected);
        // The resolver's first is of the family that begins.
        let of = ["1.1.1.1:1", "1.1.1.2:1", "[::1]:1"];
        let order: Vec<String> = begun(&of, &[]).into_iter().map(|(address, _)| address).collect();
        assert_eq!(order, ["1.1.1.1:1", "[::1]:1", "1.1.1.2:1"]);
        assert_eq!(begun(&[], &[]), []);
    }

    #[test]
    fn after_a_failure_the_next_begins_at_once() {
        let of = ["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"];
        let times: Vec<u64> = begun(&of, &[0, 2]).into_iter().map(|(_, at)| at).collect();
        assert_eq!(times, [0, 0, 250, 250]);
    }
}
