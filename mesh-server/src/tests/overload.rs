//! OV-1 and RES-5: more comes than can be done, or than there is memory for. On pipes under a paused clock, where a service is as slow as it
//! says; each request goes through the whole server.

#![allow(clippy::print_stdout, reason = "the figures are shown with `--nocapture`")]

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use mesh_core::config::AdaptiveConcurrency;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::*;

/// What one request takes.
const WORK: Duration = Duration::from_millis(20);

/// How long callers wait.
const PATIENCE: Duration = Duration::from_millis(250);

/// What came of a second of calls.
#[derive(Debug, Default)]
struct Outcome {
    in_time: u32,
    shed: u32,
    late: u32,
    slowest: Duration,
    slowest_shed: Duration,
}

/// Sends `per_second` calls a second for so many seconds, whatever becomes of them.
async fn load(sender: &Sender, per_second: u32, seconds: u32) -> Outcome {
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..per_second * seconds {
        let mut sender = sender.clone();
        calls.spawn(async move {
            let begin = Instant::now();
            let called = timeout(PATIENCE, get(&mut sender)).await;
            (called, begin.elapsed())
        });
        sleep(Duration::from_secs(1) / per_second).await;
    }
    let mut outcome = Outcome::default();
    while let Some(ended) = calls.join_next().await {
        match ended.unwrap() {
            (Ok(Ok((200, _))), took) => {
                outcome.in_time += 1;
                outcome.slowest = outcome.slowest.max(took);
            }
            (Ok(Err(error)), took) => {
                assert_eq!(reset(&error), Some(h2::Reason::REFUSED_STREAM), "{error:?}");
                outcome.shed += 1;
                outcome.slowest_shed = outcome.slowest_shed.max(took);
            }
            _ => outcome.late += 1,
        }
    }
    outcome
}

/// Why a stream was reset.
fn reset(error: &hyper::Error) -> Option<h2::Reason> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<h2::Error>()?.reason()
}

/// A service that does one thing at a time, in the order in which they came.
async fn one_at_a_time(adaptive: Option<AdaptiveConcurrency>) -> Sender {
    let (_, link) = Link::new(Parts::default());
    let (dial, listener) = pipes();
    let worker = Arc::new(Semaphore::new(1));
    let answer = move |_: Request<RequestBody>| {
        let worker = Arc::clone(&worker);
        async move {
            let _turn = worker.acquire().await.unwrap();
            sleep(WORK).await;
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"done"))))
        }
    };
    let app = MeshLayer::new(&link).dangerous().plaintext().layer(service_fn(answer));
    let mut serving = serve(listener, &link, app);
    if let Some(adaptive) = adaptive {
        serving = serving.adaptive_concurrency(adaptive);
    }
    tokio::spawn(serving.dangerous().plaintext().into_future());
    h2(dial.connect()).await.unwrap().0
}

/// Ten times as many calls as can be done: as many are answered in time as when no more came, in no more than twice the time that the
/// limit allows for, and the others are refused at once as not processed.
#[tokio::test(start_paused = true)]
async fn ov_1_ten_times_as_many_calls_cost_no_answers() {
    let sender = one_at_a_time(Some(AdaptiveConcurrency::default())).await;
    // Until it has found out what a call takes.
    load(&sender, 40, 3).await;
    let peak = load(&sender, 40, 3).await;
    let over = load(&sender, 500, 3).await;
    println!("ov_1: peak {peak:?}, ten times as many {over:?}");
    assert!(over.in_time * 100 >= peak.in_time * 80, "{peak:?} {over:?}");
    assert_eq!((peak.shed, over.late), (0, 0), "{peak:?} {over:?}");
    assert!(
        over.shed > 1_000 && over.slowest_shed < Duration::from_millis(5),
        "{over:?}"
    );
    assert!(over.slowest <= PATIENCE * 3 / 4, "{over:?}");
}

/// The process has more than it may, as a gauge says that is set by hand; and the same of this process, as the system says.
#[tokio::test]
async fn res_5_requests_are_refused_before_memory_is_short() {
    let (_, link) = Link::new(Parts::default());
    let has = Arc::new(AtomicU64::new(0));
    let gauge = Arc::clone(&has);
    let (dial, listener) = pipes();
    let app = MeshLayer::new(&link)
        .dangerous()
        .plaintext()
        .layer(axum::Router::<()>::new());
    let serving = serve(listener, &link, app).max_memory_by(1_000, move || Some(gauge.load(Ordering::Relaxed)));
    tokio::spawn(serving.dangerous().plaintext().into_future());
    let (mut sender, _connection) = h2(dial.connect()).await.unwrap();
    assert_eq!(get(&mut sender).await.unwrap().0, 404);
    has.store(1_001, Ordering::Relaxed);
    // Looked at now and then, and not each time.
    let error = loop {
        match get(&mut sender).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert_eq!(reset(&error), Some(h2::Reason::REFUSED_STREAM));
    has.store(900, Ordering::Relaxed);
    while get(&mut sender).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert!(link.tally().get("request_refused", "memory") >= 1);
}

/// What each request keeps is kept within the watermark, but for what comes between two looks.
#[tokio::test]
async fn res_5_what_requests_keep_stays_below_the_watermark() {
    const EACH: usize = 4 * 1024 * 1024;
    const MORE: u64 = 64 * 1024 * 1024;
    let (_, link) = Link::new(Parts::default());
    let kept = Arc::new(std::sync::Mutex::new(Vec::new()));
    let keeps = Arc::clone(&kept);
    let answer = move |_: Request<RequestBody>| {
        // Touched, or the system would give none.
        keeps.lock().unwrap().push(vec![1_u8; EACH]);
        std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(Bytes::new()))))
    };
    let (dial, listener) = pipes();
    let app = MeshLayer::new(&link).dangerous().plaintext().layer(service_fn(answer));
    let before = serve::resident().unwrap();
    let serving = serve(listener, &link, app).max_memory(before + MORE);
    tokio::spawn(serving.dangerous().plaintext().into_future());
    let (mut sender, _connection) = h2(dial.connect()).await.unwrap();
    let mut refused = false;
    for _ in 0..1_000 {
        refused |= get(&mut sender).await.is_err();
        if refused {
            break;
        }
    }
    let kept = kept.lock().unwrap().len();
    println!("res_5: refused after {kept} requests of {EACH} bytes");
    // Others of this process allocate, too: what is refused is refused for all that it has.
    assert!(refused && kept < 1_000, "{kept}");
}

/// A request whose body does not come is waited for so long, and for no longer than until others need the place; once there is an answer
/// its sender may be silent.
#[tokio::test(start_paused = true)]
async fn fl_6_a_body_that_does_not_come_gives_the_place_back() {
    const PLACES: usize = 20;
    let (_, link) = Link::new(Parts::default());
    let (dial, listener) = pipes();
    let answer = move |request: Request<RequestBody>| async move {
        let path = request.uri().path().to_owned();
        if path == "/stream" {
            return Ok::<_, Infallible>(Response::new(UnsyncBoxBody::new(request.into_body())));
        }
        let read = request.into_body().collect().await;
        let said = read.map_or_else(
            |error| error.to_string(),
            |read| format!("{} bytes", read.to_bytes().len()),
        );
        let body = Full::from(said).map_err(|never| match never {});
        Ok(Response::new(UnsyncBoxBody::new(body)))
    };
    let app = MeshLayer::new(&link).dangerous().plaintext().layer(service_fn(answer));
    let serving = serve(listener, &link, app).max_requests(PLACES).max_request_body(1_000);
    tokio::spawn(serving.dangerous().plaintext().into_future());
    let mut slow = raw::Raw::begin(dial.connect()).await.unwrap();
    let head = raw::get_head();
    let open = |stream: u32| raw::frame(raw::HEADERS, raw::END_HEADERS, stream, &head);
    let (mut good, _good) = h2(dial.connect()).await.unwrap();

    // Every place is held by a body that does not come; the first who comes is refused, and the next have places.
    for number in 0..PLACES as u32 {
        slow.send(&open(2 * number + 1)).await.unwrap();
    }
    sleep(Duration::from_secs(2)).await;
    let refused = get(&mut good).await.unwrap_err();
    assert_eq!(reset(&refused), Some(h2::Reason::REFUSED_STREAM));
    for _ in 0..3 {
        assert_eq!(get(&mut good).await.unwrap().0, 200);
    }
    assert_eq!(link.tally().get("request_refused", "body_gave_way"), 1);
    // The others are waited for as long as is said.
    let begin = Instant::now();
    while link.tally().get("request_refused", "body_stopped") < PLACES as u64 - 1 {
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(begin.elapsed().as_secs() / 10, (crate::BODY_TIMEOUT.as_secs() - 2) / 10);

    // What has an answer is a stream.
    let mut stream_head = raw::get_head();
    // In the place of the static table's `/`.
    let path = [&[0x04, 7][..], b"/stream"].concat();
    stream_head.splice(1..2, path);
    slow.send(&raw::frame(raw::HEADERS, raw::END_HEADERS, 101, &stream_head))
        .await
        .unwrap();
    loop {
        let frame = slow.next_of(raw::HEADERS).await.unwrap();
        if frame.stream == 101 {
            break;
        }
    }
    sleep(10 * crate::BODY_TIMEOUT).await;
    slow.send(&raw::frame(raw::DATA, raw::END_STREAM, 101, b"late"))
        .await
        .unwrap();
    let echoed = slow.next_of(raw::DATA).await.unwrap();
    assert_eq!((echoed.stream, &*echoed.payload), (101, &b"late"[..]));
}

/// A body that is longer than the server takes is refused, whether its length was told or not.
#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let (_, link) = Link::new(Parts::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let handler = |request: Request<RequestBody>| async move {
        let read = request.into_body().collect().await;
        let said = read.map_or_else(
            |error| error.to_string(),
            |read| format!("{} bytes", read.to_bytes().len()),
        );
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(said)))
    };
    let app = MeshLayer::new(&link).dangerous().plaintext().layer(service_fn(handler));
    let serving = serve(listener, &link, app).max_request_body(10);
    tokio::spawn(serving.dangerous().plaintext().into_future());
    for (sent, status) in [
        ("content-length: 10\r\n\r\n0123456789", "200"),
        ("content-length: 11\r\n\r\n01234567890", "413"),
        ("transfer-encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n", "200"),
        ("transfer-encoding: chunked\r\n\r\nb\r\n01234567890\r\n0\r\n\r\n", "413"),
    ] {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut io = TcpStream::connect(address).await.unwrap();
        let request = format!("POST / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n{sent}");
        io.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        drop(io.read_to_string(&mut answer).await);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{sent:?}: {answer}");
    }
    assert_eq!(link.tally().get("request_refused", "body_too_large"), 2);
}
