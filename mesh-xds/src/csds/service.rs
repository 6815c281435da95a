//! The `ClientStatusDiscoveryService`, whoever's status it tells.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, Bytes, StdError};
use tonic::server::NamedService;
use tonic::{Extensions, Status};
use tower::Service;

use super::local::Local;
use super::view::ClientView;
use crate::client::XdsClient;
use crate::wire::csds::{self, Question, StatusServer};

/// Somebody who knows the status of clients.
pub(crate) trait Tell: fmt::Debug + Send + Sync + 'static {
    /// The clients that a caller asks about.
    fn tell(&self, question: &Question, caller: &Extensions) -> Result<Vec<ClientView>, Status>;
}

/// The `ClientStatusDiscoveryService` of xDS v3, for tonic's router or any server of `http` services. Clones tell the same.
///
/// Both methods answer from what is known at that moment; a stream is answered once per request. An answer stays below 4 MiB,
/// the most that gRPC readers take by default, as long as resources without their contents do: contents that would make it
/// larger are left out.
#[derive(Clone, Debug)]
pub struct ClientStatusService {
    inner: StatusServer,
}

impl ClientStatusService {
    /// Where requests for it begin: its name, as a path.
    pub const PATH: &str = "/envoy.service.status.v3.ClientStatusDiscoveryService";

    /// Tells what `client` holds. It does not keep the client alive, and tells nothing of one that is gone.
    ///
    /// A request with node matchers is refused with INVALID_ARGUMENT (gRFC A40): they are for control planes.
    pub fn new(client: &XdsClient) -> Self {
        Self::of([client])
    }

    /// Tells what each of `clients` holds, for a process that is in more than one mesh.
    pub fn of<'a>(clients: impl IntoIterator<Item = &'a XdsClient>) -> Self {
        let clients = clients.into_iter().map(|client| client.status().clone());
        Self::telling(Local::new(clients.collect()))
    }

    pub(super) fn telling(tell: impl Tell) -> Self {
        Self {
            inner: csds::service(Arc::new(tell)),
        }
    }
}

impl NamedService for ClientStatusService {
    const NAME: &'static str = <StatusServer as NamedService>::NAME;
}

impl<B> Service<Request<B>> for ClientStatusService
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<B>>::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.inner.call(request)
    }
}
