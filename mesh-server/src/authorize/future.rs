//! The answer of the room that authorizes: the service's, a refusal, or first an authorizer's.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use mesh_core::ext_authz::{Mutation, Verdict};
use pin_project_lite::pin_project;
use tower::Service;

use super::{AuthorizeLayer, Refused};
use crate::ext_authz::{Asked, check};
use crate::refusal::{Denial, MaybeRefused, Refusal};

pin_project! {
    /// The future of [`Authorize`](super::Authorize). Dropping it drops the question to an authorizer, or the service's call.
    #[derive(Debug)]
    pub struct ResponseFuture<S, B, F> {
        #[pin]
        state: State<S, B, F>,
    }
}

pin_project! {
    #[project = StateProjection]
    #[derive(Debug)]
    enum State<S, B, F> {
        Admitted {
            #[pin]
            call: F,
            // For the answer, by authorizers. Empty without any.
            downstream: Vec<Mutation>,
        },
        Asking {
            asking: Option<Box<Asking<S, B>>>,
        },
        Refused { refusal: Refusal },
        Denied { denial: Option<Denial> },
    }
}

/// A request that somebody is asked about. In a box: few requests are.
struct Asking<S, B> {
    rules: AuthorizeLayer,
    service: S,
    request: Request<B>,
    asked: Asked,
    question: Pin<Box<dyn Future<Output = Verdict> + Send>>,
    downstream: Vec<Mutation>,
}

impl<S, B, F> ResponseFuture<S, B, F> {
    pub(super) fn admitted(call: F) -> Self {
        Self {
            state: State::Admitted {
                call,
                downstream: Vec::new(),
            },
        }
    }

    pub(super) fn refused(refusal: Refusal) -> Self {
        Self {
            state: State::Refused { refusal },
        }
    }

    pub(super) fn asking(rules: AuthorizeLayer, service: S, request: Request<B>, asked: Asked) -> Self {
        let question = check(&rules.authorizers, &asked, &request);
        let asking = Asking {
            rules,
            service,
            request,
            asked,
            question,
            downstream: Vec::new(),
        };
        Self {
            state: State::Asking {
                asking: Some(Box::new(asking)),
            },
        }
    }
}

/// What came of a question.
enum Answered<S, B> {
    /// Somebody else is asked.
    Again(Box<Asking<S, B>>),
    Passes(Box<Asking<S, B>>),
    Refused(Refused),
}

impl<S, B> Asking<S, B> {
    fn answered(mut self: Box<Self>, verdict: Verdict) -> Answered<S, B> {
        let own = &mut *self;
        let next = own
            .rules
            .answered(verdict, &own.asked, &mut own.request, &mut own.downstream);
        match next {
            Ok(None) => Answered::Passes(self),
            Ok(Some(asked)) => {
                self.question = check(&self.rules.authorizers, &asked, &self.request);
                self.asked = asked;
                Answered::Again(self)
            }
            Err(refused) => Answered::Refused(refused),
        }
    }
}

impl<S, B, F, R, E> Future for ResponseFuture<S, B, F>
where
    S: Service<Request<B>, Future = F>,
    F: Future<Output = Result<Response<R>, E>>,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<MaybeRefused<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        // At most as often as there are authorizers on a chain, and once more.
        loop {
            match this.state.as_mut().project() {
                StateProjection::Admitted { call, downstream } => {
                    let mut response = ready!(call.poll(cx))?;
                    downstream.iter().for_each(|one| one.apply(response.headers_mut()));
                    return Poll::Ready(Ok(response.map(MaybeRefused::admitted)));
                }
                StateProjection::Refused { refusal } => return Poll::Ready(Ok(refusal.response())),
                StateProjection::Denied { denial } => {
                    let denial = denial.take().expect("a future is not polled after it was ready");
                    return Poll::Ready(Ok(denial.response()));
                }
                StateProjection::Asking { asking } => {
                    let waiting = asking.as_mut().expect("it is taken out only to become another state");
                    let verdict = ready!(waiting.question.as_mut().poll(cx));
                    let taken = asking.take().expect("it was there a line ago");
                    match taken.answered(verdict) {
                        Answered::Again(again) => *asking = Some(again),
                        Answered::Passes(asking) => {
                            let Asking {
                                mut service,
                                request,
                                downstream,
                                ..
                            } = *asking;
                            let call = service.call(request);
                            this.state.set(State::Admitted { call, downstream });
                        }
                        Answered::Refused(Refused::Plain(refusal)) => this.state.set(State::Refused { refusal }),
                        Answered::Refused(Refused::Told(denial)) => {
                            this.state.set(State::Denied { denial: Some(denial) });
                        }
                    }
                }
            }
        }
    }
}

impl<S, B> fmt::Debug for Asking<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking")
            .field("asked", &self.asked)
            .finish_non_exhaustive()
    }
}
