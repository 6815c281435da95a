//! Routes and matches that earlier ones leave nothing for, and timeouts that end calls before their tries.

use std::collections::BTreeMap;

use super::MAX_COMPARED;
use crate::diagnostic::{Code, Severity};
use crate::istio::{At, Document, Documents, HttpMatch, HttpRoute, StringMatch, VirtualService};
use crate::translate::Findings;

pub(super) fn find(documents: &Documents, findings: &mut Findings) {
    for rule in &documents.virtual_services {
        hidden(rule, findings);
        for http in &rule.spec.http {
            cut_tries(rule, http, findings);
        }
    }
}

/// Says which matches are covered by one before them; where all of a route's are, that is said of the route instead.
fn hidden(rule: &Document<VirtualService>, findings: &mut Findings) {
    let mut earlier: Vec<&HttpMatch> = Vec::new();
    for http in &rule.spec.http {
        // What comes after a route for everything is found by whoever builds routes.
        if http.matches.is_empty() {
            return;
        }
        let mut covered = Vec::new();
        for one in &http.matches {
            let by = earlier.iter().take(MAX_COMPARED).find(|other| covers(other, one));
            covered.extend(by.map(|by| (one, by.place.line)));
            earlier.push(one);
        }
        let all = covered.len() == http.matches.len();
        if let (true, Some((_, line))) = (all, covered.first()) {
            let message = format!("no request gets here: earlier matches take all of them, the first on line {line}");
            findings.say(&rule.meta, Severity::Warning, Code::Unreachable, &http.place, message);
            continue;
        }
        for (one, line) in covered {
            let message = format!("has no effect: the match on line {line} takes all of its requests");
            findings.say(&rule.meta, Severity::Info, Code::Ineffective, &one.place, message);
        }
    }
}

/// Whether every request that `one` takes was taken by `earlier`: it asks for nothing that `one` does not ask for too.
fn covers(earlier: &HttpMatch, one: &HttpMatch) -> bool {
    let names = |list: &[At<String>]| list.iter().map(|name| name.value.clone()).collect::<Vec<_>>();
    let gateways = earlier.gateways.is_empty() || names(&earlier.gateways) == names(&one.gateways);
    covers_uri(earlier, one)
        && asks_no_more(&earlier.headers, &one.headers)
        && asks_no_more(&earlier.without_headers, &one.without_headers)
        && asks_no_more(&earlier.query_params, &one.query_params)
        && same_or_any(earlier.method.as_ref(), one.method.as_ref())
        && same_or_any(earlier.scheme.as_ref(), one.scheme.as_ref())
        && same_or_any(earlier.authority.as_ref(), one.authority.as_ref())
        && same_or_any(earlier.port.as_ref(), one.port.as_ref())
        && same_or_any(earlier.source_namespace.as_ref(), one.source_namespace.as_ref())
        && gateways
}

fn covers_uri(earlier: &HttpMatch, one: &HttpMatch) -> bool {
    let Some(uri) = &earlier.uri else { return true };
    // A prefix of segments takes less than it seems to, and one without regard to case more: told apart, not compared.
    let alike = (earlier.segments, earlier.ignore_uri_case) == (one.segments, one.ignore_uri_case);
    match (&uri.value, one.uri.as_ref().map(|at| &at.value)) {
        (StringMatch::Prefix(prefix), Some(StringMatch::Prefix(text) | StringMatch::Exact(text)))
            if !earlier.segments && !earlier.ignore_uri_case && !one.ignore_uri_case =>
        {
            text.starts_with(prefix)
        }
        (earlier, Some(one)) => alike && earlier == one,
        (_, None) => false,
    }
}

fn asks_no_more(earlier: &BTreeMap<String, At<StringMatch>>, one: &BTreeMap<String, At<StringMatch>>) -> bool {
    let mut tests = earlier.iter();
    tests.all(|(name, test)| one.get(name).is_some_and(|other| other.value == test.value))
}

fn same_or_any<T: PartialEq>(earlier: Option<&At<T>>, one: Option<&At<T>>) -> bool {
    earlier.is_none_or(|earlier| one.is_some_and(|one| one.value == earlier.value))
}

fn cut_tries(rule: &Document<VirtualService>, http: &HttpRoute, findings: &mut Findings) {
    let (Some(timeout), Some(retries)) = (&http.timeout, &http.retries) else {
        return;
    };
    let (Some(each), Some(attempts)) = (&retries.per_try_timeout, &retries.attempts) else {
        return;
    };
    let tries = attempts.value.saturating_add(1);
    let all = each.value.saturating_mul(tries);
    if attempts.value > 0 && !timeout.is_zero() && timeout.value < all {
        let message = format!(
            "{:?} end a call before its {tries} tries of {:?} each, which take {all:?}",
            timeout.value, each.value
        );
        findings.say(&rule.meta, Severity::Warning, Code::TriesCut, &timeout.place, message);
    }
}
