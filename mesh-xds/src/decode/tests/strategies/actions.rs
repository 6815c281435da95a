//! Parts of routes, of every kind, for properties.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::{
    Abort, Action, AppendAction, Delay, DirectResponse, Fault, FaultAbort, FaultDelay, FilterKind, FilterOverride,
    Forward, Fraction, HashBy, HashCookie, HashPolicy, HeaderEdit, HeaderEdits, HeaderFormat, HeaderMatch, HeaderRules,
    HeaderTest, HostRewrite, Mirror, Override, PathMatch, PathRewrite, PathTemplate, Pattern, Per, QueryMatch,
    QueryTest, Redirect, RedirectPath, Rewrite, RouteMatch, Session, SessionCookie, SessionState, Split, Subject,
    Substitution, WeightedCluster,
};
use proptest::prelude::*;

use super::{string_tests, text};

fn fractions() -> impl Strategy<Value = Fraction> {
    let per = prop::sample::select(vec![Per::Hundred, Per::TenThousand, Per::Million]);
    (any::<u32>(), per).prop_map(|(of, per)| Fraction { of, per })
}

fn header_matches() -> impl Strategy<Value = HeaderMatch> {
    let range = (any::<i64>(), any::<i64>()).prop_map(|(start, end)| HeaderTest::Range { start, end });
    let test = prop_oneof![
        Just(HeaderTest::Present),
        string_tests().prop_map(HeaderTest::Value),
        range
    ];
    let name = prop_oneof!["x-[a-z]{1,8}(-bin)?", "host", ":(method|path|scheme|authority)"];
    (name, test, any::<bool>(), any::<bool>()).prop_map(|(name, test, invert, missing_is_empty)| HeaderMatch {
        subject: match Subject::parse(&name).unwrap() {
            // By gRPC's rules, which these are read by.
            Subject::Header(name) if name.as_str().ends_with("-bin") => Subject::Unseen(name),
            subject => subject,
        },
        test,
        invert,
        missing_is_empty,
    })
}

pub(in crate::decode::tests) fn route_matches() -> impl Strategy<Value = RouteMatch> {
    let path = prop_oneof![
        text().prop_map(PathMatch::Exact),
        "[a-z/]{0,9}".prop_map(|prefix| PathMatch::Prefix(prefix.into())),
        "/[a-z/]{0,6}[a-z]".prop_map(|prefix| PathMatch::Segments(prefix.into())),
        "/[a-z]{1,4}[+*?]".prop_map(|source| PathMatch::Regex(Pattern::new(&source).unwrap())),
        "/[a-z]{1,3}/\\{a\\}(/\\{b=x/\\*\\*\\}|[.]m)?"
            .prop_map(|text| PathMatch::Template(PathTemplate::parse(&text).unwrap())),
    ];
    let test = prop_oneof![
        any::<bool>().prop_map(QueryTest::Present),
        string_tests().prop_map(QueryTest::Value)
    ];
    let query = (text(), test).prop_map(|(name, test)| QueryMatch { name, test });
    let fraction = prop::option::of(fractions());
    let lists = (
        prop::collection::vec(header_matches(), 0..3),
        prop::collection::vec(query, 0..3),
    );
    (path, any::<bool>(), lists, any::<bool>(), fraction).prop_map(
        |(path, ignore_case, (headers, query), grpc, fraction)| RouteMatch {
            path,
            ignore_case,
            headers,
            query,
            grpc,
            fraction,
        },
    )
}

fn header_edits() -> impl Strategy<Value = HeaderEdits> {
    use AppendAction::{AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists, OverwriteIfExistsOrAdd};
    let action = prop::sample::select(vec![
        AddIfAbsent,
        AppendIfExistsOrAdd,
        OverwriteIfExists,
        OverwriteIfExistsOrAdd,
    ]);
    let value = prop_oneof![
        "[a-z ]{0,5}",
        Just("%REQ(:path?x):9%-%%".to_owned()),
        Just("%START_TIME%".to_owned())
    ];
    let add = ("x-[a-z]{1,5}", value, action, any::<bool>()).prop_map(|(name, value, action, keep_empty)| {
        let value = HeaderFormat::parse(&value).unwrap();
        let mut edit = HeaderEdit::new(name.parse().unwrap(), value, action).unwrap();
        edit.keep_empty = keep_empty;
        edit
    });
    let remove = prop::collection::vec("x-[a-z]{1,5}".prop_map(|name| name.parse().unwrap()), 0..2);
    (prop::collection::vec(add, 0..2), remove).prop_map(|(add, remove)| HeaderEdits { remove, add })
}

pub(in crate::decode::tests) fn header_rules() -> impl Strategy<Value = Option<Arc<HeaderRules>>> {
    (header_edits(), header_edits()).prop_map(|(request, response)| HeaderRules { request, response }.shared())
}

pub(in crate::decode::tests) fn faults() -> impl Strategy<Value = Fault> {
    let length = prop_oneof![
        Just(Delay::Header),
        (1u64..u64::from(u32::MAX)).prop_map(|nanos| Delay::Fixed(Duration::from_nanos(nanos)))
    ];
    let delay = (fractions(), length).prop_map(|(fraction, delay)| FaultDelay { fraction, delay });
    let end = prop_oneof![
        Just(Abort::Header),
        any::<u8>().prop_map(Abort::Grpc),
        (200u16..600).prop_map(|status| Abort::Http(http::StatusCode::from_u16(status).unwrap())),
    ];
    let abort = (fractions(), end, "[a-z]{0,4}");
    let abort = abort.prop_map(|(fraction, abort, body)| FaultAbort {
        fraction,
        abort,
        body: body.into(),
    });
    let parts = (
        prop::option::of(delay),
        prop::option::of(abort),
        prop::collection::vec(header_matches(), 0..2),
    );
    let whom = (
        prop::option::of("[a-z|]{1,9}"),
        prop::collection::vec(text(), 0..2),
        prop::option::of(any::<u32>()),
    );
    (parts, whom).prop_map(
        |((delay, abort, headers), (cluster, downstream_nodes, max_active))| Fault {
            delay,
            abort,
            headers,
            upstream_cluster: cluster.map(Into::into),
            downstream_nodes,
            max_active,
        },
    )
}

pub(in crate::decode::tests) fn sessions() -> impl Strategy<Value = Session> {
    let attribute = ("[A-Za-z]{1,6}", "[a-z]{0,4}").prop_map(|(name, value)| (name.into(), value.into()));
    let attributes = prop::collection::vec(attribute, 0..3);
    let cookie = ("[a-z]{1,6}", 0u64..100_000, "(/[a-z]{0,4})?", attributes);
    let cookie = cookie.prop_map(|(name, ttl, path, attributes)| {
        SessionState::Cookie(SessionCookie {
            name: name.into(),
            ttl: Duration::from_secs(ttl),
            path: path.into(),
            attributes: attributes.into(),
        })
    });
    let header = "x-[a-z]{1,8}".prop_map(|name| SessionState::Header(name.parse().unwrap()));
    let state = prop::option::of(prop_oneof![cookie, header]);
    (state, any::<bool>()).prop_map(|(state, strict)| Session { state, strict })
}

/// What filters do.
pub(in crate::decode::tests) fn kinds() -> impl Strategy<Value = FilterKind> {
    prop_oneof![
        faults().prop_map(FilterKind::from),
        sessions().prop_map(FilterKind::from)
    ]
}

/// In the order of their names, each once.
pub(in crate::decode::tests) fn overrides() -> impl Strategy<Value = Vec<FilterOverride>> {
    let what = prop_oneof![
        Just(Override::Disabled),
        Just(Override::Enabled),
        kinds().prop_map(Override::With)
    ];
    prop::collection::btree_map("[a-z.]{1,5}", what, 0..2).prop_map(|said| {
        let one = |(filter, what): (String, Override)| FilterOverride {
            filter: filter.into(),
            what,
        };
        said.into_iter().map(one).collect()
    })
}

fn authorities() -> impl Strategy<Value = http::uri::Authority> {
    "[a-z.]{1,9}(:[1-9][0-9]{0,3})?".prop_map(|text| text.parse().unwrap())
}

fn substitutions() -> impl Strategy<Value = Substitution> {
    prop::sample::select(vec![("^/(a+)/", r"/\1"), ("b", ""), ("(?i)x(y)?", r"\\\0$1")])
        .prop_map(|(pattern, replacement)| Substitution::new(pattern, replacement).unwrap())
}

fn path_rewrites() -> impl Strategy<Value = PathRewrite> {
    prop_oneof![
        "/[a-z]{0,5}".prop_map(|text| PathRewrite::Prefix(text.into())),
        substitutions().prop_map(PathRewrite::Regex)
    ]
}

fn rewrites() -> impl Strategy<Value = Option<Box<Rewrite>>> {
    let host = prop_oneof![
        authorities().prop_map(HostRewrite::Literal),
        "x-[a-z]{1,5}".prop_map(|name| HostRewrite::Header(name.parse().unwrap())),
        substitutions().prop_map(HostRewrite::PathRegex),
        Just(HostRewrite::Endpoint),
    ];
    (prop::option::of(host), any::<bool>(), prop::option::of(path_rewrites())).prop_map(|(host, forwarded, path)| {
        let any = host.is_some() || path.is_some();
        any.then(|| {
            Box::new(Rewrite {
                append_forwarded_host: forwarded && host.is_some(),
                host,
                path,
            })
        })
    })
}

fn hash_policies() -> impl Strategy<Value = HashPolicy> {
    let header = (
        "x-[a-z]{1,8}|:(method|path|scheme|authority)",
        prop::option::of(substitutions()),
    );
    let header = header.prop_map(|(name, rewrite)| HashBy::Header {
        subject: Subject::parse(&name).unwrap(),
        rewrite,
    });
    let attribute = ("[A-Za-z]{1,6}", "[a-z]{0,4}").prop_map(|(name, value)| (name.into(), value.into()));
    let cookie = (
        "[a-z]{1,6}",
        prop::option::of(0u64..100_000),
        "(/[a-z]{0,4})?",
        prop::collection::vec(attribute, 0..3),
    );
    let cookie = cookie.prop_map(|(name, ttl, path, attributes)| {
        HashBy::Cookie(Box::new(HashCookie {
            name: name.into(),
            ttl: ttl.map(Duration::from_secs),
            path: path.into(),
            attributes: attributes.into(),
        }))
    });
    let by = prop_oneof![
        header,
        cookie,
        Just(HashBy::SourceIp),
        "[a-z]{1,5}".prop_map(|name| HashBy::Query(name.into())),
        Just(HashBy::Channel),
    ];
    (by, any::<bool>()).prop_map(|(by, terminal)| HashPolicy { by, terminal })
}

pub(in crate::decode::tests) fn actions() -> impl Strategy<Value = Action> {
    let share = (
        "[a-z|]{1,9}",
        1u32..1000,
        header_rules(),
        prop::option::of(authorities()),
        overrides(),
    );
    let share = share.prop_map(|(name, weight, headers, host, filter_overrides)| WeightedCluster {
        headers,
        host,
        filter_overrides,
        ..WeightedCluster::new(name.as_str(), weight)
    });
    let split = prop::collection::vec(share, 1..4).prop_map(|shares| Split::of(shares).unwrap());
    let mirror = ("[a-z|]{1,9}", prop::option::of(fractions()), any::<bool>());
    let mirror = mirror.prop_map(|(cluster, fraction, shadow_suffix)| Mirror {
        cluster: cluster.as_str().into(),
        fraction,
        shadow_suffix,
    });
    let hash = prop::collection::vec(hash_policies(), 0..3);
    let forward = (split, rewrites(), prop::collection::vec(mirror, 0..3), hash);
    let forward = forward.prop_map(|(split, rewrite, mirrors, hash)| {
        Action::Forward(Forward {
            split,
            rewrite,
            mirrors,
            hash: hash.into(),
        })
    });
    let path = prop_oneof![
        "/[a-z?]{0,5}".prop_map(|path| RedirectPath::Whole(path.into())),
        path_rewrites().prop_map(RedirectPath::Rewritten)
    ];
    let optional = |pattern: &'static str| prop::option::of(pattern.prop_map(Box::from));
    let status = prop::sample::select(vec![301, 302, 303, 307, 308]);
    let place = (
        optional("https?"),
        optional("[a-z.]{1,9}"),
        prop::option::of(1u16..),
        prop::option::of(path),
    );
    let redirect = (status, place, any::<bool>());
    let redirect = redirect.prop_map(|(status, (scheme, host, port, path), strip_query)| {
        let status = http::StatusCode::from_u16(status).unwrap();
        Action::Redirect(Box::new(Redirect {
            status,
            scheme,
            host,
            port,
            path,
            strip_query,
        }))
    });
    // Once in a while more than a configuration may hold without saying so.
    let body = prop_oneof![prop::collection::vec(any::<u8>(), 0..9), Just(vec![7; 5_000])];
    let response = (200u16..600, body).prop_map(|(status, body)| {
        let status = http::StatusCode::from_u16(status).unwrap();
        Action::Respond(DirectResponse {
            status,
            body: body.into(),
        })
    });
    let unserved = Just(Action::Unserved("a non-forwarding action".into()));
    prop_oneof![4 => forward, 1 => redirect, 1 => response, 1 => unserved]
}
