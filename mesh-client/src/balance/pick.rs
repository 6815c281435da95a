//! Which host a try goes to, and a note of where it went for those after it.

use std::sync::{Arc, PoisonError};

use mesh_core::balance::Ask;
use mesh_core::balance::levels::GoneTo;
use mesh_core::config::ReasonKind;
use mesh_core::entropy::Draw;
use mesh_core::route::Held;

use crate::cluster::{Host, HostSet};
use crate::error::Error;
use crate::request::Attempt;

/// The place of the host to call; `None` when none may be called. Its priority is noted where further tries are to go elsewhere.
///
/// A session has its host if that may be called; further tries go where any call may (Envoy).
pub(super) fn pick<B>(set: &HostSet, attempt: &Attempt<B>, ask: Ask, draw: &mut Draw) -> Option<usize> {
    if let Some(held) = of_session(attempt) {
        match set.held(&held.addresses) {
            None if held.strict => return None,
            None => {}
            Some(index) => {
                if let Some(gone_to) = &attempt.gone_to {
                    let mut priorities = gone_to.lock().unwrap_or_else(PoisonError::into_inner);
                    priorities.push(set.priority(index));
                }
                return Some(index);
            }
        }
    }
    let tried = |host: &Arc<Host>| attempt.tried.contains(&host.address());
    let (Some(gone_to), Some(update_frequency)) = (&attempt.gone_to, ask.selection.other_priorities) else {
        return set.pick(ask, tried, None, draw);
    };
    let mut priorities = gone_to.lock().unwrap_or_else(PoisonError::into_inner);
    let before = GoneTo {
        priorities: &priorities,
        update_frequency,
    };
    let index = set.pick(ask, tried, Some(before), draw)?;
    priorities.push(set.priority(index));
    Some(index)
}

/// Which host the try is to go to, as the caller says.
fn of_session<B>(attempt: &Attempt<B>) -> Option<&Held> {
    attempt.call.held.as_deref().filter(|_| attempt.number == 1)
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
