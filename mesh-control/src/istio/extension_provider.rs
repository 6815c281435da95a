//! `extensionProviders` of the mesh's configuration: authorizers outside of the process, which policies of action CUSTOM name (Istio).
//!
//! Providers of other kinds (metrics, traces, logs) are told to have no effect: what they are for is done in process.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use mesh_core::config::{CheckBody, StringMatch};

use super::fields::Fields;
use super::value::{At, Place, Sink, Value};
use super::values::duration;
use super::yaml::NodeKind;
use crate::diagnostic::{Code, Severity};

/// The highest port.
const MAX_PORT: u32 = 65_535;

/// Somebody outside of the process who is asked whether requests may pass.
#[derive(Clone, Debug)]
pub struct Authorizer {
    /// What policies call it.
    pub name: At<String>,
    /// The service that is called: a host, or `namespace/host`.
    pub service: At<String>,
    /// Its port.
    pub port: u32,
    /// How long it has.
    pub timeout: Option<Duration>,
    /// Requests pass when it fails.
    pub fail_open: bool,
    /// What requests are answered when it fails and they do not.
    pub status_on_error: StatusCode,
    /// How much of their bodies it is shown.
    pub body: Option<CheckBody>,
    /// By HTTP; `None`: by gRPC.
    pub http: Option<AuthorizerHttp>,
}

/// How an authorizer is asked by HTTP.
#[derive(Clone, Debug, Default)]
pub struct AuthorizerHttp {
    /// Stands before the path.
    pub path_prefix: String,
    /// Headers of the request that it is shown.
    pub include: Vec<StringMatch>,
    /// Headers that it is sent besides.
    pub additional: Vec<(HeaderName, HeaderValue)>,
    /// Headers of a yes that the request gets.
    pub upstream: Vec<StringMatch>,
    /// Headers of a no that the caller gets; `None`: all.
    pub downstream_on_deny: Option<Vec<StringMatch>>,
    /// Headers of a yes that the caller gets.
    pub downstream_on_allow: Vec<StringMatch>,
}

/// Reads one; `None`: it is none of ours, or is told to be wrong.
pub(super) fn provider(value: Value, sink: &mut Sink<'_>) -> Option<Authorizer> {
    let mut fields = value.object(sink)?;
    let place = fields.place.clone();
    let name = fields.required_string("name", sink);
    let (http, grpc) = (fields.take("envoyExtAuthzHttp"), fields.take("envoyExtAuthzGrpc"));
    let read = match (http, grpc) {
        (Some(http), None) => http
            .object(sink)
            .and_then(|fields| authorizer(&name?, fields, true, sink)),
        (None, Some(grpc)) => grpc
            .object(sink)
            .and_then(|fields| authorizer(&name?, fields, false, sink)),
        (Some(_), Some(_)) => {
            sink.schema(
                &place,
                "only one of envoyExtAuthzHttp and envoyExtAuthzGrpc can be given",
            );
            None
        }
        (None, None) => {
            let message = "is no authorizer: it has no effect here";
            sink.say(Severity::Info, Code::NotServed, &place, message);
            fields.ignore_rest();
            return None;
        }
    };
    fields.finish(sink);
    read
}

fn authorizer(name: &At<String>, mut fields: Fields, by_http: bool, sink: &mut Sink<'_>) -> Option<Authorizer> {
    let place = fields.place.clone();
    let service = fields.required_string("service", sink);
    let port = port(fields.take("port"), &place, sink);
    let timeout = fields.take("timeout").and_then(|value| duration(value, sink));
    let fail_open = flag(&mut fields, "failOpen", sink);
    // Routes choose nothing at a server.
    drop(fields.take("clearRouteCache"));
    let status = fields.string("statusOnError", sink);
    let body = fields
        .take("includeRequestBodyInCheck")
        .and_then(|value| body(value, sink));
    let http = by_http.then(|| http(&mut fields, sink));
    fields.finish(sink);
    let status_on_error = match status {
        None => StatusCode::FORBIDDEN,
        Some(text) => {
            let status = text.parse().ok().and_then(|code: u16| StatusCode::from_u16(code).ok());
            let status = status.filter(|status| !status.is_informational());
            if status.is_none() {
                sink.schema(&text.place, format!("{:?} is not an HTTP status", text.value));
            }
            status?
        }
    };
    Some(Authorizer {
        name: name.clone(),
        service: service?,
        port: port?,
        timeout: timeout.map(|timeout| timeout.value),
        fail_open,
        status_on_error,
        body,
        http,
    })
}

/// A number, also where it is quoted, as samples have it.
fn port(value: Option<Value>, place: &Place, sink: &mut Sink<'_>) -> Option<u32> {
    let Some(value) = value else {
        sink.schema(place, "port is required");
        return None;
    };
    let place = value.place.clone();
    let number = match value.kind {
        NodeKind::Text(text) => text.parse().ok(),
        NodeKind::Integer(number) => u32::try_from(number).ok(),
        _ => None,
    };
    let number = number.filter(|number| (1..=MAX_PORT).contains(number));
    if number.is_none() {
        sink.schema(&place, "is not a port between 1 and 65535");
    }
    number
}

fn flag(fields: &mut Fields, name: &str, sink: &mut Sink<'_>) -> bool {
    let value = fields.take(name).and_then(|value| value.boolean(sink));
    value.is_some_and(|flag| flag.value)
}

fn body(value: Value, sink: &mut Sink<'_>) -> Option<CheckBody> {
    let mut fields = value.object(sink)?;
    let place = fields.place.clone();
    let max = fields
        .take("maxRequestBytes")
        .and_then(|value| value.number(u32::MAX, sink));
    let body = CheckBody {
        max_bytes: max.map_or(0, |max| max.value),
        allow_partial: flag(&mut fields, "allowPartialMessage", sink),
        as_bytes: flag(&mut fields, "packAsBytes", sink),
    };
    fields.finish(sink);
    if body.max_bytes == 0 {
        sink.schema(&place, "maxRequestBytes must be more than 0");
        return None;
    }
    Some(body)
}

fn http(fields: &mut Fields, sink: &mut Sink<'_>) -> AuthorizerHttp {
    let prefix = fields.string("pathPrefix", sink);
    if let Some(prefix) = prefix.as_ref().filter(|prefix| !prefix.starts_with('/')) {
        sink.schema(&prefix.place, "must begin with a slash");
    }
    let mut include = names(fields, "includeRequestHeadersInCheck", sink);
    // The old name counts where the new one is not there (Istio).
    let old = names(fields, "includeHeadersInCheck", sink);
    if include.is_empty() {
        include = old;
    }
    let additional = fields.take("includeAdditionalHeadersInCheck");
    let additional = additional
        .and_then(|value| value.map(sink, Value::string))
        .unwrap_or_default();
    let on_deny = names(fields, "headersToDownstreamOnDeny", sink);
    AuthorizerHttp {
        path_prefix: prefix.map(|prefix| prefix.value).unwrap_or_default(),
        include,
        additional: additional_headers(additional, sink),
        upstream: names(fields, "headersToUpstreamOnAllow", sink),
        downstream_on_deny: (!on_deny.is_empty()).then_some(on_deny),
        downstream_on_allow: names(fields, "headersToDownstreamOnAllow", sink),
    }
}

fn additional_headers(all: BTreeMap<String, At<String>>, sink: &mut Sink<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let one = |(name, value): (String, At<String>)| {
        let both = name.parse().ok().zip(HeaderValue::from_str(&value).ok());
        // Envoy makes something of `%`, which is not done here.
        let both = both.filter(|_| !value.contains('%'));
        if both.is_none() {
            sink.schema(&value.place, format!("{name:?} with this value is not a header"));
        }
        both
    };
    all.into_iter().filter_map(one).collect()
}

/// Names of headers: exact, `prefix*`, `*suffix`.
fn names(fields: &mut Fields, name: &str, sink: &mut Sink<'_>) -> Vec<StringMatch> {
    fields.list(name, sink, |value, sink| {
        let text = value.string(sink)?;
        let lower = text.to_ascii_lowercase();
        let test = match (lower.strip_prefix('*'), lower.strip_suffix('*')) {
            (Some(suffix), _) if !suffix.is_empty() => StringMatch::Suffix(suffix.into()),
            (None, Some(prefix)) if !prefix.is_empty() => StringMatch::Prefix(prefix.into()),
            (None, None) if !lower.is_empty() => StringMatch::Exact(lower.into()),
            _ => {
                sink.schema(
                    &text.place,
                    "a * alone is not supported (Istio), and neither is nothing",
                );
                return None;
            }
        };
        Some(test)
    })
}
