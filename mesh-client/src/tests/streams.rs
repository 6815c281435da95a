//! Streaming requests and answers that break in the middle.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use mesh_core::Link;
use mesh_core::config::{RetryOn, RetryPolicy, Route};
use tokio::time::Sleep;
use tower::Service as _;

use super::net::{Net, call, grpc, grpc_status, one_cluster, post, say, text};
use crate::{Channel, Error, ResponseBody};

/// Frames with a pause before each.
pub(super) struct Slow {
    frames: usize,
    size: usize,
    pause: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    fails: bool,
}

/// `frames` of a few bytes, with a pause before each.
pub(super) fn slow(frames: usize, pause: Duration) -> Slow {
    sized(frames, 10, pause)
}

pub(super) fn sized(frames: usize, size: usize, pause: Duration) -> Slow {
    Slow {
        frames,
        size,
        pause,
        sleep: None,
        fails: false,
    }
}

impl Body for Slow {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        if self.frames == 0 {
            let failed = self.fails.then_some(Err("the caller's body failed"));
            return Poll::Ready(failed);
        }
        let pause = self.pause;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
        ready!(sleep.as_mut().poll(cx));
        self.sleep = None;
        self.frames -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![b'x'; self.size])))))
    }
}

pub(super) fn channel(link: &Link) -> Channel<Slow> {
    Channel::builder(link, "t").dangerous().plaintext().build()
}

async fn upload(link: &Link, body: Slow) -> Result<Response<ResponseBody>, Error> {
    channel(link).call(Request::post("/up").body(body).unwrap()).await
}

fn written(words: &'static str) -> impl FnOnce(&mut Route, &mut mesh_core::config::Cluster) {
    move |route, _| {
        route.retry = RetryPolicy {
            on: RetryOn::parse(words),
            explicit: true,
            ..RetryPolicy::default()
        }
    }
}

/// How many bytes of each request the server read, in order; the first `failures` of them it resets with `reason` after `read`
/// bytes.
fn resetting(net: &Net, failures: usize, read: usize, reason: Reason) -> Arc<Mutex<Vec<usize>>> {
    let log: Arc<Mutex<Vec<usize>>> = Arc::default();
    let (seen, calls) = (Arc::clone(&log), Arc::new(AtomicUsize::new(0)));
    net.serve(1, move |request, mut respond| {
        let (seen, fails) = (Arc::clone(&seen), calls.fetch_add(1, Ordering::Relaxed) < failures);
        async move {
            let (mut body, mut bytes) = (request.into_body(), 0);
            let ended = loop {
                match body.data().await {
                    Some(Ok(data)) => {
                        bytes += data.len();
                        let _ = body.flow_control().release_capacity(data.len());
                        if fails && bytes >= read {
                            break false;
                        }
                    }
                    Some(Err(_)) => break false,
                    None => break true,
                }
            };
            seen.lock().unwrap().push(bytes);
            match ended {
                true => say(respond, "ok"),
                false => respond.send_reset(reason),
            }
        }
    });
    log
}

#[tokio::test(start_paused = true)]
async fn ep_7_what_is_kept_is_sent_again_when_the_peer_did_not_process_it() {
    let net = Net::default();
    let seen = resetting(&net, 1, 30, Reason::REFUSED_STREAM);
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    let response = upload(&link, slow(8, Duration::from_millis(10))).await.unwrap();
    assert_eq!(text(response).await, "ok");
    assert_eq!(*seen.lock().unwrap(), [30, 80]);
}

#[tokio::test(start_paused = true)]
async fn ep_7_more_than_is_kept_is_not_sent_again() {
    for (limit, size) in [(None, 40_000), (Some(25), 10), (Some(0), 10)] {
        let net = Net::default();
        let seen = resetting(&net, 1, 3 * size, Reason::REFUSED_STREAM);
        let (source, link) = net.link();
        source
            .snapshots
            .publish(one_cluster(&[1], |route, _| route.retry.replay_bytes = limit));
        let error = upload(&link, sized(8, size, Duration::from_millis(10)))
            .await
            .unwrap_err();
        assert_eq!(error.was_processed(), Some(false), "{error}");
        assert_eq!(*seen.lock().unwrap(), [3 * size], "{limit:?}");
    }
}

/// A peer that breaks off in the middle of an upload may have done half of the work.
#[tokio::test(start_paused = true)]
async fn ep_7_an_upload_that_may_have_been_processed_runs_once() {
    let net = Net::default();
    let seen = resetting(&net, usize::MAX, 30, Reason::INTERNAL_ERROR);
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    let error = upload(&link, slow(8, Duration::from_millis(10))).await.unwrap_err();
    assert!(
        error.may_have_been_processed() && error.was_processed().is_none(),
        "{error}"
    );
    assert_eq!(*seen.lock().unwrap(), [30]);
}

/// The same where somebody wrote that it may be repeated.
#[tokio::test(start_paused = true)]
async fn a_begun_upload_is_repeated_where_that_was_written() {
    let net = Net::default();
    let seen = resetting(&net, 2, 30, Reason::INTERNAL_ERROR);
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], written("reset")));
    let response = upload(&link, slow(8, Duration::from_millis(10))).await.unwrap();
    assert_eq!(text(response).await, "ok");
    assert_eq!(*seen.lock().unwrap(), [30, 30, 80]);
}

/// A caller's body that fails is nobody's fault but its own: nothing is tried again.
#[tokio::test(start_paused = true)]
async fn a_body_that_fails_is_not_sent_again() {
    let net = Net::default();
    let seen = resetting(&net, 0, 0, Reason::NO_ERROR);
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], written("reset,5xx")));
    let body = Slow {
        fails: true,
        ..slow(3, Duration::from_millis(10))
    };
    let error = upload(&link, body).await.unwrap_err();
    assert_eq!(error.response_flag(), "LR", "{error}");
    tokio::task::yield_now().await;
    assert_eq!(seen.lock().unwrap().len(), 1);
}

/// Headers and part of a body, then the end of the stream by a reset, of the connection, or as if it were whole.
#[tokio::test]
async fn ep_6_an_answer_that_breaks_off_is_an_error_and_is_not_tried_again() {
    for cut in ["reset", "connection"] {
        let net = Net::default();
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&calls);
        net.serve_raw(1, None, move |io| {
            let counter = Arc::clone(&counter);
            async move {
                let mut connection = h2::server::handshake(io).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    counter.fetch_add(1, Ordering::Relaxed);
                    let mut body = respond.send_response(Response::new(()), false).unwrap();
                    body.send_data(Bytes::from_static(b"part"), false).unwrap();
                    match cut {
                        "reset" => {
                            // Written before the reset, or the reset would overtake it.
                            tokio::select! {
                                _ = connection.accept() => {}
                                () = tokio::time::sleep(Duration::from_millis(20)) => {}
                            }
                            body.send_reset(Reason::INTERNAL_ERROR);
                        }
                        _ => {
                            tokio::select! {
                                _ = connection.accept() => {}
                                () = tokio::time::sleep(Duration::from_millis(20)) => {}
                            }
                            return;
                        }
                    }
                }
            }
        });
        let (source, link) = net.link();
        source
            .snapshots
            .publish(one_cluster(&[1], written("reset,5xx,gateway-error,unavailable")));
        let channel = super::net::channel(&link);
        let error = call(&channel, post(""))
            .await
            .unwrap()
            .into_body()
            .collect()
            .await
            .unwrap_err();
        assert!(
            error.may_have_been_processed() && error.status().as_u16() == 503,
            "{cut}: {error}"
        );
        let (code, _) = grpc_status(call(&channel, grpc()).await.unwrap()).await;
        assert_ne!(code, "0", "{cut}");
        assert_eq!(calls.load(Ordering::Relaxed), 2, "{cut}");
    }
}

#[tokio::test]
async fn ep_6_a_grpc_answer_without_a_status_is_no_success() {
    let net = Net::default();
    net.serve(1, |_, respond| async { say(respond, "a message and then nothing") });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    let (code, message) = grpc_status(call(&super::net::channel(&link), grpc()).await.unwrap()).await;
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("2", "the answer ended without a status")
    );
    // Any other answer may end so.
    assert_eq!(call(&super::net::channel(&link), post("")).await.unwrap().status(), 200);
}

/// A stream that was answered is its reader's alone, whatever its length.
#[tokio::test(start_paused = true)]
async fn a_committed_stream_keeps_nothing() {
    let net = Net::default();
    net.serve(1, |request, mut respond| async move {
        let mut outgoing = respond.send_response(Response::new(()), false).unwrap();
        let (mut body, mut bytes) = (request.into_body(), 0);
        while let Some(Ok(data)) = body.data().await {
            bytes += data.len();
            let _ = body.flow_control().release_capacity(data.len());
        }
        outgoing.send_data(Bytes::from(bytes.to_string()), true).unwrap();
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    let response = upload(&link, sized(100, 10_000, Duration::from_millis(1)))
        .await
        .unwrap();
    assert_eq!(text(response).await, "1000000");
}
