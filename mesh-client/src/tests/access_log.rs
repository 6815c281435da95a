//! What is written of calls: by Envoy's names, where the configuration wants it, and as often as there were calls.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use mesh_core::Link;
use mesh_core::config::{
    Action, Cluster, Comparison, DirectResponse, Endpoint, Fraction, LogFilter, PathMatch, RetryOn, RetryPolicy, Route,
    RouteTree, Snapshot, Split,
};
use mesh_core::config::{Domain, Telemetry, TlsMode, VirtualHost};
use mesh_core::report::access::TARGET;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::net::{Net, address, call, channel, grpc, one_cluster, post, say, say_grpc, say_status, silent};

type Line = BTreeMap<&'static str, String>;

/// Keeps the lines of the thread that a test runs in.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Line>>>);

impl Lines {
    fn take(&self) -> Vec<Line> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == TARGET
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Values::default();
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Values(Line);

impl Visit for Values {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

fn logged(snapshot: &Snapshot, filter: Option<LogFilter>) -> Snapshot {
    let tree = snapshot.target("t").unwrap().as_ref().unwrap();
    let tree = RouteTree {
        telemetry: Telemetry {
            access_log: filter.map(Into::into),
        },
        ..(**tree).clone()
    };
    let mut builder = Snapshot::builder().target("t", Ok(Arc::new(tree)));
    for (name, cluster) in snapshot.clusters().iter() {
        builder = builder.resolved_cluster(name.clone(), cluster.clone());
    }
    builder.build().unwrap()
}

/// One line of a call is the same by whichever way it goes.
fn shown(line: &Line) -> Vec<(&'static str, &str)> {
    let varies = ["start_time", "duration"];
    let stays = line.iter().filter(|(name, _)| !varies.contains(name));
    stays.map(|(name, value)| (*name, value.as_str())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_call_is_one_line_when_its_answer_has_ended() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let net = Net::default();
    net.serve(1, |_, mut respond| async move {
        let response = http::Response::builder().header("x-envoy-upstream-service-time", "7");
        let mut body = respond.send_response(response.body(()).unwrap(), false).unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        body.send_data(Bytes::from_static(b"paid"), true).unwrap();
    });
    let (source, link) = net.link();
    let snapshot = one_cluster(&[1], |route, _| route.name = "default".into());
    source.snapshots.publish(logged(&snapshot, Some(LogFilter::All)));
    let request = Request::post("/pay?how=now")
        .header("user-agent", "till\u{e9}")
        .header("x-request-id", "11")
        .header("x-forwarded-for", "10.9.9.9")
        .body(Full::new(Bytes::from_static(b"please")))
        .unwrap();
    let response = call(&channel(&link), request).await.unwrap();
    assert!(lines.take().is_empty(), "it is not over");
    response.into_body().collect().await.unwrap();
    let [line] = &lines.take()[..] else {
        panic!("one call is one line")
    };
    assert_eq!(
        shown(line),
        [
            ("authority", "t"),
            ("bytes_received", "6"),
            ("bytes_sent", "4"),
            ("method", "POST"),
            ("path", "/pay?how=now"),
            ("protocol", "HTTP/1.1"),
            ("request_id", "11"),
            ("response_code", "200"),
            ("response_code_details", "via_upstream"),
            ("response_flags", "-"),
            ("route_name", "default"),
            ("upstream_cluster", "c"),
            ("upstream_host", "10.0.0.1:80"),
            ("upstream_service_time", "7"),
            ("user_agent", "till\\xc3\\xa9"),
            ("x_forwarded_for", "10.9.9.9"),
        ]
    );
    assert!(line["duration"].parse::<u64>().unwrap() >= 30);
    assert!(line["start_time"].ends_with('Z'), "{line:?}");
}

/// Flags and details of the calls that were written.
fn ends(lines: &Lines) -> Vec<String> {
    let end = |line: &Line| {
        let of = |name: &str| line.get(name).map_or("", String::as_str).to_owned();
        [
            of("response_code"),
            of("grpc_status"),
            of("response_flags"),
            of("response_code_details"),
        ]
        .join(" ")
    };
    lines.take().iter().map(end).collect()
}

#[tokio::test(start_paused = true)]
async fn what_failed_says_why_in_envoys_words() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let net = Net::default();
    net.serve(1, |request, respond| async move {
        match request.uri().path() {
            "/slow" => silent(respond).await,
            "/cut" => {
                let mut respond = respond;
                let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                body.send_data(Bytes::from_static(b"half"), false).unwrap();
                // The head goes before it, and does not come with it.
                tokio::time::sleep(Duration::from_millis(1)).await;
                body.send_reset(h2::Reason::INTERNAL_ERROR);
            }
            _ => say_grpc(respond, "5"),
        }
    });
    let (source, link) = net.link();
    let timed = one_cluster(&[1], |route, _| route.timeout = Some(Duration::from_secs(1)));
    source.snapshots.publish(logged(&timed, Some(LogFilter::All)));
    let channel = channel(&link);
    let get = |path: &str| Request::get(path).body(Full::new(Bytes::new())).unwrap();
    call(&channel, get("/slow")).await.unwrap_err();
    assert_eq!(ends(&lines), ["504  UT upstream_response_timeout"]);
    let response = call(&channel, get("/cut")).await.unwrap();
    response.into_body().collect().await.unwrap_err();
    assert_eq!(
        ends(&lines),
        ["200  UR upstream_reset_after_response_started{remote_reset}"]
    );
    call(&channel, grpc()).await.unwrap();
    assert_eq!(ends(&lines), ["200 5 - via_upstream"]);
    // Its caller goes away.
    drop(tokio::time::timeout(Duration::from_millis(5), call(&channel, get("/slow"))).await);
    assert_eq!(ends(&lines), ["0  DC downstream_remote_disconnect"]);
    let elsewhere = [
        (one_cluster(&[], |_, _| {}), "503  UH no_healthy_upstream"),
        (
            one_cluster(&[9], |route, _| route.retry = RetryPolicy::never()),
            "503  UF upstream_reset_before_response_started{connection_failure,tcp}",
        ),
    ];
    for (snapshot, end) in elsewhere {
        let (source, link) = net.link();
        source.snapshots.publish(logged(&snapshot, Some(LogFilter::All)));
        call(&super::net::channel(&link), get("/")).await.unwrap_err();
        assert_eq!(ends(&lines), [end]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_route_answers_or_no_route_takes_is_written_too() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let net = Net::default();
    let (source, link) = net.link();
    let mut own = Route::doing(Action::Respond(DirectResponse {
        status: http::StatusCode::IM_A_TEAPOT,
        body: Bytes::from_static(b"short"),
    }));
    own.matches.path = PathMatch::Exact("/own".into());
    let host = VirtualHost::new("t", vec![Domain::Any], vec![Arc::new(own)]);
    let tree = RouteTree::new("t", vec![host]);
    let snapshot = Snapshot::builder().target("t", Ok(Arc::new(tree))).build().unwrap();
    source.snapshots.publish(logged(&snapshot, Some(LogFilter::All)));
    let channel = channel(&link);
    let get = |path: &str| Request::get(path).body(Full::new(Bytes::new())).unwrap();
    call(&channel, get("/own")).await.unwrap();
    call(&channel, get("/other")).await.unwrap_err();
    assert_eq!(ends(&lines), ["418  - direct_response", "404  NR route_not_found"]);
}

#[tokio::test(start_paused = true)]
async fn the_filter_says_which_calls_are_written_and_without_one_none_is() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let net = Net::default();
    net.serve(1, |request, respond| async move {
        match request.uri().path() {
            "/bad" => say_status(respond, 500),
            _ => say(respond, "paid"),
        }
    });
    let (source, link) = net.link();
    let snapshot = one_cluster(&[1], |_, _| {});
    let ask = async |link: &Link| {
        let channel = channel(link);
        for path in ["/good", "/bad"] {
            let request = Request::get(path).body(Full::new(Bytes::new())).unwrap();
            let response = call(&channel, request).await.unwrap();
            response.into_body().collect().await.unwrap();
        }
    };
    for (filter, written) in [
        (None, &[][..]),
        (Some(LogFilter::All), &["200", "500"]),
        (Some(LogFilter::Status(Comparison::AtLeast, 400)), &["500"]),
        (Some(LogFilter::Share(Fraction::percent(0))), &[]),
    ] {
        source.snapshots.publish(logged(&snapshot, filter.clone()));
        ask(&link).await;
        let codes: Vec<String> = lines
            .take()
            .into_iter()
            .map(|line| line["response_code"].clone())
            .collect();
        assert_eq!(codes, written, "{filter:?}");
    }
    // By chance, half of them; the odds that fewer than 10 or more than 40 of 50 pass are below one in a million, and the draws seeded.
    let half = LogFilter::Share(Fraction::percent(50));
    source.snapshots.publish(logged(&snapshot, Some(half)));
    for _ in 0..25 {
        ask(&link).await;
    }
    let count = lines.take().len();
    assert!((10..=40).contains(&count), "{count}");
}

/// A call that leaves the straight way is written once, with all its tries.
#[tokio::test(start_paused = true)]
async fn tries_and_streams_are_one_line() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let net = Net::default();
    net.serve(1, |_, respond| async move { say_status(respond, 503) });
    net.serve(2, |_, respond| async move { say(respond, "paid") });
    let (source, link) = net.link();
    let mut route = Route::to(Split::all_to("c"));
    route.retry.on = RetryOn::parse("5xx");
    route.retry.explicit = true;
    let endpoints = [1, 2].map(|n| Endpoint::new(address(n)));
    let cluster = Cluster::new("c", TlsMode::Plaintext, endpoints.into());
    let snapshot = Snapshot::builder().route("t", route).cluster(cluster).build().unwrap();
    source.snapshots.publish(logged(&snapshot, Some(LogFilter::All)));
    let plain = channel(&link);
    for _ in 0..4 {
        let response = call(&plain, post("please")).await.unwrap();
        response.into_body().collect().await.unwrap();
    }
    let hosts: Vec<String> = lines
        .take()
        .into_iter()
        .map(|line| line["upstream_host"].clone())
        .collect();
    assert_eq!(hosts, ["10.0.0.2:80"; 4]);
    let streaming = crate::Channel::builder(&link, "xds:///t")
        .dangerous()
        .plaintext()
        .build();
    let body = super::streams::sized(3, 4, Duration::from_millis(1));
    let response = tower::ServiceExt::oneshot(streaming, Request::post("/s").body(body).unwrap()).await;
    response.unwrap().into_body().collect().await.unwrap();
    assert_eq!(lines.take().len(), 1);
}
