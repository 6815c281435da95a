//! The endpoints of a cluster's services: those of its `EndpointSlice`s, which are somebody by their `Pod`s, and the workload entries that a
//! service selects (Istio).
//!
//! Found by name and not searched for: a cluster has a hundred thousand pods, and each client's namespace is translated for itself.

use std::collections::{BTreeMap, HashMap};

use super::endpoint::{self, DEFAULT_SERVICE_ACCOUNT, Member};
use super::{Findings, Mesh};
use crate::diagnostic::{Code, Severity};
use crate::istio::{Document, Documents, EndpointSlice, Family, KubernetesService, Pod, SliceEndpoint, has_all};

/// The label by which a pod says where it is (Istio).
const LOCALITY: &str = "istio-locality";
/// Labels of an endpoint of which no pod says any.
static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();

/// A namespace and a name.
type Named<'a> = (&'a str, &'a str);

/// The slices by their services, and the pods by their names.
#[derive(Debug)]
pub(super) struct Slices<'a> {
    documents: &'a Documents,
    slices: HashMap<Named<'a>, Vec<&'a Document<EndpointSlice>>>,
    pods: HashMap<Named<'a>, &'a Document<Pod>>,
}

impl<'a> Slices<'a> {
    pub(super) fn new(documents: &'a Documents) -> Self {
        let mut slices: HashMap<_, Vec<_>> = HashMap::new();
        for slice in &documents.endpoint_slices {
            let service = (slice.meta.namespace(), &*slice.spec.service);
            slices.entry(service).or_default().push(slice);
        }
        let pods = documents.pods.iter();
        let pods = pods.map(|pod| ((pod.meta.namespace(), &*pod.meta.name), pod));
        Self {
            documents,
            slices,
            pods: pods.collect(),
        }
    }

    /// The members of a service.
    pub(super) fn members(
        &self,
        service: &'a Document<KubernetesService>,
        mesh: &Mesh,
        findings: &mut Findings,
    ) -> Vec<Member<'a>> {
        let (namespace, spec) = (service.meta.namespace(), &service.spec);
        let slices = self.slices.get(&(namespace, &*service.meta.name));
        let slices = slices.map_or(&[][..], Vec::as_slice);
        // A pod of two families is one endpoint.
        let has = |family| slices.iter().any(|slice| slice.spec.family == Some(family));
        let family = match spec.family {
            Some(family) => family,
            None if has(Family::V4) => Family::V4,
            None => Family::V6,
        };
        let mut members = Vec::new();
        for slice in slices.iter().filter(|slice| slice.spec.family == Some(family)) {
            let endpoints = slice.spec.endpoints.iter();
            for endpoint in endpoints.filter(|endpoint| endpoint.ready || spec.not_ready) {
                members.extend(self.member(slice, endpoint, mesh, findings));
            }
        }
        if !spec.selector.is_empty() {
            let entries = self.documents.workload_entries.iter();
            let selects = |labels| has_all(labels, &spec.selector);
            let entries = entries.filter(|entry| entry.meta.namespace() == namespace && selects(&entry.spec.labels));
            members.extend(entries.filter_map(|entry| {
                let name = Some(&*entry.meta.name);
                endpoint::member((&entry.meta, name, &entry.meta.place), &entry.spec, mesh, findings)
            }));
        }
        members
    }

    /// Where all endpoints of slices are.
    pub(super) fn places(&self) -> impl Iterator<Item = String> {
        let all = self.documents.endpoint_slices.iter();
        let all = all.flat_map(|slice| slice.spec.endpoints.iter().map(move |endpoint| (slice, endpoint)));
        all.map(move |(slice, endpoint)| place_of(endpoint, self.pod(slice, endpoint)))
            .filter(|place| !place.is_empty())
    }

    fn pod(&self, slice: &Document<EndpointSlice>, endpoint: &SliceEndpoint) -> Option<&'a Document<Pod>> {
        let name = endpoint.pod.as_deref()?;
        self.pods.get(&(slice.meta.namespace(), name)).copied()
    }

    fn member(
        &self,
        slice: &'a Document<EndpointSlice>,
        endpoint: &'a SliceEndpoint,
        mesh: &Mesh,
        findings: &mut Findings,
    ) -> Option<Member<'a>> {
        let (meta, namespace) = (&slice.meta, slice.meta.namespace());
        let Ok(address) = endpoint.address.parse() else {
            let message = format!("{:?} is not an IP address", *endpoint.address);
            findings.say(meta, Severity::Error, Code::Schema, &endpoint.address.place, message);
            return None;
        };
        let pod = self.pod(slice, endpoint);
        if pod.is_none() {
            let message = "no Pod document is there for an endpoint: subsets leave it out, and it is taken for the service \
                           account \"default\"";
            findings.say(meta, Severity::Warning, Code::NotFound, &endpoint.place, message);
        }
        let account = pod.and_then(|pod| pod.spec.service_account.as_ref());
        let named = account.map_or(DEFAULT_SERVICE_ACCOUNT, |name| name.as_str());
        let identities = match endpoint::identities(namespace, named, mesh) {
            Ok(identities) => identities,
            Err(message) => {
                let (meta, place) = match (pod, account) {
                    (Some(pod), Some(account)) => (&pod.meta, &account.place),
                    _ => (meta, &endpoint.place),
                };
                findings.say(meta, Severity::Error, Code::Schema, place, message);
                return None;
            }
        };
        Some(Member {
            meta,
            name: None,
            place: &endpoint.place,
            address,
            ports: &slice.spec.ports,
            labels: pod.map_or(&NO_LABELS, |pod| &pod.spec.labels),
            identities,
            weight: 1,
            locality: endpoint::locality(&place_of(endpoint, pod)),
        })
    }
}

/// Where an endpoint of a slice is: as its pod says (Istio's label, with dots), or in its zone.
fn place_of(endpoint: &SliceEndpoint, pod: Option<&Document<Pod>>) -> String {
    let said = pod.and_then(|pod| pod.spec.labels.get(LOCALITY));
    match (said, &endpoint.zone) {
        (Some(said), _) => said.replace('.', "/"),
        (None, Some(zone)) => format!("/{zone}"),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests;
