//! Which services a client's `Sidecar` lets it see.
//!
//! Its namespace's own, or else that of the root namespace; without either it sees everything. A rule that it sees brings along the services
//! that it sends requests to (Istio), or its calls would fail for what they are not told of.

use std::collections::BTreeSet;

use super::{ClientScope, Findings, Mesh, host};
use crate::diagnostic::{Code, Severity};
use crate::istio::{Document, Documents, Import, Sidecar, VirtualService};

/// What one client sees.
#[derive(Debug, Default)]
pub(super) struct Imports<'a> {
    /// `None`: everything.
    listed: Option<&'a [Import]>,
    client: Box<str>,
    domain: Box<str>,
    /// Hosts that rules it sees send requests to.
    brought: BTreeSet<String>,
}

impl<'a> Imports<'a> {
    pub(super) fn new(documents: &'a Documents, mesh: &Mesh, scope: &ClientScope, findings: &mut Findings) -> Self {
        let own = default_of(documents, &scope.namespace, findings);
        let sidecar = own.or_else(|| default_of(documents, &mesh.root_namespace, findings));
        let mut imports = Self {
            listed: sidecar.and_then(|sidecar| sidecar.spec.egress.as_deref()),
            client: scope.namespace.clone(),
            domain: mesh.domain.clone(),
            brought: BTreeSet::new(),
        };
        if imports.listed.is_some() {
            let rules = documents.virtual_services.iter().filter(|rule| imports.has_rule(rule));
            imports.brought = rules.flat_map(|rule| destinations(rule, mesh)).collect();
        }
        imports
    }

    /// Whether the client sees a service.
    pub(super) fn has(&self, host: &str, namespace: &str) -> bool {
        self.lists(host, namespace) || self.brought.contains(host)
    }

    /// Whether it sees a rule: one of its hosts is listed, in the namespace of the rule.
    pub(super) fn has_rule(&self, rule: &Document<VirtualService>) -> bool {
        let namespace = rule.meta.namespace();
        let mut hosts = rule.spec.hosts.iter();
        hosts.any(|name| {
            let full = host::resolve(name, namespace, &self.domain);
            self.lists(&full, namespace)
        })
    }

    fn lists(&self, host: &str, namespace: &str) -> bool {
        let Some(listed) = self.listed else { return true };
        listed.iter().any(|import| {
            let there = match &*import.namespace {
                "*" => true,
                "." => namespace == &*self.client,
                "~" => false,
                name => name == namespace,
            };
            // A wildcard rule is seen by whoever sees some of what it covers.
            there && (host::fit(&import.host, host).is_some() || host::fit(host, &import.host).is_some())
        })
    }
}

/// The Sidecar of a namespace that is for all of it: the oldest, as of other documents.
fn default_of<'a>(documents: &'a Documents, namespace: &str, findings: &mut Findings) -> Option<&'a Document<Sidecar>> {
    let all = documents.sidecars.iter();
    let mut own = all.filter(|one| one.meta.namespace() == namespace && one.spec.selector.is_none());
    let first = own.next()?;
    for other in own {
        let message = format!(
            "{} is for the whole namespace already; the older document counts",
            first.meta
        );
        findings.say(
            &other.meta,
            Severity::Warning,
            Code::Duplicate,
            &other.meta.place,
            message,
        );
    }
    Some(first)
}

fn destinations(rule: &Document<VirtualService>, mesh: &Mesh) -> Vec<String> {
    let all = rule.spec.http.iter().flat_map(|http| {
        let mirrors = http.mirrors.iter().map(|mirror| &mirror.destination);
        http.route.iter().chain(mirrors)
    });
    all.map(|one| host::resolve(&one.host, rule.meta.namespace(), &mesh.domain))
        .collect()
}

#[cfg(test)]
mod tests;
