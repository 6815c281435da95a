//! The methods that are served. Not the generated servers, which would decode whatever comes: see [`codec`](super::codec).

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;

use prost::Message;
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, Bytes, StdError};
use tonic::server::Grpc;
use tonic::{Request, Response, Status, Streaming};

use super::codec::Weighed;
use super::weigh::Shape;

/// What a message may be.
#[derive(Debug)]
pub(crate) struct Measure {
    /// The most bytes of it.
    pub(super) bytes: usize,
    /// The most that it and what becomes of it take together.
    pub(super) held: usize,
    pub(super) shape: &'static Shape,
}

/// The answer of a service to a call.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

/// Answers a stream of `D`s, of this measure, with the stream of `E`s that `begin` makes of it.
pub(super) async fn streaming<E, D, S, B>(
    request: http::Request<B>,
    measure: &'static Measure,
    begin: impl Fn(Request<Streaming<D>>) -> Result<S, Status> + Send + Sync,
) -> http::Response<Body>
where
    E: Message + 'static,
    D: Message + Default + 'static,
    S: Stream<Item = Result<E, Status>> + Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    let method = tower::service_fn(|request| ready(begin(request).map(Response::new)));
    grpc::<E, D>(measure).streaming(method, request).await
}

/// Answers one `D` with what `tell` makes of it.
pub(super) async fn unary<E, D, B>(
    request: http::Request<B>,
    measure: &'static Measure,
    tell: impl Fn(Request<D>) -> Result<E, Status> + Send + Sync,
) -> http::Response<Body>
where
    E: Message + 'static,
    D: Message + Default + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    let method = tower::service_fn(|request| ready(tell(request).map(Response::new)));
    grpc::<E, D>(measure).unary(method, request).await
}

fn grpc<E, D>(measure: &'static Measure) -> Grpc<Weighed<E, D>>
where
    E: Message + 'static,
    D: Message + Default + 'static,
{
    Grpc::new(Weighed::new(measure.shape, measure.held)).max_decoding_message_size(measure.bytes)
}

/// Whether an error of a stream is about a message of it, and not about its connection: whoever sent that is there to be told.
#[cfg(feature = "server")]
pub(super) fn is_of_a_message(status: &Status) -> bool {
    use tonic::Code::{DeadlineExceeded, Internal, InvalidArgument, OutOfRange, ResourceExhausted, Unimplemented};
    let of_connection = std::error::Error::source(status).is_some();
    !of_connection
        && matches!(
            status.code(),
            DeadlineExceeded | Internal | InvalidArgument | OutOfRange | ResourceExhausted | Unimplemented
        )
}
