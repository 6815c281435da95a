//! What callers are told, as this workspace's own client reads it.

use std::convert::Infallible;
use std::future::ready;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Frame;
use mesh_core::report::orca;
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};

use super::service::METHOD;
use super::*;

type Told = Vec<(String, f64)>;

fn read(headers: &HeaderMap) -> Option<Told> {
    let mut told = Told::new();
    orca::read(headers, |metric, value| told.push((format!("{metric:?}"), value))).then_some(told)
}

fn parse(report: &[u8]) -> Told {
    let mut told = Told::new();
    orca::parse(report, |metric, value| told.push((format!("{metric:?}"), value))).expect("a report");
    told
}

fn told(list: &[(&str, f64)]) -> Told {
    list.iter().map(|(name, value)| ((*name).into(), *value)).collect()
}

/// Of so many answers a second that nothing but what is said is told.
fn quiet(load: &ServerLoad) {
    load.rate(Some(0.0));
    load.errors(Some(0.0));
}

fn report(load: &ServerLoad, call: Option<&CallLoad>) -> Told {
    parse(&load.report(call, Instant::now().into_std()).0)
}

#[test]
fn a_call_s_figures_stand_above_the_server_s() {
    let load = ServerLoad::new();
    quiet(&load);
    assert_eq!(report(&load, None), told(&[]));
    load.cpu(Some(0.5));
    load.memory(Some(0.25));
    load.named("queue", Some(-3.0));
    load.utilization("pool", Some(0.75));
    let call = CallLoad::default();
    let all = [("Cpu", 0.5), ("Memory", 0.25), ("Named(\"queue\")", -3.0)];
    assert_eq!(report(&load, Some(&call)), told(&all));
    call.cpu(1.5);
    call.application(0.875);
    call.rate(2.0);
    call.errors(1.0);
    call.cost("rows", 17.0);
    call.named("queue", 4.0);
    let own = [
        ("Cpu", 1.5),
        ("Memory", 0.25),
        ("Application", 0.875),
        ("Rate", 2.0),
        ("Errors", 1.0),
        ("Named(\"queue\")", 4.0),
    ];
    assert_eq!(report(&load, Some(&call)), told(&own));
    // Of others it is not told.
    assert_eq!(report(&load, None), told(&all));
    load.cpu(None);
    load.named("queue", None);
    assert_eq!(report(&load, None), told(&[("Memory", 0.25)]));
}

/// `request_cost` is 4, `utilization` 5, and each entry a name (1) and a double (2).
#[test]
fn costs_and_utilisations_are_written_as_protobuf_does() {
    let load = ServerLoad::new();
    quiet(&load);
    load.utilization("p", Some(0.5));
    let call = CallLoad::default();
    call.cost("r", 2.0);
    let entry =
        |map: u8, name: u8, high: u8, low: u8| vec![map << 3 | 2, 12, 0x0a, 1, name, 0x11, 0, 0, 0, 0, 0, 0, low, high];
    let written = load.report(Some(&call), Instant::now().into_std()).0;
    assert_eq!(written, [entry(4, b'r', 0x40, 0), entry(5, b'p', 0x3f, 0xe0)].concat());
}

#[test]
fn what_makes_no_sense_or_is_too_much_is_not_told() {
    let load = ServerLoad::new();
    quiet(&load);
    for nonsense in [f64::NAN, f64::INFINITY, -0.5] {
        load.cpu(Some(nonsense));
        load.memory(Some(nonsense));
        load.application(Some(nonsense));
        load.utilization("u", Some(nonsense));
        let call = CallLoad::default();
        call.cpu(nonsense);
        call.rate(nonsense);
        call.errors(nonsense);
        assert_eq!(report(&load, Some(&call)), told(&[]), "{nonsense}");
    }
    load.memory(Some(1.5));
    load.named("x", Some(f64::NAN));
    assert_eq!(report(&load, None), told(&[]));
    let long = "n".repeat(100);
    load.named(&long, Some(1.0));
    for n in 0..100 {
        load.named(&n.to_string(), Some(1.0));
    }
    assert_eq!(report(&load, None).len(), 32);
    // What is known already may change still.
    load.named("0", Some(7.0));
    assert!(report(&load, None).contains(&("Named(\"0\")".into(), 7.0)));
}

/// One call to `app` that answers so, and what it told in its head and in its trailers.
async fn answered<R>(reports: &LoadReports, response: Response<R>) -> [Option<Told>; 2]
where
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: std::fmt::Debug,
{
    let mut response = Some(response);
    let app = service_fn(move |request: Request<Empty<Bytes>>| {
        let call = request.extensions().get::<CallLoad>().expect("a recorder");
        call.cpu(0.5);
        ready(Ok::<_, Infallible>(response.take().expect("one call")))
    });
    let response = reports.layer(app).oneshot(Request::new(Empty::new())).await.unwrap();
    let head = read(response.headers());
    let trailers = response.into_body().collect().await.unwrap();
    [head, trailers.trailers().and_then(read)]
}

fn grpc_head<R>(body: R) -> Response<R> {
    let head = Response::builder().header("content-type", "application/grpc+proto");
    head.body(body).unwrap()
}

fn status(status: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static(status))])
}

#[tokio::test(start_paused = true)]
async fn each_answer_ends_with_a_report_where_its_kind_has_a_place_for_it() {
    let load = ServerLoad::new();
    let reports = LoadReports::new(&load);
    let streamed = |trailers: &'static str| {
        let frames = vec![Frame::data(Bytes::from_static(b"x")), Frame::trailers(status(trailers))];
        Frames(frames.into_iter())
    };
    // Counted are the calls that have ended, this one among them.
    let cpu = |rate: f64, errors: f64| {
        let all = [("Cpu", 0.5), ("Rate", rate), ("Errors", errors)];
        Some(
            told(&all)
                .into_iter()
                .filter(|(_, value)| *value != 0.0)
                .collect::<Told>(),
        )
    };
    assert_eq!(
        answered(&reports, grpc_head(streamed("0"))).await,
        [None, cpu(1.0, 0.0)]
    );
    assert_eq!(
        answered(&reports, grpc_head(streamed("13"))).await,
        [None, cpu(2.0, 1.0)]
    );
    let mut only_trailers = grpc_head(Empty::<Bytes>::new());
    only_trailers.headers_mut().extend(status("5"));
    assert_eq!(answered(&reports, only_trailers).await, [cpu(3.0, 2.0), None]);
    let plain = Response::new(Full::new(Bytes::from_static(b"x")));
    assert_eq!(answered(&reports, plain.clone()).await, [cpu(4.0, 2.0), None]);
    let mut broken = plain.clone();
    *broken.status_mut() = http::StatusCode::BAD_GATEWAY;
    assert_eq!(answered(&reports, broken).await, [cpu(5.0, 3.0), None]);
    // A handler's own word is left as it is.
    let mut own = plain.clone();
    own.headers_mut()
        .insert(HEADER, HeaderValue::from_static("CQAAAAAAAOg/"));
    assert_eq!(answered(&reports, own).await, [Some(told(&[("Cpu", 0.75)])), None]);
    let silent = LoadReports::new(&load).with_answers(false);
    assert_eq!(answered(&silent, plain).await, [None, None]);
    // What was not told was counted.
    assert_eq!(report(&load, None), told(&[("Rate", 7.0), ("Errors", 3.0)]));
}

/// A body of these frames.
struct Frames(std::vec::IntoIter<Frame<Bytes>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.next().map(Ok))
    }
}

fn asks(message: &'static [u8]) -> Request<Full<Bytes>> {
    let mut framed = vec![0, 0, 0, 0, message.len() as u8];
    framed.extend(message);
    Request::post(METHOD).body(Full::new(framed.into())).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_stream_reports_at_once_and_as_often_as_both_want() {
    let load = ServerLoad::new();
    quiet(&load);
    let begin = Instant::now();
    for (at_most, asked, expected) in [
        (Some(Duration::from_secs(1)), &[0x0a, 2, 0x08, 10][..], 10),
        (Some(Duration::from_secs(20)), &[0x0a, 2, 0x08, 10], 20),
        (Some(MIN_REPORT_INTERVAL), &[], 30),
    ] {
        let app = service_fn(|_| async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) });
        let app = LoadReports::new(&load).streams(at_most).layer(app);
        let response = app.oneshot(asks(asked)).await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/grpc");
        let mut body = std::pin::pin!(response.into_body());
        let begun = Instant::now();
        for turn in 0..3u32 {
            load.cpu(Some(0.25 * f64::from(turn + 1)));
            let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(parse(&data[5..]), told(&[("Cpu", 0.25 * f64::from(turn + 1))]));
            assert_eq!(
                u32::from_be_bytes([data[1], data[2], data[3], data[4]]) as usize,
                data.len() - 5
            );
            assert_eq!(begun.elapsed().as_secs(), u64::from(turn) * expected);
        }
    }
    assert!(begin.elapsed() > Duration::from_secs(100));
}

#[tokio::test]
async fn who_asks_for_nonsense_is_told_so_and_who_may_not_ask_reaches_the_application() {
    let load = ServerLoad::new();
    let ends_with = async |service: OpenRcaService, request: Request<Full<Bytes>>| {
        let response = service.oneshot(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap();
        let status = body.trailers().unwrap()["grpc-status"].clone();
        (status, body.to_bytes().len())
    };
    let service = || OpenRcaService::new(&load);
    for malformed in [&[0x0b][..], &[0x0a, 9]] {
        assert_eq!(
            ends_with(service(), asks(malformed)).await,
            (HeaderValue::from_static("3"), 0)
        );
    }
    let nothing = Request::post(METHOD).body(Full::default()).unwrap();
    assert_eq!(ends_with(service(), nothing).await, (HeaderValue::from_static("3"), 0));
    let flood = Request::post(METHOD).body(Full::new(vec![0; 10_000].into())).unwrap();
    assert_eq!(ends_with(service(), flood).await, (HeaderValue::from_static("3"), 0));
    let mut other = asks(&[]);
    *other.uri_mut() = http::Uri::from_static("/xds.service.orca.v3.OpenRcaService/Other");
    assert_eq!(ends_with(service(), other).await, (HeaderValue::from_static("12"), 0));
    let app = service_fn(|_| async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"app")))) });
    let app = LoadReports::new(&load).streams(None).layer(app);
    let answer = app.oneshot(asks(&[])).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "app");
}
