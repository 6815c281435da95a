//! Whether a request may pass: [`Authorization`] applied to what is known of it.
//!
//! Pure and without a look at anything but its arguments: the same facts have the same answer. The request is canonical already
//! ([`crate::canonical`]), so there is one path and one authority to be asked about.
//!
//! Where a request leaves room for two readings, the one counts that lets less through. That is a header with several values:
//! Envoy and gRFC A41 look at them joined with `,`, and a handler may look at the first or the last. So a test of such a header
//! is made of the joined value and of each; a policy that denies matches when one of them passes, a policy that allows when all
//! do, and a negation turns that about.
//!
//! Nothing is allocated, except to join the values of a header that has several and that a policy asks about.

mod record;
mod rules;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use crate::config::{
    Asked, AskedAbout, Authorization, CheckSettings, ExtAuthz, FilterRules, HostRules, Quick, Rbac, RbacAction,
    RbacFilter,
};
use crate::identity::SpiffeId;
use crate::jwt::JwtClaims;
use crate::route::RequestHead;
use rules::{Headers, Lean};

pub use record::{DecisionRecord, Outcome, Shown};

/// What is known of a connection, and of a request where there is one.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Where the connection comes from, as the socket says.
    pub source: Option<IpAddr>,
    /// Where it was made to.
    pub destination: Option<SocketAddr>,
    /// The server name (SNI) of its handshake.
    pub server_name: Option<&'a str>,
    /// Who proved to be at the other end.
    pub peer: Option<&'a SpiffeId>,
    /// What the request's token says, where it had a good one.
    pub claims: Option<&'a JwtClaims>,
    /// The head of the request; without one, tests of it do not hold.
    pub head: Option<RequestHead<'a>>,
}

/// Which policy decided, or would have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matched<'a> {
    /// The filter's name.
    pub filter: &'a str,
    /// The policy's; `None`: there is none that allows.
    pub policy: Option<&'a str>,
}

/// What no route of the chain serves.
const UNSERVED: Matched<'static> = Matched {
    filter: "route",
    policy: None,
};

/// What was noticed on the way and changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice<'a> {
    /// A rule of a dry run would have refused.
    WouldDeny(Matched<'a>),
    /// A rule of a dry run matched and would have let it pass.
    WouldAllow(Matched<'a>),
    /// A rule that only reports matched (Istio AUDIT).
    Audited(Matched<'a>),
}

impl Authorization {
    /// Whether a connection may stay: `Err` names what is against it.
    ///
    /// # Errors
    ///
    /// When it may not.
    pub fn connection_passes<'a>(
        &'a self,
        facts: &Facts<'_>,
        notice: &mut dyn FnMut(Notice<'a>),
    ) -> Result<(), Matched<'a>> {
        let facts = Facts {
            head: None,
            claims: None,
            ..*facts
        };
        let mut filters = self.connection().iter();
        filters.try_for_each(|filter| passes(filter, (&filter.rules, None), (&facts, Headers::Known), notice))
    }

    /// Whether a request may pass: `Err` names what is against it. That of its connection is asked again, so that a rule that came
    /// since holds for the next request.
    ///
    /// One about which somebody outside of the process is to be asked does not pass: whoever can ask uses [`judge`](Self::judge).
    ///
    /// # Errors
    ///
    /// When it may not.
    pub fn request_passes<'a>(
        &'a self,
        facts: &Facts<'_>,
        notice: &mut dyn FnMut(Notice<'a>),
    ) -> Result<(), Matched<'a>> {
        match self.judge(facts, None, notice)? {
            Next::Passes => Ok(()),
            Next::Asks { index, policy } => Err(Matched {
                filter: &self.checks()[index].name,
                policy,
            }),
        }
    }

    /// What comes next for a request: it passes, or somebody is asked about it. `allowed`: by index, who was asked last and let it pass;
    /// what stands before that is not asked again. An authorizer may have changed the request, so those behind it are told of it as it
    /// is now.
    ///
    /// # Errors
    ///
    /// When it may not pass.
    pub fn judge<'a>(
        &'a self,
        facts: &Facts<'_>,
        allowed: Option<usize>,
        notice: &mut dyn FnMut(Notice<'a>),
    ) -> Result<Next<'a>, Matched<'a>> {
        self.judge_knowing((facts, Headers::Known), allowed, notice)
    }

    /// Whether a request that was let in may go on, for as long as it is open, now that these are the rules. Its headers are not at hand
    /// any more: `facts` have a head without them. Dry runs are not looked at, and nobody outside of the process is asked.
    pub fn goes_on<'a>(&'a self, facts: &Facts<'_>) -> GoesOn<'a> {
        match self.passes_all((facts, Headers::Against)) {
            Ok(asks) => GoesOn::Yes { asks },
            Err(_) => match self.passes_all((facts, Headers::For)) {
                Ok(_) => GoesOn::Unclear,
                Err(matched) => GoesOn::No(matched),
            },
        }
    }

    /// Whether a request passes where everybody who is asked lets it; and whether somebody is.
    fn passes_all<'a>(&'a self, known: Known<'_>) -> Result<bool, Matched<'a>> {
        let mut allowed = None;
        // Each turn asks somebody who stands behind the one before.
        while let Next::Asks { index, .. } = self.judge_knowing(known, allowed, &mut |_| {})? {
            allowed = Some(index);
        }
        Ok(allowed.is_some())
    }

    fn judge_knowing<'a>(
        &'a self,
        (facts, headers): Known<'_>,
        allowed: Option<usize>,
        notice: &mut dyn FnMut(Notice<'a>),
    ) -> Result<Next<'a>, Matched<'a>> {
        let to_ask = Lean::TO_YES.knowing(headers);
        if allowed.is_none() {
            if !self.connection().is_empty() {
                self.connection_passes(facts, notice)?;
            }
            if headers == Headers::Known
                && let Some(head) = &facts.head
                && self.serves(head).is_err()
            {
                return Err(UNSERVED);
            }
        }
        let replaced = match (facts.head, self.hosts()) {
            (None, _) | (_, []) => None,
            (Some(head), hosts) => host(hosts, &head),
        };
        // Which route it takes may turn on its headers, and with that which rules are its own.
        if let (Headers::Against, Some((host, _))) = (headers, &replaced)
            && host
                .routes
                .iter()
                .any(|route| !route.matches.headers.is_empty() || route.matches.grpc)
        {
            return Err(UNSERVED);
        }
        let asked = Asked::of(
            facts.peer.map(SpiffeId::hashed),
            facts.head.as_ref().map(RequestHead::path),
        );
        let begin = allowed.map_or(0, |index| self.checks()[index].after);
        let mut checks = (self
            .checks()
            .iter()
            .enumerate()
            .skip(allowed.map_or(0, |index| index + 1)))
        .peekable();
        for (place, (filter, quick)) in self.request().iter().zip(self.quick()).enumerate().skip(begin) {
            while let Some((index, check)) = checks.next_if(|(_, check)| check.after <= place) {
                if let Some(policy) = asks(check, replaced.as_ref(), facts, to_ask) {
                    return Ok(Next::Asks { index, policy });
                }
            }
            let own = (&filter.rules, Some((quick, &asked)));
            let rules = match &replaced {
                None => own,
                Some((host, head)) => in_place(host, head, &filter.name).map_or(own, |rules| (rules, None)),
            };
            passes(filter, rules, (facts, headers), notice)?;
        }
        for (index, check) in checks {
            if let Some(policy) = asks(check, replaced.as_ref(), facts, to_ask) {
                return Ok(Next::Asks { index, policy });
            }
        }
        Ok(Next::Passes)
    }

    /// Who may be asked about a request whose token nobody has looked at yet, as indices of [`checks`](Self::checks).
    pub fn may_ask(&self, facts: &Facts<'_>) -> impl Iterator<Item = usize> {
        let replaced = facts.head.as_ref().and_then(|head| host(self.hosts(), head));
        let checks = self.checks().iter().enumerate();
        checks.filter_map(move |(index, check)| {
            let lean = Lean::TO_YES.before_tokens();
            asks(check, replaced.as_ref(), facts, lean).map(|_| index)
        })
    }

    /// What is said of who is asked, by index, about the requests of one route; `None`: nothing.
    pub fn settings(&self, index: usize, head: &RequestHead<'_>) -> Option<&CheckSettings> {
        let (host, head) = host(self.hosts(), head)?;
        settings(host, &head, &self.checks().get(index)?.name)
    }
}

/// What comes next for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// It passes.
    Passes,
    /// Somebody outside of the process is asked, and what he says holds.
    Asks {
        /// Who, as an index of [`Authorization::checks`].
        index: usize,
        /// The policy that wants it asked; `None`: everything is.
        policy: Option<&'a str>,
    },
}

/// Whether a request that was let in may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoesOn<'a> {
    /// It may, whatever its headers said.
    Yes {
        /// Somebody outside of the process would be asked first.
        asks: bool,
    },
    /// That turns on its headers, and nobody has them.
    Unclear,
    /// It may not.
    No(Matched<'a>),
}

/// Whether somebody is asked about a request, and for which policy.
fn asks<'a>(
    check: &'a ExtAuthz,
    replaced: Option<&(&HostRules, RequestHead<'_>)>,
    facts: &Facts<'_>,
    lean: Lean,
) -> Option<Option<&'a str>> {
    let said = replaced.and_then(|(host, head)| settings(host, head, &check.name));
    if said.map_or(check.disabled, |said| said.disabled) {
        return None;
    }
    match &check.about {
        AskedAbout::Everything => Some(None),
        AskedAbout::Matched(policies) => {
            let mut policies = policies.iter();
            let matched = policies.find(|policy| rules::matches(policy, facts, lean));
            matched.map(|policy| Some(&*policy.name))
        }
    }
}

/// What a route, or else its host, says of who is asked.
fn settings<'a>(host: &'a HostRules, head: &RequestHead<'_>, filter: &str) -> Option<&'a CheckSettings> {
    let route = host
        .routes
        .iter()
        .find(|route| crate::route::takes(&route.matches, head));
    let of_route = route.into_iter().flat_map(|route| &route.checks);
    let mut all = of_route.chain(&host.checks);
    all.find(|said| *said.filter == *filter).map(|said| &said.with)
}

/// The rules of the authority, found as routes are.
fn host<'a, 'h>(hosts: &'a [HostRules], head: &RequestHead<'h>) -> Option<(&'a HostRules, RequestHead<'h>)> {
    let found = crate::route::best_host(hosts.iter().map(|host| (&*host.domains, host)), head.authority());
    found.map(|host| (host, *head))
}

/// What a route, or its host, puts in the place of a filter (gRFC A41: the most specific counts).
fn in_place<'a>(host: &'a HostRules, head: &RequestHead<'_>, filter: &str) -> Option<&'a FilterRules> {
    let route = host
        .routes
        .iter()
        .find(|route| crate::route::takes(&route.matches, head));
    let of_route = route.into_iter().flat_map(|route| &route.replaced);
    let mut all = of_route.chain(&host.replaced);
    all.find(|replaced| *replaced.filter == *filter)
        .map(|replaced| &replaced.with)
}

/// What is known of a request, and whether its headers are.
type Known<'a> = (&'a Facts<'a>, Headers);

/// What tells quickly which policies are not about the request, and what it looks at.
type Quickly<'a> = Option<(&'a Quick, &'a Asked<'a>)>;

fn passes<'a>(
    filter: &'a RbacFilter,
    (rules, quickly): (&'a FilterRules, Quickly<'_>),
    known: Known<'_>,
    notice: &mut dyn FnMut(Notice<'a>),
) -> Result<(), Matched<'a>> {
    let by = |policy| Matched {
        filter: &filter.name,
        policy,
    };
    if let Some(shadow) = &rules.shadow {
        match judge(shadow, known, None) {
            Judged::Denied(policy) => notice(Notice::WouldDeny(by(policy))),
            Judged::Allowed(Some(policy)) => notice(Notice::WouldAllow(by(Some(policy)))),
            Judged::Audited(policy) => notice(Notice::Audited(by(Some(policy)))),
            Judged::Allowed(None) => {}
        }
    }
    let Some(enforced) = &rules.enforced else {
        return Ok(());
    };
    match judge(enforced, known, quickly) {
        Judged::Denied(policy) => Err(by(policy)),
        Judged::Audited(policy) => {
            notice(Notice::Audited(by(Some(policy))));
            Ok(())
        }
        Judged::Allowed(_) => Ok(()),
    }
}

/// What a set of policies comes to, and by which of them.
enum Judged<'a> {
    Allowed(Option<&'a str>),
    Denied(Option<&'a str>),
    Audited(&'a str),
}

fn judge<'a>(rules: &'a Rbac, (facts, headers): Known<'_>, quickly: Quickly<'_>) -> Judged<'a> {
    let lean = match rules.action {
        RbacAction::Allow => Lean::TO_NO,
        RbacAction::Deny | RbacAction::Log => Lean::TO_YES,
    };
    let lean = lean.knowing(headers);
    let may_match = |index: usize| quickly.is_none_or(|(quick, asked)| quick.may_match(index, asked));
    let mut policies = rules.policies.iter().enumerate();
    let matched = policies.find(|(index, policy)| may_match(*index) && rules::matches(policy, facts, lean));
    let matched = matched.map(|(_, policy)| &*policy.name);
    match (rules.action, matched) {
        (RbacAction::Allow, Some(name)) => Judged::Allowed(Some(name)),
        (RbacAction::Deny, Some(name)) => Judged::Denied(Some(name)),
        (RbacAction::Log, Some(name)) => Judged::Audited(name),
        (RbacAction::Allow, None) => Judged::Denied(None),
        (RbacAction::Deny | RbacAction::Log, None) => Judged::Allowed(None),
    }
}
