//! Incremental: only differences are said, each response is answered by itself, and versions belong to resources.
//!
//! A stream's first request of a type says which versions are held, so that nothing of it comes again. Held is what is good
//! and undisputed: a resource that was refused or deleted since its last good value is asked for anew, and so heals. What
//! the server lists as removed does not exist; as in the other variant its last good value goes on serving (gRFC A88).
//!
//! A heartbeat, which is a resource without a body, says that the resource is there as it was, and renews its time to live.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Variant;
use super::kind::{Reply, Timer, TypeState};
use super::read::{Item, Unread};
use super::take::{Taken, Taking};
use crate::client::cache::{Cache, Cached};
use crate::node::Node;
use crate::resource::ResourceKind;
use crate::wire::{Delta, DeltaRequest, DeltaResponse, Versioned};

/// What is remembered of one type.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// The names that the control plane takes to be subscribed.
    said: BTreeSet<Arc<str>>,
}

impl Variant for Delta {
    type Memory = Memory;

    /// Each holds other resources.
    const ANSWERS_EACH: bool = true;

    fn kind(response: &DeltaResponse) -> Option<ResourceKind> {
        response.kind()
    }

    fn nonce(response: &DeltaResponse) -> &str {
        &response.nonce
    }

    fn request(
        kind: ResourceKind,
        state: &mut TypeState<Memory>,
        cache: &Cache,
        reply: Option<Reply>,
        node: Option<Arc<Node>>,
    ) -> DeltaRequest {
        let mut request = DeltaRequest {
            type_url: kind.type_url().into(),
            node,
            ..DeltaRequest::default()
        };
        if let Some(reply) = reply {
            (request.nonce, request.error) = (reply.nonce, reply.refused);
        }
        if !state.asked {
            request.held = cache.held(kind);
            if state.everything {
                // What was refused is not held. But of what is gone since, who asks for everything is told only what it says that
                // it has: so that is said, in a version that nothing has.
                let refused = cache.refused(kind).into_iter();
                request.held.extend(refused.map(|name| (name, Arc::default())));
            }
            // Nothing said first asks for everything.
            request.subscribe = state.said().cloned().collect();
        } else if state.changed {
            // A name that was dropped and is wanted again is said again, unless it came since: what came before is forgotten.
            let said = &state.memory.said;
            let is_new = |name: &Arc<str>, timer: Timer| timer == Timer::Idle || !said.contains(name);
            let new = state
                .names
                .iter()
                .filter(|(name, timer)| !state.everything && is_new(name, **timer));
            request.subscribe = new.map(|(name, _)| Arc::clone(name)).collect();
            let still = |name: &Arc<str>| !state.everything && state.names.contains_key(name);
            let dropped = state.memory.said.iter().filter(|name| !still(name));
            request.unsubscribe = dropped.cloned().collect();
        }
        if !state.asked || state.changed {
            state.memory.said = state.said().cloned().collect();
        }
        state.changed = false;
        request
    }

    fn resources(response: &mut DeltaResponse) -> Vec<Unread> {
        let resources = std::mem::take(&mut response.resources).into_iter();
        let unread = |one: Versioned| Unread {
            raw: one.raw,
            label: Some(one.name),
            version: one.version,
            ttl: one.ttl,
        };
        resources.map(unread).collect()
    }

    fn take<R: Cached>(rest: DeltaResponse, items: Vec<Item<R>>, _: &mut Memory, mut taking: Taking<'_, R>) -> Taken {
        for item in items {
            taking.item(item);
        }
        for error in rest.errors {
            taking.error(error);
        }
        for name in rest.removed {
            taking.remove(name);
        }
        taking.complete();
        taking.taken()
    }
}
