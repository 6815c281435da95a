//! The future of the balance room: pick, perhaps connect, send, await the answer's head.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use http::{Request, Response};
use http_body::Body;
use mesh_core::balance::Ask;
use mesh_core::config::{Carrier, TlsMode};
use mesh_core::report::Counted;
use tokio::time::Instant;

use super::Shared;
use super::answered::{answered, learn, unserved};
use super::connecting::Connecting;
use super::outside::Resolving;
use super::pick::{Unnamed, by_endpoint, nobody, pick};
use super::refused::refused;
use super::send::{Destination, Unsent, send_http1, send_http2};
use crate::body::{Frames, Http2Frames, Limited, Live, Outcome, ResponseBody};
use crate::cluster::{ClusterHandle, Host, HostSet};
use crate::connect::{Exchange, Http2Permit, Permit, StreamError};
use crate::error::{Error, Kind};
use crate::request::Attempt;
use crate::reuse::Reused;
use crate::status::is_grpc;
use crate::time::Expiry;

/// How often one try looks for another connection, or another host, when the one it had found was taken away before anything
/// was sent: a host that is removed at that moment, a connection whose peer said GOAWAY.
const MAX_REPICKS: u32 = 8;

/// Resolves to the head of the answer, with its body to come.
///
/// What can be done at once is done when the room is called: a request that finds a connection never moves into this future,
/// which every room above has to move. Dropping it cancels the stream at the peer; a dial that was begun goes on for other
/// calls.
pub struct BalanceFuture<B> {
    /// What is known of the try; there until it was answered. Its answer goes on with it.
    live: Option<Reused<Live>>,
    state: State<B>,
    /// The head before it was given an endpoint's name.
    unnamed: Option<Box<Unnamed>>,
}

/// How a try goes, once it is known to whom.
#[derive(Clone, Copy)]
pub(super) struct Way {
    /// Whether TLS carries it.
    pub(super) secure: bool,
    pub(super) carrier: Carrier,
    /// How often it looked elsewhere before.
    pub(super) repicked: u32,
    /// The destination has another address, which no configuration chose: it is called where no connection can be made to this one.
    pub(super) elsewhere: bool,
}

pub(super) enum State<B> {
    Failed(Option<Error>),
    Resolving(Box<Resolving<B>>),
    Connecting(Box<Connecting<B>>),
    Answering(ResponseFuture),
    Exchanging(Exchange),
}

impl<B> BalanceFuture<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send,
{
    /// Picks a host and, when it has a connection with room, sends.
    #[inline]
    pub(super) fn begin(request: &mut Option<Request<Attempt<B>>>, shared: &Arc<Shared>) -> Self {
        let mut live = Reused::<Live>::take();
        live.expires = request.as_ref().expect("a try is sent once").body().expires();
        let mut this = Self {
            live: Some(live),
            state: State::Failed(None),
            unnamed: None,
        };
        let begun = this.start(request, shared, 0);
        this.state = this.goes_on(begun).unwrap_or_else(|error| State::Failed(Some(error)));
        this
    }
}

impl<B> Future for BalanceFuture<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send,
{
    type Output = Result<Response<ResponseBody>, Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::Answering(response) => {
                    let result = ready!(Pin::new(response).poll(cx));
                    let live = this.live.take().expect("polled after it was done");
                    learn(&result, live.outcome());
                    let is_sending = live.is_sending();
                    let frames = |stream| Frames::Http2(Http2Frames::new(stream, is_sending));
                    return Poll::Ready(answered(result, live, frames));
                }
                State::Exchanging(exchange) => {
                    let first = exchange.is_first();
                    let result = ready!(exchange.poll(cx));
                    let live = this.live.take().expect("polled after it was done");
                    let host = live.outcome().host();
                    match &result {
                        Ok(_) if first => host.pool().served(),
                        Err(_) if first => unserved(host),
                        _ => {}
                    }
                    return Poll::Ready(answered(result, live, Frames::Http1));
                }
                State::Resolving(resolving) => {
                    let found = ready!(resolving.found.as_mut().poll(cx))?;
                    let mut request = resolving.request.take();
                    let (shared, way) = (Arc::clone(&resolving.shared), resolving.way);
                    let next = this.at_host(found, &mut request, &shared, way);
                    this.state = this.goes_on(next)?;
                }
                State::Connecting(connecting) => {
                    let permit = ready!(connecting.permit.as_mut().poll(cx));
                    let mut request = connecting.request.take();
                    let (shared, way) = (Arc::clone(&connecting.shared), connecting.way);
                    let next = this.connected(permit, &mut request, &shared, way);
                    this.state = this.goes_on(next)?;
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
    /// A try that is over gives its places back then, and not when whoever waited for it goes.
    fn goes_on(&mut self, next: Result<State<B>, Error>) -> Result<State<B>, Error> {
        next.inspect_err(|_| self.live().outcome = None)
    }

    fn live(&mut self) -> &mut Live {
        self.live.as_mut().expect("there until it was answered")
    }

    #[inline]
    fn start(
        &mut self,
        unsent: &mut Option<Request<Attempt<B>>>,
        shared: &Arc<Shared>,
        repicked: u32,
    ) -> Result<State<B>, Error> {
        let request = unsent.as_ref().expect("a try is sent once");
        let attempt = request.body();
        let set = attempt.call.cluster.hosts().load();
        if set.cluster.by_authority {
            drop(set);
            return self.start_anywhere(unsent, shared, repicked);
        }
        let mut draw = shared.manager.entropy().draw();
        set.counting.admit(&set.cluster, &mut draw)?;
        let ask = Ask {
            hash: attempt.call.hash,
            selection: attempt.call.route.retry.hosts,
            in_flight: match set.cluster.lb.balance() {
                None => 0,
                Some(_) => attempt.call.cluster.in_flight(),
            },
        };
        let Some(index) = pick(&set, attempt, ask, &mut draw) else {
            return Err(nobody(&set, attempt));
        };
        let leaf = set.leaf(index);
        // What its hosts are called by: of a cluster that stands for others, the one whose host was found.
        let by = match leaf {
            None => &*set,
            Some((leaf, _)) => {
                leaf.set.counting.admit(&leaf.set.cluster, &mut draw)?;
                &*leaf.set
            }
        };
        // Asked of the host and of every call: endpoints of one cluster may differ (Istio auto-mTLS).
        let secure = match set.hosts[index].tls().map(|mode| &**mode) {
            Some(TlsMode::Mutual(_)) => true,
            None | Some(TlsMode::Plaintext) if shared.allowed.plaintext => false,
            Some(TlsMode::Origination(outside)) if shared.allowed.outside(outside) => true,
            _ => return Err(refused(by, &set.hosts[index])),
        };
        let way = Way {
            secure,
            carrier: by
                .cluster
                .connections
                .protocol
                .carrier(request.version(), || is_grpc(request.headers())),
            repicked,
            elsewhere: false,
        };
        let leaf = leaf.map(|(leaf, place)| (&leaf.handle, place));
        self.take_place(by, leaf.map(|(handle, _)| handle), request, || {
            let place = leaf.map_or(index, |(_, place)| place);
            let counted = by.counting.begin(place, request.headers());
            ((Arc::clone(&set.hosts[index]), place as u32), counted)
        })?;
        if let Some(request) = unsent {
            by_endpoint(
                request,
                || set.endpoint(index),
                shared.authority.as_ref(),
                &mut self.unnamed,
            );
        }
        self.send_or_connect(by, unsent, shared, way)
    }

    /// Takes a place among the calls of the cluster whose set is given, which is the call's own or a `leaf` of it, and then one
    /// on the host.
    #[inline]
    pub(super) fn take_place(
        &mut self,
        set: &HostSet,
        leaf: Option<&Arc<ClusterHandle>>,
        request: &Request<Attempt<B>>,
        host: impl FnOnce() -> ((Arc<Host>, u32), Option<Counted>),
    ) -> Result<(), Error> {
        let call = &request.body().call;
        let priority = call.route.priority;
        if !leaf.unwrap_or(&call.cluster).begin_call(&set.cluster, priority) {
            set.counting.overflowed();
            return Err(Error::new(Kind::Overflow("max_requests")));
        }
        if leaf.is_some() {
            call.cluster.begin_call_of_leaf(priority);
        }
        let (host, counted) = host();
        let (cluster, leaf) = (Arc::clone(&call.cluster), leaf.cloned());
        self.live().outcome = Some(Outcome::begin(host, cluster, leaf, priority, counted));
        Ok(())
    }

    /// Sends if the host has a connection with room, or else waits for one.
    #[inline]
    pub(super) fn send_or_connect(
        &mut self,
        set: &HostSet,
        unsent: &mut Option<Request<Attempt<B>>>,
        shared: &Arc<Shared>,
        way: Way,
    ) -> Result<State<B>, Error> {
        let outcome = self.live().outcome();
        match outcome.host().pool().try_permit(way.carrier) {
            Some(permit) => self.send(permit, unsent, shared, way),
            None => Connecting::begin(outcome, set, unsent, shared, way).map(State::Connecting),
        }
    }

    fn connected(
        &mut self,
        permit: Result<Permit, Error>,
        unsent: &mut Option<Request<Attempt<B>>>,
        shared: &Arc<Shared>,
        way: Way,
    ) -> Result<State<B>, Error> {
        let outcome = self.live().outcome_mut();
        match permit {
            Ok(permit) => {
                outcome.host().mark_failing(false);
                self.send(permit, unsent, shared, way)
            }
            // The host went, or is called by other rules now: the newest set has what took its place.
            Err(error) if error.is_retired() => self.again(unsent, error, shared, way.repicked),
            Err(error) => {
                outcome.host().mark_failing(true);
                if way.elsewhere && error.is_connect() {
                    return self.again(unsent, error, shared, way.repicked);
                }
                outcome.failed_with(&error);
                Err(error)
            }
        }
    }

    /// Begins anew, with nothing sent; bounded, since a configuration may change as often as it likes.
    fn again(
        &mut self,
        unsent: &mut Option<Request<Attempt<B>>>,
        error: Error,
        shared: &Arc<Shared>,
        repicked: u32,
    ) -> Result<State<B>, Error> {
        if repicked == MAX_REPICKS {
            return Err(error);
        }
        self.live().outcome = None;
        self.start(unsent, shared, repicked + 1)
    }

    #[inline]
    fn send(
        &mut self,
        permit: Permit,
        unsent: &mut Option<Request<Attempt<B>>>,
        shared: &Arc<Shared>,
        way: Way,
    ) -> Result<State<B>, Error> {
        let live = self.live();
        let outcome = live.outcome_mut();
        let to = Destination {
            peer: outcome.peer(),
            authority: shared.authority.as_ref(),
            secure: way.secure,
        };
        let sent = match permit {
            Permit::Http2(permit) => {
                let request = unsent.as_ref().expect("a try is sent once");
                let limit = request.body().call.route.retry.per_try_timeout;
                let limited = limit.and_then(|limit| {
                    Some(Limited {
                        over: Instant::now().checked_add(limit)?,
                        mark: permit.mark(),
                    })
                });
                let sent = send_http2(unsent, outcome.holds(permit), &to);
                live.limited = limited;
                sent.map(|sent| {
                    live.pump = sent.pump;
                    State::Answering(sent.response)
                })
            }
            Permit::Http1(connection) => {
                outcome.meets(connection.party());
                send_http1(unsent, connection, &to)
                    .map(State::Exchanging)
                    .map_err(Unsent::Failed)
            }
        };
        match sent {
            Ok(state) => Ok(state),
            Err(Unsent::Gone) => {
                let error = Error::at(Kind::NotProcessed(StreamError::Gone), to.peer);
                let outcome = self.live().outcome();
                if outcome.permit().is_some_and(Http2Permit::is_unserved) {
                    unserved(outcome.host());
                }
                self.again(unsent, error, shared, way.repicked)
            }
            Err(Unsent::Failed(error)) => {
                self.live().outcome_mut().failed_with(&error);
                Err(error)
            }
        }
    }
}

impl<B> Drop for BalanceFuture<B> {
    /// A try that is dropped when its time is up says something of its host and of its connection; one that its caller gives up
    /// does not.
    fn drop(&mut self) {
        let Some(live) = &mut self.live else { return };
        if !matches!(live.expires, Expiry::At(None))
            && live.expires.is_over(Instant::now())
            && let Some(outcome) = &mut live.outcome
        {
            outcome.timed_out();
        }
        let Some(limited) = &live.limited else { return };
        let permit = live.outcome.as_ref().and_then(Outcome::permit);
        let permit = permit.filter(|_| !live.expires.is_open());
        if let Some(permit) = permit.filter(|_| Instant::now() >= limited.over) {
            permit.silent_since(limited.mark);
        }
    }
}

impl<B> std::fmt::Debug for BalanceFuture<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BalanceFuture")
            .field("live", &self.live)
            .finish_non_exhaustive()
    }
}
