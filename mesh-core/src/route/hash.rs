//! Which number says what host a request belongs to (Envoy `HashPolicyImpl`, gRFC A42).
//!
//! By XXH64 of the same bytes as in Envoy and gRPC, mixed in the same way: one key goes to one host through whatever client.

use std::net::IpAddr;

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

use super::RequestHead;
use super::matching::parameter;
use crate::config::{HashBy, HashCookie, HashPolicy, Subject, Substitution};
use crate::entropy::Draw;
use crate::hash::xxh64;

/// What is known of a request besides its head.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// A number that the calls of one channel have in common.
    pub channel: u64,
    /// Where the request came from for which this one is made.
    pub source: Option<IpAddr>,
}

/// What a request hashes to.
#[derive(Debug, Default)]
pub struct Hashed {
    /// `None`: there was nothing to hash.
    pub hash: Option<u64>,
    /// Cookies that the caller is given with its answer, as the values of `set-cookie`. Without an allocation while empty.
    pub cookies: Vec<HeaderValue>,
}

/// Hashes what `policies` name of a request.
pub fn hash(policies: &[HashPolicy], head: &RequestHead<'_>, caller: Caller, draw: &mut Draw) -> Hashed {
    let mut hashed = Hashed::default();
    for policy in policies {
        let found = match &policy.by {
            HashBy::Header { subject, rewrite } => of_header(head, subject, rewrite.as_ref()),
            HashBy::Cookie(cookie) => Some(match self::cookie(head.headers, &cookie.name) {
                Some(value) => xxh64(value, 0),
                None => match cookie.ttl {
                    Some(_) => give(cookie, &mut hashed.cookies, draw),
                    None => continue,
                },
            }),
            HashBy::SourceIp => caller.source.map(|ip| xxh64(ip.to_string().as_bytes(), 0)),
            HashBy::Query(name) => {
                let value = parameter(head.uri.query().unwrap_or_default(), name);
                value.map(|value| xxh64(value.as_bytes(), 0))
            }
            HashBy::Channel => Some(caller.channel),
        };
        if let Some(found) = found {
            // Turned, so that two that are alike do not cancel each other out.
            hashed.hash = Some(hashed.hash.map_or(0, |hash| hash.rotate_left(1)) ^ found);
        }
        if policy.terminal && hashed.hash.is_some() {
            break;
        }
    }
    hashed
}

fn of_header(head: &RequestHead<'_>, subject: &Subject, rewrite: Option<&Substitution>) -> Option<u64> {
    let one = |value: &[u8], seed| match (rewrite, std::str::from_utf8(value)) {
        (Some(rewrite), Ok(text)) => xxh64(rewrite.apply(text).as_bytes(), seed),
        _ => xxh64(value, seed),
    };
    let Subject::Header(name) = subject else {
        return head.value(subject).map(|value| one(&value, 0));
    };
    let mut values = head.headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let first = values.next()?;
    let Some(second) = values.next() else {
        return Some(one(first, 0));
    };
    let rewritten = |value: &[u8]| match (rewrite, std::str::from_utf8(value)) {
        (Some(rewrite), Ok(text)) => rewrite.apply(text).into_bytes(),
        _ => value.to_vec(),
    };
    let mut all: Vec<Vec<u8>> = [first, second].into_iter().chain(values).map(rewritten).collect();
    all.sort_unstable();
    Some(all.iter().fold(0, |seed, value| xxh64(value, seed)))
}

/// The value of a cookie, if it has one. Quotes around it do not count (Envoy).
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let pairs = headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    let mut values = pairs.filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        (pair[..at].trim_ascii() == name.as_bytes()).then(|| pair[at + 1..].trim_ascii())
    });
    let value = values.next()?;
    let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    Some(unquoted.unwrap_or(value)).filter(|value| !value.is_empty())
}

/// Makes a cookie of chance and hashes it.
fn give(cookie: &HashCookie, cookies: &mut Vec<HeaderValue>, draw: &mut Draw) -> u64 {
    let value = format!("{:016x}", draw.next());
    let ttl = cookie.ttl.unwrap_or_default().as_secs();
    // Names and attributes were checked to be what a header can hold when they were read.
    cookies.extend(set_cookie(&cookie.name, &value, ttl, &cookie.path, &cookie.attributes));
    xxh64(value.as_bytes(), 0)
}

/// The value of a `set-cookie` (Envoy `makeSetCookieValue`), for so many seconds; 0: for a session. `None` for what no header can
/// hold.
pub fn set_cookie(
    name: &str,
    value: &str,
    seconds: u64,
    path: &str,
    attributes: &[(Box<str>, Box<str>)],
) -> Option<HeaderValue> {
    let mut text = format!("{name}=\"{value}\"");
    if seconds > 0 {
        text.push_str(&format!("; Max-Age={seconds}"));
    }
    if !path.is_empty() {
        text.push_str(&format!("; Path={path}"));
    }
    for (name, value) in attributes {
        text.push_str(&format!("; {name}"));
        if !value.is_empty() {
            text.push_str(&format!("={value}"));
        }
    }
    text.push_str("; HttpOnly");
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Request;

    use super::*;
    use crate::entropy::Entropy;

    const CALLER: Caller = Caller {
        channel: 77,
        source: None,
    };

    fn header(name: &str) -> HashPolicy {
        HashPolicy::new(HashBy::Header {
            subject: Subject::parse(name).unwrap(),
            rewrite: None,
        })
    }

    fn rewritten(name: &str, pattern: &str, replacement: &str) -> HashPolicy {
        HashPolicy::new(HashBy::Header {
            subject: Subject::parse(name).unwrap(),
            rewrite: Some(Substitution::new(pattern, replacement).unwrap()),
        })
    }

    fn by_cookie(ttl: Option<u64>) -> HashPolicy {
        HashPolicy::new(HashBy::Cookie(Box::new(HashCookie {
            name: "id".into(),
            ttl: ttl.map(Duration::from_secs),
            path: "/a".into(),
            attributes: [("SameSite".into(), "Lax".into()), ("Secure".into(), "".into())].into(),
        })))
    }

    fn terminal(policy: HashPolicy) -> HashPolicy {
        HashPolicy {
            terminal: true,
            ..policy
        }
    }

    fn of(text: &str) -> u64 {
        xxh64(text.as_bytes(), 0)
    }

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let request = Request::get("http://shop/buy?user=ann&user=bob&empty=&flag");
        let request = headers
            .iter()
            .fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap()
    }

    #[test]
    fn what_is_hashed_and_how_it_is_mixed() {
        let request = request(&[
            ("x-user", "ann"),
            ("x-two", "b"),
            ("x-two", "a"),
            ("cookie", "other=1; id=\"me\""),
            ("cookie", "id=late; empty="),
        ]);
        let query = |name: &str| HashPolicy::new(HashBy::Query(name.into()));
        let cookie_of = |name: &str| {
            HashPolicy::new(HashBy::Cookie(Box::new(HashCookie {
                name: name.into(),
                ttl: None,
                path: "".into(),
                attributes: [].into(),
            })))
        };
        let mixed = |first: u64, second: u64| Some(first.rotate_left(1) ^ second);
        let cases: [(Vec<HashPolicy>, Option<u64>); 19] = [
            (vec![], None),
            (vec![header("x-user")], Some(of("ann"))),
            (vec![header("x-none")], None),
            (vec![header(":path")], Some(of("/buy?user=ann&user=bob&empty=&flag"))),
            (vec![header(":authority")], Some(of("shop"))),
            // In whatever order they come.
            (vec![header("x-two")], Some(xxh64(b"b", of("a")))),
            (vec![rewritten("x-user", "^a(.*)$", r"\1")], Some(of("nn"))),
            (vec![rewritten("x-two", "b", "c")], Some(xxh64(b"c", of("a")))),
            (vec![query("user")], Some(of("ann"))),
            (vec![query("empty")], Some(of(""))),
            (vec![query("none")], None),
            (vec![by_cookie(None)], Some(of("me"))),
            (vec![cookie_of("empty")], None),
            (vec![HashPolicy::new(HashBy::SourceIp)], None),
            (vec![HashPolicy::new(HashBy::Channel)], Some(77)),
            (vec![header("x-user"), query("user")], mixed(of("ann"), of("ann"))),
            (vec![header("x-none"), query("user")], Some(of("ann"))),
            (vec![terminal(header("x-user")), query("user")], Some(of("ann"))),
            // One that finds nothing ends nothing.
            (
                vec![terminal(header("x-none")), query("user"), header("x-user")],
                mixed(of("ann"), of("ann")),
            ),
        ];
        for (policies, expected) in cases {
            let head = RequestHead::of(&request, "shop");
            let hashed = hash(&policies, &head, CALLER, &mut Entropy::seeded(1).draw());
            assert_eq!(hashed.hash, expected, "{policies:?}");
            assert!(hashed.cookies.is_empty());
        }
        let caller = Caller {
            source: Some([10, 0, 0, 7].into()),
            ..CALLER
        };
        let by_source = [HashPolicy::new(HashBy::SourceIp)];
        let hashed = hash(
            &by_source,
            &RequestHead::of(&request, "shop"),
            caller,
            &mut Entropy::seeded(1).draw(),
        );
        assert_eq!(hashed.hash, Some(of("10.0.0.7")));
    }

    #[test]
    fn a_caller_without_a_cookie_is_given_one_that_hashes_alike() {
        let entropy = Entropy::seeded(3);
        let without = request(&[]);
        let head = RequestHead::of(&without, "shop");
        let given = hash(&[by_cookie(Some(60))], &head, CALLER, &mut entropy.draw());
        let [cookie] = &given.cookies[..] else {
            panic!("one cookie: {given:?}")
        };
        let text = cookie.to_str().unwrap();
        let (pair, rest) = text.split_once("; ").unwrap();
        assert_eq!(rest, "Max-Age=60; Path=/a; SameSite=Lax; Secure; HttpOnly");
        // What it sends back leads to the same host, and it is given nothing again.
        let with = request(&[("cookie", pair)]);
        let again = hash(
            &[by_cookie(Some(60))],
            &RequestHead::of(&with, "shop"),
            CALLER,
            &mut entropy.draw(),
        );
        assert_eq!((again.hash, again.cookies.len()), (given.hash, 0));
        // For a session; never the same twice; and none where the policy gives none.
        let session = hash(&[by_cookie(Some(0))], &head, CALLER, &mut entropy.draw());
        assert!(!session.cookies[0].to_str().unwrap().contains("Max-Age"));
        assert_ne!(session.hash, given.hash);
        let none = hash(&[by_cookie(None)], &head, CALLER, &mut entropy.draw());
        assert_eq!((none.hash, none.cookies.len()), (None, 0));
    }
}
