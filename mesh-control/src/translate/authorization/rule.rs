//! One rule of an `AuthorizationPolicy`: its sources, operations and conditions as tests.

use std::net::IpAddr;

use mesh_core::canonical::{PathNormalization, canonical_authority, canonical_path, is_spoofable};
use mesh_core::config::{
    ClaimShape, HeaderMatch, HeaderTest, IpPrefix, Pattern, Permission, PermissionTest, Principal, PrincipalTest,
    RbacPolicy, Rule, StringMatch, Subject, TokenTest,
};
use mesh_core::identity::SpiffeId;

use crate::diagnostic::{Code, Severity};
use crate::istio::{At, Attribute, Meta, PolicyRule, Tested};
use crate::translate::{Findings, Mesh};

/// Reads the rules of one document.
pub(super) struct Reader<'a> {
    meta: &'a Meta,
    mesh: &'a Mesh,
    /// What matches is kept out, so that where a value has two readings the wider one counts. Turned about while what must not match is
    /// read.
    denies: bool,
    findings: &'a mut Findings,
}

impl<'a> Reader<'a> {
    /// `denies`: what the rules match is not let through by that.
    pub(super) fn new(meta: &'a Meta, mesh: &'a Mesh, denies: bool, findings: &'a mut Findings) -> Self {
        Self {
            meta,
            mesh,
            denies,
            findings,
        }
    }

    /// The policy that a rule is.
    pub(super) fn policy(&mut self, index: usize, rule: &PolicyRule) -> RbacPolicy {
        let (mut who, mut what) = (Vec::new(), Vec::new());
        for condition in &rule.when {
            match self.permission(condition) {
                Some(permission) => what.push(permission),
                None => who.push(self.principal(condition)),
            }
        }
        let mut principals: Vec<Principal> = Vec::new();
        for source in &rule.from {
            let own = source.iter().map(|tested| self.principal(tested));
            let mut own: Vec<_> = own.collect();
            own.extend(who.iter().cloned());
            principals.push(all(own));
        }
        let mut permissions: Vec<Permission> = Vec::new();
        for operation in &rule.to {
            let own = operation.iter().filter_map(|tested| self.permission(tested));
            let mut own: Vec<_> = own.collect();
            own.extend(what.iter().cloned());
            permissions.push(all(own));
        }
        if principals.is_empty() {
            principals.push(all(who));
        }
        if permissions.is_empty() {
            permissions.push(all(what));
        }
        let (namespace, name) = (self.meta.namespace(), &self.meta.name);
        RbacPolicy {
            name: format!("ns[{namespace}]-policy[{name}]-rule[{index}]").into(),
            permissions,
            principals,
        }
    }

    /// A test of what is done; `None` where it is one of who does it.
    fn permission(&mut self, tested: &Tested) -> Option<Permission> {
        let make: fn(&mut Self, &At<String>) -> Option<Permission> = match tested.attribute {
            Attribute::Host => Self::host,
            Attribute::Method => Self::method,
            Attribute::Path => Self::path,
            Attribute::DestinationIp => |own, value| Some(Rule::Is(PermissionTest::DestinationIp(own.range(value)?))),
            Attribute::DestinationPort => Self::port,
            Attribute::ServerName => |own, value| {
                let test = match text(value) {
                    Some(test) => test,
                    None => own.pattern(value, ".+")?,
                };
                Some(Rule::Is(PermissionTest::ServerName(test)))
            },
            _ => return None,
        };
        Some(self.tested(tested, make))
    }

    fn principal(&mut self, tested: &Tested) -> Principal {
        let make: fn(&mut Self, &At<String>, &Attribute) -> Option<PrincipalTest> = match tested.attribute {
            Attribute::Principal => return self.tested(tested, Self::ids),
            Attribute::Namespace => {
                |own, value, _| own.by_pattern(value, &format!("[^/]+/ns/{}/sa/[^/]+", segment(value)))
            }
            Attribute::TrustDomain => |own, value, _| own.by_pattern(value, &format!("{}(?:/.*)?", segment(value))),
            Attribute::ServiceAccount => |own, value, _| own.account(value),
            Attribute::Header(_) => |own, value, attribute| own.header(value, attribute),
            Attribute::RequestPrincipal => |_, value, _| Some(PrincipalTest::Token(TokenTest::Principal(text(value)))),
            Attribute::Claim(_) => |own, value, attribute| own.claim(value, attribute),
            _ => |own, value, _| own.range(value).map(PrincipalTest::Source),
        };
        let attribute = &tested.attribute;
        self.tested(tested, |own, value| make(own, value, attribute).map(Rule::Is))
    }

    /// Any of the values, and none of those that it is not to be.
    fn tested<T>(&mut self, tested: &Tested, make: impl Fn(&mut Self, &At<String>) -> Option<Rule<T>>) -> Rule<T> {
        let mut both = Vec::new();
        if !tested.values.is_empty() {
            let values = tested.values.iter().filter_map(|value| make(self, value));
            both.push(Rule::Any(values.collect()));
        }
        if !tested.not_values.is_empty() {
            self.denies = !self.denies;
            let values = tested.not_values.iter().filter_map(|value| make(self, value));
            both.push(Rule::Any(values.collect()).negated());
            self.denies = !self.denies;
        }
        all(both)
    }

    fn method(&mut self, value: &At<String>) -> Option<Permission> {
        if value.value == "CONNECT" {
            return self.refuse(
                value,
                "no request has the method CONNECT: it is refused at the door".to_owned(),
            );
        }
        if value.bytes().any(|byte| byte.is_ascii_lowercase()) {
            return self.refuse(
                value,
                format!("no request has the method {:?}: methods are in upper case", value.value),
            );
        }
        Some(Rule::Is(header(Subject::Method, text(value))))
    }

    fn path(&mut self, value: &At<String>) -> Option<Permission> {
        if value.contains(['{', '}']) {
            return self.template(value).map(|test| Rule::Is(PermissionTest::Path(test)));
        }
        let test = text(value);
        // What stands where the value leaves something open may be anything; a letter stands for it.
        let whole = match &test {
            Some(StringMatch::Exact(path)) => path.to_string(),
            Some(StringMatch::Prefix(prefix)) => format!("{prefix}x"),
            Some(StringMatch::Suffix(suffix)) if suffix.contains('*') => {
                let message = format!("{:?}: a * stands at one end only", value.value);
                return self.refuse(value, message);
            }
            Some(StringMatch::Suffix(suffix)) if suffix.starts_with('/') => format!("/x{suffix}"),
            Some(StringMatch::Suffix(suffix)) => format!("/{suffix}"),
            _ => "/".to_owned(),
        };
        self.may_be_asked_for(value, &whole)?;
        let Some(test) = test else {
            // Everything, and that is also what `OPTIONS *` asks for.
            let both = [StringMatch::Prefix("/".into()), StringMatch::Exact("*".into())];
            let both = both.map(|test| Rule::Is(PermissionTest::Path(test)));
            return Some(Rule::Any(both.into()));
        };
        Some(Rule::Is(PermissionTest::Path(test)))
    }

    /// Refuses a path that no canonical request has, as which `whole` is read.
    fn may_be_asked_for(&mut self, value: &At<String>, whole: &str) -> Option<()> {
        if canonical_path(whole, PathNormalization::Base) != Ok(None) {
            let message = format!(
                "no request has the path {:?}: paths are compared in their canonical form, without `.` and `..` segments, backslashes and \
                 needless escapes",
                value.value
            );
            return self.refuse(value, message);
        }
        if canonical_path(whole, PathNormalization::default()) != Ok(None) {
            let message = format!(
                "no request has the path {:?} but of a server that was told to keep runs of slashes, or escaped ones (`MeshLayer::paths`)",
                value.value
            );
            self.findings
                .say(self.meta, Severity::Warning, Code::NoEffect, &value.place, message);
        }
        Some(())
    }

    /// `{*}` is a segment and `{**}` any number of them (Istio's path templates).
    fn template(&mut self, value: &At<String>) -> Option<StringMatch> {
        let mut source = String::new();
        let segments: Vec<&str> = value.split('/').collect();
        for (index, segment) in segments.iter().enumerate() {
            if index > 0 {
                source.push('/');
            }
            match *segment {
                "{*}" => source.push_str("[^/]+"),
                "{**}" => source.push_str(".*"),
                other if other.contains(['{', '}', '*']) => {
                    let message = format!(
                        "{:?}: {{*}} and {{**}} stand for whole segments, and * not beside them",
                        value.value
                    );
                    return self.refuse(value, message);
                }
                other => source.push_str(&escape(other)),
            }
        }
        self.may_be_asked_for(value, &value.replace("{**}", "x").replace("{*}", "x"))?;
        self.pattern(value, &source)
    }

    fn port(&mut self, value: &At<String>) -> Option<Permission> {
        match value.parse::<u16>() {
            Ok(port) if port > 0 => {
                let port = u32::from(port);
                Some(Rule::Is(PermissionTest::DestinationPorts(port, port + 1)))
            }
            _ => self.refuse(value, format!("{:?} is not a port between 1 and 65535", value.value)),
        }
    }

    fn range(&mut self, value: &At<String>) -> Option<IpPrefix> {
        let (address, bits) = match value.split_once('/') {
            Some((address, bits)) => (address.parse::<IpAddr>().ok(), bits.parse().ok()),
            None => {
                let address = value.parse::<IpAddr>().ok();
                (
                    address,
                    address.map(|address| if address.to_canonical().is_ipv4() { 32 } else { 128 }),
                )
            }
        };
        match address
            .zip(bits)
            .and_then(|(address, bits)| IpPrefix::new(address, bits).ok())
        {
            Some(range) => Some(range),
            None => self.refuse(
                value,
                format!("{:?} is not an IP address or a range of them", value.value),
            ),
        }
    }

    /// A principal of the mesh's own trust domain is one by each of its names (Istio); one of another is that.
    fn ids(&mut self, value: &At<String>) -> Option<Principal> {
        let mesh = self.mesh;
        let is_own = |value: &str| value.split_once('/').is_some_and(|(domain, _)| mesh.is_called(domain));
        if !is_own(value) {
            return self.id(value, None).map(Rule::Is);
        }
        let mut all = Vec::new();
        for domain in mesh.trust_domains() {
            all.push(Rule::Is(self.id(value, Some(domain))?));
        }
        match all.len() {
            1 => all.pop(),
            _ => Some(Rule::Any(all)),
        }
    }

    /// With `domain` in the place of its own, where there is one.
    fn id(&mut self, value: &At<String>, domain: Option<&str>) -> Option<PrincipalTest> {
        let own = |rest: &str| match (domain, rest.split_once('/')) {
            (Some(domain), Some((_, path))) => format!("spiffe://{domain}/{path}"),
            _ => format!("spiffe://{rest}"),
        };
        let test = match text(value) {
            None => return Some(PrincipalTest::Peer(None)),
            Some(StringMatch::Exact(id)) => StringMatch::Exact(own(&id).into()),
            Some(StringMatch::Prefix(prefix)) if prefix.ends_with('/') => StringMatch::Prefix(own(&prefix).into()),
            Some(StringMatch::Suffix(suffix)) if suffix.starts_with('/') => StringMatch::Suffix(suffix),
            _ => {
                let message = format!(
                    "{:?}: a * stands for whole segments of a principal, as in cluster.local/ns/shop/* or */sa/pay",
                    value.value
                );
                return self.refuse(value, message);
            }
        };
        if let StringMatch::Exact(id) = &test
            && let Err(error) = SpiffeId::parse(id)
        {
            return self.refuse(value, format!("{:?} is nobody's principal: {error}", value.value));
        }
        Some(PrincipalTest::Peer(Some(test)))
    }

    fn account(&mut self, value: &At<String>) -> Option<PrincipalTest> {
        if value.contains('*') || value.matches('/').count() > 1 {
            return self.refuse(
                value,
                format!("{:?} is not an account: name, or namespace/name", value.value),
            );
        }
        let (namespace, name) = value.split_once('/').unwrap_or_else(|| (self.meta.namespace(), value));
        let (namespace, name) = (escape(namespace), escape(name));
        self.by_pattern(value, &format!("[^/]+/ns/{namespace}/sa/{name}"))
    }

    fn header(&mut self, value: &At<String>, attribute: &Attribute) -> Option<PrincipalTest> {
        let Attribute::Header(name) = attribute else {
            return None;
        };
        let sent: Option<http::HeaderName> = name.parse().ok();
        if sent.is_some_and(|name| is_spoofable(&name)) {
            let message = format!(
                "{name:?} is taken off whatever a sender says by it, so that only an authorizer (CUSTOM) can have put it there"
            );
            self.findings
                .say(self.meta, Severity::Warning, Code::NoEffect, &value.place, message);
        }
        match Subject::parse(name) {
            Some(subject @ (Subject::Header(_) | Subject::Authority)) if !name.starts_with("grpc-") => {
                let test = text(value).map_or(HeaderTest::Present, HeaderTest::Value);
                Some(PrincipalTest::Header(HeaderMatch::new(subject, test)))
            }
            _ => self.refuse(value, format!("{name:?} is not a header that a policy may be about")),
        }
    }

    /// A claim that is a string, or a list with it.
    fn claim(&mut self, value: &At<String>, attribute: &Attribute) -> Option<PrincipalTest> {
        let Attribute::Claim(names) = attribute else {
            return None;
        };
        let path = names.iter().map(|name| name.as_str().into()).collect();
        let test = match text(value) {
            Some(test) => test,
            // Whatever it is, so long as it is there.
            None => self.pattern(value, "(?s).*")?,
        };
        Some(PrincipalTest::Token(TokenTest::Claim(path, ClaimShape::Any, test)))
    }

    /// A host as canonical requests name it: in lower case. Without a port it is Istio's exact comparison that lets somebody through, and
    /// the host by any port that keeps somebody out.
    fn host(&mut self, value: &At<String>) -> Option<Permission> {
        let host = value.to_ascii_lowercase();
        let is = |test| Rule::Is(header(Subject::Authority, Some(test)));
        let test = text(&host);
        let canonical = |text: String| canonical_authority(&text) == Ok(None);
        let there_is = match &test {
            None => true,
            Some(StringMatch::Exact(host)) => canonical(host.to_string()),
            // What follows may be of a name, or of a port.
            Some(StringMatch::Prefix(start)) => canonical(format!("{start}x")) || canonical(format!("{start}1")),
            Some(StringMatch::Suffix(end)) => canonical(format!("x{end}")) || canonical(format!("x:1{end}")),
            Some(_) => true,
        };
        if !there_is {
            let message = format!(
                "no request has the host {:?}: hosts are compared in their canonical form, without a user, a final dot, needless zeros and a \
                 second * ",
                value.value
            );
            return self.refuse(value, message.trim_end().to_owned());
        }
        Some(match test {
            None => Rule::Is(header(Subject::Authority, None)),
            Some(StringMatch::Exact(host)) if self.denies && !has_port(&host) => {
                let with_port = StringMatch::Prefix(format!("{host}:").into());
                Rule::Any(vec![is(StringMatch::Exact(host)), is(with_port)])
            }
            Some(StringMatch::Suffix(suffix)) if self.denies && !has_port(&suffix) => {
                is(self.pattern(value, &format!(".*{}(?::[0-9]+)?", escape(&suffix)))?)
            }
            Some(test) => is(test),
        })
    }

    fn pattern(&mut self, value: &At<String>, source: &str) -> Option<StringMatch> {
        match Pattern::new(source) {
            Ok(pattern) => Some(StringMatch::Regex(pattern)),
            Err(error) => self.refuse(value, error.to_string()),
        }
    }

    fn by_pattern(&mut self, value: &At<String>, rest: &str) -> Option<PrincipalTest> {
        let test = self.pattern(value, &format!("spiffe://{rest}"))?;
        Some(PrincipalTest::Peer(Some(test)))
    }

    fn refuse<T>(&mut self, value: &At<String>, message: String) -> Option<T> {
        self.findings
            .say(self.meta, Severity::Error, Code::Schema, &value.place, message);
        None
    }
}

/// All of them; one alone is itself, and none is no condition.
fn all<T>(mut rules: Vec<Rule<T>>) -> Rule<T> {
    match rules.len() {
        0 => Rule::Always,
        1 => rules.remove(0),
        _ => Rule::All(rules),
    }
}

/// Exact, `prefix*`, `*suffix`; `None` for `*`, which asks that it is there.
fn text(value: &str) -> Option<StringMatch> {
    match (value.strip_prefix('*'), value.strip_suffix('*')) {
        (Some(""), _) => None,
        (Some(suffix), _) => Some(StringMatch::Suffix(suffix.into())),
        (None, Some(prefix)) => Some(StringMatch::Prefix(prefix.into())),
        (None, None) => Some(StringMatch::Exact(value.into())),
    }
}

/// A pattern for one segment, of a value with a `*` at one end or without.
fn segment(value: &str) -> String {
    match text(value) {
        None => "[^/]+".into(),
        Some(StringMatch::Suffix(suffix)) => format!("[^/]*{}", escape(&suffix)),
        Some(StringMatch::Prefix(prefix)) => format!("{}[^/]*", escape(&prefix)),
        _ => escape(value),
    }
}

/// A text as a pattern that is that text.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        // Of the signs that are none of a pattern's, some mean something when they are escaped.
        if letter.is_ascii_punctuation() && !['_', '<', '>'].contains(&letter) {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

fn has_port(host: &str) -> bool {
    let port = host.rsplit_once(':').map(|(_, port)| port);
    port.is_some_and(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

fn header(subject: Subject, test: Option<StringMatch>) -> PermissionTest {
    let test = test.map_or(HeaderTest::Present, HeaderTest::Value);
    PermissionTest::Header(HeaderMatch::new(subject, test))
}
