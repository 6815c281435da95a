//! What `tls` of a `DestinationRule` says is how a server is called, in the mesh and outside of it; and no mode falls back to another.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use examples::proto::ChargeRequest;
use examples::proto::payment_client::PaymentClient;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh_client::Channel;
use mesh_core::identity::tls::provider;
use mesh_core::testing::{Issued, TestCa};
use mesh_xds::XdsClient;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use tests::{Backend, CHECKOUT, Mesh, PATIENCE, listener, soon, workloads};
use tokio_rustls::TlsAcceptor;
use tower::Service as _;

const HOST: &str = "shop.example.com";

/// Whether each connection that came to be showed a certificate.
type Shown = Arc<Mutex<Vec<bool>>>;

/// A server of the web: of this certificate, or in the clear.
async fn web(tls: Option<Arc<rustls::ServerConfig>>) -> (SocketAddr, Shown) {
    let (socket, address) = listener().await;
    let shown = Shown::default();
    let seen = Arc::clone(&shown);
    tokio::spawn(async move {
        while let Ok((io, _)) = socket.accept().await {
            let (tls, seen) = (tls.clone(), Arc::clone(&seen));
            tokio::spawn(async move {
                let answer = |_| async { Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new())) };
                // However it ends: a client that is refused, or refuses, goes.
                let _ = match tls {
                    None => {
                        http1::Builder::new()
                            .serve_connection(TokioIo::new(io), service_fn(answer))
                            .await
                    }
                    Some(tls) => {
                        let Ok(io) = TlsAcceptor::from(tls).accept(io).await else {
                            return;
                        };
                        let certificates = io.get_ref().1.peer_certificates();
                        seen.lock().unwrap().push(certificates.is_some());
                        http1::Builder::new()
                            .serve_connection(TokioIo::new(io), service_fn(answer))
                            .await
                    }
                };
            });
        }
    });
    (address, shown)
}

/// A server's configuration; with `clients` it asks for one of their certificates.
fn of_web(issued: Issued, clients: Option<&TestCa>) -> Arc<rustls::ServerConfig> {
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add(ca.root()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider()));
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let mut config = builder.with_single_cert(issued.chain, issued.key).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

fn pem(path: &Path, label: &str, all: &[&[u8]]) {
    let one = |der: &&[u8]| {
        format!(
            "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
            STANDARD.encode(der)
        )
    };
    std::fs::write(path, all.iter().map(one).collect::<String>()).unwrap();
}

fn roots(folder: &Path, name: &str, ca: &TestCa) -> PathBuf {
    let path = folder.join(name);
    pem(&path, "CERTIFICATE", &[&*ca.root()]);
    path
}

/// One call of a server outside by this `tls`.
async fn call_outside(address: SocketAddr, tls: &str, plaintext: bool) -> Result<StatusCode, mesh_client::Error> {
    let documents = format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: shop, namespace: default}}
spec:
  hosts: [{HOST}]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints: [{{address: 127.0.0.1, ports: {{http: {}}}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: shop, namespace: default}}
spec: {{host: {HOST}, trafficPolicy: {{tls: {tls}}}}}
",
        address.port()
    );
    let mesh = Mesh::start(&[("shop.yaml", &documents)]).await;
    let status = mesh.control().status();
    assert_eq!(status.accepted, 1, "{:?}", status.diagnostics);
    let xds = mesh.join("checkout");
    tests::identity(&xds.link()).await;
    let target = format!("xds:///{HOST}");
    let mut channel = match plaintext {
        true => Channel::builder(&xds.link(), &target).dangerous().plaintext().build(),
        false => Channel::new(&xds.link(), &target),
    };
    soon("the target's configuration", channel.ready()).await;
    let request = Request::get(format!("http://{HOST}/")).body(Empty::<Bytes>::new());
    let answer = soon("an answer", channel.call(request.unwrap())).await?;
    let status = answer.status();
    answer.into_body().collect().await?;
    Ok(status)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_outside_is_asked_who_it_is_as_a_browser_would() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, other) = (TestCa::new("web.example"), TestCa::new("other.example"));
    let (address, shown) = web(Some(of_web(ca.web_server(HOST), None))).await;
    let [own, others] = [("roots.pem", &ca), ("others.pem", &other)].map(|(name, ca)| roots(folder.path(), name, ca));
    let simple = |roots: &Path, rest: &str| {
        format!(
            "{{mode: SIMPLE, sni: {HOST}, caCertificates: {}{rest}}}",
            roots.display()
        )
    };
    assert_eq!(
        call_outside(address, &simple(&own, ""), false).await.unwrap(),
        StatusCode::OK
    );
    assert_eq!(*shown.lock().unwrap(), [false]);
    let named = |name: &str| simple(&own, &format!(", subjectAltNames: [{name}]"));
    assert_eq!(
        call_outside(address, &named(HOST), false).await.unwrap(),
        StatusCode::OK
    );
    for refused in [
        simple(&others, ""),
        named("bank.example.com"),
        format!(
            "{{mode: SIMPLE, sni: bank.example.com, caCertificates: {}}}",
            own.display()
        ),
    ] {
        let error = call_outside(address, &refused, false).await.unwrap_err();
        assert_eq!(error.was_processed(), Some(false), "{refused}: {error}");
    }
    // Code that lets plaintext pass is not taken at its word where TLS is asked for.
    call_outside(address, &simple(&others, ""), true).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutual_tls_outside_shows_the_certificate_that_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, clients) = (TestCa::new("web.example"), TestCa::new("clients.example"));
    let (address, shown) = web(Some(of_web(ca.web_server(HOST), Some(&clients)))).await;
    let own = roots(folder.path(), "roots.pem", &ca);
    let Issued { chain, key } = clients.leaf("spiffe://clients.example/us").issue();
    let [certificate, secret] = ["own.pem", "key.pem"].map(|name| folder.path().join(name));
    pem(
        &certificate,
        "CERTIFICATE",
        &chain.iter().map(|one| &**one).collect::<Vec<_>>(),
    );
    pem(&secret, "PRIVATE KEY", &[key.secret_der()]);
    let tls =
        |mode: &str, rest: &str| format!("{{mode: {mode}, sni: {HOST}, caCertificates: {}{rest}}}", own.display());
    call_outside(address, &tls("SIMPLE", ""), false).await.unwrap_err();
    let files = format!(
        ", clientCertificate: {}, privateKey: {}",
        certificate.display(),
        secret.display()
    );
    assert_eq!(
        call_outside(address, &tls("MUTUAL", &files), false).await.unwrap(),
        StatusCode::OK
    );
    assert_eq!(shown.lock().unwrap().last(), Some(&true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_outside_is_called_in_the_clear_where_rule_and_code_say_so() {
    let (address, _) = web(None).await;
    assert_eq!(
        call_outside(address, "{mode: DISABLE}", true).await.unwrap(),
        StatusCode::OK
    );
    let error = call_outside(address, "{mode: DISABLE}", false).await.unwrap_err();
    assert!(error.to_string().contains("plaintext"), "{error}");
    // One that speaks TLS is not called in the clear by whom a rule says so.
    let ca = TestCa::new("web.example");
    let (address, shown) = web(Some(of_web(ca.web_server(HOST), None))).await;
    call_outside(address, "{mode: DISABLE}", true).await.unwrap_err();
    assert!(shown.lock().unwrap().is_empty());
}

/// A payment service and a caller in one mesh.
struct Rig {
    mesh: Mesh,
    backend: Backend,
    xds: XdsClient,
    _member: XdsClient,
}

impl Rig {
    /// With the modes of the server, if it says any, and of the rule.
    async fn start(peers: Option<&str>, rule: &str) -> Self {
        let ((socket, address), (_, nobody)) = (listener().await, listener().await);
        let all = workloads(address, nobody);
        // One workload is enough.
        let (one, _) = all.rsplit_once("---").unwrap();
        let rule = format!(
            "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: payment, namespace: default}}
spec: {{host: payment-service, trafficPolicy: {{tls: {rule}}}}}
"
        );
        let peers = peers.map(|mode| {
            format!(
                "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: all, namespace: default}}
spec: {{mtls: {{mode: {mode}}}}}
"
            )
        });
        let mut documents = vec![("w.yaml", one), ("r.yaml", rule.as_str())];
        documents.extend(peers.as_deref().map(|peers| ("p.yaml", peers)));
        let mesh = Mesh::start(&documents).await;
        let status = mesh.control().status();
        assert_eq!(status.accepted, 1, "{:?}", status.diagnostics);
        let (backend, member) = mesh.serve(socket, "v1").await;
        let xds = mesh.join("checkout");
        tests::identity(&xds.link()).await;
        Self {
            mesh,
            backend,
            xds,
            _member: member,
        }
    }

    /// As whom the server knew the caller.
    async fn call(&self, plaintext: bool) -> Result<String, tonic::Status> {
        let link = self.xds.link();
        let channel = match plaintext {
            true => Channel::builder(&link, "payment-service")
                .dangerous()
                .plaintext()
                .build(),
            false => Channel::new(&link, "payment-service"),
        };
        soon("the target's configuration", channel.ready()).await;
        let mut client = PaymentClient::new(channel);
        let answer = soon("an answer", client.charge(ChargeRequest::default())).await?;
        Ok(answer.into_inner().caller)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_mesh_a_rule_s_mode_meets_the_server_s_and_nothing_falls_back() {
    // (what the server says, what the rule says, and as whom it is called by code that lets plaintext pass)
    for (peers, rule, known_as) in [
        (None, "{mode: ISTIO_MUTUAL}", Some(CHECKOUT)),
        (None, "{mode: DISABLE}", None),
        (Some("STRICT"), "{mode: ISTIO_MUTUAL}", Some(CHECKOUT)),
        (Some("STRICT"), "{mode: DISABLE}", None),
        (Some("PERMISSIVE"), "{mode: ISTIO_MUTUAL}", Some(CHECKOUT)),
        (Some("PERMISSIVE"), "{mode: DISABLE}", Some("")),
        (Some("DISABLE"), "{mode: DISABLE}", Some("")),
        (Some("DISABLE"), "{mode: ISTIO_MUTUAL}", None),
        // Whoever answers there is not who is expected.
        (
            None,
            "{mode: ISTIO_MUTUAL, subjectAltNames: ['spiffe://cluster.local/ns/default/sa/bank']}",
            None,
        ),
    ] {
        let rig = Rig::start(peers, rule).await;
        let what = format!("{peers:?} and {rule}");
        match (known_as, rig.call(true).await) {
            (Some(expected), answer) => assert_eq!(answer.unwrap(), expected, "{what}"),
            (None, answer) => {
                answer.expect_err(&what);
                assert_eq!(rig.backend.handled(), 0, "{what}");
            }
        }
        // Without that word in code nobody is called in the clear.
        let handled = rig.backend.handled();
        match (known_as, rig.call(false).await) {
            (Some(CHECKOUT), answer) => assert_eq!(answer.unwrap(), CHECKOUT, "{what}"),
            (_, answer) => {
                answer.expect_err(&what);
                assert_eq!(rig.backend.handled(), handled, "{what}");
            }
        }
    }
}

/// The rule reaches a caller that has connections already: none of those carries another call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_changes_its_mode_changes_the_next_call() {
    let rig = Rig::start(Some("PERMISSIVE"), "{mode: DISABLE}").await;
    assert_eq!(rig.call(true).await.unwrap(), "");
    let before = rig.mesh.control().status().accepted;
    let text = std::fs::read_to_string(rig.mesh.path("r.yaml")).unwrap();
    rig.mesh.save("r.yaml", &text.replace("DISABLE", "ISTIO_MUTUAL"));
    rig.mesh.until_read(|status| status.accepted > before).await;
    rig.xds.status().applied(PATIENCE).await.unwrap();
    let in_effect = async { while rig.call(true).await.unwrap() != CHECKOUT {} };
    soon("the rule to reach the caller", in_effect).await;
    assert_eq!(rig.call(true).await.unwrap(), CHECKOUT);
}
