//! Which token a request shows, whether it is good, and whether that is enough: [`JwtRules`] applied to a request.
//!
//! Pure: the time is an argument. Istio's semantics: a request without a token passes here, unauthenticated, and it is for a policy to ask
//! for more; a token that is bad is refused, also where none was needed. Where Istio leaves open what two tokens at two places mean, this
//! refuses both.
//!
//! How it is checked is told by the key and never by the token: the algorithm that a token names has to be one of its key's kind. Times
//! have 60 seconds of doubt ([`SKEW`]), as Envoy has.

mod cache;
mod claims;
mod place;
mod requirement;
#[cfg(test)]
mod tests;
mod token;

use std::fmt;
use std::sync::Arc;

use http::HeaderMap;

use crate::config::JwtRules;
use crate::route::{self, RequestHead};

pub use cache::{Checks, TokenCache};
pub use claims::JwtClaims;
pub use place::{JwtPlace, removed_cookie, removed_param};

/// How far the clocks of two machines may be apart, in seconds (Envoy `clock_skew_seconds`).
pub const SKEW: u64 = 60;

/// The longest token that is looked at, in bytes. Longer than any header list of a server of this mesh would take.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// What was found of a request that may go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// What a good token says; `None`: there was none.
    pub claims: Option<Arc<JwtClaims>>,
    /// The provider whose it is, by index.
    pub provider: Option<usize>,
    /// Where it was found.
    pub place: Option<JwtPlace>,
}

/// Why a request is refused, in the words of Envoy's filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JwtRefusal {
    /// There is none where one is asked for.
    Missing,
    /// There are several.
    Several,
    /// It is not three parts of base64url with JSON in the first two, or is too long, or says what must be understood and is not.
    Malformed,
    /// It names an algorithm that no key can have: `none`, one that both ends share a secret for, or an unknown one.
    Algorithm,
    /// Nobody whose tokens are believed at that place signs as its issuer.
    Issuer,
    /// It is not for this audience.
    Audience,
    /// It has ended.
    Expired,
    /// It has not begun, or was made in the future.
    NotYet,
    /// No key of its issuer fits its `kid` and algorithm.
    NoKey,
    /// It was not signed by that key.
    Signature,
}

impl JwtRefusal {
    /// What the caller is told.
    pub fn message(self) -> &'static str {
        match self {
            Self::Missing => "Jwt is missing",
            Self::Several => "Jwt is given more than once",
            Self::Malformed => "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
            Self::Algorithm => "Jwt header [alg] is not supported",
            Self::Issuer => "Jwt issuer is not configured",
            Self::Audience => "Audiences in Jwt are not allowed",
            Self::Expired => "Jwt is expired",
            Self::NotYet => "Jwt not yet valid",
            Self::NoKey => "Jwks doesn't have key to match kid or alg from Jwt",
            Self::Signature => "Jwt verification fails",
        }
    }

    /// A stable lower-case word, fit for a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Several => "several",
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::NotYet => "not_yet",
            Self::NoKey => "no_key",
            Self::Signature => "signature",
        }
    }
}

impl fmt::Display for JwtRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for JwtRefusal {}

impl JwtRules {
    /// What a request shows. `now`: seconds since the Unix epoch.
    ///
    /// # Errors
    ///
    /// When it may not go on.
    pub fn judge(&self, head: &RequestHead<'_>, now: u64) -> Result<Shown, JwtRefusal> {
        self.judge_by(head, now, &mut Checks::default())
    }

    /// As [`judge`](Self::judge), by signatures that were checked before ([`TokenCache`]).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn judge_by(&self, head: &RequestHead<'_>, now: u64, checks: &mut Checks<'_>) -> Result<Shown, JwtRefusal> {
        let mut rules = self.rules.iter();
        let rule = rules.find(|rule| route::takes(&rule.matches, head));
        let Some(requirement) = rule.and_then(|rule| rule.requires.as_ref()) else {
            return Ok(Shown::default());
        };
        let found = requirement::Found::of(self, requirement, head, now, checks)?;
        found.satisfies(requirement)?;
        Ok(found.shown())
    }

    /// The headers that handlers take for what a token said: whoever sends them does not say it.
    pub fn strip(&self, headers: &mut HeaderMap) {
        for provider in &self.providers {
            let of_claims = provider.claim_headers.iter().map(|one| &one.header);
            for name in provider.payload_header.iter().chain(of_claims) {
                headers.remove(name);
            }
        }
    }
}
