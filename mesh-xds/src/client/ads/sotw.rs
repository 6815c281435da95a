//! State of the world: every request lists all names, and a response is answered with the last version that was good whole.

use std::sync::Arc;

use super::Variant;
use super::kind::{Reply, TypeState};
use super::take::Taking;
use crate::client::cache::{Cache, Cached};
use crate::decode::Rejected;
use crate::node::Node;
use crate::resource::ResourceKind;
use crate::wire::{Request, Response, Sotw};

/// What is remembered of one type.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// The last version that was accepted whole. Outlives streams.
    version: Arc<str>,
    /// Of the last response on this stream.
    nonce: String,
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
            memory.nonce.clear();
        }
        state.changed = false;
        Request {
            type_url: kind.type_url().into(),
            version: String::from(&*memory.version),
            nonce: memory.nonce.clone(),
            names: state.names.keys().cloned().collect(),
            error: reply.and_then(|reply| reply.refused),
            node,
        }
    }

    fn take<R: Cached>(response: Response, memory: &mut Memory, mut taking: Taking<'_, R>) -> Vec<Rejected> {
        let version: Arc<str> = response.version.into();
        for (index, raw) in response.resources.into_iter().enumerate() {
            taking.resource(index, raw, &version, None);
        }
        for error in response.errors {
            taking.error(error);
        }
        if R::KIND.absence_means_deleted() {
            taking.delete_the_rest();
        }
        let rejected = taking.rejected();
        memory.nonce = response.nonce;
        if rejected.is_empty() {
            memory.version = version;
        }
        rejected
    }
}
