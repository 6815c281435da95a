//! Paths, headers, query parameters and what else a route is told by (Envoy `RouteMatch`, gRFC A28).

use super::*;
use crate::config::{HeaderMatch, HeaderTest, Pattern, QueryMatch, QueryTest, StringMatch, Subject};
use crate::route::matching::takes;

fn exact(value: &str) -> HeaderTest {
    HeaderTest::Value(StringMatch::Exact(value.into()))
}

#[test]
fn paths() {
    let prefix = |text: &str| PathMatch::Prefix(text.into());
    let segments = |text: &str| PathMatch::Segments(text.into());
    let exact = |text: &str| PathMatch::Exact(text.into());
    let regex = PathMatch::Regex(Pattern::new("/a/[0-9]+").unwrap());
    let cases = [
        (exact("/a"), false, "/a", true),
        (exact("/a"), false, "/a?q=1", true),
        (exact("/a"), false, "/a/", false),
        (exact("/a"), false, "/A", false),
        (exact("/a"), true, "/A", true),
        (exact("/a"), true, "/Ab", false),
        (prefix("/a"), false, "/ab", true),
        (prefix("/a"), false, "/Ab", false),
        (prefix("/a"), true, "/Ab", true),
        (prefix("/ab"), true, "/a", false),
        (prefix(""), false, "/anything", true),
        (segments("/api/dev"), false, "/api/dev", true),
        (segments("/api/dev"), false, "/api/dev/v1", true),
        (segments("/api/dev"), false, "/api/dev?param=true", true),
        (segments("/api/dev"), false, "/api/developer", false),
        (segments("/api/dev"), true, "/API/dev/", true),
        (regex.clone(), false, "/a/12", true),
        (regex.clone(), true, "/A/12", false),
        (regex, false, "/a/12/b", false),
    ];
    for (path, ignore_case, uri, expected) in cases {
        let matches = RouteMatch {
            path,
            ignore_case,
            ..RouteMatch::any()
        };
        assert_eq!(
            takes(&matches, &head(&request(uri, &[]))),
            expected,
            "{matches:?} on {uri}"
        );
    }
}

#[test]
fn header_tests() {
    let range = |start, end| HeaderTest::Range { start, end };
    let regex = |text: &str| HeaderTest::Value(StringMatch::Regex(Pattern::new(text).unwrap()));
    // The test, inverted, a missing header looked at as empty, the header's values, the answer.
    let cases: &[(HeaderTest, bool, bool, &[&str], bool)] = &[
        (HeaderTest::Present, false, false, &[""], true),
        (HeaderTest::Present, false, false, &[], false),
        (HeaderTest::Present, true, false, &[], true),
        (HeaderTest::Present, true, false, &["a"], false),
        (HeaderTest::Present, false, true, &[], true),
        (exact("jason"), false, false, &["jason"], true),
        (exact("jason"), false, false, &["Jason"], false),
        (exact("jason"), false, false, &[], false),
        (exact("jason"), true, false, &["other"], true),
        // A value test is passed over where there is no value (the examples of `treat_missing_header_as_empty`).
        (exact("jason"), true, false, &[], false),
        (range(0, 10), true, true, &[], true),
        (range(0, 10), true, false, &[], false),
        (regex("^$"), false, true, &[], true),
        (regex("^$"), false, false, &[], false),
        (exact("a,b"), false, false, &["a", "b"], true),
        (range(-10, 0), false, false, &["-1"], true),
        (range(-10, 0), false, false, &["0"], false),
        (range(-10, 0), false, false, &["somestring"], false),
        (range(-10, 0), false, false, &["-1somestring"], false),
        (range(-10, 0), false, false, &["10.9"], false),
        (range(-10, 0), true, false, &["-1"], false),
        // The examples of `invert_match`.
        (regex("\\d{3}"), true, false, &["1234"], true),
    ];
    for (test, invert, missing_is_empty, values, expected) in cases {
        let header = HeaderMatch {
            invert: *invert,
            missing_is_empty: *missing_is_empty,
            ..HeaderMatch::new(HeaderName::from_static("x-user"), test.clone())
        };
        let pairs: Vec<_> = values.iter().map(|value| ("x-user", *value)).collect();
        let matches = matches(|matches| matches.headers.push(header));
        assert_eq!(
            takes(&matches, &head(&request("/", &pairs))),
            *expected,
            "{matches:?} on {values:?}"
        );
    }
}

#[test]
fn what_istio_calls_without_headers() {
    for (test, values, expected) in [
        (exact("a"), &["a"][..], false),
        (exact("a"), &["b"], true),
        (exact("a"), &[], true),
        (HeaderTest::Present, &["a"], false),
        (HeaderTest::Present, &[], true),
    ] {
        let without = HeaderMatch::without(HeaderName::from_static("x"), test);
        let pairs: Vec<_> = values.iter().map(|value| ("x", *value)).collect();
        let matches = matches(|matches| matches.headers.push(without));
        assert_eq!(
            takes(&matches, &head(&request("/", &pairs))),
            expected,
            "{matches:?} on {values:?}"
        );
    }
}

#[test]
fn pseudo_headers() {
    let of = |subject: &str, value: &str| HeaderMatch::new(Subject::parse(subject).unwrap(), exact(value));
    let check = |request: Request<()>, tests: &[(&str, &str)]| {
        for (subject, value) in tests {
            let matches = matches(|matches| matches.headers.push(of(subject, value)));
            assert!(takes(&matches, &head(&request)), "{subject} is not {value}");
        }
    };
    let whole = request("https://shop:8443/a?b=c", &[("host", "other")]);
    check(
        whole,
        &[
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "shop:8443"),
            ("host", "shop:8443"),
            (":path", "/a?b=c"),
        ],
    );
    check(
        request("/a", &[("host", "other")]),
        &[(":scheme", "http"), (":authority", "other")],
    );
    check(request("/a", &[]), &[(":authority", "payment"), (":path", "/a")]);
    assert_eq!(Subject::parse(":status"), None);
    let unseen = HeaderMatch::new(Subject::Unseen(HeaderName::from_static("x-bin")), HeaderTest::Present);
    let matches = matches(|matches| matches.headers.push(unseen));
    assert!(!takes(&matches, &head(&request("/", &[("x-bin", "AA")]))));
}

#[test]
fn query_parameters() {
    let value = |text: &str| QueryTest::Value(StringMatch::Exact(text.into()));
    let cases = [
        ("/?debug=1", "debug", value("1"), true),
        ("/?a=b&debug=1", "debug", value("1"), true),
        ("/?debug=1&debug=2", "debug", value("1"), true),
        ("/?debug=1&debug=2", "debug", value("2"), false),
        ("/?debug", "debug", value(""), true),
        ("/?debug=", "debug", QueryTest::Present(true), true),
        ("/?debugger=1", "debug", QueryTest::Present(true), false),
        ("/", "debug", QueryTest::Present(true), false),
        ("/", "debug", QueryTest::Present(false), true),
        ("/", "debug", value(""), false),
        // Nothing is decoded.
        ("/?q=a%20b", "q", value("a b"), false),
        ("/?q=a%20b", "q", value("a%20b"), true),
        ("/?q=a=b", "q", value("a=b"), true),
    ];
    for (uri, name, test, expected) in cases {
        let matches = matches(|matches| {
            matches.query.push(QueryMatch {
                name: name.into(),
                test,
            })
        });
        assert_eq!(
            takes(&matches, &head(&request(uri, &[]))),
            expected,
            "{matches:?} on {uri}"
        );
    }
}

#[test]
fn grpc_is_told_by_the_content_type() {
    let grpc = matches(|matches| matches.grpc = true);
    for (kind, expected) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc-web", false),
        ("application/json", false),
    ] {
        assert_eq!(
            takes(&grpc, &head(&request("/", &[("content-type", kind)]))),
            expected,
            "{kind}"
        );
    }
    assert!(!takes(&grpc, &head(&request("/", &[]))));
}
