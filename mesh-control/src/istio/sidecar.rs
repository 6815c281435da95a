//! `Sidecar`: which services the clients of a namespace see (Istio `networking.istio.io`).
//!
//! What it says of listeners, of captured traffic and of the server's own ports is for a proxy. What is seen is for everybody: it is what keeps
//! the configuration of a large mesh small.

use super::fields::Fields;
use super::value::{At, Sink, Value};
use super::values::Selector;
use crate::diagnostic::{Code, Severity};

/// What clients see.
#[derive(Clone, Debug)]
pub struct Sidecar {
    /// Whose clients are meant; `None`: all of the namespace, or of the mesh.
    pub selector: Option<Selector>,
    /// What they see; `None`: everything.
    pub egress: Option<Vec<Import>>,
}

/// Services that are seen.
#[derive(Clone, Debug)]
pub struct Import {
    /// Their namespace: its name, `*` for all, `.` for the client's own, `~` for none.
    pub namespace: Box<str>,
    /// Their host: a full name, `*.suffix`, or `*` for all.
    pub host: At<String>,
}

impl Sidecar {
    pub(super) fn read(mut spec: Fields, sink: &mut Sink<'_>) -> Option<Self> {
        let selector = Selector::read(&mut spec, "workloadSelector", "labels", sink);
        if let Some(selector) = &selector {
            let message =
                "which labels a client has is not known here: a Sidecar for some of a namespace has no effect";
            sink.say(Severity::Warning, Code::NotServed, &selector.place, message);
        }
        let mut imports = Vec::new();
        let listeners = spec.list("egress", sink, |value, sink| {
            let mut fields = value.object(sink)?;
            let place = fields.place.clone();
            let hosts = fields.strings("hosts", sink);
            fields.unserved(&["port", "bind", "captureMode"], sink);
            fields.finish(sink);
            if hosts.is_empty() {
                sink.schema(&place, "hosts is required: at least one, as ./* or */*");
            }
            imports.extend(hosts.into_iter().filter_map(|host| Import::read(host, sink)));
            Some(())
        });
        read_outbound(&mut spec, sink);
        spec.unserved(&["ingress", "inboundConnectionPool"], sink);
        spec.finish(sink);
        Some(Self {
            selector,
            egress: (!listeners.is_empty()).then_some(imports),
        })
    }
}

/// Names that no document knows are called by code that may, whatever is written here; who must not be is in the mode for none.
fn read_outbound(spec: &mut Fields, sink: &mut Sink<'_>) {
    let Some(mut policy) = spec.take("outboundTrafficPolicy").and_then(|value| value.object(sink)) else {
        return;
    };
    let mode = policy.take("mode").and_then(|value: Value| value.string(sink));
    policy.unserved(&["egressProxy"], sink);
    policy.finish(sink);
    if let Some(mode) = mode.filter(|mode| mode.as_str() != "REGISTRY_ONLY") {
        let message = "hosts that no document knows are not routed here: only code may ask for them, by building a channel that does";
        sink.say(Severity::Warning, Code::NotServed, &mode.place, message);
    }
}

impl Import {
    fn read(text: At<String>, sink: &mut Sink<'_>) -> Option<Self> {
        let Some((namespace, host)) = text
            .split_once('/')
            .filter(|(left, right)| !left.is_empty() && !right.is_empty())
        else {
            let message = format!("{:?} is not of the form NAMESPACE/HOST", *text);
            sink.schema(&text.place, message);
            return None;
        };
        if namespace.len() > 1 && namespace.starts_with('~') {
            let message = "leaving hosts out is not served by this version: it has no effect, and they are seen";
            sink.say(Severity::Warning, Code::NotServed, &text.place, message);
            return None;
        }
        let (namespace, host) = (namespace.into(), host.to_ascii_lowercase());
        Some(Self {
            namespace,
            host: At {
                value: host,
                place: text.place,
            },
        })
    }
}
