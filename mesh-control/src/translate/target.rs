//! What a client may ask for by name, and the routes behind each name.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::config::{Domain, RouteTree, VirtualHost};

use super::service::Service;
use super::{View, cluster, effects, host, route};

/// The listeners that a client may ask for: every name of every service, with each port, and bare for its lowest one.
pub(super) fn targets(view: &mut View<'_, '_>) -> BTreeMap<String, Arc<RouteTree>> {
    let mut targets = BTreeMap::new();
    let mut aliased = Vec::new();
    let registry = view.registry;
    for service in registry
        .services()
        .filter(|service| service.is_visible(&view.scope.namespace))
    {
        for port in service.ports {
            let number = *port.number;
            let names = host::aliases(&service.host, &view.scope.namespace, &view.mesh.domain);
            let tree = Arc::new(tree(view, service, number, &names));
            let bare = service.lowest_port() == Some(number);
            for (index, name) in names.into_iter().enumerate() {
                let asked = bare
                    .then(|| name.clone())
                    .into_iter()
                    .chain([format!("{name}:{number}")]);
                if index == 0 {
                    targets.extend(asked.map(|name| (name, Arc::clone(&tree))));
                } else {
                    aliased.extend(asked.map(|name| (name, Arc::clone(&tree))));
                }
            }
        }
    }
    // A service that is really called so comes before one for which it is a short form.
    for (name, tree) in aliased {
        targets.entry(name).or_insert(tree);
    }
    targets
}

fn tree(view: &mut View<'_, '_>, service: &Service<'_>, port: u32, names: &[String]) -> RouteTree {
    let domains = names.iter().flat_map(|name| [name.clone(), format!("{name}:{port}")]);
    let host = VirtualHost::new(
        format!("{}:{port}", service.host),
        domains.map(|name| Domain::Exact(name.into())).collect(),
        route::routes(view, service, port),
    );
    let said = host.routes.iter().flat_map(|route| &route.filter_overrides);
    RouteTree {
        filters: effects::filters(said),
        // A share's word comes after its route's (Istio).
        closest_rules_last: true,
        telemetry: view.telemetry.clone(),
        ..RouteTree::new(cluster::name(&service.host, port, "").as_str(), vec![host])
    }
}
