//! What a control plane answers is never what a caller is told (gRFC A54).

use std::convert::Infallible;
use std::future::ready;
use std::time::Duration;

use examples::proto::ChargeRequest;
use examples::proto::payment_client::PaymentClient;
use http::{Request, Response};
use mesh_client::Channel;
use mesh_xds::{Bootstrap, XdsClient};
use tests::{listener, soon};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::{Code, Status};
use tower::Service;

/// What it says, which nobody but operators is to read as its own words.
const WORDS: &str = "go away";
/// Every code that a control plane may end a stream with.
const CODES: [Code; 16] = [
    Code::Cancelled,
    Code::Unknown,
    Code::InvalidArgument,
    Code::DeadlineExceeded,
    Code::NotFound,
    Code::AlreadyExists,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::FailedPrecondition,
    Code::Aborted,
    Code::OutOfRange,
    Code::Unimplemented,
    Code::Internal,
    Code::Unavailable,
    Code::DataLoss,
    Code::Unauthenticated,
];

/// A control plane that answers every stream with one status.
#[derive(Clone)]
struct Refusing(Code);

impl NamedService for Refusing {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl Service<Request<Body>> for Refusing {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        ready(Ok(Status::new(self.0, WORDS).into_http()))
    }
}

#[tokio::test]
async fn cp_9_a_call_sees_unavailable_whatever_the_control_plane_answers() {
    for code in CODES {
        let (socket, address) = listener().await;
        let router = Server::builder().add_service(Refusing(code));
        let plane = tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(socket)));
        let bootstrap = format!(
            r#"{{"xds_servers": [{{"server_uri": "{address}", "channel_creds": [{{"type": "insecure"}}]}}], "node": {{"id": "n"}}}}"#
        );
        let xds = XdsClient::start(Bootstrap::from_json(&bootstrap).unwrap()).unwrap();
        let link = xds.link();
        let channel = Channel::builder(&link, "xds:///payment")
            .dangerous()
            .plaintext()
            .build();
        let refused = |report: &mesh_xds::client::Report| report.connection.is_failing;
        xds.status().until(Duration::from_secs(20), refused).await.unwrap();
        let mut request = tonic::Request::new(ChargeRequest::default());
        request.set_timeout(Duration::from_millis(300));
        let mut client = PaymentClient::new(channel);
        let status = soon("the call to fail", client.charge(request)).await.unwrap_err();
        // The context names whom to ask, and what that said is quoted there. None of it is the call's own status.
        assert_eq!(status.code(), Code::Unavailable, "{code:?}: {status}");
        for part in ["payment", &address.to_string()] {
            assert!(status.message().contains(part), "{code:?}: {status}");
        }
        let own = status.metadata().get("grpc-status-details-bin").is_none() && status.details().is_empty();
        assert!(own && status.message() != WORDS, "{code:?}: {status}");
        println!("CP-9: {code:?} of the control plane: {status}");
        plane.abort();
    }
}
