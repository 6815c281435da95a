//! Clusters that are called by other identities of the process than the workload's own (gRFC A29).

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use mesh_core::config::{
    ChainIdentity, Cluster, Endpoint, ExpectedPeers, MutualTls, Route, Snapshot, Split, TlsMatch, TlsMode,
};
use mesh_core::identity::tls::{ClientAuth, server_config};
use mesh_core::identity::{Identity, TrustBundle};
use mesh_core::link::{Identities, Parts, Source, Standing};
use mesh_core::testing::TestCa;
use mesh_core::{Link, live};
use rustls::time_provider::DefaultTimeProvider;

use super::lifecycle::settle;
use super::net::{Net, address, call, post, say, text};
use crate::Channel;
use crate::connect::ConnectError;

const SERVER: &str = "spiffe://cluster.local/ns/default/sa/payment";
const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/checkout";

fn of(name: &str) -> ChainIdentity {
    ChainIdentity {
        certificate: Some(name.into()),
        roots: Some(name.into()),
    }
}

fn by(identity: ChainIdentity) -> TlsMode {
    TlsMode::Mutual(MutualTls {
        expected: ExpectedPeers::exactly([SERVER]),
        identity,
        ..MutualTls::default()
    })
}

/// Target and cluster of each name, of whose server of this number endpoints are called.
fn snapshot(clusters: &[(&str, u8, TlsMode)]) -> Snapshot {
    let mut builder = Snapshot::builder();
    for (name, server, tls) in clusters {
        let cluster = Cluster::new(*name, tls.clone(), vec![Endpoint::new(address(*server))]);
        builder = builder.route(name, Route::to(Split::all_to(*name))).cluster(cluster);
    }
    builder.build().unwrap()
}

/// Two authorities, a server of each, and a client that is a member of both.
struct Two {
    net: Net,
    own: TestCa,
    other: TestCa,
    source: Source,
    link: Link,
    writer: live::Writer<Standing>,
}

impl Two {
    fn new() -> Self {
        let (own, other, net) = (
            TestCa::new("cluster.local"),
            TestCa::new("cluster.local"),
            Net::default(),
        );
        let (writer, reader) = live::channel(Ok(other.identity(CLIENT)));
        let (source, link) = net.link_with(Parts {
            identities: Identities::new(move |wanted| (*wanted == of("other")).then(|| reader.clone())),
            ..Parts::default()
        });
        source.identity.publish(Ok(own.identity(CLIENT)));
        for (server, ca, auth) in [(1, &own, ClientAuth::Required), (2, &other, ClientAuth::Required)] {
            let tls = server_config(&ca.identity(SERVER), auth, Arc::new(DefaultTimeProvider), &[b"h2"]).unwrap();
            net.serve_with(server, h2::server::Builder::new(), Some(tls), |_, respond| async {
                say(respond, "ok")
            });
        }
        Self {
            net,
            own,
            other,
            source,
            link,
            writer,
        }
    }

    /// What a call of this target came to, in a word.
    async fn call(&self, target: &str) -> String {
        let channel = Channel::<Full<Bytes>>::new(&self.link, target);
        match call(&channel, post("")).await {
            Ok(answer) => text(answer).await,
            Err(error) => {
                let cause = std::error::Error::source(&error);
                let refused = cause.and_then(|cause| cause.downcast_ref::<ConnectError>());
                refused.map_or("failed", ConnectError::as_str).to_owned()
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_is_called_by_the_identity_that_it_names_and_by_no_other() {
    let two = Two::new();
    let own = ChainIdentity::default;
    two.source.snapshots.publish(snapshot(&[
        ("own", 1, by(own())),
        ("other", 2, by(of("other"))),
        ("crossed", 1, by(of("other"))),
        ("uncrossed", 2, by(own())),
        ("nobody", 1, by(of("nobody"))),
    ]));
    assert_eq!(
        (two.call("own").await, two.call("other").await),
        ("ok".into(), "ok".into())
    );
    assert_eq!(two.call("crossed").await, "unknown_issuer");
    assert_eq!(two.call("uncrossed").await, "unknown_issuer");
    let before = two.net.dials();
    assert_eq!(
        (two.call("nobody").await, two.net.dials()),
        ("no_identity".into(), before)
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_with_the_roots_that_it_was_agreed_under_and_with_no_others() {
    let two = Two::new();
    two.source.snapshots.publish(snapshot(&[
        ("own", 1, by(ChainIdentity::default())),
        ("other", 2, by(of("other"))),
    ]));
    let both = async |own: &str, other: &str| {
        assert_eq!(
            (two.call("own").await, two.call("other").await),
            (own.into(), other.into())
        );
    };
    both("ok", "ok").await;
    // A renewal of either changes nothing for connections that there are.
    two.writer.publish(Ok(two.other.identity(CLIENT)));
    two.source.identity.publish(Ok(two.own.identity(CLIENT)));
    settle().await;
    both("ok", "ok").await;
    assert_eq!((two.net.dials_to(1), two.net.dials_to(2)), (1, 1));
    // Other roots of the one end its connections, and not those of the other.
    let stranger = TestCa::new("cluster.local").bundle();
    let distrusting = |ca: &TestCa, bundle: &TrustBundle| Identity::new(ca.svid(CLIENT), bundle.clone());
    two.writer.publish(Ok(distrusting(&two.other, &stranger)));
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    both("ok", "unknown_issuer").await;
    assert_eq!((two.net.dials_to(1), two.net.open(2)), (1, 0));
    two.writer.publish(Ok(two.other.identity(CLIENT)));
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    both("ok", "ok").await;
    two.source.identity.publish(Ok(distrusting(&two.own, &stranger)));
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let before = two.net.dials_to(2);
    both("unknown_issuer", "ok").await;
    assert_eq!((two.net.dials_to(2), two.net.open(1)), (before, 0));
}

/// Whoever calls by an identity that stood before the cluster came is still cut off by its end.
#[tokio::test(start_paused = true)]
async fn an_identity_that_stood_already_is_followed_from_the_cluster_on() {
    let two = Two::new();
    two.source
        .snapshots
        .publish(snapshot(&[("own", 1, by(ChainIdentity::default()))]));
    assert_eq!(two.call("own").await, "ok");
    two.source.snapshots.publish(snapshot(&[("own", 2, by(of("other")))]));
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert_eq!((two.call("own").await, two.net.dials_to(2)), ("ok".into(), 1));
    let stranger = TestCa::new("cluster.local").bundle();
    two.writer.publish(Ok(Identity::new(two.other.svid(CLIENT), stranger)));
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert_eq!((two.call("own").await, two.net.open(2)), ("unknown_issuer".into(), 0));
}

#[tokio::test(start_paused = true)]
async fn a_mode_that_shows_nothing_judges_all_the_same() {
    let two = Two::new();
    let tls = server_config(
        &two.other.identity(SERVER),
        ClientAuth::Optional,
        Arc::new(DefaultTimeProvider),
        &[b"h2"],
    );
    two.net
        .serve_with(3, h2::server::Builder::new(), Some(tls.unwrap()), |_, respond| async {
            say(respond, "ok")
        });
    let anonymous = |identity| {
        TlsMode::Mutual(MutualTls {
            expected: ExpectedPeers::exactly([SERVER]),
            identity,
            anonymous: true,
            ..MutualTls::default()
        })
    };
    let mut both = Cluster::new("both", anonymous(of("other")), vec![Endpoint::new(address(3))]);
    both.tls_matches = [TlsMatch {
        name: "never".into(),
        when: mesh_core::config::Metadata::new([(mesh_core::config::TRANSPORT_SOCKET_MATCH, "a", "b")]).unwrap(),
        mode: by(of("nobody")),
    }]
    .into();
    let snapshot = Snapshot::builder()
        .route("both", Route::to(Split::all_to("both")))
        .cluster(both)
        .route("asked", Route::to(Split::all_to("asked")))
        .cluster(Cluster::new(
            "asked",
            anonymous(of("other")),
            vec![Endpoint::new(address(2))],
        ))
        .route("wrong", Route::to(Split::all_to("wrong")))
        .cluster(Cluster::new(
            "wrong",
            anonymous(ChainIdentity::default()),
            vec![Endpoint::new(address(3))],
        ));
    two.source.snapshots.publish(snapshot.build().unwrap());
    assert_eq!(two.call("both").await, "ok");
    assert_eq!(two.call("wrong").await, "unknown_issuer");
    // Who asks for a certificate is shown none.
    assert_ne!(two.call("asked").await, "ok");
}
