//! The room that asks whether a peer may do what it asks for ([`mesh_core::authorize`]).
//!
//! It stands behind `canonical`, so it is asked about the request that the handler will see. Each request is judged by the rules of the
//! moment, whenever its connection was made: those of the filter chain that would take the connection now. Where nobody configures
//! servers, there are no rules and everybody passes whom `authenticate` lets pass; so does who came by a server that code made
//! plaintext, which no configuration is asked about.
//!
//! Where the chain's routes serve only some requests, or are not known, what they do not serve is UNAVAILABLE (503), whoever asks (gRFC
//! A36); counted as `authorization_denied` by `routes_unknown`, `no_route` or `route_refused`.
//!
//! A refusal says as little as Envoy's: 403 and `RBAC: access denied`, PERMISSION_DENIED for gRPC. Which policy it was is for the log, by
//! the name that Istio would call it: an event of target `mesh_server::decision` for each that refuses, audits, or is dry
//! ([`DecisionRecord`]), a hundred in a second at most but for audits: more are counted as `log_suppressed`. A signature that was found good is not checked again while its key is believed. A token that is bad is told so: 401 with `WWW-Authenticate`, UNAUTHENTICATED for gRPC. Counts:
//! `token_refused`, `token_checked` (requests whose token cost a signature), `authorization_denied`, `authorization_shadow_denied` (a dry run would have refused),
//! `authorization_shadow_allowed` and `authorization_audited`.
//!
//! A request that is still open when the rules change is judged again, and ends where it would not be let in now (`open.rs` says how).
//!
//! Where an authorizer outside of the process is to be asked, the request waits for its answer and is judged further then. What of it the
//! authorizer changed is what the rules behind it, and the handler, see. Nothing passes because nobody could be asked, unless the
//! configuration says so of that authorizer. Counts: `ext_authz_allowed`, `ext_authz_denied`, `ext_authz_failed` (by what failed) and
//! `ext_authz_failed_open` (of those, what passed all the same).

mod future;
mod open;
mod tokens;

use std::error::Error as StdError;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use mesh_core::authorize::{DecisionRecord, Facts, Matched, Next, Notice, Outcome, Shown};
use mesh_core::config::{Authorization, CheckService, JwtRules, Unserved};
use mesh_core::ext_authz::{Mutation, Verdict};
use mesh_core::identity::SpiffeId;
use mesh_core::jwt::{JwtClaims, TokenCache};
use mesh_core::link::Standing;
use mesh_core::live::Reader;
use mesh_core::report::Tally;
use mesh_core::route::RequestHead;
use mesh_core::{Link, Snapshot};
use rustls::time_provider::TimeProvider;
use tower::{Layer, Service};

pub use crate::ext_authz::CheckBody;
pub use future::ResponseFuture;
pub use open::OpenBody;

use crate::accept::{ConnectionInfo, Guard};
use crate::dangerous::Dangerous;
use crate::ext_authz::{Asked, Authorizers};
use crate::log_limit::LogLimit;
use crate::outside::OutsideCaller;
use crate::refusal::{Denial, MaybeRefused, Refusal};
use crate::show_body::ShowBodyLayer;
use open::Open;

/// What Envoy answers, and no more.
const DENIED: &str = "RBAC: access denied";
const UNKNOWN: &str = "it is not known yet who may call";
const UNSERVED: &str = "no route of the server is known to serve this";

/// Refuses what the configuration forbids. Part of [`MeshLayer`](crate::MeshLayer).
#[derive(Clone, Debug)]
pub struct AuthorizeLayer {
    plaintext: bool,
    tally: Tally,
    /// For tokens that end.
    clock: Arc<dyn TimeProvider>,
    /// Signatures of tokens that were good. Outlives configurations, and clones share it.
    tokens: Arc<TokenCache>,
    log: Arc<LogLimit>,
    /// Who this is, which authorizers are told.
    identity: Reader<Standing>,
    /// Which configuration it was.
    snapshots: Reader<Snapshot>,
    authorizers: Authorizers,
}

impl AuthorizeLayer {
    /// Counts for `link`.
    pub fn new(link: &Link) -> Self {
        Self {
            plaintext: false,
            tally: link.tally().clone(),
            clock: Arc::clone(link.wall_clock()),
            tokens: Arc::default(),
            log: Arc::new(LogLimit::new(link.tally().clone())),
            identity: link.identity().clone(),
            snapshots: link.snapshots().clone(),
            authorizers: Authorizers::default(),
        }
    }

    /// Asks the authorizer at `target` by `service`. `target`: what the configuration calls it, the name of a cluster; of Istio's
    /// `outbound|9000||authz.shop.svc.cluster.local` that is `authz.shop.svc.cluster.local:9000`.
    ///
    /// A request that is to be asked about is refused while nobody is given who can be asked, also where the configuration lets requests
    /// pass when an authorizer fails.
    #[must_use]
    pub fn ext_authz<S: OutsideCaller>(mut self, target: impl Into<Box<str>>, service: S) -> Self {
        self.authorizers.insert(target.into(), service);
        self
    }

    /// Asks every authorizer that is not given by its name through what `make` makes of its target, once for each.
    #[must_use]
    pub fn ext_authz_by<S: OutsideCaller>(mut self, make: impl Fn(&str) -> S + Send + Sync + 'static) -> Self {
        self.authorizers.others(make);
        self
    }

    /// The room before this one that reads what authorizers are to see of bodies. It counts with this one.
    pub(crate) fn show_body(&self) -> ShowBodyLayer {
        ShowBodyLayer::counting(self.tally.clone())
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
            rules: Arc::new(self.clone()),
        }
    }
}

/// See [`AuthorizeLayer`].
#[derive(Clone, Debug)]
pub struct Authorize<S> {
    inner: S,
    rules: Arc<AuthorizeLayer>,
}

impl<S, B, R> Service<Request<B>> for Authorize<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    R: Body<Data = Bytes>,
    R::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    type Response = Response<MaybeRefused<OpenBody<R>>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, B, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // From before it is judged: a change that comes meanwhile is looked at afterwards.
        let of_connection = ConnectionInfo::of(request.extensions()).filter(|info| info.has_rules());
        let followed = of_connection.map(|info| (info.clone(), info.changes()));
        match self.rules.judge(&mut request) {
            Ok(Judged { asked: None, claims }) => {
                let open = followed.map(|followed| Open::new(&self.rules, followed, &request, claims, false));
                ResponseFuture::admitted(self.inner.call(request), open)
            }
            Ok(Judged { asked: Some(asked), .. }) => {
                // The one that said it was ready goes along; what stays is its clone.
                let clone = self.inner.clone();
                let ready = std::mem::replace(&mut self.inner, clone);
                ResponseFuture::asking(Arc::clone(&self.rules), ready, request, (asked, followed))
            }
            Err(refusal) => ResponseFuture::refused(refusal),
        }
    }
}

impl AuthorizeLayer {
    fn judge<B>(&self, request: &mut Request<B>) -> Result<Judged, Refusal> {
        let Some(info) = ConnectionInfo::of(request.extensions()) else {
            return match self.plaintext {
                true => Ok(Judged::default()),
                false => Err(self.unknown(request, "no_connection")),
            };
        };
        let authorization = match info.guard() {
            Guard::Free => return Ok(Judged::default()),
            Guard::Closed => return Err(self.unknown(request, "not_serving")),
            Guard::By(authorization) => authorization,
        };
        if let Err(why) = authorization.serves(&RequestHead::of(request, "")) {
            return Err(self.unserved(request, why));
        }
        let Some(rules) = authorization.tokens() else {
            let next = self.permits(request, info, &authorization, None, None)?;
            let asked = self.asked(next, info, &authorization, None);
            return Ok(Judged { asked, claims: None });
        };
        let info = info.clone();
        let claims = self.tokens(rules, request)?;
        let next = self.permits(request, &info, &authorization, claims.as_deref(), None)?;
        let asked = self.asked(next, &info, &authorization, claims.clone());
        Ok(Judged { asked, claims })
    }

    /// Who is to be asked, if somebody is.
    fn asked(
        &self,
        next: Next<'_>,
        info: &ConnectionInfo,
        authorization: &Arc<Authorization>,
        claims: Option<Arc<JwtClaims>>,
    ) -> Option<Asked> {
        let Next::Asks { index, policy } = next else {
            return None;
        };
        Some(Asked {
            index,
            policy: policy.map(Box::from),
            info: info.clone(),
            authorization: Arc::clone(authorization),
            claims,
            own: self.own(),
            now: self.clock.current_time().map(|now| now.as_secs()),
        })
    }

    /// What a good token of the request says.
    fn tokens<B>(&self, rules: &JwtRules, request: &mut Request<B>) -> Result<Option<Arc<JwtClaims>>, Refusal> {
        let Some(now) = self.clock.current_time() else {
            return Err(self.unknown(request, "no_clock"));
        };
        let mut checks = self.tokens.checks();
        let checked = tokens::check(rules, request, now.as_secs(), &mut checks);
        if checks.made() > 0 {
            self.tally.count("token_checked", "signature");
        }
        checked.map_err(|why| {
            self.tally.count("token_refused", why.as_str());
            if self.log.admits("token") {
                tracing::info!(reason = why.as_str(), "request refused: {why}");
            }
            Refusal::unauthenticated(request, why)
        })
    }

    fn permits<'a, B>(
        &self,
        request: &Request<B>,
        info: &ConnectionInfo,
        authorization: &'a Authorization,
        claims: Option<&JwtClaims>,
        allowed: Option<usize>,
    ) -> Result<Next<'a>, Refusal> {
        let facts = Facts {
            head: Some(RequestHead::of(request, "")),
            ..info.facts_of(claims)
        };
        let next = authorization.judge(&facts, allowed, &mut |notice| self.notice(info, claims, &notice));
        next.map_err(|matched| {
            self.tally.count("authorization_denied", "rbac");
            self.tell(info, claims, Outcome::Denied, matched);
            Refusal::forbidden(request, DENIED)
        })
    }

    /// What an answer does to a request: `Ok(Some(_))`, somebody else is asked; `Ok(None)`, it passes.
    fn answered<B>(
        &self,
        verdict: Verdict,
        asked: &Asked,
        request: &mut Request<B>,
        downstream: &mut Vec<Mutation>,
    ) -> Result<Option<Asked>, Refused> {
        let check = asked.check();
        let protocol = match check.service {
            CheckService::Grpc(_) => "grpc",
            CheckService::Http(_) => "http",
        };
        let verdict = match verdict {
            Verdict::Allowed(allowed) => match allowed.apply(request) {
                Ok(()) => {
                    self.tally.count("ext_authz_allowed", protocol);
                    downstream.extend(allowed.downstream);
                    None
                }
                Err(why) => Some(Verdict::Failed(why)),
            },
            other => Some(other),
        };
        match verdict {
            None | Some(Verdict::Allowed(_)) => {}
            Some(Verdict::Denied(denied)) => {
                self.tally.count("ext_authz_denied", protocol);
                self.tally.count("authorization_denied", "ext_authz");
                self.tell(
                    &asked.info,
                    asked.claims.as_deref(),
                    Outcome::DeniedByAuthorizer,
                    asked.matched(),
                );
                return Err(Refused::Told(Denial::new(request, denied)));
            }
            Some(Verdict::Failed(why)) => {
                self.tally.count("ext_authz_failed", why.as_str());
                let target = &*check.cluster;
                match check.on_failure.verdict(why, request.headers_mut()) {
                    Ok(()) => {
                        self.tally.count("ext_authz_failed_open", why.as_str());
                        if self.log.admits("ext_authz") {
                            tracing::warn!(reason = why.as_str(), target, "request let through unasked: {why}");
                        }
                    }
                    Err(status) => {
                        self.tally.count("authorization_denied", "ext_authz_failed");
                        let claims = asked.claims.as_deref();
                        self.tell(&asked.info, claims, Outcome::AuthorizerFailed, asked.matched());
                        if self.log.admits("ext_authz") {
                            tracing::warn!(reason = why.as_str(), target, "request refused: {why}");
                        }
                        return Err(Refused::Told(Denial::bare(request, status)));
                    }
                }
            }
        }
        let claims = asked.claims.as_deref();
        let next = self.permits(request, &asked.info, &asked.authorization, claims, Some(asked.index));
        match next.map_err(Refused::Plain)? {
            Next::Passes => Ok(None),
            Next::Asks { index, policy } => Ok(Some(Asked {
                index,
                policy: policy.map(Box::from),
                ..asked.clone()
            })),
        }
    }

    fn own(&self) -> Option<Box<str>> {
        let standing = self.identity.load();
        let identity = Standing::as_ref(&standing).ok();
        identity.map(|identity| identity.id().as_str().into())
    }

    /// Nobody may while nobody knows who may.
    fn unknown<B>(&self, request: &Request<B>, reason: &'static str) -> Refusal {
        self.tally.count("authorization_denied", reason);
        if self.log.admits("unknown") {
            tracing::warn!(reason, "request refused: {UNKNOWN}");
        }
        Refusal::unavailable(request, UNKNOWN)
    }

    /// Nobody is served by a route that is not there, whoever may call.
    fn unserved<B>(&self, request: &Request<B>, why: Unserved<'_>) -> Refusal {
        self.tally.count("authorization_denied", why.as_str());
        if self.log.admits("unserved") {
            tracing::warn!(reason = why.as_str(), "request refused: {why}");
        }
        Refusal::unavailable(request, UNSERVED)
    }

    fn notice(&self, info: &ConnectionInfo, claims: Option<&JwtClaims>, notice: &Notice<'_>) {
        let (outcome, matched) = DecisionRecord::of_notice(notice);
        let event = match outcome {
            Outcome::WouldDeny => "authorization_shadow_denied",
            Outcome::WouldAllow => "authorization_shadow_allowed",
            _ => "authorization_audited",
        };
        self.tally.count(event, "rbac");
        self.tell(info, claims, outcome, matched);
    }

    /// For the log: what was decided, by which rule of which configuration, and of whom; nothing else of what the request says.
    fn tell(&self, info: &ConnectionInfo, claims: Option<&JwtClaims>, outcome: Outcome, matched: Matched<'_>) {
        if outcome != Outcome::Audited && !self.log.admits("decision") {
            return;
        }
        let record = DecisionRecord {
            outcome,
            filter: matched.filter,
            policy: matched.policy,
            peer: info.peer_id().map(SpiffeId::as_str),
            principal: claims.and_then(JwtClaims::principal),
            version: self.snapshots.load().version(),
        };
        let rule = record.rule().map(u64::from);
        tracing::info!(
            target: "mesh_server::decision",
            outcome = outcome.as_str(),
            dry_run = record.is_dry_run(),
            filter = %Shown(record.filter),
            policy = %Shown(record.policy.unwrap_or("none")),
            rule,
            peer = %Shown(record.peer.unwrap_or_default()),
            principal = %Shown(record.principal.unwrap_or_default()),
            source = %info.source(),
            version = record.version.0,
            details = %record.details(),
            "authorization decided"
        );
    }
}

/// A request that may pass.
#[derive(Default)]
struct Judged {
    /// Who is to be asked first, if somebody is.
    asked: Option<Asked>,
    /// What its token says.
    claims: Option<Arc<JwtClaims>>,
}

/// How a request is refused.
enum Refused {
    /// In our words.
    Plain(Refusal),
    /// In an authorizer's.
    Told(Denial),
}
