//! Whether a policy's tests hold.

use std::borrow::Cow;

use super::Facts;
use crate::config::{
    HeaderMatch, HeaderTest, PermissionTest, PrincipalTest, RbacPolicy, Rule, StringMatch, Subject, TokenTest,
};
use crate::jwt::JwtClaims;
use crate::route::header_passes_as;

/// Which answer counts where a request has room for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lean {
    to_yes: bool,
    /// Nobody has looked at the request's token yet: what is asked of it has room for both, too.
    unread: bool,
    /// Its headers are not at hand.
    headers: Headers,
}

/// What is known of a request's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Headers {
    Known,
    /// Nothing, and whatever is asked of them speaks for the answer that lets less through.
    Against,
    /// Nothing, and it speaks for the other.
    For,
}

impl Lean {
    pub(super) const TO_YES: Self = Self {
        to_yes: true,
        unread: false,
        headers: Headers::Known,
    };
    pub(super) const TO_NO: Self = Self {
        to_yes: false,
        unread: false,
        headers: Headers::Known,
    };

    pub(super) fn before_tokens(self) -> Self {
        Self { unread: true, ..self }
    }

    pub(super) fn knowing(self, headers: Headers) -> Self {
        Self { headers, ..self }
    }

    fn turned(self) -> Self {
        Self {
            to_yes: !self.to_yes,
            ..self
        }
    }
}

pub(super) fn matches(policy: &RbacPolicy, facts: &Facts<'_>, lean: Lean) -> bool {
    // Who is asked first: most policies are about somebody else, and that costs one comparison.
    policy.principals.iter().any(|rule| holds(rule, facts, lean))
        && policy.permissions.iter().any(|rule| holds(rule, facts, lean))
}

/// Recursion is bounded by [`Authorization::MAX_DEPTH`](crate::config::Authorization::MAX_DEPTH).
fn holds<T: Test>(rule: &Rule<T>, facts: &Facts<'_>, lean: Lean) -> bool {
    match rule {
        Rule::Always => true,
        Rule::All(rules) => rules.iter().all(|rule| holds(rule, facts, lean)),
        Rule::Any(rules) => rules.iter().any(|rule| holds(rule, facts, lean)),
        Rule::Not(rule) => !holds(&**rule, facts, lean.turned()),
        Rule::Is(test) => test.holds(facts, lean),
    }
}

trait Test {
    fn holds(&self, facts: &Facts<'_>, lean: Lean) -> bool;
}

impl Test for PermissionTest {
    fn holds(&self, facts: &Facts<'_>, lean: Lean) -> bool {
        match self {
            Self::Header(header) => header_holds(header, facts, lean),
            Self::Path(test) => path_holds(test, facts),
            Self::DestinationIp(range) => facts.destination.is_some_and(|address| range.contains(address.ip())),
            Self::DestinationPorts(start, end) => {
                let port = facts.destination.map(|address| u32::from(address.port()));
                port.is_some_and(|port| (*start..*end).contains(&port))
            }
            Self::ServerName(test) => test.is_match(facts.server_name.unwrap_or_default().as_bytes()),
        }
    }
}

impl Test for PrincipalTest {
    fn holds(&self, facts: &Facts<'_>, lean: Lean) -> bool {
        match self {
            Self::Peer(None) => facts.peer.is_some(),
            Self::Peer(Some(test)) => facts.peer.is_some_and(|peer| test.is_match(peer.as_str().as_bytes())),
            Self::Source(range) => facts.source.is_some_and(|source| range.contains(source)),
            Self::Header(header) => header_holds(header, facts, lean),
            Self::Path(test) => path_holds(test, facts),
            Self::Token(_) if lean.unread => lean.to_yes,
            Self::Token(test) => facts.claims.is_some_and(|claims| token_holds(test, claims)),
        }
    }
}

fn token_holds(test: &TokenTest, claims: &JwtClaims) -> bool {
    match test {
        TokenTest::Principal(test) => claims.principal().is_some_and(|principal| {
            let passes = |test: &StringMatch| test.is_match(principal.as_bytes());
            test.as_ref().is_none_or(passes)
        }),
        TokenTest::Claim(path, shape, test) => claims.holds(path, *shape, test),
    }
}

fn path_holds(test: &StringMatch, facts: &Facts<'_>) -> bool {
    facts.head.is_some_and(|head| test.is_match(head.path().as_bytes()))
}

fn header_holds(header: &HeaderMatch, facts: &Facts<'_>, lean: Lean) -> bool {
    let Some(head) = &facts.head else {
        return false;
    };
    if let Subject::Header(name) = &header.subject {
        match lean.headers {
            Headers::Known => {}
            Headers::Against => return lean.to_yes,
            Headers::For => return !lean.to_yes,
        }
        let mut values = head.headers.get_all(name).iter();
        if values.next().is_some() && values.next().is_some() {
            let mut values = head.headers.get_all(name).iter();
            let joined = head.value(&header.subject);
            let passes = |value| value_holds(header, value, lean);
            return match lean.to_yes {
                true => passes(joined) || values.any(|value| passes(Some(value.as_bytes().into()))),
                false => passes(joined) && values.all(|value| passes(Some(value.as_bytes().into()))),
            };
        }
        let value = head.headers.get(name).map(|value| value.as_bytes().into());
        return value_holds(header, value, lean);
    }
    header_passes_as(header, head.value(&header.subject))
}

/// A pattern is about characters, and in bytes that are no text there are none for it to see: `.` passes over them, and whoever adds one
/// to a value has no pattern match it. A handler may well read the rest. So both is possible there.
fn value_holds(header: &HeaderMatch, value: Option<Cow<'_, [u8]>>, lean: Lean) -> bool {
    if let (HeaderTest::Value(StringMatch::Regex(_)), Some(bytes)) = (&header.test, &value)
        && std::str::from_utf8(bytes).is_err()
    {
        return lean.to_yes;
    }
    header_passes_as(header, value)
}
