//! What a server's routes ask of requests in the place of its filters (gRFC A41, `RBACPerRoute`).
//!
//! Routes choose nothing at a server, so they are read only where one of them says something of an RBAC filter. Then all of that
//! host's are: the first that takes a request is the one that counts, also if it says nothing.

use mesh_core::config::{Domain, FilterRules, HostRules, RbacFilter, Replaced, RouteMatch, RouteRules};
use prost::Name as _;

use crate::decode::rbac::{PerRoute, per_route};
use crate::decode::{Context, Fault, matcher};
use crate::proto::jwt_authn::PerRouteConfig;
use crate::proto::route::{Route, RouteConfiguration, VirtualHost, route::Action, route_action::ClusterSpecifier};

/// The filters, each with what it asks where no route says anything, and what the routes say. A filter that is `true` asks
/// nothing of itself.
pub(super) fn hosts(
    config: &RouteConfiguration,
    filters: Vec<(RbacFilter, bool)>,
    context: &Context,
) -> Result<(Vec<RbacFilter>, Vec<HostRules>), Fault> {
    if filters
        .iter()
        .any(|(filter, _)| config.typed_per_filter_config.contains_key(&*filter.name))
    {
        return Err(Fault::new(
            "typed_per_filter_config",
            "of an RBAC filter is supported at virtual hosts and routes",
        ));
    }
    let mut hosts = Vec::new();
    for (index, host) in config.virtual_hosts.iter().enumerate() {
        let read = self::host(host, &filters, context);
        hosts.push(read.map_err(|fault| fault.within(format_args!("virtual_hosts[{index}]")))?);
    }
    // One that says nothing must not have its requests judged by another, so it is kept; but that of the rest, which nobody else takes.
    let silent = |host: &HostRules| host.replaced.is_empty() && host.routes.is_empty();
    hosts.retain(|host| !silent(host) || host.domains != [Domain::Any]);
    if hosts.iter().all(silent) {
        hosts.clear();
    }
    let own = filters.into_iter().map(|(filter, disabled)| RbacFilter {
        rules: if disabled { FilterRules::default() } else { filter.rules },
        ..filter
    });
    Ok((own.collect(), hosts))
}

/// Nothing that a route says is looked at of a filter of tokens: by type or by name, what is said there is refused.
pub(super) fn says_nothing_of(filter: &str, config: &RouteConfiguration) -> Result<(), Fault> {
    type Said = std::collections::HashMap<String, crate::proto::protobuf::Any>;
    let speaks = |configs: &Said| {
        let of_type = |any: &crate::proto::protobuf::Any| any.type_url == PerRouteConfig::type_url();
        configs.contains_key(filter) || configs.values().any(of_type)
    };
    let hosts = config.virtual_hosts.iter();
    let routes = hosts.clone().flat_map(|host| &host.routes);
    let all = hosts.map(|host| &host.typed_per_filter_config);
    let mut all = all.chain(routes.map(|route| &route.typed_per_filter_config));
    match speaks(&config.typed_per_filter_config) || all.any(speaks) {
        true => Err(Fault::new(
            "typed_per_filter_config",
            format!("of {filter:?} is not supported"),
        )),
        false => Ok(()),
    }
}

fn host(host: &VirtualHost, filters: &[(RbacFilter, bool)], context: &Context) -> Result<HostRules, Fault> {
    let domain = |(index, text): (usize, &String)| {
        Domain::parse(text).map_err(|error| Fault::new(format!("domains[{index}]"), error))
    };
    let mut routes = Vec::new();
    for (index, route) in host.routes.iter().enumerate() {
        let at = |fault: Fault| fault.within(format_args!("routes[{index}]"));
        let said = replaced(&route.typed_per_filter_config, filters).map_err(at)?;
        shares_are_silent(route, filters).map_err(at)?;
        routes.push((index, route, said));
    }
    let rules = if routes.iter().all(|(_, _, said)| said.is_empty()) {
        Vec::new()
    } else {
        let rules = routes.into_iter().map(|(index, route, replaced)| {
            let matches =
                matches(route, context).map_err(|fault| fault.within(format_args!("routes[{index}].match")))?;
            Ok(RouteRules {
                matches,
                replaced,
                checks: Vec::new(),
            })
        });
        let mut rules = rules.collect::<Result<Vec<_>, Fault>>()?;
        // What no route takes is judged like what one takes that says nothing.
        while rules.last().is_some_and(|last| last.replaced.is_empty()) {
            rules.pop();
        }
        rules
    };
    Ok(HostRules {
        domains: host.domains.iter().enumerate().map(domain).collect::<Result<_, _>>()?,
        replaced: replaced(&host.typed_per_filter_config, filters)?,
        checks: Vec::new(),
        routes: rules,
    })
}

fn replaced(
    configs: &std::collections::HashMap<String, crate::proto::protobuf::Any>,
    filters: &[(RbacFilter, bool)],
) -> Result<Vec<Replaced>, Fault> {
    let mut all = Vec::new();
    for (filter, _) in filters {
        let with = match per_route(configs, &filter.name)? {
            None => continue,
            Some(PerRoute::Disabled) => FilterRules::default(),
            Some(PerRoute::Enabled) => filter.rules.clone(),
            Some(PerRoute::Instead(rules)) => rules,
        };
        all.push(Replaced {
            filter: filter.name.clone(),
            with,
        });
    }
    Ok(all)
}

/// What cannot be told apart here must not be judged by what another route asks.
fn matches(route: &Route, context: &Context) -> Result<RouteMatch, Fault> {
    let proto = route.r#match.as_ref().ok_or_else(|| Fault::new("", "is missing"))?;
    let read = matcher::route_match(proto, context.profile)?.map_err(|why| Fault::new("", why))?;
    match read.fraction {
        None => Ok(read),
        Some(_) => Err(Fault::new(
            "runtime_fraction",
            "is not supported beside an RBAC filter of a route",
        )),
    }
}

/// No share of a route says anything of a filter: nothing is shared at a server.
fn shares_are_silent(route: &Route, filters: &[(RbacFilter, bool)]) -> Result<(), Fault> {
    let Some(Action::Route(action)) = &route.action else {
        return Ok(());
    };
    let Some(ClusterSpecifier::WeightedClusters(shares)) = &action.cluster_specifier else {
        return Ok(());
    };
    let speaks = |(filter, _): &(RbacFilter, bool)| {
        let mut shares = shares.clusters.iter();
        shares.any(|share| share.typed_per_filter_config.contains_key(&*filter.name))
    };
    match filters.iter().any(speaks) {
        true => Err(Fault::new(
            "route.weighted_clusters",
            "says something of an RBAC filter, which is not supported",
        )),
        false => Ok(()),
    }
}
