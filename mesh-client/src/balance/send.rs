//! Hands a request to its connection, in the caller's task, in the form that the connection's protocol has for it.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::ResponseFuture;
use http::header::{CONNECTION, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use http_body::Body;

use super::pump::pump;
use crate::body::Pump;
use crate::connect::{Exchange, Http1, Http2Permit, NotOpened, Outgoing};
use crate::error::{Error, Kind};
use crate::request::{Attempt, Payload};

/// The most that `h2` takes at once: what a flow-control window can be (RFC 9113 6.9.1).
const MAX_WHOLE: usize = (1 << 31) - 1;

/// Where a request goes, as far as its head says so.
pub(super) struct Destination<'a> {
    pub(super) peer: SocketAddr,
    /// For a request that names none.
    pub(super) authority: Option<&'a Authority>,
    /// Whether TLS carries it.
    pub(super) secure: bool,
}

pub(super) struct Sent {
    pub(super) response: ResponseFuture,
    pub(super) pump: Option<Pump>,
}

/// Why a request was not sent.
pub(super) enum Unsent {
    /// Its connection is gone or going; the request is where it was, for another.
    Gone,
    Failed(Error),
}

/// Sends over HTTP/2: a whole body inline, with END_STREAM on its last frame, so that head and body leave in one write; a
/// streaming one through a task of its own, which waits for the peer's window.
#[inline]
pub(super) fn send_http2<B>(
    unsent: &mut Option<Request<Attempt<B>>>,
    permit: &Http2Permit,
    to: &Destination<'_>,
) -> Result<Sent, Unsent>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send,
{
    let peer = to.peer;
    let (mut parts, attempt) = unsent.take().expect("a try is sent once").into_parts();
    let host = drop_connection_headers(&mut parts.headers);
    parts.uri = absolute(parts.uri, &parts.method, host, to).map_err(Unsent::Failed)?;
    parts.version = Version::HTTP_2;
    let head = Request::from_parts(parts, ());
    if matches!(&attempt.payload, Payload::Whole(bytes) if bytes.len() > MAX_WHOLE) {
        return Err(Unsent::Failed(invalid("its body is longer than 2 GiB in one piece")));
    }
    let ends = matches!(&attempt.payload, Payload::Whole(bytes) if bytes.is_empty());
    let (response, mut stream) = match permit.open(head, ends) {
        Ok(opened) => opened,
        Err(NotOpened::Gone(head)) => {
            *unsent = Some((*head).map(|()| attempt));
            return Err(Unsent::Gone);
        }
        Err(NotOpened::Refused(error)) => {
            return Err(Unsent::Failed(Error::at(Kind::NotProcessed(error.into()), peer)));
        }
    };
    match attempt.payload {
        Payload::Whole(bytes) => {
            if !ends {
                // An error means that the stream is over already, such as by a GOAWAY that came this moment: the answer tells
                // what of, and whether the peer looked at the request.
                let _ = stream.send_data(bytes, true);
            }
            Ok(Sent { response, pump: None })
        }
        Payload::Streaming(replay) => {
            let task = tokio::spawn(pump(replay.reader(attempt.call.time.activity), stream));
            Ok(Sent {
                response,
                pump: Some(Pump::new(task.abort_handle())),
            })
        }
    }
}

/// Sends over HTTP/1.1: the target in origin form and its authority in `host` (RFC 9112 3.2), the body as long as it says or
/// in chunks.
pub(super) fn send_http1<B>(
    unsent: &mut Option<Request<Attempt<B>>>,
    connection: Http1,
    to: &Destination<'_>,
) -> Result<Exchange, Error>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send,
{
    let (mut parts, attempt) = unsent.take().expect("a try is sent once").into_parts();
    let mut uri = parts.uri.into_parts();
    let host = drop_connection_headers(&mut parts.headers);
    let authority = authority(uri.authority.take(), &parts.method, host, to)?;
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| invalid("its authority is not valid"))?;
    // Without one it is "/".
    parts.uri = uri.path_and_query.map_or_else(Uri::default, Uri::from);
    // Trailers are HTTP/1.1's as well, but a client has to list `te` in `connection`, which is not ours to pass on.
    parts.headers.remove(TE);
    parts.headers.insert(HOST, host);
    parts.version = Version::HTTP_11;
    let body = match attempt.payload {
        Payload::Whole(bytes) => Outgoing::whole(bytes),
        Payload::Streaming(replay) => Outgoing::streaming(replay.reader(attempt.call.time.activity)),
    };
    Ok(connection.send(Request::from_parts(parts, body)))
}

fn invalid(why: &'static str) -> Error {
    Error::new(Kind::InvalidRequest(why))
}

/// The request's target in absolute form, as HTTP/2 wants it.
fn absolute(uri: Uri, method: &Method, host: Option<HeaderValue>, to: &Destination<'_>) -> Result<Uri, Error> {
    let mut parts = uri.into_parts();
    parts.authority = Some(authority(parts.authority.take(), method, host, to)?);
    parts.scheme = Some(if to.secure { Scheme::HTTPS } else { Scheme::HTTP });
    parts
        .path_and_query
        .get_or_insert_with(|| PathAndQuery::from_static("/"));
    Uri::from_parts(parts).map_err(|_| invalid("its URI is not valid"))
}

/// Whom a request is for: `named` by its URI, by its header `host`, or by the channel. A tonic client without an
/// origin sends only a path; a client that comes from HTTP/1 names the authority in `host`.
fn authority(
    named: Option<Authority>,
    method: &Method,
    host: Option<HeaderValue>,
    to: &Destination<'_>,
) -> Result<Authority, Error> {
    if method == Method::CONNECT {
        return Err(invalid("CONNECT asks for a tunnel, which is not carried"));
    }
    named
        .or_else(|| Authority::try_from(host?.as_bytes()).ok())
        .or_else(|| to.authority.cloned())
        .ok_or_else(|| invalid("it names no authority, and the target's name cannot be one, as none with a slash can"))
}

/// Takes out what belongs to an HTTP/1 connection and makes an HTTP/2 request malformed (RFC 9113 8.2.2); and `host`, which is
/// handed back.
fn drop_connection_headers(headers: &mut HeaderMap) -> Option<HeaderValue> {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    let is_one = |(name, value): (&HeaderName, &HeaderValue)| match *name {
        HOST | CONNECTION | TRANSFER_ENCODING | UPGRADE => true,
        TE => value != "trailers",
        ref other => *other == KEEP_ALIVE || *other == PROXY_CONNECTION,
    };
    // One pass over the few headers of a call, which hashes nothing, tells that there is nothing to do.
    if !headers.iter().any(is_one) {
        return None;
    }
    for name in [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    if headers.get(TE).is_some_and(|value| value != "trailers") {
        headers.remove(TE);
    }
    headers.remove(HOST)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn uris_become_absolute() {
        let target = Authority::from_static("payment");
        let check = |uri: &str, host: Option<&'static str>, secure| {
            let mut headers = HeaderMap::from_iter(host.map(|host| (HOST, HeaderValue::from_static(host))));
            let host = drop_connection_headers(&mut headers);
            let to = Destination {
                peer: ([127, 0, 0, 1], 1).into(),
                authority: Some(&target),
                secure,
            };
            let uri = absolute(uri.parse().unwrap(), &Method::GET, host, &to).unwrap();
            assert!(headers.is_empty());
            uri.to_string()
        };
        assert_eq!(check("/a?b", None, true), "https://payment/a?b");
        assert_eq!(check("/a", Some("other:1"), false), "http://other:1/a");
        assert_eq!(check("http://third/a", Some("other"), true), "https://third/a");
        let nowhere = Destination {
            peer: ([127, 0, 0, 1], 1).into(),
            authority: None,
            secure: true,
        };
        assert!(absolute(Uri::from_static("/a"), &Method::GET, None, &nowhere).is_err());
        assert!(absolute(Uri::from_static("third:443"), &Method::CONNECT, None, &nowhere).is_err());
    }

    #[test]
    fn headers_of_an_http1_connection_are_not_sent() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            let pairs = pairs
                .iter()
                .map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v)));
            HeaderMap::from_iter(pairs)
        };
        let mut mixed = headers(&[("connection", "close"), ("te", "gzip"), ("upgrade", "x"), ("x-a", "1")]);
        drop_connection_headers(&mut mixed);
        assert_eq!(mixed, headers(&[("x-a", "1")]));
        let mut grpc = headers(&[("te", "trailers"), ("content-type", "application/grpc")]);
        drop_connection_headers(&mut grpc);
        assert_eq!(grpc.len(), 2);
    }
}
