//! What part of the traffic each endpoint of a priority gets.

use mesh_core::config::Weight;

use super::groups::Member;
use crate::decode::Fault;

/// How finely shares are kept when localities are weighted otherwise than by their endpoints: to a thousandth.
const SHARE_STEPS: u64 = 1000;

/// A locality that takes part: its members and what it weighs against its siblings.
pub(super) struct Group<T> {
    pub(super) members: Vec<T>,
    /// Sum of the members' weights.
    pub(super) sum: u64,
    pub(super) weight: u64,
}

/// Gives each member of one priority its share: the locality's weight, divided by the members' own.
pub(super) fn weigh<T: Member>(groups: Vec<Group<T>>, all: &mut Vec<T>) -> Result<(), Fault> {
    let total: u64 = groups.iter().map(|group| group.weight).sum();
    if total > u64::from(u32::MAX) {
        return Err(Fault::new(
            "endpoints",
            "locality weights sum to more than 4294967295 in one priority",
        ));
    }
    let as_written = groups.len() == 1 || groups.iter().all(|group| group.weight == group.sum);
    let steps = (u64::from(u32::MAX) / total.max(1)).clamp(1, SHARE_STEPS);
    for group in groups {
        let share = |own: Weight| {
            let share = u128::from(group.weight * steps) * u128::from(own.0) / u128::from(group.sum.max(1));
            Weight(u32::try_from(share).unwrap_or(u32::MAX).max(1))
        };
        for mut member in group.members {
            if !as_written {
                let own = *member.weight();
                *member.weight() = share(own);
            }
            all.push(member);
        }
    }
    Ok(())
}
