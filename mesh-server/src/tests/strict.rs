//! ID-5: a STRICT port and everything that must not get past it. The handler never runs, and each reason has its counter.

use std::time::Duration;

use mesh_core::config::{Reason, ReasonKind};
use mesh_core::testing::NOT_AFTER_SECONDS;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::*;
use crate::{Acceptor, HANDSHAKE_TIMEOUT, MAX_HANDSHAKES};

const CLOSES_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn id_5_plaintext_is_closed_without_an_answer() {
    let (mesh, handler) = (Mesh::new(), Handler::default());
    let (address, _server) = handler.listen(&mesh.link).await;
    let attempts: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: payment.shop\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n",
        b"POST /payment.Payment/Pay HTTP/1.1\r\ncontent-type: application/grpc\r\n\r\n",
        &[0; 64],
    ];
    for attempt in attempts {
        assert_eq!(answer_to(address, attempt).await, b"", "{attempt:?}");
    }
    assert_eq!((mesh.refused("plaintext"), handler.calls()), (5, 0));
}

#[tokio::test]
async fn id_5_what_only_looks_like_tls_is_closed() {
    let (mesh, handler) = (Mesh::new(), Handler::default());
    let (address, _server) = handler.listen(&mesh.link).await;
    // A handshake record that holds no client hello.
    assert_eq!(answer_to(address, b"\x16\x03\x01\0\x05hello").await, b"");
    assert_eq!((mesh.refused("not_tls"), handler.calls()), (1, 0));
    // One that leaves in the middle.
    drop(TcpStream::connect(address).await.unwrap());
    // The count is written by the server's task: wait for it by asking for something that comes after.
    while mesh.refused("closed") == 0 {
        tokio::task::yield_now().await;
    }
}

/// What the port says to `bytes` before it closes, TLS alerts left out.
async fn answer_to(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut io = TcpStream::connect(address).await.unwrap();
    io.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset is as good an end as any other.
    let _ = timeout(CLOSES_WITHIN, io.read_to_end(&mut answer))
        .await
        .expect("the port closes");
    match answer.as_slice() {
        [0x15, 0x03, _, 0, 2, _, _] => Vec::new(),
        _ => answer,
    }
}

#[tokio::test(start_paused = true)]
async fn id_5_silence_is_closed_after_the_handshake_timeout() {
    let mesh = Mesh::new();
    let (io, mut peer) = tokio::io::duplex(1024);
    let begin = Instant::now();
    let refused = Acceptor::new(&mesh.link).accept(io, ([127, 0, 0, 1], 1).into()).await;
    assert_eq!(refused.unwrap_err().reason(), "timeout");
    assert_eq!((begin.elapsed(), mesh.refused("timeout")), (HANDSHAKE_TIMEOUT, 1));
    assert_eq!(peer.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn id_4_bad_certificates_are_refused_and_told_why() {
    let (mesh, handler) = (Mesh::new(), Handler::default());
    let (address, _server) = handler.listen(&mesh.link).await;
    let as_svid = |svid| mesh.client_as(&Identity::new(svid, mesh.ca.bundle()));
    let stranger = TestCa::new("mesh.test");
    let foreigner = TestCa::new("foreign.test");
    let cases = [
        ("unknown_issuer", "UnknownCA", as_svid(stranger.svid(CLIENT))),
        (
            "foreign_trust_domain",
            "CertificateUnknown",
            as_svid(foreigner.svid("spiffe://foreign.test/a")),
        ),
        (
            "expired",
            "CertificateExpired",
            as_svid(mesh.ca.leaf(CLIENT).valid(1, NOW_SECONDS - 1).svid()),
        ),
        (
            "not_yet_valid",
            "CertificateExpired",
            as_svid(mesh.ca.leaf(CLIENT).valid(NOW_SECONDS + 1, NOT_AFTER_SECONDS).svid()),
        ),
        ("no_certificate", "CertificateRequired", mesh.anonymous()),
    ];
    for (reason, alert, config) in cases {
        let error = call(address, config).await.unwrap_err();
        // The refusal outruns no alert: the client learns as much as TLS can say.
        let said = format!("{error:?}");
        assert!(said.contains(alert), "{reason}: {said}");
        assert_eq!((mesh.refused(reason), handler.calls()), (1, 0), "{reason}");
    }
    assert_eq!(mesh.link.tally().total("handshake_refused"), 5);
}

#[tokio::test]
async fn id_7_no_protocol_is_refused() {
    let (mesh, handler) = (Mesh::new(), Handler::default());
    let (address, _server) = handler.listen(&mesh.link).await;
    let mut config = (*mesh.client()).clone();
    config.alpn_protocols.clear();
    call(address, Arc::new(config.clone())).await.unwrap_err();
    config.alpn_protocols = vec![b"smtp".to_vec()];
    call(address, Arc::new(config)).await.unwrap_err();
    assert_eq!(
        (mesh.refused("no_protocol"), mesh.refused("no_common_protocol")),
        (1, 1)
    );
    assert_eq!(handler.calls(), 0);
}

#[tokio::test]
async fn id_5_a_server_without_an_identity_refuses() {
    let (mesh, handler) = (Mesh::new(), Handler::default());
    let (address, _server) = handler.listen(&mesh.link).await;
    let nobody = Reason::new(ReasonKind::NoIdentity, "the control plane was not reached yet");
    mesh.source.identity.publish(Err(nobody));
    call(address, mesh.client()).await.unwrap_err();
    assert_eq!(mesh.refused("no_identity"), 1);

    let lapsed = mesh.ca.leaf(SERVER).valid(1, NOW_SECONDS - 1).svid();
    mesh.source
        .identity
        .publish(Ok(Identity::new(lapsed, mesh.ca.bundle())));
    call(address, mesh.client()).await.unwrap_err();
    assert_eq!((mesh.refused("own_certificate_expired"), handler.calls()), (1, 0));
}

#[tokio::test]
async fn id_1_a_renewed_identity_serves_the_next_handshake() {
    let (mesh, handler) = (Mesh::new(), Handler::default());
    let (address, _server) = handler.listen(&mesh.link).await;
    let leaf = async || {
        let io = connect(address, mesh.client()).await.unwrap();
        let leaf = io.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
        let (mut sender, _connection) = h2(io).await.unwrap();
        assert_eq!(get(&mut sender).await.unwrap(), (200, CLIENT.into()));
        leaf
    };
    let (first, again) = (leaf().await, leaf().await);
    mesh.source.identity.publish(Ok(mesh.ca.identity(SERVER)));
    assert_eq!((first == again, first == leaf().await), (true, false));
}

/// What a refused peer has sent meanwhile is read before the socket closes, or a reset would overtake the alert; but it is
/// not listened to for longer than that takes.
#[tokio::test(start_paused = true)]
async fn id_4_a_refused_peer_can_read_why_and_not_linger() {
    let mesh = Mesh::new();
    let (io, peer) = tokio::io::duplex(64 * 1024);
    let acceptor = Acceptor::new(&mesh.link);
    let begin = Instant::now();
    let server = tokio::spawn(async move { acceptor.accept(io, ([127, 0, 0, 1], 1).into()).await.map(drop) });
    let mut client = shake_hands(peer, mesh.anonymous()).await.unwrap();
    client.write_all(&[0; 8 * 1024]).await.unwrap();
    let told = client.read(&mut [0]).await.unwrap_err();
    assert!(format!("{told:?}").contains("CertificateRequired"), "{told:?}");
    // The client stays: the server does not.
    assert_eq!(server.await.unwrap().unwrap_err().reason(), "no_certificate");
    assert_eq!(begin.elapsed(), Duration::from_millis(250));
}

/// Strangers who only hold a place make room: a good client waits for none of them. The flood says nothing, half of a client hello, or a
/// whole one and nothing after it.
#[tokio::test(start_paused = true)]
async fn id_9_a_flood_of_half_handshakes_keeps_nobody_out() {
    let mesh = Mesh::new();
    let acceptor = Acceptor::new(&mesh.link);
    let from: SocketAddr = ([127, 0, 0, 1], 1).into();
    let mut flood = tokio::task::JoinSet::new();
    let mut held = Vec::new();
    let hello = client_hello(&mesh).await;
    const FLOOD: usize = 5_000;
    for number in 0..FLOOD {
        let (io, mut peer) = tokio::io::duplex(4 * 1024);
        let said = [&[][..], &hello[..hello.len() / 2], &hello][number % 3];
        peer.write_all(said).await.unwrap();
        held.push(peer);
        let acceptor = acceptor.clone();
        flood.spawn(async move { acceptor.accept(io, from).await.map(drop) });
        // A whole hello is answered, which costs what it costs; some are enough.
        tokio::task::yield_now().await;
    }
    let begin = Instant::now();
    for _ in 0..10 {
        let (io, peer) = tokio::io::duplex(64 * 1024);
        let (served, called) = tokio::join!(acceptor.accept(io, from), shake_hands(peer, mesh.client()));
        assert_eq!(served.unwrap().peer().unwrap().id().as_str(), CLIENT);
        called.unwrap();
    }
    // Under a paused clock nothing was waited for.
    assert_eq!(begin.elapsed(), Duration::ZERO);
    while flood.join_next().await.is_some() {}
    let (late, gave_way) = (mesh.refused("timeout"), mesh.refused("crowded_out"));
    assert_eq!(late + gave_way, FLOOD as u64);
    assert!(late <= MAX_HANDSHAKES as u64, "{late}");
}

/// Good clients that come all at once push nobody out.
#[tokio::test]
async fn id_9_as_many_good_clients_as_there_are_places_come_in_at_once() {
    let mesh = Mesh::new();
    let acceptor = Acceptor::new(&mesh.link);
    let from: SocketAddr = ([127, 0, 0, 1], 1).into();
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..128 {
        let (io, peer) = tokio::io::duplex(64 * 1024);
        let (acceptor, client) = (acceptor.clone(), mesh.client());
        all.spawn(async move {
            let (served, called) = tokio::join!(acceptor.accept(io, from), shake_hands(peer, client));
            served.is_ok() && called.is_ok()
        });
    }
    while let Some(came_in) = all.join_next().await {
        assert!(came_in.unwrap());
    }
    assert_eq!(mesh.link.tally().total("handshake_refused"), 0);
}

/// What a client says first.
async fn client_hello(mesh: &Mesh) -> Vec<u8> {
    let (io, mut server) = tokio::io::duplex(64 * 1024);
    let client = tokio::spawn(shake_hands(io, mesh.client()));
    let mut hello = vec![0; 16 * 1024];
    let some = server.read(&mut hello).await.unwrap();
    hello.truncate(some);
    client.abort();
    hello
}
