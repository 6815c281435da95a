//! `VirtualService`: which requests for a host go where (Istio `networking.istio.io`, the HTTP part).

use std::collections::BTreeMap;
use std::time::Duration;

use super::fields::Fields;
use super::value::{At, Place, Sink, Value};
use super::values::{self, StringMatch};

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
            place: fields.place.clone(),
        };
        let effect_free = [
            "fault",
            "mirror",
            "mirrorPercentage",
            "mirrorPercent",
            "mirrors",
            "corsPolicy",
            "headers",
        ];
        fields.unserved(&effect_free, sink);
        let misroutes = "requests would get a different answer without it";
        fields.refused(&["redirect", "directResponse", "delegate", "rewrite"], misroutes, sink);
        fields.finish(sink);
        if rule.route.is_empty() {
            sink.schema(&rule.place, "route is required: at least one destination");
        }
        Some(rule)
    }
}

impl HttpMatch {
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
            headers: tests(&mut fields, "headers", sink),
            without_headers: tests(&mut fields, "withoutHeaders", sink),
            port: fields.take("port").and_then(|value| value.number(MAX_PORT, sink)),
            source_namespace: fields.string("sourceNamespace", sink),
            gateways: fields.strings("gateways", sink),
            place: fields.place.clone(),
        };
        fields.unserved(&["statPrefix"], sink);
        let widens = "a match without it would take requests that it should not";
        let conditions = [
            "scheme",
            "method",
            "authority",
            "queryParams",
            "ignoreUriCase",
            "sourceLabels",
        ];
        fields.refused(&conditions, widens, sink);
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
        share.unserved(&["headers"], sink);
        share.finish(sink);
        let Some(destination) = destination else {
            sink.schema(&place, "destination is required");
            return None;
        };
        let mut fields = destination.object(sink)?;
        let host = fields.required_string("host", sink);
        let subset = fields.string("subset", sink).filter(|name| !name.is_empty());
        let port = fields.take("port").and_then(|value| read_port(value, sink));
        fields.finish(sink);
        Some(Self {
            host: host?,
            subset,
            port,
            weight,
            place,
        })
    }
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
