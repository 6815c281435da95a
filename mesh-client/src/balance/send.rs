//! Opens the stream and queues what is to be sent, in the caller's task.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::ResponseFuture;
use http::header::{CONNECTION, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, Request, Uri};
use http_body::Body;

use super::pump::pump;
use crate::body::Pump;
use crate::connect::Permit;
use crate::error::{Error, Kind};
use crate::request::{Attempt, Payload};

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

/// Sends the head and the body: a whole one inline, with END_STREAM on its last frame, so that both leave in one write; a
/// streaming one through a task of its own, which waits for the peer's window.
pub(super) fn send<B>(request: Request<Attempt<B>>, permit: &Permit, to: &Destination<'_>) -> Result<Sent, Error>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send,
{
    let peer = to.peer;
    let (mut parts, attempt) = request.into_parts();
    parts.uri = absolute(parts.uri, &mut parts.headers, to)?;
    drop_connection_headers(&mut parts.headers);
    parts.version = http::Version::HTTP_2;
    let head = Request::from_parts(parts, ());
    let unsent = |error| Error::at(Kind::NotProcessed(error), peer);
    match attempt.payload {
        Payload::Whole(bytes) => {
            let (response, mut stream) = permit.open(head, bytes.is_empty()).map_err(unsent)?;
            if !bytes.is_empty() {
                stream
                    .send_data(bytes, true)
                    .map_err(|error| Error::from_h2(error, peer))?;
            }
            Ok(Sent { response, pump: None })
        }
        Payload::Streaming(replay) => {
            let (response, stream) = permit.open(head, false).map_err(unsent)?;
            let task = tokio::spawn(pump(replay.reader(), stream, attempt.call.time.activity));
            Ok(Sent {
                response,
                pump: Some(Pump::new(task.abort_handle())),
            })
        }
    }
}

/// The request's target in absolute form, as HTTP/2 wants it. A tonic client without an origin sends only a path; a client
/// that comes from HTTP/1 names the authority in `host`.
fn absolute(uri: Uri, headers: &mut HeaderMap, to: &Destination<'_>) -> Result<Uri, Error> {
    let mut parts = uri.into_parts();
    let host = headers.remove(HOST);
    if parts.authority.is_none() {
        let named = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
        parts.authority = named.or_else(|| to.authority.cloned());
    }
    if parts.authority.is_none() {
        return Err(Error::new(Kind::InvalidRequest(
            "it names no authority, and the target's name is none",
        )));
    }
    parts.scheme = Some(if to.secure { Scheme::HTTPS } else { Scheme::HTTP });
    parts
        .path_and_query
        .get_or_insert_with(|| PathAndQuery::from_static("/"));
    Uri::from_parts(parts).map_err(|_| Error::new(Kind::InvalidRequest("its URI is not valid")))
}

/// Takes out what belongs to an HTTP/1 connection and makes an HTTP/2 request malformed (RFC 9113 8.2.2).
fn drop_connection_headers(headers: &mut HeaderMap) {
    const NEVER: [HeaderName; 5] = [
        CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    // One pass over the few headers of a call, which hashes nothing, tells that there is nothing to do.
    if !headers
        .iter()
        .any(|(name, value)| NEVER.contains(name) || (name == TE && value != "trailers"))
    {
        return;
    }
    for name in NEVER {
        headers.remove(name);
    }
    if headers.get(TE).is_some_and(|value| value != "trailers") {
        headers.remove(TE);
    }
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
            let to = Destination {
                peer: ([127, 0, 0, 1], 1).into(),
                authority: Some(&target),
                secure,
            };
            let uri = absolute(uri.parse().unwrap(), &mut headers, &to).unwrap().to_string();
            assert!(headers.is_empty());
            uri
        };
        assert_eq!(check("/a?b", None, true), "https://payment/a?b");
        assert_eq!(check("/a", Some("other:1"), false), "http://other:1/a");
        assert_eq!(check("http://third/a", Some("other"), true), "https://third/a");
        let nowhere = Destination {
            peer: ([127, 0, 0, 1], 1).into(),
            authority: None,
            secure: true,
        };
        assert!(absolute("/a".parse().unwrap(), &mut HeaderMap::new(), &nowhere).is_err());
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
