//! FL-7: a server that answers without end. What it sends is kept within a bound, the call ends with an error that says what it was, and
//! other calls go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::BodyExt as _;
use mesh_core::config::{Connections, Protocol};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::net::{Net, call, channel, one_cluster, post, say, text};

/// More than a list of headers may be.
fn huge() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for _ in 0..40 {
        headers.append("x-huge", HeaderValue::from_bytes(&[b'x'; 1_000]).unwrap());
    }
    headers
}

#[tokio::test(start_paused = true)]
async fn fl_7_headers_and_trailers_that_are_too_long_are_errors() {
    for trailers in [false, true] {
        let net = Net::default();
        net.serve(1, move |request, mut respond| async move {
            if request.uri().path() == "/good" {
                return say(respond, "good");
            }
            let mut response = Response::new(());
            if !trailers {
                *response.headers_mut() = huge();
            }
            let mut body = respond.send_response(response, false).unwrap();
            let _ = body.send_data(Bytes::from_static(b"some"), false);
            let _ = body.send_trailers(huge());
        });
        let (source, link) = net.link();
        source.snapshots.publish(one_cluster(&[1], |_, _| {}));
        let channel = channel(&link);
        let error = match call(&channel, post("")).await {
            Err(error) => error,
            Ok(response) => {
                assert!(trailers);
                response.into_body().collect().await.unwrap_err()
            }
        };
        // Nobody knows what the server did before it answered so.
        assert!(error.may_have_been_processed() && !error.is_timeout(), "{error}");
        // Others are served, over the same connection or over another.
        let good = http::Request::post("/good")
            .body(http_body_util::Full::default())
            .unwrap();
        assert_eq!(text(call(&channel, good).await.unwrap()).await, "good");
        assert!(net.dials() <= 2, "{}", net.dials());
    }
}

/// Interim answers are passed over as they come, and kept nowhere; the call ends when its time is up.
#[tokio::test(start_paused = true)]
async fn fl_7_a_storm_of_interim_answers_ends_with_the_calls_time() {
    let net = Net::default();
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    net.serve(1, move |request, mut respond| {
        let count = Arc::clone(&count);
        async move {
            if request.uri().path() == "/good" {
                return say(respond, "good");
            }
            loop {
                for _ in 0..20 {
                    let mut interim = Response::new(());
                    *interim.status_mut() = StatusCode::EARLY_HINTS;
                    interim.headers_mut().insert("link", HeaderValue::from_static("</a>"));
                    if respond.send_informational(interim).is_err() {
                        return;
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |route, _| {
        route.timeout = Some(Duration::from_secs(1))
    }));
    let channel = channel(&link);
    let error = call(&channel, post("")).await.unwrap_err();
    assert!(error.is_timeout() && error.may_have_been_processed(), "{error}");
    assert!(sent.load(Ordering::Relaxed) > 10_000, "{sent:?}");
    let good = http::Request::post("/good")
        .body(http_body_util::Full::default())
        .unwrap();
    assert_eq!(text(call(&channel, good).await.unwrap()).await, "good");
}

/// A body without end is sent no faster than its reader reads, and no farther ahead than its windows.
#[tokio::test(start_paused = true)]
async fn fl_7_a_body_without_end_waits_for_its_reader() {
    const PIECE: usize = 16 * 1024;
    const MOST_AHEAD: usize = 16 * 1024 * 1024;
    let net = Net::default();
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    net.serve(1, move |_, mut respond| {
        let count = Arc::clone(&count);
        async move {
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            loop {
                body.reserve_capacity(PIECE);
                match std::future::poll_fn(|cx| body.poll_capacity(cx)).await {
                    Some(Ok(capacity)) => {
                        let piece = Bytes::from(vec![0; capacity.min(PIECE)]);
                        count.fetch_add(piece.len(), Ordering::Relaxed);
                        if body.send_data(piece, false).is_err() {
                            return;
                        }
                    }
                    _ => return,
                }
            }
        }
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    let mut body = call(&channel(&link), post("")).await.unwrap().into_body();
    // Under a paused clock this is over when nothing more is sent.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let ahead = sent.load(Ordering::Relaxed);
    assert!(ahead > 0 && ahead <= MOST_AHEAD, "{ahead}");
    let mut read = 0;
    while read < 4 * MOST_AHEAD {
        read += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
    }
    assert!(sent.load(Ordering::Relaxed) - read <= MOST_AHEAD, "{sent:?}");
    drop(body);
}

/// The same over HTTP/1.1: a head without end, trailers without end, interim answers without end.
#[tokio::test(start_paused = true)]
async fn fl_7_an_http1_answer_without_end_is_an_error() {
    for (what, begin, again) in [
        (
            "head",
            "HTTP/1.1 200 OK\r\n",
            "x-more: 0123456789012345678901234567890123456789\r\n",
        ),
        (
            "one header",
            "HTTP/1.1 200 OK\r\nx-more: ",
            "0123456789012345678901234567890123456789",
        ),
        (
            "trailers",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
            "x-more: 0123456789012345678901234567890123456789\r\n",
        ),
    ] {
        let net = Net::default();
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        net.serve_raw(1, None, move |mut io| {
            let count = Arc::clone(&count);
            async move {
                let mut request = [0; 4096];
                if io.read(&mut request).await.is_err() || io.write_all(begin.as_bytes()).await.is_err() {
                    return;
                }
                let piece = again.repeat(100);
                while io.write_all(piece.as_bytes()).await.is_ok() {
                    count.fetch_add(piece.len(), Ordering::Relaxed);
                }
            }
        });
        let (source, link) = net.link();
        source.snapshots.publish(one_cluster(&[1], |route, cluster| {
            route.timeout = Some(Duration::from_secs(60));
            cluster.connections = Arc::new(Connections {
                protocol: Protocol::Http1,
                ..Connections::default()
            });
        }));
        let error = match call(&channel(&link), post("")).await {
            Err(error) => error,
            Ok(response) => response.into_body().collect().await.unwrap_err(),
        };
        assert!(
            error.may_have_been_processed() && !error.is_timeout(),
            "{what}: {error}"
        );
        // hyper's buffer, and what was under way.
        let sent = sent.load(Ordering::Relaxed);
        assert!(sent <= 1024 * 1024, "{what}: {sent}");
    }
}
