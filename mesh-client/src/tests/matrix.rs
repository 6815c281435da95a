//! How often each kind of request is executed, for each failure and policy: the table in `RETRIES.md`, which this test writes.
//!
//! Each cell is one call through the whole client to a server that fails every try in the same way and counts the handlers that
//! ran. `UPDATE=1 cargo test -p mesh-client rs_4` writes the file anew; without it a file that tells something else fails.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use mesh_core::Link;
use mesh_core::config::{RetryOn, RetryPolicy};
use mesh_core::retry::{MAX_SAVED, SHARE};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tower::Service as _;

use super::net::{Net, one_cluster, say_grpc, say_status, silent};
use super::storms;
use crate::connect::Io;
use crate::{Attempt, Channel};

type Boxed = UnsyncBoxBody<Bytes, &'static str>;

const KINDS: [&str; 9] = [
    "GET",
    "HEAD",
    "PUT",
    "DELETE",
    "POST",
    "PATCH",
    "gRPC unary",
    "gRPC client stream",
    "gRPC bidi",
];
const FAILURES: [&str; 7] = [
    "connect fails",
    "REFUSED_STREAM",
    "GOAWAY below it",
    "reset after it was read",
    "connection lost",
    "503 / UNAVAILABLE",
    "per-try timeout",
];
const EXPLICIT: &str = "connect-failure,refused-stream,reset,5xx,unavailable";

fn request(kind: &str) -> Request<Boxed> {
    let (method, whole) = match kind {
        "gRPC unary" => (Method::POST, true),
        "gRPC client stream" | "gRPC bidi" => (Method::POST, false),
        method => (method.parse().unwrap(), true),
    };
    let body: Boxed = match (whole, method == Method::GET || method == Method::HEAD) {
        (true, true) => Full::default().map_err(|never| match never {}).boxed_unsync(),
        (true, false) => Full::from("body").map_err(|never| match never {}).boxed_unsync(),
        (false, _) => super::streams::slow(3, Duration::from_millis(1)).boxed_unsync(),
    };
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = "/a.B/C".parse().unwrap();
    if kind.starts_with("gRPC") {
        let grpc = HeaderValue::from_static("application/grpc");
        request.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
    }
    request
}

/// A server that fails so, and the count of the handlers that ran at it.
fn server(failure: &str, kind: &str) -> (Net, Arc<AtomicUsize>) {
    let (net, executed) = (Net::default(), Arc::new(AtomicUsize::new(0)));
    let (count, grpc) = (Arc::clone(&executed), kind.starts_with("gRPC"));
    match failure {
        "connect fails" => {}
        "REFUSED_STREAM" => net.serve(
            1,
            |_, mut respond| async move { respond.send_reset(Reason::REFUSED_STREAM) },
        ),
        "GOAWAY below it" => net.serve_raw(1, None, goes_away),
        "reset after it was read" => net.serve(1, move |request, mut respond| {
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                read(request.into_body()).await;
                respond.send_reset(Reason::INTERNAL_ERROR);
            }
        }),
        "connection lost" => net.serve_raw(1, None, move |io| {
            let count = Arc::clone(&count);
            async move {
                let mut connection = h2::server::handshake(io).await.unwrap();
                if let Some(Ok((request, respond))) = connection.accept().await {
                    count.fetch_add(1, Ordering::Relaxed);
                    // All of it is read, and then there is nobody.
                    let mut body = request.into_body();
                    tokio::select! {
                        _ = connection.accept() => {}
                        () = async {
                            while let Some(Ok(data)) = body.data().await {
                                let _ = body.flow_control().release_capacity(data.len());
                            }
                        } => {}
                    }
                    let _: h2::server::SendResponse<Bytes> = respond;
                }
            }
        }),
        "503 / UNAVAILABLE" => net.serve(1, move |request, respond| {
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                read(request.into_body()).await;
                match grpc {
                    true => say_grpc(respond, "14"),
                    false => say_status(respond, 503),
                }
            }
        }),
        "per-try timeout" => net.serve(1, move |_, respond| {
            count.fetch_add(1, Ordering::Relaxed);
            silent(respond)
        }),
        other => panic!("no server fails with {other}"),
    }
    (net, executed)
}

async fn read(mut body: h2::RecvStream) {
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
    }
}

/// Speaks HTTP/2 just as far as a GOAWAY that leaves every stream out.
async fn goes_away(mut io: Box<dyn Io>) {
    const PREFACE: usize = 24;
    const HEADERS: u8 = 1;
    // An empty SETTINGS, and GOAWAY with last stream 0 and NO_ERROR (RFC 9113 6.5 and 6.8).
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut preface = [0; PREFACE];
    if io.read_exact(&mut preface).await.is_err() || io.write_all(&SETTINGS).await.is_err() {
        return;
    }
    loop {
        let mut head = [0; 9];
        if io.read_exact(&mut head).await.is_err() {
            return;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        if io.read_exact(&mut payload).await.is_err() {
            return;
        }
        if head[3] == HEADERS {
            let _ = io.write_all(&GOAWAY).await;
            // The connection ends when the client has read it.
            let _ = io.read_to_end(&mut Vec::new()).await;
            return;
        }
    }
}

/// How often the request was executed, and how often it was tried: through the rooms, with a layer of the application's among them that
/// counts. Straight through, as without one, the same comes of it.
async fn cell(kind: &str, failure: &str, explicit: bool) -> (usize, usize) {
    let tries = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tries);
    let counting = tower::util::MapRequestLayer::new(move |request: Request<Attempt<Boxed>>| {
        count.fetch_add(1, Ordering::Relaxed);
        request
    });
    let (executed, told) = called(kind, failure, explicit, |link| {
        let builder = Channel::builder(link, "t").per_attempt(counting);
        builder.dangerous().plaintext().build()
    })
    .await;
    let straight = called(kind, failure, explicit, |link| {
        Channel::builder(link, "t").dangerous().plaintext().build()
    })
    .await;
    assert_eq!(straight, (executed, told), "{kind}, {failure}");
    (executed, tries.load(Ordering::Relaxed))
}

/// How often a request of a channel was executed, and what its caller was told.
async fn called(
    kind: &str,
    failure: &str,
    explicit: bool,
    channel: impl FnOnce(&Link) -> Channel<Boxed>,
) -> (usize, String) {
    let (net, executed) = server(failure, kind);
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |route, _| {
        if explicit {
            route.retry.on = RetryOn::parse(EXPLICIT);
            route.retry.explicit = true;
        }
        route.retry = RetryPolicy {
            per_try_timeout: Some(Duration::from_millis(100)),
            ..route.retry.clone()
        };
        route.timeout = Some(Duration::from_secs(10));
    }));
    let outcome = channel(&link).call(request(kind)).await;
    let executed = executed.load(Ordering::Relaxed);
    let told = match outcome {
        Ok(response) => {
            let failed = response.status().is_server_error() || response.headers().contains_key("grpc-status");
            assert!(failed, "{kind}, {failure}: {response:?}");
            let flags = response.extensions().get::<crate::ResponseFlags>();
            format!("{} {:?} {flags:?}", response.status(), response.headers())
        }
        Err(error) => {
            assert_eq!(error.was_processed().is_none(), executed > 0, "{kind}, {failure}");
            format!("{error} {:?}", error.response_flags())
        }
    };
    (executed, told)
}

fn is_idempotent(kind: &str) -> bool {
    matches!(kind, "GET" | "HEAD" | "PUT" | "DELETE")
}

async fn table(explicit: bool) -> String {
    let mut text = format!(
        "| request | {} |\n|---|{}\n",
        FAILURES.join(" | "),
        "---|".repeat(FAILURES.len())
    );
    for kind in KINDS {
        write!(text, "| {kind} |").unwrap();
        for failure in FAILURES {
            let (executed, tries) = cell(kind, failure, explicit).await;
            assert!(executed <= tries, "{kind}, {failure}");
            // The promise: what is not idempotent runs once, unless somebody wrote otherwise.
            assert!(
                explicit || is_idempotent(kind) || executed <= 1,
                "{kind}, {failure}: {executed}"
            );
            let untouched = ["connect fails", "REFUSED_STREAM", "GOAWAY below it"].contains(&failure);
            assert!(!untouched || executed == 0, "{kind}, {failure}: {executed}");
            write!(text, " {executed} of {tries} |").unwrap();
        }
        text.push('\n');
    }
    text
}

#[tokio::test(start_paused = true)]
async fn rs_4_the_matrix_of_executions_is_the_documented_one() {
    let text = format!(
        "# How often a request is executed\n\n\
         Written by a test (`UPDATE=1 cargo test -p mesh-client rs_4`), which runs each cell through the whole client against a server\n\
         that fails every try in the same way. `1 of 3` is: three tries were made, and the handler ran in one of them.\n\n\
         ## Without a `retries` block\n\n\
         Istio's default: two retries on `{}`.\n\
         A request that may run twice is also repeated when its connection is lost.\n\
         A request that is not idempotent is repeated only when it was provably not processed, so its handler runs at most once.\n\
         Istio would repeat a gRPC call answered UNAVAILABLE; here a handler that says so has run.\n\n{}\n\
         ## With a policy that somebody wrote\n\n\
         `retryOn: {EXPLICIT}`, two attempts. It is obeyed: handlers run again.\n\n{}\n\
         One more try than the policy gives is made when the peer says that it did not process the request: once per call, whatever\n\
         the policy says (gRFC A6). A streaming request is sent again only while all that was sent of it is kept: {} KiB unless the\n\
         route says otherwise.\n\n\
         ## What a destination that fails gets\n\n\
         In any period the retries of one process to one cluster are at most `{SHARE} * calls + {MAX_SAVED}`, and at most 5 once every call\n\
         fails, because gRPC's failure gate closes after as many failures. Nothing is granted for the time that passes: a floor of\n\
         so many retries a second is 4 tries for each call at 5 calls a second. Tries per call over 60 s of total failure, with\n\
         three retries allowed, on virtual time:\n\n{}",
        RetryPolicy::default().on,
        table(false).await,
        table(true).await,
        RetryPolicy::DEFAULT_REPLAY_BYTES / 1024,
        storms::amplification_table(),
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("RETRIES.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == text,
        "RETRIES.md is not what the client does; UPDATE=1 writes:\n{text}"
    );
}
