//! Configuration that changes under calls: what they meet, what survives, what a storm of changes costs.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use mesh_core::Link;
use mesh_core::config::{
    Cluster, Endpoint, LbPolicy, Percent, Reason, ReasonKind, RetryOn, RetryPolicy, Route, Snapshot, Split, TlsMode,
    Version,
};
use tokio::sync::watch;
use tokio::time::Instant;
use tower::Service;

use super::net::{Net, Plain, address, call, channel, post, say, say_status, text};
use super::outliers::istio;
use crate::connect::Connecting;
use crate::{Channel, Error, ResponseBody, Routed, clusters, use_connector};

/// Lets the manager's task run.
async fn settled() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

/// Target `t`, all to plaintext `cluster` of these servers, by a route that is named after the version.
fn all_to(version: u64, cluster: &str, servers: &[u8], change: impl FnOnce(&mut Route, &mut Cluster)) -> Snapshot {
    let mut route = Route::to(Split::all_to(cluster));
    route.name = version.to_string().into();
    let endpoints = servers.iter().map(|n| Endpoint::new(address(*n))).collect();
    let mut cluster = Cluster::new(cluster, TlsMode::Plaintext, endpoints);
    change(&mut route, &mut cluster);
    let builder = Snapshot::builder().version(Version(version)).route("t", route);
    builder.cluster(cluster).build().unwrap()
}

/// A layer of the application's: it sees which version routed each call, and can hold calls back.
#[derive(Clone)]
struct Watch<S> {
    inner: S,
    routed: Arc<Mutex<Vec<u64>>>,
    held: watch::Receiver<bool>,
}

impl<S> Service<Request<Routed<Full<Bytes>>>> for Watch<S>
where
    S: Service<Request<Routed<Full<Bytes>>>, Response = Response<ResponseBody>, Error = Error> + Clone,
    S: Send + 'static,
    S::Future: Send,
{
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Routed<Full<Bytes>>>) -> Self::Future {
        let version = request.body().route().name.parse().unwrap();
        self.routed.lock().unwrap().push(version);
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let mut held = self.held.clone();
        Box::pin(async move {
            held.wait_for(|held| !held).await.unwrap();
            inner.call(request).await
        })
    }
}

/// A channel with that layer; what it saw, and what holds calls back.
fn watching(link: &Link) -> (Plain, Arc<Mutex<Vec<u64>>>, watch::Sender<bool>) {
    let (routed, (hold, held)) = (Arc::<Mutex<Vec<u64>>>::default(), watch::channel(false));
    let seen = Arc::clone(&routed);
    let layer = tower::layer::layer_fn(move |inner| Watch {
        inner,
        routed: Arc::clone(&seen),
        held: held.clone(),
    });
    let channel = Channel::builder(link, "t")
        .per_call(layer)
        .dangerous()
        .plaintext()
        .build();
    (channel, routed, hold)
}

/// Calls that were routed, and calls whose host was picked and is being dialled, when their route and cluster go away.
#[tokio::test]
async fn hs_2_what_was_decided_is_carried_out_though_route_and_cluster_are_gone() {
    for gone in [false, true] {
        let net = Net::default();
        net.serve(1, |_, respond| async { say(respond, "old") });
        net.serve(2, |_, respond| async { say(respond, "new") });
        let (source, link) = Link::new(mesh_core::link::Parts::default());
        let (open, opened) = watch::channel(false);
        let dialled = net.clone();
        use_connector(&link, move |address| -> Connecting {
            let (net, mut opened) = (dialled.clone(), opened.clone());
            Box::pin(async move {
                opened.wait_for(|open| *open).await.unwrap();
                net.connect(address)
            })
        })
        .unwrap();
        source.snapshots.publish(all_to(1, "old", &[1], |_, _| {}));
        let (channel, routed, hold) = watching(&link);
        let begin = |count: usize| -> Vec<_> {
            let one = || {
                let channel = channel.clone();
                tokio::spawn(async move { text(call(&channel, post("")).await.unwrap()).await })
            };
            (0..count).map(|_| one()).collect()
        };
        // Picked, and waiting for the dial.
        let mut calls = begin(50);
        settled().await;
        // Routed, and not yet picked.
        hold.send(true).unwrap();
        calls.extend(begin(50));
        settled().await;
        assert_eq!(routed.lock().unwrap().len(), 100);
        let next = match gone {
            false => all_to(2, "new", &[2], |_, _| {}),
            true => {
                let reason = Reason::new(ReasonKind::NoListener, "no listener t");
                let builder = Snapshot::builder().version(Version(2)).target("t", Err(reason));
                builder.build().unwrap()
            }
        };
        source.snapshots.publish(next);
        settled().await;
        assert_eq!(**link.applied().load(), Version(2));
        hold.send(false).unwrap();
        open.send(true).unwrap();
        for call in calls {
            assert_eq!(call.await.unwrap(), "old");
        }
        match gone {
            false => assert_eq!(text(call(&channel, post("")).await.unwrap()).await, "new"),
            true => assert!(call(&channel, post("")).await.unwrap_err().is_no_route()),
        }
    }
}

/// From the moment that a version is said to be applied, no call begins by an older one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hs_4_a_call_that_begins_after_a_version_was_applied_is_routed_by_it() {
    let net = Net::default();
    net.serve(1, |_, respond| async { say(respond, "ok") });
    let (source, link) = net.link();
    source.snapshots.publish(all_to(1, "c", &[1], |_, _| {}));
    let (channel, ..) = watching(&link);
    text(call(&channel, post("")).await.unwrap()).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for _ in 0..2 {
        let (link, done) = (link.clone(), Arc::clone(&done));
        // Each with a layer of its own: its calls come one after the other.
        let (channel, routed, _hold) = watching(&link);
        readers.push(tokio::spawn(async move {
            let mut calls = 0u64;
            while !done.load(Ordering::Relaxed) {
                let applied = link.applied().load().0;
                text(call(&channel, post("")).await.unwrap()).await;
                let by = routed.lock().unwrap().pop().unwrap();
                let published = link.snapshots().load().version().0;
                assert!(applied <= by && by <= published, "{applied} <= {by} <= {published}");
                calls += 1;
            }
            calls
        }));
    }
    let mut applied = 0;
    for version in 2..=300 {
        source.snapshots.publish(all_to(version, "c", &[1], |_, _| {}));
        text(call(&channel, post("")).await.unwrap()).await;
        applied = link.applied().load().0;
    }
    crate::wait::until(&link.applied(), |version| *version == Version(300)).await;
    done.store(true, Ordering::Relaxed);
    let mut calls = 0;
    for reader in readers {
        calls += reader.await.unwrap();
    }
    assert!(calls > 0 && applied > 1, "{calls} {applied}");
}

/// A writer that stops in the middle of publishing, and a reconciliation that stops in the middle, keep no call waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hs_4_a_writer_that_is_stuck_keeps_no_call_waiting() {
    let net = Net::default();
    net.serve(1, |_, respond| async { say(respond, "ok") });
    let (source, link) = net.link();
    source.snapshots.publish(all_to(1, "c", &[1], |_, _| {}));
    let channel = channel(&link);
    text(call(&channel, post("")).await.unwrap()).await;
    let stuck = |what: &'static str| {
        let (entered, is_in) = mpsc::channel::<&str>();
        let (release, released) = mpsc::channel::<()>();
        let released = Mutex::new(released);
        let callback = move || {
            // Whoever is not first finds nobody listening.
            if entered.send(what).is_ok() {
                let _ = released.lock().unwrap().recv();
            }
        };
        (callback, is_in, release)
    };
    // In the midst of publishing: the value is stored, and nobody was told yet.
    let (callback, is_in, release) = stuck("publish");
    let subscription = link.snapshots().on_change(callback);
    let source = Arc::new(source);
    let publisher = Arc::clone(&source);
    let writer = std::thread::spawn(move || publisher.snapshots.publish(all_to(2, "c", &[1], |_, _| {})));
    assert_eq!(is_in.recv().unwrap(), "publish");
    for _ in 0..200 {
        text(call(&channel, post("")).await.unwrap()).await;
    }
    drop((is_in, release));
    writer.join().unwrap();
    drop(subscription);
    // In the midst of reconciling: selectors are stored, and the manager's own lock is held.
    let (callback, is_in, release) = stuck("reconcile");
    let subscription = link.applied().on_change(callback);
    let (runtime, other) = (tokio::runtime::Handle::current(), link.clone());
    let reconciler = std::thread::spawn(move || {
        let _runtime = runtime.enter();
        drop(super::net::channel(&other));
        drop(Plain::new(&other, "another"));
    });
    assert_eq!(is_in.recv().unwrap(), "reconcile");
    for _ in 0..200 {
        text(call(&channel, post("")).await.unwrap()).await;
    }
    drop((is_in, release));
    reconciler.join().unwrap();
    drop(subscription);
}

/// A hundred swaps a second while every server fails, with retries on. The bound of retries is that of a quiet time, ejections
/// last as long as they were meant to, and what is counted only grows.
#[tokio::test(start_paused = true)]
async fn hs_5_budgets_and_ejections_hold_through_a_hundred_swaps_a_second() {
    const SECONDS: u64 = 20;
    const CALLS_PER_SWAP: u64 = 5;
    let net = Net::default();
    let served: Arc<Mutex<HashMap<u8, u64>>> = Arc::default();
    for n in 1..=5 {
        let served = Arc::clone(&served);
        net.serve(n, move |_, respond| {
            *served.lock().unwrap().entry(n).or_default() += 1;
            async move { say_status(respond, 503) }
        });
    }
    let (source, link) = net.link();
    let snapshot = |swap: u64| {
        // Endpoint 1 leaves for a tenth of a second every second; the order, a limit and a timeout change each time.
        let mut servers = match swap % 100 {
            50..60 => vec![2, 3, 4, 5],
            _ => vec![1, 2, 3, 4, 5],
        };
        servers.rotate_left(swap as usize % 4);
        all_to(swap, "c", &servers, |route, cluster| {
            route.timeout = Some(Duration::from_secs(10 + swap % 7));
            route.retry = RetryPolicy {
                retries: 3,
                on: RetryOn::parse("5xx"),
                explicit: true,
                ..RetryPolicy::default()
            };
            cluster.lb = LbPolicy::RoundRobin;
            cluster.breakers.default.max_requests = 1_000 + swap as u32;
            let mut detection = istio();
            detection.max_ejection_percent = Percent::new(50).unwrap();
            detection.base_ejection_time = Duration::from_secs(3);
            detection.interval = Duration::from_secs(1);
            cluster.outlier = Some(detection);
        })
    };
    source.snapshots.publish(snapshot(0));
    let channel = channel(&link);
    let mut until: HashMap<SocketAddr, Instant> = HashMap::new();
    let (mut counted, mut calls, mut ejections) = (0, 0, 0);
    for swap in 1..=SECONDS * 100 {
        source.snapshots.publish(snapshot(swap));
        settled().await;
        let before = served.lock().unwrap().clone();
        let out: HashMap<SocketAddr, Duration> = {
            let [cluster] = &clusters(&link)[..] else {
                panic!("one cluster")
            };
            assert!(cluster.ejected.len() * 2 <= cluster.endpoints);
            cluster.ejected.iter().map(|one| (one.address, one.remaining)).collect()
        };
        let now = Instant::now();
        for (address, left) in &out {
            let ends = now + *left;
            ejections += usize::from(until.insert(*address, ends).is_none_or(|known| known < now));
            assert!(until[address] == ends);
        }
        // Whoever was out and whose time has not come is out still, or is no endpoint at the moment. But where endpoints left or
        // returned, and more would be out than may be: then as many are out as may, and the rest came back early.
        let absent = (50..60).contains(&(swap % 100)).then(|| address(1));
        until.retain(|address, ends| {
            let stays = *ends <= now || out.contains_key(address) || absent == Some(*address);
            let full = matches!(swap % 100, 50 | 60) && out.len() == 2;
            assert!(stays || full, "{address} at swap {swap}");
            stays
        });
        for _ in 0..CALLS_PER_SWAP {
            calls += 1;
            assert_eq!(call(&channel, post("")).await.unwrap().status(), 503);
        }
        let after = served.lock().unwrap().clone();
        for n in (1..=5u8).filter(|n| out.contains_key(&address(*n))) {
            assert_eq!(after.get(&n), before.get(&n), "server {n} is out at swap {swap}");
        }
        let total: u64 = link.tally().all().iter().map(|(_, _, count)| count).sum();
        assert!(total >= counted);
        counted = total;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let tries: u64 = served.lock().unwrap().values().sum();
    assert!(tries * 10 <= calls * 12 + 100, "{tries} tries of {calls} calls");
    assert!(ejections >= 4, "{ejections}");
}

/// How often the living were reconciled with the wanted.
fn reconciliations(link: &Link) -> (Arc<AtomicUsize>, Arc<AtomicU64>, mesh_core::live::Subscription) {
    let (count, last) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
    let (counter, newest, applied) = (Arc::clone(&count), Arc::clone(&last), link.applied());
    let subscription = link.applied().on_change(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        let version = applied.load().0;
        assert!(newest.swap(version, Ordering::Relaxed) <= version, "order is kept");
    });
    (count, last, subscription)
}

#[tokio::test(start_paused = true)]
async fn hs_6_a_storm_of_changes_costs_few_reconciliations_and_ends_at_the_last() {
    let net = Net::default();
    net.serve(1, |_, respond| async { say(respond, "ok") });
    let (source, link) = net.link();
    source.snapshots.publish(all_to(1, "c", &[1], |_, _| {}));
    let (channel, routed, _hold) = watching(&link);
    text(call(&channel, post("")).await.unwrap()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (count, last, _subscription) = reconciliations(&link);
    // A thousand in one instant are one.
    for version in 2..=1_001 {
        source.snapshots.publish(all_to(version, "c", &[1], |_, _| {}));
    }
    settled().await;
    assert_eq!(
        (count.swap(0, Ordering::Relaxed), last.load(Ordering::Relaxed)),
        (1, 1_001)
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    // A thousand in a second are the burst and one every 10 ms, and no call waits for any of them.
    let begun = Instant::now();
    for version in 1_002..=2_001 {
        source.snapshots.publish(all_to(version, "c", &[1], |_, _| {}));
        text(call(&channel, post("")).await.unwrap()).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(begun.elapsed(), Duration::from_secs(1));
    let in_storm = count.swap(0, Ordering::Relaxed);
    assert!((50..=120).contains(&in_storm), "{in_storm}");
    // The last takes effect within one distance, and the next one alone at once.
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(last.load(Ordering::Relaxed), 2_001);
    assert_eq!(net.dials(), 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    source.snapshots.publish(all_to(2_002, "c", &[1], |_, _| {}));
    settled().await;
    text(call(&channel, post("")).await.unwrap()).await;
    assert_eq!(routed.lock().unwrap().pop(), Some(2_002));
}

/// A, B, A: what A had is found again.
#[tokio::test(start_paused = true)]
async fn hs_6_a_flap_loses_neither_connections_nor_calls() {
    let net = Net::default();
    for n in [1, 2] {
        net.serve(n, |_, respond| async { say(respond, "ok") });
    }
    let (source, link) = net.link();
    let a = |version| all_to(version, "a", &[1], |_, _| {});
    let b = |version| all_to(version, "b", &[2], |_, _| {});
    source.snapshots.publish(a(1));
    let (channel, routed, _hold) = watching(&link);
    for version in 1..=200 {
        source
            .snapshots
            .publish(if version % 2 == 1 { a(version) } else { b(version) });
        settled().await;
        text(call(&channel, post("")).await.unwrap()).await;
        let by = routed.lock().unwrap().pop().unwrap();
        assert!(by == version || by + 1 == version, "{by} at {version}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((net.dials_to(1), net.dials_to(2)), (1, 1));
    // And when the middle is never seen, nothing happened at all.
    source.snapshots.publish(b(201));
    source.snapshots.publish(a(202));
    settled().await;
    text(call(&channel, post("")).await.unwrap()).await;
    assert_eq!((routed.lock().unwrap().pop(), net.dials()), (Some(202), 2));
}
