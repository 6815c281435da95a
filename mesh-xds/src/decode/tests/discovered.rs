//! A server's listener some of whose filters are resources of their own (ECDS), and such resources, for the tests of the client.

use super::routed::rules;
use super::*;
use crate::proto::core::{ConfigSource, config_source::ConfigSourceSpecifier};
use crate::proto::hcm::{HttpConnectionManager, http_filter};
use crate::proto::listener::{Filter, Listener, filter};
use crate::proto::{pack, rbac_http, rbac_network};

pub(crate) use crate::proto::core::{ExtensionConfigSource, TypedExtensionConfig};
pub(crate) use crate::proto::hcm::HttpFilter;
pub(crate) use crate::proto::protobuf::Any;
pub(crate) use crate::proto::rbac::rbac::Action;

/// The chain that such a filter stands in, and the filter's name.
pub(crate) const CHAIN: &str = "0.0.0.0_50051";
pub(crate) const FILTER: &str = "ns.guard";

fn source(types: &[String]) -> ExtensionConfigSource {
    ExtensionConfigSource {
        config_source: Some(ConfigSource {
            config_source_specifier: Some(ConfigSourceSpecifier::Ads(Default::default())),
            ..Default::default()
        }),
        type_urls: types.to_vec(),
        ..Default::default()
    }
}

/// istiod's listener of what comes in, whose chain of the port has such a filter before all others.
pub(crate) fn listener(change: impl FnOnce(&mut HttpFilter, &mut ExtensionConfigSource)) -> Raw {
    let mut proto = istiod::sidecar::virtual_inbound(true);
    let chain = proto
        .filter_chains
        .iter_mut()
        .find(|chain| chain.name == CHAIN)
        .unwrap();
    let Some(filter::ConfigType::TypedConfig(any)) = &mut chain.filters[0].config_type else {
        panic!("the filter has a configuration")
    };
    let mut manager = HttpConnectionManager::decode(&*any.value).unwrap();
    let mut source = source(&[rbac_http::Rbac::type_url()]);
    let mut own = HttpFilter {
        name: FILTER.into(),
        ..HttpFilter::default()
    };
    change(&mut own, &mut source);
    own.config_type = Some(http_filter::ConfigType::ConfigDiscovery(source));
    manager.http_filters.insert(0, own);
    *any = pack(&manager);
    raw(&proto)
}

pub(crate) fn guard(action: Action) -> Raw {
    resource(pack(&rules(action)))
}

fn resource(config: Any) -> Raw {
    raw(&TypedExtensionConfig {
        name: FILTER.into(),
        typed_config: Some(config),
    })
}

/// What stands in the place of a filter that denies everybody.
pub(crate) fn deny() -> Option<Any> {
    Some(pack(&rules(Action::Deny)))
}

/// The listener whose chain has a filter of its connections that is a resource of its own.
pub(crate) fn listener_of_connections() -> Raw {
    let mut proto: Listener = istiod::sidecar::virtual_inbound(true);
    let chain = proto
        .filter_chains
        .iter_mut()
        .find(|chain| chain.name == CHAIN)
        .unwrap();
    let own = Filter {
        name: FILTER.into(),
        config_type: Some(filter::ConfigType::ConfigDiscovery(source(&[
            rbac_network::Rbac::type_url(),
        ]))),
    };
    chain.filters.insert(0, own);
    raw(&proto)
}

/// That filter.
pub(crate) fn guard_of_connections(action: Action) -> Raw {
    let config = rbac_network::Rbac {
        rules: rules(action).rules,
        stat_prefix: "p".into(),
        ..rbac_network::Rbac::default()
    };
    resource(pack(&config))
}
