//! `envoy.service.auth.v3`, as far as it is spoken here.
//!
//! A few messages by hand rather than all of Envoy's: a server that asks nobody should not carry a control plane's vocabulary. What is a
//! map on the wire is a list here, in the order in which it is written; what is one of several is several, of which one may be there.

use bytes::Bytes;
use http::Version;
use mesh_core::config::{AppendAction, CheckBody};
use mesh_core::ext_authz::{CheckAnswer, ReadBody, Said};
use mesh_core::route::RequestHead;
use prost::Message;

use super::Asked;

/// The method's path.
pub(super) const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// Under whose name what a token says is sent, and under which key (Istio).
const JWT_METADATA: (&str, &str) = ("envoy.filters.http.jwt_authn", "payload");

/// How deep the claims of a token are told: as deep as JSON is read.
const MAX_CLAIM_DEPTH: usize = 128;

/// What is told of a request.
pub(super) struct Subject<'a> {
    pub(super) asked: &'a Asked,
    pub(super) head: &'a RequestHead<'a>,
    pub(super) version: Version,
    pub(super) size: Option<i64>,
    pub(super) body: Option<(&'a ReadBody, CheckBody)>,
    pub(super) context: &'a [(Box<str>, Box<str>)],
}

/// The question, encoded.
pub(super) fn request(subject: &Subject<'_>) -> Vec<u8> {
    let (asked, head) = (subject.asked, subject.head);
    let (check, info) = (asked.check(), &asked.info);
    let read = subject.body.map(|(read, _)| read);
    let (headers, header_map) = match check.headers.raw {
        false => (pairs(check.grpc_headers(head, read)), None),
        true => {
            let raw = check.raw_grpc_headers(head, read).into_iter();
            let headers = raw.map(|(key, raw_value)| HeaderValue {
                key,
                value: String::new(),
                raw_value,
            });
            let headers = headers.collect();
            (Vec::new(), Some(HeaderMap { headers }))
        }
    };
    let (body, raw_body) = match subject.body {
        None => (String::new(), Bytes::new()),
        Some((read, wanted)) if wanted.as_bytes => (String::new(), read.bytes.clone()),
        Some((read, _)) => (String::from_utf8_lossy(&read.bytes).into_owned(), Bytes::new()),
    };
    let http = HttpRequest {
        method: head.method.as_str().to_owned(),
        headers,
        header_map,
        path: head.path_and_query().to_owned(),
        host: head.authority().to_owned(),
        scheme: head.scheme().to_owned(),
        size: subject.size.unwrap_or(-1),
        protocol: protocol(subject.version).to_owned(),
        body,
        raw_body,
    };
    let claims = asked.claims.as_ref().filter(|_| check.claims);
    let name = info.server_name().filter(|_| check.server_name);
    let message = CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(Peer {
                address: Some(address(info.source())),
                principal: info.peer_id().map_or_else(String::new, |peer| peer.as_str().to_owned()),
            }),
            destination: Some(Peer {
                address: Some(address(info.destination())),
                principal: asked.own.as_deref().unwrap_or_default().to_owned(),
            }),
            request: Some(RequestContext {
                time: asked
                    .now
                    .and_then(|now| i64::try_from(now).ok())
                    .map(|seconds| Timestamp { seconds }),
                http: Some(http),
            }),
            context_extensions: pairs(
                subject
                    .context
                    .iter()
                    .map(|(key, value)| (String::from(&**key), String::from(&**value))),
            ),
            metadata_context: claims.and_then(|claims| metadata(&claims.to_json())),
            tls_session: name.map(|sni| TlsSession { sni: sni.to_owned() }),
        }),
    };
    message.encode_to_vec()
}

/// An answer; `None`: it is none.
pub(super) fn answer(bytes: &[u8]) -> Option<CheckAnswer> {
    let response = CheckResponse::decode(bytes).ok()?;
    // Nothing at all would be a yes by the letter: code 0. Nobody has said that.
    if response == CheckResponse::default() {
        return None;
    }
    let said = match (response.ok_response, response.denied_response, response.error_response) {
        (None, None, None) => Said::Nothing,
        (Some(ok), None, None) => Said::Ok {
            headers: edits(ok.headers, AppendAction::OverwriteIfExistsOrAdd)?,
            remove: ok.headers_to_remove,
            response: edits(ok.response_headers_to_add, AppendAction::AppendIfExistsOrAdd)?,
            query_remove: ok.query_parameters_to_remove,
            query_set: ok
                .query_parameters_to_set
                .into_iter()
                .map(|one| (one.key, one.value))
                .collect(),
        },
        (None, Some(denied), None) => Said::Denied {
            status: denied.status.map_or(0, |status| status.code),
            headers: edits(denied.headers, AppendAction::OverwriteIfExistsOrAdd)?,
            body: denied.body,
        },
        (None, None, Some(_)) => Said::Error,
        _ => return None,
    };
    Some(CheckAnswer {
        code: response.status.map_or(0, |status| status.code),
        said,
    })
}

/// `default`: what is done where nothing else is said.
fn edits(options: Vec<HeaderValueOption>, default: AppendAction) -> Option<Vec<(String, Vec<u8>, AppendAction)>> {
    let one = |option: HeaderValueOption| {
        let header = option.header?;
        let value = if header.raw_value.is_empty() {
            header.value.into_bytes()
        } else {
            header.raw_value
        };
        let action = match (option.append, option.append_action) {
            (Some(BoolValue { value: true }), _) => AppendAction::AppendIfExistsOrAdd,
            (Some(BoolValue { value: false }), _) => AppendAction::OverwriteIfExistsOrAdd,
            (None, 0) => default,
            (None, 1) => AppendAction::AddIfAbsent,
            (None, 2) => AppendAction::OverwriteIfExistsOrAdd,
            (None, 3) => AppendAction::OverwriteIfExists,
            _ => return None,
        };
        Some((header.key, value, action))
    };
    options.into_iter().map(one).collect()
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/2",
    }
}

fn address(address: std::net::SocketAddr) -> Address {
    Address {
        socket_address: Some(SocketAddress {
            address: address.ip().to_string(),
            port_value: address.port().into(),
        }),
    }
}

fn pairs(all: impl IntoIterator<Item = (String, String)>) -> Vec<Pair> {
    all.into_iter().map(|(key, value)| Pair { key, value }).collect()
}

fn metadata(claims: &str) -> Option<Metadata> {
    let claims: serde_json::Value = serde_json::from_str(claims).ok()?;
    let fields = vec![Field {
        key: JWT_METADATA.1.to_owned(),
        value: Some(value(&claims, MAX_CLAIM_DEPTH)),
    }];
    Some(Metadata {
        filter_metadata: vec![Namespace {
            key: JWT_METADATA.0.to_owned(),
            value: Some(Struct { fields }),
        }],
    })
}

fn value(json: &serde_json::Value, depth: usize) -> Value {
    use serde_json::Value as Json;
    let kind = match json {
        _ if depth == 0 => value::Kind::Null(0),
        Json::Null => value::Kind::Null(0),
        Json::Bool(flag) => value::Kind::Flag(*flag),
        Json::Number(number) => value::Kind::Number(number.as_f64().unwrap_or_default()),
        Json::String(text) => value::Kind::Text(text.clone()),
        Json::Array(all) => value::Kind::List(ListValue {
            values: all.iter().map(|one| value(one, depth - 1)).collect(),
        }),
        Json::Object(all) => value::Kind::Object(Struct {
            fields: all
                .iter()
                .map(|(key, one)| Field {
                    key: key.clone(),
                    value: Some(value(one, depth - 1)),
                })
                .collect(),
        }),
    };
    Value { kind: Some(kind) }
}

#[derive(Clone, PartialEq, Message)]
struct CheckRequest {
    #[prost(message, optional, tag = "1")]
    attributes: Option<AttributeContext>,
}

#[derive(Clone, PartialEq, Message)]
struct AttributeContext {
    #[prost(message, optional, tag = "1")]
    source: Option<Peer>,
    #[prost(message, optional, tag = "2")]
    destination: Option<Peer>,
    #[prost(message, optional, tag = "4")]
    request: Option<RequestContext>,
    #[prost(message, repeated, tag = "10")]
    context_extensions: Vec<Pair>,
    #[prost(message, optional, tag = "11")]
    metadata_context: Option<Metadata>,
    #[prost(message, optional, tag = "12")]
    tls_session: Option<TlsSession>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Peer {
    #[prost(message, optional, tag = "1")]
    address: Option<Address>,
    #[prost(string, tag = "4")]
    principal: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Address {
    #[prost(message, optional, tag = "1")]
    socket_address: Option<SocketAddress>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct SocketAddress {
    #[prost(string, tag = "2")]
    address: String,
    #[prost(uint32, tag = "3")]
    port_value: u32,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct RequestContext {
    #[prost(message, optional, tag = "1")]
    time: Option<Timestamp>,
    #[prost(message, optional, tag = "2")]
    http: Option<HttpRequest>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct HttpRequest {
    #[prost(string, tag = "2")]
    method: String,
    #[prost(message, repeated, tag = "3")]
    headers: Vec<Pair>,
    #[prost(string, tag = "4")]
    path: String,
    #[prost(string, tag = "5")]
    host: String,
    #[prost(string, tag = "6")]
    scheme: String,
    #[prost(int64, tag = "9")]
    size: i64,
    #[prost(string, tag = "10")]
    protocol: String,
    #[prost(string, tag = "11")]
    body: String,
    #[prost(bytes = "bytes", tag = "12")]
    raw_body: Bytes,
    #[prost(message, optional, tag = "13")]
    header_map: Option<HeaderMap>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct HeaderMap {
    #[prost(message, repeated, tag = "1")]
    headers: Vec<HeaderValue>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct HeaderValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
    #[prost(bytes = "vec", tag = "3")]
    raw_value: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Pair {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct TlsSession {
    #[prost(string, tag = "1")]
    sni: String,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(message, repeated, tag = "1")]
    filter_metadata: Vec<Namespace>,
}

#[derive(Clone, PartialEq, Message)]
struct Namespace {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Struct>,
}

#[derive(Clone, PartialEq, Message)]
struct Struct {
    #[prost(message, repeated, tag = "1")]
    fields: Vec<Field>,
}

#[derive(Clone, PartialEq, Message)]
struct Field {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(oneof = "value::Kind", tags = "1, 2, 3, 4, 5, 6")]
    kind: Option<value::Kind>,
}

mod value {
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum Kind {
        #[prost(int32, tag = "1")]
        Null(i32),
        #[prost(double, tag = "2")]
        Number(f64),
        #[prost(string, tag = "3")]
        Text(String),
        #[prost(bool, tag = "4")]
        Flag(bool),
        #[prost(message, tag = "5")]
        Object(super::Struct),
        #[prost(message, tag = "6")]
        List(super::ListValue),
    }
}

#[derive(Clone, PartialEq, Message)]
struct ListValue {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Value>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct CheckResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
    #[prost(message, optional, tag = "2")]
    denied_response: Option<DeniedResponse>,
    #[prost(message, optional, tag = "3")]
    ok_response: Option<OkResponse>,
    #[prost(message, optional, tag = "5")]
    error_response: Option<DeniedResponse>,
}

/// `google.rpc.Status` and `envoy.type.v3.HttpStatus`, of both the code.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct DeniedResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderValueOption>,
    #[prost(string, tag = "3")]
    body: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct OkResponse {
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderValueOption>,
    #[prost(string, repeated, tag = "5")]
    headers_to_remove: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    response_headers_to_add: Vec<HeaderValueOption>,
    #[prost(message, repeated, tag = "7")]
    query_parameters_to_set: Vec<Pair>,
    #[prost(string, repeated, tag = "8")]
    query_parameters_to_remove: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct HeaderValueOption {
    #[prost(message, optional, tag = "1")]
    header: Option<HeaderValue>,
    #[prost(message, optional, tag = "2")]
    append: Option<BoolValue>,
    #[prost(int32, tag = "3")]
    append_action: i32,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct BoolValue {
    #[prost(bool, tag = "1")]
    value: bool,
}
