//! The hosts of what a cluster has become: those that it had, as far as they are wanted as they are, and new ones.
//!
//! An update mostly changes little of much. What two lists of endpoints have in common at either end is found in one pass over
//! them, and what lies between is matched in the order in which it stands; only what is then left over on both sides is looked
//! up. Of hosts that nothing new is said of none is touched: a hundred thousand lie all over the memory, and to look at each
//! takes longer than all else that is done here.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use mesh_core::balance::levels::{Member as _, shares};
use mesh_core::config::{Cluster, Endpoint, LbPolicy, TlsMode, alike};

use super::handle::Parts;
use super::modes::{Modes, same};
use super::{Host, HostSet};

/// How far it is looked ahead for where two lists go on alike, after a few were put in or taken out.
const LOOK_AHEAD: usize = 8;
/// So few hosts are looked for one by one, rather than that all are put in order.
const FEW: usize = 16;

/// The hosts of a cluster's endpoints, in their order.
pub(super) struct Living<'a> {
    old: Option<&'a HostSet>,
    /// Made only where somebody has to look at them, if they are those that there were.
    hosts: OnceCell<Arc<[Arc<Host>]>>,
    /// Those of the old set that no endpoint stands for any more as they are.
    gone: Vec<Arc<Host>>,
    matched: Matched,
    /// The places of those that were made for it, in order; none of a first set, in which nobody is newer than the others.
    new: Vec<usize>,
    modes: Vec<Arc<TlsMode>>,
}

/// What the hosts were told.
pub(super) struct Told {
    /// What each weighs, in the order of the endpoints.
    pub(super) weights: Vec<u32>,
    /// It is not what its endpoint says.
    pub(super) by_share: bool,
}

/// Which endpoints of two lists have one host.
#[derive(Debug, Default)]
struct Matched {
    /// How many say all the same, at the beginning and at the end.
    alike: [usize; 2],
    /// How long the lists are.
    lengths: [usize; 2],
    /// Where each of those between stood before, from the first on; [`NOWHERE`]: not in the order of the others.
    between: Vec<u32>,
    /// Those of the old list that were not met.
    lost: Vec<u32>,
}

const NOWHERE: u32 = u32::MAX;

impl<'a> Living<'a> {
    /// A host for each endpoint of `cluster`: that of the `old` set where address and security are the same. `known`: what the
    /// endpoints of both have in common, where that was found out.
    pub(super) fn of(cluster: &Cluster, old: Option<&'a HostSet>, known: Option<[usize; 2]>, parts: &Parts) -> Self {
        let Some(old) = old else {
            return Self::first(cluster, parts);
        };
        let modes = Modes::new(cluster, old.modes());
        let (was, is): (&[Endpoint], &[Endpoint]) = (&old.cluster.endpoints, &cluster.endpoints);
        let tls = |index: usize| modes.of(cluster.tls_for(&is[index]));
        let by_endpoint: OnceCell<Arc<[Arc<Host>]>> = OnceCell::new();
        let before = |back: usize| &by_endpoint.get_or_init(|| old.by_endpoint())[back];
        // Endpoints that say the same are called alike by the same rules.
        let same_rules = old.cluster.tls == cluster.tls && old.cluster.tls_matches == cluster.tls_matches;
        let keeps = |back: usize, index: usize| {
            was[back].address == is[index].address
                && ((same_rules && was[back].metadata == is[index].metadata) || same(before(back).tls(), tls(index)))
        };
        let alike = match same_rules {
            true => known.unwrap_or_else(|| alike(was, is)),
            false => [0, 0],
        };
        let matched = Matched::of(alike, [was.len(), is.len()], keeps);
        if matched.is_all() {
            return Self {
                old: Some(old),
                hosts: OnceCell::new(),
                gone: Vec::new(),
                matched,
                new: Vec::new(),
                modes: modes.used(),
            };
        }
        let key = |address: SocketAddr, tls: Option<&Arc<TlsMode>>| (address, tls.map(Arc::as_ptr));
        let mut known: HashMap<_, &Arc<Host>> = HashMap::with_capacity(matched.lost.len());
        let mut gone = Vec::new();
        for back in &matched.lost {
            let host = before(*back as usize);
            // Two of one address and one security: one is enough.
            gone.extend(known.insert(key(host.address(), host.tls()), host).cloned());
        }
        let mut new = Vec::new();
        let host = |index: usize| {
            if let Some(back) = matched.before(index) {
                return Arc::clone(before(back));
            }
            let (endpoint, tls) = (&is[index], tls(index));
            if let Some(host) = known.remove(&key(endpoint.address, tls)) {
                return Arc::clone(host);
            }
            new.push(index);
            // Other security means other connections: what was agreed under the old rules is not carried over.
            Arc::new(Host::new(endpoint.address, endpoint.weight.0, tls.cloned(), parts))
        };
        let hosts: Arc<[Arc<Host>]> = (0..is.len()).map(host).collect();
        gone.extend(known.into_values().cloned());
        Self {
            old: Some(old),
            hosts: hosts.into(),
            gone,
            matched,
            new,
            modes: modes.used(),
        }
    }

    fn first(cluster: &Cluster, parts: &Parts) -> Self {
        let modes = Modes::new(cluster, &[]);
        let host = |endpoint: &Endpoint| {
            let tls = modes.of(cluster.tls_for(endpoint)).cloned();
            Arc::new(Host::new(endpoint.address, endpoint.weight.0, tls, parts))
        };
        let hosts: Arc<[Arc<Host>]> = cluster.endpoints.iter().map(host).collect();
        Self {
            old: None,
            hosts: hosts.into(),
            gone: Vec::new(),
            matched: Matched {
                lengths: [0, cluster.endpoints.len()],
                between: vec![NOWHERE; cluster.endpoints.len()],
                ..Matched::default()
            },
            new: Vec::new(),
            modes: modes.used(),
        }
    }

    /// Gives each host its weight, and what else its endpoint says of it; `percent`: how much of its weight the host of an endpoint
    /// has, by index, where new ones get their share bit by bit. Hosts whose endpoint says what it said are left alone.
    pub(super) fn tell(&self, cluster: &Cluster, percent: Option<&dyn Fn(usize) -> u32>) -> Told {
        let reports = reports(cluster);
        let is_hashed = cluster.lb.is_hashed();
        let shares = is_hashed.then(|| shares(cluster)).flatten();
        let by_share = shares.is_some() || percent.is_some();
        let before = self.old.filter(|old| {
            let was = &old.cluster;
            !by_share && !old.is_by_share() && was.lb.is_hashed() == is_hashed && self::reports(was) == reports
        });
        // Where new hosts get theirs bit by bit, all weights are a hundred times what they are elsewhere: only their ratio counts.
        let weight = |index: usize| {
            let weight = match &shares {
                Some(shares) => shares[index],
                None => cluster.endpoints[index].weight.0,
            };
            let weight = percent.map_or(weight, |percent| weight.saturating_mul(percent(index)));
            weight.max(1)
        };
        let weights: Vec<u32> = (0..cluster.endpoints.len()).map(weight).collect();
        let news = match before {
            Some(_) => self.matched.between(),
            None => 0..cluster.endpoints.len(),
        };
        if news.len() > FEW {
            self.hosts();
        }
        for index in news {
            let endpoint = &cluster.endpoints[index];
            let knows = before.zip(self.matched.before(index)).is_some_and(|(old, back)| {
                let was = &old.cluster.endpoints[back];
                was.weight == endpoint.weight && was.metadata == endpoint.metadata
            });
            if knows {
                continue;
            }
            let host = self.host(index);
            host.reweigh(weights[index]);
            if is_hashed {
                host.rename(endpoint.hash_key());
            }
            if reports {
                host.listen();
            }
        }
        Told { weights, by_share }
    }

    /// The host of an endpoint.
    fn host(&self, index: usize) -> &Host {
        match (self.hosts.get(), self.old) {
            (None, Some(old)) => old.host_of(index),
            _ => &self.hosts()[index],
        }
    }

    /// The hosts, in the order of the endpoints.
    pub(super) fn hosts(&self) -> &Arc<[Arc<Host>]> {
        self.hosts.get_or_init(|| match self.old {
            Some(old) => old.by_endpoint(),
            None => Arc::default(),
        })
    }

    /// The old set, where its hosts are these, and its endpoints stand in the same order.
    pub(super) fn unchanged(&self) -> Option<&'a HostSet> {
        self.old.filter(|_| self.matched.is_all())
    }

    /// What there was.
    pub(super) fn old(&self) -> Option<&'a HostSet> {
        self.old
    }

    /// Each host's address, whether it was made now, and whether it is out.
    pub(super) fn members(&self) -> impl Iterator<Item = (SocketAddr, bool, bool)> {
        let hosts = self.hosts().iter().enumerate();
        hosts.map(|(index, host)| {
            (
                host.address(),
                self.new.binary_search(&index).is_ok(),
                host.is_ejected(),
            )
        })
    }

    /// What they are called with, and those of the old set that are gone.
    pub(super) fn into_parts(self) -> (Vec<Arc<TlsMode>>, Vec<Arc<Host>>) {
        (self.modes, self.gone)
    }
}

fn reports(cluster: &Cluster) -> bool {
    matches!(cluster.lb, LbPolicy::ClientSideWeightedRoundRobin(_))
}

impl Matched {
    /// Walks through what two lists do not have in common, where `keeps` says whether two endpoints have one host.
    fn of(alike: [usize; 2], lengths: [usize; 2], keeps: impl Fn(usize, usize) -> bool) -> Self {
        let [start, end] = alike;
        let [back_end, index_end] = lengths.map(|length| length - end);
        let mut matched = Self {
            alike,
            lengths,
            between: vec![NOWHERE; index_end - start],
            lost: Vec::new(),
        };
        let (mut back, mut index) = (start, start);
        while back < back_end && index < index_end {
            if keeps(back, index) {
                matched.between[index - start] = back as u32;
                (back, index) = (back + 1, index + 1);
                continue;
            }
            let ahead = |by: usize| {
                let (back_ahead, index_ahead) = (back + by, index + by);
                if back_ahead < back_end && keeps(back_ahead, index) {
                    return Some([by, 0]);
                }
                (index_ahead < index_end && keeps(back, index_ahead)).then_some([0, by])
            };
            // Or one took the other's place.
            let [out, put_in] = (1..=LOOK_AHEAD).find_map(ahead).unwrap_or([1, 1]);
            matched.lost.extend(back as u32..(back + out) as u32);
            (back, index) = (back + out, index + put_in);
        }
        matched.lost.extend(back as u32..back_end as u32);
        matched
    }

    /// Where an endpoint stood before, as far as it is one that was met.
    fn before(&self, index: usize) -> Option<usize> {
        let ([start, end], [back, length]) = (self.alike, self.lengths);
        if index < start {
            return Some(index);
        }
        let from_end = length - index;
        if from_end <= end {
            return Some(back - from_end);
        }
        let place = self.between[index - start];
        (place != NOWHERE).then_some(place as usize)
    }

    /// The endpoints of which something else is said than before, or something else of their neighbours.
    fn between(&self) -> std::ops::Range<usize> {
        let ([start, end], [_, length]) = (self.alike, self.lengths);
        start..length - end
    }

    /// Whether all have the hosts that they had.
    fn is_all(&self) -> bool {
        self.lost.is_empty() && self.lengths[0] == self.lengths[1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matched(before: &[u32], after: &[u32]) -> (Vec<Option<usize>>, Vec<u32>) {
        let common = before.iter().zip(after).take_while(|(a, b)| a == b).count();
        let matched = Matched::of([common, 0], [before.len(), after.len()], |back, index| {
            before[back] == after[index]
        });
        let places = (0..after.len()).map(|index| matched.before(index)).collect();
        (places, matched.lost)
    }

    #[test]
    fn what_stays_is_met_where_others_come_and_go() {
        let all: Vec<u32> = (0..40).collect();
        let places = |after: &[u32]| {
            after
                .iter()
                .map(|one| (*one < 40).then_some(*one as usize))
                .collect::<Vec<_>>()
        };
        let with = |change: &dyn Fn(&mut Vec<u32>)| {
            let mut after = all.clone();
            change(&mut after);
            after
        };
        for (after, lost) in [
            (all.clone(), vec![]),
            (with(&|list| list[7] = 99), vec![7]),
            (with(&|list| list.retain(|one| *one != 7)), vec![7]),
            (
                with(&|list| list.retain(|one| !(7..12).contains(one))),
                vec![7, 8, 9, 10, 11],
            ),
            (with(&|list| list.insert(7, 99)), vec![]),
            (with(&|list| list.truncate(39)), vec![39]),
            (with(&|list| list.push(99)), vec![]),
            (with(&|list| (list[0], list[39]) = (98, 99)), vec![0, 39]),
            (
                with(&|list| {
                    list.insert(30, 99);
                    list.retain(|one| *one != 3);
                }),
                vec![3],
            ),
            (vec![], (0..40).collect()),
        ] {
            assert_eq!(matched(&all, &after), (places(&after), lost), "{after:?}");
        }
    }

    /// Whatever was not met is lost, and nothing is met twice: so a host is kept once, looked up, or let go of.
    #[test]
    fn nobody_is_met_twice_or_forgotten() {
        let mut draw = mesh_core::Entropy::seeded(5).draw();
        for _ in 0..2_000 {
            let mut list = || -> Vec<u32> { (0..draw.below(24)).map(|_| draw.below(16) as u32).collect() };
            let (before, after) = (list(), list());
            let (places, lost) = matched(&before, &after);
            let met = places.iter().flatten().map(|place| *place as u32);
            let mut all: Vec<u32> = met.chain(lost).collect();
            all.sort_unstable();
            assert!(
                all.iter().copied().eq(0..before.len() as u32),
                "{before:?} and {after:?}"
            );
            for (place, one) in places.iter().zip(&after) {
                assert!(
                    place.is_none_or(|place| before[place] == *one),
                    "{before:?} and {after:?}"
                );
            }
        }
    }
}
