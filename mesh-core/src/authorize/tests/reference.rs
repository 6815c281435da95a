//! Another reading of the same policies, written to be obviously right and in another way: what a request that can be read in several
//! ways comes to is the set of answers of all readings. It shares no code with what it is held against but the values. It knows enforced
//! policies of requests alone: what routes put in their place, dry runs, connections, server names and tokens are held by tables.

use std::net::IpAddr;

use crate::config::{
    Authorization, HeaderMatch, HeaderTest, IpPrefix, PermissionTest, PrincipalTest, RbacAction, Rule, StringMatch,
    Subject,
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
}

/// Which answers there are: no, and yes.
type Answers = (bool, bool);

pub(super) fn allows(authorization: &Authorization, request: &Plain) -> bool {
    authorization.request().iter().all(|filter| {
        let Some(rules) = &filter.rules.enforced else {
            return true;
        };
        let answers = rules.policies.iter().map(|policy| {
            let what = some(
                policy
                    .permissions
                    .iter()
                    .map(|rule| tree(rule, &|test| permission(test, request))),
            );
            let who = some(
                policy
                    .principals
                    .iter()
                    .map(|rule| tree(rule, &|test| principal(test, request))),
            );
            every([what, who].into_iter())
        });
        let (_, yes) = some(answers.clone());
        match rules.action {
            RbacAction::Allow => answers.clone().any(|answers| answers == (false, true)),
            RbacAction::Deny => !yes,
            RbacAction::Log => true,
        }
    })
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
        PrincipalTest::Token(_) => sure(false),
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
