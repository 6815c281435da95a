//! The answer of the layer.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::service::ReportsBody;
use super::{LoadBody, Telling, grpc_failed, is_grpc};

pin_project! {
    /// The future of [`ReportsLoad`](super::ReportsLoad). Dropping it drops the application's call, which then counts as one that
    /// never was.
    #[derive(Debug)]
    pub struct ResponseFuture<F, B> {
        #[pin]
        kind: Kind<F, B>,
    }
}

pin_project! {
    #[project = KindProjection]
    #[derive(Debug)]
    enum Kind<F, B> {
        Call {
            #[pin]
            call: F,
            telling: Option<Telling>,
        },
        Stream {
            response: Option<Response<ReportsBody<B>>>,
        },
    }
}

impl<F, B> ResponseFuture<F, B> {
    pub(super) fn call(call: F, telling: Telling) -> Self {
        Self {
            kind: Kind::Call {
                call,
                telling: Some(telling),
            },
        }
    }

    pub(super) fn stream(response: Response<ReportsBody<B>>) -> Self {
        Self {
            kind: Kind::Stream {
                response: Some(response),
            },
        }
    }
}

impl<F, B, R, E> Future for ResponseFuture<F, B>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<LoadBody<B, R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProjection::Stream { response } => {
                let response = response.take().expect("a future is not polled after its end");
                Poll::Ready(Ok(response.map(LoadBody::reports)))
            }
            KindProjection::Call { call, telling } => {
                let result = ready!(call.poll(cx));
                let telling = telling.take().expect("a future is not polled after its end");
                Poll::Ready(result.map(|response| answer(response, telling)))
            }
        }
    }
}

/// A call of gRPC ends with its status, wherever that stands; any other, as far as its caller is told of it, with its head.
fn answer<B, R: Body>(response: Response<R>, telling: Telling) -> Response<LoadBody<B, R>> {
    let (mut head, body) = response.into_parts();
    let failed = match is_grpc(&head.headers) {
        true => grpc_failed(&head.headers),
        false => Some(head.status.is_server_error()),
    };
    let telling = match failed {
        Some(failed) => {
            telling.end(failed, &mut head.headers);
            None
        }
        None => Some(Box::new(telling)),
    };
    Response::from_parts(head, LoadBody::answer(body, telling))
}

/// The answer of a service that has no failure of its own.
pub(super) type Answer<B> = std::future::Ready<Result<Response<ReportsBody<B>>, Infallible>>;
