//! What a call's route does not ask for costs it no memory. One test in a binary of its own: the allocator counts for all
//! threads.

use std::alloc::System;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use mesh_client::balance::Balance;
use mesh_client::deadline::DeadlineLayer;
use mesh_client::fault::FaultLayer;
use mesh_client::mirror::MirrorLayer;
use mesh_client::retry::RetryLayer;
use mesh_client::rewrite::RewriteLayer;
use mesh_client::route::RouteLayer;
use mesh_client::telemetry::TelemetryLayer;
use mesh_client::{Attempt, Error, ResponseBody};
use mesh_core::Link;
use mesh_core::config::{Cluster, Route, Snapshot, Split, TlsMode};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tower::{Service, ServiceBuilder};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CALLS: usize = 1_000;
/// How often it is counted: what the harness's own thread allocates meanwhile only adds, so the least is what calls take.
const COUNTS: usize = 5;

/// What would send the call.
#[derive(Clone)]
struct Sent;

impl<B> Service<Request<Attempt<B>>> for Sent {
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = Ready<Result<Response<ResponseBody>, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Attempt<B>>) -> Self::Future {
        ready(Ok(Response::new(ResponseBody::empty())))
    }
}

/// How much is allocated for so many calls at least.
async fn allocations<S>(mut service: S) -> usize
where
    S: Service<Request<Full<Bytes>>, Response = Response<ResponseBody>, Error = Error>,
{
    let mut call = async || {
        let request = Request::post("/a")
            .body(Full::new(Bytes::from_static(b"b")))
            .expect("a request");
        service.call(request).await.expect("an answer");
    };
    call().await;
    let mut least = usize::MAX;
    for _ in 0..COUNTS {
        let region = Region::new(ALLOCATOR);
        for _ in 0..CALLS {
            call().await;
        }
        let change = region.change();
        least = least.min(change.allocations + change.reallocations);
    }
    least
}

#[tokio::test]
async fn rooms_that_a_call_does_not_need_take_no_memory() {
    let cluster = Cluster::new("c", TlsMode::Plaintext, vec![]);
    let route = Route::to(Split::weighted([("c".into(), 1), ("c".into(), 1)]).unwrap());
    let link = Link::fixed(
        Snapshot::builder().route("t", route).cluster(cluster).build().unwrap(),
        None,
    );
    let lean = ServiceBuilder::new()
        .layer(RouteLayer::new(&link, "t"))
        .layer(DeadlineLayer::new(&link))
        .layer(RetryLayer::new(&link))
        .service(Sent);
    let everything = ServiceBuilder::new()
        .layer(RouteLayer::new(&link, "t"))
        .layer(TelemetryLayer::new("t"))
        .layer(DeadlineLayer::new(&link))
        .layer(FaultLayer::new(&link, "t"))
        .layer(RewriteLayer::new("t"))
        .layer(RetryLayer::new(&link))
        .layer(MirrorLayer::new(&link, "t", Balance::new(&link, "t")))
        .service(Sent);
    assert_eq!(allocations(everything).await, allocations(lean).await);
}
