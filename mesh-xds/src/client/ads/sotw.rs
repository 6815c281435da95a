//! State of the world: every request lists all names, and a response is answered with the last version that was good whole.
//!
//! A name that was dropped and is wanted again on the same stream needs care. What came for it is forgotten, but the control
//! plane may never have noticed: it ignores lists that crossed with a response, and would not send again what it sent. So
//! the type is then asked for without nonce and version, which control planes answer as if it were the first time.

use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;

use super::Variant;
use super::kind::{Reply, Timer, TypeState};
use super::read::{Item, Unread};
use super::take::{Taken, Taking};
use crate::client::cache::{Cache, Cached};
use crate::node::Node;
use crate::resource::ResourceKind;
use crate::wire::{Request, Response, Sotw};

/// The most names remembered as dropped on one stream. When there are more, the type is asked for afresh.
const MAX_DROPPED: usize = 4096;

/// What is remembered of one type.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// The last version that was accepted whole. Outlives streams.
    version: Arc<str>,
    /// Of the last response on this stream.
    nonce: String,
    /// The names said on this stream since all were last asked for afresh, with those dropped since.
    said: BTreeSet<Arc<str>>,
    /// All are to be asked for as if for the first time.
    afresh: bool,
}

impl Variant for Sotw {
    type Memory = Memory;

    /// The newest response stands for all before it.
    const ANSWERS_EACH: bool = false;

    fn kind(response: &Response) -> Option<ResourceKind> {
        response.kind()
    }

    fn nonce(response: &Response) -> &str {
        &response.nonce
    }

    fn request(
        kind: ResourceKind,
        state: &mut TypeState<Memory>,
        _: &Cache,
        reply: Option<Reply>,
        node: Option<Arc<Node>>,
    ) -> Request {
        let memory = &mut state.memory;
        if !state.asked {
            (memory.nonce, memory.said, memory.afresh) = Default::default();
        }
        if state.everything {
            // The list is empty, which asks for everything as a stream's first word and stays so.
            state.changed = false;
            memory.afresh = false;
        } else if !state.asked || state.changed {
            let again = |name: &Arc<str>| state.names.get(name) == Some(&Timer::Idle);
            let is_full = memory.said.len() > state.names.len() + MAX_DROPPED;
            memory.afresh |= is_full || memory.said.iter().any(again);
            // An empty list would ask for everything then.
            memory.afresh &= !state.names.is_empty();
            memory.said.extend(state.names.keys().cloned());
        }
        // An answer goes first, with its nonce.
        let afresh = reply.is_none() && mem::take(&mut memory.afresh);
        if afresh {
            memory.said = state.names.keys().cloned().collect();
        }
        state.changed = memory.afresh;
        let (version, nonce) = match afresh {
            true => Default::default(),
            false => (String::from(&*memory.version), memory.nonce.clone()),
        };
        Request {
            type_url: kind.type_url().into(),
            version,
            nonce,
            names: state.said().cloned().collect(),
            error: reply.and_then(|reply| reply.refused),
            node,
        }
    }

    fn resources(response: &mut Response) -> Vec<Unread> {
        let version: Arc<str> = response.version.as_str().into();
        let resources = mem::take(&mut response.resources).into_iter();
        let unread = |raw| Unread {
            raw: Some(raw),
            label: None,
            version: Arc::clone(&version),
            ttl: None,
        };
        resources.map(unread).collect()
    }

    fn take<R: Cached>(rest: Response, items: Vec<Item<R>>, memory: &mut Memory, taking: Taking<'_, R>) -> Taken {
        let mut taking = taking.of_version(&rest.version);
        for item in items {
            taking.item(item);
        }
        for error in rest.errors {
            taking.error(error);
        }
        if R::KIND.absence_means_deleted() {
            taking.delete_the_rest();
        }
        taking.complete();
        let taken = taking.taken();
        memory.nonce = rest.nonce;
        if taken.rejected.is_empty() {
            memory.version = rest.version.into();
        }
        taken
    }
}
