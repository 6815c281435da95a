//! Targets to ports: one route configuration per port, for clients that listen on ports and not for names.
//!
//! A gRPC client dials a target and gets the routes of that target alone. An Envoy gets every service of a port in one
//! configuration and tells them apart by the request's authority, so the trees of all targets `HOST:PORT` are merged:
//!
//! - A target's own name, with and without the port, leads to the virtual host that a gRPC client of that target would
//!   come to. Nothing else may take it.
//! - What else the virtual hosts serve (longer names, wildcards) comes after, each also with the port: the longest form of
//!   a virtual host before its shorter ones, and of equals the tree whose name sorts first. Envoy refuses a domain that
//!   stands twice, so the first has it and the others go without.
//! - `*` is left out: one service would take what is meant for every other on its port.
//!
//! A target without a port cannot be bound and is left out. `translate` names each target of a service with its port too.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::Snapshot;
use mesh_core::config::{
    CallFilter, Domain, FilterOverride, HeaderEdits, HeaderRules, Override, RouteTree, VirtualHost,
};
use mesh_core::route::virtual_host;

/// The merged routes of each port. A tree is named by its port, and its virtual hosts by their tree and place in it.
pub(crate) fn by_port(snapshot: &Snapshot) -> BTreeMap<u16, RouteTree> {
    let mut ports: BTreeMap<u16, BTreeMap<&str, &Arc<RouteTree>>> = BTreeMap::new();
    for (target, tree) in snapshot.targets().iter() {
        if let (Some((host, port)), Ok(tree)) = (host_and_port(target), tree) {
            ports.entry(port).or_default().insert(host, tree);
        }
    }
    ports
        .into_iter()
        .map(|(port, targets)| (port, merge(port, &targets)))
        .collect()
}

/// `HOST:PORT`, where an IPv6 host stands in brackets.
fn host_and_port(target: &str) -> Option<(&str, u16)> {
    let (host, port) = target.rsplit_once(':')?;
    let plain = !host.is_empty() && !host.contains(':');
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let number: u16 = port.parse().ok().filter(|port| *port != 0)?;
    // `+80` and `080` are numbers too, and would be a second target of the same name.
    let canonical = number.to_string() == port;
    (canonical && (plain || bracketed)).then_some((host, number))
}

/// One virtual host's wish for a domain. The least gets it.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Claim<'a> {
    /// A target's own name is the first form of all.
    form: usize,
    tree: &'a str,
    index: usize,
    domain: Text,
}

/// A domain as Envoy writes it; longer ones sort first.
type Text = (Reverse<usize>, String);

fn text(domain: String) -> Text {
    (Reverse(domain.len()), domain)
}

fn merge(port: u16, targets: &BTreeMap<&str, &Arc<RouteTree>>) -> RouteTree {
    let trees: BTreeMap<&str, &Arc<RouteTree>> = targets.values().map(|tree| (&*tree.name, *tree)).collect();
    let mut claims: Vec<Claim<'_>> = Vec::new();
    for (host, tree) in targets {
        claims.extend(own_names(host, port, tree));
    }
    for tree in trees.values() {
        claims.extend(other_names(port, tree));
    }
    claims.sort_unstable();
    let mut owners: BTreeMap<Text, (&str, usize)> = BTreeMap::new();
    for claim in claims {
        owners.entry(claim.domain).or_insert((claim.tree, claim.index));
    }
    let mut hosts: BTreeMap<(&str, usize), Vec<Domain>> = BTreeMap::new();
    for ((_, domain), owner) in owners {
        if let Ok(domain) = Domain::parse(&domain) {
            hosts.entry(owner).or_default().push(domain);
        }
    }
    let host = |((tree, index), domains): ((&str, usize), Vec<Domain>)| {
        let name = format!("{tree}/{index}");
        let tree = trees.get(tree)?;
        let host = tree.virtual_hosts.get(index)?;
        Some(VirtualHost {
            headers: header_rules(tree, host),
            filter_overrides: overrides(tree, host),
            ..VirtualHost::new(name, domains, host.routes.clone())
        })
    };
    let mut merged = RouteTree::new(port.to_string(), hosts.into_iter().filter_map(host).collect());
    // One listener has one word for all of them: that of the first, whose name is the least.
    merged.telemetry = trees
        .values()
        .next()
        .map(|tree| tree.telemetry.clone())
        .unwrap_or_default();
    merged.closest_rules_last = trees.values().all(|tree| tree.closest_rules_last);
    for filter in trees.values().flat_map(|tree| &tree.filters) {
        if !merged.filters.iter().any(|known| known.name == filter.name) {
            merged
                .filters
                .push(CallFilter::new(filter.name.clone(), filter.what.idle()));
        }
    }
    merged
}

/// What stands in a whole configuration stands in each of its virtual hosts here: the configuration is shared with others.
fn header_rules(tree: &RouteTree, host: &VirtualHost) -> Option<Arc<HeaderRules>> {
    let (Some(of_tree), Some(of_host)) = (&tree.headers, &host.headers) else {
        return tree.headers.clone().or_else(|| host.headers.clone());
    };
    let (first, second) = match tree.closest_rules_last {
        true => (of_tree, of_host),
        false => (of_host, of_tree),
    };
    let join = |first: &HeaderEdits, second: &HeaderEdits| HeaderEdits {
        remove: [&first.remove[..], &second.remove].concat(),
        add: [&first.add[..], &second.add].concat(),
    };
    let rules = HeaderRules {
        request: join(&first.request, &second.request),
        response: join(&first.response, &second.response),
    };
    rules.shared()
}

/// The same of filters: those of a shared listener do nothing by themselves.
fn overrides(tree: &RouteTree, host: &VirtualHost) -> Vec<FilterOverride> {
    let of = |filter: &CallFilter| {
        let said = host
            .filter_overrides
            .iter()
            .chain(&tree.filter_overrides)
            .find(|one| one.filter == filter.name);
        let what = match said.map(|one| &one.what) {
            Some(Override::Enabled) => Override::With(filter.what.clone()),
            Some(other) => other.clone(),
            None if filter.disabled => Override::Disabled,
            None if filter.what.is_empty() => return None,
            None => Override::With(filter.what.clone()),
        };
        Some(FilterOverride {
            filter: filter.name.clone(),
            what,
        })
    };
    let mut said: Vec<_> = tree.filters.iter().filter_map(of).collect();
    said.sort_unstable_by(|a, b| a.filter.cmp(&b.filter));
    said
}

fn own_names<'a>(host: &str, port: u16, tree: &'a RouteTree) -> Vec<Claim<'a>> {
    let host = host.to_ascii_lowercase();
    let claim = |name: String| {
        let chosen = virtual_host(tree, &name)?;
        let index = tree.virtual_hosts.iter().position(|one| std::ptr::eq(one, chosen))?;
        Some(Claim {
            form: 0,
            tree: &tree.name,
            index,
            domain: text(name),
        })
    };
    [format!("{host}:{port}"), host].into_iter().filter_map(claim).collect()
}

fn other_names(port: u16, tree: &RouteTree) -> Vec<Claim<'_>> {
    let mut claims = Vec::new();
    for (index, host) in tree.virtual_hosts.iter().enumerate() {
        let mut domains: Vec<Text> = host.domains.iter().map(|domain| text(domain.to_string())).collect();
        domains.sort_unstable();
        for (form, (_, domain)) in domains.into_iter().enumerate() {
            let with_port = (!domain.ends_with('*') && !has_port(&domain)).then(|| format!("{domain}:{port}"));
            let written = (domain != "*").then_some(domain);
            for domain in with_port.into_iter().chain(written) {
                claims.push(Claim {
                    form: form + 1,
                    tree: &tree.name,
                    index,
                    domain: text(domain),
                });
            }
        }
    }
    claims
}

fn has_port(domain: &str) -> bool {
    let port = domain.rsplit_once(':').map(|(_, port)| port);
    port.is_some_and(|port| !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit()))
}
