//! The answer of the room that authorizes: the service's, a refusal, or first an authorizer's.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use mesh_core::ext_authz::{Mutation, Verdict};
use pin_project_lite::pin_project;
use tower::Service;

use super::open::{Open, OpenBody, Watch};
use super::{AuthorizeLayer, Refused};
use crate::accept::ConnectionInfo;
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
            watch: Watch,
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
    rules: Arc<AuthorizeLayer>,
    /// The connection, and how often its rules had changed when the request came.
    followed: Option<(ConnectionInfo, u64)>,
    service: S,
    request: Request<B>,
    asked: Asked,
    question: Pin<Box<dyn Future<Output = Verdict> + Send>>,
    downstream: Vec<Mutation>,
}

impl<S, B, F> ResponseFuture<S, B, F> {
    pub(super) fn admitted(call: F, open: Option<Open>) -> Self {
        Self {
            state: State::Admitted {
                call,
                watch: Watch::new(open),
                downstream: Vec::new(),
            },
        }
    }

    pub(super) fn refused(refusal: Refusal) -> Self {
        Self {
            state: State::Refused { refusal },
        }
    }

    pub(super) fn asking(
        rules: Arc<AuthorizeLayer>,
        service: S,
        request: Request<B>,
        (asked, followed): (Asked, Option<(ConnectionInfo, u64)>),
    ) -> Self {
        let question = check(&rules.authorizers, &asked, &request);
        let asking = Asking {
            rules,
            followed,
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
    R::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    type Output = Result<Response<MaybeRefused<OpenBody<R>>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        // At most as often as there are authorizers on a chain, and once more.
        loop {
            match this.state.as_mut().project() {
                StateProjection::Admitted {
                    call,
                    watch,
                    downstream,
                } => {
                    let Poll::Ready(answered) = call.poll(cx) else {
                        let refusal = ready!(watch.poll(cx));
                        // The call ends with it, as when its caller goes away.
                        this.state.set(State::Refused { refusal });
                        continue;
                    };
                    let mut response = answered?;
                    downstream.iter().for_each(|one| one.apply(response.headers_mut()));
                    let watch = watch.take();
                    return Poll::Ready(Ok(
                        response.map(|body| MaybeRefused::admitted(OpenBody::new(body, watch)))
                    ));
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
                                rules,
                                followed,
                                mut service,
                                request,
                                asked,
                                downstream,
                                ..
                            } = *asking;
                            let open =
                                followed.map(|followed| Open::new(&rules, followed, &request, asked.claims, true));
                            let call = service.call(request);
                            this.state.set(State::Admitted {
                                call,
                                watch: Watch::new(open),
                                downstream,
                            });
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
