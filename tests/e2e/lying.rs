//! CP-12: a control plane that lies about who serves. It is trusted for naming, not for keys: what it says decides where a call
//! goes and who may answer there, and it cannot make the one who answers be somebody else, nor reach beyond what the
//! application pinned in code.

use examples::load::Tally;
use examples::proto::payment_client::PaymentClient;
use mesh_client::Channel;
use mesh_core::Link;
use mesh_core::config::{Cluster, ExpectedPeers, MutualTls, Route, Snapshot, Split, TlsMode};
use mesh_core::identity::{Identity, Pins, TrustDomain};
use mesh_core::link::{self, Source};
use mesh_core::testing::TestCa;
use mesh_xds::XdsClient;
use tests::{Backend, CHECKOUT, Mesh, PAYMENT, identity, listener, routes, soon, workloads};

const ATTACKER: &str = "spiffe://cluster.local/ns/default/sa/attacker";
const FOREIGN_ATTACKER: &str = "spiffe://other.example/ns/default/sa/attacker";

/// What one call through `link` came to: the failure, if it failed.
async fn call(link: &Link, target: &str) -> Option<String> {
    let tally = Tally::default();
    soon(
        "a call",
        tally.call(&mut PaymentClient::new(Channel::new(link, target))),
    )
    .await;
    let counts = tally.counts();
    (counts.failed > 0).then_some(counts.last_error)
}

fn our_domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

/// An attacker who is a member of the mesh in his own name, and workloads that say the payment service is where he listens,
/// run by `account`.
async fn attacked(account: &str) -> (Mesh, Backend, XdsClient) {
    let (socket, address) = listener().await;
    let lie = workloads(address, address).replace("serviceAccount: payment", &format!("serviceAccount: {account}"));
    let documents = [("workloads.yaml", lie), ("routes.yaml", routes(100, 0))];
    let mesh = Mesh::start(&documents.each_ref().map(|(name, text)| (*name, text.as_str()))).await;
    let member = mesh.join("attacker");
    identity(&member.link()).await;
    let attacker = Backend::serve_on(socket, member.link(), "stolen");
    (mesh, attacker, member)
}

/// A caller whose bundle knows the domains of both authorities, told by hand that `expected` serve at `attacker`.
fn federated(ours: &TestCa, theirs: &TestCa, pins: Pins, attacker: &Backend, expected: &str) -> (Source, Link) {
    let theirs = TrustDomain::parse("other.example")
        .map(|domain| (domain, vec![theirs.root()]))
        .unwrap();
    let bundle = ours.bundle().with_domain(theirs.0, theirs.1).unwrap();
    let parts = link::Parts {
        pins,
        ..link::Parts::default()
    };
    let (source, link) = Link::new(parts);
    source.identity.publish(Ok(Identity::new(ours.svid(CHECKOUT), bundle)));
    source.snapshots.publish(named(attacker, expected));
    (source, link)
}

/// All calls of the payment service to `backend`, where `expected` may answer.
fn named(backend: &Backend, expected: &str) -> Snapshot {
    let tls = TlsMode::Mutual(MutualTls {
        expected: ExpectedPeers::exactly([expected]),
        sni: None,
        ..MutualTls::default()
    });
    let builder = Snapshot::builder().route("payment", Route::to(Split::all_to("v1")));
    builder
        .cluster(Cluster::new("v1", tls, vec![backend.endpoint()]))
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cp_12_an_attacker_of_the_right_ca_is_refused_where_the_service_is_expected() {
    let (mesh, attacker, _member) = attacked("payment").await;
    let (_, checkout) = mesh.checkout("xds:///payment-service").await;
    let failure = call(&checkout.link(), "xds:///payment-service")
        .await
        .expect("a call was stolen");
    assert!(failure.contains("refused"), "{failure}");
    let tally = checkout.link().tally().clone();
    assert!(tally.get("connect_failed", "wrong_identity") >= 1, "{:?}", tally.all());
    assert_eq!(attacker.handled(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cp_12_a_control_plane_that_names_the_attacker_is_believed_and_never_beyond_a_pin() {
    let (mesh, attacker, _member) = attacked("attacker").await;
    // Naming is its office: without a pin nobody can tell this from a change of accounts.
    let (_, believer) = mesh.checkout("xds:///payment-service").await;
    assert_eq!(call(&believer.link(), "xds:///payment-service").await, None);
    assert_eq!(attacker.handled(), 1);

    let bootstrap = mesh.control().bootstrap("default", "checkout").unwrap();
    let pins = Pins::default().ids(ExpectedPeers::exactly([PAYMENT]));
    let pinned = XdsClient::builder(bootstrap).pins(pins).start().unwrap();
    identity(&pinned.link()).await;
    let failure = call(&pinned.link(), "xds:///payment-service")
        .await
        .expect("a call was stolen");
    assert!(failure.contains("refused"), "{failure}");
    let tally = pinned.link().tally().clone();
    assert!(tally.get("connect_failed", "not_pinned") >= 1, "{:?}", tally.all());
    assert_eq!(attacker.handled(), 1);
}

#[tokio::test]
async fn cp_12_an_attacker_of_another_trust_domain_is_refused_though_the_control_plane_names_him() {
    let (ours, theirs) = (TestCa::new("cluster.local"), TestCa::new("other.example"));
    let attacker = Backend::serve_as(
        Identity::new(theirs.svid(FOREIGN_ATTACKER), {
            // He takes every caller.
            theirs.bundle().with_domain(our_domain(), vec![ours.root()]).unwrap()
        }),
        "stolen",
    )
    .await;
    for expected in [PAYMENT, FOREIGN_ATTACKER] {
        let (source, link) = tests::member(ours.identity(CHECKOUT));
        source.snapshots.publish(named(&attacker, expected));
        assert!(call(&link, "payment").await.is_some(), "a call was stolen");
        let refused = link.tally().get("connect_failed", "foreign_trust_domain");
        assert!(refused >= 1, "{:?}", link.tally().all());
    }
    assert_eq!(attacker.handled(), 0);

    // A federated domain is one that the control plane can name, until the code says which are meant.
    let cases = [
        (Pins::default(), PAYMENT, Some("wrong_identity")),
        (Pins::default(), FOREIGN_ATTACKER, None),
        (
            Pins::default().trust_domains([our_domain()]),
            FOREIGN_ATTACKER,
            Some("not_pinned"),
        ),
    ];
    for (pins, expected, refusal) in cases {
        let (_source, link) = federated(&ours, &theirs, pins.clone(), &attacker, expected);
        let failure = call(&link, "payment").await;
        assert_eq!(
            failure.is_some(),
            refusal.is_some(),
            "{pins:?}, {expected}: {failure:?}"
        );
        if let Some(refusal) = refusal {
            assert!(
                link.tally().get("connect_failed", refusal) >= 1,
                "{:?}",
                link.tally().all()
            );
        }
    }
    assert_eq!(attacker.handled(), 1);
}

/// A good neighbour of the attacker's is called as ever: a pin narrows and does not break.
#[tokio::test]
async fn cp_12_what_is_pinned_is_called() {
    let ca = TestCa::new("cluster.local");
    let backend = Backend::serve(&ca, "v1").await;
    let impostor = Backend::serve_as(ca.identity(ATTACKER), "stolen").await;
    let pins = Pins::default()
        .trust_domains([our_domain()])
        .ids(ExpectedPeers::exactly([PAYMENT]));
    for (server, expected, is_served) in [(&backend, PAYMENT, true), (&impostor, ATTACKER, false)] {
        let parts = link::Parts {
            pins: pins.clone(),
            ..link::Parts::default()
        };
        let (source, link) = Link::new(parts);
        source.identity.publish(Ok(ca.identity(CHECKOUT)));
        source.snapshots.publish(named(server, expected));
        assert_eq!(call(&link, "payment").await.is_none(), is_served);
    }
    assert_eq!((backend.handled(), impostor.handled()), (1, 0));
}
