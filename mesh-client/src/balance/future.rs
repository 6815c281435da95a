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
use mesh_core::config::{Carrier, Credential, Protocol, Reason, ReasonKind, TlsMode};
use mesh_core::identity::Identity;
use tokio::time::Instant;

use super::Shared;
use super::send::{Destination, Unsent, send_http1, send_http2};
use crate::body::{Frames, Outcome, Pump, ResponseBody};
use crate::cluster::{ClusterHandle, ClusterManager, Host, HostSet, Wish, is_on_its_way};
use crate::connect::{ConnectError, ConnectKind, Exchange, Http2Permit, Mark, Permit, Plan, Security, StreamError};
use crate::error::{Error, Kind};
use crate::request::Attempt;
use crate::status::is_grpc;
use crate::wait::until;

/// How often one try looks for another connection, or another host, when the one it had found was taken away before anything
/// was sent: a host that is removed at that moment, a connection whose peer said GOAWAY.
const MAX_REPICKS: u32 = 8;

/// Resolves to the head of the answer, with its body to come.
///
/// What can be done at once is done when the room is called: a request that finds a connection never moves into this future,
/// which every room above has to move. Dropping it cancels the stream at the peer; a dial that was begun goes on for other
/// calls.
pub struct BalanceFuture<B> {
    outcome: Option<Outcome>,
    state: State<B>,
    /// Of a try whose time is limited; boxed, since most are not.
    limited: Option<Box<Limited>>,
}

/// When a try was sent that may take so long.
struct Limited {
    sent: Instant,
    limit: Duration,
    mark: Mark,
}

/// A wait for a connection: off the common path, so boxed.
struct Connecting<B> {
    permit: Pin<Box<dyn Future<Output = Result<Permit, Error>> + Send>>,
    request: Option<Request<Attempt<B>>>,
    shared: Arc<Shared>,
    secure: bool,
    repicked: u32,
}

/// A wait for the address of a name that no configuration knows.
struct Resolving<B> {
    host: Pin<Box<dyn Future<Output = Result<Arc<Host>, Error>> + Send>>,
    request: Option<Request<Attempt<B>>>,
    shared: Arc<Shared>,
    secure: bool,
    repicked: u32,
}

enum State<B> {
    Failed(Option<Error>),
    Resolving(Box<Resolving<B>>),
    Connecting(Box<Connecting<B>>),
    Answering {
        response: ResponseFuture,
        pump: Option<Pump>,
    },
    Exchanging(Box<Exchange>),
}

impl<B> BalanceFuture<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send,
{
    /// Picks a host and, when it has a connection with room, sends.
    pub(super) fn begin(request: Request<Attempt<B>>, shared: &Arc<Shared>) -> Self {
        let mut this = Self {
            outcome: None,
            state: State::Failed(None),
            limited: None,
        };
        this.state = this
            .start(request, shared, 0)
            .unwrap_or_else(|error| State::Failed(Some(error)));
        this
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
                    learn(&result, &outcome);
                    let result = result.map(|response| response.map(Frames::http2));
                    return Poll::Ready(answered(result, outcome, pump.take()));
                }
                State::Exchanging(exchange) => {
                    let first = exchange.is_first();
                    let result = ready!(exchange.poll(cx));
                    let outcome = this.outcome.take().expect("polled after it was done");
                    match &result {
                        Ok(_) if first => outcome.host().pool().served(),
                        Err(_) if first => unserved(outcome.host()),
                        _ => {}
                    }
                    let result = result.map(|response| response.map(|answer| Frames::Http1(Box::new(answer))));
                    return Poll::Ready(answered(result, outcome, None));
                }
                State::Resolving(resolving) => {
                    let host = ready!(resolving.host.as_mut().poll(cx))?;
                    let request = resolving.request.take().expect("a try is sent once");
                    let (shared, secure) = (Arc::clone(&resolving.shared), resolving.secure);
                    let repicked = resolving.repicked;
                    this.state = this.at_host(host, request, &shared, secure, repicked)?;
                }
                State::Connecting(connecting) => {
                    let permit = ready!(connecting.permit.as_mut().poll(cx));
                    let request = connecting.request.take().expect("a try is sent once");
                    let (shared, secure) = (Arc::clone(&connecting.shared), connecting.secure);
                    let repicked = connecting.repicked;
                    this.state = this.connected(permit, request, &shared, secure, repicked)?;
                }
                State::Failed(error) => return Poll::Ready(Err(error.take().expect("polled after it was done"))),
            }
        }
    }
}

impl<B> BalanceFuture<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send,
{
    fn start(&mut self, request: Request<Attempt<B>>, shared: &Arc<Shared>, repicked: u32) -> Result<State<B>, Error> {
        let attempt = request.body();
        let cluster = &attempt.call.cluster;
        let set = cluster.hosts().load();
        if set.cluster.by_authority {
            drop(set);
            return self.start_anywhere(request, shared, repicked);
        }
        let tried = |host: &Arc<Host>| attempt.tried.contains(&host.address());
        let mut draw = shared.manager.entropy().draw();
        set.counting.admit(&set.cluster, &mut draw)?;
        let Some(index) = set.picker.pick(&set.hosts, tried, &mut draw) else {
            let text = format!("cluster {:?} has no endpoint that may be called", set.cluster.name);
            return Err(Error::unavailable(ReasonKind::NoEndpoints, text));
        };
        // Asked of the host and of every call: endpoints of one cluster may differ (Istio auto-mTLS).
        let secure = match set.hosts[index].tls().map(|mode| &**mode) {
            Some(TlsMode::Mutual(_)) => true,
            None | Some(TlsMode::Plaintext) if shared.allowed.plaintext => false,
            Some(TlsMode::Origination(outside)) if shared.allowed.outside(outside) => true,
            _ => return Err(refused(&set, &set.hosts[index])),
        };
        if !cluster.begin_call(set.cluster.max_requests) {
            set.counting.overflowed();
            return Err(Error::new(Kind::Overflow("max_requests of the cluster")));
        }
        let counted = set.counting.begin(index, request.headers());
        let protocol = set.cluster.connections.protocol;
        let carrier = protocol.carrier(request.version(), || is_grpc(request.headers()));
        let outcome = self.outcome.insert(Outcome::begin(
            Arc::clone(&set.hosts[index]),
            Arc::clone(cluster),
            counted,
        ));
        match outcome.host().pool().try_permit(carrier) {
            Some(permit) => {
                drop(set);
                self.send(permit, request, shared, secure, repicked)
            }
            None => Ok(State::Connecting(Box::new(Connecting {
                permit: connect(outcome, &set, carrier, shared),
                request: Some(request),
                shared: Arc::clone(shared),
                secure,
                repicked,
            }))),
        }
    }

    /// Goes where the request says: no configuration knows its destination, and one lets it pass (Istio `ALLOW_ANY`).
    fn start_anywhere(
        &mut self,
        request: Request<Attempt<B>>,
        shared: &Arc<Shared>,
        repicked: u32,
    ) -> Result<State<B>, Error> {
        let Some(wish) = Wish::of(request.uri(), request.headers(), shared.authority.as_ref()) else {
            return Err(Error::new(Kind::InvalidRequest("it says nowhere to go to")));
        };
        let allowed = match wish.tls() {
            Some(TlsMode::Origination(outside)) => shared.allowed.outside(&outside),
            _ => shared.allowed.plaintext,
        };
        if !allowed {
            return Err(stays_in_the_mesh(&wish));
        }
        let (cluster, secure) = (Arc::clone(&request.body().call.cluster), wish.secure);
        match cluster.anywhere().find(&wish, Instant::now()) {
            Some(host) => self.at_host(host, request, shared, secure, repicked),
            None => Ok(State::Resolving(Box::new(Resolving {
                host: Box::pin(resolve(wish, cluster, Arc::clone(&shared.manager))),
                request: Some(request),
                shared: Arc::clone(shared),
                secure,
                repicked,
            }))),
        }
    }

    fn at_host(
        &mut self,
        host: Arc<Host>,
        request: Request<Attempt<B>>,
        shared: &Arc<Shared>,
        secure: bool,
        repicked: u32,
    ) -> Result<State<B>, Error> {
        let cluster = &request.body().call.cluster;
        let set = cluster.hosts().load();
        if !cluster.begin_call(set.cluster.max_requests) {
            set.counting.overflowed();
            return Err(Error::new(Kind::Overflow("max_requests of the cluster")));
        }
        let outcome = self.outcome.insert(Outcome::begin(host, Arc::clone(cluster), None));
        // A destination of which nothing is known is spoken to in the version of the request.
        let carrier = Protocol::Request.carrier(request.version(), || is_grpc(request.headers()));
        match outcome.host().pool().try_permit(carrier) {
            Some(permit) => {
                drop(set);
                self.send(permit, request, shared, secure, repicked)
            }
            None => Ok(State::Connecting(Box::new(Connecting {
                permit: connect(outcome, &set, carrier, shared),
                request: Some(request),
                shared: Arc::clone(shared),
                secure,
                repicked,
            }))),
        }
    }

    fn connected(
        &mut self,
        permit: Result<Permit, Error>,
        request: Request<Attempt<B>>,
        shared: &Arc<Shared>,
        secure: bool,
        repicked: u32,
    ) -> Result<State<B>, Error> {
        let outcome = self.outcome.as_mut().expect("made before the connection was");
        match permit {
            Ok(permit) => {
                outcome.host().mark_failing(false);
                self.send(permit, request, shared, secure, repicked)
            }
            // The host went, or is called by other rules now: the newest set has what took its place.
            Err(error) if error.is_retired() => self.again(request, error, shared, repicked),
            Err(error) => {
                outcome.host().mark_failing(true);
                outcome.failed_with(&error);
                Err(error)
            }
        }
    }

    /// Begins anew, with nothing sent; bounded, since a configuration may change as often as it likes.
    fn again(
        &mut self,
        request: Request<Attempt<B>>,
        error: Error,
        shared: &Arc<Shared>,
        repicked: u32,
    ) -> Result<State<B>, Error> {
        if repicked == MAX_REPICKS {
            return Err(error);
        }
        self.outcome = None;
        self.start(request, shared, repicked + 1)
    }

    fn send(
        &mut self,
        permit: Permit,
        request: Request<Attempt<B>>,
        shared: &Arc<Shared>,
        secure: bool,
        repicked: u32,
    ) -> Result<State<B>, Error> {
        let outcome = self.outcome.as_mut().expect("made before the connection was");
        let to = Destination {
            peer: outcome.peer(),
            authority: shared.authority.as_ref(),
            secure,
        };
        let sent = match permit {
            Permit::Http2(permit) => {
                let limit = request.body().call.route.retry.per_try_timeout;
                self.limited = limit.map(|limit| {
                    Box::new(Limited {
                        sent: Instant::now(),
                        limit,
                        mark: permit.mark(),
                    })
                });
                send_http2(request, outcome.holds(permit), &to).map(|sent| State::Answering {
                    response: sent.response,
                    pump: sent.pump,
                })
            }
            Permit::Http1(connection) => send_http1(request, *connection, &to)
                .map(|exchange| State::Exchanging(Box::new(exchange)))
                .map_err(Unsent::Failed),
        };
        match sent {
            Ok(state) => Ok(state),
            Err(Unsent::Gone(request)) => {
                let error = Error::at(Kind::NotProcessed(StreamError::Gone), to.peer);
                if outcome.permit().is_some_and(Http2Permit::is_unserved) {
                    unserved(outcome.host());
                }
                self.again(*request, error, shared, repicked)
            }
            Err(Unsent::Failed(error)) => {
                outcome.failed_with(&error);
                Err(error)
            }
        }
    }
}

/// Begins to wait for a connection: for the workload's identity too, if it is still being given one.
fn connect(
    outcome: &Outcome,
    set: &HostSet,
    carrier: Carrier,
    shared: &Shared,
) -> Pin<Box<dyn Future<Output = Result<Permit, Error>> + Send>> {
    let manager = Arc::clone(&shared.manager);
    let pool = Arc::clone(outcome.host().pool());
    let tls = outcome
        .host()
        .tls()
        .cloned()
        .map(|mode| (mode, Arc::clone(outcome.cluster().tls_configs())));
    let settings = Arc::clone(&set.cluster.connections);
    let (timeout, peer) = (set.cluster.connect_timeout, outcome.peer());
    Box::pin(async move {
        let security = match tls {
            None => Security::Plaintext,
            Some((mode, configs)) => {
                let identity = match needs_identity(&mode) {
                    false => None,
                    true => Some(own_identity(&manager, timeout).await.map_err(|reason| {
                        let error = ConnectError::new(ConnectKind::NoIdentity(reason));
                        manager.tally().count("connect_failed", error.as_str());
                        Error::at(Kind::Connect(error), peer)
                    })?),
                };
                Security::Tls {
                    mode,
                    identity,
                    configs,
                }
            }
        };
        let plan = Plan {
            security,
            settings,
            carrier,
            timeout,
        };
        pool.permit(plan).await
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

/// What the end of an HTTP/2 exchange says of the connection: that it serves, or that it ended without ever having served.
fn learn(result: &Result<Response<h2::RecvStream>, h2::Error>, outcome: &Outcome) {
    let permit = outcome.permit().expect("held since it was sent");
    match result {
        Ok(_) if permit.prove() => outcome.host().pool().served(),
        Err(error) if (error.is_go_away() || error.is_io()) && permit.is_unserved() => {
            permit.retire();
            unserved(outcome.host());
        }
        _ => {}
    }
}

/// A connection was made and served nobody: the next pick looks elsewhere, and the next dial waits.
fn unserved(host: &Host) {
    host.pool().unserved();
    host.mark_failing(true);
}

fn answered(
    result: Result<Response<Frames>, impl Into<StreamError>>,
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
            let error = Error::broken(error, outcome.peer());
            outcome.failed_with(&error);
            Err(error)
        }
    }
}

/// Finds the host of a destination that no configuration knows, within the time that a connection to it may take.
async fn resolve(wish: Wish, cluster: Arc<ClusterHandle>, manager: Arc<ClusterManager>) -> Result<Arc<Host>, Error> {
    let timeout = cluster.hosts().load().cluster.connect_timeout;
    let looking = manager.parts().means.connector.resolve(&wish.host, wish.port);
    let failed = |kind| Error::new(Kind::Connect(ConnectError::new(kind)));
    let none = || std::io::Error::new(std::io::ErrorKind::NotFound, "it has no address");
    let address = match tokio::time::timeout(timeout, looking).await {
        Ok(Ok(addresses)) => addresses.first().copied().ok_or_else(none),
        Ok(Err(error)) => Err(error),
        Err(_elapsed) => return Err(failed(ConnectKind::Timeout(timeout))),
    };
    let address = address.map_err(|error| failed(ConnectKind::Resolve(wish.host.clone(), error)))?;
    let host = cluster.anywhere().found(&wish, address, manager.parts());
    host.ok_or_else(|| Error::new(Kind::Overflow("destinations outside of the mesh")))
}

fn stays_in_the_mesh(wish: &Wish) -> Error {
    let Wish { host, port, secure } = wish;
    let (kind, word) = match secure {
        true => (ReasonKind::OutsideRefused, "outside"),
        false => (ReasonKind::PlaintextRefused, "plaintext"),
    };
    let text = format!(
        "no configuration knows {host}:{port}, and to leave the mesh for it the channel has to be built with dangerous().{word}()"
    );
    Error::unavailable(kind, text)
}

fn needs_identity(mode: &TlsMode) -> bool {
    match mode {
        TlsMode::Plaintext => false,
        TlsMode::Mutual(_) => true,
        TlsMode::Origination(outside) => outside.shown == Some(Credential::Workload),
    }
}

/// Why a host is not called in the way that its cluster says.
fn refused(set: &HostSet, host: &Host) -> Error {
    let (cluster, address) = (&set.cluster.name, host.address());
    match host.tls().map(|mode| &**mode) {
        Some(TlsMode::Origination(outside)) if outside.unverified => {
            let text = format!(
                "cluster {cluster:?} does not ask who {address} is, and this channel was not built with dangerous().unverified()"
            );
            Error::unavailable(ReasonKind::OutsideRefused, text)
        }
        Some(TlsMode::Origination(_)) => {
            let text = format!(
                "cluster {cluster:?} is outside of the mesh, and this process is pinned to peers in it: {address} is called only \
                 by a channel built with dangerous().outside()"
            );
            Error::unavailable(ReasonKind::OutsideRefused, text)
        }
        _ => {
            let text = format!(
                "cluster {cluster:?} does not ask for mutual TLS with {address}, and this channel was not built with \
                 dangerous().plaintext()"
            );
            Error::unavailable(ReasonKind::PlaintextRefused, text)
        }
    }
}

impl<B> Drop for BalanceFuture<B> {
    /// A try that is dropped when its time is up says something of its connection; one that its caller gives up does not.
    fn drop(&mut self) {
        let Some(limited) = &self.limited else { return };
        let permit = self.outcome.as_ref().and_then(Outcome::permit);
        if let Some(permit) = permit.filter(|_| limited.sent.elapsed() >= limited.limit) {
            permit.silent_since(limited.mark);
        }
    }
}

impl<B> std::fmt::Debug for BalanceFuture<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BalanceFuture")
            .field("outcome", &self.outcome)
            .finish_non_exhaustive()
    }
}
