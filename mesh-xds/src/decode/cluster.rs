//! `Cluster`: of type EDS only in this house (gRFC A27); other kinds of discovery are refused.

use mesh_core::config::{Cluster, TlsMode};

use super::common::{duration, from_this_stream};
use super::{Context, Fault, Notes, Resource, lb, tls};
use crate::proto::cluster::{
    CircuitBreakers, Cluster as Proto,
    cluster::{ClusterDiscoveryType, DiscoveryType},
};
use crate::proto::core::RoutingPriority;
use crate::resource::{ClusterSpec, ResourceKind};

impl Resource for ClusterSpec {
    const KIND: ResourceKind = ResourceKind::Cluster;
    type Proto = Proto;

    fn name(proto: &Proto) -> &str {
        &proto.name
    }

    fn decode(proto: &Proto, context: &Context, notes: &mut Notes) -> Result<Self, Fault> {
        let eds = ClusterDiscoveryType::Type(DiscoveryType::Eds as i32);
        if proto.cluster_discovery_type != Some(eds) {
            return Err(Fault::new("type", "must be EDS"));
        }
        let endpoints = proto
            .eds_cluster_config
            .as_ref()
            .ok_or_else(|| Fault::new("eds_cluster_config", "is missing"))?;
        from_this_stream("eds_config", endpoints.eds_config.as_ref())
            .map_err(|fault| fault.within("eds_cluster_config"))?;
        let endpoints = match endpoints.service_name.as_str() {
            "" => &proto.name,
            name => name,
        };
        let cluster = Cluster {
            lb: lb::policy(proto)?,
            connect_timeout: match &proto.connect_timeout {
                None => Cluster::DEFAULT_CONNECT_TIMEOUT,
                Some(timeout) => match duration("connect_timeout", timeout)? {
                    zero if zero.is_zero() => return Err(Fault::new("connect_timeout", "must be more than 0")),
                    timeout => timeout,
                },
            },
            max_requests: proto
                .circuit_breakers
                .as_ref()
                .map_or(Cluster::DEFAULT_MAX_REQUESTS, max_requests),
            ..Cluster::new(proto.name.as_str(), tls_mode(proto, context, notes)?, Vec::new())
        };
        Ok(Self {
            cluster,
            endpoints: endpoints.into(),
        })
    }
}

/// The first threshold of the default priority counts, and of it `max_requests` alone (gRFC A32).
fn max_requests(breakers: &CircuitBreakers) -> u32 {
    let default = |priority| priority == RoutingPriority::Default as i32;
    let threshold = breakers.thresholds.iter().find(|threshold| default(threshold.priority));
    threshold
        .and_then(|threshold| threshold.max_requests.as_ref())
        .map_or(Cluster::DEFAULT_MAX_REQUESTS, |max| max.value)
}

fn tls_mode(proto: &Proto, context: &Context, notes: &mut Notes) -> Result<TlsMode, Fault> {
    // Ignoring these would send in the clear what the control plane meant to be encrypted.
    if !proto.transport_socket_matches.is_empty() {
        return Err(Fault::new("transport_socket_matches", "is not supported"));
    }
    if proto.transport_socket_matcher.is_some() {
        return Err(Fault::new("transport_socket_matcher", "is not supported"));
    }
    match &proto.transport_socket {
        None => Ok(TlsMode::Plaintext),
        Some(socket) => tls::upstream(socket, context, notes).map_err(|fault| fault.within("transport_socket")),
    }
}
