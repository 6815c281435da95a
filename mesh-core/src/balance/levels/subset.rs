//! A bound on how many endpoints of a cluster one process calls.
//!
//! A hundred processes that each keep connections to ten thousand endpoints are a million connections. With a bound each calls
//! its own few: those that come first by a hash of their address and the process's own seed (rendezvous hashing, gRFC A68). So
//! processes spread over all endpoints by chance, and an endpoint that comes or goes changes at most one of a process's few.

use std::hash::{Hash as _, Hasher as _};
use std::num::NonZeroU32;

use crate::config::{Endpoint, Health};

/// The endpoints that this process calls, of each priority `size` at most, in their order; `None`: all of them. Such that a
/// control plane says are not to be called are taken only where others do not suffice.
pub fn subset(endpoints: &[Endpoint], size: NonZeroU32, seed: u64) -> Option<Vec<Endpoint>> {
    let size = size.get() as usize;
    if endpoints.len() <= size {
        return None;
    }
    let mut order: Vec<(u32, bool, u64, usize)> = endpoints
        .iter()
        .enumerate()
        .map(|(index, endpoint)| {
            let is_out = !matches!(endpoint.health, Health::Healthy | Health::Degraded);
            (endpoint.priority, is_out, rank(endpoint, seed), index)
        })
        .collect();
    order.sort_unstable();
    let mut kept: Vec<usize> = order
        .chunk_by(|a, b| a.0 == b.0)
        .flat_map(|priority| priority.iter().take(size).map(|(.., index)| *index))
        .collect();
    if kept.len() == endpoints.len() {
        return None;
    }
    kept.sort_unstable();
    Some(kept.into_iter().map(|index| endpoints[index].clone()).collect())
}

/// Where an endpoint stands for this process.
fn rank(endpoint: &Endpoint, seed: u64) -> u64 {
    let mut hasher = Fnv(seed ^ 0xcbf2_9ce4_8422_2325);
    endpoint.address.hash(&mut hasher);
    crate::entropy::mix(hasher.finish() ^ seed)
}

/// FNV-1a: of one platform's words, which no other process sees; the mixing afterwards spreads it.
struct Fnv(u64);

impl std::hash::Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::SocketAddr;

    use super::*;

    fn endpoints(ports: std::ops::Range<u16>) -> Vec<Endpoint> {
        ports.map(|port| Endpoint::new(([10, 0, 0, 1], port).into())).collect()
    }

    fn ports(list: &[Endpoint], size: u32, seed: u64) -> HashSet<SocketAddr> {
        let subset = subset(list, NonZeroU32::new(size).unwrap(), seed);
        let kept = subset.unwrap_or_else(|| list.to_vec());
        kept.iter().map(|one| one.address).collect()
    }

    #[test]
    fn a_process_calls_as_many_as_it_may_and_processes_together_call_all_alike() {
        let all = endpoints(1..101);
        let mut calls = vec![0u32; 101];
        for seed in 0..1_000 {
            let kept = ports(&all, 10, seed);
            assert_eq!(kept.len(), 10);
            kept.iter().for_each(|address| calls[usize::from(address.port())] += 1);
        }
        // Each is one of ten of a hundred, a thousand times: 100, and five standard deviations are 47.
        assert!(calls[1..].iter().all(|calls| calls.abs_diff(100) < 48), "{calls:?}");
        assert_eq!(subset(&all, NonZeroU32::new(100).unwrap(), 1), None);
        assert_eq!(ports(&all, 10, 7), ports(&all, 10, 7));
    }

    /// Ring hash's promise, for a subset: what does not change stays.
    #[test]
    fn one_endpoint_more_or_less_changes_one() {
        for seed in 0..200 {
            let before = ports(&endpoints(1..101), 10, seed);
            let more = ports(&endpoints(1..102), 10, seed);
            let less = ports(&endpoints(1..100), 10, seed);
            assert!(before.difference(&more).count() <= 1);
            assert!(before.difference(&less).count() <= 1);
        }
    }

    #[test]
    fn of_each_priority_and_the_callable_first() {
        let mut all = endpoints(1..21);
        for (index, endpoint) in all.iter_mut().enumerate() {
            endpoint.priority = u32::from(index >= 10);
            if index % 10 < 8 {
                endpoint.health = Health::Unhealthy;
            }
        }
        for seed in 0..50 {
            let kept = subset(&all, NonZeroU32::new(3).unwrap(), seed).unwrap();
            let of = |priority, health| {
                kept.iter()
                    .filter(|one| one.priority == priority && one.health == health)
                    .count()
            };
            assert_eq!([of(0, Health::Healthy), of(1, Health::Healthy)], [2, 2]);
            assert_eq!([of(0, Health::Unhealthy), of(1, Health::Unhealthy)], [1, 1]);
            assert!(kept.is_sorted_by_key(|one| one.address.port()));
        }
    }
}
