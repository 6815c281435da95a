//! Listeners.

use mesh_core::config::{CallFilter, FilterKind, RouteTree};

use super::*;
use crate::encode;
use crate::proto::{core, discovery, hcm, listener, pack, protobuf};
use crate::resource::{Http, Listener, Routes};

fn listener_proto() -> listener::Listener {
    listener::Listener::decode(&*encode::listener("target", "routes", &encode::Calls::default())).unwrap()
}

fn with_manager(proto: &mut listener::Listener, change: impl FnOnce(&mut hcm::HttpConnectionManager)) {
    let any = proto.api_listener.as_mut().unwrap().api_listener.as_mut().unwrap();
    let mut manager = hcm::HttpConnectionManager::decode(&*any.value).unwrap();
    change(&mut manager);
    *any = pack(&manager);
}

fn filter(name: &str, config: &str, is_optional: bool) -> hcm::HttpFilter {
    let any = protobuf::Any {
        type_url: config.into(),
        value: Vec::new(),
    };
    hcm::HttpFilter {
        name: name.into(),
        is_optional,
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(any)),
        ..Default::default()
    }
}

#[test]
fn listeners_that_are_refused() {
    let bad = |field: &str, change: fn(&mut hcm::HttpConnectionManager)| {
        refused::<Listener>(listener_proto(), field, |proto| with_manager(proto, change));
    };
    bad("api_listener.http_filters", |m| m.http_filters.clear());
    bad("api_listener.http_filters", |m| {
        m.http_filters.push(filter("later", "type.googleapis.com/x.Y", true));
    });
    bad("api_listener.http_filters[0].typed_config", |m| {
        m.http_filters
            .insert(0, filter("needed", "type.googleapis.com/x.Y", false));
    });
    bad("api_listener.http_filters[1].name", |m| {
        m.http_filters.push(m.http_filters[0].clone());
    });
    bad("api_listener.xff_num_trusted_hops", |m| m.xff_num_trusted_hops = 1);
    bad("api_listener.original_ip_detection_extensions", |m| {
        m.original_ip_detection_extensions.push(Default::default());
    });
    bad("api_listener.route_specifier", |m| m.route_specifier = None);
    bad("api_listener.scoped_routes", |m| {
        m.route_specifier = Some(hcm::http_connection_manager::RouteSpecifier::ScopedRoutes(
            Default::default(),
        ));
    });
    let rds = |change: fn(&mut hcm::Rds)| {
        move |proto: &mut listener::Listener| {
            with_manager(proto, |manager| {
                if let Some(hcm::http_connection_manager::RouteSpecifier::Rds(rds)) = &mut manager.route_specifier {
                    change(rds);
                }
            });
        }
    };
    let at = "api_listener.rds.config_source";
    refused::<Listener>(listener_proto(), at, rds(|rds| rds.config_source = None));
    refused::<Listener>(
        listener_proto(),
        at,
        rds(|rds| {
            rds.config_source = Some(core::ConfigSource {
                config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::ApiConfigSource(
                    Default::default(),
                )),
                ..Default::default()
            });
        }),
    );
    let at = "api_listener.rds.route_config_name";
    refused::<Listener>(listener_proto(), at, rds(|rds| rds.route_config_name.clear()));
    refused::<Listener>(listener_proto(), "api_listener", |proto| {
        proto.api_listener.as_mut().unwrap().api_listener = None;
    });
    // Without one it is a server's.
    refused::<Listener>(listener_proto(), "address.socket_address", |proto| {
        proto.api_listener = None
    });
    refused::<Listener>(listener_proto(), "name", |proto| proto.name.clear());
}

#[test]
fn listeners_that_are_taken() {
    let named = Listener::Api(Http {
        routes: Routes::Named("routes".into()),
        extensions: Arc::default(),
        filters: Arc::default(),
        limits: Default::default(),
        telemetry: Default::default(),
    });
    assert_eq!(accepted::<Listener>(listener_proto(), |_| {}), named);
    // An optional unknown filter is skipped; istiod's empty fault filter is where routes hang their faults.
    let many = accepted::<Listener>(listener_proto(), |proto| {
        with_manager(proto, |manager| {
            let fault = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";
            manager.http_filters.insert(0, filter("fault", fault, false));
            manager
                .http_filters
                .insert(0, filter("unknown", "type.googleapis.com/x.Y", true));
        });
    });
    let Listener::Api(Http {
        extensions, filters, ..
    }) = many
    else {
        panic!("a client's listener stays one")
    };
    let fault = CallFilter::new("fault", FilterKind::Fault(Arc::default()));
    assert_eq!((extensions.len(), &*filters), (0, &[fault][..]));
    let inline = accepted::<Listener>(listener_proto(), |proto| {
        with_manager(proto, |manager| {
            let specifier = hcm::http_connection_manager::RouteSpecifier::RouteConfig(Default::default());
            manager.route_specifier = Some(specifier);
        });
    });
    let Listener::Api(Http {
        routes: Routes::Inline(tree),
        ..
    }) = inline
    else {
        panic!("inline routes stay inline")
    };
    assert_eq!(&*tree.name, "target");
}

#[test]
fn an_envelope_is_opened_and_another_type_is_refused() {
    let envelope = discovery::Resource {
        name: "another name".into(),
        resource: Some(pack(&listener_proto())),
        ..Default::default()
    };
    let Ok(Unwrapped::Envelope {
        raw: inner, ttl: None, ..
    }) = unwrap(raw(&envelope))
    else {
        panic!("an envelope with a listener")
    };
    assert_eq!(&*decode::<Listener>(&inner, &context()).unwrap().name, "target");
    let rejected = decode::<RouteTree>(&inner, &context()).unwrap_err();
    assert_eq!((rejected.resource(), rejected.field()), ("", "type_url"));
    let broken = Raw {
        bytes: vec![0xff],
        ..inner
    };
    assert!(decode::<Listener>(&broken, &context()).is_err());
}
