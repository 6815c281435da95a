//! What policies do to real requests: who passes, what a refusal looks like, and when a change is felt.

use mesh_core::Snapshot;
use mesh_core::config::{
    Authorization, ChainIdentity, ChainMatch, Clients, Domain, FilterChain, FilterRules, Inbound, InboundSecurity,
    IpPrefix, Permission, PermissionTest, Principal, PrincipalTest, Rbac, RbacAction, RbacFilter, RbacPolicy, Reason,
    ReasonKind, RouteMatch, RoutedHost, RoutedRoute, Routing, Rule, StringMatch, Traffic,
};

use super::*;

const OTHER: &str = "spiffe://mesh.test/ns/shop/sa/other";

fn filter(action: RbacAction, permission: Permission, principal: Principal) -> RbacFilter {
    let policy = RbacPolicy {
        name: "ns[shop]-policy[p]-rule[0]".into(),
        permissions: vec![permission],
        principals: vec![principal],
    };
    RbacFilter {
        name: "rbac".into(),
        rules: FilterRules {
            enforced: Some(Rbac {
                action,
                policies: vec![policy],
            }),
            shadow: None,
        },
    }
}

pub(super) fn one_rule(action: RbacAction, permission: Permission, principal: Principal) -> Authorization {
    Authorization::new(Vec::new(), vec![filter(action, permission, principal)], Vec::new()).unwrap()
}

/// A chain that takes everything in plaintext.
pub(super) fn open(authorization: Authorization) -> FilterChain {
    FilterChain {
        name: "".into(),
        matches: ChainMatch::default(),
        security: InboundSecurity::Plaintext,
        identity: ChainIdentity::default(),
        traffic: Traffic::Http,
        authorization: Arc::new(authorization),
        limits: Arc::default(),
        telemetry: Default::default(),
    }
}

pub(super) fn mutual(authorization: Authorization) -> FilterChain {
    FilterChain {
        security: InboundSecurity::Mutual(Clients::Trusted),
        ..open(authorization)
    }
}

impl Mesh {
    /// The control plane says `chain` of the server at `address`.
    pub(super) fn rules(&self, address: SocketAddr, chain: FilterChain) {
        let inbound = Inbound {
            name: "inbound".into(),
            address,
            chains: vec![chain],
            default: None,
        };
        self.tell(address, Ok(Arc::new(inbound)));
    }

    fn tell(&self, address: SocketAddr, inbound: mesh_core::config::Resolved<Inbound>) {
        let snapshot = Snapshot::builder()
            .inbound(address.to_string(), inbound)
            .build()
            .unwrap();
        self.source.snapshots.publish(snapshot);
    }

    fn denied(&self, reason: &'static str) -> u64 {
        self.link.tally().get("authorization_denied", reason)
    }
}

fn peer(id: &str) -> Principal {
    Rule::Is(PrincipalTest::Peer(Some(StringMatch::Exact(id.into()))))
}

fn path(prefix: &str) -> Permission {
    Rule::Is(PermissionTest::Path(StringMatch::Prefix(prefix.into())))
}

#[tokio::test]
async fn only_who_is_allowed_passes_and_a_change_holds_for_the_next_request() {
    let (mesh, handler) = (Mesh::governed(), Handler::default());
    let (address, _server) = handler.listen(&mesh.link).await;
    mesh.rules(address, mutual(one_rule(RbacAction::Allow, Rule::Always, peer(CLIENT))));
    let other = mesh.client_as(&mesh.ca.identity(OTHER));
    let (mut allowed, _one) = h2(connect(address, mesh.client()).await.unwrap()).await.unwrap();
    let (mut refused, _two) = h2(connect(address, other).await.unwrap()).await.unwrap();
    assert_eq!(get(&mut allowed).await.unwrap(), (200, CLIENT.into()));
    assert_eq!(get(&mut refused).await.unwrap(), (403, "RBAC: access denied".into()));
    assert_eq!((handler.calls(), mesh.denied("rbac")), (1, 1));

    // The other way about, over the same connections.
    mesh.rules(address, mutual(one_rule(RbacAction::Allow, Rule::Always, peer(OTHER))));
    assert_eq!(get(&mut allowed).await.unwrap().0, 403);
    assert_eq!(get(&mut refused).await.unwrap(), (200, OTHER.into()));

    // Nothing allowed is nothing; no policy is everything.
    mesh.rules(
        address,
        mutual(one_rule(RbacAction::Allow, Rule::never(), Rule::Always)),
    );
    assert_eq!(get(&mut allowed).await.unwrap().0, 403);
    mesh.rules(address, mutual(Authorization::default()));
    assert_eq!(get(&mut allowed).await.unwrap(), (200, CLIENT.into()));
    assert_eq!(mesh.link.tally().total("connection_revoked"), 0);
}

/// A chain whose routes are not known takes connections, and answers each request that it is not to be had; by the same connection the
/// next one passes when they have come (gRFC A36).
#[tokio::test]
async fn az_10_requests_are_unavailable_until_the_servers_routes_are_known() {
    let (mesh, handler) = (Mesh::governed(), Handler::default());
    let (address, _server) = handler.listen(&mesh.link).await;
    let routed = |routing| {
        let everybody = one_rule(RbacAction::Allow, Rule::Always, Rule::Always);
        mesh.rules(address, mutual(everybody.with_routing(routing)));
    };
    routed(Routing::Nothing(Reason::new(ReasonKind::Waiting, "not heard of yet")));
    let (mut caller, _connection) = h2(connect(address, mesh.client()).await.unwrap()).await.unwrap();
    let unserved = "no route of the server is known to serve this";
    assert_eq!(get(&mut caller).await.unwrap(), (503, unserved.into()));
    let host = |routes| RoutedHost {
        domains: vec![Domain::Any],
        routes,
    };
    routed(Routing::Table(vec![host(Vec::new())]));
    assert_eq!(get(&mut caller).await.unwrap().0, 503);
    routed(Routing::Table(vec![host(vec![RoutedRoute::Refuses(
        RouteMatch::any(),
        "it redirects".into(),
    )])]));
    assert_eq!(get(&mut caller).await.unwrap().0, 503);
    assert_eq!(handler.calls(), 0);
    routed(Routing::Table(vec![host(vec![RoutedRoute::Serves(RouteMatch::any())])]));
    assert_eq!(get(&mut caller).await.unwrap(), (200, CLIENT.into()));
    let counted = ["routes_unknown", "no_route", "route_refused"].map(|reason| mesh.denied(reason));
    assert_eq!((counted, handler.calls()), ([1, 1, 1], 1));
    assert_eq!(mesh.link.tally().total("connection_revoked"), 0);
}

#[tokio::test]
async fn a_refusal_is_in_the_callers_own_words() {
    let (mesh, handler) = (Mesh::governed(), Handler::default());
    let (address, _server) = handler.listen(&mesh.link).await;
    mesh.rules(
        address,
        mutual(one_rule(RbacAction::Deny, path("/admin"), Rule::Always)),
    );
    let (mut sender, _connection) = h2(connect(address, mesh.client()).await.unwrap()).await.unwrap();
    let call = |path: &str, content_type: &str| {
        Request::post(format!("https://payment.shop{path}"))
            .header("content-type", content_type)
            .body(Empty::<Bytes>::new())
            .unwrap()
    };
    let response = sender
        .send_request(call("//admin/x", "application/grpc+proto"))
        .await
        .unwrap();
    let said = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(
        (
            response.status().as_u16(),
            said("grpc-status"),
            said("grpc-message"),
            said("content-type")
        ),
        (200, "7".into(), "RBAC: access denied".into(), "application/grpc".into())
    );
    assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
    let response = sender.send_request(call("/%61dmin", "text/plain")).await.unwrap();
    assert_eq!(response.status(), 403);
    assert_eq!(handler.calls(), 0);
    let response = sender.send_request(call("/other", "text/plain")).await.unwrap();
    assert_eq!((response.status().as_u16(), handler.calls()), (200, 1));
}

#[tokio::test]
async fn what_forbids_a_connection_ends_it_and_takes_no_other() {
    let (mesh, handler) = (Mesh::governed(), Handler::default());
    let (address, _server) = handler.listen(&mesh.link).await;
    let local = || Rule::Is(PrincipalTest::Source(IpPrefix::new([127, 0, 0, 0].into(), 8).unwrap()));
    let network = |principal| {
        let filters = vec![filter(RbacAction::Deny, Rule::Always, principal)];
        mutual(Authorization::new(filters, Vec::new(), Vec::new()).unwrap())
    };
    mesh.rules(address, network(peer(OTHER)));
    let (mut sender, connection) = h2(connect(address, mesh.client()).await.unwrap()).await.unwrap();
    assert_eq!(get(&mut sender).await.unwrap().0, 200);
    call(address, mesh.client_as(&mesh.ca.identity(OTHER)))
        .await
        .unwrap_err();
    assert_eq!(mesh.refused("forbidden"), 1);
    mesh.rules(address, network(local()));
    // It is told to go, which ends it.
    tokio::time::timeout(std::time::Duration::from_secs(20), connection)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(mesh.link.tally().get("connection_revoked", "forbidden"), 1);
    call(address, mesh.client()).await.unwrap_err();
    assert_eq!((mesh.refused("forbidden"), handler.calls()), (2, 1));
}

#[tokio::test]
async fn az_10_nothing_is_served_before_it_is_known_who_may() {
    let (mesh, handler) = (Mesh::governed(), Handler::default());
    let (address, _server) = handler.listen(&mesh.link).await;
    call(address, mesh.client()).await.unwrap_err();
    assert_eq!((mesh.refused("not_serving"), handler.calls()), (1, 0));

    mesh.rules(address, mutual(Authorization::default()));
    assert_eq!(call(address, mesh.client()).await.unwrap().0, 200);

    // A definite error is no licence either, and it holds for open connections.
    let (mut sender, _connection) = h2(connect(address, mesh.client()).await.unwrap()).await.unwrap();
    assert_eq!(get(&mut sender).await.unwrap().0, 200);
    mesh.tell(
        address,
        Err(Reason::new(ReasonKind::NoCluster, "the listener was refused")),
    );
    assert!(get(&mut sender).await.is_err_and(|_| true) || handler.calls() == 2);
    call(address, mesh.client()).await.unwrap_err();
    assert_eq!(handler.calls(), 2);
}

#[tokio::test]
async fn a_dry_run_and_an_audit_are_counted_and_change_nothing() {
    let (mesh, handler) = (Mesh::governed(), Handler::default());
    let (address, _server) = handler.listen(&mesh.link).await;
    let mut dry = filter(RbacAction::Deny, Rule::Always, Rule::Always);
    dry.rules.shadow = dry.rules.enforced.take();
    let audit = filter(RbacAction::Log, Rule::Always, peer(CLIENT));
    let authorization = Authorization::new(Vec::new(), vec![dry, audit], Vec::new()).unwrap();
    mesh.rules(address, mutual(authorization));
    assert_eq!(call(address, mesh.client()).await.unwrap().0, 200);
    let tally = mesh.link.tally();
    assert_eq!(
        (
            tally.get("authorization_shadow_denied", "rbac"),
            tally.get("authorization_audited", "rbac"),
            handler.calls()
        ),
        (1, 1, 1)
    );
}

/// The log is not written at the rate of whoever is refused. Under a paused clock it is one second.
#[tokio::test(start_paused = true)]
async fn fl_10_refusals_are_logged_at_our_rate() {
    let (mesh, handler) = (Mesh::governed(), Handler::default());
    let (dial, listener) = pipes();
    let deny = one_rule(RbacAction::Deny, Rule::Always, Rule::Always);
    mesh.rules(PIPES.parse().unwrap(), open(deny));
    tokio::spawn(serve(listener, &mesh.link, handler.app(&mesh.link)).into_future());
    let (mut sender, _connection) = h2(dial.connect()).await.unwrap();
    for _ in 0..150 {
        assert_eq!(get(&mut sender).await.unwrap().0, 403);
    }
    let tally = mesh.link.tally();
    assert_eq!(
        (
            tally.get("authorization_denied", "rbac"),
            tally.get("log_suppressed", "decision")
        ),
        (150, 50)
    );
}

/// What is written down, as a reader of the log sees it.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<String>>>);

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "mesh_server::decision"
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Line(String);
        impl tracing::field::Visit for Line {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!("{}={value:?} ", field.name());
            }
        }
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_refusal_is_written_down_with_its_rule_its_peer_and_the_configuration() {
    // For the whole process: what is logged where is decided once for all threads. Other tests are told apart by the version.
    let log = Log::default();
    tracing::subscriber::set_global_default(log.clone()).unwrap();
    let (mesh, handler) = (Mesh::governed(), Handler::default());
    let (address, _server) = handler.listen(&mesh.link).await;
    let authorization = one_rule(RbacAction::Deny, Rule::Always, peer(CLIENT));
    let inbound = Inbound {
        name: "inbound".into(),
        address,
        chains: vec![mutual(authorization)],
        default: None,
    };
    let snapshot = Snapshot::builder().inbound(address.to_string(), Ok(Arc::new(inbound)));
    let snapshot = snapshot.version(mesh_core::config::Version(42)).build().unwrap();
    mesh.source.snapshots.publish(snapshot);
    let (mut client, _one) = h2(connect(address, mesh.client()).await.unwrap()).await.unwrap();
    assert_eq!(get(&mut client).await.unwrap().0, 403);
    let lines = log.0.lock().unwrap().clone();
    let lines: Vec<_> = lines.into_iter().filter(|line| line.contains("version=42 ")).collect();
    let [line] = &*lines else { panic!("{lines:?}") };
    for part in [
        "outcome=\"denied\"",
        "dry_run=false",
        "rule=0",
        "version=42",
        "details=rbac_access_denied_matched_policy[ns[shop]-policy[p]-rule[0]]",
        &format!("peer={CLIENT}"),
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
}
