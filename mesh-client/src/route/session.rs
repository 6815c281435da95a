//! Sessions that stay with a host: what the caller brings is read before a share is chosen, and it is told of its host, where
//! that is another, beside the answer ([`mesh_core::route::choose_kept`]).

use std::sync::Arc;

use http::Response;
use http::header::SET_COOKIE;
use mesh_core::Link;
use mesh_core::config::{ClusterName, Session, Split};
use mesh_core::entropy::Draw;
use mesh_core::route::{self, Held, RequestHead};

use super::Given;
use crate::body::ResponseBody;
use crate::cluster::Leads;

/// What is kept of a call until its answer says which host it went to.
#[derive(Debug)]
pub(super) struct Kept {
    session: Arc<Session>,
    cluster: ClusterName,
    held: Option<Arc<Held>>,
}

/// The index of the share that a request falls into, and the host that its session is with.
pub(super) fn choose(
    split: &Split,
    leads: &Leads,
    head: &RequestHead<'_>,
    link: &Link,
    draw: &mut Draw,
) -> (usize, Option<Arc<Held>>) {
    let session = |share: usize| leads.shares[share].session.as_deref();
    // A clock that cannot be read ends nothing.
    let now = || link.wall_clock().current_time().map_or(0, |now| now.as_secs());
    let choice = route::choose_kept(split, session, head, now, draw);
    (choice.share, choice.held.map(Arc::new))
}

impl Given {
    /// The caller is to know the host that answers it.
    pub(super) fn of_session(
        session: &Arc<Session>,
        head: &RequestHead<'_>,
        cluster: &ClusterName,
        held: Option<&Arc<Held>>,
    ) -> Option<Box<Self>> {
        let kept = session.is_for(head.path_and_query()).then(|| Kept {
            session: Arc::clone(session),
            cluster: cluster.clone(),
            held: held.cloned(),
        });
        kept.map(|kept| {
            Box::new(Self {
                session: Some(kept),
                ..Self::default()
            })
        })
    }

    /// Puts it into the answer's head.
    pub(crate) fn write(self, response: &mut Response<ResponseBody>) {
        let peer = response.body().peer();
        let headers = response.headers_mut();
        for cookie in self.cookies {
            headers.append(SET_COOKIE, cookie);
        }
        let Some((kept, peer)) = self.session.zip(peer) else {
            return;
        };
        if let Some((name, value)) = route::keep(&kept.session, kept.held.as_deref(), peer, &kept.cluster) {
            match name == SET_COOKIE {
                true => headers.append(name, value),
                false => headers.insert(name, value).is_some(),
            };
        }
    }
}
