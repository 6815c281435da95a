//! What istiod tells a sidecar and only a proxy can do: it is taken, noted, and never called another way than it asks.

use super::istiod::{CLUSTER, sidecar};
use super::*;
use crate::proto::cluster;
use crate::proto::cluster::cluster::{ClusterDiscoveryType, CustomClusterType, TransportSocketMatch};
use crate::proto::core::{Address, EnvoyInternalAddress, Pipe, TransportSocket, address, transport_socket::ConfigType};
use crate::proto::protobuf::Any;
use crate::resource::{ClusterSpec, Discovery, Listener};

fn typed(name: &str) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{name}"),
        value: Vec::new(),
    }
}

fn socket(name: &str) -> TransportSocket {
    TransportSocket {
        name: "a".into(),
        config_type: Some(ConfigType::TypedConfig(typed(name))),
    }
}

const PROXY_PROTOCOL: &str = "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport";
const RAW: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
const TLS: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

fn bare() -> cluster::Cluster {
    let mut proto = sidecar::cluster(CLUSTER);
    (proto.transport_socket, proto.transport_socket_matches) = (None, Vec::new());
    proto
}

fn forward_proxy() -> cluster::Cluster {
    let custom = CustomClusterType {
        name: "envoy.clusters.dynamic_forward_proxy".into(),
        typed_config: Some(typed(
            "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig",
        )),
    };
    cluster::Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::ClusterType(custom)),
        eds_cluster_config: None,
        ..bare()
    }
}

fn read(proto: &cluster::Cluster, context: &Context) -> (Result<Discovery, Rejected>, Vec<Box<str>>) {
    let decoded = decode::<ClusterSpec>(&raw(proto), context).unwrap();
    (decoded.value.map(|spec| spec.discovery), decoded.notes)
}

#[test]
fn a_cluster_that_begins_with_the_proxy_protocol_is_taken_and_its_calls_are_refused() {
    let whole = cluster::Cluster {
        transport_socket: Some(socket(PROXY_PROTOCOL)),
        ..bare()
    };
    let matched = cluster::Cluster {
        transport_socket_matches: vec![TransportSocketMatch {
            transport_socket: Some(socket(PROXY_PROTOCOL)),
            ..Default::default()
        }],
        ..bare()
    };
    for proto in [whole, matched] {
        let (discovery, notes) = read(&proto, &envoy());
        assert!(
            matches!(&discovery, Ok(Discovery::Unserved(why)) if why.contains("PROXY protocol")),
            "{discovery:?}"
        );
        assert!(
            notes.iter().any(|note| note.contains("calls to it are refused")),
            "{notes:?}"
        );
        // A gRPC client is sent what it asks for.
        assert!(read(&proto, &context()).0.is_err());
    }
}

/// Its hosts are those that requests name, which the process can look up as well; but not where the cluster has TLS of its own: whether
/// there is any is said by each request there.
#[test]
fn a_dynamic_forward_proxy_goes_where_requests_say_unless_it_asks_for_tls() {
    for clear in [None, Some(socket(RAW))] {
        let proto = cluster::Cluster {
            transport_socket: clear,
            ..forward_proxy()
        };
        let decoded = decode::<ClusterSpec>(&raw(&proto), &envoy()).unwrap();
        let spec = decoded.value.unwrap();
        assert_eq!(spec.discovery, Discovery::OriginalDestination);
        assert!(spec.cluster.by_authority);
    }
    let own = cluster::Cluster {
        transport_socket: Some(socket(TLS)),
        ..forward_proxy()
    };
    let by_host = cluster::Cluster {
        transport_socket_matches: vec![TransportSocketMatch::default()],
        ..forward_proxy()
    };
    for proto in [own, by_host] {
        let (discovery, _) = read(&proto, &envoy());
        assert!(
            matches!(&discovery, Ok(Discovery::Unserved(why)) if why.contains("TLS of its own")),
            "{discovery:?}"
        );
    }
    assert!(
        read(&forward_proxy(), &context()).0.is_err(),
        "gRPC has no such cluster"
    );
}

/// One cluster of many costs nobody else anything.
#[test]
fn nothing_of_a_whole_push_is_refused_for_what_only_a_proxy_can_call() {
    let mut all = sidecar::clusters();
    all.push(forward_proxy());
    all.push(cluster::Cluster {
        name: "outbound|80||proxied.default.svc.cluster.local".into(),
        transport_socket: Some(socket(PROXY_PROTOCOL)),
        ..bare()
    });
    for proto in &all {
        assert!(read(proto, &envoy()).0.is_ok(), "{}", proto.name);
    }
}

#[test]
fn a_listener_at_a_pipe_or_inside_a_proxy_is_passed_over() {
    let pipe = address::Address::Pipe(Pipe {
        path: "/var/run/egress.sock".into(),
        mode: 0,
    });
    let inside = address::Address::EnvoyInternalAddress(EnvoyInternalAddress::default());
    for at in [pipe, inside] {
        let mut proto = sidecar::by_port();
        proto.address = Some(Address { address: Some(at) });
        let decoded = decode::<Listener>(&raw(&proto), &envoy()).unwrap();
        assert!(matches!(decoded.value, Ok(Listener::Other(_))), "{:?}", decoded.value);
        assert!(
            decoded.notes.iter().any(|note| note.contains("pipe")),
            "{:?}",
            decoded.notes
        );
    }
    // What has no address at all is a mistake.
    let mut proto = sidecar::by_port();
    proto.address = None;
    let refused = decode::<Listener>(&raw(&proto), &envoy()).unwrap().value.unwrap_err();
    assert_eq!(refused.field(), "address.socket_address");
}

/// A name that is none of a host is not made one of.
#[test]
fn tls_outside_of_the_mesh_takes_no_name_from_a_cluster_that_has_none() {
    use mesh_core::config::TlsMode;
    let named = |name: &str| {
        let proto = cluster::Cluster {
            name: name.into(),
            transport_socket: Some(TransportSocket {
                name: "envoy.transport_sockets.tls".into(),
                config_type: Some(ConfigType::TypedConfig(outside())),
            }),
            ..bare()
        };
        let spec = decode::<ClusterSpec>(&raw(&proto), &envoy()).unwrap().value.unwrap();
        match spec.cluster.tls {
            TlsMode::Origination(outside) => outside.sni,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(named("outbound|443||a.example").as_deref(), Some("a.example"));
    assert_eq!(named("outbound|443||"), None);
    assert_eq!(named("outbound|443||*.a.example"), None);
    assert_eq!(named("plain"), None);
}

/// TLS by the system's roots, and no name.
fn outside() -> Any {
    use crate::proto::tls::{
        CertificateValidationContext, CommonTlsContext, UpstreamTlsContext,
        certificate_validation_context::SystemRootCerts, common_tls_context::ValidationContextType,
    };
    let validation = CertificateValidationContext {
        system_root_certs: Some(SystemRootCerts {}),
        ..Default::default()
    };
    crate::proto::pack(&UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
            ..Default::default()
        }),
        ..Default::default()
    })
}
