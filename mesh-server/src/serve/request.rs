//! What every request of a connection passes before anything of the service sees it: is the connection still admitted, is there
//! a place for one more, and does the service survive it.
//!
//! Refusals say that nothing was processed, in the words of the protocol, so that whoever sent the request may send it again,
//! elsewhere: HTTP/2 resets the stream with REFUSED_STREAM (RFC 9113, 8.7), which clients of gRPC and of this mesh repeat without
//! being asked; HTTP/1.1 has no such word, and gets 503 with Envoy's `x-envoy-overloaded`, or a closed connection where it was
//! revoked.

use std::error::Error as StdError;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::UPGRADE;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use pin_project_lite::pin_project;
use tower::Service;

use super::body::{Exchange, RequestBody, State};
use super::conduct::{Conduct, Place};
use crate::accept::{ConnectionInfo, PeerIdentity};
use crate::refusal::{MaybeRefused, Refusal, Unprocessed};
use crate::telemetry::{Early, Inbound};

type BoxError = Box<dyn StdError + Send + Sync>;

/// What Envoy's clients, and ours, know an answer by that was given for want of a place.
const OVERLOADED: &str = "x-envoy-overloaded";

/// The service of one connection. Puts what is known of the connection into the extensions of each request: the peer, which knows
/// the rest, or the connection where it has none.
#[derive(Clone, Debug)]
pub(super) struct Introduced<S> {
    pub(super) inner: S,
    pub(super) peer: Option<PeerIdentity>,
    pub(super) info: ConnectionInfo,
    pub(super) conduct: Arc<Conduct>,
    /// How long a body may stop, and how long it may be.
    pub(super) bodies: Bodies,
    pub(super) inbound: Arc<Inbound>,
}

/// What a server asks of the bodies of requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bodies {
    /// See [`BODY_TIMEOUT`](super::BODY_TIMEOUT).
    pub(super) timeout: Duration,
    /// In bytes.
    pub(super) most: usize,
}

impl<S, B> Service<Request<Incoming>> for Introduced<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes>,
{
    type Response = Response<Held<B>>;
    type Error = BoxError;
    type Future = IntroducedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        if !self.conduct.begin() {
            self.inbound.refused(Early::AmbiguousLength);
            return IntroducedFuture::Failed {
                failed: Refusal::ambiguous(&request),
            };
        }
        no_upgrade(&mut request);
        if self.info.is_revoked() {
            self.inbound.refused(Early::Revoked);
            return IntroducedFuture::Reset;
        }
        if request.body().size_hint().lower() > self.bodies.most as u64 {
            self.inbound.refused(Early::BodyTooLarge);
            return IntroducedFuture::Failed {
                failed: Refusal::failed(&request).too_large(),
            };
        }
        let taken = self.conduct.take_place();
        let Ok(place) = taken.map_err(|full| self.inbound.refused(full.into())) else {
            return match request.version() {
                Version::HTTP_2 => IntroducedFuture::Reset,
                _ => IntroducedFuture::Overloaded {
                    refusal: Refusal::unavailable(&request, "no more requests are taken now"),
                },
            };
        };
        match &self.peer {
            Some(peer) => drop(request.extensions_mut().insert(peer.clone())),
            None => drop(request.extensions_mut().insert(self.info.clone())),
        }
        let failed = Refusal::failed(&request);
        let exchange = (!request.body().is_end_stream()).then(Arc::<Exchange>::default);
        let request = request.map(|body| {
            let Bodies { timeout, most } = self.bodies;
            RequestBody::new(body, most, timeout, self.conduct.places(), exchange.as_ref())
        });
        // What a service does before its first await is as much its own as the rest.
        match catch_unwind(AssertUnwindSafe(|| self.inner.call(request))) {
            Ok(call) => IntroducedFuture::Served {
                call,
                exchange,
                place: Some(place),
                failed,
                inbound: Arc::clone(&self.inbound),
            },
            Err(_) => {
                self.inbound.tally().count("request_failed", "panic");
                IntroducedFuture::Failed { failed }
            }
        }
    }
}

pin_project! {
    /// The answer: the service's, or why there is none.
    #[project = IntroducedProjection]
    pub(super) enum IntroducedFuture<F> {
        Served { #[pin] call: F, exchange: Option<Arc<Exchange>>, place: Option<Place>, failed: Refusal, inbound: Arc<Inbound> },
        Failed { failed: Refusal },
        Overloaded { refusal: Refusal },
        Reset,
    }
}

impl<F, B, E> Future for IntroducedFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<Held<B>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            IntroducedProjection::Served {
                call,
                exchange,
                place,
                failed,
                inbound,
            } => {
                // A call that panicked is not polled again: its answer is the refusal, and the future ends with it.
                let Ok(polled) = catch_unwind(AssertUnwindSafe(|| call.poll(cx))) else {
                    inbound.tally().count("request_failed", "panic");
                    place.iter_mut().for_each(|place| place.answer(false));
                    return Poll::Ready(Ok(failed.response().map(Held::refusal)));
                };
                let polled = ready!(polled);
                let has_body = polled.as_ref().is_ok_and(|response| !response.body().is_end_stream());
                place.iter_mut().for_each(|place| place.answer(has_body));
                // What the service makes of a body that was not let in is not what its sender should be told.
                if let Some(state) = exchange.as_ref().and_then(|exchange| exchange.answer()) {
                    inbound.tally().count("request_refused", reason(state));
                    return Poll::Ready(Ok(refusal(*failed, state).response().map(Held::refusal)));
                }
                let response = polled.map_err(Into::into)?;
                // Revoked since it was asked above: no handler ran.
                if response.extensions().get::<Unprocessed>().is_some() {
                    return Poll::Ready(Err(unprocessed()));
                }
                // It was not asked to, and there is nothing to switch to.
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    inbound.tally().count("request_failed", "upgrade");
                    return Poll::Ready(Ok(failed.response().map(Held::refusal)));
                }
                let place = place.take();
                Poll::Ready(Ok(response.map(|body| Held {
                    body: MaybeRefused::admitted(body),
                    place,
                })))
            }
            IntroducedProjection::Failed { failed } => Poll::Ready(Ok(failed.response().map(Held::refusal))),
            IntroducedProjection::Overloaded { refusal } => {
                let mut response = refusal.response().map(Held::refusal);
                response
                    .headers_mut()
                    .insert(OVERLOADED, HeaderValue::from_static("true"));
                Poll::Ready(Ok(response))
            }
            IntroducedProjection::Reset => Poll::Ready(Err(unprocessed())),
        }
    }
}

/// A server may pass over what asks for another protocol (RFC 9110, 7.8), and this one does: spoken over the same connection, it would be
/// bound neither by the time that the peer's certificate is good for, nor by the rules, nor by a drain.
fn no_upgrade<B>(request: &mut Request<B>) {
    request.extensions_mut().remove::<OnUpgrade>();
    if request.version() < Version::HTTP_2 {
        request.headers_mut().remove(UPGRADE);
    }
}

/// Why a request was not let in to its end, for a counter.
fn reason(state: State) -> &'static str {
    match state {
        State::Open | State::Answered => "answered",
        State::Stopped => "body_stopped",
        State::GaveWay => "body_gave_way",
        State::TooLarge => "body_too_large",
    }
}

/// What its sender is told.
fn refusal(failed: Refusal, state: State) -> Refusal {
    match state {
        State::Open | State::Answered => failed,
        State::TooLarge => failed.too_large(),
        State::Stopped | State::GaveWay => failed.stopped(),
    }
}

/// What resets a stream as not processed, and closes a connection of HTTP/1.1.
fn unprocessed() -> BoxError {
    h2::Error::from(h2::Reason::REFUSED_STREAM).into()
}

pin_project! {
    /// An answer's body, with the place that its request has.
    #[derive(Debug)]
    pub(super) struct Held<B> {
        #[pin]
        body: MaybeRefused<B>,
        place: Option<Place>,
    }
}

impl<B> Held<B> {
    fn refusal(body: MaybeRefused<B>) -> Self {
        Self { body, place: None }
    }
}

impl<B: Body<Data = Bytes>> Body for Held<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if let Some(place) = &mut *this.place {
            place.take();
        }
        let polled = this.body.poll_frame(cx);
        if let (Some(place), Poll::Ready(Some(Ok(_)))) = (&mut *this.place, &polled) {
            place.wait(true);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
