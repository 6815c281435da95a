//! `PeerAuthentication`: whether a workload takes plaintext (Istio `security.istio.io`).

use std::collections::BTreeMap;

use super::fields::Fields;
use super::value::{At, Place, Sink, Value};
use super::values::Selector;

/// What workloads ask of their clients.
#[derive(Clone, Debug)]
pub struct PeerAuthentication {
    /// The workloads it means; `None`: its whole namespace, or the mesh when that is the root namespace. One without labels
    /// is none, as in Istio.
    pub selector: Option<Selector>,
    /// What they ask; `None`: what the next wider document says (`UNSET`).
    pub mode: Option<Mode>,
    /// What they ask on ports of their own, not of their services; `None` of one: what they ask on all.
    pub ports: BTreeMap<u16, Option<Mode>>,
}

/// A mode of mutual TLS; the greater is the stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Plaintext.
    Disable,
    /// Plaintext or mutual TLS.
    Permissive,
    /// Mutual TLS.
    Strict,
}

impl PeerAuthentication {
    pub(super) fn read(mut spec: Fields, sink: &mut Sink<'_>) -> Option<Self> {
        spec.no_nulls(sink);
        let selector = Selector::read(&mut spec, "selector", "matchLabels", sink);
        let selector = selector.filter(|selector| !selector.labels.is_empty());
        let mtls = spec.take("mtls");
        let mode = mtls.and_then(|value| read_mode(value, sink));
        let ports = spec.take("portLevelMtls");
        let place = ports.as_ref().map(|value| value.place.clone());
        let ports = ports.and_then(|value| {
            value.map(sink, |value, sink| {
                let place = value.place.clone();
                // Of a mode that cannot be read nothing is kept, and the document is refused.
                let value = read_mode(value, sink);
                Some(At { value, place })
            })
        });
        let ports = numbered(ports.unwrap_or_default(), sink);
        if let Some(place) = place.filter(|_| selector.is_none()) {
            sink.schema(&place, "portLevelMtls needs a selector with labels");
        }
        spec.finish(sink);
        Some(Self { selector, mode, ports })
    }
}

fn numbered(ports: BTreeMap<String, At<Option<Mode>>>, sink: &mut Sink<'_>) -> BTreeMap<u16, Option<Mode>> {
    let mut numbered = BTreeMap::new();
    for (text, mode) in ports {
        match text.parse() {
            Ok(port) if port > 0 => drop(numbered.insert(port, mode.value)),
            _ => not_a_port(&text, &mode.place, sink),
        }
    }
    numbered
}

fn not_a_port(text: &str, place: &Place, sink: &mut Sink<'_>) {
    sink.schema(place, format!("{text:?} is not a port between 1 and 65535"));
}

fn read_mode(value: Value, sink: &mut Sink<'_>) -> Option<Mode> {
    let mut mtls = value.object(sink)?;
    let mode = mtls.string("mode", sink);
    mtls.finish(sink);
    let mode = mode?;
    match mode.as_str() {
        "STRICT" => Some(Mode::Strict),
        "PERMISSIVE" => Some(Mode::Permissive),
        "DISABLE" => Some(Mode::Disable),
        "UNSET" => None,
        other => {
            let message = format!("{other:?} is not one of UNSET, DISABLE, PERMISSIVE, STRICT");
            sink.schema(&mode.place, message);
            None
        }
    }
}
