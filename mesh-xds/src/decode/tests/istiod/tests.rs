//! Both shapes are read to what istiod means by them.

use std::time::Duration;

use mesh_core::config::{
    Action, CallFilter, Clients, ConnectionFacts, DirectResponse, ExpectedPeers, FilterKind, InboundSecurity, LbPolicy,
    Mirror, MtlsMode, MutualTls, RouteTree, Split, StringMatch, TimeLimits, TlsMode, Traffic, Transport,
};
use mesh_core::route::virtual_host;

use super::{CLUSTER, IDENTITY, PAYMENT, PORT, proxyless, sidecar, subset};
use crate::decode::tests::{context, envoy, raw};
use crate::decode::{Context, Decoded, Resource, decode};
use crate::proto::core::TransportSocket;
use crate::resource::{ClusterSpec, Discovery, Endpoints, Http, Listener, Routes};

fn read<R: Resource>(proto: &R::Proto, context: &Context) -> Decoded<R>
where
    R::Proto: prost::Name,
{
    decode::<R>(&raw(proto), context).unwrap()
}

fn value<R: Resource>(proto: &R::Proto, context: &Context) -> R
where
    R::Proto: prost::Name,
{
    read::<R>(proto, context).value.unwrap()
}

fn mutual(sni: Option<&str>) -> TlsMode {
    TlsMode::Mutual(MutualTls {
        expected: ExpectedPeers::exactly([IDENTITY]),
        sni: sni.map(Into::into),
        ..MutualTls::default()
    })
}

/// Where routes hang their faults.
fn empty_fault() -> CallFilter {
    CallFilter::new("envoy.filters.http.fault", FilterKind::Fault(Default::default()))
}

#[test]
fn proxyless() {
    let grpc = context();
    let named = Http {
        routes: Routes::Named(CLUSTER.into()),
        extensions: Default::default(),
        filters: vec![empty_fault()].into(),
        limits: TimeLimits::default(),
        telemetry: Default::default(),
    };
    assert_eq!(value::<Listener>(&proxyless::listener(), &grpc), Listener::Api(named));
    let tree: RouteTree = value(&proxyless::routes(), &grpc);
    let host = virtual_host(&tree, "payment.default:50051").unwrap();
    let limit = Some(Duration::from_secs(2));
    assert_eq!(
        (host.routes[0].timeout, host.routes[0].limits.max_stream),
        (None, limit)
    );
    assert_eq!(
        (host.routes[0].retry.retries, host.routes[0].split().unwrap().total()),
        (2, 100)
    );
    let spec: ClusterSpec = value(&proxyless::cluster(CLUSTER), &grpc);
    assert_eq!(spec.cluster.tls, mutual(None));
    assert_eq!(
        (spec.discovery, spec.cluster.lb),
        (Discovery::Eds(CLUSTER.into()), LbPolicy::RoundRobin)
    );
    for (strict, security, mode) in [
        (true, InboundSecurity::Mutual(Clients::Trusted), MtlsMode::Strict),
        (false, InboundSecurity::Plaintext, MtlsMode::Disable),
    ] {
        let Listener::Inbound(inbound) = value(&proxyless::inbound(strict), &grpc) else {
            panic!("a server's listener is an inbound one")
        };
        assert_eq!(inbound.address, ([0, 0, 0, 0], 50051).into());
        assert_eq!((&inbound.chains[0].security, inbound.mode(50051)), (&security, mode));
    }
}

#[test]
fn a_sidecars_resources_in_grpcs_profile() {
    let grpc = context();
    let refused = |proto: &crate::proto::listener::Listener| {
        let rejected = read::<Listener>(proto, &grpc).value.unwrap_err();
        rejected.field().to_owned()
    };
    assert_eq!(refused(&sidecar::by_port()), "api_listener");
    assert_eq!(refused(&sidecar::virtual_inbound(true)), "listener_filters");
    let secret = read::<ClusterSpec>(&sidecar::cluster(CLUSTER), &grpc)
        .value
        .unwrap_err();
    assert!(
        secret
            .field()
            .starts_with("transport_socket_matches[0].transport_socket.typed_config"),
        "{secret}"
    );
    // Matches as such are honoured, with gRPC's certificate providers.
    let mut matched = sidecar::cluster(CLUSTER);
    let socket: Option<TransportSocket> = proxyless::cluster(CLUSTER).transport_socket;
    matched.transport_socket_matches[0].transport_socket = socket;
    let spec: ClusterSpec = value(&matched, &grpc);
    let endpoints: Endpoints = value(&super::endpoints(CLUSTER), &grpc);
    assert_eq!(*spec.cluster.tls_for(&endpoints.endpoints[0]), mutual(None));
    assert_eq!(*spec.cluster.tls_for(&endpoints.endpoints[1]), TlsMode::Plaintext);
}

#[test]
fn sidecar_listeners() {
    let named = Http {
        routes: Routes::Named(sidecar::ROUTES.into()),
        extensions: Default::default(),
        filters: vec![empty_fault()].into(),
        // Envoy's, where nothing is said.
        limits: TimeLimits {
            idle: Some(TimeLimits::ENVOY_IDLE),
            ..TimeLimits::default()
        },
        telemetry: Default::default(),
    };
    let expected = Listener::Outbound {
        address: ([0, 0, 0, 0], 50051).into(),
        http: named,
    };
    assert_eq!(value::<Listener>(&sidecar::by_port(), &envoy()), expected);
    let all = sidecar::listeners(false);
    assert!(all.iter().all(|proto| read::<Listener>(proto, &envoy()).value.is_ok()));
    let read = read::<Listener>(&sidecar::by_address(), &envoy());
    assert!(matches!(read.value, Ok(Listener::Other(_))), "{:?}", read.value);
    assert_eq!(read.notes.len(), 1, "{:?}", read.notes);
    for cluster in ["PassthroughCluster", "BlackHoleCluster"] {
        let caught = value::<Listener>(&sidecar::catching(cluster), &envoy());
        assert_eq!(caught, Listener::CatchAll(cluster.into()));
    }
}

#[test]
fn sidecar_inbound() {
    let facts = |transport, protocols| ConnectionFacts {
        destination: ([10, 1, 0, 1], PORT as u16).into(),
        source: ([10, 1, 0, 9], 40000).into(),
        transport,
        server_name: None,
        protocols,
    };
    let mesh = InboundSecurity::Mutual(Clients::Named(ExpectedPeers::new(vec![StringMatch::Prefix(
        "spiffe://cluster.local/".into(),
    )])));
    let of = |strict| match value(&sidecar::virtual_inbound(strict), &envoy()) {
        Listener::Inbound(inbound) => inbound,
        other => panic!("{other:?}"),
    };
    let strict = of(true);
    assert_eq!(
        (strict.mode(50051), strict.mode(9999)),
        (MtlsMode::Strict, MtlsMode::Strict)
    );
    let chain = strict.chain_for(&facts(Transport::Tls, &["h2"])).unwrap();
    assert_eq!((&chain.security, chain.traffic), (&mesh, Traffic::Http));
    assert_eq!(strict.chain_for(&facts(Transport::RawBuffer, &[])), None);
    let permissive = of(false);
    assert_eq!(permissive.mode(50051), MtlsMode::Permissive);
    let security = |transport, protocols| {
        permissive
            .chain_for(&facts(transport, protocols))
            .map(|chain| &chain.security)
    };
    assert_eq!(security(Transport::Tls, &["istio-h2", "h2"]), Some(&mesh));
    assert_eq!(security(Transport::RawBuffer, &[]), Some(&InboundSecurity::Plaintext));
    // TLS that is the application's own.
    assert_eq!(security(Transport::Tls, &["h2"]), None);
}

#[test]
fn sidecar_routes() {
    let read_routes = |allow_any| read::<RouteTree>(&sidecar::routes(allow_any), &envoy());
    let decoded = read_routes(true);
    let tree = decoded.value.unwrap();
    assert!(tree.ignore_port);
    for authority in ["payment", "payment.default:50051", "10.96.0.10:1"] {
        let route = &virtual_host(&tree, authority).unwrap().routes[0];
        assert_eq!(route.timeout, Some(Duration::from_secs(2)), "{authority}");
        assert_eq!(&*route.split().unwrap().clusters()[0].cluster.to_string(), subset("v1"));
    }
    let payment = virtual_host(&tree, "payment").unwrap().routes[0].clone();
    let mirror = Mirror {
        cluster: subset("v2").as_str().into(),
        fraction: None,
        shadow_suffix: true,
    };
    assert_eq!(payment.forward().unwrap().mirrors, [mirror]);
    assert_eq!(&*payment.filter_overrides[0].filter, "envoy.filters.http.fault");
    assert!(decoded.notes.is_empty(), "{:?}", decoded.notes);
    let unknown = |tree: &RouteTree| {
        let host = virtual_host(tree, "elsewhere.example").unwrap();
        host.routes[0].action.clone()
    };
    // ALLOW_ANY passes on, REGISTRY_ONLY refuses.
    assert_eq!(
        unknown(&tree),
        Action::Forward(Split::all_to("PassthroughCluster").into())
    );
    let refusal = DirectResponse {
        status: http::StatusCode::BAD_GATEWAY,
        body: Default::default(),
    };
    assert_eq!(unknown(&read_routes(false).value.unwrap()), Action::Respond(refusal));
}

#[test]
fn sidecar_clusters_and_endpoints() {
    let specs: Vec<ClusterSpec> = sidecar::clusters().iter().map(|proto| value(proto, &envoy())).collect();
    let kinds: Vec<&Discovery> = specs.iter().map(|spec| &spec.discovery).collect();
    let eds = |name: &str| Discovery::Eds(name.into());
    let original = Discovery::OriginalDestination;
    assert_eq!(
        kinds,
        [
            &eds(CLUSTER),
            &eds(&subset("v1")),
            &eds(&subset("v2")),
            &Discovery::Static(Endpoints::default()),
            &original,
            &original,
            &original
        ]
    );
    let v1 = &specs[1].cluster;
    assert_eq!(
        (v1.lb.clone(), v1.breakers.default.max_requests),
        (LbPolicy::LEAST_REQUEST, u32::MAX)
    );
    assert_eq!(v1.connect_timeout, Duration::from_secs(10));
    let endpoints: Endpoints = value(&super::endpoints(&subset("v1")), &envoy());
    let [meshed, bare] = &endpoints.endpoints[..] else {
        panic!("{endpoints:?}")
    };
    let name = format!("outbound_.50051_.v1_.{PAYMENT}");
    assert_eq!(*v1.tls_for(meshed), mutual(Some(&name)));
    assert_eq!(*v1.tls_for(bare), TlsMode::Plaintext);
    assert_eq!(
        meshed.metadata.value("istio", "workload"),
        Some("payment;default;payment;v1;Kubernetes")
    );
    assert_eq!(&*meshed.locality.region, "region1");
}
