//! Calling authorizers outside of the process: who they are is given by the application, since this crate makes no calls of its own.
//!
//! A configuration names a cluster; the application says what calls it, mostly a channel of mesh-client. What is sent and what an answer
//! does is [`mesh_core::ext_authz`]'s to say. Here stands what bounds a call: its time, how many there are at once, how much of an answer
//! is read, and a circuit that is open while an authorizer fails. State is kept by the authorizer's name for as long as the layer lives,
//! so a new configuration does not forget that somebody is down.

mod call;
mod proto;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::Full;
use mesh_core::breaker::Breaker;
use mesh_core::ext_authz::Circuit;

pub(crate) use call::{Asked, check};

use crate::outside::{BoxCaller, OutsideCaller};

/// The body of a request to an authorizer.
pub type CheckBody = Full<Bytes>;

type Make = dyn Fn(&str) -> BoxCaller + Send + Sync;

/// How many requests may be asked about at once, of one authorizer: each holds a place of its server until it is answered.
pub(crate) const MAX_CHECKS: u32 = 1024;

/// How many authorizers are kept. Names come from configurations, which may change for ever.
pub(crate) const MAX_AUTHORIZERS: usize = 64;

/// Whom the application gave, and how each of them does.
#[derive(Clone, Default)]
pub(crate) struct Authorizers {
    named: HashMap<Box<str>, BoxCaller>,
    others: Option<Arc<Make>>,
    living: Arc<Mutex<HashMap<Box<str>, Arc<Authorizer>>>>,
}

/// One authorizer.
pub(crate) struct Authorizer {
    caller: Mutex<BoxCaller>,
    in_flight: Breaker,
    circuit: Mutex<Circuit>,
}

impl Authorizers {
    pub(crate) fn insert<S: OutsideCaller>(&mut self, target: Box<str>, service: S) {
        self.named.insert(target, service.boxed());
    }

    pub(crate) fn others<S: OutsideCaller>(&mut self, make: impl Fn(&str) -> S + Send + Sync + 'static) {
        self.others = Some(Arc::new(move |target: &str| make(target).boxed()));
    }

    /// Who is called at `target`; `None`: the application gave nobody.
    pub(crate) fn find(&self, target: &str) -> Option<Arc<Authorizer>> {
        let mut living = self.living.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = living.get(target) {
            return Some(Arc::clone(found));
        }
        let caller = match (self.named.get(target), &self.others) {
            (Some(named), _) => named.clone(),
            (None, Some(make)) => make(target),
            (None, None) => return None,
        };
        if living.len() >= MAX_AUTHORIZERS {
            // Whoever is not asked at this moment is most likely of a configuration that has gone.
            living.retain(|_, authorizer| Arc::strong_count(authorizer) > 1);
        }
        let authorizer = Arc::new(Authorizer {
            caller: Mutex::new(caller),
            in_flight: Breaker::default(),
            circuit: Mutex::default(),
        });
        living.insert(target.into(), Arc::clone(&authorizer));
        Some(authorizer)
    }
}

impl Authorizer {
    fn caller(&self) -> BoxCaller {
        self.caller.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn circuit<T>(&self, look: impl FnOnce(&mut Circuit) -> T) -> T {
        look(&mut self.circuit.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Authorizers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorizers")
            .field("named", &self.named.keys())
            .field("others", &self.others.is_some())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorizer")
            .field("in_flight", &self.in_flight.used())
            .finish_non_exhaustive()
    }
}
