//! The room's answer: the service's, or that there was no token.

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

pin_project! {
    /// The future of [`RateLimited`](super::RateLimited). Dropping it drops the service's call.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
        quota: Option<Quota>,
    }
}

pin_project! {
    #[project = StateProjection]
    #[derive(Debug)]
    enum State<F> {
        Admitted { #[pin] call: F },
        Limited { refusal: Refusal, limit: Arc<LocalRateLimit> },
    }
}

impl<F> ResponseFuture<F> {
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
}

impl<F, R, E> Future for ResponseFuture<F>
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
        };
        if let Some(quota) = *this.quota {
            tell(quota, response.headers_mut());
        }
        Poll::Ready(Ok(response))
    }
}

fn tell(quota: Quota, headers: &mut HeaderMap) {
    // A second that has begun is not over.
    let seconds = quota.reset.as_secs() + u64::from(quota.reset.subsec_nanos() > 0);
    headers.insert(LIMIT, quota.limit.into());
    headers.insert(REMAINING, quota.remaining.into());
    headers.insert(RESET, seconds.into());
}
