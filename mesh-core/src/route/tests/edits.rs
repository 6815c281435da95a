//! Header rules, host and path rewrites.

use http::uri::Authority;
use http::{Method, StatusCode};

use super::*;
use crate::config::{
    Action, AppendAction, Domain, Forward, HeaderEdit, HeaderFormat, HeaderRules, HostRewrite, PathRewrite, Pattern,
    Rewrite, RouteTree, Substitution, VirtualHost, WeightedCluster,
};

fn edit(name: &str, value: &str, action: AppendAction) -> HeaderEdit {
    HeaderEdit::new(name.parse().unwrap(), HeaderFormat::parse(value).unwrap(), action).unwrap()
}

fn request_rules(remove: &[&str], add: Vec<HeaderEdit>) -> Option<Arc<HeaderRules>> {
    let mut rules = HeaderRules::default();
    rules.request.remove = remove.iter().map(|name| name.parse().unwrap()).collect();
    rules.request.add = add;
    rules.shared()
}

fn response_rules(remove: &[&str], add: Vec<HeaderEdit>) -> Option<Arc<HeaderRules>> {
    let rules = (*request_rules(remove, add).unwrap()).clone();
    let rules = HeaderRules {
        response: rules.request,
        ..HeaderRules::default()
    };
    rules.shared()
}

/// A route named `r` to cluster `c`, changed, alone in its tree.
fn edits(
    change: impl FnOnce(&mut RouteTree, &mut VirtualHost, &mut Route, &mut WeightedCluster),
) -> Option<Arc<Edits>> {
    let mut tree = RouteTree::new("t", Vec::new());
    let mut host = VirtualHost::new("h", vec![Domain::Any], Vec::new());
    let mut route = Route::to(Split::all_to("c"));
    route.name = "r".into();
    let mut share = WeightedCluster::new("c", 1);
    change(&mut tree, &mut host, &mut route, &mut share);
    Edits::of(&tree, &host, &route, Some(&share)).map(Arc::new)
}

fn forward(route: &mut Route) -> &mut Forward {
    match &mut route.action {
        Action::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

/// The head of a request after the edits, as text.
fn edited(edits: &Arc<Edits>, request: Request<()>) -> (String, Vec<(String, String)>) {
    let (mut parts, ()) = request.into_parts();
    edits
        .apply(&parts.method, &mut parts.uri, &mut parts.headers, "payment")
        .unwrap();
    (parts.uri.to_string(), list(&parts.headers))
}

fn list(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut list: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    // Of one name the order counts, of different ones it does not.
    list.sort_by(|(a, _), (b, _)| a.cmp(b));
    list
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn a_route_without_edits_has_none() {
    assert!(edits(|_, _, _, _| {}).is_none());
}

#[test]
fn each_append_action_on_a_header_that_is_there_and_one_that_is_not() {
    use AppendAction::{AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists, OverwriteIfExistsOrAdd};
    for (action, there, absent) in [
        (
            AppendIfExistsOrAdd,
            &[("x", "old"), ("x", "new")][..],
            &[("x", "new")][..],
        ),
        (AddIfAbsent, &[("x", "old")], &[("x", "new")]),
        (OverwriteIfExistsOrAdd, &[("x", "new")], &[("x", "new")]),
        (OverwriteIfExists, &[("x", "new")], &[]),
    ] {
        let edits = edits(|_, _, route, _| route.headers = request_rules(&[], vec![edit("x", "new", action)])).unwrap();
        assert_eq!(
            edited(&edits, request("/", &[("x", "old")])).1,
            pairs(there),
            "{action:?}"
        );
        assert_eq!(edited(&edits, request("/", &[])).1, pairs(absent), "{action:?}");
    }
}

#[test]
fn what_is_removed_goes_first_and_empty_values_are_left_out() {
    let append = AppendAction::AppendIfExistsOrAdd;
    let mut kept = edit("x-kept", "%REQ(none)%", append);
    kept.keep_empty = true;
    let edits = edits(|_, _, route, _| {
        let add = vec![edit("x", "new", append), edit("x-empty", "%REQ(none)%", append), kept];
        route.headers = request_rules(&["x"], add);
    })
    .unwrap();
    let (_, headers) = edited(&edits, request("/", &[("x", "old"), ("x", "older")]));
    assert_eq!(headers, pairs(&[("x", "new"), ("x-kept", "")]));
}

#[test]
fn the_farthest_rule_has_the_last_word_unless_the_closest_shall() {
    let set = |value: &str| request_rules(&[], vec![edit("x", value, AppendAction::OverwriteIfExistsOrAdd)]);
    let append = |value: &str| request_rules(&[], vec![edit("y", value, AppendAction::AppendIfExistsOrAdd)]);
    for (closest_last, word, order) in [
        (false, "tree", "share route host tree"),
        (true, "share", "tree host route share"),
    ] {
        let place = |rules: &dyn Fn(&str) -> Option<Arc<HeaderRules>>| {
            edits(|tree, host, route, share| {
                tree.closest_rules_last = closest_last;
                tree.headers = rules("tree");
                host.headers = rules("host");
                route.headers = rules("route");
                share.headers = rules("share");
            })
            .unwrap()
        };
        assert_eq!(edited(&place(&set), request("/", &[])).1, pairs(&[("x", word)]));
        let (_, headers) = edited(&place(&append), request("/", &[]));
        let values: Vec<_> = headers.into_iter().map(|(_, value)| value).collect();
        assert_eq!(values.join(" "), order);
    }
}

#[test]
fn operators() {
    let append = AppendAction::AppendIfExistsOrAdd;
    let value = |format: &str| {
        let edits =
            edits(|_, _, route, _| route.headers = request_rules(&[], vec![edit("v", format, append)])).unwrap();
        let request = request(
            "http://shop/a?b",
            &[("x-long", "0123456789"), ("x-two", "a"), ("x-two", "b")],
        );
        let (mut parts, ()) = request.into_parts();
        edits
            .apply(&Method::POST, &mut parts.uri, &mut parts.headers, "payment")
            .unwrap();
        parts.headers.get("v").map(|value| value.to_str().unwrap().to_owned())
    };
    for (format, expected) in [
        ("plain", Some("plain")),
        ("100%%", Some("100%")),
        ("%REQ(x-long):4%", Some("0123")),
        ("%REQ(X-Long)%", Some("0123456789")),
        ("%REQ(none?x-two)%!", Some("a,b!")),
        ("%REQ(:method)% %REQ(:authority)%%REQ(:path)%", Some("POST shop/a?b")),
        ("%ROUTE_NAME%/%UPSTREAM_CLUSTER%", Some("r/c")),
        ("%PROTOCOL%", Some("HTTP/2")),
        ("%DOWNSTREAM_REMOTE_ADDRESS%", None),
    ] {
        assert_eq!(value(format).as_deref(), expected, "{format}");
    }
}

#[test]
fn answers() {
    let append = AppendAction::AppendIfExistsOrAdd;
    let edits = edits(|_, _, route, _| {
        let add = vec![edit(
            "x-was",
            "%RESPONSE_CODE% of %REQ(x-id)% by %RESP(server)%",
            append,
        )];
        route.headers = response_rules(&["x-secret"], add);
    })
    .unwrap();
    let (mut parts, ()) = request("/", &[("x-id", "7")]).into_parts();
    let answer = edits
        .apply(&parts.method, &mut parts.uri, &mut parts.headers, "payment")
        .unwrap()
        .unwrap();
    assert_eq!(list(&parts.headers), pairs(&[("x-id", "7")]));
    let mut response = headers(&[("server", "s"), ("x-secret", "k")]);
    answer.apply(StatusCode::CREATED, &mut response);
    assert_eq!(list(&response), pairs(&[("server", "s"), ("x-was", "201 of 7 by s")]));
}

#[test]
fn hosts() {
    let rewritten = |host: Option<HostRewrite>, of_share: Option<&'static str>, uri: &str, pairs: &[(&str, &str)]| {
        let edits = edits(|_, _, route, share| {
            let rewrite = Rewrite {
                host,
                append_forwarded_host: true,
                path: None,
            };
            forward(route).rewrite = Some(Box::new(rewrite));
            share.host = of_share.map(Authority::from_static);
        });
        let (uri, headers) = edited(&edits.unwrap(), request(uri, pairs));
        let forwarded: Vec<_> = headers
            .into_iter()
            .filter(|(name, _)| name == "x-forwarded-host")
            .collect();
        (
            uri,
            forwarded
                .into_iter()
                .map(|(_, value)| value)
                .collect::<Vec<_>>()
                .join(","),
        )
    };
    let literal = |text| Some(HostRewrite::Literal(Authority::from_static(text)));
    let header = Some(HostRewrite::Header(HeaderName::from_static("x-host")));
    let path = Some(HostRewrite::PathRegex(
        Substitution::new("^/([^/]+)/.*$", r"\1").unwrap(),
    ));
    let cases: [(_, _, _, &[(&str, &str)], _, _); 9] = [
        (literal("new"), None, "/a?b", &[], "http://new/a?b", "payment"),
        (
            literal("new:1"),
            None,
            "https://old/a",
            &[("host", "other")],
            "https://new:1/a",
            "old",
        ),
        (
            literal("new"),
            None,
            "/a",
            &[("host", "other")],
            "http://new/a",
            "other",
        ),
        (
            literal("new"),
            None,
            "/a",
            &[("x-forwarded-host", "x, payment")],
            "http://new/a",
            "x, payment",
        ),
        (literal("new"), Some("share"), "/a", &[], "http://new/a", "payment"),
        (None, Some("share"), "/a", &[], "http://share/a", "payment"),
        (header.clone(), None, "/a", &[("x-host", "h")], "http://h/a", "payment"),
        (header, None, "/a", &[], "/a", ""),
        (path, None, "/shop/cart?x", &[], "http://shop/shop/cart?x", "payment"),
    ];
    for (host, of_share, uri, headers, expected, forwarded) in cases {
        let seen = rewritten(host.clone(), of_share, uri, headers);
        assert_eq!(
            (seen.0.as_str(), seen.1.as_str()),
            (expected, forwarded),
            "{host:?} on {uri}"
        );
    }
}

#[test]
fn paths() {
    let prefix = |text: &str| PathRewrite::Prefix(text.into());
    let regex = |pattern, replacement| PathRewrite::Regex(Substitution::new(pattern, replacement).unwrap());
    let cases = [
        (
            PathMatch::Prefix("/prefix/".into()),
            prefix("/"),
            "/prefix/path?q",
            Some("/path?q"),
        ),
        (
            PathMatch::Prefix("/prefix".into()),
            prefix("/"),
            "/prefix/path",
            Some("//path"),
        ),
        (
            PathMatch::Prefix("/prefix".into()),
            prefix("/new"),
            "/prefixed",
            Some("/newed"),
        ),
        (
            PathMatch::Segments("/api".into()),
            prefix("/v2"),
            "/api/x?q",
            Some("/v2/x?q"),
        ),
        (PathMatch::Segments("/api".into()), prefix("/v2"), "/api", Some("/v2")),
        (PathMatch::Exact("/a/b".into()), prefix("/c"), "/a/b?q", Some("/c?q")),
        (
            PathMatch::Regex(Pattern::new("/[0-9]+").unwrap()),
            prefix("/n"),
            "/12?q",
            Some("/n?q"),
        ),
        (
            PathMatch::Prefix("/".into()),
            regex("^/(\\w+)/(\\w+)$", r"/\2/\1"),
            "/a/b?q=/c",
            Some("/b/a?q=/c"),
        ),
        (PathMatch::Prefix("/".into()), prefix("no-slash"), "/a", None),
        (PathMatch::Prefix("/".into()), regex("^/.*", "/ not a path"), "/a", None),
    ];
    for (path, rule, uri, expected) in cases {
        let edits = edits(|_, _, route, _| {
            route.matches.path = path.clone();
            forward(route).rewrite = Some(Box::new(Rewrite {
                path: Some(rule.clone()),
                ..Rewrite::default()
            }));
        });
        let (mut parts, ()) = request(uri, &[]).into_parts();
        let result = edits
            .unwrap()
            .apply(&parts.method, &mut parts.uri, &mut parts.headers, "payment");
        let seen = result.ok().map(|_| (parts.uri.to_string(), list(&parts.headers)));
        let expected = expected.map(|text| (text.to_owned(), pairs(&[("x-envoy-original-path", uri)])));
        assert_eq!(seen, expected, "{path:?} {rule:?} on {uri}");
    }
}

#[test]
fn the_host_header_is_not_for_header_rules() {
    let value = HeaderFormat::parse("x").unwrap();
    assert!(HeaderEdit::new(http::header::HOST, value, AppendAction::AddIfAbsent).is_err());
}
