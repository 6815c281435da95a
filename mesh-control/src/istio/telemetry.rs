//! `Telemetry`: which calls are written to access logs (Istio `telemetry.istio.io`).
//!
//! Where lines go is the application's to say, so one provider is served, the built-in `envoy`, and it stands for that. What a document says
//! of metrics has no effect: they are always counted, and all of them.

use mesh_core::config::LogFilter;

use super::fields::Fields;
use super::value::{At, Place, Sink, Value};
use super::values::Selector;
use crate::diagnostic::{Code, Severity};

/// The provider that is there without being configured (Istio).
const BUILT_IN: &str = "envoy";

/// What is told of calls.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// The workloads it means; `None`: its whole namespace, or the mesh when that is the root namespace.
    pub selector: Option<Selector>,
    /// What is written, the last word last.
    pub access_logging: Vec<AccessLogging>,
}

/// A word about access logs.
#[derive(Clone, Debug)]
pub struct AccessLogging {
    /// At which ends of calls it holds.
    pub ends: Ends,
    /// Which calls are written; `None`: none (`disabled`).
    pub filter: Option<LogFilter>,
    /// Where it stands.
    pub place: Place,
}

/// At which end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// At the caller.
    Client,
    /// At the called.
    Server,
    /// At both.
    Both,
}

impl Ends {
    /// Whether the caller is among them.
    pub fn has_client(self) -> bool {
        self != Self::Server
    }

    /// Whether the called is.
    pub fn has_server(self) -> bool {
        self != Self::Client
    }
}

impl Telemetry {
    pub(super) fn read(mut spec: Fields, sink: &mut Sink<'_>) -> Option<Self> {
        spec.no_nulls(sink);
        let selector = Selector::read(&mut spec, "selector", "matchLabels", sink);
        spec.unserved(&["targetRef", "targetRefs", "metrics", "tracing"], sink);
        let access_logging = spec.list("accessLogging", sink, AccessLogging::read);
        spec.finish(sink);
        Some(Self {
            selector: selector.filter(|selector| !selector.labels.is_empty()),
            access_logging,
        })
    }
}

impl AccessLogging {
    /// `None`: it has no effect, or is told to be wrong.
    fn read(value: Value, sink: &mut Sink<'_>) -> Option<Self> {
        let mut fields = value.object(sink)?;
        let place = fields.place.clone();
        let ends = ends(&mut fields, sink);
        let is_served = providers(&mut fields, sink);
        let disabled = fields.take("disabled").and_then(|value| value.boolean(sink));
        let filter = match fields.take("filter") {
            None => Some(LogFilter::All),
            Some(value) => filter(value, sink),
        };
        fields.finish(sink);
        if !is_served {
            return None;
        }
        let is_disabled = disabled.is_some_and(|flag| flag.value);
        Some(Self {
            ends: ends?,
            filter: if is_disabled { None } else { Some(filter?) },
            place,
        })
    }
}

fn ends(fields: &mut Fields, sink: &mut Sink<'_>) -> Option<Ends> {
    let Some(value) = fields.take("match") else {
        return Some(Ends::Both);
    };
    let mut inner = value.object(sink)?;
    let mode = inner.string("mode", sink);
    inner.finish(sink);
    let Some(mode) = mode else { return Some(Ends::Both) };
    match mode.as_str() {
        "CLIENT" => Some(Ends::Client),
        "SERVER" => Some(Ends::Server),
        "CLIENT_AND_SERVER" => Some(Ends::Both),
        other => {
            let message = format!("{other:?} is not one of CLIENT_AND_SERVER, CLIENT, SERVER");
            sink.schema(&mode.place, message);
            None
        }
    }
}

/// Whether one of the providers is served here, or none is named.
fn providers(fields: &mut Fields, sink: &mut Sink<'_>) -> bool {
    let names: Vec<At<String>> = fields.list("providers", sink, |value, sink| {
        let mut inner = value.object(sink)?;
        let name = inner.required_string("name", sink);
        inner.finish(sink);
        name
    });
    for name in names.iter().filter(|name| name.as_str() != BUILT_IN) {
        let message = format!(
            "lines go where the application sends them, which is the provider {BUILT_IN:?}: no other is served"
        );
        sink.say(Severity::Warning, Code::NotServed, &name.place, message);
    }
    names.is_empty() || names.iter().any(|name| name.as_str() == BUILT_IN)
}

fn filter(value: Value, sink: &mut Sink<'_>) -> Option<LogFilter> {
    let mut fields = value.object(sink)?;
    let expression = fields.required_string("expression", sink);
    fields.finish(sink);
    let expression = expression?;
    match LogFilter::parse(&expression) {
        Ok(filter) => Some(filter),
        Err(error) => {
            sink.say(
                Severity::Error,
                Code::UnreadExpression,
                &expression.place,
                error.to_string(),
            );
            None
        }
    }
}
