//! What share of the calls each priority takes, as integers of a hundred: Envoy's arithmetic, and gRPC's rule.

use crate::config::{CommonLb, Failover, Localities, Percent};

/// Endpoints of one priority, counted: by number, or by weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// That may be called.
    pub healthy: u64,
    /// That are called when the healthy ones do not suffice.
    pub degraded: u64,
    /// All, those included that may not be called.
    pub total: u64,
}

/// What there is of one priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// How many endpoints.
    pub hosts: Count,
    /// What they weigh together.
    pub weight: Count,
}

/// What one priority takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Percent of the calls that go to its healthy endpoints; in panic, to all of them.
    pub healthy: u32,
    /// Percent of the calls that go to its degraded endpoints.
    pub degraded: u32,
    /// Its endpoints are called whatever is known of their health.
    pub panic: bool,
    /// What its healthy endpoints could take, in percent.
    able: u32,
    /// What its degraded endpoints could take, in percent.
    degraded_able: u32,
}

/// What each priority takes. Together 100, or 0 where nothing can be called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loads(Box<[Load]>);

impl Loads {
    /// Spreads the calls over priorities, of which the first is to be called most.
    pub fn of(census: &[Census], common: &CommonLb, localities: &Localities) -> Self {
        Self::by(census, common.failover, |_| (common, localities))
    }

    /// As [`of`](Self::of), where each priority has its own `rules`.
    pub fn by<'a>(
        census: &[Census],
        failover: Failover,
        rules: impl Fn(usize) -> (&'a CommonLb, &'a Localities),
    ) -> Self {
        let able = |part: u64, of: &Count, factor: u32| match of.total {
            0 => 0,
            total => part
                .saturating_mul(factor.into())
                .checked_div(total)
                .map_or(0, |able| able.min(100) as u32),
        };
        let load = |(index, census): (usize, &Census)| {
            let (_, localities) = rules(index);
            let count = match localities.weighted_health {
                true => &census.weight,
                false => &census.hosts,
            };
            Load {
                able: able(count.healthy, count, localities.overprovisioning_factor),
                degraded_able: able(count.degraded, count, localities.overprovisioning_factor),
                ..Load::default()
            }
        };
        let mut loads: Box<[Load]> = census.iter().enumerate().map(load).collect();
        match failover {
            Failover::FirstReady => first_ready(census, &mut loads),
            Failover::Spill => {
                spill(&mut loads);
                panic(census, |index| rules(index).0.panic_threshold, &mut loads);
            }
        }
        Self(loads)
    }

    /// By priority.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Load> {
        self.0.iter()
    }

    /// What is left when some priorities are not to be called again, because earlier tries of the call went there (Envoy
    /// `previous_priorities`). `None` when nothing could be called then: the call goes by the loads as they are.
    pub fn without(&self, is_out: impl Fn(usize) -> bool) -> Option<Self> {
        let mut left = self.clone();
        for (_, load) in left.0.iter_mut().enumerate().filter(|(index, _)| is_out(*index)) {
            (load.able, load.degraded_able) = (0, 0);
        }
        spill(&mut left.0);
        let is_some = left.iter().any(|load| load.healthy + load.degraded > 0);
        is_some.then_some(left)
    }
}

/// The first that can be called takes all.
fn first_ready(census: &[Census], loads: &mut [Load]) {
    let find = |part: fn(&Count) -> u64| census.iter().position(|census| part(&census.hosts) > 0);
    if let Some(index) = find(|count| count.healthy) {
        loads[index].healthy = 100;
    } else if let Some(index) = find(|count| count.degraded) {
        loads[index].degraded = 100;
    }
}

/// Each takes what it is able to, the healthy endpoints of all priorities before any degraded one. Where all together are not
/// able to take everything, each takes more in proportion.
fn spill(loads: &mut [Load]) {
    let total: u32 = loads.iter().map(|load| load.able + load.degraded_able).sum();
    let total = total.min(100);
    for load in &mut *loads {
        (load.healthy, load.degraded) = (0, 0);
    }
    if total == 0 {
        return;
    }
    let mut left = 100;
    // What whole percents leave over, and whose it is by its fraction.
    let mut fractions: Vec<(u32, bool, usize)> = Vec::new();
    for is_degraded in [false, true] {
        for (index, load) in loads.iter_mut().enumerate() {
            let (able, share) = match is_degraded {
                false => (load.able, &mut load.healthy),
                true => (load.degraded_able, &mut load.degraded),
            };
            *share = (able * 100 / total).min(left);
            left -= *share;
            fractions.push((able * 100 % total, is_degraded, index));
        }
    }
    // The sort is stable: of equal fractions the higher priority's is first.
    fractions.sort_by_key(|(fraction, ..)| std::cmp::Reverse(*fraction));
    for (_, is_degraded, index) in fractions.into_iter().take(left as usize) {
        match is_degraded {
            false => loads[index].healthy += 1,
            true => loads[index].degraded += 1,
        }
    }
}

/// Where all priorities together cannot take all calls, one with too few callable endpoints calls all it has. When every one
/// does, they take calls by how many endpoints they have.
fn panic(census: &[Census], threshold: impl Fn(usize) -> Percent, loads: &mut [Load]) {
    let able: u32 = loads.iter().map(|load| load.able + load.degraded_able).sum();
    if able >= 100 {
        return;
    }
    for (index, (census, load)) in census.iter().zip(&mut *loads).enumerate() {
        let threshold = u64::from(threshold(index).get());
        let Count {
            healthy,
            degraded,
            total,
        } = census.hosts;
        load.panic = threshold > 0 && (total == 0 || (healthy + degraded) * 100 < threshold * total);
    }
    let total: u64 = census.iter().map(|census| census.hosts.total).sum();
    if total == 0 || !loads.iter().all(|load| load.panic) {
        return;
    }
    let mut left = 100;
    for (census, load) in census.iter().zip(&mut *loads) {
        load.healthy = (census.hosts.total * 100 / total) as u32;
        load.degraded = 0;
        left -= load.healthy;
    }
    let first = census.iter().position(|census| census.hosts.total > 0);
    loads[first.expect("their sum is not 0")].healthy += left;
}

/// What a locality weighs for a choice among its siblings, with `callable` of `total` of its endpoints fit for it (Envoy's
/// effective locality weight): in ten-thousandths, so that shares of a small weight do not vanish.
pub fn effective_weight(weight: u32, callable: u64, total: u64, overprovisioning_factor: u32) -> u64 {
    const WHOLE: u64 = 10_000;
    let able = callable.saturating_mul(u64::from(overprovisioning_factor) * 100);
    u64::from(weight) * able.checked_div(total).unwrap_or(0).min(WHOLE)
}
