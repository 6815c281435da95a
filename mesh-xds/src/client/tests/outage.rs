//! What becomes of a process when its control plane is gone, silent, slow or rude.

use std::sync::Mutex;
use std::time::Duration;

use mesh_core::config::ReasonKind;
use opentelemetry::KeyValue;
use opentelemetry::metrics::AsyncInstrument;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::plane::{BOTH, EVER, Net, Subject, Way, settle};
use super::*;
use crate::bootstrap::{Bootstrap, Protocol, ServerEntry, ServerFeature};
use crate::client::{Phase, metrics};
use crate::node::Node;

const HOME: &str = "home:1";
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn cp_1_an_hour_without_a_control_plane_changes_nothing_for_calls() {
    for protocol in BOTH {
        let net = Net::default();
        let home = net.plane(HOME);
        home.tell("t", "home", 1);
        let subject = Subject::of(&net, protocol, &[HOME], &["t"]);
        subject.until("t", "home:1").await;
        let before = subject.link.snapshots().load_full();
        assert_eq!(config_age(&subject), Some(0));
        let killed = Instant::now();
        home.go(Way::Down);
        for minute in 1..=60 {
            tokio::time::sleep(60 * SECOND).await;
            assert_eq!(
                config_age(&subject),
                Some(60 * minute),
                "the age is exported as it grows"
            );
        }
        assert!(Arc::ptr_eq(&before, &subject.link.snapshots().load_full()));
        let report = subject.client.status().report();
        let age = report.age(Instant::now().into_std()).unwrap();
        assert!(age >= 3600 * SECOND && age < 3601 * SECOND, "{age:?}");
        // Within a second after a stream that had answers. Then gRPC's backoff: 1 s, 1.6 times as much each time up to
        // 120 s, and a fifth less or more of each.
        let dials = home.log().dials.split_off(1);
        assert!(dials[0] - killed <= SECOND, "{:?}", dials[0] - killed);
        let mut base = 1.0f64;
        for pair in dials.windows(2) {
            let gap = (pair[1] - pair[0]).as_secs_f64();
            let (least, most) = (base * 0.8 - 0.01, base * 1.2 + 0.01);
            assert!((least..most).contains(&gap), "{gap} of {base}");
            base = (base * 1.6).min(120.0);
        }
        assert!((30..50).contains(&dials.len()), "{}", dials.len());
        assert_eq!(report.connection.attempts as usize, dials.len());
        // One that is back is heard of, and only what changed makes a difference.
        home.go(Way::Open);
        home.cluster("home", 2);
        subject.until("t", "home:2").await;
        assert_eq!(subject.history("t"), ["home:1", "home:2"]);
        assert_eq!(config_age(&subject), Some(0));
    }
}

/// What the gauge of the configuration's age shows, which has to be what a page of statistics is made of, too.
fn config_age(subject: &Subject) -> Option<u64> {
    #[derive(Default)]
    struct Shown(Mutex<Option<u64>>);

    impl AsyncInstrument<u64> for Shown {
        fn observe(&self, value: u64, _: &[KeyValue]) {
            *self.0.lock().unwrap() = Some(value);
        }
    }

    let (shown, report) = (Shown::default(), subject.client.status().report());
    metrics::config_age(&report, &shown);
    assert_eq!(subject.link.last_heard(), report.last_heard);
    shown.0.into_inner().unwrap()
}

#[tokio::test(start_paused = true)]
async fn cp_2_without_a_first_configuration_the_reason_is_told_and_one_pause_after_the_return_it_is_there() {
    for protocol in BOTH {
        let net = Net::default();
        let home = net.plane(HOME);
        home.tell("t", "home", 1);
        home.go(Way::Down);
        let subject = Subject::of(&net, protocol, &[HOME], &["t"]);
        settle().await;
        let reason = subject.link.waiting_reason().unwrap();
        assert_eq!(reason.kind(), ReasonKind::Waiting);
        assert!(
            reason.to_string().contains("connecting to home:1: connection refused"),
            "{reason}"
        );
        tokio::time::sleep(600 * SECOND).await;
        assert_eq!(subject.ports("t"), "nothing", "waiting is not an answer");
        home.go(Way::Open);
        let Phase::BackingOff(pause) = subject.client.status().report().connection.phase else {
            panic!("it pauses");
        };
        let back = Instant::now();
        subject.until("t", "home:1").await;
        assert!(
            back.elapsed() <= pause + SECOND / 100,
            "{:?} of {pause:?}",
            back.elapsed()
        );
        assert_eq!(subject.link.waiting_reason(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn cp_3_a_connection_that_swallows_everything_is_found_dead_and_made_anew() {
    for protocol in BOTH {
        // At any moment between two pings.
        for quiet in [1, 15, 29, 30, 31, 45, 3600] {
            let net = Net::default();
            let home = net.plane(HOME);
            home.tell("t", "home", 1);
            let subject = Subject::of(&net, protocol, &[HOME], &["t"]);
            subject.until("t", "home:1").await;
            tokio::time::sleep(quiet * SECOND).await;
            assert_eq!(home.log().dials.len(), 1, "quiet is no reason for anything");
            home.go(Way::Black);
            settle().await;
            home.go(Way::Open);
            let lost = Instant::now();
            home.cluster("home", 2);
            let is_lost = |report: &crate::client::Report| !report.is_connected();
            let report = subject.client.status().until(EVER, is_lost).await.unwrap();
            assert!(lost.elapsed() <= 40 * SECOND + SECOND / 100, "{:?}", lost.elapsed());
            let why = report.connection.last_error.clone().unwrap();
            assert!(why.starts_with("stream to home:1: "), "{why}");
            subject.until("t", "home:2").await;
            assert!(lost.elapsed() <= 42 * SECOND, "{:?}", lost.elapsed());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn cp_4_a_first_answer_within_15_s_is_in_time_and_a_later_one_heals() {
    for protocol in BOTH {
        for (after, is_in_time) in [(14, true), (16, false)] {
            let net = Net::default();
            let home = net.plane(HOME);
            let subject = Subject::of(&net, protocol, &[HOME], &["t"]);
            tokio::time::sleep(after * SECOND).await;
            let meanwhile = subject.ports("t");
            match is_in_time {
                true => assert_eq!(meanwhile, "nothing"),
                // It had told nothing at all, which tells of itself.
                false => assert!(meanwhile.contains("listener \"t\": timed out"), "{meanwhile}"),
            }
            home.tell("t", "home", 1);
            subject.until("t", "home:1").await;
            assert_eq!(subject.history("t").len(), if is_in_time { 1 } else { 2 });
        }
    }
}

/// One that answers what it has, and is silent of the rest, says by that what it does not have. What the target waits for meanwhile is told.
#[tokio::test(start_paused = true)]
async fn cp_4_of_one_that_answers_silence_is_absence_and_until_then_is_told_as_awaited() {
    let net = Net::default();
    let home = net.plane(HOME);
    home.tell("t", "home", 1);
    home.delete(ResourceKind::Endpoints, "home");
    let subject = Subject::of(&net, Protocol::Sotw, &[HOME], &["t"]);
    let begun = Instant::now().into_std();
    tokio::time::sleep(14 * SECOND).await;
    let awaited = subject.link.awaited("t");
    let told: Vec<(&str, Duration)> = awaited.iter().map(|one| (&*one.what, one.since - begun)).collect();
    assert!(
        matches!(told[..], [("endpoints \"home\"", since)] if since < SECOND),
        "{told:?}"
    );
    tokio::time::sleep(2 * SECOND).await;
    let (told, awaited) = (subject.ports("t"), subject.link.awaited("t"));
    assert!(told.contains("does not exist") && awaited.is_empty(), "{told}");
    assert!(!subject.client.status().report().connection.is_failing);
}

/// A call is to see what comes of a timer, whichever of a bootstrap's control planes has the longer one.
#[tokio::test(start_paused = true)]
async fn cp_4_calls_wait_for_longer_than_the_longest_timer_of_the_bootstrap() {
    for (feature, limit) in [(None, 30), (Some(ServerFeature::ResourceTimerIsTransientError), 45)] {
        let net = Net::default();
        let away = ServerEntry::insecure("away:1");
        let away = match feature {
            Some(feature) => away.feature(feature),
            None => away,
        };
        let builder = Bootstrap::builder(Node::default())
            .server(ServerEntry::insecure(HOME))
            .server(away);
        let subject = Subject::start(&net, builder, &[]);
        assert_eq!(subject.link.first_answer_limit(), limit * SECOND);
    }
}

/// A57: a stream that answered and ended in order is no failure, neither to operators nor to who counts.
#[tokio::test(start_paused = true)]
async fn cp_9_a_stream_that_answered_and_ended_in_order_is_not_counted_as_failed() {
    for protocol in BOTH {
        let net = Net::default();
        let home = net.plane(HOME);
        home.tell("t", "home", 1);
        let subject = Subject::of(&net, protocol, &[HOME], &["t"]);
        subject.until("t", "home:1").await;
        home.end_streams();
        let is_again = |report: &crate::client::Report| report.connection.streams == 2;
        let report = subject.client.status().until(EVER, is_again).await.unwrap();
        let tally = subject.link.tally();
        let counted = ["opened", "ended", "failed"].map(|event| tally.get("xds_stream", event));
        assert_eq!((counted, report.connection.failures), ([2, 1, 0], 0), "{protocol:?}");
        // A stream that is resumed is silent while nothing changes.
        tokio::time::sleep(60 * SECOND).await;
        assert!(!subject.client.status().report().connection.is_failing, "{protocol:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn cp_4_nothing_is_given_up_on_while_there_is_nobody_to_answer() {
    for protocol in BOTH {
        let net = Net::default();
        let home = net.plane(HOME);
        let subject = Subject::of(&net, protocol, &[HOME], &["t"]);
        tokio::time::sleep(10 * SECOND).await;
        home.go(Way::Down);
        tokio::time::sleep(600 * SECOND).await;
        home.go(Way::Open);
        let is_connected = |report: &crate::client::Report| report.is_connected();
        subject.client.status().until(EVER, is_connected).await.unwrap();
        tokio::time::sleep(14 * SECOND).await;
        assert_eq!(subject.ports("t"), "nothing", "the wait began anew");
        home.tell("t", "home", 1);
        subject.until("t", "home:1").await;
        assert_eq!(subject.history("t"), ["home:1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn cp_4_silence_that_means_trouble_is_told_as_trouble() {
    for protocol in BOTH {
        let net = Net::default();
        let home = net.plane(HOME);
        let server = ServerEntry::insecure(HOME).feature(ServerFeature::ResourceTimerIsTransientError);
        let builder = Bootstrap::builder(Node::default()).protocol(protocol).server(server);
        let subject = Subject::start(&net, builder, &["t"]);
        tokio::time::sleep(29 * SECOND).await;
        assert_eq!(subject.ports("t"), "nothing");
        tokio::time::sleep(2 * SECOND).await;
        let told = subject.ports("t");
        assert!(
            told.contains("nothing was heard of the control plane in 30 s") && !told.contains("exist"),
            "{told}"
        );
        let report = subject.client.status().report();
        let row = report.resource(ResourceKind::Listener, "t").unwrap();
        assert!(row.absent.is_none() && row.unavailable.is_some());
        home.tell("t", "home", 1);
        subject.until("t", "home:1").await;
    }
}

#[tokio::test(start_paused = true)]
async fn cp_4_a_byte_a_second_is_as_good_as_dead_and_does_no_harm() {
    for protocol in BOTH {
        let net = Net::default();
        let home = net.plane(HOME);
        home.tell("t", "home", 1);
        let subject = Subject::of(&net, protocol, &[HOME], &["t"]);
        subject.until("t", "home:1").await;
        home.go(Way::Slow);
        home.cluster("home", 2);
        // A ping is not answered in time at this pace; the connection is given up, and so is the next.
        tokio::time::sleep(600 * SECOND).await;
        assert_eq!(subject.ports("t"), "home:1");
        let dials = home.log().dials.len();
        assert!((4..60).contains(&dials), "{protocol:?}: {dials}");
        home.go(Way::Open);
        subject.until("t", "home:2").await;
        assert_eq!(subject.history("t"), ["home:1", "home:2"]);
    }
}

#[tokio::test(start_paused = true)]
async fn cp_8_what_is_deleted_is_shown_and_kept_or_dropped_as_the_bootstrap_says() {
    for protocol in BOTH {
        for drops in [false, true] {
            let net = Net::default();
            let home = net.plane(HOME);
            home.tell("t", "home", 1);
            home.tell("u", "other", 2);
            let server = ServerEntry::insecure(HOME);
            let server = match drops {
                true => server.feature(ServerFeature::FailOnDataErrors),
                false => server.feature(ServerFeature::IgnoreResourceDeletion),
            };
            let builder = Bootstrap::builder(Node::default()).protocol(protocol).server(server);
            let subject = Subject::start(&net, builder, &["t", "u"]);
            subject.until("t", "home:1").await;
            subject.until("u", "other:2").await;
            home.delete(ResourceKind::Listener, "t");
            home.delete(ResourceKind::Cluster, "other");
            let both = [(ResourceKind::Listener, "t"), (ResourceKind::Cluster, "other")];
            let are_absent = |report: &crate::client::Report| {
                let mut rows = both.iter().map(|(kind, name)| report.resource(*kind, name));
                rows.all(|row| row.is_some_and(|row| row.absent.is_some()))
            };
            let report = subject.client.status().until(EVER, are_absent).await.unwrap();
            for (kind, name) in both {
                let row = report.resource(kind, name).unwrap();
                assert_eq!(row.accepted.is_none(), drops, "{row:?}");
            }
            let deletions = subject.link.tally().get("xds_resource", "deleted");
            assert_eq!(deletions, if drops { 0 } else { 2 });
            let now = [subject.ports("t"), subject.ports("u")];
            match drops {
                true => assert!(now.iter().all(|one| one.contains("was deleted")), "{now:?}"),
                false => assert_eq!(now, ["home:1", "other:2"]),
            }
            home.tell("t", "home", 11);
            home.tell("u", "other", 22);
            subject.until("t", "home:11").await;
            subject.until("u", "other:22").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn cp_8_a_cluster_without_endpoints_is_an_answer() {
    for protocol in BOTH {
        let net = Net::default();
        let home = net.plane(HOME);
        home.tell("t", "home", 1);
        let subject = Subject::of(&net, protocol, &[HOME], &["t"]);
        subject.until("t", "home:1").await;
        home.set(ResourceKind::Endpoints, "home", endpoints("home", &[]));
        // The data plane fails calls to it at once.
        subject.until("t", "home:").await;
        let report = subject.client.status().report();
        let row = report.resource(ResourceKind::Endpoints, "home").unwrap();
        assert!(row.accepted.is_some() && row.absent.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn cp_9_no_status_of_a_control_plane_becomes_a_status_of_calls() {
    for code in [
        Code::Ok,
        Code::Cancelled,
        Code::InvalidArgument,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::DataLoss,
        Code::Unauthenticated,
    ] {
        for protocol in BOTH {
            let net = Net::default();
            let home = net.plane(HOME);
            home.tell("t", "home", 1);
            home.refuse(Some(Status::new(code, "go away")));
            let subject = Subject::of(&net, protocol, &[HOME], &["t"]);
            tokio::time::sleep(20 * SECOND).await;
            // Of this kind calls make UNAVAILABLE, whatever the text says.
            let reason = subject.link.waiting_reason().unwrap();
            assert_eq!(reason.kind(), ReasonKind::Waiting);
            assert!(reason.to_string().starts_with("stream to home:1: "), "{reason}");
            assert_eq!(subject.ports("t"), "nothing", "{code:?}");
            let report = subject.client.status().report();
            assert!(report.connection.is_failing && report.connection.failures == 1);
            home.refuse(None);
            subject.until("t", "home:1").await;
            assert!(!subject.client.status().report().connection.is_failing);
        }
    }
}
