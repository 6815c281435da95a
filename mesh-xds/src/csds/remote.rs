//! The status of a control plane's clients, type by type, as the control plane knows it.

use std::fmt;
use std::sync::Arc;

use tonic::{Extensions, Status};

use super::service::{ClientStatusService, Tell};
use super::view::{ClientView, Failure, ResourceView, Seen, Sync};
use crate::client::CacheState;
use crate::convention::SCOPE;
use crate::server::{Acknowledged, ClientReport, Line, Peer, Refusal, SnapshotCache, SubscriptionReport};
use crate::wire::csds::Question;

/// Who asks for the status of all clients.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Who its connection says it is.
    pub peer: Peer,
}

/// Decides who may read the status of all clients.
pub trait Readers: Send + std::marker::Sync + 'static {
    /// Lets a reader in or not.
    ///
    /// # Errors
    ///
    /// When it may not: it is told so with PERMISSION_DENIED.
    fn admit(&self, reader: &Reader) -> Result<(), Refusal>;
}

impl<F> Readers for F
where
    F: Fn(&Reader) -> Result<(), Refusal> + Send + std::marker::Sync + 'static,
{
    fn admit(&self, reader: &Reader) -> Result<(), Refusal> {
        self(reader)
    }
}

impl ClientStatusService {
    /// Tells of every stream to `cache`, and of each type that it is subscribed to: SYNCED, STALE, NOT SENT or ERROR, with
    /// the version that the client accepted last, and of a refusal the version refused, why and when (feature `server`).
    ///
    /// Node matchers choose among the clients. What the control plane knows of a client itself is [`ClientView::seen`].
    pub fn of_clients(cache: SnapshotCache, readers: impl Readers) -> Self {
        Self::telling(Remote {
            cache,
            readers: Box::new(readers),
        })
    }
}

struct Remote {
    cache: SnapshotCache,
    readers: Box<dyn Readers>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

impl Tell for Remote {
    fn tell(&self, question: &Question, caller: &Extensions) -> Result<Vec<ClientView>, Status> {
        let peer = caller.get::<Line>().map(|line| line.peer().clone()).unwrap_or_default();
        let refused = |refusal: Refusal| Status::permission_denied(refusal.to_string());
        self.readers.admit(&Reader { peer }).map_err(refused)?;
        let clients = self.cache.clients().into_iter();
        Ok(clients
            .filter(|report| question.is_about(&report.node))
            .map(|report| client(&report))
            .collect())
    }
}

pub(super) fn client(report: &ClientReport) -> ClientView {
    let mut node = (*report.node).clone();
    let seen = Seen {
        identity: report.peer.as_ref().map(ToString::to_string),
        address: report.address.map(|address| address.to_string()),
        group: String::from(&*report.group),
    };
    seen.note(&mut node);
    ClientView {
        node,
        scope: SCOPE.into(),
        resources: report.subscriptions.iter().map(subscription).collect(),
    }
}

pub(super) fn subscription(report: &SubscriptionReport) -> ResourceView {
    let (sync, state) = match (&report.sent, &report.acknowledged) {
        (None, _) => (Sync::NotSent, Some(CacheState::Requested)),
        (Some(_), Acknowledged::Waiting) => (Sync::Stale, None),
        (Some(_), Acknowledged::Accepted) => (Sync::Synced, Some(CacheState::Acked)),
        (Some(_), Acknowledged::Refused(_)) => (Sync::Error, Some(CacheState::Nacked)),
    };
    let text = |version: &Option<Arc<str>>| String::from(version.as_deref().unwrap_or_default());
    let failure = match &report.acknowledged {
        Acknowledged::Refused(why) => Some(Failure {
            details: String::from(&**why),
            version: text(&report.sent),
            at: report.refused_at,
            configuration: None,
        }),
        Acknowledged::Waiting | Acknowledged::Accepted => None,
    };
    ResourceView {
        type_url: report.kind.type_url().into(),
        version: text(&report.accepted),
        sync,
        state,
        failure,
        ..ResourceView::default()
    }
}
