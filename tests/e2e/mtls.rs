//! Who may call and who may answer: refused means no handler ran, and the reason is in a counter and in the log.

use std::io;
use std::sync::{Arc, Mutex};

use examples::load::Tally;
use examples::proto::payment_client::PaymentClient;
use mesh_client::Channel;
use mesh_core::identity::Identity;
use mesh_core::testing::TestCa;
use tests::{Backend, CHECKOUT, PAYMENT, all_to, member, soon};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tracing_subscriber::fmt::MakeWriter;

/// Keeps what is logged in this thread: the test's runtime has no other.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    fn install(&self) -> tracing::subscriber::DefaultGuard {
        let subscriber = tracing_subscriber::fmt()
            .with_writer(self.clone())
            .with_ansi(false)
            .finish();
        tracing::subscriber::set_default(subscriber)
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Calls `backend` as `identity` with our client; what failed, if it did.
async fn call(backend: &Backend, identity: Identity) -> (Option<String>, mesh_core::Link) {
    let (source, link) = member(identity);
    source.snapshots.publish(all_to(backend.endpoint()));
    let tally = Tally::default();
    let mut client = PaymentClient::new(Channel::new(&link, "payment"));
    soon("a call", tally.call(&mut client)).await;
    let counts = tally.counts();
    ((counts.failed > 0).then_some(counts.last_error), link)
}

#[tokio::test]
async fn id_5_plaintext_is_refused_without_running_a_handler() {
    let log = Log::default();
    let _logging = log.install();
    let backend = Backend::serve(&TestCa::new("cluster.local"), "v1").await;
    for greeting in [
        &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(backend.address).await.unwrap();
        stream.write_all(greeting).await.unwrap();
        let mut answer = Vec::new();
        // The close may arrive as a reset.
        let _ = soon("the refusal", stream.read_to_end(&mut answer)).await;
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    }
    soon(
        "the counter",
        until(|| backend.link.tally().get("handshake_refused", "plaintext") == 2),
    )
    .await;
    assert_eq!(backend.handled(), 0);
    assert!(log.text().contains("reason=\"plaintext\""), "{}", log.text());
}

#[tokio::test]
async fn id_4_callers_with_a_foreign_or_expired_certificate_are_refused() {
    let log = Log::default();
    let _logging = log.install();
    let ca = TestCa::new("cluster.local");
    let backend = Backend::serve(&ca, "v1").await;
    let with_our_roots = |svid| Identity::new(svid, ca.bundle());
    let expired = ca.leaf(CHECKOUT).valid(1_000_000_000, 1_000_003_600).svid();
    let strangers = [
        (
            with_our_roots(TestCa::new("cluster.local").svid(CHECKOUT)),
            "unknown_issuer",
        ),
        (with_our_roots(expired), "expired"),
        (
            with_our_roots(TestCa::new("other.example").svid("spiffe://other.example/ns/default/sa/checkout")),
            "foreign_trust_domain",
        ),
    ];
    for (identity, reason) in strangers {
        let (failure, _) = call(&backend, identity).await;
        assert!(failure.is_some(), "{reason} was served");
        soon(
            reason,
            until(|| backend.link.tally().get("handshake_refused", reason) >= 1),
        )
        .await;
        assert!(log.text().contains(&format!("reason=\"{reason}\"")), "{}", log.text());
    }
    assert_eq!(backend.handled(), 0);
    let (failure, _) = call(&backend, ca.identity(CHECKOUT)).await;
    assert_eq!((failure, backend.handled()), (None, 1));
}

#[tokio::test]
async fn id_4_servers_of_the_right_ca_with_the_wrong_identity_are_refused() {
    let log = Log::default();
    let _logging = log.install();
    let ca = TestCa::new("cluster.local");
    let impostor = Backend::serve_as(ca.identity("spiffe://cluster.local/ns/default/sa/impostor"), "v1").await;
    let (failure, link) = call(&impostor, ca.identity(CHECKOUT)).await;
    let failure = failure.expect("the impostor was called");
    assert!(
        failure.contains("Unavailable") && failure.contains("refused"),
        "{failure}"
    );
    assert_eq!(impostor.handled(), 0);
    assert!(
        link.tally().get("connect_failed", "wrong_identity") >= 1,
        "{:?}",
        link.tally().all()
    );
    assert!(log.text().contains("wrong_identity"), "{}", log.text());
    let stranger = Backend::serve_as(
        Identity::new(TestCa::new("cluster.local").svid(PAYMENT), ca.bundle()),
        "v1",
    )
    .await;
    let (failure, link) = call(&stranger, ca.identity(CHECKOUT)).await;
    assert!(failure.is_some());
    assert!(
        link.tally().get("connect_failed", "unknown_issuer") >= 1,
        "{:?}",
        link.tally().all()
    );
    assert_eq!(stranger.handled(), 0);
}

/// Lets the other tasks of this thread run until it holds.
async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}
