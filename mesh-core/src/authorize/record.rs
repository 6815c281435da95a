//! What is written down of a decision: enough to find the line that made it, and nothing that the request says of itself but who sent it.
//!
//! In the log a reader meets names that others chose: a peer's id, an issuer's subject. They are cut and escaped, so that none of them ends
//! a line or begins a false one.

use std::fmt;

use super::{Matched, Notice};
use crate::config::Version;

/// The longest of each name that is shown, in bytes.
const MAX_SHOWN_BYTES: usize = 256;

/// What was decided, or would have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The request was refused.
    Denied,
    /// An authorizer outside of the process refused it.
    DeniedByAuthorizer,
    /// Nothing was learnt of it from an authorizer, and it was refused for that.
    AuthorizerFailed,
    /// A dry run would have refused it.
    WouldDeny,
    /// A dry run would have let it pass.
    WouldAllow,
    /// It passed, and is reported (Istio AUDIT).
    Audited,
}

/// One decision.
#[derive(Clone, Copy, Debug)]
pub struct DecisionRecord<'a> {
    /// What was decided.
    pub outcome: Outcome,
    /// The filter that did.
    pub filter: &'a str,
    /// The policy; `None`: there is none that allows.
    pub policy: Option<&'a str>,
    /// Who proved to be at the other end of the connection.
    pub peer: Option<&'a str>,
    /// Whom the request's token is about: `iss/sub`.
    pub principal: Option<&'a str>,
    /// The configuration in effect.
    pub version: Version,
}

impl<'a> DecisionRecord<'a> {
    /// That of a rule that was looked at, or enforced.
    pub fn of_notice(notice: &Notice<'a>) -> (Outcome, Matched<'a>) {
        match notice {
            Notice::WouldDeny(matched) => (Outcome::WouldDeny, *matched),
            Notice::WouldAllow(matched) => (Outcome::WouldAllow, *matched),
            Notice::Audited(matched) => (Outcome::Audited, *matched),
        }
    }

    /// Which rule of the policy, counted from 0, where its name says so as Istio's do: `...-rule[0]`.
    pub fn rule(&self) -> Option<u32> {
        let (_, rule) = self.policy?.rsplit_once("-rule[")?;
        let digits = rule.find(']').map(|end| &rule[..end])?;
        digits.parse().ok()
    }

    /// Whether it changed nothing.
    pub fn is_dry_run(&self) -> bool {
        matches!(self.outcome, Outcome::WouldDeny | Outcome::WouldAllow)
    }

    /// As Envoy's access log has it (`RESPONSE_CODE_DETAILS`).
    pub fn details(&self) -> impl fmt::Display + '_ {
        Details(self)
    }
}

impl Outcome {
    /// A stable lower-case word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::DeniedByAuthorizer => "denied_by_authorizer",
            Self::AuthorizerFailed => "authorizer_failed",
            Self::WouldDeny => "would_deny",
            Self::WouldAllow => "would_allow",
            Self::Audited => "audited",
        }
    }
}

struct Details<'a>(&'a DecisionRecord<'a>);

impl fmt::Display for Details<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.outcome {
            Outcome::DeniedByAuthorizer => f.write_str("ext_authz_denied"),
            Outcome::AuthorizerFailed => f.write_str("ext_authz_error"),
            Outcome::Denied | Outcome::WouldDeny => {
                let policy = Shown(self.0.policy.unwrap_or("none"));
                write!(f, "rbac_access_denied_matched_policy[{policy}]")
            }
            Outcome::WouldAllow | Outcome::Audited => f.write_str("-"),
        }
    }
}

/// A name that somebody else chose, as it may stand in a log: cut, and without blanks and signs that control a terminal.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = 0;
        for letter in self.0.chars() {
            shown += letter.len_utf8();
            if shown > MAX_SHOWN_BYTES {
                return f.write_str("...");
            }
            // Blanks as Envoy has them, which splits its lines at them.
            match letter {
                letter if letter.is_whitespace() => f.write_str("_")?,
                letter if letter.is_control() || !letter.is_ascii() => write!(f, "{}", letter.escape_unicode())?,
                letter => write!(f, "{letter}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(outcome: Outcome, policy: Option<&str>) -> DecisionRecord<'_> {
        DecisionRecord {
            outcome,
            filter: "rbac-deny",
            policy,
            peer: None,
            principal: None,
            version: Version(7),
        }
    }

    #[test]
    fn details_are_envoys_and_name_the_rule() {
        const POLICY: &str = "ns[shop]-policy[closed]-rule[12]";
        let denied = record(Outcome::Denied, Some(POLICY));
        let expected = "rbac_access_denied_matched_policy[ns[shop]-policy[closed]-rule[12]]";
        assert_eq!((&*denied.details().to_string(), denied.rule()), (expected, Some(12)));
        let none = record(Outcome::Denied, None);
        let expected = "rbac_access_denied_matched_policy[none]";
        assert_eq!((&*none.details().to_string(), none.rule()), (expected, None));
        assert_eq!(
            record(Outcome::AuthorizerFailed, None).details().to_string(),
            "ext_authz_error"
        );
        assert_eq!(record(Outcome::WouldAllow, Some(POLICY)).details().to_string(), "-");
        assert!(record(Outcome::WouldDeny, Some(POLICY)).is_dry_run() && !denied.is_dry_run());
        assert_eq!(record(Outcome::Denied, Some("p-rule[x]")).rule(), None);
    }

    #[test]
    fn no_name_breaks_a_line_or_goes_on_for_ever() {
        let named = |policy: &str| record(Outcome::Denied, Some(policy)).details().to_string();
        assert!(
            !named("a\r\nb\tc\u{1b}[31m\u{2028}")
                .contains(|letter: char| letter.is_control() || letter.is_whitespace())
        );
        assert!(named(&"x".repeat(9000)).len() < 400);
        assert_eq!(Shown("a\u{e9}").to_string(), "a\\u{e9}");
    }
}
