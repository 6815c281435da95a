//! Everything that a series says of a pair: Istio's labels but for those of each call's end.

use std::sync::Arc;

use super::{Service, UNKNOWN, Workload};
use crate::identity::SpiffeId;
use crate::report::exposition::Labels;

/// Who counts: the label `reporter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reporter {
    /// The caller.
    Source,
    /// The called.
    Destination,
}

/// A pair of workloads, as one of them sees it. Compared by value: who counts under equal labels counts in one place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EdgeLabels {
    /// Who counts.
    pub reporter: Reporter,
    /// The caller.
    pub source: Arc<Workload>,
    /// Whose certificate it showed, if any.
    pub source_principal: Option<SpiffeId>,
    /// The called.
    pub destination: Arc<Workload>,
    /// Whose certificate it showed, if any.
    pub destination_principal: Option<SpiffeId>,
    /// What was called for.
    pub service: Arc<Service>,
}

impl EdgeLabels {
    /// Of two workloads without certificates, and of no service.
    pub fn new(reporter: Reporter, source: impl Into<Arc<Workload>>, destination: impl Into<Arc<Workload>>) -> Self {
        Self {
            reporter,
            source: source.into(),
            source_principal: None,
            destination: destination.into(),
            destination_principal: None,
            service: Arc::new(Service::unknown()),
        }
    }

    /// Whether both showed a certificate to the other.
    #[inline]
    pub fn is_mutual_tls(&self) -> bool {
        self.source_principal.is_some() && self.destination_principal.is_some()
    }

    /// The label `connection_security_policy`. A caller says `unknown`, whatever it knows: Istio's dashboards split what callers say
    /// by the peer's principal instead, and would count the same calls twice.
    fn security(&self) -> &'static str {
        match self.reporter {
            Reporter::Source => UNKNOWN,
            Reporter::Destination if self.is_mutual_tls() => "mutual_tls",
            Reporter::Destination => "none",
        }
    }

    /// As text, ready to be written before the labels of an end.
    pub(super) fn write(&self) -> Labels {
        let principal = |id: &Option<SpiffeId>| id.as_ref().map_or(UNKNOWN, SpiffeId::as_str).to_owned();
        let (source, destination) = (&self.source, &self.destination);
        let mut labels = Labels::default();
        let reporter = match self.reporter {
            Reporter::Source => "source",
            Reporter::Destination => "destination",
        };
        for (name, value) in [
            ("reporter", reporter),
            ("source_workload", source.name()),
            ("source_canonical_service", source.canonical_name()),
            ("source_canonical_revision", source.canonical_revision()),
            ("source_workload_namespace", source.namespace()),
            ("source_principal", &principal(&self.source_principal)),
            ("source_app", source.app()),
            ("source_version", source.version()),
            ("source_cluster", source.cluster()),
            ("destination_workload", destination.name()),
            ("destination_workload_namespace", destination.namespace()),
            ("destination_principal", &principal(&self.destination_principal)),
            ("destination_app", destination.app()),
            ("destination_version", destination.version()),
            ("destination_service", self.service.host()),
            ("destination_canonical_service", destination.canonical_name()),
            ("destination_canonical_revision", destination.canonical_revision()),
            ("destination_service_name", self.service.name()),
            ("destination_service_namespace", self.service.namespace()),
            ("destination_cluster", destination.cluster()),
        ] {
            labels.add(name, value);
        }
        labels
    }

    pub(super) fn write_security(&self, labels: &mut Labels) {
        labels.add("connection_security_policy", self.security());
    }
}
