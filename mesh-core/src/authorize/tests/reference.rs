//! Another reading of the same policies, written to be obviously right and in another way: what a request that can be read in several
//! ways comes to is the set of answers of all readings. It shares no code with what it is held against but the values.

use std::net::IpAddr;

use crate::config::{
    Authorization, HeaderMatch, HeaderTest, PermissionTest, PrincipalTest, RbacAction, Rule, StringMatch, Subject,
};

/// A request as a list of what it says.
pub(super) struct Plain {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) authority: String,
    pub(super) headers: Vec<(String, String)>,
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
        PermissionTest::Path(test) => sure(text(test, &request.path)),
        PermissionTest::DestinationIp(range) => sure(range.contains([10, 0, 0, 1].into())),
        PermissionTest::DestinationPorts(from, to) => sure(*from <= request.port && request.port < *to),
        PermissionTest::ServerName(test) => sure(text(test, "")),
    }
}

fn principal(test: &PrincipalTest, request: &Plain) -> Answers {
    match test {
        PrincipalTest::Peer(test) => sure(match (&request.peer, test) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(peer), Some(test)) => text(test, peer),
        }),
        PrincipalTest::Source(range) => sure(range.contains(request.source)),
        PrincipalTest::Header(test) => header(test, request),
        PrincipalTest::Path(test) => sure(text(test, &request.path)),
        PrincipalTest::Token(_) => sure(false),
    }
}

fn header(test: &HeaderMatch, request: &Plain) -> Answers {
    let values: Vec<String> = match &test.subject {
        Subject::Method => vec![request.method.clone()],
        Subject::Authority => vec![request.authority.clone()],
        Subject::Scheme => vec!["https".into()],
        Subject::Path => vec![
            request
                .query
                .iter()
                .fold(request.path.clone(), |path, query| format!("{path}?{query}")),
        ],
        Subject::Unseen(_) => vec![],
        Subject::Header(name) => {
            let of_name = request.headers.iter().filter(|(other, _)| other == name.as_str());
            of_name.map(|(_, value)| value.clone()).collect()
        }
    };
    let mut readings: Vec<Option<String>> = values.iter().cloned().map(Some).collect();
    readings.push((!values.is_empty()).then(|| values.join(",")));
    if readings.len() > 1 || test.missing_is_empty {
        readings.retain(Option::is_some);
    }
    if readings.is_empty() {
        readings.push(Some(String::new()));
    }
    let answers = readings.iter().map(|reading| match (reading, &test.test) {
        (None, HeaderTest::Present) => sure(test.invert),
        (None, _) => sure(false),
        (Some(_), HeaderTest::Present) => sure(!test.invert),
        (Some(value), HeaderTest::Value(wanted)) => sure(text(wanted, value) != test.invert),
        (Some(value), HeaderTest::Range { start, end }) => {
            let number = value.trim().parse::<i64>().ok();
            sure(number.is_some_and(|number| *start <= number && number < *end) != test.invert)
        }
    });
    (answers.clone().any(|(no, _)| no), answers.clone().any(|(_, yes)| yes))
}

fn text(test: &StringMatch, value: &str) -> bool {
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
