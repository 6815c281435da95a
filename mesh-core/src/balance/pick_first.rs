//! One host for all calls, and the next in line only when it cannot be called (gRFC A62).

use std::sync::atomic::{AtomicU32, Ordering};

use super::{Load, Search};
use crate::entropy::Draw;

/// One host, for as long as it can be called (gRFCs A61, A62).
#[derive(Debug)]
pub struct First {
    /// In which order they are tried.
    order: Box<[u32]>,
    /// The place in the order of the one that is called.
    current: AtomicU32,
}

impl First {
    /// Begins with a host that has a connection, wherever it stands: a change of addresses moves no calls (gRFC A62).
    pub(super) fn new<L: Load>(shuffle: bool, hosts: &[L], draw: &mut Draw) -> Self {
        let mut order: Box<[u32]> = (0..hosts.len() as u32).collect();
        if shuffle {
            // The heavier, the earlier (gRFC A113): by u^(1/weight) for a random u each.
            let lots: Box<[f64]> = hosts.iter().map(|host| lot(host.weight(), draw)).collect();
            order.sort_by(|a, b| lots[*a as usize].total_cmp(&lots[*b as usize]));
        }
        let connected = order.iter().position(|index| hosts[*index as usize].is_connected());
        Self {
            order,
            current: AtomicU32::new(connected.unwrap_or(0) as u32),
        }
    }

    /// The host that is called, while it can be; from then on the next that can. One that this call `tried` is passed over for
    /// this call alone.
    pub(super) fn pick(
        &self,
        search: &Search,
        available: impl Fn(usize) -> bool,
        tried: impl Fn(usize) -> bool,
    ) -> usize {
        let (current, all) = (self.current.load(Ordering::Relaxed) as usize, self.order.len());
        let host = |place: usize| self.order[place] as usize;
        let place = search.find(
            |place| available(host(place)),
            |place| tried(host(place)),
            |look| (current + look as usize) % all,
        );
        if place != current && !available(host(current)) {
            // Who else finds that out at this time comes to a place as good.
            self.current.store(place as u32, Ordering::Relaxed);
        }
        host(place)
    }
}

/// The logarithm of u^(1/weight), turned around so that the least comes first.
fn lot(weight: u32, draw: &mut Draw) -> f64 {
    let unit = (draw.next() >> 11) as f64 / (1u64 << 53) as f64;
    -unit.max(f64::MIN_POSITIVE).ln() / f64::from(weight.max(1))
}
