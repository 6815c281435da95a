//! How long an ejection lasts, and what survives.

use super::*;

/// Ejects host 0; for how long.
fn eject(cluster: &mut Cluster) -> Duration {
    loop {
        for change in cluster.see(0, Observation::ServerError) {
            if let Event::Ejected(lasts) = change.event {
                return lasts;
            }
        }
    }
}

#[test]
fn an_ejection_lasts_longer_each_time_up_to_the_maximum_and_shorter_after_good_intervals() {
    let mut cluster = Cluster::new(2, envoy());
    let seconds = Duration::from_secs;
    for times in 1..=12 {
        let lasts = eject(&mut cluster);
        assert_eq!(lasts, seconds(30 * times).min(seconds(300)), "time {times}");
        // Not a moment before, and with the first interval after.
        assert_eq!(cluster.after(lasts - Duration::from_millis(1)), []);
        let [change] = cluster.after(Duration::from_millis(1))[..] else {
            panic!("it returns")
        };
        assert_eq!((change.event, change.cause), (Event::Returned, Cause::Consecutive5xx));
        assert!(!cluster.monitor(0).is_ejected());
    }
    // Ten times bring it to the maximum; four intervals in service take four of them off.
    for _ in 0..4 {
        assert_eq!(cluster.after(INTERVAL), []);
    }
    assert_eq!(eject(&mut cluster), seconds(30 * 7));
}

#[test]
fn jitter_is_added_to_the_maximum_too() {
    let mut config = envoy();
    config.max_ejection_time_jitter = Duration::from_secs(10);
    config.max_ejection_time = Duration::from_secs(30);
    let entropy = Entropy::seeded(5);
    let mut all: Vec<Duration> = Vec::new();
    for _ in 0..200 {
        let mut cluster = Cluster::new(2, config.clone());
        cluster.draw = entropy.draw();
        all.push(eject(&mut cluster));
    }
    let (least, most) = (all.iter().min().unwrap(), all.iter().max().unwrap());
    assert!(
        *least >= Duration::from_secs(30) && *most <= Duration::from_secs(40),
        "{least:?} {most:?}"
    );
    assert!(*most - *least > Duration::from_secs(8), "{least:?} {most:?}");
}

#[test]
fn what_is_held_against_a_host_survives_its_removal_for_a_while() {
    let mut cluster = Cluster::new(3, envoy());
    let monitor = Arc::clone(cluster.monitor(0));
    eject(&mut cluster);
    assert_eq!(cluster.has([1, 2]), []);
    assert_eq!(cluster.detector.ejected(), 0);
    // Another monitor, as a host has one that was made anew, is told what is held against its address.
    let fresh = Arc::new(Monitor::default());
    let hosts = [(address(0), Some(Arc::clone(&fresh))), (address(1), None)];
    assert_eq!(
        cluster.detector.reconcile(Some(&cluster.config), hosts, cluster.now),
        []
    );
    assert!(fresh.is_ejected() && Arc::ptr_eq(cluster.monitor(0), &fresh));
    assert_eq!(cluster.out(), [address(0)]);
    // The old one belongs to calls that end: what they say of the host is said of nobody.
    assert!(!monitor.observe(Observation::Success, &cluster.config));
    assert_eq!(cluster.after(Duration::from_secs(30)).len(), 1);
    // How often it was ejected is remembered as well; and both are forgotten in the end.
    cluster.has([1]);
    cluster.has([0, 1]);
    assert_eq!(eject(&mut cluster), Duration::from_secs(60));
    cluster.has([1]);
    cluster.after(Duration::from_secs(301));
    cluster.has([0, 1]);
    assert_eq!(cluster.out(), []);
    assert_eq!(eject(&mut cluster), Duration::from_secs(30));
}

#[test]
fn the_gone_are_few_and_those_without_a_record_are_none() {
    let mut cluster = Cluster::new(5_000, envoy());
    for n in 0..3_000 {
        for _ in 0..5 {
            cluster.see(n, Observation::ServerError);
        }
    }
    assert_eq!(cluster.detector.ejected(), 3_000);
    cluster.has([]);
    let known = (0..5_000)
        .filter(|n| cluster.detector.monitor(address(*n)).is_some())
        .count();
    assert_eq!(known, 1_024);
}

#[test]
fn without_a_configuration_everybody_is_pardoned() {
    let mut cluster = Cluster::new(2, envoy());
    let monitor = Arc::clone(cluster.monitor(0));
    eject(&mut cluster);
    let changes = cluster.detector.reconcile(None, [], cluster.now);
    assert_eq!(
        changes.iter().map(|change| change.event).collect::<Vec<_>>(),
        [Event::Returned]
    );
    assert!(!monitor.is_ejected() && cluster.detector.is_empty());
}

#[test]
fn who_returns_to_a_cluster_that_shrank_is_let_in_early() {
    let mut cluster = Cluster::new(10, envoy());
    cluster.config.max_ejection_percent = percent(20);
    eject(&mut cluster);
    for _ in 0..5 {
        cluster.see(1, Observation::ServerError);
    }
    assert_eq!(cluster.out(), [address(0), address(1)]);
    // Two of five are more than a fifth: the one whose time is nearest returns.
    let [change] = cluster.has(0..5)[..] else {
        panic!("one returns")
    };
    assert_eq!((change.event, cluster.out().len()), (Event::Returned, 1));
}

#[test]
fn a_suspicion_that_nobody_heard_is_found_at_the_next_interval() {
    let mut cluster = Cluster::new(2, envoy());
    for place in 1..=6 {
        let told = cluster.monitor(0).observe(Observation::ServerError, &cluster.config);
        // It is said again with each further failure.
        assert_eq!(told, place >= 5);
    }
    assert_eq!(causes(&cluster.after(INTERVAL)), [(address(0), Cause::Consecutive5xx)]);
}
