//! Machines that are out of order, written down.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mesh_xds::{Bootstrap, Node};
use rustls::time_provider::DefaultTimeProvider;

use super::*;
use crate::{ControlPlane, Enrolment};

fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

fn stat(ticks: [u64; 10], cores: usize) -> Result<String, String> {
    let line = ticks.map(|ticks| ticks.to_string()).join(" ");
    let each: String = (0..cores).map(|core| format!("cpu{core} {line}\n")).collect();
    Ok(format!("cpu  {line}\n{each}intr 1 2 3\n"))
}

fn check(check: &Check, verdict: Verdict, words: &str) {
    assert!(check.verdict == verdict && check.message.contains(words), "{check:?}");
}

#[test]
fn above_two_percent_latency_is_the_hosts_fault() {
    let before = stat([100, 0, 100, 800, 0, 0, 0, 50, 9, 9], 2);
    let sampled = |steal: u64, idle: u64| {
        cpu_steal(
            Some(&before),
            &stat([100, 0, 100, 800 + idle, 0, 0, 0, 50 + steal, 99, 99], 2),
        )
    };
    check(&sampled(0, 1000), Verdict::Ok, "0.0 % while");
    check(&sampled(20, 980), Verdict::Ok, "2.0 %");
    check(
        &sampled(21, 979),
        Verdict::Warning,
        "2.1 % while it was looked at: above 2 % latency is the host's fault",
    );
    check(&sampled(0, 0), Verdict::Info, "no time passed");
    check(
        &cpu_steal(None, &before),
        Verdict::Warning,
        "4.7 % since the machine was started",
    );
    check(&cpu_steal(None, &text("cpu  1 2 3\n")), Verdict::Info, "no line");
    check(
        &cpu_steal(None, &Err("gone".into())),
        Verdict::Info,
        "cannot be told: gone",
    );
    // Counters that went back, as on some hosts: not a large share.
    check(
        &cpu_steal(Some(&before), &stat([0; 10], 2)),
        Verdict::Info,
        "no time passed",
    );
}

#[test]
fn the_rest_of_the_machine() {
    check(&cores(&stat([1; 10], 1)), Verdict::Warning, "1:");
    check(&cores(&stat([1; 10], 16)), Verdict::Ok, "16");
    check(&cores(&text("")), Verdict::Info, "no processor");
    check(&kernel(&text("6.8.0-45-generic\n")), Verdict::Ok, "6.8.0-45-generic");
    check(&kernel(&text("3.10.0-1160.el7")), Verdict::Error, "older than 3.17");
    check(&kernel(&text("plan9")), Verdict::Info, "no version");
    let limits = |soft: &str, hard: &str| {
        text(&format!(
            "Limit  Soft  Hard\nMax open files            {soft}    {hard}    files\n"
        ))
    };
    check(
        &open_files(&limits("1024", "1048576")),
        Verdict::Warning,
        "1024: each connection takes one",
    );
    check(&open_files(&limits("65536", "65536")), Verdict::Ok, "65536");
    check(&open_files(&limits("unlimited", "unlimited")), Verdict::Ok, "unlimited");
    check(&open_files(&text("")), Verdict::Info, "no line");
    check(&entropy(&text("256\n")), Verdict::Ok, "256 bits");
    check(&entropy(&text("12")), Verdict::Warning, "12 bits");
}

#[test]
fn a_port_that_is_taken_is_told_of() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    check(
        &port(address, &try_listen(address)),
        Verdict::Error,
        "cannot be listened on",
    );
    drop(taken);
    check(&port(address, &try_listen(address)), Verdict::Ok, "is free");
}

#[test]
fn clocks_are_compared_with_the_control_planes() {
    let there = "Mon, 30 Nov 2026 18:17:48 GMT";
    let now = 1_796_062_668;
    assert_eq!(clock::seconds(there), Some(now));
    assert_eq!(clock::seconds("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
    assert_eq!(clock::seconds("Thu, 29 Feb 2024 12:00:00 GMT"), Some(1_709_208_000));
    let judged = |now, asked| clock(Some(there), now, Duration::from_secs(asked));
    check(&judged(now + 1, 0), Verdict::Ok, "the same");
    check(&judged(now + 4, 1), Verdict::Ok, "2 s ahead of");
    check(&judged(now - 60, 0), Verdict::Warning, "59 s behind");
    check(&judged(now + 3600, 0), Verdict::Error, "3599 s ahead of");
    check(&clock(None, now, Duration::ZERO), Verdict::Info, "did not say");
    check(&clock(Some("yesterday"), now, Duration::ZERO), Verdict::Info, "no date");
}

#[cfg(unix)]
#[test]
fn a_state_directory_is_its_owners_alone() {
    let of = |path: &str, mode, owner| Entry {
        path: path.into(),
        mode,
        owner,
    };
    let judged = |entries| state_directory(Path::new("s"), &Ok(entries));
    check(&judged(None)[0], Verdict::Ok, "not there yet");
    check(
        &judged(Some(vec![of("s", 0o700, 1), of("s/root.pem", 0o600, 1)]))[0],
        Verdict::Ok,
        "its owner's alone",
    );
    let bad = judged(Some(vec![
        of("s", 0o755, 1),
        of("s/root.pem", 0o640, 1),
        of("s/a", 0o600, 2),
    ]));
    assert_eq!(bad.len(), 3, "{bad:?}");
    check(&bad[1], Verdict::Error, "s/root.pem has mode 0640");
    check(&bad[2], Verdict::Error, "s/a is not of whom");
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(look(&folder.path().join("none")).unwrap(), None);
    assert_eq!(look(folder.path()).unwrap().unwrap().len(), 1);
}

/// A control plane that runs: it is who it says, its clock is ours, and one that others vouch for is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_is_met_as_a_workload_would_meet_it() {
    let folder = tempfile::tempdir().unwrap();
    let builder = ControlPlane::builder(folder.path()).plaintext(([127, 0, 0, 1], 0).into());
    let control_plane = builder.start().await.unwrap();
    let bootstrap = control_plane.bootstrap("default", "payment").unwrap();
    let time = || Arc::new(DefaultTimeProvider);
    let met = meet(bootstrap.server(), time()).await;
    check(&peer("it", &met), Verdict::Ok, "is whom the bootstrap expects");
    let met = met.unwrap();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert_eq!(
        clock(met.date.as_deref(), now, met.asked).verdict,
        Verdict::Ok,
        "{met:?}"
    );
    let der = met.certificate.unwrap();
    check(&certificate("its certificate", &der, now), Verdict::Ok, "is good for");
    check(
        &certificate("its certificate", &der, now + 400 * 24 * 3600),
        Verdict::Error,
        "ended",
    );
    check(
        &certificate("its certificate", &der, now - 24 * 3600),
        Verdict::Error,
        "begins in 23 h: a clock is wrong",
    );

    let elsewhere = tempfile::tempdir().unwrap();
    let other = Enrolment::open(elsewhere.path(), None, None, time()).unwrap();
    let uri = control_plane.address().to_string();
    let strange = Bootstrap::builder(Node::default())
        .tls(&uri, &other.root_pem())
        .build()
        .unwrap();
    check(
        &peer("it", &meet(strange.server(), time()).await),
        Verdict::Error,
        "TLS failed",
    );
    let plaintext = control_plane.plaintext_address().unwrap().to_string();
    let plain = Bootstrap::builder(Node::default())
        .insecure(&plaintext)
        .build()
        .unwrap();
    check(
        &peer("it", &meet(plain.server(), time()).await),
        Verdict::Warning,
        "in the clear",
    );
    control_plane.shutdown().await;
    check(
        &peer("it", &meet(plain.server(), time()).await),
        Verdict::Error,
        "cannot be reached",
    );
}
