//! What a rule does to a request beside sending it somewhere: `headers`, `rewrite`, `redirect`, `directResponse`, `fault`, `mirror`
//! (Istio `networking.istio.io`, of `HTTPRoute`).

use std::collections::BTreeMap;
use std::time::Duration;

use super::fields::Fields;
use super::value::{At, Place, Sink, Value};
use super::values;
use super::virtual_service::{Destination, MAX_PORT};

/// Edits of headers, on the way there and back.
#[derive(Clone, Debug, Default)]
pub struct HeaderOps {
    /// Of the request.
    pub request: HeaderOp,
    /// Of the answer.
    pub response: HeaderOp,
}

/// Edits of one head.
#[derive(Clone, Debug, Default)]
pub struct HeaderOp {
    /// Each takes the place of what is there.
    pub set: BTreeMap<String, At<String>>,
    /// Each comes beside what is there.
    pub add: BTreeMap<String, At<String>>,
    /// These are taken out.
    pub remove: Vec<At<String>>,
}

/// Another authority or path on the way out.
#[derive(Clone, Debug)]
pub struct HttpRewrite {
    /// In place of the prefix that was matched, or of the whole path.
    pub uri: Option<At<String>>,
    /// The authority.
    pub authority: Option<At<String>>,
    /// A pattern, and what its matches become.
    pub regex: Option<(At<String>, At<String>)>,
    /// Where it stands.
    pub place: Place,
}

/// An answer that sends the caller elsewhere.
#[derive(Clone, Debug)]
pub struct HttpRedirect {
    /// The whole path; behind `%PREFIX()%`, what takes the place of the matched prefix.
    pub uri: Option<At<String>>,
    /// The authority.
    pub authority: Option<At<String>>,
    /// The scheme.
    pub scheme: Option<At<String>>,
    /// The port.
    pub port: Option<At<u32>>,
    /// Whether the port is the one that was addressed (`derivePort: FROM_REQUEST_PORT`).
    pub request_port: bool,
    /// The status; 301 where nothing is written.
    pub status: Option<At<u32>>,
    /// Where it stands.
    pub place: Place,
}

/// An answer that no server gave.
#[derive(Clone, Debug)]
pub struct HttpDirectResponse {
    /// The status.
    pub status: At<u32>,
    /// The body.
    pub body: String,
}

/// A fault that is put in on purpose.
#[derive(Clone, Debug)]
pub struct HttpFault {
    /// Holds calls up.
    pub delay: Option<HttpDelay>,
    /// Ends calls.
    pub abort: Option<HttpAbort>,
}

/// A delay and its chance.
#[derive(Clone, Debug)]
pub struct HttpDelay {
    /// How long.
    pub fixed: At<Duration>,
    /// Of how many calls, in thousandths of a percent.
    pub share: u32,
}

/// An end and its chance.
#[derive(Clone, Debug)]
pub struct HttpAbort {
    /// With which status.
    pub status: AbortStatus,
    /// Of how many calls, in thousandths of a percent.
    pub share: u32,
}

/// The status of an [`HttpAbort`].
#[derive(Clone, Debug)]
pub enum AbortStatus {
    /// HTTP's.
    Http(At<u32>),
    /// gRPC's.
    Grpc(u8),
}

/// Where copies of the calls go.
#[derive(Clone, Debug)]
pub struct HttpMirror {
    /// The destination; it has no weight.
    pub destination: Destination,
    /// Of how many calls, in thousandths of a percent.
    pub share: u32,
}

/// All calls, in thousandths of a percent.
pub(super) const ALL: u32 = 100_000;

/// gRPC's statuses by name, in the order of their numbers.
const GRPC_STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl HeaderOps {
    pub(super) fn read(value: Value, sink: &mut Sink<'_>) -> Option<Self> {
        let mut fields = value.object(sink)?;
        let ops = Self {
            request: HeaderOp::read(&mut fields, "request", sink),
            response: HeaderOp::read(&mut fields, "response", sink),
        };
        fields.finish(sink);
        Some(ops)
    }
}

impl HeaderOp {
    fn read(fields: &mut Fields, name: &str, sink: &mut Sink<'_>) -> Self {
        let Some(mut inner) = fields.take(name).and_then(|value| value.object(sink)) else {
            return Self::default();
        };
        let mut texts = |name: &str, sink: &mut Sink<'_>| {
            let value = inner.take(name);
            value
                .and_then(|value| value.map(sink, Value::string))
                .unwrap_or_default()
        };
        let (set, add) = (texts("set", sink), texts("add", sink));
        let remove = inner.strings("remove", sink);
        inner.finish(sink);
        Self { set, add, remove }
    }
}

impl HttpRewrite {
    pub(super) fn read(value: Value, sink: &mut Sink<'_>) -> Option<Self> {
        let mut fields = value.object(sink)?;
        let regex = fields.take("uriRegexRewrite").and_then(|value| {
            let mut inner = value.object(sink)?;
            let pattern = inner.required_string("match", sink);
            let rewrite = inner.string("rewrite", sink);
            let place = inner.place.clone();
            inner.finish(sink);
            let nothing = At {
                value: String::new(),
                place,
            };
            Some((pattern?, rewrite.unwrap_or(nothing)))
        });
        let rewrite = Self {
            uri: fields.string("uri", sink),
            authority: fields.string("authority", sink),
            regex,
            place: fields.place.clone(),
        };
        fields.finish(sink);
        if rewrite.uri.is_some() && rewrite.regex.is_some() {
            sink.schema(&rewrite.place, "only one of uri and uriRegexRewrite can be given");
        }
        if rewrite.uri.is_none() && rewrite.regex.is_none() && rewrite.authority.is_none() {
            sink.schema(&rewrite.place, "rewrite needs uri, uriRegexRewrite or authority");
        }
        Some(rewrite)
    }
}

impl HttpRedirect {
    pub(super) fn read(value: Value, sink: &mut Sink<'_>) -> Option<Self> {
        let mut fields = value.object(sink)?;
        let derived = fields.string("derivePort", sink);
        let request_port = match derived.as_ref().map(|word| word.as_str()) {
            None | Some("FROM_PROTOCOL_DEFAULT") => false,
            Some("FROM_REQUEST_PORT") => true,
            Some(other) => {
                let message = format!("{other:?} is not one of FROM_PROTOCOL_DEFAULT, FROM_REQUEST_PORT");
                sink.schema(derived.as_ref().map_or(&fields.place, |word| &word.place), message);
                false
            }
        };
        let redirect = Self {
            uri: fields.string("uri", sink),
            authority: fields.string("authority", sink),
            scheme: fields.string("scheme", sink),
            port: fields.take("port").and_then(|value| value.number(MAX_PORT, sink)),
            request_port,
            status: fields.take("redirectCode").and_then(|value| value.number(599, sink)),
            place: fields.place.clone(),
        };
        fields.finish(sink);
        if redirect.port.is_some() && derived.is_some() {
            sink.schema(&redirect.place, "only one of port and derivePort can be given");
        }
        Some(redirect)
    }
}

impl HttpDirectResponse {
    pub(super) fn read(value: Value, sink: &mut Sink<'_>) -> Option<Self> {
        let mut fields = value.object(sink)?;
        let status = fields.take("status").and_then(|value| value.number(599, sink));
        if status.is_none() {
            sink.schema(&fields.place, "status is required");
        }
        let body = fields.take("body").and_then(|value| {
            let mut inner = value.object(sink)?;
            let text = inner.string("string", sink);
            inner.refused(&["bytes"], "callers would get another body: write string", sink);
            inner.finish(sink);
            text
        });
        fields.finish(sink);
        Some(Self {
            status: status?,
            body: body.map_or_else(String::new, |text| text.value),
        })
    }
}

impl HttpFault {
    pub(super) fn read(value: Value, sink: &mut Sink<'_>) -> Option<Self> {
        let mut fields = value.object(sink)?;
        let place = fields.place.clone();
        let delay = fields.take("delay").and_then(|value| HttpDelay::read(value, sink));
        let abort = fields.take("abort").and_then(|value| HttpAbort::read(value, sink));
        fields.finish(sink);
        if delay.is_none() && abort.is_none() {
            sink.schema(&place, "fault needs delay or abort");
        }
        Some(Self { delay, abort })
    }
}

impl HttpDelay {
    fn read(value: Value, sink: &mut Sink<'_>) -> Option<Self> {
        let mut fields = value.object(sink)?;
        let fixed = fields
            .take("fixedDelay")
            .and_then(|value| values::duration(value, sink));
        let share = share(&mut fields, "percentage", "percent", sink);
        // Istio's own proxies do not have it either.
        fields.unserved(&["exponentialDelay"], sink);
        let place = fields.place.clone();
        fields.finish(sink);
        if fixed.is_none() {
            sink.schema(&place, "fixedDelay is required");
        }
        tell_nobody(share, &place, sink);
        Some(Self {
            fixed: fixed?,
            share: share.unwrap_or(0),
        })
    }
}

impl HttpAbort {
    fn read(value: Value, sink: &mut Sink<'_>) -> Option<Self> {
        let mut fields = value.object(sink)?;
        let http = fields.take("httpStatus").and_then(|value| value.number(599, sink));
        let grpc = fields.string("grpcStatus", sink);
        let share = share(&mut fields, "percentage", "percent", sink);
        let place = fields.place.clone();
        fields.unserved(&["http2Error"], sink);
        fields.finish(sink);
        tell_nobody(share, &place, sink);
        let status = match (http, grpc) {
            (Some(status), None) => AbortStatus::Http(status),
            (None, Some(name)) => {
                let Some(code) = GRPC_STATUSES.iter().position(|known| *known == *name) else {
                    sink.schema(&name.place, format!("{:?} is not the name of a gRPC status", *name));
                    return None;
                };
                AbortStatus::Grpc(u8::try_from(code).expect("there are seventeen"))
            }
            _ => {
                sink.schema(&place, "abort needs one of httpStatus and grpcStatus");
                return None;
            }
        };
        Some(Self {
            status,
            share: share.unwrap_or(0),
        })
    }
}

impl HttpMirror {
    /// `mirrors[]`
    pub(super) fn read(value: Value, sink: &mut Sink<'_>) -> Option<Self> {
        let mut fields = value.object(sink)?;
        let place = fields.place.clone();
        let destination = fields.take("destination");
        let share = share(&mut fields, "percentage", "percent", sink);
        fields.finish(sink);
        let Some(destination) = destination else {
            sink.schema(&place, "destination is required");
            return None;
        };
        Some(Self {
            destination: Destination::of(destination, sink)?,
            share: share.unwrap_or(ALL),
        })
    }

    /// All of a rule: `mirrors`, or `mirror` with `mirrorPercentage`.
    pub(super) fn read_all(fields: &mut Fields, sink: &mut Sink<'_>) -> Vec<Self> {
        let mut all = fields.list("mirrors", sink, Self::read);
        let share = share(fields, "mirrorPercentage", "mirrorPercent", sink);
        let Some(one) = fields.take("mirror") else {
            return all;
        };
        if !all.is_empty() {
            sink.schema(&one.place, "only one of mirror and mirrors can be given");
        }
        let destination = Destination::of(one, sink);
        all.extend(destination.map(|destination| Self {
            destination,
            share: share.unwrap_or(ALL),
        }));
        all
    }
}

/// `percentage: { value: 12.5 }`, or what it was called before: whole percents. In thousandths of a percent.
fn share(fields: &mut Fields, name: &str, old: &str, sink: &mut Sink<'_>) -> Option<u32> {
    let whole = fields.take(old).and_then(|value| value.number(100, sink));
    let fine = fields.take(name).and_then(|value| {
        let mut inner = value.object(sink)?;
        // Protobuf's word for nothing written is 0.
        let value = inner.take("value").map_or(Some(0), |value| {
            value.thousandths(100, sink).map(|thousandths| thousandths.value)
        });
        inner.finish(sink);
        value
    });
    fine.or_else(|| whole.map(|whole| whole.value * 1_000))
}

/// A fault of which nobody said how often strikes nobody (Istio).
fn tell_nobody(share: Option<u32>, place: &Place, sink: &mut Sink<'_>) {
    if share.is_none() {
        let message = "without percentage it concerns no call";
        sink.say(
            crate::diagnostic::Severity::Warning,
            crate::diagnostic::Code::NoEffect,
            place,
            message,
        );
    }
}
