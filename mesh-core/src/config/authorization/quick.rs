//! Which policies cannot be about a peer, told without looking at them.
//!
//! Most policies of a workload name callers, and nearly all name others than this one. Whom a policy can be about is worked out when the
//! configuration is built: the hashes of the ids that it names, side by side. A request's peer is hashed once, and a policy is looked at
//! only when that hash is among its own, or when it is about whoever. What is left out could not have matched, so this changes no answer.

use std::hash::{Hash, Hasher};

use super::{Principal, PrincipalTest, Rbac, Rule, StringMatch};
use crate::hash::xxh64;

/// See the module. Compares as equal to any other: it says nothing that the policies do not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quick {
    /// For each policy, where its hashes are; an empty range: it is to be looked at whoever the peer is.
    ranges: Box<[(u32, u32)]>,
    hashes: Box<[u64]>,
}

impl Quick {
    pub(super) fn of(rules: &Rbac) -> Self {
        let (mut ranges, mut hashes) = (Vec::with_capacity(rules.policies.len()), Vec::new());
        for policy in &rules.policies {
            let begin = hashes.len();
            let named: Option<Vec<Vec<&str>>> = policy.principals.iter().map(ids).collect();
            hashes.extend(named.into_iter().flatten().flatten().map(hash));
            // Bounded by `Authorization::MAX_NODES`.
            ranges.push((begin as u32, hashes.len() as u32));
        }
        Self {
            ranges: ranges.into(),
            hashes: hashes.into(),
        }
    }

    /// Whether the policy at `index` may be about the peer whose id has this hash; `None`: nobody.
    pub(crate) fn may_match(&self, index: usize, peer: Option<u64>) -> bool {
        let Some(&(begin, end)) = self.ranges.get(index) else {
            return true;
        };
        begin == end || peer.is_some_and(|peer| self.hashes[begin as usize..end as usize].contains(&peer))
    }
}

/// The hash of an id.
pub(crate) fn hash(id: &str) -> u64 {
    xxh64(id.as_bytes(), 0)
}

/// The ids outside of which the rule cannot hold; `None`: it may hold for whomever.
fn ids(rule: &Principal) -> Option<Vec<&str>> {
    match rule {
        Rule::Is(PrincipalTest::Peer(Some(StringMatch::Exact(id)))) => Some(vec![id]),
        Rule::All(rules) => rules.iter().find_map(ids),
        Rule::Any(rules) => {
            let each: Option<Vec<Vec<&str>>> = rules.iter().map(ids).collect();
            // Of none it holds for nobody, which is not worth a case of its own.
            each.map(|each| each.into_iter().flatten().collect::<Vec<_>>())
                .filter(|ids| !ids.is_empty())
        }
        Rule::Is(_) | Rule::Not(_) | Rule::Always => None,
    }
}

impl PartialEq for Quick {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Quick {}

impl Hash for Quick {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}
