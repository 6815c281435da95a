//! Random policies and random requests: the engine against the reference, and against itself under changes whose effect is known.
//!
//! `PROPTEST_CASES` says how many (256 when unset): the wide ring runs a million pairs.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request, Version};
use proptest::test_runner::Config;
use serde_json::{Value, json};

use super::super::*;
use super::reference::{self, Decided, Plain};
use crate::Entropy;
use crate::config::{
    CheckService, ClaimShape, GrpcCheck, HeaderMatch, HeaderTest, IpPrefix, OnFailure, Pattern, Permission,
    PermissionTest, Principal, PrincipalTest, RbacPolicy, Rule, SentHeaders, StringMatch, Subject, TokenTest,
};
use crate::entropy::Draw;

/// Requests that each policy is asked about.
const REQUESTS: usize = 10;
/// Policies of a case: a case is as many pairs as these two make.
const POLICIES: usize = 4;

const PATHS: [&str; 6] = ["/", "/a", "/a/b", "/admin", "/ab", "/b"];
const TEXTS: [&str; 6] = ["a", "b", "a,b", "", "7", "ab"];
/// The same, and bytes that are no text.
const VALUES: [&[u8]; 8] = [b"a", b"b", b"a,b", b"", b"7", b"ab", b"a\xff", b"\xff"];
const IDS: [&str; 4] = [
    "spiffe://mesh.test/ns/a/sa/b",
    "spiffe://mesh.test/ns/a/sa/bb",
    "spiffe://mesh.test/ns/ab/sa/b",
    "spiffe://other.test/ns/a/sa/b",
];
const SOURCES: [[u8; 4]; 3] = [[10, 0, 0, 7], [10, 1, 0, 7], [192, 168, 0, 1]];

struct Maker {
    draw: Draw,
    patterns: [Pattern; 2],
}

impl Maker {
    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.draw.below(all.len() as u64) as usize].clone()
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.draw.below(100) < percent
    }

    fn text(&mut self, all: &[&str]) -> StringMatch {
        let text = self.of(all);
        match self.draw.below(8) {
            0..4 => StringMatch::Exact(text.into()),
            4 => StringMatch::Prefix(text.into()),
            5 => StringMatch::Suffix(text.into()),
            6 => StringMatch::Contains(text.into()),
            _ => StringMatch::Regex(self.patterns[self.draw.below(2) as usize].clone()),
        }
    }

    fn header(&mut self) -> HeaderMatch {
        let subject = match self.draw.below(6) {
            0 => Subject::Method,
            1 => Subject::Authority,
            2 => Subject::Path,
            _ => Subject::Header(self.of(&["x-a", "x-b"]).parse().unwrap()),
        };
        let values: &[&str] = match &subject {
            Subject::Method => &["GET", "POST"],
            Subject::Authority => &["a.test", "b.test"],
            Subject::Path => &["/a?q", "/a", "/b"],
            _ => &TEXTS,
        };
        let test = match self.draw.below(6) {
            0 => HeaderTest::Present,
            1 => HeaderTest::Range { start: 0, end: 8 },
            _ => HeaderTest::Value(self.text(values)),
        };
        HeaderMatch {
            subject,
            test,
            invert: self.chance(30),
            missing_is_empty: self.chance(20),
        }
    }

    fn rule<T>(&mut self, depth: usize, leaf: &dyn Fn(&mut Self) -> T) -> Rule<T> {
        let many = |own: &mut Self| (0..own.draw.below(3)).map(|_| own.rule(depth + 1, leaf)).collect();
        match self.draw.below(if depth > 3 { 2 } else { 8 }) {
            0 if self.chance(30) => Rule::Always,
            5 => Rule::All(many(self)),
            6 => Rule::Any(many(self)),
            7 => self.rule(depth + 1, leaf).negated(),
            _ => Rule::Is(leaf(self)),
        }
    }

    fn permission(&mut self) -> Permission {
        self.rule(0, &|own| match own.draw.below(6) {
            0 | 1 => PermissionTest::Header(own.header()),
            2 | 3 => PermissionTest::Path(own.text(&PATHS)),
            4 => PermissionTest::DestinationPorts(80, 81),
            _ => PermissionTest::DestinationIp(IpPrefix::new([10, 0, 0, 0].into(), 8).unwrap()),
        })
    }

    fn principal(&mut self) -> Principal {
        self.rule(0, &|own| match own.draw.below(9) {
            6..9 => PrincipalTest::Token(own.token_test()),
            0 => PrincipalTest::Header(own.header()),
            1 => PrincipalTest::Source(IpPrefix::new([10, 0, 0, 0].into(), 16).unwrap()),
            2 => PrincipalTest::Peer(None),
            3 => PrincipalTest::Path(own.text(&PATHS)),
            _ => PrincipalTest::Peer(Some(own.text(&IDS))),
        })
    }

    fn token_test(&mut self) -> TokenTest {
        match self.draw.below(5) {
            0 => TokenTest::Principal(None),
            1 => TokenTest::Principal(Some(self.text(&["a/b", "a/", "/b", "b/a"]))),
            _ => {
                let path: &[&str] = self.of(&[
                    &["groups"][..],
                    &["realm", "roles"],
                    &["sub"],
                    &["realm"],
                    &["realm", "nothing"],
                ]);
                let path = path.iter().map(|name| (*name).into()).collect();
                let shape = self.of(&[ClaimShape::Text, ClaimShape::List, ClaimShape::Any]);
                TokenTest::Claim(path, shape, self.text(&TEXTS))
            }
        }
    }

    /// What a token may say: each claim of every kind, and none.
    fn claims(&mut self) -> Option<Value> {
        if self.chance(30) {
            return None;
        }
        let mut claims = serde_json::Map::new();
        for name in ["iss", "sub", "groups", "realm"] {
            let kind = if name.len() == 3 && self.chance(70) {
                0
            } else {
                self.draw.below(6)
            };
            let mut text = || Value::from(self.of(&["a", "b", "ab", "7"]));
            let value = match kind {
                0 => text(),
                1 => json!([text(), text()]),
                2 => json!([7, text(), [text()], {"a": text()}]),
                3 => json!({"roles": [text(), text()]}),
                4 => json!({"roles": text(), "b": 7}),
                _ => continue,
            };
            claims.insert(name.into(), value);
        }
        Some(Value::Object(claims))
    }

    fn policy(&mut self) -> RbacPolicy {
        RbacPolicy {
            name: format!("p{}", self.draw.below(1 << 32)).into(),
            permissions: (0..=self.draw.below(2)).map(|_| self.permission()).collect(),
            principals: (0..=self.draw.below(2)).map(|_| self.principal()).collect(),
        }
    }

    fn filter(&mut self, action: RbacAction) -> RbacFilter {
        let policies = (0..self.draw.below(4)).map(|_| self.policy()).collect();
        filter(action, policies)
    }

    /// Rules that are enforced, tried, both or neither.
    fn rules(&mut self) -> FilterRules {
        let actions = [RbacAction::Allow, RbacAction::Deny, RbacAction::Log];
        let mut some = |percent| {
            let action = self.of(&actions);
            let policies = (0..self.draw.below(3)).map(|_| self.policy()).collect();
            self.chance(percent).then_some(Rbac { action, policies })
        };
        FilterRules {
            enforced: some(70),
            shadow: some(40),
        }
    }

    /// Somebody who is asked, about all or about some, somewhere in a chain.
    fn check(&mut self) -> ExtAuthz {
        let about = match self.draw.below(3) {
            0 => AskedAbout::Everything,
            _ => AskedAbout::Matched((0..self.draw.below(3)).map(|_| self.policy()).collect()),
        };
        ExtAuthz {
            name: "check".into(),
            after: self.draw.below(5) as usize,
            disabled: self.chance(15),
            about,
            cluster: "authz".into(),
            service: CheckService::Grpc(GrpcCheck::default()),
            timeout: Duration::from_secs(1),
            on_failure: OnFailure::default(),
            body: None,
            headers: SentHeaders::default(),
            server_name: false,
            claims: false,
            max_denied_body: ExtAuthz::MAX_DENIED_BODY_BYTES,
        }
    }

    /// All that a chain may have at once.
    fn chain(&mut self) -> Authorization {
        let filters = (0..self.draw.below(4)).map(|place| RbacFilter {
            name: format!("f{place}").into(),
            rules: self.rules(),
        });
        let filters = filters.collect();
        let checks = (0..self.draw.below(3)).map(|_| self.check()).collect();
        let authorization = Authorization::new(Vec::new(), filters, Vec::new()).unwrap();
        authorization.with_checks(checks).unwrap()
    }

    fn authorization(&mut self) -> Authorization {
        let actions = [RbacAction::Allow, RbacAction::Deny, RbacAction::Log];
        let filters = (0..=self.draw.below(2)).map(|_| {
            let action = self.of(&actions);
            self.filter(action)
        });
        Authorization::new(Vec::new(), filters.collect(), Vec::new()).unwrap()
    }

    fn request(&mut self) -> Plain {
        let headers = (0..self.draw.below(4)).map(|_| (self.of(&["x-a", "x-b"]).to_owned(), self.of(&VALUES).to_vec()));
        Plain {
            headers: headers.collect(),
            method: self.of(&["GET", "POST"]).to_owned(),
            path: self.of(&PATHS).to_owned(),
            query: self.chance(30).then(|| "q".to_owned()),
            authority: self.of(&["a.test", "b.test"]).to_owned(),
            peer: self.chance(80).then(|| self.of(&IDS).to_owned()),
            source: self.of(&SOURCES).into(),
            port: if self.chance(50) { 80 } else { 443 },
            claims: self.claims(),
        }
    }
}

fn filter(action: RbacAction, policies: Vec<RbacPolicy>) -> RbacFilter {
    RbacFilter {
        name: "f".into(),
        rules: FilterRules {
            enforced: Some(Rbac { action, policies }),
            shadow: None,
        },
    }
}

fn one(filters: Vec<RbacFilter>) -> Authorization {
    Authorization::new(Vec::new(), filters, Vec::new()).unwrap()
}

fn allows(authorization: &Authorization, plain: &Plain) -> bool {
    with_facts(plain, |facts| authorization.request_passes(facts, &mut |_| ()).is_ok())
}

/// As a server asks: on until it passes or does not, `yes` being what each says who is asked.
fn decide(authorization: &Authorization, plain: &Plain, yes: &dyn Fn(usize) -> bool) -> Decided {
    with_facts(plain, |facts| {
        let (mut decided, mut allowed) = (Decided::default(), None);
        loop {
            let next = authorization.judge(facts, allowed, &mut |notice| {
                let (kind, by) = match notice {
                    Notice::WouldDeny(by) => ("would deny", by),
                    Notice::WouldAllow(by) => ("would allow", by),
                    Notice::Audited(by) => ("audited", by),
                };
                decided
                    .noticed
                    .push((kind, by.filter.to_owned(), by.policy.map(str::to_owned)));
            });
            match next {
                Err(_) => return decided,
                Ok(Next::Passes) => {
                    decided.passes = true;
                    return decided;
                }
                Ok(Next::Asks { index, policy }) => {
                    decided.asked.push((index, policy.map(str::to_owned)));
                    if !yes(index) {
                        return decided;
                    }
                    allowed = Some(index);
                }
            }
        }
    })
}

fn with_facts<T>(plain: &Plain, ask: impl FnOnce(&Facts<'_>) -> T) -> T {
    let query = plain
        .query
        .iter()
        .fold(plain.path.clone(), |path, query| format!("{path}?{query}"));
    let mut request = Request::builder()
        .method(plain.method.as_str())
        .uri(format!("https://{}{query}", plain.authority))
        .version(Version::HTTP_2)
        .body(())
        .unwrap();
    for (name, value) in &plain.headers {
        let name: HeaderName = name.parse().unwrap();
        request
            .headers_mut()
            .append(name, HeaderValue::from_bytes(value).unwrap());
    }
    let peer = plain.peer.as_deref().map(|peer| SpiffeId::parse(peer).unwrap());
    let claims = plain.claims.as_ref().and_then(Value::as_object);
    let claims = claims.map(|claims| JwtClaims::new(claims.clone(), "", &[]));
    ask(&Facts {
        source: Some(plain.source),
        destination: Some(SocketAddr::from(([10, 0, 0, 1], plain.port as u16))),
        server_name: None,
        peer: peer.as_ref(),
        claims: claims.as_ref(),
        head: Some(RequestHead::of(&request, "")),
    })
}

fn each(seed: u64, mut check: impl FnMut(&mut Maker)) {
    let entropy = Entropy::seeded(seed);
    let patterns = [Pattern::new("/a.*").unwrap(), Pattern::new("[a-z]+").unwrap()];
    for _ in 0..Config::default().cases as usize * POLICIES {
        check(&mut Maker {
            draw: entropy.draw(),
            patterns: patterns.clone(),
        });
    }
}

#[test]
fn az_2_the_engine_answers_as_the_reference_does() {
    let mut answers = [0_u64; 2];
    each(2, |maker| {
        let authorization = maker.authorization();
        for _ in 0..REQUESTS {
            let request = maker.request();
            let (ours, theirs) = (
                allows(&authorization, &request),
                reference::decide(&authorization, &request, &|_| true).passes,
            );
            answers[usize::from(ours)] += 1;
            let Plain {
                method, path, headers, ..
            } = &request;
            assert_eq!(
                ours, theirs,
                "{authorization:#?}\n{method} {path} {headers:?} {:?}",
                request.peer
            );
        }
    });
    // Both answers come often, or the comparison would say little.
    let [no, yes] = answers;
    assert!(no * 5 > yes && yes * 5 > no, "{answers:?}");
}

/// All that may stand in one chain: what is enforced, tried and reported, what tokens say, and those who are asked in between. The same
/// passes, the same are asked for the same policies in the same order, and the same is noticed.
#[test]
fn az_2_chains_with_authorizers_dry_runs_and_audits_are_the_references() {
    let (mut answers, mut asked, mut noticed) = ([0_u64; 2], 0, 0);
    each(22, |maker| {
        let chain = maker.chain();
        // What is tried and what reports decides nothing and asks nobody.
        let quiet = chain.request().iter().map(|filter| {
            let enforced = filter.rules.enforced.clone();
            let enforced = enforced.filter(|rules| rules.action != RbacAction::Log);
            let rules = FilterRules { enforced, shadow: None };
            RbacFilter {
                name: filter.name.clone(),
                rules,
            }
        });
        let quiet = one(quiet.collect()).with_checks(chain.checks().to_vec()).unwrap();
        for _ in 0..REQUESTS {
            let (request, says) = (maker.request(), maker.draw.below(100));
            // Of two one may say no.
            let yes = |index: usize| says >= 40 || says as usize % 4 != index;
            let (ours, theirs) = (
                decide(&chain, &request, &yes),
                reference::decide(&chain, &request, &yes),
            );
            answers[usize::from(ours.passes)] += 1;
            asked += ours.asked.len();
            noticed += ours.noticed.len();
            assert_eq!(
                ours, theirs,
                "{chain:#?}\n{} {} {:?} {:?} {:?}",
                request.method, request.path, request.headers, request.peer, request.claims
            );
            let without = decide(&quiet, &request, &yes);
            assert_eq!(
                (without.passes, &without.asked),
                (ours.passes, &ours.asked),
                "{chain:#?}"
            );
            assert_eq!(without.noticed, []);
            // Whoever may be asked is known before anybody has looked at the token, whatever that says.
            let unread = Plain {
                claims: None,
                ..request
            };
            let may_ask: Vec<usize> = with_facts(&unread, |facts| chain.may_ask(facts).collect());
            assert!(
                ours.asked.iter().all(|(index, _)| may_ask.contains(index)),
                "{chain:#?}"
            );
        }
    });
    let [no, yes] = answers;
    assert!(
        no * 10 > yes && yes * 10 > no && asked * 10 > no as usize && noticed * 10 > no as usize,
        "{answers:?} {asked} {noticed}"
    );
}

#[test]
fn az_3_more_denials_never_allow_more_and_more_permissions_never_less() {
    each(3, |maker| {
        let (mut allow, mut deny) = (maker.filter(RbacAction::Allow), maker.filter(RbacAction::Deny));
        let before = one(vec![deny.clone(), allow.clone()]);
        let turned = one(vec![allow.clone(), deny.clone()]);
        let more = maker.policy();
        let of = |filter: &mut RbacFilter, policy: RbacPolicy| {
            filter.rules.enforced.as_mut().unwrap().policies.push(policy);
        };
        of(&mut deny, more.clone());
        let denied = one(vec![deny.clone(), allow.clone()]);
        let shuffled = {
            let mut filters = [deny, allow.clone()];
            for filter in &mut filters {
                filter.rules.enforced.as_mut().unwrap().policies.reverse();
            }
            one(filters.into())
        };
        of(&mut allow, more);
        let allowed = one(vec![before.request()[0].clone(), allow]);
        for _ in 0..REQUESTS {
            let request = maker.request();
            let was = allows(&before, &request);
            assert!(was || !allows(&denied, &request), "a denial allowed: {denied:#?}");
            assert!(!was || allows(&allowed, &request), "a permission denied: {allowed:#?}");
            assert_eq!(was, allows(&turned, &request), "filters commute: {before:#?}");
            assert_eq!(
                allows(&denied, &request),
                allows(&shuffled, &request),
                "policies commute: {denied:#?}"
            );
        }
    });
}

#[test]
fn az_3_without_allowing_policies_nothing_passes_and_without_an_allowing_filter_all_does() {
    each(33, |maker| {
        let request = maker.request();
        assert!(!allows(&one(vec![filter(RbacAction::Allow, Vec::new())]), &request));
        assert!(allows(&one(vec![filter(RbacAction::Deny, Vec::new())]), &request));
        assert!(allows(
            &one(vec![filter(RbacAction::Log, vec![maker.policy()])]),
            &request
        ));
        assert!(allows(&one(Vec::new()), &request));
    });
}

/// A value that stands there in addition cannot undo a denial, nor earn a permission that it has not earned alone.
#[test]
fn az_3_a_second_value_of_a_header_never_gains_anything() {
    each(34, |maker| {
        let authorization = maker.authorization();
        for _ in 0..REQUESTS {
            let mut request = maker.request();
            request.headers.retain(|(name, _)| name != "x-a");
            let value = maker.of(&VALUES).to_vec();
            request.headers.push(("x-a".into(), value));
            let alone = allows(&authorization, &request);
            request.headers.push(("x-a".into(), maker.of(&VALUES).to_vec()));
            assert!(
                alone || !allows(&authorization, &request),
                "{authorization:#?}\n{:?}",
                request.headers
            );
        }
    });
}
