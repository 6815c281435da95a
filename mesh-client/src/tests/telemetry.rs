//! What the room counts: one call for each call, whatever became of it, and by what its destination told of itself.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use mesh_core::Link;
use mesh_core::config::{Cluster, Endpoint, ExpectedPeers, Metadata, MutualTls, RetryOn, RetryPolicy, Route, Service};
use mesh_core::config::{Snapshot, Split, TlsMode};
use mesh_core::identity::tls::{ClientAuth, server_config};
use mesh_core::report::Exposition;
use mesh_core::report::standard::{PEER_METADATA, PeerMetadata, Workload};
use mesh_core::testing::TestCa;
use rustls::time_provider::DefaultTimeProvider;
use tower::Service as _;

use super::net::{
    Net, address, call, channel, grpc, grpc_status, one_cluster, post, say, say_grpc, say_status, silent,
};
use super::streams::sized;
use crate::Channel;

/// Labels and value of the samples of a name.
fn samples(link: &Link, name: &str) -> Vec<(String, f64)> {
    let mut out = Exposition::default();
    link.scrape(tokio::time::Instant::now().into_std(), &mut out);
    let of_name = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let labels = series.strip_prefix(name)?.strip_prefix('{')?.strip_suffix('}')?;
        Some((labels.to_owned(), value.parse().unwrap()))
    };
    out.text().lines().filter_map(of_name).collect()
}

/// A label of a series.
fn label<'a>(labels: &'a str, name: &str) -> &'a str {
    let begin = format!(",{name}=\"");
    let rest = labels.split(&begin).nth(1).unwrap_or_default();
    rest.split('"').next().unwrap_or_default()
}

/// Protocol, code, gRPC status and flags of all calls, each as often as there were calls.
pub(super) fn ends(link: &Link) -> Vec<String> {
    let mut ends = Vec::new();
    for (labels, count) in samples(link, "istio_requests_total") {
        let of = |name| label(&labels, name);
        let end = format!(
            "{} {} {} {}",
            of("request_protocol"),
            of("response_code"),
            of("grpc_response_status"),
            of("response_flags")
        );
        ends.extend(std::iter::repeat_n(end, count as usize));
    }
    ends.sort();
    ends
}

fn sum(link: &Link, name: &str) -> f64 {
    samples(link, name).into_iter().map(|(_, value)| value).sum()
}

fn workload(metadata: &str) -> Arc<Metadata> {
    Arc::new(Metadata::new([("istio", "workload", metadata)]).unwrap())
}

fn twice(route: &mut Route) {
    route.retry = RetryPolicy {
        on: RetryOn::parse("5xx,connect-failure"),
        explicit: true,
        retries: 1,
        ..RetryPolicy::default()
    };
}

#[tokio::test(start_paused = true)]
async fn a_call_is_one_whatever_it_took_and_its_destination_is_that_of_its_last_try() {
    let (net, calls) = (Net::default(), Arc::new(AtomicUsize::new(0)));
    for n in [1, 2] {
        let calls = Arc::clone(&calls);
        net.serve(n, move |_, respond| {
            let first = calls.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                match first {
                    true => say_status(respond, 503),
                    false => {
                        tokio::time::sleep(Duration::from_millis(40)).await;
                        say(respond, "paid");
                    }
                }
            }
        });
    }
    let (source, link) = net.link();
    link.describe(Workload::named("checkout", "shop"));
    source.snapshots.publish(one_cluster(&[1, 2], |route, cluster| {
        twice(route);
        let endpoints = [1, 2].map(|n| Endpoint {
            metadata: workload(&format!("payment-v{n};shop;payment;v{n};")),
            ..Endpoint::new(address(n))
        });
        cluster.endpoints = endpoints.into();
    }));
    let response = call(&channel(&link), post("please")).await.unwrap();
    let host = response.body().peer().unwrap();
    assert!(ends(&link).is_empty(), "it is not over");
    response.into_body().collect().await.unwrap();
    assert_eq!(
        (ends(&link), calls.load(Ordering::Relaxed)),
        (vec!["http 200  -".to_owned()], 2)
    );
    let version = if host == address(1) { "v1" } else { "v2" };
    let (labels, _) = &samples(&link, "istio_requests_total")[0];
    for (name, value) in [
        ("source_workload", "checkout"),
        ("destination_workload", &*format!("payment-{version}")),
        ("destination_canonical_service", "payment"),
        ("destination_canonical_revision", version),
        ("destination_workload_namespace", "shop"),
        // Who does not say where it is, is where its caller is.
        ("destination_cluster", "Kubernetes"),
        ("destination_service", "t"),
        ("source_principal", "unknown"),
        ("destination_principal", "unknown"),
    ] {
        assert_eq!(label(labels, name), value, "{name}");
    }
    assert!(sum(&link, "istio_request_duration_milliseconds_sum") >= 40.0);
    assert_eq!(sum(&link, "istio_request_bytes_sum"), 6.0);
    assert_eq!(sum(&link, "istio_response_bytes_sum"), 4.0);
}

#[tokio::test(start_paused = true)]
async fn flags_stand_in_envoys_order_and_a_failure_knows_whom_it_failed_at() {
    let net = Net::default();
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |route, cluster| {
        twice(route);
        let mut endpoints = cluster.endpoints.to_vec();
        endpoints[0].metadata = workload("payment-v1;shop;payment;v1;east");
        cluster.endpoints = endpoints.into();
        cluster.service = Some(Arc::new(Service::of_authority("payment.shop.svc.cluster.local")));
    }));
    let channel = channel(&link);
    let error = call(&channel, post("")).await.unwrap_err();
    assert_eq!(error.response_flags().to_string(), "URX,UF");
    grpc_status(call(&channel, grpc()).await.unwrap()).await;
    assert_eq!(ends(&link), ["grpc 200 14 UF,URX", "http 503  UF,URX"]);
    for (labels, _) in samples(&link, "istio_requests_total") {
        assert_eq!(label(&labels, "destination_workload"), "payment-v1");
        assert_eq!(label(&labels, "destination_cluster"), "east");
        assert_eq!(label(&labels, "destination_service"), "payment.shop.svc.cluster.local");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_counts_as_that() {
    let net = Net::default();
    net.serve(1, |_, respond| silent(respond));
    net.serve(2, |_, mut respond| async move {
        let mut body = respond.send_response(http::Response::new(()), false).unwrap();
        body.send_data(Bytes::from("some"), false).unwrap();
        std::future::pending::<()>().await;
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| ()));
    let waits = tokio::time::timeout(Duration::from_secs(1), call(&channel(&link), post(""))).await;
    assert!(waits.is_err());
    assert_eq!(ends(&link), ["http 0  DC"]);
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[2], |_, _| ()));
    let mut answer = call(&channel(&link), post("")).await.unwrap().into_body();
    answer.frame().await.unwrap().unwrap();
    drop(answer);
    assert_eq!(ends(&link), ["http 200  DC"]);
    assert_eq!(sum(&link, "istio_response_bytes_sum"), 4.0);
}

#[tokio::test(start_paused = true)]
async fn messages_are_counted_and_a_stream_by_what_it_sent() {
    let net = Net::default();
    net.serve(1, |mut request, mut respond| async move {
        while request.body_mut().data().await.is_some() {}
        let answer = http::Response::builder().header("content-type", "application/grpc");
        let mut body = respond.send_response(answer.body(()).unwrap(), false).unwrap();
        body.send_data(Bytes::from_static(b"\0\0\0\0\x01a\0\0\0\0"), false)
            .unwrap();
        body.send_data(Bytes::from_static(b"\0"), false).unwrap();
        let trailers = [("grpc-status".parse().unwrap(), "0".parse().unwrap())];
        body.send_trailers(http::HeaderMap::from_iter(trailers)).unwrap();
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| ()));
    let mut request = grpc();
    *request.body_mut() = Full::new(Bytes::from_static(b"\0\0\0\0\x02ab\0\0\0\0\0\0\0\0\0\0"));
    assert_eq!(grpc_status(call(&channel(&link), request).await.unwrap()).await.0, "0");
    assert_eq!(sum(&link, "istio_request_messages_total"), 3.0);
    assert_eq!(sum(&link, "istio_response_messages_total"), 2.0);
    assert_eq!(sum(&link, "istio_request_bytes_sum"), 17.0);
    let mut streams = Channel::builder(&link, "t").dangerous().plaintext().build();
    let stream = Request::post("/").body(sized(3, 10, Duration::from_millis(1))).unwrap();
    streams.call(stream).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(sum(&link, "istio_request_bytes_sum"), 17.0 + 30.0);
    assert_eq!(ends(&link), ["grpc 200 0 -", "http 200  -"]);
}

#[tokio::test(start_paused = true)]
async fn trailers_only_and_answers_without_a_status_are_what_their_caller_is_told() {
    let net = Net::default();
    net.serve(1, |request, respond| async move {
        match request.uri().path() {
            "/pkg.Service/Method" => say_grpc(respond, "5"),
            "/pkg.Service/Proxy" => say_status(respond, 429),
            _ => say(respond, "text"),
        }
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| ()));
    grpc_status(call(&channel(&link), grpc()).await.unwrap()).await;
    let mut request = grpc();
    *request.uri_mut() = "/pkg.Service/None".parse().unwrap();
    assert_eq!(grpc_status(call(&channel(&link), request).await.unwrap()).await.0, "2");
    // As a proxy answers.
    let mut request = grpc();
    *request.uri_mut() = "/pkg.Service/Proxy".parse().unwrap();
    assert_eq!(grpc_status(call(&channel(&link), request).await.unwrap()).await.0, "14");
    assert_eq!(ends(&link), ["grpc 200 2 -", "grpc 200 5 -", "grpc 429 14 -"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_routed_is_counted_by_whom_it_asked_for() {
    let net = Net::default();
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |route, _| {
        route.matches.path = mesh_core::config::PathMatch::Exact("/other".into());
    }));
    let mut request = post("");
    *request.uri_mut() = "http://cart.shop.svc.cluster.local/".parse().unwrap();
    call(&channel(&link), request).await.unwrap_err();
    assert_eq!(ends(&link), ["http 404  NR"]);
    let (labels, _) = &samples(&link, "istio_requests_total")[0];
    assert_eq!(label(labels, "destination_service"), "cart.shop.svc.cluster.local");
    assert_eq!(label(labels, "destination_workload"), "unknown");
}

const PAYMENT: &str = "spiffe://cluster.local/ns/shop/sa/payment";
const CHECKOUT: &str = "spiffe://cluster.local/ns/default/sa/checkout";

/// Its first request tells a peer of the mesh who calls and what for; nobody else is told.
#[tokio::test]
async fn a_peer_is_told_once_who_calls() {
    let (net, ca, told) = (
        Net::default(),
        TestCa::new("cluster.local"),
        Arc::<Mutex<Vec<_>>>::default(),
    );
    let tls = |alpn: &'static [u8]| {
        let identity = ca.identity(PAYMENT);
        server_config(&identity, ClientAuth::Required, Arc::new(DefaultTimeProvider), &[alpn]).unwrap()
    };
    let log = Arc::clone(&told);
    net.serve_with(
        1,
        h2::server::Builder::new(),
        Some(tls(b"h2")),
        move |request, respond| {
            log.lock().unwrap().push(request.headers().get(PEER_METADATA).cloned());
            async { say(respond, "ok") }
        },
    );
    let (source, link) = net.link();
    source.identity.publish(Ok(ca.identity(CHECKOUT)));
    link.describe(Workload::named("checkout-v1", "default"));
    let service = Service::of_authority("payment.shop.svc.cluster.local");
    let cluster = Cluster {
        service: Some(Arc::new(service.clone())),
        ..Cluster::new(
            "c",
            TlsMode::Mutual(MutualTls {
                expected: ExpectedPeers::exactly([PAYMENT]),
                sni: None,
                ..MutualTls::default()
            }),
            vec![Endpoint::new(address(1))],
        )
    };
    let route = Route::to(Split::all_to("c"));
    source
        .snapshots
        .publish(Snapshot::builder().route("t", route).cluster(cluster).build().unwrap());
    let channel = Channel::<Full<Bytes>>::new(&link, "t");
    for _ in 0..3 {
        let response = call(&channel, post("")).await.unwrap();
        response.into_body().collect().await.unwrap();
    }
    {
        let told = told.lock().unwrap();
        let [Some(first), None, None] = &told[..] else {
            panic!("the first alone: {told:?}");
        };
        let first = PeerMetadata::decode(first.as_bytes()).unwrap();
        assert_eq!((first.workload.name(), first.service), ("checkout-v1", Some(service)));
    }
    // The peer's certificate tells where it is, where its endpoint does not.
    let (labels, count) = &samples(&link, "istio_requests_total")[0];
    assert_eq!(*count, 3.0);
    for (name, value) in [
        ("source_principal", CHECKOUT),
        ("destination_principal", PAYMENT),
        ("destination_workload_namespace", "shop"),
        ("connection_security_policy", "unknown"),
    ] {
        assert_eq!(label(labels, name), value, "{name}");
    }
    // In plaintext nobody is told anything.
    let log = Arc::clone(&told);
    net.serve(2, move |request, respond| {
        log.lock().unwrap().push(request.headers().get(PEER_METADATA).cloned());
        async { say(respond, "ok") }
    });
    source.snapshots.publish(one_cluster(&[2], |_, _| ()));
    while call(&super::net::channel(&link), post("")).await.is_err() {}
    assert_eq!(told.lock().unwrap().last(), Some(&None));
}
