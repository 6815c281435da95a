//! `WorkloadEntry`: one workload outside of Kubernetes (Istio `networking.istio.io`). The endpoints of a `ServiceEntry`
//! have the same fields.

use std::collections::BTreeMap;

use super::fields::Fields;
use super::value::{At, Sink};
use super::virtual_service::MAX_PORT;

/// Where a workload runs and who it is.
#[derive(Clone, Debug)]
pub struct WorkloadEntry {
    /// Its IP address.
    pub address: At<String>,
    /// Its ports, by the names of its services' ports.
    pub ports: BTreeMap<String, At<u32>>,
    /// Its labels: services and subsets select by them.
    pub labels: BTreeMap<String, String>,
    /// Its service account, in its namespace: the identity its peers expect.
    pub service_account: Option<At<String>>,
    /// Its share among the endpoints of its services.
    pub weight: Option<At<u32>>,
    /// `region/zone/sub-zone`.
    pub locality: Option<At<String>>,
}

impl WorkloadEntry {
    pub(super) fn read(mut spec: Fields, sink: &mut Sink<'_>) -> Option<Self> {
        let address = spec.required_string("address", sink);
        let place = spec.place.clone();
        let entry = Self::read_at(
            At {
                value: String::new(),
                place,
            },
            spec,
            sink,
        );
        Some(Self {
            address: address?,
            ..entry
        })
    }

    /// All but its address.
    pub(super) fn read_at(address: At<String>, mut spec: Fields, sink: &mut Sink<'_>) -> Self {
        let ports = spec.take("ports");
        let ports = ports.and_then(|value| value.map(sink, |port, sink| port.number(MAX_PORT, sink)));
        let labels = spec.labels("labels", sink);
        let service_account = spec.string("serviceAccount", sink).filter(|name| !name.is_empty());
        let weight = spec.take("weight").and_then(|value| value.number(u32::MAX, sink));
        let locality = spec.string("locality", sink);
        spec.unserved(&["network"], sink);
        spec.finish(sink);
        Self {
            address,
            ports: ports.unwrap_or_default(),
            labels,
            service_account,
            weight,
            locality,
        }
    }
}
