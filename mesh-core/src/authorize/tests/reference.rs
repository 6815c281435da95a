//! Another reading of the same policies, written to be obviously right and in another way: what a request that can be read in several
//! ways comes to is the set of answers of all readings. It shares no code with what it is held against but the values. It knows policies of
//! requests: what is enforced, what only reports (AUDIT) and what is only tried (dry runs), those who are asked outside of the process
//! and when, and what tokens say. What routes put in their place, connections and server names are held by tables.

use std::net::IpAddr;

use serde_json::Value;

use crate::config::{
    AskedAbout, Authorization, ClaimShape, HeaderMatch, HeaderTest, IpPrefix, PermissionTest, PrincipalTest, Rbac,
    RbacAction, RbacPolicy, Rule, StringMatch, Subject, TokenTest,
};

/// A request as a list of what it says.
pub(super) struct Plain {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) authority: String,
    pub(super) headers: Vec<(String, Vec<u8>)>,
    pub(super) peer: Option<String>,
    pub(super) source: IpAddr,
    pub(super) port: u32,
    /// What its token says, where it has a good one.
    pub(super) claims: Option<Value>,
}

/// Which answers there are: no, and yes.
type Answers = (bool, bool);

/// What becomes of a request, and what was done and said on the way.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decided {
    pub(super) passes: bool,
    /// Who was asked, and for which policy.
    pub(super) asked: Vec<(usize, Option<String>)>,
    /// What was noticed: its kind, the filter, the policy.
    pub(super) noticed: Vec<(&'static str, String, Option<String>)>,
}

/// `yes`: what each of those says who are asked.
pub(super) fn decide(authorization: &Authorization, request: &Plain, yes: &dyn Fn(usize) -> bool) -> Decided {
    let mut decided = Decided::default();
    let filters = authorization.request();
    for place in 0..=filters.len() {
        for (index, check) in authorization.checks().iter().enumerate() {
            if check.after.min(filters.len()) != place || check.disabled {
                continue;
            }
            let policy = match &check.about {
                AskedAbout::Everything => None,
                AskedAbout::Matched(policies) => match first(policies, request, &|(_, yes)| yes) {
                    Some(policy) => Some(policy),
                    None => continue,
                },
            };
            decided.asked.push((index, policy));
            if !yes(index) {
                return decided;
            }
        }
        let Some(filter) = filters.get(place) else { break };
        let mut notice = |kind, policy| decided.noticed.push((kind, filter.name.to_string(), policy));
        if let Some(tried) = &filter.rules.shadow {
            match (tried.action, matched(tried, request)) {
                (RbacAction::Allow, Some(policy)) => notice("would allow", Some(policy)),
                (RbacAction::Allow, None) => notice("would deny", None),
                (RbacAction::Deny, Some(policy)) => notice("would deny", Some(policy)),
                (RbacAction::Log, Some(policy)) => notice("audited", Some(policy)),
                (RbacAction::Deny | RbacAction::Log, None) => {}
            }
        }
        let Some(rules) = &filter.rules.enforced else { continue };
        match (rules.action, matched(rules, request)) {
            (RbacAction::Allow, None) | (RbacAction::Deny, Some(_)) => return decided,
            (RbacAction::Log, Some(policy)) => notice("audited", Some(policy)),
            (RbacAction::Allow, Some(_)) | (RbacAction::Deny | RbacAction::Log, None) => {}
        }
    }
    decided.passes = true;
    decided
}

/// The first policy that counts as matched: a permission has to be sure of it, and all others need only think it possible.
fn matched(rules: &Rbac, request: &Plain) -> Option<String> {
    match rules.action {
        RbacAction::Allow => first(&rules.policies, request, &|answers| answers == (false, true)),
        RbacAction::Deny | RbacAction::Log => first(&rules.policies, request, &|(_, yes)| yes),
    }
}

fn first(policies: &[RbacPolicy], request: &Plain, counts: &dyn Fn(Answers) -> bool) -> Option<String> {
    let found = policies.iter().find(|policy| {
        let what = policy.permissions.iter();
        let what = some(what.map(|rule| tree(rule, &|test| permission(test, request))));
        let who = policy.principals.iter();
        let who = some(who.map(|rule| tree(rule, &|test| principal(test, request))));
        counts(every([what, who].into_iter()))
    });
    found.map(|policy| policy.name.to_string())
}

fn every(mut all: impl Iterator<Item = Answers> + Clone) -> Answers {
    (all.clone().any(|(no, _)| no), all.all(|(_, yes)| yes))
}

fn some(mut all: impl Iterator<Item = Answers> + Clone) -> Answers {
    (all.clone().all(|(no, _)| no), all.any(|(_, yes)| yes))
}

fn tree<T>(rule: &Rule<T>, leaf: &dyn Fn(&T) -> Answers) -> Answers {
    match rule {
        Rule::Always => (false, true),
        Rule::All(rules) => every(rules.iter().map(|rule| tree(rule, leaf))),
        Rule::Any(rules) => some(rules.iter().map(|rule| tree(rule, leaf))),
        Rule::Not(rule) => {
            let (no, yes) = tree(rule, leaf);
            (yes, no)
        }
        Rule::Is(test) => leaf(test),
    }
}

fn sure(answer: bool) -> Answers {
    (!answer, answer)
}

fn permission(test: &PermissionTest, request: &Plain) -> Answers {
    match test {
        PermissionTest::Header(test) => header(test, request),
        PermissionTest::Path(test) => text(test, request.path.as_bytes()),
        PermissionTest::DestinationIp(range) => sure(within(range, [10, 0, 0, 1].into())),
        PermissionTest::DestinationPorts(from, to) => sure(*from <= request.port && request.port < *to),
        PermissionTest::ServerName(test) => text(test, b""),
    }
}

fn principal(test: &PrincipalTest, request: &Plain) -> Answers {
    match test {
        PrincipalTest::Peer(test) => match (&request.peer, test) {
            (None, _) => sure(false),
            (Some(_), None) => sure(true),
            (Some(peer), Some(test)) => text(test, peer.as_bytes()),
        },
        PrincipalTest::Source(range) => sure(within(range, request.source)),
        PrincipalTest::Header(test) => header(test, request),
        PrincipalTest::Path(test) => text(test, request.path.as_bytes()),
        PrincipalTest::Token(test) => match &request.claims {
            Some(claims) => sure(token(test, claims)),
            None => sure(false),
        },
    }
}

fn token(test: &TokenTest, claims: &Value) -> bool {
    let passes = |test: &StringMatch, value: &Value| matches!(value, Value::String(value) if of_text(test, value));
    match test {
        TokenTest::Principal(test) => match (&claims["iss"], &claims["sub"]) {
            (Value::String(iss), Value::String(sub)) => test
                .as_ref()
                .is_none_or(|test| of_text(test, &[iss.as_str(), "/", sub].concat())),
            _ => false,
        },
        TokenTest::Claim(path, shape, test) => {
            // A name that is not there is null, in which nothing is.
            let value = path.iter().fold(claims, |value, name| &value[&**name]);
            let (text, list) = match shape {
                ClaimShape::Text => (true, false),
                ClaimShape::List => (false, true),
                ClaimShape::Any => (true, true),
            };
            let elements = value.as_array().map_or(&[][..], |all| all);
            (text && passes(test, value)) || (list && elements.iter().any(|value| passes(test, value)))
        }
    }
}

fn header(test: &HeaderMatch, request: &Plain) -> Answers {
    let of_text = |text: &str| vec![text.as_bytes().to_vec()];
    let values: Vec<Vec<u8>> = match &test.subject {
        Subject::Method => of_text(&request.method),
        Subject::Authority => of_text(&request.authority),
        Subject::Scheme => of_text("https"),
        Subject::Path => {
            let query = request.query.iter();
            of_text(&query.fold(request.path.clone(), |path, query| format!("{path}?{query}")))
        }
        Subject::Unseen(_) => vec![],
        Subject::Header(name) => {
            let of_name = request.headers.iter().filter(|(other, _)| other == name.as_str());
            of_name.map(|(_, value)| value.clone()).collect()
        }
    };
    let mut readings: Vec<Option<Vec<u8>>> = values.iter().cloned().map(Some).collect();
    readings.push((!values.is_empty()).then(|| values.join(&b","[..])));
    if readings.len() > 1 || test.missing_is_empty {
        readings.retain(Option::is_some);
    }
    if readings.is_empty() {
        readings.push(Some(Vec::new()));
    }
    let inverted = |(no, yes): Answers| if test.invert { (yes, no) } else { (no, yes) };
    let answers = readings.iter().map(|reading| match (reading, &test.test) {
        (None, HeaderTest::Present) => sure(test.invert),
        (None, _) => sure(false),
        (Some(_), HeaderTest::Present) => sure(!test.invert),
        (Some(value), HeaderTest::Value(wanted)) => inverted(text(wanted, value)),
        (Some(value), HeaderTest::Range { start, end }) => {
            let number = String::from_utf8(value.clone()).ok();
            let number = number.and_then(|text| text.trim().parse::<i64>().ok());
            sure(number.is_some_and(|number| *start <= number && number < *end) != test.invert)
        }
    });
    (answers.clone().any(|(no, _)| no), answers.clone().any(|(_, yes)| yes))
}

/// By the bits of an IPv4 range, which is all that the generator makes.
fn within(range: &IpPrefix, address: IpAddr) -> bool {
    let (IpAddr::V4(range_begins), IpAddr::V4(address)) = (range.address(), address) else {
        panic!("no such range is made: {range:?}");
    };
    let free = 32 - u32::from(range.bits());
    (u64::from(u32::from(range_begins)) >> free) == (u64::from(u32::from(address)) >> free)
}

fn text(test: &StringMatch, value: &[u8]) -> Answers {
    let Ok(text) = std::str::from_utf8(value) else {
        // Of what is no text a pattern says nothing, and the others compare bytes.
        return match test {
            StringMatch::Exact(wanted) => sure(wanted.as_bytes() == value),
            StringMatch::Prefix(wanted) => sure(value.starts_with(wanted.as_bytes())),
            StringMatch::Suffix(wanted) => sure(value.ends_with(wanted.as_bytes())),
            StringMatch::Contains(wanted) => {
                let at = (0..=value.len()).any(|at| value[at..].starts_with(wanted.as_bytes()));
                sure(at)
            }
            StringMatch::Regex(_) => (true, true),
        };
    };
    sure(of_text(test, text))
}

fn of_text(test: &StringMatch, value: &str) -> bool {
    match test {
        StringMatch::Exact(wanted) => **wanted == *value,
        StringMatch::Prefix(wanted) => value.starts_with(&**wanted),
        StringMatch::Suffix(wanted) => value.ends_with(&**wanted),
        StringMatch::Contains(wanted) => value.contains(&**wanted),
        // The few that the generator makes, read by hand.
        StringMatch::Regex(pattern) => match pattern.as_str() {
            "/a.*" => value.starts_with("/a") && !value.contains('\n'),
            "[a-z]+" => !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_lowercase()),
            other => panic!("no such pattern is made: {other}"),
        },
    }
}
