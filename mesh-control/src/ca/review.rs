//! Tokens that somebody else gives out: whose they are is asked of a hook, or read from a Kubernetes service account's token.
//!
//! A join token is checked first, since that costs a hash. What is none of ours goes to the hook, bounded in number and in time:
//! it may ask another system, as Kubernetes' TokenReview does. A service account's token needs nobody to be asked: it is a
//! JWT, signed by the cluster's keys, for an audience of this CA alone, and says which account it was made for.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Uri, header};
use mesh_core::config::{InvalidJwks, Jwks, JwtPlaces, JwtProvider, JwtRequirement, JwtRule, JwtRules, RouteMatch};
use mesh_core::identity::{SpiffeId, TrustDomain};
use mesh_core::route::RequestHead;
use rustls::time_provider::TimeProvider;
use tokio::sync::Semaphore;

/// The longest a hook may take; the caller waits for it.
pub(super) const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);
/// Reviews in progress at once: each may be a call to another system, which a flood of tokens must not reach.
pub(super) const MAX_REVIEWS: usize = 64;
/// The longest token that is reviewed, in bytes.
pub(super) const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// The audience that Istio's projected tokens are for.
const ISTIO_AUDIENCE: &str = "istio-ca";

type Answer = Pin<Box<dyn Future<Output = Result<SpiffeId, ReviewRefusal>> + Send>>;
type Review = dyn Fn(String) -> Answer + Send + Sync;

/// A token proves nobody, by the word of whoever reviewed it. The reason is for the log; the caller is told only that the token is
/// not valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReviewRefusal {
    why: Box<str>,
}

impl ReviewRefusal {
    /// Refuses for this reason, which must not hold the token.
    pub fn new(why: impl Into<Box<str>>) -> Self {
        Self { why: why.into() }
    }
}

impl fmt::Display for ReviewRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for ReviewRefusal {}

/// Who is asked about a token.
#[derive(Clone)]
pub(crate) struct Reviewer {
    review: Arc<Review>,
    places: Arc<Semaphore>,
}

impl Reviewer {
    pub(crate) fn new<F, R>(review: F) -> Self
    where
        F: Fn(String) -> R + Send + Sync + 'static,
        R: Future<Output = Result<SpiffeId, ReviewRefusal>> + Send + 'static,
    {
        Self {
            review: Arc::new(move |token| Box::pin(review(token))),
            places: Arc::new(Semaphore::new(MAX_REVIEWS)),
        }
    }

    /// Reads the tokens of Kubernetes service accounts as workloads of `domain`.
    pub(crate) fn of_service_accounts(
        tokens: ServiceAccountTokens,
        domain: TrustDomain,
        clock: Arc<dyn TimeProvider>,
    ) -> Self {
        Self::new(move |token| {
            let now = clock.current_time().map(|now| now.as_secs());
            std::future::ready(tokens.identity(&token, &domain, now))
        })
    }

    /// Whose it is; `None`: too many are being reviewed.
    pub(super) async fn review(&self, token: &str) -> Option<Result<SpiffeId, ReviewRefusal>> {
        let _place = self.places.try_acquire().ok()?;
        if token.len() > MAX_TOKEN_BYTES {
            return Some(Err(ReviewRefusal::new("too long")));
        }
        let answer = tokio::time::timeout(REVIEW_TIMEOUT, (self.review)(token.to_owned())).await;
        Some(answer.unwrap_or_else(|_| Err(ReviewRefusal::new("the review took too long"))))
    }
}

impl fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reviewer").finish_non_exhaustive()
    }
}

/// The tokens of Kubernetes service accounts, checked here by the cluster's public keys.
///
/// A token is good that the issuer signed (public keys only), that is for the audience, that has an end and has not reached it
/// (60 s of doubt), and that names its namespace and account in `kubernetes.io`. Whether the pod still exists is not asked: who
/// wants that uses a hook and TokenReview.
#[derive(Clone, Debug)]
pub struct ServiceAccountTokens {
    provider: JwtProvider,
}

impl ServiceAccountTokens {
    /// Those of `issuer` (`kubectl get --raw /.well-known/openid-configuration`), by the keys in `jwks` (`kubectl get --raw
    /// /openid/v1/jwks`). The audience is Istio's, `istio-ca`.
    ///
    /// # Errors
    ///
    /// When the keys cannot be read.
    pub fn new(issuer: &str, jwks: &str) -> Result<Self, InvalidJwks> {
        let places = JwtPlaces {
            headers: vec![(header::AUTHORIZATION, "Bearer ".into())],
            ..JwtPlaces::default()
        };
        Ok(Self {
            provider: JwtProvider {
                name: "service-accounts".into(),
                issuer: issuer.into(),
                audiences: vec![ISTIO_AUDIENCE.into()],
                keys: Jwks::parse(jwks)?,
                places,
                forward: false,
                payload_header: None,
                claim_headers: Vec::new(),
                space_delimited: Vec::new(),
            },
        })
    }

    /// Those for another audience. There is always one: a token for anybody would be good for everybody who was shown it.
    #[must_use]
    pub fn audience(mut self, audience: &str) -> Self {
        self.provider.audiences = vec![audience.into()];
        self
    }

    fn identity(&self, token: &str, domain: &TrustDomain, now: Option<u64>) -> Result<SpiffeId, ReviewRefusal> {
        let now = now.ok_or_else(|| ReviewRefusal::new("the wall clock cannot be read"))?;
        let rules = JwtRules {
            providers: vec![self.provider.clone()],
            rules: vec![JwtRule {
                matches: RouteMatch::any(),
                requires: Some(JwtRequirement::Provider(0, Vec::new())),
            }],
        };
        let value = HeaderValue::try_from(format!("Bearer {token}"));
        let value = value.map_err(|_| ReviewRefusal::new("not fit for a header"))?;
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
        let head = RequestHead {
            method: &Method::POST,
            uri: &Uri::from_static("/"),
            headers: &headers,
            target: "",
        };
        let shown = rules.judge(&head, now);
        let shown = shown.map_err(|refusal| ReviewRefusal::new(refusal.as_str()))?;
        let claims = shown.claims.ok_or_else(|| ReviewRefusal::new("no claims"))?;
        if claims.header_value("exp").is_none() {
            return Err(ReviewRefusal::new("it has no end"));
        }
        let namespace = claims.text(&["kubernetes.io", "namespace"]);
        let account = claims.text(&["kubernetes.io", "serviceaccount", "name"]);
        let (namespace, account) = namespace
            .zip(account)
            .ok_or_else(|| ReviewRefusal::new("it names no service account"))?;
        // A slash in a name would be another place in the path.
        if [namespace, account].iter().any(|name| name.contains('/')) {
            return Err(ReviewRefusal::new("its names are not those of Kubernetes"));
        }
        let id = format!("spiffe://{domain}/ns/{namespace}/sa/{account}");
        SpiffeId::parse(&id).map_err(|error| ReviewRefusal::new(error.to_string()))
    }
}
