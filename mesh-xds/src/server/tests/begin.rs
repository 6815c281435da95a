//! Who may begin a stream, and who is sent away.

use http::StatusCode;
use mesh_core::identity::SpiffeId;
use tonic::body::Body;
use tonic::codec::{Codec, EncodeBody, Streaming};
use tonic_prost::ProstCodec;
use tower::Service as _;

use super::*;
use crate::server::peer::Peer;
use crate::server::room::{MAX_STREAMS, MAX_STREAMS_OF_CONNECTION};
use crate::wire::{self, AdsServer};

type Messages = ProstCodec<<Sotw as Variant>::RequestMessage, <Sotw as Variant>::ResponseMessage>;
type Answers = Streaming<<Sotw as Variant>::ResponseMessage>;

fn streams() -> Streams {
    Streams::new(SnapshotCache::new(), Box::new(|_: &Caller| Ok("g".into())), false)
}

/// Opens a stream whose client says nothing, without a socket: so the clock can be paused.
async fn open(service: &mut AdsServer<Streams>) -> Answers {
    open_on(service, Line::default()).await
}

async fn open_on(service: &mut AdsServer<Streams>, line: Line) -> Answers {
    let mut codec = Messages::default();
    let silence = EncodeBody::new_client(codec.encoder(), tokio_stream::pending(), None, None);
    let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
    let request = http::Request::post(path)
        .header("content-type", "application/grpc")
        .extension(line);
    let response = service.call(request.body(Body::new(silence)).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    // A refusal is in the headers, and has no body.
    match Status::from_header_map(&parts.headers) {
        Some(status) => {
            let refused = EncodeBody::new_server(
                Messages::default().encoder(),
                tokio_stream::once(Err(status)),
                None,
                Default::default(),
                None,
            );
            Streaming::new_response(codec.decoder(), Body::new(refused), StatusCode::OK, None, None)
        }
        None => Streaming::new_response(codec.decoder(), body, StatusCode::OK, None, None),
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_say_who_it_is_is_sent_away_in_time() {
    let streams = streams();
    let start = Instant::now();
    let status = open(&mut wire::service(streams.clone()))
        .await
        .message()
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), start.elapsed()),
        (Code::DeadlineExceeded, FIRST_REQUEST_TIMEOUT)
    );
    assert_eq!(streams.0.cache.tally().get(DROPPED, "late"), 1);
    assert_eq!(streams.0.room.taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn there_is_a_most_of_streams_and_one_that_ends_makes_room() {
    let streams = streams();
    let others: Vec<Line> = (0..MAX_STREAMS / 100).map(|_| Line::default()).collect();
    let room = &streams.0.room;
    let mut places: Vec<Place> = others
        .iter()
        .flat_map(|line| (0..100).filter_map(move |_| room.take(line)))
        .collect();
    drop(places.pop());
    let mut service = wire::service(streams.clone());
    let mut last = open(&mut service).await;
    let refused = open(&mut service).await.message().await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::ResourceExhausted, "too many streams")
    );
    assert_eq!(streams.0.cache.tally().get(REFUSED, "too_many"), 1);
    // It ends for its silence, and the next one finds its place.
    assert_eq!(last.message().await.unwrap_err().code(), Code::DeadlineExceeded);
    let mut next = open(&mut service).await;
    assert_eq!(next.message().await.unwrap_err().code(), Code::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn cp_11_a_stranger_takes_no_place_and_makes_nobody_wait() {
    let streams = Streams::new(SnapshotCache::new(), Box::new(|_: &Caller| Ok("g".into())), true);
    let mut service = wire::service(streams.clone());
    let stranger = Line::from(Peer {
        address: Some(([127, 0, 0, 1], 1).into()),
        ..Peer::default()
    });
    for _ in 0..2_000 {
        let refused = open_on(&mut service, stranger.clone()).await.message().await;
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    }
    assert_eq!(streams.0.cache.tally().get(REFUSED, "stranger"), 2_000);
    assert_eq!(streams.0.room.taken(), 0);
    let member = Line::from(Peer {
        identity: Some(SpiffeId::parse("spiffe://d/a").unwrap()),
        ..Peer::default()
    });
    // Those who say nothing spend no pace either, and on one connection there is a most of them.
    let mut silent = Vec::new();
    for _ in 0..MAX_STREAMS_OF_CONNECTION {
        silent.push(open_on(&mut service, member.clone()).await);
    }
    let refused = open_on(&mut service, member.clone()).await.message().await;
    assert_eq!(refused.unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(streams.0.begin(&member), Ok(()));
}
