//! `AuthorizationPolicy`: who may call what of a workload (Istio `security.istio.io`).
//!
//! What is not understood here is an error and never passed over, and so is what is written and empty, or null: a rule with less in it
//! than its author meant lets in more than was meant, or keeps out less.

use super::fields::Fields;
use super::value::{At, Place, Sink, Value};
use super::values::Selector;
use crate::diagnostic::{Code, Severity};

/// What a policy does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyAction {
    /// Lets it through, and with it nothing else.
    Allow,
    /// Keeps it out.
    Deny,
    /// Reports it.
    Audit,
}

/// A policy.
#[derive(Clone, Debug)]
pub struct AuthorizationPolicy {
    /// The workloads it means; `None`: its whole namespace, or the mesh when that is the root namespace.
    pub selector: Option<Selector>,
    /// What is done.
    pub action: PolicyAction,
    /// Any of these matches. None: nothing does.
    pub rules: Vec<PolicyRule>,
}

/// A rule: all of the three that are there.
#[derive(Clone, Debug)]
pub struct PolicyRule {
    /// Any of these is where it comes from; empty: it may come from anywhere.
    pub from: Vec<Vec<Tested>>,
    /// Any of these is what is done; empty: whatever is.
    pub to: Vec<Vec<Tested>>,
    /// All of these hold.
    pub when: Vec<Tested>,
}

/// A test of an attribute: any of the values, and none of those that it is not to be.
#[derive(Clone, Debug)]
pub struct Tested {
    /// What is looked at.
    pub attribute: Attribute,
    /// Values, of which one must fit; empty: it is not asked for.
    pub values: Vec<At<String>>,
    /// Values, none of which may fit.
    pub not_values: Vec<At<String>>,
}

/// What of a request is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// The peer's id without `spiffe://`.
    Principal,
    /// The namespace in it.
    Namespace,
    /// The service account in it, `namespace/name` or a name in the policy's own namespace.
    ServiceAccount,
    /// The trust domain in it.
    TrustDomain,
    /// The address it comes from. `remoteIpBlocks` are the same: there is nobody between.
    SourceIp,
    /// The authority.
    Host,
    /// The method.
    Method,
    /// The path without the query.
    Path,
    /// The address the connection was made to.
    DestinationIp,
    /// Its port.
    DestinationPort,
    /// The server name of the handshake.
    ServerName,
    /// A header.
    Header(String),
    /// Whom the request's token is about: `iss/sub`.
    RequestPrincipal,
    /// A claim of the request's token, within objects by the names on the way.
    Claim(Vec<String>),
}

impl Attribute {
    /// Whether it is of who the peer proved to be, which by plaintext is nobody.
    pub fn is_identity(&self) -> bool {
        matches!(
            self,
            Self::Principal | Self::Namespace | Self::ServiceAccount | Self::TrustDomain
        )
    }
}

/// A field, that of its negation, and what they are about.
type Field = (&'static str, &'static str, Attribute);

const SOURCE: [Field; 7] = [
    ("principals", "notPrincipals", Attribute::Principal),
    ("namespaces", "notNamespaces", Attribute::Namespace),
    ("serviceAccounts", "notServiceAccounts", Attribute::ServiceAccount),
    ("trustDomains", "notTrustDomains", Attribute::TrustDomain),
    ("requestPrincipals", "notRequestPrincipals", Attribute::RequestPrincipal),
    ("ipBlocks", "notIpBlocks", Attribute::SourceIp),
    ("remoteIpBlocks", "notRemoteIpBlocks", Attribute::SourceIp),
];

const OPERATION: [Field; 4] = [
    ("hosts", "notHosts", Attribute::Host),
    ("ports", "notPorts", Attribute::DestinationPort),
    ("methods", "notMethods", Attribute::Method),
    ("paths", "notPaths", Attribute::Path),
];

impl AuthorizationPolicy {
    pub(super) fn read(mut spec: Fields, sink: &mut Sink<'_>) -> Option<Self> {
        spec.no_nulls(sink);
        let selector = Selector::read(&mut spec, "selector", "matchLabels", sink);
        let provider = spec.take("provider");
        let action = match spec.string("action", sink) {
            None => Some(PolicyAction::Allow),
            Some(action) => self::action(&action, sink),
        };
        if let Some(provider) = provider {
            let message = "asks an authorizer outside of the process, which this version does not";
            sink.say(Severity::Error, Code::Refused, &provider.place, message);
        }
        spec.refused(
            &["targetRef", "targetRefs"],
            "it would hold for workloads it does not mean",
            sink,
        );
        let rules = spec.list("rules", sink, rule);
        spec.finish(sink);
        Some(Self {
            selector,
            action: action?,
            rules,
        })
    }
}

fn action(action: &At<String>, sink: &mut Sink<'_>) -> Option<PolicyAction> {
    match action.as_str() {
        "ALLOW" => Some(PolicyAction::Allow),
        "DENY" => Some(PolicyAction::Deny),
        "AUDIT" => Some(PolicyAction::Audit),
        "CUSTOM" => {
            let message = "CUSTOM asks an authorizer outside of the process, which this version does not: nothing may pass for allowed \
                           that nobody was asked about";
            sink.say(Severity::Error, Code::Refused, &action.place, message);
            None
        }
        other => {
            sink.schema(
                &action.place,
                format!("{other:?} is not one of ALLOW, DENY, AUDIT, CUSTOM"),
            );
            None
        }
    }
}

fn rule(value: Value, sink: &mut Sink<'_>) -> Option<PolicyRule> {
    let mut fields = value.object(sink)?;
    fields.no_nulls(sink);
    let from = alternatives(&mut fields, "from", "source", &SOURCE, sink);
    let to = alternatives(&mut fields, "to", "operation", &OPERATION, sink);
    let when = written(&mut fields, "when", sink, condition);
    fields.finish(sink);
    Some(PolicyRule { from, to, when })
}

/// `from: [{source: {...}}]` and `to: [{operation: {...}}]`.
fn alternatives(
    fields: &mut Fields,
    list: &str,
    inner: &str,
    known: &[Field],
    sink: &mut Sink<'_>,
) -> Vec<Vec<Tested>> {
    written(fields, list, sink, |value, sink| {
        let mut outer = value.object(sink)?;
        let place = outer.place.clone();
        let Some(inner_value) = outer.take(inner) else {
            sink.schema(&place, format!("{inner} is required"));
            outer.finish(sink);
            return None;
        };
        outer.finish(sink);
        let mut fields = inner_value.object(sink)?;
        fields.no_nulls(sink);
        let place = fields.place.clone();
        let mut all = Vec::new();
        for (name, not_name, attribute) in known {
            let values = texts(&mut fields, name, sink);
            let not_values = texts(&mut fields, not_name, sink);
            if !(values.is_empty() && not_values.is_empty()) {
                all.push(Tested {
                    attribute: attribute.clone(),
                    values,
                    not_values,
                });
            }
        }
        fields.finish(sink);
        if all.is_empty() {
            sink.schema(
                &place,
                format!("{inner} must say something: leave {list} out for everything"),
            );
            return None;
        }
        Some(all)
    })
}

fn condition(value: Value, sink: &mut Sink<'_>) -> Option<Tested> {
    let mut fields = value.object(sink)?;
    fields.no_nulls(sink);
    let place = fields.place.clone();
    let key = fields.required_string("key", sink);
    let values = texts(&mut fields, "values", sink);
    let not_values = texts(&mut fields, "notValues", sink);
    fields.finish(sink);
    let attribute = self::key(&key?, sink)?;
    if values.is_empty() && not_values.is_empty() {
        sink.schema(&place, "values or notValues is required");
        return None;
    }
    Some(Tested {
        attribute,
        values,
        not_values,
    })
}

/// Istio's names of attributes.
fn key(key: &At<String>, sink: &mut Sink<'_>) -> Option<Attribute> {
    Some(match key.as_str() {
        "source.ip" | "remote.ip" => Attribute::SourceIp,
        "source.namespace" => Attribute::Namespace,
        "source.principal" => Attribute::Principal,
        "source.serviceAccount" => Attribute::ServiceAccount,
        "destination.ip" => Attribute::DestinationIp,
        "destination.port" => Attribute::DestinationPort,
        "connection.sni" => Attribute::ServerName,
        "request.auth.principal" => Attribute::RequestPrincipal,
        "request.auth.audiences" => Attribute::Claim(vec!["aud".into()]),
        "request.auth.presenter" => Attribute::Claim(vec!["azp".into()]),
        other => {
            let header = other
                .strip_prefix("request.headers[")
                .and_then(|rest| rest.strip_suffix(']'));
            if let Some(name) = header {
                return Some(Attribute::Header(name.to_owned()));
            }
            if let Some(names) = other.strip_prefix("request.auth.claims").and_then(claim) {
                return Some(Attribute::Claim(names));
            }
            let message = format!("{other:?} is not looked at by this version");
            match other.starts_with("experimental.") {
                true => sink.say(Severity::Error, Code::Refused, &key.place, message),
                false => sink.schema(&key.place, format!("{other:?} is not an attribute")),
            }
            return None;
        }
    })
}

/// The names in `[a][b]`.
fn claim(brackets: &str) -> Option<Vec<String>> {
    let inner = brackets.strip_prefix('[')?.strip_suffix(']')?;
    let names: Vec<String> = inner.split("][").map(str::to_owned).collect();
    let is_name = |name: &String| !name.is_empty() && !name.contains(['[', ']']);
    names.iter().all(is_name).then_some(names)
}

/// Strings, none of them empty, and at least one where the field is written.
fn texts(fields: &mut Fields, name: &str, sink: &mut Sink<'_>) -> Vec<At<String>> {
    written(fields, name, sink, |value, sink| {
        let text = value.string(sink)?;
        if text.is_empty() {
            sink.schema(&text.place, "must not be empty");
            return None;
        }
        Some(text)
    })
}

/// A list that has something in it, where it is written.
fn written<T>(
    fields: &mut Fields,
    name: &str,
    sink: &mut Sink<'_>,
    decode: impl FnMut(Value, &mut Sink<'_>) -> Option<T>,
) -> Vec<T> {
    let Some(value) = fields.take(name) else {
        return Vec::new();
    };
    let place: Place = value.place.clone();
    let mut count = 0;
    let mut decode = decode;
    let all = value.list(sink, |item, sink| {
        count += 1;
        decode(item, sink)
    });
    match all {
        Some(_) if count == 0 => {
            sink.schema(&place, "must not be an empty list: leave it out for everything");
            Vec::new()
        }
        all => all.unwrap_or_default(),
    }
}
