//! Hosts are weighed by what they report between calls (gRFCs A51 and A58).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};
use mesh_core::config::{ClientWeights, LbPolicy, RetryPolicy};

use super::net::{Net, address, call, channel, one_cluster, post, say_grpc, text};

const METHOD: &str = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics";
const PERIOD: Duration = Duration::from_secs(10);

/// An `OrcaLoadReport` of a host that serves a hundred calls a second with so much of its CPU, as a gRPC message.
fn report(cpu: f64) -> Bytes {
    let mut message = vec![0x09];
    message.extend(cpu.to_le_bytes());
    message.push(6 << 3 | 1);
    message.extend(100f64.to_le_bytes());
    let mut framed = vec![0, 0, 0, 0, message.len() as u8];
    framed.extend(message);
    framed.into()
}

/// Reports until nobody listens, in pieces of whatever length.
async fn reports(mut request: Request<RecvStream>, mut respond: SendResponse<Bytes>, cpu: f64, asked: &Mutex<Vec<u8>>) {
    let mut wanted = Vec::new();
    while let Some(Ok(data)) = request.body_mut().data().await {
        wanted.extend_from_slice(&data);
    }
    *asked.lock().unwrap() = wanted;
    let head = Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let mut body = respond.send_response(head, false).unwrap();
    loop {
        let (first, second) = (report(cpu).slice(..7), report(cpu).slice(7..));
        if body.send_data(first, false).is_err() || body.send_data(second, false).is_err() {
            return;
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// An answer that says the host is hardly busy, as each of them does: whoever went by that would weigh all the same.
fn praises(mut respond: SendResponse<Bytes>) {
    let response = Response::builder().header("endpoint-load-metrics", "TEXT cpu_utilization=0.01,rps_fractional=100");
    respond.send_response(response.body(()).unwrap(), true).unwrap();
}

#[tokio::test(start_paused = true)]
async fn each_connected_host_is_asked_in_one_stream_as_long_as_it_knows_the_method() {
    let net = Net::default();
    let opened: [Arc<AtomicUsize>; 3] = Default::default();
    let asked = Arc::new(Mutex::new(Vec::new()));
    // The second is ten times as busy as the first; the third has no such service.
    for (n, cpu) in [(1, Some(0.1)), (2, Some(1.0)), (3, None)] {
        let (opened, asked) = (Arc::clone(&opened[n as usize - 1]), Arc::clone(&asked));
        net.serve(n, move |request, respond| {
            let (opened, asked) = (Arc::clone(&opened), Arc::clone(&asked));
            async move {
                if request.uri().path() != METHOD {
                    return praises(respond);
                }
                opened.fetch_add(1, Ordering::Relaxed);
                match cpu {
                    Some(cpu) => reports(request, respond, cpu, &asked).await,
                    None => say_grpc(respond, "12"),
                }
            }
        });
    }
    let (source, link) = net.link();
    let publish = |out_of_band| {
        source.snapshots.publish(one_cluster(&[1, 2, 3], |route, cluster| {
            route.retry = RetryPolicy::never();
            cluster.lb = LbPolicy::ClientSideWeightedRoundRobin(ClientWeights {
                out_of_band,
                blackout: Duration::ZERO,
                ..ClientWeights::default()
            });
        }));
    };
    publish(Some(PERIOD));
    let channel = channel(&link);
    let calls = async |count: usize| {
        let mut shares = [0usize; 3];
        for _ in 0..count {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let response = call(&channel, post("")).await.unwrap();
            let peer = response.body().peer().unwrap();
            text(response).await;
            shares[(1..=3).position(|n| address(n) == peer).unwrap()] += 1;
        }
        shares
    };
    let opens = || opened.each_ref().map(|opened| opened.load(Ordering::Relaxed));
    calls(100).await;
    assert_eq!(opens(), [1, 1, 1]);
    // A report every ten seconds.
    assert_eq!(*asked.lock().unwrap(), [0, 0, 0, 0, 4, 0x0a, 2, 0x08, 10]);
    // The third counts for the mean of the others: 10 to 1 to 5.5.
    let shares = calls(330).await;
    for (share, expected) in shares.into_iter().zip([200usize, 20, 110]) {
        assert!(share.abs_diff(expected) <= 4, "{shares:?}");
    }
    assert_eq!(opens(), [1, 1, 1]);
    // A connection that ended is followed by another, and the stream with it.
    net.end_connections(1);
    calls(100).await;
    assert_eq!(opens(), [2, 1, 1]);
    // Nobody asks any more.
    publish(None);
    calls(10).await;
    net.end_connections(1);
    net.end_connections(2);
    calls(100).await;
    assert_eq!(opens(), [2, 1, 1]);
}

/// Nobody looks for the connection or for its end: the stream begins when there is one, and rides on it no longer than calls may.
#[tokio::test(start_paused = true)]
async fn a_stream_begins_with_its_connection_and_lets_go_of_one_whose_server_leaves() {
    let net = Net::default();
    let opened = Arc::new(AtomicUsize::new(0));
    let opens = Arc::clone(&opened);
    net.serve(1, move |request, respond| {
        let opens = Arc::clone(&opens);
        async move {
            match request.uri().path() {
                METHOD => {
                    opens.fetch_add(1, Ordering::Relaxed);
                    reports(request, respond, 0.5, &Mutex::default()).await;
                }
                _ => praises(respond),
            }
        }
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |route, cluster| {
        route.retry = RetryPolicy::never();
        cluster.lb = LbPolicy::ClientSideWeightedRoundRobin(ClientWeights {
            out_of_band: Some(PERIOD),
            ..ClientWeights::default()
        });
    }));
    let channel = channel(&link);
    // Whoever is not woken by the connection sleeps until somebody advances the clock, which nobody does meanwhile.
    let begins = async |expected: usize| {
        let begun = tokio::time::Instant::now();
        for _ in 0..10_000 {
            if opened.load(Ordering::Relaxed) == expected {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(
            (opened.load(Ordering::Relaxed), begun.elapsed()),
            (expected, Duration::ZERO)
        );
    };
    text(call(&channel, post("")).await.unwrap()).await;
    begins(1).await;
    // The server takes its leave, and nobody calls any more who would notice.
    let mut last = post("");
    last.headers_mut().insert("x-go-away", "1".parse().unwrap());
    text(call(&channel, last).await.unwrap()).await;
    assert_eq!(net.open(1), 1);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((net.open(1), opened.load(Ordering::Relaxed)), (0, 1));
    text(call(&channel, post("")).await.unwrap()).await;
    // The pause after the stream that ended is over.
    begins(2).await;
}
