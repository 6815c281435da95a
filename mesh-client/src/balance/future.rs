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

use super::Shared;
use super::send::{Destination, Sent, send};
use crate::body::{Outcome, Pump, ResponseBody};
use crate::cluster::{ClusterManager, Host, HostSet, is_on_its_way};
use crate::connect::{ConnectError, ConnectKind, Permit, Security};
use crate::error::{Error, Kind};
use crate::request::Attempt;
use crate::wait::until;

/// Resolves to the head of the answer, with its body to come.
///
/// What can be done at once is done when the room is called: a request that finds a connection never moves into this future,
/// which every room above has to move. Dropping it cancels the stream at the peer; a dial that was begun goes on for other
/// calls.
pub struct BalanceFuture<B> {
    outcome: Option<Outcome>,
    state: State<B>,
}

/// A wait for a connection: off the common path, so boxed.
struct Connecting<B> {
    permit: Pin<Box<dyn Future<Output = Result<Permit, Error>> + Send>>,
    request: Option<Request<Attempt<B>>>,
    shared: Arc<Shared>,
    secure: bool,
}

enum State<B> {
    Failed(Option<Error>),
    Connecting(Box<Connecting<B>>),
    Answering {
        response: ResponseFuture,
        pump: Option<Pump>,
    },
}

impl<B> BalanceFuture<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send,
{
    /// Picks a host and, when it has a connection with room, sends.
    pub(super) fn begin(request: Request<Attempt<B>>, shared: &Arc<Shared>) -> Self {
        let mut outcome = None;
        let state = start(request, &mut outcome, shared).unwrap_or_else(|error| State::Failed(Some(error)));
        Self { outcome, state }
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
                State::Answering { response, pump } => {
                    let result = ready!(Pin::new(response).poll(cx));
                    let outcome = this.outcome.take().expect("polled after it was done");
                    return Poll::Ready(answered(result, outcome, pump.take()));
                }
                State::Connecting(connecting) => {
                    let permit = ready!(connecting.permit.as_mut().poll(cx));
                    let outcome = this.outcome.as_mut().expect("made before the connection was");
                    this.state = connecting.connected(permit, outcome)?;
                }
                State::Failed(error) => return Poll::Ready(Err(error.take().expect("polled after it was done"))),
            }
        }
    }
}

fn start<B>(
    request: Request<Attempt<B>>,
    outcome: &mut Option<Outcome>,
    shared: &Arc<Shared>,
) -> Result<State<B>, Error>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send,
{
    let attempt = request.body();
    let cluster = &attempt.call.cluster;
    let set = cluster.hosts().load();
    let tried = |host: &Arc<Host>| attempt.tried.contains(&host.address());
    let mut draw = shared.manager.entropy().draw();
    set.counting.admit(&set.cluster, &mut draw)?;
    let Some(index) = set.picker.pick(&set.hosts, tried, &mut draw) else {
        let text = format!("cluster {:?} has no endpoint that may be called", set.cluster.name);
        return Err(Error::unavailable(ReasonKind::NoEndpoints, text));
    };
    // Asked of the host and of every call: endpoints of one cluster may differ (Istio auto-mTLS).
    let secure = set.hosts[index].mutual_tls().is_some();
    if !secure && !shared.plaintext_allowed {
        return Err(plaintext_refused(&set, &set.hosts[index]));
    }
    if !cluster.begin_call(set.cluster.max_requests) {
        set.counting.overflowed();
        return Err(Error::new(Kind::Overflow("max_requests of the cluster")));
    }
    let counted = set.counting.begin(index, request.headers());
    let outcome = outcome.insert(Outcome::begin(
        Arc::clone(&set.hosts[index]),
        Arc::clone(cluster),
        counted,
    ));
    match outcome.host().pool().try_permit() {
        Some(permit) => {
            outcome.holds(permit);
            drop(set);
            send_on(request, outcome, shared, secure)
        }
        None => Ok(State::Connecting(Box::new(Connecting {
            permit: connect(outcome, &set, shared),
            request: Some(request),
            shared: Arc::clone(shared),
            secure,
        }))),
    }
}

impl<B> Connecting<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send,
{
    fn connected(&mut self, permit: Result<Permit, Error>, outcome: &mut Outcome) -> Result<State<B>, Error> {
        match permit {
            Ok(permit) => {
                outcome.host().mark_failing(false);
                outcome.holds(permit);
                let request = self.request.take().expect("a try is sent once");
                send_on(request, outcome, &self.shared, self.secure)
            }
            Err(error) => {
                outcome.host().mark_failing(true);
                outcome.failed_with(&error);
                Err(error)
            }
        }
    }
}

fn send_on<B>(
    request: Request<Attempt<B>>,
    outcome: &mut Outcome,
    shared: &Shared,
    secure: bool,
) -> Result<State<B>, Error>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send,
{
    let permit = outcome.permit().expect("held since the host was picked");
    let to = Destination {
        peer: outcome.peer(),
        authority: shared.authority.as_ref(),
        secure,
    };
    match send(request, permit, &to) {
        Ok(Sent { response, pump }) => Ok(State::Answering { response, pump }),
        Err(error) => {
            outcome.failed_with(&error);
            Err(error)
        }
    }
}

/// Begins to wait for a connection: for the workload's identity too, if it is still being given one.
fn connect(
    outcome: &Outcome,
    set: &HostSet,
    shared: &Shared,
) -> Pin<Box<dyn Future<Output = Result<Permit, Error>> + Send>> {
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
        pool.permit(manager.connector(), security, timeout).await
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
