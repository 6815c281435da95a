//! What is encoded is decoded to the same value.

use std::time::Duration;

use mesh_core::config::{
    Abort, Action, AppendAction, Backoff, Cluster, Delay, DirectResponse, Domain, Endpoint, ExpectedPeers, Fault,
    FaultAbort, FaultDelay, FaultFilter, FaultOverride, Forward, Fraction, HeaderEdit, HeaderEdits, HeaderFormat,
    HeaderMatch, HeaderRules, HeaderTest, Health, HostRewrite, LbPolicy, LoadReporting, Metadata, Mirror, MutualTls,
    Override, PathMatch, PathRewrite, Pattern, Per, QueryMatch, QueryTest, Redirect, RedirectPath, ReportedMetric,
    RetryOn, RetryPolicy, Rewrite, Route, RouteMatch, RouteTree, Split, StringMatch, Subject, Substitution,
    TRANSPORT_SOCKET_MATCH, TlsMatch, TlsMode, VirtualHost, WeightedCluster,
};
use proptest::prelude::*;

use super::endpoint::in_zone;
use super::*;
use crate::encode::{self, Dialect};
use crate::resource::{ClusterSpec, Discovery, Endpoints, Extension, Http, Listener, Routes};

fn text() -> impl Strategy<Value = Box<str>> {
    "[a-z/.{}*\u{e9}-]{1,12}".prop_map(Box::from)
}

fn string_tests() -> impl Strategy<Value = StringMatch> {
    prop_oneof![
        text().prop_map(StringMatch::Exact),
        text().prop_map(StringMatch::Prefix),
        text().prop_map(StringMatch::Suffix),
        text().prop_map(StringMatch::Contains),
        "[a-z]{1,4}[+*?]".prop_map(|source| StringMatch::Regex(Pattern::new(&source).unwrap())),
    ]
}

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

fn route_matches() -> impl Strategy<Value = RouteMatch> {
    let path = prop_oneof![
        text().prop_map(PathMatch::Exact),
        "[a-z/]{0,9}".prop_map(|prefix| PathMatch::Prefix(prefix.into())),
        "/[a-z/]{0,6}[a-z]".prop_map(|prefix| PathMatch::Segments(prefix.into())),
        "/[a-z]{1,4}[+*?]".prop_map(|source| PathMatch::Regex(Pattern::new(&source).unwrap())),
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

fn header_rules() -> impl Strategy<Value = Option<Arc<HeaderRules>>> {
    (header_edits(), header_edits()).prop_map(|(request, response)| HeaderRules { request, response }.shared())
}

fn faults() -> impl Strategy<Value = Fault> {
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

/// In the order of their names, each once.
fn overrides() -> impl Strategy<Value = Vec<FaultOverride>> {
    let what = prop_oneof![
        Just(Override::Disabled),
        Just(Override::Enabled),
        faults().prop_map(|fault| Override::With(Arc::new(fault)))
    ];
    prop::collection::btree_map("[a-z.]{1,5}", what, 0..2).prop_map(|said| {
        let one = |(filter, what): (String, Override)| FaultOverride {
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

fn actions() -> impl Strategy<Value = Action> {
    let share = (
        "[a-z|]{1,9}",
        1u32..1000,
        header_rules(),
        prop::option::of(authorities()),
        overrides(),
    );
    let share = share.prop_map(|(name, weight, headers, host, faults)| WeightedCluster {
        headers,
        host,
        faults,
        ..WeightedCluster::new(name.as_str(), weight)
    });
    let split = prop::collection::vec(share, 1..4).prop_map(|shares| Split::of(shares).unwrap());
    let mirror = ("[a-z|]{1,9}", prop::option::of(fractions()), any::<bool>());
    let mirror = mirror.prop_map(|(cluster, fraction, shadow_suffix)| Mirror {
        cluster: cluster.as_str().into(),
        fraction,
        shadow_suffix,
    });
    let forward = (split, rewrites(), prop::collection::vec(mirror, 0..3));
    let forward = forward.prop_map(|(split, rewrite, mirrors)| {
        Action::Forward(Forward {
            split,
            rewrite,
            mirrors,
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

fn retries() -> impl Strategy<Value = RetryPolicy> {
    let on = prop::sample::subsequence(
        vec!["connect-failure", "reset", "5xx", "unavailable", "gateway-error"],
        0..5,
    );
    let timeout = prop::option::of(1u64..10_000).prop_map(|millis| millis.map(Duration::from_millis));
    let some = (1u32..9, on, timeout, 1u64..500, 1u64..9, any::<bool>()).prop_map(
        |(retries, on, per_try_timeout, base, factor, explicit)| RetryPolicy {
            retries,
            on: RetryOn::parse(&on.join(",")),
            per_try_timeout,
            backoff: Backoff::new(Duration::from_millis(base), Some(Duration::from_millis(base * factor))).unwrap(),
            explicit,
        },
    );
    prop_oneof![Just(RetryPolicy::never()), some]
}

fn trees() -> impl Strategy<Value = RouteTree> {
    let timeout = prop::option::of(1u64..u64::from(u32::MAX)).prop_map(|nanos| nanos.map(Duration::from_nanos));
    let policies = (timeout, retries(), header_rules(), overrides());
    let route = ("[a-z]{0,5}", route_matches(), actions(), policies).prop_map(
        |(name, matches, action, (timeout, retry, headers, faults))| {
            let mut route = Route {
                name: name.into(),
                matches,
                headers,
                faults,
                ..Route::doing(action)
            };
            if route.forward().is_some() {
                (route.timeout, route.retry) = (timeout, retry);
            }
            Arc::new(route)
        },
    );
    let domain = prop_oneof!["[a-z.]{1,9}", r"\*[a-z.]{1,9}", r"[a-z.]{1,9}\*", Just("*".to_owned())];
    let domain = domain.prop_map(|text| Domain::parse(&text).unwrap());
    let lists = (prop::collection::vec(domain, 1..3), prop::collection::vec(route, 0..4));
    let host = ("[a-z]{1,5}", lists, header_rules(), overrides());
    let host = host.prop_map(|(name, (domains, routes), headers, faults)| VirtualHost {
        headers,
        faults,
        ..VirtualHost::new(name, domains, routes)
    });
    let hosts = prop::collection::vec(host, 0..3);
    let flags = (any::<bool>(), any::<bool>());
    ("[a-z]{1,9}", hosts, flags, header_rules(), overrides()).prop_map(
        |(name, virtual_hosts, (ignore_port, closest_rules_last), headers, faults)| RouteTree {
            ignore_port,
            closest_rules_last,
            headers,
            faults,
            ..RouteTree::new(name, virtual_hosts)
        },
    )
}

/// The same test of another text, so that no two of a list are equal: equal ones become one.
fn unlike(text: Box<str>, test: &StringMatch) -> StringMatch {
    match test {
        StringMatch::Exact(_) => StringMatch::Exact(text),
        StringMatch::Prefix(_) => StringMatch::Prefix(text),
        StringMatch::Suffix(_) => StringMatch::Suffix(text),
        StringMatch::Contains(_) | StringMatch::Regex(_) => StringMatch::Contains(text),
    }
}

fn clusters() -> impl Strategy<Value = Cluster> {
    let lb = prop_oneof![
        Just(LbPolicy::RoundRobin),
        Just(LbPolicy::Random),
        (2u32..=10).prop_map(|choices| LbPolicy::LeastRequest { choices }),
    ];
    let expected = prop::collection::btree_map(text(), string_tests(), 0..3);
    let sni = prop::option::of("[a-z_.]{1,20}").prop_map(|sni| sni.map(Box::from));
    let mutual = (expected, sni).prop_map(|(expected, sni)| {
        TlsMode::Mutual(MutualTls {
            expected: ExpectedPeers::new(expected.into_iter().map(|(text, test)| unlike(text, &test)).collect()),
            sni,
        })
    });
    let tls = prop_oneof![Just(TlsMode::Plaintext), mutual].boxed();
    let one = ("[a-z-]{0,9}", metadata(&[TRANSPORT_SOCKET_MATCH]), tls.clone());
    let one = one.prop_map(|(name, when, mode)| TlsMatch {
        name: name.into(),
        when,
        mode,
    });
    let matches = prop::collection::vec(one, 0..3);
    let metric = prop_oneof![
        Just(ReportedMetric::CpuUtilization),
        Just(ReportedMetric::MemUtilization),
        Just(ReportedMetric::ApplicationUtilization),
        Just(ReportedMetric::AllNamed),
        "[a-z.]{1,9}".prop_map(|key| ReportedMetric::Named(key.into())),
    ];
    let metrics = prop::option::of(prop::collection::vec(metric, 0..4));
    ("[a-z|.]{1,20}", lb, tls, matches, 1u64..100_000, any::<u32>(), metrics).prop_map(
        |(name, lb, tls, matches, millis, max_requests, metrics)| Cluster {
            lb,
            tls_matches: matches.into(),
            connect_timeout: Duration::from_millis(millis),
            max_requests,
            // Endpoints go by the cluster's name at our serving end.
            load_reporting: metrics.map(|metrics| LoadReporting {
                metrics: metrics.into(),
                ..LoadReporting::of(name.as_str())
            }),
            ..Cluster::new(name.as_str(), tls, Vec::new())
        },
    )
}

/// Up to four values under these filters.
fn metadata(filters: &'static [&'static str]) -> impl Strategy<Value = Metadata> {
    let value = (prop::sample::select(filters), "[a-z]{1,3}", "[a-z0-9]{0,5}");
    prop::collection::vec(value, 0..4).prop_map(|values| {
        let values = values
            .iter()
            .map(|(filter, key, value)| (*filter, key.as_str(), value.as_str()));
        Metadata::new(values).unwrap()
    })
}

/// Up to three priorities without gaps; in each, localities in order, and endpoints with addresses of their own.
fn endpoint_lists() -> impl Strategy<Value = Vec<Endpoint>> {
    let health = prop::sample::select(vec![
        Health::Healthy,
        Health::Degraded,
        Health::Draining,
        Health::Unhealthy,
    ]);
    let member = (
        1u32..1000,
        health,
        metadata(&[TRANSPORT_SOCKET_MATCH, "istio", "envoy.lb"]),
    );
    let zones = prop::collection::btree_map("[a-c]{0,2}", prop::collection::vec(member, 1..4), 1..4);
    prop::collection::vec(zones, 0..3).prop_map(|priorities| {
        let mut all = Vec::new();
        for (priority, zones) in (0..).zip(priorities) {
            for (zone, members) in zones {
                for (weight, health, metadata) in members {
                    let port = 1 + all.len() as u16;
                    all.push(Endpoint {
                        health,
                        priority,
                        metadata: Arc::new(metadata),
                        ..in_zone(&zone, port, weight)
                    });
                }
            }
        }
        all
    })
}

fn bytes_of<R: Resource>(bytes: Vec<u8>) -> R {
    let raw = Raw {
        type_url: R::KIND.type_url().into(),
        bytes,
    };
    decode::<R>(&raw, &context()).unwrap().value.unwrap()
}

proptest! {
    #[test]
    fn routes_survive_the_wire(tree in trees()) {
        prop_assert_eq!(bytes_of::<RouteTree>(encode::routes(&tree)), tree);
    }

    /// The filters of a listener travel with it, and not with its routes.
    #[test]
    fn fault_filters_survive_the_wire(
        filters in prop::collection::btree_map("[a-z.]{1,5}", (faults(), any::<bool>()), 0..3)
    ) {
        let filter = |(name, (fault, disabled)): (String, (Fault, bool))| FaultFilter {
            name: name.into(),
            fault: Arc::new(fault),
            disabled,
        };
        let faults: Arc<[FaultFilter]> = filters.into_iter().map(filter).collect();
        let read = bytes_of::<Listener>(encode::listener("t", "r", &faults));
        let http = Http { routes: Routes::Named("r".into()), extensions: Arc::default(), faults };
        prop_assert_eq!(read, Listener::Api(http));
    }

    #[test]
    fn clusters_survive_the_wire(cluster in clusters()) {
        let read = bytes_of::<ClusterSpec>(encode::cluster(&cluster, Dialect::Mesh));
        prop_assert_eq!(read.discovery, Discovery::Eds(cluster.name.as_str().into()));
        prop_assert_eq!(&read.cluster, &cluster);
        // For others only the balancing differs, that nobody is said by a name, that they know one kind of security and get
        // the better one, and that they are not asked for load reports.
        let mut told = bytes_of::<ClusterSpec>(encode::cluster(&cluster, Dialect::Grpc)).cluster;
        let secure = cluster.tls_matches.iter().map(|one| &one.mode).find(|mode| **mode != TlsMode::Plaintext);
        let tls = match (&cluster.tls, secure) {
            (TlsMode::Plaintext, Some(secure)) => secure.clone(),
            (own, _) => own.clone(),
        };
        if let (TlsMode::Mutual(ours), TlsMode::Mutual(theirs)) = (&tls, &mut told.tls)
            && ours.expected.tests().is_empty()
        {
            prop_assert_eq!(theirs.expected.tests().len(), 1);
            theirs.expected = ExpectedPeers::default();
        }
        let expected = Cluster { lb: LbPolicy::RoundRobin, tls, tls_matches: Arc::default(), load_reporting: None, ..cluster };
        prop_assert_eq!(told, expected);
    }

    #[test]
    fn endpoints_survive_the_wire(list in endpoint_lists()) {
        let read = bytes_of::<Endpoints>(encode::endpoints(&"c".into(), &list));
        prop_assert_eq!(&*read.endpoints, &*list);
        prop_assert!(read.drops.is_empty());
    }

    #[test]
    fn bytes_from_anywhere_are_refused_or_taken_but_never_fatal(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let raw = |url: &str| Raw { type_url: url.into(), bytes: bytes.clone() };
        drop(decode::<Listener>(&raw(Listener::KIND.type_url()), &context()));
        drop(decode::<RouteTree>(&raw(RouteTree::KIND.type_url()), &context()));
        drop(decode::<ClusterSpec>(&raw(ClusterSpec::KIND.type_url()), &context()));
        drop(decode::<Endpoints>(&raw(Endpoints::KIND.type_url()), &context()));
        drop(decode::<Extension>(&raw(Extension::KIND.type_url()), &envoy()));
        drop(decode::<Listener>(&raw(Listener::KIND.type_url()), &envoy()));
    }
}
