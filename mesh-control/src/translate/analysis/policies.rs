//! Policies that name namespaces nobody is in, and issuers whose keys are fetched from within.

use std::collections::BTreeSet;

use crate::diagnostic::{Code, Severity};
use crate::istio::{Attribute, Documents};
use crate::translate::{Findings, Mesh, namespaces};

pub(super) fn find(documents: &Documents, mesh: &Mesh, findings: &mut Findings) {
    let known = namespaces(documents, mesh);
    for policy in &documents.authorization_policies {
        let sources = policy.spec.rules.iter().flat_map(|rule| &rule.from).flatten();
        for tested in sources.filter(|tested| tested.attribute == Attribute::Namespace) {
            for name in tested.values.iter().chain(&tested.not_values) {
                if !is_named(name, &known) {
                    let message = format!("no document is in a namespace {:?}", **name);
                    findings.say(
                        &policy.meta,
                        Severity::Info,
                        Code::NoSuchNamespace,
                        &name.place,
                        message,
                    );
                }
            }
        }
    }
    for document in &documents.request_authentications {
        let fetched = document.spec.rules.iter().filter_map(|rule| rule.fetched.as_ref());
        for keys in fetched.filter(|keys| keys.source.uri().is_private()) {
            let message = format!("the control plane fetches {} from within its own network", *keys.source);
            let place = &keys.source.place;
            findings.say(&document.meta, Severity::Warning, Code::KeysFromInside, place, message);
        }
    }
}

/// Whether a name, or a pattern with `*` at one end, is that of a namespace.
fn is_named(pattern: &str, known: &BTreeSet<Box<str>>) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => known.iter().any(|name| name.ends_with(end)),
        (_, Some(beginning)) => known.iter().any(|name| name.starts_with(beginning)),
        _ => known.contains(pattern),
    }
}
