//! Which virtual host serves an authority: exact before suffix before prefix before `*`, and the longest of each (Envoy
//! `VirtualHost.domains`; gRFC A27).

use crate::config::{Domain, RouteTree, VirtualHost};

/// The virtual host of `authority`, compared without case.
///
/// An authority with a port is compared as it is and without the port, and the better fit wins: Istio's users write both,
/// and gRPC compares with the target as it was given. A tree that ignores ports knows only the comparison without.
pub fn virtual_host<'a>(tree: &'a RouteTree, authority: &str) -> Option<&'a VirtualHost> {
    let authority = authority.to_ascii_lowercase();
    let without_port = without_port(&authority);
    match (tree.ignore_port, without_port) {
        (true, Some(host)) => best(tree, &[Some(host), None]),
        _ => best(tree, &[Some(authority.as_str()), without_port]),
    }
}

/// The host of an authority that has a port.
pub(super) fn without_port(authority: &str) -> Option<&str> {
    let (host, port) = authority.rsplit_once(':')?;
    port.bytes().all(|digit| digit.is_ascii_digit()).then_some(host)
}

fn best<'a>(tree: &'a RouteTree, authorities: &[Option<&str>]) -> Option<&'a VirtualHost> {
    let hosts = tree.virtual_hosts.iter();
    best_of(hosts.map(|host| (&*host.domains, host)), authorities)
}

/// What is said of the domains that fit a canonical authority best, with its port and without, as [`virtual_host`] compares.
pub(crate) fn best_host<'a, T>(hosts: impl Iterator<Item = (&'a [Domain], T)>, authority: &str) -> Option<T> {
    best_of(hosts, &[Some(authority), without_port(authority)])
}

fn best_of<'a, T>(hosts: impl Iterator<Item = (&'a [Domain], T)>, authorities: &[Option<&str>]) -> Option<T> {
    let ranked = hosts.filter_map(|(domains, host)| {
        let ranks = authorities
            .iter()
            .flatten()
            .flat_map(|name| domains.iter().filter_map(|d| rank(d, name)));
        Some((ranks.max()?, host))
    });
    // The first of equals wins: a repeated domain is the later one's fault.
    let mut best: Option<((u8, usize), T)> = None;
    for (rank, host) in ranked {
        if best.as_ref().is_none_or(|(other, _)| rank > *other) {
            best = Some((rank, host));
        }
    }
    best.map(|(_, host)| host)
}

/// How well a domain fits: its kind, then its length. `None`: not at all.
fn rank(domain: &Domain, authority: &str) -> Option<(u8, usize)> {
    match domain {
        Domain::Exact(exact) => (authority == &**exact).then_some((3, exact.len())),
        // The star stands for at least one character.
        Domain::Suffix(suffix) => {
            (authority.len() > suffix.len() && authority.ends_with(&**suffix)).then_some((2, suffix.len()))
        }
        Domain::Prefix(prefix) => {
            (authority.len() > prefix.len() && authority.starts_with(&**prefix)).then_some((1, prefix.len()))
        }
        Domain::Any => Some((0, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served_by(hosts: &[(&str, &[&str])], authority: &str) -> Option<String> {
        let tree = tree(hosts);
        virtual_host(&tree, authority).map(|host| host.name.to_string())
    }

    fn tree(hosts: &[(&str, &[&str])]) -> RouteTree {
        let virtual_hosts = hosts
            .iter()
            .map(|(name, domains)| {
                let domains = domains.iter().map(|d| Domain::parse(d).unwrap()).collect();
                VirtualHost::new(*name, domains, Vec::new())
            })
            .collect();
        RouteTree::new("t", virtual_hosts)
    }

    #[test]
    fn a_tree_that_ignores_ports_compares_without_them_only() {
        let mut tree = tree(&[("any", &["*"]), ("port", &["db:5432"]), ("host", &["db", "[::1]"])]);
        let chosen = |tree: &RouteTree, authority: &str| virtual_host(tree, authority).unwrap().name.to_string();
        assert_eq!(chosen(&tree, "db:5432"), "port");
        tree.ignore_port = true;
        for authority in ["db:5432", "db:1", "db", "[::1]:80", "[::1]"] {
            assert_eq!(chosen(&tree, authority), "host", "{authority}");
        }
        assert_eq!(chosen(&tree, "other:5432"), "any");
    }

    #[test]
    fn precedence() {
        let hosts: &[(&str, &[&str])] = &[
            ("any", &["*"]),
            ("prefix", &["pay.*"]),
            ("suffix", &["*.local"]),
            ("longer", &["*.svc.local"]),
            ("exact", &["pay.svc.local", "db:5432"]),
        ];
        let cases = [
            ("pay.svc.local", "exact"),
            ("PAY.svc.LOCAL", "exact"),
            ("pay.svc.local:8080", "exact"),
            ("x.svc.local", "longer"),
            ("pay.local", "suffix"),
            ("pay.example", "prefix"),
            ("other", "any"),
            ("db:5432", "exact"),
            ("db", "any"),
            (".svc.local", "suffix"),
        ];
        for (authority, expected) in cases {
            assert_eq!(served_by(hosts, authority).as_deref(), Some(expected), "{authority}");
        }
        assert_eq!(served_by(&[("exact", &["a"])], "b"), None);
    }
}
