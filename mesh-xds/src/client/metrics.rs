//! What gRPC's xDS clients count (gRFC A78, cache states of A88), as OpenTelemetry metrics; and three of ours, for the copy
//! on disk, for how old the configuration may be, and for how long the workload's certificate lasts.
//!
//! The numbers are those of the [`Report`](super::Report); the instruments only read it when somebody collects. So a metric
//! costs a call nothing, and a process without a meter provider pays nothing at all. A78's instruments are off unless asked
//! for; here that is the choice of whoever installs a provider.
//!
//! A callback cannot be taken back from a meter. It holds the client's status weakly, and is silent when the client is gone.
//!
//! | label | value |
//! |---|---|
//! | `grpc.target` | [`TARGET`]: gRPC has a client per target, this process has one for all |
//! | `grpc.xds.server` | the control plane's URI; entries of one URI that differ in credentials or features are one series: counts are added, and it is connected when all are |
//! | `grpc.xds.authority` | [`OLD_STYLE`], or the authority of an `xdstp:` name |
//! | `grpc.xds.resource_type` | the type's name, such as `envoy.config.listener.v3.Listener` |
//! | `grpc.xds.cache_state` | see [`CacheState::label`](super::CacheState::label) |

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use mesh_core::Link;
use mesh_core::link::WeakLink;
use opentelemetry::metrics::{AsyncInstrument, Meter};
use opentelemetry::{Key, KeyValue};
use tokio::time::Instant;

use super::report::{Connection, Report, ResourceStatus};
use super::status::ConfigStatus;
use super::updates::Updates;
use crate::convention::{self, SCOPE as TARGET};
use crate::resource::ResourceKind;

/// The authority of names that have none (A78).
const OLD_STYLE: &str = "#old";

/// Registers the instruments. They show `status` as long as somebody else keeps it.
pub(super) fn register(meter: &Meter, status: &Arc<ConfigStatus>) {
    let observe = |observe: fn(&Report, &dyn AsyncInstrument<u64>)| observer(status, observe);
    meter
        .u64_observable_gauge("grpc.xds_client.connected")
        .with_description("Whether there is a working ADS stream to the control plane.")
        .with_unit("{bool}")
        .with_callback(observe(connected))
        .build();
    meter
        .u64_observable_counter("grpc.xds_client.server_failure")
        .with_description("How often the control plane went from healthy to failing.")
        .with_unit("{failure}")
        .with_callback(observe(server_failure))
        .build();
    meter
        .u64_observable_counter("grpc.xds_client.resource_updates_valid")
        .with_description("Good resources that came, changed or not.")
        .with_unit("{resource}")
        .with_callback(observe(|report, instrument| {
            updates(report, instrument, Updates::valid)
        }))
        .build();
    meter
        .u64_observable_counter("grpc.xds_client.resource_updates_invalid")
        .with_description("Resources that came and were refused.")
        .with_unit("{resource}")
        .with_callback(observe(|report, instrument| {
            updates(report, instrument, Updates::invalid)
        }))
        .build();
    meter
        .u64_observable_gauge("grpc.xds_client.resources")
        .with_description("Resources that are subscribed to, by how they stand.")
        .with_unit("{resource}")
        .with_callback(observe(resources))
        .build();
    meter
        .u64_observable_gauge("mesh.xds_client.served_from_disk")
        .with_description(
            "Whether something that is wanted comes from the copy on disk, because no control plane has told it.",
        )
        .with_unit("{bool}")
        .with_callback(observe(served_from_disk))
        .build();
    meter
        .u64_observable_gauge("mesh.xds_client.config_age")
        .with_description(
            "Time since any control plane was last heard. It grows while nothing changes, too: an alarm asks for connected as well.",
        )
        .with_unit("s")
        .with_callback(observe(config_age))
        .build();
}

/// Registers the life that is left of the workload's certificate, by the link's clock. It is not there while there is no identity,
/// and silent when the link is gone.
pub(super) fn register_identity(meter: &Meter, link: WeakLink) {
    meter
        .u64_observable_gauge("mesh.identity.seconds_to_expiry")
        .with_description("How long the workload's certificate is still valid. Renewal begins at half of its life.")
        .with_unit("s")
        .with_callback(move |instrument| {
            if let Some(left) = link.upgrade().as_ref().and_then(seconds_to_expiry) {
                instrument.observe(left, &[]);
            }
        })
        .build();
}

fn seconds_to_expiry(link: &Link) -> Option<u64> {
    let standing = link.identity().load();
    let end = standing.as_ref().as_ref().ok()?.svid().not_after().as_secs();
    Some(end.saturating_sub(link.wall_clock().current_time()?.as_secs()))
}

fn observer(
    status: &Arc<ConfigStatus>,
    observe: fn(&Report, &dyn AsyncInstrument<u64>),
) -> impl Fn(&dyn AsyncInstrument<u64>) + Send + Sync + 'static {
    let status: Weak<ConfigStatus> = Arc::downgrade(status);
    move |instrument| {
        if let Some(status) = status.upgrade() {
            observe(&status.report(), instrument);
        }
    }
}

/// The control planes that were asked for something. One that is only a fallback is not there until it is needed.
fn servers(report: &Report) -> impl Iterator<Item = &Connection> {
    let asked = |one: &&Connection| one.streams > 0 || one.attempts > 0 || one.failures > 0;
    report.connections.iter().filter(asked)
}

/// 1 from the first stream on; 0 while attempts end unheard; a stream that was heard of and ended changes nothing (A78).
fn connected(report: &Report, instrument: &dyn AsyncInstrument<u64>) {
    let is_working = |one: &Connection| u64::from(one.streams > 0 && !one.is_failing);
    for (uri, working) in by_server(report, is_working, u64::min) {
        instrument.observe(working, &[target(), server(uri)]);
    }
}

/// A figure of each control plane by its URI, which is all that the label says (A78): a bootstrap may name one address twice,
/// with other credentials, and a collector would take one of two equal series for the other.
fn by_server(
    report: &Report,
    figure: impl Fn(&Connection) -> u64,
    together: fn(u64, u64) -> u64,
) -> BTreeMap<&str, u64> {
    let mut figures = BTreeMap::new();
    for connection in servers(report) {
        let one = figure(connection);
        let uri = connection.server.as_str();
        figures
            .entry(uri)
            .and_modify(|known| *known = together(*known, one))
            .or_insert(one);
    }
    figures
}

fn server_failure(report: &Report, instrument: &dyn AsyncInstrument<u64>) {
    for (uri, failures) in by_server(report, |one| one.failures, u64::saturating_add) {
        instrument.observe(failures, &[target(), server(uri)]);
    }
}

fn updates(report: &Report, instrument: &dyn AsyncInstrument<u64>, count: fn(&Updates, ResourceKind) -> u64) {
    for kind in ResourceKind::ALL {
        for (uri, sum) in by_server(report, |one| count(&one.updates, kind), u64::saturating_add) {
            instrument.observe(sum, &[target(), server(uri), resource_type(kind)]);
        }
    }
}

fn resources(report: &Report, instrument: &dyn AsyncInstrument<u64>) {
    let mut counts: BTreeMap<(&str, ResourceKind, &'static str), u64> = BTreeMap::new();
    // What was refused without a name is none of those that are subscribed to.
    for resource in report.resources.values().filter(|resource| !resource.name.is_empty()) {
        *counts.entry(place(resource)).or_default() += 1;
    }
    for ((authority, kind, state), count) in counts {
        let labels = [
            target(),
            label("grpc.xds.authority", authority),
            resource_type(kind),
            label("grpc.xds.cache_state", state),
        ];
        instrument.observe(count, &labels);
    }
}

fn served_from_disk(report: &Report, instrument: &dyn AsyncInstrument<u64>) {
    if let Some(disk) = &report.disk {
        instrument.observe(u64::from(disk.serving.is_some()), &[target()]);
    }
}

/// Not there before something was heard.
pub(super) fn config_age(report: &Report, instrument: &dyn AsyncInstrument<u64>) {
    if let Some(age) = report.age(Instant::now().into_std()) {
        instrument.observe(age.as_secs(), &[target()]);
    }
}

fn place(resource: &ResourceStatus) -> (&str, ResourceKind, &'static str) {
    let authority = resource.name.strip_prefix("xdstp://");
    let authority = authority.and_then(|rest| rest.split('/').next()).unwrap_or(OLD_STYLE);
    let state = resource.state.label(resource.accepted.is_some());
    (authority, resource.kind, state)
}

fn target() -> KeyValue {
    label("grpc.target", TARGET)
}

fn server(uri: &str) -> KeyValue {
    label("grpc.xds.server", uri)
}

fn resource_type(kind: ResourceKind) -> KeyValue {
    label("grpc.xds.resource_type", convention::type_name(kind.type_url()))
}

fn label(key: &'static str, value: &str) -> KeyValue {
    KeyValue::new(Key::from_static_str(key), value.to_owned())
}

#[cfg(test)]
mod tests {
    use mesh_core::config::{Reason, ReasonKind};
    use mesh_core::link::Parts;
    use mesh_core::testing::{NOT_AFTER_SECONDS, SettableClock, TestCa};

    use super::*;

    #[test]
    fn what_is_left_of_a_certificate_is_by_the_links_clock_and_not_there_without_one() {
        let clock = SettableClock::at(NOT_AFTER_SECONDS - 90);
        let (source, link) = Link::new(Parts {
            wall_clock: Arc::new(clock.clone()),
            ..Parts::default()
        });
        assert_eq!(seconds_to_expiry(&link), None);
        let identity = TestCa::new("d").identity("spiffe://d/a");
        source.identity.publish(Ok(identity));
        assert_eq!(seconds_to_expiry(&link), Some(90));
        clock.set(NOT_AFTER_SECONDS + 1);
        assert_eq!(seconds_to_expiry(&link), Some(0));
        let reason = Reason::new(ReasonKind::NoIdentity, "ended");
        source.identity.publish(Err(reason));
        assert_eq!(seconds_to_expiry(&link), None);
    }

    #[test]
    fn control_planes_of_one_address_are_one_series() {
        let connection = |server: &str, failures, is_failing| Connection {
            server: server.into(),
            streams: 1,
            failures,
            is_failing,
            ..Connection::default()
        };
        let report = Report {
            connections: vec![
                connection("a:1", 2, false),
                connection("b:1", 5, false),
                connection("a:1", 3, true),
            ],
            ..Report::default()
        };
        let failures = by_server(&report, |one| one.failures, u64::saturating_add);
        assert_eq!(failures, [("a:1", 5), ("b:1", 5)].into());
        let working = by_server(&report, |one| u64::from(!one.is_failing), u64::min);
        assert_eq!(working, [("a:1", 0), ("b:1", 1)].into());
    }
}
