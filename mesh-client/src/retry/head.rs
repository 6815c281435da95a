//! The head of a request, kept for a try that may never come.
//!
//! A `HeaderMap` is two allocations to clone; a call has about five headers. So they are kept as a flat list in place, of
//! which the common case needs no allocation, and the map is rebuilt when it is needed. Names and values are reference-counted:
//! what is copied is their handles. It is large all the same, so it stands in a box that is used again
//! ([`Aside`](super::kept::Aside)).

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use smallvec::SmallVec;

/// Headers kept without an allocation: a gRPC call has four or five.
const INLINE: usize = 6;

#[derive(Debug, Default)]
pub(super) struct Head {
    method: Method,
    uri: Uri,
    headers: SmallVec<[(HeaderName, HeaderValue); INLINE]>,
}

impl Head {
    pub(super) fn clear(&mut self) {
        self.headers.clear();
        self.uri = Uri::default();
        self.method = Method::GET;
    }

    /// Keeps a head, in place.
    #[inline]
    pub(super) fn keep(&mut self, parts: &Parts) {
        self.method = parts.method.clone();
        self.uri = parts.uri.clone();
        for (name, value) in &parts.headers {
            self.headers.push((name.clone(), value.clone()));
        }
    }

    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    /// A request with this head. The extensions of the first are not kept: they do not leave the process.
    pub(super) fn rebuild<B>(&self, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        let mut headers = HeaderMap::with_capacity(self.headers.len() + 1);
        headers.extend(self.headers.iter().cloned());
        *request.headers_mut() = headers;
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebuilt_head_is_the_same() {
        let request = Request::post("http://host/path?q")
            .header("a", "1")
            .header("a", "2")
            .header("b", "3")
            .body(())
            .unwrap();
        let mut head = Head::default();
        let (parts, ()) = request.into_parts();
        head.keep(&parts);
        let request = Request::from_parts(parts, ());
        let rebuilt = head.rebuild(());
        assert_eq!(rebuilt.headers(), request.headers());
        assert_eq!((rebuilt.uri(), rebuilt.method()), (request.uri(), request.method()));
    }
}
