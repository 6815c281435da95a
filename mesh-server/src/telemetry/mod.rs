//! The room that counts: every request once, when its answer has ended, as Istio's sidecar of the called would
//! (`reporter="destination"`).
//!
//! Outermost, so that what the rooms below refuse is counted as what its sender was told. A request counts when the last byte of its
//! answer was handed on, when the answer broke off, or when either was dropped, for the caller may go away at any time.
//!
//! Who calls is known of the connection: principal and namespace from its certificate, the workload from what the peer says of
//! itself on the connection's first request ([`PEER_METADATA`]), which is believed of verified peers only and goes no further. So the
//! labels are put together once for a connection and an authority, and a request finds them by comparing the authority. What the server is
//! called is its caller's word, too: it becomes a label when a request that says so was served, and is `unknown` until then, so that who may do
//! nothing makes none.

mod body;
mod call;
mod early;
mod future;
mod inbound;
mod live;
mod log;
mod pairs;

use std::any::Any;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderName, Request, Response};
use http_body::Body;
use mesh_core::report::standard::{
    Edge, EdgeLabels, PEER_METADATA, PEER_METADATA_ID, PeerMetadata, Protocol, Reporter, Service as Called, Workload,
};
use mesh_core::{Entropy, Link};
use tower::{Layer, Service};

use crate::accept::ConnectionInfo;
use crate::serve::RequestBody;

pub use body::CountedBody;
pub(crate) use call::Received;
pub(crate) use early::Early;
pub use future::ResponseFuture;
pub(crate) use inbound::{Inbound, WaitingGuard};
pub(crate) use live::Live;
pub(crate) use pairs::Pairs;

use call::{Call, Pair, Said};
use live::Answering;
use log::Logged;

/// What is called by requests that were refused, whatever they said.
const UNKNOWN_HOST: &str = "unknown";

/// Counts requests. Part of [`MeshLayer`](crate::MeshLayer).
#[derive(Clone, Debug)]
pub struct TelemetryLayer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    link: Link,
    inbound: Arc<Inbound>,
    /// Of requests that came by no door of this crate.
    pairs: Pairs,
    /// Draws which requests are written to the access log.
    entropy: Entropy,
}

impl TelemetryLayer {
    /// Counts for `link`; the admin port shows it.
    pub fn new(link: &Link) -> Self {
        let shared = Shared {
            link: link.clone(),
            inbound: Inbound::of(link),
            pairs: Pairs::default(),
            entropy: link.entropy().clone(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }
}

impl<S> Layer<S> for TelemetryLayer {
    type Service = Telemetry<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Telemetry {
            inner,
            shared: Arc::clone(&self.shared),
        }
    }
}

/// See [`TelemetryLayer`].
#[derive(Clone, Debug)]
pub struct Telemetry<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, B, R> Service<Request<B>> for Telemetry<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    B: Body + 'static,
    R: Body<Data = Bytes>,
{
    type Response = Response<CountedBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        self.shared.inbound.received();
        let head = Head::of(&request);
        if head.tells {
            self.shared.hear(&mut request);
        }
        let (pair, answering) = self.shared.pair_of(&request);
        let logged = self.shared.logged(&request);
        let received = match (request.body() as &dyn Any).downcast_ref::<RequestBody>() {
            Some(body) => {
                body.counts(head.protocol);
                body.received()
            }
            None => Received::Length(request.body().size_hint().exact().unwrap_or_default()),
        };
        let call = Call::begin(pair, head.protocol, received, (answering, logged));
        ResponseFuture::new(self.inner.call(request), call)
    }
}

/// What is looked for in a request's head, in one pass that hashes nothing.
struct Head {
    protocol: Protocol,
    /// The peer says who it is.
    tells: bool,
}

impl Head {
    fn of<B>(request: &Request<B>) -> Self {
        let mut head = Self {
            protocol: Protocol::Http,
            tells: false,
        };
        for (name, value) in request.headers() {
            if *name == CONTENT_TYPE {
                if is_grpc(value.as_bytes()) {
                    head.protocol = Protocol::Grpc;
                }
            } else if name.as_str().starts_with(PEER_METADATA) {
                head.tells = true;
            }
        }
        head
    }
}

/// Whether a content type is `application/grpc`, or that with a suffix or a parameter.
fn is_grpc(content_type: &[u8]) -> bool {
    let rest = content_type.strip_prefix(b"application/grpc");
    matches!(rest, Some([] | [b'+' | b';', ..]))
}

impl Shared {
    /// Takes out what the peer says of itself, and keeps it if it is to be believed.
    fn hear<B>(&self, request: &mut Request<B>) {
        const METADATA: HeaderName = HeaderName::from_static(PEER_METADATA);
        const ID: HeaderName = HeaderName::from_static(PEER_METADATA_ID);
        let told = request.headers_mut().remove(METADATA);
        request.headers_mut().remove(ID);
        let Some(connection) = ConnectionInfo::of(request.extensions()) else {
            return;
        };
        let (Some(id), Some(told)) = (connection.peer_id(), told) else {
            return;
        };
        connection.pairs().introduce(|| {
            let told = PeerMetadata::decode(told.as_bytes())?;
            let workload = told.workload.vouched_by(id);
            Some(PeerMetadata { workload, ..told })
        });
    }

    /// Where a request is counted, and that it is one of its connection.
    fn pair_of<B>(self: &Arc<Self>, request: &Request<B>) -> (Pair, Option<Answering>) {
        let of_header = || request.headers().get(HOST).and_then(|host| host.to_str().ok());
        let authority = request.uri().authority().map(|authority| authority.as_str());
        let authority = authority.or_else(of_header).unwrap_or_default();
        let connection = ConnectionInfo::of(request.extensions());
        let pairs = connection.map_or(&self.pairs, ConnectionInfo::pairs);
        let pair = match pairs.known(authority) {
            Some(edge) => Pair::Known(edge),
            None => Pair::Said(Box::new(Said {
                shared: Arc::clone(self),
                authority: authority.into(),
                connection: connection.cloned(),
            })),
        };
        let live = connection.and_then(ConnectionInfo::live);
        (pair, live.map(Answering::begin))
    }

    /// A request that may be written to the access log.
    fn logged<B>(&self, request: &Request<B>) -> Option<Box<Logged>> {
        let connection = ConnectionInfo::of(request.extensions())?;
        let filter = connection.access_log()?;
        Some(Logged::begin(filter, &self.entropy, request, connection))
    }

    /// The pair of requests to `authority` by a connection.
    #[cold]
    fn make(&self, authority: &str, connection: Option<&ConnectionInfo>) -> Arc<Edge> {
        let pairs = connection.map_or(&self.pairs, ConnectionInfo::pairs);
        pairs.find(authority, || self.pair(authority, pairs.peer(), connection))
    }

    #[cold]
    fn pair(&self, authority: &str, peer: Option<PeerMetadata>, connection: Option<&ConnectionInfo>) -> Arc<Edge> {
        let own = self.link.workload();
        let peer_id = connection.and_then(ConnectionInfo::peer_id);
        let own_id = match &**self.link.identity().load() {
            Ok(identity) if connection.is_some_and(ConnectionInfo::is_encrypted) => Some(identity.svid().id().clone()),
            _ => None,
        };
        let unknown = || match peer_id {
            Some(id) => Workload::unknown().vouched_by(id),
            None => Workload::unknown(),
        };
        let (peer, told) = match peer {
            Some(peer) => (peer.workload, peer.service),
            None => (unknown(), None),
        };
        let called = told.unwrap_or_else(|| match authority {
            // What it is asked for without a name is what it is.
            "" => Called::new(own.canonical_name(), "", own.namespace()),
            // Nobody is called so: what a request says that was not served is its sender's invention.
            UNKNOWN_HOST => Called::new(UNKNOWN_HOST, UNKNOWN_HOST, UNKNOWN_HOST),
            authority => Called::of_authority(authority),
        });
        let labels = EdgeLabels {
            source_principal: peer_id.cloned(),
            destination_principal: own_id,
            service: Arc::new(called),
            ..EdgeLabels::new(Reporter::Destination, peer, own)
        };
        self.link.edges().edge(&labels)
    }
}
