//! `VirtualService` to routes, for one port of one service as one client sees it.
//!
//! The rule of a host is the most specific one that the client sees; two rules with the same host are not merged, the older
//! wins (Istio merges only for gateways). A service without a rule, or whose rule has nothing for this client, goes to its
//! own cluster with Istio's default retries and no timeout.

use std::sync::Arc;

use mesh_core::config::{
    ClusterName, HeaderMatch, HeaderTest, InvalidSplit, PathMatch, Pattern, Route, RouteMatch, Split,
    StringMatch as CoreMatch,
};

use super::service::Service;
use super::{Findings, View, cluster, host, retry};
use crate::diagnostic::{Code, Severity};
use crate::istio::{At, Destination, Document, HttpMatch, HttpRoute, Meta, Place, StringMatch, VirtualService};

/// Header names that Istio ignores in a match: they have fields of their own.
const IGNORED_HEADERS: [&str; 4] = ["uri", "scheme", "method", "authority"];

/// The routes of one port of a service.
pub(super) fn routes(view: &mut View<'_, '_>, service: &Service<'_>, port: u32) -> Vec<Arc<Route>> {
    let rule = governing(view, &service.host);
    let routes = rule.map_or_else(Vec::new, |rule| build(view, rule, Some(port)));
    if routes.is_empty() {
        let own = cluster::name(&service.host, port, "");
        return vec![Arc::new(Route::to(Split::all_to(own)))];
    }
    routes
}

/// The rule that applies to a host: by fit, then by how narrowly it was exported, then by age.
fn governing<'d>(view: &View<'d, '_>, service: &str) -> Option<&'d Document<VirtualService>> {
    let candidates = view.visible_rules().enumerate().filter_map(|(age, rule)| {
        let hosts = rule.spec.hosts.iter();
        let patterns = hosts.map(|name| host::resolve(name, rule.meta.namespace(), &view.mesh.domain));
        let fit = patterns.filter_map(|pattern| host::fit(&pattern, service)).min()?;
        Some(((fit, breadth(&rule.spec.export_to), age), rule))
    });
    candidates.min_by_key(|(rank, _)| *rank).map(|(_, rule)| rule)
}

/// Private rules come before those exported to named namespaces, and those before public ones.
fn breadth(export_to: &[At<String>]) -> u8 {
    match export_to {
        [] => 2,
        names if names.iter().any(|name| name.as_str() == "*") => 2,
        names if names.iter().all(|name| name.as_str() == ".") => 0,
        _ => 1,
    }
}

/// Builds every route of a rule for a client that addressed `port`; `None` only checks the rule.
pub(super) fn build(view: &mut View<'_, '_>, rule: &Document<VirtualService>, port: Option<u32>) -> Vec<Arc<Route>> {
    let mut routes = Vec::new();
    let mut taken = false;
    for http in &rule.spec.http {
        if taken {
            let message = "no request gets here: an earlier rule takes all of them";
            view.findings.say(&rule.meta, Severity::Warning, Code::Unreachable, &http.place, message);
            break;
        }
        let matches = applicable(view, &rule.meta, http, port);
        let split = split(view, &rule.meta, http, port);
        let retry = retry::policy(&rule.meta, http.retries.as_ref(), view.findings);
        let Some(split) = split else { continue };
        for (name, matches) in matches {
            taken |= takes_everything(&matches);
            routes.push(Arc::new(Route {
                name: name.into(),
                matches,
                split: split.clone(),
                timeout: retry::timeout(http.timeout.as_ref()),
                retry: retry.clone(),
            }));
        }
    }
    routes
}

fn takes_everything(matches: &RouteMatch) -> bool {
    // Every path begins with a slash.
    matches.headers.is_empty() && matches!(&matches.path, PathMatch::Prefix(prefix) if matches!(&**prefix, "" | "/"))
}

/// The matches of a rule that can concern this client, with their names in logs (Istio: `rule.match`).
fn applicable(view: &mut View<'_, '_>, meta: &Meta, http: &HttpRoute, port: Option<u32>) -> Vec<(String, RouteMatch)> {
    let rule_name = http.name.as_ref().map_or("", |name| name.as_str());
    if http.matches.is_empty() {
        return vec![(rule_name.to_owned(), RouteMatch::any())];
    }
    let client = view.scope.namespace.clone();
    let mut all = Vec::new();
    for one in &http.matches {
        let built = build_match(meta, one, view.findings);
        // These three select clients and ports when the configuration is made; they are no tests of a request.
        let here = one.gateways.is_empty() || one.gateways.iter().any(|name| name.as_str() == "mesh");
        let from = one.source_namespace.as_ref().is_none_or(|name| *name.value == *client);
        let to = one.port.as_ref().is_none_or(|number| port.is_none_or(|port| port == number.value));
        if let Some(matches) = built.filter(|_| here && from && to) {
            let name = one.name.as_ref().map_or_else(|| rule_name.to_owned(), |name| format!("{rule_name}.{}", **name));
            all.push((name, matches));
        }
    }
    all
}

fn build_match(meta: &Meta, one: &HttpMatch, findings: &mut Findings) -> Option<RouteMatch> {
    let mut matches = RouteMatch::any();
    if let Some(uri) = &one.uri {
        matches.path = match &uri.value {
            StringMatch::Exact(text) => PathMatch::Exact(text.as_str().into()),
            StringMatch::Prefix(text) => PathMatch::Prefix(text.as_str().into()),
            StringMatch::Regex(text) => PathMatch::Regex(pattern(meta, text, &uri.place, findings)?),
            StringMatch::Present => return None,
        };
    }
    let tests = one.headers.iter().map(|test| (test, false));
    for ((name, test), invert) in tests.chain(one.without_headers.iter().map(|test| (test, true))) {
        if IGNORED_HEADERS.contains(&name.as_str()) {
            let message = "Istio ignores this key in headers; it has a field of its own";
            findings.say(meta, Severity::Warning, Code::NotServed, &test.place, message);
            continue;
        }
        let Ok(header) = name.parse() else {
            let message = format!("{name:?} is not the name of a header");
            findings.say(meta, Severity::Error, Code::Schema, &test.place, message);
            return None;
        };
        matches.headers.push(HeaderMatch {
            name: header,
            test: header_test(meta, test, findings)?,
            invert,
        });
    }
    let selects = one.port.is_some() || one.source_namespace.is_some() || !one.gateways.is_empty();
    if one.uri.is_none() && matches.headers.is_empty() && !selects {
        let message = "a match without a condition is invalid; leave match out to take every request";
        findings.say(meta, Severity::Error, Code::Schema, &one.place, message);
        return None;
    }
    Some(matches)
}

fn header_test(meta: &Meta, test: &At<StringMatch>, findings: &mut Findings) -> Option<HeaderTest> {
    Some(HeaderTest::Value(match &test.value {
        StringMatch::Present => return Some(HeaderTest::Present),
        StringMatch::Exact(text) => CoreMatch::Exact(text.as_str().into()),
        StringMatch::Prefix(text) => CoreMatch::Prefix(text.as_str().into()),
        StringMatch::Regex(text) => CoreMatch::Regex(pattern(meta, text, &test.place, findings)?),
    }))
}

/// Compiled here, so that a pattern that no client can compile is never published: one kills whole client processes.
fn pattern(meta: &Meta, text: &str, place: &Place, findings: &mut Findings) -> Option<Pattern> {
    match Pattern::new(text) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            findings.say(meta, Severity::Error, Code::Schema, place, error.to_string());
            None
        }
    }
}

fn split(view: &mut View<'_, '_>, meta: &Meta, http: &HttpRoute, port: Option<u32>) -> Option<Split> {
    let single = http.route.len() == 1;
    let mut shares = Vec::new();
    let mut whole = true;
    for destination in &http.route {
        let weight = destination.weight.as_ref().map_or(0, |at| at.value);
        if single && destination.weight.as_ref().is_some_and(|at| at.value != 100) {
            let message = "a single destination always gets every request, whatever its weight";
            view.findings.say(meta, Severity::Warning, Code::UselessWeight, &destination.place, message);
        }
        let weight = if single { 1 } else { weight };
        match target(view, meta, destination, port, weight > 0) {
            Some(cluster) => shares.push((cluster, weight)),
            None => whole = false,
        }
    }
    if !whole || shares.is_empty() {
        return None;
    }
    match Split::weighted(shares) {
        Ok(split) => Some(split),
        Err(error) => {
            let place = match (error, http.route.first().and_then(|first| first.weight.as_ref())) {
                (InvalidSplit::SumIsZero, Some(weight)) => &weight.place,
                _ => &http.place,
            };
            view.findings.say(meta, Severity::Error, Code::Schema, place, error.to_string());
            None
        }
    }
}

/// The cluster that a destination names.
fn target(
    view: &mut View<'_, '_>,
    meta: &Meta,
    destination: &Destination,
    addressed: Option<u32>,
    has_share: bool,
) -> Option<ClusterName> {
    let full = host::resolve(&destination.host, meta.namespace(), &view.mesh.domain);
    let Some(service) = view.registry.get(&full) else {
        let message = match view.registry.why_unserved(&full) {
            Some(why) => format!("host {full:?} is defined, but {why}"),
            None => format!("no service has host {full:?}"),
        };
        view.findings.say(meta, Severity::Error, Code::NotFound, &destination.host.place, message);
        return None;
    };
    let port = target_port(view.findings, meta, destination, service, addressed)?;
    let subset = destination.subset.as_ref();
    let name = cluster::name(&full, port, subset.map_or("", |name| name.as_str()));
    if !service.is_visible(&view.scope.namespace) {
        view.missing.insert(name.clone(), format!("service {full:?} is not exported to {:?}", view.scope.namespace));
        return Some(name);
    }
    let Some(endpoints) = view.clusters.get(&name).map(|cluster| cluster.endpoints.len()) else {
        let wanted = subset.map_or("", |name| name.as_str());
        let place = subset.map_or(&destination.host.place, |name| &name.place);
        let message = format!("no DestinationRule defines subset {wanted:?} of {full:?}");
        view.findings.say(meta, Severity::Error, Code::NotFound, place, message);
        return None;
    };
    if endpoints == 0 && has_share {
        let message = format!("{name} has no endpoint: its share of the calls fails");
        view.findings.say(meta, Severity::Warning, Code::NoEndpoints, &destination.place, message);
    }
    Some(name)
}

/// The port that is written; else the only one of the service; else the one the caller addressed.
fn target_port(
    findings: &mut Findings,
    meta: &Meta,
    destination: &Destination,
    service: &Service<'_>,
    addressed: Option<u32>,
) -> Option<u32> {
    if let Some(written) = &destination.port {
        if service.port(written.value).is_none() {
            let message = format!("{:?} has no port {}", service.host, written.value);
            findings.say(meta, Severity::Error, Code::NotFound, &written.place, message);
            return None;
        }
        return Some(written.value);
    }
    if let [only] = service.ports {
        return Some(*only.number);
    }
    // A rule that is only being checked has no addressed port; any port of the service will do.
    let port = addressed.or_else(|| service.lowest_port()).filter(|port| service.port(*port).is_some());
    if port.is_none() {
        let message = format!("{:?} has several ports and none is the addressed one: name it", service.host);
        findings.say(meta, Severity::Error, Code::PortRequired, &destination.host.place, message);
    }
    port
}
