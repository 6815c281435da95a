//! Answers over HTTP/1.1 that go on and on, when what their connection was agreed under holds no more.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use mesh_core::config::{Cluster, Connections, Protocol};
use mesh_core::identity::Identity;
use mesh_core::testing::TestCa;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use super::http1::{get, read_request};
use super::lifecycle::{CHECKOUT, Meshed, NOW, PAYMENT, publish, secured, server_tls, settle};
use super::net::call;

fn over_http1(cluster: Cluster) -> Cluster {
    Cluster {
        connections: Arc::new(Connections {
            protocol: Protocol::Http1,
            ..Connections::default()
        }),
        ..cluster
    }
}

/// Has an answer without end come from a server with such a certificate, that is quiet for so long each time; then `change`s something.
/// It must be cut off so many seconds later.
async fn is_cut_off(quiet: u64, change: impl FnOnce(&Meshed), within: RangeInclusive<u64>) {
    let mesh = Meshed::new();
    let leaf = mesh.ca.leaf(PAYMENT).valid(NOW - 10, NOW + 600);
    let identity = Identity::new(leaf.svid(), mesh.ca.bundle());
    let tls = server_tls(&identity, Arc::new(mesh.clock.clone()));
    mesh.net.serve_raw(1, Some(tls), move |mut io| async move {
        read_request(&mut io, &mut Vec::new()).await;
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n";
        io.write_all(head.as_bytes()).await.unwrap();
        // Until its peer is gone.
        while timeout(Duration::from_secs(quiet), io.read_u8()).await.is_err() {
            io.write_all(b"1\r\nx\r\n").await.unwrap();
        }
    });
    publish(&mesh.source, 1, over_http1(secured(PAYMENT)));
    let channel = mesh.channel();
    let mut body = call(&channel, get("/")).await.unwrap().into_body();
    // While nothing changes it may take any time.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(300) {
        body.frame().await.unwrap().unwrap();
    }
    let changed = Instant::now();
    change(&mesh);
    let cut_off = async {
        loop {
            if let Err(error) = body.frame().await.unwrap() {
                return error;
            }
        }
    };
    let error = timeout(Duration::from_secs(120), cut_off).await.expect("it is cut off");
    let after = changed.elapsed().as_secs();
    assert!(within.contains(&after), "{after} s");
    assert!(error.may_have_been_processed(), "{error}");
    assert_eq!(error.response_flag(), "UC", "{error}");
    drop(body);
    settle().await;
    assert_eq!(mesh.net.open(1), 0);
}

/// Half a minute is what there is, whether the peer says something meanwhile or nothing.
#[tokio::test(start_paused = true)]
async fn ep_12_an_answer_of_a_removed_endpoint_is_cut_off_after_half_a_minute() {
    for quiet in [1, 50] {
        let removed = |mesh: &Meshed| {
            let cluster = Cluster {
                endpoints: Arc::default(),
                ..secured(PAYMENT)
            };
            publish(&mesh.source, 2, over_http1(cluster));
        };
        is_cut_off(quiet, removed, 29..=31).await;
    }
}

#[tokio::test(start_paused = true)]
async fn hs_7_an_answer_under_other_rules_is_cut_off_after_half_a_minute() {
    let renamed = |mesh: &Meshed| {
        let other = secured("spiffe://cluster.local/ns/default/sa/other");
        publish(&mesh.source, 2, over_http1(other));
    };
    is_cut_off(1, renamed, 29..=31).await;
}

#[tokio::test(start_paused = true)]
async fn hs_7_an_answer_under_other_roots_is_cut_off_after_half_a_minute() {
    let distrusted = |mesh: &Meshed| {
        let stranger = TestCa::new("cluster.local");
        let mixed = Identity::new(mesh.ca.svid(CHECKOUT), stranger.bundle());
        mesh.source.identity.publish(Ok(mixed));
    };
    is_cut_off(50, distrusted, 29..=31).await;
}

/// The wall clock is looked at every 10 s.
#[tokio::test(start_paused = true)]
async fn hs_7_an_answer_after_its_certificates_is_cut_off_after_half_a_minute() {
    is_cut_off(1, |mesh| mesh.clock.set(NOW + 601), 29..=41).await;
}
