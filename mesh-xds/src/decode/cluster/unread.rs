//! What a cluster may say that is not looked at here: refused where calls would go to hosts that nobody meant, else told in a note, so
//! that whoever wrote it learns that it does nothing.

use crate::decode::{Fault, Notes};
use crate::proto::cluster::Cluster as Proto;

/// The filter that istiod puts on every cluster of a sidecar: it tells the peer's labels, which here the certificate and the control plane do.
const METADATA_EXCHANGE: &str = "istio.metadata_exchange";

/// With subsets a call may go to those hosts only that its route's `metadata_match` names: to any of them would be to another version.
/// Istio makes clusters of its subsets.
pub(super) fn refuse(proto: &Proto) -> Result<(), Fault> {
    match &proto.lb_subset_config {
        Some(subsets) if !subsets.subset_selectors.is_empty() => {
            Err(Fault::new("lb_subset_config", "is not supported"))
        }
        _ => Ok(()),
    }
}

#[allow(deprecated, reason = "what older control planes write")]
pub(super) fn note(proto: &Proto, notes: &mut Notes) {
    let unread = [
        ("health_checks", !proto.health_checks.is_empty()),
        ("upstream_bind_config", proto.upstream_bind_config.is_some()),
        ("preconnect_policy", proto.preconnect_policy.is_some()),
        (
            "connection_pool_per_downstream_connection",
            proto.connection_pool_per_downstream_connection,
        ),
        (
            "close_connections_on_host_health_failure",
            proto.close_connections_on_host_health_failure,
        ),
        ("ignore_health_on_host_removal", proto.ignore_health_on_host_removal),
        ("use_tcp_for_dns_lookups", proto.use_tcp_for_dns_lookups),
        ("typed_dns_resolver_config", proto.typed_dns_resolver_config.is_some()),
        ("upstream_config", proto.upstream_config.is_some()),
    ];
    for (what, _) in unread.iter().filter(|(_, present)| *present) {
        notes.add(format_args!("{what} is not applied"));
    }
    for filter in &proto.filters {
        if filter.name != METADATA_EXCHANGE {
            notes.add(format_args!("the filter {:?} is not applied", filter.name));
        }
    }
}
