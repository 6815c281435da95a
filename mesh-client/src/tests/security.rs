//! Who is called: mutual TLS over the in-memory pipes, and what is refused.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use mesh_core::config::{
    Cluster, Endpoint, ExpectedPeers, MutualTls, Reason, ReasonKind, Route, Snapshot, Split, TlsMode,
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
