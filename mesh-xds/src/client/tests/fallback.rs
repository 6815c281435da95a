//! Several control planes for one authority (gRFC A71), named after grpc-go's tests where there is one.

use std::time::Duration;

use super::plane::{BOTH, EVER, Net, Plane, Subject, Way, settle};
use super::*;
use crate::bootstrap::{Bootstrap, Profile, Protocol, ServerEntry, ServerFeature};
use crate::client::CacheState;
use crate::node::Node;
use crate::wire::bytes;

const FIRST: &str = "first:1";
const SECOND: &str = "second:1";
const THIRD: &str = "third:1";

/// Two planes that tell the same target differently.
fn two(net: &Net) -> (Arc<Plane>, Arc<Plane>) {
    let (first, second) = (net.plane(FIRST), net.plane(SECOND));
    first.tell("t", "one", 1);
    second.tell("t", "two", 2);
    (first, second)
}

#[tokio::test(start_paused = true)]
async fn cp_10_on_startup_the_second_serves_until_the_first_is_there() {
    for protocol in BOTH {
        let net = Net::default();
        let (first, second) = two(&net);
        first.go(Way::Down);
        let subject = Subject::of(&net, protocol, &[FIRST, SECOND], &["t"]);
        subject.until("t", "two:2").await;
        let report = subject.client.status().report();
        assert_eq!(report.connection.server, SECOND);
        let in_use: Vec<bool> = report.connections.iter().map(|one| one.in_use).collect();
        assert_eq!((in_use, report.connections[0].failures), (vec![false, true], 1));
        assert_eq!(subject.link.waiting_reason(), None, "nothing is wrong for a caller");
        // The first goes on being tried, and its word counts as soon as it is whole.
        first.go(Way::Open);
        subject.until("t", "one:1").await;
        settle().await;
        assert_eq!((first.log().open, second.log().open), (1, 0), "the second is let go of");
        assert_eq!(subject.history("t"), ["two:2", "one:1"]);
        assert_eq!(subject.client.status().report().connection.server, FIRST);
    }
}

#[tokio::test(start_paused = true)]
async fn cp_10_mid_startup_the_second_tells_everything_and_nothing_is_mixed() {
    for protocol in BOTH {
        let net = Net::default();
        let (first, second) = two(&net);
        first.delete(ResourceKind::Cluster, "one");
        first.delete(ResourceKind::Endpoints, "one");
        second.delete(ResourceKind::Endpoints, "two");
        let subject = Subject::of(&net, protocol, &[FIRST, SECOND], &["t"]);
        settle().await;
        assert_eq!(second.log().dials.len(), 0, "the first answers");
        first.go(Way::Down);
        // The first is tried again before the second is asked: its stream had answered.
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(second.log().open, 1);
        assert_eq!(subject.ports("t"), "nothing", "half of each is no configuration");
        second.cluster("two", 2);
        subject.until("t", "two:2").await;
        assert_eq!(subject.history("t"), ["two:2"]);
    }
}

#[tokio::test(start_paused = true)]
async fn cp_10_mid_update_the_last_whole_configuration_serves_until_the_second_is_whole() {
    for protocol in BOTH {
        let net = Net::default();
        let (first, second) = two(&net);
        let subject = Subject::of(&net, protocol, &[FIRST, SECOND], &["t"]);
        subject.until("t", "one:1").await;
        // An update that refers to a cluster which never comes.
        first.set(ResourceKind::Route, "t", routes("t", "new"));
        settle().await;
        assert!(first.log().asked.contains(&(ResourceKind::Cluster, "new".into())));
        first.go(Way::Down);
        subject.until("t", "two:2").await;
        assert_eq!(subject.history("t"), ["one:1", "two:2"]);
        assert!(second.log().claims.is_empty(), "{:?}", second.log().claims);
    }
}

#[tokio::test(start_paused = true)]
async fn cp_10_an_outage_that_costs_nothing_is_no_reason_to_fall_back() {
    for protocol in BOTH {
        let net = Net::default();
        let (first, second) = two(&net);
        let mut subject = Subject::of(&net, protocol, &[FIRST, SECOND], &["t"]);
        subject.until("t", "one:1").await;
        first.go(Way::Down);
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!((second.log().dials.len(), subject.ports("t")), (0, "one:1".into()));
        // Now something is wanted that is not known.
        second.tell("u", "two", 2);
        subject.want("u");
        subject.until("u", "two:2").await;
        assert_eq!(subject.ports("t"), "two:2", "one plane's word counts for all");
        assert_eq!(subject.history("t"), ["one:1", "two:2"]);
    }
}

/// Of control planes that say the same the next is asked where the bootstrap says so, or a change would not be heard while the first is away.
#[tokio::test(start_paused = true)]
async fn cp_10_of_replicas_the_next_is_asked_although_nothing_is_lacking() {
    for protocol in BOTH {
        let net = Net::default();
        let (first, second) = (net.plane(FIRST), net.plane(SECOND));
        for plane in [&first, &second] {
            plane.tell("t", "one", 1);
        }
        let builder = Bootstrap::builder(Node::default()).protocol(protocol);
        let builder = builder.insecure(FIRST).insecure(SECOND).fallback_on_reachability_only();
        let subject = Subject::start(&net, builder, &["t"]);
        subject.until("t", "one:1").await;
        assert_eq!(second.log().dials.len(), 0, "the first answers");
        first.go(Way::Down);
        second.tell("t", "two", 2);
        subject.until("t", "two:2").await;
        // And back, to what the first says now.
        first.tell("t", "three", 3);
        first.go(Way::Open);
        subject.until("t", "three:3").await;
        settle().await;
        assert_eq!((first.log().open, second.log().open), (1, 0), "the second is let go of");
        assert_eq!(subject.history("t"), ["one:1", "two:2", "three:3"]);
    }
}

#[tokio::test(start_paused = true)]
async fn cp_10_of_three_the_best_that_answers_is_used_and_promoted_step_by_step() {
    for protocol in BOTH {
        let net = Net::default();
        let (first, second) = two(&net);
        let third = net.plane(THIRD);
        third.tell("t", "three", 3);
        first.go(Way::Down);
        second.go(Way::Down);
        let subject = Subject::of(&net, protocol, &[FIRST, SECOND, THIRD], &["t"]);
        subject.until("t", "three:3").await;
        second.go(Way::Open);
        subject.until("t", "two:2").await;
        settle().await;
        assert_eq!((third.log().open, second.log().open), (0, 1));
        first.go(Way::Open);
        subject.until("t", "one:1").await;
        settle().await;
        assert_eq!((third.log().open, second.log().open, first.log().open), (0, 0, 1));
        assert_eq!(subject.history("t"), ["three:3", "two:2", "one:1"]);
        // And down again, both steps at once.
        let mut subject = subject;
        third.tell("u", "three", 3);
        first.go(Way::Down);
        second.go(Way::Down);
        subject.want("u");
        subject.until("u", "three:3").await;
        assert_eq!(subject.ports("t"), "three:3");
    }
}

#[tokio::test(start_paused = true)]
async fn cp_10_a_first_that_dies_before_it_is_whole_changes_nothing() {
    for protocol in BOTH {
        let net = Net::default();
        let (first, second) = two(&net);
        first.go(Way::Down);
        first.delete(ResourceKind::Endpoints, "one");
        let subject = Subject::of(&net, protocol, &[FIRST, SECOND], &["t"]);
        subject.until("t", "two:2").await;
        first.go(Way::Open);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!((first.log().open, second.log().open), (1, 1));
        // What the second says meanwhile is heard.
        second.cluster("two", 22);
        subject.until("t", "two:22").await;
        first.go(Way::Down);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(subject.history("t"), ["two:2", "two:22"]);
        first.set(ResourceKind::Endpoints, "one", endpoints("one", &[1]));
        first.go(Way::Open);
        subject.until("t", "one:1").await;
        assert_eq!(subject.history("t"), ["two:2", "two:22", "one:1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn cp_10_what_the_next_does_not_have_keeps_its_last_value_unless_told_otherwise() {
    for (feature, expected) in [(None, "one:1"), (Some(ServerFeature::FailOnDataErrors), "error")] {
        let net = Net::default();
        let (first, second) = two(&net);
        let entry = |address| {
            let entry = ServerEntry::insecure(address);
            match feature {
                Some(feature) => entry.feature(feature),
                None => entry,
            }
        };
        let builder = Bootstrap::builder(Node::default())
            .server(entry(FIRST))
            .server(entry(SECOND));
        let mut subject = Subject::start(&net, builder, &["t"]);
        subject.until("t", "one:1").await;
        second.delete(ResourceKind::Listener, "t");
        second.delete(ResourceKind::Route, "t");
        second.tell("u", "two", 2);
        first.go(Way::Down);
        subject.want("u");
        // The switch waits for the timer of what the second does not have.
        subject.until("u", "two:2").await;
        let status = subject.client.status();
        let absent = |report: &crate::client::Report| {
            let row = report.resource(ResourceKind::Listener, "t");
            row.is_some_and(|row| row.absent.is_some())
        };
        status.until(EVER, absent).await.unwrap();
        assert!(subject.ports("t").starts_with(expected), "{}", subject.ports("t"));
    }
}

#[tokio::test(start_paused = true)]
async fn cp_10_a_caller_is_told_of_trouble_only_when_all_have_it() {
    let net = Net::default();
    let (first, second) = two(&net);
    first.go(Way::Down);
    second.go(Way::Black);
    let subject = Subject::of(&net, Protocol::Sotw, &[FIRST, SECOND], &["t"]);
    settle().await;
    let reason = || subject.link.waiting_reason().unwrap().to_string();
    assert_eq!(reason(), format!("connecting to {SECOND}"));
    second.go(Way::Down);
    tokio::time::sleep(Duration::from_secs(45)).await;
    let both = reason();
    assert!(both.contains(FIRST) && both.contains(SECOND), "{both}");
    assert_eq!(subject.ports("t"), "nothing");
}

/// A kernel takes connections for a process that hangs: that is no control plane, and the next one is asked.
#[tokio::test(start_paused = true)]
async fn cp_10_one_that_takes_connections_and_never_says_a_word_is_fallen_back_from() {
    for protocol in BOTH {
        let net = Net::default();
        let (home, away) = (net.plane("home:1"), net.plane("away:1"));
        home.go(Way::Black);
        away.tell("t", "away", 1);
        let begun = tokio::time::Instant::now();
        let subject = Subject::of(&net, protocol, &["home:1", "away:1"], &["t"]);
        subject.until("t", "away:1").await;
        assert!(begun.elapsed() <= Duration::from_secs(11), "{:?}", begun.elapsed());
        assert_eq!(subject.history("t"), ["away:1"], "nothing was given up on");
    }
}

/// One that takes streams and says nothing on them has failed when a resource would count as missing: nothing is said by it, least of all
/// that something does not exist, and the next one is asked then and not when its connection is found dead.
#[tokio::test(start_paused = true)]
async fn cp_10_one_that_takes_streams_and_says_nothing_is_fallen_back_from_at_the_resource_timer() {
    for protocol in BOTH {
        let net = Net::default();
        let (_, away) = (net.plane("home:1"), net.plane("away:1"));
        away.tell("t", "away", 1);
        let begun = tokio::time::Instant::now();
        let subject = Subject::of(&net, protocol, &["home:1", "away:1"], &["t"]);
        subject.until("t", "away:1").await;
        let took = begun.elapsed();
        assert!((15..=16).contains(&took.as_secs()), "{took:?}");
        assert_eq!(subject.history("t"), ["away:1"], "nothing was given up on");
        let report = subject.client.status().report();
        let home = &report.connections[0];
        assert!(home.is_failing && home.failures == 1, "{home:?}");
        assert!(home.last_error.as_ref().unwrap().contains("timed out"), "{home:?}");
        assert_eq!(subject.link.tally().get("xds_stream", "mute"), 1);
    }
}

/// A sidecar asks for everything, and so for nothing that could be missing: a word is waited for as long.
#[tokio::test(start_paused = true)]
async fn cp_10_one_that_says_nothing_to_a_sidecar_is_fallen_back_from_as_soon() {
    for protocol in BOTH {
        let net = Net::default();
        let (_, away) = (net.plane("home:1"), net.plane("away:1"));
        let listener = bytes::outbound_listener("0.0.0.0_80", 80, "t:80", None);
        away.set(
            ResourceKind::Listener,
            "0.0.0.0_80",
            raw(ResourceKind::Listener, listener),
        );
        away.set(ResourceKind::Route, "t:80", routes("t:80", "away"));
        away.cluster("away", 1);
        let begun = tokio::time::Instant::now();
        let builder = Bootstrap::builder(Node::default())
            .protocol(protocol)
            .profile(Profile::Envoy);
        let subject = Subject::start(&net, builder.insecure("home:1").insecure("away:1"), &["t:80"]);
        subject.until("t:80", "away:1").await;
        let took = begun.elapsed();
        assert!((15..=16).contains(&took.as_secs()), "{took:?}");
    }
}

/// Where the next says nothing either, a caller is told what is known: that they time out, and not that something does not exist.
#[tokio::test(start_paused = true)]
async fn cp_10_silence_of_all_is_trouble_of_all_and_a_word_of_any_heals() {
    for protocol in BOTH {
        let net = Net::default();
        let (_, away) = (net.plane("home:1"), net.plane("away:1"));
        let subject = Subject::of(&net, protocol, &["home:1", "away:1"], &["t"]);
        tokio::time::sleep(Duration::from_secs(29)).await;
        assert_eq!(subject.ports("t"), "nothing", "the other may help yet");
        tokio::time::sleep(Duration::from_secs(2)).await;
        let told = subject.ports("t");
        assert!(told.contains("timed out") && !told.contains("exist"), "{told}");
        let report = subject.client.status().report();
        assert_eq!(
            report.resource(ResourceKind::Listener, "t").unwrap().state,
            CacheState::Timeout
        );
        away.tell("t", "away", 1);
        subject.until("t", "away:1").await;
    }
}

/// Where there is no other, what it did not say is waited for.
#[tokio::test(start_paused = true)]
async fn cp_4_what_one_that_never_said_a_word_did_not_send_may_be_there() {
    for protocol in BOTH {
        let net = Net::default();
        let home = net.plane("home:1");
        home.tell("t", "home", 1);
        home.go(Way::Black);
        let subject = Subject::of(&net, protocol, &["home:1"], &["t"]);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(subject.ports("t"), "nothing");
        let reason = subject.link.waiting_reason().unwrap().to_string();
        assert!(reason.contains("no connection within 10 s"), "{reason}");
        home.go(Way::Open);
        subject.until("t", "home:1").await;
        assert_eq!(subject.history("t"), ["home:1"]);
    }
}
