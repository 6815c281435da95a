//! The room that breaks calls on purpose: it holds them up, or ends them, as the configuration says (Envoy's fault filter,
//! gRFC A33), so that what depends on a service can be tried against its bad days.
//!
//! It stands within the deadline: a delay uses up the caller's time and the stream's, while the route's timeout begins after it (Envoy, whose
//! router stands behind this filter). And above everything that is done for a call: one that is ended here
//! is not edited, mirrored or retried, and nothing was sent. A call whose route has no faults pays for one look.

mod future;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use mesh_core::Link;
use mesh_core::config::Fault;
use mesh_core::route::{Injection, RequestHead, inject};
use tower::{Layer, Service};

use crate::body::ResponseBody;
use crate::cluster::{ClusterManager, Extras};
use crate::error::{Abort, Error, Kind};
use crate::request::Routed;

pub use future::FaultFuture;

/// The body of an answer that a fault gives, where the configuration says nothing (Envoy).
const BODY: &str = "fault filter abort";

/// In the extensions of an answer to a call that a fault held up (Envoy's response flag `DI`): for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delayed(pub Duration);

/// Makes [`FaultService`]s.
#[derive(Clone, Debug)]
pub struct FaultLayer {
    manager: Arc<ClusterManager>,
    target: Arc<str>,
}

impl FaultLayer {
    /// For calls to `target`. Draws from `link`'s entropy, and counts the calls that faults hold for all of `link`'s channels
    /// together.
    ///
    /// # Panics
    ///
    /// As [`RouteLayer::new`](crate::route::RouteLayer::new).
    pub fn new(link: &Link, target: &str) -> Self {
        Self {
            manager: ClusterManager::of(link),
            target: crate::target::authority(target).into(),
        }
    }
}

impl<S> Layer<S> for FaultLayer {
    type Service = FaultService<S>;

    fn layer(&self, inner: S) -> FaultService<S> {
        FaultService {
            inner,
            manager: Arc::clone(&self.manager),
            target: Arc::clone(&self.target),
        }
    }
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct FaultService<S> {
    inner: S,
    manager: Arc<ClusterManager>,
    target: Arc<str>,
}

impl<S, B> Service<Request<Routed<B>>> for FaultService<S>
where
    S: Service<Request<Routed<B>>, Response = Response<ResponseBody>, Error = Error> + Clone,
{
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = FaultFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<Routed<B>>) -> FaultFuture<S, B> {
        let extras = request.body().extras();
        let head = RequestHead::of(&request, &self.target);
        match extras.and_then(|extras| self.injects(extras, head)) {
            None => FaultFuture::go(self.inner.call(request)),
            Some(injected) => self.inject(injected, request),
        }
    }
}

/// What breaks a call, and its place among those that are held.
pub(crate) struct Injected {
    injection: Injection,
    active: Active,
}

impl<S> FaultService<S> {
    /// The service below.
    pub(crate) fn inner(&self) -> &S {
        &self.inner
    }

    /// The name that requests have which name nobody.
    pub(crate) fn target(&self) -> &str {
        &self.target
    }

    /// What breaks a request with such a head; mostly nothing.
    #[inline]
    pub(crate) fn injects(&self, extras: &Extras, head: RequestHead<'_>) -> Option<Injected> {
        if extras.faults.is_empty() {
            return None;
        }
        let active = self.manager.active_faults().enter();
        let injection = self.draw(&extras.faults, &head, active.others);
        (!injection.is_nothing()).then_some(Injected { injection, active })
    }

    /// Breaks it.
    pub(crate) fn inject<B>(
        &mut self,
        Injected { injection, active }: Injected,
        request: Request<Routed<B>>,
    ) -> FaultFuture<S, B>
    where
        S: Service<Request<Routed<B>>, Response = Response<ResponseBody>, Error = Error> + Clone,
    {
        let delay = injection.delay;
        let abort = injection.abort.map(|(status, body)| {
            Error::new(Kind::Fault(Abort {
                status,
                body: if body.is_empty() { BODY.into() } else { body },
                delayed: !delay.is_zero(),
            }))
        });
        if let Some(error) = abort {
            // Nobody is called: what was reserved for it is given back.
            self.inner = self.inner.clone();
            if delay.is_zero() {
                return FaultFuture::fail(error);
            }
            request.body().hold();
            return FaultFuture::hold(None, Some(error), delay, active);
        }
        request.body().hold();
        let clone = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, clone);
        FaultFuture::hold(Some((ready, request)), None, delay, active)
    }

    fn draw(&self, faults: &[Arc<Fault>], head: &RequestHead<'_>, active: u32) -> Injection {
        let injection = inject(faults, head, active, &mut self.manager.entropy().draw());
        let tally = self.manager.tally();
        for (happened, what) in [
            (!injection.delay.is_zero(), "delay"),
            (injection.abort.is_some(), "abort"),
            (injection.limited, "over_limit"),
        ] {
            if happened {
                tally.count("fault", what);
            }
        }
        injection
    }
}

/// How many calls faults hold at this moment. Shared by all channels of a link, and outside of every configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActiveFaults(Arc<AtomicU32>);

/// A call that a fault may hold: counted until this is dropped.
#[derive(Debug)]
struct Active {
    count: Arc<AtomicU32>,
    /// How many there were besides it.
    others: u32,
}

impl ActiveFaults {
    fn enter(&self) -> Active {
        Active {
            others: self.0.fetch_add(1, Ordering::Relaxed),
            count: Arc::clone(&self.0),
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}
