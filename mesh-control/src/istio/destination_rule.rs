//! `DestinationRule`: the subsets of a service (Istio `networking.istio.io`). Of its traffic policies this version serves
//! none; those that concern security are refused rather than ignored.

use std::collections::BTreeMap;

use super::fields::Fields;
use super::value::{At, Place, Sink, Value};

/// What is known of a destination.
#[derive(Clone, Debug)]
pub struct DestinationRule {
    /// The service; a short name is of this rule's namespace.
    pub host: At<String>,
    /// Its subsets.
    pub subsets: Vec<Subset>,
    /// The namespaces that see the rule; empty means all.
    pub export_to: Vec<At<String>>,
}

/// A part of a service's endpoints.
#[derive(Clone, Debug)]
pub struct Subset {
    /// What routes call it.
    pub name: At<String>,
    /// An endpoint belongs to it when it has all of these; none means every endpoint.
    pub labels: BTreeMap<String, String>,
    /// Where the subset stands.
    pub place: Place,
}

impl DestinationRule {
    pub(super) fn read(mut spec: Fields, sink: &mut Sink<'_>) -> Option<Self> {
        let host = spec.required_string("host", sink);
        let subsets = spec.list("subsets", sink, Subset::read);
        let export_to = spec.strings("exportTo", sink);
        read_policy(&mut spec, sink);
        spec.refused(
            &["workloadSelector"],
            "the rule would reach clients it is not meant for",
            sink,
        );
        spec.finish(sink);
        refuse_duplicates(&subsets, sink);
        Some(Self {
            host: host?,
            subsets,
            export_to,
        })
    }
}

impl Subset {
    fn read(value: Value, sink: &mut Sink<'_>) -> Option<Self> {
        let mut fields = value.object(sink)?;
        let name = fields.required_string("name", sink);
        let labels = fields.labels("labels", sink);
        read_policy(&mut fields, sink);
        let place = fields.place.clone();
        fields.finish(sink);
        Some(Self {
            name: name?,
            labels,
            place,
        })
    }
}

fn refuse_duplicates(subsets: &[Subset], sink: &mut Sink<'_>) {
    for (index, subset) in subsets.iter().enumerate() {
        if subsets[..index].iter().any(|other| *other.name == *subset.name) {
            let message = format!("subset {:?} is defined twice in this rule", *subset.name);
            sink.schema(&subset.name.place, message);
        }
    }
}

/// Warns of policies without effect, and refuses TLS settings other than the one the mesh always uses.
fn read_policy(fields: &mut Fields, sink: &mut Sink<'_>) {
    let Some(mut policy) = fields.take("trafficPolicy").and_then(|value| value.object(sink)) else {
        return;
    };
    read_tls(&mut policy, sink);
    let port_level = "its TLS settings cannot be told from the rest";
    policy.refused(&["portLevelSettings"], port_level, sink);
    let effect_free = [
        "loadBalancer",
        "connectionPool",
        "outlierDetection",
        "tunnel",
        "proxyProtocol",
        "retryBudget",
    ];
    policy.unserved(&effect_free, sink);
    policy.finish(sink);
}

fn read_tls(policy: &mut Fields, sink: &mut Sink<'_>) {
    let Some(mut tls) = policy.take("tls").and_then(|value| value.object(sink)) else {
        return;
    };
    if let Some(mode) = tls.string("mode", sink) {
        match mode.as_str() {
            // What every endpoint of the mesh gets anyway.
            "ISTIO_MUTUAL" => {}
            "DISABLE" | "SIMPLE" | "MUTUAL" => {
                let message = format!(
                    "mode {} is not served by this version: the mesh stays ISTIO_MUTUAL",
                    *mode
                );
                sink.say(
                    crate::diagnostic::Severity::Error,
                    crate::diagnostic::Code::Refused,
                    &mode.place,
                    message,
                );
            }
            other => sink.schema(
                &mode.place,
                format!("{other:?} is not one of DISABLE, SIMPLE, MUTUAL, ISTIO_MUTUAL"),
            ),
        }
    }
    let fields = [
        "clientCertificate",
        "privateKey",
        "caCertificates",
        "caCrl",
        "credentialName",
        "subjectAltNames",
        "sni",
        "insecureSkipVerify",
    ];
    tls.refused(&fields, "peers would be verified differently than it says", sink);
    tls.finish(sink);
}
