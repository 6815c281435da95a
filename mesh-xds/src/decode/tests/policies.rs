//! Authorizations of every kind, as a server's listener may have them, for what is encoded to be decoded to the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::config::{
    Authorization, ClaimHeader, ClaimShape, Domain, FilterRules, HeaderMatch, HeaderTest, HostRules, IpPrefix, Jwks,
    JwtPlaces, JwtProvider, JwtRequirement, JwtRule, JwtRules, PathMatch, Permission, PermissionTest, Principal,
    PrincipalTest, Rbac, RbacAction, RbacFilter, RbacPolicy, Replaced, RouteMatch, RouteRules, Rule, StringMatch,
    Subject, TokenTest,
};
use mesh_core::testing::TestIssuer;
use proptest::prelude::*;

use super::strategies::{string_tests, text};

fn headers() -> impl Strategy<Value = HeaderMatch> {
    let range = (any::<i64>(), any::<i64>()).prop_map(|(start, end)| HeaderTest::Range { start, end });
    let test = prop_oneof![
        Just(HeaderTest::Present),
        string_tests().prop_map(HeaderTest::Value),
        range
    ];
    let name = prop_oneof!["x-[a-z]{1,8}(-bin)?", "host", ":(method|path|authority)"];
    (name, test, any::<bool>(), any::<bool>()).prop_map(|(name, test, invert, missing_is_empty)| HeaderMatch {
        subject: Subject::parse(&name).unwrap(),
        test,
        invert,
        missing_is_empty,
    })
}

fn ranges() -> impl Strategy<Value = IpPrefix> {
    (any::<[u8; 4]>(), 0u32..=32).prop_map(|(ip, bits)| IpPrefix::new(ip.into(), bits).unwrap())
}

/// Tests, joined; no list is empty, since a proto may hold none that is.
fn rules<T: Clone + std::fmt::Debug + 'static>(tests: BoxedStrategy<T>) -> impl Strategy<Value = Rule<T>> {
    let leaf = prop_oneof![1 => Just(Rule::Always), 4 => tests.prop_map(Rule::Is)];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..3).prop_map(Rule::All),
            prop::collection::vec(inner.clone(), 1..3).prop_map(Rule::Any),
            inner.prop_map(Rule::negated),
        ]
    })
}

fn permissions() -> impl Strategy<Value = Permission> {
    let ports = prop_oneof![
        (0u32..65_536).prop_map(|port| PermissionTest::DestinationPorts(port, port + 1)),
        (0u32..70_000, 0u32..70_000).prop_map(|(start, end)| PermissionTest::DestinationPorts(start, end)),
    ];
    rules(
        prop_oneof![
            headers().prop_map(PermissionTest::Header),
            string_tests().prop_map(PermissionTest::Path),
            ranges().prop_map(PermissionTest::DestinationIp),
            ports,
            string_tests().prop_map(PermissionTest::ServerName),
        ]
        .boxed(),
    )
}

fn tokens() -> impl Strategy<Value = TokenTest> {
    let shape = prop::sample::select(vec![ClaimShape::Text, ClaimShape::List, ClaimShape::Any]);
    let path = prop::collection::vec("[a-z.]{1,6}".prop_map(Box::from), 1..3);
    prop_oneof![
        prop::option::of(string_tests()).prop_map(TokenTest::Principal),
        (path, shape, string_tests()).prop_map(|(path, shape, test)| TokenTest::Claim(path.into(), shape, test)),
    ]
}

fn principals() -> impl Strategy<Value = Principal> {
    let peer: BoxedStrategy<Option<StringMatch>> = prop::option::of(string_tests()).boxed();
    rules(
        prop_oneof![
            peer.prop_map(PrincipalTest::Peer),
            ranges().prop_map(PrincipalTest::Source),
            headers().prop_map(PrincipalTest::Header),
            string_tests().prop_map(PrincipalTest::Path),
            tokens().prop_map(PrincipalTest::Token),
        ]
        .boxed(),
    )
}

fn rbacs() -> impl Strategy<Value = Rbac> {
    let action = prop::sample::select(vec![RbacAction::Allow, RbacAction::Deny, RbacAction::Log]);
    let policy = (
        prop::collection::vec(permissions(), 1..3),
        prop::collection::vec(principals(), 1..3),
    );
    // By name, as a map on the wire is read.
    let policies = prop::collection::btree_map(text(), policy, 0..3);
    (action, policies).prop_map(|(action, policies)| Rbac {
        action,
        policies: policies
            .into_iter()
            .map(|(name, (permissions, principals))| RbacPolicy {
                name,
                permissions,
                principals,
            })
            .collect(),
    })
}

fn filter_rules() -> impl Strategy<Value = FilterRules> {
    (prop::option::of(rbacs()), prop::option::of(rbacs()))
        .prop_map(|(enforced, shadow)| FilterRules { enforced, shadow })
}

fn filters() -> impl Strategy<Value = Vec<RbacFilter>> {
    let one = prop::collection::btree_map("rbac-[a-z]{1,4}", filter_rules(), 0..3);
    one.prop_map(|filters| {
        let filters: BTreeMap<String, FilterRules> = filters;
        let filter = |(name, rules): (String, FilterRules)| RbacFilter {
            name: name.into(),
            rules,
        };
        filters.into_iter().map(filter).collect()
    })
}

/// What a place says of filters of these names, in their order.
fn replaced(names: Vec<Box<str>>) -> impl Strategy<Value = Vec<Replaced>> {
    let said = prop::collection::vec(prop::option::of(filter_rules()), names.len());
    said.prop_map(move |said| {
        let both = names.iter().zip(said);
        both.filter_map(|(filter, with)| {
            with.map(|with| Replaced {
                filter: filter.clone(),
                with,
            })
        })
        .collect()
    })
}

fn hosts(names: Vec<Box<str>>) -> impl Strategy<Value = Vec<HostRules>> {
    let matches =
        ("/[a-z]{0,4}", prop::collection::vec(headers_of_routes(), 0..2)).prop_map(|(prefix, headers)| RouteMatch {
            path: PathMatch::Prefix(prefix.into()),
            headers,
            ..RouteMatch::any()
        });
    let route = (matches, replaced(names.clone())).prop_map(|(matches, replaced)| RouteRules {
        matches,
        replaced,
        checks: Vec::new(),
    });
    let host = (replaced(names), prop::collection::vec(route, 0..3));
    let host = host.prop_map(|(replaced, mut routes)| {
        // What says nothing at the end is not kept: it is judged as if it were not there.
        while routes.last().is_some_and(|last| last.replaced.is_empty()) {
            routes.pop();
        }
        (replaced, routes)
    });
    prop::collection::btree_map("[a-z]{1,5}", host, 0..3).prop_map(|hosts| {
        let host = |(domain, (replaced, routes)): (String, _)| HostRules {
            domains: vec![Domain::parse(&domain).unwrap()],
            replaced,
            checks: Vec::new(),
            routes,
        };
        let hosts: Vec<HostRules> = hosts.into_iter().map(host).collect();
        // Where none says anything none is kept.
        match hosts
            .iter()
            .all(|host| host.replaced.is_empty() && host.routes.is_empty())
        {
            true => Vec::new(),
            false => hosts,
        }
    })
}

fn headers_of_routes() -> impl Strategy<Value = HeaderMatch> {
    ("x-[a-z]{1,8}", string_tests())
        .prop_map(|(name, test)| HeaderMatch::new(Subject::parse(&name).unwrap(), HeaderTest::Value(test)))
}

fn requirements(providers: usize) -> impl Strategy<Value = JwtRequirement> {
    let audiences = prop::collection::vec(text(), 0..2);
    let leaf = prop_oneof![
        3 => (0..providers, audiences).prop_map(|(index, audiences)| JwtRequirement::Provider(index, audiences)),
        1 => Just(JwtRequirement::AllowMissing),
        1 => Just(JwtRequirement::AllowMissingOrFailed),
    ];
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..3).prop_map(JwtRequirement::Any),
            prop::collection::vec(inner, 1..3).prop_map(JwtRequirement::All),
        ]
    })
}

fn providers() -> impl Strategy<Value = JwtProvider> {
    let keys = prop::sample::select(vec![
        TestIssuer::new("a").jwks(),
        TestIssuer::new("b").jwks(),
        r#"{"keys":[]}"#.into(),
    ]);
    let header = || "x-[a-z]{1,6}".prop_map(|name| name.parse::<http::HeaderName>().unwrap());
    let texts = || prop::collection::vec(text(), 0..3);
    let places = (prop::collection::vec((header(), text()), 0..2), texts(), texts());
    let claims = prop::collection::vec((header(), "[a-z.]{1,6}"), 0..3);
    let said = (text(), texts(), keys, any::<bool>());
    (said, places, prop::option::of(header()), claims, texts()).prop_map(
        |((issuer, audiences, keys, forward), (headers, params, cookies), payload_header, claims, words)| JwtProvider {
            name: "".into(),
            // One that is empty is refused.
            issuer: format!("https://{issuer}").into(),
            audiences,
            keys: Jwks::parse(&keys).unwrap(),
            places: JwtPlaces {
                headers,
                params,
                cookies,
            },
            forward,
            payload_header,
            claim_headers: claims
                .into_iter()
                .map(|(header, claim)| ClaimHeader {
                    header,
                    claim: claim.into(),
                })
                .collect(),
            space_delimited: words,
        },
    )
}

fn tokens_of_requests() -> impl Strategy<Value = JwtRules> {
    prop::collection::vec(providers(), 1..3).prop_flat_map(|mut providers| {
        for (index, provider) in providers.iter_mut().enumerate() {
            provider.name = format!("origins-{index:02}").into();
        }
        let rule = ("/[a-z]{0,4}", prop::option::of(requirements(providers.len())));
        let rule = rule.prop_map(|(prefix, requires)| JwtRule {
            matches: RouteMatch {
                path: PathMatch::Prefix(prefix.into()),
                ..RouteMatch::any()
            },
            requires,
        });
        let rules = prop::collection::vec(rule, 0..3);
        rules.prop_map(move |rules| JwtRules {
            providers: providers.clone(),
            rules,
        })
    })
}

/// What a chain of HTTP may ask of requests.
pub(super) fn of_requests() -> impl Strategy<Value = Authorization> {
    let some = filters().prop_flat_map(|filters| {
        let names = filters.iter().map(|filter| filter.name.clone()).collect();
        (Just(filters), hosts(names))
    });
    let some = (some, prop::option::of(tokens_of_requests())).prop_map(|((filters, hosts), tokens)| {
        let authorization = Authorization::new(Vec::new(), filters, hosts).unwrap();
        authorization.with_tokens(tokens.map(Arc::new))
    });
    prop_oneof![2 => Just(Authorization::default()), 1 => some]
}

/// What a chain may ask of connections.
pub(super) fn of_connections() -> impl Strategy<Value = Vec<RbacFilter>> {
    prop_oneof![2 => Just(Vec::new()), 1 => filters()]
}
