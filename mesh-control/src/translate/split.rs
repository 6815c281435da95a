//! The weighted `route` of a rule to a split among clusters: which service, which port, which subset, and is it there.

use mesh_core::config::{ClusterName, InvalidSplit, Split, WeightedCluster};

use super::service::Service;
use super::{View, cluster, effects, host};
use crate::diagnostic::{Code, Severity};
use crate::istio::{Destination, HttpRoute, Meta, Place};

/// The shares of a rule, for a client that addressed `port`; `None` when one of them is wrong.
pub(super) fn split(view: &mut View<'_, '_>, meta: &Meta, http: &HttpRoute, port: Option<u32>) -> Option<Split> {
    let single = http.route.len() == 1;
    let mut shares = Vec::new();
    let mut whole = true;
    for destination in &http.route {
        let weight = destination.weight.as_ref().map_or(0, |at| at.value);
        if single && destination.weight.as_ref().is_some_and(|at| at.value != 100) {
            let message = "a single destination always gets every request, whatever its weight";
            view.findings.say(
                meta,
                Severity::Warning,
                Code::UselessWeight,
                &destination.place,
                message,
            );
        }
        let weight = if single { 1 } else { weight };
        let (headers, host) = effects::of_share(meta, destination.headers.as_ref(), view.findings);
        match target(view, meta, destination, port, weight > 0) {
            Some(cluster) => shares.push(WeightedCluster {
                headers,
                host,
                ..WeightedCluster::new(cluster, weight)
            }),
            None => whole = false,
        }
    }
    if !whole || shares.is_empty() {
        return None;
    }
    match Split::of(shares) {
        Ok(split) => Some(split),
        Err(error) => {
            let place = match (error, http.route.first().and_then(|first| first.weight.as_ref())) {
                (InvalidSplit::SumIsZero, Some(weight)) => &weight.place,
                _ => &http.place,
            };
            view.findings
                .say(meta, Severity::Error, Code::Schema, place, error.to_string());
            None
        }
    }
}

/// The cluster that a destination names.
pub(super) fn target(
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
        view.findings
            .say(meta, Severity::Error, Code::NotFound, &destination.host.place, message);
        return None;
    };
    let port = target_port(view, meta, destination, service, addressed)?;
    let subset = destination.subset.as_ref();
    let name = cluster::name(&full, port, subset.map_or("", |name| name.as_str()));
    if !service.is_visible(&view.scope.namespace) {
        view.missing.insert(
            name.clone(),
            match service.is_imported {
                true => format!("service {full:?} is not exported to {}", view.scope),
                false => format!("no Sidecar lets {} see service {full:?}", view.scope),
            },
        );
        return Some(name);
    }
    let Some(endpoints) = view.clusters.get(&name).map(|cluster| cluster.endpoints.len()) else {
        let (place, why) = unseen(view, meta, destination, service, port)?;
        let message = format!("{why}: its calls there fail");
        view.findings
            .say(meta, Severity::Warning, Code::NotFound, place, message);
        view.missing.insert(name.clone(), why);
        return Some(name);
    };
    if endpoints == 0 && has_share && !service.awaits {
        let message = format!("{name} has no endpoint: its share of the calls fails");
        view.findings
            .say(meta, Severity::Warning, Code::NoEndpoints, &destination.place, message);
    }
    Some(name)
}

/// Why this client has no cluster that a rule names. Nobody has it: a mistake. Others do: a matter of this client's namespace
/// alone, whose calls fail, and no reason to keep the others from their configuration.
fn unseen<'r>(
    view: &mut View<'_, '_>,
    meta: &Meta,
    destination: &'r Destination,
    service: &Service<'_>,
    port: u32,
) -> Option<(&'r Place, String)> {
    let (host, scope) = (&service.host, view.scope);
    if let Some(written) = destination.port.as_ref().filter(|_| service.port(port).is_none()) {
        return Some((
            &written.place,
            format!("{host:?} as {scope} sees it has no port {port}"),
        ));
    }
    let subset = destination.subset.as_ref();
    let wanted = subset.map_or("", |name| name.as_str());
    let place = subset.map_or(&destination.host.place, |name| &name.place);
    if cluster::is_subset_anywhere(service, wanted, view.documents, view.mesh) {
        let why = format!("no DestinationRule that {scope} goes by defines subset {wanted:?} of {host:?}");
        return Some((place, why));
    }
    let message = format!("no DestinationRule defines subset {wanted:?} of {host:?}");
    view.findings.say(meta, Severity::Error, Code::NotFound, place, message);
    None
}

/// The port that is written; else the only one of the service; else the one the caller addressed.
fn target_port(
    view: &mut View<'_, '_>,
    meta: &Meta,
    destination: &Destination,
    service: &Service<'_>,
    addressed: Option<u32>,
) -> Option<u32> {
    if let Some(written) = &destination.port {
        if !view.registry.is_port_anywhere(&service.host, written.value) {
            let message = format!("{:?} has no port {}", service.host, written.value);
            view.findings
                .say(meta, Severity::Error, Code::NotFound, &written.place, message);
            return None;
        }
        return Some(written.value);
    }
    if let [only] = service.ports {
        return Some(*only.number);
    }
    // A rule that is only being checked has no addressed port; any port of the service will do.
    let port = addressed
        .or_else(|| service.lowest_port())
        .filter(|port| service.port(*port).is_some());
    if port.is_none() {
        let message = format!(
            "{:?} has several ports and none is the addressed one: name it",
            service.host
        );
        view.findings.say(
            meta,
            Severity::Error,
            Code::PortRequired,
            &destination.host.place,
            message,
        );
    }
    port
}
