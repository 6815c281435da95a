//! When the time of an answer begins: with the end of its request (Envoy), however long that takes.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode};
use mesh_core::config::{Cluster, Connections, Protocol, Route};
use mesh_core::deadline::GRPC_TIMEOUT;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;
use tower::Service as _;

use super::net::{Net, grpc_status, one_cluster, say, silent, text};
use super::streams::{channel, slow};
use crate::{Error, ResponseBody};

const HALF: Duration = Duration::from_millis(500);
/// What a request of twenty frames takes.
const UPLOAD: Duration = Duration::from_secs(10);

/// Reads a request to its end, and answers half a second later; or never.
fn serve_http2(net: &Net, answers: bool) {
    net.serve(1, move |request, respond| async move {
        let mut body = request.into_body();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
        }
        if !answers {
            return silent(respond).await;
        }
        tokio::time::sleep(HALF).await;
        say(respond, "ok");
    });
}

fn serve_http1(net: &Net, answers: bool) {
    net.serve_raw(1, None, move |mut io| async move {
        let mut seen = Vec::new();
        while !seen.ends_with(b"0\r\n\r\n") {
            match io.read_buf(&mut seen).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        if !answers {
            return std::future::pending().await;
        }
        tokio::time::sleep(HALF).await;
        let _ = io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    });
}

/// Uploads for ten seconds; what came of it, and when.
async fn upload(
    protocol: Protocol,
    answers: bool,
    change: impl FnOnce(&mut Route),
) -> (Result<Response<ResponseBody>, Error>, Duration) {
    let net = Net::default();
    match protocol {
        Protocol::Http1 => serve_http1(&net, answers),
        _ => serve_http2(&net, answers),
    }
    let (source, link) = net.link();
    source
        .snapshots
        .publish(one_cluster(&[1], |route: &mut Route, cluster: &mut Cluster| {
            change(route);
            cluster.connections = Arc::new(Connections {
                protocol,
                ..Connections::default()
            });
        }));
    let mut channel = channel(&link);
    channel.ready().await;
    let begun = Instant::now();
    let result = channel.call(Request::post("/up").body(slow(20, HALF)).unwrap()).await;
    (result, begun.elapsed())
}

fn about(took: Duration, expected: Duration) {
    let off = took.abs_diff(expected);
    assert!(off <= Duration::from_millis(5), "{took:?} and not {expected:?}");
}

#[tokio::test(start_paused = true)]
async fn a_long_upload_is_not_cut_off_by_limits_of_its_answer() {
    for protocol in [Protocol::Http2, Protocol::Http1] {
        let limits = |route: &mut Route| {
            route.timeout = Some(2 * HALF);
            route.retry.per_try_timeout = Some(Duration::from_millis(800));
        };
        let (result, took) = upload(protocol, true, limits).await;
        assert_eq!(text(result.unwrap()).await, "ok");
        about(took, UPLOAD + HALF);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_come_after_an_upload_is_given_up_in_its_time() {
    for protocol in [Protocol::Http2, Protocol::Http1] {
        let (result, took) = upload(protocol, false, |route| route.timeout = Some(2 * HALF)).await;
        assert!(result.unwrap_err().is_timeout());
        about(took, UPLOAD + 2 * HALF);
        let per_try = |route: &mut Route| route.retry.per_try_timeout = Some(HALF);
        let (result, took) = upload(protocol, false, per_try).await;
        assert!(result.unwrap_err().is_timeout());
        about(took, UPLOAD + HALF);
        // The limit of the stream is one of the whole.
        let stream = |route: &mut Route| {
            route.timeout = Some(2 * HALF);
            route.limits.max_stream = Some(3 * HALF);
        };
        let (result, took) = upload(protocol, false, stream).await;
        assert!(result.is_err());
        about(took, 3 * HALF);
    }
}

/// gRPC callers count from their call's begin.
#[tokio::test(start_paused = true)]
async fn dl_2_a_grpc_upload_ends_with_its_callers_time() {
    let net = Net::default();
    serve_http2(&net, true);
    let (source, link) = net.link();
    source
        .snapshots
        .publish(one_cluster(&[1], |route, _| route.timeout = Some(HALF)));
    let mut channel = channel(&link);
    channel.ready().await;
    let begun = Instant::now();
    let request = Request::post("/pkg.Service/Up")
        .header("content-type", "application/grpc")
        .header(GRPC_TIMEOUT, HeaderValue::from_static("2S"))
        .body(slow(20, HALF))
        .unwrap();
    let response = channel.call(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let (code, message) = grpc_status(response).await;
    assert!(["4", "14"].contains(&code.as_str()), "{code} {message}");
    about(begun.elapsed(), 4 * HALF);
}
