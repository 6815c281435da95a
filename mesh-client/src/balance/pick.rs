//! Which host a try goes to, and a note of where it went for those after it.

use std::sync::{Arc, PoisonError};

use mesh_core::balance::Ask;
use mesh_core::balance::levels::GoneTo;
use mesh_core::entropy::Draw;

use crate::cluster::{Host, HostSet};
use crate::request::Attempt;

/// The place of the host to call; `None` when none may be called. Its priority is noted where further tries are to go elsewhere.
pub(super) fn pick<B>(set: &HostSet, attempt: &Attempt<B>, ask: Ask, draw: &mut Draw) -> Option<usize> {
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
