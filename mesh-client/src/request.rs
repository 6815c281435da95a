//! What a request has become on its way through the rooms.
//!
//! What one room needs from an earlier one is in the request's *type*: [`Routed`] and [`Attempt`] are bodies, so each room is
//! a `Service<http::Request<...>>`, leaving out the route room does not compile, and a layer that only looks at heads fits
//! between any two. Nothing travels in the request's extensions.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, Request};
use http_body::{Body, Frame, SizeHint};
use mesh_core::config::{ClusterName, Route, TlsMode};
use mesh_core::deadline::GRPC_TIMEOUT;
use mesh_core::retry::{Overrides, Rules};
use mesh_core::route::{Held, is_grpc};
use tokio::time::Instant;

use crate::cluster::{ClusterHandle, Extras};
use crate::error::{Error, Kind};
use crate::peek::{Peeked, peek};
use crate::replay::Replay;
use crate::time::{CallTime, Expiry, TryLimit};

pin_project_lite::pin_project! {
    /// A request body with the decision that was made for it: which route took it, and which cluster of its split.
    ///
    /// It holds the route and the live cluster, not the snapshot: a long stream pins no old configuration.
    #[derive(Debug)]
    pub struct Routed<B> {
        #[pin]
        body: B,
        peeked: Peeked,
        call: Call,
        began: Instant,
        waited: Duration,
        said: Said,
    }
}

/// What a request's head says that more than one room goes by, found in one pass that hashes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Said {
    /// It is a call of gRPC.
    pub(crate) grpc: bool,
    /// It has a `grpc-timeout`.
    pub(crate) timeout: bool,
    /// It may have something to say in place of its route.
    pub(crate) overrides: bool,
}

impl Said {
    pub(crate) fn by(headers: &HeaderMap) -> Self {
        let mut said = Self::default();
        for (name, value) in headers {
            match *name {
                CONTENT_TYPE => said.grpc = is_grpc(value),
                // Every gRPC call has them; their texts are not looked at.
                TE | USER_AGENT | ACCEPT_ENCODING => {}
                ref other if *other == GRPC_TIMEOUT => said.timeout = true,
                ref other => said.overrides |= other.as_str().starts_with("x-envoy-"),
            }
        }
        said
    }
}

/// The decision, which all tries of a call share.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) route: Arc<Route>,
    pub(crate) cluster: Arc<ClusterHandle>,
    /// What else the route asks for.
    pub(crate) extras: Option<Arc<Extras>>,
    /// What the request asks for in place of its route's policy.
    pub(crate) asked: Option<Arc<Overrides>>,
    pub(crate) time: CallTime,
    /// What the request hashes to, where its cluster's balancing goes by that.
    pub(crate) hash: Option<u64>,
    /// Which host its session is with, as the caller says.
    pub(crate) held: Option<Arc<Held>>,
    /// It is a call of gRPC.
    pub(crate) grpc: bool,
}

impl Call {
    pub(crate) fn new(route: Arc<Route>, cluster: Arc<ClusterHandle>, extras: Option<Arc<Extras>>) -> Self {
        Self {
            route,
            cluster,
            extras,
            asked: None,
            time: CallTime::default(),
            hash: None,
            held: None,
            grpc: false,
        }
    }

    /// How long one try may take. One that is as long as what is left of the call is none (Envoy). A try that is raced when it is
    /// slow is not ended for it, but for being idle.
    pub(crate) fn try_limit(&self, raced: bool) -> Option<TryLimit> {
        let policy = &self.route.retry;
        let after = match &self.asked {
            None => policy.per_try_timeout,
            Some(_) => self.rules().per_try_timeout(),
        };
        let whole = after.filter(|_| !raced);
        let (after, idle) = match (whole, policy.per_try_idle_timeout) {
            (None, None) => return None,
            (Some(whole), Some(idle)) if idle < whole => (idle, true),
            (Some(whole), _) => (whole, false),
            (None, Some(idle)) => (idle, true),
        };
        let began = Instant::now();
        let left = self.time.left(began);
        left.is_none_or(|left| after < left)
            .then_some(TryLimit { began, after, idle })
    }

    /// What its tries go by.
    pub(crate) fn rules(&self) -> Rules<'_> {
        Rules::new(&self.route.retry, self.asked.as_deref())
    }
}

impl<B> Routed<B> {
    #[inline]
    pub(crate) fn new(request: Request<B>, mut call: Call, began: Instant, waited: Duration) -> Request<Self> {
        let said = Said::by(request.headers());
        call.grpc = said.grpc;
        request.map(|body| Self {
            waited,
            ..Self::peeked(body, Peeked::Unseen, call, began, said)
        })
    }

    /// Of a body that was looked at, for a call that waited for nothing and knows already what its head says.
    #[inline]
    pub(crate) fn peeked(body: B, peeked: Peeked, call: Call, began: Instant, said: Said) -> Self {
        Self {
            body,
            peeked,
            call,
            began,
            waited: Duration::ZERO,
            said,
        }
    }

    /// The decision.
    pub(crate) fn call(&self) -> &Call {
        &self.call
    }

    /// When the call began.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// When it was routed: the present, for the rooms that follow, which need not read the clock for it.
    pub(crate) fn routed_at(&self) -> Instant {
        self.began + self.waited
    }

    /// What its head says.
    pub(crate) fn said(&self) -> Said {
        self.said
    }

    /// Whether it is a call of gRPC.
    pub(crate) fn is_grpc(&self) -> bool {
        self.call.grpc
    }

    pub(crate) fn extras(&self) -> Option<&Arc<Extras>> {
        self.call.extras.as_ref()
    }

    /// Whether a fault may hold it up.
    pub(crate) fn may_be_held(&self) -> bool {
        self.extras().is_some_and(|extras| extras.may_hold())
    }

    /// What the deadline room found out.
    pub(crate) fn timed(&mut self, asked: Option<Arc<Overrides>>, time: CallTime) {
        self.call.asked = asked;
        self.call.time = time;
    }

    /// It is held up, and with it what begins with its end.
    pub(crate) fn hold(&self) {
        if let (Peeked::Whole(_), Some(activity)) = (&self.peeked, &self.call.time.activity) {
            activity.hold();
        }
    }

    /// It was held up since the deadline room looked at the clock: what is left, and what the caller said of it, is less now.
    pub(crate) fn held_up(&mut self) {
        self.call.time.fresh = None;
        self.call.time.told = false;
        if let (Peeked::Whole(_), Some(activity)) = (&self.peeked, &self.call.time.activity) {
            activity.end();
        }
    }

    /// Whether the peer is of the mesh, as far as the cluster tells.
    pub(crate) fn stays_inside(&self) -> bool {
        let set = self.call.cluster.hosts().load();
        !set.cluster.by_authority && !matches!(set.cluster.tls, TlsMode::Origination(_))
    }

    /// The live cluster that was chosen.
    pub(crate) fn cluster_handle(&self) -> &Arc<ClusterHandle> {
        &self.call.cluster
    }

    /// How long the call waited for its target's first configuration. It counts against the call's time.
    pub(crate) fn waited(&self) -> Duration {
        self.waited
    }

    /// The route that took the request.
    pub fn route(&self) -> &Route {
        &self.call.route
    }

    /// The cluster that was chosen, once, for all tries.
    pub fn cluster(&self) -> &ClusterName {
        self.call.cluster.name()
    }
}

impl<B: Body<Data = Bytes> + Unpin> Routed<B> {
    /// Whether the body is whole already, for all that it says without being waited for.
    ///
    /// # Errors
    ///
    /// When it failed: nothing was sent then.
    #[inline]
    pub(crate) fn is_whole(&mut self) -> Result<bool, Error> {
        if matches!(self.peeked, Peeked::Unseen) {
            self.peeked = peek(&mut self.body).unwrap_or(Peeked::Failed);
        }
        match self.peeked {
            Peeked::Failed => Err(body_failed()),
            Peeked::Whole(_) => Ok(true),
            Peeked::Part(_) | Peeked::Unseen => Ok(false),
        }
    }

    /// The body as tries send it, and the decision.
    ///
    /// # Errors
    ///
    /// As [`is_whole`](Self::is_whole).
    #[inline]
    pub(crate) fn into_payload(mut self) -> Result<(Payload<B>, Call), Error> {
        self.is_whole()?;
        let Self { body, peeked, call, .. } = self;
        let payload = match peeked {
            Peeked::Whole(bytes) => Payload::Whole(bytes.unwrap_or_default()),
            Peeked::Part(frames) => {
                let limit = call.route.retry.replay_limit();
                Payload::Streaming(Arc::new(Replay::new(frames.into_iter().rev(), body, limit)))
            }
            Peeked::Unseen | Peeked::Failed => unreachable!("it was looked at"),
        };
        Ok((payload, call))
    }
}

fn body_failed() -> Error {
    Error::new(Kind::InvalidRequest("its body failed"))
}

impl<B: Body<Data = Bytes>> Body for Routed<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        match this.peeked {
            Peeked::Whole(bytes) => {
                let bytes = bytes.take().filter(|bytes| !bytes.is_empty());
                Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
            }
            Peeked::Part(frames) if !frames.is_empty() => Poll::Ready(frames.pop().map(Ok)),
            Peeked::Failed => Poll::Ready(None),
            Peeked::Part(_) | Peeked::Unseen => this.body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.peeked {
            Peeked::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Peeked::Part(frames) => frames.is_empty() && self.body.is_end_stream(),
            Peeked::Unseen => self.body.is_end_stream(),
            Peeked::Failed => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        let ahead: u64 = match &self.peeked {
            Peeked::Whole(bytes) => return SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Peeked::Part(frames) => frames
                .iter()
                .filter_map(Frame::data_ref)
                .map(|data| data.len() as u64)
                .sum(),
            Peeked::Failed => return SizeHint::with_exact(0),
            Peeked::Unseen => 0,
        };
        let rest = self.body.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(ahead)) {
            hint.set_upper(upper);
        }
        hint.set_lower(rest.lower().saturating_add(ahead));
        hint
    }
}

/// The body of one try.
///
/// A body that was whole when the call began can be sent as often as need be. A streaming one can be sent again while all that
/// was sent of it is kept.
#[derive(Debug)]
pub struct Attempt<B> {
    pub(crate) payload: Payload<B>,
    pub(crate) call: Call,
    pub(crate) number: u32,
    pub(crate) tried: Tried,
    /// Where the call's tries went, if that matters to further ones before it is known how these end.
    pub(crate) gone_to: Option<Arc<Mutex<Visited>>>,
    /// The longest it may take to the head of its answer.
    pub(crate) limit: Option<TryLimit>,
}

/// Where the tries of a call went, in their order.
#[derive(Debug, Default)]
pub(crate) struct Visited {
    pub(crate) priorities: Vec<u32>,
    pub(crate) hosts: Tried,
}

#[derive(Debug)]
pub(crate) enum Payload<B> {
    Whole(Bytes),
    Streaming(Arc<Replay<B>>),
}

impl<B> Clone for Payload<B> {
    fn clone(&self) -> Self {
        match self {
            Self::Whole(bytes) => Self::Whole(bytes.clone()),
            Self::Streaming(replay) => Self::Streaming(Arc::clone(replay)),
        }
    }
}

/// The endpoints that earlier tries of a call went to. Empty, and without an allocation, on the first.
pub(crate) type Tried = Vec<std::net::SocketAddr>;

impl<B> Attempt<B> {
    /// When its time is up, or the call's: what is dropped then was too slow, and not given up by the caller.
    pub(crate) fn expires(&self) -> Expiry {
        let time = &self.call.time;
        match &time.activity {
            None => Expiry::at(self.limit, time.deadline),
            Some(activity) => match activity.ended() {
                None => Expiry::by(activity, self.limit, time.deadline),
                // Once ended, it stays so: what may hold it up did, above.
                Some(_) => {
                    let own = self.limit.and_then(|limit| limit.ends(Some(activity)));
                    Expiry::At(own.into_iter().chain(activity.ends()).chain(time.deadline).min())
                }
            },
        }
    }

    #[inline]
    pub(crate) fn first(payload: Payload<B>, call: Call, limit: Option<TryLimit>, hedged: bool) -> Self {
        let hosts = &call.route.retry.hosts;
        let is_asked = hosts.other_priorities.is_some() || hedged;
        Self {
            payload,
            number: 1,
            tried: Tried::new(),
            gone_to: is_asked.then(Arc::default),
            call,
            limit,
        }
    }

    /// Which try this is; the first is 1.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The route that took the request.
    pub fn route(&self) -> &Route {
        &self.call.route
    }

    /// The cluster that this and every other try of the call goes to.
    pub fn cluster(&self) -> &ClusterName {
        self.call.cluster.name()
    }
}

/// The body of a request whose own was whole, and is kept beside it: whoever sends it needs no type of the application's.
#[derive(Debug)]
pub(crate) struct Taken;

impl Body for Taken {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(0)
    }
}
