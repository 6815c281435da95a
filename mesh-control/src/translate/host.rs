//! Host names as Istio reads them.
//!
//! A short name belongs to the namespace of the *rule* it stands in, not of the service or the client; a name with a dot is
//! taken as it is; `*` stands for the leftmost labels only. Comparison is without case, so everything here is lower case.

use std::cmp::Reverse;

/// The full name of `name` in a document of `namespace`.
pub(super) fn resolve(name: &str, namespace: &str, domain: &str) -> String {
    let name = name.to_ascii_lowercase();
    if name.contains('.') || name == "*" {
        return name;
    }
    format!("{name}.{namespace}.svc.{domain}")
}

/// The host of a service of a cluster.
pub(super) fn of_cluster(name: &str, namespace: &str, domain: &str) -> String {
    format!("{name}.{namespace}.svc.{domain}").to_ascii_lowercase()
}

/// Every name by which a client in `client_namespace` may call `host`, the full one first (Istio's proxyless listeners:
/// `name`, `name.ns`, `name.ns.svc` and the full name).
pub(super) fn aliases(host: &str, client_namespace: &str, domain: &str) -> Vec<String> {
    let mut names = vec![host.to_owned()];
    let Some(short) = host.strip_suffix(domain).and_then(|rest| rest.strip_suffix(".svc.")) else {
        return names;
    };
    let Some((name, namespace)) = short.split_once('.') else {
        return names;
    };
    if name.is_empty() || namespace.is_empty() || namespace.contains('.') {
        return names;
    }
    names.push(format!("{short}.svc"));
    names.push(short.to_owned());
    if namespace == client_namespace {
        names.push(name.to_owned());
    }
    names
}

/// How well a rule's host covers a service's; the smaller, the better. `None`: not at all.
pub(super) type Fit = (u8, Reverse<usize>);

/// How well `pattern`, resolved, covers `host`: exact before the longest wildcard before `*`.
pub(super) fn fit(pattern: &str, host: &str) -> Option<Fit> {
    match pattern.strip_prefix('*') {
        None => (pattern == host).then_some((0, Reverse(0))),
        Some(suffix) => (host.len() > suffix.len() && host.ends_with(suffix)).then_some((1, Reverse(suffix.len()))),
    }
}

/// Whether `text` is a host that can be called: labels of letters, digits, `-` and `_`.
pub(super) fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty() && label.len() <= 63 && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// Whether a document in `owner` that is exported to `export_to` is seen from `client`. Nothing written means everybody
/// (Istio's mesh default), `.` the owner's own namespace, `*` all.
pub(super) fn is_visible<'a>(export_to: impl ExactSizeIterator<Item = &'a str>, owner: &str, client: &str) -> bool {
    if export_to.len() == 0 {
        return true;
    }
    let mut namespaces = export_to;
    namespaces.any(|namespace| match namespace {
        "*" => true,
        "." => owner == client,
        // Also the client's, when no document names its namespace.
        "" => false,
        name => name == client,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_of_the_rules_namespace() {
        let cases = [
            ("payment", "payment.shop.svc.cluster.local"),
            ("payment.other", "payment.other"),
            ("API.example.com", "api.example.com"),
            ("*", "*"),
            ("*.example.com", "*.example.com"),
        ];
        for (name, expected) in cases {
            assert_eq!(resolve(name, "shop", "cluster.local"), expected);
        }
    }

    #[test]
    fn aliases_depend_on_the_clients_namespace() {
        let names = |host: &str, client: &str| aliases(host, client, "cluster.local").join(" ");
        let full = "pay.shop.svc.cluster.local";
        assert_eq!(
            names(full, "shop"),
            "pay.shop.svc.cluster.local pay.shop.svc pay.shop pay"
        );
        assert_eq!(names(full, "other"), "pay.shop.svc.cluster.local pay.shop.svc pay.shop");
        assert_eq!(names("api.example.com", "shop"), "api.example.com");
        assert_eq!(names("a.b.c.svc.cluster.local", "c"), "a.b.c.svc.cluster.local");
        assert_eq!(names("svc.cluster.local", "c"), "svc.cluster.local");
    }

    #[test]
    fn the_better_fit_is_smaller() {
        let host = "pay.shop.svc.cluster.local";
        let exact = fit(host, host).unwrap();
        let long = fit("*.shop.svc.cluster.local", host).unwrap();
        let short = fit("*.cluster.local", host).unwrap();
        let any = fit("*", host).unwrap();
        assert!(exact < long && long < short && short < any);
        assert_eq!(fit("*.other", host), None);
        assert_eq!(fit("pay", host), None);
    }

    #[test]
    fn visibility() {
        let seen = |export_to: &[&str], client| is_visible(export_to.iter().copied(), "owner", client);
        assert!(seen(&[], "x") && seen(&["*"], "x") && seen(&["."], "owner") && seen(&["a", "x"], "x"));
        assert!(!seen(&["."], "x") && !seen(&["a"], "x") && !seen(&["~"], "x") && !seen(&[""], ""));
    }
}
