//! `RequestAuthentication`: whose tokens a workload believes (Istio `security.istio.io`).

use std::time::Duration;

use http::HeaderName;
use mesh_core::config::{ClaimHeader, Jwks, JwtPlaces, JwtProvider};

use super::fields::Fields;
use super::value::{At, Sink, Value};
use super::values::{Selector, duration};
use crate::jwks::{DEFAULT_TIMEOUT, JwksSource, MAX_TIMEOUT};

/// Whose tokens workloads believe.
#[derive(Clone, Debug)]
pub struct RequestAuthentication {
    /// The workloads it means; `None`: its whole namespace, or the mesh when that is the root namespace.
    pub selector: Option<Selector>,
    /// Who signs.
    pub rules: Vec<TokenRule>,
}

/// Somebody who signs.
#[derive(Clone, Debug)]
pub struct TokenRule {
    /// Who, as it is written: without a name, and without the claims that are lists whoever signs. Keys that are fetched are put here by
    /// whoever fetches them; before, there are none, and no token is good.
    pub provider: JwtProvider,
    /// Where the keys are that do not stand in the document.
    pub fetched: Option<FetchedKeys>,
}

/// Keys that are fetched.
#[derive(Clone, Debug)]
pub struct FetchedKeys {
    /// Where they are.
    pub source: At<JwksSource>,
    /// How long it may take to get them.
    pub timeout: Duration,
}

impl RequestAuthentication {
    pub(super) fn read(mut spec: Fields, sink: &mut Sink<'_>) -> Option<Self> {
        spec.no_nulls(sink);
        let selector = Selector::read(&mut spec, "selector", "matchLabels", sink);
        spec.refused(
            &["targetRef", "targetRefs"],
            "it would hold for workloads it does not mean",
            sink,
        );
        let rules = spec.list("jwtRules", sink, rule);
        spec.finish(sink);
        Some(Self { selector, rules })
    }
}

fn rule(value: Value, sink: &mut Sink<'_>) -> Option<TokenRule> {
    let mut fields = value.object(sink)?;
    let issuer = fields.required_string("issuer", sink);
    let audiences = texts(&mut fields, "audiences", sink);
    let keys = keys(&mut fields, issuer.as_ref(), sink);
    let headers = fields.list("fromHeaders", sink, |value, sink| {
        let mut fields = value.object(sink)?;
        let name = fields.required_string("name", sink);
        let prefix = fields.string("prefix", sink);
        fields.finish(sink);
        let prefix = prefix.map_or_else(|| "".into(), |prefix| prefix.value.into());
        Some((header(&name?, sink)?, prefix))
    });
    let places = JwtPlaces {
        headers,
        params: texts(&mut fields, "fromParams", sink),
        cookies: texts(&mut fields, "fromCookies", sink),
    };
    let payload_header = fields.string("outputPayloadToHeader", sink);
    let claim_headers = fields.list("outputClaimToHeaders", sink, |value, sink| {
        let mut fields = value.object(sink)?;
        let name = fields.required_string("header", sink);
        let claim = fields.required_string("claim", sink);
        fields.finish(sink);
        Some(ClaimHeader {
            header: header(&name?, sink)?,
            claim: claim?.value.into(),
        })
    });
    let forward = fields
        .take("forwardOriginalToken")
        .and_then(|value| value.boolean(sink))
        .map(|forward| forward.value);
    let space_delimited = texts(&mut fields, "spaceDelimitedClaims", sink);
    fields.finish(sink);
    let payload_header = match payload_header {
        Some(name) => Some(header(&name, sink)?),
        None => None,
    };
    let (keys, fetched) = keys?;
    let provider = JwtProvider {
        name: "".into(),
        issuer: issuer?.value.into(),
        audiences,
        keys,
        places,
        forward: forward.unwrap_or_default(),
        payload_header,
        claim_headers,
        space_delimited,
    };
    Some(TokenRule { provider, fetched })
}

/// Keys stand in the document, or it says where they are, or their issuer does.
fn keys(fields: &mut Fields, issuer: Option<&At<String>>, sink: &mut Sink<'_>) -> Option<(Jwks, Option<FetchedKeys>)> {
    let (text, uri) = (fields.string("jwks", sink), fields.string("jwksUri", sink));
    let timeout = fields.take("timeout").and_then(|value| duration(value, sink));
    let timeout = match timeout {
        None => DEFAULT_TIMEOUT,
        Some(timeout) if timeout.is_zero() || *timeout > MAX_TIMEOUT => {
            sink.schema(
                &timeout.place,
                format!("is not between 0 and {} s", MAX_TIMEOUT.as_secs()),
            );
            return None;
        }
        Some(timeout) => timeout.value,
    };
    let (source, at) = match (text, uri) {
        (Some(text), None) => {
            return match Jwks::parse(&text) {
                Ok(keys) => Some((keys, None)),
                Err(error) => {
                    sink.schema(&text.place, error.to_string());
                    None
                }
            };
        }
        (Some(_), Some(uri)) => {
            sink.schema(&uri.place, "jwks and jwksUri exclude each other");
            return None;
        }
        (None, Some(uri)) => (JwksSource::at(&uri), uri.place),
        // Istio asks the issuer then.
        (None, None) => {
            let issuer = issuer?;
            let source = JwksSource::of_issuer(issuer);
            if let Err(why) = source {
                let message =
                    format!("has no keys: write jwks or jwksUri. It cannot be asked for them, since it {why}");
                sink.schema(&issuer.place, message);
                return None;
            }
            (source, issuer.place.clone())
        }
    };
    match source {
        Ok(value) => {
            let source = At { value, place: at };
            Some((Jwks::default(), Some(FetchedKeys { source, timeout })))
        }
        Err(why) => {
            sink.schema(&at, why);
            None
        }
    }
}

fn header(name: &At<String>, sink: &mut Sink<'_>) -> Option<HeaderName> {
    match name.parse() {
        Ok(name) => Some(name),
        Err(_) => {
            sink.schema(&name.place, format!("{:?} is not a header", name.value));
            None
        }
    }
}

fn texts(fields: &mut Fields, name: &str, sink: &mut Sink<'_>) -> Vec<Box<str>> {
    fields.list(name, sink, |value, sink| {
        let text = value.string(sink)?;
        if text.is_empty() {
            sink.schema(&text.place, "must not be empty");
            return None;
        }
        Some(text.value.into())
    })
}
