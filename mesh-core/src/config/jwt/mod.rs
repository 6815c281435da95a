//! Whose tokens a server believes, as configured (Istio `RequestAuthentication`; Envoy `jwt_authn`). Values only: [`crate::jwt`] applies
//! them.
//!
//! A provider is somebody who signs tokens, with the keys to check that by. Keys are values here and never an address: who reads a
//! snapshot fetches nothing, so that no configuration makes a workload call a URL.

use http::HeaderName;

use super::RouteMatch;

mod jwks;

pub use jwks::{InvalidJwks, Jwk, JwkMaterial, Jwks};

/// What requests show of tokens, and what is asked of that.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JwtRules {
    /// Whose tokens are looked at.
    pub providers: Vec<JwtProvider>,
    /// What requests must show: the first rule that takes a request counts; one that none takes need not show anything.
    pub rules: Vec<JwtRule>,
}

impl JwtRules {
    /// The most providers of one chain: each may cost a signature.
    pub const MAX_PROVIDERS: usize = 32;
    /// The most rules of one chain, and the most parts of one requirement.
    pub const MAX_RULES: usize = 256;
    /// The deepest that requirements are joined.
    pub const MAX_DEPTH: usize = 8;
}

/// What some requests must show.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JwtRule {
    /// The requests.
    pub matches: RouteMatch,
    /// What they must show; `None`: nothing.
    pub requires: Option<JwtRequirement>,
}

/// What a request must show (Envoy `JwtRequirement`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum JwtRequirement {
    /// A token of the provider at this index, for one of these audiences where there are any.
    Provider(usize, Vec<Box<str>>),
    /// One of these.
    Any(Vec<Self>),
    /// Each of these.
    All(Vec<Self>),
    /// A good token or none: a bad one is refused.
    AllowMissing,
    /// Nothing; a good token counts.
    AllowMissingOrFailed,
}

/// Somebody whose tokens are believed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JwtProvider {
    /// Its name, for the status page.
    pub name: Box<str>,
    /// What `iss` must be.
    pub issuer: Box<str>,
    /// Any of them must be in `aud`; none: `aud` is not looked at.
    pub audiences: Vec<Box<str>>,
    /// The keys; without any, no token of it is believed.
    pub keys: Jwks,
    /// Where tokens are looked for; nowhere: at the usual two places ([`JwtPlaces::usual`]).
    pub places: JwtPlaces,
    /// The handler sees the token, too.
    pub forward: bool,
    /// The header that gets the payload as it was in the token, in base64url.
    pub payload_header: Option<HeaderName>,
    /// Headers that get a claim each.
    pub claim_headers: Vec<ClaimHeader>,
    /// Claims that are words with spaces between, and are looked at as lists.
    pub space_delimited: Vec<Box<str>>,
}

/// A header that gets a claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimHeader {
    /// The header.
    pub header: HeaderName,
    /// The claim: a string, a number or a boolean. Within objects by names with a `.` between.
    pub claim: Box<str>,
}

/// Where tokens are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct JwtPlaces {
    /// Headers, each with what stands before the token.
    pub headers: Vec<(HeaderName, Box<str>)>,
    /// Parameters of the query.
    pub params: Vec<Box<str>>,
    /// Cookies.
    pub cookies: Vec<Box<str>>,
}

impl JwtPlaces {
    /// `Authorization: Bearer <token>`, or the parameter `access_token` (RFC 6750; Envoy).
    pub fn usual() -> Self {
        Self {
            headers: vec![(http::header::AUTHORIZATION, "Bearer ".into())],
            params: vec!["access_token".into()],
            cookies: Vec::new(),
        }
    }

    /// Whether none is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
