//! No configuration, wrong configuration, changed configuration.

use std::time::Duration;

use mesh_core::config::{Cluster, Endpoint, Reason, ReasonKind, Route, Snapshot, Split, TlsMode, Version};
use mesh_core::link::Parts;
use mesh_core::patience::{self, Awaited};

use super::net::{Net, address, call, channel, grpc, grpc_status, one_cluster, post, say, text};

#[tokio::test(start_paused = true)]
async fn without_configuration_a_call_fails_with_the_reason_inside_its_deadline() {
    let net = Net::default();
    let (_source, link) = net.link();
    let why = Reason::new(
        ReasonKind::Waiting,
        "connecting to the control plane at 192.0.2.1:1: refused",
    );
    link.set_waiting(Some(why));
    let channel = channel(&link);
    let mut request = grpc();
    request
        .headers_mut()
        .insert("grpc-timeout", http::HeaderValue::from_static("700m"));
    let begun = tokio::time::Instant::now();
    let (code, message) = grpc_status(call(&channel, request).await.unwrap()).await;
    assert_eq!((code.as_str(), begun.elapsed().as_millis()), ("14", 700));
    let told = "waiting for control plane: connecting to the control plane at 192.0.2.1:1: refused";
    assert!(message.contains(told) && message.contains("target \"t\""), "{message}");
    // Without a deadline of its own, the mesh's bound holds.
    let error = call(&channel, post("")).await.unwrap_err();
    assert_eq!(error.reason_kind(), Some(ReasonKind::Waiting));
    assert_eq!(begun.elapsed(), Duration::from_millis(30_700));
}

/// A cluster that is not there is known to be missing when its timer is over, and not before: the calls that a process begins with are there
/// then.
#[tokio::test(start_paused = true)]
async fn cp_4_the_first_call_waits_longer_than_a_missing_resource_is_waited_for() {
    for timer in [patience::DOES_NOT_EXIST_AFTER, patience::TIMED_OUT_AFTER] {
        let net = Net::default();
        net.serve(1, |_, respond| async { say(respond, "ok") });
        let (source, link) = net.link_with(Parts {
            resource_timer: timer,
            ..Parts::default()
        });
        let channel = channel(&link);
        let waiting = tokio::spawn({
            let channel = channel.clone();
            async move { text(call(&channel, post("")).await.unwrap()).await }
        });
        // What is asked for is asked over a connection that has to be made first, and after what leads to it.
        tokio::time::sleep(timer + patience::CONNECT_TIMEOUT + Duration::from_secs(1)).await;
        source.snapshots.publish(one_cluster(&[1], |_, _| {}));
        assert_eq!(waiting.await.unwrap(), "ok", "{timer:?}");
    }
}

/// What the call is told is true: which part of its target did not come, and since when it is looked for.
#[tokio::test(start_paused = true)]
async fn a_call_that_gives_up_says_which_part_it_waited_for_and_how_long() {
    let net = Net::default();
    let (_source, link) = net.link();
    let begun = tokio::time::Instant::now().into_std();
    let looked_for = |what: &str, after| Awaited {
        what: what.into(),
        since: begun + Duration::from_secs(after),
    };
    let parts = [
        looked_for("cluster \"gone\"", 2),
        looked_for("endpoints \"e\"", 3),
        looked_for("a", 0),
        looked_for("b", 0),
    ];
    link.set_awaited([("t".into(), parts.into())].into());
    let error = call(&channel(&link), post("")).await.unwrap_err().to_string();
    let told = "target \"t\" lacks cluster \"gone\", looked for since 28.0 s, endpoints \"e\", looked for since 27.0 s, \
                a, looked for since 30.0 s, 1 more; the call waited 30s";
    assert!(error.contains(told), "{error}");
    assert!(!error.contains("nothing was heard"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_goes_on_as_soon_as_configuration_comes() {
    let net = Net::default();
    net.serve(1, |_, respond| async { say(respond, "ok") });
    let (source, link) = net.link();
    let channel = channel(&link);
    let waiting = tokio::spawn({
        let channel = channel.clone();
        async move { text(call(&channel, post("")).await.unwrap()).await }
    });
    tokio::task::yield_now().await;
    let begun = tokio::time::Instant::now();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    assert_eq!(waiting.await.unwrap(), "ok");
    channel.ready().await;
    assert!(begun.elapsed() < Duration::from_millis(1));
}

/// On a runtime of one thread, who calls in a loop must not keep out what would heal its calls, though each of them ends at its first poll.
#[tokio::test]
async fn cp_4_calls_that_fail_at_once_do_not_keep_the_runtime_from_what_heals_them() {
    const MOST_CALLS: usize = 100_000;
    let no_listener = || Reason::new(ReasonKind::NoListener, "no listener t");
    let absent = Snapshot::builder().target("t", Err(no_listener()));
    for broken in [one_cluster(&[], |_, _| {}), absent.build().unwrap()] {
        let net = Net::default();
        net.serve(1, |_, respond| async { say(respond, "ok") });
        let (source, link) = net.link();
        let channel = channel(&link);
        source.snapshots.publish(broken);
        channel.ready().await;
        let calling = tokio::spawn(async move {
            for calls in 0..MOST_CALLS {
                if call(&channel, post("")).await.is_ok() {
                    return Some(calls);
                }
            }
            None
        });
        // It comes back when the calls let it.
        tokio::task::yield_now().await;
        source.snapshots.publish(one_cluster(&[1], |_, _| {}));
        let healed = calling.await.unwrap();
        assert!(healed.is_some_and(|calls| calls > 0), "{healed:?}");
    }
}

#[tokio::test]
async fn every_hole_in_the_configuration_has_a_reason_and_a_flag() {
    let (source, link) = Net::default().link();
    let channel = channel(&link);
    let reason = |kind, text: &str| Reason::new(kind, text);
    let to_c = || Snapshot::builder().route("t", Route::to(Split::all_to("c")));
    let no_listener = reason(ReasonKind::NoListener, "no listener t");
    let refused = reason(ReasonKind::Refused, "cluster c was refused");
    let empty = Cluster::new("c", TlsMode::Plaintext, vec![]);
    let mut unmatched = Route::to(Split::all_to("c"));
    unmatched.matches.path = mesh_core::config::PathMatch::Exact("/other".into());
    let cases = [
        (
            Snapshot::builder().target("t", Err(no_listener)).build(),
            ReasonKind::NoListener,
            "NR",
            404,
        ),
        (
            to_c().resolved_cluster("c".into(), Err(refused)).build(),
            ReasonKind::Refused,
            "NC",
            503,
        ),
        (
            to_c().cluster(empty.clone()).build(),
            ReasonKind::NoEndpoints,
            "UH",
            503,
        ),
        (
            Snapshot::builder().route("t", unmatched).cluster(empty).build(),
            ReasonKind::NoRoute,
            "NR",
            404,
        ),
    ];
    for (version, (snapshot, kind, flag, status)) in cases.into_iter().enumerate() {
        source.snapshots.publish(snapshot.unwrap());
        settled(&link).await;
        let error = call(&channel, post("")).await.unwrap_err();
        let seen = (error.reason_kind(), error.response_flag(), error.status().as_u16());
        assert_eq!(seen, (Some(kind), flag, status), "case {version}: {error}");
        assert!(!error.may_have_been_processed());
        let (code, _) = grpc_status(call(&channel, grpc()).await.unwrap()).await;
        // What 404 is worth to gRPC (Envoy); a target that is not there is one that cannot be reached (gRFC A27).
        let expected = if kind == ReasonKind::NoRoute { "12" } else { "14" };
        assert_eq!(code, expected, "case {version}");
    }
}

/// Lets the manager's task run: it was woken by the publish, and the runtime is this thread's.
async fn settled(link: &mesh_core::Link) {
    let version = link.snapshots().load().version();
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
    assert_eq!(**link.applied().load(), version);
}

#[tokio::test]
async fn a_hundred_swaps_and_ten_channels_keep_one_connection_per_endpoint() {
    let net = Net::default();
    for n in [1, 2] {
        net.serve(n, |_, respond| async { say(respond, "ok") });
    }
    let (source, link) = net.link();
    let snapshot = |version: u64| {
        // The canary comes, goes and comes back; the timeout changes each time.
        let v2 = if version.is_multiple_of(2) { 50 } else { 0 };
        let mut route = Route::to(Split::weighted([("v1".into(), 50), ("v2".into(), v2)]).unwrap());
        route.timeout = Some(Duration::from_secs(10 + version));
        let cluster = |name: &str, n| Cluster::new(name, TlsMode::Plaintext, vec![Endpoint::new(address(n))]);
        let builder = Snapshot::builder()
            .version(Version(version))
            .route("t", route)
            .cluster(cluster("v1", 1));
        let builder = if v2 > 0 {
            builder.cluster(cluster("v2", 2))
        } else {
            builder
        };
        builder.build().unwrap()
    };
    source.snapshots.publish(snapshot(0));
    let channels: Vec<_> = (0..10).map(|_| channel(&link)).collect();
    for version in 1..=100 {
        source.snapshots.publish(snapshot(version));
        for channel in &channels {
            call(channel, post("")).await.unwrap();
        }
    }
    assert_eq!(net.dials(), 2);
}

#[tokio::test]
async fn a_burst_of_publishes_ends_at_the_last() {
    let (source, link) = Net::default().link();
    let _channel = channel(&link);
    for version in 1..=1_000 {
        source
            .snapshots
            .publish(Snapshot::builder().version(Version(version)).build().unwrap());
    }
    settled(&link).await;
    assert_eq!(**link.applied().load(), Version(1_000));
}
