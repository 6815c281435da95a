//! Rate limits of servers: which survive the wire, which are refused and by which field, and where each stands among the filters.

use std::time::Duration;

use http::{HeaderName, StatusCode};
use mesh_core::config::{
    AppendAction, DescribeBy, Describing, DescriptorEntry, Domain, Fraction, GlobalFilter, GlobalRateLimit, HeaderEdit,
    HeaderEdits, HeaderFormat, HeaderMatch, HeaderTest, Inbound, InboundSecurity, Instead, LimitFilter, LimitHost,
    LimitRoute, LocalDescriptor, LocalRateLimit, PathMatch, Per, RateLimits, RbacFilter, RouteMatch, Subject,
    TokenBucket, Traffic, VirtualHostLimits,
};
use mesh_core::config::{Authorization, ChainMatch, FilterChain, FilterRules};
use proptest::prelude::*;

use super::*;
use crate::encode;
use crate::proto::hcm::{HttpConnectionManager, http_connection_manager::RouteSpecifier, http_filter};
use crate::proto::listener::{Listener as ListenerProto, filter};
use crate::proto::local_limit::LocalRateLimit as Proto;
use crate::proto::pack;
use crate::proto::protobuf::{Duration as DurationProto, UInt32Value};
use crate::proto::rate_limit::LocalClusterRateLimit;
use crate::proto::route::rate_limit::action::{ActionSpecifier, DestinationCluster, SourceCluster};
use crate::proto::route::{RateLimit, Route, RouteAction, route, route_action::ClusterSpecifier};
use crate::resource::Listener;

const FILTER: &str = "envoy.filters.http.local_ratelimit";

fn buckets() -> impl Strategy<Value = TokenBucket> {
    (any::<u32>(), 1..=u32::MAX, 50u64..1_000_000)
        .prop_map(|(max, per_fill, interval)| TokenBucket::new(max, per_fill, Duration::from_millis(interval)).unwrap())
}

fn entries() -> impl Strategy<Value = DescriptorEntry> {
    ("[a-z_]{1,8}", "[a-z./]{1,8}").prop_map(|(key, value)| DescriptorEntry::new(key, value))
}

fn parts() -> impl Strategy<Value = DescribeBy> {
    let header =
        ("x-[a-z]{1,8}", "[a-z]{1,8}", any::<bool>()).prop_map(|(name, key, skip_if_absent)| DescribeBy::Header {
            subject: Subject::parse(&name).unwrap(),
            key: key.into(),
            skip_if_absent,
        });
    let query = ("[a-z]{1,8}", "[a-z]{1,8}", any::<bool>()).prop_map(|(name, key, skip_if_absent)| DescribeBy::Query {
        name: name.into(),
        key: key.into(),
        skip_if_absent,
    });
    let matching = (entries(), "x-[a-z]{1,8}", any::<bool>()).prop_map(|(entry, name, expect)| {
        let header = HeaderMatch::new(Subject::parse(&name).unwrap(), HeaderTest::Present);
        DescribeBy::HeaderValueMatch {
            entry,
            headers: vec![header],
            expect,
        }
    });
    prop_oneof![
        entries().prop_map(DescribeBy::Generic),
        header,
        query,
        Just(DescribeBy::RemoteAddress),
        (0u8..=32, 0u8..=128).prop_map(|(v4, v6)| DescribeBy::MaskedRemoteAddress { v4, v6 }),
        matching,
    ]
}

fn describing() -> impl Strategy<Value = Vec<Describing>> {
    let one = (0u32..=10, prop::collection::vec(parts(), 1..4)).prop_map(|(stage, by)| Describing { stage, by });
    prop::collection::vec(one, 0..3)
}

fn fractions() -> impl Strategy<Value = Fraction> {
    let per = prop::sample::select(vec![Per::Hundred, Per::TenThousand, Per::Million]);
    (0u32..=100, per).prop_map(|(of, per)| Fraction { of, per })
}

fn edits() -> impl Strategy<Value = HeaderEdits> {
    let edit = ("x-[a-z]{1,8}", "[a-z ]{1,8}").prop_map(|(name, value)| {
        let value = HeaderFormat::parse(&value).unwrap();
        HeaderEdit::new(
            HeaderName::try_from(name).unwrap(),
            value,
            AppendAction::OverwriteIfExistsOrAdd,
        )
        .unwrap()
    });
    prop::collection::vec(edit, 0..3).prop_map(|add| HeaderEdits {
        remove: Vec::new(),
        add,
    })
}

fn limits() -> impl Strategy<Value = LocalRateLimit> {
    let descriptor = (prop::collection::vec(entries(), 1..3), buckets(), any::<bool>());
    let descriptor = descriptor.prop_map(|(entries, bucket, shadow)| LocalDescriptor {
        entries,
        bucket,
        shadow,
    });
    let descriptors = prop::collection::vec(descriptor, 0..3).prop_map(|mut all| {
        all.dedup_by(|one, other| one.entries == other.entries);
        all.truncate(2);
        all
    });
    let host = prop::sample::select(vec![
        VirtualHostLimits::Override,
        VirtualHostLimits::Include,
        VirtualHostLimits::Ignore,
    ]);
    (
        (buckets(), descriptors, fractions(), fractions()),
        (400u16..600, edits(), edits(), 0u32..=10),
        (
            any::<[bool; 4]>(),
            host,
            describing(),
            1u32..=LocalRateLimit::MAX_DYNAMIC,
        ),
    )
        .prop_map(|(counts, answer, how)| {
            let (bucket, descriptors, enabled, enforced) = counts;
            let (status, response_headers, request_headers, stage) = answer;
            let ([exhausted, per_connection, quota_headers, always], host, describing, max_dynamic) = how;
            LocalRateLimit {
                bucket: Some(bucket),
                descriptors,
                enabled,
                enforced,
                status: StatusCode::from_u16(status).unwrap(),
                resource_exhausted: exhausted,
                response_headers,
                request_headers,
                stage,
                per_connection,
                quota_headers,
                host,
                always_consume_default: always,
                describing,
                max_dynamic,
            }
        })
}

fn globals() -> impl Strategy<Value = GlobalFilter> {
    let limit = (
        ("[a-z]{1,8}", "[a-z./:|]{1,12}", 0u32..=10, describing(), 0u64..100_000),
        (any::<[bool; 4]>(), 400u16..600, 400u16..600, edits()),
    );
    let limit = limit.prop_map(
        |((domain, service, stage, describing, timeout), (how, status, on_error, response_headers))| {
            let [deny_on_failure, resource_exhausted, quota_headers, tells] = how;
            GlobalRateLimit {
                stage,
                describing,
                timeout: Duration::from_millis(timeout),
                deny_on_failure,
                status: StatusCode::from_u16(status).unwrap(),
                status_on_error: StatusCode::from_u16(on_error).unwrap(),
                resource_exhausted,
                quota_headers,
                tells,
                response_headers,
                ..GlobalRateLimit::new(domain, service)
            }
        },
    );
    let name = prop::sample::select(vec!["envoy.filters.http.ratelimit", "global"]);
    (prop::option::of(limit), name, any::<bool>()).prop_map(|(limit, name, after_guards)| GlobalFilter {
        name: name.into(),
        limit: limit.map(Arc::new),
        after_guards,
    })
}

/// What a chain of HTTP may say of how many requests there may be; `hosts`: also what virtual hosts may.
pub(super) fn of_requests() -> impl Strategy<Value = RateLimits> {
    let name = prop::sample::select(vec![FILTER, "second"]);
    name.prop_flat_map(named)
}

/// The same, of a filter of this name.
fn named(name: &'static str) -> impl Strategy<Value = RateLimits> {
    let shared = |limit: LocalRateLimit| Some(Arc::new(limit));
    let filter = (prop::option::of(limits()), any::<bool>());
    let filter = filter.prop_map(move |(limit, after_guards)| LimitFilter {
        name: name.into(),
        limit: limit.and_then(shared),
        after_guards,
    });
    let instead = move || {
        prop::option::of(limits()).prop_map(move |limit| Instead {
            filter: name.into(),
            limit: limit.and_then(shared),
        })
    };
    let route = ("/[a-z]{0,4}", instead()).prop_map(|(prefix, instead)| LimitRoute {
        matches: RouteMatch {
            path: PathMatch::Prefix(prefix.into()),
            ..RouteMatch::any()
        },
        cluster: None,
        describing: Vec::new(),
        includes_host: false,
        instead: vec![instead],
    });
    let host = (
        "[a-z]{1,6}",
        describing(),
        instead(),
        prop::collection::vec(route, 0..3),
    );
    let host = host.prop_map(|(domain, describing, instead, routes)| LimitHost {
        domains: vec![Domain::parse(&format!("{domain}.test")).unwrap()],
        describing,
        instead: vec![instead],
        routes,
    });
    let hosts = prop::collection::vec(host, 0..3).prop_map(|mut hosts| {
        hosts.sort_by(|one, other| one.domains[0].to_string().cmp(&other.domains[0].to_string()));
        hosts.dedup_by(|one, other| one.domains == other.domains);
        hosts
    });
    let some = (filter, hosts, prop::collection::vec(globals(), 0..2)).prop_map(|(filter, hosts, global)| {
        let limits = RateLimits::new(vec![filter], hosts).unwrap();
        limits.with_global(global).unwrap()
    });
    prop_oneof![2 => Just(RateLimits::default()), 1 => some]
}

/// What a sidecar's routes say besides, which a server of gRPC, who forwards nothing, is not told: what they are described by, by their
/// cluster among others, and whether their host's count too.
pub(super) fn of_sidecars() -> impl Strategy<Value = RateLimits> {
    let route = (
        "/[a-z]{0,4}",
        describing(),
        any::<bool>(),
        prop::option::of("[a-z|]{1,9}"),
        limits(),
    );
    let route = route.prop_map(|(prefix, mut describing, includes_host, cluster, instead)| {
        if cluster.is_some() {
            describing.push(Describing {
                stage: 0,
                by: vec![DescribeBy::DestinationCluster],
            });
        }
        LimitRoute {
            matches: RouteMatch {
                path: PathMatch::Prefix(prefix.into()),
                ..RouteMatch::any()
            },
            cluster: cluster.map(Into::into),
            describing,
            includes_host,
            instead: vec![Instead {
                filter: FILTER.into(),
                limit: Some(Arc::new(instead)),
            }],
        }
    });
    (limits(), describing(), prop::collection::vec(route, 1..3)).prop_map(|(limit, describing, routes)| {
        let filter = LimitFilter {
            name: FILTER.into(),
            limit: Some(Arc::new(limit)),
            after_guards: false,
        };
        let host = LimitHost {
            domains: vec![Domain::parse("a.test").unwrap()],
            describing,
            instead: Vec::new(),
            routes,
        };
        RateLimits::new(vec![filter], vec![host]).unwrap()
    })
}

proptest! {
    #[test]
    fn what_a_sidecars_routes_say_of_limits_survives_the_wire(limits in of_sidecars()) {
        let read = read_limits(&listener(limits.clone(), Authorization::default()));
        prop_assert_eq!(&*read, &limits);
    }
}

fn bucket() -> TokenBucket {
    TokenBucket::new(10, 5, Duration::from_secs(1)).unwrap()
}

/// A server with a limit, as its control plane writes it.
fn listener(limits: RateLimits, authorization: Authorization) -> ListenerProto {
    let inbound = Inbound {
        name: "s".into(),
        address: ([127, 0, 0, 1], 80).into(),
        chains: Vec::new(),
        default: Some(FilterChain {
            name: Box::default(),
            matches: ChainMatch::default(),
            security: InboundSecurity::Plaintext,
            identity: mesh_core::config::ChainIdentity::default(),
            traffic: Traffic::Http,
            authorization: Arc::new(authorization),
            limits: Arc::new(limits),
            telemetry: Default::default(),
        }),
    };
    ListenerProto::decode(&*encode::inbound(&inbound, Profile::Envoy)).unwrap()
}

fn manager(proto: &mut ListenerProto, change: impl FnOnce(&mut HttpConnectionManager)) {
    let filters = &mut proto.default_filter_chain.as_mut().unwrap().filters;
    let Some(filter::ConfigType::TypedConfig(any)) = &mut filters[0].config_type else {
        panic!("typed")
    };
    let mut manager = HttpConnectionManager::decode(&*any.value).unwrap();
    change(&mut manager);
    *any = pack(&manager);
}

fn limit(proto: &mut ListenerProto, change: impl FnOnce(&mut Proto)) {
    manager(proto, |manager| {
        let Some(http_filter::ConfigType::TypedConfig(any)) = &mut manager.http_filters[0].config_type else {
            panic!("typed")
        };
        let mut limit = Proto::decode(&*any.value).unwrap();
        change(&mut limit);
        *any = pack(&limit);
    });
}

fn read_limits(proto: &ListenerProto) -> Arc<RateLimits> {
    let Listener::Inbound(inbound) = decode::<Listener>(&raw(proto), &envoy()).unwrap().value.unwrap() else {
        panic!("inbound")
    };
    Arc::clone(&inbound.default.as_ref().unwrap().limits)
}

#[test]
fn what_is_not_understood_is_refused_by_its_field() {
    let good = || {
        listener(
            RateLimits::of(LocalRateLimit::new(bucket())).unwrap(),
            Authorization::default(),
        )
    };
    read_limits(&good());
    let action = |specifier| RateLimit {
        actions: vec![crate::proto::route::rate_limit::Action {
            action_specifier: specifier,
        }],
        ..RateLimit::default()
    };
    type Spoil = Box<dyn FnOnce(&mut Proto)>;
    let short = DurationProto {
        seconds: 0,
        nanos: 49_000_000,
    };
    let cases: Vec<(&str, Spoil)> = vec![
        (
            "token_bucket",
            Box::new(move |limit| limit.token_bucket.as_mut().unwrap().fill_interval = Some(short)),
        ),
        (
            "token_bucket.fill_interval",
            Box::new(|limit| limit.token_bucket.as_mut().unwrap().fill_interval = None),
        ),
        (
            "token_bucket",
            Box::new(|limit| limit.token_bucket.as_mut().unwrap().tokens_per_fill = Some(UInt32Value { value: 0 })),
        ),
        ("stage", Box::new(|limit| limit.stage = 11)),
        (
            "local_cluster_rate_limit",
            Box::new(|limit| limit.local_cluster_rate_limit = Some(LocalClusterRateLimit {})),
        ),
        (
            "max_dynamic_descriptors",
            Box::new(|limit| limit.max_dynamic_descriptors = Some(UInt32Value { value: 0 })),
        ),
        (
            "filter_enabled.default_value",
            Box::new(|limit| limit.filter_enabled.as_mut().unwrap().default_value = None),
        ),
        (
            "enable_x_ratelimit_headers",
            Box::new(|limit| limit.enable_x_ratelimit_headers = 7),
        ),
        (
            "rate_limits[0].actions",
            Box::new(|limit| limit.rate_limits = vec![RateLimit::default()]),
        ),
        (
            "rate_limits[0].actions[0].source_cluster",
            Box::new(move |limit| {
                limit.rate_limits = vec![action(Some(ActionSpecifier::SourceCluster(SourceCluster {})))];
            }),
        ),
    ];
    for (field, spoil) in cases {
        let mut proto = good();
        limit(&mut proto, spoil);
        let rejected = decode::<Listener>(&raw(&proto), &envoy()).unwrap().value.unwrap_err();
        let place = "default_filter_chain.filters[0].typed_config.http_filters[0].typed_config";
        assert_eq!(rejected.field(), format!("{place}.{field}"), "{rejected}");
    }
}

/// Envoy's defaults: nobody is concerned where nothing is said of that, and what is no error is 429.
#[test]
fn what_is_not_said_is_what_envoy_takes_for_granted() {
    let mut proto = listener(
        RateLimits::of(LocalRateLimit::new(bucket())).unwrap(),
        Authorization::default(),
    );
    limit(&mut proto, |limit| {
        *limit = Proto {
            status: Some(crate::proto::percent::HttpStatus { code: 200 }),
            token_bucket: limit.token_bucket,
            ..Proto::default()
        };
    });
    let read = read_limits(&proto);
    let expected = LocalRateLimit {
        enabled: Fraction::percent(0),
        enforced: Fraction::percent(0),
        ..LocalRateLimit::new(bucket())
    };
    assert_eq!(read.filters()[0].limit.as_deref(), Some(&expected));
}

#[test]
fn where_a_limit_stands_among_the_guards_is_kept() {
    let guard = RbacFilter {
        name: "rbac".into(),
        rules: FilterRules::default(),
    };
    let filter = |name: &str, after_guards| LimitFilter {
        name: name.into(),
        limit: Some(Arc::new(LocalRateLimit::new(bucket()))),
        after_guards,
    };
    let limits = RateLimits::new(vec![filter("before", false), filter("after", true)], Vec::new()).unwrap();
    let authorization = Authorization::new(Vec::new(), vec![guard], Vec::new()).unwrap();
    let proto = listener(limits.clone(), authorization);
    assert_eq!(*read_limits(&proto), limits);
}

/// What a sidecar's routes say: by what requests are described, to which cluster they go, and that one has no limit.
#[test]
fn routes_describe_requests() {
    let mut proto = listener(
        RateLimits::of(LocalRateLimit::new(bucket())).unwrap(),
        Authorization::default(),
    );
    let by_cluster = RateLimit {
        actions: vec![crate::proto::route::rate_limit::Action {
            action_specifier: Some(ActionSpecifier::DestinationCluster(DestinationCluster {})),
        }],
        ..RateLimit::default()
    };
    manager(&mut proto, |manager| {
        let Some(RouteSpecifier::RouteConfig(config)) = &mut manager.route_specifier else {
            panic!("inline")
        };
        let [host] = &mut config.virtual_hosts[..] else {
            panic!("one")
        };
        host.routes.insert(
            0,
            Route {
                r#match: Some(crate::proto::route::RouteMatch {
                    path_specifier: Some(crate::proto::route::route_match::PathSpecifier::Prefix("/a".into())),
                    ..Default::default()
                }),
                action: Some(route::Action::Route(RouteAction {
                    cluster_specifier: Some(ClusterSpecifier::Cluster("inbound|80||".into())),
                    rate_limits: vec![by_cluster],
                    ..RouteAction::default()
                })),
                ..Route::default()
            },
        );
    });
    let read = read_limits(&proto);
    let [host] = read.hosts() else { panic!("{read:?}") };
    let [route] = &host.routes[..] else { panic!("{host:?}") };
    assert_eq!(route.cluster.as_deref(), Some("inbound|80||"));
    assert_eq!(route.describing[0].by, [DescribeBy::DestinationCluster]);
}
