//! What a control plane asks to be told about a cluster's load, and which share of its calls it wants dropped.

use std::fmt;
use std::sync::Arc;

/// Asks for load reports on a cluster (Envoy `lrs_server`, gRFC A27).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LoadReporting {
    /// The name that the cluster's endpoints go by at the control plane; reports carry it beside the cluster's own.
    pub service: Arc<str>,
    /// Which figures of the endpoints' own reports are passed on. None by default.
    pub metrics: Arc<[ReportedMetric]>,
}

impl LoadReporting {
    /// The named figure that asks how calls ended: the figures that begin so. No endpoint may report one of itself.
    pub const CALLS: &'static str = "mesh.calls";

    /// Reports on calls, and on nothing that the endpoints say of themselves.
    pub fn of(service: impl Into<Arc<str>>) -> Self {
        Self {
            service: service.into(),
            metrics: Arc::default(),
        }
    }

    /// Asks, of clients that can tell it, how the calls ended besides ([`crate::report::calls`]).
    #[must_use]
    pub fn with_calls(mut self) -> Self {
        let asked = ReportedMetric::Named(Self::CALLS.into());
        self.metrics = self.metrics.iter().cloned().chain([asked]).collect();
        self
    }

    /// Whether it is asked how the calls ended.
    pub fn asks_for_calls(&self) -> bool {
        let is_it = |metric: &ReportedMetric| matches!(metric, ReportedMetric::Named(name) if **name == *Self::CALLS);
        self.metrics.iter().any(is_it)
    }

    /// What is asked of the endpoints' own reports.
    pub(crate) fn of_endpoints(&self) -> Arc<[ReportedMetric]> {
        match self.asks_for_calls() {
            false => Arc::clone(&self.metrics),
            true => {
                let own =
                    |metric: &&ReportedMetric| !matches!(metric, ReportedMetric::Named(name) if **name == *Self::CALLS);
                self.metrics.iter().filter(own).cloned().collect()
            }
        }
    }
}

/// A figure of an endpoint's own report (ORCA) that is passed on (Envoy `lrs_report_endpoint_metrics`, gRFC A85).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReportedMetric {
    /// `cpu_utilization`
    CpuUtilization,
    /// `mem_utilization`
    MemUtilization,
    /// `application_utilization`
    ApplicationUtilization,
    /// Every key of `named_metrics`: `named_metrics.*`.
    AllNamed,
    /// One key of `named_metrics`.
    Named(Box<str>),
}

impl ReportedMetric {
    const NAMED: &'static str = "named_metrics.";

    /// Reads a name as the control plane writes it; `None` for one that is not known here (gRFC A85: ignored).
    ///
    /// ```
    /// use mesh_core::config::ReportedMetric;
    /// assert_eq!(ReportedMetric::parse("named_metrics.queue"), Some(ReportedMetric::Named("queue".into())));
    /// assert_eq!(ReportedMetric::parse("request_cost.*"), None);
    /// ```
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "cpu_utilization" => Some(Self::CpuUtilization),
            "mem_utilization" => Some(Self::MemUtilization),
            "application_utilization" => Some(Self::ApplicationUtilization),
            _ => match name.strip_prefix(Self::NAMED)? {
                "" => None,
                "*" => Some(Self::AllNamed),
                key => Some(Self::Named(key.into())),
            },
        }
    }
}

impl fmt::Display for ReportedMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CpuUtilization => f.write_str("cpu_utilization"),
            Self::MemUtilization => f.write_str("mem_utilization"),
            Self::ApplicationUtilization => f.write_str("application_utilization"),
            Self::AllNamed => write!(f, "{}*", Self::NAMED),
            Self::Named(key) => write!(f, "{}{key}", Self::NAMED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in [
            "cpu_utilization",
            "mem_utilization",
            "application_utilization",
            "named_metrics.*",
            "named_metrics.queue.depth",
        ] {
            assert_eq!(
                ReportedMetric::parse(name).map(|metric| metric.to_string()).as_deref(),
                Some(name)
            );
        }
        for unknown in ["", "eps", "named_metrics", "named_metrics.", "utilization.gpu"] {
            assert_eq!(ReportedMetric::parse(unknown), None, "{unknown}");
        }
    }
}
