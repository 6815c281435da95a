//! `Cluster`: how it is called, and how its endpoints are found (gRFCs A27, A37; Envoy's kinds as istiod sends them).

use std::sync::Arc;

use mesh_core::config::{Cluster, LoadReporting, ReportedMetric, TlsMatch, TlsMode};

use super::common::{duration, from_this_stream};
use super::{Context, Fault, Notes, Resource, metadata, tls};
use crate::proto::cluster::Cluster as Proto;
use crate::resource::{ClusterSpec, Discovery, ResourceKind};

mod breakers;
mod client_weights;
mod common_lb;
mod discovery;
mod dns;
mod lb;
mod outlier;
mod protocol;
mod retries;
mod slow_start;
mod unread;
mod unserved;

/// The most entries of `transport_socket_matches`: istiod writes two, and each endpoint is held against all of them.
const MAX_TLS_MATCHES: usize = 32;

impl Resource for ClusterSpec {
    const KIND: ResourceKind = ResourceKind::Cluster;
    type Proto = Proto;

    fn name(proto: &Proto) -> &str {
        &proto.name
    }

    fn decode(proto: &Proto, context: &Context, notes: &mut Notes) -> Result<Self, Fault> {
        unread::refuse(proto)?;
        unread::note(proto, notes);
        if let Some(why) = unserved::reason(proto, context) {
            notes.add(format_args!("calls to it are refused: {why}"));
            return Ok(Self {
                cluster: Cluster::new(proto.name.as_str(), TlsMode::Plaintext, Vec::new()),
                discovery: Discovery::Unserved(why.into()),
            });
        }
        let discovery = discovery::discovery(proto, context, notes)?;
        let by_authority = discovery == Discovery::OriginalDestination;
        let (lb, around) = lb::policy(proto, notes)?;
        // Nobody chooses among endpoints where the request says where it goes, whatever else is written there.
        let (lb, around) = match by_authority {
            true => (lb::FALLBACK, lb::Around::default()),
            false => (lb, around),
        };
        let cluster = Cluster {
            by_authority,
            lb,
            common_lb: common_lb::common_lb(proto, around, context, notes)?,
            tls_matches: tls_matches(proto, context, notes)?,
            connect_timeout: match &proto.connect_timeout {
                None => Cluster::DEFAULT_CONNECT_TIMEOUT,
                Some(timeout) => match duration("connect_timeout", timeout)? {
                    zero if zero.is_zero() => return Err(Fault::new("connect_timeout", "must be more than 0")),
                    timeout => timeout,
                },
            },
            connections: Arc::new(protocol::connections(proto, context.profile, notes)?),
            breakers: breakers::breakers(proto.circuit_breakers.as_ref(), context, notes)
                .map_err(|fault| fault.within("circuit_breakers"))?,
            outlier: match &proto.outlier_detection {
                None => None,
                Some(detection) => {
                    let read = outlier::outlier(detection, context, notes);
                    Some(read.map_err(|fault| fault.within("outlier_detection"))?)
                }
            },
            load_reporting: load_reporting(proto, notes)?,
            service: metadata::service(proto.metadata.as_ref()).map(Arc::new),
            ..Cluster::new(proto.name.as_str(), tls_mode(proto, context, notes)?, Vec::new())
        };
        Ok(Self { cluster, discovery })
    }
}

/// The most figures of its endpoints that a cluster asks for: each is compared with what every answer carries.
const MAX_METRICS: usize = 64;

/// Load is reported to who asks for it, over the connection that the cluster came by, and nowhere else (gRFC A27).
fn load_reporting(proto: &Proto, notes: &mut Notes) -> Result<Option<LoadReporting>, Fault> {
    if proto.lrs_server.is_none() {
        return Ok(None);
    }
    from_this_stream("lrs_server", proto.lrs_server.as_ref())?;
    let mut metrics = Vec::new();
    for name in &proto.lrs_report_endpoint_metrics {
        match ReportedMetric::parse(name) {
            Some(metric) if metrics.len() < MAX_METRICS => metrics.push(metric),
            // Ignored, so that a newer control plane is understood (gRFC A85).
            _ => notes.add(format_args!("{name:?} of lrs_report_endpoint_metrics is not reported")),
        }
    }
    // What its endpoints go by (gRFC A27), where they are a resource at all.
    let service = proto.eds_cluster_config.as_ref().map(|eds| eds.service_name.as_str());
    let service = service.filter(|name| !name.is_empty()).unwrap_or(&proto.name);
    Ok(Some(LoadReporting {
        metrics: metrics.into(),
        ..LoadReporting::of(service)
    }))
}

fn tls_mode(proto: &Proto, context: &Context, notes: &mut Notes) -> Result<TlsMode, Fault> {
    // Ignoring it would send in the clear what the control plane meant to be encrypted.
    if proto.transport_socket_matcher.is_some() {
        return Err(Fault::new("transport_socket_matcher", "is not supported"));
    }
    match &proto.transport_socket {
        None => Ok(TlsMode::Plaintext),
        Some(socket) => tls::upstream(socket, context, notes)
            .map(|mode| named(mode, &proto.name))
            .map_err(|fault| fault.within("transport_socket")),
    }
}

/// A server outside of the mesh whose name is not said is called by that of its service, which Istio's names of clusters end
/// with: Istio has the proxy take it from each request (`auto_sni`), which is for the same service.
fn named(mut mode: TlsMode, cluster: &str) -> TlsMode {
    if let TlsMode::Origination(outside) = &mut mode
        && outside.sni.is_none()
        && let [_, _, _, host] = cluster.split('|').collect::<Vec<_>>()[..]
        // One of many hosts is none that could be called by its name.
        && !host.is_empty()
        && !host.contains('*')
    {
        outside.sni = Some(host.into());
    }
    mode
}

/// Honoured in both profiles. grpc-go refuses them and C-core ignores them, which sends in the clear what was meant to be
/// encrypted.
fn tls_matches(proto: &Proto, context: &Context, notes: &mut Notes) -> Result<Arc<[TlsMatch]>, Fault> {
    let all = &proto.transport_socket_matches;
    if all.len() > MAX_TLS_MATCHES {
        let reason = format!("has more than {MAX_TLS_MATCHES} entries");
        return Err(Fault::new("transport_socket_matches", reason));
    }
    let mut matches = Vec::with_capacity(all.len());
    for (index, one) in all.iter().enumerate() {
        let at = |fault: Fault| fault.within(format_args!("transport_socket_matches[{index}]"));
        let mode = match &one.transport_socket {
            // Envoy: a match without a socket is one in the clear.
            None => TlsMode::Plaintext,
            Some(socket) => {
                let mode = tls::upstream(socket, context, notes);
                named(mode.map_err(|fault| at(fault.within("transport_socket")))?, &proto.name)
            }
        };
        matches.push(TlsMatch {
            name: one.name.as_str().into(),
            when: metadata::criteria(one.r#match.as_ref()).map_err(at)?,
            mode,
        });
    }
    Ok(matches.into())
}
