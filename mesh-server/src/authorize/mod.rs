//! The room that asks whether a peer may do what it asks for ([`mesh_core::authorize`]).
//!
//! It stands behind `canonical`, so it is asked about the request that the handler will see. Each request is judged by the rules of the
//! moment, whenever its connection was made: those of the filter chain that would take the connection now. Where nobody configures
//! servers, there are no rules and everybody passes whom `authenticate` lets pass; so does who came by a server that code made
//! plaintext, which no configuration is asked about.
//!
//! A refusal says as little as Envoy's: 403 and `RBAC: access denied`, PERMISSION_DENIED for gRPC. Which policy it was is for the log, by
//! the name that Istio would call it. A token that is bad is told so: 401 with `WWW-Authenticate`, UNAUTHENTICATED for gRPC. Counts:
//! `token_refused`, `authorization_denied`, `authorization_shadow_denied` (a dry run would have refused),
//! `authorization_shadow_allowed` and `authorization_audited`.

mod tokens;

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use mesh_core::Link;
use mesh_core::authorize::{Facts, Matched, Notice};
use mesh_core::config::{Authorization, JwtRules};
use mesh_core::jwt::JwtClaims;
use mesh_core::report::Tally;
use mesh_core::route::RequestHead;
use rustls::time_provider::TimeProvider;
use tower::{Layer, Service};

use crate::accept::{ConnectionInfo, Guard};
use crate::dangerous::Dangerous;
use crate::refusal::{MaybeRefused, Refusal, ResponseFuture};

/// What Envoy answers, and no more.
const DENIED: &str = "RBAC: access denied";
const UNKNOWN: &str = "it is not known yet who may call";

/// Refuses what the configuration forbids. Part of [`MeshLayer`](crate::MeshLayer).
#[derive(Clone, Debug)]
pub struct AuthorizeLayer {
    plaintext: bool,
    tally: Tally,
    /// For tokens that end.
    clock: Arc<dyn TimeProvider>,
}

impl AuthorizeLayer {
    /// Counts for `link`.
    pub fn new(link: &Link) -> Self {
        Self {
            plaintext: false,
            tally: link.tally().clone(),
            clock: Arc::clone(link.wall_clock()),
        }
    }

    /// Choices that give up the protection of the mesh.
    pub fn dangerous(self) -> Dangerous<Self> {
        Dangerous(self)
    }
}

impl Dangerous<AuthorizeLayer> {
    /// Lets requests through that came by no door of this crate, so that nobody knows which rules are theirs.
    pub fn plaintext(self) -> AuthorizeLayer {
        AuthorizeLayer {
            plaintext: true,
            ..self.0
        }
    }
}

impl<S> Layer<S> for AuthorizeLayer {
    type Service = Authorize<S>;

    fn layer(&self, inner: S) -> Authorize<S> {
        Authorize {
            inner,
            rules: self.clone(),
        }
    }
}

/// See [`AuthorizeLayer`].
#[derive(Clone, Debug)]
pub struct Authorize<S> {
    inner: S,
    rules: AuthorizeLayer,
}

impl<S, B, R> Service<Request<B>> for Authorize<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    type Response = Response<MaybeRefused<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.rules.judge(&mut request) {
            Ok(()) => ResponseFuture::admitted(self.inner.call(request)),
            Err(refusal) => ResponseFuture::refused(refusal),
        }
    }
}

impl AuthorizeLayer {
    fn judge<B>(&self, request: &mut Request<B>) -> Result<(), Refusal> {
        let Some(info) = ConnectionInfo::of(request.extensions()) else {
            return match self.plaintext {
                true => Ok(()),
                false => Err(self.unknown(request, "no_connection")),
            };
        };
        let authorization = match info.guard() {
            Guard::Free => return Ok(()),
            Guard::Closed => return Err(self.unknown(request, "not_serving")),
            Guard::By(authorization) => authorization,
        };
        match authorization.tokens() {
            None => self.permits(request, info, &authorization, None),
            Some(rules) => {
                let info = info.clone();
                let claims = self.tokens(rules, request)?;
                self.permits(request, &info, &authorization, claims.as_deref())
            }
        }
    }

    /// What a good token of the request says.
    fn tokens<B>(&self, rules: &JwtRules, request: &mut Request<B>) -> Result<Option<Arc<JwtClaims>>, Refusal> {
        let Some(now) = self.clock.current_time() else {
            return Err(self.unknown(request, "no_clock"));
        };
        tokens::check(rules, request, now.as_secs()).map_err(|why| {
            self.tally.count("token_refused", why.as_str());
            tracing::info!(reason = why.as_str(), "request refused: {why}");
            Refusal::unauthenticated(request, why)
        })
    }

    fn permits<B>(
        &self,
        request: &Request<B>,
        info: &ConnectionInfo,
        authorization: &Authorization,
        claims: Option<&JwtClaims>,
    ) -> Result<(), Refusal> {
        let facts = Facts {
            source: Some(info.source().ip()),
            destination: info.known_destination(),
            server_name: info.server_name(),
            peer: info.peer_id(),
            claims,
            head: Some(RequestHead::of(request, "")),
        };
        let passes = authorization.request_passes(&facts, &mut |notice| self.notice(info, notice));
        passes.map_err(|matched| {
            self.tally.count("authorization_denied", "rbac");
            tell(info, &matched, "request refused");
            Refusal::forbidden(request, DENIED)
        })
    }

    /// Nobody may while nobody knows who may.
    fn unknown<B>(&self, request: &Request<B>, reason: &'static str) -> Refusal {
        self.tally.count("authorization_denied", reason);
        tracing::warn!(reason, "request refused: {UNKNOWN}");
        Refusal::unavailable(request, UNKNOWN)
    }

    fn notice(&self, info: &ConnectionInfo, notice: Notice<'_>) {
        let (event, matched) = match &notice {
            Notice::WouldDeny(matched) => ("authorization_shadow_denied", matched),
            Notice::WouldAllow(matched) => ("authorization_shadow_allowed", matched),
            Notice::Audited(matched) => ("authorization_audited", matched),
        };
        self.tally.count(event, "rbac");
        tell(info, matched, event);
    }
}

/// For the log: who, and by which policy; nothing of what the request says.
fn tell(info: &ConnectionInfo, matched: &Matched<'_>, event: &str) {
    let peer = info.peer_id().map_or("", |peer| peer.as_str());
    let (filter, policy) = (matched.filter, matched.policy.unwrap_or("none"));
    tracing::info!(peer, source = %info.source(), filter, policy, "{event}");
}
