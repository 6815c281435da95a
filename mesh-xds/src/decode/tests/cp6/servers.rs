//! Servers' listeners: gRFC A36's rules, and that no guard is passed over in either profile.

use super::listeners::guard;
use super::*;
use crate::proto::core::CidrRange;
use crate::proto::hcm::HttpConnectionManager;
use crate::proto::listener::{
    FilterChain, FilterChainMatch, Listener as Proto, ListenerFilter, filter, listener_filter,
};
use crate::proto::protobuf::{Any, BoolValue, UInt32Value};
use crate::proto::tls::DownstreamTlsContext;
use crate::proto::{core, pack};
use crate::resource::Listener;

fn chain(proto: &mut Proto) -> &mut FilterChain {
    proto
        .filter_chains
        .iter_mut()
        .find(|chain| chain.transport_socket.is_some())
        .unwrap()
}

fn rules(proto: &mut Proto) -> &mut FilterChainMatch {
    chain(proto).filter_chain_match.get_or_insert_default()
}

fn range(prefix: &str, bits: u32) -> CidrRange {
    CidrRange {
        address_prefix: prefix.into(),
        prefix_len: Some(UInt32Value { value: bits }),
    }
}

fn manager(proto: &mut Proto, change: impl FnOnce(&mut HttpConnectionManager)) {
    let Some(filter::ConfigType::TypedConfig(any)) = &mut chain(proto).filters[0].config_type else {
        panic!("the filter has a configuration")
    };
    let mut manager = HttpConnectionManager::decode(&*any.value).unwrap();
    change(&mut manager);
    *any = pack(&manager);
}

fn routes(proto: &mut Proto, change: impl FnOnce(&mut crate::proto::route::RouteConfiguration)) {
    manager(proto, |manager| match &mut manager.route_specifier {
        Some(crate::proto::hcm::http_connection_manager::RouteSpecifier::RouteConfig(config)) => change(config),
        _ => panic!("the routes are inline"),
    });
}

fn any_of(proto: &mut Proto) -> &mut Any {
    match &mut chain(proto).transport_socket.as_mut().unwrap().config_type {
        Some(core::transport_socket::ConfigType::TypedConfig(any)) => any,
        None => panic!("the socket has a configuration"),
    }
}

fn tls(proto: &mut Proto, change: impl FnOnce(&mut DownstreamTlsContext)) {
    let any = any_of(proto);
    let mut context = DownstreamTlsContext::decode(&*any.value).unwrap();
    change(&mut context);
    *any = pack(&context);
}

fn network(proto: &mut Proto, name: &str) {
    let mut filter = chain(proto).filters[0].clone();
    filter.config_type = Some(filter::ConfigType::TypedConfig(Any {
        type_url: format!("type.googleapis.com/envoy.extensions.filters.network.{name}"),
        value: Vec::new(),
    }));
    chain(proto).filters.insert(0, filter);
}

#[test]
fn cp_6_servers() {
    const TLS: &str = "filter_chains[0].transport_socket.typed_config";
    const COMMON: &str = "filter_chains[0].transport_socket.typed_config.common_tls_context";
    let under = |outer: &str, rest: &str| -> &'static str {
        // Leaked: a few dozen names, once per test run, so that the table is a plain list.
        Box::leak(format!("{outer}.{rest}").into_boxed_str())
    };
    let mutators: [Mutator<Proto>; 34] = [
        ("listener_filters", |p| {
            p.listener_filters.push(ListenerFilter::default())
        }),
        ("use_original_dst", |p| {
            p.use_original_dst = Some(BoolValue { value: true })
        }),
        ("address.socket_address", |p| p.address = None),
        ("address.socket_address", |p| {
            p.address = Some(core::Address { address: None })
        }),
        ("filter_chains", |p| p.filter_chains.clear()),
        ("filter_chain_matcher", |p| {
            p.filter_chain_matcher = Some(Default::default())
        }),
        ("udp_listener_config", |p| {
            p.udp_listener_config = Some(Default::default())
        }),
        ("filter_chains[0].filters", |p| chain(p).filters.clear()),
        ("filter_chains[0].filters[0].typed_config", |p| {
            network(p, "tcp_proxy.v3.TcpProxy")
        }),
        ("filter_chains[0].filters[0].typed_config", |p| {
            network(p, "rbac.v3.RBAC")
        }),
        ("filter_chains[0].filters[0].typed_config", |p| {
            let twice = chain(p).filters[0].clone();
            chain(p).filters.push(twice);
        }),
        ("filter_chains[0].filters[0].typed_config", |p| {
            chain(p).filters[0].config_type = None
        }),
        ("filter_chains[0].filters[0].typed_config.http_filters", |p| {
            manager(p, |m| m.http_filters.clear())
        }),
        (
            "filter_chains[0].filters[0].typed_config.http_filters[0].typed_config",
            |p| {
                manager(p, |m| m.http_filters.insert(0, guard("basic_auth.v3.BasicAuth", true)));
            },
        ),
        ("filter_chains[0].filters[0].typed_config.http_filters[1]", |p| {
            // One that says whose tokens are believed is read, and stands but once.
            manager(p, |m| {
                let tokens = guard("jwt_authn.v3.JwtAuthentication", false);
                let mut again = tokens.clone();
                again.name = "again".into();
                m.http_filters.splice(0..0, [tokens, again]);
            });
        }),
        (
            "filter_chains[0].filters[0].typed_config.http_filters[0].typed_config",
            |p| {
                manager(p, |m| m.http_filters.insert(0, guard("unheard.v1.Of", false)));
            },
        ),
        ("filter_chains[0].filters[0].typed_config.route_specifier", |p| {
            manager(p, |m| m.route_specifier = None)
        }),
        ("filter_chains[0].filter_chain_match.prefix_ranges[0].prefix_len", |p| {
            rules(p).prefix_ranges.push(range("10.0.0.0", 33));
        }),
        (
            "filter_chains[0].filter_chain_match.source_prefix_ranges[0].address_prefix",
            |p| {
                rules(p).source_prefix_ranges.push(range("a.example", 8));
            },
        ),
        ("filter_chains[0].filter_chain_match.source_type", |p| {
            rules(p).source_type = 9
        }),
        ("filter_chains[0].filter_chain_match.source_ports[0]", |p| {
            rules(p).source_ports.push(70_000)
        }),
        ("filter_chains[0].filter_chain_match.server_names[0]", |p| {
            rules(p).server_names.push("*a".into())
        }),
        // The same range once its idle bits are gone.
        ("filter_chains[1].filter_chain_match", |p| {
            rules(p).source_prefix_ranges.push(range("10.1.2.3", 8));
            let mut other = p.filter_chains[0].clone();
            other.filter_chain_match.as_mut().unwrap().source_prefix_ranges[0] = range("10.9.9.9", 8);
            p.filter_chains.push(other);
        }),
        ("filter_chains[0].filter_chain_match", |p| {
            rules(p).source_ports = vec![1; 5000]
        }),
        ("filter_chains[0].transport_socket.typed_config", |p| {
            any_of(p).type_url = "type.googleapis.com/x.Y".into()
        }),
        ("filter_chains[0].transport_socket.typed_config", |p| {
            with_unknown_field(&mut any_of(p).value)
        }),
        (under(TLS, "common_tls_context"), |p| {
            tls(p, |tls| tls.common_tls_context = None)
        }),
        (under(TLS, "require_sni"), |p| {
            tls(p, |tls| tls.require_sni = Some(BoolValue { value: true }))
        }),
        (under(TLS, "ocsp_staple_policy"), |p| {
            tls(p, |tls| tls.ocsp_staple_policy = 2)
        }),
        (under(TLS, "session_ticket_keys"), |p| {
            use crate::proto::tls::downstream_tls_context::SessionTicketKeysType;
            tls(p, |tls| {
                tls.session_ticket_keys_type = Some(SessionTicketKeysType::SessionTicketKeys(Default::default()));
            });
        }),
        (under(COMMON, "tls_certificate_provider_instance"), |p| {
            #[allow(deprecated, reason = "istiod writes both")]
            tls(p, |tls| {
                let common = tls.common_tls_context.as_mut().unwrap();
                common.tls_certificate_provider_instance = None;
                common.tls_certificate_certificate_provider_instance = None;
            });
        }),
        (under(COMMON, "validation_context"), |p| {
            tls(p, |tls| {
                tls.common_tls_context.as_mut().unwrap().validation_context_type = None
            });
        }),
        (under(COMMON, "tls_params"), |p| {
            tls(p, |tls| {
                tls.common_tls_context.as_mut().unwrap().tls_params = Some(Default::default())
            });
        }),
        (under(COMMON, "tls_certificates"), |p| {
            tls(p, |tls| {
                tls.common_tls_context
                    .as_mut()
                    .unwrap()
                    .tls_certificates
                    .push(Default::default())
            });
        }),
    ];
    let base = istiod::proxyless::inbound(true);
    table::<Listener>(context(), &base, &istiod::proxyless::inbound(false), &mutators);
}

#[test]
fn cp_6_servers_of_sidecars() {
    let mutators: [Mutator<Proto>; 12] = [
        ("listener_filters[0].typed_config", |p| {
            p.listener_filters[0].config_type = Some(listener_filter::ConfigType::TypedConfig(Any {
                type_url: "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"
                    .into(),
                value: Vec::new(),
            }));
        }),
        ("filter_chains[1].filters[0].typed_config", |p| {
            network(p, "ext_authz.v3.ExtAuthz")
        }),
        ("filter_chains[1].filters[0].typed_config", |p| {
            network(p, "tcp_proxy.v3.TcpProxy")
        }),
        (
            "filter_chains[1].filters[0].typed_config.http_filters[0].typed_config",
            |p| {
                manager(p, |m| m.http_filters.insert(0, guard("basic_auth.v3.BasicAuth", true)));
            },
        ),
        (
            "filter_chains[1].filters[0].typed_config.http_filters[0].config_discovery.type_urls",
            |p| {
                manager(p, |m| {
                    let source = core::ExtensionConfigSource {
                        config_source: Some(core::ConfigSource {
                            config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
                                Default::default(),
                            )),
                            ..Default::default()
                        }),
                        // Of which type its resource may be.
                        type_urls: Vec::new(),
                        ..Default::default()
                    };
                    let mut elsewhere = guard("", true);
                    elsewhere.config_type = Some(crate::proto::hcm::http_filter::ConfigType::ConfigDiscovery(source));
                    m.http_filters.insert(0, elsewhere);
                });
            },
        ),
        (
            "filter_chains[1].filters[0].typed_config.http_filters[0].typed_config.services",
            |p| manager(p, |m| m.http_filters.insert(0, guard("ext_authz.v3.ExtAuthz", true))),
        ),
        // What a table of routes keeps out is not let in.
        (
            "filter_chains[1].filters[0].typed_config.route_config.virtual_hosts",
            |p| {
                routes(p, |config| config.virtual_hosts[0].domains = vec!["a.test".into()]);
            },
        ),
        (
            "filter_chains[1].filters[0].typed_config.route_config.virtual_hosts",
            |p| {
                routes(p, |config| config.virtual_hosts.clear());
            },
        ),
        (
            "filter_chains[1].filters[0].typed_config.route_config.virtual_hosts[0].routes",
            |p| {
                routes(p, |config| {
                    let path = crate::proto::route::route_match::PathSpecifier::Prefix("/a".into());
                    config.virtual_hosts[0].routes[0]
                        .r#match
                        .as_mut()
                        .unwrap()
                        .path_specifier = Some(path);
                });
            },
        ),
        (
            "filter_chains[1].filters[0].typed_config.route_config.virtual_hosts[0].routes[0].action",
            |p| {
                routes(p, |config| {
                    let answer = crate::proto::route::route::Action::DirectResponse(Default::default());
                    config.virtual_hosts[0].routes[0].action = Some(answer);
                });
            },
        ),
        (
            "filter_chains[1].filters[0].typed_config.route_config.virtual_hosts[0].require_tls",
            |p| routes(p, |config| config.virtual_hosts[0].require_tls = 2),
        ),
        ("filter_chains[2].filter_chain_match", |p| {
            let twice = p.filter_chains[1].clone();
            p.filter_chains.insert(2, twice);
        }),
    ];
    let base = istiod::sidecar::virtual_inbound(true);
    table::<Listener>(envoy(), &base, &istiod::sidecar::virtual_outbound(), &mutators);
}
