//! API listeners.

use super::*;
use crate::proto::hcm::{
    HttpConnectionManager, HttpFilter, Rds, http_connection_manager::RouteSpecifier, http_filter::ConfigType,
};
use crate::proto::listener::Listener as Proto;
use crate::proto::protobuf::Any;
use crate::proto::router::Router;
use crate::proto::{core, pack};
use crate::resource::Listener;

fn manager(proto: &mut Proto, change: impl FnOnce(&mut HttpConnectionManager)) {
    let any = proto.api_listener.as_mut().unwrap().api_listener.as_mut().unwrap();
    let mut manager = HttpConnectionManager::decode(&*any.value).unwrap();
    change(&mut manager);
    *any = pack(&manager);
}

fn rds(proto: &mut Proto, change: impl FnOnce(&mut Rds)) {
    manager(proto, |manager| match &mut manager.route_specifier {
        Some(RouteSpecifier::Rds(rds)) => change(rds),
        _ => panic!("the routes are by name"),
    });
}

/// A filter before the others.
pub(super) fn guard(name: &str, is_optional: bool) -> HttpFilter {
    HttpFilter {
        name: "guard".into(),
        is_optional,
        config_type: Some(ConfigType::TypedConfig(Any {
            type_url: format!("type.googleapis.com/envoy.extensions.filters.http.{name}"),
            value: Vec::new(),
        })),
        ..Default::default()
    }
}

fn first(proto: &mut Proto, filter: HttpFilter) {
    manager(proto, |manager| manager.http_filters.insert(0, filter));
}

#[test]
fn cp_6_listeners() {
    let mutators: [Mutator<Proto>; 21] = [
        ("api_listener", |p| p.api_listener.as_mut().unwrap().api_listener = None),
        ("api_listener", |p| {
            p.api_listener.as_mut().unwrap().api_listener.as_mut().unwrap().type_url = "x/Y".into();
        }),
        ("api_listener", |p| {
            p.api_listener.as_mut().unwrap().api_listener.as_mut().unwrap().value = vec![0xff];
        }),
        ("api_listener.http_filters", |p| manager(p, |m| m.http_filters.clear())),
        ("api_listener.http_filters", |p| {
            manager(p, |m| drop(m.http_filters.pop()))
        }),
        ("api_listener.http_filters", |p| {
            manager(p, |m| m.http_filters.reverse())
        }),
        ("api_listener.http_filters", |p| {
            manager(p, |m| {
                let mut again = m.http_filters.last().unwrap().clone();
                again.name = "again".into();
                m.http_filters.push(again);
            });
        }),
        ("api_listener.http_filters[1].name", |p| {
            manager(p, |m| m.http_filters[1].name = m.http_filters[0].name.clone());
        }),
        ("api_listener.http_filters[0].typed_config", |p| {
            first(p, guard("rbac.v3.RBAC", false))
        }),
        ("api_listener.http_filters[0].typed_config", |p| {
            first(p, guard("unheard.v1.Of", false))
        }),
        ("api_listener.http_filters[0].typed_config", |p| {
            first(
                p,
                HttpFilter {
                    name: "empty".into(),
                    ..Default::default()
                },
            );
        }),
        ("api_listener.http_filters[0].config_discovery", |p| {
            let config_type = Some(ConfigType::ConfigDiscovery(Default::default()));
            first(
                p,
                HttpFilter {
                    name: "elsewhere".into(),
                    config_type,
                    ..Default::default()
                },
            );
        }),
        ("api_listener.xff_num_trusted_hops", |p| {
            manager(p, |m| m.xff_num_trusted_hops = 1)
        }),
        ("api_listener.original_ip_detection_extensions", |p| {
            manager(p, |m| m.original_ip_detection_extensions.push(Default::default()));
        }),
        ("api_listener.route_specifier", |p| {
            manager(p, |m| m.route_specifier = None)
        }),
        ("api_listener.scoped_routes", |p| {
            manager(p, |m| {
                m.route_specifier = Some(RouteSpecifier::ScopedRoutes(Default::default()))
            });
        }),
        ("api_listener.rds.config_source", |p| {
            rds(p, |rds| rds.config_source = None)
        }),
        ("api_listener.rds.config_source", |p| {
            rds(p, |rds| {
                let path = core::config_source::ConfigSourceSpecifier::PathConfigSource(Default::default());
                rds.config_source.as_mut().unwrap().config_source_specifier = Some(path);
            });
        }),
        ("api_listener.rds.route_config_name", |p| {
            rds(p, |rds| rds.route_config_name.clear())
        }),
        ("api_listener.stream_idle_timeout", |p| {
            let negative = crate::proto::protobuf::Duration { seconds: -1, nanos: 0 };
            manager(p, |m| m.stream_idle_timeout = Some(negative))
        }),
        ("api_listener.common_http_protocol_options.max_stream_duration", |p| {
            let negative = crate::proto::protobuf::Duration { seconds: -1, nanos: 0 };
            manager(p, |m| {
                m.common_http_protocol_options
                    .get_or_insert_default()
                    .max_stream_duration = Some(negative);
            });
        }),
    ];
    let base = istiod::proxyless::listener();
    table::<Listener>(context(), &base, &base, &mutators);
}

#[test]
fn a_router_may_tell_peers_nothing() {
    let mut proto = istiod::proxyless::listener();
    let limits = |proto: &Proto| match decode::<Listener>(&raw(proto), &context()).unwrap().value.unwrap() {
        Listener::Api(http) => http.limits,
        other => panic!("{other:?}"),
    };
    assert!(!limits(&proto).untold);
    manager(&mut proto, |manager| {
        let router = manager.http_filters.last_mut().unwrap();
        router.config_type = Some(ConfigType::TypedConfig(pack(&Router {
            suppress_envoy_headers: true,
            ..Default::default()
        })));
    });
    assert!(limits(&proto).untold);
}
