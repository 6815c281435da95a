//! Calls that are broken on purpose (gRFC A33, Envoy's fault filter), on a paused clock.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode};
use mesh_core::config::{
    Abort, CallFilter, Cluster, Delay, Domain, Endpoint, Fault, FaultAbort, FaultDelay, FilterOverride, Fraction,
    Mirror, Override, Route, RouteTree, Snapshot, Split, TlsMode, VirtualHost,
};
use mesh_core::deadline::GRPC_TIMEOUT;
use tokio::time::Instant;

use super::net::{Net, address, call, channel, grpc, grpc_status, post, say, silent, text};
use crate::Error;
use crate::fault::Delayed;

const SECOND: Duration = Duration::from_secs(1);

/// A route to one server, under a listener with this fault.
fn with_fault(fault: Fault, change: impl FnOnce(&mut Route)) -> Snapshot {
    let mut route = Route::to(Split::all_to("c"));
    change(&mut route);
    let mut tree = RouteTree::new(
        "t",
        vec![VirtualHost::new("h", vec![Domain::Any], vec![Arc::new(route)])],
    );
    tree.filters = vec![CallFilter::new("envoy.filters.http.fault", fault.into())];
    let cluster = Cluster::new("c", TlsMode::Plaintext, vec![Endpoint::new(address(1))]);
    Snapshot::builder()
        .target("t", Ok(Arc::new(tree)))
        .cluster(cluster)
        .build()
        .unwrap()
}

fn delay(percent: u32, delay: Delay) -> Option<FaultDelay> {
    Some(FaultDelay {
        fraction: Fraction::percent(percent),
        delay,
    })
}

fn abort(abort: Abort) -> Option<FaultAbort> {
    Some(FaultAbort {
        fraction: Fraction::ALL,
        abort,
        body: "".into(),
    })
}

fn serving() -> Net {
    let net = Net::default();
    net.serve(1, |_, respond| async { say(respond, "ok") });
    net
}

#[tokio::test(start_paused = true)]
async fn a_delay_holds_the_call_up_and_is_told_with_the_answer() {
    let (source, link) = serving().link();
    let fault = Fault {
        delay: delay(100, Delay::Fixed(SECOND)),
        ..Fault::default()
    };
    source.snapshots.publish(with_fault(fault, |_| {}));
    let begun = Instant::now();
    let response = call(&channel(&link), post("")).await.unwrap();
    assert_eq!(begun.elapsed(), SECOND);
    assert_eq!(response.extensions().get::<Delayed>(), Some(&Delayed(SECOND)));
    assert_eq!(text(response).await, "ok");
    assert_eq!(link.tally().get("fault", "delay"), 1);
}

/// gRFC A33: a delay is part of the caller's time, and of the stream's. Nothing is sent after it.
#[tokio::test(start_paused = true)]
async fn a_delay_counts_against_the_deadline() {
    let net = serving();
    let (source, link) = net.link();
    let fault = Fault {
        delay: delay(100, Delay::Fixed(10 * SECOND)),
        ..Fault::default()
    };
    source
        .snapshots
        .publish(with_fault(fault, |route| route.limits.max_stream = Some(SECOND)));
    let channel = channel(&link);
    let begun = Instant::now();
    assert!(call(&channel, post("")).await.is_err());
    assert_eq!((begun.elapsed(), net.dials()), (SECOND, 0));
    let mut request = grpc();
    request
        .headers_mut()
        .insert(GRPC_TIMEOUT, HeaderValue::from_static("500m"));
    assert_ne!(grpc_status(call(&channel, request).await.unwrap()).await.0, "0");
    assert_eq!((begun.elapsed(), net.dials()), (SECOND + SECOND / 2, 0));
}

/// The router stands behind the fault filter in an Envoy, and its time begins there.
#[tokio::test(start_paused = true)]
async fn a_delay_is_no_part_of_the_routes_timeout() {
    for answers in [true, false] {
        let net = Net::default();
        net.serve(1, move |_, respond| async move {
            match answers {
                true => say(respond, "ok"),
                false => silent(respond).await,
            }
        });
        let (source, link) = net.link();
        let fault = Fault {
            delay: delay(100, Delay::Fixed(10 * SECOND)),
            ..Fault::default()
        };
        source
            .snapshots
            .publish(with_fault(fault, |route| route.timeout = Some(SECOND)));
        let begun = Instant::now();
        let result = call(&channel(&link), post("")).await;
        match answers {
            true => assert_eq!(
                (text(result.unwrap()).await.as_str(), begun.elapsed()),
                ("ok", 10 * SECOND)
            ),
            false => {
                assert!(result.unwrap_err().is_timeout());
                assert!(
                    begun.elapsed().abs_diff(11 * SECOND) < SECOND / 100,
                    "{:?}",
                    begun.elapsed()
                );
            }
        }
    }
}

/// Nor is it told to the peer, where it took of the time.
#[tokio::test(start_paused = true)]
async fn dl_1_a_peer_is_not_told_the_time_that_a_delay_took() {
    let net = Net::default();
    let seen: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
    let log = Arc::clone(&seen);
    net.serve(1, move |request, respond| {
        log.lock().unwrap().push(request.headers().clone());
        async { say(respond, "ok") }
    });
    let (source, link) = net.link();
    let fault = Fault {
        delay: delay(100, Delay::Fixed(SECOND)),
        ..Fault::default()
    };
    source
        .snapshots
        .publish(with_fault(fault, |route| route.timeout = Some(3 * SECOND)));
    let channel = channel(&link);
    for (said, left) in [(None, "3000m"), (Some("2500m"), "1500m")] {
        let mut request = grpc();
        if let Some(said) = said {
            request
                .headers_mut()
                .insert(GRPC_TIMEOUT, HeaderValue::from_static(said));
        }
        call(&channel, request).await.unwrap();
        let seen = seen.lock().unwrap();
        assert_eq!(seen.last().unwrap().get(GRPC_TIMEOUT).unwrap(), left, "{said:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_abort_is_the_answer_that_was_asked_for_and_nothing_is_sent() {
    let net = serving();
    let (source, link) = net.link();
    let channel = channel(&link);
    for (end, http, grpc_code) in [
        (Abort::Http(StatusCode::IM_A_TEAPOT), 418, "2"),
        (Abort::Http(StatusCode::NOT_FOUND), 404, "12"),
        (Abort::Http(StatusCode::SERVICE_UNAVAILABLE), 503, "14"),
        (Abort::Http(StatusCode::OK), 200, "2"),
        (Abort::Grpc(8), 429, "8"),
        (Abort::Grpc(14), 503, "14"),
        (Abort::Grpc(0), 200, "0"),
    ] {
        let fault = Fault {
            abort: abort(end),
            ..Fault::default()
        };
        source.snapshots.publish(with_fault(fault, |_| {}));
        channel.ready().await;
        tokio::task::yield_now().await;
        let response = call(&channel, post("")).await.unwrap();
        assert_eq!(response.status(), http, "{end:?}");
        let error = response.extensions().get::<Error>().unwrap();
        assert!(error.is_fault() && !error.may_have_been_processed());
        assert_eq!(error.response_flag(), "FI");
        assert_eq!(text(response).await, "fault filter abort");
        let (code, message) = grpc_status(call(&channel, grpc()).await.unwrap()).await;
        assert_eq!(
            (code.as_str(), message.as_str()),
            (grpc_code, "fault filter abort"),
            "{end:?}"
        );
    }
    assert_eq!(net.dials(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_delay_comes_before_an_abort() {
    let (source, link) = serving().link();
    let fault = Fault {
        delay: delay(100, Delay::Fixed(SECOND)),
        abort: abort(Abort::Grpc(14)),
        ..Fault::default()
    };
    source.snapshots.publish(with_fault(fault, |_| {}));
    let begun = Instant::now();
    let response = call(&channel(&link), grpc()).await.unwrap();
    assert_eq!(begun.elapsed(), SECOND);
    assert_eq!(response.extensions().get::<Error>().unwrap().response_flag(), "DI,FI");
}

#[tokio::test(start_paused = true)]
async fn a_request_asks_for_its_own_faults_where_it_may() {
    let (source, link) = serving().link();
    let fault = || Fault {
        delay: delay(100, Delay::Header),
        abort: abort(Abort::Header),
        ..Fault::default()
    };
    source.snapshots.publish(with_fault(fault(), |_| {}));
    let channel = channel(&link);
    let asking = |pairs: &[(&'static str, &'static str)]| {
        let mut request = post("");
        for (name, value) in pairs {
            request.headers_mut().insert(*name, HeaderValue::from_static(value));
        }
        request
    };
    let begun = Instant::now();
    let asks = [
        ("x-envoy-fault-delay-request", "1000"),
        ("x-envoy-fault-abort-request", "418"),
    ];
    let response = call(&channel, asking(&asks)).await.unwrap();
    assert_eq!((response.status().as_u16(), begun.elapsed()), (418, SECOND));
    assert_eq!(call(&channel, asking(&[])).await.unwrap().status(), 200);
    // What a route says of the filter by its name takes the place of all that the listener says.
    let quiet = Override::With(Fault::default().into());
    source.snapshots.publish(with_fault(fault(), |route| {
        route.filter_overrides = vec![FilterOverride {
            filter: "envoy.filters.http.fault".into(),
            what: quiet,
        }];
    }));
    tokio::task::yield_now().await;
    assert_eq!(call(&channel, asking(&asks)).await.unwrap().status(), 200);
}

/// The count is the process's: it outlives the configuration that injects, and every channel adds to it.
#[tokio::test(start_paused = true)]
async fn no_more_calls_are_held_at_once_than_may_be_whatever_is_pushed_meanwhile() {
    let (source, link) = serving().link();
    let slow = |millis| Fault {
        delay: delay(100, Delay::Fixed(Duration::from_millis(millis))),
        max_active: Some(2),
        ..Fault::default()
    };
    source.snapshots.publish(with_fault(slow(60_000), |_| {}));
    let channels = [channel(&link), channel(&link)];
    channels[0].ready().await;
    let held: Vec<_> = channels
        .iter()
        .map(|channel| {
            let channel = channel.clone();
            tokio::spawn(async move { call(&channel, post("")).await.map(|_| ()) })
        })
        .collect();
    tokio::task::yield_now().await;
    // Another configuration, the same two calls.
    source.snapshots.publish(with_fault(slow(30_000), |_| {}));
    tokio::task::yield_now().await;
    let begun = Instant::now();
    assert_eq!(call(&channels[0], post("")).await.unwrap().status(), 200);
    assert!(begun.elapsed() < SECOND);
    assert_eq!(link.tally().get("fault", "over_limit"), 1);
    // A call that its caller gives up frees its place.
    held[0].abort();
    tokio::task::yield_now().await;
    let begun = Instant::now();
    call(&channels[0], post("")).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn what_a_fault_ends_is_not_mirrored() {
    let net = serving();
    let (source, link) = net.link();
    let fault = Fault {
        abort: abort(Abort::Grpc(14)),
        ..Fault::default()
    };
    source.snapshots.publish(with_fault(fault, |route| {
        let mesh_core::config::Action::Forward(forward) = &mut route.action else {
            panic!("it forwards")
        };
        forward.mirrors = vec![Mirror {
            cluster: "c".into(),
            fraction: None,
            shadow_suffix: true,
        }];
    }));
    call(&channel(&link), post("")).await.unwrap();
    tokio::time::sleep(SECOND).await;
    assert_eq!(net.dials(), 0);
}
