//! `h2` and nothing else: the floor that the mesh's rooms stand on. One connection, written to from the caller's task as the
//! mesh does it, without a route, a balancer, a deadline or a retry.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use examples::proto::payment_client::PaymentClient;
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{Request, Response, Uri};
use http_body::{Body, Frame};
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::Failure;
use crate::caller::{Caller, came_back};
use crate::counting::Writes;
use crate::echo::{self, Target};

pub(crate) async fn caller(server: &Target, writes: &Writes) -> Result<Direct, Failure> {
    let stream = writes.clone().connect(server.address).await?;
    let name = ServerName::IpAddress(server.address.ip().into());
    let tls = TlsConnector::from(server.client_tls(b"h2")?)
        .connect(name, stream)
        .await?;
    let (send, connection) = h2::client::Builder::new()
        .initial_window_size(2 * 1024 * 1024)
        .initial_connection_window_size(5 * 1024 * 1024)
        .enable_push(false)
        .handshake::<_, Bytes>(tls)
        .await?;
    tokio::spawn(connection);
    let transport = Transport { send };
    let origin = Uri::from_static("https://payment");
    Ok(Direct(PaymentClient::with_origin(transport, origin)))
}

#[derive(Clone)]
pub(crate) struct Direct(PaymentClient<Transport>);

impl Caller for Direct {
    async fn call(&mut self, note: Bytes) -> Result<(), Failure> {
        let sent = note.len();
        let reply = self.0.charge(echo::request(note)).await?.into_inner();
        came_back(sent, reply.note.len())
    }
}

#[derive(Clone)]
struct Transport {
    send: SendRequest<Bytes>,
}

impl tower::Service<Request<tonic::body::Body>> for Transport {
    type Response = Response<Answer>;
    type Error = Failed;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        self.send.poll_ready(cx).map_err(Failed)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Answering {
        let (parts, body) = request.into_parts();
        Answering {
            started: Some((Request::from_parts(parts, ()), body)),
            send: self.send.clone(),
            response: None,
        }
    }
}

struct Answering {
    started: Option<(Request<()>, tonic::body::Body)>,
    send: SendRequest<Bytes>,
    response: Option<ResponseFuture>,
}

impl Future for Answering {
    type Output = Result<Response<Answer>, Failed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some((head, mut body)) = self.started.take() {
            // tonic's encoder has its one message at once.
            let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(cx) else {
                return Poll::Ready(Err(Failed(h2::Reason::INTERNAL_ERROR.into())));
            };
            let data = frame.into_data().unwrap_or_default();
            let (response, mut stream) = self.send.send_request(head, false).map_err(Failed)?;
            stream.send_data(data, true).map_err(Failed)?;
            self.response = Some(response);
        }
        let response = self.response.as_mut().expect("made by the first poll");
        let answer = ready!(Pin::new(response).poll(cx)).map_err(Failed)?;
        Poll::Ready(Ok(answer.map(Answer)))
    }
}

struct Answer(RecvStream);

impl Body for Answer {
    type Data = Bytes;
    type Error = Failed;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failed>>> {
        if let Some(data) = ready!(self.0.poll_data(cx)) {
            let data = data.map_err(Failed)?;
            self.0.flow_control().release_capacity(data.len()).map_err(Failed)?;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let trailers = ready!(self.0.poll_trailers(cx)).map_err(Failed)?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

#[derive(Debug)]
struct Failed(h2::Error);

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Failed {}
