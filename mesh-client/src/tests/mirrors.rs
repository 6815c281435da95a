//! Copies of calls, and that nobody is hurt by them.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame};
use http_body_util::Full;
use mesh_core::config::{Action, Cluster, Endpoint, Fraction, Mirror, Route, Snapshot, Split, TlsMode};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tower::Service as _;

use super::net::{Net, Plain, address, call, channel, post, say, say_status, silent, text};
use crate::Channel;
use crate::mirror::{MAX_BODY_BYTES, MAX_COPIES, MAX_TIME};

/// Calls go to server 1, copies to cluster `m` at server 2.
fn mirrored(change: impl FnOnce(&mut Mirror, &mut Route)) -> Snapshot {
    let mut mirror = Mirror {
        cluster: "m".into(),
        fraction: None,
        shadow_suffix: true,
    };
    let mut route = Route::to(Split::all_to("c"));
    change(&mut mirror, &mut route);
    if let Action::Forward(forward) = &mut route.action {
        forward.mirrors.push(mirror);
    }
    let cluster = |name: &str, n| {
        let mut cluster = Cluster::new(name, TlsMode::Plaintext, vec![Endpoint::new(address(n))]);
        cluster.breakers.default.max_requests = 100_000;
        cluster
    };
    Snapshot::builder()
        .route("t", route)
        .cluster(cluster("c", 1))
        .cluster(cluster("m", 2))
        .build()
        .unwrap()
}

/// Server 1 answers; what comes to server 2 is told.
fn servers() -> (Net, mpsc::UnboundedReceiver<(String, http::HeaderMap, Bytes)>) {
    let net = Net::default();
    net.serve(1, |_, respond| async { say(respond, "ok") });
    let (seen, copies) = mpsc::unbounded_channel();
    net.serve(2, move |request, respond| {
        let seen = seen.clone();
        async move {
            let (parts, mut body) = request.into_parts();
            let mut all = Vec::new();
            while let Some(Ok(data)) = body.data().await {
                all.extend_from_slice(&data);
                let _ = body.flow_control().release_capacity(data.len());
            }
            seen.send((parts.uri.to_string(), parts.headers, all.into())).unwrap();
            // Whatever it says, nobody hears it.
            say_status(respond, 500);
        }
    });
    (net, copies)
}

#[tokio::test]
async fn a_copy_has_the_head_and_the_body_and_a_shadows_name() {
    let (net, mut copies) = servers();
    let (source, link) = net.link();
    source.snapshots.publish(mirrored(|_, _| {}));
    let channel = channel(&link);
    for (uri, expected) in [
        ("/a?b", "http://t-shadow/a?b"),
        ("http://shop:81/a", "http://shop-shadow:81/a"),
        ("http://[::1]:81/a", "http://[::1]:81/a"),
    ] {
        let request = Request::post(uri)
            .header("x-id", "7")
            .body(Full::new(Bytes::from_static(b"body")));
        let response = call(&channel, request.unwrap()).await.unwrap();
        assert_eq!(text(response).await, "ok");
        let (uri, headers, body) = copies.recv().await.unwrap();
        assert_eq!(
            (uri.as_str(), &*body, &headers["x-id"]),
            (expected, &b"body"[..], &"7".parse().unwrap())
        );
    }
    source
        .snapshots
        .publish(mirrored(|mirror, _| mirror.shadow_suffix = false));
    tokio::task::yield_now().await;
    call(&channel, post("")).await.unwrap();
    assert_eq!(copies.recv().await.unwrap().0, "http://t/pkg.Service/Method");
}

#[tokio::test(start_paused = true)]
async fn a_fraction_of_the_calls_is_copied_and_a_retry_is_not() {
    let (net, mut copies) = servers();
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    net.serve(1, move |_, mut respond| {
        let odd = counted.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        async move {
            if odd {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
            } else {
                say(respond, "ok");
            }
        }
    });
    let (source, link) = net.link();
    source
        .snapshots
        .publish(mirrored(|mirror, _| mirror.fraction = Some(Fraction::percent(25))));
    let channel = channel(&link);
    for _ in 0..1_000 {
        call(&channel, post("")).await.unwrap();
    }
    assert_eq!(tries.load(Ordering::Relaxed), 2_000);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut copied = 0;
    while copies.try_recv().is_ok() {
        copied += 1;
    }
    // 250 expected, sd 13.7: five standard deviations.
    assert!((181..=319).contains(&copied), "{copied}");
}

/// Each call is as quick and as good as without a copy: time does not pass for it at all.
async fn unharmed(channel: &Plain, calls: usize) {
    for _ in 0..calls {
        let begun = Instant::now();
        let response = call(channel, post("body")).await.unwrap();
        assert_eq!(text(response).await, "ok");
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_never_answers_neither_delays_nor_fails_a_call_and_holds_no_more_than_its_places() {
    let (net, _) = servers();
    let waiting = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&waiting);
    net.serve(2, move |_, respond| {
        count.fetch_add(1, Ordering::Relaxed);
        silent(respond)
    });
    let (source, link) = net.link();
    source.snapshots.publish(mirrored(|_, _| {}));
    let channel = channel(&link);
    unharmed(&channel, 10_000).await;
    let kept = u64::from(MAX_COPIES);
    assert_eq!(link.tally().get("mirror", "over_limit"), 10_000 - kept);
    assert!(waiting.load(Ordering::Relaxed) <= MAX_COPIES as usize);
    // They end by themselves, and make room.
    tokio::time::sleep(MAX_TIME + Duration::from_millis(1)).await;
    assert_eq!(link.tally().get("mirror", "timeout"), kept);
    unharmed(&channel, 1).await;
    assert_eq!(link.tally().get("mirror", "over_limit"), 10_000 - kept);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_is_dead_neither_delays_nor_fails_a_call() {
    let net = Net::default();
    net.serve(1, |_, respond| async { say(respond, "ok") });
    let (source, link) = net.link();
    source.snapshots.publish(mirrored(|_, _| {}));
    let channel = channel(&link);
    unharmed(&channel, 100).await;
    tokio::time::sleep(MAX_TIME).await;
    assert_eq!(link.tally().total("mirror"), 100, "{:?}", link.tally().all());
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_does_not_exist_is_counted_and_nothing_else() {
    let net = Net::default();
    net.serve(1, |_, respond| async { say(respond, "ok") });
    let (source, link) = net.link();
    let mut route = Route::to(Split::all_to("c"));
    if let Action::Forward(forward) = &mut route.action {
        forward.mirrors.push(Mirror {
            cluster: "gone".into(),
            fraction: None,
            shadow_suffix: true,
        });
    }
    let why = mesh_core::config::Reason::new(mesh_core::config::ReasonKind::NoCluster, "gone");
    let snapshot = Snapshot::builder()
        .route("t", route)
        .cluster(Cluster::new("c", TlsMode::Plaintext, vec![Endpoint::new(address(1))]))
        .resolved_cluster("gone".into(), Err(why));
    source.snapshots.publish(snapshot.build().unwrap());
    unharmed(&channel(&link), 1).await;
    assert_eq!(link.tally().get("mirror", "no_cluster"), 1);
}

/// Copies that hang leave room for the calls that go to the same cluster.
#[tokio::test(start_paused = true)]
async fn copies_take_at_most_half_of_what_their_cluster_allows() {
    let net = Net::default();
    let (copied, told) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, others) = (Arc::clone(&copied), Arc::clone(&told));
    net.serve(1, move |request, respond| {
        let shadow = request.uri().host().unwrap().ends_with("-shadow");
        (if shadow { &count } else { &others }).fetch_add(1, Ordering::Relaxed);
        async move {
            if shadow {
                silent(respond).await;
            } else {
                say(respond, "ok");
            }
        }
    });
    let (source, link) = net.link();
    source
        .snapshots
        .publish(super::net::one_cluster(&[1], |route, cluster| {
            cluster.breakers.default.max_requests = 10;
            if let Action::Forward(forward) = &mut route.action {
                forward.mirrors.push(Mirror {
                    cluster: "c".into(),
                    fraction: None,
                    shadow_suffix: true,
                });
            }
        }));
    unharmed(&channel(&link), 50).await;
    assert_eq!((copied.load(Ordering::Relaxed), told.load(Ordering::Relaxed)), (5, 50));
}

#[tokio::test(start_paused = true)]
async fn only_whole_bodies_of_a_bounded_size_are_copied() {
    let (net, mut copies) = servers();
    let (source, link) = net.link();
    source.snapshots.publish(mirrored(|_, _| {}));
    let channel = channel(&link);
    call(&channel, post(vec![7; MAX_BODY_BYTES + 1])).await.unwrap();
    assert_eq!(link.tally().get("mirror", "too_large"), 1);
    call(&channel, post(vec![7; MAX_BODY_BYTES])).await.unwrap();
    let (_, _, body) = copies.recv().await.unwrap();
    assert_eq!(body.len(), MAX_BODY_BYTES);
}

/// A body that is not there when it is first asked for.
struct Later(Option<Bytes>, bool);

impl Body for Later {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !std::mem::replace(&mut self.1, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_streams_is_sent_once_and_not_copied() {
    let (net, mut copies) = servers();
    let (source, link) = net.link();
    source.snapshots.publish(mirrored(|_, _| {}));
    let mut channel = Channel::builder(&link, "t").dangerous().plaintext().build();
    let body = Later(Some(Bytes::from_static(b"late")), false);
    let response = channel.call(Request::post("/a").body(body).unwrap()).await.unwrap();
    assert_eq!(text(response).await, "ok");
    assert_eq!(link.tally().get("mirror", "streaming"), 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(copies.try_recv().is_err());
}

/// The route's own timeout is the copy's, where it is the shorter.
#[tokio::test(start_paused = true)]
async fn a_copy_has_a_time_of_its_own() {
    let (net, _) = servers();
    net.serve(2, |_, respond| silent(respond));
    let (source, link) = net.link();
    source
        .snapshots
        .publish(mirrored(|_, route| route.timeout = Some(Duration::from_secs(3))));
    unharmed(&channel(&link), 1).await;
    tokio::time::sleep(Duration::from_millis(2_900)).await;
    assert_eq!(link.tally().total("mirror"), 0);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(link.tally().get("mirror", "timeout"), 1);
}
