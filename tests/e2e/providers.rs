//! A server's listener names certificate providers of the bootstrap beside the one that the workload's identity comes from (gRFC A29):
//! a second authority, and a SPIFFE bundle map (gRFC A87). Real authorities, a real stream, real handshakes.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use examples::load::Tally;
use examples::proto::payment_client::PaymentClient;
use mesh_client::Channel;
use mesh_core::config::{ChainIdentity, ChainMatch, Clients, FilterChain, Inbound, InboundSecurity, Snapshot, Traffic};
use mesh_core::identity::{Identity, TrustBundle, TrustDomain};
use mesh_core::testing::TestCa;
use mesh_xds::server::{AdsService, Caller, SnapshotCache};
use mesh_xds::{Bootstrap, XdsClient};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{Backend, Mesh, admitted, all_to, identity, listener, member, soon};

const GUEST: &str = "spiffe://partner.test/ns/shop/sa/guest";

/// A listener of the server at `address` whose one chain shows this and judges by that.
fn showing(address: &str, certificate: Option<&str>, roots: Option<&str>) -> Snapshot {
    let chain = FilterChain {
        name: "c".into(),
        matches: ChainMatch::default(),
        security: InboundSecurity::Mutual(Clients::Trusted),
        identity: ChainIdentity {
            certificate: certificate.map(Into::into),
            roots: roots.map(Into::into),
        },
        traffic: Traffic::Http,
        authorization: Arc::default(),
        limits: Arc::default(),
        telemetry: Default::default(),
    };
    let inbound = Inbound {
        name: format!("server/{address}").into(),
        address: address.parse().unwrap(),
        chains: vec![chain],
        default: None,
    };
    let builder = Snapshot::builder().inbound(address, Ok(Arc::new(inbound)));
    builder.build().unwrap()
}

/// Where a control plane's authority is, and what proves `account` to it.
pub(crate) fn authority(mesh: &Mesh, account: &str) -> Value {
    let bootstrap = mesh.control().bootstrap("default", account).unwrap();
    let file: Value = serde_json::from_str(&bootstrap.to_json()).unwrap();
    file["certificate_providers"]["default"].clone()
}

/// A member's identity.
pub(crate) async fn joined(mesh: &Mesh, account: &str) -> Identity {
    let client = mesh.join(account);
    identity(&client.link()).await;
    let standing = client.link().identity().load_full();
    standing.as_ref().clone().expect("it has joined")
}

/// What one call under this identity comes to: the failure, if it failed.
async fn call(backend: &Backend, caller: &Identity) -> Option<String> {
    let (source, link) = member(caller.clone());
    source.snapshots.publish(all_to(backend.endpoint()));
    let tally = Tally::default();
    let mut client = PaymentClient::new(Channel::new(&link, "payment"));
    soon("a call", tally.call(&mut client)).await;
    let counts = tally.counts();
    (counts.failed > 0).then_some(counts.last_error)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_shows_and_judges_by_the_providers_that_its_listener_names() {
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
    let (socket, address) = listener().await;
    let address = address.to_string();
    cache.publish("all", &showing(&address, None, None)).unwrap();
    let bootstrap = json!({
        "xds_servers": [{"server_uri": port.to_string(), "channel_creds": [{"type": "insecure"}]}],
        "node": {"id": "payment"},
        "server_listener_resource_name_template": "server/%s",
        "certificate_providers": {
            "default": authority(&first, "payment"),
            "second": authority(&second, "payment"),
            "partner": {"plugin_name": "file_watcher", "config": {"spiffe_trust_bundle_map_file": map}},
        },
    });
    let payment = XdsClient::start(Bootstrap::from_json(&bootstrap.to_string()).unwrap()).unwrap();
    let link = payment.link();
    identity(&link).await;
    let backend = Backend::serve_on(socket, link.clone(), "v1");
    admitted(&link, &address).await;

    let ours = joined(&first, "checkout").await;
    let theirs = joined(&second, "checkout").await;
    assert_eq!(call(&backend, &ours).await, None);
    assert!(call(&backend, &theirs).await.is_some());
    let asked = |mesh: &Mesh| mesh.control().tally().get("certificate_issued", "join_token");
    assert_eq!(
        (asked(&first), asked(&second)),
        (2, 1),
        "nobody named the second authority yet"
    );

    // Another provider's certificate and roots.
    let says = async |certificate: Option<&str>, roots: Option<&str>| {
        cache.publish("all", &showing(&address, certificate, roots)).unwrap();
        let wanted = ChainIdentity {
            certificate: certificate.map(Into::into),
            roots: roots.map(Into::into),
        };
        let is_there = |_: &mesh_xds::client::Report| match link.snapshots().load().inbound(&address) {
            Some(Ok(inbound)) => inbound.chains[0].identity == wanted,
            _ => false,
        };
        payment.status().until(tests::PATIENCE, is_there).await.unwrap();
        if !wanted.is_own() {
            let reader = link.identities().find(&wanted).expect("the bootstrap has them");
            let bell = Arc::new(tokio::sync::Notify::new());
            let ring = Arc::clone(&bell);
            let _subscription = reader.on_change(move || ring.notify_one());
            let given = async {
                while reader.load().is_err() {
                    bell.notified().await;
                }
            };
            soon("the identity of the listener", given).await;
        }
    };
    says(Some("second"), Some("second")).await;
    assert_eq!(call(&backend, &theirs).await, None);
    assert!(call(&backend, &ours).await.is_some());
    assert_eq!((asked(&first), asked(&second)), (2, 2));

    // The workload's own certificate, and clients by the bundle map alone.
    says(None, Some("partner")).await;
    let trusts = |bundle: &TrustBundle| {
        let own = TrustDomain::parse("cluster.local").unwrap();
        let roots = bundle.roots(&own).to_vec();
        partner.bundle().with_domain(own, roots).unwrap()
    };
    let guest = |bundle: &TrustBundle| Identity::new(partner.svid(GUEST), trusts(bundle));
    assert_eq!(call(&backend, &guest(ours.bundle())).await, None);
    assert!(call(&backend, &ours).await.is_some());

    // The second authority's certificate, and clients by the bundle map; of the authority nothing new is asked.
    says(Some("second"), Some("partner")).await;
    assert_eq!(call(&backend, &guest(theirs.bundle())).await, None);
    assert!(call(&backend, &guest(ours.bundle())).await.is_some());
    assert_eq!((asked(&first), asked(&second), backend.handled()), (2, 2, 4));
}
