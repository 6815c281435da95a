//! Who may call what, as configured: Envoy's role based access control, which is what Istio's AuthorizationPolicy becomes too
//! (Envoy `config.rbac.v3.RBAC`; gRFC A41). Values only: [`crate::authorize`] applies them.
//!
//! A chain has a list of filters, and a request must pass all of them. Istio's order (CUSTOM, DENY, ALLOW) is the order of the
//! list. A filter with policies of [`RbacAction::Allow`] lets through what one of them matches and nothing else, so one without
//! policies lets nothing through; with those of [`RbacAction::Deny`] it is the other way about.

use std::fmt;

use std::sync::Arc;

use super::{AskedAbout, CheckReplaced, Domain, ExtAuthz, HeaderMatch, IpPrefix, JwtRules, RouteMatch, StringMatch};

mod quick;
mod routing;

pub(crate) use quick::{Asked, Quick};
pub use routing::{RoutedHost, RoutedRoute, Routing, Unserved};

/// What the connections and requests of one filter chain must pass. Built within limits, so that deciding is bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Authorization {
    connection: Vec<RbacFilter>,
    request: Vec<RbacFilter>,
    hosts: Vec<HostRules>,
    tokens: Option<Arc<JwtRules>>,
    /// In the order in which they are asked.
    checks: Vec<ExtAuthz>,
    /// Of each of `request`, of what it enforces.
    quick: Vec<Quick>,
    routing: Routing,
}

impl Authorization {
    /// The most filters of each kind on one chain. Istio writes four.
    pub const MAX_FILTERS: usize = 32;
    /// The most policies of a chain, of all filters and routes together.
    pub const MAX_POLICIES: usize = 10_000;
    /// The most tests of a chain, of all policies together, with the nodes that join them.
    pub const MAX_NODES: usize = 100_000;
    /// The deepest that tests are joined: what a stack takes, and five times what Istio writes.
    pub const MAX_DEPTH: usize = 32;

    /// `connection` is asked about connections, `request` about requests, each in its order; `hosts` says where the latter is
    /// replaced.
    ///
    /// # Errors
    ///
    /// When a limit is passed.
    pub fn new(
        connection: Vec<RbacFilter>,
        request: Vec<RbacFilter>,
        hosts: Vec<HostRules>,
    ) -> Result<Self, TooManyRules> {
        if connection.len() > Self::MAX_FILTERS || request.len() > Self::MAX_FILTERS {
            return Err(TooManyRules::Filters);
        }
        let mut size = Size::default();
        let of_routes = hosts.iter().flat_map(|host| {
            let routes = host.routes.iter().flat_map(|route| &route.replaced);
            host.replaced.iter().chain(routes)
        });
        let replaced = of_routes.map(|replaced| &replaced.with);
        for rules in connection
            .iter()
            .chain(&request)
            .map(|filter| &filter.rules)
            .chain(replaced)
        {
            for rules in rules.enforced.iter().chain(&rules.shadow) {
                size.count(&rules.policies)?;
            }
        }
        let quick = request
            .iter()
            .map(|filter| filter.rules.enforced.as_ref().map(Quick::of).unwrap_or_default());
        Ok(Self {
            quick: quick.collect(),
            connection,
            request,
            hosts,
            tokens: None,
            checks: Vec::new(),
            routing: Routing::Everything,
        })
    }

    /// With what is asked of the tokens that requests show, before anything else is asked of them.
    #[must_use]
    pub fn with_tokens(self, tokens: Option<Arc<JwtRules>>) -> Self {
        Self { tokens, ..self }
    }

    /// What is asked of the tokens that requests show.
    pub fn tokens(&self) -> Option<&Arc<JwtRules>> {
        self.tokens.as_ref()
    }

    /// With those outside of the process who are asked, each where its [`after`](ExtAuthz::after) says.
    ///
    /// # Errors
    ///
    /// When a limit is passed.
    pub fn with_checks(self, mut checks: Vec<ExtAuthz>) -> Result<Self, TooManyRules> {
        if checks.len() > ExtAuthz::MAX_PER_CHAIN {
            return Err(TooManyRules::Filters);
        }
        let mut size = Size::default();
        for check in &checks {
            if let AskedAbout::Matched(policies) = &check.about {
                size.count(policies)?;
            }
        }
        checks.sort_by_key(|check| check.after);
        Ok(Self { checks, ..self })
    }

    /// Who outside of the process is asked about requests, in order.
    pub fn checks(&self) -> &[ExtAuthz] {
        &self.checks
    }

    /// What connections must pass, in order.
    pub fn connection(&self) -> &[RbacFilter] {
        &self.connection
    }

    /// What requests must pass, in order.
    pub fn request(&self) -> &[RbacFilter] {
        &self.request
    }

    /// Of each filter of requests, what its policies can be about.
    pub(crate) fn quick(&self) -> &[Quick] {
        &self.quick
    }

    /// Where what requests must pass is replaced.
    pub fn hosts(&self) -> &[HostRules] {
        &self.hosts
    }

    /// Whether nobody is asked for anything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One filter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RbacFilter {
    /// Its name, by which routes replace it.
    pub name: Box<str>,
    /// What it asks.
    pub rules: FilterRules,
}

/// What a filter asks; nothing where both are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FilterRules {
    /// What is enforced.
    pub enforced: Option<Rbac>,
    /// What is looked at and counted, and changes nothing (Envoy `shadow_rules`; Istio's dry run).
    pub shadow: Option<Rbac>,
}

/// What the routes of some authorities put in the place of filters (`RBACPerRoute`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostRules {
    /// The authorities.
    pub domains: Vec<Domain>,
    /// For all its requests, where their route says nothing.
    pub replaced: Vec<Replaced>,
    /// The same of those who are asked outside of the process.
    pub checks: Vec<CheckReplaced>,
    /// For the requests of one route; the first that takes a request counts.
    pub routes: Vec<RouteRules>,
}

/// See [`HostRules`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteRules {
    /// The requests it takes.
    pub matches: RouteMatch,
    /// For those.
    pub replaced: Vec<Replaced>,
    /// For those, of who is asked outside of the process. It holds all that is to be said: nothing of the host's is added to it.
    pub checks: Vec<CheckReplaced>,
}

/// What takes the place of a filter's rules.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Replaced {
    /// The filter.
    pub filter: Box<str>,
    /// What it asks instead.
    pub with: FilterRules,
}

/// A set of policies and what it means that one of them matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rbac {
    /// What it means.
    pub action: RbacAction,
    /// The policies, by name.
    pub policies: Vec<RbacPolicy>,
}

/// What it means that a policy matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RbacAction {
    /// The request passes; one that none matches does not.
    Allow,
    /// The request does not pass; one that none matches does.
    Deny,
    /// The request passes and is reported (Istio AUDIT); one that none matches passes, too.
    Log,
}

/// A policy: it matches when one of its permissions and one of its principals do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RbacPolicy {
    /// Its name; Istio's says namespace, policy and rule.
    pub name: Box<str>,
    /// What is done. None of them: the policy never matches.
    pub permissions: Vec<Permission>,
    /// Who does it. None of them: the policy never matches.
    pub principals: Vec<Principal>,
}

/// Tests, joined.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Rule<T> {
    /// Holds.
    Always,
    /// Holds when all of these do.
    All(Vec<Self>),
    /// Holds when one of these does.
    Any(Vec<Self>),
    /// Holds when this does not.
    Not(Box<Self>),
    /// Holds when the test does.
    Is(T),
}

impl<T> Rule<T> {
    /// Never holds.
    #[must_use]
    pub fn never() -> Self {
        Self::Not(Box::new(Self::Always))
    }

    /// The opposite.
    #[must_use]
    pub fn negated(self) -> Self {
        Self::Not(Box::new(self))
    }
}

/// What is done: see [`PermissionTest`].
pub type Permission = Rule<PermissionTest>;

/// Who does it: see [`PrincipalTest`].
pub type Principal = Rule<PrincipalTest>;

/// A test of what is done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PermissionTest {
    /// A header, by gRFC A41: the authority is `:authority` or `host`, whichever way it came.
    Header(HeaderMatch),
    /// The path, without the query.
    Path(StringMatch),
    /// The address the connection was made to.
    DestinationIp(IpPrefix),
    /// The port it was made to: from the first up to, but not including, the second.
    DestinationPorts(u32, u32),
    /// The server name (SNI) of its handshake; empty where there is none.
    ServerName(StringMatch),
}

/// A test of who does it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PrincipalTest {
    /// A peer that proved who it is. With a test: one whose id, from `spiffe://` on, passes it.
    Peer(Option<StringMatch>),
    /// The address the connection comes from. There is nobody between the peer and this process, so Envoy's `source_ip`,
    /// `direct_remote_ip` and `remote_ip` are one.
    Source(IpPrefix),
    /// A header.
    Header(HeaderMatch),
    /// The path, without the query.
    Path(StringMatch),
    /// What the request's token says that was found good.
    Token(TokenTest),
}

/// A test of a token that was found good. Without one it does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TokenTest {
    /// It says whom it is about; with a test: `<iss>/<sub>` passes it (Istio's request principal).
    Principal(Option<StringMatch>),
    /// A claim, within objects by the names on the way, passes the test.
    Claim(Box<[Box<str>]>, ClaimShape, StringMatch),
}

/// What a claim has to be for a test of it to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClaimShape {
    /// A string.
    Text,
    /// A list, one string of which passes.
    List,
    /// Either.
    Any,
}

/// What was counted of an [`Authorization`].
#[derive(Default)]
struct Size {
    policies: usize,
    nodes: usize,
}

impl Size {
    fn count(&mut self, policies: &[RbacPolicy]) -> Result<(), TooManyRules> {
        self.policies += policies.len();
        if self.policies > Authorization::MAX_POLICIES {
            return Err(TooManyRules::Policies);
        }
        for policy in policies {
            for permission in &policy.permissions {
                self.walk(permission, 1)?;
            }
            for principal in &policy.principals {
                self.walk(principal, 1)?;
            }
        }
        Ok(())
    }

    fn walk<T>(&mut self, rule: &Rule<T>, depth: usize) -> Result<(), TooManyRules> {
        self.nodes += 1;
        if self.nodes > Authorization::MAX_NODES {
            return Err(TooManyRules::Nodes);
        }
        if depth > Authorization::MAX_DEPTH {
            return Err(TooManyRules::Depth);
        }
        match rule {
            Rule::Always | Rule::Is(_) => Ok(()),
            Rule::Not(inner) => self.walk(inner, depth + 1),
            Rule::All(rules) | Rule::Any(rules) => rules.iter().try_for_each(|rule| self.walk(rule, depth + 1)),
        }
    }
}

/// Which limit of an [`Authorization`] was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooManyRules {
    /// [`Authorization::MAX_FILTERS`]
    Filters,
    /// [`Authorization::MAX_POLICIES`]
    Policies,
    /// [`Authorization::MAX_NODES`]
    Nodes,
    /// [`Authorization::MAX_DEPTH`]
    Depth,
}

impl fmt::Display for TooManyRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (limit, what) = match self {
            Self::Filters => (Authorization::MAX_FILTERS, "filters on one chain"),
            Self::Policies => (Authorization::MAX_POLICIES, "policies on one chain"),
            Self::Nodes => (Authorization::MAX_NODES, "tests on one chain"),
            Self::Depth => return write!(f, "joins tests more than {} deep", Authorization::MAX_DEPTH),
        };
        write!(f, "holds more than {limit} {what}")
    }
}

impl std::error::Error for TooManyRules {}
