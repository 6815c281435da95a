//! What of a route's requests is hashed.

use mesh_core::config::{HashBy, HashCookie, HashPolicy};

use super::action::substitution;
use super::common::duration;
use crate::convention::HASH_BY_CHANNEL;
use crate::proto::route::route_action::{
    HashPolicy as Proto,
    hash_policy::{
        ConnectionProperties, Cookie, CookieAttribute, FilterState, Header, PolicySpecifier, QueryParameter,
    },
};

pub(super) fn policy(policy: &HashPolicy) -> Proto {
    let specifier = match &policy.by {
        HashBy::Header { subject, rewrite } => PolicySpecifier::Header(Header {
            header_name: subject.to_string(),
            regex_rewrite: rewrite.as_ref().map(substitution),
        }),
        HashBy::Cookie(one) => PolicySpecifier::Cookie(cookie(one)),
        HashBy::SourceIp => PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true }),
        HashBy::Query(name) => PolicySpecifier::QueryParameter(QueryParameter {
            name: name.clone().into(),
        }),
        HashBy::Channel => PolicySpecifier::FilterState(FilterState {
            key: HASH_BY_CHANNEL.into(),
        }),
    };
    Proto {
        terminal: policy.terminal,
        policy_specifier: Some(specifier),
    }
}

fn cookie(cookie: &HashCookie) -> Cookie {
    let attribute = |(name, value): &(Box<str>, Box<str>)| CookieAttribute {
        name: name.clone().into(),
        value: value.clone().into(),
    };
    Cookie {
        name: cookie.name.clone().into(),
        ttl: cookie.ttl.map(duration),
        path: cookie.path.clone().into(),
        attributes: cookie.attributes.iter().map(attribute).collect(),
    }
}
