//! The room that sends copies of calls elsewhere, and never looks back (Envoy `request_mirror_policies`).
//!
//! A copy is a task of its own: whatever becomes of it, the call neither waits for it nor learns of it. So that nobody is hurt
//! by a destination that does not answer, everything about it is bounded: how many there are at once, how large, how long.
//! What is over a bound is not sent, and counted.
//!
//! The room stands below retry, which has looked at the body by then: one that is whole is shared with its copies for nothing,
//! one that still streams is not copied. Only the first try is. Layers that an application put below do not see copies.

mod copy;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use mesh_core::config::{Mirror, Route};
use mesh_core::report::Tally;
use mesh_core::{Entropy, Link};
use tokio::runtime::Handle;
use tower::{Layer, Service};

use crate::balance::Balance;
use crate::body::ResponseBody;
use crate::cluster::{ClusterHandle, Extras};
use crate::error::Error;
use crate::request::{Attempt, Call, Payload};
use copy::{Place, run, shadow};

/// The most copies on their way to one cluster at once: enough for 2,500 calls a second to a destination that takes 100 ms.
/// And at most half of the calls that the cluster allows (`max_requests`), so that calls to it find room beside the copies.
pub const MAX_COPIES: u32 = 256;
/// The largest body that is copied: what a gRPC client keeps of a call for its retries. With [`MAX_COPIES`] it bounds what
/// copies hold in memory at 64 MiB per cluster.
pub const MAX_BODY_BYTES: usize = 256 * 1024;
/// The longest a copy may take, and less where the route's own timeout is: Envoy's default for a call.
pub const MAX_TIME: Duration = Duration::from_secs(15);
/// How much of an answer to a copy is read before it is cancelled: small ones end by themselves, which leaves the connection
/// in peace.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// The event by which copies that were not sent, or failed, are counted.
const EVENT: &str = "mirror";

/// Makes [`MirrorService`]s.
#[derive(Clone, Debug)]
pub struct MirrorLayer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    balance: Balance,
    entropy: Entropy,
    tally: Tally,
    target: Box<str>,
}

impl MirrorLayer {
    /// Sends copies by `balance`, which is to be the innermost room of calls to `target`.
    pub fn new(link: &Link, target: &str, balance: Balance) -> Self {
        let shared = Shared {
            balance,
            entropy: link.entropy().clone(),
            tally: link.tally().clone(),
            target: crate::target::authority(target).into(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }
}

impl<S> Layer<S> for MirrorLayer {
    type Service = MirrorService<S>;

    fn layer(&self, inner: S) -> MirrorService<S> {
        MirrorService {
            inner,
            shared: Arc::clone(&self.shared),
        }
    }
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct MirrorService<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, B> Service<Request<Attempt<B>>> for MirrorService<S>
where
    S: Service<Request<Attempt<B>>, Response = Response<ResponseBody>, Error = Error>,
{
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<Attempt<B>>) -> S::Future {
        self.copy(&request);
        self.inner.call(request)
    }
}

impl<S> MirrorService<S> {
    /// The service below.
    pub(crate) fn inner(&self) -> &S {
        &self.inner
    }

    /// Copies a first try to whom its route says.
    #[inline]
    pub(crate) fn copy<B>(&self, request: &Request<Attempt<B>>) {
        if let Some(extras) = &request.body().call.extras
            && request.body().number == 1
        {
            self.shared.copy(request, extras);
        }
    }
}

impl Shared {
    fn copy<B>(&self, request: &Request<Attempt<B>>, extras: &Extras) {
        for (mirror, cluster) in &extras.mirrors {
            let mut draw = self.entropy.draw();
            if mirror.fraction.is_some_and(|part| !part.holds(draw.next())) {
                continue;
            }
            let sent = match cluster {
                Ok(cluster) => self.send(request, mirror, cluster),
                Err(_) => Err("no_cluster"),
            };
            if let Err(why) = sent {
                self.tally.count(EVENT, why);
            }
        }
    }

    /// Begins a copy, or says why there is none.
    fn send<B>(
        &self,
        request: &Request<Attempt<B>>,
        mirror: &Mirror,
        cluster: &Arc<ClusterHandle>,
    ) -> Result<(), &'static str> {
        let attempt = request.body();
        let body = whole(&attempt.payload)?;
        let runtime = Handle::try_current().map_err(|_| "no_runtime")?;
        let place = Place::take(cluster).ok_or("over_limit")?;
        let mut copy = Request::new(Attempt::first(
            Payload::Whole(body),
            Call::new(Arc::clone(&attempt.call.route), Arc::clone(cluster), None),
            None,
            false,
        ));
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.headers_mut() = request.headers().clone();
        if mirror.shadow_suffix {
            shadow(&mut copy, &self.target);
        }
        let limit = limit(&attempt.call.route);
        runtime.spawn(run(self.balance.clone(), copy, place, limit, self.tally.clone()));
        Ok(())
    }
}

fn whole<B>(payload: &Payload<B>) -> Result<Bytes, &'static str> {
    match payload {
        Payload::Whole(bytes) if bytes.len() <= MAX_BODY_BYTES => Ok(bytes.clone()),
        Payload::Whole(_) => Err("too_large"),
        Payload::Streaming(_) => Err("streaming"),
    }
}

fn limit(route: &Route) -> Duration {
    route.timeout.map_or(MAX_TIME, |timeout| timeout.min(MAX_TIME))
}
