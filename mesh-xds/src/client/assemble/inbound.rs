//! Which listener is a server's, and what its chains ask of requests where their routes (gRFC A36) or filters (ECDS) are resources of
//! their own.
//!
//! A server may take connections before such resources are known, and serve nobody by them: what they would refuse is not known
//! either. So the first listener of an address is published at once, and its chains are closed until their routes come; one that
//! takes another's place waits for its routes while the other goes on, as a target's tree does. Routes that are not there, were
//! refused, or ask what cannot be kept here, leave their chain closed.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use mesh_core::config::{FilterChain, Inbound, RateLimits, Reason, ReasonKind, Resolved, RouteTree, Routing};

use super::target::{Naming, no_listener};
use super::walk::{Walk, reason};
use crate::bootstrap::{ListenerNames, Profile};
use crate::client::cache::{Found, Trouble, normal_form};
use crate::convention::VIRTUAL_INBOUND;
use crate::decode::{Asks, Discovered, Fault};
use crate::resource::{ChainElsewhere, Elsewhere, Extension, ExtensionRef, Listener, ResourceKind, Routed};

/// What a server's chains were last made of, so that what did not change is not made again.
#[derive(Debug)]
pub(super) struct Memo {
    listener: Arc<Routed>,
    /// Of each chain of which something is elsewhere.
    parts: Vec<Part>,
    made: Arc<Inbound>,
}

/// What is known of what a chain has elsewhere.
#[derive(Debug, Default)]
struct Part {
    /// Its filters that are resources of their own.
    filters: Vec<Found<Vec<u8>>>,
    /// What comes of them; `None` while they are not known, or where there are none.
    asked: Option<Arc<Result<Asks, Fault>>>,
    /// Its routes, where they are a resource as well, and it is known which.
    routes: Option<Found<Vec<u8>>>,
}

impl Part {
    fn is_same(&self, other: &Self) -> bool {
        let routes = match (&self.routes, &other.routes) {
            (Some(a), Some(b)) => is_same(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        routes && are_same(&self.filters, &other.filters)
    }
}

impl Walk<'_> {
    /// What is asked of the clients of a server at `address`, or `None` while it is not known. `memo`: what that was made of last, and
    /// is made of now. Where routes are missing, that is noted, and their chains are closed.
    pub(super) fn inbound(
        &mut self,
        address: &str,
        naming: &Naming,
        memo: &mut Option<Memo>,
    ) -> Option<Resolved<Inbound>> {
        let found = match naming.profile {
            Profile::Grpc => self.inbound_by_name(address, &naming.names),
            Profile::Envoy => self.virtual_inbound(address),
        };
        let found = match found? {
            Ok(found) => found,
            Err(reason) => return Some(Err(reason)),
        };
        match &*found {
            Listener::Inbound(inbound) => {
                *memo = None;
                Some(Ok(Arc::clone(inbound)))
            }
            Listener::Routed(routed) => Some(Ok(self.routed(routed, memo))),
            _ => Some(Err(no_listener("the listener is not for servers"))),
        }
    }

    fn routed(&mut self, listener: &Arc<Routed>, memo: &mut Option<Memo>) -> Arc<Inbound> {
        let before = memo.as_ref().filter(|memo| Arc::ptr_eq(&memo.listener, listener));
        let mut parts = Vec::with_capacity(listener.elsewhere.len());
        for (index, elsewhere) in listener.elsewhere.iter().enumerate() {
            parts.push(self.part(elsewhere, before.and_then(|memo| memo.parts.get(index))));
        }
        if let Some(before) = before
            && before.parts.iter().zip(&parts).all(|(before, now)| before.is_same(now))
        {
            return Arc::clone(&before.made);
        }
        let mut made = (*listener.inbound).clone();
        for (elsewhere, part) in listener.elsewhere.iter().zip(&parts) {
            let chain = match elsewhere.chain {
                Some(index) => made.chains.get_mut(index),
                None => made.default.as_mut(),
            };
            if let Some(chain) = chain {
                complete(chain, &elsewhere.what, part);
            }
        }
        let made = match memo.take() {
            // The same again: open connections are not asked anew.
            Some(before) if *before.made == made => before.made,
            _ => Arc::new(made),
        };
        *memo = Some(Memo {
            listener: Arc::clone(listener),
            parts,
            made: Arc::clone(&made),
        });
        made
    }

    /// What is known of what a chain has elsewhere. `before`: what was known of it last.
    fn part(&mut self, elsewhere: &ChainElsewhere, before: Option<&Part>) -> Part {
        let discovered = match &elsewhere.what {
            Elsewhere::Routes(name, _) => {
                return Part {
                    routes: Some(self.routes_of(name)),
                    ..Part::default()
                };
            }
            Elsewhere::Filters(discovered) => discovered,
        };
        let found = discovered.filters.iter();
        let filters: Vec<_> = found.map(|found| self.extension(&found.extension)).collect();
        let same = before.filter(|before| are_same(&before.filters, &filters));
        let asked = match same {
            Some(before) => before.asked.clone(),
            None => asked(discovered, &filters).map(Arc::new),
        };
        let routes = match asked.as_deref() {
            Some(Ok(Asks::ByRoutes(name, _))) => Some(self.routes_of(name)),
            _ => None,
        };
        Part { filters, asked, routes }
    }

    /// The resource of a filter, as it came.
    fn extension(&mut self, extension: &ExtensionRef) -> Found<Vec<u8>> {
        let missing_before = self.missing.len();
        let name = &extension.name;
        match self.look::<Extension>(name) {
            Found::Value(found) if extension.types.contains(&found.type_url) => {
                self.bytes(ResourceKind::ExtensionConfig, name)
            }
            Found::Value(_) => Found::None(Trouble::Absent(
                format!("{name:?} is of a type that it may not be").into(),
            )),
            Found::None(trouble) => Found::None(trouble),
            Found::Pending if extension.default_without_warming => {
                self.missing.truncate(missing_before);
                Found::None(Trouble::Absent(format!("{name:?} was not heard of yet").into()))
            }
            Found::Pending => Found::Pending,
        }
    }

    /// The route configuration of this name, as it came.
    fn routes_of(&mut self, name: &Arc<str>) -> Found<Vec<u8>> {
        match self.look::<RouteTree>(name) {
            Found::Value(_) => self.bytes(ResourceKind::Route, name),
            Found::None(trouble) => Found::None(trouble),
            Found::Pending => Found::Pending,
        }
    }

    /// The bytes of a resource that is there.
    fn bytes(&self, kind: ResourceKind, name: &str) -> Found<Vec<u8>> {
        let name: Cow<'_, str> = normal_form(name);
        match self.sources.row(kind, &name).and_then(|row| row.bytes) {
            Some(bytes) => Found::Value(Arc::clone(bytes)),
            None => Found::Pending,
        }
    }

    fn inbound_by_name(&mut self, address: &str, names: &ListenerNames) -> Option<Resolved<Listener>> {
        let Ok(socket) = address.parse::<SocketAddr>() else {
            return Some(Err(no_listener(format!("{address:?} is not an address with a port"))));
        };
        let name: Arc<str> = match names.of_address(address) {
            Ok(name) => name.into(),
            Err(missing) => return Some(Err(no_listener(missing.to_string()))),
        };
        match self.look::<Listener>(&name) {
            Found::Value(listener) => match served(&listener) {
                Some(inbound) if inbound.address == socket => Some(Ok(listener)),
                Some(inbound) => Some(Err(no_listener(format!(
                    "listener {name:?} is for {}, and the server listens on {address} (gRFC A36)",
                    inbound.address
                )))),
                None => Some(Err(no_listener(format!("listener {name:?} is not for servers")))),
            },
            Found::None(trouble) => Some(Err(reason(trouble, ReasonKind::NoListener))),
            Found::Pending => None,
        }
    }

    /// The listener made for the address, or else the one that a sidecar has for all that is sent to its workload, whose
    /// chains look at the port. One for another address says nothing of this server.
    fn virtual_inbound(&mut self, address: &str) -> Option<Resolved<Listener>> {
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
        let ranked = |(name, listener): (&Arc<str>, &Arc<Listener>)| {
            let rank = (cache.is_deleted::<Listener>(name), rank(name, served(listener)?)?);
            Some((rank, Arc::clone(name), Arc::clone(listener)))
        };
        let all = cache.values::<Listener>().filter_map(ranked);
        let Some((_, name, listener)) = all.min_by_key(|(rank, ..)| *rank) else {
            let text = format!("the control plane has no inbound listener for the server at {address}");
            return Some(Err(no_listener(text)));
        };
        self.holds(&name);
        Some(Ok(listener))
    }
}

/// A server's listener, as far as it is known by itself.
fn served(listener: &Listener) -> Option<&Arc<Inbound>> {
    match listener {
        Listener::Inbound(inbound) => Some(inbound),
        Listener::Routed(routed) => Some(&routed.inbound),
        _ => None,
    }
}

/// Has a chain ask what is known of it by now; closes it where that is nothing, or what cannot be kept here.
fn complete(chain: &mut FilterChain, what: &Elsewhere, part: &Part) {
    let (name, guarding) = match (what, part.asked.as_deref()) {
        (Elsewhere::Routes(name, guarding), _) => (name, guarding),
        // As the listener has it: closed.
        (Elsewhere::Filters(_), None) => return,
        (Elsewhere::Filters(_), Some(Ok(Asks::ByRoutes(name, guarding)))) => (name, guarding),
        (Elsewhere::Filters(_), Some(Ok(Asks::Now(authorization, limits)))) => {
            (chain.authorization, chain.limits) = (Arc::new(authorization.clone()), Arc::new(limits.clone()));
            return;
        }
        (Elsewhere::Filters(_), Some(Err(fault))) => {
            let text = format!(
                "the filters of chain {:?} cannot be kept by this server: {fault}",
                chain.name
            );
            return close(chain, Reason::new(ReasonKind::Refused, text));
        }
    };
    let why = match &part.routes {
        // As the listener has it: closed.
        None | Some(Found::Pending) => return,
        Some(Found::Value(bytes)) => match guarding.routed(bytes) {
            Ok((authorization, limits)) => {
                (chain.authorization, chain.limits) = (Arc::new(authorization), Arc::new(limits));
                return;
            }
            Err(fault) => Reason::new(
                ReasonKind::Refused,
                format!("route configuration {name:?} cannot be kept by this server: {fault}"),
            ),
        },
        Some(Found::None(trouble)) => reason(trouble.clone(), ReasonKind::NoRoute),
    };
    close(chain, why);
}

fn close(chain: &mut FilterChain, why: Reason) {
    let closed = (*chain.authorization).clone().with_routing(Routing::Nothing(why));
    (chain.authorization, chain.limits) = (Arc::new(closed), Arc::<RateLimits>::default());
}

/// What a chain asks whose filters are these; `None` while one of them is not known.
fn asked(discovered: &Discovered, filters: &[Found<Vec<u8>>]) -> Option<Result<Asks, Fault>> {
    let why = |trouble: &Trouble| reason(trouble.clone(), ReasonKind::Refused).to_string();
    let troubles: Vec<String> = filters
        .iter()
        .map(|found| match found {
            Found::None(trouble) => why(trouble),
            Found::Value(_) | Found::Pending => String::new(),
        })
        .collect();
    let known = filters.iter().zip(&troubles).map(|(found, why)| match found {
        Found::Value(bytes) => Some(Ok(&bytes[..])),
        Found::None(_) => Some(Err(why.as_str())),
        Found::Pending => None,
    });
    let known: Option<Vec<_>> = known.collect();
    known.map(|known| discovered.asked(&known))
}

fn are_same(a: &[Found<Vec<u8>>], b: &[Found<Vec<u8>>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b))
}

fn is_same(a: &Found<Vec<u8>>, b: &Found<Vec<u8>>) -> bool {
    match (a, b) {
        (Found::Value(a), Found::Value(b)) => Arc::ptr_eq(a, b),
        (Found::None(a), Found::None(b)) => a == b,
        (Found::Pending, Found::Pending) => true,
        _ => false,
    }
}
