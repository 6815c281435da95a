//! The admin port: health and counters, in plaintext, for whoever has no certificate.
//!
//! Kubelet probes and a person with curl cannot do mutual TLS, and a STRICT port answers nobody else; Istio keeps a port of
//! its agent for them. This is that port: apart from the service's, on loopback unless code says otherwise, with nothing on
//! it that changes anything or is secret.
//!
//! | path | answer |
//! |---|---|
//! | `/healthz` | 200 as long as the process answers |
//! | `/readyz` | 200 when there is a usable identity and a server accepts connections, else 503 and the reason |
//! | `/stats` | the counters as text, one `event.reason: count` a line (Envoy's form) |

use std::convert::Infallible;
use std::fmt::{self, Write};
use std::future::{Future, IntoFuture};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming as IncomingBody;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_core::Link;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::accept::usable_identity;
use crate::dangerous::Dangerous;
use crate::serve::{Incoming, admit};
use crate::telemetry::Inbound;

/// The most admin connections at once: a probe, a scraper and a few people.
pub const MAX_CONNECTIONS: usize = 64;

/// Serves the admin port of `link` on `listener`. Await what it returns; it ends only in an error or by being dropped.
pub fn serve(listener: TcpListener, link: &Link) -> Admin {
    Admin {
        listener,
        link: link.clone(),
        anywhere: false,
        calls_only: false,
    }
}

/// An admin port that is described and not yet running: await it. See [`serve`].
#[derive(Debug)]
#[must_use = "nothing is served until it is awaited"]
pub struct Admin {
    listener: TcpListener,
    link: Link,
    anywhere: bool,
    calls_only: bool,
}

impl Admin {
    /// For a process that serves nothing: it is ready when it has an identity.
    pub fn calls_only(mut self) -> Self {
        self.calls_only = true;
        self
    }

    /// Choices that give up the protection of the mesh.
    pub fn dangerous(self) -> Dangerous<Self> {
        Dangerous(self)
    }

    async fn run(self) -> Result<Infallible, AdminError> {
        let address = self.listener.local_addr().map_err(Kind::Address)?;
        if !address.ip().is_loopback() && !self.anywhere {
            return Err(Kind::NotLoopback(address).into());
        }
        let pages = Pages {
            inbound: Inbound::of(&self.link),
            link: self.link,
            calls_only: self.calls_only,
        };
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut incoming = Incoming::new(self.listener);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = connections.join_next() => {}
                (place, (io, _)) = admit(&places, &mut incoming) => {
                    let pages = pages.clone();
                    connections.spawn(async move {
                        let _place = place;
                        pages.connection(TokioIo::new(io)).await;
                    });
                }
            }
        }
    }
}

impl Dangerous<Admin> {
    /// Serves on whatever address the listener has: everybody who reaches it sees the counters.
    pub fn any_address(mut self) -> Admin {
        self.0.anywhere = true;
        self.0
    }
}

impl IntoFuture for Admin {
    type Output = Result<Infallible, AdminError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

#[derive(Clone, Debug)]
struct Pages {
    link: Link,
    inbound: Arc<Inbound>,
    calls_only: bool,
}

impl Pages {
    async fn connection(self, io: TokioIo<tokio::net::TcpStream>) {
        let service = service_fn(move |request| std::future::ready(Ok::<_, Infallible>(self.answer(&request))));
        // With a timer, hyper gives a request's head 30 s.
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(io, service);
        if let Err(error) = connection.await {
            tracing::debug!(%error, "admin connection ended with an error");
        }
    }

    fn answer(&self, request: &Request<IncomingBody>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        }
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match self.readiness() {
                Ok(()) => text(StatusCode::OK, "ready\n"),
                Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
            },
            "/stats" => text(StatusCode::OK, self.stats()),
            _ => text(StatusCode::NOT_FOUND, "/healthz /readyz /stats\n"),
        }
    }

    fn readiness(&self) -> Result<(), String> {
        usable_identity(&self.link).map_err(|refused| refused.to_string())?;
        if self.calls_only || self.inbound.is_serving() {
            Ok(())
        } else {
            Err("no server accepts connections".to_owned())
        }
    }

    fn stats(&self) -> String {
        let mut out = format!("requests.received: {}\n", self.inbound.requests());
        for (event, reason, count) in self.link.tally().all() {
            writeln!(out, "{event}.{reason}: {count}").expect("a string takes whatever is written to it");
        }
        out
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// An admin port that cannot be served.
#[derive(Debug)]
pub struct AdminError {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    NotLoopback(SocketAddr),
    Address(io::Error),
}

impl AdminError {
    /// Whether the listener is reachable from other machines and code did not allow that.
    pub fn is_not_loopback(&self) -> bool {
        matches!(self.kind, Kind::NotLoopback(_))
    }
}

impl From<Kind> for AdminError {
    fn from(kind: Kind) -> Self {
        Self { kind }
    }
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::NotLoopback(address) => {
                write!(
                    f,
                    "the admin port is plaintext and {address} is not loopback; allow it in code or bind elsewhere"
                )
            }
            Kind::Address(_) => f.write_str("the admin listener has no address"),
        }
    }
}

impl std::error::Error for AdminError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            Kind::NotLoopback(_) => None,
            Kind::Address(error) => Some(error),
        }
    }
}
