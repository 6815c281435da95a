//! Who is called: mutual TLS over the in-memory pipes, and what is refused.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use mesh_core::config::{
    Cluster, Endpoint, ExpectedPeers, Health, LbPolicy, Metadata, MutualTls, Reason, ReasonKind, Route, Snapshot,
    Split, TRANSPORT_SOCKET_MATCH, TlsMatch, TlsMode, Version,
};
use mesh_core::identity::Identity;
use mesh_core::identity::tls::{ClientAuth, server_config};
use mesh_core::testing::TestCa;
use rustls::time_provider::DefaultTimeProvider;

use super::net::{Net, address, call, one_cluster, post, say, text};
use crate::{Channel, Error};

const PAYMENT: &str = "spiffe://cluster.local/ns/default/sa/payment";
const CHECKOUT: &str = "spiffe://cluster.local/ns/default/sa/checkout";

fn mutual(expected: ExpectedPeers) -> Snapshot {
    let tls = TlsMode::Mutual(MutualTls {
        expected,
        sni: Some("outbound_.80_.v1_.payment".into()),
        ..MutualTls::default()
    });
    let cluster = Cluster::new("c", tls, vec![Endpoint::new(address(1))]);
    Snapshot::builder()
        .route("t", Route::to(Split::all_to("c")))
        .cluster(cluster)
        .build()
        .unwrap()
}

async fn call_with(server: &Identity, client: Option<Identity>, expected: ExpectedPeers) -> Result<String, Error> {
    let net = Net::default();
    let tls = server_config(server, ClientAuth::Required, Arc::new(DefaultTimeProvider), &[b"h2"]).unwrap();
    net.serve_with(1, h2::server::Builder::new(), Some(tls), |_, respond| async {
        say(respond, "ok")
    });
    let (source, link) = net.link();
    if let Some(client) = client {
        source.identity.publish(Ok(client));
    }
    source.snapshots.publish(mutual(expected));
    let channel = Channel::<Full<Bytes>>::new(&link, "t");
    Ok(text(call(&channel, post("")).await?).await)
}

#[tokio::test]
async fn the_expected_peer_is_called_and_any_other_is_refused() {
    let ca = TestCa::new("cluster.local");
    let server = ca.identity(PAYMENT);
    let client = || Some(ca.identity(CHECKOUT));
    let expected = |id| ExpectedPeers::exactly([id]);
    assert_eq!(call_with(&server, client(), expected(PAYMENT)).await.unwrap(), "ok");
    let other = "spiffe://cluster.local/ns/default/sa/somebody-else";
    for (expected, word) in [
        (expected(other), "wrong_identity"),
        (ExpectedPeers::default(), "nothing_expected"),
    ] {
        let error = call_with(&server, client(), expected).await.unwrap_err();
        assert!(error.is_connect() && error.response_flag() == "UF", "{error}");
        assert!(!error.may_have_been_processed());
        let cause = std::error::Error::source(&error).unwrap();
        let connect = cause.downcast_ref::<crate::connect::ConnectError>().unwrap();
        assert_eq!(connect.as_str(), word, "{connect}");
    }
    let stranger = TestCa::new("cluster.local").identity(PAYMENT);
    let error = call_with(&stranger, client(), expected(PAYMENT)).await.unwrap_err();
    assert!(error.is_connect(), "{error}");
}

#[tokio::test]
async fn without_an_identity_nothing_is_sent() {
    let ca = TestCa::new("cluster.local");
    let error = call_with(&ca.identity(PAYMENT), None, ExpectedPeers::exactly([PAYMENT]))
        .await
        .unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("needs an identity"), "{cause}");
}

#[tokio::test]
async fn plaintext_is_refused_unless_the_code_says_otherwise() {
    let net = Net::default();
    net.serve(1, |_, respond| async { say(respond, "ok") });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    let strict = Channel::<Full<Bytes>>::new(&link, "t");
    let error = call(&strict, post("")).await.unwrap_err();
    assert_eq!(
        (error.reason_kind(), net.dials()),
        (Some(ReasonKind::PlaintextRefused), 0)
    );
    let lax = super::net::channel(&link);
    assert_eq!(text(call(&lax, post("")).await.unwrap()).await, "ok");
}

/// Configuration may come before the certificate does: calls wait for it as for a connection, and not for one that is lacking
/// for a reason.
#[tokio::test(start_paused = true)]
async fn an_identity_on_its_way_is_waited_for() {
    let ca = TestCa::new("cluster.local");
    let net = Net::default();
    let tls = server_config(
        &ca.identity(PAYMENT),
        ClientAuth::Required,
        Arc::new(DefaultTimeProvider),
        &[b"h2"],
    )
    .unwrap();
    net.serve_with(1, h2::server::Builder::new(), Some(tls), |_, respond| async {
        say(respond, "ok")
    });
    let (source, link) = net.link();
    source.identity.publish(Err(Reason::new(
        ReasonKind::Waiting,
        "the workload is being given its identity",
    )));
    source.snapshots.publish(mutual(ExpectedPeers::exactly([PAYMENT])));
    let channel = Channel::<Full<Bytes>>::new(&link, "t");
    let join = async {
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        source.identity.publish(Ok(ca.identity(CHECKOUT)));
    };
    let (response, ()) = tokio::join!(call(&channel, post("")), join);
    assert_eq!(text(response.unwrap()).await, "ok");
    channel.ready().await;
}

/// Two endpoints of a cluster with auto-mTLS: each is called with mutual TLS if `meshed` says so of it.
fn mixed(version: u64, meshed: [bool; 2]) -> Snapshot {
    let says = |value: bool| {
        let value = if value { "istio" } else { "disabled" };
        Metadata::new([(TRANSPORT_SOCKET_MATCH, "tlsMode", value)]).unwrap()
    };
    let endpoint = |(n, meshed): (u8, bool)| Endpoint {
        metadata: Arc::new(says(meshed)),
        ..Endpoint::new(address(n))
    };
    let istio = TlsMatch {
        name: "tlsMode-istio".into(),
        when: says(true),
        mode: TlsMode::Mutual(MutualTls {
            expected: ExpectedPeers::exactly([PAYMENT]),
            sni: None,
            ..MutualTls::default()
        }),
    };
    let endpoints = (1..).zip(meshed).map(endpoint).collect();
    let cluster = Cluster {
        lb: LbPolicy::RoundRobin,
        tls_matches: [istio].into(),
        ..Cluster::new("c", TlsMode::Plaintext, endpoints)
    };
    one_of(version, cluster)
}

/// Two servers of which only the first speaks TLS, and a workload with an identity.
fn mixed_net(ca: &TestCa, tls_on_second: bool) -> (Net, mesh_core::link::Source, mesh_core::Link) {
    let net = Net::default();
    let tls = || {
        let clock = Arc::new(DefaultTimeProvider);
        server_config(&ca.identity(PAYMENT), ClientAuth::Required, clock, &[b"h2"]).unwrap()
    };
    let builder = h2::server::Builder::new;
    net.serve_with(1, builder(), Some(tls()), |_, respond| async { say(respond, "first") });
    let second = tls_on_second.then(tls);
    net.serve_with(2, builder(), second, |_, respond| async { say(respond, "second") });
    let (source, link) = net.link();
    source.identity.publish(Ok(ca.identity(CHECKOUT)));
    (net, source, link)
}

#[tokio::test]
async fn each_endpoint_of_a_cluster_is_called_with_its_own_tls() {
    let (net, source, link) = mixed_net(&TestCa::new("cluster.local"), false);
    let lax = super::net::channel(&link);
    swap(&source, &link, mixed(1, [true, false])).await;
    let mut heard = [0, 0];
    for _ in 0..4 {
        match text(call(&lax, post("")).await.unwrap()).await.as_str() {
            "first" => heard[0] += 1,
            _ => heard[1] += 1,
        }
    }
    assert_eq!((heard, net.dials()), ([2, 2], 2));
    // A channel that was not built for plaintext calls the one and refuses the other, call by call.
    let strict = Channel::<Full<Bytes>>::new(&link, "t");
    let mut refused = 0;
    for _ in 0..4 {
        match call(&strict, post("")).await {
            Ok(response) => assert_eq!(text(response).await, "first"),
            Err(error) => {
                assert_eq!(error.reason_kind(), Some(ReasonKind::PlaintextRefused), "{error}");
                refused += 1;
            }
        }
    }
    assert_eq!((refused, net.dials()), (2, 2));
}

#[tokio::test]
async fn a_host_is_kept_over_a_swap_unless_its_own_tls_changes() {
    let (net, source, link) = mixed_net(&TestCa::new("cluster.local"), true);
    let channel = super::net::channel(&link);
    swap(&source, &link, mixed(1, [true, true])).await;
    let both = async || {
        for _ in 0..2 {
            call(&channel, post("")).await.map(drop)?;
        }
        Ok::<_, Error>(net.dials())
    };
    assert_eq!(both().await.unwrap(), 2);
    // The same modes in a new value: nothing is dialled anew.
    let mut again = (**mixed(2, [true, true]).cluster(&"c".into()).unwrap().as_ref().unwrap()).clone();
    again.breakers.default.max_requests += 1;
    swap(&source, &link, one_of(2, again.clone())).await;
    assert_eq!(both().await.unwrap(), 2);
    // The second is to be called by another name now; the first keeps its connection.
    let mut renamed = Vec::from(&*again.tls_matches);
    renamed.push(TlsMatch {
        name: "renamed".into(),
        when: Metadata::new([(TRANSPORT_SOCKET_MATCH, "tlsMode", "renamed")]).unwrap(),
        mode: TlsMode::Mutual(MutualTls {
            expected: ExpectedPeers::exactly([PAYMENT]),
            sni: Some("renamed".into()),
            ..MutualTls::default()
        }),
    });
    let mut endpoints = again.endpoints.to_vec();
    endpoints[1].metadata = Arc::new(renamed[1].when.clone());
    (again.tls_matches, again.endpoints) = (renamed.into(), endpoints.into());
    swap(&source, &link, one_of(3, again)).await;
    assert_eq!(both().await.unwrap(), 3);
}

fn one_of(version: u64, cluster: Cluster) -> Snapshot {
    Snapshot::builder()
        .version(Version(version))
        .route("t", Route::to(Split::all_to("c")))
        .cluster(cluster)
        .build()
        .unwrap()
}

#[tokio::test]
async fn degraded_endpoints_are_called_when_none_is_healthy() {
    let net = Net::default();
    net.serve(1, |_, respond| async { say(respond, "degraded") });
    net.serve(2, |_, respond| async { say(respond, "healthy") });
    let (source, link) = net.link();
    let channel = super::net::channel(&link);
    let second = [(1, Health::Healthy, "healthy"), (2, Health::Unhealthy, "degraded")];
    for (version, second, expected) in second {
        let of = |n, health, priority| Endpoint {
            health,
            priority,
            ..Endpoint::new(address(n))
        };
        let endpoints = vec![of(1, Health::Degraded, 0), of(2, second, 1)];
        swap(
            &source,
            &link,
            one_of(version, Cluster::new("c", TlsMode::Plaintext, endpoints)),
        )
        .await;
        assert_eq!(text(call(&channel, post("")).await.unwrap()).await, expected);
    }
}

/// Publishes and waits until the data plane has taken it over.
async fn swap(source: &mesh_core::link::Source, link: &mesh_core::Link, snapshot: Snapshot) {
    let version = snapshot.version();
    source.snapshots.publish(snapshot);
    let reader = link.applied();
    let applied = crate::wait::until(&reader, |applied| *applied >= version);
    let limit = std::time::Duration::from_secs(10);
    tokio::time::timeout(limit, applied)
        .await
        .expect("a swap takes no time");
}
