//! Deadlines: whose, how long, what the peer is told, and that they end what they should and nothing else.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use mesh_core::config::{RetryOn, RetryPolicy, Route, TimeLimits};
use mesh_core::inherit::{Inherited, enter};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::net::{Net, Plain, call, channel, grpc, grpc_status, one_cluster, post, say, say_status, silent};
use crate::{Error, ResponseBody};

const EXPECTED: &str = "x-envoy-expected-rq-timeout-ms";

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A server that keeps what it is told, and what it then does.
fn told(net: &Net, answer: fn(h2::server::SendResponse<Bytes>)) -> Arc<Mutex<Vec<HeaderMap>>> {
    let seen: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
    let log = Arc::clone(&seen);
    net.serve(1, move |request, respond| {
        log.lock().unwrap().push(request.headers().clone());
        async move { answer(respond) }
    });
    seen
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().unwrap().trim_end_matches('m').parse().ok()
}

fn with(mut request: Request<Full<Bytes>>, headers: &[(&'static str, &'static str)]) -> Request<Full<Bytes>> {
    for (name, value) in headers {
        request
            .headers_mut()
            .insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    request
}

/// Calls as a handler does whose own request must be answered within `left`.
async fn inherited(
    channel: &Plain,
    left: Duration,
    request: Request<Full<Bytes>>,
) -> Result<Response<ResponseBody>, Error> {
    let deadline = Instant::now() + left;
    let mut scope = Some(Inherited::new(Some(deadline.into_std())));
    let call = enter(&mut scope, || call(channel, request));
    let mut call = Box::pin(call);
    std::future::poll_fn(|cx| enter(&mut scope, || call.as_mut().poll(cx))).await
}

#[tokio::test(start_paused = true)]
async fn dl_1_a_peer_is_told_what_is_left_and_never_more() {
    let net = Net::default();
    let seen = told(&net, |respond| say(respond, "ok"));
    let (source, link) = net.link();
    let channel = channel(&link);
    let publish = |change: fn(&mut Route)| source.snapshots.publish(one_cluster(&[1], |route, _| change(route)));
    let last = || seen.lock().unwrap().last().unwrap().clone();

    // A limit of the route.
    publish(|route| route.timeout = Some(ms(2_000)));
    channel.ready().await;
    call(&channel, post("")).await.unwrap();
    assert_eq!(
        (number(&last(), EXPECTED), number(&last(), "grpc-timeout")),
        (Some(2_000), None)
    );
    call(&channel, grpc()).await.unwrap();
    assert_eq!(number(&last(), "grpc-timeout"), Some(2_000));
    // What the caller says already is as it was.
    call(&channel, with(grpc(), &[("grpc-timeout", "250m")])).await.unwrap();
    assert_eq!(
        (number(&last(), EXPECTED), number(&last(), "grpc-timeout")),
        (Some(250), Some(250))
    );
    call(&channel, with(grpc(), &[("grpc-timeout", "9S")])).await.unwrap();
    assert_eq!(number(&last(), "grpc-timeout"), Some(2_000));

    // What is left of the request it is made for: 100 ms of which 60 are gone, but for the margin.
    inherited(&channel, ms(40), grpc()).await.unwrap();
    assert_eq!(
        (number(&last(), EXPECTED), number(&last(), "grpc-timeout")),
        (Some(39), Some(39))
    );
    inherited(&channel, ms(9_000), post("")).await.unwrap();
    assert_eq!(number(&last(), EXPECTED), Some(2_000));
    // One try gets no more than a try may take, and a try no more than is left.
    settled_with(&source, &link, |route| {
        route.timeout = Some(ms(2_000));
        route.retry.per_try_timeout = Some(ms(300));
    })
    .await;
    call(&channel, grpc()).await.unwrap();
    assert_eq!(
        (number(&last(), EXPECTED), number(&last(), "grpc-timeout")),
        (Some(300), Some(300))
    );
    inherited(&channel, ms(40), grpc()).await.unwrap();
    assert_eq!(number(&last(), EXPECTED), Some(39));
    // Without a limit nothing is said.
    settled_with(&source, &link, |_| {}).await;
    call(&channel, grpc()).await.unwrap();
    assert_eq!(
        (number(&last(), EXPECTED), number(&last(), "grpc-timeout")),
        (None, None)
    );
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_to_be_told_nothing_hears_what_others_said() {
    let net = Net::default();
    let seen = told(&net, |respond| say(respond, "ok"));
    let (source, link) = net.link();
    let channel = channel(&link);
    let last = || {
        let seen = seen.lock().unwrap();
        let headers = seen.last().unwrap();
        (number(headers, EXPECTED), number(headers, "grpc-timeout"))
    };
    settled_with(&source, &link, |route| {
        route.timeout = Some(ms(2_000));
        route.limits.untold = true;
    })
    .await;
    call(&channel, post("")).await.unwrap();
    assert_eq!(last(), (None, None));
    call(&channel, grpc()).await.unwrap();
    assert_eq!(last(), (None, None));
    call(&channel, with(grpc(), &[("grpc-timeout", "250m")])).await.unwrap();
    assert_eq!(last(), (None, Some(250)));
    // Never more than there is.
    call(&channel, with(grpc(), &[("grpc-timeout", "9000m")]))
        .await
        .unwrap();
    assert_eq!(last(), (None, Some(2_000)));
    inherited(&channel, ms(40), grpc()).await.unwrap();
    assert_eq!(last(), (None, Some(39)));
    settled_with(&source, &link, |route| {
        route.limits.grpc_max = Some(ms(1_000));
        route.limits.untold = true;
    })
    .await;
    call(&channel, grpc()).await.unwrap();
    assert_eq!(last(), (None, Some(1_000)));
}

async fn settled_with(source: &mesh_core::link::Source, link: &mesh_core::Link, change: fn(&mut Route)) {
    let next = mesh_core::config::Version(link.snapshots().load().version().0 + 1);
    let snapshot = one_cluster(&[1], |route, _| change(route)).with_clusters(next, std::iter::empty());
    source.snapshots.publish(snapshot);
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
    assert_eq!(**link.applied().load(), next);
}

/// A retry has less time than the try before, and is told so.
#[tokio::test(start_paused = true)]
async fn dl_1_a_later_try_is_told_less_and_which_it_is() {
    let net = Net::default();
    let seen = told(&net, |respond| say_status(respond, 503));
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |route, _| {
        route.timeout = Some(ms(2_000));
        route.retry = RetryPolicy {
            on: RetryOn::parse("5xx"),
            backoff: mesh_core::config::Backoff::new(ms(100), None).unwrap(),
            announce_attempts: true,
            explicit: true,
            ..RetryPolicy::default()
        };
    }));
    call(&channel(&link), post("")).await.unwrap();
    let seen = seen.lock().unwrap();
    let left: Vec<u64> = seen.iter().map(|headers| number(headers, EXPECTED).unwrap()).collect();
    assert!(left.is_sorted_by(|a, b| a > b) && left[0] == 2_000, "{left:?}");
    let counts: Vec<u64> = seen
        .iter()
        .map(|headers| number(headers, "x-envoy-attempt-count").unwrap())
        .collect();
    assert_eq!(counts, [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn dl_2_a_call_without_time_is_not_begun() {
    let net = Net::default();
    let seen = told(&net, |respond| say(respond, "ok"));
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    let channel = channel(&link);
    channel.ready().await;
    let error = inherited(&channel, Duration::ZERO, post("")).await.unwrap_err();
    assert!(error.is_timeout() && error.was_processed() == Some(false), "{error}");
    assert_eq!((error.response_flag(), error.status().as_u16()), ("UT", 504));
    let (code, _) = grpc_status(inherited(&channel, ms(1), grpc()).await.unwrap()).await;
    assert_eq!(code, "4");
    assert!(seen.lock().unwrap().is_empty());
}

/// An answer that comes when time is up, a moment before or a moment after: one outcome each, no connection lost, and a handler
/// whose caller gave up is told.
#[tokio::test(start_paused = true)]
async fn dl_3_a_race_of_answer_and_deadline_has_one_outcome() {
    let net = Net::default();
    let (reset, mut resets) = mpsc::unbounded_channel();
    net.serve(1, move |request, mut respond| {
        let reset = reset.clone();
        let after: u64 = request.headers()["x-after"].to_str().unwrap().parse().unwrap();
        async move {
            tokio::select! {
                biased;
                _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => reset.send(after).unwrap(),
                () = tokio::time::sleep(ms(after)) => {
                    // The caller may have gone in this very moment.
                    if let Ok(mut body) = respond.send_response(Response::new(()), false) {
                        let _ = body.send_data(Bytes::from_static(b"late?"), true);
                    }
                }
            }
        }
    });
    let (source, link) = net.link();
    source
        .snapshots
        .publish(one_cluster(&[1], |route, _| route.timeout = Some(ms(100))));
    let channel = channel(&link);
    let (mut answered, mut late) = (0, 0);
    for after in (90u64..=110).cycle().take(210) {
        let mut request = post("");
        request.headers_mut().insert("x-after", HeaderValue::from(after));
        let outcome = match call(&channel, request).await {
            Ok(response) => response.into_body().collect().await.map(|body| body.to_bytes()),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(body) => {
                assert!(body == "late?" && after <= 101, "{after}");
                answered += 1;
            }
            Err(error) => {
                assert!(error.is_timeout() && after >= 99, "{after}: {error}");
                late += 1;
            }
        }
    }
    assert_eq!(answered + late, 210);
    assert!(answered > 0 && late > 0);
    // One connection served them all, and those who waited in vain were told within their round trip.
    assert_eq!(net.dials(), 1);
    let mut told = 0;
    while let Ok(after) = resets.try_recv() {
        assert!(after >= 99);
        told += 1;
    }
    assert!(told > 0);
}

/// Sends a frame each `pause`, then falls silent.
fn ticking(net: &Net, pause: Duration, frames: usize) {
    net.serve(1, move |_, mut respond| async move {
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        for _ in 0..frames {
            tokio::time::sleep(pause).await;
            if body.send_data(Bytes::from_static(b"tick"), false).is_err() {
                return;
            }
        }
        std::future::pending::<()>().await;
    });
}

#[tokio::test(start_paused = true)]
async fn dl_4_an_active_stream_lives_and_an_idle_one_ends() {
    let net = Net::default();
    // An hour of a frame every four minutes.
    ticking(&net, Duration::from_secs(240), 15);
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |route, _| {
        route.limits.idle = Some(TimeLimits::ENVOY_IDLE);
    }));
    let begun = Instant::now();
    let mut body = call(&channel(&link), post("")).await.unwrap().into_body();
    let mut frames = 0;
    let error = loop {
        match body.frame().await.unwrap() {
            Ok(_) => frames += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((frames, begun.elapsed()), (15, Duration::from_secs(3_600 + 300)));
    assert!(error.is_timeout(), "{error}");
    assert_eq!((error.response_flag(), error.body().as_ref()), ("SI", "stream timeout"));
}

/// What is sent counts as well: an upload to a server that says nothing is not idle.
#[tokio::test(start_paused = true)]
async fn dl_4_an_upload_that_moves_is_not_idle() {
    let net = Net::default();
    net.serve(1, |request, respond| async move {
        let mut body = request.into_body();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
        }
        say(respond, "ok");
    });
    let (source, link) = net.link();
    source
        .snapshots
        .publish(one_cluster(&[1], |route, _| route.limits.idle = Some(ms(1_000))));
    let upload = |pause| {
        let body = super::streams::slow(5, pause);
        let mut channel = super::streams::channel(&link);
        async move { tower::Service::call(&mut channel, Request::post("/up").body(body).unwrap()).await }
    };
    assert_eq!(upload(ms(900)).await.unwrap().status(), 200);
    let error = upload(ms(1_100)).await.unwrap_err();
    assert_eq!(error.response_flag(), "SI");
}

#[tokio::test(start_paused = true)]
async fn the_longest_stream_has_a_flag_of_its_own() {
    let net = Net::default();
    ticking(&net, ms(100), 1_000);
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |route, _| {
        route.timeout = Some(ms(9_000));
        route.limits.max_stream = Some(ms(1_500));
    }));
    let body = call(&channel(&link), post("")).await.unwrap().into_body();
    let error = body.collect().await.unwrap_err();
    assert_eq!((error.response_flag(), error.status().as_u16()), ("UMSDR", 504));
}

/// A try that is idle is another end than one that is slow, and both are worth another try where the policy says so.
#[tokio::test(start_paused = true)]
async fn tries_end_by_their_own_limits() {
    let net = Net::default();
    net.serve(1, |_, respond| silent(respond));
    let (source, link) = net.link();
    let channel = channel(&link);
    for (per_try, idle, flag) in [(Some(200), Some(100), "SI"), (Some(100), None, "UT")] {
        let version = link.snapshots().load().version().0 + 1;
        let snapshot = one_cluster(&[1], |route, _| {
            route.retry = RetryPolicy {
                on: RetryOn::RESET,
                per_try_timeout: per_try.map(ms),
                per_try_idle_timeout: idle.map(ms),
                explicit: true,
                retries: 1,
                ..RetryPolicy::default()
            };
        });
        let version = mesh_core::config::Version(version);
        source
            .snapshots
            .publish(snapshot.with_clusters(version, std::iter::empty()));
        channel.ready().await;
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        let begun = Instant::now();
        let error = call(&channel, post("")).await.unwrap_err();
        assert_eq!(error.response_flags().to_string(), format!("URX,{flag}"));
        assert!(error.is_retries_exhausted() && begun.elapsed() >= ms(200) && begun.elapsed() < ms(230));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_asks_for_other_limits_and_its_peer_does_not_see_that() {
    let net = Net::default();
    let seen = told(&net, |respond| say_status(respond, 425));
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |route, _| {
        route.timeout = Some(ms(2_000));
        route.retry = RetryPolicy::never();
    }));
    let request = with(
        post(""),
        &[
            ("x-envoy-upstream-rq-timeout-ms", "700"),
            ("x-envoy-upstream-rq-per-try-timeout-ms", "300"),
            ("x-envoy-retry-on", "retriable-status-codes"),
            ("x-envoy-retriable-status-codes", "425"),
            ("x-envoy-max-retries", "2"),
        ],
    );
    let response = call(&channel(&link), request).await.unwrap();
    assert_eq!(response.status().as_u16(), 425);
    assert_eq!(
        response.extensions().get::<crate::ResponseFlags>().unwrap().to_string(),
        "URX"
    );
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 3);
    for headers in seen.iter() {
        let envoys: Vec<&str> = headers
            .keys()
            .map(HeaderName::as_str)
            .filter(|name| name.starts_with("x-envoy"))
            .collect();
        assert_eq!((envoys, number(headers, EXPECTED)), (vec![EXPECTED], Some(300)));
    }
}
