//! One token: its form, its signature, and the times and audiences that it says.

use aws_lc_rs::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::cache::Checks;
use super::{JwtClaims, JwtRefusal, MAX_TOKEN_BYTES, SKEW};
use crate::config::{Jwk, JwkMaterial, JwtProvider};

/// A token in its parts; nothing of it is believed yet.
pub(super) struct Token<'t> {
    /// All of it.
    text: &'t str,
    /// What is signed.
    signed: &'t str,
    payload: &'t str,
    signature: Vec<u8>,
    algorithm: Box<str>,
    key: Option<Box<str>>,
    claims: Map<String, Value>,
}

impl<'t> Token<'t> {
    pub(super) fn parse(text: &'t str) -> Result<Self, JwtRefusal> {
        let bad = JwtRefusal::Malformed;
        if text.len() > MAX_TOKEN_BYTES {
            return Err(bad);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(bad)?;
        let (header, payload) = signed.split_once('.').ok_or(bad)?;
        let header = object(header).ok_or(bad)?;
        // What a header calls critical has to be understood, and nothing of that kind is (RFC 7515, 4.1.11).
        if header.contains_key("crit") {
            return Err(bad);
        }
        let word = |name: &str| match header.get(name) {
            None => Ok(None),
            Some(value) => value.as_str().map(|text| Some(Box::from(text))).ok_or(bad),
        };
        Ok(Self {
            text,
            signed,
            payload,
            signature: URL_SAFE_NO_PAD.decode(signature).map_err(|_| bad)?,
            algorithm: word("alg")?.ok_or(bad)?,
            key: word("kid")?,
            claims: object(payload).ok_or(bad)?,
        })
    }

    /// Who says that he signed it.
    pub(super) fn issuer(&self) -> &str {
        self.claims.get("iss").and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether it is good, by what `provider` says and one of `audiences`, if there are any.
    pub(super) fn verify(
        &self,
        provider: &JwtProvider,
        audiences: &[Box<str>],
        now: u64,
        checks: &mut Checks<'_>,
    ) -> Result<JwtClaims, JwtRefusal> {
        let ends = self.times(now)?;
        if !audiences.is_empty() && !self.is_for(audiences) {
            return Err(JwtRefusal::Audience);
        }
        self.is_signed_by(provider.keys.keys(), ends, now, checks)?;
        Ok(JwtClaims::new(
            self.claims.clone(),
            self.payload,
            &provider.space_delimited,
        ))
    }

    /// When it ends, if it has begun and not ended.
    fn times(&self, now: u64) -> Result<u64, JwtRefusal> {
        // Seconds, perhaps with a fraction (RFC 7519, 2); of what is none nobody knows what it means.
        let time = |name: &str| match self.claims.get(name) {
            None => Ok(None),
            Some(value) => value
                .as_f64()
                .filter(|time| *time >= 0.0)
                .map(Some)
                .ok_or(JwtRefusal::Malformed),
        };
        let (now, skew) = (now as f64, SKEW as f64);
        let end = time("exp")?;
        if end.is_some_and(|end| now >= end + skew) {
            return Err(JwtRefusal::Expired);
        }
        let begins = [time("nbf")?, time("iat")?];
        match begins.into_iter().flatten().any(|begin| begin > now + skew) {
            true => Err(JwtRefusal::NotYet),
            false => Ok(end.map_or(u64::MAX, |end| (end + skew) as u64)),
        }
    }

    fn is_for(&self, audiences: &[Box<str>]) -> bool {
        let known = |value: &Value| {
            value
                .as_str()
                .is_some_and(|own| audiences.iter().any(|one| **one == *own))
        };
        match self.claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(known),
            Some(value) => known(value),
            None => false,
        }
    }

    fn is_signed_by(&self, keys: &[Jwk], ends: u64, now: u64, checks: &mut Checks<'_>) -> Result<(), JwtRefusal> {
        if !ALGORITHMS.contains(&&*self.algorithm) {
            return Err(JwtRefusal::Algorithm);
        }
        let fingerprint = checks.fingerprint(self.text);
        if checks.knows(&fingerprint, |signer| keys.contains(signer) && self.may_be_of(signer)) {
            return Ok(());
        }
        let mut why = JwtRefusal::NoKey;
        for key in keys.iter().filter(|key| self.may_be_of(key)) {
            checks.count();
            match self.fits(&key.material) {
                Some(true) => {
                    checks.remember(&fingerprint, key, ends, now);
                    return Ok(());
                }
                Some(false) => why = JwtRefusal::Signature,
                None => {}
            }
        }
        Err(why)
    }

    /// Whether the id and the algorithm are a key's.
    fn may_be_of(&self, key: &Jwk) -> bool {
        // A key without an id is for every token; a token without one is for every key.
        let other = key
            .id
            .as_ref()
            .zip(self.key.as_ref())
            .is_some_and(|(own, asked)| own != asked);
        let narrower = key.algorithm.as_ref().is_some_and(|own| *own != self.algorithm);
        !(other || narrower)
    }

    /// Whether that key made the signature; `None`: it is not of the algorithm's kind.
    fn fits(&self, key: &JwkMaterial) -> Option<bool> {
        let signed = self.signed.as_bytes();
        let plain = |algorithm, point: &[u8]| {
            let key = UnparsedPublicKey::new(algorithm, point);
            key.verify(signed, &self.signature).is_ok()
        };
        match (key, &*self.algorithm) {
            (JwkMaterial::Rsa(n, e), algorithm) => {
                let parameters = rsa(algorithm)?;
                let key = RsaPublicKeyComponents { n: &**n, e: &**e };
                Some(key.verify(parameters, signed, &self.signature).is_ok())
            }
            (JwkMaterial::P256(point), "ES256") => Some(plain(&signature::ECDSA_P256_SHA256_FIXED, point)),
            (JwkMaterial::P384(point), "ES384") => Some(plain(&signature::ECDSA_P384_SHA384_FIXED, point)),
            (JwkMaterial::Ed25519(key), "EdDSA") => {
                let key = UnparsedPublicKey::new(&signature::ED25519, key);
                Some(key.verify(signed, &self.signature).is_ok())
            }
            _ => None,
        }
    }
}

/// What a key may be asked to check.
const ALGORITHMS: [&str; 9] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
];

fn rsa(algorithm: &str) -> Option<&'static signature::RsaParameters> {
    Some(match algorithm {
        "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
        "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
        "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

fn object(part: &str) -> Option<Map<String, Value>> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    match serde_json::from_slice(&bytes).ok()? {
        Value::Object(object) => Some(object),
        _ => None,
    }
}
