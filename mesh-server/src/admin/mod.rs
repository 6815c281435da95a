//! The admin port: health and counters, in plaintext, for whoever has no certificate.
//!
//! Kubelet probes and a person with curl cannot do mutual TLS, and a STRICT port answers nobody else; Istio keeps a port of
//! its agent for them. This is that port: apart from the service's, on loopback unless code says otherwise, with nothing on
//! it that changes anything or is secret.
//!
//! | path | answer |
//! |---|---|
//! | `/healthz` | 200 as long as the process answers |
//! | `/readyz` | 200 when there is a usable identity and every server knows whom to let in, else 503 and the reason |
//! | `/stats` | the counters as text, one `event.reason: count` a line (Envoy's form), the seconds that the certificate lasts, and those since a control plane was last heard |
//! | `/stats/prometheus`, `/metrics` | all that the process measures, in Prometheus' text format 0.0.4: Istio's standard metrics and its own |
//! | what [`Admin::mount`] adds | such as client status over gRPC, of whoever has something to tell |
//!
//! Where there is no place for one more connection, the one gives way that has been without a request for longest.
//!
//! It speaks HTTP/1 and HTTP/2 without TLS, whichever a connection begins with.

mod mount;
mod quiet;

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt::{self, Write};
use std::future::{Future, IntoFuture};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HOST};
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming as IncomingBody;
use mesh_core::Link;
use mesh_core::report::Exposition;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower::Service;

use crate::accept::usable_identity;
use crate::dangerous::Dangerous;
use crate::serve::Incoming;
use crate::telemetry::Inbound;
use mount::{Body, Mounts};
use quiet::Quiet;

/// What the port answers by itself.
const PAGES: [&str; 5] = ["/healthz", "/readyz", "/stats", "/stats/prometheus", "/metrics"];

/// The most admin connections at once: a probe, a scraper and a few people.
pub const MAX_CONNECTIONS: usize = 64;

/// Serves the admin port of `link` on `listener`. Await what it returns; it ends only in an error or by being dropped.
pub fn serve(listener: TcpListener, link: &Link) -> Admin {
    Admin {
        listener,
        link: link.clone(),
        anywhere: false,
        calls_only: false,
        mounts: Mounts::default(),
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
    mounts: Mounts,
}

impl Admin {
    /// Hands requests whose path is `path`, or begins with it and a slash, to `service`: for what this crate does not know of,
    /// such as a gRPC service, whose path is its full name. The longest such path wins, and the last mounted of equal ones;
    /// the port's own pages cannot be replaced.
    ///
    /// Everybody who reaches the port reaches the service, without a certificate: it must not change anything, nor tell
    /// secrets.
    ///
    /// # Panics
    ///
    /// When `path` does not begin with a slash.
    pub fn mount<S, B>(mut self, path: &str, service: S) -> Self
    where
        S: Service<Request<IncomingBody>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        self.mounts.add(path, service);
        self
    }

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
            mounts: self.mounts,
            anywhere: self.anywhere,
        };
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut incoming = Incoming::new(self.listener);
        let mut connections = JoinSet::new();
        let quiet = Quiet::new(MAX_CONNECTIONS);
        loop {
            let (io, _) = incoming.next().await;
            // One more than there are places, and no more: whoever comes next stays in the kernel's backlog.
            if places.available_permits() == 0 {
                quiet.make_room();
            }
            let place = Arc::clone(&places).acquire_owned().await;
            let place = place.expect("this semaphore is never closed");
            while connections.try_join_next().is_some() {}
            let (pages, seat) = (pages.clone(), quiet.enter());
            connections.spawn(async move {
                let _place = place;
                mount::connection(io, pages, &seat).await;
            });
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
    mounts: Mounts,
    /// Whoever reaches it may ask, by whatever name.
    anywhere: bool,
}

/// Whether a request names its host as only a program of this machine does. A page in a browser of this machine that has a name of its own
/// lead here asks by that name (DNS rebinding), and could read the answer.
fn is_of_this_host<B>(request: &Request<B>) -> bool {
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let header = || request.headers().get(HOST).and_then(|host| host.to_str().ok());
    // HTTP/1.0 names nobody, and no browser speaks it.
    let Some(named) = authority.or_else(header) else {
        return true;
    };
    let Ok(authority) = named.parse::<Authority>() else {
        return false;
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
}

impl Pages {
    /// The answer to a request, from here or from what is mounted.
    async fn respond(self, request: Request<IncomingBody>) -> Response<Body> {
        if !self.anywhere && !is_of_this_host(&request) {
            return text(
                StatusCode::FORBIDDEN,
                "asked by another name than localhost or an address\n",
            );
        }
        let path = request.uri().path();
        match self.mounts.find(path).filter(|_| !PAGES.contains(&path)) {
            Some(service) => service.answer(request).await,
            None => self.answer(&request),
        }
    }

    fn answer(&self, request: &Request<IncomingBody>) -> Response<Body> {
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
            "/stats/prometheus" | "/metrics" => self.scrape(),
            _ => text(StatusCode::NOT_FOUND, format!("{}\n", PAGES.join(" "))),
        }
    }

    fn readiness(&self) -> Result<(), String> {
        usable_identity(&self.link).map_err(|refused| refused.to_string())?;
        if let Some(reason) = self.inbound.waits_for() {
            return Err(format!("a server takes no connections: {reason}"));
        }
        if self.calls_only || self.inbound.is_serving() {
            Ok(())
        } else {
            Err("no server accepts connections".to_owned())
        }
    }

    fn scrape(&self) -> Response<Body> {
        let mut out = Exposition::default();
        self.link.scrape(Instant::now().into_std(), &mut out);
        typed(StatusCode::OK, Exposition::CONTENT_TYPE, out.into_text())
    }

    fn stats(&self) -> String {
        let mut out = format!("requests.received: {}\n", self.inbound.requests());
        for (event, reason, count) in self.link.tally().all() {
            writeln!(out, "{event}.{reason}: {count}").expect("a string takes whatever is written to it");
        }
        let now = self.link.wall_clock().current_time();
        if let (Ok(identity), Some(now)) = (&**self.link.identity().load(), now) {
            let left = identity.svid().not_after().as_secs().saturating_sub(now.as_secs());
            writeln!(out, "identity.seconds_to_expiry: {left}").expect("a string takes whatever is written to it");
        }
        if let Some(heard) = self.link.last_heard() {
            let age = Instant::now().into_std().saturating_duration_since(heard).as_secs();
            writeln!(out, "configuration.age_seconds: {age}").expect("a string takes whatever is written to it");
        }
        out
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    typed(status, "text/plain; charset=utf-8", body)
}

fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(mount::whole(body));
    *response.status_mut() = status;
    let content_type = header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
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
