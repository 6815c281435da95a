//! How the endpoints of a cluster fall into groups, of which each has a picker of its own.
//!
//! The groups of a priority lie side by side: healthy endpoints by locality, degraded ones by locality, those that may not be
//! called, and last those that finish. So each group is one slice of the hosts, and so is all of a priority that is in panic.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::loads::{Census, Load, Loads, effective_weight};
use super::rules::{Rules, RulesOf};
use crate::config::{Cluster, Endpoint, Failover, Health, Locality};

/// Where the hosts of a cluster stand and which of them are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Which endpoint stands at each place; `None`: they stand in the order of the configuration.
    pub order: Option<Box<[u32]>>,
    /// In the order in which calls are dealt out: healthy endpoints by priority, then degraded ones.
    pub tiers: Vec<Tier>,
    /// The numbers of the priorities there are, the first one's first.
    pub priorities: Box<[u32]>,
    /// What each of them takes.
    pub loads: Loads,
}

/// The endpoints of a priority that are equally fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// Its priority's place among those there are.
    pub rank: usize,
    /// What they are.
    pub kind: TierKind,
    /// Percent of the calls.
    pub load: u32,
    /// By locality, where that is chosen first. None: calls of this tier fail.
    pub groups: Vec<Group>,
}

/// What the endpoints of a [`Tier`] are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TierKind {
    /// Healthy.
    Healthy,
    /// Degraded.
    Degraded,
    /// All there are, whatever is known of their health.
    Panic,
}

/// Hosts among which one picker chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Their places.
    pub hosts: Range<usize>,
    /// Its share among the groups of its tier.
    pub weight: u64,
}

/// How fit an endpoint is, in the order in which they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fitness {
    Healthy,
    Degraded,
    Out,
    Finishing,
}

/// One endpoint's place before it is found.
type Place = (u32, Fitness, u32);

impl Plan {
    /// The groups of `cluster`, of whose endpoints those are out that `is_out` says, by index, besides what the configuration says.
    ///
    /// `whole`: the groups of a tier are to be one, since the picker weighs localities itself ([`shares`](super::shares)).
    pub fn of(cluster: &Cluster, is_out: impl Fn(usize) -> bool, whole: bool) -> Self {
        let endpoints = &cluster.endpoints;
        let fitness = |(index, endpoint): (usize, &Endpoint)| match endpoint.health {
            Health::Healthy | Health::Degraded if is_out(index) => Fitness::Out,
            Health::Healthy => Fitness::Healthy,
            Health::Degraded => Fitness::Degraded,
            Health::Unhealthy => Fitness::Out,
            Health::Draining => Fitness::Finishing,
        };
        let rules = RulesOf::new(cluster, whole);
        let mut ranks = Ranks::new(cluster, rules);
        let places: Vec<Place> = endpoints
            .iter()
            .enumerate()
            .map(|(index, endpoint)| (endpoint.priority, fitness((index, endpoint)), ranks.of(endpoint)))
            .collect();
        if places.is_sorted() {
            return Self::sorted(cluster, None, &places, &ranks);
        }
        let mut order: Box<[u32]> = (0..).take(places.len()).collect();
        order.sort_by_key(|index| places[*index as usize]);
        let sorted: Vec<Place> = order.iter().map(|index| places[*index as usize]).collect();
        Self::sorted(cluster, Some(order), &sorted, &ranks)
    }

    fn sorted(cluster: &Cluster, order: Option<Box<[u32]>>, places: &[Place], ranks: &Ranks<'_>) -> Self {
        let endpoint = |place: usize| &cluster.endpoints[order.as_ref().map_or(place, |order| order[place] as usize)];
        let mut priorities: Vec<(u32, Range<usize>)> = Vec::new();
        let mut start = 0;
        for chunk in places.chunk_by(|a, b| a.0 == b.0) {
            priorities.push((chunk[0].0, start..start + chunk.len()));
            start += chunk.len();
        }
        let census: Vec<Census> = priorities
            .iter()
            .map(|(_, range)| {
                let mut census = Census::default();
                let by_weight = ranks
                    .rules
                    .at(endpoint(range.start).priority)
                    .localities
                    .weighted_health;
                for place in range.clone() {
                    let weight = match by_weight {
                        true => endpoint(place).weight.0.into(),
                        false => 0,
                    };
                    for (count, one) in [(&mut census.hosts, 1), (&mut census.weight, weight)] {
                        count.total += one;
                        match places[place].1 {
                            Fitness::Healthy => count.healthy += one,
                            Fitness::Degraded => count.degraded += one,
                            Fitness::Out | Fitness::Finishing => {}
                        }
                    }
                }
                census
            })
            .collect();
        let loads = Loads::by(&census, cluster.common_lb.failover, |index| {
            let rules = ranks.rules.at(priorities[index].0);
            (rules.common, rules.localities)
        });
        let tiers = [TierKind::Healthy, TierKind::Degraded].into_iter().flat_map(|kind| {
            let each = priorities.iter().zip(loads.iter()).enumerate();
            each.filter_map(move |(rank, ((priority, range), load))| {
                let rules = ranks.rules.at(*priority);
                tier(rules, rank, kind, load, range, places, ranks)
            })
        });
        let tiers = tiers.collect();
        Self {
            order,
            tiers,
            priorities: priorities.iter().map(|(priority, _)| *priority).collect(),
            loads,
        }
    }
}

fn tier(
    rules: &Rules<'_>,
    rank: usize,
    kind: TierKind,
    load: &Load,
    range: &Range<usize>,
    places: &[Place],
    ranks: &Ranks<'_>,
) -> Option<Tier> {
    let tier = |kind, load, groups| {
        Some(Tier {
            rank,
            kind,
            load,
            groups,
        })
    };
    let until = |fitness| range.start + places[range.clone()].partition_point(|place| place.1 <= fitness);
    let fit = match kind {
        TierKind::Healthy | TierKind::Panic if load.panic => {
            let groups = match rules.common.fail_on_panic {
                true => Vec::new(),
                // What finishes is asked only where there is nothing else.
                false => {
                    let end = until(Fitness::Out);
                    let hosts = if end == range.start {
                        range.clone()
                    } else {
                        range.start..end
                    };
                    vec![Group { hosts, weight: 1 }]
                }
            };
            return tier(TierKind::Panic, load.healthy, groups);
        }
        TierKind::Degraded if load.panic => return None,
        TierKind::Healthy | TierKind::Panic => range.start..until(Fitness::Healthy),
        TierKind::Degraded => until(Fitness::Healthy)..until(Fitness::Degraded),
    };
    if fit.is_empty() {
        return None;
    }
    let share = match kind {
        TierKind::Degraded => load.degraded,
        TierKind::Healthy | TierKind::Panic => load.healthy,
    };
    let mut groups = Vec::new();
    let mut start = fit.start;
    for chunk in places[fit.clone()].chunk_by(|a, b| a.2 == b.2) {
        let hosts = start..start + chunk.len();
        start = hosts.end;
        let weight = ranks.weight(rules, chunk[0].2, chunk.len() as u64);
        if weight > 0 {
            groups.push(Group { hosts, weight });
        }
    }
    if groups.is_empty() {
        // No locality of it has a weight: they are one list, as in Envoy.
        groups.push(Group { hosts: fit, weight: 1 });
    }
    tier(kind, share, groups)
}

/// Numbers for localities, where they matter.
struct Ranks<'a> {
    /// What was said of them, where something was.
    said: HashMap<(u32, &'a Locality), u32>,
    known: HashMap<(u32, &'a Locality), u32>,
    seen: Vec<Seen>,
    /// Neighbours mostly stand in the same place, which is looked up once.
    last: Option<(u32, &'a Arc<Locality>, u32)>,
    rules: RulesOf<'a>,
}

/// A locality of one priority.
struct Seen {
    /// What was said that it weighs.
    said: Option<u32>,
    /// What its endpoints weigh together.
    sum: u32,
    endpoints: u64,
}

impl<'a> Ranks<'a> {
    fn new(cluster: &'a Cluster, rules: RulesOf<'a>) -> Self {
        Self {
            said: match rules.any_by_locality() {
                true => said(cluster),
                false => HashMap::new(),
            },
            known: HashMap::new(),
            seen: Vec::new(),
            last: None,
            rules,
        }
    }

    fn of(&mut self, endpoint: &'a Endpoint) -> u32 {
        let &Rules { by_locality, whole, .. } = self.rules.at(endpoint.priority);
        if !by_locality {
            return 0;
        }
        let rank = match self.last {
            Some((priority, locality, rank))
                if priority == endpoint.priority && Arc::ptr_eq(locality, &endpoint.locality) =>
            {
                rank
            }
            _ => self.look_up(endpoint, whole),
        };
        if whole {
            return rank;
        }
        let Some(seen) = self.seen.get_mut(rank as usize) else {
            return rank;
        };
        seen.sum = seen.sum.saturating_add(endpoint.weight.0);
        seen.endpoints += 1;
        rank
    }

    fn look_up(&mut self, endpoint: &'a Endpoint, whole: bool) -> u32 {
        let key = (endpoint.priority, &*endpoint.locality);
        if whole {
            let weighs = self.said.get(&key).is_some_and(|weight| *weight > 0);
            return u32::from(!weighs);
        }
        let next = self.seen.len() as u32;
        let rank = *self.known.entry(key).or_insert(next);
        if rank == next {
            self.seen.push(Seen {
                said: self.said.get(&key).copied(),
                sum: 0,
                endpoints: 0,
            });
        }
        self.last = Some((endpoint.priority, &endpoint.locality, rank));
        rank
    }

    /// What a locality weighs with so many of its endpoints fit.
    fn weight(&self, rules: &Rules<'_>, rank: u32, fit: u64) -> u64 {
        let seen = match rules.by_locality && !rules.whole {
            true => self.seen.get(rank as usize),
            false => None,
        };
        let Some(seen) = seen else {
            return u64::from(rank == 0);
        };
        let weight = match self.said.is_empty() {
            true => seen.sum,
            false => seen.said.unwrap_or_default(),
        };
        match rules.common.failover {
            Failover::FirstReady => weight.into(),
            Failover::Spill => effective_weight(weight, fit, seen.endpoints, rules.localities.overprovisioning_factor),
        }
    }
}

fn said(cluster: &Cluster) -> HashMap<(u32, &Locality), u32> {
    let weights = cluster.localities.weights.iter();
    weights
        .map(|one| ((one.priority, &*one.locality), one.weight.0))
        .collect()
}

/// What each endpoint weighs among all of its priority, where localities are weighted and one picker chooses among all of
/// them: its part of its locality's weight. `None`: what it says itself.
pub fn shares(cluster: &Cluster) -> Option<Box<[u32]>> {
    if !cluster.common_lb.by_locality || cluster.localities.weights.is_empty() {
        return None;
    }
    let said = said(cluster);
    let key = |endpoint: &'_ Endpoint| (endpoint.priority, Arc::clone(&endpoint.locality));
    let mut sums: HashMap<(u32, Arc<Locality>), u64> = HashMap::new();
    for endpoint in cluster.endpoints.iter() {
        *sums.entry(key(endpoint)).or_default() += u64::from(endpoint.weight.0);
    }
    let mut totals: HashMap<u32, u64> = HashMap::new();
    for (priority, locality) in sums.keys() {
        let weight = said.get(&(*priority, &**locality)).copied().unwrap_or_default();
        *totals.entry(*priority).or_default() += u64::from(weight);
    }
    let share = |endpoint: &Endpoint| {
        let weight = said
            .get(&(endpoint.priority, &*endpoint.locality))
            .copied()
            .unwrap_or_default();
        let (sum, total) = (sums[&key(endpoint)].max(1), totals[&endpoint.priority].max(1));
        let steps = (u64::from(u32::MAX) / total).clamp(1, SHARE_STEPS);
        let share = u128::from(u64::from(weight) * steps) * u128::from(endpoint.weight.0) / u128::from(sum);
        u32::try_from(share).unwrap_or(u32::MAX)
    };
    Some(cluster.endpoints.iter().map(share).collect())
}

/// How finely [`shares`] are kept: to a thousandth of a locality's unit of weight.
const SHARE_STEPS: u64 = 1000;
