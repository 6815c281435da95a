//! `HTTPRoute` and `GRPCRoute` of services to routes, for one port of one service as one client sees it (Gateway API, GAMMA).
//!
//! A route in the service's own namespace is for all its clients (a producer's); one in another is for the clients of that namespace alone (a
//! consumer's), and there it comes before the producer's. What asks for more is tried first, whatever the order of the text: the rules of all
//! documents are in one order. Where there is one, what no rule takes is answered 404, and a rule that leads nowhere 500.

use std::cmp::Reverse;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use mesh_core::config::{
    Action, ClusterName, DirectResponse, Mirror, PathMatch, PathRewrite, RedirectPath, Rewrite, Route, RouteMatch,
    Split, Substitution, WeightedCluster,
};

use super::route::{self, Built};
use super::service::Service;
use super::{Origin, View, cluster, effects, host, matches, retry, split};
use crate::diagnostic::{Code, Severity};
use crate::istio::{Backend, Destination, Document, GatewayRoute, GatewayRule, HttpMatch, Meta, StringMatch};

/// The routes of a port of a service; `None`: no document is for it.
pub(super) fn routes(view: &mut View<'_, '_>, service: &Service<'_>, port: u32) -> Option<Built> {
    let attached = attached(view, service, port);
    if attached.is_empty() {
        return None;
    }
    let mut found: Vec<(Rank, Arc<Route>, Origin)> = Vec::new();
    for document in attached {
        for rule in &document.spec.rules {
            for one in &rule.http.matches {
                let Some(matches) = matches::build_match(&document.meta, one, view.findings) else {
                    continue;
                };
                if let Some(route) = build(view, &document.meta, rule, matches, port) {
                    found.push((rank(one), Arc::new(route), Origin::new(&document.meta, &one.place)));
                }
            }
        }
    }
    // Between equals the older document comes first, and in it the earlier rule.
    found.sort_by_key(|(rank, ..)| *rank);
    Some(
        found
            .into_iter()
            .map(|(_, route, origin)| (route, vec![origin]))
            .unzip(),
    )
}

/// Says which documents are for services that are not there.
pub(super) fn check(view: &mut View<'_, '_>) {
    for document in &view.documents.gateway_routes {
        for parent in &document.spec.parents {
            let namespace = parent
                .namespace
                .as_ref()
                .map_or_else(|| document.meta.namespace(), |name| name.as_str());
            let host = host::of_cluster(&parent.name, namespace, &view.mesh.domain);
            if view.registry.get(&host).is_none() {
                let message = format!("no service has host {host:?}: the route takes no request there");
                let (meta, place) = (&document.meta, &parent.name.place);
                view.findings
                    .say(meta, Severity::Warning, Code::NoSuchHost, place, message);
            }
        }
    }
}

/// The documents that are for a port of a service and this client, oldest first.
fn attached<'d>(view: &View<'d, '_>, service: &Service<'_>, port: u32) -> Vec<&'d Document<GatewayRoute>> {
    let is_for = |document: &&Document<GatewayRoute>| {
        let mut parents = document.spec.parents.iter();
        parents.any(|parent| {
            let namespace = parent
                .namespace
                .as_ref()
                .map_or_else(|| document.meta.namespace(), |name| name.as_str());
            let host = host::of_cluster(&parent.name, namespace, &view.mesh.domain);
            host == service.host && parent.port.as_ref().is_none_or(|own| own.value == port)
        })
    };
    let all: Vec<_> = view.documents.gateway_routes.iter().filter(is_for).collect();
    let of = |namespace: &str| {
        let own = all.iter().filter(|document| document.meta.namespace() == namespace);
        own.copied().collect::<Vec<_>>()
    };
    match of(&view.scope.namespace) {
        consumers if !consumers.is_empty() => consumers,
        _ => of(service.meta.namespace()),
    }
}

/// How much a match asks for; the smaller, the more: by the kind of its path, its length, a method, headers, parameters.
type Rank = (
    Reverse<u8>,
    Reverse<usize>,
    Reverse<bool>,
    Reverse<usize>,
    Reverse<usize>,
);

fn rank(one: &HttpMatch) -> Rank {
    let (kind, length) = match one.uri.as_ref().map(|uri| &uri.value) {
        Some(StringMatch::Exact(text)) => (3, text.len()),
        // Everything: it is tried last, whatever a pattern says.
        Some(StringMatch::Prefix(text)) if text == "/" => (0, 1),
        Some(StringMatch::Prefix(text)) => (2, text.len()),
        Some(StringMatch::Regex(text)) => (1, text.len()),
        Some(StringMatch::Present) | None => (0, 0),
    };
    (
        Reverse(kind),
        Reverse(length),
        Reverse(one.method.is_some()),
        Reverse(one.headers.len()),
        Reverse(one.query_params.len()),
    )
}

fn build(view: &mut View<'_, '_>, meta: &Meta, rule: &GatewayRule, matches: RouteMatch, port: u32) -> Option<Route> {
    let http = &rule.http;
    let mut action = match &http.redirect {
        Some(_) => effects::action(view, meta, http, Some(port))?,
        None => match shares(view, meta, rule, port) {
            Some(split) => {
                let mirrors = mirrors(view, meta, rule, port);
                effects::forwarded(view, meta, http, split, mirrors)?
            }
            None => Action::Respond(DirectResponse {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                body: Bytes::new(),
            }),
        },
    };
    match &mut action {
        Action::Forward(forward) => {
            if let Some(rewrite) = &mut forward.rewrite {
                by_segments(view, meta, rule, rewrite, &matches)?;
            }
        }
        Action::Redirect(redirect) => {
            if let Some(RedirectPath::Rewritten(PathRewrite::Prefix(new))) = &mut redirect.path
                && matches.path == PathMatch::Prefix("/".into())
            {
                *new = format!("{new}/").into();
            }
        }
        Action::Respond(_) | Action::Unserved(_) => {}
    }
    let sent = Route::doing(action);
    let retries = retry::policy(meta, http.retries.as_ref(), view.findings);
    let route = Route {
        name: http.name.as_ref().map_or("", |name| name.as_str()).into(),
        matches,
        timeout: retry::timeout(http.timeout.as_ref()),
        retry: if sent.forward().is_some() { retries } else { sent.retry },
        headers: effects::headers(meta, http, view.findings),
        ..sent
    };
    Some(route::hashed(view, route))
}

/// A prefix that is replaced is one of segments: what is left of the path begins with a slash, and once.
fn by_segments(
    view: &mut View<'_, '_>,
    meta: &Meta,
    rule: &GatewayRule,
    rewrite: &mut Rewrite,
    matches: &RouteMatch,
) -> Option<()> {
    let Some(PathRewrite::Prefix(new)) = &rewrite.path else {
        return Some(());
    };
    let new = new.trim_end_matches('/');
    let made = match &matches.path {
        PathMatch::Prefix(prefix) if &**prefix == "/" => Ok(PathRewrite::Prefix(format!("{new}/").into())),
        PathMatch::Segments(prefix) if new.is_empty() => {
            let pattern = format!("^{}/?", crate::istio::escaped(prefix));
            Substitution::new(&pattern, "/")
                .map(PathRewrite::Regex)
                .map_err(|error| error.to_string())
        }
        PathMatch::Segments(_) => Ok(PathRewrite::Prefix(new.into())),
        _ => Err("replacePrefixMatch needs a match by PathPrefix".to_owned()),
    };
    match made {
        Ok(path) => {
            rewrite.path = Some(path);
            Some(())
        }
        Err(why) => {
            let place = rule
                .http
                .rewrite
                .as_ref()
                .map_or(&rule.http.place, |rewrite| &rewrite.place);
            view.findings.say(meta, Severity::Error, Code::Schema, place, why);
            None
        }
    }
}

/// What the requests are divided among; `None`: nothing.
fn shares(view: &mut View<'_, '_>, meta: &Meta, rule: &GatewayRule, port: u32) -> Option<Split> {
    let mut shares = Vec::new();
    for (backend, destination) in rule.backends.iter().zip(&rule.http.route) {
        let weight = destination.weight.as_ref().map_or(1, |weight| weight.value);
        let (headers, host) = effects::of_share(meta, destination.headers.as_ref(), view.findings);
        let cluster = backend_cluster(view, meta, (backend, destination), port, weight > 0);
        shares.push(WeightedCluster {
            headers,
            host,
            ..WeightedCluster::new(cluster, weight)
        });
    }
    match Split::of(shares) {
        Ok(split) => Some(split),
        Err(_) => {
            let message = "sends its requests nowhere: they are answered 500";
            let place = &rule.http.place;
            view.findings
                .say(meta, Severity::Warning, Code::NoEndpoints, place, message);
            None
        }
    }
}

fn mirrors(view: &mut View<'_, '_>, meta: &Meta, rule: &GatewayRule, port: u32) -> Vec<Mirror> {
    let mut mirrors = Vec::new();
    for (backend, mirror) in rule.mirrors.iter().zip(&rule.http.mirrors) {
        let cluster = backend_cluster(view, meta, (backend, &mirror.destination), port, mirror.share > 0);
        mirrors.extend(effects::mirror(cluster, mirror.share));
    }
    mirrors
}

/// The cluster of a destination, which may be one that is not there: its share of the calls fails.
fn backend_cluster(
    view: &mut View<'_, '_>,
    meta: &Meta,
    (backend, destination): (&Backend, &Destination),
    addressed: u32,
    has_share: bool,
) -> ClusterName {
    let namespace = backend
        .namespace
        .as_ref()
        .map_or_else(|| meta.namespace(), |name| name.as_str());
    let full = host::of_cluster(&backend.name, namespace, &view.mesh.domain);
    let port = destination.port.as_ref().map(|port| port.value);
    let service = view.registry.get(&full);
    let why = match service {
        None => Some(match view.registry.why_unserved(&full) {
            Some(why) => format!("host {full:?} is defined, but {why}"),
            None => format!("no service has host {full:?}"),
        }),
        Some(service) if port.is_some_and(|port| service.port(port).is_none()) => {
            Some(format!("{full:?} has no port {}", port.unwrap_or_default()))
        }
        Some(service) if port.is_none() && service.ports.len() > 1 && service.port(addressed).is_none() => {
            Some(format!("{full:?} has several ports: name one"))
        }
        Some(_) if namespace != meta.namespace() && !is_granted(view, meta, namespace, &backend.name) => Some(format!(
            "no ReferenceGrant in namespace {namespace:?} lets a {} of namespace {:?} name {:?}",
            meta.kind,
            meta.namespace(),
            *backend.name
        )),
        Some(_) => None,
    };
    if let Some(why) = why {
        let message = format!("{why}: its share of the calls fails");
        let place = &backend.name.place;
        view.findings
            .say(meta, Severity::Warning, Code::NotFound, place, message);
        // Not the name of what is there: that one may be called by others.
        let name: ClusterName = format!("invalid|{}|{}|{full}", port.unwrap_or(addressed), meta.namespace()).into();
        view.missing.insert(name.clone(), why);
        return name;
    }
    let resolved = Destination {
        host: crate::istio::At {
            value: full.clone(),
            place: destination.host.place.clone(),
        },
        ..destination.clone()
    };
    let found = split::target(view, meta, &resolved, Some(addressed), has_share);
    found.unwrap_or_else(|| cluster::name(&full, port.unwrap_or(addressed), ""))
}

fn is_granted(view: &View<'_, '_>, meta: &Meta, namespace: &str, name: &str) -> bool {
    let grants = view.documents.reference_grants.iter();
    let mut grants = grants.filter(|grant| grant.meta.namespace() == namespace);
    grants.any(|grant| {
        let mut from = grant.spec.from.iter();
        let mut to = grant.spec.to.iter();
        from.any(|(kind, from)| **kind == *meta.kind && **from == *meta.namespace())
            && to.any(|to| to.as_ref().is_none_or(|to| **to == *name))
    })
}

#[cfg(test)]
mod tests;
