//! How a request is refused, by whichever room: in the words that its sender understands.
//!
//! gRPC reads a status in headers without a body (trailers-only), everybody else an HTTP status and a line of text. Neither says
//! anything of the policy, or of the request. One future and one body for all rooms that refuse.

mod body;
mod denial;
mod future;

use http::header::{CONNECTION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Request, StatusCode, Version};
use mesh_core::canonical::NotCanonical;
use mesh_core::jwt::JwtRefusal;
use mesh_core::report::standard::Flags;

pub use body::MaybeRefused;
pub(crate) use denial::Denial;
pub use future::ResponseFuture;

/// INTERNAL, PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNAUTHENTICATED, UNAVAILABLE, UNIMPLEMENTED and UNKNOWN (gRPC status codes).
const INTERNAL: &str = "13";
const PERMISSION_DENIED: &str = "7";
const RESOURCE_EXHAUSTED: &str = "8";
const UNAUTHENTICATED: &str = "16";
const UNAVAILABLE: &str = "14";
const UNIMPLEMENTED: &str = "12";
const UNKNOWN: &str = "2";

/// Why a request goes no further, and in which form its sender is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: &'static str,
    grpc: bool,
    closes: bool,
    /// By what the sender may show who it is (RFC 6750, 3).
    challenge: Option<&'static str>,
    unprocessed: bool,
    /// What Envoy would flag it with.
    flags: Flags,
    /// And what its access log would say (`response_code_details`).
    details: &'static str,
}

/// Among the extensions of every answer that is not the service's: whose it is, as Envoy's access log says it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotServed(pub(crate) &'static str);

/// Among the extensions of a refusal of which the protocol itself shall tell that nothing was processed, by the loop that serves the
/// connection if that is one of ours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unprocessed;

impl Refusal {
    /// The sender may not.
    pub(crate) fn forbidden<B>(request: &Request<B>, message: &'static str) -> Self {
        Self {
            details: "rbac_access_denied",
            ..Self::new(request, StatusCode::FORBIDDEN, PERMISSION_DENIED, message)
        }
    }

    /// The sender's token is not good, or there is none.
    pub(crate) fn unauthenticated<B>(request: &Request<B>, why: JwtRefusal) -> Self {
        let challenge = match why {
            JwtRefusal::Missing => "Bearer",
            _ => "Bearer error=\"invalid_token\"",
        };
        Self {
            challenge: Some(challenge),
            details: "jwt_authn_access_denied",
            ..Self::new(request, StatusCode::UNAUTHORIZED, UNAUTHENTICATED, why.message())
        }
    }

    /// Not now, or not here.
    pub(crate) fn unavailable<B>(request: &Request<B>, message: &'static str) -> Self {
        Self::new(request, StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE, message)
    }

    /// Not by this connection any more, but by another.
    pub(crate) fn revoked<B>(request: &Request<B>, message: &'static str) -> Self {
        Self {
            unprocessed: true,
            ..Self::unavailable(request, message)
        }
    }

    /// There were too many. `exhausted`: gRPC callers are told RESOURCE_EXHAUSTED and not what `status` means to them.
    pub(crate) fn limited<B>(request: &Request<B>, status: StatusCode, exhausted: bool, message: &'static str) -> Self {
        let code = match exhausted {
            true => RESOURCE_EXHAUSTED,
            false => meaning(status),
        };
        Self {
            status: match is_grpc(request) {
                true => StatusCode::OK,
                false => status,
            },
            flags: Flags::RATE_LIMITED,
            details: message,
            ..Self::new(request, status, code, message)
        }
    }

    /// The service did not survive it.
    pub(crate) fn failed<B>(request: &Request<B>) -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self::new(request, status, INTERNAL, "the service failed")
    }

    /// Its body is longer than the server takes.
    pub(crate) fn too_large(self) -> Self {
        self.instead(
            StatusCode::PAYLOAD_TOO_LARGE,
            RESOURCE_EXHAUSTED,
            "the request is too large",
        )
    }

    /// Its body did not come.
    pub(crate) fn stopped(self) -> Self {
        self.instead(
            StatusCode::REQUEST_TIMEOUT,
            UNAVAILABLE,
            "the request's body has stopped",
        )
    }

    fn instead(self, status: StatusCode, code: &'static str, message: &'static str) -> Self {
        Self {
            status: if self.grpc { StatusCode::OK } else { status },
            code,
            message,
            ..self
        }
    }

    /// The request has no canonical form. Who writes such requests over HTTP/1.1 may disagree about where they end, too: the
    /// connection closes. gRPC's own servers answer 400 and INTERNAL.
    pub(crate) fn malformed<B>(request: &Request<B>, reason: NotCanonical) -> Self {
        Self {
            closes: request.version() < Version::HTTP_2,
            ..Self::new(request, StatusCode::BAD_REQUEST, INTERNAL, reason.message())
        }
    }

    /// It says twice where it ends (RFC 9112, 6.3). Where the next one would begin nobody knows: the connection closes.
    pub(crate) fn ambiguous<B>(request: &Request<B>) -> Self {
        let message = "bad request: both a length and chunks";
        Self {
            closes: true,
            ..Self::new(request, StatusCode::BAD_REQUEST, INTERNAL, message)
        }
    }

    fn new<B>(request: &Request<B>, status: StatusCode, code: &'static str, message: &'static str) -> Self {
        let grpc = is_grpc(request);
        Self {
            // A gRPC status travels in a successful answer, except where HTTP itself was broken.
            status: if grpc && status != StatusCode::BAD_REQUEST {
                StatusCode::OK
            } else {
                status
            },
            code,
            message,
            grpc,
            closes: false,
            challenge: None,
            unprocessed: false,
            flags: Flags::default(),
            details: "direct_response",
        }
    }

    pub(crate) fn response<R>(self) -> http::Response<MaybeRefused<R>> {
        const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
        const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
        let text = if self.grpc { "" } else { self.message };
        let mut response = http::Response::new(MaybeRefused::refused(text));
        *response.status_mut() = self.status;
        response.extensions_mut().insert(NotServed(self.details));
        let headers = response.headers_mut();
        if self.grpc {
            headers.insert(CONTENT_TYPE, GRPC);
            headers.insert("grpc-status", HeaderValue::from_static(self.code));
            headers.insert("grpc-message", HeaderValue::from_static(self.message));
        } else {
            headers.insert(CONTENT_TYPE, TEXT);
        }
        if let Some(challenge) = self.challenge {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if self.closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if !self.flags.is_empty() {
            response.extensions_mut().insert(self.flags);
        }
        if self.unprocessed {
            response.extensions_mut().insert(Unprocessed);
        }
        response
    }
}

/// What an HTTP status means to gRPC (gRPC `http-grpc-status-mapping`).
fn meaning(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502..=504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// Whether the caller reads gRPC (the content type is `application/grpc`, or that with a suffix or parameter).
fn is_grpc<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE);
    let rest = content_type.and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"));
    matches!(rest, Some([] | [b'+' | b';', ..]))
}
