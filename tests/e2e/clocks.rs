//! ID-3, ID-11, ID-12: wall clocks that jump or disagree. Certificates are judged by the wall clock of whoever judges, at the
//! handshake; nothing is called in plaintext because a certificate has ended.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use examples::load::Tally;
use examples::proto::payment_client::PaymentClient;
use mesh_client::Channel;
use mesh_core::Link;
use mesh_core::identity::Identity;
use mesh_core::link::{Parts, Source};
use mesh_core::testing::{SettableClock, TestCa};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use tests::{Backend, CHECKOUT, Mesh, PAYMENT, all_to, listener, routes, soon, workloads};

const NOW: u64 = 1_800_000_000;

/// A member whose wall clock is `clock`.
fn member(identity: Identity, clock: &SettableClock) -> (Source, Link) {
    let (source, link) = Link::new(Parts {
        wall_clock: Arc::new(clock.clone()),
        ..Parts::default()
    });
    source.identity.publish(Ok(identity));
    (source, link)
}

/// One call over a connection of its own; the failure, if it was one.
async fn called(backend: &Backend, ca: &TestCa, clock: &SettableClock) -> Option<String> {
    let (source, link) = member(ca.identity(CHECKOUT), clock);
    source.snapshots.publish(all_to(backend.endpoint()));
    let tally = Tally::default();
    let mut client = PaymentClient::new(Channel::new(&link, "payment"));
    soon("a call", tally.call(&mut client)).await;
    let counts = tally.counts();
    (counts.failed > 0).then_some(counts.last_error)
}

#[tokio::test]
async fn id_3_a_server_whose_certificate_has_ended_is_not_called_in_any_other_way() {
    const LIFE: u64 = 3_600;
    let (ca, clock) = (TestCa::new("cluster.local"), SettableClock::at(NOW));
    let svid = ca.leaf(PAYMENT).valid(NOW - 60, NOW + LIFE).svid();
    let (_source, link) = member(Identity::new(svid, ca.bundle()), &clock);
    let (socket, _) = listener().await;
    let backend = Backend::serve_on(socket, link, "v1");

    // What id_11 lists: to the last second of the life, past it, far past it, before it began, and back.
    let refused = Some("refused");
    let steps = [
        (NOW, None),
        (NOW + LIFE, None),
        (NOW + LIFE + 1, refused),
        (NOW + 86_400, refused),
        (NOW + 10 * 365 * 86_400, refused),
        (NOW - 86_400, refused),
        (NOW, None),
    ];
    let mut served = 0;
    for (at, expected) in steps {
        clock.set(at);
        let failure = called(&backend, &ca, &clock).await;
        served += u64::from(expected.is_none());
        assert_eq!(failure.is_some(), expected.is_some(), "at {at}: {failure:?}");
        assert_eq!(backend.handled(), served, "at {at}");
    }
    let tally = backend.link.tally();
    assert!(
        tally.get("handshake_refused", "own_certificate_expired") >= 3,
        "{:?}",
        tally.all()
    );
}

/// The system's clock, and some seconds.
#[derive(Debug)]
struct Ahead(u64);

impl TimeProvider for Ahead {
    fn current_time(&self) -> Option<UnixTime> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(now + Duration::from_secs(self.0)))
    }
}

#[tokio::test]
async fn id_12_certificates_of_an_issuer_two_minutes_ahead_are_good_at_once() {
    let ((first, v1), (_second, v2)) = (listener().await, listener().await);
    let documents = [("workloads.yaml", workloads(v1, v2)), ("routes.yaml", routes(100, 0))];
    let documents = documents.each_ref().map(|(name, text)| (*name, text.as_str()));
    let mesh = Mesh::start_with(&documents, |builder| builder.wall_clock(Arc::new(Ahead(120)))).await;
    // The CA's own certificate is as new as those it makes: both are judged by a clock that is right.
    let (backend, _payment) = mesh.serve(first, "v1").await;
    let (mut client, checkout) = mesh.checkout("xds:///payment-service").await;
    let tally = Tally::default();
    soon("a call", tally.call(&mut client)).await;
    let counts = tally.counts();
    assert_eq!((counts.ok, backend.handled()), (1, 1), "{:?}", counts.errors);
    let standing = checkout.link().identity().load_full();
    let identity = standing.as_ref().as_ref().expect("the caller has an identity");
    let begun = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("it is later than 1970")
        .as_secs()
        - identity.svid().not_before().as_secs();
    assert!((1..=180).contains(&begun), "it began {begun} s ago");
}
