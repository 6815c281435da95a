//! What routing looks at: the head of a request.

use std::borrow::Cow;

use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

use crate::config::Subject;

/// The head of a request, by reference. What a request leaves out is filled in as it will be when it is sent.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its URI, which may be no more than a path.
    pub uri: &'a Uri,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// The authority of a request that names none: the target's name.
    pub target: &'a str,
}

impl<'a> RequestHead<'a> {
    /// The head of `request`, called at `target`.
    pub fn of<B>(request: &'a Request<B>, target: &'a str) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            target,
        }
    }

    /// The path, without the query.
    pub fn path(&self) -> &'a str {
        self.uri.path()
    }

    /// Path and query.
    pub fn path_and_query(&self) -> &'a str {
        self.uri.path_and_query().map_or("/", |both| both.as_str())
    }

    /// The scheme; `http` for a request that names none.
    pub fn scheme(&self) -> &'a str {
        self.uri.scheme_str().unwrap_or("http")
    }

    /// The authority: the URI's, else that of the header `host`, else the target's name.
    pub fn authority(&self) -> &'a str {
        if let Some(authority) = self.uri.authority() {
            return authority.as_str();
        }
        let named = self.headers.get(HOST).and_then(|host| host.to_str().ok());
        named.unwrap_or(self.target)
    }

    /// Whether it is gRPC: its content type is `application/grpc`, alone or with a suffix.
    pub fn is_grpc(&self) -> bool {
        self.headers.get(CONTENT_TYPE).is_some_and(is_grpc)
    }

    /// What stands in the place that `subject` names, if anything does. Several values of a header are joined with `,`.
    pub fn value(&self, subject: &Subject) -> Option<Cow<'a, [u8]>> {
        let text = |text: &'a str| Some(Cow::Borrowed(text.as_bytes()));
        match subject {
            Subject::Header(name) => joined(self.headers, name),
            Subject::Unseen(_) => None,
            Subject::Method => text(self.method.as_str()),
            Subject::Scheme => text(self.scheme()),
            Subject::Authority => text(self.authority()),
            Subject::Path => text(self.path_and_query()),
        }
    }
}

/// Whether a content type is gRPC's: `application/grpc`, alone, with a suffix or with parameters. `application/grpc-web` is another
/// protocol, whose trailers are in the body (Envoy).
#[inline]
pub fn is_grpc(content_type: &HeaderValue) -> bool {
    let rest = content_type.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// More headers than this are looked up by hash: among the few of a call it is cheaper to compare with each.
const FEW: usize = 16;

/// Whether there is a header of this name.
pub(super) fn has(headers: &HeaderMap, name: &HeaderName) -> bool {
    if headers.len() > FEW {
        return headers.contains_key(name);
    }
    headers.keys().any(|candidate| candidate == name)
}

/// The header's value; several are joined with `,` (Envoy, gRFC A28). Borrowed unless there are several.
pub(super) fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    if headers.len() > FEW {
        return join(headers.get_all(name).iter());
    }
    let of_name = headers.iter().filter(|(candidate, _)| *candidate == name);
    join(of_name.map(|(_, value)| value))
}

fn join<'a>(mut values: impl Iterator<Item = &'a HeaderValue>) -> Option<Cow<'a, [u8]>> {
    let first = values.next()?.as_bytes();
    let Some(second) = values.next() else {
        return Some(first.into());
    };
    let mut all = first.to_vec();
    for value in std::iter::once(second).chain(values) {
        all.push(b',');
        all.extend_from_slice(value.as_bytes());
    }
    Some(all.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_joined_in_their_order_among_few_headers_and_many() {
        let name = HeaderName::from_static("x");
        let mut headers = HeaderMap::new();
        for n in 0..2 * FEW {
            headers.append(HeaderName::try_from(format!("x-{n}")).unwrap(), HeaderValue::from(n));
            if n % 4 == 0 {
                headers.append(name.clone(), HeaderValue::from(n));
            }
            let expected: Vec<String> = (0..=n).filter(|n| n % 4 == 0).map(|n| n.to_string()).collect();
            assert_eq!(joined(&headers, &name).unwrap(), expected.join(",").as_bytes());
            assert_eq!(joined(&headers, &HeaderName::from_static("y")), None);
            assert!(has(&headers, &name) && !has(&headers, &HeaderName::from_static("y")));
        }
    }
}
