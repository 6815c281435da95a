//! Every way a call can fail, with what a caller, a log and a proxy's reader see of it: flags, HTTP status, gRPC status, Envoy's
//! body, and whether it can have been processed.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::Response;
use mesh_core::config::{Cluster, RetryOn, RetryPolicy, Route};

use super::net::{Net, call, channel, grpc, grpc_status, one_cluster, post, say_status, silent};

const BEFORE: &str = "upstream connect error or disconnect/reset before headers. reset reason: ";

/// A failure: how the server fails, how the route is, and what comes of it.
struct Case {
    name: &'static str,
    serve: fn(&Net),
    route: fn(&mut Route, &mut Cluster),
    flags: &'static str,
    status: u16,
    grpc: &'static str,
    body: String,
    was_processed: Option<bool>,
}

fn never(route: &mut Route, _: &mut Cluster) {
    route.retry = RetryPolicy::never();
}

fn twice(route: &mut Route, _: &mut Cluster) {
    route.retry = RetryPolicy {
        on: RetryOn::parse("connect-failure,reset,5xx"),
        explicit: true,
        retries: 1,
        ..RetryPolicy::default()
    };
}

fn resets(net: &Net, reason: Reason) {
    net.serve(1, move |_, mut respond| async move { respond.send_reset(reason) });
}

fn cases() -> Vec<Case> {
    let case = |name, serve, route, flags, status, grpc, body: &str, was_processed| Case {
        name,
        serve,
        route,
        flags,
        status,
        grpc,
        body: body.to_owned(),
        was_processed,
    };
    let reset = |why: &str| format!("{BEFORE}{why}");
    let closes: fn(&Net) = |net| {
        net.serve_raw(1, None, |io| async move {
            let mut connection = h2::server::handshake(io).await.unwrap();
            // It is read, and then there is nobody.
            let _: Option<Result<(_, h2::server::SendResponse<Bytes>), _>> = connection.accept().await;
        });
    };
    vec![
        case(
            "nobody listens",
            |_| {},
            never,
            "UF",
            503,
            "14",
            &reset("connection failure"),
            Some(false),
        ),
        case(
            "and again",
            |_| {},
            twice,
            "URX,UF",
            503,
            "14",
            &reset("connection failure"),
            Some(false),
        ),
        case(
            "no endpoint",
            |_| {},
            |_, cluster| cluster.endpoints = Vec::new().into(),
            "UH",
            503,
            "14",
            "no healthy upstream",
            Some(false),
        ),
        case(
            "no route",
            |_| {},
            |route, _| route.matches.path = mesh_core::config::PathMatch::Exact("/other".into()),
            "NR",
            404,
            "12",
            "",
            Some(false),
        ),
        case(
            "a limit",
            |_| {},
            |_, cluster| cluster.breakers.default.max_requests = 0,
            "UO",
            503,
            "14",
            &reset("overflow"),
            Some(false),
        ),
        case(
            "a reset",
            |net| resets(net, Reason::INTERNAL_ERROR),
            never,
            "UR",
            503,
            "14",
            &reset("remote reset"),
            None,
        ),
        case(
            "a reset, again",
            |net| resets(net, Reason::INTERNAL_ERROR),
            twice,
            "URX,UR",
            503,
            "14",
            &reset("remote reset"),
            None,
        ),
        case(
            "refused",
            |net| resets(net, Reason::REFUSED_STREAM),
            never,
            "UR",
            503,
            "14",
            &reset("remote reset"),
            Some(false),
        ),
        case(
            "the connection ends",
            closes,
            never,
            "UC",
            503,
            "14",
            &reset("connection termination"),
            None,
        ),
        case(
            "too slow",
            |net| net.serve(1, |_, respond| silent(respond)),
            |route, _| route.timeout = Some(Duration::from_millis(50)),
            "UT",
            504,
            "14",
            "upstream request timeout",
            None,
        ),
        case(
            "a try is too slow",
            |net| net.serve(1, |_, respond| silent(respond)),
            |route, cluster| {
                twice(route, cluster);
                route.retry.per_try_timeout = Some(Duration::from_millis(50));
            },
            "URX,UT",
            504,
            "14",
            "upstream request timeout",
            None,
        ),
        case(
            "idle",
            |net| net.serve(1, |_, respond| silent(respond)),
            |route, _| route.limits.idle = Some(Duration::from_millis(50)),
            "SI",
            504,
            "14",
            "stream timeout",
            None,
        ),
        case(
            "too long a stream",
            |net| net.serve(1, |_, respond| silent(respond)),
            |route, _| route.limits.max_stream = Some(Duration::from_millis(50)),
            "UMSDR",
            504,
            "4",
            "upstream max stream duration reached",
            None,
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn every_failure_has_its_flags_and_statuses() {
    for case in cases() {
        let net = Net::default();
        (case.serve)(&net);
        let (source, link) = net.link();
        source.snapshots.publish(one_cluster(&[1], case.route));
        let channel = channel(&link);
        let error = call(&channel, post("body")).await.unwrap_err();
        let seen = (
            error.response_flags().to_string(),
            error.status().as_u16(),
            error.body().into_owned(),
            error.was_processed(),
        );
        let expected = (case.flags.to_owned(), case.status, case.body, case.was_processed);
        assert_eq!(seen, expected, "{}: {error}", case.name);
        assert_eq!(error.is_timeout(), case.status == 504, "{}", case.name);
        let (code, message) = grpc_status(call(&channel, grpc()).await.unwrap()).await;
        assert_eq!(code, case.grpc, "{}: {message}", case.name);
        // And both are counted as what they were, with flags in Envoy's order.
        let mut flags: Vec<&str> = case.flags.split(',').collect();
        flags.sort_by_key(|flag| *flag == "URX");
        let flags = flags.join(",");
        let counted = [
            format!("grpc 200 {} {flags}", case.grpc),
            format!("http {}  {flags}", case.status),
        ];
        assert_eq!(super::telemetry::ends(&link), counted, "{}", case.name);
    }
}

/// What a proxy answers a gRPC call with, which is no gRPC: by its status, with a body and without ("HTTP to gRPC Status Code Mapping").
#[tokio::test]
async fn an_answer_without_a_grpc_status_is_told_by_its_http_status() {
    let codes = [
        (200, "2"),
        (400, "13"),
        (401, "16"),
        (403, "7"),
        (404, "12"),
        (429, "14"),
        (500, "2"),
        (502, "14"),
        (503, "14"),
        (504, "14"),
    ];
    for (status, code) in codes {
        for body in ["", "no healthy upstream"] {
            // One that says it in its head that all is well says nothing, and that is for the caller's library to see.
            if (status, body) == (200, "") {
                continue;
            }
            let net = Net::default();
            net.serve(1, move |_, mut respond| async move {
                let response = Response::builder().status(status).body(()).unwrap();
                let mut stream = respond.send_response(response, body.is_empty()).unwrap();
                if !body.is_empty() {
                    stream.send_data(Bytes::from_static(body.as_bytes()), true).unwrap();
                }
            });
            let (source, link) = net.link();
            source.snapshots.publish(one_cluster(&[1], never));
            let response = call(&channel(&link), grpc()).await.unwrap();
            assert_eq!(grpc_status(response).await.0, code, "{status} {body:?}");
        }
    }
}

/// An answer that would have been tried again tells why it was not, beside its own status.
#[tokio::test(start_paused = true)]
async fn an_answer_tells_why_it_was_not_tried_again() {
    let net = Net::default();
    net.serve(1, |_, respond| async { say_status(respond, 503) });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], twice));
    let channel = channel(&link);
    let mut seen = Vec::new();
    for _ in 0..20 {
        let response = call(&channel, post("")).await.unwrap();
        let flags = response.extensions().get::<crate::ResponseFlags>().copied();
        seen.push(flags.expect("it was worth another try").to_string());
    }
    // First every try is made, then the budget's gate is shut.
    assert_eq!(
        (seen.first().unwrap().as_str(), seen.last().unwrap().as_str()),
        ("URX", "UO")
    );
    // What is not worth another try tells nothing.
    net.serve(2, |_, respond| async { say_status(respond, 404) });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[2], twice));
    let response = call(&super::net::channel(&link), post("")).await.unwrap();
    assert!(response.extensions().get::<crate::ResponseFlags>().is_none());
}

/// With three hosts and more another try goes to another host (Istio's default).
#[tokio::test(start_paused = true)]
async fn rs_6_another_try_goes_to_another_host() {
    use std::sync::{Arc, Mutex};
    let (net, seen) = (Net::default(), Arc::<Mutex<Vec<u8>>>::default());
    for n in [1, 2, 3] {
        let log = Arc::clone(&seen);
        net.serve(n, move |_, mut respond| {
            log.lock().unwrap().push(n);
            async move {
                let unavailable = Response::builder().status(503).body(()).unwrap();
                respond.send_response(unavailable, true).unwrap();
            }
        });
    }
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1, 2, 3], twice));
    let channel = channel(&link);
    let (mut pairs, mut elsewhere) = (0, 0);
    for _ in 0..1_000 {
        seen.lock().unwrap().clear();
        call(&channel, post("")).await.unwrap();
        if let [first, second] = seen.lock().unwrap()[..] {
            pairs += 1;
            elsewhere += usize::from(first != second);
        }
        // Successes of others, which keep the gate open.
        let cluster = super::storms::live(&link);
        (0..100).for_each(|_| cluster.budget().succeeded());
    }
    assert!(pairs >= 190 && elsewhere * 100 >= pairs * 99, "{elsewhere} of {pairs}");
}
