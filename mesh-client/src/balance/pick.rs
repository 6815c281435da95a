//! Which host a try goes to, and a note of where it went for those after it.

use std::sync::{Arc, Mutex, PoisonError};

use http::uri::Authority;
use http::{HeaderMap, Request, Uri};
use mesh_core::balance::Ask;
use mesh_core::balance::levels::GoneTo;
use mesh_core::config::{Endpoint, ReasonKind};
use mesh_core::entropy::Draw;
use mesh_core::route::Held;

use crate::cluster::{Host, HostSet};
use crate::error::Error;
use crate::request::{Attempt, Visited};

/// The place of the host to call; `None` when none may be called. It is noted where further tries are to go elsewhere.
///
/// A session has its host if that may be called; further tries go where any call may (Envoy).
pub(super) fn pick<B>(set: &HostSet, attempt: &Attempt<B>, ask: Ask, draw: &mut Draw) -> Option<usize> {
    if let Some(held) = of_session(attempt) {
        match set.held(&held.addresses) {
            None if held.strict => return None,
            None => {}
            Some(index) => {
                if let Some(gone_to) = &attempt.gone_to {
                    note(gone_to, set, index);
                }
                return Some(index);
            }
        }
    }
    let tried = |host: &Arc<Host>| attempt.tried.contains(&host.address());
    let Some(gone_to) = &attempt.gone_to else {
        return set.pick(ask, tried, None, draw);
    };
    let index = match ask.selection.other_priorities {
        None => set.pick(ask, tried, None, draw),
        Some(update_frequency) => {
            let visited = gone_to.lock().unwrap_or_else(PoisonError::into_inner);
            let before = GoneTo {
                priorities: &visited.priorities,
                update_frequency,
            };
            set.pick(ask, tried, Some(before), draw)
        }
    }?;
    note(gone_to, set, index);
    Some(index)
}

fn note(gone_to: &Mutex<Visited>, set: &HostSet, index: usize) {
    let mut visited = gone_to.lock().unwrap_or_else(PoisonError::into_inner);
    visited.priorities.push(set.priority(index));
    visited.hosts.push(set.hosts[index].address());
}

/// Which host the try is to go to, as the caller says.
fn of_session<B>(attempt: &Attempt<B>) -> Option<&Held> {
    attempt.call.held.as_deref().filter(|_| attempt.number == 1)
}

/// A head that names no endpoint.
pub(super) struct Unnamed {
    uri: Uri,
    headers: HeaderMap,
}

/// Has the try go by its endpoint's name, where its route asks for that. A try that looks elsewhere, since its first endpoint was gone
/// before anything was sent, goes by no name of that one: what was there before is kept in `unnamed`.
#[inline]
pub(super) fn by_endpoint<'a, B>(
    request: &mut Request<Attempt<B>>,
    endpoint: impl FnOnce() -> &'a Endpoint,
    target: Option<&Authority>,
    unnamed: &mut Option<Box<Unnamed>>,
) {
    let Some(extras) = &request.body().call.extras else {
        return;
    };
    let Some(edits) = extras.edits.as_ref().filter(|edits| edits.asks_endpoint()) else {
        return;
    };
    let edits = Arc::clone(edits);
    if let Some(unnamed) = unnamed {
        request.uri_mut().clone_from(&unnamed.uri);
        request.headers_mut().clone_from(&unnamed.headers);
    }
    let Some(name) = &endpoint().hostname else { return };
    unnamed.get_or_insert_with(|| {
        Box::new(Unnamed {
            uri: request.uri().clone(),
            headers: request.headers().clone(),
        })
    });
    let target = target.map_or("", Authority::as_str);
    let mut uri = std::mem::take(request.uri_mut());
    edits.by_endpoint(name, &mut uri, request.headers_mut(), target);
    *request.uri_mut() = uri;
}

/// Why no host was picked.
pub(super) fn nobody<B>(set: &HostSet, attempt: &Attempt<B>) -> Error {
    let name = &set.cluster.name;
    let text = match of_session(attempt) {
        Some(held) if held.strict => {
            let hosts = &held.addresses;
            format!("cluster {name:?} has no endpoint {hosts:?} that may be called, and the session is with no other")
        }
        _ => format!("cluster {name:?} has no endpoint that may be called"),
    };
    Error::unavailable(ReasonKind::NoEndpoints, text)
}
