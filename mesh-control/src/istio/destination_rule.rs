//! `DestinationRule`: the subsets of a service, and how it and they are called (Istio `networking.istio.io`).

use std::collections::BTreeMap;

use super::fields::Fields;
use super::traffic_policy::TrafficPolicy;
use super::value::{At, Place, Sink, Value};

/// What is known of a destination.
#[derive(Clone, Debug)]
pub struct DestinationRule {
    /// The service; a short name is of this rule's namespace.
    pub host: At<String>,
    /// How it is called; `None`: as Istio calls a service of which nothing is said.
    pub policy: Option<TrafficPolicy>,
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
    /// How it is called, block by block in the place of what holds for the service.
    pub policy: Option<TrafficPolicy>,
    /// Where the subset stands.
    pub place: Place,
}

impl DestinationRule {
    pub(super) fn read(mut spec: Fields, sink: &mut Sink<'_>) -> Option<Self> {
        let host = spec.required_string("host", sink);
        let subsets = spec.list("subsets", sink, Subset::read);
        let export_to = spec.strings("exportTo", sink);
        let policy = TrafficPolicy::read(&mut spec, sink);
        spec.refused(
            &["workloadSelector"],
            "the rule would reach clients it is not meant for",
            sink,
        );
        spec.finish(sink);
        refuse_duplicates(&subsets, sink);
        Some(Self {
            host: host?,
            policy,
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
        let policy = TrafficPolicy::read(&mut fields, sink);
        let place = fields.place.clone();
        fields.finish(sink);
        Some(Self {
            name: name?,
            labels,
            policy,
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
