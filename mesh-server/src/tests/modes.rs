//! ID-5, ID-6, HS-7: whom a server lets in is what its control plane says of its address, for each new connection and for those
//! that are open, and never less than code wants.

use std::time::Duration;

use mesh_core::Snapshot;
use mesh_core::config::{
    ChainIdentity, ChainMatch, Clients, Domain, FilterChain, Inbound, InboundSecurity, Reason, ReasonKind, Traffic,
    Transport,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::raw::{END_HEADERS, GOAWAY, HEADERS, REFUSED_STREAM, RST_STREAM, Raw};
use super::*;
use crate::{ConnectionInfo, Serving};

/// A rule must reach open connections within this (HS-7).
const SOON: Duration = Duration::from_millis(100);

fn chain(security: InboundSecurity, transport: Option<Transport>) -> FilterChain {
    FilterChain {
        name: "".into(),
        matches: ChainMatch {
            transport,
            ..ChainMatch::default()
        },
        security,
        identity: ChainIdentity::default(),
        traffic: Traffic::Http,
        authorization: Arc::default(),
        limits: Arc::default(),
        telemetry: Default::default(),
    }
}

fn mutual(transport: Option<Transport>) -> FilterChain {
    chain(InboundSecurity::Mutual(Clients::Trusted), transport)
}

fn strict() -> Vec<FilterChain> {
    vec![mutual(None)]
}

fn permissive() -> Vec<FilterChain> {
    let plaintext = chain(InboundSecurity::Plaintext, Some(Transport::RawBuffer));
    vec![plaintext, mutual(Some(Transport::Tls))]
}

fn disable() -> Vec<FilterChain> {
    vec![chain(InboundSecurity::Plaintext, None)]
}

fn only(client: &str) -> Vec<FilterChain> {
    let named = Clients::Named(ExpectedPeers::exactly([client]));
    vec![chain(InboundSecurity::Mutual(named), None)]
}

impl Mesh {
    /// The control plane says `chains` of the server at `address`.
    fn rule(&self, address: impl Into<String>, chains: Vec<FilterChain>) {
        let address = address.into();
        let inbound = Inbound {
            name: address.as_str().into(),
            address: address.parse().unwrap(),
            chains,
            default: None,
        };
        self.publish(&address, Ok(Arc::new(inbound)));
    }

    fn publish(&self, address: &str, inbound: mesh_core::config::Resolved<Inbound>) {
        let snapshot = Snapshot::builder().inbound(address, inbound).build().unwrap();
        self.source.snapshots.publish(snapshot);
    }

    fn revoked(&self, reason: &'static str) -> u64 {
        self.link.tally().get("connection_revoked", reason)
    }
}

/// A server of `handler` behind pipes, changed as code would.
fn piped<S>(mesh: &Mesh, app: S, change: impl FnOnce(Serving<Pipes, S>) -> Serving<Pipes, S>) -> Dial
where
    Serving<Pipes, S>: IntoFuture<Output = Drained, IntoFuture: Send + 'static>,
{
    let (dial, listener) = pipes();
    tokio::spawn(change(serve(listener, &mesh.link, app)).into_future());
    dial
}

/// What a whole call in plaintext HTTP/2 brings.
async fn plain_call(dial: &Dial) -> hyper::Result<(u16, Bytes)> {
    let (mut sender, _connection) = h2(dial.connect()).await?;
    get(&mut sender).await
}

async fn tls_call(dial: &Dial, config: Arc<ClientConfig>) -> Result<(u16, Bytes), Box<dyn std::error::Error>> {
    let (mut sender, _connection) = h2(shake_hands(dial.connect(), config).await?).await?;
    Ok(get(&mut sender).await?)
}

#[tokio::test]
async fn id_6_permissive_serves_both_and_knows_only_whom_it_verified() {
    let (mesh, handler) = (Mesh::governed(), Handler::default());
    let (address, _server) = handler.listen(&mesh.link).await;
    mesh.rule(address.to_string(), permissive());
    assert_eq!(call(address, mesh.client()).await.unwrap(), (200, CLIENT.into()));
    // The first byte decides: HTTP/1.1 and HTTP/2 are both served, and their peer is nobody.
    let (mut plain, _connection) = h2(TcpStream::connect(address).await.unwrap()).await.unwrap();
    assert_eq!(get(&mut plain).await.unwrap(), (200, Bytes::new()));
    assert_eq!(
        get_http1(TcpStream::connect(address).await.unwrap()).await,
        (200, Bytes::new())
    );
    // Whoever begins with TLS is verified like under STRICT, and does not fall through to plaintext.
    call(address, mesh.anonymous()).await.unwrap_err();
    let stranger = TestCa::new("mesh.test").identity(CLIENT);
    call(
        address,
        mesh.client_as(&Identity::new(stranger.svid().clone(), mesh.ca.bundle())),
    )
    .await
    .unwrap_err();
    assert_eq!((mesh.refused("no_certificate"), mesh.refused("unknown_issuer")), (1, 1));
    assert_eq!(handler.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn id_6_the_first_byte_is_waited_for_and_not_for_ever() {
    let mesh = Mesh::governed();
    mesh.rule(PIPES, permissive());
    let dial = piped(&mesh, Handler::default().app(&mesh.link), |serving| serving);
    let begin = Instant::now();
    let mut silent = dial.connect();
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(
        (begin.elapsed(), mesh.refused("timeout")),
        (crate::HANDSHAKE_TIMEOUT, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn id_5_a_server_without_its_configuration_lets_nobody_in() {
    let (mesh, handler) = (Mesh::governed(), Handler::default());
    let dial = piped(&mesh, handler.app(&mesh.link), |serving| serving);
    tls_call(&dial, mesh.client()).await.unwrap_err();
    plain_call(&dial).await.unwrap_err();
    assert_eq!((mesh.refused("not_serving"), handler.calls()), (2, 0));
    assert_eq!(mesh.link.interest().wanted_inbound(), [Arc::from(PIPES)]);
    // It is there, or is known not to be.
    mesh.rule(PIPES, strict());
    assert_eq!(tls_call(&dial, mesh.client()).await.unwrap(), (200, CLIENT.into()));
    mesh.publish(PIPES, Err(Reason::new(ReasonKind::NoListener, "deleted")));
    tls_call(&dial, mesh.client()).await.unwrap_err();
    assert_eq!((mesh.refused("not_serving"), handler.calls()), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn id_5_only_code_serves_before_the_configuration_and_only_who_is_verified() {
    let (mesh, handler) = (Mesh::governed(), Handler::default());
    let dial = piped(&mesh, handler.app(&mesh.link), |serving| {
        serving.dangerous().unconfigured()
    });
    assert_eq!(tls_call(&dial, mesh.client()).await.unwrap(), (200, CLIENT.into()));
    plain_call(&dial).await.unwrap_err();
    // What is configured holds once it is known.
    mesh.rule(PIPES, permissive());
    assert_eq!(plain_call(&dial).await.unwrap(), (200, Bytes::new()));
    assert_eq!((mesh.refused("plaintext"), handler.calls()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn id_5_without_a_policy_a_server_is_strict() {
    let (mesh, handler) = (Mesh::new(), Handler::default());
    let dial = piped(&mesh, handler.app(&mesh.link), |serving| serving);
    assert_eq!(tls_call(&dial, mesh.client()).await.unwrap(), (200, CLIENT.into()));
    plain_call(&dial).await.unwrap_err();
    assert_eq!((mesh.refused("plaintext"), handler.calls()), (1, 1));
}

/// DISABLE looks at no first byte; who speaks TLS to it is told nothing and reaches nobody.
#[tokio::test(start_paused = true)]
async fn id_5_disable_serves_plaintext_and_no_tls() {
    let (mesh, handler) = (Mesh::governed(), Handler::default());
    mesh.rule(PIPES, disable());
    let dial = piped(&mesh, handler.app(&mesh.link), |serving| serving);
    assert_eq!(plain_call(&dial).await.unwrap(), (200, Bytes::new()));
    tls_call(&dial, mesh.client()).await.unwrap_err();
    assert_eq!(handler.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn id_5_a_floor_in_code_is_under_every_configuration() {
    let (mesh, handler) = (Mesh::governed(), Handler::default());
    let dial = piped(&mesh, handler.app(&mesh.link), Serving::require_mutual_tls);
    for (number, chains) in [permissive(), disable(), vec![chain(InboundSecurity::OneSided, None)]]
        .into_iter()
        .enumerate()
    {
        mesh.rule(PIPES, chains);
        assert_eq!(tls_call(&dial, mesh.client()).await.unwrap(), (200, CLIENT.into()));
        tls_call(&dial, mesh.anonymous()).await.unwrap_err();
        plain_call(&dial).await.unwrap_err();
        let refused = number as u64 + 1;
        assert_eq!(
            (mesh.refused("plaintext"), mesh.refused("no_certificate")),
            (refused, refused)
        );
    }
    // It may ask for more than that.
    mesh.rule(PIPES, only("spiffe://mesh.test/ns/shop/sa/other"));
    tls_call(&dial, mesh.client()).await.unwrap_err();
    assert_eq!((mesh.refused("wrong_identity"), handler.calls()), (1, 3));
}

#[tokio::test]
async fn id_5_a_listener_names_its_clients() {
    let (mesh, handler) = (Mesh::governed(), Handler::default());
    let (address, _server) = handler.listen(&mesh.link).await;
    mesh.rule(address.to_string(), only(CLIENT));
    assert_eq!(call(address, mesh.client()).await.unwrap(), (200, CLIENT.into()));
    let other = mesh.ca.identity("spiffe://mesh.test/ns/shop/sa/other");
    let error = call(address, mesh.client_as(&other)).await.unwrap_err();
    assert!(format!("{error:?}").contains("CertificateUnknown"), "{error:?}");
    assert_eq!((mesh.refused("wrong_identity"), handler.calls()), (1, 1));
}

#[tokio::test]
async fn id_5_one_sided_tls_is_encrypted_and_nobody_is_known() {
    let (mesh, handler) = (Mesh::governed(), Handler::default());
    let (address, _server) = handler.listen(&mesh.link).await;
    mesh.rule(address.to_string(), vec![chain(InboundSecurity::OneSided, None)]);
    for config in [mesh.client(), mesh.anonymous()] {
        assert_eq!(call(address, config).await.unwrap(), (200, Bytes::new()));
    }
    let (mut plain, _connection) = h2(TcpStream::connect(address).await.unwrap()).await.unwrap();
    get(&mut plain).await.unwrap_err();
    assert_eq!((mesh.refused("plaintext"), handler.calls()), (1, 2));
}

/// Chains are chosen by what the client hello says and by where it was sent, in Envoy's order.
#[tokio::test]
async fn id_5_chains_are_chosen_by_server_name_protocol_and_port() {
    let (mesh, handler) = (Mesh::governed(), Handler::default());
    let (address, _server) = handler.listen(&mesh.link).await;
    let other = || Clients::Named(ExpectedPeers::exactly(["spiffe://mesh.test/ns/shop/sa/other"]));
    type Change<'a> = &'a dyn Fn(&mut ChainMatch);
    let cases: [(&str, Change<'_>); 4] = [
        ("server name", &|m| {
            m.server_names = vec![Domain::parse("payment.shop").unwrap()]
        }),
        ("suffix", &|m| m.server_names = vec![Domain::parse("*.shop").unwrap()]),
        ("protocol", &|m| m.protocols = vec!["h2".into()]),
        ("port", &|m| m.port = Some(address.port())),
    ];
    for (number, (what, change)) in cases.into_iter().enumerate() {
        // The chain that fits better is for somebody else: nobody falls back from it.
        let mut narrow = chain(InboundSecurity::Mutual(other()), None);
        change(&mut narrow.matches);
        mesh.rule(address.to_string(), vec![mutual(None), narrow.clone()]);
        call(address, mesh.client()).await.unwrap_err();
        assert_eq!(mesh.refused("wrong_identity"), number as u64 + 1, "{what}");
        // And where it does not fit, the other takes the connection.
        narrow.matches.port = Some(1);
        mesh.rule(address.to_string(), vec![mutual(None), narrow]);
        assert_eq!(
            call(address, mesh.client()).await.unwrap(),
            (200, CLIENT.into()),
            "{what}"
        );
    }
    let mut elsewhere = mutual(None);
    elsewhere.matches.port = Some(1);
    mesh.rule(address.to_string(), vec![elsewhere]);
    call(address, mesh.client()).await.unwrap_err();
    let mut bytes = mutual(None);
    bytes.traffic = Traffic::Tcp;
    mesh.rule(address.to_string(), vec![bytes]);
    call(address, mesh.client()).await.unwrap_err();
    assert_eq!((mesh.refused("no_filter_chain"), mesh.refused("not_http")), (1, 1));
    assert_eq!(handler.calls(), 4);
}

/// Idle connections that the new rule would not take are ended, and the others stay.
#[tokio::test(start_paused = true)]
async fn hs_7_a_stricter_rule_reaches_open_connections() {
    let (mesh, handler) = (Mesh::governed(), Handler::default());
    mesh.rule(PIPES, permissive());
    let dial = piped(&mesh, handler.app(&mesh.link), |serving| serving);
    let (mut plain, plain_ended) = h2(dial.connect()).await.unwrap();
    let (mut mine, _mine) = h2(shake_hands(dial.connect(), mesh.client()).await.unwrap())
        .await
        .unwrap();
    let other = mesh.client_as(&mesh.ca.identity("spiffe://mesh.test/ns/shop/sa/other"));
    let (mut others, others_ended) = h2(shake_hands(dial.connect(), other).await.unwrap()).await.unwrap();
    for sender in [&mut plain, &mut mine, &mut others] {
        assert_eq!(get(sender).await.unwrap().0, 200);
    }
    let begin = Instant::now();
    mesh.rule(PIPES, strict());
    plain_ended.await.unwrap().unwrap();
    get(&mut plain).await.unwrap_err();
    assert_eq!((mesh.revoked("plaintext"), get(&mut others).await.unwrap().0), (1, 200));
    mesh.rule(PIPES, only(CLIENT));
    others_ended.await.unwrap().unwrap();
    get(&mut others).await.unwrap_err();
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    assert_eq!(
        (mesh.revoked("wrong_identity"), get(&mut mine).await.unwrap().0),
        (1, 200)
    );
    // The other way round a verified connection is what a plaintext port would not take.
    mesh.rule(PIPES, disable());
    get(&mut mine).await.unwrap_err();
    assert_eq!((mesh.revoked("tls_not_spoken"), handler.calls()), (1, 5));
}

/// Roots that are no longer trusted take those along whom they vouched for; a renewal takes nobody.
#[tokio::test(start_paused = true)]
async fn hs_7_other_roots_reach_open_connections() {
    let (mesh, handler) = (Mesh::new(), Handler::default());
    let dial = piped(&mesh, handler.app(&mesh.link), |serving| serving);
    let (mut sender, ended) = h2(shake_hands(dial.connect(), mesh.client()).await.unwrap())
        .await
        .unwrap();
    assert_eq!(get(&mut sender).await.unwrap().0, 200);
    mesh.source.identity.publish(Ok(mesh.ca.identity(SERVER)));
    assert_eq!(get(&mut sender).await.unwrap().0, 200);
    let next = TestCa::new("mesh.test");
    mesh.source.identity.publish(Ok(next.identity(SERVER)));
    ended.await.unwrap().unwrap();
    get(&mut sender).await.unwrap_err();
    assert_eq!((mesh.revoked("trust_changed"), handler.calls()), (1, 2));
}

/// What a peer begins after the rule has changed is not served, also if it pays no attention to GOAWAY and never lets the server
/// finish it; what it had begun ends.
#[tokio::test(start_paused = true)]
async fn hs_7_a_peer_that_ignores_goaway_is_refused_and_cut() {
    let mesh = Mesh::governed();
    mesh.rule(PIPES, permissive());
    let go_on = Arc::new(tokio::sync::Notify::new());
    let released = Arc::clone(&go_on);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let answer = move |_: Request<RequestBody>| {
        counted.fetch_add(1, Ordering::Relaxed);
        let released = Arc::clone(&released);
        async move {
            released.notified().await;
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"done"))))
        }
    };
    let app = MeshLayer::new(&mesh.link).layer(service_fn(answer));
    let dial = piped(&mesh, app, |serving| serving.drain_timeout(Duration::from_secs(30)));
    let mut peer = Raw::begin(dial.connect()).await.unwrap();
    peer.get(1).await.unwrap();
    while calls.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    let begin = Instant::now();
    mesh.rule(PIPES, strict());
    peer.next_of(GOAWAY).await.unwrap();
    // The PING that came with it is never answered: the connection stays open to what is begun.
    peer.get(3).await.unwrap();
    let refused = peer.next_of(RST_STREAM).await.unwrap();
    assert_eq!((refused.stream, refused.error()), (3, REFUSED_STREAM));
    assert!(begin.elapsed() < SOON);
    go_on.notify_one();
    let answered = peer.next_of(HEADERS).await.unwrap();
    assert_eq!((answered.stream, answered.flags & END_HEADERS), (1, END_HEADERS));
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    while peer.next().await.is_some() {}
    assert_eq!(begin.elapsed().as_secs(), 30);
}

/// What is revoked between the loop's question and the layer's is told in the same words: nothing was processed.
#[tokio::test(start_paused = true)]
async fn hs_7_what_is_revoked_on_its_way_is_not_processed() {
    let mesh = Mesh::new();
    let handler = Handler::default();
    let app = handler.app(&mesh.link).map_request(|request: Request<RequestBody>| {
        ConnectionInfo::of(request.extensions()).unwrap().revoke();
        request
    });
    let (dial, listener) = pipes();
    tokio::spawn(serve(listener, &mesh.link, app).into_future());
    let mut peer = Raw::begin(shake_hands(dial.connect(), mesh.client()).await.unwrap())
        .await
        .unwrap();
    peer.get(1).await.unwrap();
    let refused = peer.next_of(RST_STREAM).await.unwrap();
    assert_eq!((refused.stream, refused.error()), (1, REFUSED_STREAM));
    assert_eq!(
        (
            mesh.link.tally().get("request_refused", "connection_revoked"),
            handler.calls()
        ),
        (1, 0)
    );
}

/// tonic's loop cannot be told to drain one connection: the layer refuses what comes by it.
#[tokio::test]
async fn hs_7_tonics_own_loop_serves_nothing_under_the_old_rule() {
    let mesh = Mesh::governed();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    mesh.rule(address.to_string(), permissive());
    let handler = Handler::default();
    let inner = handler.clone();
    let answer = move |request: Request<tonic::body::Body>| {
        let peerless = request
            .extensions()
            .get::<ConnectionInfo>()
            .is_some_and(|info| info.peer().is_none());
        assert!(peerless);
        let response = inner.answer(&request).map(tonic::body::Body::new);
        async { Ok::<_, Infallible>(response) }
    };
    let routes = tonic::service::Routes::from(axum::Router::new().fallback_service(service_fn(
        move |request: Request<axum::body::Body>| {
            let answer = answer.clone();
            async move { answer(request.map(tonic::body::Body::new)).await }
        },
    )));
    let server = crate::tonic::server()
        .layer(MeshLayer::new(&mesh.link))
        .add_routes(routes)
        .serve_with_incoming(crate::tonic::incoming(listener, &mesh.link));
    tokio::spawn(server);
    let (mut plain, _connection) = h2(TcpStream::connect(address).await.unwrap()).await.unwrap();
    assert_eq!(get(&mut plain).await.unwrap().0, 200);
    mesh.rule(address.to_string(), strict());
    while mesh.revoked("plaintext") == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(get(&mut plain).await.unwrap().0, 503);
    assert_eq!(
        (
            mesh.link.tally().get("request_refused", "connection_revoked"),
            handler.calls()
        ),
        (1, 1)
    );
    let mut bare = TcpStream::connect(address).await.unwrap();
    bare.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut nothing = Vec::new();
    let _ = bare.read_to_end(&mut nothing).await;
    assert_eq!((nothing.len(), mesh.refused("plaintext")), (0, 1));
}

#[tokio::test]
async fn readiness_waits_for_the_configuration() {
    let mesh = Mesh::governed();
    let (address, _server) = Handler::default().listen(&mesh.link).await;
    let admin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = admin.local_addr().unwrap();
    tokio::spawn(crate::admin::serve(admin, &mesh.link).into_future());
    let waiting = async || get_ready(port).await;
    while waiting().await == (503, "no server accepts connections\n".into()) {
        tokio::task::yield_now().await;
    }
    let text = "a server takes no connections: the server's own configuration was not heard yet\n";
    assert_eq!(waiting().await, (503, text.into()));
    mesh.rule(address.to_string(), strict());
    assert_eq!(waiting().await.0, 200);
}

async fn get_ready(port: SocketAddr) -> (u16, Bytes) {
    let io = TcpStream::connect(port).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/readyz").header("host", "localhost");
    let response = sender
        .send_request(request.body(Empty::<Bytes>::new()).unwrap())
        .await
        .unwrap();
    let code = response.status().as_u16();
    (code, response.into_body().collect().await.unwrap().to_bytes())
}
