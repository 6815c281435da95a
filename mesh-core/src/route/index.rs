//! Virtual hosts by authority, for who asks on every request.
//!
//! [`virtual_host`](super::virtual_host) reads every domain of a configuration, which is right for a target that is looked up
//! once. A configuration that serves a whole port is asked by each request's authority: there the domains are in tables, and
//! what is looked at does not grow with the number of hosts, only with the number of different lengths of wildcards. An
//! authority in lower case is looked up without an allocation.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::host::without_port;
use crate::config::{Domain, RouteTree};
use crate::entropy::mix;

/// The virtual hosts of a [`RouteTree`], by their domains. It answers as [`virtual_host`](super::virtual_host) does.
#[derive(Clone, Debug, Default)]
pub struct HostIndex {
    exact: Table,
    /// By length, the longest first.
    suffixes: Vec<(usize, Table)>,
    prefixes: Vec<(usize, Table)>,
    any: Option<usize>,
    ignore_port: bool,
}

/// The place of the first host that has a domain.
type Table = HashMap<Box<str>, usize, BuildHasherDefault<Folded>>;

impl HostIndex {
    /// Indexes the hosts of `tree`.
    pub fn new(tree: &RouteTree) -> Self {
        let mut index = Self {
            ignore_port: tree.ignore_port,
            ..Self::default()
        };
        for (place, host) in tree.virtual_hosts.iter().enumerate() {
            for domain in &host.domains {
                index.add(domain, place);
            }
        }
        for tables in [&mut index.suffixes, &mut index.prefixes] {
            tables.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
        }
        index
    }

    fn add(&mut self, domain: &Domain, place: usize) {
        let (tables, text) = match domain {
            Domain::Exact(text) => {
                self.exact.entry(text.clone()).or_insert(place);
                return;
            }
            Domain::Any => {
                self.any.get_or_insert(place);
                return;
            }
            Domain::Suffix(text) => (&mut self.suffixes, text),
            Domain::Prefix(text) => (&mut self.prefixes, text),
        };
        let at = match tables.iter().position(|(length, _)| *length == text.len()) {
            Some(at) => at,
            None => {
                tables.push((text.len(), Table::default()));
                tables.len() - 1
            }
        };
        tables[at].1.entry(text.clone()).or_insert(place);
    }

    /// The place of the host that serves `authority`, in the tree's list.
    pub fn find(&self, authority: &str) -> Option<usize> {
        // Most authorities are written as the configuration has them: nothing else is found out of those. Domains are in lower
        // case, so that one in another is not mistaken here.
        if !self.ignore_port
            && let Some(place) = self.exact.get(authority)
        {
            return Some(*place);
        }
        self.find_otherwise(authority)
    }

    fn find_otherwise(&self, authority: &str) -> Option<usize> {
        let authority: Cow<'_, str> = if authority.bytes().any(|byte| byte.is_ascii_uppercase()) {
            authority.to_ascii_lowercase().into()
        } else {
            authority.into()
        };
        let (whole, bare) = match (self.ignore_port, without_port(&authority)) {
            (true, Some(bare)) => (bare, None),
            (_, bare) => (&*authority, bare),
        };
        // The longer of two exact domains is the one with the port.
        let exact = |name: &str| self.exact.get(name).copied();
        exact(whole)
            .or_else(|| exact(bare?))
            .or_else(|| {
                wildcard(&self.suffixes, whole, bare, |name, length| {
                    name.get(name.len() - length..)
                })
            })
            .or_else(|| wildcard(&self.prefixes, whole, bare, |name, length| name.get(..length)))
            .or(self.any)
    }
}

/// The first host of the longest domain that `part` of either name is. The star stands for at least one character.
fn wildcard(
    tables: &[(usize, Table)],
    whole: &str,
    bare: Option<&str>,
    part: impl Fn(&str, usize) -> Option<&str>,
) -> Option<usize> {
    tables.iter().find_map(|(length, table)| {
        let of = |name: &str| {
            let part = if name.len() > *length {
                part(name, *length)
            } else {
                None
            };
            table.get(part?).copied()
        };
        let found = [of(whole), bare.and_then(of)];
        // Of two domains of one length the host that stands first is meant.
        found.into_iter().flatten().min()
    })
}

/// Eight bytes at a time. Good enough and a tenth of the standard one, which keeps strangers from filling a table with names that
/// collide: here nobody but the configuration puts anything in.
#[derive(Clone, Copy, Debug, Default)]
struct Folded(u64);

impl Hasher for Folded {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.0 = mix(self.0 ^ u64::from_le_bytes(*word));
        }
        // Its length stands above what is left, so that zeros at the end make a difference.
        let last = rest
            .iter()
            .fold(rest.len() as u64, |last, byte| last << 8 | u64::from(*byte));
        self.0 = mix(self.0 ^ last);
    }

    /// Ends a text, whose length [`write`](Self::write) has told already.
    fn write_u8(&mut self, _end: u8) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::VirtualHost;
    use crate::route::virtual_host;

    fn naive(tree: &RouteTree, authority: &str) -> Option<usize> {
        let found = virtual_host(tree, authority)?;
        tree.virtual_hosts.iter().position(|host| std::ptr::eq(host, found))
    }

    proptest! {
        /// Few letters, so that authorities meet domains often.
        #[test]
        fn the_index_answers_as_the_list_does(
            hosts in prop::collection::vec(prop::collection::vec(
                prop_oneof!["[ab.]{1,4}(:[12])?", "\\*[ab.]{1,3}(:[12])?", "[ab.:]{1,3}\\*", Just("*".to_owned())], 0..4), 0..6),
            authorities in prop::collection::vec("[aAb.\u{e9}]{0,4}(:[12]{0,2})?", 1..20),
            ignore_port in any::<bool>(),
        ) {
            let hosts = hosts.into_iter().map(|domains| {
                let domains = domains.iter().map(|text| Domain::parse(text).unwrap()).collect();
                VirtualHost::new("h", domains, Vec::new())
            });
            let tree = RouteTree { ignore_port, ..RouteTree::new("t", hosts.collect()) };
            let index = HostIndex::new(&tree);
            for authority in authorities {
                prop_assert_eq!(index.find(&authority), naive(&tree, &authority), "{} in {:?}", authority, tree);
            }
        }
    }
}
