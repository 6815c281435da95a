//! `VirtualService` to routes, for one port of one service as one client sees it.
//!
//! The rule of a host is the most specific one that the client sees; two rules with the same host are not merged, the older
//! wins (Istio merges only for gateways). A service without a rule, or whose rule has nothing for this client, goes to its
//! own cluster with Istio's default retries and no timeout.

use std::sync::Arc;

use mesh_core::config::{Action, HashPolicy, PathMatch, Route, RouteMatch, Split, TimeLimits};

use super::service::Service;
use super::{Origin, View, cluster, effects, gateway, host, matches, retry};
use crate::diagnostic::{Code, Severity};
use crate::istio::{At, Document, HttpRoute, VirtualService};

/// The routes of one port of a service.
pub(super) fn routes(view: &mut View<'_, '_>, service: &Service<'_>, port: u32) -> Vec<Arc<Route>> {
    let rule = governing(view, &service.host);
    if let Some((routes, places)) = gateway::routes(view, service, port) {
        if let Some(rule) = rule {
            let message = format!(
                "routes of the Gateway API for {:?} count, and not this rule",
                service.host
            );
            let place = rule.spec.hosts.first().map_or(&rule.meta.place, |host| &host.place);
            view.findings
                .say(&rule.meta, Severity::Warning, Code::ConflictingHosts, place, message);
        }
        let own = cluster::name(&service.host, port, "");
        if let Some(origins) = view.origins.as_deref_mut() {
            origins.routes.insert(own.as_str().into(), places);
        }
        // What none of them takes is answered 404: the service's own routing is replaced.
        return routes;
    }
    let (routes, mut places) = rule.map_or_else(Built::default, |rule| build(view, rule, Some(port)));
    let own = cluster::name(&service.host, port, "");
    if let Some(origins) = view.origins.as_deref_mut() {
        if routes.is_empty() {
            places = vec![vec![Origin::new(service.meta, &service.meta.place)]];
        }
        origins.routes.insert(own.as_str().into(), places);
    }
    if routes.is_empty() {
        return vec![Arc::new(hashed(view, Route::to(Split::all_to(own))))];
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

/// Routes, and where each was written, if that is asked for.
pub(super) type Built = (Vec<Arc<Route>>, Vec<Vec<Origin>>);

/// Builds every route of a rule for a client that addressed `port`; `None` only checks the rule.
pub(super) fn build(view: &mut View<'_, '_>, rule: &Document<VirtualService>, port: Option<u32>) -> Built {
    let (mut routes, mut places) = (Vec::new(), Vec::new());
    let mut taken = false;
    for http in &rule.spec.http {
        if taken {
            let message = "no request gets here: an earlier rule takes all of them";
            view.findings
                .say(&rule.meta, Severity::Warning, Code::Unreachable, &http.place, message);
            break;
        }
        let matches = matches::applicable(view, &rule.meta, http, port);
        let action = effects::action(view, &rule.meta, http, port);
        let retry = retry::policy(&rule.meta, http.retries.as_ref(), view.findings);
        let headers = effects::headers(&rule.meta, http, view.findings);
        let fault = effects::fault(&rule.meta, http, view.findings);
        let Some(action) = action else { continue };
        for (name, matches, place) in matches {
            taken |= takes_everything(&matches);
            let sent = Route::doing(action.clone());
            let route = Route {
                name: name.into(),
                matches: rewritable(matches, http),
                timeout: retry::timeout(http.timeout.as_ref()),
                limits: TimeLimits::default(),
                retry: if sent.forward().is_some() {
                    retry.clone()
                } else {
                    sent.retry
                },
                headers: headers.clone(),
                filter_overrides: fault.clone(),
                ..sent
            };
            routes.push(Arc::new(hashed(view, route)));
            if view.origins.is_some() {
                places.push(vec![Origin::new(&rule.meta, &place)]);
            }
        }
    }
    (routes, places)
}

/// Without a match of the path it is the slash that a rewrite takes the place of (Istio): every path begins with one.
fn rewritable(mut matches: RouteMatch, http: &HttpRoute) -> RouteMatch {
    if http.rewrite.is_some() && matches.path == PathMatch::Prefix("".into()) {
        matches.path = PathMatch::Prefix("/".into());
    }
    matches
}

/// Has a route's calls hashed by what the rules of its destinations say. Tries of such calls do not look for other hosts: that
/// would end what the hash is for (Istio).
pub(super) fn hashed(view: &View<'_, '_>, mut route: Route) -> Route {
    let Action::Forward(forward) = &mut route.action else {
        return route;
    };
    let mut policies: Vec<HashPolicy> = Vec::new();
    for share in forward.split.clusters() {
        let policy = view.hashes.get(&share.cluster);
        policies.extend(policy.filter(|policy| !policies.contains(policy)).cloned());
    }
    if !policies.is_empty() {
        forward.hash = policies.into();
        route.retry.hosts.other_hosts = false;
    }
    route
}

fn takes_everything(matches: &RouteMatch) -> bool {
    // Every path begins with a slash.
    let every_path = matches!(&matches.path, PathMatch::Prefix(prefix) if matches!(&**prefix, "" | "/"));
    let any = RouteMatch::any();
    every_path
        && *matches
            == RouteMatch {
                path: matches.path.clone(),
                ignore_case: matches.ignore_case,
                ..any
            }
}
