//! Hosts at many places of a ring, each call at the next one to its hash (Ketama as Envoy has it; gRFC A42).
//!
//! A host that goes takes along only the calls that it had: every other place stays. The places are what Envoy and gRPC make of
//! the same hosts, so that clients of all kinds send one key to one host.

use std::fmt::Write;

use super::Load;
use super::bound::Bound;
use crate::config::{RingFunction, RingHash};
use crate::hash::{murmur2, xxh64};

/// The ring of consistent hashing: each host has places by its weight, and a hash goes to the next one (Envoy, gRFC A42).
#[derive(Debug)]
pub struct Ring {
    /// Sorted.
    places: Box<[u64]>,
    /// The host at each place.
    hosts: Box<[u32]>,
    pub(super) bound: Option<Bound>,
}

impl Ring {
    pub(super) fn new<L: Load>(settings: RingHash, hosts: &[L]) -> Self {
        let weight = |host: &L| f64::from(host.weight());
        let total: f64 = hosts.iter().map(weight).sum();
        let least = hosts.iter().map(weight).fold(f64::INFINITY, f64::min) / total;
        // The lightest host has a whole number of places, and the others as many more as they weigh.
        let most = f64::from(settings.max_size);
        let scale = ((least * f64::from(settings.min_size)).ceil() / least).min(most);
        let mut ring = Vec::with_capacity(if scale.is_finite() { scale.ceil() as usize } else { 0 });
        let (mut current, mut target) = (0.0, 0.0);
        let mut key = String::new();
        for (index, host) in hosts.iter().enumerate() {
            key.clear();
            host.hash_key(&mut key);
            key.push('_');
            let stem = key.len();
            // Shares that are no whole numbers are carried from host to host, so that the ring is as large as it was to be.
            target += scale * (weight(host) / total);
            let mut number = 0u32;
            while current < target {
                key.truncate(stem);
                write!(key, "{number}").expect("text takes text");
                ring.push((place(settings.function, key.as_bytes()), index as u32));
                number += 1;
                current += 1.0;
            }
        }
        ring.sort_unstable();
        Self {
            places: ring.iter().map(|(place, _)| *place).collect(),
            bound: Bound::new(settings.balance, hosts),
            hosts: ring.iter().map(|(_, host)| *host).collect(),
        }
    }

    /// The host that takes `hash`, or the one at the `further`th place after that.
    pub(super) fn host(&self, hash: u64, further: u32) -> usize {
        let first = self.places.partition_point(|place| *place < hash);
        let place = (first + further as usize) % self.hosts.len();
        self.hosts[place] as usize
    }
}

fn place(function: RingFunction, key: &[u8]) -> u64 {
    match function {
        RingFunction::XxHash => xxh64(key, 0),
        RingFunction::Murmur2 => murmur2(key),
    }
}

#[cfg(test)]
impl Ring {
    pub(super) fn places(&self) -> impl Iterator<Item = (u64, usize)> {
        self.places
            .iter()
            .copied()
            .zip(self.hosts.iter().map(|host| *host as usize))
    }
}
