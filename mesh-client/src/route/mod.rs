//! The room that decides: which route, and which cluster of its split, once per call.
//!
//! It loads the target's selector once; everything later reads what the request carries. The weighted choice is made here and
//! never again, so retries stay in the chosen subset (gRFC A31) and a canary's share does not drift when calls fail.
//!
//! A route may also answer by itself: nothing below sees such a call.
//!
//! Before a target's first answer a call waits here, and nowhere else: at most [`Link::first_answer_limit`], of which
//! [`FIRST_ANSWER_LIMIT`] is the longest, or its own deadline; then it fails UNAVAILABLE with the reason. Once something was heard, nothing here ever waits for a control plane.

mod future;
mod own;
mod session;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Request, Response};
use mesh_core::config::{Action, HashPolicy, Reason, ReasonKind};
use mesh_core::entropy::Draw;
use mesh_core::link::{Guard, Standing};
use mesh_core::patience::{TIMED_OUT_AFTER, first_answer_limit};
use mesh_core::route::{Caller, RequestHead};
use mesh_core::{Entropy, Link, inherit, live, route};
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::body::ResponseBody;
use crate::cluster::{ClusterManager, Selector, Target};
use crate::deadline;
use crate::error::{Error, Kind};
use crate::request::{Call, Routed};
use crate::status::is_grpc;
use crate::target;
use crate::telemetry::unrouted;

pub use future::RouteFuture;
pub(crate) use future::heard_of;

/// The longest a call waits for a target's first configuration, whatever the source: longer than the longest time after which an xDS client
/// takes a resource for missing. Most wait less ([`Link::first_answer_limit`]).
pub const FIRST_ANSWER_LIMIT: Duration = first_answer_limit(TIMED_OUT_AFTER);

/// Makes [`RouteService`]s for one target. All services of a layer, and their clones, share its subscription.
#[derive(Clone, Debug)]
pub struct RouteLayer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The authority of its calls that name none.
    target: Arc<str>,
    /// By which it is asked for.
    name: Arc<str>,
    selector: live::Reader<Target>,
    entropy: Entropy,
    /// What its calls have in common where hosts are chosen by the channel.
    channel: u64,
    link: Link,
    // What keeps the selector current and the target subscribed.
    _cell: Arc<live::Writer<Target>>,
    _manager: Arc<ClusterManager>,
    _interest: Guard,
}

impl RouteLayer {
    /// Routes by what `link` knows of `target`, which is `name`, `xds:///name`, or `xds://AUTHORITY/name` where the bootstrap says whom
    /// to ask for an authority's names (gRFC A47).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, if this is the first layer of `link`: the cluster manager's task is started then.
    pub fn new(link: &Link, target: &str) -> Self {
        let name: Arc<str> = target::name(target).into();
        let interest = link.interest().watch(Arc::clone(&name));
        let manager = ClusterManager::of(link);
        let cell = manager.target(&name);
        let entropy = manager.entropy().clone();
        let shared = Shared {
            target: target::authority(target).into(),
            name,
            selector: cell.reader(),
            channel: entropy.draw().next(),
            entropy,
            link: link.clone(),
            _cell: cell,
            _manager: manager,
            _interest: interest,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    pub(crate) fn identity(&self) -> &live::Reader<Standing> {
        self.shared.link.identity()
    }

    pub(crate) fn selector(&self) -> &live::Reader<Target> {
        &self.shared.selector
    }

    /// What is to become of a request, without waiting.
    #[inline]
    pub(crate) fn decide<B>(&self, request: &Request<B>) -> Decision {
        self.shared.decide(request)
    }
}

impl<S> Layer<S> for RouteLayer {
    type Service = RouteService<S>;

    fn layer(&self, inner: S) -> RouteService<S> {
        RouteService {
            inner,
            shared: Arc::clone(&self.shared),
        }
    }
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct RouteService<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, B> Service<Request<B>> for RouteService<S>
where
    S: Service<Request<Routed<B>>, Response = Response<ResponseBody>, Error = Error> + Clone + Send + 'static,
    B: Send + 'static,
{
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = RouteFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> RouteFuture<S::Future> {
        let decision = self.shared.decide(&request);
        if matches!(decision, Decision::Answer(_) | Decision::Fail(_)) {
            // Nobody is called: what was reserved for it is given back (tower's `ConcurrencyLimit`).
            self.inner = self.inner.clone();
        }
        self.decided(request, decision)
    }
}

impl<S> RouteService<S> {
    /// Goes on with a request that was decided on.
    #[inline]
    pub(crate) fn decided<B>(&mut self, request: Request<B>, decision: Decision) -> RouteFuture<S::Future>
    where
        S: Service<Request<Routed<B>>, Response = Response<ResponseBody>, Error = Error> + Clone + Send + 'static,
        B: Send + 'static,
    {
        match decision {
            Decision::Go(call, given) => self.routed(Routed::new(request, call, Instant::now(), Duration::ZERO), given),
            Decision::Answer(response) => self.shared.unrouted(&request, Duration::ZERO, Ok(response)),
            Decision::Fail(error) => self.shared.unrouted(&request, Duration::ZERO, Err(error)),
            Decision::Wait(_) => {
                // The service that was polled ready does the call; its clone stays behind.
                let clone = self.inner.clone();
                let ready = std::mem::replace(&mut self.inner, clone);
                let limit = self.shared.link.first_answer_limit().min(FIRST_ANSWER_LIMIT);
                let limit = deadline::of_caller(request.headers()).map_or(limit, |deadline| deadline.min(limit));
                RouteFuture::wait(ready, request, Arc::clone(&self.shared), limit)
            }
        }
    }

    /// Goes on with a request that has its cluster.
    #[inline]
    pub(crate) fn routed<B>(&mut self, request: Request<Routed<B>>, given: Option<Box<Given>>) -> RouteFuture<S::Future>
    where
        S: Service<Request<Routed<B>>>,
    {
        let grpc = request.body().is_grpc();
        RouteFuture::go(self.inner.call(request), given, grpc)
    }
}

/// What the caller is given with its answer, to come back with.
#[derive(Debug, Default)]
pub(crate) struct Given {
    cookies: Vec<HeaderValue>,
    session: Option<session::Kept>,
}

pub(crate) enum Decision {
    /// Most callers are given nothing.
    Go(Call, Option<Box<Given>>),
    Answer(Box<Response<ResponseBody>>),
    Fail(Error),
    Wait(Reason),
}

impl Shared {
    /// A call that no cluster is asked for, counted.
    fn unrouted<F, B>(
        &self,
        request: &Request<B>,
        took: Duration,
        result: Result<Box<Response<ResponseBody>>, Error>,
    ) -> RouteFuture<F> {
        // Calls that got here were told by the configuration of that moment, and are written by the newest.
        let target = self.selector.load();
        let log = match &**target {
            Target::Ready(selector) => selector.log.as_ref(),
            Target::Waiting(_) | Target::Failed(_) => None,
        };
        unrouted(&self.link, request, &self.target, took, &result, log);
        RouteFuture::done(result, is_grpc(request.headers()))
    }

    fn decide<B>(&self, request: &Request<B>) -> Decision {
        match &**self.selector.load() {
            Target::Waiting(reason) => Decision::Wait(reason.clone()),
            Target::Failed(reason) => Decision::Fail(Error::new(Kind::Unavailable(reason.clone()))),
            Target::Ready(selector) => self.select(selector, &RequestHead::of(request, &self.target)),
        }
    }

    fn select(&self, selector: &Selector, head: &RequestHead<'_>) -> Decision {
        let mut draw = self.entropy.draw();
        let no_route = |text| Decision::Fail(Error::unavailable(ReasonKind::NoRoute, text));
        let Some(index) = route::first_match(&selector.routes, head, &mut draw) else {
            return no_route(format!("no route takes {:?}", head.path()));
        };
        let (route, leads) = (&selector.routes[index], &selector.leads[index]);
        let forward = match &route.action {
            Action::Forward(forward) => forward,
            Action::Unserved(what) => return no_route(format!("the route asks for {what}, which is not served here")),
            own => return own::answer(own, route, leads.own.as_ref(), head),
        };
        let (index, held) = match leads.has_sessions {
            false => (route::choose(&forward.split, &mut draw), None),
            true => session::choose(&forward.split, leads, head, &self.link, &mut draw),
        };
        let share = &leads.shares[index];
        match &share.cluster {
            Ok(cluster) => {
                let mut call = Call::new(Arc::clone(route), Arc::clone(cluster), share.extras.clone());
                let mut given = match &share.session {
                    None => None,
                    Some(session) => Given::of_session(session, head, cluster.name(), held.as_ref()),
                };
                call.held = held;
                if !forward.hash.is_empty() {
                    self.hash(&mut call, &mut given, &forward.hash, head, &mut draw);
                }
                Decision::Go(call, given)
            }
            Err(reason) => Decision::Fail(Error::new(Kind::Unavailable(reason.clone()))),
        }
    }

    /// Hashes what the route says of the request, where its cluster goes by that.
    fn hash(
        &self,
        call: &mut Call,
        given: &mut Option<Box<Given>>,
        policies: &[HashPolicy],
        head: &RequestHead<'_>,
        draw: &mut Draw,
    ) {
        if !call.cluster.hosts().load().cluster.lb.is_hashed() {
            return;
        }
        let caller = Caller {
            channel: self.channel,
            source: inherit::with(|inherited| inherited.source()).flatten(),
        };
        let hashed = route::hash(policies, head, caller, draw);
        call.hash = hashed.hash;
        if !hashed.cookies.is_empty() {
            given.get_or_insert_default().cookies = hashed.cookies;
        }
    }
}
