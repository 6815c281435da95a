//! RES-8: what an application puts below retry is called when it is ready, and only then; and what it reserves is given back.
//!
//! tower lets a service panic when it is called without having been polled ready, and `ConcurrencyLimit` does. Whatever leads to a try
//! (the first, another after a failure, one beside a slow one, one with a copy) has to ask first, and wait within the call's time.

#![allow(clippy::print_stdout, reason = "the figures are shown with `--nocapture`")]

use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use mesh_core::config::{
    Abort, Action, Backoff, CallFilter, Cluster, Delay, Endpoint, Fault, FaultAbort, FaultDelay, Fraction, Mirror,
    PathRewrite, ReasonKind, Redirect, RetryOn, RetryPolicy, Rewrite, Route, Snapshot, Split, TlsMode,
};
use mesh_core::{Entropy, Link};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceExt as _};

use super::net::{Net, Plain, address, one_cluster, post, say, say_status, silent, text};
use super::storms::{held, live};
use super::streams;
use crate::error::Kind;
use crate::{Channel, Error, ResponseBody};

const MS: Duration = Duration::from_millis(1);

/// What a service says when it is asked whether it is ready.
#[derive(Clone)]
enum Says {
    Ready,
    After(Duration),
    Never,
    Refused(fn() -> Error),
}

/// Makes services that say this, one after the other, then are ready; and counts their calls.
#[derive(Clone, Default)]
struct Strict {
    says: Arc<Mutex<VecDeque<Says>>>,
    calls: Arc<AtomicUsize>,
}

impl Strict {
    fn saying(says: &[Says]) -> Self {
        Self {
            says: Arc::new(Mutex::new(says.iter().cloned().collect())),
            calls: Arc::default(),
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

impl<S> Layer<S> for Strict {
    type Service = Asked<S>;

    fn layer(&self, inner: S) -> Asked<S> {
        Asked {
            inner,
            strict: self.clone(),
            stands: Stands::Unasked,
        }
    }
}

/// Panics when it is called before it said that it is ready, and when it is asked after it said that it never will be.
struct Asked<S> {
    inner: S,
    strict: Strict,
    stands: Stands,
}

enum Stands {
    Unasked,
    Waits(Option<Pin<Box<Sleep>>>),
    Ready,
    Refused,
}

impl<S: Clone> Clone for Asked<S> {
    fn clone(&self) -> Self {
        self.strict.layer(self.inner.clone())
    }
}

impl<S, R> Service<R> for Asked<S>
where
    S: Service<R, Error = Error>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        ready!(self.inner.poll_ready(cx))?;
        loop {
            self.stands = match &mut self.stands {
                Stands::Unasked => match self.strict.says.lock().unwrap().pop_front() {
                    None | Some(Says::Ready) => Stands::Ready,
                    Some(Says::After(time)) => Stands::Waits(Some(Box::pin(tokio::time::sleep(time)))),
                    Some(Says::Never) => Stands::Waits(None),
                    Some(Says::Refused(error)) => {
                        self.stands = Stands::Refused;
                        return Poll::Ready(Err(error()));
                    }
                },
                Stands::Waits(None) => return Poll::Pending,
                Stands::Waits(Some(sleep)) => {
                    ready!(sleep.as_mut().poll(cx));
                    Stands::Ready
                }
                Stands::Ready => return Poll::Ready(Ok(())),
                Stands::Refused => panic!("asked again after it had failed"),
            };
        }
    }

    fn call(&mut self, request: R) -> S::Future {
        assert!(matches!(self.stands, Stands::Ready), "called without having been ready");
        self.stands = Stands::Unasked;
        self.strict.calls.fetch_add(1, Ordering::Relaxed);
        self.inner.call(request)
    }
}

fn strict(link: &Link, layer: &Strict) -> Plain {
    let builder = Channel::builder(link, "t").per_attempt(layer.clone());
    builder.dangerous().plaintext().build()
}

/// A channel whose tries take a permit each.
fn limited(link: &Link, permits: &Arc<Semaphore>) -> Plain {
    let layer = GlobalConcurrencyLimitLayer::with_semaphore(Arc::clone(permits));
    Channel::builder(link, "t")
        .per_attempt(layer)
        .dangerous()
        .plaintext()
        .build()
}

async fn call(channel: &Plain, request: Request<Full<Bytes>>) -> Result<Response<ResponseBody>, Error> {
    channel.clone().oneshot(request).await
}

fn policy(route: &mut Route, retries: u32) {
    route.retry = RetryPolicy {
        on: RetryOn::parse("5xx"),
        retries,
        backoff: Backoff::new(MS, None).unwrap(),
        explicit: true,
        ..RetryPolicy::default()
    };
}

fn hedged(route: &mut Route, slow: Duration) {
    policy(route, 2);
    route.retry.per_try_timeout = Some(slow);
    route.retry.hedge = true;
}

/// Server 1 answers its n-th request after `plan[n]`, with that status; 0 is silence. One that is not in the plan, at once with 200.
fn planned(net: &Net, plan: &'static [(u64, u16)]) -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    net.serve(1, move |_, mut respond| {
        let n = count.fetch_add(1, Ordering::Relaxed);
        async move {
            let (after, status) = plan.get(n).copied().unwrap_or((0, 200));
            if after > 0 {
                tokio::select! {
                    _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => return,
                    () = tokio::time::sleep(Duration::from_millis(after)) => {}
                }
            }
            match status {
                0 => silent(respond).await,
                200 => say(respond, "ok"),
                status => say_status(respond, status),
            }
        }
    });
    asked
}

#[tokio::test(start_paused = true)]
async fn res_8_nothing_is_called_without_having_been_ready() {
    let net = Net::default();
    let layer = Strict::default();
    planned(
        &net,
        &[
            // The first, and another after a failure.
            (0, 200),
            (0, 503),
            (0, 503),
            (0, 200),
            // Beside slow ones.
            (1_000, 200),
            (1_000, 200),
            (10, 200),
            // And after one that failed while another ran.
            (150, 503),
            (1_000, 200),
            (5, 200),
            // A body that is kept while it is sent.
            (0, 503),
            (0, 200),
        ],
    );
    let (source, link) = net.link();
    let channel = strict(&link, &layer);
    for (slow, tries) in [(None, 1), (None, 4), (Some(100 * MS), 7), (Some(100 * MS), 10)] {
        source.snapshots.publish(one_cluster(&[1], |route, _| match slow {
            None => policy(route, 2),
            Some(slow) => hedged(route, slow),
        }));
        tokio::time::sleep(20 * MS).await;
        // As many calls went well before that there is enough to pay with.
        let cluster = live(&link);
        for _ in 0..50 {
            cluster.budget().deposit();
            cluster.budget().succeeded();
        }
        assert_eq!(text(call(&channel, post("")).await.unwrap()).await, "ok");
        assert_eq!(layer.calls(), tries);
    }
    let builder = Channel::builder(&link, "t").per_attempt(layer.clone());
    let uploads: Channel<streams::Slow> = builder.dangerous().plaintext().build();
    let upload = Request::post("/up").body(streams::slow(2, MS)).unwrap();
    assert_eq!(text(uploads.oneshot(upload).await.unwrap()).await, "ok");
    assert_eq!(layer.calls(), 12);
}

/// Copies are no tries: what is below retry sees the call, and the copy goes its own way.
#[tokio::test(start_paused = true)]
async fn res_8_a_call_that_is_copied_is_asked_for_once() {
    let net = Net::default();
    planned(&net, &[(0, 503)]);
    let copies = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&copies);
    net.serve(2, move |_, respond| {
        count.fetch_add(1, Ordering::Relaxed);
        async move { say(respond, "copy") }
    });
    let (source, link) = net.link();
    let mut route = Route::to(Split::all_to("c"));
    policy(&mut route, 1);
    if let Action::Forward(forward) = &mut route.action {
        forward.mirrors.push(Mirror {
            cluster: "m".into(),
            fraction: None,
            shadow_suffix: true,
        });
    }
    let cluster = |name: &str, n| Cluster::new(name, TlsMode::Plaintext, vec![Endpoint::new(address(n))]);
    let builder = Snapshot::builder().route("t", route).cluster(cluster("c", 1));
    source
        .snapshots
        .publish(builder.cluster(cluster("m", 2)).build().unwrap());
    let layer = Strict::default();
    assert_eq!(text(call(&strict(&link, &layer), post("")).await.unwrap()).await, "ok");
    tokio::time::sleep(1_000 * MS).await;
    assert_eq!((layer.calls(), copies.load(Ordering::Relaxed)), (2, 1));
    assert_eq!(link.tally().total("mirror"), 0);
}

/// Calls that wait for their configuration, or are held up by a fault, are made by who was ready for them.
#[tokio::test(start_paused = true)]
async fn res_8_who_was_ready_for_a_call_that_waits_makes_it() {
    let net = Net::default();
    planned(&net, &[]);
    let (source, link) = net.link();
    let layer = Strict::default();
    let channel = strict(&link, &layer);
    let publish = async {
        tokio::time::sleep(100 * MS).await;
        source.snapshots.publish(faulty(
            Fault {
                delay: Some(FaultDelay {
                    fraction: Fraction::ALL,
                    delay: Delay::Fixed(100 * MS),
                }),
                ..Fault::default()
            },
            |_| {},
        ));
    };
    let (answer, ()) = tokio::join!(call(&channel, post("")), publish);
    assert_eq!(text(answer.unwrap()).await, "ok");
    assert_eq!(layer.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn res_8_a_concurrency_limit_below_retries_counts_every_try() {
    const CALLS: usize = 300;
    const PERMITS: usize = 2;
    let net = Net::default();
    let (asked, running, most) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let seen = Arc::new((asked, running, most));
    let of_server = Arc::clone(&seen);
    net.serve(1, move |_, respond| {
        let seen = Arc::clone(&of_server);
        async move {
            let n = seen.0.fetch_add(1, Ordering::Relaxed);
            let now = seen.1.fetch_add(1, Ordering::Relaxed) + 1;
            seen.2.fetch_max(now, Ordering::Relaxed);
            tokio::time::sleep(MS).await;
            seen.1.fetch_sub(1, Ordering::Relaxed);
            match n % 15 {
                14 => say_status(respond, 503),
                _ => say(respond, "ok"),
            }
        }
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |route, cluster| {
        policy(route, 3);
        cluster.breakers.default.retries.max = Some(CALLS as u32);
    }));
    let permits = Arc::new(Semaphore::new(PERMITS));
    let channel = limited(&link, &permits);
    channel.ready().await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..CALLS {
        let channel = channel.clone();
        calls.spawn(async move { text(call(&channel, post("x")).await.unwrap()).await });
    }
    while let Some(answer) = calls.join_next().await {
        assert_eq!(answer.unwrap(), "ok");
    }
    let tries = seen.0.load(Ordering::Relaxed);
    assert!(tries >= CALLS + CALLS / 15, "{tries}");
    assert_eq!(seen.2.load(Ordering::Relaxed), PERMITS);
    assert_eq!(permits.available_permits(), PERMITS);
    assert_eq!(held(&live(&link)), (0, 0, vec![0]));
    println!("RES-8: {CALLS} calls, {tries} tries, {PERMITS} at once");
}

/// A race needs a permit for each try. Without one the first goes on alone; if it fails, the other has its permit.
#[tokio::test(start_paused = true)]
async fn res_8_a_race_waits_for_a_permit_and_holds_nobody_up() {
    for (permits, plan, tries, took) in [
        (2, &[(300, 200), (50, 200)][..], 2, 150),
        (1, &[(300, 200)][..], 1, 300),
        (1, &[(300, 503), (50, 200)][..], 2, 350),
    ] {
        let net = Net::default();
        let asked = planned(&net, plan);
        let (source, link) = net.link();
        source
            .snapshots
            .publish(one_cluster(&[1], |route, _| hedged(route, 100 * MS)));
        let semaphore = Arc::new(Semaphore::new(permits));
        let channel = limited(&link, &semaphore);
        channel.ready().await;
        let begun = Instant::now();
        assert_eq!(text(call(&channel, post("")).await.unwrap()).await, "ok");
        assert_eq!(begun.elapsed(), took * MS, "{permits} {plan:?}");
        assert_eq!(asked.load(Ordering::Relaxed), tries, "{permits} {plan:?}");
        assert_eq!(semaphore.available_permits(), permits);
        assert_eq!(held(&live(&link)).1, 0);
    }
}

/// Nothing was sent, so the budget has what it had. Whether there is another try is the policy's to say, as of any failure.
#[tokio::test(start_paused = true)]
async fn res_8_a_refused_try_ends_as_it_says_and_costs_nothing() {
    let no: fn() -> Error = || Error::unavailable(ReasonKind::NoEndpoints, "not this time");
    let late: fn() -> Error = || Error::new(Kind::PerTryTimeout(MS));
    for (says, served) in [
        (&[Says::Ready, Says::Refused(no)][..], false),
        (&[Says::Ready, Says::Refused(late)][..], true),
    ] {
        let net = Net::default();
        planned(&net, &[(0, 503)]);
        let (source, link) = net.link();
        source.snapshots.publish(one_cluster(&[1], |route, _| policy(route, 2)));
        let layer = Strict::saying(says);
        let channel = strict(&link, &layer);
        channel.ready().await;
        let cluster = live(&link);
        let saved = cluster.budget().saved();
        let answer = call(&channel, post("")).await;
        assert_eq!(layer.calls(), if served { 2 } else { 1 });
        match served {
            true => assert_eq!(text(answer.unwrap()).await, "ok"),
            false => {
                let error = answer.unwrap_err();
                assert!(
                    error.is_unavailable() && error.to_string().contains("not this time"),
                    "{error}"
                );
                assert!(error.may_have_been_processed(), "the first try may");
                assert_eq!(cluster.budget().saved(), saved);
            }
        }
        assert_eq!(held(&cluster), (0, 0, vec![0]));
    }
}

#[tokio::test(start_paused = true)]
async fn res_8_a_refused_race_leaves_the_first_try_alone() {
    let no: fn() -> Error = || Error::unavailable(ReasonKind::NoEndpoints, "not this time");
    let net = Net::default();
    planned(&net, &[(300, 200)]);
    let (source, link) = net.link();
    source
        .snapshots
        .publish(one_cluster(&[1], |route, _| hedged(route, 100 * MS)));
    let layer = Strict::saying(&[Says::Ready, Says::Refused(no)]);
    let begun = Instant::now();
    assert_eq!(text(call(&strict(&link, &layer), post("")).await.unwrap()).await, "ok");
    assert_eq!((begun.elapsed(), layer.calls()), (300 * MS, 1));
    assert_eq!(held(&live(&link)), (0, 0, vec![0]));
}

/// The call's own limit ends it, with its name.
#[tokio::test(start_paused = true)]
async fn res_8_who_is_never_ready_ends_with_the_call() {
    for race in [false, true] {
        let net = Net::default();
        let asked = planned(&net, if race { &[(0, 0)] } else { &[(0, 503)] });
        let (source, link) = net.link();
        source.snapshots.publish(one_cluster(&[1], |route, _| {
            match race {
                true => hedged(route, 100 * MS),
                false => policy(route, 2),
            }
            route.timeout = Some(1_000 * MS);
        }));
        let layer = Strict::saying(&[Says::Ready, Says::Never]);
        let channel = strict(&link, &layer);
        channel.ready().await;
        let begun = Instant::now();
        let error = call(&channel, post("")).await.unwrap_err();
        assert!(
            error.is_timeout() && error.to_string().contains("the call took longer than 1s"),
            "{error}"
        );
        assert_eq!(begun.elapsed(), 1_000 * MS);
        assert_eq!((layer.calls(), asked.load(Ordering::Relaxed)), (1, 1));
        tokio::time::sleep(MS).await;
        assert_eq!(held(&live(&link)), (0, 0, vec![0]));
    }
}

/// A try's time begins when it would have been sent.
#[tokio::test(start_paused = true)]
async fn res_8_a_trys_time_counts_while_it_waits() {
    for (says, plan, tries, served) in [
        // All of it was waited.
        (Says::Never, &[(0, 503)][..], 1, false),
        // Some of it was, and the rest was for its server.
        (Says::After(200 * MS), &[(0, 503), (0, 0)][..], 2, false),
        (Says::After(200 * MS), &[(0, 503), (50, 200)][..], 2, true),
    ] {
        let net = Net::default();
        let asked = planned(&net, plan);
        let (source, link) = net.link();
        source.snapshots.publish(one_cluster(&[1], |route, _| {
            policy(route, 1);
            route.retry.per_try_timeout = Some(300 * MS);
        }));
        let layer = Strict::saying(&[Says::Ready, says]);
        let channel = strict(&link, &layer);
        channel.ready().await;
        let begun = Instant::now();
        let answer = call(&channel, post("")).await;
        let took = begun.elapsed();
        match served {
            true => assert_eq!(text(answer.unwrap()).await, "ok"),
            false => {
                let error = answer.unwrap_err();
                assert!(error.to_string().contains("the try took longer than 300ms"), "{error}");
                // The pause before it, which is drawn, is at most its bound.
                assert!((300 * MS..=310 * MS).contains(&took), "{took:?}");
            }
        }
        assert_eq!(asked.load(Ordering::Relaxed), tries);
        tokio::time::sleep(MS).await;
        assert_eq!(held(&live(&link)), (0, 0, vec![0]));
    }
}

/// The next try does not inherit the place in the queue of one that waited in vain.
#[tokio::test(start_paused = true)]
async fn res_8_a_try_that_waited_in_vain_is_followed_by_another() {
    let net = Net::default();
    planned(&net, &[(0, 503)]);
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |route, _| {
        policy(route, 2);
        route.retry.per_try_timeout = Some(300 * MS);
    }));
    let layer = Strict::saying(&[Says::Ready, Says::Never, Says::Ready]);
    assert_eq!(text(call(&strict(&link, &layer), post("")).await.unwrap()).await, "ok");
    assert_eq!(layer.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn res_8_who_is_cancelled_while_it_waits_leaves_nothing_behind() {
    for race in [false, true] {
        let net = Net::default();
        planned(&net, if race { &[(0, 0)] } else { &[(10, 503)] });
        let (source, link) = net.link();
        source.snapshots.publish(one_cluster(&[1], |route, _| match race {
            true => hedged(route, 100 * MS),
            false => policy(route, 2),
        }));
        let permits = Arc::new(Semaphore::new(1));
        let channel = limited(&link, &permits);
        channel.ready().await;
        let cluster = live(&link);
        let saved = cluster.budget().saved();
        let calling = tokio::spawn(async move { call(&channel, post("")).await });
        tokio::time::sleep(5 * MS).await;
        // Who asked before has the permit after the first try.
        let other = (!race).then(|| tokio::spawn(Arc::clone(&permits).acquire_owned()));
        tokio::time::sleep(500 * MS).await;
        assert!(!calling.is_finished());
        assert_eq!(cluster.budget().retrying(), 1, "the other try waits");
        calling.abort();
        assert!(calling.await.unwrap_err().is_cancelled());
        if let Some(other) = other {
            assert_eq!(permits.available_permits(), 0);
            drop(other.await.unwrap());
        }
        tokio::time::sleep(MS).await;
        assert_eq!(permits.available_permits(), 1);
        assert_eq!((held(&cluster), cluster.budget().saved()), ((0, 0, vec![0]), saved));
    }
}

fn faulty(fault: Fault, change: impl FnOnce(&mut Route)) -> Snapshot {
    let mut route = Route::to(Split::all_to("c"));
    change(&mut route);
    let mut tree = mesh_core::config::RouteTree::new(
        "t",
        vec![mesh_core::config::VirtualHost::new(
            "h",
            vec![mesh_core::config::Domain::Any],
            vec![Arc::new(route)],
        )],
    );
    tree.filters = vec![CallFilter::new("envoy.filters.http.fault", fault.into())];
    let cluster = Cluster::new("c", TlsMode::Plaintext, vec![Endpoint::new(address(1))]);
    let builder = Snapshot::builder().target("t", Ok(Arc::new(tree)));
    builder.cluster(cluster).build().unwrap()
}

/// A channel that stays keeps no permit for a call that was not to be made: with one permit, nobody else could call.
#[tokio::test(start_paused = true)]
async fn res_8_a_call_that_is_not_made_keeps_no_permit() {
    let abort = |delay: Option<Duration>| Fault {
        delay: delay.map(|delay| FaultDelay {
            fraction: Fraction::ALL,
            delay: Delay::Fixed(delay),
        }),
        abort: Some(FaultAbort {
            fraction: Fraction::ALL,
            abort: Abort::Http(http::StatusCode::IM_A_TEAPOT),
            body: "".into(),
        }),
        ..Fault::default()
    };
    let redirect = Route::doing(Action::Redirect(Box::new(Redirect {
        status: http::StatusCode::FOUND,
        scheme: Some("https".into()),
        host: None,
        port: None,
        path: None,
        strip_query: false,
    })));
    let rewritten = |route: &mut Route| {
        route.matches.path = mesh_core::config::PathMatch::Prefix("/".into());
        let Action::Forward(forward) = &mut route.action else {
            panic!("it forwards")
        };
        forward.rewrite = Some(Box::new(Rewrite {
            path: Some(PathRewrite::Prefix("no-slash".into())),
            ..Rewrite::default()
        }));
    };
    for (about, snapshot) in [
        ("redirected", Snapshot::builder().route("t", redirect).build().unwrap()),
        (
            "not served",
            Snapshot::builder()
                .route("t", Route::doing(Action::Unserved("a plugin".into())))
                .build()
                .unwrap(),
        ),
        ("aborted", faulty(abort(None), |_| {})),
        ("aborted late", faulty(abort(Some(100 * MS)), |_| {})),
        ("not rewritten", faulty(Fault::default(), rewritten)),
        ("without time", one_cluster(&[1], |_, _| {})),
    ] {
        let (source, link) = Net::default().link();
        source.snapshots.publish(snapshot);
        let permits = Arc::new(Semaphore::new(1));
        let mut channel = limited(&link, &permits);
        channel.ready().await;
        std::future::poll_fn(|cx| Service::<Request<Full<Bytes>>>::poll_ready(&mut channel, cx))
            .await
            .unwrap();
        assert_eq!(permits.available_permits(), 0);
        let mut request = post("");
        if about == "without time" {
            let headers = request.headers_mut();
            headers.insert("content-type", http::HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-timeout", http::HeaderValue::from_static("0m"));
        }
        let answer = channel.call(request).await;
        assert_eq!(permits.available_permits(), 1, "{about}");
        assert!(answer.map_or(true, |answer| !answer.status().is_success()
            || answer.body().peer().is_none()));
    }
}

/// Calls that are cancelled at any moment, of servers that do anything. A million of them with `RES_8_CALLS=1000000`.
#[tokio::test(start_paused = true)]
async fn res_8_random_cancellations_leave_every_permit() {
    const PERMITS: usize = 8;
    let calls = std::env::var("RES_8_CALLS").map_or(5_000, |calls| calls.parse().unwrap());
    let (net, entropy) = (Net::default(), Entropy::seeded(8));
    for n in [1, 2, 3] {
        let entropy = entropy.clone();
        net.serve(n, move |_, mut respond| {
            let what = entropy.draw().below(4);
            async move {
                // Whoever called may be gone by now: then there is nobody to tell.
                let head = |status: u16| Response::builder().status(status).body(()).unwrap();
                match what {
                    0 => drop(respond.send_response(head(200), true)),
                    1 => drop(respond.send_response(head(503), true)),
                    2 => silent(respond).await,
                    _ => respond.send_reset(h2::Reason::REFUSED_STREAM),
                }
            }
        });
    }
    let (source, link) = net.link();
    let publish = |hedge: bool| {
        source.snapshots.publish(one_cluster(&[1, 2, 3], |route, cluster| {
            policy(route, 3);
            route.timeout = Some(80 * MS);
            route.retry.per_try_timeout = Some(15 * MS);
            route.retry.hedge = hedge;
            cluster.breakers.default.retries.max = Some(50);
        }));
    };
    publish(false);
    let permits = Arc::new(Semaphore::new(PERMITS));
    let channel = limited(&link, &permits);
    channel.ready().await;
    let cluster = live(&link);
    let mut running = tokio::task::JoinSet::new();
    for n in 0..calls {
        if n % 500 == 499 {
            publish(n % 1_000 == 499);
        }
        let (channel, limit) = (channel.clone(), entropy.draw().below(100_000));
        running.spawn(async move {
            let whole = async {
                if let Ok(answer) = call(&channel, post("x")).await {
                    drop(answer.into_body().collect().await);
                }
            };
            let _ = tokio::time::timeout(Duration::from_micros(limit), whole).await;
        });
        // Successes, so that the gate stays open and there is something to cancel.
        for _ in 0..5 {
            cluster.budget().succeeded();
        }
        if n % 16 == 15 {
            tokio::time::sleep(2 * MS).await;
        }
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
    tokio::time::sleep(1_000 * MS).await;
    assert_eq!(permits.available_permits(), PERMITS);
    assert_eq!(held(&live(&link)), (0, 0, vec![0; 3]));
    println!("RES-8: {calls} calls cancelled at random, {PERMITS} of {PERMITS} permits there");
}

/// What takes a permit and never comes back holds up who waits for one, and nobody else: the rooms themselves are always ready.
#[tokio::test(start_paused = true)]
async fn res_8_a_stuck_endpoint_holds_up_no_other_channel() {
    let net = Net::default();
    planned(&net, &[(0, 0)]);
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    let permits = Arc::new(Semaphore::new(1));
    let stuck = limited(&link, &permits);
    stuck.ready().await;
    let first = tokio::spawn({
        let stuck = stuck.clone();
        async move { call(&stuck, post("")).await }
    });
    tokio::time::sleep(10 * MS).await;
    let waits = tokio::time::timeout(100 * MS, call(&stuck, post(""))).await;
    assert!(waits.is_err(), "the only permit is taken");
    let other = super::net::channel(&link);
    assert_eq!(text(call(&other, post("")).await.unwrap()).await, "ok");
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(text(call(&stuck, post("")).await.unwrap()).await, "ok");
}
