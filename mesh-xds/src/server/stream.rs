//! Serves ADS streams out of a [`SnapshotCache`]; IO only.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tonic::{Extensions, Status};

use super::ads::StreamState;
use super::cache::SnapshotCache;
use super::clients::{ClientReport, Registered};
use super::delta::DeltaState;
use super::encoded::Encoded;
use super::machine::Machine;
use super::peer::Peer;
use super::service::{Caller, Grouping};
use crate::encode::Dialect;
use crate::wire::{Delta, Requests, Responses, Serve, Sotw, Variant};

/// The most streams at once. Each costs a task and a few kilobytes; a mesh of this size has several control planes.
const MAX_STREAMS: usize = 10_000;

/// How long a client may keep a stream open without saying who it is.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves each caller its group of a cache.
pub(super) struct Streams {
    room: Arc<Semaphore>,
    cache: SnapshotCache,
    grouping: Arc<dyn Grouping>,
}

impl Streams {
    pub(super) fn new(cache: SnapshotCache, grouping: Arc<dyn Grouping>) -> Self {
        Self {
            room: Arc::new(Semaphore::new(MAX_STREAMS)),
            cache,
            grouping,
        }
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams")
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

impl Serve for Streams {
    fn begin(&self, extensions: &Extensions, requests: Requests<Sotw>) -> Result<Responses<Sotw>, Status> {
        self.start::<StreamState>(extensions, requests)
    }

    fn begin_delta(&self, extensions: &Extensions, requests: Requests<Delta>) -> Result<Responses<Delta>, Status> {
        self.start::<DeltaState>(extensions, requests)
    }
}

impl Streams {
    fn start<M: Machine>(
        &self,
        extensions: &Extensions,
        requests: Requests<M::Variant>,
    ) -> Result<Responses<M::Variant>, Status> {
        let full = |_| Status::resource_exhausted("too many streams");
        let place = Arc::clone(&self.room).try_acquire_owned().map_err(full)?;
        let peer = extensions.get::<Peer>().cloned().unwrap_or_default();
        let (sender, receiver) = mpsc::channel(1);
        let (cache, grouping) = (self.cache.clone(), Arc::clone(&self.grouping));
        // Ends with the client's half of the stream, when the receiver is dropped, or when the cache is closed.
        tokio::spawn(async move {
            let ended = serve::<M>(&cache, &*grouping, peer, requests, &sender).await;
            if let Err(status) = ended {
                drop(sender.send(Err(status)).await);
            }
            drop(place);
        });
        Ok(receiver)
    }
}

type Sender<V> = mpsc::Sender<Result<<V as Variant>::Response, Status>>;

async fn serve<M: Machine>(
    cache: &SnapshotCache,
    grouping: &dyn Grouping,
    peer: Peer,
    mut requests: Requests<M::Variant>,
    sender: &Sender<M::Variant>,
) -> Result<(), Status> {
    let first = tokio::time::timeout(FIRST_REQUEST_TIMEOUT, requests.next()).await;
    let late = |_| Status::deadline_exceeded("the first request did not come");
    let Some(first) = first.map_err(late)? else {
        return Ok(());
    };
    let node = M::Variant::node(&first).cloned().unwrap_or_default();
    let caller = Caller { node, peer };
    let group = grouping
        .group(&caller)
        .map_err(|refusal| Status::permission_denied(refusal.to_string()))?;
    let closed = || Status::unavailable("the control plane is shutting down, or groups its clients anew");
    let published = cache.watch(&group).ok_or_else(closed)?;
    let registered = cache.registry().add(ClientReport {
        stream: 0,
        node: Arc::clone(&caller.node),
        peer: caller.peer.identity,
        address: caller.peer.address,
        group,
        subscriptions: Vec::new(),
    });
    let mut state = M::new(Dialect::of(&caller.node.user_agent));
    state.on_request(first);
    talk(state, published, requests, sender, &registered)
        .await
        .map_err(|Closed| closed())
}

/// The cache was closed, or the group retired.
struct Closed;

async fn talk<M: Machine>(
    mut state: M,
    mut published: watch::Receiver<Option<Arc<Encoded>>>,
    mut requests: Requests<M::Variant>,
    sender: &Sender<M::Variant>,
    registered: &Registered,
) -> Result<(), Closed> {
    // Whether there may be something to send: asked once after each event.
    let mut stale = true;
    loop {
        registered.update(state.report());
        tokio::select! {
            room = sender.reserve(), if stale => {
                let Ok(room) = room else { return Ok(()) };
                let newest = published.borrow_and_update().clone();
                match newest.and_then(|newest| state.next_response(&newest)) {
                    Some(response) => room.send(Ok(response)),
                    None => stale = false,
                }
            }
            request = requests.next() => match request {
                Some(request) => {
                    state.on_request(request);
                    stale = true;
                }
                None => return Ok(()),
            },
            changed = published.changed() => match changed {
                Ok(()) => stale = true,
                Err(_) => return Err(Closed),
            },
        }
    }
}
