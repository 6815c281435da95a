//! The room alone, on a paused clock.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::StatusCode;
use http_body_util::{BodyExt as _, Empty, Full};
use mesh_core::inherit;
use tower::{ServiceExt as _, service_fn};

use super::*;

fn request(headers: &[(&str, &str)]) -> Request<Empty<Bytes>> {
    let mut request = Request::post("/a.B/C");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Empty::new()).unwrap()
}

/// Counts the handlers that ran, and those that were dropped before they were done.
#[derive(Clone, Default)]
struct Handlers {
    begun: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

impl Handlers {
    fn counts(&self) -> (usize, usize) {
        (self.begun.load(Ordering::Relaxed), self.dropped.load(Ordering::Relaxed))
    }

    /// Takes `time` to answer.
    async fn handle(self, time: Duration) -> Result<Response<Full<Bytes>>, Infallible> {
        struct Unfinished(Option<Arc<AtomicUsize>>);
        impl Drop for Unfinished {
            fn drop(&mut self) {
                if let Some(dropped) = &self.0 {
                    dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        self.begun.fetch_add(1, Ordering::Relaxed);
        let mut unfinished = Unfinished(Some(self.dropped));
        tokio::time::sleep(time).await;
        unfinished.0 = None;
        Ok(Response::new(Full::from("done")))
    }
}

async fn call(headers: &[(&str, &str)], time: Duration) -> (u16, Option<String>, (usize, usize)) {
    let handlers = Handlers::default();
    let counting = handlers.clone();
    let service = DeadlineLayer.layer(service_fn(move |_| counting.clone().handle(time)));
    let response = service.oneshot(request(headers)).await.unwrap();
    let grpc = response.headers().get("grpc-status");
    let grpc = grpc.map(|status| status.to_str().unwrap().to_owned());
    let status = response.status().as_u16();
    response.into_body().collect().await.unwrap();
    (status, grpc, handlers.counts())
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");

#[tokio::test(start_paused = true)]
async fn dl_2_a_request_that_is_too_late_runs_no_handler() {
    let late = call(&[GRPC, ("grpc-timeout", "0m")], Duration::ZERO).await;
    assert_eq!(late, (200, Some("4".into()), (0, 0)));
    let late = call(&[("grpc-timeout", "0n")], Duration::ZERO).await;
    assert_eq!(late, (504, None, (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_handler_ends_with_its_callers_time() {
    let ms = Duration::from_millis;
    let cases: [(&[(&str, &str)], u64, _); 5] = [
        (&[GRPC, ("grpc-timeout", "50m")], 100, (200, Some("4".into()), (1, 1))),
        (&[("x-envoy-expected-rq-timeout-ms", "50")], 100, (504, None, (1, 1))),
        (
            &[GRPC, ("grpc-timeout", "1H"), ("x-envoy-expected-rq-timeout-ms", "50")],
            100,
            (200, Some("4".into()), (1, 1)),
        ),
        (&[GRPC, ("grpc-timeout", "50m")], 40, (200, None, (1, 0))),
        (&[], 1_000_000, (200, None, (1, 0))),
    ];
    for (headers, time, expected) in cases {
        let begun = Instant::now();
        assert_eq!(call(headers, ms(time)).await, expected, "{headers:?}");
        let until = if expected.2.1 == 1 { 50 } else { time };
        assert_eq!(begun.elapsed(), ms(until), "{headers:?}");
    }
}

/// A body that goes on for ever.
#[derive(Debug)]
struct Endless(bool);

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        match self.0 {
            true => Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from_static(b"x"))))),
            false => Poll::Pending,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answers_body_ends_with_its_callers_time() {
    for busy in [true, false] {
        let service = DeadlineLayer.layer(service_fn(move |_| async move {
            Ok::<_, Infallible>(Response::new(Endless(busy)))
        }));
        let headers = [GRPC, ("grpc-timeout", "50m")];
        let mut body = service.clone().oneshot(request(&headers)).await.unwrap().into_body();
        let trailers = loop {
            let frame = body.frame().await.unwrap().unwrap();
            if busy {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if let Ok(trailers) = frame.into_trailers() {
                break trailers;
            }
        };
        assert_eq!(trailers["grpc-status"], "4");
        assert!(body.frame().await.is_none());
        let headers = [("x-envoy-expected-rq-timeout-ms", "50")];
        let mut body = service.oneshot(request(&headers)).await.unwrap().into_body();
        let error = loop {
            match body.frame().await.unwrap() {
                Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("time was up"), "{error}");
    }
}

/// What is inherited is there while the handler runs, and while its body is read, in whatever task.
#[tokio::test(start_paused = true)]
async fn calls_made_for_a_request_inherit_its_time() {
    let look = || inherit::with(|inherited| (inherited.deadline(), inherited.is_retry()));
    let service = DeadlineLayer.layer(service_fn(move |_| async move {
        let before = look();
        tokio::task::yield_now().await;
        assert_eq!(look(), before);
        let spawned = tokio::spawn(async move { look() }).await.unwrap();
        let carried = tokio::spawn(inherit::carry(async move { look() })).await.unwrap();
        assert_eq!((spawned, carried), (None, before));
        let text = format!(
            "{}",
            before.is_some_and(|(deadline, is_retry)| deadline.is_some() && is_retry)
        );
        Ok::<_, Infallible>(Response::new(Full::from(text)))
    }));
    for (headers, expected) in [
        (
            &[GRPC, ("grpc-timeout", "50m"), ("grpc-previous-rpc-attempts", "1")][..],
            "true",
        ),
        (&[GRPC, ("grpc-timeout", "50m"), ("x-envoy-attempt-count", "2")], "true"),
        (
            &[GRPC, ("grpc-timeout", "50m"), ("x-envoy-attempt-count", "1")],
            "false",
        ),
        (&[GRPC], "false"),
    ] {
        let response = service.clone().oneshot(request(headers)).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, expected, "{headers:?}");
        assert_eq!(look(), None);
    }
}

/// A failing answer whose own calls were retried in vain is marked; one that is good, or fails by itself, is not.
#[tokio::test]
async fn rs_2_answers_are_marked_when_retries_below_were_used_up() {
    for (status, exhausted, marked) in [(503, true, true), (503, false, false), (200, true, false)] {
        let service = DeadlineLayer.layer(service_fn(move |_| async move {
            if exhausted {
                inherit::note_exhausted();
            }
            let mut response = Response::new(Empty::<Bytes>::new());
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            Ok::<_, Infallible>(response)
        }));
        let response = service.oneshot(request(&[])).await.unwrap();
        let marks = ["grpc-retry-pushback-ms", "x-envoy-overloaded"];
        assert!(
            marks
                .iter()
                .all(|mark| response.headers().contains_key(*mark) == marked),
            "{status} {exhausted}"
        );
    }
}
