//! Somebody who signs tokens.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Signs tokens with a key of its own (ES256).
#[derive(Debug)]
pub struct TestIssuer {
    id: String,
    pair: EcdsaKeyPair,
}

impl TestIssuer {
    /// A new one, whose key goes by `id`.
    ///
    /// # Panics
    ///
    /// When there is no randomness.
    pub fn new(id: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        Self {
            id: id.into(),
            pair: pair.expect("a key of a test"),
        }
    }

    /// Its public key, as a set.
    pub fn jwks(&self) -> String {
        let point = self.pair.public_key().as_ref();
        // The first byte says that both coordinates follow.
        let (x, y) = point[1..].split_at(32);
        let [x, y] = [x, y].map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
        let id = &self.id;
        format!(
            r#"{{"keys":[{{"kty":"EC","crv":"P-256","use":"sig","alg":"ES256","kid":"{id}","x":"{x}","y":"{y}"}}]}}"#
        )
    }

    /// A token that says `claims`, a JSON object.
    ///
    /// # Panics
    ///
    /// When there is no randomness.
    pub fn token(&self, claims: &str) -> String {
        let header = format!(r#"{{"alg":"ES256","typ":"JWT","kid":"{}"}}"#, self.id);
        let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.pair.sign(&SystemRandom::new(), text.as_bytes());
        let signature = signature.expect("a signature of a test");
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}
