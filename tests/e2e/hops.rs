//! Chains of services, each a server and a client of the mesh, whose handlers know nothing of deadlines and retries: what is left
//! of a caller's time reaches the last of them, and what is tried again there is not multiplied on the way back.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use mesh_client::Channel;
use mesh_core::Link;
use mesh_core::config::{Cluster, Endpoint, RetryOn, RetryPolicy, Route, Snapshot, Split};
use mesh_core::testing::TestCa;
use mesh_server::{MeshLayer, RequestBody};
use tests::{PAYMENT, listener, mutual, soon};
use tower::{Layer as _, Service as _, service_fn};

type Answer = Response<Full<Bytes>>;

/// A member that can call `payment` at `next`.
fn member(ca: &TestCa, next: SocketAddr, change: impl FnOnce(&mut Route)) -> Link {
    let mut route = Route::to(Split::all_to("next"));
    change(&mut route);
    let cluster = Cluster::new("next", mutual(), vec![Endpoint::new(next)]);
    let snapshot = Snapshot::builder().route("payment", route).cluster(cluster);
    Link::fixed(snapshot.build().unwrap(), Some(ca.identity(PAYMENT)))
}

/// Serves `handler` as `link`'s member; where.
async fn serve<H, F>(link: &Link, handler: H) -> SocketAddr
where
    H: Fn(Request<RequestBody>) -> F + Clone + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let (socket, address) = listener().await;
    let answer = move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    };
    let app = MeshLayer::new(link).layer(service_fn(answer));
    tokio::spawn(mesh_server::serve(socket, link, app).into_future());
    address
}

async fn leaf<F>(ca: &TestCa, handler: impl Fn(Request<RequestBody>) -> F + Clone + Send + 'static) -> SocketAddr
where
    F: Future<Output = Answer> + Send + 'static,
{
    serve(&Link::fixed(Snapshot::empty(), Some(ca.identity(PAYMENT))), handler).await
}

fn status(code: u16) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::from_u16(code).unwrap();
    answer
}

/// Calls on as a handler does that hands the answer's status back.
async fn pass_on(link: &Link) -> Answer {
    let mut channel: Channel<Empty<Bytes>> = Channel::new(link, "payment");
    let request = Request::get("/").body(Empty::new()).unwrap();
    match channel.call(request).await {
        Ok(response) => status(response.status().as_u16()),
        Err(error) => status(error.status().as_u16()),
    }
}

async fn get(link: &Link, headers: &[(&str, &str)]) -> Result<Response<mesh_client::ResponseBody>, mesh_client::Error> {
    let mut channel: Channel<Empty<Bytes>> = Channel::new(link, "payment");
    let mut request = Request::get("/");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    soon("a call", channel.call(request.body(Empty::new()).unwrap())).await
}

fn expected(headers: &HeaderMap) -> Option<u128> {
    let value = headers.get("x-envoy-expected-rq-timeout-ms")?;
    Some(value.to_str().unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dl_1_what_is_left_of_a_callers_time_reaches_the_last_hop() {
    let ca = TestCa::new("cluster.local");
    let seen: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
    let log = Arc::clone(&seen);
    let last = leaf(&ca, move |request| {
        log.lock().unwrap().push(request.headers().clone());
        async { status(200) }
    })
    .await;
    let middle = member(&ca, last, |_| {});
    let spent: Arc<Mutex<u128>> = Arc::default();
    let (took, onward) = (Arc::clone(&spent), middle.clone());
    let hop = serve(&middle, move |_| {
        let (took, onward) = (Arc::clone(&took), onward.clone());
        async move {
            let begun = Instant::now();
            // Its own work.
            tokio::time::sleep(Duration::from_millis(60)).await;
            *took.lock().unwrap() = begun.elapsed().as_millis();
            pass_on(&onward).await
        }
    })
    .await;
    let patient = |millis| move |route: &mut Route| route.timeout = Some(Duration::from_millis(millis));
    let caller = member(&ca, hop, patient(20_000));
    assert_eq!(get(&caller, &[]).await.unwrap().status(), 200);
    let told = expected(&seen.lock().unwrap()[0]).unwrap();
    assert!(
        told <= 20_000 - *spent.lock().unwrap(),
        "{told} ms told, {spent:?} ms spent"
    );
    // One try gets no more than a try may take, however much is left.
    let clipped = member(&ca, hop, |route| {
        route.timeout = Some(Duration::from_secs(20));
        route.retry.per_try_timeout = Some(Duration::from_millis(15_000));
    });
    assert_eq!(get(&clipped, &[]).await.unwrap().status(), 200);
    let told = expected(&seen.lock().unwrap()[1]).unwrap();
    assert!(told <= 15_000 - *spent.lock().unwrap(), "{told}");
    // A caller who says nothing leaves the next free.
    assert_eq!(get(&member(&ca, hop, |_| {}), &[]).await.unwrap().status(), 200);
    assert_eq!(expected(&seen.lock().unwrap()[2]), None);
}

/// Tells when it is dropped before it is done.
struct Guard(Option<tokio::sync::mpsc::UnboundedSender<&'static str>>, &'static str);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(tell) = &self.0 {
            let _ = tell.send(self.1);
        }
    }
}

/// A caller that gives up ends the handlers of the whole chain, with nobody's help.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dl_3_a_cancelled_call_ends_every_handler_of_its_chain() {
    let ca = TestCa::new("cluster.local");
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let dropped = tell.clone();
    let last = leaf(&ca, move |_| {
        let (guard, begun) = (Guard(Some(dropped.clone()), "last"), begun.clone());
        async move {
            let _guard = guard;
            begun.send(()).unwrap();
            std::future::pending().await
        }
    })
    .await;
    let middle = member(&ca, last, |_| {});
    let onward = middle.clone();
    let hop = serve(&middle, move |_| {
        let (guard, onward) = (Guard(Some(tell.clone()), "hop"), onward.clone());
        async move {
            let _guard = guard;
            pass_on(&onward).await
        }
    })
    .await;
    let caller = member(&ca, hop, |_| {});
    let call = tokio::spawn(async move { get(&caller, &[]).await });
    soon("the last handler to begin", begins.recv()).await.unwrap();
    call.abort();
    let mut both = [
        soon("a handler to end", told.recv()).await.unwrap(),
        soon("a handler to end", told.recv()).await.unwrap(),
    ];
    both.sort_unstable();
    assert_eq!(both, ["hop", "last"]);
}

/// Three hops that may each try four times, above a leaf that is down: 64 tries of each call, were they to multiply.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rs_2_retries_do_not_multiply_along_a_chain() {
    const CALLS: usize = 200;
    let ca = TestCa::new("cluster.local");
    let storming = |route: &mut Route| {
        route.retry = RetryPolicy {
            on: RetryOn::parse("5xx"),
            retries: 3,
            explicit: true,
            ..RetryPolicy::default()
        };
    };
    let executed: [Arc<AtomicUsize>; 3] = Default::default();
    let [at_leaf, at_b, at_a] = executed.each_ref().map(Arc::clone);
    let last = leaf(&ca, move |_| {
        at_leaf.fetch_add(1, Ordering::Relaxed);
        async { status(503) }
    })
    .await;
    let hop = |next, count: Arc<AtomicUsize>| {
        let link = member(&ca, next, storming);
        async move {
            let onward = link.clone();
            serve(&link, move |_| {
                count.fetch_add(1, Ordering::Relaxed);
                let onward = onward.clone();
                async move { pass_on(&onward).await }
            })
            .await
        }
    };
    let b = hop(last, at_b).await;
    let a = hop(b, at_a).await;
    let root = member(&ca, a, storming);
    for _ in 0..CALLS {
        let answer = get(&root, &[]).await.unwrap();
        assert_eq!(answer.status(), 503);
        assert!(answer.headers().contains_key("x-envoy-overloaded"));
    }
    let [at_leaf, at_b, at_a] = executed.map(|count| count.load(Ordering::Relaxed));
    println!("{CALLS} calls: {at_a} at the first hop, {at_b} at the second, {at_leaf} at the leaf");
    assert_eq!((at_a, at_b), (CALLS, CALLS), "nobody repeats what was retried below");
    assert!(at_leaf > CALLS && at_leaf <= CALLS * 12 / 10, "{at_leaf}");
}

/// Which trace a request is part of, and what its logs call it, reaches the last hop, whose services know nothing of it: not its spawned
/// tasks, and not what an application says by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_holds_together_without_the_handlers_help() {
    const TOLD: [(&str, &str); 4] = [
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("tracestate", "vendor=1"),
        ("baggage", "user=7"),
        ("x-request-id", "a-till"),
    ];
    let ca = TestCa::new("cluster.local");
    let seen: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
    let log = Arc::clone(&seen);
    let last = leaf(&ca, move |request| {
        log.lock().unwrap().push(request.headers().clone());
        async { status(200) }
    })
    .await;
    let middle = member(&ca, last, |_| {});
    let onward = middle.clone();
    let hop = serve(&middle, move |_| {
        let onward = onward.clone();
        async move {
            // As it is, from a task that carries it, from one that does not, and with a word of its own.
            pass_on(&onward).await;
            let (carried, alone) = (onward.clone(), onward.clone());
            let carried = mesh_core::inherit::carry(async move { pass_on(&carried).await });
            tokio::spawn(carried).await.unwrap();
            tokio::spawn(async move { pass_on(&alone).await }).await.unwrap();
            get(&onward, &[("x-request-id", "own")]).await.unwrap();
            status(200)
        }
    })
    .await;
    let caller = member(&ca, hop, |_| {});
    assert_eq!(get(&caller, &TOLD).await.unwrap().status(), 200);
    let seen = seen.lock().unwrap();
    let of = |call: usize| TOLD.map(|(name, _)| seen[call].get(name).map(|value| value.to_str().unwrap()));
    let told = TOLD.map(|(_, value)| Some(value));
    assert_eq!([of(0), of(1), of(2)], [told, told, [None; 4]]);
    assert_eq!(of(3), [told[0], told[1], told[2], Some("own")]);
}
