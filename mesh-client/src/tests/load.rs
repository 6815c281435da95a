//! What is counted for load reports, and calls that are dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Response};
use mesh_core::Link;
use mesh_core::config::{
    Cluster, DropOverload, Endpoint, LoadReporting, Locality, ReportedMetric, RetryOn, RetryPolicy, Route, Snapshot,
    Split, TlsMode, Version,
};
use mesh_core::report::{ClusterLoad, Counts, Figure, LoadReader};

use super::net::{Net, address, call, channel, grpc, grpc_status, one_cluster, post, say, say_status, silent, text};

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn reader(link: &Link) -> LoadReader {
    link.loads().reader(now())
}

/// What the only cluster that there is something to tell of is told of.
#[track_caller]
fn only(reader: &LoadReader) -> ClusterLoad {
    let clusters = reader.take(now()).clusters;
    let [cluster] = &clusters[..] else {
        panic!("not one cluster: {clusters:?}")
    };
    cluster.clone()
}

fn counts(issued: u64, succeeded: u64, errored: u64, in_progress: u64) -> Counts {
    Counts {
        issued,
        succeeded,
        errored,
        in_progress,
    }
}

fn asking(cluster: &mut Cluster) {
    cluster.load_reporting = Some(LoadReporting::of("eds"));
}

/// Answers a gRPC call with a status and what else the trailers say.
fn answer(mut respond: SendResponse<Bytes>, status: &'static str, more: &[(&'static str, &'static str)]) {
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    for (name, value) in more {
        trailers.insert(*name, HeaderValue::from_static(value));
    }
    body.send_trailers(trailers).unwrap();
}

#[tokio::test]
async fn calls_are_counted_where_they_went() {
    let net = Net::default();
    net.serve(1, |_, respond| async { answer(respond, "0", &[]) });
    net.serve(2, |_, respond| async { answer(respond, "5", &[]) });
    let (source, link) = net.link();
    let reader = reader(&link);
    let place = |n: u8, zone: &str| Endpoint {
        locality: Arc::new(Locality {
            zone: zone.into(),
            ..Locality::default()
        }),
        ..Endpoint::new(address(n))
    };
    let publish = |version: u64, zones: [&str; 2], asked: bool| {
        let endpoints = vec![place(1, zones[0]), place(2, zones[1])];
        let mut cluster = Cluster::new("c", TlsMode::Plaintext, endpoints);
        cluster.lb = mesh_core::config::LbPolicy::RoundRobin;
        if asked {
            asking(&mut cluster);
        }
        let builder = Snapshot::builder().version(Version(version));
        let builder = builder.route("t", Route::to(Split::all_to("c")));
        source.snapshots.publish(builder.cluster(cluster).build().unwrap());
    };
    publish(1, ["a", "b"], true);
    let channel = channel(&link);
    let ten_calls = async || {
        for _ in 0..10 {
            grpc_status(call(&channel, grpc()).await.unwrap()).await;
        }
    };
    ten_calls().await;
    let told = only(&reader);
    assert_eq!((told.cluster.as_str(), &*told.service), ("c", "eds"));
    let by_zone = |told: &ClusterLoad| -> Vec<(String, Counts)> {
        let zones = told.localities.iter();
        zones.map(|one| (one.locality.zone.to_string(), one.counts)).collect()
    };
    let halves = |good: &str, bad: &str| {
        vec![
            (good.to_owned(), counts(5, 5, 0, 0)),
            (bad.to_owned(), counts(5, 0, 5, 0)),
        ]
    };
    assert_eq!(by_zone(&told), halves("a", "b"));

    // The hosts stay, with their connections; where they stand changed.
    publish(2, ["c", "d"], true);
    settled(&link).await;
    ten_calls().await;
    let told = only(&reader);
    assert_eq!(by_zone(&told)[by_zone(&told).len() - 2..], halves("c", "d"));
    assert_eq!(net.dials(), 2);

    publish(3, ["c", "d"], false);
    settled(&link).await;
    ten_calls().await;
    assert!(reader.take(now()).clusters.iter().all(ClusterLoad::is_quiet));
    reader.take(now());
    assert!(link.loads().is_empty(), "nobody asks, so nothing is kept");
}

/// Lets the manager's task run: it was woken by the publish, and the runtime is this thread's.
async fn settled(link: &Link) {
    let version = link.snapshots().load().version();
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
    assert_eq!(**link.applied().load(), version);
}

#[tokio::test]
async fn plain_http_counts_5xx_and_no_answer_as_errors() {
    let net = Net::default();
    net.serve(1, |request, respond| async move {
        match request.uri().path() {
            "/404" => say_status(respond, 404),
            "/503" => say_status(respond, 503),
            "/silent" => silent(respond).await,
            _ => say(respond, "ok"),
        }
    });
    let (source, link) = net.link();
    let reader = reader(&link);
    source.snapshots.publish(one_cluster(&[1], |route, cluster| {
        route.retry = RetryPolicy::never();
        asking(cluster);
    }));
    let channel = channel(&link);
    let get = |path: &str| {
        let mut request = post("");
        *request.uri_mut() = path.parse().unwrap();
        call(&channel, request)
    };
    text(get("/200").await.unwrap()).await;
    for path in ["/404", "/503"] {
        drop(get(path).await.unwrap());
    }
    let waiting = {
        let channel = channel.clone();
        let mut request = post("");
        *request.uri_mut() = "/silent".parse().unwrap();
        tokio::spawn(async move { call(&channel, request).await.map(drop) })
    };
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    assert_eq!(only(&reader).counts(), counts(4, 2, 1, 1));
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    assert_eq!(only(&reader).counts(), counts(0, 0, 1, 0));
}

#[tokio::test]
async fn what_an_endpoint_reports_of_itself_is_passed_on_as_far_as_it_is_asked_for() {
    // cpu_utilization 0.5, named_metrics q = 2.
    const BINARY: (&str, &str) = ("endpoint-load-metrics-bin", "CQAAAAAAAOA/QgwKAXERAAAAAAAAAEA=");
    let net = Net::default();
    net.serve(1, |_, respond| async { answer(respond, "0", &[BINARY]) });
    let (source, link) = net.link();
    let reader = reader(&link);
    source.snapshots.publish(one_cluster(&[1], |_, cluster| {
        cluster.load_reporting = Some(LoadReporting {
            metrics: Arc::new([ReportedMetric::CpuUtilization, ReportedMetric::Named("q".into())]),
            ..LoadReporting::of("c")
        });
    }));
    let channel = channel(&link);
    for _ in 0..2 {
        grpc_status(call(&channel, grpc()).await.unwrap()).await;
    }
    let figure = |sum| Figure { calls: 2, sum };
    let expected = [
        ("cpu_utilization".into(), figure(1.0)),
        ("named_metrics.q".into(), figure(4.0)),
    ];
    assert_eq!(only(&reader).localities[0].figures, expected.into());
}

#[tokio::test]
async fn a_dropped_call_is_typed_counted_and_not_tried_again() {
    let net = Net::default();
    let served = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&served);
    net.serve(1, move |_, respond| {
        counter.fetch_add(1, Ordering::Relaxed);
        async { answer(respond, "0", &[]) }
    });
    let (source, link) = net.link();
    let reader = reader(&link);
    let overload = |category: &str, per_million| DropOverload {
        category: category.into(),
        per_million,
    };
    source.snapshots.publish(one_cluster(&[1], |route, cluster| {
        route.retry = RetryPolicy {
            on: RetryOn::parse("unavailable,reset,connect-failure"),
            explicit: true,
            ..RetryPolicy::default()
        };
        cluster.drops = Arc::new([overload("none", 0), overload("all", 1_000_000)]);
        asking(cluster);
    }));
    let channel = channel(&link);
    let error = call(&channel, post("")).await.unwrap_err();
    assert!(
        error.is_dropped() && error.is_unavailable() && !error.may_have_been_processed(),
        "{error}"
    );
    assert_eq!((error.response_flag(), error.status().as_u16()), ("DO", 503));
    let (code, message) = grpc_status(call(&channel, grpc()).await.unwrap()).await;
    assert_eq!(code, "14");
    assert!(message.contains("all"), "{message}");
    let told = only(&reader);
    assert_eq!(told.drops, [("all".into(), 2)].into());
    assert_eq!(
        (told.dropped(), told.counts(), served.load(Ordering::Relaxed)),
        (2, Counts::default(), 0)
    );
}

#[tokio::test]
async fn a_share_of_the_calls_is_dropped_and_the_others_are_made() {
    let net = Net::default();
    net.serve(1, |_, respond| async { answer(respond, "0", &[]) });
    let (source, link) = net.link();
    let reader = reader(&link);
    source.snapshots.publish(one_cluster(&[1], |_, cluster| {
        cluster.drops = Arc::new([DropOverload {
            category: "lb".into(),
            per_million: 300_000,
        }]);
        asking(cluster);
    }));
    let channel = channel(&link);
    for _ in 0..2_000 {
        grpc_status(call(&channel, grpc()).await.unwrap()).await;
    }
    let told = only(&reader);
    // 600 expected, sd 20.5: five standard deviations.
    assert!((498..=702).contains(&told.dropped()), "{}", told.dropped());
    assert_eq!(told.counts().succeeded + told.dropped(), 2_000);
}

#[tokio::test]
async fn a_call_over_the_limit_is_a_drop_without_a_category() {
    let net = Net::default();
    let (source, link) = net.link();
    let reader = reader(&link);
    source.snapshots.publish(one_cluster(&[1], |_, cluster| {
        cluster.breakers.default.max_requests = 0;
        asking(cluster);
    }));
    assert!(call(&channel(&link), post("")).await.unwrap_err().is_overflow());
    let told = only(&reader);
    assert_eq!(
        (told.uncategorised_drops, told.drops.len(), told.counts()),
        (1, 0, Counts::default())
    );
}
