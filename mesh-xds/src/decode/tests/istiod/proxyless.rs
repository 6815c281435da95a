//! What a node with `GENERATOR: grpc` is sent.

use super::*;
use crate::proto::core::{TransportSocket, transport_socket};
use crate::proto::listener::{ApiListener, Filter, FilterChain, Listener, filter};
use crate::proto::tls::{
    CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext, DownstreamTlsContext,
    UpstreamTlsContext, common_tls_context,
};

/// The name that a client asks for: host and port as it has them.
pub(crate) const TARGET: &str = "payment.default.svc.cluster.local:50051";
/// The name that a server asks for.
pub(crate) const INBOUND: &str = "xds.istio.io/grpc/lds/inbound/0.0.0.0:50051";

pub(crate) fn listener() -> Listener {
    let manager = manager(vec![fault()], rds(CLUSTER));
    Listener {
        name: TARGET.into(),
        address: address("10.96.0.10", PORT),
        api_listener: Some(ApiListener {
            api_listener: Some(pack(&manager)),
        }),
        ..Default::default()
    }
}

/// A server's listener under STRICT, or under anything else, which is plaintext to a proxyless server.
pub(crate) fn inbound(strict: bool) -> Listener {
    let configuration = route::RouteConfiguration {
        name: "inbound".into(),
        virtual_hosts: vec![route::VirtualHost {
            domains: vec!["*".into()],
            routes: vec![route::Route {
                r#match: everything(),
                action: Some(route::route::Action::NonForwardingAction(Default::default())),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let manager = manager(Vec::new(), RouteSpecifier::RouteConfig(configuration));
    let tls = DownstreamTlsContext {
        common_tls_context: Some(common_tls(&[])),
        require_client_certificate: Some(crate::proto::protobuf::BoolValue { value: true }),
        ..Default::default()
    };
    Listener {
        name: INBOUND.into(),
        address: address("0.0.0.0", PORT),
        filter_chains: vec![FilterChain {
            name: if strict { "inbound-mtls" } else { "inbound-plaintext" }.into(),
            filters: vec![Filter {
                name: "inbound-hcm".into(),
                config_type: Some(filter::ConfigType::TypedConfig(pack(&manager))),
            }],
            transport_socket: strict.then(|| socket(pack(&tls))),
            ..Default::default()
        }],
        ..Default::default()
    }
}

pub(crate) fn routes() -> route::RouteConfiguration {
    let names = ["payment", "payment.default", "payment.default.svc", PAYMENT];
    route::RouteConfiguration {
        name: CLUSTER.into(),
        virtual_hosts: vec![route::VirtualHost {
            name: format!("{PAYMENT}:{PORT}"),
            domains: names
                .iter()
                .flat_map(|name| [(*name).to_owned(), format!("{name}:{PORT}")])
                .collect(),
            routes: vec![route::Route {
                r#match: everything(),
                decorator: Some(route::Decorator {
                    operation: format!("{PAYMENT}:{PORT}/*"),
                    ..Default::default()
                }),
                action: Some(route::route::Action::Route(route::RouteAction {
                    max_stream_duration: Some(route::route_action::MaxStreamDuration {
                        max_stream_duration: seconds(2),
                        ..Default::default()
                    }),
                    ..canary()
                })),
                ..Default::default()
            }],
            include_request_attempt_count: true,
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// A cluster whose DestinationRule says ISTIO_MUTUAL.
pub(crate) fn cluster(name: &str) -> cluster::Cluster {
    let tls = UpstreamTlsContext {
        common_tls_context: Some(common_tls(&[IDENTITY])),
        ..Default::default()
    };
    cluster::Cluster {
        transport_socket: Some(socket(pack(&tls))),
        ..eds(name)
    }
}

fn socket(config: Any) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(config)),
    }
}

/// Both generations of the provider's fields, as istiod writes them.
#[allow(deprecated, reason = "istiod writes both")]
fn common_tls(names: &[&str]) -> CommonTlsContext {
    use common_tls_context::{
        CertificateProviderInstance, CombinedCertificateValidationContext, ValidationContextType,
    };
    let new = |certificate: &str| {
        Some(CertificateProviderPluginInstance {
            instance_name: "default".into(),
            certificate_name: certificate.into(),
        })
    };
    let old = |certificate: &str| {
        Some(CertificateProviderInstance {
            instance_name: "default".into(),
            certificate_name: certificate.into(),
        })
    };
    let combined = CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext {
            ca_certificate_provider_instance: new("ROOTCA"),
            match_subject_alt_names: names.iter().map(|name| exactly(name)).collect(),
            ..Default::default()
        }),
        validation_context_certificate_provider_instance: old("ROOTCA"),
        ..Default::default()
    };
    CommonTlsContext {
        tls_certificate_certificate_provider_instance: old("default"),
        tls_certificate_provider_instance: new("default"),
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(combined)),
        ..Default::default()
    }
}
