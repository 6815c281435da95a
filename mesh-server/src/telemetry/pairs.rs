//! What the requests of one connection are counted under: who its peer says it is, and the pairs found so far.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_core::report::standard::{Edge, PeerMetadata};

/// How many authorities of one connection are found without asking the register: a client has one, mostly, and one that asks for
/// more pays for it.
const MAX_AUTHORITIES: usize = 8;

/// See the module. A lock for a moment: requests of one connection seldom meet.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    peer: Option<PeerMetadata>,
    /// By authority.
    known: Vec<(Box<str>, Arc<Edge>)>,
}

impl Pairs {
    /// The peer says who it is. Its first word counts.
    pub(super) fn introduce(&self, peer: impl FnOnce() -> Option<PeerMetadata>) {
        let mut state = self.lock();
        if state.peer.is_some() {
            return;
        }
        if let Some(peer) = peer() {
            state.peer = Some(peer);
            // They do not know it.
            state.known.clear();
        }
    }

    /// Who the peer says it is.
    pub(super) fn peer(&self) -> Option<PeerMetadata> {
        self.lock().peer.clone()
    }

    /// The pair of requests to `authority`, if there were any.
    pub(super) fn known(&self, authority: &str) -> Option<Arc<Edge>> {
        let state = self.lock();
        let found = state.known.iter().find(|(known, _)| **known == *authority);
        found.map(|(_, edge)| Arc::clone(edge))
    }

    /// The pair of requests to `authority`, which may have come to be known meanwhile.
    pub(super) fn find(&self, authority: &str, make: impl FnOnce() -> Arc<Edge>) -> Arc<Edge> {
        if let Some(edge) = self.known(authority) {
            return edge;
        }
        let edge = make();
        let mut state = self.lock();
        if state.known.len() == MAX_AUTHORITIES {
            state.known.remove(0);
        }
        state.known.push((authority.into(), Arc::clone(&edge)));
        edge
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
