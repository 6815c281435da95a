//! The room's answer: the service's, or that there was no token.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body::Body;
use mesh_core::config::LocalRateLimit;
use mesh_core::limit::Quota;
use pin_project_lite::pin_project;

use crate::refusal::{MaybeRefused, Refusal};

/// By this clients know, Envoy's and ours, that an answer was given for want of a token (`retry-on: envoy-ratelimited`).
const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// What answers say of what is left (draft-polli-ratelimit-headers-03), as Envoy spells them.
const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// What asks others first.
type Asking<R, E> = Pin<Box<dyn Future<Output = Result<Response<MaybeRefused<R>>, E>> + Send>>;

pin_project! {
    /// The future of [`RateLimited`](super::RateLimited). Dropping it drops the service's call, and the question.
    pub struct ResponseFuture<F, R, E> {
        #[pin]
        state: State<F, R, E>,
        quota: Option<Quota>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, R, E> {
        Admitted { #[pin] call: F },
        Limited { refusal: Refusal, limit: Arc<LocalRateLimit> },
        Asking { asking: Asking<R, E> },
    }
}

impl<F, R, E> ResponseFuture<F, R, E> {
    pub(super) fn admitted(call: F, quota: Option<Quota>) -> Self {
        Self {
            state: State::Admitted { call },
            quota,
        }
    }

    pub(super) fn limited(refusal: Refusal, limit: Arc<LocalRateLimit>, quota: Option<Quota>) -> Self {
        Self {
            state: State::Limited { refusal, limit },
            quota,
        }
    }

    pub(super) fn asking(asking: Asking<R, E>) -> Self {
        Self {
            state: State::Asking { asking },
            quota: None,
        }
    }
}

impl<F, R, E> fmt::Debug for ResponseFuture<F, R, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<F, R, E> Future for ResponseFuture<F, R, E>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<MaybeRefused<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = match this.state.project() {
            StateProjection::Admitted { call } => ready!(call.poll(cx))?.map(MaybeRefused::admitted),
            StateProjection::Limited { refusal, limit } => {
                let mut response = refusal.response();
                let headers = response.headers_mut();
                headers.insert(RATE_LIMITED, HeaderValue::from_static("true"));
                limit.response_headers.apply_literals(headers);
                response
            }
            // It has told all there is.
            StateProjection::Asking { asking } => return asking.as_mut().poll(cx),
        };
        tell(false, *this.quota, response.headers_mut());
        Poll::Ready(Ok(response))
    }
}

/// Says that a request was limited, and what is left.
pub(super) fn tell(limited: bool, quota: Option<Quota>, headers: &mut HeaderMap) {
    if limited {
        headers.insert(RATE_LIMITED, HeaderValue::from_static("true"));
    }
    let Some(quota) = quota else { return };
    // A second that has begun is not over.
    let seconds = quota.reset.as_secs() + u64::from(quota.reset.subsec_nanos() > 0);
    headers.insert(LIMIT, quota.limit.into());
    headers.insert(REMAINING, quota.remaining.into());
    headers.insert(RESET, seconds.into());
}
