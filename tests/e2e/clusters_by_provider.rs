//! A cluster names certificate providers of the bootstrap beside the one that the workload's identity comes from (gRFC A29): a second
//! authority, and a SPIFFE bundle map (gRFC A87). Real authorities, a real stream, real handshakes, judged at both ends.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use examples::load::Tally;
use examples::proto::payment_client::PaymentClient;
use mesh_client::Channel;
use mesh_core::config::{
    ChainIdentity, ChainMatch, Cluster, ExpectedPeers, FilterChain, Inbound, InboundSecurity, MutualTls, Route,
    Snapshot, Split, TlsMode, Traffic,
};
use mesh_core::identity::{Identity, TrustBundle, TrustDomain};
use mesh_core::testing::TestCa;
use mesh_core::{Link, link};
use mesh_xds::server::{AdsService, Caller, SnapshotCache};
use mesh_xds::{Bootstrap, ResourceKind, XdsClient};
use serde_json::json;
use tempfile::TempDir;
use tests::{Backend, Mesh, PATIENCE, identity, listener, soon};

use crate::providers::{authority, joined};

const OURS: &str = "spiffe://cluster.local/ns/default/sa/payment";
const PARTNERS: &str = "spiffe://partner.test/ns/shop/sa/payment";

/// How a cluster is called.
fn by(id: &str, certificate: Option<&str>, roots: Option<&str>, anonymous: bool) -> MutualTls {
    MutualTls {
        expected: ExpectedPeers::exactly([id]),
        sni: None,
        identity: ChainIdentity {
            certificate: certificate.map(Into::into),
            roots: roots.map(Into::into),
        },
        anonymous,
    }
}

/// A server of this identity that asks nobody for a certificate.
async fn open_to_all(identity: Identity) -> Backend {
    let (socket, address) = listener().await;
    let parts = link::Parts {
        governs_servers: true,
        ..link::Parts::default()
    };
    let (source, link) = Link::new(parts);
    source.identity.publish(Ok(identity));
    let chain = FilterChain {
        name: "open".into(),
        matches: ChainMatch::default(),
        security: InboundSecurity::OneSided,
        identity: ChainIdentity::default(),
        traffic: Traffic::Http,
        authorization: std::sync::Arc::default(),
        limits: std::sync::Arc::default(),
        telemetry: Default::default(),
    };
    let inbound = Inbound {
        name: "s".into(),
        address,
        chains: vec![chain],
        default: None,
    };
    let snapshot = Snapshot::builder().inbound(&*address.to_string(), Ok(std::sync::Arc::new(inbound)));
    source.snapshots.publish(snapshot.build().unwrap());
    Backend::serve_on(socket, link, "open")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_called_by_the_providers_that_it_names() {
    let (first, second) = (Mesh::start(&[]).await, Mesh::start(&[]).await);
    let (partner, folder) = (TestCa::new("partner.test"), TempDir::new().unwrap());
    let map = folder.path().join("map.json");
    let keys = json!([{"kty": "EC", "use": "x509-svid", "x5c": [STANDARD.encode(partner.root())]}]);
    let domains = json!({"trust_domains": {"partner.test": {"spiffe_sequence": 1, "keys": keys}}});
    std::fs::write(&map, domains.to_string()).unwrap();

    let (ads, port) = listener().await;
    let cache = SnapshotCache::new();
    let service = AdsService::new(cache.clone(), |_: &Caller| Ok("all".into()));
    let router = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(router.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(ads)));
    let bootstrap = json!({
        "xds_servers": [{"server_uri": port.to_string(), "channel_creds": [{"type": "insecure"}]}],
        "node": {"id": "checkout"},
        "certificate_providers": {
            "default": authority(&first, "checkout"),
            "second": authority(&second, "checkout"),
            "partner": {"plugin_name": "file_watcher", "config": {"spiffe_trust_bundle_map_file": map}},
        },
    });
    let checkout = XdsClient::start(Bootstrap::from_json(&bootstrap.to_string()).unwrap()).unwrap();
    let link = checkout.link();
    let _channel: Channel<tonic::body::Body> = Channel::new(&link, "payment");
    identity(&link).await;

    let (ours, theirs) = (joined(&first, "payment").await, joined(&second, "payment").await);
    let domain = TrustDomain::parse("cluster.local").unwrap();
    // Of the partner's domain, and whom it takes for a member of ours.
    let partners = |ca: &TestCa, trusted: &TrustBundle| {
        let bundle = ca.bundle().with_domain(domain.clone(), trusted.roots(&domain).to_vec());
        Identity::new(ca.svid(PARTNERS), bundle.unwrap())
    };
    let of_first = Backend::serve_as(ours.clone(), "first").await;
    let of_second = Backend::serve_as(theirs.clone(), "second").await;
    // Shows the first authority's certificate, and lets in whom the second knows.
    let mixed = Identity::new(ours.svid().clone(), theirs.bundle().clone());
    let mixed = Backend::serve_as(mixed, "mixed").await;
    let knows_first = Backend::serve_as(partners(&partner, ours.bundle()), "partner").await;
    let knows_second = Backend::serve_as(partners(&partner, theirs.bundle()), "partner").await;
    let open = open_to_all(partners(&partner, ours.bundle())).await;
    // Of the partner's name, by nobody's roots.
    let stranger = TestCa::new("partner.test");
    let knows_all = ours
        .bundle()
        .roots(&domain)
        .iter()
        .chain(theirs.bundle().roots(&domain));
    let bundle = stranger
        .bundle()
        .with_domain(domain.clone(), knows_all.cloned().collect());
    let impostor = Backend::serve_as(Identity::new(stranger.svid(PARTNERS), bundle.unwrap()), "impostor").await;

    // What one call comes to: the failure, if it failed.
    let call = async |backend: &Backend, mutual: MutualTls| {
        let mode = TlsMode::Mutual(mutual);
        let snapshot = Snapshot::builder()
            .route("payment", Route::to(Split::all_to("c")))
            .cluster(Cluster::new("c", mode.clone(), vec![backend.endpoint()]));
        cache.publish("all", &snapshot.build().unwrap()).unwrap();
        let is_there = |_: &mesh_xds::client::Report| match link.snapshots().load().cluster(&"c".into()) {
            Some(Ok(cluster)) => cluster.tls == mode && cluster.endpoints[..] == [backend.endpoint()],
            _ => false,
        };
        checkout.status().until(PATIENCE, is_there).await.unwrap();
        checkout.status().applied(PATIENCE).await.unwrap();
        let (tally, before) = (Tally::default(), backend.handled());
        let mut client = PaymentClient::new(Channel::new(&link, "payment"));
        soon("a call", tally.call(&mut client)).await;
        let counts = tally.counts();
        assert_eq!(backend.handled() - before, 1 - counts.failed, "{counts:?}");
        (counts.failed > 0).then_some(counts.last_error)
    };
    for (right, wrong, mutual) in [
        (&of_first, [&of_second, &mixed], by(OURS, None, None, false)),
        // Another authority's, as a whole: neither is a server judged by the other's roots, nor shown a certificate of the other.
        (
            &of_second,
            [&of_first, &mixed],
            by(OURS, Some("second"), Some("second"), false),
        ),
        // A certificate of the one, roots of the other.
        (&mixed, [&of_first, &of_second], by(OURS, Some("second"), None, false)),
        (
            &knows_first,
            [&knows_second, &impostor],
            by(PARTNERS, None, Some("partner"), false),
        ),
        (
            &knows_second,
            [&knows_first, &impostor],
            by(PARTNERS, Some("second"), Some("partner"), false),
        ),
        // Nothing is shown to whom no certificate is named for.
        (
            &open,
            [&knows_first, &impostor],
            by(PARTNERS, None, Some("partner"), true),
        ),
    ] {
        assert_eq!(call(right, mutual.clone()).await, None, "{mutual:?}");
        for wrong in wrong {
            assert!(call(wrong, mutual.clone()).await.is_some(), "{mutual:?}");
        }
        assert_eq!(call(right, mutual.clone()).await, None, "{mutual:?}");
    }
    let asked = |mesh: &Mesh| mesh.control().tally().get("certificate_issued", "join_token");
    assert_eq!(
        (asked(&first), asked(&second)),
        (2, 2),
        "each was asked once for each end"
    );

    // A provider that the bootstrap has not is refused by its field, and the last good word stands.
    let good = by(OURS, None, None, false);
    assert_eq!(call(&of_first, good.clone()).await, None);
    let unknown = TlsMode::Mutual(by(OURS, None, Some("nobody"), false));
    let snapshot = Snapshot::builder()
        .route("payment", Route::to(Split::all_to("c")))
        .cluster(Cluster::new("c", unknown, vec![of_first.endpoint()]));
    cache.publish("all", &snapshot.build().unwrap()).unwrap();
    let refused = |report: &mesh_xds::client::Report| {
        let resource = report.resource(ResourceKind::Cluster, "c");
        let rejected = resource.and_then(|resource| resource.rejected.as_ref());
        rejected.is_some_and(|rejected| {
            rejected
                .to_string()
                .contains("validation_context.ca_certificate_provider_instance.instance_name")
        })
    };
    checkout.status().until(PATIENCE, refused).await.unwrap();
    let mut client = PaymentClient::new(Channel::new(&link, "payment"));
    let tally = Tally::default();
    soon("a call", tally.call(&mut client)).await;
    assert_eq!(tally.counts().failed, 0);
}
