//! Where identities come from besides join tokens: a pod's service account token, as Istio's agent shows it, and a partner of another
//! trust domain. Real sockets, the real CA, real calls.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use examples::load::Tally;
use examples::proto::payment_client::PaymentClient;
use mesh_client::Channel;
use mesh_control::ServiceAccountTokens;
use mesh_core::identity::{Identity, TrustDomain};
use mesh_core::testing::{TestCa, TestIssuer};
use mesh_xds::{Bootstrap, XdsClient};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{Backend, CHECKOUT, Mesh, admitted, all_to, identity, listener, member, routes, soon, workloads};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A bootstrap of `mesh`, edited.
fn bootstrap(mesh: &Mesh, account: &str, edit: impl FnOnce(&mut Value)) -> Bootstrap {
    let full = mesh.control().bootstrap("default", account).unwrap();
    let mut file: Value = serde_json::from_str(&full.to_json()).unwrap();
    edit(&mut file);
    Bootstrap::from_json(&file.to_string()).unwrap()
}

/// A token of an account, as kubelet projects it.
fn token(cluster: &TestIssuer, account: &str) -> String {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let claims = json!({
        "iss": ISSUER, "aud": ["istio-ca"], "iat": now, "nbf": now, "exp": now + 3600,
        "sub": format!("system:serviceaccount:default:{account}"),
        "kubernetes.io": {"namespace": "default", "serviceaccount": {"name": account}},
    });
    cluster.token(&claims.to_string())
}

/// Pods with Istio's files, and our control plane in istiod's place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_join_by_the_tokens_of_their_service_accounts() {
    let ((first, v1), (_second, v2)) = (listener().await, listener().await);
    let cluster = TestIssuer::new("cluster");
    let tokens = ServiceAccountTokens::new(ISSUER, &cluster.jwks()).unwrap();
    let documents = [("workloads.yaml", workloads(v1, v2)), ("routes.yaml", routes(100, 0))];
    let documents = documents.each_ref().map(|(name, text)| (*name, text.as_str()));
    let mesh = Mesh::start_with(&documents, |builder| builder.service_account_tokens(tokens)).await;
    let folder = TempDir::new().unwrap();
    let join = |account: &str| {
        let at = |name: &str| folder.path().join(format!("{account}-{name}"));
        std::fs::write(at("token"), token(&cluster, account)).unwrap();
        let bootstrap = bootstrap(&mesh, account, |file| {
            let provider = &mut file["certificate_providers"]["default"];
            let ca = provider["config"].clone();
            std::fs::write(at("root"), ca["ca_certificate"].as_str().unwrap()).unwrap();
            *provider = json!({"plugin_name": "istio_agent", "config": {
                "ca_address": ca["server_uri"],
                "ca_certificate_file": at("root"),
                "token_file": at("token"),
                "credentials_directory": at("nothing-mounted"),
                "namespace": "default",
                "service_account": account,
                "cluster_id": "Kubernetes",
            }});
        });
        XdsClient::start(bootstrap).unwrap()
    };
    let payment = join("payment");
    identity(&payment.link()).await;
    let backend = Backend::serve_on(first, payment.link(), "v1");
    admitted(&payment.link(), &backend.address.to_string()).await;
    let checkout = join("checkout");
    let channel = Channel::new(&checkout.link(), "xds:///payment-service");
    soon("the target's configuration", channel.ready()).await;
    let tally = Tally::default();
    soon("a call", tally.call(&mut PaymentClient::new(channel))).await;
    let counts = tally.counts();
    assert_eq!((counts.ok, backend.handled()), (1, 1), "{:?}", counts.errors);
    let issued = mesh.control().tally().get("certificate_issued", "reviewed_token");
    assert_eq!(issued, 2, "{:?}", mesh.control().tally().all());
}

/// A caller of another trust domain, whose roots lie in a file: let in, and not as anybody of ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partner_is_let_in_by_its_own_roots_and_under_its_own_name() {
    let ((first, v1), (_second, v2)) = (listener().await, listener().await);
    let documents = [("workloads.yaml", workloads(v1, v2)), ("routes.yaml", routes(100, 0))];
    let documents = documents.each_ref().map(|(name, text)| (*name, text.as_str()));
    let mesh = Mesh::start(&documents).await;
    let (partner, folder) = (TestCa::new("partner.test"), TempDir::new().unwrap());
    let path = folder.path().join("partner.json");
    let bundle = json!({"spiffe_sequence": 1, "keys": [
        {"kty": "EC", "use": "x509-svid", "x5c": [STANDARD.encode(partner.root())]},
    ]});
    std::fs::write(&path, bundle.to_string()).unwrap();
    let bootstrap = bootstrap(&mesh, "payment", |file| {
        file["x_mesh"] = json!({"trust_bundles": {"partner.test": path}});
    });
    let payment = XdsClient::start(bootstrap).unwrap();
    identity(&payment.link()).await;
    let backend = Backend::serve_on(first, payment.link(), "v1");
    admitted(&payment.link(), &backend.address.to_string()).await;

    let standing = payment.link().identity().load_full();
    let ours = standing.as_ref().as_ref().expect("it has joined").bundle().clone();
    let own = TrustDomain::parse("cluster.local").unwrap();
    let call = async |id: &str| {
        let trusts = partner.bundle().with_domain(own.clone(), ours.roots(&own).to_vec());
        let (source, link) = member(Identity::new(partner.svid(id), trusts.unwrap()));
        source.snapshots.publish(all_to(backend.endpoint()));
        let tally = Tally::default();
        soon(
            "a call",
            tally.call(&mut PaymentClient::new(Channel::new(&link, "payment"))),
        )
        .await;
        tally.counts().failed
    };
    assert_eq!(call("spiffe://partner.test/ns/shop/sa/checkout").await, 0);
    // The same root, under a name of ours.
    assert_eq!(call(CHECKOUT).await, 1);
    assert_eq!(backend.handled(), 1);
    let refused = payment.link().tally().get("handshake_refused", "unknown_issuer");
    assert!(refused >= 1, "{:?}", payment.link().tally().all());
}
