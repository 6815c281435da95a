//! The future of the balance room: pick, perhaps connect, send, await the answer's head.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use http::{Request, Response};
use http_body::Body;
use mesh_core::config::{Reason, ReasonKind};
use mesh_core::identity::Identity;
use tokio::time::Instant;

use super::Shared;
use super::send::{Destination, Sent, send};
use crate::body::{Outcome, Pump, ResponseBody};
use crate::cluster::{ClusterManager, Host, HostSet, Open, PendingPlace, Room, is_on_its_way};
use crate::connect::{ConnectError, ConnectKind, Permit, Security};
use crate::error::{Error, Kind};
use crate::request::Attempt;
use crate::wait::until;

/// Resolves to the head of the answer, with its body to come.
///
/// Dropping it cancels the stream at the peer; a dial that was begun goes on for other calls.
pub struct BalanceFuture<B> {
    shared: Arc<Shared>,
    request: Option<Request<Attempt<B>>>,
    outcome: Option<Outcome>,
    /// Whether the chosen host is called over TLS.
    secure: bool,
    /// When the try's time is up, if it is limited.
    expires: Option<Instant>,
    state: State,
}

/// A wait for a connection: off the common path, so boxed.
type Connecting = Pin<Box<dyn Future<Output = Result<Permit, Error>> + Send>>;

enum State {
    Start,
    Connecting(Connecting),
    Answering {
        response: ResponseFuture,
        pump: Option<Pump>,
    },
}

impl<B> BalanceFuture<B> {
    pub(super) fn new(request: Request<Attempt<B>>, shared: Arc<Shared>) -> Self {
        Self {
            shared,
            request: Some(request),
            outcome: None,
            secure: false,
            expires: None,
            state: State::Start,
        }
    }
}

impl<B> Future for BalanceFuture<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send,
{
    type Output = Result<Response<ResponseBody>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::Start => this.state = this.start()?,
                State::Connecting(connecting) => {
                    let permit = ready!(connecting.as_mut().poll(cx));
                    this.state = this.connected(permit)?;
                }
                State::Answering { response, pump } => {
                    let result = ready!(Pin::new(response).poll(cx));
                    let outcome = this.outcome.take().expect("polled after it was done");
                    return Poll::Ready(answered(result, outcome, pump.take()));
                }
            }
        }
    }
}

impl<B> BalanceFuture<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send,
{
    /// Picks a host and, when it has a connection with room, sends.
    fn start(&mut self) -> Result<State, Error> {
        let request = self.request.as_ref().expect("taken only when it is sent");
        let attempt = request.body();
        let cluster = &attempt.call.cluster;
        let set = cluster.hosts().load();
        let tried = |host: &Arc<Host>| attempt.tried.contains(&host.address());
        let mut draw = self.shared.manager.entropy().draw();
        set.counting.admit(&set.cluster, &mut draw)?;
        let Some(index) = set.picker.pick(&set.hosts, tried, &mut draw) else {
            let text = format!("cluster {:?} has no endpoint that may be called", set.cluster.name);
            return Err(Error::unavailable(ReasonKind::NoEndpoints, text));
        };
        // Asked of the host and of every call: endpoints of one cluster may differ (Istio auto-mTLS).
        self.secure = set.hosts[index].mutual_tls().is_some();
        if !self.secure && !self.shared.plaintext_allowed {
            return Err(plaintext_refused(&set, &set.hosts[index]));
        }
        let priority = attempt.call.route.priority;
        if !cluster.begin_call(&set.cluster, priority) {
            set.counting.overflowed();
            return Err(Error::new(Kind::Overflow("max_requests")));
        }
        let counted = set.counting.begin(index, request.headers());
        let outcome = Outcome::begin(Arc::clone(&set.hosts[index]), Arc::clone(cluster), priority, counted);
        self.expires = attempt.expires;
        let permit = outcome.host().pool().try_permit();
        let outcome = self.outcome.insert(outcome);
        match permit {
            Some(permit) => {
                outcome.holds(permit);
                drop(set);
                self.send()
            }
            None => {
                let room = outcome.cluster().room(&set.cluster, priority);
                match room.pending() {
                    Ok(pending) => Ok(State::Connecting(connect(outcome, &set, (room, pending), &self.shared))),
                    Err(Open(limit)) => {
                        set.counting.overflowed();
                        let error = Error::at(Kind::Overflow(limit), outcome.peer());
                        Err(self.failed(error))
                    }
                }
            }
        }
    }

    fn connected(&mut self, permit: Result<Permit, Error>) -> Result<State, Error> {
        let outcome = self.outcome.as_mut().expect("made before the connection was");
        match permit {
            Ok(permit) => {
                outcome.host().mark_failing(false);
                outcome.holds(permit);
                self.send()
            }
            Err(error) => {
                outcome.host().mark_failing(true);
                Err(self.failed(error))
            }
        }
    }

    /// The try is over, and its places are given back.
    fn failed(&mut self, error: Error) -> Error {
        if let Some(mut outcome) = self.outcome.take() {
            outcome.failed_with(&error);
        }
        error
    }

    fn send(&mut self) -> Result<State, Error> {
        let request = self.request.take().expect("a try is sent once");
        let outcome = self.outcome.as_mut().expect("made before the connection was");
        let permit = outcome.permit().expect("held since the host was picked");
        let authority = self.shared.authority.as_ref();
        let to = Destination {
            peer: outcome.peer(),
            authority,
            secure: self.secure,
        };
        match send(request, permit, &to) {
            Ok(Sent { response, pump }) => Ok(State::Answering { response, pump }),
            Err(error) => Err(self.failed(error)),
        }
    }
}

/// Begins to wait for a connection: for the workload's identity too, if it is still being given one.
fn connect(outcome: &Outcome, set: &HostSet, (room, pending): (Room, PendingPlace), shared: &Shared) -> Connecting {
    let manager = Arc::clone(&shared.manager);
    let pool = Arc::clone(outcome.host().pool());
    let tls = outcome
        .host()
        .mutual_tls()
        .cloned()
        .map(|tls| (tls, Arc::clone(outcome.cluster().tls_configs())));
    let (timeout, peer) = (set.cluster.connect_timeout, outcome.peer());
    Box::pin(async move {
        let security = match tls {
            None => Security::Plaintext,
            Some((tls, configs)) => {
                let identity = own_identity(&manager, timeout).await.map_err(|reason| {
                    let error = ConnectError::new(ConnectKind::NoIdentity(reason));
                    manager.tally().count("connect_failed", error.as_str());
                    Error::at(Kind::Connect(error), peer)
                })?;
                Security::Mutual { identity, tls, configs }
            }
        };
        let permit = pool.permit(manager.connector(), security, timeout, &room).await;
        drop(pending);
        permit
    })
}

/// The workload's identity. One that is on its way is waited for as long as a connection would be; one that is lacking for a
/// reason is not.
async fn own_identity(manager: &ClusterManager, limit: Duration) -> Result<Identity, Reason> {
    let standing = manager.identity();
    let known = until(standing, |standing| !is_on_its_way(standing));
    // Whether it came or time ran out, what stands then is the answer.
    let _ = tokio::time::timeout(limit, known).await;
    (**standing.load()).clone()
}

fn answered(
    result: Result<Response<h2::RecvStream>, h2::Error>,
    mut outcome: Outcome,
    pump: Option<Pump>,
) -> Result<Response<ResponseBody>, Error> {
    match result {
        Ok(response) => {
            outcome.saw_headers(response.status(), response.headers());
            if response.body().is_end_stream() {
                outcome.ended();
            }
            Ok(response.map(|frames| ResponseBody::new(frames, outcome, pump)))
        }
        Err(error) => {
            let error = Error::from_h2(error, outcome.peer());
            outcome.failed_with(&error);
            Err(error)
        }
    }
}

impl<B> Drop for BalanceFuture<B> {
    /// A try that is dropped when its time is up says something of its host; one that its caller gives up does not.
    fn drop(&mut self) {
        if let (Some(outcome), Some(at)) = (&mut self.outcome, self.expires)
            && Instant::now() >= at
        {
            outcome.timed_out();
        }
    }
}

fn plaintext_refused(set: &HostSet, host: &Host) -> Error {
    let text = format!(
        "cluster {:?} does not ask for mutual TLS with {}, and this channel was not built with dangerous().plaintext()",
        set.cluster.name,
        host.address()
    );
    Error::unavailable(ReasonKind::PlaintextRefused, text)
}

impl<B> std::fmt::Debug for BalanceFuture<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BalanceFuture")
            .field("outcome", &self.outcome)
            .finish_non_exhaustive()
    }
}
