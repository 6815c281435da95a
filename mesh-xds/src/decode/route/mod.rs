//! `RouteConfiguration`: every virtual host is read, not only the one that will match (gRFC A28).
//!
//! A route that this client could not tell from another is dropped with a note, as gRPC does; one that it can match but not
//! serve stays in its place and fails its calls, so that they do not fall through to a later route.

use std::sync::Arc;

use mesh_core::config::{
    Action, Domain, Forward, RetryPolicy, Route, RouteMatch, RouteTree, RoutingPriority, Split, TimeLimits,
    VirtualHost, WeightedCluster as ShareValue,
};

use super::overrides::overrides;
use super::{Context, Fault, Notes, Resource, matcher};
use crate::bootstrap::Profile;
use crate::convention::STREAM_IS_TIMEOUT;
use crate::proto::core::RoutingPriority as PriorityProto;
use crate::proto::protobuf::value::Kind;
use crate::proto::route::{
    Route as RouteProto, RouteAction, RouteConfiguration, VirtualHost as HostProto, WeightedCluster,
    route::Action as RouteActionProto, route_action::ClusterSpecifier, weighted_cluster::ClusterWeight,
    weighted_cluster::cluster_weight::HostRewriteSpecifier,
};
use crate::resource::ResourceKind;

mod action;
mod hash;
pub(super) mod headers;
mod predicates;
mod retry;
pub(super) mod time;

/// What a route is called that forwards nothing (gRFC A36: it is for servers).
const NON_FORWARDING: &str = "a non-forwarding action";

/// What stands above a route.
struct Places<'a> {
    tree: &'a RouteConfiguration,
    host: &'a HostProto,
}

impl Resource for RouteTree {
    const KIND: ResourceKind = ResourceKind::Route;
    type Proto = RouteConfiguration;

    fn name(proto: &RouteConfiguration) -> &str {
        &proto.name
    }

    fn decode(proto: &RouteConfiguration, context: &Context, notes: &mut Notes) -> Result<Self, Fault> {
        note_what_is_not_looked_at(proto, notes);
        let host = |(index, host)| {
            let places = Places { tree: proto, host };
            virtual_host(&places, context, notes).map_err(|fault| fault.within(format_args!("virtual_hosts[{index}]")))
        };
        let virtual_hosts = proto
            .virtual_hosts
            .iter()
            .enumerate()
            .map(host)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            ignore_port: proto.ignore_port_in_host_matching,
            headers: headers::rules(
                (&proto.request_headers_to_add, &proto.request_headers_to_remove),
                (&proto.response_headers_to_add, &proto.response_headers_to_remove),
            )?,
            closest_rules_last: proto.most_specific_header_mutations_wins,
            filter_overrides: overrides(&proto.typed_per_filter_config, context, notes)?,
            ..Self::new(proto.name.as_str(), virtual_hosts)
        })
    }
}

fn virtual_host(places: &Places<'_>, context: &Context, notes: &mut Notes) -> Result<VirtualHost, Fault> {
    let proto = places.host;
    let domain = |(index, text): (usize, &String)| {
        Domain::parse(text).map_err(|error| Fault::new(format!("domains[{index}]"), error))
    };
    let mut routes = Vec::with_capacity(proto.routes.len());
    for (index, route_proto) in proto.routes.iter().enumerate() {
        let read = route(route_proto, places, context, notes);
        match read.map_err(|fault| fault.within(format_args!("routes[{index}]")))? {
            Read::Taken(route) => routes.push(Arc::new(*route)),
            Read::Dropped(why) => notes.add(format_args!(
                "virtual host {:?}: route {index} was dropped: {why}",
                proto.name
            )),
        }
    }
    let domains = proto.domains.iter().enumerate().map(domain).collect::<Result<_, _>>()?;
    Ok(VirtualHost {
        headers: headers::rules(
            (&proto.request_headers_to_add, &proto.request_headers_to_remove),
            (&proto.response_headers_to_add, &proto.response_headers_to_remove),
        )?,
        filter_overrides: overrides(&proto.typed_per_filter_config, context, notes)?,
        ..VirtualHost::new(proto.name.as_str(), domains, routes)
    })
}

/// Whether our own control plane marked the route so (`encode::route`).
fn is_marked(proto: &RouteProto, (filter, key): (&str, &str)) -> bool {
    let metadata = proto.metadata.as_ref();
    let fields = metadata.and_then(|metadata| metadata.filter_metadata.get(filter));
    let value = fields.and_then(|fields| fields.fields.get(key));
    matches!(value.and_then(|value| value.kind.as_ref()), Some(Kind::BoolValue(true)))
}

enum Read {
    Taken(Box<Route>),
    Dropped(String),
}

fn route(proto: &RouteProto, places: &Places<'_>, context: &Context, notes: &mut Notes) -> Result<Read, Fault> {
    let matches = proto
        .r#match
        .as_ref()
        .ok_or_else(|| Fault::new("match", "is missing"))?;
    let matches = match matcher::route_match(matches, context.profile).map_err(|fault| fault.within("match"))? {
        Ok(matches) => matches,
        Err(why) => return Ok(Read::Dropped(why)),
    };
    let max_body = places
        .tree
        .max_direct_response_body_size_bytes
        .as_ref()
        .map(|max| max.value);
    let (mut timeout, mut limits, mut retry) = (None, TimeLimits::default(), RetryPolicy::never());
    let mut priority = RoutingPriority::Default;
    let action = match &proto.action {
        Some(RouteActionProto::Route(action)) => {
            let inner = |fault: Fault| fault.within("route");
            note_what_is_left_out(action, notes);
            let forward = match forward(action, &matches, places, context, notes).map_err(inner)? {
                Forwarded::Action(action) => action,
                Forwarded::Dropped(why) => return Ok(Read::Dropped(why)),
            };
            (timeout, limits) = time::limits(action, is_marked(proto, STREAM_IS_TIMEOUT)).map_err(inner)?;
            retry = retry::read(proto, action, places.host, context.profile, notes).map_err(inner)?;
            priority = read_priority(action).map_err(inner)?;
            forward
        }
        Some(RouteActionProto::Redirect(redirect)) => {
            action::redirect(redirect).map_err(|fault| fault.within("redirect"))?
        }
        Some(RouteActionProto::DirectResponse(response)) => {
            action::direct_response(response, max_body, notes).map_err(|fault| fault.within("direct_response"))?
        }
        Some(RouteActionProto::FilterAction(_)) => Action::Unserved("a filter action".into()),
        Some(RouteActionProto::NonForwardingAction(_)) => Action::Unserved(NON_FORWARDING.into()),
        None => return Err(Fault::new("action", "is missing")),
    };
    if let Action::Unserved(what) = &action {
        notes.add(format_args!("{what} is not served: its calls fail"));
        // As if it had never been one that forwards.
        (timeout, limits, retry) = (None, TimeLimits::default(), RetryPolicy::never());
        priority = RoutingPriority::Default;
    }
    Ok(Read::Taken(Box::new(Route {
        name: proto.name.as_str().into(),
        matches,
        action,
        timeout,
        limits,
        retry,
        priority,
        headers: headers::rules(
            (&proto.request_headers_to_add, &proto.request_headers_to_remove),
            (&proto.response_headers_to_add, &proto.response_headers_to_remove),
        )?,
        filter_overrides: overrides(&proto.typed_per_filter_config, context, notes)?,
    })))
}

fn read_priority(action: &RouteAction) -> Result<RoutingPriority, Fault> {
    match PriorityProto::try_from(action.priority) {
        Ok(PriorityProto::Default) => Ok(RoutingPriority::Default),
        Ok(PriorityProto::High) => Ok(RoutingPriority::High),
        Err(_) => {
            let reason = format!("{} is not a priority", action.priority);
            Err(Fault::new("priority", reason))
        }
    }
}

enum Forwarded {
    Action(Action),
    Dropped(String),
}

fn forward(
    action: &RouteAction,
    matches: &RouteMatch,
    places: &Places<'_>,
    context: &Context,
    notes: &mut Notes,
) -> Result<Forwarded, Fault> {
    let split = match split(action, context, notes)? {
        Ok(split) => split,
        // gRFC A28: a specifier that is not known drops the route. Where Envoy would serve it, calls must not fall through.
        Err(why) if context.profile == Profile::Grpc => {
            return Ok(Forwarded::Dropped(format!("{why} is not supported")));
        }
        Err(why) => return Ok(Forwarded::Action(Action::Unserved(why.into()))),
    };
    let rewrite = match action::rewrite(action, matches, context, notes)? {
        Ok(rewrite) => rewrite,
        Err(what) => return Ok(Forwarded::Action(Action::Unserved(what.into()))),
    };
    let mirrors = [
        &action.request_mirror_policies[..],
        &places.host.request_mirror_policies,
        &places.tree.request_mirror_policies,
    ];
    Ok(Forwarded::Action(Action::Forward(Forward {
        split,
        rewrite,
        mirrors: action::mirrors(mirrors, notes)?,
        hash: hash::policies(&action.hash_policy, context.profile, notes)?.into(),
    })))
}

/// Ways to choose a host and a route that are not looked at here.
fn note_what_is_not_looked_at(proto: &RouteConfiguration, notes: &mut Notes) {
    let of_hosts = |has: fn(&HostProto) -> bool| proto.virtual_hosts.iter().any(has);
    let not_looked_at = [
        ("vhds", proto.vhds.is_some()),
        ("vhost_header", !proto.vhost_header.is_empty()),
        (
            "ignore_path_parameters_in_path_matching",
            proto.ignore_path_parameters_in_path_matching,
        ),
        ("a virtual host's matcher", of_hosts(|host| host.matcher.is_some())),
        ("require_tls", of_hosts(|host| host.require_tls != 0)),
    ];
    for (what, _) in not_looked_at.iter().filter(|(_, present)| *present) {
        notes.add(format_args!("{what} is not applied"));
    }
}

/// Things that istiod writes, and that change how an answer looks to a browser or where an endpoint is found, but not whom a
/// call may reach.
fn note_what_is_left_out(action: &RouteAction, notes: &mut Notes) {
    #[allow(deprecated, reason = "Istio still writes some of them")]
    let left_out = [
        ("cors", action.cors.is_some()),
        ("rate_limits", !action.rate_limits.is_empty()),
        ("internal_redirect_policy", action.internal_redirect_policy.is_some()),
        ("upgrade_configs", !action.upgrade_configs.is_empty()),
        // Hosts are chosen by it in clusters with subsets, and those are refused.
        ("metadata_match", action.metadata_match.is_some()),
        ("early_data_policy", action.early_data_policy.is_some()),
    ];
    for (what, _) in left_out.iter().filter(|(_, present)| *present) {
        notes.add(format_args!("{what} is not applied"));
    }
}

/// The inner error is a specifier that is not served.
fn split(action: &RouteAction, context: &Context, notes: &mut Notes) -> Result<Result<Split, &'static str>, Fault> {
    match &action.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) if name.is_empty() => Err(Fault::new("cluster", "is empty")),
        Some(ClusterSpecifier::Cluster(name)) => Ok(Ok(Split::all_to(name.as_str()))),
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            weighted_split(weighted, context, notes).map_err(|fault| fault.within("weighted_clusters"))
        }
        Some(ClusterSpecifier::ClusterHeader(_)) => Ok(Err("cluster_header")),
        Some(ClusterSpecifier::ClusterSpecifierPlugin(_) | ClusterSpecifier::InlineClusterSpecifierPlugin(_)) => {
            Ok(Err("a cluster specifier plugin"))
        }
        None => Ok(Err("a route without a cluster")),
    }
}

fn weighted_split(
    weighted: &WeightedCluster,
    context: &Context,
    notes: &mut Notes,
) -> Result<Result<Split, &'static str>, Fault> {
    let mut shares = Vec::with_capacity(weighted.clusters.len());
    for (index, proto) in weighted.clusters.iter().enumerate() {
        if proto.name.is_empty() && !proto.cluster_header.is_empty() {
            return Ok(Err("cluster_header"));
        }
        let share = share(proto, context, notes).map_err(|fault| fault.within(format_args!("clusters[{index}]")))?;
        shares.push(share);
    }
    for (what, present) in [
        ("random_value_specifier", weighted.random_value_specifier.is_some()),
        (
            "metadata_match of a weighted cluster",
            weighted.clusters.iter().any(|share| share.metadata_match.is_some()),
        ),
    ] {
        if present {
            notes.add(format_args!("{what} is not applied"));
        }
    }
    let split = Split::of(shares).map_err(|error| Fault::new("clusters", error))?;
    Ok(Ok(split))
}

fn share(proto: &ClusterWeight, context: &Context, notes: &mut Notes) -> Result<ShareValue, Fault> {
    if proto.name.is_empty() {
        return Err(Fault::new("name", "is empty"));
    }
    let weight = proto.weight.as_ref().map_or(0, |weight| weight.value);
    let host = match &proto.host_rewrite_specifier {
        Some(HostRewriteSpecifier::HostRewriteLiteral(literal)) => action::authority("host_rewrite_literal", literal)?,
        None => None,
    };
    Ok(ShareValue {
        headers: headers::rules(
            (&proto.request_headers_to_add, &proto.request_headers_to_remove),
            (&proto.response_headers_to_add, &proto.response_headers_to_remove),
        )?,
        host,
        filter_overrides: overrides(&proto.typed_per_filter_config, context, notes)?,
        ..ShareValue::new(proto.name.as_str(), weight)
    })
}
