//! The choice of a group, and of a host in it.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::super::{Ask, Load, Picker};
use super::loads::{Load as PriorityLoad, Loads};
use super::plan::{Plan, TierKind};
use crate::config::LbPolicy;
use crate::entropy::Draw;

/// What the choice of a group may ask of a host.
pub trait Member: Load {
    /// Whether outlier detection took it out. [`Load::is_available`] does not say so: in panic it is called all the same.
    fn is_ejected(&self) -> bool;
}

impl<T: Member> Member for std::sync::Arc<T> {
    fn is_ejected(&self) -> bool {
        T::is_ejected(self)
    }
}

/// How often another group is drawn when a host that is to be avoided was found in one. Istio's
/// `host_selection_retry_max_attempts`.
const MAX_REDRAWS: usize = 5;

/// Chooses among the hosts of a cluster, as a [`Plan`] groups them.
#[derive(Debug)]
pub struct LevelPicker {
    pub(super) kind: Kind,
    priorities: Box<[u32]>,
    loads: Loads,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// The common case: one group takes everything.
    One(Group),
    Many(Box<Many>),
}

#[derive(Debug)]
pub(super) struct Many {
    tiers: Box<[Tier]>,
    /// The first tier of which a host can be called now takes the call, and loads do not count.
    first_ready: bool,
}

#[derive(Debug)]
struct Tier {
    rank: usize,
    is_degraded: bool,
    /// The calls it takes are those that draw less, and no less than the one before says.
    below: u32,
    groups: Box<[Group]>,
}

#[derive(Debug)]
pub(super) struct Group {
    hosts: Range<usize>,
    picker: Picker,
    /// Its hosts are called whatever is known of their health.
    panic: bool,
    /// As [`Tier::below`], by weight.
    below: u64,
}

/// The priorities that earlier tries of a call went to, where further ones are to go elsewhere (Envoy `previous_priorities`).
#[derive(Clone, Copy, Debug)]
pub struct GoneTo<'a> {
    /// By number, one for each try, in order.
    pub priorities: &'a [u32],
    /// After how many tries those gone to are taken anew; at least 1.
    pub update_frequency: u32,
}

impl GoneTo<'_> {
    /// Those not to be called again. Tries since the last time that they were taken do not count.
    pub(super) fn out(&self) -> &[u32] {
        let every = self.update_frequency.max(1) as usize;
        &self.priorities[..self.priorities.len() / every * every]
    }
}

impl LevelPicker {
    /// A picker for the groups of `plan`, whose places are those of `hosts` and of their `weights`; a group is chosen from by the
    /// `policy` of its first place.
    pub fn new<'a, L: Member>(
        plan: Plan,
        policy: impl Fn(usize) -> &'a LbPolicy,
        (hosts, weights): (&[L], &[u32]),
        first_ready: bool,
        draw: &mut Draw,
    ) -> Self {
        let mut below = 0;
        let tiers = plan.tiers.into_iter().map(|tier| {
            below += tier.load;
            let mut sum = 0;
            let groups = tier.groups.into_iter().map(|group| {
                sum += group.weight;
                let range = group.hosts.clone();
                let (hosts, weights) = (&hosts[range.clone()], &weights[range]);
                Group {
                    picker: Picker::weighted(policy(group.hosts.start), hosts, weights, draw),
                    hosts: group.hosts,
                    panic: tier.kind == TierKind::Panic,
                    below: sum,
                }
            });
            Tier {
                rank: tier.rank,
                is_degraded: tier.kind == TierKind::Degraded,
                groups: groups.collect(),
                below,
            }
        });
        let mut tiers: Vec<Tier> = tiers.collect();
        let kind = match &mut tiers[..] {
            [Tier { groups, .. }] if groups.len() == 1 => Kind::One(std::mem::take(groups).into_vec().remove(0)),
            _ => Kind::Many(Box::new(Many {
                tiers: tiers.into(),
                first_ready,
            })),
        };
        Self {
            kind,
            priorities: plan.priorities,
            loads: plan.loads,
        }
    }

    /// The place of the host to call; `None` when none may be called.
    ///
    /// A request that is to meet the same host again goes to the priority that its hash says, others to one by chance.
    pub fn pick<L: Member>(&self, hosts: &[L], ask: Ask, tried: impl Fn(&L) -> bool, draw: &mut Draw) -> Option<usize> {
        match &self.kind {
            Kind::One(group) => group.pick(hosts, ask, &tried, draw),
            Kind::Many(many) => many.pick(hosts, ask, &tried, draw),
        }
    }

    /// As [`pick`](Self::pick), for a call that went elsewhere before.
    pub fn pick_again<L: Member>(
        &self,
        hosts: &[L],
        ask: Ask,
        tried: impl Fn(&L) -> bool,
        gone_to: GoneTo<'_>,
        draw: &mut Draw,
    ) -> Option<usize> {
        let Kind::Many(many) = &self.kind else {
            return self.pick(hosts, ask, tried, draw);
        };
        let out = gone_to.out();
        let is_out = |rank: usize| out.contains(&self.priorities[rank]);
        let left = match out {
            [] => None,
            _ => self.loads.without(is_out),
        };
        match left {
            Some(left) => many.pick_by(&left, hosts, ask, &tried, draw),
            // There is no other, so none is avoided.
            None => many.pick(hosts, ask, &tried, draw),
        }
    }

    /// Has the pickers take over what hosts have reported of themselves ([`Picker::reweigh`]); when that is due again, if ever.
    pub fn reweigh<L: Member>(&self, hosts: &[L], now: Instant) -> Option<Duration> {
        let reweigh = |group: &Group| group.picker.reweigh(&hosts[group.hosts.clone()], now);
        match &self.kind {
            Kind::One(group) => reweigh(group),
            Kind::Many(many) => many
                .tiers
                .iter()
                .flat_map(|tier| &tier.groups)
                .filter_map(reweigh)
                .min(),
        }
    }

    /// What each priority takes, by number, the first one's first.
    pub fn priorities(&self) -> impl Iterator<Item = (u32, &PriorityLoad)> {
        self.priorities.iter().copied().zip(self.loads.iter())
    }

    /// Whether calls go to hosts whatever is known of their health, in some priority.
    pub fn is_in_panic(&self) -> bool {
        self.loads.iter().any(|load| load.panic)
    }
}

impl Group {
    /// A host of the group, by its place among all.
    fn pick<L: Member>(&self, hosts: &[L], ask: Ask, tried: &impl Fn(&L) -> bool, draw: &mut Draw) -> Option<usize> {
        // One that was taken out since is no choice, whatever is said of hosts that were tried.
        let available = |host: &L| host.is_available() && (self.panic || !host.is_ejected());
        let hosts = &hosts[self.hosts.clone()];
        let place = self.picker.pick_of(hosts, ask, available, tried, draw)?;
        Some(self.hosts.start + place)
    }

    fn is_good<L: Member>(&self, host: &L, tried: &impl Fn(&L) -> bool) -> bool {
        host.is_available() && (self.panic || !host.is_ejected()) && !tried(host)
    }
}

impl Tier {
    fn pick<L: Member>(
        &self,
        hosts: &[L],
        ask: Ask,
        tried: &impl Fn(&L) -> bool,
        draw: &mut Draw,
    ) -> Option<(usize, bool)> {
        let group = match &self.groups[..] {
            [one] => one,
            several => {
                let lot = draw.below(several.last()?.below);
                &several[several.partition_point(|group| group.below <= lot)]
            }
        };
        let place = group.pick(hosts, ask, tried, draw)?;
        Some((place, group.is_good(&hosts[place], tried)))
    }
}

impl Many {
    fn pick<L: Member>(&self, hosts: &[L], ask: Ask, tried: &impl Fn(&L) -> bool, draw: &mut Draw) -> Option<usize> {
        if self.first_ready {
            return self.first_ready(hosts, ask, tried, draw);
        }
        self.dealt(hosts, ask, tried, draw, |many, lot| {
            many.tiers.iter().find(|tier| lot < tier.below)
        })
    }

    fn pick_by<L: Member>(
        &self,
        loads: &Loads,
        hosts: &[L],
        ask: Ask,
        tried: &impl Fn(&L) -> bool,
        draw: &mut Draw,
    ) -> Option<usize> {
        self.dealt(hosts, ask, tried, draw, |many, lot| {
            let mut below = 0;
            many.tiers.iter().find(|tier| {
                let load = loads.iter().nth(tier.rank);
                below += load.map_or(0, |load| if tier.is_degraded { load.degraded } else { load.healthy });
                lot < below
            })
        })
    }

    /// A host of the tier that a lot below a hundred falls on. Where one is found that should be avoided, the lot is drawn anew:
    /// a locality whose one host cannot be reached must not fail the calls that another could take.
    fn dealt<L: Member>(
        &self,
        hosts: &[L],
        ask: Ask,
        tried: &impl Fn(&L) -> bool,
        draw: &mut Draw,
        find: impl Fn(&Self, u32) -> Option<&Tier>,
    ) -> Option<usize> {
        let mut last = None;
        for turn in 0..=MAX_REDRAWS {
            let lot = match ask.hash {
                Some(hash) if turn == 0 => hash % 100,
                _ => draw.below(100),
            };
            let (place, is_good) = find(self, lot as u32)?.pick(hosts, ask, tried, draw)?;
            if is_good {
                return Some(place);
            }
            last = Some(place);
        }
        last
    }

    fn first_ready<L: Member>(
        &self,
        hosts: &[L],
        ask: Ask,
        tried: &impl Fn(&L) -> bool,
        draw: &mut Draw,
    ) -> Option<usize> {
        let mut doubtful = None;
        for tier in &self.tiers {
            // Several localities: another may have what the first one drawn has not.
            for _ in 0..=MAX_REDRAWS.min(tier.groups.len().saturating_sub(1)) {
                match tier.pick(hosts, ask, tried, draw) {
                    Some((place, true)) => return Some(place),
                    Some((place, false)) => doubtful = doubtful.or(Some(place)),
                    None => {}
                }
            }
        }
        doubtful
    }
}
