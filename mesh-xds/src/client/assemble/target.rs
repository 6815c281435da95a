//! Which listener is a target's, in each of the two shapes a control plane has.
//!
//! To a gRPC client a target *is* a listener: its name is made of the target's by a template (gRFCs A27, A47). A sidecar is
//! sent every listener there is and would catch connections by address; a call that is still in the process has no address
//! yet, so its listener is the one of the port it asks for that has a virtual host for its authority. Of the routes of a
//! port, which serve every service on it, only the target's virtual host is kept: the others' clusters are not its business.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_core::config::{
    CallFilter, Domain, FilterOverride, Inbound, Override, Reason, ReasonKind, Resolved, RetryPolicy, Route, RouteTree,
    Split, TimeLimits, VirtualHost,
};
use mesh_core::route;

use super::walk::{Walk, reason};
use crate::bootstrap::{ListenerNames, Profile};
use crate::client::cache::{Found, Sources};
use crate::convention::VIRTUAL_INBOUND;
use crate::resource::{Extension, ExtensionRef, Filter, Http, Listener, ResourceKind, Routes};

/// How listeners are found.
#[derive(Clone, Debug)]
pub(crate) struct Naming {
    pub(crate) profile: Profile,
    /// The names of listeners in gRPC's shape, by the bootstrap's templates.
    pub(crate) names: ListenerNames,
}

/// A port's routes, cut down to one target's virtual host, and what they were cut from.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    whole: Arc<RouteTree>,
    limits: TimeLimits,
    own: Arc<RouteTree>,
}

impl Walk<'_> {
    /// The target's routes, or `None` while it is not known what they are. `before` is what they were cut from last.
    pub(super) fn target(
        &mut self,
        target: &str,
        naming: &Naming,
        before: Option<&Cut>,
    ) -> (Option<Resolved<RouteTree>>, Option<Cut>) {
        match naming.profile {
            Profile::Grpc => (self.by_name(target, &naming.names), None),
            Profile::Envoy => match self.by_port(target) {
                None => (None, before.cloned()),
                Some(Err(reason)) => (Some(Err(reason)), None),
                Some(Ok((whole, limits))) => match cut(target, whole, limits, before) {
                    Ok(cut) => (Some(Ok(Arc::clone(&cut.own))), Some(cut)),
                    Err(reason) => (Some(Err(reason)), None),
                },
            },
        }
    }

    /// What is asked of the clients of a server at `address`, or `None` while it is not known.
    pub(super) fn inbound(&mut self, address: &str, naming: &Naming) -> Option<Resolved<Inbound>> {
        match naming.profile {
            Profile::Grpc => self.inbound_by_name(address, &naming.names),
            Profile::Envoy => self.virtual_inbound(address),
        }
    }

    fn by_name(&mut self, target: &str, names: &ListenerNames) -> Option<Resolved<RouteTree>> {
        let name: Arc<str> = match names.of_target(target) {
            Ok(name) => name.into(),
            Err(invalid) => return Some(Err(no_listener(invalid.to_string()))),
        };
        match self.look::<Listener>(&name) {
            Found::Value(listener) => match &*listener {
                Listener::Api(http) => {
                    let tree = self.routes(http)?;
                    Some(tree.map(|tree| tree.within(http.limits)))
                }
                Listener::Outbound { .. } | Listener::Inbound(_) | Listener::CatchAll(_) => Some(Err(no_listener(
                    format!("listener {name:?} is a socket's: it is not for clients"),
                ))),
                Listener::Other(why) => Some(Err(no_listener(format!("listener {name:?} is not for clients: {why}")))),
            },
            Found::None(trouble) => Some(Err(reason(trouble, ReasonKind::NoListener))),
            Found::Pending => None,
        }
    }

    /// The routes of a target's port, and what their listener says of streams.
    fn by_port(&mut self, target: &str) -> Option<Result<(Arc<RouteTree>, TimeLimits), Reason>> {
        let Some((host, port)) = host_and_port(target) else {
            let text = format!("target {target:?} has no port, by which a sidecar's listeners are found");
            return Some(Err(no_listener(text)));
        };
        if !self.sources.plain().is_complete::<Listener>() {
            self.misses_all::<Listener>();
            return None;
        }
        let (mut found, candidates) = (None, candidates(self.sources, target, host, port));
        for (name, listener) in &candidates {
            let Listener::Outbound { http, .. } = &**listener else {
                continue;
            };
            match self.routes(http) {
                None => {
                    // Any of them may turn out to be it, or have been it so far.
                    for (name, _) in &candidates {
                        self.holds(name);
                    }
                    return None;
                }
                Some(Ok(tree)) if route::virtual_host(&tree, target).is_some() => {
                    self.holds(name);
                    return Some(Ok((tree, http.limits)));
                }
                Some(Ok(tree)) => found = found.or(Some(Err(no_virtual_host(&tree, target)))),
                Some(Err(reason)) => found = found.or(Some(Err(reason))),
            }
        }
        Some(found.or_else(|| self.caught().map(Ok)).unwrap_or_else(|| {
            let text = format!("no listener of port {port} is for clients: nothing serves target {target:?}");
            Err(no_listener(text))
        }))
    }

    /// What becomes of a call to a port that no listener is for: a proxy sends it where the one listener says that everything comes to. What
    /// it does not know passes there (Istio `ALLOW_ANY`), or finds nobody (`REGISTRY_ONLY`).
    fn caught(&mut self) -> Option<(Arc<RouteTree>, TimeLimits)> {
        let all = self.sources.plain().values::<Listener>();
        let caught = all.filter_map(|(name, listener)| match &**listener {
            Listener::CatchAll(cluster) => Some((Arc::clone(name), cluster.clone())),
            _ => None,
        });
        let (name, cluster) = caught.min_by(|(a, _), (b, _)| a.cmp(b))?;
        self.holds(&name);
        let route = Route {
            retry: RetryPolicy::never(),
            ..Route::to(Split::all_to(cluster.clone()))
        };
        let host = VirtualHost::new(cluster.as_str(), vec![Domain::Any], vec![Arc::new(route)]);
        Some((Arc::new(RouteTree::new(&*name, vec![host])), TimeLimits::default()))
    }

    /// A listener's routes with its filters, once every filter that is a resource of its own is known, and can be served.
    fn routes(&mut self, http: &Http) -> Option<Resolved<RouteTree>> {
        let mut waits = false;
        // Each at its place: of two faults the first is the one that a call meets first.
        let (mut filters, mut taken) = (Vec::new(), 0);
        for extension in http.extensions.iter() {
            filters.extend_from_slice(&http.filters[taken..extension.behind]);
            taken = extension.behind;
            match self.filter(extension) {
                None => waits = true,
                Some(Ok(filter)) => filters.extend(filter),
                Some(Err(reason)) => return Some(Err(reason)),
            }
        }
        filters.extend_from_slice(&http.filters[taken..]);
        let tree = match &http.routes {
            Routes::Inline(tree) => Some(Ok(Arc::clone(tree))),
            Routes::Named(name) => match self.look::<RouteTree>(name) {
                Found::Value(tree) => Some(Ok(tree)),
                Found::None(trouble) => Some(Err(reason(trouble, ReasonKind::NoRoute))),
                Found::Pending => None,
            },
        };
        let tree = tree.filter(|_| !waits)?;
        Some(tree.map(|tree| with_filters(tree, filters)))
    }

    /// What a filter does to calls that may pass it; `None` while it is not known what it is (Envoy `ExtensionConfigSource`).
    fn filter(&mut self, extension: &ExtensionRef) -> Option<Result<Option<CallFilter>, Reason>> {
        let is_one_of = |found: &Extension| extension.types.is_empty() || extension.types.contains(&found.type_url);
        let filter = match self.look::<Extension>(&extension.name) {
            Found::Value(found) if is_one_of(&found) => found.filter.clone(),
            Found::Value(_) | Found::None(_) => match &extension.default {
                Some(default) => default.clone(),
                None => Filter::Unsupported("the control plane does not have it, or not of a type it may be".into()),
            },
            Found::Pending => match &extension.default {
                Some(default) if extension.default_without_warming => {
                    self.missing.pop();
                    default.clone()
                }
                _ => return None,
            },
        };
        Some(match filter {
            Filter::Router | Filter::NoOp => Ok(None),
            Filter::Call(what) => Ok(Some(CallFilter {
                name: (*extension.name).into(),
                what,
                disabled: extension.disabled,
            })),
            Filter::Unsupported(_) if extension.optional => Ok(None),
            Filter::Unsupported(why) => Err(Reason::new(
                ReasonKind::Refused,
                format!("http filter {:?} cannot be left out: {why}", extension.name),
            )),
        })
    }

    fn inbound_by_name(&mut self, address: &str, names: &ListenerNames) -> Option<Resolved<Inbound>> {
        let Ok(socket) = address.parse::<SocketAddr>() else {
            return Some(Err(no_listener(format!("{address:?} is not an address with a port"))));
        };
        let name: Arc<str> = match names.of_address(address) {
            Ok(name) => name.into(),
            Err(missing) => return Some(Err(no_listener(missing.to_string()))),
        };
        match self.look::<Listener>(&name) {
            Found::Value(listener) => match &*listener {
                Listener::Inbound(inbound) if inbound.address == socket => Some(Ok(Arc::clone(inbound))),
                Listener::Inbound(inbound) => Some(Err(no_listener(format!(
                    "listener {name:?} is for {}, and the server listens on {address} (gRFC A36)",
                    inbound.address
                )))),
                _ => Some(Err(no_listener(format!("listener {name:?} is not for servers")))),
            },
            Found::None(trouble) => Some(Err(reason(trouble, ReasonKind::NoListener))),
            Found::Pending => None,
        }
    }

    /// The listener made for the address, or else the one that a sidecar has for all that is sent to its workload, whose
    /// chains look at the port. One for another address says nothing of this server.
    fn virtual_inbound(&mut self, address: &str) -> Option<Resolved<Inbound>> {
        if !self.sources.plain().is_complete::<Listener>() {
            self.misses_all::<Listener>();
            return None;
        }
        let socket: Option<SocketAddr> = address.parse().ok();
        let rank = |name: &str, inbound: &Inbound| match inbound.address {
            own if Some(own) == socket => Some(0),
            _ if *name == *VIRTUAL_INBOUND => Some(1),
            _ => None,
        };
        let cache = self.sources.plain();
        let inbound = |(name, listener): (&Arc<str>, &Arc<Listener>)| match &**listener {
            Listener::Inbound(inbound) => {
                let rank = (cache.is_deleted::<Listener>(name), rank(name, inbound)?);
                Some((rank, Arc::clone(name), Arc::clone(inbound)))
            }
            _ => None,
        };
        let all = cache.values::<Listener>().filter_map(inbound);
        let Some((_, name, inbound)) = all.min_by_key(|(rank, ..)| *rank) else {
            let text = format!("the control plane has no inbound listener for the server at {address}");
            return Some(Err(no_listener(text)));
        };
        self.holds(&name);
        Some(Ok(inbound))
    }

    /// Has a listener kept that is in use, should the control plane delete it (gRFC A88): one that nobody asked for by name
    /// is forgotten then.
    fn holds(&mut self, name: &Arc<str>) {
        self.needs[ResourceKind::Listener.index()].insert(Arc::clone(name));
    }
}

/// The listeners that may be a target's: those of its port, the one for every address first (Istio has the HTTP services of a
/// port in it), then those made for this host alone. Those that were deleted and are kept come after all others: they stand
/// in only where nothing else serves the target.
fn candidates(sources: Sources<'_>, target: &str, host: &str, port: u16) -> Vec<(Arc<str>, Arc<Listener>)> {
    let literal: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    let rank = |listener: &Listener| match listener {
        Listener::Outbound { address, .. } if address.port() != port => None,
        Listener::Outbound { address, .. } if Some(address.ip()) == literal => Some(0),
        Listener::Outbound { address, .. } if address.ip().is_unspecified() => Some(1),
        Listener::Outbound { http, .. } if is_named_for(http, target) => Some(2),
        _ => None,
    };
    let cache = sources.plain();
    let all = cache.values::<Listener>();
    let ranked = all.filter_map(|(name, listener)| {
        let is_deleted = cache.is_deleted::<Listener>(name);
        Some(((is_deleted, rank(listener)?), Arc::clone(name), Arc::clone(listener)))
    });
    let mut ranked: Vec<_> = ranked.collect();
    ranked.sort_by_key(|(rank, ..)| *rank);
    ranked.into_iter().map(|(_, name, listener)| (name, listener)).collect()
}

/// Whether a listener of one address has the routes of this target: by the name of the route configuration, which Istio makes
/// of host and port, or by what it holds.
fn is_named_for(http: &Http, target: &str) -> bool {
    match &http.routes {
        Routes::Named(name) => **name == *target,
        Routes::Inline(tree) => route::virtual_host(tree, target).is_some(),
    }
}

/// The routes with the filters that their calls pass. Where nothing would come of it, which is what istiod sends everyone,
/// they stay the value that they are.
fn with_filters(tree: Arc<RouteTree>, filters: Vec<CallFilter>) -> Arc<RouteTree> {
    let speaks = |said: &[FilterOverride]| {
        let something = |one: &FilterOverride| matches!(&one.what, Override::With(kind) if !kind.is_empty());
        said.iter().any(something)
    };
    let is_heard = speaks(&tree.filter_overrides)
        || tree.virtual_hosts.iter().any(|host| {
            let of_shares = |route: &Route| {
                let mut shares = route.split().into_iter().flat_map(|split| split.clusters());
                shares.any(|share| speaks(&share.filter_overrides))
            };
            speaks(&host.filter_overrides)
                || host
                    .routes
                    .iter()
                    .any(|route| speaks(&route.filter_overrides) || of_shares(route))
        });
    if filters.is_empty() || (!is_heard && filters.iter().all(|filter| filter.what.is_empty())) {
        return tree;
    }
    Arc::new(RouteTree {
        filters,
        ..(*tree).clone()
    })
}

fn cut(target: &str, whole: Arc<RouteTree>, limits: TimeLimits, before: Option<&Cut>) -> Result<Cut, Reason> {
    if let Some(before) = before.filter(|before| Arc::ptr_eq(&before.whole, &whole) && before.limits == limits) {
        return Ok(before.clone());
    }
    let Some(host) = route::virtual_host(&whole, target) else {
        return Err(no_virtual_host(&whole, target));
    };
    let own = Arc::new(RouteTree {
        name: Arc::clone(&whole.name),
        virtual_hosts: vec![host.clone()],
        ignore_port: whole.ignore_port,
        headers: whole.headers.clone(),
        closest_rules_last: whole.closest_rules_last,
        filters: whole.filters.clone(),
        filter_overrides: whole.filter_overrides.clone(),
    });
    let own = own.within(limits);
    // Another port's change, or another service's, leaves the target's own routes the value that they were.
    let own = match before.filter(|before| before.own == own) {
        Some(before) => Arc::clone(&before.own),
        None => own,
    };
    Ok(Cut { whole, limits, own })
}

fn host_and_port(target: &str) -> Option<(&str, u16)> {
    let (host, port) = target.rsplit_once(':')?;
    Some((host, port.parse().ok()?))
}

fn no_listener(text: impl Into<Arc<str>>) -> Reason {
    Reason::new(ReasonKind::NoListener, text)
}

fn no_virtual_host(tree: &RouteTree, target: &str) -> Reason {
    let text = format!(
        "no virtual host of route configuration {:?} serves the authority {target:?}",
        tree.name
    );
    Reason::new(ReasonKind::NoRoute, text)
}
