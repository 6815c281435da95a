//! The services of one type beside the aggregated one, over loopback: what each takes and what it refuses.

use http::uri::PathAndQuery;
use prost::Message;
use tokio::net::TcpListener;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint as Address, Server};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::*;
use crate::server::machine::{MAX_NAMES, Misuse, settle_type};
use crate::wire::{Delta, DeltaRequest, Sotw, Variant};

async fn start() -> Channel {
    let cache = SnapshotCache::new();
    cache.publish("g", &snapshot("c", &[("c", 1), ("d", 2)])).unwrap();
    let status = crate::ClientStatusService::of_clients(cache.clone(), |_: &crate::csds::Reader| Ok(()));
    let loads = LoadService::new(LoadBoard::new(std::time::Duration::from_secs(1)), |_: &Caller| {
        Ok("g".into())
    });
    let services = DiscoveryServices::new(cache, |_: &Caller| Ok("g".into()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let router = Server::builder()
        .add_routes(services.into_routes())
        .add_service(loads)
        .add_service(status);
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    Address::from_shared(address).unwrap().connect().await.unwrap()
}

async fn ready(channel: &Channel) -> Grpc<Channel> {
    // That so many names are not there is as long as they are.
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX);
    grpc.ready().await.unwrap();
    grpc
}

fn path(text: String) -> PathAndQuery {
    text.try_into().unwrap()
}

/// The first response on a stream that begins with `request`.
async fn first<V: Variant>(channel: &Channel, method: String, request: V::Request) -> Result<V::Response, Status>
where
    V::RequestMessage: Message + Default,
    V::ResponseMessage: Message + Default,
{
    // The stream stays open for the answer; a client that is done is not told any more.
    let (sender, requests) = tokio::sync::mpsc::channel::<V::RequestMessage>(1);
    sender.send(request.into()).await.unwrap();
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let codec = ProstCodec::<V::RequestMessage, V::ResponseMessage>::default();
    let call = ready(channel)
        .await
        .streaming(tonic::Request::new(requests), path(method), codec)
        .await;
    let response = call?.into_inner().message().await?;
    Ok(response.expect("an answer before the end").into())
}

fn asks(type_url: &str, kind: ResourceKind) -> (Request, DeltaRequest) {
    let name: Arc<str> = if matches!(kind, LDS | RDS) { "t" } else { "c" }.into();
    let sotw = Request {
        type_url: type_url.into(),
        names: vec![Arc::clone(&name)],
        ..Request::default()
    };
    let delta = DeltaRequest {
        type_url: type_url.into(),
        subscribe: vec![name],
        ..DeltaRequest::default()
    };
    (sotw, delta)
}

#[tokio::test]
async fn each_type_has_a_service_of_its_own_that_serves_nothing_else() {
    let channel = start().await;
    for (kind, package, noun) in [
        (LDS, "listener", "Listener"),
        (RDS, "route", "Route"),
        (CDS, "cluster", "Cluster"),
        (EDS, "endpoint", "Endpoint"),
    ] {
        let method = |verb: &str| format!("/envoy.service.{package}.v3.{noun}DiscoveryService/{verb}{noun}s");
        for type_url in ["", kind.type_url()] {
            let (sotw, delta) = asks(type_url, kind);
            let told = first::<Sotw>(&channel, method("Stream"), sotw).await.unwrap();
            assert_eq!((told.kind(), told.resources.len()), (Some(kind), 1));
            let told = first::<Delta>(&channel, method("Delta"), delta).await.unwrap();
            assert_eq!((told.kind(), told.resources.len()), (Some(kind), 1));
        }
        let other = if kind == CDS { EDS } else { CDS };
        for type_url in [other.type_url(), "type.googleapis.com/x.Y"] {
            let (sotw, delta) = asks(type_url, other);
            let refused = first::<Sotw>(&channel, method("Stream"), sotw).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument);
            assert!(refused.message().contains(type_url), "{refused}");
            let refused = first::<Delta>(&channel, method("Delta"), delta).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument);
        }
        let codec = ProstCodec::<<Sotw as Variant>::RequestMessage, <Sotw as Variant>::ResponseMessage>::default();
        let fetch = tonic::Request::new(asks("", kind).0.into());
        let fetched = ready(&channel).await.unary(fetch, path(method("Fetch")), codec).await;
        assert_eq!(fetched.unwrap_err().code(), Code::Unimplemented);
    }
}

/// Extensions are asked for alone, too; of ours none is a resource of its own, and who asks for one is told so.
#[tokio::test]
async fn extensions_have_a_service_of_their_own() {
    const KIND: ResourceKind = ResourceKind::ExtensionConfig;
    let channel = start().await;
    let method =
        |verb: &str| format!("/envoy.service.extension.v3.ExtensionConfigDiscoveryService/{verb}ExtensionConfigs");
    for type_url in ["", KIND.type_url()] {
        let (_, delta) = asks(type_url, KIND);
        let told = first::<Delta>(&channel, method("Delta"), delta).await.unwrap();
        assert_eq!(
            (told.kind(), told.resources.len(), &*told.removed),
            (Some(KIND), 0, &["c".into()][..])
        );
    }
    let (sotw, delta) = asks(CDS.type_url(), CDS);
    let refused = first::<Sotw>(&channel, method("Stream"), sotw).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let refused = first::<Delta>(&channel, method("Delta"), delta).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn the_aggregated_service_must_be_told_a_type() {
    let channel = start().await;
    let method =
        |verb: &str| format!("/envoy.service.discovery.v3.AggregatedDiscoveryService/{verb}AggregatedResources");
    for kind in [LDS, RDS, CDS, EDS] {
        let (sotw, delta) = asks(kind.type_url(), kind);
        let told = first::<Sotw>(&channel, method("Stream"), sotw).await.unwrap();
        assert_eq!(told.kind(), Some(kind));
        let told = first::<Delta>(&channel, method("Delta"), delta).await.unwrap();
        assert_eq!(told.kind(), Some(kind));
    }
    let (sotw, delta) = asks("", CDS);
    let refused = first::<Sotw>(&channel, method("Stream"), sotw).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let refused = first::<Delta>(&channel, method("Delta"), delta).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_envoy_whose_address_is_none_is_told_so() {
    let channel = start().await;
    let node = Node {
        user_agent: "envoy".into(),
        metadata: [("EGRESS_BIND".into(), "here".into())].into(),
        ..Node::default()
    };
    let request = Request {
        node: Some(Arc::new(node)),
        ..asks(CDS.type_url(), CDS).0
    };
    let method = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
    let refused = first::<Sotw>(&channel, method.into(), request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(
        refused.message().contains("EGRESS_BIND") && refused.message().contains("here"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_node_that_is_kept_for_as_long_as_the_stream_is_not_taken_at_any_size() {
    let channel = start().await;
    let method = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
    for (bytes, is_taken) in [(60 * 1024, true), (65 * 1024, false)] {
        let node = Node {
            id: "x".repeat(bytes),
            ..Node::default()
        };
        let request = Request {
            node: Some(Arc::new(node)),
            ..asks(CDS.type_url(), CDS).0
        };
        match first::<Sotw>(&channel, method.into(), request).await {
            Ok(_) => assert!(is_taken),
            Err(refused) => {
                assert!(!is_taken);
                assert_eq!(refused.code(), Code::InvalidArgument);
                assert!(refused.message().starts_with("node: "), "{refused}");
            }
        }
    }
}

/// Says this, and nothing else that could be made of it.
async fn refused(channel: &Channel, method: &'static str, said: Vec<u8>) -> Status {
    let codec = ProstCodec::<Bytes, Bytes>::default();
    let requests = tokio_stream::iter([Bytes(said)]).chain(tokio_stream::pending());
    let mut grpc = ready(channel).await;
    let call = grpc.streaming(tonic::Request::new(requests), PathAndQuery::from_static(method), codec);
    match call.await {
        Err(status) => status,
        Ok(response) => response.into_inner().message().await.unwrap_err(),
    }
}

/// A message that is written as it is.
#[derive(Clone, Debug, Default)]
struct Bytes(Vec<u8>);

impl Message for Bytes {
    fn encode_raw(&self, buf: &mut impl bytes::BufMut) {
        buf.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        _: u32,
        wire: prost::encoding::WireType,
        buf: &mut impl bytes::Buf,
        context: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        prost::encoding::skip_field(wire, 1, buf, context)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// A field of this number with this in it.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut field = vec![(number << 3) | 2];
    prost::encode_length_delimiter(content.len(), &mut field).unwrap();
    field.extend(content);
    field
}

/// So many bytes of fields of this number with nothing in them.
fn nothing(number: u8, bytes: usize) -> Vec<u8> {
    [(number << 3) | 2, 0].repeat(bytes / 2)
}

const SOTW: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const ROUTES: &str = "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes";
const LOADS: &str = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";
const STATUS: &str = "/envoy.service.status.v3.ClientStatusDiscoveryService/StreamClientStatus";
/// What they each take, but for the length of one message.
const MIB: usize = 1 << 20;

#[tokio::test]
async fn cp_5_a_request_that_would_grow_too_large_is_refused_before_it_is_decoded() {
    let channel = start().await;
    for (about, method, said) in [
        ("names", SOTW, nothing(3, 15 * MIB)),
        ("names", ROUTES, nothing(3, 15 * MIB)),
        ("locators", SOTW, nothing(7, 15 * MIB)),
        ("a node", SOTW, field(2, &field(3, &nothing(1, MIB)))),
        ("details of an error", SOTW, field(6, &nothing(3, 15 * MIB))),
        ("names", DELTA, nothing(3, 15 * MIB)),
        ("versions", DELTA, nothing(5, 15 * MIB)),
        ("clusters", LOADS, nothing(2, 7 * MIB)),
        ("localities", LOADS, field(2, &nothing(2, 7 * MIB))),
        ("matchers", STATUS, nothing(1, MIB - 10)),
    ] {
        let said = refused(&channel, method, said).await;
        assert_eq!(said.code(), Code::ResourceExhausted, "{about} to {method}: {said}");
        assert!(said.message().contains("MiB of memory when decoded"), "{about}: {said}");
    }
    // Longer than anything that is taken, and no message at all: it is told too.
    let long = refused(&channel, SOTW, vec![0; 16 * MIB + 1]).await;
    assert_eq!(long.code(), Code::OutOfRange, "{long}");
    let none = refused(&channel, SOTW, vec![0xff; 10]).await;
    assert_eq!(none.code(), Code::Internal, "{none}");
    // What a large client says is not too much.
    let names: Vec<String> = (0..MAX_NAMES)
        .map(|n| format!("outbound|8080||payment-service-{n}.default.svc.cluster.local"))
        .collect();
    let (mut sotw, mut delta) = asks(EDS.type_url(), EDS);
    sotw.names
        .extend(names.iter().skip(1).map(|name| Arc::from(name.as_str())));
    first::<Sotw>(&channel, SOTW.into(), sotw).await.unwrap();
    delta
        .subscribe
        .extend(names.iter().skip(1).map(|name| Arc::from(name.as_str())));
    delta.held = names
        .iter()
        .map(|name| (Arc::from(name.as_str()), "0123456789abcdef".into()))
        .collect();
    first::<Delta>(&channel, DELTA.into(), delta).await.unwrap();
}

#[test]
fn the_type_of_a_request() {
    let cds = CDS.type_url();
    for (only, asked, settled) in [
        (None, cds, Ok(cds)),
        (None, "x", Ok("x")),
        (None, "", Err(Misuse::NoType)),
        (Some(CDS), "", Ok(cds)),
        (Some(CDS), cds, Ok(cds)),
        (
            Some(LDS),
            cds,
            Err(Misuse::AnotherType {
                asked: cds.into(),
                served: LDS,
            }),
        ),
    ] {
        let mut type_url = String::from(asked);
        let result = settle_type(only, &mut type_url).map(|()| &*type_url);
        assert_eq!(result, settled);
    }
}

#[test]
fn cp_5_a_client_that_asks_for_names_without_end_is_stopped() {
    let names = |from: usize, count: usize| {
        (from..from + count)
            .map(|n| Arc::from(n.to_string()))
            .collect::<Vec<_>>()
    };
    let too_many = Err(Misuse::TooManyNames(EDS));
    let mut sotw = StreamState::new(Dialect::Grpc);
    let mut ask = |count| {
        sotw.on_request(Request {
            names: names(0, count),
            ..request(EDS, "", &[])
        })
    };
    assert_eq!(ask(MAX_NAMES), Ok(()));
    assert_eq!(ask(MAX_NAMES + 1), too_many);
    let mut delta = crate::server::delta::DeltaState::new(Dialect::Grpc);
    let mut add = |from, count| {
        delta.on_request(DeltaRequest {
            type_url: EDS.type_url().into(),
            subscribe: names(from, count),
            ..DeltaRequest::default()
        })
    };
    assert_eq!(add(0, MAX_NAMES), Ok(()));
    assert_eq!(add(0, 1), Ok(()), "it is one of them");
    assert_eq!(add(MAX_NAMES, 1), too_many);
}
