//! Which listener is a target's, in each of the two shapes a control plane has.
//!
//! To a gRPC client a target *is* a listener: its name is made of the target's by a template (gRFCs A27, A47). A sidecar is
//! sent every listener there is and would catch connections by address; a call that is still in the process has no address
//! yet, so its listener is the one of the port it asks for that has a virtual host for its authority. Of the routes of a
//! port, which serve every service on it, only the target's virtual host is kept: the others' clusters are not its business.

use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::config::{
    CallFilter, Domain, FilterOverride, Override, Reason, ReasonKind, Resolved, RetryPolicy, Route, RouteTree, Split,
    Telemetry, TimeLimits, VirtualHost,
};
use mesh_core::route;

use super::walk::{Walk, reason};
use crate::bootstrap::{ListenerNames, Profile};
use crate::client::cache::{Found, Sources, normal_form};
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
                Listener::Outbound { .. } | Listener::Inbound(_) | Listener::Routed(_) | Listener::CatchAll(_) => {
                    Some(Err(no_listener(format!(
                        "listener {name:?} is a socket's: it is not for clients"
                    ))))
                }
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
        for candidate in &candidates {
            let (name, listener) = (&candidate.name, &candidate.listener);
            let Listener::Outbound { http, .. } = &**listener else {
                continue;
            };
            if candidate.is_deleted && !self.may_serve(http, target) {
                continue;
            }
            let needed_before = candidate.is_deleted.then(|| self.needs.clone());
            match self.routes(http) {
                None => {
                    // Any of them may turn out to be it, or have been it so far.
                    for candidate in &candidates {
                        self.holds(&candidate.name);
                    }
                    return None;
                }
                Some(Ok(tree)) if route::virtual_host(&tree, target).is_some() => {
                    self.holds(name);
                    return Some(Ok((tree, http.limits)));
                }
                // What was deleted stands in where it serves, and is no reason where it does not: whether it is still
                // remembered must not change what a caller is told. It is forgotten then, and nobody would come to take back what was
                // asked for on its behalf.
                Some(_) if candidate.is_deleted => self.needs = needed_before.unwrap_or_default(),
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

    /// Whether a deleted listener may serve a target: its routes are there with a virtual host for it, or are waited for. Where they are
    /// not, nothing of it is asked for.
    fn may_serve(&self, http: &Http, target: &str) -> bool {
        match &http.routes {
            Routes::Inline(tree) => route::virtual_host(tree, target).is_some(),
            Routes::Named(name) => match self.sources.find::<RouteTree>(&normal_form(name)) {
                Found::Value(tree) => route::virtual_host(&tree, target).is_some(),
                Found::None(_) => false,
                Found::Pending => true,
            },
        }
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
        Some(tree.map(|tree| told_of(with_filters(tree, filters), &http.telemetry)))
    }

    /// What a filter does to calls that may pass it; `None` while it is not known what it is (Envoy `ExtensionConfigSource`).
    fn filter(&mut self, extension: &ExtensionRef) -> Option<Result<Option<CallFilter>, Reason>> {
        let is_one_of = |found: &Extension| extension.types.is_empty() || extension.types.contains(&found.type_url);
        let missing_before = self.missing.len();
        let name = &extension.name;
        let filter = match self.look::<Extension>(name) {
            Found::Value(found) if is_one_of(&found) && !found.is_unsupported() => {
                self.filters.insert(Arc::clone(name), Arc::clone(&found));
                found.filter.clone()
            }
            // Envoy takes none that is of another type, or that it does not have: it goes on with the last one that it took, or with
            // the default.
            Found::Value(found) => match (
                self.filters.get(name).filter(|kept| is_one_of(kept)),
                &extension.default,
            ) {
                (Some(kept), _) => kept.filter.clone(),
                (None, Some(default)) => default.clone(),
                (None, None) if is_one_of(&found) => found.filter.clone(),
                (None, None) => Filter::Unsupported(format!("{:?} is not of its types", found.type_url).into()),
            },
            Found::None(trouble) => {
                self.filters.remove(name);
                let why = || Filter::Unsupported(reason(trouble, ReasonKind::Refused).to_string().into());
                extension.default.clone().unwrap_or_else(why)
            }
            Found::Pending => match &extension.default {
                Some(default) if extension.default_without_warming => {
                    self.missing.truncate(missing_before);
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

    /// Has a listener kept that is in use, should the control plane delete it (gRFC A88): one that nobody asked for by name
    /// is forgotten then.
    pub(super) fn holds(&mut self, name: &Arc<str>) {
        self.needs[ResourceKind::Listener.index()].insert(Arc::clone(name));
    }
}

/// The listeners that may be a target's: those of its port, the one for every address first (Istio has the HTTP services of a
/// port in it), then those made for this host alone. Those that were deleted and are kept come after all others: they stand
/// in only where nothing else serves the target.
fn candidates(sources: Sources<'_>, target: &str, host: &str, port: u16) -> Vec<Candidate> {
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
        let candidate = Candidate {
            is_deleted: cache.is_deleted::<Listener>(name),
            name: Arc::clone(name),
            listener: Arc::clone(listener),
        };
        Some((rank(listener)?, candidate))
    });
    let mut ranked: Vec<_> = ranked.collect();
    ranked.sort_by_key(|(rank, candidate)| (candidate.is_deleted, *rank));
    ranked.into_iter().map(|(_, candidate)| candidate).collect()
}

/// A listener that may be a target's.
struct Candidate {
    name: Arc<str>,
    listener: Arc<Listener>,
    /// The control plane no longer has it.
    is_deleted: bool,
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

/// The routes with what their listener tells of calls; mostly that is nothing, and they stay the value that they are.
fn told_of(tree: Arc<RouteTree>, telemetry: &Telemetry) -> Arc<RouteTree> {
    if tree.telemetry == *telemetry {
        return tree;
    }
    Arc::new(RouteTree {
        telemetry: telemetry.clone(),
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
        telemetry: whole.telemetry.clone(),
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

pub(super) fn no_listener(text: impl Into<Arc<str>>) -> Reason {
    Reason::new(ReasonKind::NoListener, text)
}

fn no_virtual_host(tree: &RouteTree, target: &str) -> Reason {
    let text = format!(
        "no virtual host of route configuration {:?} serves the authority {target:?}",
        tree.name
    );
    Reason::new(ReasonKind::NoRoute, text)
}
