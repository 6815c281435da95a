//! `EnvoyFilter`, as far as it is about local rate limits (Istio `networking.istio.io`): what Istio's task "Enabling Rate Limits using
//! Envoy" has users write, since Istio has no document of its own for that.
//!
//! A patch may put `envoy.filters.http.local_ratelimit` among the HTTP filters of a workload's inbound listeners, and nothing else may be
//! patched: there is no Envoy here whose configuration it would change, and a patch that is read and not made could be one that keeps
//! calls out. So everything else is an error, but for what cannot keep anybody out (`elsewhere`): of that a warning says that it changes
//! nothing.

mod elsewhere;
mod limit;

use std::sync::Arc;

use mesh_core::config::LocalRateLimit;

use super::fields::Fields;
use super::value::{At, Place, Sink, Value};
use super::values::Selector;
use crate::diagnostic::{Code, Severity};

/// Rate limits of workloads.
#[derive(Clone, Debug)]
pub struct EnvoyFilter {
    /// The workloads it means; `None`: its whole namespace, or the mesh when that is the root namespace.
    pub selector: Option<Selector>,
    /// Which of several documents comes first: the least (Istio).
    pub priority: i32,
    /// What is put among their filters.
    pub patches: Vec<LimitPatch>,
}

/// One limit.
#[derive(Clone, Debug)]
pub struct LimitPatch {
    /// The filter's name.
    pub name: Box<str>,
    /// Only connections to this port.
    pub port: Option<u16>,
    /// It stands before the router, behind the filters that ask who may; else before all filters.
    pub after_guards: bool,
    /// The limit.
    pub limit: Arc<LocalRateLimit>,
    /// Where it stands.
    pub place: Place,
}

const MANAGER: &str = "envoy.filters.network.http_connection_manager";
const ROUTER: &str = "envoy.filters.http.router";
const LOCAL: &str = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
const STRUCTS: [&str; 2] = [
    "type.googleapis.com/udpa.type.v1.TypedStruct",
    "type.googleapis.com/xds.type.v3.TypedStruct",
];

/// What is said of every patch that is none of these.
const ONLY: &str = "only HTTP_FILTER patches of SIDECAR_INBOUND that insert envoy.filters.http.local_ratelimit are served: \
                    there is no Envoy whose configuration others would change, and what may be a guard is not left out";

impl EnvoyFilter {
    pub(super) fn read(mut spec: Fields, sink: &mut Sink<'_>) -> Option<Self> {
        let selector = Selector::read(&mut spec, "workloadSelector", "labels", sink);
        let selector = selector.filter(|selector| !selector.labels.is_empty());
        spec.refused(&["targetRefs"], "it would hold for workloads it does not mean", sink);
        let priority = spec.take("priority").and_then(|value| value.integer(sink));
        let place = spec.place.clone();
        let patches = spec.list("configPatches", sink, patch);
        spec.finish(sink);
        Some(Self {
            selector,
            priority: match i32::try_from(priority.unwrap_or(0)) {
                Ok(priority) => priority,
                Err(_) => {
                    sink.schema(&place, "priority is out of range");
                    0
                }
            },
            patches,
        })
    }
}

fn refuse(place: &Place, what: &str, sink: &mut Sink<'_>) {
    sink.say(Severity::Error, Code::Refused, place, format!("{what}: {ONLY}"));
}

/// Reads a word that must be one of `served`.
fn word(fields: &mut Fields, name: &str, served: &[&str], sink: &mut Sink<'_>) -> Option<At<String>> {
    let word = fields.required_string(name, sink)?;
    if served.contains(&&*word.value) {
        return Some(word);
    }
    refuse(&word.place, &format!("{name} {:?}", word.value), sink);
    None
}

fn patch(value: Value, sink: &mut Sink<'_>) -> Option<LimitPatch> {
    let mut fields = value.object(sink)?;
    let place = fields.place.clone();
    if let Some(why) = elsewhere::why(&fields) {
        sink.say(
            Severity::Warning,
            Code::NotServed,
            &place,
            format!("{why}; it has no effect"),
        );
        // The rest belongs to another schema.
        fields.ignore_rest();
        return None;
    }
    let apply_to = word(&mut fields, "applyTo", &["HTTP_FILTER"], sink);
    if apply_to.is_none() {
        // Told once: the rest belongs to another schema.
        fields.ignore_rest();
        return None;
    }
    let matched = match fields.take("match") {
        Some(value) => matches(value, sink),
        None => {
            refuse(&place, "a patch without a match is for every context", sink);
            None
        }
    };
    let patch = match fields.take("patch") {
        Some(value) => inserted(value, sink),
        None => {
            sink.schema(&place, "patch is required");
            None
        }
    };
    fields.finish(sink);
    let ((port, after_guards), (name, limit)) = (matched?, patch?);
    Some(LimitPatch {
        name,
        port,
        after_guards,
        limit: Arc::new(limit),
        place,
    })
}

/// The port, and whether it is before the router.
fn matches(value: Value, sink: &mut Sink<'_>) -> Option<(Option<u16>, bool)> {
    let mut fields = value.object(sink)?;
    let place = fields.place.clone();
    let context = word(&mut fields, "context", &["SIDECAR_INBOUND"], sink);
    let listener = fields.take("listener").and_then(|value| value.object(sink));
    fields.refused(
        &["proxy", "routeConfiguration", "cluster", "waypoint"],
        "it narrows what is patched",
        sink,
    );
    fields.finish(sink);
    let Some(mut listener) = listener else {
        sink.schema(&place, "listener is required");
        return None;
    };
    let port = listener.take("portNumber").and_then(|value| value.number(65_535, sink));
    listener.refused(&["name", "listenerFilter"], "it narrows what is patched", sink);
    let chain = listener.take("filterChain").and_then(|value| value.object(sink));
    let place = listener.place.clone();
    listener.finish(sink);
    let Some(mut chain) = chain else {
        sink.schema(&place, "filterChain is required");
        return None;
    };
    let filter = chain.take("filter").and_then(|value| value.object(sink));
    chain.refused(
        &[
            "name",
            "sni",
            "transportProtocol",
            "applicationProtocols",
            "destinationPort",
        ],
        "it narrows what is patched",
        sink,
    );
    let place = chain.place.clone();
    chain.finish(sink);
    let Some(mut filter) = filter else {
        sink.schema(&place, "filter is required");
        return None;
    };
    let manager = word(&mut filter, "name", &[MANAGER], sink);
    let mut before_router = false;
    if let Some(mut below) = filter.take("subFilter").and_then(|value| value.object(sink)) {
        before_router = word(&mut below, "name", &[ROUTER], sink).is_some();
        below.finish(sink);
    }
    filter.finish(sink);
    (context.is_some() && manager.is_some()).then(|| (port.map(|port| port.value as u16), before_router))
}

/// The filter's name, and the limit.
fn inserted(value: Value, sink: &mut Sink<'_>) -> Option<(Box<str>, LocalRateLimit)> {
    let mut fields = value.object(sink)?;
    let place = fields.place.clone();
    let operation = word(&mut fields, "operation", &["INSERT_BEFORE", "INSERT_FIRST"], sink);
    fields.refused(&["filterClass"], "it says where else the filter stands", sink);
    let filter = fields.take("value").and_then(|value| value.object(sink));
    fields.finish(sink);
    let Some(mut filter) = filter else {
        sink.schema(&place, "value is required");
        return None;
    };
    let name = filter.required_string("name", sink);
    let config = filter.take("typedConfig").and_then(|value| value.object(sink));
    let place = filter.place.clone();
    filter.finish(sink);
    let Some(mut config) = config else {
        sink.schema(&place, "typed_config is required");
        return None;
    };
    let kind = config.required_string("@type", sink)?;
    let mut fields = config;
    if STRUCTS.contains(&&*kind.value) {
        // The same in other clothes.
        let inner = word(&mut fields, "typeUrl", &[LOCAL], sink);
        let value = fields.take("value").and_then(|value| value.object(sink));
        let place = fields.place.clone();
        fields.finish(sink);
        inner?;
        let Some(value) = value else {
            sink.schema(&place, "value is required");
            return None;
        };
        fields = value;
    } else if kind.value != LOCAL {
        refuse(&kind.place, &format!("filter {:?}", kind.value), sink);
        fields.ignore_rest();
        return None;
    }
    let limit = limit::read(fields, sink)?;
    operation?;
    Some((name?.value.into(), limit))
}
