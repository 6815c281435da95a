//! The page over HTTP/1.1 on loopback: it answers GET and HEAD, and nobody but a browser that was sent here on purpose.
//!
//! A page of anybody's that is open in the same browser can send requests to loopback. It is not to read who calls whom: nothing
//! is said to allow it (CORS), and a name that was made to lead here (DNS rebinding) is not answered, since only names that mean this
//! machine are. Its own page may load nothing from elsewhere (CSP), whatever a peer writes into its name.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::uri::Authority;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::{Page, assets};

/// Connections at once: some browsers with six each.
const MAX_CONNECTIONS: usize = 64;
/// How long a request's head may take, and so how long a connection may be quiet.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one lives: a socket that is never read from is not kept for ever. A browser makes another.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(10 * 60);
/// The pause after an accept that failed: no file descriptor comes free by asking again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Where the numbers are.
const API: &str = "/api/v1/mesh";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// What every answer says.
const HEADERS: [(header::HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        header::HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (header::CACHE_CONTROL, "no-store"),
];

/// Serves `page` until `closing`.
pub(crate) fn serve(listener: TcpListener, page: Arc<Page>, mut closing: watch::Receiver<bool>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                // An error says that the control plane is gone, which is the same. What is being answered is let go of.
                _ = closing.wait_for(|closing| *closing) => return,
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                continue;
            };
            let page = Arc::clone(&page);
            connections.spawn(async move {
                let answer = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let answer = answer(&page, request.method(), request.uri(), request.headers());
                    std::future::ready(Ok::<_, Infallible>(answer))
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), answer);
                drop(tokio::time::timeout(MAX_CONNECTION_AGE, connection).await);
                drop(place);
            });
        }
    })
}

fn answer(page: &Page, method: &Method, uri: &Uri, headers: &HeaderMap) -> Response<Full<Bytes>> {
    if !is_for_this_machine(uri, headers) {
        let why = "This page answers to names of this machine alone, such as localhost.\n";
        return respond(
            StatusCode::MISDIRECTED_REQUEST,
            TEXT,
            Bytes::from_static(why.as_bytes()),
        );
    }
    if method != Method::GET && method != Method::HEAD {
        let mut refusal = respond(
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            Bytes::from_static(b"It only reads.\n"),
        );
        refusal
            .headers_mut()
            .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    // hyper leaves the body of an answer to HEAD out, and tells how long it would be.
    match uri.path() {
        API => respond(StatusCode::OK, JSON, page.json(Instant::now())),
        path => match assets::find(path) {
            Some(asset) => respond(StatusCode::OK, asset.kind, Bytes::from_static(asset.text.as_bytes())),
            None => respond(
                StatusCode::NOT_FOUND,
                TEXT,
                Bytes::from_static(b"There is nothing here.\n"),
            ),
        },
    }
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let all = response.headers_mut();
    all.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    all.extend(HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}

/// Whether the one host that a request names is this machine, and no page of another's had it sent.
fn is_for_this_machine(uri: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let named = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    let own = named.is_some_and(|authority| is_local(authority.host()));
    let absolute = uri.host().is_none_or(is_local);
    // Browsers say where a request comes from. Who types the address comes from nowhere.
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    own && absolute && matches!(site, None | Some(b"none" | b"same-origin"))
}

fn is_local(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_answered() {
        let ask = |uri: &str, headers: &[(&str, &str)]| {
            let mut request = Request::get(uri);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(()).unwrap();
            is_for_this_machine(request.uri(), request.headers())
        };
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1:15014", "127.9.9.9", "[::1]:80"] {
            assert!(ask("/", &[("host", host)]), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "127.0.0.1.evil.example",
            "[::2]",
            "a b",
            "localhost@evil",
        ] {
            assert!(!ask("/", &[("host", host)]), "{host}");
        }
        assert!(!ask("/", &[]));
        assert!(!ask("/", &[("host", "localhost"), ("host", "evil.example")]));
        assert!(!ask("http://evil.example/", &[("host", "localhost")]));
        assert!(ask("/", &[("host", "localhost"), ("sec-fetch-site", "same-origin")]));
        assert!(!ask("/", &[("host", "localhost"), ("sec-fetch-site", "cross-site")]));
        assert!(!ask("/", &[("host", "localhost"), ("sec-fetch-site", "same-site")]));
    }
}
