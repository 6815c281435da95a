//! `WorkloadGroup`: what workloads are like that register themselves (Istio `networking.istio.io`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::WorkloadEntry;
use super::fields::Fields;
use super::value::{At, Sink};

/// What a workload of a group is, but for its address.
#[derive(Clone, Debug)]
pub struct WorkloadGroup {
    /// Its address is empty.
    template: WorkloadEntry,
}

impl WorkloadGroup {
    pub(super) fn read(mut spec: Fields, sink: &mut Sink<'_>) -> Option<Self> {
        let metadata = spec.take("metadata").and_then(|value| value.object(sink));
        let labels = metadata.map_or_else(BTreeMap::new, |mut metadata| {
            let labels = metadata.labels("labels", sink);
            metadata.labels("annotations", sink);
            metadata.finish(sink);
            labels
        });
        spec.unserved(&["probe"], sink);
        let place = spec.place.clone();
        let template = spec.take("template").and_then(|value| value.object(sink));
        spec.finish(sink);
        let Some(mut template) = template else {
            sink.schema(&place, "template is required");
            return None;
        };
        if let Some(address) = template.string("address", sink).filter(|address| !address.is_empty()) {
            sink.schema(
                &address.place,
                "a template has no address: each workload brings its own",
            );
        }
        let nowhere = At {
            value: String::new(),
            place,
        };
        let mut template = WorkloadEntry::read_at(nowhere, template, sink);
        for (key, value) in labels {
            // What the template says itself counts.
            template.labels.entry(key).or_insert(value);
        }
        Some(Self { template })
    }

    /// The service account of its workloads, where it names one.
    pub fn service_account(&self) -> Option<&str> {
        self.template.service_account.as_ref().map(|name| name.as_str())
    }

    /// The labels that its workloads have.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.template.labels
    }

    /// The workload of the group that is at an address.
    pub fn workload(&self, address: IpAddr) -> WorkloadEntry {
        let mut entry = self.template.clone();
        entry.address.value = address.to_string();
        entry
    }
}
