//! `RBAC`: who may call what (gRFC A41; Envoy for what gRPC has not).
//!
//! What cannot be looked at here is refused, never passed over: a rule that is half understood could let in whom it was to keep
//! out. Two things are understood to be absent: metadata that filters would put there that are refused, and so never matches
//! (gRFC A41 says the same), where those of a token are looked at; and the policy's metadata for logs.

use std::collections::HashMap;

use mesh_core::config::{
    FilterRules, IpPrefix, Permission, PermissionTest, Principal, PrincipalTest, Rbac, RbacAction, RbacPolicy, Rule,
    StringMatch, Subject,
};
use prost::Name;

use super::common::{decode_whole, unpack, unpack_whole};
use super::{Fault, matcher, token};
use crate::bootstrap::Profile;
use crate::proto::core::CidrRange;
use crate::proto::matcher::{FilterStateMatcher, MetadataMatcher, PathMatcher, filter_state_matcher, path_matcher};
use crate::proto::protobuf::Any;
use crate::proto::rbac::{
    Permission as PermissionProto, Policy as PolicyProto, Principal as PrincipalProto, Rbac as RulesProto,
    permission::Rule as PermissionRule, principal::Identifier, rbac::Action,
};
use crate::proto::route::{FilterConfig, HeaderMatcher};
use crate::proto::{rbac_http, rbac_network};

/// Under which Istio tells who the peer is.
const PEER_PRINCIPAL: &str = "io.istio.peer_principal";

/// What a route says of a filter.
pub(super) enum PerRoute {
    /// It asks nothing.
    Disabled,
    /// It asks what it asks.
    Enabled,
    /// It asks something else.
    Instead(FilterRules),
}

/// Reads an HTTP filter, and how it calls what its dry run finds (`shadow_rules_stat_prefix`).
pub(super) fn http(bytes: &[u8]) -> Result<(FilterRules, Box<str>), Fault> {
    let proto = decode_whole::<rbac_http::Rbac>(bytes)?;
    Ok((of_http(&proto)?, proto.shadow_rules_stat_prefix.as_str().into()))
}

fn of_http(proto: &rbac_http::Rbac) -> Result<FilterRules, Fault> {
    no_matchers(proto.matcher.is_some(), proto.shadow_matcher.is_some())?;
    both(proto.rules.as_ref(), proto.shadow_rules.as_ref())
}

/// Reads a network filter.
pub(super) fn network(bytes: &[u8]) -> Result<FilterRules, Fault> {
    let proto = decode_whole::<rbac_network::Rbac>(bytes)?;
    no_matchers(proto.matcher.is_some(), proto.shadow_matcher.is_some())?;
    both(proto.rules.as_ref(), proto.shadow_rules.as_ref())
}

/// Reads what a `typed_per_filter_config` says of the filter `name`.
pub(super) fn per_route(configs: &HashMap<String, Any>, name: &str) -> Result<Option<PerRoute>, Fault> {
    let Some(any) = configs.get(name) else {
        return Ok(None);
    };
    let at = |fault: Fault| fault.within(format_args!("typed_per_filter_config[{name:?}]"));
    if any.type_url != FilterConfig::type_url() {
        return one(any).map(Some).map_err(at);
    }
    let wrapper = unpack::<FilterConfig>("", any).map_err(at)?;
    match (&wrapper.config, wrapper.disabled) {
        (_, true) => Ok(Some(PerRoute::Disabled)),
        (None, false) => Ok(Some(PerRoute::Enabled)),
        (Some(inner), false) => one(inner).map(Some).map_err(|fault| at(fault.within("config"))),
    }
}

/// Whether what a route says could be used, whichever filter it is said of.
pub(super) fn check_per_route(any: &Any) -> Result<(), Fault> {
    one(any).map(drop)
}

fn one(any: &Any) -> Result<PerRoute, Fault> {
    let proto = unpack_whole::<rbac_http::RbacPerRoute>("", any)?;
    match &proto.rbac {
        None => Ok(PerRoute::Disabled),
        Some(rbac) => of_http(rbac)
            .map(PerRoute::Instead)
            .map_err(|fault| fault.within("rbac")),
    }
}

fn no_matchers(matcher: bool, shadow: bool) -> Result<(), Fault> {
    match (matcher, shadow) {
        (true, _) => Err(Fault::new("matcher", "is not supported")),
        (_, true) => Err(Fault::new("shadow_matcher", "is not supported")),
        _ => Ok(()),
    }
}

fn both(enforced: Option<&RulesProto>, shadow: Option<&RulesProto>) -> Result<FilterRules, Fault> {
    let read =
        |field: &str, proto: Option<&RulesProto>| proto.map(rules).transpose().map_err(|fault| fault.within(field));
    Ok(FilterRules {
        enforced: read("rules", enforced)?,
        shadow: read("shadow_rules", shadow)?,
    })
}

fn rules(proto: &RulesProto) -> Result<Rbac, Fault> {
    let action = match Action::try_from(proto.action) {
        Ok(Action::Allow) => RbacAction::Allow,
        Ok(Action::Deny) => RbacAction::Deny,
        Ok(Action::Log) => RbacAction::Log,
        Err(_) => return Err(Fault::new("action", format!("is not an action: {}", proto.action))),
    };
    let loggers = proto
        .audit_logging_options
        .iter()
        .flat_map(|options| &options.logger_configs);
    if loggers.clone().any(|logger| !logger.is_optional) {
        return Err(Fault::new(
            "audit_logging_options",
            "asks for a logger that is not known here (gRFC A59)",
        ));
    }
    // Envoy asks policies in the order of their names.
    let mut policies: Vec<_> = proto.policies.iter().collect();
    policies.sort_unstable_by_key(|(name, _)| name.as_str());
    let read = |(name, proto): (&String, &PolicyProto)| {
        policy(name, proto).map_err(|fault| fault.within(format_args!("policies[{name:?}]")))
    };
    Ok(Rbac {
        action,
        policies: policies.into_iter().map(read).collect::<Result<_, _>>()?,
    })
}

fn policy(name: &str, proto: &PolicyProto) -> Result<RbacPolicy, Fault> {
    if proto.condition.is_some() {
        return Err(Fault::new("condition", "must not be set (gRFC A41)"));
    }
    if proto.checked_condition.is_some() {
        return Err(Fault::new("checked_condition", "must not be set (gRFC A41)"));
    }
    Ok(RbacPolicy {
        name: name.into(),
        permissions: list("permissions", &proto.permissions, permission)?,
        principals: list("principals", &proto.principals, principal)?,
    })
}

/// At least one (Envoy `min_items`).
fn list<P, T>(field: &str, protos: &[P], read: fn(&P) -> Result<Rule<T>, Fault>) -> Result<Vec<Rule<T>>, Fault> {
    if protos.is_empty() {
        return Err(Fault::new(field, "is empty"));
    }
    let one = |(index, proto)| read(proto).map_err(|fault| fault.within(format_args!("{field}[{index}]")));
    protos.iter().enumerate().map(one).collect()
}

#[allow(deprecated, reason = "Istio writes the deprecated metadata")]
fn permission(proto: &PermissionProto) -> Result<Permission, Fault> {
    let test = match proto.rule.as_ref().ok_or_else(|| Fault::new("rule", "is missing"))? {
        PermissionRule::AndRules(set) => {
            return list("rules", &set.rules, permission)
                .map(Rule::All)
                .map_err(|fault| fault.within("and_rules"));
        }
        PermissionRule::OrRules(set) => {
            return list("rules", &set.rules, permission)
                .map(Rule::Any)
                .map_err(|fault| fault.within("or_rules"));
        }
        PermissionRule::NotRule(rule) => {
            return permission(rule)
                .map(Rule::negated)
                .map_err(|fault| fault.within("not_rule"));
        }
        PermissionRule::Any(any) => return always("any", *any),
        PermissionRule::Metadata(matcher) => return of_what(matcher),
        PermissionRule::SourcedMetadata(sourced) => {
            return of_what(sourced_metadata(sourced.metadata_matcher.as_ref())?);
        }
        PermissionRule::Header(matcher) => PermissionTest::Header(header(matcher)?),
        PermissionRule::UrlPath(matcher) => PermissionTest::Path(path(matcher)?),
        PermissionRule::DestinationIp(range) => PermissionTest::DestinationIp(cidr("destination_ip", range)?),
        PermissionRule::DestinationPort(port) if *port <= 65_535 => PermissionTest::DestinationPorts(*port, port + 1),
        PermissionRule::DestinationPort(_) => return Err(Fault::new("destination_port", "is not a port")),
        PermissionRule::DestinationPortRange(range) => {
            let end = |field, value: i32| u32::try_from(value).map_err(|_| Fault::new(field, "is negative"));
            let within = |fault: Fault| fault.within("destination_port_range");
            let (start, end) = (
                end("start", range.start).map_err(within)?,
                end("end", range.end).map_err(within)?,
            );
            PermissionTest::DestinationPorts(start, end)
        }
        PermissionRule::RequestedServerName(matcher) => {
            let test = matcher::string_match(matcher).map_err(|fault| fault.within("requested_server_name"))?;
            PermissionTest::ServerName(test)
        }
        PermissionRule::Matcher(_) => return Err(Fault::new("matcher", "is not supported")),
        PermissionRule::UriTemplate(_) => return Err(Fault::new("uri_template", "is not supported")),
    };
    Ok(Rule::Is(test))
}

#[allow(deprecated, reason = "Istio writes the deprecated source_ip and metadata")]
fn principal(proto: &PrincipalProto) -> Result<Principal, Fault> {
    let identifier = proto.identifier.as_ref();
    let test = match identifier.ok_or_else(|| Fault::new("identifier", "is missing"))? {
        Identifier::AndIds(set) => {
            return list("ids", &set.ids, principal)
                .map(Rule::All)
                .map_err(|fault| fault.within("and_ids"));
        }
        Identifier::OrIds(set) => {
            return list("ids", &set.ids, principal)
                .map(Rule::Any)
                .map_err(|fault| fault.within("or_ids"));
        }
        Identifier::NotId(id) => return principal(id).map(Rule::negated).map_err(|fault| fault.within("not_id")),
        Identifier::Any(any) => return always("any", *any),
        Identifier::Metadata(matcher) => return of_whom(matcher),
        Identifier::SourcedMetadata(sourced) => return of_whom(sourced_metadata(sourced.metadata_matcher.as_ref())?),
        Identifier::Authenticated(authenticated) => {
            let name = authenticated
                .principal_name
                .as_ref()
                .map(matcher::string_match)
                .transpose();
            PrincipalTest::Peer(name.map_err(|fault| fault.within("authenticated.principal_name"))?)
        }
        Identifier::FilterState(state) => PrincipalTest::Peer(Some(peer_principal(state)?)),
        Identifier::SourceIp(range) => PrincipalTest::Source(cidr("source_ip", range)?),
        Identifier::DirectRemoteIp(range) => PrincipalTest::Source(cidr("direct_remote_ip", range)?),
        Identifier::RemoteIp(range) => PrincipalTest::Source(cidr("remote_ip", range)?),
        Identifier::Header(matcher) => PrincipalTest::Header(header(matcher)?),
        Identifier::UrlPath(matcher) => PrincipalTest::Path(path(matcher)?),
        Identifier::Custom(_) => return Err(Fault::new("custom", "is not supported")),
    };
    Ok(Rule::Is(test))
}

/// Envoy takes nothing but `true`.
fn always<T>(field: &str, any: bool) -> Result<Rule<T>, Fault> {
    match any {
        true => Ok(Rule::Always),
        false => Err(Fault::new(field, "must be true")),
    }
}

/// There is none, so nothing matches, and everything does that was to be the opposite.
fn metadata<T>(matcher: &MetadataMatcher) -> Rule<T> {
    match matcher.invert {
        true => Rule::Always,
        false => Rule::never(),
    }
}

fn sourced_metadata(matcher: Option<&MetadataMatcher>) -> Result<&MetadataMatcher, Fault> {
    matcher.ok_or_else(|| Fault::new("sourced_metadata.metadata_matcher", "is missing"))
}

/// What filters here leave, they leave of tokens.
fn of_whom(matcher: &MetadataMatcher) -> Result<Principal, Fault> {
    if !token::is_of_token(matcher) {
        return Ok(metadata(matcher));
    }
    let test = token::read(matcher).map_err(|fault| fault.within("metadata"))?;
    let rule = Rule::Is(PrincipalTest::Token(test));
    Ok(if matcher.invert { rule.negated() } else { rule })
}

/// What is not looked at must not pass for absent.
fn of_what(matcher: &MetadataMatcher) -> Result<Permission, Fault> {
    match token::is_of_token(matcher) {
        true => Err(Fault::new("metadata", "of a token is supported in principals")),
        false => Ok(metadata(matcher)),
    }
}

fn peer_principal(state: &FilterStateMatcher) -> Result<StringMatch, Fault> {
    use filter_state_matcher::Matcher;
    match &state.matcher {
        Some(Matcher::StringMatch(matcher)) if state.key == PEER_PRINCIPAL => {
            matcher::string_match(matcher).map_err(|fault| fault.within("filter_state.string_match"))
        }
        _ => Err(Fault::new("filter_state", format!("{:?} is not known here", state.key))),
    }
}

fn header(proto: &HeaderMatcher) -> Result<mesh_core::config::HeaderMatch, Fault> {
    let within = |fault: Fault| fault.within("header");
    // What gRPC decides by itself is not to be decided by (gRFC A41).
    if proto.name.to_ascii_lowercase().starts_with("grpc-") {
        return Err(within(Fault::new("name", "begins with grpc- (gRFC A41)")));
    }
    // Binary headers are looked at as they came, also by a gRPC server: here the safe side is to see them.
    let read = matcher::header_match(proto, Profile::Envoy).map_err(within)?;
    let read = read.map_err(|why| within(Fault::new("name", why)))?;
    match &read.subject {
        Subject::Scheme => Err(within(Fault::new("name", "must not be :scheme (gRFC A41)"))),
        _ => Ok(read),
    }
}

fn path(proto: &PathMatcher) -> Result<StringMatch, Fault> {
    let Some(path_matcher::Rule::Path(matcher)) = &proto.rule else {
        return Err(Fault::new("url_path.path", "is missing"));
    };
    matcher::string_match(matcher).map_err(|fault| fault.within("url_path.path"))
}

fn cidr(field: &str, range: &CidrRange) -> Result<IpPrefix, Fault> {
    let address = range.address_prefix.parse().map_err(|_| {
        let reason = format!("is not an IP address: {:?}", range.address_prefix);
        Fault::new("address_prefix", reason).within(field)
    })?;
    let bits = range.prefix_len.as_ref().map_or(0, |bits| bits.value);
    IpPrefix::new(address, bits).map_err(|error| Fault::new("prefix_len", error).within(field))
}
