//! Which endpoint. A picker is an enum, a closed set, so that a pick is a jump and not a call through a pointer.
//!
//! It works on indices into the hosts it was made for, through [`Load`]: this crate never sees a connection. A picker and
//! its hosts are swapped together. A pick never waits, allocates or walks all hosts: in a large cluster it looks at a handful.

mod bound;
mod client_weighted;
mod drop;
mod least_request;
pub mod levels;
mod maglev;
mod pick_first;
mod ring_hash;
#[cfg(test)]
mod tests;
mod wheel;

use std::time::{Duration, Instant};

use crate::config::{HostSelection, LbPolicy};
use crate::entropy::Draw;

pub use client_weighted::{ClientWeighted, LoadReport, Reported};
pub use drop::dropped;
pub use least_request::LeastRequest;
pub use maglev::Table;
pub use pick_first::First;
pub use ring_hash::Ring;
pub use wheel::{Lots, Rotation};

/// What a picker may ask of a host.
pub trait Load {
    /// Calls in flight.
    fn in_flight(&self) -> u32;

    /// Whether it can be called now: not while its last connect failed and its backoff runs.
    fn is_available(&self) -> bool;

    /// Its share, at least 1. Pickers but least request ask once, when they are made.
    fn weight(&self) -> u32;

    /// Appends what it goes by on rings and tables: its address and port, unless the control plane says otherwise (`hash_key` of
    /// the metadata `envoy.lb`; Envoy, gRFC A76).
    fn hash_key(&self, key: &mut String);

    /// Whether a call needs no new connection.
    fn is_connected(&self) -> bool;

    /// What it reports of itself, where that is kept.
    fn reported(&self) -> Option<&Reported>;
}

/// Hosts are shared with the calls made to them.
impl<T: Load> Load for std::sync::Arc<T> {
    fn in_flight(&self) -> u32 {
        T::in_flight(self)
    }

    fn is_available(&self) -> bool {
        T::is_available(self)
    }

    fn weight(&self) -> u32 {
        T::weight(self)
    }

    fn hash_key(&self, key: &mut String) {
        T::hash_key(self, key);
    }

    fn is_connected(&self) -> bool {
        T::is_connected(self)
    }

    fn reported(&self) -> Option<&Reported> {
        T::reported(self)
    }
}

/// What one try asks for.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// What the request hashes to; `None`: nothing of it was to be hashed, and a hash is drawn (gRFC A42).
    pub hash: Option<u64>,
    /// Where further tries go.
    pub selection: HostSelection,
    /// The calls in flight of the whole cluster, where its policy bounds what a host takes of them.
    pub in_flight: u32,
}

impl Default for Ask {
    /// No hash, and Istio's way of choosing again.
    fn default() -> Self {
        Self {
            hash: None,
            selection: HostSelection::ISTIO,
            in_flight: 0,
        }
    }
}

/// How often a pick looks for another host when the one it met is unavailable or was tried already, whatever a policy says: what
/// more looks would find, a walk does too.
const MAX_LOOKS: u32 = 16;

/// The longest walk after unlucky looks: small clusters are searched wholly, large ones never.
const MAX_WALK: usize = 32;

/// Chooses among hosts. Immutable but for the places that rotations keep and the weights that hosts report.
#[derive(Debug)]
pub enum Picker {
    /// [`LbPolicy::LeastRequest`]
    LeastRequest(LeastRequest),
    /// [`LbPolicy::RoundRobin`]
    RoundRobin(Rotation),
    /// [`LbPolicy::Random`]
    Random(Lots),
    /// [`LbPolicy::RingHash`]
    RingHash(Ring),
    /// [`LbPolicy::Maglev`]
    Maglev(Table),
    /// [`LbPolicy::ClientSideWeightedRoundRobin`]
    ClientWeighted(ClientWeighted),
    /// [`LbPolicy::PickFirst`]
    PickFirst(First),
}

impl Picker {
    /// A picker for `policy` among `hosts`: every pick is then made from these, in this order.
    ///
    /// One by reported weights knows none until [`reweigh`](Self::reweigh) is called.
    pub fn new<L: Load>(policy: &LbPolicy, hosts: &[L], draw: &mut Draw) -> Self {
        let weights: Vec<u32> = hosts.iter().map(Load::weight).collect();
        Self::weighted(policy, hosts, &weights, draw)
    }

    /// As [`new`](Self::new), where the `weights` of the hosts are at hand: many hosts lie all over the memory, and to ask each is
    /// dearer than all else.
    pub fn weighted<L: Load>(policy: &LbPolicy, hosts: &[L], weights: &[u32], draw: &mut Draw) -> Self {
        let weights = weights.iter().copied();
        match policy {
            LbPolicy::LeastRequest(settings) => Self::LeastRequest(LeastRequest::new(*settings, weights)),
            LbPolicy::RoundRobin => Self::RoundRobin(Rotation::new(weights, draw)),
            LbPolicy::Random => Self::Random(Lots::new(weights)),
            LbPolicy::RingHash(settings) => Self::RingHash(Ring::new(*settings, hosts)),
            LbPolicy::Maglev(settings) => Self::Maglev(Table::new(*settings, hosts)),
            LbPolicy::ClientSideWeightedRoundRobin(settings) => {
                Self::ClientWeighted(ClientWeighted::new(settings, hosts, draw))
            }
            LbPolicy::PickFirst { shuffle } => Self::PickFirst(First::new(*shuffle, hosts, draw)),
        }
    }

    /// Takes over what `hosts` have reported of themselves. Looks at all of them, so it is not for the way of a request. When
    /// that is due again; `None`: this picker does not go by reports.
    pub fn reweigh<L: Load>(&self, hosts: &[L], now: Instant) -> Option<Duration> {
        match self {
            Self::ClientWeighted(weighted) => Some(weighted.reweigh(hosts, now)),
            _ => None,
        }
    }

    /// The index of the host to call; `None` when there is none at all.
    ///
    /// Unavailable hosts are passed over, and so are those that this call `tried`, as far as `ask.selection` allows looking for
    /// others; picks by hash keep to the host of the hash unless it says to go elsewhere. When nothing better is met, a doubtful
    /// host is called all the same: that beats failing without a try (Envoy's previous-hosts predicate gives up likewise).
    pub fn pick<L: Load>(&self, hosts: &[L], ask: Ask, tried: impl Fn(&L) -> bool, draw: &mut Draw) -> Option<usize> {
        self.pick_of(hosts, ask, L::is_available, tried, draw)
    }

    /// As [`pick`](Self::pick), where more than the hosts themselves says which are available.
    pub fn pick_of<L: Load>(
        &self,
        hosts: &[L],
        ask: Ask,
        available: impl Fn(&L) -> bool,
        tried: impl Fn(&L) -> bool,
        draw: &mut Draw,
    ) -> Option<usize> {
        match hosts.len() {
            0 => return None,
            1 => return Some(0),
            _ => {}
        }
        let available = |index: usize| available(&hosts[index]);
        let tried = |index: usize| tried(&hosts[index]);
        let all = hosts.len();
        let search = Search {
            hosts: all,
            looks: ask.selection.max_attempts.min(MAX_LOOKS),
        };
        let mut hash = || ask.hash.unwrap_or_else(|| draw.next());
        let stays = |index: usize| ask.selection.other_hosts && tried(index);
        Some(match self {
            Self::LeastRequest(least) => {
                let good = |index: usize| available(index) && !tried(index);
                search.find(available, tried, |_| least.draw(hosts, good, draw))
            }
            Self::RoundRobin(rotation) => search.find(available, tried, |_| rotation.next(all)),
            Self::Random(lots) => search.find(available, tried, |_| lots.draw(all, draw)),
            Self::ClientWeighted(weighted) => search.find(available, tried, |_| weighted.next()),
            Self::RingHash(ring) => {
                let hash = hash();
                search.find(available, stays, |look| {
                    let host = ring.host(hash, look);
                    match &ring.bound {
                        None => host,
                        Some(bound) => bound.settle(hosts, host, hash, ask.in_flight, available),
                    }
                })
            }
            Self::Maglev(table) => {
                let hash = hash();
                search.find(available, stays, |look| {
                    let host = table.host(hash, look);
                    match &table.bound {
                        None => host,
                        Some(bound) => bound.settle(hosts, host, hash, ask.in_flight, available),
                    }
                })
            }
            Self::PickFirst(first) => first.pick(&search, available, tried),
        })
    }
}

/// Looks for a host that is available and was not tried.
struct Search {
    hosts: usize,
    /// How often another is looked for because the one met was tried.
    looks: u32,
}

impl Search {
    /// The first good one of those that `meet` gives for the numbers from 0; else one found by walking on from the last; else the
    /// best of those met.
    fn find(
        &self,
        available: impl Fn(usize) -> bool,
        tried: impl Fn(usize) -> bool,
        mut meet: impl FnMut(u32) -> usize,
    ) -> usize {
        let (mut last, mut fallback, mut looks) = (0, None, self.looks);
        for look in 0..=MAX_LOOKS {
            last = meet(look);
            if !available(last) {
                continue;
            }
            if !tried(last) {
                return last;
            }
            fallback = fallback.or(Some(last));
            // It is the policy that limits these; unavailable ones are nobody's choice.
            if looks == 0 {
                break;
            }
            looks -= 1;
        }
        // Unlucky, or few are good: so that one good host of a few is found for certain.
        for step in 0..self.hosts.min(MAX_WALK) {
            let index = (last + step) % self.hosts;
            if available(index) {
                if !tried(index) {
                    return index;
                }
                fallback = fallback.or(Some(index));
            }
        }
        fallback.unwrap_or(last)
    }
}
