//! The room that asks whether there is a token for one more request ([`mesh_core::limit`]).
//!
//! It stands at two places: before those that ask who may call, so that a flood costs no signature, and behind them, where only who may
//! call spends what is there for callers. Which limit stands where is the configuration's to say, by the order of its filters; those of
//! code stand before. Buckets are the process's, kept by its [`Link`], or the connection's; a new configuration finds what was taken.
//!
//! Who is limited is told so as Envoy tells it: 429 unless the configuration says otherwise, `x-envoy-ratelimited`, and UNAVAILABLE or
//! RESOURCE_EXHAUSTED for gRPC. Nobody is asked twice, and nothing waits. Counts: `rate_limited.local`, and `rate_limited.not_enforced`
//! for what would have been.

mod future;

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use mesh_core::config::{LocalRateLimit, RateLimits, TooManyLimits};
use mesh_core::limit::{Asked, Buckets, Judged, Limiter, Places, Scope};
use mesh_core::report::Tally;
use mesh_core::route::RequestHead;
use mesh_core::{Entropy, Link};
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::accept::ConnectionInfo;
use crate::refusal::{MaybeRefused, Refusal};
pub use future::ResponseFuture;

/// What Envoy answers.
const LIMITED: &str = "local_rate_limited";

/// Refuses requests for which there is no token. Part of [`MeshLayer`](crate::MeshLayer), at two places.
#[derive(Clone, Debug)]
pub struct RateLimitLayer {
    tally: Tally,
    entropy: Entropy,
    shared: Arc<Shared>,
    after_guards: bool,
    in_code: Option<Arc<Limiter>>,
}

/// The buckets of a process.
#[derive(Debug)]
pub(crate) struct Shared(Buckets);

impl Shared {
    fn of(link: &Link) -> Arc<Self> {
        link.attached(|| Self(Buckets::new(now())))
    }
}

impl RateLimitLayer {
    /// The limits that stand before the rooms that ask who may call.
    pub fn before_guards(link: &Link) -> Self {
        Self {
            tally: link.tally().clone(),
            entropy: link.entropy().clone(),
            shared: Shared::of(link),
            after_guards: false,
            in_code: None,
        }
    }

    /// Those that stand behind them.
    pub fn after_guards(link: &Link) -> Self {
        Self {
            after_guards: true,
            ..Self::before_guards(link)
        }
    }

    /// Asks for a token of `limit`, too, whatever is configured. `name` tells limits of code apart: those of one name in one process have
    /// the same buckets.
    ///
    /// # Errors
    ///
    /// When the limit holds more descriptors than one may.
    pub fn limit(self, name: &str, limit: LocalRateLimit) -> Result<Self, TooManyLimits> {
        let limits = Arc::new(RateLimits::of(limit)?);
        let scope = Scope {
            listener: "code".into(),
            chain: name.into(),
            port: 0,
        };
        let places = Places {
            shared: &self.shared.0,
            connection: &self.shared.0,
        };
        let limiter = Limiter::new(&limits, &scope, places, now());
        Ok(Self {
            in_code: Some(Arc::new(limiter)),
            ..self
        })
    }

    /// What comes of asking, and whose limits those are.
    fn judge<B>(&self, request: &Request<B>) -> Judged {
        let info = ConnectionInfo::of(request.extensions());
        let configured = info.and_then(|info| info.limiter(&self.shared.0));
        if configured.is_none() && self.in_code.is_none() {
            return Judged::default();
        }
        let asked = Asked {
            head: RequestHead::of(request, ""),
            source: info.map(|info| info.source().ip()),
        };
        let mut draw = self.entropy.draw();
        let mut judged = Judged::default();
        for (limiter, after_guards) in [(&self.in_code, false), (&configured, self.after_guards)] {
            let Some(limiter) = limiter else { continue };
            let one = limiter.judge(&asked, after_guards, now(), &mut draw);
            judged.passed_over.extend(one.passed_over);
            judged.quota = [judged.quota, one.quota]
                .into_iter()
                .flatten()
                .min_by_key(|quota| quota.remaining);
            if one.limited.is_some() {
                judged.limited = one.limited;
                break;
            }
        }
        judged
    }
}

/// The runtime's, which tests may stop.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimited<S>;

    fn layer(&self, inner: S) -> RateLimited<S> {
        RateLimited {
            inner,
            limits: self.clone(),
        }
    }
}

/// See [`RateLimitLayer`].
#[derive(Clone, Debug)]
pub struct RateLimited<S> {
    inner: S,
    limits: RateLimitLayer,
}

impl<S, B, R> Service<Request<B>> for RateLimited<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    type Response = Response<MaybeRefused<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let judged = self.limits.judge(&request);
        if let Some(limit) = judged.limited {
            self.limits.tally.count("rate_limited", "local");
            let refusal = Refusal::limited(&request, limit.status, limit.resource_exhausted, LIMITED);
            return ResponseFuture::limited(refusal, limit, judged.quota);
        }
        for limit in &judged.passed_over {
            self.limits.tally.count("rate_limited", "not_enforced");
            limit.request_headers.apply_literals(request.headers_mut());
        }
        ResponseFuture::admitted(self.inner.call(request), judged.quota)
    }
}
