//! `RequestAuthentication`: whose tokens a workload believes (Istio `security.istio.io`).

use http::HeaderName;
use mesh_core::config::{ClaimHeader, Jwks, JwtPlaces, JwtProvider};

use super::fields::Fields;
use super::value::{At, Sink, Value};
use super::values::Selector;
use crate::diagnostic::{Code, Severity};

/// Whose tokens workloads believe.
#[derive(Clone, Debug)]
pub struct RequestAuthentication {
    /// The workloads it means; `None`: its whole namespace, or the mesh when that is the root namespace.
    pub selector: Option<Selector>,
    /// Who signs, as it is written: without a name, and without the claims that are lists whoever signs.
    pub rules: Vec<JwtProvider>,
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

fn rule(value: Value, sink: &mut Sink<'_>) -> Option<JwtProvider> {
    let mut fields = value.object(sink)?;
    let place = fields.place.clone();
    let issuer = fields.required_string("issuer", sink);
    let audiences = texts(&mut fields, "audiences", sink);
    let keys = keys(&mut fields, sink);
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
    // Of fetching, which is not done.
    drop(fields.take("timeout"));
    fields.finish(sink);
    let payload_header = match payload_header {
        Some(name) => Some(header(&name, sink)?),
        None => None,
    };
    let Some(keys) = keys else {
        sink.say(Severity::Note, Code::Skipped, &place, "the rule has no keys");
        return None;
    };
    Some(JwtProvider {
        name: "".into(),
        issuer: issuer?.value.into(),
        audiences,
        keys,
        places,
        forward: forward.unwrap_or_default(),
        payload_header,
        claim_headers,
        space_delimited,
    })
}

/// Keys stand in the document. Nothing is fetched for a document's author: whoever may write one could have the control plane call what
/// only it can reach, and a key that could not be had would be a token that nobody can check.
fn keys(fields: &mut Fields, sink: &mut Sink<'_>) -> Option<Jwks> {
    let (text, uri) = (fields.string("jwks", sink), fields.take("jwksUri"));
    let Some(text) = text else {
        let message = "keys are not fetched by this version: write them in jwks";
        let place = uri.map_or_else(|| fields.place.clone(), |uri| uri.place);
        sink.say(Severity::Error, Code::Refused, &place, message);
        return None;
    };
    if let Some(uri) = uri {
        sink.schema(&uri.place, "jwks and jwksUri exclude each other");
    }
    match Jwks::parse(&text) {
        Ok(keys) => Some(keys),
        Err(error) => {
            sink.schema(&text.place, error.to_string());
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
