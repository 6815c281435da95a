//! The public keys of whoever signs tokens (RFC 7517), read once and only into what can be used without a further question.
//!
//! A key knows its algorithms by what it is, so a token never chooses how it is checked: an RSA key checks no HMAC, and there is no key
//! for `none`. Keys that both ends share are refused, as is any private one: a snapshot is public.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

/// A set of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Jwks(Vec<Jwk>);

/// One public key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Jwk {
    /// Its `kid`.
    pub id: Option<Box<str>>,
    /// The one algorithm that it is for, where it says so.
    pub algorithm: Option<Box<str>>,
    /// What it is.
    pub material: JwkMaterial,
}

/// What a key is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum JwkMaterial {
    /// RSA: modulus and exponent, big-endian. RS256 to RS512, PS256 to PS512.
    Rsa(Box<[u8]>, Box<[u8]>),
    /// A point of P-256, uncompressed. ES256.
    P256(Box<[u8]>),
    /// A point of P-384, uncompressed. ES384.
    P384(Box<[u8]>),
    /// Ed25519. EdDSA.
    Ed25519(Box<[u8]>),
}

impl Jwks {
    /// The most bytes of a set.
    pub const MAX_BYTES: usize = 256 * 1024;
    /// The most keys of a set: each may cost a signature, where a token names none.
    pub const MAX_KEYS: usize = 64;

    /// Reads a set. Keys of kinds that are not known, and those that are not for signatures, are left out (RFC 7517, 5).
    ///
    /// # Errors
    ///
    /// When it is no set, is too large, has a secret, or has a key of a known kind that is none.
    pub fn parse(text: &str) -> Result<Self, InvalidJwks> {
        if text.len() > Self::MAX_BYTES {
            return Err(InvalidJwks::TooLarge);
        }
        let whole: Value = serde_json::from_str(text).map_err(|_| InvalidJwks::NotJson)?;
        let keys = whole.get("keys").and_then(Value::as_array).ok_or(InvalidJwks::NoKeys)?;
        if keys.len() > Self::MAX_KEYS {
            return Err(InvalidJwks::TooLarge);
        }
        let read = keys.iter().map(|key| read(key.as_object().ok_or(InvalidJwks::BadKey)?));
        let read: Vec<Option<Jwk>> = read.collect::<Result<_, _>>()?;
        Ok(Self(read.into_iter().flatten().collect()))
    }

    /// The keys.
    pub fn keys(&self) -> &[Jwk] {
        &self.0
    }

    /// The set as a document, which reads as the same set.
    pub fn to_json(&self) -> String {
        let keys: Vec<Value> = self.0.iter().map(|key| Value::Object(written(key))).collect();
        let mut whole = Map::new();
        whole.insert("keys".into(), Value::Array(keys));
        Value::Object(whole).to_string()
    }
}

fn text<'a>(key: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    key.get(name).and_then(Value::as_str)
}

fn read(key: &Map<String, Value>) -> Result<Option<Jwk>, InvalidJwks> {
    if key.contains_key("d") || text(key, "kty") == Some("oct") {
        return Err(InvalidJwks::Secret);
    }
    let operations = key.get("key_ops").and_then(Value::as_array);
    let verifies = operations.is_none_or(|all| all.iter().any(|one| one == "verify"));
    if text(key, "use").is_some_and(|what| what != "sig") || !verifies {
        return Ok(None);
    }
    let bytes = |name: &str| -> Result<Vec<u8>, InvalidJwks> {
        let text = text(key, name).ok_or(InvalidJwks::BadKey)?;
        URL_SAFE_NO_PAD
            .decode(text.trim_end_matches('='))
            .map_err(|_| InvalidJwks::BadKey)
    };
    let point = |size: usize| -> Result<Box<[u8]>, InvalidJwks> {
        let (x, y) = (bytes("x")?, bytes("y")?);
        match (x.len(), y.len()) == (size, size) {
            true => Ok([&[4], &*x, &*y].concat().into()),
            false => Err(InvalidJwks::BadKey),
        }
    };
    let material = match (text(key, "kty"), text(key, "crv")) {
        (Some("RSA"), _) => {
            let (modulus, exponent) = (bytes("n")?, bytes("e")?);
            // What the signature algorithms here take at all.
            let bits = modulus.iter().skip_while(|byte| **byte == 0).count() * 8;
            if !(2048..=8192).contains(&bits) || exponent.is_empty() {
                return Err(InvalidJwks::BadKey);
            }
            JwkMaterial::Rsa(modulus.into(), exponent.into())
        }
        (Some("EC"), Some("P-256")) => JwkMaterial::P256(point(32)?),
        (Some("EC"), Some("P-384")) => JwkMaterial::P384(point(48)?),
        (Some("OKP"), Some("Ed25519")) => {
            let key = bytes("x")?;
            match key.len() == 32 {
                true => JwkMaterial::Ed25519(key.into()),
                false => return Err(InvalidJwks::BadKey),
            }
        }
        _ => return Ok(None),
    };
    Ok(Some(Jwk {
        id: text(key, "kid").map(Box::from),
        algorithm: text(key, "alg").map(Box::from),
        material,
    }))
}

fn written(key: &Jwk) -> Map<String, Value> {
    let mut out = Map::new();
    let mut put = |name: &str, value: &str| drop(out.insert(name.into(), value.into()));
    let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    match &key.material {
        JwkMaterial::Rsa(modulus, exponent) => {
            put("kty", "RSA");
            put("n", &encoded(modulus));
            put("e", &encoded(exponent));
        }
        JwkMaterial::P256(point) | JwkMaterial::P384(point) => {
            // The first byte says that both coordinates follow.
            let (x, y) = point[1..].split_at((point.len() - 1) / 2);
            put("kty", "EC");
            put("crv", if x.len() == 32 { "P-256" } else { "P-384" });
            put("x", &encoded(x));
            put("y", &encoded(y));
        }
        JwkMaterial::Ed25519(key) => {
            put("kty", "OKP");
            put("crv", "Ed25519");
            put("x", &encoded(key));
        }
    }
    key.id.iter().for_each(|id| put("kid", id));
    key.algorithm.iter().for_each(|algorithm| put("alg", algorithm));
    out
}

/// Why a set of keys is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidJwks {
    /// It is not JSON.
    NotJson,
    /// It has no list `keys`.
    NoKeys,
    /// More than [`Jwks::MAX_BYTES`] or [`Jwks::MAX_KEYS`].
    TooLarge,
    /// It has a key that only its owner may know, or that signs as well as it checks.
    Secret,
    /// A key lacks what its kind has, or is too short.
    BadKey,
}

impl fmt::Display for InvalidJwks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotJson => "is not JSON",
            Self::NoKeys => "has no list \"keys\" (RFC 7517)",
            Self::TooLarge => "is larger than 256 KiB, or has more than 64 keys",
            Self::Secret => "has a secret key: only public keys may be told",
            Self::BadKey => "has a key that is incomplete, not of its kind, or shorter than 2048 bits (RSA)",
        })
    }
}

impl std::error::Error for InvalidJwks {}
