//! Leaving the mesh: TLS with servers that have ordinary names, with credentials by name and by file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use mesh_core::Link;
use mesh_core::config::{
    Cluster, Connections, Credential, Endpoint, NameKind, NameMatch, Protocol, ReasonKind, Roots, Route, Snapshot,
    Split, StringMatch, TlsMode, TlsOrigination,
};
use mesh_core::identity::tls::provider;
use mesh_core::identity::{ClientCertificate, Pins, TrustDomain};
use mesh_core::link::{Parts, Source};
use mesh_core::testing::{Issued, Name, TestCa};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::net::{Net, Plain, address, call, post, say, text};
use crate::{Channel, Error};

const HOST: &str = "api.example.com";

/// A server of this certificate, which asks clients for one of `clients` if that is given.
fn web(issued: Issued, clients: Option<&TestCa>) -> Arc<rustls::ServerConfig> {
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
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

fn simple(roots: Roots) -> TlsOrigination {
    TlsOrigination {
        roots,
        sni: Some(HOST.into()),
        names: Box::default(),
        shown: None,
        unverified: false,
    }
}

struct Outside {
    net: Net,
    source: Source,
    link: Link,
}

impl Outside {
    fn new(parts: Parts) -> Self {
        let net = Net::default();
        let (source, link) = net.link_with(parts);
        Self { net, source, link }
    }

    fn serve(&self, tls: Arc<rustls::ServerConfig>) {
        self.net
            .serve_with(1, h2::server::Builder::new(), Some(tls), |_, respond| async {
                say(respond, "outside");
            });
    }

    fn publish(&self, outside: TlsOrigination, protocol: Protocol) {
        let cluster = Cluster {
            connections: Arc::new(Connections {
                protocol,
                ..Connections::default()
            }),
            ..Cluster::new(
                "c",
                TlsMode::Origination(Box::new(outside)),
                vec![Endpoint::new(address(1))],
            )
        };
        let snapshot = Snapshot::builder()
            .route("t", Route::to(Split::all_to("c")))
            .cluster(cluster);
        self.source.snapshots.publish(snapshot.build().unwrap());
    }

    async fn call(&self, outside: TlsOrigination) -> Result<String, Error> {
        self.publish(outside, Protocol::Http2);
        let channel: Plain = Channel::new(&self.link, "t");
        settle().await;
        Ok(text(call(&channel, post("")).await?).await)
    }
}

/// Lets the swap be taken over.
async fn settle() {
    for _ in 0..16 {
        tokio::task::yield_now().await;
    }
}

fn word(error: &Error) -> &'static str {
    let cause = std::error::Error::source(error).unwrap();
    cause.downcast_ref::<crate::connect::ConnectError>().unwrap().as_str()
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

fn root_file(folder: &Path, roots: &[CertificateDer<'_>]) -> PathBuf {
    let path = folder.join("roots.pem");
    pem(
        &path,
        "CERTIFICATE",
        &roots.iter().map(|root| &**root).collect::<Vec<_>>(),
    );
    path
}

#[tokio::test]
async fn simple_tls_checks_the_servers_name_against_roots_in_a_file() {
    let (ca, folder) = (TestCa::new("d"), tempfile::tempdir().unwrap());
    let roots = || Roots::File(folder.path().join("roots.pem").into());
    root_file(folder.path(), &[ca.root()]);
    let outside = Outside::new(Parts::default());
    outside.serve(web(ca.web_server(HOST), None));
    assert_eq!(outside.call(simple(roots())).await.unwrap(), "outside");
    let other = |name: &str| TlsOrigination {
        sni: Some(name.into()),
        ..simple(roots())
    };
    assert_eq!(
        word(&outside.call(other("other.example.com")).await.unwrap_err()),
        "wrong_name"
    );
    // Other roots, in the same file: what is made of it is made anew.
    root_file(folder.path(), &[TestCa::new("d").root(), TestCa::new("e").root()]);
    let again = other("API.example.com");
    assert_eq!(word(&outside.call(again).await.unwrap_err()), "unknown_issuer");
    let gone = simple(Roots::File(folder.path().join("gone.pem").into()));
    let error = outside.call(gone).await.unwrap_err();
    assert_eq!((word(&error), error.may_have_been_processed()), ("credentials", false));
    let nameless = TlsOrigination {
        sni: None,
        ..simple(roots())
    };
    assert_eq!(word(&outside.call(nameless).await.unwrap_err()), "credentials");
}

#[tokio::test]
async fn names_that_are_asked_for_stand_in_place_of_the_one_it_is_called_by() {
    let ca = TestCa::new("d");
    let outside = Outside::new(Parts::default());
    outside.link.credentials().provide_roots("bundle", vec![ca.root()]);
    let leaf = ca.leaf("spiffe://d/ns/n/sa/egress").name(Name::Dns, "*.example.com");
    outside.serve(web(leaf.issue(), None));
    let asking = |kind, test| TlsOrigination {
        sni: Some("internal".into()),
        names: [NameMatch { kind, test }].into(),
        ..simple(Roots::Named("bundle".into()))
    };
    let exact = |text: &str| StringMatch::Exact(text.into());
    let good = [
        asking(NameKind::Dns, exact(HOST)),
        asking(NameKind::Uri, exact("spiffe://d/ns/n/sa/egress")),
        asking(NameKind::Any, StringMatch::Prefix("spiffe://d/".into())),
    ];
    for outside_tls in good {
        assert_eq!(outside.call(outside_tls).await.unwrap(), "outside");
    }
    let bad = [
        asking(NameKind::Dns, exact("spiffe://d/ns/n/sa/egress")),
        asking(NameKind::Uri, exact("spiffe://d/ns/n/sa/other")),
        asking(NameKind::Dns, exact("a.api.example.com")),
    ];
    for outside_tls in bad {
        assert_eq!(word(&outside.call(outside_tls).await.unwrap_err()), "wrong_name");
    }
    // A chain that leads elsewhere is refused whatever it is named.
    outside
        .link
        .credentials()
        .provide_roots("bundle", vec![TestCa::new("d").root()]);
    let error = outside
        .call(asking(NameKind::Dns, exact("b.example.com")))
        .await
        .unwrap_err();
    assert_eq!(word(&error), "unknown_issuer");
}

#[tokio::test]
async fn mutual_tls_shows_a_certificate_by_name_by_file_and_the_workloads_own() {
    let (ca, clients, folder) = (TestCa::new("d"), TestCa::new("clients"), tempfile::tempdir().unwrap());
    let outside = Outside::new(Parts::default());
    outside.serve(web(ca.web_server(HOST), Some(&clients)));
    let credentials = outside.link.credentials();
    credentials.provide_roots("server-cacert", vec![ca.root()]);
    let showing = |shown| TlsOrigination {
        shown,
        ..simple(Roots::Named("server-cacert".into()))
    };
    let by_name = || showing(Some(Credential::Named("kubernetes://server".into())));
    let error = outside.call(by_name()).await.unwrap_err();
    assert_eq!(word(&error), "credentials");
    assert!(
        std::error::Error::source(&error)
            .unwrap()
            .to_string()
            .contains("kubernetes://server")
    );
    let leaf = clients.leaf("spiffe://clients/me").issue();
    let certificate = ClientCertificate::new(leaf.chain, leaf.key).unwrap();
    credentials.provide_certificate("kubernetes://server", certificate);
    // The pause after the failed dial.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(outside.call(by_name()).await.unwrap(), "outside");

    let leaf = clients.leaf("spiffe://clients/file").issue();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    pem(
        &certificate,
        "CERTIFICATE",
        &leaf.chain.iter().map(|der| &**der).collect::<Vec<_>>(),
    );
    pem(&key, "PRIVATE KEY", &[leaf.key.secret_der()]);
    let by_file = Credential::Files {
        certificate: certificate.into(),
        key: key.into(),
    };
    assert_eq!(outside.call(showing(Some(by_file))).await.unwrap(), "outside");

    outside
        .source
        .identity
        .publish(Ok(clients.identity("spiffe://clients/ns/n/sa/workload")));
    assert_eq!(
        outside.call(showing(Some(Credential::Workload))).await.unwrap(),
        "outside"
    );
    assert!(outside.call(showing(None)).await.is_err(), "it asks for one");
}

/// gRFC A29: the roots of a provider, and none of its certificate.
#[tokio::test]
async fn the_workloads_roots_judge_a_server_that_is_shown_nothing() {
    let ca = TestCa::new("d");
    let outside = Outside::new(Parts::default());
    outside.serve(web(ca.leaf("spiffe://d/ns/n/sa/pay").issue(), None));
    let named = |names: &[&str]| TlsOrigination {
        sni: None,
        names: names
            .iter()
            .map(|id| NameMatch {
                kind: NameKind::Uri,
                test: StringMatch::Exact((*id).into()),
            })
            .collect(),
        ..simple(Roots::Workload)
    };
    let identity = |ca: &TestCa, id: &str| outside.source.identity.publish(Ok(ca.identity(id)));
    identity(&ca, "spiffe://d/ns/n/sa/me");
    let pay = ["spiffe://d/ns/n/sa/pay"];
    assert_eq!(outside.call(named(&pay)).await.unwrap(), "outside");
    assert!(outside.call(named(&["spiffe://d/ns/n/sa/other"])).await.is_err());
    let error = outside.call(named(&[])).await.unwrap_err();
    assert_eq!(
        word(&error),
        "credentials",
        "there is no name to hold it against: {error}"
    );
    identity(&TestCa::new("e"), "spiffe://e/ns/n/sa/me");
    assert!(outside.call(named(&pay)).await.is_err(), "other roots");
}

#[tokio::test]
async fn a_server_that_nobody_asks_is_called_only_where_the_code_says_so() {
    let ca = TestCa::new("d");
    let outside = Outside::new(Parts::default());
    outside
        .link
        .credentials()
        .provide_roots("none", vec![TestCa::new("d").root()]);
    outside.serve(web(ca.web_server("somebody.else"), None));
    let unverified = || TlsOrigination {
        unverified: true,
        ..simple(Roots::Named("none".into()))
    };
    let error = outside.call(unverified()).await.unwrap_err();
    assert_eq!(
        (error.reason_kind(), outside.net.dials()),
        (Some(ReasonKind::OutsideRefused), 0)
    );
    let lax: Plain = Channel::builder(&outside.link, "t").dangerous().unverified().build();
    assert_eq!(text(call(&lax, post("")).await.unwrap()).await, "outside");
}

/// A control plane that lies could lead a call of a pinned process out of the mesh.
#[tokio::test]
async fn a_pinned_process_leaves_the_mesh_only_where_the_code_says_so() {
    let ca = TestCa::new("d");
    let pins = Pins::default().trust_domains([TrustDomain::parse("d").unwrap()]);
    let outside = Outside::new(Parts {
        pins,
        ..Parts::default()
    });
    outside.link.credentials().provide_roots("r", vec![ca.root()]);
    outside.serve(web(ca.web_server(HOST), None));
    let error = outside.call(simple(Roots::Named("r".into()))).await.unwrap_err();
    assert_eq!(
        (error.reason_kind(), outside.net.dials()),
        (Some(ReasonKind::OutsideRefused), 0)
    );
    let allowed: Plain = Channel::builder(&outside.link, "t").dangerous().outside().build();
    assert_eq!(text(call(&allowed, post("")).await.unwrap()).await, "outside");
}

/// A server that knows nothing of ALPN speaks HTTP/1.1; gRPC does not go there.
#[tokio::test]
async fn a_server_without_alpn_is_spoken_to_as_https_was_before_it() {
    let ca = TestCa::new("d");
    let outside = Outside::new(Parts::default());
    outside.link.credentials().provide_roots("r", vec![ca.root()]);
    let mut tls = (*web(ca.web_server(HOST), None)).clone();
    tls.alpn_protocols.clear();
    outside.net.serve_raw(1, Some(Arc::new(tls)), |mut io| async move {
        let mut bytes = [0; 4096];
        while io.read(&mut bytes).await.is_ok_and(|n| n > 0) {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nold";
            io.write_all(answer).await.unwrap();
        }
    });
    outside.publish(simple(Roots::Named("r".into())), Protocol::Negotiated);
    let channel = Channel::<Full<Bytes>>::new(&outside.link, "t");
    for _ in 0..3 {
        assert_eq!(text(call(&channel, post("x")).await.unwrap()).await, "old");
    }
    assert_eq!(outside.net.dials(), 1);
    let (code, _) = super::net::grpc_status(call(&channel, super::net::grpc()).await.unwrap()).await;
    assert_eq!(code, "14");
}

/// Names and where they lead, over the servers of a [`Net`].
#[derive(Clone)]
struct Named {
    net: Net,
    names: Vec<(&'static str, &'static [u8])>,
    lookups: Arc<AtomicUsize>,
    /// Lookups fail.
    down: Arc<AtomicBool>,
}

impl Named {
    fn new(names: &[(&'static str, &'static [u8])]) -> Self {
        Self {
            net: Net::default(),
            names: names.to_vec(),
            lookups: Arc::default(),
            down: Arc::default(),
        }
    }

    fn looked_up(&self) -> usize {
        self.lookups.load(Ordering::Relaxed)
    }

    /// A link of a mesh that lets calls of hosts pass that it does not know.
    fn lax_link(&self) -> (Source, Link) {
        let (source, link) = Link::new(Parts::default());
        crate::use_connector(&link, self.clone()).unwrap();
        let cluster = Cluster {
            by_authority: true,
            ..Cluster::new("PassthroughCluster", TlsMode::Plaintext, Vec::new())
        };
        let snapshot = Snapshot::builder()
            .route("t", Route::to(Split::all_to("PassthroughCluster")))
            .cluster(cluster);
        source.snapshots.publish(snapshot.build().unwrap());
        (source, link)
    }
}

fn get(uri: &'static str) -> http::Request<Full<Bytes>> {
    http::Request::get(uri).body(Full::default()).unwrap()
}

impl crate::connect::Connect for Named {
    fn connect(&self, address: std::net::SocketAddr) -> crate::connect::Connecting {
        let net = self.net.clone();
        Box::pin(async move { net.connect(address) })
    }

    fn resolve(&self, host: &str, _port: u16) -> crate::connect::Resolving {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        let found = self.names.iter().find(|(name, _)| *name == host);
        let found = found.map_or(Vec::new(), |(_, servers)| servers.iter().map(|n| address(*n)).collect());
        let down = self.down.load(Ordering::Relaxed);
        Box::pin(async move {
            // As long as a lookup takes.
            tokio::time::sleep(Duration::from_millis(1)).await;
            match down {
                true => Err(std::io::ErrorKind::HostUnreachable.into()),
                false => Ok(found),
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_nobody_knows_is_called_where_configuration_and_code_allow_it() {
    let named = Named::new(&[("files.example", &[1])]);
    let net = &named.net;
    net.serve_raw(1, None, |mut io| async move {
        let mut bytes = [0; 4096];
        while let Ok(n) = io.read(&mut bytes).await {
            if n == 0 {
                return;
            }
            assert!(String::from_utf8_lossy(&bytes[..n]).contains("host: files.example\r\n"));
            io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nany")
                .await
                .unwrap();
        }
    });
    let (_source, link) = named.lax_link();
    let to = get;
    // Fail closed: the configuration's word alone sends nothing in the clear.
    let strict: Plain = Channel::new(&link, "t");
    let error = call(&strict, to("http://files.example/a")).await.unwrap_err();
    assert_eq!(
        (error.reason_kind(), net.dials()),
        (Some(ReasonKind::PlaintextRefused), 0)
    );
    let lax = super::net::channel(&link);
    for _ in 0..5 {
        assert_eq!(
            text(call(&lax, to("http://files.example/a")).await.unwrap()).await,
            "any"
        );
    }
    assert_eq!((net.dials(), named.looked_up()), (1, 1));
    // The address is asked for again in its time, and one that did not change keeps its connections.
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(
        text(call(&lax, to("http://files.example/a")).await.unwrap()).await,
        "any"
    );
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(
        text(call(&lax, to("http://files.example/a")).await.unwrap()).await,
        "any"
    );
    assert_eq!((net.dials(), named.looked_up()), (1, 2));
    let error = call(&lax, to("http://nowhere.example/")).await.unwrap_err();
    assert!(error.is_connect() && error.response_flag() == "UF", "{error}");
    assert_eq!(word(&error), "resolve");
}

/// The first address that can be called is, as whoever calls without a mesh would do it.
#[tokio::test(start_paused = true)]
async fn of_several_addresses_one_that_answers_is_called() {
    let named = Named::new(&[("two.example", &[2, 1]), ("none.example", &[2, 3])]);
    named.net.serve(1, |_, respond| async { say(respond, "one") });
    let (_source, link) = named.lax_link();
    let channel = super::net::channel(&link);
    let http2 = |uri| {
        let mut request = get(uri);
        *request.version_mut() = http::Version::HTTP_2;
        request
    };
    for _ in 0..20 {
        let answer = call(&channel, http2("http://two.example/")).await.unwrap();
        assert_eq!(text(answer).await, "one");
    }
    // The other was tried once, and is left alone while its pause runs.
    assert_eq!((named.net.dials_to(1), named.net.dials_to(2)), (1, 1));
    let error = call(&channel, http2("http://none.example/")).await.unwrap_err();
    assert!(error.is_connect() && error.response_flag() == "UF", "{error}");
    assert!(named.net.dials_to(2) > 1 && named.net.dials_to(3) > 0);
}

/// Whoever wants a name waits for the one lookup; and what was found is used while names cannot be looked up.
#[tokio::test(start_paused = true)]
async fn a_name_is_looked_up_once_and_used_while_lookups_fail() {
    let named = Named::new(&[("files.example", &[1])]);
    named.net.serve(1, |_, respond| async { say(respond, "one") });
    let (_source, link) = named.lax_link();
    let channel = super::net::channel(&link);
    let to_it = || {
        let channel = channel.clone();
        async move {
            let mut request = get("http://files.example/");
            *request.version_mut() = http::Version::HTTP_2;
            text(call(&channel, request).await.unwrap()).await
        }
    };
    let calls: Vec<_> = (0..90).map(|_| tokio::spawn(to_it())).collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), "one");
    }
    assert_eq!((named.looked_up(), named.net.dials()), (1, 1));
    named.down.store(true, Ordering::Relaxed);
    for lookups in 2..40 {
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!((to_it().await.as_str(), named.looked_up()), ("one", lookups));
    }
    // Nobody calls it for so long that it is forgotten.
    tokio::time::sleep(Duration::from_secs(301)).await;
    let error = call(&channel, get("http://files.example/")).await.unwrap_err();
    assert_eq!(word(&error), "resolve");
    named.down.store(false, Ordering::Relaxed);
    assert_eq!((to_it().await.as_str(), named.net.dials()), ("one", 2));
}
