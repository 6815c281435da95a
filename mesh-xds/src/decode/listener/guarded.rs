//! What a server's routes ask of requests in the place of its filters (gRFC A41, `RBACPerRoute`).
//!
//! Routes choose nothing at a server, so they are read only where one of them says something of an RBAC filter. Then all of that
//! host's are: the first that takes a request is the one that counts, also if it says nothing.

use std::collections::{HashMap, HashSet};

use mesh_core::config::{
    CheckReplaced, Domain, ExtAuthz, FilterRules, HostRules, PathMatch, RbacFilter, Replaced, RouteMatch, RouteRules,
    RoutedHost, RoutedRoute, Routing,
};
use prost::Name as _;

use crate::bootstrap::Profile;
use crate::decode::rbac::{PerRoute, per_route};
use crate::decode::{Context, Fault, ext_authz, matcher};
use crate::proto::jwt_authn::PerRouteConfig;
use crate::proto::protobuf::Any;
use crate::proto::route::{Route, RouteConfiguration, VirtualHost, route::Action, route_action::ClusterSpecifier};

/// What routes may speak of.
pub(super) struct Spoken<'a> {
    /// The filters that keep requests out, and whether each does so only where a route says so.
    pub(super) filters: &'a [(RbacFilter, bool)],
    /// Those who are asked outside of the process.
    pub(super) checks: &'a [ExtAuthz],
    /// Those of which nothing may be said.
    pub(super) fixed: &'a HashSet<Box<str>>,
}

type Said = HashMap<String, Any>;

impl Spoken<'_> {
    fn names(&self) -> impl Iterator<Item = &str> {
        let filters = self.filters.iter().map(|(filter, _)| &*filter.name);
        let checks = self.checks.iter().map(|check| &*check.name);
        filters.chain(checks).chain(self.fixed.iter().map(|name| &**name))
    }

    fn is_in(&self, said: &Said) -> bool {
        self.names().any(|name| said.contains_key(name))
    }
}

/// What the routes say in the place of filters.
pub(super) fn hosts(
    config: &RouteConfiguration,
    spoken: &Spoken<'_>,
    context: &Context,
) -> Result<Vec<HostRules>, Fault> {
    if spoken.is_in(&config.typed_per_filter_config) {
        return Err(Fault::new(
            "typed_per_filter_config",
            "of a filter that keeps requests out is supported at virtual hosts and routes",
        ));
    }
    let mut hosts = Vec::new();
    for (index, host) in config.virtual_hosts.iter().enumerate() {
        let read = self::host(host, spoken, context);
        hosts.push(read.map_err(|fault| fault.within(format_args!("virtual_hosts[{index}]")))?);
    }
    // One that says nothing must not have its requests judged by another, so it is kept; but that of the rest, which nobody else takes.
    let silent = |host: &HostRules| host.replaced.is_empty() && host.checks.is_empty() && host.routes.is_empty();
    hosts.retain(|host| !silent(host) || host.domains != [Domain::Any]);
    if hosts.iter().all(silent) {
        hosts.clear();
    }
    Ok(hosts)
}

/// Which requests the routes have served: those that a route takes whose action leaves them to this process. To a gRPC server that is
/// `non_forwarding_action` alone (gRFC A36); Istio's routes of a sidecar forward to its own workload, which is this.
pub(super) fn routing(config: &RouteConfiguration, profile: Profile) -> Result<Routing, Fault> {
    let mut hosts = Vec::with_capacity(config.virtual_hosts.len());
    for (index, host) in config.virtual_hosts.iter().enumerate() {
        let read = routed_host(host, profile);
        hosts.push(read.map_err(|fault| fault.within(format_args!("virtual_hosts[{index}]")))?);
    }
    let serves_all = |host: &RoutedHost| {
        let serves = |route: &RoutedRoute| matches!(route, RoutedRoute::Serves(_));
        let takes_all = |route: &RoutedRoute| match route {
            RoutedRoute::Serves(matches) => {
                *matches == RouteMatch::any()
                    || *matches
                        == RouteMatch {
                            path: PathMatch::Prefix("/".into()),
                            ..RouteMatch::any()
                        }
            }
            _ => false,
        };
        host.routes.iter().all(serves) && host.routes.iter().any(takes_all)
    };
    let has_any = hosts.iter().any(|host| host.domains.contains(&Domain::Any));
    Ok(match has_any && hosts.iter().all(serves_all) {
        true => Routing::Everything,
        false => Routing::Table(hosts),
    })
}

fn routed_host(host: &VirtualHost, profile: Profile) -> Result<RoutedHost, Fault> {
    let domain = |(index, text): (usize, &String)| {
        Domain::parse(text).map_err(|error| Fault::new(format!("domains[{index}]"), error))
    };
    let route = |(index, route): (usize, &Route)| {
        routed_route(route, profile).map_err(|fault| fault.within(format_args!("routes[{index}]")))
    };
    let mut routes: Vec<RoutedRoute> = host.routes.iter().enumerate().map(route).collect::<Result<_, _>>()?;
    if host.require_tls != 0 {
        routes = vec![RoutedRoute::Obscure("require_tls is not supported at a server".into())];
    }
    Ok(RoutedHost {
        domains: host.domains.iter().enumerate().map(domain).collect::<Result<_, _>>()?,
        routes,
    })
}

fn routed_route(route: &Route, profile: Profile) -> Result<RoutedRoute, Fault> {
    let proto = route
        .r#match
        .as_ref()
        .ok_or_else(|| Fault::new("match", "is missing"))?;
    let matches = match matcher::route_match(proto, profile).map_err(|fault| fault.within("match"))? {
        Ok(matches) if matches.fraction.is_none() => matches,
        Ok(_) => return Ok(RoutedRoute::Obscure("it takes a part of its requests".into())),
        Err(why) => return Ok(RoutedRoute::Obscure(why.into())),
    };
    let other = match (&route.action, profile) {
        (Some(Action::NonForwardingAction(_)), _) | (Some(Action::Route(_)), Profile::Envoy) => {
            return Ok(RoutedRoute::Serves(matches));
        }
        (Some(Action::Route(_)), Profile::Grpc) => "it forwards (gRFC A36)",
        (Some(Action::Redirect(_)), _) => "it redirects",
        (Some(Action::DirectResponse(_)), _) => "it answers by itself",
        (Some(Action::FilterAction(_)), _) => "a filter answers",
        (None, _) => return Err(Fault::new("action", "is missing")),
    };
    Ok(RoutedRoute::Refuses(matches, other.into()))
}

/// A request that no route takes is refused by Envoy (404) and gRPC (UNAVAILABLE, gRFC A36), and so is one whose route answers, redirects
/// or asks for TLS of its own. In a sidecar's shape a listener whose own table keeps requests out is refused: no such answer is given here.
pub(super) fn keeps_nobody_out(config: &RouteConfiguration) -> Result<(), Fault> {
    let reason = "keeps out requests that no route takes, which is not done here: end it with a route for everything";
    if !config
        .virtual_hosts
        .iter()
        .any(|host| host.domains.iter().any(|domain| domain == "*"))
    {
        return Err(Fault::new("virtual_hosts", reason));
    }
    for (index, host) in config.virtual_hosts.iter().enumerate() {
        let at = |fault: Fault| fault.within(format_args!("virtual_hosts[{index}]"));
        if host.require_tls != 0 {
            return Err(at(Fault::new("require_tls", "is not supported at a server")));
        }
        for (index, route) in host.routes.iter().enumerate() {
            if let Some(Action::Redirect(_) | Action::DirectResponse(_) | Action::FilterAction(_)) = &route.action {
                let reason = "is answered by its route, which is not done at a server";
                return Err(at(Fault::new(format!("routes[{index}].action"), reason)));
            }
        }
        if !host.routes.iter().any(takes_everything) {
            return Err(at(Fault::new("routes", reason)));
        }
    }
    Ok(())
}

fn takes_everything(route: &Route) -> bool {
    use crate::proto::route::route_match::PathSpecifier;
    route.r#match.as_ref().is_some_and(|matches| {
        let path = match &matches.path_specifier {
            Some(PathSpecifier::Prefix(prefix)) => prefix.is_empty() || prefix == "/",
            _ => false,
        };
        path && matches.headers.is_empty() && matches.query_parameters.is_empty() && matches.runtime_fraction.is_none()
    })
}

/// The filters, each with what it asks where no route says anything. A filter that is `true` asks nothing of itself.
pub(super) fn general(filters: Vec<(RbacFilter, bool)>) -> Vec<RbacFilter> {
    let own = filters.into_iter().map(|(filter, disabled)| RbacFilter {
        rules: if disabled { FilterRules::default() } else { filter.rules },
        ..filter
    });
    own.collect()
}

/// Nothing that a route says is looked at of a filter of tokens: by type or by name, what is said there is refused.
pub(super) fn says_nothing_of(filter: &str, config: &RouteConfiguration) -> Result<(), Fault> {
    let speaks = |configs: &Said| {
        let of_type = |any: &Any| any.type_url == PerRouteConfig::type_url();
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

fn host(host: &VirtualHost, spoken: &Spoken<'_>, context: &Context) -> Result<HostRules, Fault> {
    let domain = |(index, text): (usize, &String)| {
        Domain::parse(text).map_err(|error| Fault::new(format!("domains[{index}]"), error))
    };
    let of_host = checks(&host.typed_per_filter_config, spoken, &[])?;
    let mut routes = Vec::new();
    for (index, route) in host.routes.iter().enumerate() {
        let at = |fault: Fault| fault.within(format_args!("routes[{index}]"));
        let said = replaced(&route.typed_per_filter_config, spoken).map_err(at)?;
        let asked = checks(&route.typed_per_filter_config, spoken, &of_host).map_err(at)?;
        shares_are_silent(route, spoken).map_err(at)?;
        routes.push((index, route, said, asked));
    }
    let rules = if routes
        .iter()
        .all(|(_, _, said, asked)| said.is_empty() && asked.is_empty())
    {
        Vec::new()
    } else {
        let rules = routes.into_iter().map(|(index, route, replaced, checks)| {
            let matches =
                matches(route, context).map_err(|fault| fault.within(format_args!("routes[{index}].match")))?;
            Ok(RouteRules {
                matches,
                replaced,
                checks,
            })
        });
        let mut rules = rules.collect::<Result<Vec<_>, Fault>>()?;
        // What no route takes is judged like what one takes that says nothing.
        while rules
            .last()
            .is_some_and(|last| last.replaced.is_empty() && last.checks.is_empty())
        {
            rules.pop();
        }
        rules
    };
    Ok(HostRules {
        domains: host.domains.iter().enumerate().map(domain).collect::<Result<_, _>>()?,
        replaced: replaced(&host.typed_per_filter_config, spoken)?,
        checks: of_host,
        routes: rules,
    })
}

fn replaced(configs: &Said, spoken: &Spoken<'_>) -> Result<Vec<Replaced>, Fault> {
    if let Some(fixed) = spoken.fixed.iter().find(|name| configs.contains_key(&***name)) {
        let reason = "is not supported: several filters are called so, or somebody is asked about what it matches";
        return Err(Fault::new(format!("typed_per_filter_config[{fixed:?}]"), reason));
    }
    let mut all = Vec::new();
    for (filter, _) in spoken.filters {
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

/// What is said of whoever is asked, added to what `general` says.
fn checks(configs: &Said, spoken: &Spoken<'_>, general: &[CheckReplaced]) -> Result<Vec<CheckReplaced>, Fault> {
    let mut all = Vec::new();
    for check in spoken.checks {
        let wider = general
            .iter()
            .find(|said| said.filter == check.name)
            .map(|said| &said.with);
        if let Some(with) = ext_authz::per_route(configs, &check.name, wider)? {
            all.push(CheckReplaced {
                filter: check.name.clone(),
                with,
            });
        }
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
fn shares_are_silent(route: &Route, spoken: &Spoken<'_>) -> Result<(), Fault> {
    let Some(Action::Route(action)) = &route.action else {
        return Ok(());
    };
    let Some(ClusterSpecifier::WeightedClusters(shares)) = &action.cluster_specifier else {
        return Ok(());
    };
    let mut shares = shares.clusters.iter();
    match shares.any(|share| spoken.is_in(&share.typed_per_filter_config)) {
        true => Err(Fault::new(
            "route.weighted_clusters",
            "says something of a filter that keeps requests out, which is not supported",
        )),
        false => Ok(()),
    }
}
