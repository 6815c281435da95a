//! Serves streams out of a [`SnapshotCache`]; IO only.
//!
//! Each stream is one task with a queue of one response. The next is made when that one is taken, from what is published
//! then, so a client that reads slowly costs no memory and skips what it missed. One that reads nothing for
//! [`PATIENCE`] is cut off together with its connection: HTTP/2 has no other way to be rid of a message that waits for
//! a window, and a thousand such would be a thousand messages.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh_core::report::Tally;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::body::Body;
use tonic::{Code, Extensions, Status};

use super::ads::StreamState;
use super::cache::SnapshotCache;
use super::clients::{ClientReport, Registered, SubscriptionReport};
use super::delta::DeltaState;
use super::encoded::{Encoded, View};
use super::machine::{Machine, Misuse, Overdue, settle_type};
use super::pace::Pace;
use super::peer::Line;
use super::room::{Place, Room, Whose};
use super::service::{Caller, Grouping};
use super::unfinished::Unfinished;
use crate::convention::PUSHBACK;
use crate::encode::Dialect;
use crate::resource::ResourceKind;
use crate::wire::{Delta, Requests, Responses, Serve, Sotw, Variant, node_size};

/// How long a client may keep a stream open without saying who it is.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest node taken, in bytes. It is kept for as long as the stream lasts and told to who asks for the clients' status;
/// Istio's agents, which say most of a workload in it, send a few KiB.
const MAX_NODE_BYTES: usize = 64 * 1024;

/// How long a response may wait to be taken. Three times what a slow handshake or a long pause of a client's garbage
/// collector takes; as long as the client's own keep-alive waits before it asks.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Stands in for "no deadline" in a timer that must have one.
const FAR: Duration = Duration::from_secs(24 * 60 * 60);

/// What is counted of streams, by reason: those that did not begin, and those that were ended here.
const REFUSED: &str = "xds_stream_refused";
const DROPPED: &str = "xds_stream_dropped";
/// And of what was said to a client that had not got ready for it in time.
const OVERDUE: &str = "xds_overdue";

/// Serves each caller its group of a cache. Clones are one.
#[derive(Clone)]
pub(super) struct Streams(Arc<Shared>);

struct Shared {
    room: Room,
    unfinished: Unfinished,
    /// Only whose connection showed a certificate is served.
    authenticated: bool,
    pace: Mutex<Pace>,
    cache: SnapshotCache,
    grouping: Box<dyn Grouping>,
}

impl Streams {
    pub(super) fn new(cache: SnapshotCache, grouping: Box<dyn Grouping>, authenticated: bool) -> Self {
        Self(Arc::new(Shared {
            room: Room::default(),
            unfinished: Unfinished::default(),
            authenticated,
            pace: Mutex::default(),
            cache,
            grouping,
        }))
    }
}

impl Shared {
    /// Whether the peer of this connection, which has said who it is, may begin a stream now.
    fn begin(&self, line: &Line) -> Result<(), Duration> {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.begin(Whose::of(line.peer()), &mut line.rate(), Instant::now())
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams")
            .field("cache", &self.0.cache)
            .finish_non_exhaustive()
    }
}

impl Serve for Streams {
    fn watch(&self, request: http::Request<Body>) -> http::Request<Body> {
        self.0.unfinished.watch(request)
    }

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
        let shared = Arc::clone(&self.0);
        let line = extensions.get::<Line>().cloned().unwrap_or_default();
        let place = enter(&shared.room, &line, shared.authenticated).inspect_err(|refusal| {
            shared.cache.tally().count(REFUSED, unentered(refusal));
        })?;
        let (sender, receiver) = mpsc::channel(1);
        // Ends with the client's half of the stream, when the receiver is dropped, or when the cache is closed.
        tokio::spawn(async move {
            if let Err(end) = serve::<M>(&shared, &line, requests, &sender).await {
                part::<M::Variant>(end, shared.cache.tally(), &line, &sender).await;
            }
            drop(place);
        });
        Ok(receiver)
    }
}

/// A place for a stream of this connection, before anything is said on it: a stranger gets none.
pub(super) fn enter(room: &Room, line: &Line, authenticated: bool) -> Result<Place, Status> {
    if authenticated && line.peer().identity.is_none() {
        return Err(Status::permission_denied("show the certificate of a workload"));
    }
    room.take(line)
        .ok_or_else(|| Status::resource_exhausted("too many streams"))
}

/// As what it is counted that a stream got no place.
pub(super) fn unentered(refusal: &Status) -> &'static str {
    match refusal.code() {
        Code::ResourceExhausted => "too_many",
        _ => "stranger",
    }
}

/// An appointment in gRPC's words, for whoever reads them (gRFC A6).
fn come_again(wait: Duration) -> Status {
    let mut status = Status::resource_exhausted(format!(
        "too many streams begin at once; come again in {} ms",
        wait.as_millis()
    ));
    let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    status.metadata_mut().insert(PUSHBACK, millis.into());
    status
}

/// Why a stream was ended from this side.
enum End {
    /// It came too early, and is told when to come.
    Early(Duration),
    /// It is told so.
    Told { reason: &'static str, status: Status },
    /// It takes nothing, so it is told nothing.
    Slow,
}

impl End {
    fn told(reason: &'static str, status: impl Into<Status>) -> Self {
        let status = status.into();
        Self::Told { reason, status }
    }

    /// The cache was closed, or the group retired.
    fn closed() -> Self {
        let text = "the control plane is shutting down, or groups its clients anew";
        Self::told("closed", Status::unavailable(text))
    }
}

/// A message that cannot be read, or would take too much room if it were.
impl From<Status> for End {
    fn from(unread: Status) -> Self {
        Self::told("unreadable", unread)
    }
}

impl From<Misuse> for End {
    fn from(misuse: Misuse) -> Self {
        Self::told("misuse", misuse)
    }
}

async fn part<V: Variant>(end: End, tally: &Tally, line: &Line, sender: &Sender<V>) {
    let reason = match end {
        End::Early(wait) => {
            drop(timeout(PATIENCE, sender.send(Err(come_again(wait)))).await);
            return tally.count(REFUSED, "too_fast");
        }
        End::Told { reason, status } => {
            // An error is late if a response waits before it, and lost if the client never takes that.
            drop(timeout(PATIENCE, sender.send(Err(status))).await);
            reason
        }
        End::Slow => {
            tracing::warn!(peer = ?line.peer(), "a client took no response for {} s: cut off", PATIENCE.as_secs());
            line.hang_up();
            "slow_reader"
        }
    };
    tally.count(DROPPED, reason);
}

type Sender<V> = mpsc::Sender<Result<<V as Variant>::Response, Status>>;

async fn serve<M: Machine>(
    shared: &Shared,
    line: &Line,
    mut requests: Requests<M::Variant>,
    sender: &Sender<M::Variant>,
) -> Result<(), End> {
    let first = timeout(FIRST_REQUEST_TIMEOUT, requests.next()).await;
    let late = |_| End::told("late", Status::deadline_exceeded("the first request did not come"));
    let Some(mut first) = first.map_err(late)?? else {
        return Ok(());
    };
    settle_type(requests.only(), M::Variant::type_url(&mut first))?;
    let node = M::Variant::node(&first).cloned().unwrap_or_default();
    if node_size(&node) > MAX_NODE_BYTES {
        let text = format!("node: more than {MAX_NODE_BYTES} bytes");
        return Err(End::told("misuse", Status::invalid_argument(text)));
    }
    let caller = Caller {
        node,
        peer: line.peer().clone(),
    };
    shared.begin(line).map_err(End::Early)?;
    let dialect =
        Dialect::of(&caller.node).map_err(|error| End::told("misuse", Status::invalid_argument(error.to_string())))?;
    let refused = |refusal: super::Refusal| End::told("refused", Status::permission_denied(refusal.to_string()));
    let group = shared.grouping.group(&caller).map_err(refused)?;
    let published = shared.cache.watch(&group).ok_or_else(End::closed)?;
    let registered = shared.cache.registry().add(ClientReport {
        stream: 0,
        node: Arc::clone(&caller.node),
        peer: caller.peer.identity,
        address: caller.peer.address,
        group,
        subscriptions: Vec::new(),
    });
    let mut state = M::new(dialect);
    state.on_request(first)?;
    let talk = Talk {
        state,
        told: Published {
            newest: published,
            dialect,
            listeners: Vec::new(),
            view: None,
        },
        registered,
        tally: shared.cache.tally().clone(),
    };
    talk.run(requests, sender).await
}

/// What is published, as one client is told it.
struct Published {
    newest: watch::Receiver<Option<Arc<Encoded>>>,
    dialect: Dialect,
    /// The names that the client asks for, of listeners.
    listeners: Vec<Arc<str>>,
    view: Option<(Arc<Encoded>, View)>,
}

impl Published {
    /// The newest; `None` until there is one.
    fn view(&mut self) -> Option<&View> {
        let newest = self.newest.borrow_and_update().clone()?;
        if !matches!(&self.view, Some((seen, _)) if Arc::ptr_eq(seen, &newest)) {
            let view = newest.view_for(self.dialect, &self.listeners);
            self.view = Some((newest, view));
        }
        self.view.as_ref().map(|(_, view)| view)
    }

    /// Takes note of what the client asks for: servers ask for listeners that are written then.
    fn ask(&mut self, subscriptions: &[SubscriptionReport]) {
        let of_listeners = subscriptions.iter().find(|one| one.kind == ResourceKind::Listener);
        let names = of_listeners.map_or(&[][..], |one| &one.names);
        if self.listeners != names {
            self.listeners = names.to_vec();
            self.view = None;
        }
    }
}

/// A stream whose client is known.
struct Talk<M> {
    state: M,
    told: Published,
    registered: Registered,
    tally: Tally,
}

impl<M: Machine> Talk<M> {
    async fn run(mut self, mut requests: Requests<M::Variant>, sender: &Sender<M::Variant>) -> Result<(), End> {
        // Whether there may be something to send: asked once after each event.
        let mut stale = true;
        // Since when a response waits to be taken.
        let mut waiting: Option<Instant> = None;
        self.note();
        loop {
            let patience = waiting.map_or_else(|| Instant::now() + FAR, |since| since + PATIENCE);
            let wakes = self.state.wakes().filter(|_| !stale);
            tokio::select! {
                room = sender.reserve(), if stale || waiting.is_some() => {
                    let Ok(room) = room else { return Ok(()) };
                    waiting = None;
                    let view = if stale { self.told.view() } else { None };
                    match view.and_then(|view| self.state.next_response(view, Instant::now())) {
                        Some(response) => {
                            room.send(Ok(response));
                            waiting = Some(Instant::now());
                            self.registered.update(self.state.report());
                        }
                        None => stale = false,
                    }
                    self.count_overdue();
                }
                request = requests.next() => match request? {
                    Some(mut request) => {
                        settle_type(requests.only(), M::Variant::type_url(&mut request))?;
                        self.state.on_request(request)?;
                        self.note();
                        stale = true;
                    }
                    None => return Ok(()),
                },
                changed = self.told.newest.changed() => match changed {
                    Ok(()) => stale = true,
                    Err(_) => return Err(End::closed()),
                },
                () = sleep_until(wakes.unwrap_or(patience)), if wakes.is_some() => stale = true,
                () = sleep_until(patience), if waiting.is_some() => return Err(End::Slow),
            }
        }
    }
}

impl<M: Machine> Talk<M> {
    fn count_overdue(&mut self) {
        let Overdue { cold, missed } = self.state.take_overdue();
        for (reason, count) in [("cold_cluster", cold), ("missed_cluster", missed)] {
            (0..count).for_each(|_| self.tally.count(OVERDUE, reason));
        }
    }

    fn note(&mut self) {
        let report = self.state.report();
        self.told.ask(&report);
        self.registered.update(report);
    }
}

#[cfg(test)]
#[path = "tests/begin.rs"]
mod tests;
