//! What host names resolved to, for clusters whose hosts are names.
//!
//! An answer is used until a better one comes, like any other configuration: a name server that is down does not take
//! endpoints away. Only a name that never resolved is an error.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// The addresses of one name, the most preferred first: as they were answered (RFC 6724 has sorted them), but those that are
/// known already before new ones. Name servers rotate their answers, and that is no reason to leave an address.
pub(crate) type Addresses = Arc<[IpAddr]>;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Hosts {
    answers: BTreeMap<Arc<str>, Answer>,
    changed: BTreeSet<Arc<str>>,
}

/// What is known of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Its newest addresses.
    Addresses(Addresses),
    /// It never resolved, and why.
    Failed(Arc<str>),
}

impl Hosts {
    pub(super) fn find(&self, host: &str) -> Option<&Answer> {
        self.answers.get(host)
    }

    /// Takes the outcome of a lookup.
    pub(super) fn resolved(&mut self, host: &Arc<str>, outcome: Result<Vec<IpAddr>, Arc<str>>) {
        let answer = match (outcome, self.answers.get(host)) {
            (Ok(addresses), before) => {
                let known: &[IpAddr] = match before {
                    Some(Answer::Addresses(known)) => known,
                    _ => &[],
                };
                let mut rest: HashSet<IpAddr> = addresses.iter().copied().collect();
                let in_order = known.iter().chain(&addresses).copied();
                Answer::Addresses(in_order.filter(|address| rest.remove(address)).collect())
            }
            (Err(_), Some(Answer::Addresses(_))) => return,
            (Err(why), _) => Answer::Failed(why),
        };
        if self.answers.get(host) != Some(&answer) {
            self.answers.insert(Arc::clone(host), answer);
            self.changed.insert(Arc::clone(host));
        }
    }

    pub(super) fn take_changed(&mut self) -> BTreeSet<Arc<str>> {
        std::mem::take(&mut self.changed)
    }

    /// Forgets all names but these.
    pub(super) fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        self.answers.retain(|host, _| wanted(host));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_outlives_later_failures_and_order_is_no_news() {
        let (mut hosts, name): (_, Arc<str>) = (Hosts::default(), "a".into());
        let (one, two): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        hosts.resolved(&name, Err("no such name".into()));
        assert_eq!(hosts.find("a"), Some(&Answer::Failed("no such name".into())));
        assert_eq!(hosts.take_changed().len(), 1);
        hosts.resolved(&name, Ok(vec![two, one, two]));
        assert_eq!(hosts.take_changed().len(), 1);
        hosts.resolved(&name, Ok(vec![one, two]));
        hosts.resolved(&name, Err("the name server is down".into()));
        assert_eq!(
            hosts.find("a"),
            Some(&Answer::Addresses([two, one].into())),
            "as it was answered first"
        );
        assert!(hosts.take_changed().is_empty());
        let three = [10, 0, 0, 3].into();
        hosts.resolved(&name, Ok(vec![three, one]));
        assert_eq!(
            hosts.find("a"),
            Some(&Answer::Addresses([one, three].into())),
            "what is known stays before what is new"
        );
        hosts.retain(|_| false);
        assert_eq!(hosts.find("a"), None);
    }
}
