//! `VirtualService`: which requests for a host go where (Istio `networking.istio.io`, the HTTP part).

use std::collections::BTreeMap;
use std::time::Duration;

use super::fields::Fields;
use super::http_effects::{HeaderOps, HttpDirectResponse, HttpFault, HttpMirror, HttpRedirect, HttpRewrite};
use super::value::{At, Place, Sink, Value};
use super::values::{self, StringMatch};
use crate::diagnostic::{Code, Severity};

/// Rules for the requests of some hosts.
#[derive(Clone, Debug)]
pub struct VirtualService {
    /// The hosts that are addressed; short names are of this rule's namespace.
    pub hosts: Vec<At<String>>,
    /// Where the rule applies; empty means `mesh`. Ours is only `mesh`.
    pub gateways: Vec<At<String>>,
    /// The namespaces that see the rule; empty means all.
    pub export_to: Vec<At<String>>,
    /// Tried in order.
    pub http: Vec<HttpRoute>,
}

/// One rule.
#[derive(Clone, Debug)]
pub struct HttpRoute {
    /// Its name, for logs.
    pub name: Option<At<String>>,
    /// Any of these takes a request; none takes every request.
    pub matches: Vec<HttpMatch>,
    /// Where requests go, by weight.
    pub route: Vec<Destination>,
    /// The longest a call may take, retries and all; zero means no limit.
    pub timeout: Option<At<Duration>>,
    /// Whether to try again.
    pub retries: Option<Retries>,
    /// Answers with another place to go to, in place of `route`.
    pub redirect: Option<HttpRedirect>,
    /// Answers by itself, in place of `route`.
    pub direct_response: Option<HttpDirectResponse>,
    /// Another authority or path.
    pub rewrite: Option<HttpRewrite>,
    /// Breaks calls on purpose.
    pub fault: Option<HttpFault>,
    /// Where copies go.
    pub mirrors: Vec<HttpMirror>,
    /// Edits of headers.
    pub headers: Option<HeaderOps>,
    /// Where the rule stands.
    pub place: Place,
}

/// Conditions that must all hold.
#[derive(Clone, Debug)]
pub struct HttpMatch {
    /// Its name, for logs.
    pub name: Option<At<String>>,
    /// A test of the path.
    pub uri: Option<At<StringMatch>>,
    /// Whether a prefix is one of whole segments, as the Gateway API has it.
    pub segments: bool,
    /// Whether case counts in `uri`, where that is no pattern.
    pub ignore_uri_case: bool,
    /// A test of the method.
    pub method: Option<At<StringMatch>>,
    /// A test of the scheme.
    pub scheme: Option<At<StringMatch>>,
    /// A test of the authority.
    pub authority: Option<At<StringMatch>>,
    /// Tests of parameters of the query.
    pub query_params: BTreeMap<String, At<StringMatch>>,
    /// Tests of headers.
    pub headers: BTreeMap<String, At<StringMatch>>,
    /// Tests of headers that must fail.
    pub without_headers: BTreeMap<String, At<StringMatch>>,
    /// The port that is addressed.
    pub port: Option<At<u32>>,
    /// The client's namespace.
    pub source_namespace: Option<At<String>>,
    /// Where the condition applies, in place of the rule's own list.
    pub gateways: Vec<At<String>>,
    /// Where the match stands.
    pub place: Place,
}

/// One share of a rule's requests.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The service; a short name is of the rule's namespace.
    pub host: At<String>,
    /// The subset, as the service's `DestinationRule` names it.
    pub subset: Option<At<String>>,
    /// The service's port.
    pub port: Option<At<u32>>,
    /// Its share of the sum.
    pub weight: Option<At<u32>>,
    /// Edits of the headers of its share.
    pub headers: Option<HeaderOps>,
    /// Where the destination stands.
    pub place: Place,
}

/// When and how often to try again.
#[derive(Clone, Debug)]
pub struct Retries {
    /// Tries after the first; 0 turns retries off.
    pub attempts: Option<At<u32>>,
    /// The longest one try may take.
    pub per_try_timeout: Option<At<Duration>>,
    /// What counts as worth another try, comma-separated.
    pub retry_on: Option<At<String>>,
    /// The first pause.
    pub backoff: Option<At<Duration>>,
    /// Where the policy stands.
    pub place: Place,
}

/// Ports are 16 bits wide.
pub(super) const MAX_PORT: u32 = 65_535;

impl VirtualService {
    pub(super) fn read(mut spec: Fields, sink: &mut Sink<'_>) -> Option<Self> {
        let place = spec.place.clone();
        let rule = Self {
            hosts: spec.strings("hosts", sink),
            gateways: spec.strings("gateways", sink),
            export_to: spec.strings("exportTo", sink),
            http: spec.list("http", sink, HttpRoute::read),
        };
        let raw_bytes = "connections opened outside of this library cannot be routed by it";
        spec.refused(&["tls", "tcp"], raw_bytes, sink);
        spec.finish(sink);
        if rule.hosts.is_empty() {
            sink.schema(
                &place,
                "hosts is required (a delegate, which has none, is not served by this version)",
            );
        }
        if rule.http.is_empty() {
            sink.schema(&place, "http is required: a rule without routes does nothing");
        }
        Some(rule)
    }
}

impl HttpRoute {
    fn read(value: Value, sink: &mut Sink<'_>) -> Option<Self> {
        let mut fields = value.object(sink)?;
        let rule = Self {
            name: fields.string("name", sink),
            matches: fields.list("match", sink, HttpMatch::read),
            route: fields.list("route", sink, Destination::read),
            timeout: fields.take("timeout").and_then(|value| values::duration(value, sink)),
            retries: fields.take("retries").and_then(|value| Retries::read(value, sink)),
            redirect: fields
                .take("redirect")
                .and_then(|value| HttpRedirect::read(value, sink)),
            direct_response: fields
                .take("directResponse")
                .and_then(|value| HttpDirectResponse::read(value, sink)),
            rewrite: fields.take("rewrite").and_then(|value| HttpRewrite::read(value, sink)),
            fault: fields.take("fault").and_then(|value| HttpFault::read(value, sink)),
            mirrors: HttpMirror::read_all(&mut fields, sink),
            headers: fields.take("headers").and_then(|value| HeaderOps::read(value, sink)),
            place: fields.place.clone(),
        };
        fields.unserved(&["corsPolicy"], sink);
        let misroutes = "requests would get a different answer without it";
        fields.refused(&["delegate"], misroutes, sink);
        fields.finish(sink);
        rule.check(sink);
        Some(rule)
    }

    /// What becomes of its requests is said once (Istio).
    fn check(&self, sink: &mut Sink<'_>) {
        let answers = usize::from(self.redirect.is_some()) + usize::from(self.direct_response.is_some());
        match (self.route.is_empty(), answers) {
            (true, 0) => sink.schema(&self.place, "route is required: at least one destination"),
            (false, 0) | (true, 1) => {}
            _ => sink.schema(
                &self.place,
                "only one of route, redirect and directResponse can be given",
            ),
        }
        if answers == 0 {
            return;
        }
        for (name, is_there) in [("rewrite", self.rewrite.is_some()), ("fault", self.fault.is_some())] {
            if is_there {
                sink.schema(&self.place, format!("{name} needs a route: nothing is sent on"));
            }
        }
        // These Istio takes, and nothing comes of them.
        for (name, is_there) in [
            ("mirror", !self.mirrors.is_empty()),
            ("retries", self.retries.is_some()),
        ] {
            if is_there {
                let message = format!("{name} has no effect without a route: nothing is sent on");
                sink.say(Severity::Warning, Code::NoEffect, &self.place, message);
            }
        }
    }
}

impl HttpMatch {
    /// No condition.
    pub(super) fn nothing(place: &Place) -> Self {
        Self {
            name: None,
            uri: None,
            segments: false,
            ignore_uri_case: false,
            method: None,
            scheme: None,
            authority: None,
            query_params: BTreeMap::new(),
            headers: BTreeMap::new(),
            without_headers: BTreeMap::new(),
            port: None,
            source_namespace: None,
            gateways: Vec::new(),
            place: place.clone(),
        }
    }

    fn read(value: Value, sink: &mut Sink<'_>) -> Option<Self> {
        let mut fields = value.object(sink)?;
        let tests = |fields: &mut Fields, name: &str, sink: &mut Sink<'_>| {
            let value = fields.take(name);
            value
                .and_then(|value| value.map(sink, StringMatch::read))
                .unwrap_or_default()
        };
        let matches = Self {
            name: fields.string("name", sink),
            uri: fields.take("uri").and_then(|value| StringMatch::read(value, sink)),
            segments: false,
            ignore_uri_case: fields
                .take("ignoreUriCase")
                .and_then(|value| value.boolean(sink))
                .is_some_and(|ignore| ignore.value),
            method: whole(&mut fields, "method", sink),
            scheme: whole(&mut fields, "scheme", sink),
            authority: whole(&mut fields, "authority", sink),
            query_params: tests(&mut fields, "queryParams", sink),
            headers: tests(&mut fields, "headers", sink),
            without_headers: tests(&mut fields, "withoutHeaders", sink),
            port: fields.take("port").and_then(|value| value.number(MAX_PORT, sink)),
            source_namespace: fields.string("sourceNamespace", sink),
            gateways: fields.strings("gateways", sink),
            place: fields.place.clone(),
        };
        fields.unserved(&["statPrefix"], sink);
        let widens = "a match without it would take requests that it should not";
        fields.refused(&["sourceLabels"], widens, sink);
        fields.finish(sink);
        if matches
            .uri
            .as_ref()
            .is_some_and(|uri| uri.value == StringMatch::Present)
        {
            sink.schema(&matches.place, "uri needs one of exact, prefix and regex");
        }
        Some(matches)
    }
}

impl Destination {
    fn read(value: Value, sink: &mut Sink<'_>) -> Option<Self> {
        let mut share = value.object(sink)?;
        let place = share.place.clone();
        let weight = share.take("weight").and_then(|value| value.number(u32::MAX, sink));
        let destination = share.take("destination");
        let headers = share.take("headers").and_then(|value| HeaderOps::read(value, sink));
        share.finish(sink);
        let Some(destination) = destination else {
            sink.schema(&place, "destination is required");
            return None;
        };
        Some(Self {
            weight,
            headers,
            place,
            ..Self::of(destination, sink)?
        })
    }

    /// One without a weight: what stands under `destination`.
    pub(super) fn of(value: Value, sink: &mut Sink<'_>) -> Option<Self> {
        let mut fields = value.object(sink)?;
        let place = fields.place.clone();
        let host = fields.required_string("host", sink);
        let subset = fields.string("subset", sink).filter(|name| !name.is_empty());
        let port = fields.take("port").and_then(|value| read_port(value, sink));
        fields.finish(sink);
        Some(Self {
            host: host?,
            subset,
            port,
            weight: None,
            headers: None,
            place,
        })
    }
}

/// A test of what every request has.
fn whole(fields: &mut Fields, name: &str, sink: &mut Sink<'_>) -> Option<At<StringMatch>> {
    let test = StringMatch::read(fields.take(name)?, sink)?;
    if test.value == StringMatch::Present {
        sink.schema(&test.place, format!("{name} needs one of exact, prefix and regex"));
        return None;
    }
    Some(test)
}

/// `port: { number: N }`
fn read_port(value: Value, sink: &mut Sink<'_>) -> Option<At<u32>> {
    let mut fields = value.object(sink)?;
    let number = fields.take("number").and_then(|value| value.number(MAX_PORT, sink));
    if number.is_none() {
        sink.schema(&fields.place, "number is required");
    }
    fields.finish(sink);
    number
}

impl Retries {
    fn read(value: Value, sink: &mut Sink<'_>) -> Option<Self> {
        let mut fields = value.object(sink)?;
        let retries = Self {
            attempts: fields
                .take("attempts")
                .and_then(|value| value.number(i32::MAX as u32, sink)),
            per_try_timeout: fields
                .take("perTryTimeout")
                .and_then(|value| values::duration(value, sink)),
            retry_on: fields.string("retryOn", sink),
            backoff: fields.take("backoff").and_then(|value| values::duration(value, sink)),
            place: fields.place.clone(),
        };
        fields.unserved(&["retryRemoteLocalities", "retryIgnorePreviousHosts"], sink);
        fields.finish(sink);
        Some(retries)
    }
}
