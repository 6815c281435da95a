//! Which cluster: virtual host, route, and the weighted choice, once per request; and what the route does besides.
//!
//! Pure: the same request and the same random number give the same answer, so `explain` and the data plane share one engine.

mod edits;
mod fault;
mod filters;
mod hash;
mod head;
mod host;
mod matching;
mod redirect;
mod rewrite;
mod session;
mod value;

use std::sync::Arc;

use crate::config::{Route, Split};
use crate::entropy::Draw;

pub use edits::{Answer, Edits};
pub use fault::{Aborted, Injection, faults_of, inject};
pub use hash::{Caller, Hashed, cookie, hash, set_cookie};
pub use head::{RequestHead, is_grpc};
pub(crate) use host::best_host;
pub use host::virtual_host;
pub(crate) use matching::{header_passes, header_passes_as, header_passes_in, parameter, takes};
use matching::{takes_otherwise, takes_path};
pub use redirect::location;
pub use rewrite::InvalidRewrite;
pub use session::{Choice, Held, choose_kept, keep, session_of};

/// The index of the first route that takes the request (Envoy and gRFC A28: first match wins).
///
/// `draw` is drawn from once, and only if a route that would take the request asks for a part of its calls: the fractions of
/// all routes see one number (Envoy), so that the calls of a share stay together when it is widened.
pub fn first_match(routes: &[Arc<Route>], head: &RequestHead<'_>, draw: &mut Draw) -> Option<usize> {
    let (path, mut lot) = (head.path(), None);
    routes.iter().position(|route| {
        takes_path(&route.matches, path)
            && takes_otherwise(&route.matches, head)
            && (route.matches.fraction).is_none_or(|part| part.holds(*lot.get_or_insert_with(|| draw.next())))
    })
}

/// The index of the share that this request falls into. Random and independent for each request (gRFC A28; Istio), never a
/// rotation, so that shares hold for every slice of the traffic.
pub fn choose(split: &Split, draw: &mut Draw) -> usize {
    if split.clusters().len() == 1 {
        return 0;
    }
    split.at(draw.below(u64::from(split.total())) as u32)
}

#[cfg(test)]
mod tests;
