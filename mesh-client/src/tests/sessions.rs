//! Calls of a session stay with one host by what their caller brings, and the caller is told of it (gRFCs A55 and A60; Envoy's
//! `stateful_session`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{COOKIE, SET_COOKIE};
use http::{Request, Response};
use http_body_util::Full;
use mesh_core::config::{
    CallFilter, Cluster, CommonLb, Domain, Endpoint, FilterOverride, Health, HealthSet, LbPolicy, Override, RetryOn,
    RetryPolicy, Route, RouteTree, Session, SessionCookie, SessionState, Snapshot, Split, TlsMode, Version,
    VirtualHost,
};

use super::net::{Net, Plain, address, call, channel, grpc, post, say_grpc, say_status, text};
use crate::body::ResponseBody;

const FILTER: &str = "envoy.filters.http.stateful_session";

fn by_cookie() -> Session {
    Session {
        state: Some(SessionState::Cookie(SessionCookie {
            name: "who".into(),
            ttl: Duration::from_secs(60),
            path: "/".into(),
            attributes: [].into(),
        })),
        strict: false,
    }
}

fn by_header() -> Session {
    Session {
        state: Some(SessionState::Header(http::HeaderName::from_static("x-host"))),
        strict: false,
    }
}

fn endpoints(healths: &[(u8, Health)]) -> Vec<Endpoint> {
    let endpoint = |(n, health): &(u8, Health)| Endpoint {
        health: *health,
        ..Endpoint::new(address(*n))
    };
    healths.iter().map(endpoint).collect()
}

fn well(numbers: &[u8]) -> Vec<Endpoint> {
    let all: Vec<_> = numbers.iter().map(|n| (*n, Health::Healthy)).collect();
    endpoints(&all)
}

/// These clusters, between which calls are split by weight, under a listener that has this filter.
fn snapshot(
    session: Session,
    clusters: &[(&str, u32, Vec<Endpoint>)],
    change: impl Fn(&mut Route, &mut Cluster),
) -> Snapshot {
    let shares = clusters.iter().map(|(name, weight, _)| ((*name).into(), *weight));
    let mut route = Route::to(Split::weighted(shares).unwrap());
    route.retry = RetryPolicy::never();
    let clusters: Vec<Cluster> = clusters
        .iter()
        .map(|(name, _, endpoints)| {
            let mut cluster = Cluster::new(*name, TlsMode::Plaintext, endpoints.clone());
            cluster.lb = LbPolicy::RoundRobin;
            change(&mut route, &mut cluster);
            cluster
        })
        .collect();
    let host = VirtualHost::new("h", vec![Domain::Any], vec![Arc::new(route)]);
    let mut tree = RouteTree::new("t", vec![host]);
    tree.filters = vec![CallFilter::new(FILTER, session.into())];
    let builder = Snapshot::builder().version(Version(1)).target("t", Ok(Arc::new(tree)));
    let builder = clusters
        .into_iter()
        .fold(builder, |builder, cluster| builder.cluster(cluster));
    builder.build().unwrap()
}

struct Rig {
    _net: Net,
    source: mesh_core::link::Source,
    channel: Plain,
    _link: mesh_core::Link,
}

impl Rig {
    /// Servers 1 to 40.
    fn new(first: Snapshot) -> Self {
        let net = Net::default();
        for n in 1..=40 {
            net.serve(n, move |request, respond| async move {
                let fails = request.headers().get("x-fails").is_some_and(|fails| fails == "2") && n == 2;
                match request.headers().contains_key("content-type") {
                    true => say_grpc(respond, "0"),
                    false => say_status(respond, if fails { 503 } else { 200 }),
                }
            });
        }
        let (source, link) = net.link();
        source.snapshots.publish(first);
        Self {
            channel: channel(&link),
            _net: net,
            source,
            _link: link,
        }
    }

    async fn publish(&self, snapshot: Snapshot) {
        self.source.snapshots.publish(snapshot);
        // The manager's turn.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn bringing(held: &str) -> Request<Full<Bytes>> {
    let mut request = post("");
    request.headers_mut().insert("x-host", held.parse().unwrap());
    request
}

/// Which server took a call, and what its caller was told.
async fn went(channel: &Plain, request: Request<Full<Bytes>>) -> (SocketAddr, Option<String>) {
    let response = call(channel, request).await.unwrap();
    let peer = response.body().peer().unwrap();
    let told = |response: &Response<ResponseBody>| {
        let value = response
            .headers()
            .get("x-host")
            .or_else(|| response.headers().get(SET_COOKIE));
        value.map(|value| value.to_str().unwrap().to_owned())
    };
    let told = told(&response);
    text(response).await;
    (peer, told)
}

fn state(n: u8, cluster: &str) -> String {
    STANDARD.encode(format!("{};{cluster}", address(n)))
}

#[tokio::test(start_paused = true)]
async fn a_session_stays_and_is_told_only_of_what_is_new() {
    let rig = Rig::new(snapshot(by_cookie(), &[("c", 1, well(&[1, 2, 3, 4, 5]))], |_, _| {}));
    for request in [post(""), grpc()] {
        let (first, given) = went(&rig.channel, request.clone()).await;
        let given = given.unwrap();
        let (pair, rest) = given.split_once("; ").unwrap();
        assert_eq!(rest, "Max-Age=60; Path=/; HttpOnly");
        for _ in 0..10 {
            let mut request = request.clone();
            request
                .headers_mut()
                .insert(COOKIE, format!("a=b; {pair}").parse().unwrap());
            assert_eq!(went(&rig.channel, request).await, (first, None));
        }
    }
    // The host of a session that is gone is another one, of which the caller is told.
    let stale = format!("who={}", state(9, "c"));
    let mut request = post("");
    request.headers_mut().insert(COOKIE, stale.parse().unwrap());
    assert!(went(&rig.channel, request).await.1.is_some());
}

/// In a split that gives nearly nothing to it, in a cluster that grows beyond what is looked through, and that changes.
#[tokio::test(start_paused = true)]
async fn a_session_stays_through_swaps_weights_and_growth() {
    let all = |many: u8| well(&(1..=many).collect::<Vec<_>>());
    let first = snapshot(by_header(), &[("v1", 1, all(3)), ("v2", 1, well(&[21]))], |_, _| {});
    let rig = Rig::new(first);
    let held = state(2, "v1");
    for many in [3, 20, 40, 18, 4] {
        rig.publish(snapshot(
            by_header(),
            &[("v1", 1, all(many)), ("v2", 1_000_000, well(&[21]))],
            |_, cluster| cluster.common_lb.panic_threshold = mesh_core::config::Percent::new(many.into()).unwrap(),
        ))
        .await;
        for _ in 0..5 {
            assert_eq!(went(&rig.channel, bringing(&held)).await, (address(2), None), "{many}");
        }
    }
    // Nothing goes to a share without a weight.
    rig.publish(snapshot(
        by_header(),
        &[("v1", 0, all(3)), ("v2", 1, well(&[21]))],
        |_, _| {},
    ))
    .await;
    assert_eq!(
        went(&rig.channel, bringing(&held)).await,
        (address(21), Some(state(21, "v2")))
    );
    // And a host that is no more has no sessions.
    rig.publish(snapshot(by_header(), &[("v1", 1, well(&[3]))], |_, _| {}))
        .await;
    assert_eq!(
        went(&rig.channel, bringing(&held)).await,
        (address(3), Some(state(3, "v1")))
    );
}

/// gRFC A55: which health an endpoint must have to keep its sessions is the cluster's to say, and new ones go by the picker.
#[tokio::test(start_paused = true)]
async fn a_draining_host_keeps_its_sessions_and_gets_no_new_ones() {
    use Health::{Degraded, Draining, Healthy, Unhealthy};
    let with = |health, held: Option<&[Health]>| {
        let held = held.map_or(HealthSet::CALLABLE, |held| held.iter().copied().collect());
        let endpoints = endpoints(&[(1, Healthy), (2, health), (3, Healthy), (4, Healthy), (5, Healthy)]);
        snapshot(by_header(), &[("c", 1, endpoints)], |_, cluster| {
            cluster.common_lb = CommonLb {
                held,
                ..CommonLb::ENVOY
            };
        })
    };
    let cases: [(Health, Option<&[Health]>, bool); 9] = [
        (Healthy, None, true),
        (Degraded, None, true),
        (Draining, None, false),
        (Unhealthy, None, false),
        (Draining, Some(&[Healthy, Draining]), true),
        (Degraded, Some(&[Healthy, Draining]), false),
        (Unhealthy, Some(&[Unhealthy]), true),
        (Healthy, Some(&[Draining]), false),
        (Healthy, Some(&[]), false),
    ];
    let rig = Rig::new(with(Healthy, None));
    for (health, held, stays) in cases {
        rig.publish(with(health, held)).await;
        let mut seen = 0;
        for _ in 0..10 {
            seen += u32::from(went(&rig.channel, bringing(&state(2, "c"))).await.0 == address(2));
        }
        // A healthy one that keeps no session still gets its share of what is new.
        let expected = match (stays, health) {
            (true, _) => 10,
            (false, Healthy) => 2,
            (false, _) => 0,
        };
        assert_eq!(seen, expected, "{health:?} {held:?}");
        for _ in 0..10 {
            let (new, _) = went(&rig.channel, post("")).await;
            assert!(new != address(2) || health == Healthy, "{health:?} {held:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_strict_session_fails_rather_than_moves() {
    let strict = Session {
        strict: true,
        ..by_header()
    };
    let rig = Rig::new(snapshot(strict, &[("c", 1, well(&[1, 2]))], |_, _| {}));
    assert_eq!(went(&rig.channel, bringing(&state(2, "c"))).await.0, address(2));
    let error = call(&rig.channel, bringing(&state(7, "c"))).await.unwrap_err();
    assert!(error.to_string().contains("the session is with no other"), "{error}");
    assert_eq!(error.status(), 503);
    assert_eq!(error.was_processed(), Some(false));
    // Who brings nothing goes anywhere.
    assert!(went(&rig.channel, post("")).await.1.is_some());
}

/// Envoy: only the first try is the session's.
#[tokio::test(start_paused = true)]
async fn another_try_goes_where_any_call_may_and_the_caller_is_told() {
    let retrying = |route: &mut Route, _: &mut Cluster| {
        route.retry = RetryPolicy {
            retries: 1,
            on: RetryOn::parse("5xx"),
            explicit: true,
            ..RetryPolicy::default()
        };
    };
    let rig = Rig::new(snapshot(by_header(), &[("c", 1, well(&[1, 2]))], retrying));
    let mut request = bringing(&state(2, "c"));
    request.headers_mut().insert("x-fails", "2".parse().unwrap());
    let (peer, told) = went(&rig.channel, request).await;
    assert_eq!((peer, told), (address(1), Some(state(1, "c"))));
}

#[tokio::test(start_paused = true)]
async fn a_route_says_otherwise() {
    let with = |what: Override| {
        snapshot(by_header(), &[("c", 1, well(&[1]))], move |route, _| {
            route.filter_overrides = vec![FilterOverride {
                filter: FILTER.into(),
                what: what.clone(),
            }];
        })
    };
    let rig = Rig::new(with(Override::Disabled));
    assert_eq!(went(&rig.channel, post("")).await.1, None);
    rig.publish(with(Override::With(by_cookie().into()))).await;
    assert!(went(&rig.channel, post("")).await.1.unwrap().starts_with("who="));
    rig.publish(with(Override::Enabled)).await;
    assert_eq!(went(&rig.channel, post("")).await.1, Some(state(1, "c")));
}
