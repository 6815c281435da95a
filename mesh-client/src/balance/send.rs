//! Opens the stream and queues what is to be sent, in the caller's task.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::ResponseFuture;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Uri};
use http_body::Body;

use super::pump::pump;
use crate::body::Pump;
use crate::connect::Permit;
use crate::error::{Error, Kind};
use crate::request::{Attempt, Payload};

pub(super) struct Sent {
    pub(super) response: ResponseFuture,
    pub(super) pump: Option<Pump>,
}

/// Sends the head and the body: a whole one inline, with END_STREAM on its last frame, so that both leave in one write; a
/// streaming one through a task of its own, which waits for the peer's window.
pub(super) fn send<B>(
    request: Request<Attempt<B>>,
    permit: &Permit,
    authority: Option<&Authority>,
    peer: SocketAddr,
) -> Result<Sent, Error>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send,
{
    let (mut parts, attempt) = request.into_parts();
    parts.uri = absolute(parts.uri, authority)?;
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
        Payload::Streaming(once) => {
            let (response, stream) = permit.open(head, false).map_err(unsent)?;
            let (first, rest) = once
                .take()
                .ok_or_else(|| Error::at(Kind::InvalidRequest("its body was sent before"), peer))?;
            let task = tokio::spawn(pump(first, rest, stream));
            Ok(Sent {
                response,
                pump: Some(Pump(task.abort_handle())),
            })
        }
    }
}

/// The request's target in absolute form, as HTTP/2 wants it. A tonic client without an origin sends only a path.
///
/// The scheme is `http` whatever carries it, as a gRPC client over a secured channel of its own sends it; servers do not
/// choose by it.
fn absolute(uri: Uri, authority: Option<&Authority>) -> Result<Uri, Error> {
    let mut parts = uri.into_parts();
    if parts.authority.is_none() {
        parts.authority = authority.cloned();
        if parts.authority.is_none() {
            return Err(Error::new(Kind::InvalidRequest(
                "it names no authority, and the target's name is none",
            )));
        }
    }
    parts.scheme.get_or_insert(Scheme::HTTP);
    parts
        .path_and_query
        .get_or_insert_with(|| PathAndQuery::from_static("/"));
    Uri::from_parts(parts).map_err(|_| Error::new(Kind::InvalidRequest("its URI is not valid")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_become_absolute() {
        let target = Authority::from_static("payment");
        let check = |uri: &str| absolute(uri.parse().unwrap(), Some(&target)).unwrap().to_string();
        assert_eq!(check("/a?b"), "http://payment/a?b");
        assert_eq!(check("http://other:1/a"), "http://other:1/a");
        assert!(absolute("/a".parse().unwrap(), None).is_err());
    }
}
