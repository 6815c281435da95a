//! Spans of requests, by a tracer of the application's: whose they are, what they say, and who has none.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use mesh_core::config::{Authorization, FilterChain, Fraction, Telemetry};
use mesh_core::trace::TraceParent;
use opentelemetry::trace::{
    Span, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState,
    Tracer,
};
use opentelemetry::{Context, KeyValue};

use super::authorize::mutual;
use super::*;

/// A span that has ended.
#[derive(Clone, Debug)]
struct Ended {
    name: String,
    kind: Option<SpanKind>,
    own: SpanContext,
    parent: SpanContext,
    attributes: BTreeMap<String, String>,
    status: Status,
}

/// Keeps what has ended.
#[derive(Clone, Default)]
struct Spans {
    ended: Arc<Mutex<Vec<Ended>>>,
    next: Arc<AtomicU64>,
}

impl Spans {
    fn take(&self) -> Vec<Ended> {
        std::mem::take(&mut self.ended.lock().unwrap())
    }
}

struct Live {
    span: Ended,
    to: Spans,
}

impl Tracer for Spans {
    type Span = Live;

    fn build_with_context(&self, builder: SpanBuilder, context: &Context) -> Live {
        let parent = context.span().span_context().clone();
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let trace = match parent.is_valid() {
            true => parent.trace_id(),
            false => TraceId::from(u128::from(id)),
        };
        let mut live = Live {
            span: Ended {
                name: builder.name.into_owned(),
                kind: builder.span_kind,
                own: SpanContext::new(trace, SpanId::from(id), TraceFlags::SAMPLED, false, TraceState::NONE),
                parent,
                attributes: BTreeMap::new(),
                status: Status::Unset,
            },
            to: self.clone(),
        };
        live.set_attributes(builder.attributes.unwrap_or_default());
        live
    }
}

impl Span for Live {
    fn add_event_with_timestamp<T: Into<Cow<'static, str>>>(&mut self, _: T, _: SystemTime, _: Vec<KeyValue>) {}

    fn span_context(&self) -> &SpanContext {
        &self.span.own
    }

    fn is_recording(&self) -> bool {
        true
    }

    fn set_attribute(&mut self, attribute: KeyValue) {
        let (key, value) = (attribute.key.to_string(), attribute.value.to_string());
        self.span.attributes.insert(key, value);
    }

    fn set_status(&mut self, status: Status) {
        self.span.status = status;
    }

    fn update_name<T: Into<Cow<'static, str>>>(&mut self, name: T) {
        self.span.name = name.into().into_owned();
    }

    fn add_link(&mut self, _: SpanContext, _: Vec<KeyValue>) {}

    fn end_with_timestamp(&mut self, _: SystemTime) {
        self.to.ended.lock().unwrap().push(self.span.clone());
    }
}

fn sampled(share: Option<Fraction>) -> FilterChain {
    FilterChain {
        telemetry: Telemetry {
            sampling: share,
            ..Telemetry::default()
        },
        ..mutual(Authorization::default())
    }
}

/// A server that says in which span it is asked, and fails where it is asked to.
async fn listen(mesh: &Mesh, spans: &Spans) -> SocketAddr {
    let answer = |request: Request<RequestBody>| async move {
        let own = request.headers().get("traceparent").cloned();
        let mut response = Response::new(Empty::<Bytes>::new());
        response
            .headers_mut()
            .extend(own.map(|own| (http::HeaderName::from_static("seen"), own)));
        match request.uri().path() {
            "/bad" => *response.status_mut() = http::StatusCode::BAD_GATEWAY,
            "/pkg.Pay/Charge" => drop(response.headers_mut().insert("grpc-status", 5.into())),
            _ => {}
        }
        Ok::<_, Infallible>(response)
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = MeshLayer::new(&mesh.link)
        .tracer(spans.clone())
        .layer(service_fn(answer));
    tokio::spawn(serve(listener, &mesh.link, app).into_future());
    address
}

/// Which span the service was told of.
async fn ask(sender: &mut Sender, path: &str, headers: &[(&str, &str)]) -> Option<TraceParent> {
    let mut request = Request::post(format!("http://payment.shop{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
    let mut told = http::HeaderMap::new();
    told.extend(
        response
            .headers()
            .get("seen")
            .cloned()
            .map(|seen| (mesh_core::trace::TRACEPARENT, seen)),
    );
    response.into_body().collect().await.unwrap();
    TraceParent::of(&told)
}

const RECORDED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const QUIET: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

#[tokio::test]
async fn a_request_of_a_recorded_trace_has_a_span_of_which_its_service_is_told() {
    let (mesh, spans) = (Mesh::governed(), Spans::default());
    let address = listen(&mesh, &spans).await;
    mesh.rules(address, sampled(None));
    let (mut sender, _connection) = h2(connect(address, mesh.client()).await.unwrap()).await.unwrap();
    let told = ask(&mut sender, "/pay", &[("traceparent", RECORDED), ("tracestate", "a=1")])
        .await
        .unwrap();
    let [span] = &spans.take()[..] else {
        panic!("one request is one span")
    };
    assert_eq!((&*span.name, &span.kind), ("POST", &Some(SpanKind::Server)));
    assert_eq!(
        (span.parent.span_id(), span.parent.is_remote()),
        (SpanId::from(0x00f0_67aa_0ba9_02b7), true)
    );
    assert_eq!(
        (span.parent.trace_state().header(), &span.status),
        ("a=1".to_owned(), &Status::Unset)
    );
    assert_eq!(SpanId::from(told.span_id), span.own.span_id());
    assert_eq!(TraceId::from(told.trace_id), span.parent.trace_id());
    for (name, value) in [
        ("http.request.method", "POST"),
        ("url.path", "/pay"),
        ("server.address", "payment.shop"),
        ("http.response.status_code", "200"),
        ("network.peer.address", "127.0.0.1"),
        ("mesh.peer", CLIENT),
    ] {
        assert_eq!(span.attributes[name], value, "{name}");
    }
    ask(&mut sender, "/bad", &[("traceparent", RECORDED)]).await;
    let grpc = [("traceparent", RECORDED), ("content-type", "application/grpc")];
    ask(&mut sender, "/pkg.Pay/Charge", &grpc).await;
    let [bad, grpc] = &spans.take()[..] else {
        panic!("two requests are two spans")
    };
    assert_eq!(
        (&*bad.attributes["error.type"], &bad.status),
        ("502", &Status::error("502"))
    );
    assert_eq!(&*grpc.name, "pkg.Pay/Charge");
    let of = |name: &str| grpc.attributes[name].as_str();
    assert_eq!(
        [of("rpc.service"), of("rpc.method"), of("rpc.grpc.status_code")],
        ["pkg.Pay", "Charge", "5"]
    );
    // Not found is no failure of the server's.
    assert_eq!(grpc.status, Status::Unset);
}

#[tokio::test]
async fn who_is_not_recorded_has_none_and_who_comes_without_one_begins_a_trace_by_share() {
    let (mesh, spans) = (Mesh::governed(), Spans::default());
    let address = listen(&mesh, &spans).await;
    for (share, headers, recorded) in [
        (None, &[][..], false),
        (Some(Fraction::percent(0)), &[], false),
        (Some(Fraction::ALL), &[], true),
        (Some(Fraction::ALL), &[("traceparent", QUIET)], false),
        (Some(Fraction::ALL), &[("traceparent", "00-zero")], true),
    ] {
        mesh.rules(address, sampled(share));
        let (mut sender, _connection) = h2(connect(address, mesh.client()).await.unwrap()).await.unwrap();
        let told = ask(&mut sender, "/pay", headers).await;
        let ended = spans.take();
        assert_eq!(ended.len(), usize::from(recorded), "{share:?} {headers:?}");
        match ended.first() {
            Some(span) => {
                assert!(!span.parent.is_valid());
                assert_eq!(SpanId::from(told.unwrap().span_id), span.own.span_id());
            }
            // What its caller says is left as it is.
            None => assert!(told.is_none_or(|told| told.header() == QUIET)),
        }
    }
}
