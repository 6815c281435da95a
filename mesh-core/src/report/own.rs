//! What the process tells of itself besides Istio's metrics: what it counted that is rare, and how old its certificate and its
//! configuration are. What a crate has to tell of its own parts it writes itself ([`Expose`](super::Expose)).

use std::time::Instant;

use super::{Exposition, FamilyKind};
use crate::Link;

/// Writes the families of `link`.
pub(crate) fn expose(link: &Link, now: Instant, out: &mut Exposition) {
    let events = link.tally().all();
    out.family(
        "mesh_events_total",
        FamilyKind::Counter,
        "Rare things that happened, and why: refused handshakes, failed connections, retries by their fate.",
    );
    for (event, reason, count) in events {
        out.labelled(&[("event", event), ("reason", reason)], count);
    }
    if let Ok(identity) = &**link.identity().load() {
        out.family(
            "mesh_certificate_expiry_timestamp_seconds",
            FamilyKind::Gauge,
            "When the certificate of this process ends, in seconds since 1970.",
        );
        out.labelled(&[], identity.svid().not_after().as_secs());
    }
    if let Some(heard) = link.last_heard() {
        out.family(
            "mesh_config_age_seconds",
            FamilyKind::Gauge,
            "Since when nothing was heard of the configuration, whether or not there was anything new in it.",
        );
        out.labelled(&[], now.saturating_duration_since(heard).as_secs_f64());
    }
    out.family(
        "mesh_config_version",
        FamilyKind::Gauge,
        "The number of the configuration: published, and applied to calls.",
    );
    for (stage, version) in [
        ("published", link.snapshots().load().version()),
        ("applied", **link.applied().load()),
    ] {
        out.labelled(&[("stage", stage)], version);
    }
}
