//! The TLS port against strangers: they have no certificate and no token, and keep nobody out who has.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use mesh_core::identity::{ClientCertificate, tls};
use mesh_xds::XdsClient;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::time_provider::DefaultTimeProvider;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{MAX_ERROR_RESETS, MAX_STREAMS};
use crate::ControlPlane;

/// Longer than any step takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);

async fn plane() -> (ControlPlane, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let plane = ControlPlane::builder(folder.path()).start().await.unwrap();
    (plane, folder)
}

/// A stranger over TLS, who knows the root.
async fn stranger(plane: &ControlPlane, address: SocketAddr) -> TlsStream<TcpStream> {
    over_tls(plane, address, None).await
}

/// Whoever shows `certificate` over TLS, and knows the root.
async fn over_tls(
    plane: &ControlPlane,
    address: SocketAddr,
    certificate: Option<&ClientCertificate>,
) -> TlsStream<TcpStream> {
    let bootstrap = plane.bootstrap("default", "stranger").unwrap().to_json();
    let bootstrap: serde_json::Value = serde_json::from_str(&bootstrap).unwrap();
    let root = &bootstrap["certificate_providers"]["default"]["config"]["ca_certificate"];
    let root = CertificateDer::from_pem_slice(root.as_str().unwrap().as_bytes()).unwrap();
    let config = tls::pinned_client_config(&[root], certificate, Arc::new(DefaultTimeProvider), &[b"h2"]).unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let io = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(config).connect(name, io).await.unwrap()
}

/// The certificate of a workload that joins.
async fn join(plane: &ControlPlane, namespace: &str, account: &str) -> ClientCertificate {
    let client = XdsClient::start(plane.bootstrap(namespace, account).unwrap()).unwrap();
    let link = client.link();
    let bell = Arc::new(tokio::sync::Notify::new());
    let ring = Arc::clone(&bell);
    let _told = link.identity().on_change(move || ring.notify_one());
    let joined = async {
        loop {
            if let Ok(identity) = &**link.identity().load() {
                return ClientCertificate::from(identity);
            }
            bell.notified().await;
        }
    };
    tokio::time::timeout(SOON, joined).await.unwrap()
}

/// The gRPC status of asking, over `io`, what all clients were told, and whether there was an answer.
async fn ask_for_all(io: TlsStream<TcpStream>) -> (Option<String>, bool) {
    let (calls, connection) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let mut calls = calls.ready().await.unwrap();
    let request = Request::post("https://plane/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (answer, mut sending) = calls.send_request(request, false).unwrap();
    // One empty message.
    sending.send_data(bytes::Bytes::from_static(&[0; 5]), true).unwrap();
    let (head, mut body) = answer.await.unwrap().into_parts();
    let mut answered = false;
    while let Some(data) = body.data().await {
        answered |= !data.unwrap().is_empty();
    }
    let trailers = body.trailers().await.unwrap().unwrap_or(head.headers);
    let status = trailers
        .get("grpc-status")
        .map(|status| status.to_str().unwrap().to_owned());
    (status, answered)
}

#[tokio::test]
async fn the_root_namespace_is_told_of_all_clients_over_tls_and_nobody_else_is() {
    let (plane, _folder) = plane().await;
    for (namespace, expected) in [
        ("istio-system", (Some("0".to_owned()), true)),
        ("default", (Some("7".to_owned()), false)),
    ] {
        let certificate = join(&plane, namespace, "operator").await;
        let io = over_tls(&plane, plane.address(), Some(&certificate)).await;
        let told = tokio::time::timeout(SOON, ask_for_all(io)).await.unwrap();
        assert_eq!(told, expected, "{namespace}");
    }
    let told = tokio::time::timeout(SOON, ask_for_all(stranger(&plane, plane.address()).await)).await;
    assert_eq!(told.unwrap(), (Some("7".to_owned()), false), "who shows nothing");
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The next frame: kind, payload. `None` at the end.
async fn next(io: &mut TlsStream<TcpStream>) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 9];
    io.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let mut payload = vec![0; length];
    io.read_exact(&mut payload).await.ok()?;
    Some((head[3], payload))
}

#[tokio::test]
async fn silent_strangers_keep_nobody_from_joining() {
    let (plane, _folder) = plane().await;
    let mut silent = Vec::new();
    // More than ever were let in at once, each of which is waited for ten seconds.
    for _ in 0..300 {
        silent.push(TcpStream::connect(plane.address()).await.unwrap());
    }
    join(&plane, "default", "checkout").await;
    assert_eq!(
        plane.tally().get("handshake_refused", "timeout"),
        0,
        "it waited for none of them"
    );
    drop(silent);
}

#[tokio::test]
async fn fl_2_a_stranger_opens_few_streams_and_provokes_few_resets() {
    let (plane, _folder) = plane().await;
    let mut io = stranger(&plane, plane.address()).await;
    io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    io.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    let (kind, settings) = tokio::time::timeout(SOON, next(&mut io)).await.unwrap().unwrap();
    assert_eq!(kind, 4);
    let streams = settings
        .chunks(6)
        .find(|one| one[..2] == [0, 3])
        .expect("SETTINGS_MAX_CONCURRENT_STREAMS");
    assert_eq!(streams[2..], MAX_STREAMS.to_be_bytes());

    // Each stream is answered with a reset: its window would overflow.
    let path = b"/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
    let head = [&[0x83, 0x87, 0x41, 1, b'a', 0x44, path.len() as u8][..], path].concat();
    let (mut reader, mut writer) = tokio::io::split(io);
    let sending = tokio::spawn(async move {
        for n in 0..2 * MAX_ERROR_RESETS as u32 + 1_000 {
            let stream = 2 * n + 1;
            let both = [
                frame(1, 4, stream, &head),
                frame(8, 0, stream, &0x7fff_ffff_u32.to_be_bytes()),
            ]
            .concat();
            if writer.write_all(&both).await.is_err() {
                return;
            }
        }
    });
    let mut resets = 0;
    let goaway = async {
        loop {
            let mut head = [0; 9];
            if reader.read_exact(&mut head).await.is_err() {
                return None;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            reader.read_exact(&mut payload).await.ok()?;
            match head[3] {
                3 => resets += 1,
                7 => return Some(payload[7]),
                _ => {}
            }
        }
    };
    let goaway = tokio::time::timeout(SOON, goaway).await.unwrap();
    sending.abort();
    // ENHANCE_YOUR_CALM; or the connection is cut before it can be read.
    assert!(matches!(goaway, Some(11) | None), "{goaway:?} after {resets} resets");
    assert!(resets <= MAX_ERROR_RESETS + MAX_STREAMS as usize, "{resets}");
}
