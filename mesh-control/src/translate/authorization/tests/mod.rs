//! Policies as they are written, and requests: who passes. The decision is the data plane's own.

mod custom;
mod refused;

use http::Request;
use mesh_core::authorize::Facts;
use mesh_core::canonical::{PathNormalization, Rewrite};
use mesh_core::config::{PrincipalTest, Rule, StringMatch, TokenTest};
use mesh_core::identity::SpiffeId;
use mesh_core::route::RequestHead;

use super::*;
use crate::diagnostic::Diagnostic;

/// Policies of namespace `shop` unless they say otherwise, from their specs.
fn read(specs: &[&str]) -> (Documents, Vec<Diagnostic>) {
    let mut text = String::new();
    for (number, spec) in specs.iter().enumerate() {
        let (metadata, spec) = spec.split_once('|').unwrap_or(("namespace: shop", spec));
        text += &format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p{number}, {metadata}}}\nspec: {spec}\n---\n"
        );
    }
    let mut documents = Documents::default();
    let diagnostics = documents.read("f.yaml", &text);
    (documents, diagnostics)
}

fn authorization(specs: &[&str]) -> Authorization {
    let (documents, diagnostics) = read(specs);
    assert_eq!(diagnostics, [], "{specs:?}");
    let mut findings = Findings::default();
    let labels = BTreeMap::from([("app".to_owned(), "pay".to_owned())]);
    let mesh = Mesh::default();
    let policies = Policies::new(&documents, &mesh, &mut findings);
    let authorization = policies.of_workload("shop", &labels, &mut findings);
    let errors: Vec<_> = findings.0.iter().filter(|finding| finding.is_error()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    authorization
}

const CHECKOUT: &str = "spiffe://cluster.local/ns/shop/sa/checkout";

/// Whether `peer`, or nobody, may send a request: a method and a URI, and headers as `name: value`.
fn passes(authorization: &Authorization, peer: &str, request: &str) -> bool {
    let mut lines = request.split(", ");
    let (method, uri) = lines.next().unwrap().split_once(' ').unwrap();
    let mut builder = Request::builder()
        .method(method)
        .uri(uri)
        .version(http::Version::HTTP_2);
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        builder = builder.header(name, value);
    }
    let mut request = builder.body(()).unwrap();
    Rewrite::of(&request, PathNormalization::default())
        .unwrap()
        .apply(&mut request);
    let peer = (!peer.is_empty()).then(|| SpiffeId::parse(peer).unwrap());
    let facts = Facts {
        source: Some([10, 1, 2, 3].into()),
        destination: Some(([10, 0, 0, 1], 8080).into()),
        server_name: Some("pay.shop"),
        peer: peer.as_ref(),
        claims: None,
        head: Some(RequestHead::of(&request, "")),
    };
    authorization.request_passes(&facts, &mut |_| ()).is_ok()
}

/// Each field, in a policy that allows: requests that pass and requests that do not.
#[test]
fn az_7_every_field_by_what_it_lets_through() {
    const GET: &str = "GET https://pay.shop/a";
    let other = |path: &str| format!("spiffe://{path}");
    let source = |text: &str| format!("{{rules: [{{from: [{{source: {{{text}}}}}]}}]}}");
    for (text, peer, expected) in [
        (
            "principals: [cluster.local/ns/shop/sa/checkout]",
            CHECKOUT.to_owned(),
            true,
        ),
        (
            "principals: [cluster.local/ns/shop/sa/check]",
            CHECKOUT.to_owned(),
            false,
        ),
        (
            "principals: [cluster.local/ns/shop/sa/checkout]",
            other("clusterxlocal/ns/shop/sa/checkout"),
            false,
        ),
        ("principals: [cluster.local/ns/shop/sa/checkout]", String::new(), false),
        ("principals: [cluster.local/ns/shop/*]", CHECKOUT.to_owned(), true),
        (
            "principals: [cluster.local/ns/shop/*]",
            other("cluster.local/ns/shopping/sa/checkout"),
            false,
        ),
        (
            "principals: ['*/sa/checkout']",
            other("far.test/ns/x/sa/checkout"),
            true,
        ),
        (
            "principals: ['*/sa/checkout']",
            other("far.test/ns/x/sa/xcheckout"),
            false,
        ),
        ("principals: ['*']", CHECKOUT.to_owned(), true),
        ("principals: ['*']", String::new(), false),
        ("notPrincipals: ['*']", String::new(), true),
        (
            "notPrincipals: [cluster.local/ns/shop/sa/other]",
            CHECKOUT.to_owned(),
            true,
        ),
        (
            "notPrincipals: [cluster.local/ns/shop/sa/checkout]",
            CHECKOUT.to_owned(),
            false,
        ),
        ("namespaces: [shop]", CHECKOUT.to_owned(), true),
        ("namespaces: [shop]", other("cluster.local/ns/shopping/sa/x"), false),
        ("namespaces: [shop]", other("cluster.local/x/ns/shop/sa/x"), false),
        ("namespaces: [sho*]", CHECKOUT.to_owned(), true),
        ("namespaces: ['*op']", CHECKOUT.to_owned(), true),
        ("namespaces: [sh.p]", CHECKOUT.to_owned(), false),
        ("serviceAccounts: [checkout]", CHECKOUT.to_owned(), true),
        ("serviceAccounts: [shop/checkout]", CHECKOUT.to_owned(), true),
        ("serviceAccounts: [other/checkout]", CHECKOUT.to_owned(), false),
        ("serviceAccounts: [che.kout]", CHECKOUT.to_owned(), false),
        ("trustDomains: [cluster.local]", CHECKOUT.to_owned(), true),
        (
            "trustDomains: [cluster.local]",
            other("cluster.local.evil/ns/shop/sa/x"),
            false,
        ),
        ("ipBlocks: [10.1.0.0/16]", String::new(), true),
        ("ipBlocks: [10.1.2.3]", String::new(), true),
        ("remoteIpBlocks: [10.2.0.0/16]", String::new(), false),
        ("notIpBlocks: [10.1.0.0/16]", String::new(), false),
        (
            "namespaces: [shop], ipBlocks: [10.2.0.0/16]",
            CHECKOUT.to_owned(),
            false,
        ),
    ] {
        let spec = source(text);
        assert_eq!(
            passes(&authorization(&[&spec]), &peer, GET),
            expected,
            "{text} by {peer:?}"
        );
    }
    let operation = |text: &str| format!("{{rules: [{{to: [{{operation: {{{text}}}}}]}}]}}");
    for (text, request, expected) in [
        ("paths: [/a]", GET, true),
        ("paths: [/a]", "GET https://pay.shop/a/b", false),
        ("paths: [/a]", "GET https://pay.shop//x/../%61?q", true),
        ("paths: ['/a*']", "GET https://pay.shop/ab", true),
        ("paths: ['*/b']", "GET https://pay.shop/a/b", true),
        ("paths: ['*']", GET, true),
        ("notPaths: ['*']", "OPTIONS *, host: a", false),
        ("paths: ['/{*}/b']", "GET https://pay.shop/a/b", true),
        ("paths: ['/{*}/b']", "GET https://pay.shop/a/a/b", false),
        ("paths: ['/{**}/b']", "GET https://pay.shop/a/a/b", true),
        ("paths: ['/x.y/{*}']", "GET https://pay.shop/xzy/b", false),
        ("notPaths: [/a]", GET, false),
        ("methods: [GET]", GET, true),
        ("methods: [POST, PUT]", GET, false),
        ("notMethods: [POST]", GET, true),
        ("hosts: [pay.shop]", GET, true),
        // By exact comparison it lets in, and by any port it keeps out.
        ("hosts: [PAY.shop]", "GET https://pay.SHOP/a", true),
        ("hosts: [PAY.shop]", "GET https://pay.SHOP:8080/a", false),
        ("hosts: ['pay.shop:8080']", "GET https://pay.SHOP:8080/a", true),
        ("hosts: ['pay.shop:80']", "GET https://pay.shop:8080/a", false),
        ("hosts: ['*.shop']", GET, true),
        ("hosts: ['*.shop']", "GET https://pay.shop:8080/a", false),
        ("notHosts: ['*.shop']", "GET https://pay.shop:8080/a", false),
        ("hosts: ['*.shop']", "GET https://payxshop/a", false),
        ("hosts: ['pay.*']", GET, true),
        ("notHosts: [pay.shop]", "GET https://pay.shop.:1/a", false),
        ("ports: ['8080']", GET, true),
        ("ports: ['80']", GET, false),
        ("paths: [/a], methods: [POST]", GET, false),
    ] {
        let spec = operation(text);
        assert_eq!(
            passes(&authorization(&[&spec]), "", request),
            expected,
            "{text} of {request}"
        );
    }
    let when = |key: &str, text: &str| format!("{{rules: [{{when: [{{key: '{key}', {text}}}]}}]}}");
    for (key, text, request, expected) in [
        (
            "request.headers[x-tenant]",
            "values: [blue]",
            "GET https://a/, x-tenant: blue",
            true,
        ),
        (
            "request.headers[x-tenant]",
            "values: [blue]",
            "GET https://a/, x-tenant: red",
            false,
        ),
        (
            "request.headers[x-tenant]",
            "values: [blue]",
            "GET https://a/, x-tenant: red, x-tenant: blue",
            false,
        ),
        (
            "request.headers[x-tenant]",
            "values: ['b*']",
            "GET https://a/, X-Tenant: blue",
            true,
        ),
        ("request.headers[x-tenant]", "values: ['*']", "GET https://a/", false),
        ("request.headers[x-tenant]", "notValues: ['*']", "GET https://a/", true),
        (
            "request.headers[x-tenant]",
            "notValues: [red]",
            "GET https://a/, x-tenant: blue",
            true,
        ),
        ("source.ip", "values: [10.1.0.0/16]", GET, true),
        ("remote.ip", "notValues: [10.1.0.0/16]", GET, false),
        ("source.namespace", "values: [shop]", GET, true),
        (
            "source.principal",
            "values: [cluster.local/ns/shop/sa/checkout]",
            GET,
            true,
        ),
        ("source.serviceAccount", "values: [shop/other]", GET, false),
        ("destination.ip", "values: [10.0.0.0/8]", GET, true),
        ("destination.port", "values: ['8080']", GET, true),
        ("connection.sni", "values: [pay.shop]", GET, true),
        ("connection.sni", "notValues: ['*.shop']", GET, false),
    ] {
        let spec = when(key, text);
        assert_eq!(
            passes(&authorization(&[&spec]), CHECKOUT, request),
            expected,
            "{key} {text} of {request}"
        );
    }
}

#[test]
fn deny_comes_before_allow_and_nothing_is_not_everything() {
    const ALL: &str = "{rules: [{}]}";
    const DENY_ADMIN: &str = "{action: DENY, rules: [{to: [{operation: {paths: ['/admin*']}}]}]}";
    for (specs, request, expected) in [
        (&[][..], "GET https://a/x", true),
        (&["{}"], "GET https://a/x", false),
        (&[ALL], "GET https://a/x", true),
        (&["{}", ALL], "GET https://a/x", true),
        (&["{action: DENY}"], "GET https://a/x", true),
        (&[DENY_ADMIN], "GET https://a/x", true),
        (&[DENY_ADMIN], "GET https://a/admin", false),
        (&[DENY_ADMIN, ALL], "GET https://a//%61dmin/x", false),
        (
            &["{action: DENY, rules: [{to: [{operation: {paths: ['*']}}]}]}"],
            "OPTIONS *, host: a",
            false,
        ),
        (
            &["{action: DENY, rules: [{to: [{operation: {hosts: [a]}}]}]}"],
            "GET https://a:81/x",
            false,
        ),
        (
            &["{action: DENY, rules: [{to: [{operation: {notHosts: [a]}}]}]}"],
            "GET https://a:81/x",
            false,
        ),
        (&["{action: AUDIT, rules: [{}]}"], "GET https://a/x", true),
        (
            &["namespace: shop, annotations: {istio.io/dry-run: 'True'}|{action: DENY, rules: [{}]}"],
            "GET https://a/x",
            true,
        ),
        (
            &["namespace: shop, annotations: {istio.io/dry-run: 'true'}|{action: DENY, rules: [{}]}"],
            "GET https://a/x",
            true,
        ),
        (
            &["namespace: shop, annotations: {istio.io/dry-run: 'true'}|{}"],
            "GET https://a/x",
            true,
        ),
        // Of the root namespace, of its own, of another; by labels.
        (&["namespace: istio-system|{}"], "GET https://a/x", false),
        (&["namespace: other|{}"], "GET https://a/x", true),
        (&["{selector: {matchLabels: {app: pay}}}"], "GET https://a/x", false),
        (&["{selector: {matchLabels: {app: other}}}"], "GET https://a/x", true),
        (
            &["namespace: istio-system|{selector: {matchLabels: {app: pay}}}"],
            "GET https://a/x",
            false,
        ),
    ] {
        assert_eq!(
            passes(&authorization(specs), CHECKOUT, request),
            expected,
            "{specs:?} {request}"
        );
    }
}

/// A claim is there whatever its text is.
#[test]
fn a_claim_with_a_line_break_is_a_claim() {
    let authorization = authorization(&["{rules: [{when: [{key: 'request.auth.claims[role]', values: ['*']}]}]}"]);
    let policies = &authorization.request()[0].rules.enforced.as_ref().unwrap().policies;
    let [Rule::Any(values)] = &*policies[0].principals else {
        panic!("{policies:?}")
    };
    let [Rule::Is(PrincipalTest::Token(TokenTest::Claim(_, _, StringMatch::Regex(pattern))))] = &**values else {
        panic!("{policies:?}")
    };
    assert!(pattern.is_match(b"\nroot") && pattern.is_match(b""));
}

#[test]
fn a_rule_joins_what_is_in_it() {
    let spec = "{rules: [{from: [{source: {namespaces: [shop]}}, {source: {namespaces: [bank]}}], \
                to: [{operation: {paths: [/a]}}, {operation: {methods: [POST]}}], \
                when: [{key: 'request.headers[x]', values: ['1']}, {key: destination.port, values: ['8080']}]}]}";
    let authorization = authorization(&[spec]);
    let bank = "spiffe://cluster.local/ns/bank/sa/b";
    for (peer, request, expected) in [
        (CHECKOUT, "GET https://p/a, x: 1", true),
        (bank, "POST https://p/b, x: 1", true),
        (bank, "GET https://p/b, x: 1", false),
        (CHECKOUT, "GET https://p/a", false),
        ("spiffe://cluster.local/ns/else/sa/b", "GET https://p/a, x: 1", false),
    ] {
        assert_eq!(passes(&authorization, peer, request), expected, "{peer} {request}");
    }
    let name = &authorization.request()[0].rules.enforced.as_ref().unwrap().policies[0].name;
    assert_eq!(&**name, "ns[shop]-policy[p0]-rule[0]");
}

/// A principal is one by every name of its trust domain, and by no other.
#[test]
fn principals_are_those_of_the_aliases_too() {
    let mesh = Mesh {
        trust_domain: "new.test".into(),
        trust_domain_aliases: vec!["old.test".into()],
        ..Mesh::default()
    };
    let table = [
        ("new.test/ns/shop/sa/checkout", &["new.test", "old.test"][..]),
        ("old.test/ns/shop/sa/checkout", &["new.test", "old.test"]),
        ("cluster.local/ns/shop/*", &["new.test", "old.test"]),
        ("other.test/ns/shop/sa/checkout", &["other.test"]),
        ("*/sa/checkout", &["new.test", "old.test", "other.test"]),
    ];
    for (principal, admitted) in table {
        let spec = format!("{{rules: [{{from: [{{source: {{principals: ['{principal}']}}}}]}}]}}");
        let (documents, diagnostics) = read(&[&spec]);
        assert_eq!(diagnostics, []);
        let mut findings = Findings::default();
        let policies = Policies::new(&documents, &mesh, &mut findings);
        let authorization = policies.of_workload("shop", &BTreeMap::new(), &mut findings);
        for domain in ["new.test", "old.test", "other.test"] {
            let peer = format!("spiffe://{domain}/ns/shop/sa/checkout");
            let passed = passes(&authorization, &peer, "GET https://a.test/");
            assert_eq!(passed, admitted.contains(&domain), "{principal}: {peer}");
        }
    }
}
