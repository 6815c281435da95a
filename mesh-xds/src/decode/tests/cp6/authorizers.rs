//! AZ-9 of authorizers outside of the process: what would have more refused, or less obeyed, and is not done here is refused with its
//! listener; and what istiod writes of Istio's CUSTOM is read as what it means.

use mesh_core::config::{AskedAbout, CheckService};

use super::*;
use crate::proto::core::{self, GrpcService, HttpUri, grpc_service, grpc_service::TargetSpecifier, http_uri};
use crate::proto::ext_authz::{ExtAuthz, HttpService, ext_authz::Services};
use crate::proto::hcm::{HttpConnectionManager, HttpFilter, http_filter};
use crate::proto::listener::{Listener as Proto, filter};
use crate::proto::matcher::{
    MetadataMatcher, StringMatcher, ValueMatcher,
    metadata_matcher::{PathSegment, path_segment::Segment},
    string_matcher, value_matcher,
};
use crate::proto::rbac::{Permission, Policy, Principal, Rbac, permission, principal, rbac::Action};
use crate::proto::{pack, percent, protobuf, rbac_http};
use crate::resource::Listener;

fn manager(proto: &mut Proto, change: impl FnOnce(&mut HttpConnectionManager)) {
    let Some(filter::ConfigType::TypedConfig(any)) = &mut proto.filter_chains[0].filters[0].config_type else {
        panic!("the filter has a configuration")
    };
    let mut manager = HttpConnectionManager::decode(&*any.value).unwrap();
    change(&mut manager);
    *any = pack(&manager);
}

fn filter_of(name: &str, any: protobuf::Any) -> HttpFilter {
    HttpFilter {
        name: name.into(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any)),
        ..Default::default()
    }
}

fn good() -> ExtAuthz {
    let envoy = grpc_service::EnvoyGrpc {
        cluster_name: "outbound|9000||authz.shop".into(),
        ..Default::default()
    };
    ExtAuthz {
        transport_api_version: core::ApiVersion::V3 as i32,
        services: Some(Services::GrpcService(GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// As istiod has one asked about what policies of one provider matched.
fn by_istio(provider: &str) -> MetadataMatcher {
    let prefix = string_matcher::MatchPattern::Prefix(format!("istio-ext-authz-{provider}-"));
    MetadataMatcher {
        filter: "envoy.filters.http.rbac".into(),
        path: vec![PathSegment {
            segment: Some(Segment::Key("istio_ext_authz_shadow_effective_policy_id".into())),
        }],
        value: Some(ValueMatcher {
            match_pattern: Some(value_matcher::MatchPattern::StringMatch(StringMatcher {
                match_pattern: Some(prefix),
                ..Default::default()
            })),
        }),
        ..Default::default()
    }
}

fn with(proto: &mut Proto, change: impl FnOnce(&mut ExtAuthz)) {
    let mut authorizer = good();
    change(&mut authorizer);
    manager(proto, |manager| {
        manager.http_filters.insert(0, filter_of("authz", pack(&authorizer)));
    });
}

fn by_http(proto: &mut Proto, change: impl FnOnce(&mut HttpService)) {
    let mut http = HttpService {
        server_uri: Some(HttpUri {
            uri: "http://authz".into(),
            http_upstream_type: Some(http_uri::HttpUpstreamType::Cluster("authz".into())),
            timeout: Some(protobuf::Duration { seconds: 1, nanos: 0 }),
        }),
        ..Default::default()
    };
    change(&mut http);
    with(proto, |authorizer| {
        authorizer.services = Some(Services::HttpService(http))
    });
}

#[test]
#[allow(deprecated, reason = "Istio writes the deprecated allowed_headers")]
fn az_9_an_authorizer_that_is_not_understood_is_refused() {
    let at = |rest: &str| -> &'static str {
        let at = format!("filter_chains[0].filters[0].typed_config.http_filters[0].typed_config{rest}");
        // Leaked: a dozen names, once per test run, so that the table is a plain list.
        Box::leak(at.into_boxed_str())
    };
    let mutators: [Mutator<Proto>; 14] = [
        (at(".services"), |p| with(p, |a| a.services = None)),
        (at(".transport_api_version"), |p| {
            with(p, |a| a.transport_api_version = 1)
        }),
        (at(".shadow_mode"), |p| with(p, |a| a.shadow_mode = true)),
        (at(".deny_at_disable"), |p| {
            with(p, |a| {
                a.deny_at_disable = Some(core::RuntimeFeatureFlag {
                    default_value: Some(protobuf::BoolValue { value: true }),
                    ..Default::default()
                });
            });
        }),
        (at(".filter_enabled"), |p| {
            with(p, |a| {
                a.filter_enabled = Some(core::RuntimeFractionalPercent {
                    default_value: Some(percent::FractionalPercent {
                        numerator: 50,
                        ..Default::default()
                    }),
                    ..Default::default()
                });
            });
        }),
        (at(".status_on_error"), |p| {
            with(p, |a| a.status_on_error = Some(percent::HttpStatus { code: 99 }));
        }),
        (at(".with_request_body.max_request_bytes"), |p| {
            with(p, |a| a.with_request_body = Some(Default::default()));
        }),
        (at(".decoder_header_mutation_rules"), |p| {
            with(p, |a| a.decoder_header_mutation_rules = Some(Default::default()));
        }),
        (at(".grpc_service.target_specifier"), |p| {
            with(p, |a| a.services = Some(Services::GrpcService(Default::default())));
        }),
        (at(".http_service.server_uri"), |p| {
            by_http(p, |http| http.server_uri = None)
        }),
        (at(".http_service.path_prefix"), |p| {
            by_http(p, |http| http.path_prefix = "x".into())
        }),
        (at(".filter_enabled_metadata"), |p| {
            with(p, |a| a.filter_enabled_metadata = Some(Default::default()));
        }),
        (at(".filter_enabled_metadata"), |p| {
            with(p, |a| {
                let mut other = by_istio("x");
                other.filter = "envoy.filters.http.jwt_authn".into();
                a.filter_enabled_metadata = Some(other);
            });
        }),
        (at(".allowed_headers"), |p| {
            by_http(p, |http| {
                http.authorization_request = Some(crate::proto::ext_authz::AuthorizationRequest {
                    allowed_headers: Some(Default::default()),
                    ..Default::default()
                });
            });
            manager(p, |manager| {
                let Some(http_filter::ConfigType::TypedConfig(any)) = &mut manager.http_filters[0].config_type else {
                    panic!("it has a configuration")
                };
                let mut authorizer = ExtAuthz::decode(&*any.value).unwrap();
                authorizer.allowed_headers = Some(Default::default());
                *any = pack(&authorizer);
            });
        }),
    ];
    let base = istiod::proxyless::inbound(true);
    table::<Listener>(context(), &base, &istiod::proxyless::inbound(false), &mutators);
}

fn policy() -> Policy {
    Policy {
        permissions: vec![Permission {
            rule: Some(permission::Rule::Any(true)),
        }],
        principals: vec![Principal {
            identifier: Some(principal::Identifier::Any(true)),
        }],
        ..Default::default()
    }
}

fn read_as(proto: &Proto, context: &Context) -> Result<Listener, Rejected> {
    decode::<Listener>(&raw(proto), context)?.value
}

/// Two providers, whose filters all have Istio's names, and a denial behind them.
#[test]
fn istios_custom_is_read_with_its_policies() {
    let mut proto = istiod::proxyless::inbound(false);
    proto.traffic_direction = core::TrafficDirection::Inbound as i32;
    let rules = |name: &str| Rbac {
        action: Action::Deny as i32,
        policies: [(name.to_owned(), policy())].into(),
        ..Default::default()
    };
    let dry_run = |provider: &str| rbac_http::Rbac {
        shadow_rules: Some(rules(&format!("istio-ext-authz-{provider}-ns[a]-policy[b]-rule[0]"))),
        shadow_rules_stat_prefix: "istio_ext_authz_".into(),
        ..Default::default()
    };
    let denial = rbac_http::Rbac {
        rules: Some(rules("ns[a]-policy[no]-rule[0]")),
        ..Default::default()
    };
    let ask = |provider: &str| ExtAuthz {
        filter_enabled_metadata: Some(by_istio(provider)),
        ..good()
    };
    let (rbac, authz) = ("envoy.filters.http.rbac", "envoy.filters.http.ext_authz");
    manager(&mut proto, |manager| {
        let before = [
            filter_of(rbac, pack(&dry_run("one"))),
            filter_of(authz, pack(&ask("one"))),
            filter_of(rbac, pack(&dry_run("two"))),
            filter_of(authz, pack(&ask("two"))),
            filter_of(rbac, pack(&denial)),
        ];
        manager.http_filters.splice(0..0, before);
    });
    // gRPC has no two filters of one name (gRFC A39).
    assert!(read_as(&proto, &context()).is_err());
    let Listener::Inbound(inbound) = read_as(&proto, &envoy()).unwrap() else {
        panic!("a server's")
    };
    let authorization = &inbound.chains[0].authorization;
    assert_eq!(authorization.request().len(), 1);
    assert!(authorization.request()[0].rules.shadow.is_none());
    let [one, two] = authorization.checks() else {
        panic!("{authorization:?}")
    };
    for (check, provider) in [(one, "one"), (two, "two")] {
        let AskedAbout::Matched(policies) = &check.about else {
            panic!("{check:?}")
        };
        let [policy] = &**policies else { panic!("{policies:?}") };
        assert!(policy.name.contains(provider), "{policy:?}");
        assert!(check.after == 0 && matches!(check.service, CheckService::Grpc(_)));
        assert_eq!(check.target(), "authz.shop:9000");
    }
}
