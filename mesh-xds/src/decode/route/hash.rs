//! What of a route's requests is hashed (Envoy `hash_policy`, gRFC A42).

use std::time::Duration;

use http::HeaderValue;
use mesh_core::config::{HashBy, HashCookie, HashPolicy};

use super::action::substitution;
use crate::bootstrap::Profile;
use crate::convention::HASH_BY_CHANNEL;
use crate::decode::common::duration;
use crate::decode::matcher::subject;
use crate::decode::{Fault, Notes};
use crate::proto::route::route_action::{
    HashPolicy as Proto,
    hash_policy::{Cookie, Header, PolicySpecifier},
};

/// The most policies of a route: each of them is looked for in each of its requests.
const MAX_POLICIES: usize = 16;
/// The most attributes of a cookie.
const MAX_ATTRIBUTES: usize = 16;

pub(super) fn policies(list: &[Proto], profile: Profile, notes: &mut Notes) -> Result<Vec<HashPolicy>, Fault> {
    if list.len() > MAX_POLICIES {
        return Err(Fault::new(
            "hash_policy",
            format!("has more than {MAX_POLICIES} entries"),
        ));
    }
    let mut policies = Vec::with_capacity(list.len());
    for (index, proto) in list.iter().enumerate() {
        let at = |fault: Fault| fault.within(format_args!("hash_policy[{index}]"));
        if let Some(by) = by(proto, profile, notes).map_err(at)? {
            policies.push(HashPolicy {
                by,
                terminal: proto.terminal,
            });
        }
    }
    Ok(policies)
}

/// `None` for what there is nothing of in any request.
fn by(proto: &Proto, profile: Profile, notes: &mut Notes) -> Result<Option<HashBy>, Fault> {
    let by = match &proto.policy_specifier {
        Some(PolicySpecifier::Header(proto)) => header(proto, profile).map_err(|fault| fault.within("header"))?,
        Some(PolicySpecifier::Cookie(proto)) => cookie(proto).map_err(|fault| fault.within("cookie"))?,
        Some(PolicySpecifier::ConnectionProperties(properties)) => {
            if !properties.source_ip {
                return Ok(None);
            }
            HashBy::SourceIp
        }
        Some(PolicySpecifier::QueryParameter(query)) if query.name.is_empty() => {
            return Err(Fault::new("query_parameter.name", "is empty"));
        }
        Some(PolicySpecifier::QueryParameter(query)) => HashBy::Query(query.name.as_str().into()),
        Some(PolicySpecifier::FilterState(state)) if state.key == HASH_BY_CHANNEL => HashBy::Channel,
        Some(PolicySpecifier::FilterState(state)) => {
            // gRFC A42: ignored.
            notes.add(format_args!("no filter keeps a state {:?} to be hashed", state.key));
            return Ok(None);
        }
        None => {
            notes.add("a hash policy of an unknown kind is left out");
            return Ok(None);
        }
    };
    Ok(Some(by))
}

fn header(proto: &Header, profile: Profile) -> Result<HashBy, Fault> {
    let rewrite = proto.regex_rewrite.as_ref();
    Ok(HashBy::Header {
        subject: subject("header_name", &proto.header_name, profile)?,
        rewrite: rewrite
            .map(|rewrite| substitution("regex_rewrite", rewrite))
            .transpose()?,
    })
}

fn cookie(proto: &Cookie) -> Result<HashBy, Fault> {
    let text = |field: &str, text: &str| match HeaderValue::from_str(text) {
        Ok(_) if !text.contains([';', '=']) => Ok(Box::from(text)),
        _ => Err(Fault::new(field, "cannot stand in a cookie")),
    };
    if proto.name.is_empty() {
        return Err(Fault::new("name", "is empty"));
    }
    if proto.attributes.len() > MAX_ATTRIBUTES {
        let reason = format!("has more than {MAX_ATTRIBUTES} entries");
        return Err(Fault::new("attributes", reason));
    }
    let ttl = proto.ttl.as_ref().map(|ttl| duration("ttl", ttl)).transpose()?;
    let attributes = proto.attributes.iter();
    let attributes = attributes.map(|one| Ok((text("attributes", &one.name)?, text("attributes", &one.value)?)));
    Ok(HashBy::Cookie(Box::new(HashCookie {
        name: text("name", &proto.name)?,
        // Cookies are given for whole seconds.
        ttl: ttl.map(|ttl| Duration::from_secs(ttl.as_secs())),
        path: text("path", &proto.path)?,
        attributes: attributes.collect::<Result<_, Fault>>()?,
    })))
}
