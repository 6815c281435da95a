//! FL-1, FL-5, FL-6: connections that are ended for how their peers behave, and those that are not. On pipes under a paused clock,
//! since what is judged are minutes.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::raw::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE, frame, get_head,
};
use super::*;
use crate::{HEAD_TIMEOUT, IDLE_TIMEOUT};

const MINUTE: Duration = Duration::from_secs(60);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A server in plaintext, over pipes, and its tally.
fn server<F, A>(answer: F) -> (Dial, mesh_core::report::Tally)
where
    F: Fn(Request<RequestBody>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
{
    let (_, link) = Link::new(Parts::default());
    let (dial, listener) = pipes();
    let answer = move |request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    };
    let app = MeshLayer::new(&link).dangerous().plaintext().layer(service_fn(answer));
    tokio::spawn(serve(listener, &link, app).dangerous().plaintext().into_future());
    (dial, link.tally().clone())
}

fn whole(bytes: &'static [u8]) -> Response<Body> {
    Response::new(Full::new(Bytes::from_static(bytes)).boxed_unsync())
}

fn open(number: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &get_head())
}

/// Requests that are taken back one after the other, each before it is answered: h2 counts none of them.
#[tokio::test(start_paused = true)]
async fn fl_1_who_takes_most_requests_back_is_cut_off() {
    let (dial, tally) = server(|_| std::future::pending());
    let mut peer = Raw::begin(dial.connect()).await.unwrap();
    let mut pairs = 0;
    while pairs < 2_000 {
        let taken_back = frame(RST_STREAM, 0, 2 * pairs + 1, &8u32.to_be_bytes());
        // Each is looked at before the next comes, which the answer to the ping tells.
        let pair = [open(pairs), taken_back, frame(PING, 0, 0, &[0; 8])].concat();
        if peer.send(&pair).await.is_err() || peer.next_of(PING).await.is_none() {
            break;
        }
        pairs += 1;
    }
    assert_eq!((pairs, tally.get("connection_ended", "premature_resets")), (251, 1));
}

/// A client that gives up on a few, or on as many as are answered, or after a second, is none.
#[tokio::test(start_paused = true)]
async fn fl_1_who_gives_up_on_half_is_not() {
    let (dial, tally) = server(|request| async move {
        if request.headers().contains_key("never") {
            std::future::pending::<()>().await;
        }
        whole(b"done")
    });
    let (mut sender, _connection) = h2(dial.connect()).await.unwrap();
    for number in 0..2_000 {
        if number < 1_000 {
            assert_eq!(get(&mut sender).await.unwrap().0, 200);
        }
        let never = Request::get("http://payment.shop/")
            .header("never", "")
            .body(Empty::new());
        let mut given_up = Box::pin(sender.send_request(never.unwrap()));
        let patience = if number < 1_000 {
            Duration::from_millis(1)
        } else {
            Duration::from_secs(1)
        };
        timeout(patience, &mut given_up).await.unwrap_err();
        drop(given_up);
    }
    assert_eq!(
        (get(&mut sender).await.unwrap().0, tally.total("connection_ended")),
        (200, 0)
    );
}

/// CVE-2025-8671, of requests that are old enough not to count as taken back: what ends it is the bound of resets that h2 is told.
#[tokio::test(start_paused = true)]
async fn fl_2_resets_of_old_requests_are_counted_too() {
    const AT_ONCE: u32 = 100;
    let (dial, tally) = server(|_| std::future::pending());
    let mut peer = Raw::begin(dial.connect()).await.unwrap();
    let (mut number, mut provoked, mut stopped) = (0, 0, false);
    while !stopped && number < 5_000 {
        let stream = |of: u32| 2 * of + 1;
        for next in number..number + AT_ONCE {
            let begun = frame(HEADERS, END_HEADERS, stream(next), &get_head());
            stopped |= peer.send(&begun).await.is_err();
        }
        sleep(Duration::from_millis(1_100)).await;
        for next in number..number + AT_ONCE {
            // More than any window may be.
            let too_much = frame(WINDOW_UPDATE, 0, stream(next), &0x7fff_ffff_u32.to_be_bytes());
            stopped |= peer.send(&too_much).await.is_err();
            provoked += u32::from(!stopped);
        }
        // What the server says to all of this.
        sleep(Duration::from_millis(1)).await;
        number += AT_ONCE;
    }
    let goaway = peer.next_of(GOAWAY).await.unwrap();
    assert_eq!((goaway.error(), tally.total("connection_ended")), (11, 0));
    assert!((1_024..=1_224).contains(&provoked), "{provoked}");
}

/// Streams whose peer makes no room for their answers, while it answers pings and keeps its connection alive.
#[tokio::test(start_paused = true)]
async fn fl_5_who_takes_nothing_is_ended() {
    let (dial, tally) = server(|_| std::future::ready(whole(&[0; 256 * 1024])));
    let mut peer = Raw::begin(dial.connect()).await.unwrap();
    // SETTINGS_INITIAL_WINDOW_SIZE of 0.
    peer.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).await.unwrap();
    let begin = Instant::now();
    for number in 0..crate::MAX_STREAMS {
        peer.send(&open(number)).await.unwrap();
        peer.next_of(HEADERS).await.unwrap();
    }
    while peer.send(&frame(PING, 0, 0, &[0; 8])).await.is_ok() && peer.next_of(PING).await.is_some() {
        sleep(MINUTE).await;
    }
    let minutes = begin.elapsed().as_secs() / 60;
    assert!((10..=11).contains(&minutes), "{minutes}");
    assert_eq!(tally.get("connection_ended", "stalled"), 1);
}

/// A body without end, in small pieces.
struct Pieces;

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from_static(&[0; 16])))))
    }
}

/// One stream that is not taken, beside one that moves: the connection is drained, and what moves goes on until it ends.
#[tokio::test(start_paused = true)]
async fn fl_5_one_answer_that_is_not_taken_drains_its_connection() {
    let (dial, tally) = server(|_| std::future::ready(Response::new(Pieces.boxed_unsync())));
    let mut peer = Raw::begin(dial.connect()).await.unwrap();
    peer.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).await.unwrap();
    for number in 0..2 {
        peer.send(&open(number)).await.unwrap();
        peer.next_of(HEADERS).await.unwrap();
    }
    let begin = Instant::now();
    // The second is taken, piece by piece.
    let goaway = loop {
        sleep(MINUTE).await;
        peer.send(&frame(WINDOW_UPDATE, 0, 3, &16u32.to_be_bytes()))
            .await
            .unwrap();
        match peer.next().await.unwrap() {
            frame if frame.kind == GOAWAY => break frame,
            _ => {}
        }
    };
    let minutes = begin.elapsed().as_secs() / 60;
    assert!((5..=11).contains(&minutes), "{minutes}");
    assert_eq!(
        (goaway.error(), tally.get("connection_ended", "stalled_stream")),
        (0, 1)
    );
}

/// One that takes a little now and then is slow and no more.
#[tokio::test(start_paused = true)]
async fn fl_5_who_takes_a_little_is_served() {
    const WHOLE: usize = 256 * 1024;
    let (dial, tally) = server(|_| std::future::ready(whole(&[0; WHOLE])));
    let mut peer = Raw::begin(dial.connect()).await.unwrap();
    peer.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).await.unwrap();
    peer.send(&open(0)).await.unwrap();
    peer.next_of(HEADERS).await.unwrap();
    let mut taken = 0;
    for piece in 1..=16 {
        sleep(4 * MINUTE).await;
        let room = u32::try_from(WHOLE / 16).unwrap().to_be_bytes();
        let room = [frame(WINDOW_UPDATE, 0, 1, &room), frame(WINDOW_UPDATE, 0, 0, &room)].concat();
        peer.send(&room).await.unwrap();
        while taken < piece * WHOLE / 16 {
            taken += peer.next_of(DATA).await.unwrap().payload.len();
        }
    }
    assert_eq!((taken, tally.total("connection_ended")), (WHOLE, 0));
}

/// A body with one piece, which comes late.
struct Late(Option<Pin<Box<Sleep>>>);

impl http_body::Body for Late {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        let Some(until) = &mut self.0 else {
            return Poll::Ready(None);
        };
        std::task::ready!(until.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from_static(b"late")))))
    }
}

/// A stream on which the service has nothing to say for a day is not its peer's fault.
#[tokio::test(start_paused = true)]
async fn a_silent_service_keeps_its_connection() {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let (dial, tally) = server(|_| std::future::ready(Response::new(Late(Some(Box::pin(sleep(DAY)))).boxed_unsync())));
    let (mut sender, _connection) = h2(dial.connect()).await.unwrap();
    assert_eq!(get(&mut sender).await.unwrap(), (200, "late".into()));
    assert_eq!(tally.total("connection_ended"), 0);
}

/// A connection without requests ends after an hour, in good order; one with a request now and then does not.
#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_drained() {
    let (dial, tally) = server(|_| std::future::ready(whole(b"done")));
    let mut peer = Raw::begin(dial.connect()).await.unwrap();
    for number in 0..4 {
        peer.send(&open(number)).await.unwrap();
        peer.next_of(HEADERS).await.unwrap();
        sleep(IDLE_TIMEOUT - 10 * MINUTE).await;
    }
    let begin = Instant::now();
    let goaway = peer.next_of(GOAWAY).await.unwrap();
    let minutes = begin.elapsed().as_secs() / 60;
    assert!((10..=20).contains(&minutes), "{minutes}");
    assert_eq!((goaway.error(), tally.get("connection_ended", "idle")), (0, 1));
}

/// A kept connection may wait longer for its next request than a head may take, however that one trickles.
#[tokio::test(start_paused = true)]
async fn fl_6_a_later_head_is_timed_from_its_first_byte() {
    let (dial, _) = server(|_| std::future::ready(whole(b"done")));
    let mut io = dial.connect();
    let mut answer = [0; 512];
    for _ in 0..3 {
        io.write_all(b"GET / HTTP/1.1\r\nhost: payment.shop\r\n\r\n")
            .await
            .unwrap();
        let some = io.read(&mut answer).await.unwrap();
        assert!(
            answer[..some].ends_with(b"done"),
            "{:?}",
            String::from_utf8_lossy(&answer[..some])
        );
        sleep(2 * HEAD_TIMEOUT).await;
    }
    let begin = Instant::now();
    while io.write_all(b"G").await.is_ok() {
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(begin.elapsed().as_secs() / 11, 1, "{:?}", begin.elapsed());
}

/// A connection that speaks another protocol would be bound by nothing that bounds connections here: nobody is offered one, and a service
/// that switches by itself fails.
#[tokio::test(start_paused = true)]
async fn fl_6_no_connection_is_upgraded() {
    let (dial, tally) = server(|mut request| async move {
        assert!(!request.headers().contains_key("upgrade"));
        let asked = hyper::upgrade::on(&mut request);
        if request.uri().path() == "/" {
            drop(asked.await.unwrap_err());
            return whole(b"done");
        }
        let switched = Response::builder()
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", "echo");
        switched.body(Empty::new().boxed_unsync()).unwrap()
    });
    for (path, answered) in [("/", "HTTP/1.1 200"), ("/switch", "HTTP/1.1 500")] {
        let mut io = dial.connect();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: payment.shop\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
        io.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 512];
        let some = io.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..some]);
        assert!(answer.starts_with(answered), "{path}: {answer}");
    }
    assert_eq!(tally.get("request_failed", "upgrade"), 1);
}
