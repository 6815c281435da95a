//! What a token says that was found good.

use std::fmt;

use serde_json::{Map, Value};

use crate::config::{ClaimShape, StringMatch};

/// What a good token says. Found in the extensions of a request, as an `Arc` of it.
#[derive(Clone, PartialEq, Eq)]
pub struct JwtClaims {
    principal: Option<Box<str>>,
    payload: Value,
    encoded: Box<str>,
}

impl JwtClaims {
    /// `encoded`: the payload as it was in the token. `words`: claims that are words with spaces between.
    pub(crate) fn new(mut payload: Map<String, Value>, encoded: &str, words: &[Box<str>]) -> Self {
        let text = |name: &str| payload.get(name).and_then(Value::as_str);
        // Istio's name for whoever it is about; without either of both there is none.
        let principal = text("iss")
            .zip(text("sub"))
            .map(|(iss, sub)| format!("{iss}/{sub}").into());
        for name in words {
            if let Some(claim) = payload.get_mut(&**name)
                && let Some(text) = claim.as_str()
            {
                let all: Vec<Value> = text.split_ascii_whitespace().map(Value::from).collect();
                *claim = Value::Array(all);
            }
        }
        Self {
            principal,
            payload: Value::Object(payload),
            encoded: encoded.into(),
        }
    }

    /// Whom it is about, as Istio says it: `<iss>/<sub>`.
    pub fn principal(&self) -> Option<&str> {
        self.principal.as_deref()
    }

    /// A claim that is a string, within objects by the names on the way.
    pub fn text(&self, path: &[&str]) -> Option<&str> {
        self.at(path.iter().copied()).and_then(Value::as_str)
    }

    /// A claim as a header has it: a string, a number or a boolean; within objects by names with a `.` between.
    pub fn header_value(&self, claim: &str) -> Option<String> {
        match self.at(claim.split('.'))? {
            Value::String(text) => Some(text.clone()),
            Value::Bool(value) => Some(value.to_string()),
            Value::Number(value) => Some(value.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// All of it, as JSON.
    pub fn to_json(&self) -> String {
        self.payload.to_string()
    }

    /// The payload as it was in the token: JSON in base64url.
    pub fn encoded(&self) -> &str {
        &self.encoded
    }

    /// Whether a claim passes a test, in this shape.
    pub(crate) fn holds(&self, path: &[Box<str>], shape: ClaimShape, test: &StringMatch) -> bool {
        let Some(value) = self.at(path.iter().map(|name| &**name)) else {
            return false;
        };
        let one = |value: &Value| value.as_str().is_some_and(|text| test.is_match(text.as_bytes()));
        match value {
            Value::Array(all) => shape != ClaimShape::Text && all.iter().any(one),
            value => shape != ClaimShape::List && one(value),
        }
    }

    fn at<'p>(&self, path: impl Iterator<Item = &'p str>) -> Option<&Value> {
        let mut value = &self.payload;
        for name in path {
            value = value.get(name)?;
        }
        Some(value)
    }
}

/// Claims are about people: they are asked for, and never printed along.
impl fmt::Debug for JwtClaims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtClaims").finish_non_exhaustive()
    }
}
