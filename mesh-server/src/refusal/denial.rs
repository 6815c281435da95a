//! A refusal in somebody else's words: those of an authorizer outside of the process.
//!
//! A caller that speaks gRPC reads a status in headers, whatever the authorizer answered: the HTTP status becomes one as Envoy makes it,
//! and the body its message.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use mesh_core::ext_authz::Denied;
use mesh_core::report::standard::Flags;

use super::{MaybeRefused, NotServed, is_grpc};

/// The most of a body that becomes a gRPC message: header lists are small.
const MAX_MESSAGE: usize = 1024;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Denial {
    denied: Denied,
    grpc: bool,
}

impl Denial {
    /// In the authorizer's words.
    pub(crate) fn new<B>(request: &Request<B>, denied: Denied) -> Self {
        Self {
            denied,
            grpc: is_grpc(request),
        }
    }

    /// In nobody's: only a status.
    pub(crate) fn bare<B>(request: &Request<B>, status: StatusCode) -> Self {
        let denied = Denied {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
        };
        Self::new(request, denied)
    }

    pub(crate) fn response<R>(self) -> Response<MaybeRefused<R>> {
        const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
        let Denied { status, headers, body } = self.denied;
        let mut response = match self.grpc {
            true => Response::new(MaybeRefused::told(Bytes::new())),
            false => Response::new(MaybeRefused::told(body.clone())),
        };
        headers.iter().for_each(|one| one.apply(response.headers_mut()));
        response.extensions_mut().insert(Flags::UNAUTHORIZED_EXTERNALLY);
        response.extensions_mut().insert(NotServed("ext_authz_denied"));
        if !self.grpc {
            *response.status_mut() = status;
            return response;
        }
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, GRPC);
        headers.insert("grpc-status", HeaderValue::from_static(grpc_status(status)));
        if let Ok(message) = HeaderValue::from_str(&message(&body)) {
            headers.insert("grpc-message", message);
        }
        response
    }
}

/// Envoy's table, which is gRPC's own for answers of proxies.
fn grpc_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502 | 503 | 504 => "14",
        _ => "2",
    }
}

/// As a status message is written: everything but visible ASCII is escaped, and so is `%`.
fn message(body: &[u8]) -> String {
    let mut out = String::new();
    for byte in body.iter().take(MAX_MESSAGE) {
        match byte {
            b' '..=b'~' if *byte != b'%' => out.push(char::from(*byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}
