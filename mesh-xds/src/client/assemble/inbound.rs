//! Which listener is a server's, and what its chains ask of requests where their routes are resources of their own (gRFC A36).
//!
//! A server may take connections before such routes are known, and serve nobody by them: what they would refuse is not known
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
use crate::client::cache::{Found, normal_form};
use crate::convention::VIRTUAL_INBOUND;
use crate::resource::{Listener, ResourceKind, Routed, RoutedElsewhere};

/// What a server's chains were last made of, so that what did not change is not made again.
#[derive(Debug)]
pub(super) struct Memo {
    listener: Arc<Routed>,
    /// Of each chain whose routes are elsewhere.
    routes: Vec<Found<Vec<u8>>>,
    made: Arc<Inbound>,
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
        let elsewhere = listener.elsewhere.iter();
        let routes: Vec<_> = elsewhere.map(|elsewhere| self.routes_of(&elsewhere.routes)).collect();
        if let Some(memo) = memo
            && Arc::ptr_eq(&memo.listener, listener)
            && memo
                .routes
                .iter()
                .zip(&routes)
                .all(|(before, now)| is_same(before, now))
        {
            return Arc::clone(&memo.made);
        }
        let mut made = (*listener.inbound).clone();
        for (elsewhere, routes) in listener.elsewhere.iter().zip(&routes) {
            let chain = match elsewhere.chain {
                Some(index) => made.chains.get_mut(index),
                None => made.default.as_mut(),
            };
            if let Some(chain) = chain {
                route(chain, elsewhere, routes);
            }
        }
        let made = match memo.take() {
            // The same again: open connections are not asked anew.
            Some(before) if *before.made == made => before.made,
            _ => Arc::new(made),
        };
        *memo = Some(Memo {
            listener: Arc::clone(listener),
            routes,
            made: Arc::clone(&made),
        });
        made
    }

    /// The route configuration of this name, as it came.
    fn routes_of(&mut self, name: &Arc<str>) -> Found<Vec<u8>> {
        match self.look::<RouteTree>(name) {
            Found::Value(_) => {
                let name: Cow<'_, str> = normal_form(name);
                let row = self.sources.row(ResourceKind::Route, &name);
                match row.and_then(|row| row.bytes) {
                    Some(bytes) => Found::Value(Arc::clone(bytes)),
                    None => Found::Pending,
                }
            }
            Found::None(trouble) => Found::None(trouble),
            Found::Pending => Found::Pending,
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

/// Has a chain ask what its routes say; closes it where they say nothing, or what cannot be kept here.
fn route(chain: &mut FilterChain, elsewhere: &RoutedElsewhere, routes: &Found<Vec<u8>>) {
    let name = &elsewhere.routes;
    let why = match routes {
        // As the listener has it: closed.
        Found::Pending => return,
        Found::Value(bytes) => match elsewhere.guarding.routed(bytes) {
            Ok((authorization, limits)) => {
                (chain.authorization, chain.limits) = (Arc::new(authorization), Arc::new(limits));
                return;
            }
            Err(fault) => Reason::new(
                ReasonKind::Refused,
                format!("route configuration {name:?} cannot be kept by this server: {fault}"),
            ),
        },
        Found::None(trouble) => reason(trouble.clone(), ReasonKind::NoRoute),
    };
    let closed = (*chain.authorization).clone().with_routing(Routing::Nothing(why));
    (chain.authorization, chain.limits) = (Arc::new(closed), Arc::<RateLimits>::default());
}

fn is_same(a: &Found<Vec<u8>>, b: &Found<Vec<u8>>) -> bool {
    match (a, b) {
        (Found::Value(a), Found::Value(b)) => Arc::ptr_eq(a, b),
        (Found::None(a), Found::None(b)) => a == b,
        (Found::Pending, Found::Pending) => true,
        _ => false,
    }
}
