//! Clusters that only a proxy can call, in a sidecar's shape.
//!
//! istiod tells a sidecar of every service that it may see, and takes one refused cluster for a refusal of them all. So a cluster that cannot
//! be called as it asks is a good resource whose calls are refused: nothing is ever sent to it another way than the control plane said. In
//! gRPC's shape, where a client names what it wants, it is refused as ever.

use mesh_core::config::TlsMode;
use prost::Name as _;

use super::tls;
use crate::bootstrap::Profile;
use crate::decode::extension::type_name;
use crate::decode::{Context, Notes};
use crate::proto::cluster::Cluster as Proto;
use crate::proto::cluster::cluster::{ClusterDiscoveryType, CustomClusterType};
use crate::proto::core::{TransportSocket, transport_socket::ConfigType};
use crate::proto::raw_buffer::RawBuffer;

/// A cluster that looks up where each request says that it goes (Istio's `DYNAMIC_DNS`).
const FORWARD_PROXY: &str = "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig";
/// Each connection begins with a line about who is behind the proxy (Istio's `proxyProtocol`).
const PROXY_PROTOCOL: &str = "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport";

/// Whether the cluster goes where each request says, by a look-up of its own.
pub(super) fn is_forward_proxy(custom: &CustomClusterType) -> bool {
    let any = custom.typed_config.as_ref();
    any.is_some_and(|any| type_name(&any.type_url) == FORWARD_PROXY)
}

/// Why it cannot be called, if it cannot.
pub(super) fn reason(proto: &Proto, context: &Context) -> Option<&'static str> {
    if context.profile != Profile::Envoy {
        return None;
    }
    let matched = proto.transport_socket_matches.iter().map(|one| &one.transport_socket);
    let mut sockets = matched.chain([&proto.transport_socket]).flatten();
    if sockets.any(has_proxy_protocol) {
        return Some("its connections begin with the PROXY protocol, which is not spoken here");
    }
    match &proto.cluster_discovery_type {
        // Whether there is TLS, and with whom, is said by each request there, which must not undo what the cluster asks for.
        Some(ClusterDiscoveryType::ClusterType(custom)) if is_forward_proxy(custom) && has_tls(proto, context) => {
            Some("it goes where each request says and asks for TLS of its own, which is not done together here")
        }
        _ => None,
    }
}

fn has_proxy_protocol(socket: &TransportSocket) -> bool {
    type_of(socket) == Some(PROXY_PROTOCOL)
}

fn has_tls(proto: &Proto, context: &Context) -> bool {
    let in_the_clear = |socket: &TransportSocket| {
        let read = tls::upstream(socket, context, &mut Notes::default());
        type_of(socket).is_none_or(|name| name == RawBuffer::full_name()) && matches!(read, Ok(TlsMode::Plaintext))
    };
    !proto.transport_socket_matches.is_empty() || proto.transport_socket.as_ref().is_some_and(|one| !in_the_clear(one))
}

fn type_of(socket: &TransportSocket) -> Option<&str> {
    match &socket.config_type {
        Some(ConfigType::TypedConfig(any)) => Some(type_name(&any.type_url)),
        None => None,
    }
}
