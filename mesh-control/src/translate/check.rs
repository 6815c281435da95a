//! What can be wrong with a rule whether or not a service of this client uses it.

use std::collections::BTreeMap;

use super::{View, gateway, host, route};
use crate::diagnostic::{Code, Severity};
use crate::istio::Meta;

/// Checks every rule that the client sees, and every DestinationRule.
pub(super) fn check_rules(view: &mut View<'_, '_>) {
    let rules: Vec<_> = view.visible_rules().collect();
    let mut owners: BTreeMap<String, &Meta> = BTreeMap::new();
    for rule in rules {
        for name in &rule.spec.hosts {
            let full = host::resolve(name, rule.meta.namespace(), &view.mesh.domain);
            if !view
                .registry
                .services()
                .any(|service| host::fit(&full, &service.host).is_some())
            {
                let message = format!("no service has host {full:?}: the rule takes no request there");
                view.findings
                    .say(&rule.meta, Severity::Warning, Code::NoSuchHost, &name.place, message);
            }
            if let Some(owner) = owners.get(&full) {
                let message = format!("{owner} has rules for {full:?} already; the older document counts");
                view.findings.say(
                    &rule.meta,
                    Severity::Warning,
                    Code::ConflictingHosts,
                    &name.place,
                    message,
                );
            } else {
                owners.insert(full, &rule.meta);
            }
        }
        route::build(view, rule, None);
    }
    gateway::check(view);
    for rule in &view.documents.destination_rules {
        let full = host::resolve(&rule.spec.host, rule.meta.namespace(), &view.mesh.domain);
        if !view
            .registry
            .services()
            .any(|service| host::fit(&full, &service.host).is_some())
        {
            let message = format!("no service has host {full:?}: the rule has no effect");
            view.findings.say(
                &rule.meta,
                Severity::Warning,
                Code::NoSuchHost,
                &rule.spec.host.place,
                message,
            );
        }
    }
}
