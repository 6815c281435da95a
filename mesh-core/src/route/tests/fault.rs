//! Faults: chances, limits, what requests ask for, and whose word counts (gRFC A33, Envoy's fault filter).

use std::time::Duration;

use http::StatusCode;

use super::*;
use crate::config::{
    Abort, CallFilter, Delay, Domain, Fault, FaultAbort, FaultDelay, FilterKind, FilterOverride, HeaderMatch,
    HeaderTest, Override, RouteTree, VirtualHost, WeightedCluster,
};

const SECOND: Duration = Duration::from_secs(1);

fn delay(percent: u32, delay: Delay) -> Option<FaultDelay> {
    Some(FaultDelay {
        fraction: Fraction::percent(percent),
        delay,
    })
}

fn abort(percent: u32, abort: Abort) -> Option<FaultAbort> {
    Some(FaultAbort {
        fraction: Fraction::percent(percent),
        abort,
        body: "".into(),
    })
}

fn one(fault: Fault, pairs: &[(&str, &str)]) -> Injection {
    inject(
        &[Arc::new(fault)],
        &head(&request("/", pairs)),
        0,
        &mut Entropy::seeded(1).draw(),
    )
}

#[test]
fn each_part_has_its_own_chance() {
    let fault = Arc::new(Fault {
        delay: delay(50, Delay::Fixed(SECOND)),
        abort: abort(50, Abort::Grpc(14)),
        ..Fault::default()
    });
    let entropy = Entropy::seeded(33);
    let request = request("/", &[]);
    let mut seen = [0; 4];
    for _ in 0..4_000 {
        let injection = inject(&[Arc::clone(&fault)], &head(&request), 0, &mut entropy.draw());
        seen[usize::from(!injection.delay.is_zero()) + 2 * usize::from(injection.abort.is_some())] += 1;
    }
    // A quarter each: 1,000, sd 27; five standard deviations.
    assert!(seen.iter().all(|count| (865..=1_135).contains(count)), "{seen:?}");
}

#[test]
fn what_a_request_asks_for() {
    let both = || Fault {
        delay: delay(100, Delay::Header),
        abort: abort(100, Abort::Header),
        ..Fault::default()
    };
    type Case<'a> = (&'a [(&'a str, &'a str)], Duration, Option<Aborted>);
    let cases: [Case<'_>; 9] = [
        (&[], Duration::ZERO, None),
        (&[("x-envoy-fault-delay-request", "1000")], SECOND, None),
        (&[("x-envoy-fault-delay-request", "soon")], Duration::ZERO, None),
        (
            &[
                ("x-envoy-fault-delay-request", "1000"),
                ("x-envoy-fault-delay-request-percentage", "0"),
            ],
            Duration::ZERO,
            None,
        ),
        (
            &[("x-envoy-fault-abort-request", "418")],
            Duration::ZERO,
            Some(Aborted::with_http(StatusCode::IM_A_TEAPOT)),
        ),
        (&[("x-envoy-fault-abort-request", "99")], Duration::ZERO, None),
        (
            &[("x-envoy-fault-abort-grpc-request", "5")],
            Duration::ZERO,
            Some(Aborted::with_grpc(5)),
        ),
        (
            &[
                ("x-envoy-fault-abort-request", "503"),
                ("x-envoy-fault-abort-grpc-request", "5"),
            ],
            Duration::ZERO,
            Some(Aborted::with_http(StatusCode::SERVICE_UNAVAILABLE)),
        ),
        (
            &[
                ("x-envoy-fault-abort-request", "503"),
                ("x-envoy-fault-abort-request-percentage", "0"),
            ],
            Duration::ZERO,
            None,
        ),
    ];
    for (pairs, delay, abort) in cases {
        let injection = one(both(), pairs);
        assert_eq!(
            (injection.delay, injection.abort.map(|(status, _)| status)),
            (delay, abort),
            "{pairs:?}"
        );
    }
    // A request gets no more than was configured, and nothing where nothing was.
    let none = Fault {
        delay: delay(0, Delay::Header),
        ..Fault::default()
    };
    let asks = [
        ("x-envoy-fault-delay-request", "1000"),
        ("x-envoy-fault-delay-request-percentage", "100"),
    ];
    assert!(one(none, &asks).is_nothing());
    let fixed = Fault {
        delay: delay(0, Delay::Fixed(SECOND)),
        ..Fault::default()
    };
    assert!(one(fixed, &asks).is_nothing());
}

#[test]
fn whom_a_fault_concerns() {
    let always = || Fault {
        abort: abort(100, Abort::Http(StatusCode::BAD_GATEWAY)),
        ..Fault::default()
    };
    let by_header = || Fault {
        headers: vec![HeaderMatch::new(
            HeaderName::from_static("x-chaos"),
            HeaderTest::Present,
        )],
        ..always()
    };
    let by_node = || Fault {
        downstream_nodes: vec!["n1".into()],
        ..always()
    };
    assert!(one(by_header(), &[]).is_nothing() && !one(by_header(), &[("x-chaos", "")]).is_nothing());
    assert!(one(by_node(), &[]).is_nothing());
    assert!(one(by_node(), &[("x-envoy-downstream-service-node", "n2")]).is_nothing());
    assert!(!one(by_node(), &[("x-envoy-downstream-service-node", "n1")]).is_nothing());
}

#[test]
fn no_more_are_active_than_may_be() {
    let fault = Arc::new(Fault {
        delay: delay(100, Delay::Fixed(SECOND)),
        max_active: Some(2),
        ..Fault::default()
    });
    let of = |active| {
        inject(
            &[Arc::clone(&fault)],
            &head(&request("/", &[])),
            active,
            &mut Entropy::seeded(1).draw(),
        )
    };
    assert_eq!((of(1).delay, of(1).limited), (SECOND, false));
    assert_eq!((of(2).delay, of(2).limited), (Duration::ZERO, true));
}

#[test]
fn of_several_filters_delays_add_up_until_one_ends_the_call() {
    let slow = Arc::new(Fault {
        delay: delay(100, Delay::Fixed(SECOND)),
        ..Fault::default()
    });
    let end = Arc::new(Fault {
        abort: abort(100, Abort::Grpc(8)),
        ..Fault::default()
    });
    let all = [Arc::clone(&slow), Arc::clone(&slow), end, slow];
    let injection = inject(&all, &head(&request("/", &[])), 0, &mut Entropy::seeded(1).draw());
    assert_eq!(
        (injection.delay, injection.abort.unwrap().0),
        (2 * SECOND, Aborted::with_grpc(8))
    );
}

#[test]
fn the_closest_word_counts() {
    let fault = |millis| {
        Arc::new(Fault {
            delay: delay(100, Delay::Fixed(Duration::from_millis(millis))),
            ..Fault::default()
        })
    };
    let said = |what: &Option<Override>| -> Vec<FilterOverride> {
        let said = what.iter().map(|what| FilterOverride {
            filter: "f".into(),
            what: what.clone(),
        });
        // Of a filter that there is not, nothing is heard.
        said.chain([FilterOverride {
            filter: "other".into(),
            what: Override::With(FilterKind::Fault(fault(9))),
        }])
        .collect()
    };
    let with = |millis| Some(Override::With(FilterKind::Fault(fault(millis))));
    let session = Some(Override::With(FilterKind::Session(Arc::default())));
    let (on, off) = (Some(Override::Enabled), Some(Override::Disabled));
    // Disabled in the listener; said by configuration, virtual host, route and share; the delay in milliseconds.
    let cases = [
        (false, [None, None, None, None], Some(1)),
        (true, [None, None, None, None], None),
        (true, [None, on.clone(), None, None], Some(1)),
        (true, [None, None, with(3), None], Some(3)),
        (false, [with(2), None, None, None], Some(2)),
        (false, [with(2), with(3), None, None], Some(3)),
        (false, [with(2), with(3), with(4), None], Some(4)),
        (false, [with(2), with(3), with(4), with(5)], Some(5)),
        (false, [with(2), off.clone(), None, None], None),
        (false, [off, None, None, on], Some(1)),
        // A filter does not become one of another kind.
        (false, [None, with(3), session.clone(), None], Some(3)),
        (false, [None, None, session, None], Some(1)),
    ];
    for (disabled, [tree_says, host_says, route_says, share_says], expected) in cases {
        let mut tree = RouteTree::new("t", Vec::new());
        tree.filters = vec![CallFilter {
            name: "f".into(),
            what: FilterKind::Fault(fault(1)),
            disabled,
        }];
        tree.filter_overrides = said(&tree_says);
        let mut host = VirtualHost::new("h", vec![Domain::Any], Vec::new());
        host.filter_overrides = said(&host_says);
        let mut route = Route::to(Split::all_to("c"));
        route.filter_overrides = said(&route_says);
        let mut share = WeightedCluster::new("c", 1);
        share.filter_overrides = said(&share_says);
        let expected: Vec<_> = expected.map(fault).into_iter().collect();
        assert_eq!(
            faults_of(&tree, &host, &route, &share),
            expected,
            "{tree:?} {host:?} {route:?} {share:?}"
        );
    }
}

#[test]
fn a_fault_for_one_cluster_leaves_the_others_alone() {
    let mut tree = RouteTree::new("t", Vec::new());
    let fault = Fault {
        abort: abort(100, Abort::Grpc(14)),
        upstream_cluster: Some("v2".into()),
        ..Fault::default()
    };
    tree.filters = vec![CallFilter::new("f", fault.into())];
    let host = VirtualHost::new("h", vec![Domain::Any], Vec::new());
    let route = Route::to(Split::all_to("v1"));
    let of = |name: &str| faults_of(&tree, &host, &route, &WeightedCluster::new(name, 1)).len();
    assert_eq!((of("v1"), of("v2")), (0, 1));
}

/// The table of gRFC A33, and its opposite.
#[test]
fn statuses_of_one_protocol_in_the_other() {
    for (http, grpc) in [
        (400, 13),
        (401, 16),
        (403, 7),
        (404, 12),
        (429, 14),
        (502, 14),
        (503, 14),
        (504, 14),
        (200, 2),
        (500, 2),
    ] {
        assert_eq!(
            Aborted::with_http(StatusCode::from_u16(http).unwrap()).grpc,
            grpc,
            "{http}"
        );
    }
    for (grpc, http) in [
        (0, 200),
        (1, 499),
        (4, 504),
        (5, 404),
        (7, 403),
        (12, 501),
        (14, 503),
        (16, 401),
        (99, 500),
    ] {
        assert_eq!(Aborted::with_grpc(grpc).http, http, "{grpc}");
    }
}
