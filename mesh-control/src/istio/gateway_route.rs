//! `HTTPRoute` and `GRPCRoute` of the Gateway API whose parent is a `Service` (GAMMA): read into the rules that a `VirtualService` has.
//!
//! One way of thinking for the translator, as in Istio. What is different is said in the rules: paths are matched by segments, what a
//! destination is worth where nothing is written is 1, redirects are 302. The order of the rules is not that of the text but that of how much
//! they ask for, which is the translator's business, since the rules of several documents are put in one order.

use std::collections::BTreeMap;

use super::fields::Fields;
use super::http_effects::{ALL, HeaderOp, HeaderOps, HttpMirror, HttpRedirect, HttpRewrite};
use super::value::{At, Place, Sink, Value};
use super::values::{self, StringMatch};
use super::virtual_service::{Destination, HttpMatch, HttpRoute, MAX_PORT, Retries};
use crate::diagnostic::{Code, Severity};

/// Rules for the requests of some services.
#[derive(Clone, Debug)]
pub struct GatewayRoute {
    /// The services.
    pub parents: Vec<Parent>,
    /// The rules.
    pub rules: Vec<GatewayRule>,
}

/// A service that a route is for.
#[derive(Clone, Debug)]
pub struct Parent {
    /// Its name.
    pub name: At<String>,
    /// Its namespace; that of the route where nothing is written.
    pub namespace: Option<At<String>>,
    /// Of its ports this one alone.
    pub port: Option<At<u32>>,
}

/// A rule, with what Istio's have not.
#[derive(Clone, Debug)]
pub struct GatewayRule {
    /// All that a rule of a `VirtualService` says too. Its matches are never none.
    pub http: HttpRoute,
    /// Where its destinations are, in their order.
    pub backends: Vec<Backend>,
    /// Where its mirrors are, in their order.
    pub mirrors: Vec<Backend>,
}

/// The service that a destination names.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Its name.
    pub name: At<String>,
    /// Its namespace; that of the route where nothing is written.
    pub namespace: Option<At<String>>,
}

/// Which routes of other namespaces may name services of this one.
#[derive(Clone, Debug)]
pub struct ReferenceGrant {
    /// The kinds of routes and their namespaces.
    pub from: Vec<(Box<str>, Box<str>)>,
    /// The services; `None`: all.
    pub to: Vec<Option<Box<str>>>,
}

/// What is tried again beside the statuses that are written (Istio).
const ALWAYS_RETRIED: &str = "connect-failure,refused-stream,unavailable,cancelled";
/// How often, where nothing is written (Istio).
const RETRY_ATTEMPTS: u32 = 2;
/// A path of one segment.
const SEGMENT: &str = "[^/]+";

impl GatewayRoute {
    pub(super) fn read(mut spec: Fields, kind: &str, sink: &mut Sink<'_>) -> Option<Self> {
        let mut others = false;
        let parents = spec.list("parentRefs", sink, |value, sink| {
            let (parent, is_service) = Parent::read(value, sink)?;
            others |= !is_service;
            is_service.then_some(parent)
        });
        if parents.is_empty() {
            let message = match others {
                true => "has no Service for a parent: gateways are not served, and so it has no effect",
                false => "parentRefs is empty, and so it has no effect",
            };
            sink.say(Severity::Warning, Code::NoEffect, &spec.place, message);
        }
        let grpc = kind == "GRPCRoute";
        let rules = spec.list("rules", sink, |value, sink| GatewayRule::read(value, grpc, sink));
        // Of no effect for a parent that is a service (Gateway API).
        spec.take("hostnames");
        spec.unserved(&["useDefaultGateways"], sink);
        spec.finish(sink);
        Some(Self { parents, rules })
    }
}

impl Parent {
    /// The parent, and whether it is a service.
    fn read(value: Value, sink: &mut Sink<'_>) -> Option<(Self, bool)> {
        let mut fields = value.object(sink)?;
        let kind = fields.string("kind", sink);
        let group = fields.string("group", sink);
        let group = group.as_ref().map(|group| group.as_str());
        let is_service = kind.is_some_and(|kind| kind.as_str() == "Service") && matches!(group, Some("" | "core"));
        let name = fields.required_string("name", sink);
        let namespace = fields.string("namespace", sink);
        let port = fields.take("port").and_then(|value| value.number(MAX_PORT, sink));
        let section = fields.string("sectionName", sink);
        if let Some(section) = section.filter(|_| is_service) {
            let message = "a port of a service is named by port: this has no effect";
            sink.say(Severity::Warning, Code::NotServed, &section.place, message);
        }
        fields.finish(sink);
        let parent = Self {
            name: name?,
            namespace,
            port,
        };
        Some((parent, is_service))
    }
}

impl GatewayRule {
    fn read(value: Value, grpc: bool, sink: &mut Sink<'_>) -> Option<Self> {
        let mut fields = value.object(sink)?;
        let place = fields.place.clone();
        let mut matches = fields.list("matches", sink, |value, sink| read_match(value, grpc, sink));
        if matches.is_empty() {
            // All requests (Gateway API).
            matches.push(HttpMatch {
                uri: Some(prefix("/", &place)),
                ..HttpMatch::nothing(&place)
            });
        }
        let mut effects = Effects::default();
        for filter in fields.list("filters", sink, |value, _| Some(value)) {
            effects.read(filter, true, sink);
        }
        let read = fields.list("backendRefs", sink, read_backend);
        let (backends, route) = read.into_iter().unzip();
        let timeouts = fields.take("timeouts").and_then(|value| value.object(sink));
        let (mut request, mut each) = (None, None);
        if let Some(mut timeouts) = timeouts {
            let mut time = |name: &str, sink: &mut Sink<'_>| {
                let value = timeouts.take(name);
                value.and_then(|value| values::duration(value, sink))
            };
            (request, each) = (time("request", sink), time("backendRequest", sink));
            timeouts.finish(sink);
        }
        let mut retries = fields.take("retry").and_then(|value| read_retry(value, sink));
        match &mut retries {
            Some(retries) => retries.per_try_timeout = each,
            // Of one try it is the whole time (Istio).
            None => request = each.or(request),
        }
        let name = fields.string("name", sink);
        fields.unserved(&["sessionPersistence"], sink);
        fields.finish(sink);
        let (mirrored, mirrors) = effects.mirrors.into_iter().unzip();
        Some(Self {
            mirrors: mirrored,
            http: HttpRoute {
                name,
                matches,
                route,
                timeout: request,
                retries,
                redirect: effects.redirect,
                direct_response: None,
                rewrite: effects.rewrite,
                fault: None,
                mirrors,
                headers: Some(effects.headers),
                place,
            },
            backends,
        })
    }
}

/// What the filters of a rule or of a destination do.
#[derive(Default)]
struct Effects {
    headers: HeaderOps,
    redirect: Option<HttpRedirect>,
    rewrite: Option<HttpRewrite>,
    mirrors: Vec<(Backend, HttpMirror)>,
}

impl Effects {
    fn read(&mut self, value: Value, of_rule: bool, sink: &mut Sink<'_>) {
        let Some(mut fields) = value.object(sink) else { return };
        let Some(kind) = fields.required_string("type", sink) else {
            return fields.ignore_rest();
        };
        let inner = match kind.as_str() {
            "RequestHeaderModifier" => "requestHeaderModifier",
            "ResponseHeaderModifier" => "responseHeaderModifier",
            "RequestRedirect" if of_rule => "requestRedirect",
            "URLRewrite" if of_rule => "urlRewrite",
            "RequestMirror" if of_rule => "requestMirror",
            "CORS" => {
                fields.take("cors");
                let message = "not served by this version: it has no effect";
                sink.say(Severity::Warning, Code::NotServed, &kind.place, message);
                return fields.finish(sink);
            }
            other => {
                let message =
                    format!("filter {other} is not served here, and requests would get a different answer without it");
                sink.say(Severity::Error, Code::Refused, &kind.place, message);
                return fields.ignore_rest();
            }
        };
        let place = fields.place.clone();
        let body = fields.take(inner).and_then(|value| value.object(sink));
        fields.finish(sink);
        let Some(body) = body else {
            return sink.schema(&place, format!("{inner} is required"));
        };
        match inner {
            "requestHeaderModifier" => read_headers(body, &mut self.headers.request, sink),
            "responseHeaderModifier" => read_headers(body, &mut self.headers.response, sink),
            "requestRedirect" => self.redirect = Some(read_redirect(body, sink)),
            "urlRewrite" => self.rewrite = Some(read_rewrite(body, sink)),
            _ => self.mirrors.extend(read_mirror(body, sink)),
        }
    }
}

fn read_match(value: Value, grpc: bool, sink: &mut Sink<'_>) -> Option<HttpMatch> {
    let mut fields = value.object(sink)?;
    let mut one = HttpMatch::nothing(&fields.place);
    one.headers = read_tests(&mut fields, "headers", sink);
    if grpc {
        one.uri = fields.take("method").and_then(|value| read_grpc_method(value, sink));
    } else {
        one.query_params = read_tests(&mut fields, "queryParams", sink);
        one.method = fields.string("method", sink).map(|method| At {
            value: StringMatch::Exact(method.value),
            place: method.place,
        });
        (one.uri, one.segments) = match fields.take("path") {
            Some(path) => read_path(path, sink)?,
            None => (Some(prefix("/", &one.place)), false),
        };
    }
    fields.finish(sink);
    one.uri = one.uri.or_else(|| Some(prefix("/", &one.place)));
    Some(one)
}

fn prefix(text: &str, place: &Place) -> At<StringMatch> {
    At {
        value: StringMatch::Prefix(text.to_owned()),
        place: place.clone(),
    }
}

/// A test of the path, and whether it is a prefix of whole segments.
fn read_path(value: Value, sink: &mut Sink<'_>) -> Option<(Option<At<StringMatch>>, bool)> {
    let mut fields = value.object(sink)?;
    let kind = fields.string("type", sink);
    let text = fields.string("value", sink);
    let place = fields.place.clone();
    fields.finish(sink);
    let text = text.map_or_else(|| "/".to_owned(), |text| text.value);
    let (value, segments) = match kind.as_ref().map_or("PathPrefix", |kind| kind.as_str()) {
        "Exact" => (StringMatch::Exact(text), false),
        "RegularExpression" => (StringMatch::Regex(text), false),
        // A slash at the end means the same (Gateway API); below the root is everything.
        "PathPrefix" => match text.trim_end_matches('/') {
            "" => (StringMatch::Prefix("/".to_owned()), false),
            trimmed => (StringMatch::Prefix(trimmed.to_owned()), true),
        },
        other => {
            let message = format!("{other:?} is not one of Exact, PathPrefix, RegularExpression");
            sink.schema(kind.as_ref().map_or(&place, |kind| &kind.place), message);
            return None;
        }
    };
    Some((Some(At { value, place }), segments))
}

/// The path of a gRPC method.
fn read_grpc_method(value: Value, sink: &mut Sink<'_>) -> Option<At<StringMatch>> {
    let mut fields = value.object(sink)?;
    let place = fields.place.clone();
    let kind = fields.string("type", sink);
    let part = |fields: &mut Fields, name: &str, sink: &mut Sink<'_>| {
        let text = fields.string(name, sink).filter(|text| !text.is_empty());
        text.map(|text| text.value)
    };
    let (service, method) = (part(&mut fields, "service", sink), part(&mut fields, "method", sink));
    fields.finish(sink);
    let value = match (kind.as_ref().map_or("Exact", |kind| kind.as_str()), service, method) {
        (_, None, None) => {
            sink.schema(&place, "method needs service or method");
            return None;
        }
        ("Exact", Some(service), Some(method)) => StringMatch::Exact(format!("/{service}/{method}")),
        ("Exact", Some(service), None) => StringMatch::Prefix(format!("/{service}/")),
        ("Exact", None, Some(method)) => StringMatch::Regex(format!("/{SEGMENT}/{}", escaped(&method))),
        ("RegularExpression", service, method) => {
            let or_any = |part: Option<String>| part.unwrap_or_else(|| SEGMENT.to_owned());
            StringMatch::Regex(format!("/(?:{})/(?:{})", or_any(service), or_any(method)))
        }
        (other, ..) => {
            let message = format!("{other:?} is not one of Exact, RegularExpression");
            sink.schema(kind.as_ref().map_or(&place, |kind| &kind.place), message);
            return None;
        }
    };
    Some(At { value, place })
}

/// A text as a pattern of itself.
pub(crate) fn escaped(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_ascii_punctuation() && !"/_-".contains(letter) {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}

/// `[{name, value, type: Exact | RegularExpression}]`; of a name that stands there twice the first counts (Gateway API).
fn read_tests(fields: &mut Fields, name: &str, sink: &mut Sink<'_>) -> BTreeMap<String, At<StringMatch>> {
    let mut tests = BTreeMap::new();
    for value in fields.list(name, sink, |value, _| Some(value)) {
        let Some(mut one) = value.object(sink) else { continue };
        let kind = one.string("type", sink);
        let (key, text) = (one.required_string("name", sink), one.string("value", sink));
        let place = one.place.clone();
        one.finish(sink);
        let (Some(key), Some(text)) = (key, text) else { continue };
        let value = match kind.as_ref().map_or("Exact", |kind| kind.as_str()) {
            "Exact" => StringMatch::Exact(text.value),
            "RegularExpression" => StringMatch::Regex(text.value),
            other => {
                sink.schema(&place, format!("{other:?} is not one of Exact, RegularExpression"));
                continue;
            }
        };
        let key = if name == "headers" {
            key.to_ascii_lowercase()
        } else {
            key.value
        };
        tests.entry(key).or_insert(At { value, place });
    }
    tests
}

fn read_headers(mut body: Fields, op: &mut HeaderOp, sink: &mut Sink<'_>) {
    let mut pairs = |name: &str, sink: &mut Sink<'_>| -> BTreeMap<String, At<String>> {
        let read = body.list(name, sink, |value, sink| {
            let mut one = value.object(sink)?;
            let (name, value) = (one.required_string("name", sink), one.string("value", sink));
            one.finish(sink);
            Some((name?.value, value?))
        });
        read.into_iter().collect()
    };
    let (set, add) = (pairs("set", sink), pairs("add", sink));
    op.set.extend(set);
    op.add.extend(add);
    op.remove.extend(body.strings("remove", sink));
    body.finish(sink);
}

/// `path: {type, replaceFullPath | replacePrefixMatch}`: the text, and whether it takes the place of the prefix alone.
fn read_new_path(body: &mut Fields, sink: &mut Sink<'_>) -> Option<(At<String>, bool)> {
    let mut path = body.take("path")?.object(sink)?;
    let kind = path.required_string("type", sink);
    let full = path.string("replaceFullPath", sink);
    let prefix = path.string("replacePrefixMatch", sink);
    let place = path.place.clone();
    path.finish(sink);
    match (kind?.as_str(), full, prefix) {
        ("ReplaceFullPath", Some(full), None) => Some((full, false)),
        ("ReplacePrefixMatch", None, Some(prefix)) => Some((prefix, true)),
        _ => {
            sink.schema(&place, "path needs type and the field of that name");
            None
        }
    }
}

fn read_redirect(mut body: Fields, sink: &mut Sink<'_>) -> HttpRedirect {
    let path = read_new_path(&mut body, sink);
    let uri = path.map(|(At { value, place }, of_prefix)| {
        let value = match of_prefix {
            true => format!("%PREFIX()%{}", value.trim_end_matches('/')),
            false => value,
        };
        At { value, place }
    });
    let status = body.take("statusCode").and_then(|value| value.number(599, sink));
    let place = body.place.clone();
    let redirect = HttpRedirect {
        uri,
        authority: body.string("hostname", sink),
        scheme: body.string("scheme", sink),
        port: body.take("port").and_then(|value| value.number(MAX_PORT, sink)),
        request_port: false,
        // Istio's own is 301.
        status: Some(status.unwrap_or_else(|| At {
            value: 302,
            place: place.clone(),
        })),
        place,
    };
    body.finish(sink);
    redirect
}

fn read_rewrite(mut body: Fields, sink: &mut Sink<'_>) -> HttpRewrite {
    let place = body.place.clone();
    let (mut uri, mut regex) = (None, None);
    match read_new_path(&mut body, sink) {
        Some((text, true)) => uri = Some(text),
        // Whatever was matched.
        Some((text, false)) => {
            let all = At {
                value: "^.*$".to_owned(),
                place: text.place.clone(),
            };
            let replacement = At {
                value: text.value.replace('\\', "\\\\"),
                place: text.place,
            };
            regex = Some((all, replacement));
        }
        None => {}
    }
    let rewrite = HttpRewrite {
        uri,
        authority: body.string("hostname", sink),
        regex,
        place,
    };
    body.finish(sink);
    rewrite
}

fn read_mirror(mut body: Fields, sink: &mut Sink<'_>) -> Option<(Backend, HttpMirror)> {
    let place = body.place.clone();
    let backend = body.take("backendRef").and_then(|value| read_backend(value, sink));
    let percent = body.take("percent").and_then(|value| value.number(100, sink));
    let fraction = body.take("fraction").and_then(|value| {
        let mut inner = value.object(sink)?;
        let of = inner.take("numerator").and_then(|value| value.number(u32::MAX, sink));
        let per = inner.take("denominator").and_then(|value| value.number(u32::MAX, sink));
        inner.finish(sink);
        let (of, per) = (u64::from(of?.value), per.map_or(100, |per| u64::from(per.value)));
        // A part of nothing is nothing, and more than all is all.
        let share = (of * u64::from(ALL)).checked_div(per).unwrap_or(0);
        Some(u32::try_from(share).unwrap_or(ALL).min(ALL))
    });
    body.finish(sink);
    if percent.is_some() && fraction.is_some() {
        sink.schema(&place, "only one of percent and fraction can be given");
    }
    let (backend, mut destination) = backend?;
    destination.weight = None;
    let share = fraction.unwrap_or_else(|| percent.map_or(ALL, |percent| percent.value * 1_000));
    Some((backend, HttpMirror { destination, share }))
}

fn read_backend(value: Value, sink: &mut Sink<'_>) -> Option<(Backend, Destination)> {
    let mut fields = value.object(sink)?;
    let place = fields.place.clone();
    let kind = fields.string("kind", sink);
    let group = fields.string("group", sink);
    let name = fields.required_string("name", sink);
    let namespace = fields.string("namespace", sink);
    let port = fields.take("port").and_then(|value| value.number(MAX_PORT, sink));
    let weight = fields.take("weight").and_then(|value| value.number(1_000_000, sink));
    let mut effects = Effects::default();
    for filter in fields.list("filters", sink, |value, _| Some(value)) {
        effects.read(filter, false, sink);
    }
    fields.finish(sink);
    let is_service = kind.is_none_or(|kind| kind.as_str() == "Service")
        && group.is_none_or(|group| ["", "core"].contains(&group.as_str()));
    if !is_service {
        let message = "a backend that is no Service is not served, and its share of the requests would go elsewhere";
        sink.say(Severity::Error, Code::Refused, &place, message);
        return None;
    }
    let name = name?;
    let destination = Destination {
        host: name.clone(),
        subset: None,
        port,
        weight: Some(weight.unwrap_or_else(|| At {
            value: 1,
            place: place.clone(),
        })),
        headers: Some(effects.headers),
        place,
    };
    Some((Backend { name, namespace }, destination))
}

fn read_retry(value: Value, sink: &mut Sink<'_>) -> Option<Retries> {
    let mut fields = value.object(sink)?;
    let place = fields.place.clone();
    let codes = fields.list("codes", sink, |value, sink| value.number(599, sink));
    let attempts = fields
        .take("attempts")
        .and_then(|value| value.number(i32::MAX as u32, sink));
    let backoff = fields.take("backoff").and_then(|value| values::duration(value, sink));
    fields.finish(sink);
    let mut on = ALWAYS_RETRIED.to_owned();
    for code in codes {
        on.push_str(&format!(",{}", *code));
    }
    let at = |value| At {
        value,
        place: place.clone(),
    };
    Some(Retries {
        attempts: Some(attempts.unwrap_or_else(|| at(RETRY_ATTEMPTS))),
        per_try_timeout: None,
        retry_on: Some(At {
            value: on,
            place: place.clone(),
        }),
        backoff,
        place,
    })
}

impl ReferenceGrant {
    pub(super) fn read(mut spec: Fields, sink: &mut Sink<'_>) -> Option<Self> {
        let from = spec.list("from", sink, |value, sink| {
            let mut one = value.object(sink)?;
            let group = one.string("group", sink);
            let (kind, namespace) = (
                one.required_string("kind", sink),
                one.required_string("namespace", sink),
            );
            one.finish(sink);
            let of_routes = group.is_some_and(|group| group.as_str() == "gateway.networking.k8s.io");
            of_routes.then_some((kind?.value.into(), namespace?.value.into()))
        });
        let to = spec.list("to", sink, |value, sink| {
            let mut one = value.object(sink)?;
            let group = one.string("group", sink);
            let (kind, name) = (one.required_string("kind", sink), one.string("name", sink));
            one.finish(sink);
            let is_service = kind?.as_str() == "Service" && group.is_none_or(|group| group.is_empty());
            is_service.then(|| name.map(|name| name.value.into()))
        });
        spec.finish(sink);
        Some(Self { from, to })
    }
}
