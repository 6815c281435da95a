//! The room that decides: which route, and which cluster of its split, once per call.
//!
//! It loads the target's selector once; everything later reads what the request carries. The weighted choice is made here and
//! never again, so retries stay in the chosen subset (gRFC A31) and a canary's share does not drift when calls fail.
//!
//! Before a target's first answer a call waits here, and nowhere else: at most [`FIRST_ANSWER_LIMIT`] or its own deadline, then
//! it fails UNAVAILABLE with the reason. Once something was heard, nothing here ever waits for a control plane.

mod future;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use mesh_core::config::{Reason, ReasonKind};
use mesh_core::link::{Guard, Standing};
use mesh_core::{Entropy, Link, live, route};
use tower::{Layer, Service};

use crate::body::ResponseBody;
use crate::cluster::{ClusterManager, Selector, Target};
use crate::deadline;
use crate::error::{Error, Kind};
use crate::request::Routed;

pub use future::RouteFuture;
pub(crate) use future::heard_of;

/// The longest a call waits for a target's first configuration: xDS clients take a resource for missing after as long.
pub const FIRST_ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// Makes [`RouteService`]s for one target. All services of a layer, and their clones, share its subscription.
#[derive(Clone, Debug)]
pub struct RouteLayer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    selector: live::Reader<Target>,
    entropy: Entropy,
    link: Link,
    // What keeps the selector current and the target subscribed.
    _cell: Arc<live::Writer<Target>>,
    _manager: Arc<ClusterManager>,
    _interest: Guard,
}

impl RouteLayer {
    /// Routes by what `link` knows of `target`, which is `xds:///name` or just `name`.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, if this is the first layer of `link`: the cluster manager's task is started then.
    pub fn new(link: &Link, target: &str) -> Self {
        let name: Arc<str> = target.strip_prefix("xds:///").unwrap_or(target).into();
        let interest = link.interest().watch(Arc::clone(&name));
        let manager = ClusterManager::of(link);
        let cell = manager.target(&name);
        let shared = Shared {
            selector: cell.reader(),
            entropy: manager.entropy().clone(),
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
    S: Service<Request<Routed<B>>, Response = Response<ResponseBody>, Error = Error> + Clone,
{
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = RouteFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> RouteFuture<S, B> {
        let decision = decide(&self.shared.selector.load(), &request, &self.shared.entropy);
        match decision {
            Decision::Go(route, cluster) => {
                let request = request.map(|body| Routed::new(body, route, cluster, Duration::ZERO));
                RouteFuture::go(self.inner.call(request))
            }
            Decision::Fail(error) => RouteFuture::fail(error),
            Decision::Wait(_) => {
                // The service that was polled ready does the call; its clone stays behind.
                let clone = self.inner.clone();
                let ready = std::mem::replace(&mut self.inner, clone);
                let limit =
                    deadline::of_caller(request.headers()).map_or(FIRST_ANSWER_LIMIT, |d| d.min(FIRST_ANSWER_LIMIT));
                RouteFuture::wait(ready, request, Arc::clone(&self.shared), limit)
            }
        }
    }
}

enum Decision {
    Go(Arc<mesh_core::config::Route>, Arc<crate::cluster::ClusterHandle>),
    Fail(Error),
    Wait(Reason),
}

fn decide<B>(target: &Target, request: &Request<B>, entropy: &Entropy) -> Decision {
    match target {
        Target::Waiting(reason) => Decision::Wait(reason.clone()),
        Target::Failed(reason) => Decision::Fail(Error::new(Kind::Unavailable(reason.clone()))),
        Target::Ready(selector) => select(selector, request.uri().path(), request.headers(), entropy),
    }
}

fn select(selector: &Selector, path: &str, headers: &HeaderMap, entropy: &Entropy) -> Decision {
    let Some(index) = route::first_match(&selector.routes, path, headers) else {
        return Decision::Fail(Error::unavailable(
            ReasonKind::NoRoute,
            format!("no route takes {path:?}"),
        ));
    };
    let route = &selector.routes[index];
    let share = route::choose(&route.split, &mut entropy.draw());
    match &selector.clusters[index][share] {
        Ok(cluster) => Decision::Go(Arc::clone(route), Arc::clone(cluster)),
        Err(reason) => Decision::Fail(Error::new(Kind::Unavailable(reason.clone()))),
    }
}
