//! The room that asks whether there is a token for one more request ([`mesh_core::limit`]).
//!
//! It stands at two places: before those that ask who may call, so that a flood costs no signature, and behind them, where only who may
//! call spends what is there for callers. Which limit stands where is the configuration's to say, by the order of its filters; those of
//! code stand before. Buckets are the process's, kept by its [`Link`], or the connection's; a new configuration finds what was taken.
//!
//! Who is limited is told so as Envoy tells it: 429 unless the configuration says otherwise, `x-envoy-ratelimited`, and UNAVAILABLE or
//! RESOURCE_EXHAUSTED for gRPC. Counts: `rate_limited.local`, and `rate_limited.not_enforced` for what would have been.
//!
//! Limits that many servers share are kept by a rate limit service, which is asked about requests that are described by something, after
//! the buckets here have let them pass ([`RateLimitLayer::services`]). It has 20 ms unless the configuration says otherwise; without an
//! answer the request passes, or not, as that says. Counts: `rate_limited.global`, and `rate_limited.unanswered`.

mod ask;
mod future;
mod service;

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use mesh_core::config::{LocalRateLimit, RateLimits, TooManyLimits};
use mesh_core::limit::{Asked, Buckets, Judged, Limiter, Places, Question, Quota, Scope};
use mesh_core::report::Tally;
use mesh_core::route::RequestHead;
use mesh_core::{Entropy, Link};
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::accept::ConnectionInfo;
use crate::outside::OutsideCaller;
use crate::refusal::{MaybeRefused, Refusal};
pub use ask::QuestionBody;
use ask::Services;
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
    services: Option<Services>,
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
            services: None,
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

    /// Asks rate limit services through what `make` makes of the name that a configuration gives them: a cluster's, or an address. A client of
    /// the mesh, mostly: `move |name| Channel::new(&link, name)`. Without this no service has an answer.
    #[must_use]
    pub fn services<S: OutsideCaller>(self, make: impl Fn(&str) -> S + Send + Sync + 'static) -> Self {
        Self {
            services: Some(Services::new(make)),
            ..self
        }
    }

    pub(crate) fn same_services(self, as_of: &Self) -> Self {
        Self {
            services: as_of.services.clone(),
            ..self
        }
    }

    /// What comes of asking, and whose limits those are.
    fn judge<B>(&self, request: &Request<B>) -> (Judged, Vec<Question>) {
        let info = ConnectionInfo::of(request.extensions());
        let configured = info.and_then(|info| info.limiter(&self.shared.0));
        if configured.is_none() && self.in_code.is_none() {
            return (Judged::default(), Vec::new());
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
                return (judged, Vec::new());
            }
        }
        let questions = configured.map(|limiter| limiter.questions(&asked, self.after_guards));
        (judged, questions.unwrap_or_default())
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
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: 'static,
    B: Send + 'static,
    R: Body<Data = Bytes> + 'static,
{
    type Response = Response<MaybeRefused<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, R, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let (judged, questions) = self.limits.judge(&request);
        if let Some(limit) = judged.limited {
            self.limits.tally.count("rate_limited", "local");
            let refusal = Refusal::limited(&request, limit.status, limit.resource_exhausted, LIMITED);
            return ResponseFuture::limited(refusal, limit, judged.quota);
        }
        for limit in &judged.passed_over {
            self.limits.tally.count("rate_limited", "not_enforced");
            limit.request_headers.apply_literals(request.headers_mut());
        }
        if questions.is_empty() {
            return ResponseFuture::admitted(self.inner.call(request), judged.quota);
        }
        // The one that is ready; what is left asks anew.
        let next = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, next);
        let asking = asking(self.limits.clone(), inner, request, questions, judged.quota);
        ResponseFuture::asking(Box::pin(asking))
    }
}

/// Asks one service after the other, and then the inner one.
async fn asking<S, B, R>(
    limits: RateLimitLayer,
    mut inner: S,
    mut request: Request<B>,
    questions: Vec<Question>,
    mut quota: Option<Quota>,
) -> Result<Response<MaybeRefused<R>>, S::Error>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    let mut said = HeaderMap::new();
    for Question { limit, descriptors } in questions {
        let answer = match &limits.services {
            Some(services) => services.ask(&limit, &descriptors).await,
            None => None,
        };
        let Some(answer) = answer else {
            limits.tally.count("rate_limited", "unanswered");
            if limit.deny_on_failure {
                let refusal = Refusal::limited(&request, limit.status_on_error, false, "rate_limiter_error");
                return Ok(refusal.response());
            }
            continue;
        };
        if limit.quota_headers {
            quota = [quota, answer.quota]
                .into_iter()
                .flatten()
                .min_by_key(|quota| quota.remaining);
        }
        for (name, value) in answer.response_headers {
            said.append(name, value);
        }
        if answer.over_limit {
            limits.tally.count("rate_limited", "global");
            let refusal = Refusal::limited(&request, limit.status, limit.resource_exhausted, "request_rate_limited");
            let mut response = refusal.response();
            let headers = response.headers_mut();
            headers.extend(said);
            limit.response_headers.apply_literals(headers);
            future::tell(limit.tells, quota, headers);
            return Ok(response);
        }
        for (name, value) in answer.request_headers {
            request.headers_mut().insert(name, value);
        }
    }
    let mut response = inner.call(request).await?.map(MaybeRefused::admitted);
    response.headers_mut().extend(said);
    future::tell(false, quota, response.headers_mut());
    Ok(response)
}
