//! The value of a header that is put in, made of what is known of the call.

use http::{HeaderMap, HeaderValue, StatusCode};

use super::RequestHead;
use super::head::joined;
use crate::config::{HeaderFormat, Operator, Piece, Subject};

/// What a value may be made of.
pub(super) struct Known<'a> {
    pub(super) request: Option<RequestHead<'a>>,
    pub(super) response: Option<(StatusCode, &'a HeaderMap)>,
    pub(super) route: &'a str,
    pub(super) cluster: &'a str,
}

/// A value, made. `None` for one that came out as what no header can hold.
pub(super) fn format(format: &HeaderFormat, known: &Known<'_>) -> Option<HeaderValue> {
    if let Some(literal) = format.literal() {
        return Some(literal.clone());
    }
    let mut value = Vec::new();
    for piece in format.pieces() {
        let (operator, max) = match piece {
            Piece::Text(text) => {
                value.extend_from_slice(text.as_bytes());
                continue;
            }
            Piece::Operator { operator, max } => (operator, max.unwrap_or(usize::MAX)),
        };
        let begin = value.len();
        operate(operator, known, &mut value);
        value.truncate(begin.saturating_add(max).min(value.len()));
    }
    HeaderValue::from_bytes(&value).ok()
}

fn operate(operator: &Operator, known: &Known<'_>, value: &mut Vec<u8>) {
    match operator {
        Operator::Request(first, second) => {
            let of = |subject| known.request.and_then(|head| head.value(subject));
            if let Some(found) = of(first).or_else(|| of(second.as_ref()?)) {
                value.extend_from_slice(&found);
            }
        }
        Operator::Response(first, second) => {
            let of = |subject: &Subject| match (subject, known.response) {
                (Subject::Header(name), Some((_, headers))) => joined(headers, name),
                _ => None,
            };
            if let Some(found) = of(first).or_else(|| of(second.as_ref()?)) {
                value.extend_from_slice(&found);
            }
        }
        Operator::Status => {
            if let Some((status, _)) = known.response {
                value.extend_from_slice(status.as_str().as_bytes());
            }
        }
        Operator::RouteName => value.extend_from_slice(known.route.as_bytes()),
        Operator::Cluster => value.extend_from_slice(known.cluster.as_bytes()),
        Operator::Protocol => value.extend_from_slice(b"HTTP/2"),
        Operator::Nothing => {}
    }
}
