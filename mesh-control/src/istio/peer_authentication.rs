//! `PeerAuthentication`: whether a workload takes plaintext (Istio `security.istio.io`).
//!
//! This version serves STRICT only, everywhere. A document that asks for less is refused: a mesh that silently stays
//! stricter surprises, one that silently becomes laxer is a hole.

use super::fields::Fields;
use super::value::Sink;
use super::values::Selector;
use crate::diagnostic::{Code, Severity};

/// Whether plaintext is taken.
#[derive(Clone, Debug)]
pub struct PeerAuthentication {
    /// The workloads it means; `None`: its whole namespace, or the mesh when that is the root namespace.
    pub selector: Option<Selector>,
}

impl PeerAuthentication {
    pub(super) fn read(mut spec: Fields, sink: &mut Sink<'_>) -> Option<Self> {
        let selector = Selector::read(&mut spec, "selector", "matchLabels", sink);
        if let Some(mut mtls) = spec.take("mtls").and_then(|value| value.object(sink)) {
            read_mode(&mut mtls, sink);
            mtls.finish(sink);
        }
        spec.refused(&["portLevelMtls"], "the mesh stays STRICT on every port", sink);
        spec.finish(sink);
        Some(Self { selector })
    }
}

fn read_mode(mtls: &mut Fields, sink: &mut Sink<'_>) {
    let Some(mode) = mtls.string("mode", sink) else { return };
    match mode.as_str() {
        "STRICT" | "UNSET" => {}
        "PERMISSIVE" | "DISABLE" => {
            let message = format!("mode {} is not served by this version: the mesh stays STRICT", *mode);
            sink.say(Severity::Error, Code::Refused, &mode.place, message);
        }
        other => {
            let message = format!("{other:?} is not one of UNSET, DISABLE, PERMISSIVE, STRICT");
            sink.schema(&mode.place, message);
        }
    }
}
