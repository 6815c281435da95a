//! `RouteConfiguration`: every virtual host is read, not only the one that will match (gRFC A28).
//!
//! A route that this client could not tell from another is dropped with a note, as gRPC does; one that it can match but not
//! serve (a redirect) stays in its place and fails its calls, so that they do not fall through to a later route.

use std::sync::Arc;

use mesh_core::config::{ClusterName, Domain, RetryPolicy, Route, RouteTree, RoutingPriority, Split, VirtualHost};

use super::{Context, Fault, Notes, Resource, matcher};
use crate::proto::core::RoutingPriority as PriorityProto;
use crate::proto::route::{
    Route as RouteProto, RouteAction, RouteConfiguration, VirtualHost as HostProto, WeightedCluster, route::Action,
    route_action::ClusterSpecifier,
};
use crate::resource::ResourceKind;

mod predicates;
mod retry;
pub(super) mod time;

/// Begins the name of a cluster that stands for an action which is not served. No control plane names a cluster so, and
/// assembly resolves it to the reason without asking for it.
pub(crate) const UNSERVED: &str = "#unserved-action/";

impl Resource for RouteTree {
    const KIND: ResourceKind = ResourceKind::Route;
    type Proto = RouteConfiguration;

    fn name(proto: &RouteConfiguration) -> &str {
        &proto.name
    }

    fn decode(proto: &RouteConfiguration, _context: &Context, notes: &mut Notes) -> Result<Self, Fault> {
        let host = |(index, proto)| {
            virtual_host(proto, notes).map_err(|fault| fault.within(format_args!("virtual_hosts[{index}]")))
        };
        Ok(Self {
            name: proto.name.as_str().into(),
            virtual_hosts: proto
                .virtual_hosts
                .iter()
                .enumerate()
                .map(host)
                .collect::<Result<_, _>>()?,
            ignore_port: proto.ignore_port_in_host_matching,
        })
    }
}

fn virtual_host(proto: &HostProto, notes: &mut Notes) -> Result<VirtualHost, Fault> {
    let domain = |(index, text): (usize, &String)| {
        Domain::parse(text).map_err(|error| Fault::new(format!("domains[{index}]"), error))
    };
    let mut routes = Vec::with_capacity(proto.routes.len());
    for (index, route_proto) in proto.routes.iter().enumerate() {
        let read = route(route_proto, proto, notes).map_err(|fault| fault.within(format_args!("routes[{index}]")))?;
        match read {
            Read::Taken(route) => routes.push(Arc::new(*route)),
            Read::Dropped(why) => notes.add(format_args!(
                "virtual host {:?}: route {index} was dropped: {why}",
                proto.name
            )),
        }
    }
    Ok(VirtualHost {
        name: proto.name.as_str().into(),
        domains: proto.domains.iter().enumerate().map(domain).collect::<Result<_, _>>()?,
        routes,
    })
}

enum Read {
    Taken(Box<Route>),
    Dropped(String),
}

fn route(proto: &RouteProto, host: &HostProto, notes: &mut Notes) -> Result<Read, Fault> {
    let matches = proto
        .r#match
        .as_ref()
        .ok_or_else(|| Fault::new("match", "is missing"))?;
    let matches = match matcher::route_match(matches).map_err(|fault| fault.within("match"))? {
        Ok(matches) => matches,
        Err(why) => return Ok(Read::Dropped(why)),
    };
    if !proto.typed_per_filter_config.is_empty() {
        notes.add(format_args!(
            "route {:?}: typed_per_filter_config is not applied",
            proto.name
        ));
    }
    let name = proto.name.as_str().into();
    let action = match &proto.action {
        Some(Action::Route(action)) => action,
        Some(other) => {
            let word = action_word(other);
            notes.add(format_args!("a {word} is not served: its calls fail"));
            let route = Route {
                name,
                matches,
                retry: RetryPolicy {
                    announce_attempts: host.include_request_attempt_count,
                    ..RetryPolicy::never()
                },
                ..Route::to(Split::all_to(format!("{UNSERVED}{word}")))
            };
            return Ok(Read::Taken(Box::new(route)));
        }
        None => return Err(Fault::new("action", "is missing")),
    };
    note_what_is_left_out(proto, action, notes);
    let inner = |fault: Fault| fault.within("route");
    let split = match split(action).map_err(inner)? {
        Ok(split) => split,
        Err(why) => return Ok(Read::Dropped(why)),
    };
    let (timeout, limits) = time::limits(action).map_err(inner)?;
    Ok(Read::Taken(Box::new(Route {
        name,
        matches,
        split,
        timeout,
        limits,
        retry: retry::read(proto, action, host, notes).map_err(inner)?,
        priority: priority(action).map_err(inner)?,
    })))
}

fn priority(action: &RouteAction) -> Result<RoutingPriority, Fault> {
    match PriorityProto::try_from(action.priority) {
        Ok(PriorityProto::Default) => Ok(RoutingPriority::Default),
        Ok(PriorityProto::High) => Ok(RoutingPriority::High),
        Err(_) => {
            let reason = format!("{} is not a priority", action.priority);
            Err(Fault::new("priority", reason))
        }
    }
}

/// Things that istiod writes, and that change what a request looks like or where else it goes, but not whom it may reach.
#[allow(deprecated, reason = "Istio still writes some of them")]
fn note_what_is_left_out(proto: &RouteProto, action: &RouteAction, notes: &mut Notes) {
    let rewrites = !action.prefix_rewrite.is_empty()
        || action.regex_rewrite.is_some()
        || action.path_rewrite_policy.is_some()
        || action.host_rewrite_specifier.is_some();
    let headers = !proto.request_headers_to_add.is_empty()
        || !proto.request_headers_to_remove.is_empty()
        || !proto.response_headers_to_add.is_empty()
        || !proto.response_headers_to_remove.is_empty();
    let left_out = [
        ("request_mirror_policies", !action.request_mirror_policies.is_empty()),
        ("cors", action.cors.is_some()),
        ("hash_policy", !action.hash_policy.is_empty()),
        ("rate_limits", !action.rate_limits.is_empty()),
        ("a rewrite", rewrites),
        ("a header operation", headers),
    ];
    for (what, _) in left_out.iter().filter(|(_, present)| *present) {
        notes.add(format_args!("{what} is not applied"));
    }
}

fn action_word(action: &Action) -> &'static str {
    match action {
        Action::Route(_) => "route",
        Action::Redirect(_) => "redirect",
        Action::DirectResponse(_) => "direct response",
        Action::FilterAction(_) => "filter action",
        Action::NonForwardingAction(_) => "non-forwarding action",
    }
}

fn split(action: &RouteAction) -> Result<Result<Split, String>, Fault> {
    match &action.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) if name.is_empty() => Err(Fault::new("cluster", "is empty")),
        Some(ClusterSpecifier::Cluster(name)) => Ok(Ok(Split::all_to(name.as_str()))),
        Some(ClusterSpecifier::WeightedClusters(weighted)) => weighted_split(weighted)
            .map(Ok)
            .map_err(|fault| fault.within("weighted_clusters")),
        // gRFC A28: a specifier that is not known drops the route.
        Some(ClusterSpecifier::ClusterHeader(_)) => Ok(Err("cluster_header is not supported".into())),
        Some(ClusterSpecifier::ClusterSpecifierPlugin(_) | ClusterSpecifier::InlineClusterSpecifierPlugin(_)) => {
            Ok(Err("cluster specifier plugins are not supported".into()))
        }
        None => Ok(Err("it names no cluster".into())),
    }
}

fn weighted_split(weighted: &WeightedCluster) -> Result<Split, Fault> {
    let mut shares = Vec::with_capacity(weighted.clusters.len());
    for (index, share) in weighted.clusters.iter().enumerate() {
        if share.name.is_empty() {
            return Err(Fault::new(format!("clusters[{index}].name"), "is empty"));
        }
        let weight = share.weight.as_ref().map_or(0, |weight| weight.value);
        shares.push((ClusterName::from(share.name.as_str()), weight));
    }
    Split::weighted(shares).map_err(|error| Fault::new("clusters", error))
}
