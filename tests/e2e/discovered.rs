//! A server's routes and filters that are resources of their own (RDS of gRFC A36; ECDS): whoever asks for them over a real stream serves
//! nobody before they are there, and then by what they say. The resources are written by Envoy's own definitions, the way istiod and
//! gRPC's control planes write them, and served by our end beside a snapshot; server and client are the production ones.

use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ConfigSource, ExtensionConfigSource, SocketAddress, TrafficDirection, TransportSocket,
    TypedExtensionConfig, address, config_source::ConfigSourceSpecifier, socket_address::PortSpecifier,
    transport_socket,
};
use envoy_types::pb::envoy::config::listener::v3::{self as lds, filter};
use envoy_types::pb::envoy::config::rbac::v3::{self as rbac, permission, principal};
use envoy_types::pb::envoy::config::route::v3::{
    self as rds, header_matcher::HeaderMatchSpecifier, route_match::PathSpecifier,
};
use envoy_types::pb::envoy::extensions::filters::http::{rbac::v3 as rbac_http, router::v3::Router};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    self as hcm, HttpConnectionManager, http_connection_manager::RouteSpecifier, http_filter,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    self as tls, CommonTlsContext, DownstreamTlsContext, common_tls_context::ValidationContextType,
};
use envoy_types::pb::google::protobuf::{Any, BoolValue, UInt32Value};
use examples::proto::ChargeRequest;
use examples::proto::payment_client::PaymentClient;
use mesh_client::Channel;
use mesh_core::{Link, Snapshot};
use mesh_xds::bootstrap::Profile;
use mesh_xds::server::{AdsService, Beside, Caller, SnapshotCache};
use mesh_xds::{Bootstrap, ResourceKind, XdsClient};
use prost::{Message, Name};
use serde_json::json;
use tests::{Backend, Mesh, PATIENCE, admitted, all_to, identity, listener, member, soon};
use tonic::Code;

use crate::providers::{authority, joined};

const FILTER: &str = "shop.guard";
const ROUTES: &str = "server-routes";
/// Who says this is denied by the guard.
const DENIED: &str = "x-deny";

fn pack<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

fn ads() -> Option<ConfigSource> {
    Some(ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    })
}

fn at(address: &str, port: u32) -> Option<envoy_types::pb::envoy::config::core::v3::Address> {
    let socket = SocketAddress {
        address: address.into(),
        port_specifier: Some(PortSpecifier::PortValue(port)),
        ..SocketAddress::default()
    };
    Some(envoy_types::pb::envoy::config::core::v3::Address {
        address: Some(address::Address::SocketAddress(socket)),
    })
}

/// Denies everybody, or who shows the header, or nobody.
fn guard(everybody: bool) -> rbac_http::Rbac {
    let rule = match everybody {
        true => permission::Rule::Any(true),
        false => permission::Rule::Header(rds::HeaderMatcher {
            name: DENIED.into(),
            header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
            ..rds::HeaderMatcher::default()
        }),
    };
    let policy = rbac::Policy {
        permissions: vec![rbac::Permission { rule: Some(rule) }],
        principals: vec![rbac::Principal {
            identifier: Some(principal::Identifier::Any(true)),
        }],
        ..rbac::Policy::default()
    };
    rbac_http::Rbac {
        rules: Some(rbac::Rbac {
            action: rbac::rbac::Action::Deny as i32,
            policies: [("p".to_owned(), policy)].into(),
            ..rbac::Rbac::default()
        }),
        ..rbac_http::Rbac::default()
    }
}

fn filter(name: &str, config: http_filter::ConfigType) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.into(),
        config_type: Some(config),
        ..hcm::HttpFilter::default()
    }
}

fn router() -> hcm::HttpFilter {
    filter(
        "envoy.filters.http.router",
        http_filter::ConfigType::TypedConfig(pack(&Router::default())),
    )
}

fn routes(action: rds::route::Action) -> rds::RouteConfiguration {
    let route = rds::Route {
        r#match: Some(rds::RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".into())),
            ..rds::RouteMatch::default()
        }),
        action: Some(action),
        ..rds::Route::default()
    };
    rds::RouteConfiguration {
        name: ROUTES.into(),
        virtual_hosts: vec![rds::VirtualHost {
            name: "all".into(),
            domains: vec!["*".into()],
            routes: vec![route],
            ..rds::VirtualHost::default()
        }],
        ..rds::RouteConfiguration::default()
    }
}

/// A chain that asks for mutual TLS and has this manager.
fn chain(common: CommonTlsContext, manager: &HttpConnectionManager) -> lds::FilterChain {
    let downstream = DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: Some(BoolValue { value: true }),
        ..DownstreamTlsContext::default()
    };
    lds::FilterChain {
        name: "chain".into(),
        filters: vec![lds::Filter {
            name: "envoy.filters.network.http_connection_manager".into(),
            config_type: Some(filter::ConfigType::TypedConfig(pack(manager))),
        }],
        transport_socket: Some(TransportSocket {
            name: "envoy.transport_sockets.tls".into(),
            config_type: Some(transport_socket::ConfigType::TypedConfig(pack(&downstream))),
        }),
        ..lds::FilterChain::default()
    }
}

/// A sidecar's listener of what comes in, whose guard is a resource of its own.
fn virtual_inbound(port: u16) -> Vec<u8> {
    let forward = rds::RouteAction {
        cluster_specifier: Some(rds::route_action::ClusterSpecifier::Cluster("inbound|80||".into())),
        ..rds::RouteAction::default()
    };
    let discovered = http_filter::ConfigType::ConfigDiscovery(ExtensionConfigSource {
        config_source: ads(),
        type_urls: vec![rbac_http::Rbac::type_url()],
        ..ExtensionConfigSource::default()
    });
    let manager = HttpConnectionManager {
        stat_prefix: "inbound".into(),
        http_filters: vec![filter(FILTER, discovered), router()],
        route_specifier: Some(RouteSpecifier::RouteConfig(routes(rds::route::Action::Route(forward)))),
        ..HttpConnectionManager::default()
    };
    let secret = |name: &str| tls::SdsSecretConfig {
        name: name.into(),
        ..tls::SdsSecretConfig::default()
    };
    let common = CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![secret("default")],
        validation_context_type: Some(ValidationContextType::ValidationContextSdsSecretConfig(secret(
            "ROOTCA",
        ))),
        ..CommonTlsContext::default()
    };
    let chain = lds::FilterChain {
        filter_chain_match: Some(lds::FilterChainMatch {
            destination_port: Some(UInt32Value { value: port.into() }),
            transport_protocol: "tls".into(),
            ..lds::FilterChainMatch::default()
        }),
        ..chain(common, &manager)
    };
    lds::Listener {
        name: "virtualInbound".into(),
        address: at("0.0.0.0", 15006),
        traffic_direction: TrafficDirection::Inbound as i32,
        filter_chains: vec![chain],
        ..lds::Listener::default()
    }
    .encode_to_vec()
}

/// gRPC's listener of a server at `address`, whose guard stands in it and whose routes are a resource of their own.
fn routed(name: &str, address: std::net::SocketAddr) -> Vec<u8> {
    let manager = HttpConnectionManager {
        http_filters: vec![
            filter("guard", http_filter::ConfigType::TypedConfig(pack(&guard(false)))),
            router(),
        ],
        route_specifier: Some(RouteSpecifier::Rds(hcm::Rds {
            config_source: ads(),
            route_config_name: ROUTES.into(),
        })),
        ..HttpConnectionManager::default()
    };
    let instance = || tls::CertificateProviderPluginInstance {
        instance_name: "default".into(),
        ..tls::CertificateProviderPluginInstance::default()
    };
    let common = CommonTlsContext {
        tls_certificate_provider_instance: Some(instance()),
        validation_context_type: Some(ValidationContextType::ValidationContext(
            tls::CertificateValidationContext {
                ca_certificate_provider_instance: Some(instance()),
                ..tls::CertificateValidationContext::default()
            },
        )),
        ..CommonTlsContext::default()
    };
    lds::Listener {
        name: name.into(),
        address: at(&address.ip().to_string(), address.port().into()),
        filter_chains: vec![chain(common, &manager)],
        ..lds::Listener::default()
    }
    .encode_to_vec()
}

/// A server whose control plane is our serving end, and a client of it.
struct Scene {
    cache: SnapshotCache,
    payment: XdsClient,
    backend: Backend,
    address: std::net::SocketAddr,
    caller: Link,
    _kept: (Mesh, mesh_core::link::Source),
}

impl Scene {
    /// `first`: what there is beside nothing when the server comes.
    async fn begin(
        profile: &str,
        protocol: &str,
        features: &[&str],
        first: impl FnOnce(std::net::SocketAddr) -> Beside,
    ) -> Self {
        let mesh = Mesh::start(&[]).await;
        let (ads, port) = listener().await;
        let cache = SnapshotCache::new();
        let service = AdsService::new(cache.clone(), |_: &Caller| Ok("all".into()));
        let router = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(router.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(ads)));
        let (socket, address) = listener().await;
        cache.publish_with("all", &Snapshot::empty(), &first(address)).unwrap();
        let bootstrap = json!({
            "xds_servers": [{
                "server_uri": port.to_string(),
                "channel_creds": [{"type": "insecure"}],
                "server_features": features,
            }],
            "node": {"id": "sidecar~127.0.0.1~payment.default~default.svc.cluster.local", "metadata": {}},
            "server_listener_resource_name_template": "server/%s",
            "certificate_providers": {"default": authority(&mesh, "payment")},
            "x_mesh": {"profile": profile, "protocol": protocol},
        });
        let payment = XdsClient::start(Bootstrap::from_json(&bootstrap.to_string()).unwrap()).unwrap();
        let link = payment.link();
        identity(&link).await;
        let backend = Backend::serve_on(socket, link.clone(), "v1");
        admitted(&link, &address.to_string()).await;
        let (source, caller) = member(joined(&mesh, "checkout").await);
        source.snapshots.publish(all_to(backend.endpoint()));
        Self {
            cache,
            payment,
            backend,
            address,
            caller,
            _kept: (mesh, source),
        }
    }

    /// Publishes this, and waits until the server goes by something else than before.
    async fn says(&self, beside: &Beside) {
        let address = self.address.to_string();
        let link = self.payment.link();
        let now = || link.snapshots().load().inbound(&address).cloned();
        let before = now();
        self.cache.publish_with("all", &Snapshot::empty(), beside).unwrap();
        self.payment
            .status()
            .until(PATIENCE, |_| now() != before)
            .await
            .unwrap();
    }

    /// How a call ends, and one that the guard is to deny; whether a handler ran is the server's to say.
    async fn calls(&self) -> (Code, Code) {
        let call = async |denied: bool| {
            let mut client = PaymentClient::new(Channel::new(&self.caller, "payment"));
            let mut request = tonic::Request::new(ChargeRequest::default());
            if denied {
                request.metadata_mut().insert(DENIED, "1".parse().unwrap());
            }
            let before = self.backend.handled();
            let code = match soon("a call", client.charge(request)).await {
                Ok(_) => Code::Ok,
                Err(status) => status.code(),
            };
            assert_eq!(self.backend.handled() - before, u64::from(code == Code::Ok));
            code
        };
        (call(false).await, call(true).await)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn az_10_a_servers_filter_of_its_own_is_enforced_from_the_moment_it_is_there_and_nobody_served_without_it() {
    let inbound = |address: std::net::SocketAddr| {
        let bytes = virtual_inbound(address.port());
        Beside::new().with(Profile::Envoy, ResourceKind::Listener, "virtualInbound", &bytes)
    };
    for (protocol, features) in [
        ("sotw", &[][..]),
        ("delta", &[]),
        ("sotw", &["fail_on_data_errors"]),
        ("delta", &["fail_on_data_errors"]),
    ] {
        let about = format!("{protocol} {features:?}");
        let scene = Scene::begin("envoy", protocol, features, inbound).await;
        // The listener asks for what is not there.
        assert_eq!(scene.calls().await, (Code::Unavailable, Code::Unavailable), "{about}");
        let with = |everybody: bool| {
            let resource = TypedExtensionConfig {
                name: FILTER.into(),
                typed_config: Some(pack(&guard(everybody))),
            };
            let bytes = resource.encode_to_vec();
            inbound(scene.address).with(Profile::Envoy, ResourceKind::ExtensionConfig, FILTER, &bytes)
        };
        scene.says(&with(false)).await;
        assert_eq!(scene.calls().await, (Code::Ok, Code::PermissionDenied), "{about}");
        scene.says(&with(true)).await;
        let nobody = (Code::PermissionDenied, Code::PermissionDenied);
        assert_eq!(scene.calls().await, nobody, "{about}");
        scene.says(&with(false)).await;
        assert_eq!(scene.calls().await, (Code::Ok, Code::PermissionDenied), "{about}");
        // Taken away, it is kept as it was (gRFC A88), or nobody is served where that is asked for; never everybody.
        let gone = inbound(scene.address);
        if features.is_empty() {
            scene.cache.publish_with("all", &Snapshot::empty(), &gone).unwrap();
            let is_gone = |report: &mesh_xds::client::Report| {
                let resource = report.resource(ResourceKind::ExtensionConfig, FILTER);
                resource.is_some_and(|resource| resource.absent.is_some())
            };
            scene.payment.status().until(PATIENCE, is_gone).await.unwrap();
            assert_eq!(scene.calls().await, (Code::Ok, Code::PermissionDenied), "{about}");
        } else {
            scene.says(&gone).await;
            assert_eq!(scene.calls().await, (Code::Unavailable, Code::Unavailable), "{about}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn az_10_a_server_whose_routes_come_late_serves_nobody_until_then_and_its_guard_stands_throughout() {
    for protocol in ["sotw", "delta"] {
        let listener = |address: std::net::SocketAddr| {
            let name = format!("server/{address}");
            let bytes = routed(&name, address);
            Beside::new().with(Profile::Grpc, ResourceKind::Listener, &name, &bytes)
        };
        let scene = Scene::begin("grpc", protocol, &[], listener).await;
        let (open, denied) = scene.calls().await;
        assert_eq!(open, Code::Unavailable, "{protocol}");
        assert_ne!(denied, Code::Ok, "{protocol}");
        let with = |action| {
            let bytes = routes(action).encode_to_vec();
            listener(scene.address).with(Profile::Grpc, ResourceKind::Route, ROUTES, &bytes)
        };
        scene
            .says(&with(rds::route::Action::NonForwardingAction(
                rds::NonForwardingAction {},
            )))
            .await;
        assert_eq!(scene.calls().await, (Code::Ok, Code::PermissionDenied), "{protocol}");
        // Another action than the application's fails the call (gRFC A36), and the guard has the first word still.
        let elsewhere = rds::RouteAction {
            cluster_specifier: Some(rds::route_action::ClusterSpecifier::Cluster("c".into())),
            ..rds::RouteAction::default()
        };
        scene.says(&with(rds::route::Action::Route(elsewhere))).await;
        let (open, denied) = scene.calls().await;
        assert_eq!(open, Code::Unavailable, "{protocol}");
        assert_ne!(denied, Code::Ok, "{protocol}");
        scene
            .says(&with(rds::route::Action::NonForwardingAction(
                rds::NonForwardingAction {},
            )))
            .await;
        assert_eq!(scene.calls().await, (Code::Ok, Code::PermissionDenied), "{protocol}");
    }
}
