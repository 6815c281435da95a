//! `RequestAuthentication` documents to what a workload's requests must show.
//!
//! All documents that mean a workload hold together: their rules are one list. A token of any of them is good, and none at all is, too
//! (Istio); it is for an `AuthorizationPolicy` to ask for one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_core::config::{JwtProvider, JwtRequirement, JwtRule, JwtRules, RouteMatch};

use super::{Findings, Mesh, authorization};
use crate::diagnostic::{Code, Severity};
use crate::istio::Documents;
use crate::jwks::MAX_KEY_SOURCES;

/// Claims that are words with spaces between wherever they are (RFC 8693; Istio).
const SPACE_DELIMITED: [&str; 2] = ["scope", "permission"];

/// Whether what is to be fetched may be, and is not too much.
pub(super) fn check_sources(documents: &Documents, mesh: &Mesh, findings: &mut Findings) {
    let mut sources = BTreeSet::new();
    for document in &documents.request_authentications {
        for fetched in document.spec.rules.iter().filter_map(|rule| rule.fetched.as_ref()) {
            let uri = fetched.source.uri();
            let mut refuse = |code, message: String| {
                findings.say(&document.meta, Severity::Error, code, &fetched.source.place, message);
            };
            if !(uri.is_secure() || uri.is_loopback() || mesh.plaintext_jwks) {
                let message = format!(
                    "{uri}: keys come over https, or from loopback: whoever changes them on the way signs tokens"
                );
                refuse(Code::Refused, message);
            }
            sources.insert(&*fetched.source);
            if sources.len() > MAX_KEY_SOURCES {
                refuse(
                    Code::Schema,
                    format!("keys are fetched from more than {MAX_KEY_SOURCES} sources"),
                );
                return;
            }
        }
    }
}

/// What a workload's requests must show; `None`: no document says anything.
pub(super) fn of_workload(
    documents: &Documents,
    mesh: &Mesh,
    (namespace, labels): (&str, &BTreeMap<String, String>),
    findings: &mut Findings,
) -> Option<Arc<JwtRules>> {
    let meant = documents.request_authentications.iter().filter(|document| {
        let selector = document.spec.selector.as_ref();
        authorization::means((&document.meta, selector), namespace, labels, mesh)
    });
    let mut providers: Vec<JwtProvider> = Vec::new();
    for document in meant {
        for rule in &document.spec.rules {
            if providers.len() == JwtRules::MAX_PROVIDERS {
                let message = format!(
                    "a workload in namespace {namespace:?} believes more than {} issuers",
                    JwtRules::MAX_PROVIDERS
                );
                findings.say(
                    &document.meta,
                    Severity::Error,
                    Code::Schema,
                    &document.meta.place,
                    message,
                );
                break;
            }
            // In the order of the names, as they come back from a wire that has them in a map.
            providers.push(provider(format!("origins-{:02}", providers.len()), &rule.provider));
        }
    }
    rules(providers)
}

/// Both workloads' issuers: where two are at one address, or nobody knows which of them is meant.
pub(super) fn both(a: Option<&Arc<JwtRules>>, b: Option<&Arc<JwtRules>>) -> Option<Arc<JwtRules>> {
    match (a, b) {
        (Some(a), Some(b)) if a != b => {
            // Only whom both believe: one that only one of them trusts speaks for nobody here.
            let is_believed = |one: &&JwtProvider| {
                let same = |other: &JwtProvider| (&other.issuer, &other.keys) == (&one.issuer, &one.keys);
                b.providers.iter().any(same)
            };
            let shared: Vec<JwtProvider> = a.providers.iter().filter(is_believed).cloned().collect();
            // Nobody's tokens are good then, and one that is shown is refused.
            rules(shared).or_else(|| rules(vec![nobody()]))
        }
        (Some(one), _) | (None, Some(one)) => Some(Arc::clone(one)),
        (None, None) => None,
    }
}

fn rules(providers: Vec<JwtProvider>) -> Option<Arc<JwtRules>> {
    if providers.is_empty() {
        return None;
    }
    let any = (0..providers.len()).map(|index| JwtRequirement::Provider(index, Vec::new()));
    let requires = JwtRequirement::Any(any.chain([JwtRequirement::AllowMissing]).collect());
    let everything = JwtRule {
        matches: RouteMatch::any(),
        requires: Some(requires),
    };
    Some(Arc::new(JwtRules {
        providers,
        rules: vec![everything],
    }))
}

fn provider(name: String, written: &JwtProvider) -> JwtProvider {
    let always = SPACE_DELIMITED.into_iter().map(Box::from);
    let more = written.space_delimited.iter().cloned();
    JwtProvider {
        name: name.into(),
        space_delimited: always.chain(more).collect(),
        ..written.clone()
    }
}

/// Somebody who has no key.
fn nobody() -> JwtProvider {
    JwtProvider {
        name: "origins-none".into(),
        issuer: "https://nobody.invalid/".into(),
        audiences: Vec::new(),
        keys: Default::default(),
        places: Default::default(),
        forward: false,
        payload_header: None,
        claim_headers: Vec::new(),
        space_delimited: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
