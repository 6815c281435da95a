//! Which chain takes a connection, by Envoy's order (`FilterChainMatch`): destination port, destination address, server name,
//! transport, application protocol, direct source, source type, source address, source port.
//!
//! Each step keeps those that fit best and there is no way back: a chain for the right port whose other rules fail is not
//! made up for by a chain for every port, only by the default one. So an added rule narrows and never lets more in.

use std::net::IpAddr;

use super::{ChainMatch, ConnectionFacts, FilterChain, Inbound, IpPrefix, SourceType};
use crate::config::Domain;

/// How well one of a chain's rules fits a connection; `None`: not at all.
type Step<'a> = &'a dyn Fn(&ChainMatch) -> Option<usize>;

impl Inbound {
    /// The chain that takes a connection; `None`: it is refused.
    pub fn chain_for(&self, facts: &ConnectionFacts<'_>) -> Option<&FilterChain> {
        let mut left: Vec<&FilterChain> = self.chains.iter().collect();
        let source = facts.source.ip();
        let steps: [Step<'_>; 9] = [
            &|rule| one(rule.port.as_ref(), &facts.destination.port()),
            &|rule| range(&rule.destinations, facts.destination.ip()),
            &|rule| server_name(&rule.server_names, facts.server_name),
            &|rule| one(rule.transport.as_ref(), &facts.transport),
            &|rule| protocol(&rule.protocols, facts.protocols),
            &|rule| range(&rule.direct_sources, source),
            &|rule| source_type(rule.source_type, is_local(facts)),
            &|rule| range(&rule.sources, source),
            &|rule| any(&rule.source_ports, |port| *port == facts.source.port()),
        ];
        for fit in steps {
            let best = left.iter().filter_map(|chain| fit(&chain.matches)).max();
            left.retain(|chain| best.is_some() && fit(&chain.matches) == best);
        }
        left.first().copied().or(self.default.as_ref())
    }
}

impl ChainMatch {
    /// Whether there is a connection that both take for the same reasons, so that nothing says which of them should (Envoy
    /// and gRFC A36 refuse such a listener).
    pub fn overlaps(&self, other: &Self) -> bool {
        self.port == other.port
            && self.transport == other.transport
            && self.source_type == other.source_type
            && share(&self.destinations, &other.destinations)
            && share(&self.server_names, &other.server_names)
            && share(&self.protocols, &other.protocols)
            && share(&self.direct_sources, &other.direct_sources)
            && share(&self.sources, &other.sources)
            && share(&self.source_ports, &other.source_ports)
    }
}

/// Whether two lists, of which an empty one is the rule "any", have a rule in common.
fn share<T: PartialEq>(a: &[T], b: &[T]) -> bool {
    (a.is_empty() && b.is_empty()) || a.iter().any(|rule| b.contains(rule))
}

/// How well a rule of one value fits; a rule that is not there fits, but worse.
fn one<T: PartialEq>(rule: Option<&T>, value: &T) -> Option<usize> {
    match rule {
        None => Some(0),
        Some(wanted) => (wanted == value).then_some(1),
    }
}

fn any<T>(rules: &[T], fits: impl Fn(&T) -> bool) -> Option<usize> {
    match rules {
        [] => Some(0),
        rules => rules.iter().any(fits).then_some(1),
    }
}

/// The narrower the range, the better.
fn range(ranges: &[IpPrefix], address: IpAddr) -> Option<usize> {
    if ranges.is_empty() {
        return Some(0);
    }
    let holding = ranges.iter().filter(|range| range.contains(address));
    holding.map(|range| 1 + usize::from(range.bits())).max()
}

/// An exact name before a suffix, and of suffixes the longest. Server names are compared without case.
fn server_name(rules: &[Domain], name: Option<&str>) -> Option<usize> {
    if rules.is_empty() {
        return Some(0);
    }
    let name = name?.to_ascii_lowercase();
    let fit = |rule: &Domain| match rule {
        Domain::Exact(exact) => (**exact == *name).then_some(usize::MAX),
        Domain::Suffix(suffix) => (name.len() > suffix.len() && name.ends_with(&**suffix)).then_some(suffix.len()),
        // Not server names to Envoy.
        Domain::Prefix(_) | Domain::Any => None,
    };
    rules.iter().filter_map(fit).max()
}

/// The client's order decides.
fn protocol(rules: &[Box<str>], offered: &[&str]) -> Option<usize> {
    if rules.is_empty() {
        return Some(0);
    }
    let place = offered
        .iter()
        .position(|offered| rules.iter().any(|rule| **rule == **offered))?;
    Some(offered.len() - place)
}

fn source_type(rule: SourceType, local: bool) -> Option<usize> {
    match (rule, local) {
        (SourceType::Any, _) => Some(0),
        (SourceType::SameIpOrLoopback, true) | (SourceType::External, false) => Some(1),
        _ => None,
    }
}

fn is_local(facts: &ConnectionFacts<'_>) -> bool {
    let source = facts.source.ip().to_canonical();
    source.is_loopback() || source == facts.destination.ip().to_canonical()
}
