//! ID-3 and ID-11: authorities that are gone for longer than a certificate lives, and clocks that jump. Time is paused, so an
//! hour is a loop; TLS and gRPC are real.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::{ExpectedPeers, ReasonKind};
use mesh_core::identity::verify::Refusal;
use mesh_core::identity::{Identity, tls};
use rustls::pki_types::ServerName;
use rustls::time_provider::TimeProvider;
use tokio::time::Instant;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::authority::{Authority, Wall, Workload};

const PEER: &str = "spiffe://d/ns/shop/sa/checkout";

/// A whole handshake: whether both are content, and why not. The workload serves and is expected.
pub(super) async fn called(workload: &Identity, peer: &Identity, clock: &Arc<Wall>) -> Result<(), Refusal> {
    let clock = || Arc::clone(clock) as Arc<dyn TimeProvider>;
    let server = tls::server_config(workload, tls::ClientAuth::Required, clock(), &[b"h2"]).unwrap();
    let expected = ExpectedPeers::exactly([workload.id().as_str()]);
    let client = tls::client_config(peer, &expected, clock(), &[b"h2"]).unwrap();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from("payment").unwrap();
    let connector = TlsConnector::from(client);
    let (served, called) = tokio::join!(TlsAcceptor::from(server).accept(far), connector.connect(name, near));
    let reason = |error: std::io::Error| {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        inner.and_then(Refusal::from_error).cloned()
    };
    // Whoever refuses knows why, and the other hears an alert.
    match (called.map_err(reason), served.map_err(reason)) {
        (Ok(_), Ok(_)) => Ok(()),
        (Err(Some(refusal)), _) | (_, Err(Some(refusal))) => Err(refusal),
        other => panic!("{other:?}"),
    }
}

/// Sleeps until so many seconds have passed since `start`.
async fn at(start: Instant, seconds: u64) {
    tokio::time::sleep_until(start + Duration::from_secs(seconds)).await;
}

fn gaps(times: &[Instant]) -> Vec<Duration> {
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[tokio::test(start_paused = true)]
async fn id_3_an_outage_of_the_authority_is_survived_to_the_end_of_the_certificate_and_not_past_it() {
    const LIFETIME: u64 = 60;
    let authority = Authority::new(LIFETIME);
    let (workload, peer) = (Workload::start(&authority), authority.peer(PEER));
    at(Instant::now(), 1).await;
    let first = workload.standing().unwrap();
    authority.set_down(true);
    let begin = authority.asked.lock().unwrap()[0];
    let end = first.svid().not_after().as_secs();
    authority.dialled.lock().unwrap().clear();

    // What is going on goes on until the last second, and the alarms come in time.
    let mut counts = Vec::new();
    for second in 2..LIFETIME {
        at(begin, second).await;
        let standing = workload.standing().expect("it has not ended");
        called(&standing, &peer, &workload.clock).await.unwrap();
        counts.push((second, workload.counted("overdue_75"), workload.counted("overdue_90")));
    }
    let first_of = |mark: fn(&(u64, u64, u64)) -> u64| counts.iter().find(|count| mark(count) > 0).unwrap().0;
    let (three_quarters, nine_tenths) = (first_of(|count| count.1), first_of(|count| count.2));
    assert!((45..=46).contains(&three_quarters), "{three_quarters}");
    assert!((54..=55).contains(&nine_tenths), "{nine_tenths}");
    assert_eq!(workload.counted("expired"), 0);

    // Then there is no identity, with the reason; who keeps the old one is refused.
    at(begin, LIFETIME + 1).await;
    assert!(workload.clock.seconds() > end);
    let reason = workload.standing().unwrap_err();
    assert_eq!(reason.kind(), ReasonKind::NoIdentity);
    assert!(reason.to_string().contains("connection refused"), "{reason}");
    assert_eq!(called(&first, &peer, &workload.clock).await, Err(Refusal::Expired));
    at(begin, 3 * LIFETIME).await;
    assert_eq!(workload.standing().unwrap_err().kind(), ReasonKind::NoIdentity);
    let alarms = ["overdue_75", "overdue_90", "expired", "issued"].map(|mark| workload.counted(mark));
    assert_eq!(alarms, [1, 1, 1, 1]);

    // It was asked from half of the life on, again and again, never on the beat and never in haste.
    let dialled = authority.dialled.lock().unwrap().clone();
    let half = dialled[0] - begin;
    assert!((27.0..=33.0).contains(&half.as_secs_f64()), "{half:?}");
    let pauses = gaps(&dialled);
    let (least, most) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
    assert!(
        *least >= Duration::from_secs(1) && *most <= Duration::from_secs(6),
        "{pauses:?}"
    );
    let late = &pauses[pauses.len() / 2..];
    assert!(late.iter().min() < late.iter().max(), "jitter: {late:?}");

    // And it is there again within one pause.
    authority.set_down(false);
    let recovery = Instant::now();
    while workload.standing().is_err() {
        assert!(recovery.elapsed() <= Duration::from_secs(7));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    called(&workload.standing().unwrap(), &peer, &workload.clock)
        .await
        .unwrap();
}

const HOUR: u64 = 3_600;
const DAY: i64 = 86_400;

/// Two hours with a clock that is so far off, and an hour with one that is right again.
async fn jump(seconds: i64, authority_too: bool) {
    let authority = Authority::new(24 * HOUR);
    let (workload, peer) = (Workload::start(&authority), authority.peer(PEER));
    let start = Instant::now();
    at(start, 600).await;
    let first = workload.standing().unwrap();
    workload.clock.set_off(seconds);
    authority.clock.set_off(if authority_too { seconds } else { 0 });
    let what = format!("{seconds} s, authority {authority_too}");

    at(start, 2 * HOUR).await;
    // By the wall clock, whatever it shows.
    let outcome = called(&first, &peer, &workload.clock).await;
    let expected = match seconds {
        // The certificate was made two minutes before it was asked for.
        back if back < -720 => Err(Refusal::NotYetValid),
        far if far > 24 * HOUR as i64 - 7_200 => Err(Refusal::Expired),
        _ => Ok(()),
    };
    assert_eq!(outcome, expected, "{what}");
    // With an authority that sees the same time, the workload is served again; with another it has nothing or what it had.
    let is_served = workload.standing().is_ok();
    assert_eq!(is_served, authority_too || expected != Err(Refusal::Expired), "{what}");

    workload.clock.set_off(0);
    authority.clock.set_off(0);
    at(start, 3 * HOUR).await;
    let standing = workload.standing().unwrap_or_else(|reason| panic!("{what}: {reason}"));
    called(&standing, &peer, &workload.clock)
        .await
        .unwrap_or_else(|refusal| panic!("{what}: {refusal}"));

    let asked = authority.asked.lock().unwrap().clone();
    let least = gaps(&asked).into_iter().min();
    assert!(
        least.is_none_or(|gap| gap >= Duration::from_secs(1)),
        "{what}: {least:?}"
    );
    // A failure is followed by the next within 72 to 120 s, once the backoff has grown: 92 in the two hours, and a few before.
    assert!(asked.len() <= 100, "{what}: {}", asked.len());
}

#[tokio::test(start_paused = true)]
async fn id_11_clocks_that_jump_make_no_haste_and_leave_nothing_behind() {
    for seconds in [DAY, -DAY, 3_652 * DAY, HOUR as i64] {
        for authority_too in [false, true] {
            jump(seconds, authority_too).await;
        }
    }
}

/// A renewal that is due is not put off by a clock that was set back: what is left is counted by the other clock, too.
#[tokio::test(start_paused = true)]
async fn id_11_a_clock_that_was_set_back_does_not_put_renewal_off() {
    let authority = Authority::new(HOUR);
    let workload = Workload::start(&authority);
    let start = Instant::now();
    at(start, 60).await;
    workload.clock.set_off(-30 * DAY);
    at(start, HOUR * 55 / 100 + 60).await;
    assert!(authority.asked.lock().unwrap().len() >= 2);
}
