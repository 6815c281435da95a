//! `AuthorizationPolicy` documents to the [`Authorization`] of one workload.
//!
//! Istio's order is that of the filters: CUSTOM before DENY before ALLOW, and AUDIT, which decides nothing, before the latter two. Each rule becomes a policy
//! that is called as Istio calls it, so that a refusal can be traced to its line. Dry runs (`istio.io/dry-run`) are looked at and
//! enforce nothing.
//!
//! Where this is stricter than Istio: a principal may end or begin with `*` only at the border of a segment, so that `ns/a*` is not
//! taken for a namespace; a path or a host that no canonical request has is refused, since a DENY of it would never hold; and where it
//! keeps somebody out, a host without a port means that host by any port.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::config::{Authorization, ExtAuthz, FilterRules, Rbac, RbacAction, RbacFilter, RbacPolicy};

use super::service::Registry;
use super::{ClientScope, Findings, Mesh, tokens};
use crate::diagnostic::{Code, Severity};
use crate::istio::{AuthorizationPolicy, Document, Documents, Meta, PolicyAction, Selector};
use custom::{Providers, Wanted};
use rule::Reader;

mod custom;
mod rule;
#[cfg(test)]
mod tests;

/// The annotation of a policy that is only looked at (Istio).
const DRY_RUN: &str = "istio.io/dry-run";

/// Every document as policies, read once for all workloads.
pub(super) struct Policies<'a> {
    documents: &'a Documents,
    mesh: &'a Mesh,
    providers: Providers,
    read: Vec<(&'a Document<AuthorizationPolicy>, Vec<RbacPolicy>)>,
}

/// Whether a document means a workload: it is of its namespace or of the mesh, and selects it.
pub(super) fn means(
    (meta, selector): (&Meta, Option<&Selector>),
    namespace: &str,
    labels: &BTreeMap<String, String>,
    mesh: &Mesh,
) -> bool {
    let there = [namespace, &*mesh.root_namespace].contains(&meta.namespace());
    there && selector.is_none_or(|selector| selector.selects(labels))
}

impl<'a> Policies<'a> {
    /// Reads every document, whether or not a workload is meant by it.
    pub(super) fn new(documents: &'a Documents, mesh: &'a Mesh, findings: &mut Findings) -> Self {
        let mut read = Vec::new();
        for document in &documents.authorization_policies {
            read.push((document, policies(document, mesh, findings)));
            if is_dry(&document.meta).is_none() {
                let message = format!("the annotation {DRY_RUN} is neither true nor false");
                let meta = &document.meta;
                findings.say(meta, Severity::Error, Code::Schema, &meta.place, message);
            }
            if document.spec.action == PolicyAction::Deny && document.spec.rules.is_empty() {
                let message = "a DENY policy without rules denies nothing";
                let meta = &document.meta;
                findings.say(meta, Severity::Warning, Code::NoEffect, &meta.place, message);
            }
        }
        Self {
            documents,
            mesh,
            providers: Providers::default(),
            read,
        }
    }

    /// With the authorizers that the mesh's configuration names, as far as there are services for them.
    pub(super) fn with_providers(self, scope: &ClientScope, registry: &Registry<'_>, findings: &mut Findings) -> Self {
        let providers = Providers::new(self.documents, self.mesh, (scope, registry), findings);
        Self { providers, ..self }
    }

    /// Warns of policies that deny by who somebody is, where a workload takes plaintext: who comes so is nobody, and is not denied (Istio).
    pub(super) fn warn_of_plaintext(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        findings: &mut Findings,
    ) {
        for (document, _) in &self.read {
            let (meta, spec) = (&document.meta, &document.spec);
            let own = meta.namespace();
            let meant = (own == namespace || own == &*self.mesh.root_namespace)
                && spec.selector.as_ref().is_none_or(|selector| selector.selects(labels));
            let sources = spec
                .rules
                .iter()
                .flat_map(|rule| rule.from.iter().flatten().chain(&rule.when));
            let named = sources.filter(|tested| tested.attribute.is_identity() && !tested.values.is_empty());
            let mut named = named.flat_map(|tested| &tested.values);
            if let (true, PolicyAction::Deny, Some(first)) = (meant, spec.action, named.next()) {
                let message = "denies by who somebody is, and a workload that it means takes plaintext, by which nobody is anybody: who comes \
                               so is not denied. Make the workload STRICT, or allow by name instead";
                findings.say(meta, Severity::Warning, Code::NoEffect, &first.place, message);
            }
        }
    }

    /// The namespace whose documents mean every namespace.
    pub(super) fn root(&self) -> &str {
        &self.mesh.root_namespace
    }

    /// What a workload's requests must pass: by the policies of the root namespace and of its own that select it.
    pub(super) fn of_workload(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        findings: &mut Findings,
    ) -> Authorization {
        let mut custom: BTreeMap<&str, Wanted<'_>> = BTreeMap::new();
        let (mut audit, mut deny, mut allow) = (Both::default(), Both::default(), Both::default());
        let mut last = None;
        for (document, policies) in &self.read {
            if !means(
                (&document.meta, document.spec.selector.as_ref()),
                namespace,
                labels,
                self.mesh,
            ) {
                continue;
            }
            last = Some(&document.meta);
            let dry = is_dry(&document.meta) == Some(true);
            if let Some(provider) = &document.spec.provider {
                let policies = policies.iter().map(|policy| custom::named(policy, provider));
                match dry {
                    // Nobody is asked for one that is only looked at: it is reported.
                    true => audit.shadow.get_or_insert_default().extend(policies),
                    false => {
                        let new = || Wanted {
                            policies: Vec::new(),
                            meta: &document.meta,
                            named: provider,
                        };
                        custom.entry(provider).or_insert_with(new).policies.extend(policies);
                    }
                }
                continue;
            }
            let both = match document.spec.action {
                PolicyAction::Audit => &mut audit,
                PolicyAction::Deny => &mut deny,
                PolicyAction::Allow => &mut allow,
                // One without a provider was refused when it was read.
                PolicyAction::Custom => continue,
            };
            let side = if dry { &mut both.shadow } else { &mut both.enforced };
            side.get_or_insert_default().extend(policies.iter().cloned());
        }
        let filters = [
            ("rbac-audit", RbacAction::Log, audit),
            ("rbac-deny", RbacAction::Deny, deny),
            ("rbac-allow", RbacAction::Allow, allow),
        ];
        let filters = filters
            .into_iter()
            .filter_map(|(name, action, both)| both.filter(name, action));
        let (checks, denials) = self.providers.resolve(custom, findings);
        let filters = denials.into_iter().chain(filters).collect();
        let authorization = Authorization::new(Vec::new(), filters, Vec::new());
        match (
            authorization.and_then(|authorization| authorization.with_checks(checks)),
            last,
        ) {
            (Ok(authorization), _) => {
                let tokens = tokens::of_workload(self.documents, self.mesh, (namespace, labels), findings);
                authorization.with_tokens(tokens)
            }
            (Err(error), last) => {
                if let Some(meta) = last {
                    let message = format!("the policies of a workload in namespace {namespace:?}: {error}");
                    findings.say(meta, Severity::Error, Code::Schema, &meta.place, message);
                }
                nothing()
            }
        }
    }
}

/// What passes both: where two workloads are at one address, or nobody knows which of them is meant.
pub(super) fn both(a: &Arc<Authorization>, b: &Arc<Authorization>) -> Arc<Authorization> {
    if a == b {
        return Arc::clone(a);
    }
    let mut filters: Vec<RbacFilter> = a.request().to_vec();
    for filter in b.request().iter().filter(|filter| !a.request().contains(filter)) {
        let same = |name: &str| filters.iter().any(|other| *other.name == *name);
        let names = (2..).map(|number| format!("{}-{number}", filter.name));
        let mut names = std::iter::once(String::from(&*filter.name)).chain(names);
        let name = names.find(|name| !same(name)).expect("there is always another name");
        filters.push(RbacFilter {
            name: name.into(),
            ..filter.clone()
        });
    }
    let mut checks = a.checks().to_vec();
    for check in b.checks().iter().filter(|check| !a.checks().contains(check)) {
        let same = |name: &str| checks.iter().any(|other| *other.name == *name);
        let names = (2..).map(|number| format!("{}-{number}", check.name));
        let mut names = std::iter::once(String::from(&*check.name)).chain(names);
        let name = names.find(|name| !same(name)).expect("there is always another name");
        checks.push(ExtAuthz {
            name: name.into(),
            ..check.clone()
        });
    }
    let both = Authorization::new(Vec::new(), filters, Vec::new());
    let both = both
        .and_then(|both| both.with_checks(checks))
        .unwrap_or_else(|_| nothing());
    Arc::new(both.with_tokens(tokens::both(a.tokens(), b.tokens())))
}

/// What nothing passes: what is left when more is asked than can be.
fn nothing() -> Authorization {
    let nobody = Rbac {
        action: RbacAction::Allow,
        policies: Vec::new(),
    };
    let filter = RbacFilter {
        name: "rbac-nothing".into(),
        rules: FilterRules {
            enforced: Some(nobody),
            shadow: None,
        },
    };
    Authorization::new(Vec::new(), vec![filter], Vec::new()).expect("one filter is not too many")
}

/// The policies of one action; absent: no document has it, which for ALLOW is not the same as none matching.
#[derive(Default)]
struct Both {
    enforced: Option<Vec<RbacPolicy>>,
    shadow: Option<Vec<RbacPolicy>>,
}

impl Both {
    fn filter(self, name: &str, action: RbacAction) -> Option<RbacFilter> {
        // By name, as they come back from a wire that has them in a map.
        let rules = |policies: Option<Vec<RbacPolicy>>| {
            policies.map(|mut policies| {
                policies.sort_by(|a, b| a.name.cmp(&b.name));
                Rbac { action, policies }
            })
        };
        let rules = FilterRules {
            enforced: rules(self.enforced),
            shadow: rules(self.shadow),
        };
        (rules != FilterRules::default()).then(|| RbacFilter {
            name: name.into(),
            rules,
        })
    }
}

/// Whether a document is a dry run, in any spelling that Go reads (Istio); `None`: it says so in none.
fn is_dry(meta: &Meta) -> Option<bool> {
    match meta.annotations.get(DRY_RUN).map(String::as_str) {
        None | Some("0" | "f" | "F" | "FALSE" | "false" | "False") => Some(false),
        Some("1" | "t" | "T" | "TRUE" | "true" | "True") => Some(true),
        Some(_) => None,
    }
}

/// A policy for each rule.
fn policies(document: &Document<AuthorizationPolicy>, mesh: &Mesh, findings: &mut Findings) -> Vec<RbacPolicy> {
    let denies = document.spec.action != PolicyAction::Allow;
    let mut reader = Reader::new(&document.meta, mesh, denies, findings);
    let rules = document.spec.rules.iter().enumerate();
    rules.map(|(index, rule)| reader.policy(index, rule)).collect()
}
