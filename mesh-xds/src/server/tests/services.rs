//! The services of one type beside the aggregated one, over loopback: what each takes and what it refuses.

use http::uri::PathAndQuery;
use prost::Message;
use tokio::net::TcpListener;
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
    let services = DiscoveryServices::new(cache, |_: &Caller| Ok("g".into()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let router = Server::builder().add_routes(services.into_routes());
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    Address::from_shared(address).unwrap().connect().await.unwrap()
}

async fn ready(channel: &Channel) -> Grpc<Channel> {
    let mut grpc = Grpc::new(channel.clone());
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
