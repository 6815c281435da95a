//! Tables of what Envoy, gRFC A41 and Istio say; random comparisons stand in `differential`.

mod differential;
mod reference;

use http::{HeaderValue, Request};

use super::*;
use crate::config::{
    CheckReplaced, Domain, HeaderMatch, HeaderTest, IpPrefix, PathMatch, Pattern, Permission, PermissionTest,
    Principal, PrincipalTest, RbacPolicy, Replaced, RouteMatch, RouteRules, Rule, StringMatch, Subject, TooManyRules,
};

fn policy(permission: Permission, principal: Principal) -> RbacPolicy {
    RbacPolicy {
        name: "p".into(),
        permissions: vec![permission],
        principals: vec![principal],
    }
}

fn rules(action: RbacAction, policies: Vec<RbacPolicy>) -> FilterRules {
    FilterRules {
        enforced: Some(Rbac { action, policies }),
        shadow: None,
    }
}

fn filter(rules: FilterRules) -> RbacFilter {
    RbacFilter {
        name: "rbac".into(),
        rules,
    }
}

fn one(action: RbacAction, permission: Permission, principal: Principal) -> Authorization {
    let rules = rules(action, vec![policy(permission, principal)]);
    Authorization::new(Vec::new(), vec![filter(rules)], Vec::new()).unwrap()
}

fn passes(authorization: &Authorization, peer: Option<&str>, request: &Request<()>) -> bool {
    let peer = peer.map(|peer| SpiffeId::parse(peer).unwrap());
    let facts = facts(peer.as_ref(), request);
    authorization.request_passes(&facts, &mut |_| ()).is_ok()
}

fn facts<'a>(peer: Option<&'a SpiffeId>, request: &'a Request<()>) -> Facts<'a> {
    Facts {
        source: Some([10, 0, 0, 7].into()),
        destination: Some(([10, 0, 0, 1], 8080).into()),
        server_name: Some("payment.shop"),
        peer,
        claims: None,
        head: Some(RequestHead::of(request, "")),
    }
}

fn header(name: &str, test: StringMatch) -> HeaderMatch {
    HeaderMatch::new(Subject::parse(name).unwrap(), HeaderTest::Value(test))
}

fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.into())
}

fn with(values: &[&[u8]]) -> Request<()> {
    let mut request = Request::get("https://a/x").body(()).unwrap();
    for value in values {
        request
            .headers_mut()
            .append("x-user", HeaderValue::from_bytes(value).unwrap());
    }
    request
}

/// Values of one header, and whether a test of it holds where doubt counts for a denial and where it counts against a permission.
#[test]
fn az_5_headers_cannot_evade_a_denial_nor_earn_a_permission() {
    let long = vec![b'a'; 8192];
    let regex = |source: &str| StringMatch::Regex(Pattern::new(source).unwrap());
    let plain = |test: StringMatch| header("x-user", test);
    let inverted = |test: StringMatch| HeaderMatch {
        invert: true,
        ..plain(test)
    };
    let present = HeaderMatch::new(Subject::parse("x-user").unwrap(), HeaderTest::Present);
    let absent = HeaderMatch {
        invert: true,
        ..present.clone()
    };
    for (test, values, denies, allows) in [
        (plain(exact("admin")), &[&b"admin"[..]][..], true, true),
        (plain(exact("admin")), &[b"other", b"admin"], true, false),
        (plain(exact("admin")), &[b"admin", b"admin"], true, false),
        (plain(exact("admin")), &[b"admin,other"], false, false),
        (plain(exact("a,b")), &[b"a", b"b"], true, false),
        (plain(exact("admin")), &[b"Admin"], false, false),
        (plain(exact("admin")), &[b""], false, false),
        (plain(exact("admin")), &[], false, false),
        (plain(exact("")), &[b""], true, true),
        (plain(StringMatch::Prefix("adm".into())), &[b"admin", b"x"], true, false),
        (
            plain(StringMatch::Contains("admin".into())),
            &[b"x", b"an admin"],
            true,
            false,
        ),
        (plain(StringMatch::Prefix("a".into())), &[&long], true, true),
        // Bytes that are no text are no hiding place: a pattern of characters can say nothing of them, so both is possible.
        (plain(regex("a.*")), &[b"a\xff\xfe"], true, false),
        (inverted(regex("a.*")), &[b"a\xff\xfe"], true, false),
        (plain(regex(".*admin.*")), &[b"admin\xff"], true, false),
        (inverted(regex(".*admin.*")), &[b"admin\xff"], true, false),
        (plain(regex("[^x]*")), &[b"\xff"], true, false),
        (plain(regex("a.*")), &[b"a\xff", b"b"], true, false),
        // Other tests compare bytes, and text beyond ASCII is text.
        (
            plain(StringMatch::Contains("admin".into())),
            &[b"admin\xff"],
            true,
            true,
        ),
        (plain(regex("a.c")), &["a\u{e9}c".as_bytes()], true, true),
        // Inverted.
        (inverted(exact("admin")), &[b"other"], true, true),
        (inverted(exact("admin")), &[b"admin"], false, false),
        (inverted(exact("admin")), &[b"admin", b"other"], true, false),
        // A value cannot be told of a header that is absent (gRFC A41), presence can.
        (inverted(exact("admin")), &[], false, false),
        (present.clone(), &[], false, false),
        (present, &[b""], true, true),
        (absent.clone(), &[], true, true),
        (absent, &[b"x", b"y"], false, false),
    ] {
        let request = with(values);
        let rule = || Rule::Is(PermissionTest::Header(test.clone()));
        let denied = !passes(&one(RbacAction::Deny, rule(), Rule::Always), None, &request);
        let allowed = passes(&one(RbacAction::Allow, rule(), Rule::Always), None, &request);
        assert_eq!((denied, allowed), (denies, allows), "{test:?} {values:?}");
        // A negation around it turns the doubt about.
        let denied = !passes(&one(RbacAction::Deny, rule().negated(), Rule::Always), None, &request);
        let allowed = passes(&one(RbacAction::Allow, rule().negated(), Rule::Always), None, &request);
        assert_eq!((denied, allowed), (!allows, !denies), "not {test:?} {values:?}");
    }
}

#[test]
fn az_5_an_underscore_is_not_a_dash() {
    let rule = Rule::Is(PermissionTest::Header(header("x-user", exact("admin"))));
    let request = Request::get("https://a/").header("x_user", "admin").body(()).unwrap();
    assert!(!passes(&one(RbacAction::Allow, rule, Rule::Always), None, &request));
}

#[test]
fn az_7_a_principal_is_compared_byte_for_byte() {
    let id = |text: &str| StringMatch::Exact(text.into());
    let b = "spiffe://cluster.local/ns/a/sa/b";
    for (test, peer, expected) in [
        (Some(id(b)), Some(b), true),
        (Some(id(b)), Some("spiffe://cluster.local/ns/a/sa/bb"), false),
        (Some(id(b)), Some("spiffe://clusterxlocal/ns/a/sa/b"), false),
        (Some(id(b)), Some("spiffe://cluster.local/ns/a/sa/B"), false),
        (Some(id(b)), None, false),
        (
            Some(StringMatch::Prefix("spiffe://cluster.local/ns/a/".into())),
            Some(b),
            true,
        ),
        (
            Some(StringMatch::Prefix("spiffe://cluster.local/ns/a/".into())),
            Some("spiffe://cluster.local/ns/ab/sa/b"),
            false,
        ),
        (
            Some(StringMatch::Suffix("/sa/b".into())),
            Some("spiffe://other/ns/x/sa/b"),
            true,
        ),
        (
            Some(StringMatch::Suffix("/sa/b".into())),
            Some("spiffe://other/ns/x/sa/xsa/b"),
            false,
        ),
        (None, Some(b), true),
        (None, None, false),
    ] {
        let rule = || Rule::Is(PrincipalTest::Peer(test.clone()));
        let request = with(&[]);
        let allowed = passes(&one(RbacAction::Allow, Rule::Always, rule()), peer, &request);
        let denied = !passes(&one(RbacAction::Deny, Rule::Always, rule()), peer, &request);
        assert_eq!((allowed, denied), (expected, expected), "{test:?} {peer:?}");
        // Who is nobody is not the one who is named: a denial of everybody else meets it.
        let denied = !passes(&one(RbacAction::Deny, Rule::Always, rule().negated()), peer, &request);
        assert_eq!(denied, !expected, "not {test:?} {peer:?}");
    }
}

#[test]
fn each_test_looks_at_its_place() {
    let is = |test: PermissionTest| Rule::Is(test);
    let range = |text: &str, bits| IpPrefix::new(text.parse().unwrap(), bits).unwrap();
    let request = Request::post("https://payment.shop/pay?x=/admin").body(()).unwrap();
    for (rule, expected) in [
        (is(PermissionTest::Path(exact("/pay"))), true),
        (is(PermissionTest::Path(StringMatch::Contains("admin".into()))), false),
        (
            is(PermissionTest::Header(header(":path", exact("/pay?x=/admin")))),
            true,
        ),
        (is(PermissionTest::Header(header(":method", exact("POST")))), true),
        (
            is(PermissionTest::Header(header(":authority", exact("payment.shop")))),
            true,
        ),
        (is(PermissionTest::Header(header("host", exact("payment.shop")))), true),
        (is(PermissionTest::DestinationIp(range("10.0.0.0", 24))), true),
        (is(PermissionTest::DestinationIp(range("10.0.1.0", 24))), false),
        (is(PermissionTest::DestinationPorts(8080, 8081)), true),
        (is(PermissionTest::DestinationPorts(8000, 8080)), false),
        (is(PermissionTest::ServerName(exact("payment.shop"))), true),
        (Rule::All(vec![]), true),
        (Rule::Any(vec![]), false),
        (Rule::never(), false),
    ] {
        let found = passes(&one(RbacAction::Allow, rule.clone(), Rule::Always), None, &request);
        assert_eq!(found, expected, "{rule:?}");
    }
    for (rule, expected) in [
        (Rule::Is(PrincipalTest::Source(range("10.0.0.0", 24))), true),
        (Rule::Is(PrincipalTest::Source(range("11.0.0.0", 8))), false),
        (Rule::Is(PrincipalTest::Path(exact("/pay"))), true),
    ] {
        let found = passes(&one(RbacAction::Allow, Rule::Always, rule.clone()), None, &request);
        assert_eq!(found, expected, "{rule:?}");
    }
}

#[test]
fn the_order_is_that_of_the_filters_and_the_first_refusal_is_told() {
    let named = |name: &str, action, permission| {
        let mut policy = policy(permission, Rule::Always);
        policy.name = name.into();
        RbacFilter {
            name: format!("filter-{name}").into(),
            rules: rules(action, vec![policy]),
        }
    };
    let path = |text: &str| Rule::Is(PermissionTest::Path(StringMatch::Prefix(text.into())));
    let mut dry = named("dry", RbacAction::Deny, path("/a"));
    dry.rules.shadow = dry.rules.enforced.take();
    let filters = vec![
        dry,
        named("audit", RbacAction::Log, path("/a")),
        named("deny", RbacAction::Deny, path("/admin")),
        named("allow", RbacAction::Allow, path("/a")),
    ];
    let authorization = Authorization::new(Vec::new(), filters, Vec::new()).unwrap();
    let told = |path: &str| {
        let request = Request::get(format!("https://a{path}")).body(()).unwrap();
        let facts = Facts {
            source: None,
            destination: None,
            server_name: None,
            peer: None,
            claims: None,
            head: Some(RequestHead::of(&request, "")),
        };
        let mut notices = Vec::new();
        let result = authorization.request_passes(&facts, &mut |notice| notices.push(format!("{notice:?}")));
        let notices: Vec<String> = notices
            .iter()
            .map(|notice| notice.split('(').next().unwrap().into())
            .collect();
        (result.err().map(|by| (by.filter, by.policy)), notices.join(" "))
    };
    assert_eq!(
        told("/admin"),
        (Some(("filter-deny", Some("deny"))), "WouldDeny Audited".into())
    );
    assert_eq!(told("/a"), (None, "WouldDeny Audited".into()));
    assert_eq!(told("/b"), (Some(("filter-allow", None)), String::new()));
}

#[test]
fn routes_replace_rules_and_the_nearest_counts() {
    let nobody = || rules(RbacAction::Allow, Vec::new());
    let replaced = |with: FilterRules| {
        vec![Replaced {
            filter: "rbac".into(),
            with,
        }]
    };
    let mut free = RouteMatch::any();
    free.path = PathMatch::Prefix("/free".into());
    let host = |domain: &str, own, routes| HostRules {
        domains: vec![Domain::parse(domain).unwrap()],
        replaced: own,
        checks: Vec::new(),
        routes,
    };
    let open = RouteRules {
        matches: free,
        replaced: replaced(FilterRules::default()),
        checks: Vec::new(),
    };
    let hosts = vec![
        host("*", Vec::new(), vec![open.clone()]),
        host("shut.test", replaced(nobody()), vec![open]),
        host("open.test", replaced(FilterRules::default()), Vec::new()),
    ];
    let base = rules(
        RbacAction::Allow,
        vec![policy(Rule::Is(PermissionTest::Path(exact("/pay"))), Rule::Always)],
    );
    let authorization = Authorization::new(Vec::new(), vec![filter(base)], hosts).unwrap();
    for (uri, expected) in [
        ("https://a/pay", true),
        ("https://a/x", false),
        ("https://a/free", true),
        ("https://shut.test/pay", false),
        ("https://shut.test:80/pay", false),
        ("https://shut.test/free", true),
        ("https://open.test/x", true),
    ] {
        let request = Request::get(uri).body(()).unwrap();
        assert_eq!(passes(&authorization, None, &request), expected, "{uri}");
    }
}

#[test]
fn what_is_asked_of_a_connection_is_asked_again_of_its_requests() {
    let rules = rules(
        RbacAction::Deny,
        vec![policy(
            Rule::Always,
            Rule::Is(PrincipalTest::Source(IpPrefix::new([10, 0, 0, 7].into(), 32).unwrap())),
        )],
    );
    let authorization = Authorization::new(vec![filter(rules)], Vec::new(), Vec::new()).unwrap();
    let facts = Facts {
        source: Some([10, 0, 0, 7].into()),
        destination: None,
        server_name: None,
        peer: None,
        claims: None,
        head: None,
    };
    assert!(authorization.connection_passes(&facts, &mut |_| ()).is_err());
    assert!(!passes(&authorization, None, &with(&[])));
}

#[test]
fn what_is_too_much_is_refused() {
    let deep = (0..Authorization::MAX_DEPTH).fold(Rule::Always, |rule: Permission, _| rule.negated());
    let of = |policies| Authorization::new(Vec::new(), vec![filter(rules(RbacAction::Deny, policies))], Vec::new());
    assert_eq!(of(vec![policy(deep, Rule::Always)]), Err(TooManyRules::Depth));
    let wide = Rule::Any(vec![Rule::Always; Authorization::MAX_NODES]);
    assert_eq!(of(vec![policy(wide, Rule::Always)]), Err(TooManyRules::Nodes));
    let many = vec![policy(Rule::Always, Rule::Always); Authorization::MAX_POLICIES + 1];
    assert_eq!(of(many), Err(TooManyRules::Policies));
    let filters = vec![filter(FilterRules::default()); Authorization::MAX_FILTERS + 1];
    assert_eq!(
        Authorization::new(Vec::new(), filters, Vec::new()),
        Err(TooManyRules::Filters)
    );
}

#[test]
fn who_is_asked_stands_where_the_chain_has_him() {
    let free = policy(Rule::Is(PermissionTest::Path(exact("/free"))), Rule::Always);
    let shut = policy(Rule::Is(PermissionTest::Path(exact("/shut"))), Rule::Always);
    let asked = policy(Rule::Is(PermissionTest::Path(exact("/asked"))), Rule::Always);
    let check = |name: &str, after, about| ExtAuthz {
        name: name.into(),
        after,
        about,
        ..crate::ext_authz::tests::grpc()
    };
    let some = AskedAbout::Matched(vec![asked.clone(), shut.clone()]);
    let settings = CheckSettings {
        disabled: true,
        ..CheckSettings::default()
    };
    let quiet = HostRules {
        domains: vec![Domain::parse("quiet.test").unwrap()],
        replaced: Vec::new(),
        checks: vec![CheckReplaced {
            filter: "second".into(),
            with: settings,
        }],
        routes: Vec::new(),
    };
    let chain = vec![
        filter(rules(RbacAction::Deny, vec![shut])),
        filter(rules(RbacAction::Allow, vec![free, asked])),
    ];
    let authorization = Authorization::new(Vec::new(), chain, vec![quiet]).unwrap();
    // Given in any order.
    let checks = vec![check("second", 1, AskedAbout::Everything), check("first", 0, some)];
    let authorization = authorization.with_checks(checks).unwrap();
    let judge = |uri: &str, allowed| {
        let request = Request::get(uri).body(()).unwrap();
        let facts = facts(None, &request);
        match authorization.judge(&facts, allowed, &mut |_| ()) {
            Ok(Next::Passes) => "passes".to_owned(),
            Ok(Next::Asks { index, policy }) => format!("asks {index} for {}", policy.unwrap_or("all")),
            Err(matched) => format!("denied by {:?}", matched.policy),
        }
    };
    // The first is asked before anything is denied, as Istio's CUSTOM is.
    assert_eq!(judge("https://a/shut", None), "asks 0 for p");
    assert_eq!(judge("https://a/shut", Some(0)), "denied by Some(\"p\")");
    assert_eq!(judge("https://a/free", None), "asks 1 for all");
    assert_eq!(judge("https://a/free", Some(1)), "passes");
    assert_eq!(judge("https://a/other", Some(1)), "denied by None");
    assert_eq!(judge("https://a/asked", Some(0)), "asks 1 for all");
    // A host that has the second not asked.
    assert_eq!(judge("https://quiet.test/asked", Some(0)), "passes");
    // Whoever cannot ask lets nothing through.
    let request = Request::get("https://a/asked").body(()).unwrap();
    let facts = facts(None, &request);
    let matched = authorization.request_passes(&facts, &mut |_| ()).unwrap_err();
    assert_eq!((matched.filter, matched.policy), ("first", Some("p")));
    let too_many = (0..=ExtAuthz::MAX_PER_CHAIN).map(|_| check("x", 0, AskedAbout::Everything));
    assert_eq!(
        Authorization::default().with_checks(too_many.collect()),
        Err(TooManyRules::Filters)
    );
}

/// Routes say first what is served at all (gRFC A36): the first that takes a request counts, and what none takes is not served, whatever
/// the policies say.
#[test]
fn az_10_what_no_route_serves_passes_no_policy() {
    use crate::config::{Reason, ReasonKind, RoutedHost, RoutedRoute, Routing, Unserved};
    let everybody = || one(RbacAction::Allow, Rule::Always, Rule::Always);
    let matching = |path: &str| RouteMatch {
        path: PathMatch::Prefix(path.into()),
        ..RouteMatch::any()
    };
    let table = Routing::Table(vec![
        RoutedHost {
            domains: vec![Domain::parse("a.test").unwrap()],
            routes: vec![
                RoutedRoute::Refuses(matching("/no"), "a redirect".into()),
                RoutedRoute::Serves(matching("/n")),
                RoutedRoute::Obscure("it matches on cookies".into()),
                RoutedRoute::Serves(matching("/")),
            ],
        },
        RoutedHost {
            domains: vec![Domain::Any],
            routes: vec![RoutedRoute::Serves(matching("/open"))],
        },
    ]);
    let unknown = Reason::new(ReasonKind::Waiting, "not heard yet");
    let cases = [
        ("http://a.test/no", Err("route_refused")),
        ("http://a.test/node", Err("route_refused")),
        ("http://a.test/n", Ok(())),
        ("http://a.test/other", Err("route_refused")),
        ("http://a.test:80/n", Ok(())),
        ("http://b.test/open", Ok(())),
        ("http://b.test/n", Err("no_route")),
    ];
    for (uri, expected) in cases {
        let request = Request::get(uri).body(()).unwrap();
        let head = RequestHead::of(&request, "");
        let routed = everybody().with_routing(table.clone());
        assert_eq!(routed.serves(&head).map_err(Unserved::as_str), expected, "{uri}");
        assert_eq!(passes(&routed, None, &request), expected.is_ok(), "{uri}");
        let closed = everybody().with_routing(Routing::Nothing(unknown.clone()));
        assert_eq!(closed.serves(&head), Err(Unserved::Unknown(&unknown)));
        assert!(!passes(&closed, None, &request) && passes(&everybody(), None, &request));
        // Of a connection nothing is known that a route could take.
        let of_connection = Facts {
            head: None,
            ..facts(None, &request)
        };
        assert!(closed.connection_passes(&of_connection, &mut |_| ()).is_ok() && !closed.is_empty());
    }
}
