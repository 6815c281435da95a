//! The body of an answer that ends with a report.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::service::ReportsBody;
use super::{Telling, grpc_failed};

pin_project! {
    /// The application's body, whose trailers end with a report; or a stream of reports.
    #[derive(Debug)]
    pub struct LoadBody<B, R> {
        #[pin]
        kind: Kind<B, R>,
    }
}

pin_project! {
    #[project = KindProjection]
    #[derive(Debug)]
    enum Kind<B, R> {
        Answer {
            #[pin]
            body: R,
            // What is told where it ends; `None`: it was told.
            telling: Option<Box<Telling>>,
        },
        Reports {
            #[pin]
            reports: ReportsBody<B>,
        },
    }
}

impl<B, R> LoadBody<B, R> {
    pub(super) fn answer(body: R, telling: Option<Box<Telling>>) -> Self {
        Self {
            kind: Kind::Answer { body, telling },
        }
    }

    pub(super) fn reports(reports: ReportsBody<B>) -> Self {
        Self {
            kind: Kind::Reports { reports },
        }
    }
}

impl<B: Body<Data = Bytes>, R: Body<Data = Bytes>> Body for LoadBody<B, R> {
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, R::Error>>> {
        match self.project().kind.project() {
            KindProjection::Answer { body, telling } => {
                let mut frame = ready!(body.poll_frame(cx));
                match &mut frame {
                    Some(Ok(frame)) => {
                        if let Some(trailers) = frame.trailers_mut()
                            && let Some(telling) = telling.take()
                        {
                            let failed = grpc_failed(trailers).unwrap_or(true);
                            telling.end(failed, trailers);
                        }
                    }
                    // It ended without the status that gRPC asks for: whoever waits for it sees a failed call.
                    Some(Err(_)) | None => {
                        if let Some(telling) = telling.take() {
                            telling.end(true, &mut http::HeaderMap::new());
                        }
                    }
                }
                Poll::Ready(frame)
            }
            KindProjection::Reports { reports } => reports.poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Answer { body, .. } => body.is_end_stream(),
            Kind::Reports { reports } => reports.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Answer { body, .. } => body.size_hint(),
            Kind::Reports { reports } => reports.size_hint(),
        }
    }
}
