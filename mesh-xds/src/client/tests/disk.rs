//! CP-2 with a copy on disk: what a process does that starts without a control plane, and what it does when there is one.
//!
//! Real files, the production client, planes in memory, virtual time.

use std::path::Path;
use std::time::Duration;

use mesh_core::testing::SettableClock;
use tempfile::TempDir;

use super::plane::{BOTH, EVER, Net, Plane, Subject, Way, settle};
use super::*;
use crate::bootstrap::{Bootstrap, BootstrapBuilder, Profile, Protocol, ServerEntry, ServerFeature};
use crate::client::disk::{Entry, Good, Kept};
use crate::client::{CacheState, Report};
use crate::node::Node;
use crate::wire::bytes;

const HOME: &str = "home:1";
const SPARE: &str = "spare:1";
const SECOND: Duration = Duration::from_secs(1);

struct Site {
    folder: TempDir,
    net: Net,
    home: Arc<Plane>,
}

impl Site {
    fn new() -> Self {
        let net = Net::default();
        let home = net.plane(HOME);
        let folder = tempfile::tempdir().unwrap();
        Self { folder, net, home }
    }

    fn bootstrap(&self, protocol: Protocol) -> BootstrapBuilder {
        let directory = self.folder.path().to_str().unwrap();
        let builder = Bootstrap::builder(Node::default()).protocol(protocol);
        builder.cache_directory(directory).insecure(HOME)
    }

    fn start(&self, protocol: Protocol, targets: &[&str]) -> Subject {
        Subject::start(&self.net, self.bootstrap(protocol), targets)
    }

    /// A process that heard everything, wrote it, and ended; there is no control plane after it.
    async fn hear_and_stop(&self, bootstrap: BootstrapBuilder, targets: &[(&str, &str)]) {
        self.home.go(Way::Open);
        let names: Vec<&str> = targets.iter().map(|(target, _)| *target).collect();
        let subject = Subject::start(&self.net, bootstrap, &names);
        for (target, ports) in targets {
            subject.until(target, ports).await;
        }
        kept(&subject).await;
        drop(subject);
        self.home.go(Way::Down);
        settle().await;
    }

    fn file(&self) -> std::path::PathBuf {
        let mut files = std::fs::read_dir(self.folder.path()).unwrap();
        let path = files.next().unwrap().unwrap().path();
        assert!(files.next().is_none());
        path
    }
}

fn is_serving(report: &Report) -> bool {
    report.disk.as_ref().is_some_and(|disk| disk.serving.is_some())
}

/// Waits until everything that was told is on disk.
async fn kept(subject: &Subject) -> Arc<Report> {
    let is_kept = |report: &Report| {
        let disk = report.disk.as_ref().unwrap();
        disk.is_current && disk.written.is_some() && !is_serving(report)
    };
    subject.client.status().until(EVER, is_kept).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn cp_2_a_process_that_starts_without_a_control_plane_serves_from_disk() {
    for protocol in BOTH {
        let site = Site::new();
        site.home.tell("t", "home", 1);
        site.home.tell("u", "other", 5);
        let both = [("t", "home:1"), ("u", "other:5")];
        site.hear_and_stop(site.bootstrap(protocol), &both).await;
        let first_written = std::fs::read(site.file()).unwrap();
        let asked_before = site.home.log().streams;

        let subject = site.start(protocol, &["t", "u"]);
        subject.until("t", "home:1").await;
        subject.until("u", "other:5").await;
        let fails = |report: &Report| report.connection.is_failing;
        let report = subject.client.status().until(EVER, fails).await.unwrap();
        let disk = report.disk.as_ref().unwrap();
        let serving = disk.serving.unwrap();
        assert_eq!(disk.path.as_ref(), site.file());
        assert!(serving.age(serving.since.unwrap()).unwrap() < 60 * SECOND);
        assert_eq!(report.connection.server, HOME);
        assert!(!report.connection.in_use, "its word does not count yet");
        let row = report.resource(ResourceKind::Cluster, "home").unwrap();
        assert!(row.is_from_disk && row.accepted.is_some() && row.updated.is_some());
        assert_eq!((row.state, &*row.received), (CacheState::Requested, ""));
        assert_eq!(subject.link.tally().get("xds_disk", "served"), 1);
        tokio::time::sleep(3600 * SECOND).await;
        assert_eq!(subject.history("t"), ["home:1"], "and for as long as it takes");
        assert_eq!(
            std::fs::read(site.file()).unwrap(),
            first_written,
            "there is no news to write"
        );

        // It is back, and the world is another one: one target goes elsewhere, one is no more.
        site.home.tell("t", "elsewhere", 2);
        for kind in [ResourceKind::Listener, ResourceKind::Route] {
            site.home.delete(kind, "u");
        }
        site.home.delete(ResourceKind::Cluster, "home");
        site.home.delete(ResourceKind::Endpoints, "home");
        site.home.go(Way::Open);
        subject.until("t", "elsewhere:2").await;
        assert_eq!(
            subject.history("t"),
            ["home:1", "elsewhere:2"],
            "no tree is made of both"
        );
        // The one that is no more was deleted: its last value is kept, and told, and what only it needed stays with it.
        let report = kept(&subject).await;
        assert_eq!(subject.history("u"), ["other:5"]);
        let of_copy = report.resources.values().filter(|row| row.is_from_disk);
        let mut of_copy: Vec<(ResourceKind, &str, CacheState)> =
            of_copy.map(|row| (row.kind, &*row.name, row.state)).collect();
        of_copy.sort_unstable();
        let kinds = [ResourceKind::Listener, ResourceKind::Route];
        assert_eq!(of_copy, kinds.map(|kind| (kind, "u", CacheState::DoesNotExist)));
        let row = report.resource(ResourceKind::Listener, "u").unwrap();
        assert!(
            row.absent.as_ref().unwrap().contains("its last value is kept"),
            "{row:?}"
        );
        assert_eq!(subject.link.tally().get("xds_disk", "kept"), 2);
        assert!(report.connection.in_use && report.resource(ResourceKind::Cluster, "home").is_none());
        let log = site.home.log();
        assert!(
            log.streams > asked_before && log.claims.is_empty() && log.nacks.is_empty(),
            "{:?}",
            log.claims
        );
        drop(subject);

        // What is on disk was replaced too.
        site.home.go(Way::Down);
        let third = site.start(protocol, &["t", "u"]);
        third.until("t", "elsewhere:2").await;
        settle().await;
        assert_eq!(third.ports("u"), "nothing", "it waits for the control plane");
    }
}

/// What a process serves that heard it before is served by one that has it from disk: it was missed as much.
#[tokio::test(start_paused = true)]
async fn cp_2_a_control_plane_that_comes_back_empty_ends_nothing_that_the_copy_serves() {
    for protocol in BOTH {
        for (feature, expected) in [(None, "home:1"), (Some(ServerFeature::FailOnDataErrors), "error")] {
            let site = Site::new();
            let bootstrap = || {
                let entry = ServerEntry::insecure(HOME);
                let entry = match feature {
                    Some(feature) => entry.feature(feature),
                    None => entry,
                };
                let directory = site.folder.path().to_str().unwrap();
                let builder = Bootstrap::builder(Node::default()).protocol(protocol);
                builder.cache_directory(directory).server(entry)
            };
            site.home.tell("t", "home", 1);
            site.hear_and_stop(bootstrap(), &[("t", "home:1")]).await;
            for kind in [
                ResourceKind::Listener,
                ResourceKind::Route,
                ResourceKind::Cluster,
                ResourceKind::Endpoints,
            ] {
                let name = if matches!(kind, ResourceKind::Listener | ResourceKind::Route) {
                    "t"
                } else {
                    "home"
                };
                site.home.delete(kind, name);
            }
            // It has something, if nothing that this process knows: so it answers.
            site.home.tell("v", "new", 7);
            site.home.go(Way::Open);
            let subject = Subject::start(&site.net, bootstrap(), &["t", "v"]);
            subject.until("v", "new:7").await;
            let is_gone = |report: &Report| {
                let row = report.resource(ResourceKind::Listener, "t");
                !is_serving(report) && row.is_some_and(|row| row.absent.is_some())
            };
            subject.client.status().until(EVER, is_gone).await.unwrap();
            // Whatever is not heard of in time, and whatever the copy held.
            tokio::time::sleep(60 * SECOND).await;
            assert!(
                subject.ports("t").starts_with(expected),
                "{protocol:?} {}",
                subject.ports("t")
            );
            let first = subject.history("t").into_iter().find(|one| one != "nothing");
            assert_eq!(first.as_deref(), Some("home:1"));
            if feature.is_none() {
                assert_eq!(subject.history("t"), ["home:1"], "{protocol:?}");
                assert!(site.home.log().claims.iter().all(|claim| !claim.contains("home")));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn cp_2_a_control_plane_that_is_there_is_heard_first_and_calls_never_wait_for_it() {
    for protocol in BOTH {
        let site = Site::new();
        site.home.tell("t", "home", 1);
        site.hear_and_stop(site.bootstrap(protocol), &[("t", "home:1")]).await;
        site.home.cluster("home", 2);
        site.home.go(Way::Open);
        let start = tokio::time::Instant::now();
        let subject = site.start(protocol, &["t"]);
        subject.until("t", "home:2").await;
        assert!(start.elapsed() < SECOND);
        let history = subject.history("t");
        assert_eq!(history, ["home:1", "home:2"]);
    }
}

/// A sidecar asks for everything, and what there is has to be known as well as what is needed.
#[tokio::test(start_paused = true)]
async fn cp_2_a_sidecar_that_starts_without_a_control_plane_serves_from_disk() {
    for protocol in BOTH {
        let site = Site::new();
        let tell = |port: u16, cluster: &str| {
            let (listener, target) = (format!("0.0.0.0_{port}"), format!("t:{port}"));
            let bytes = bytes::outbound_listener(&listener, port, &target, None);
            site.home
                .set(ResourceKind::Listener, &listener, raw(ResourceKind::Listener, bytes));
            site.home.set(ResourceKind::Route, &target, routes(&target, cluster));
        };
        tell(80, "home");
        tell(81, "home");
        site.home.cluster("home", 1);
        site.home.cluster("idle", 3);
        let bootstrap = || site.bootstrap(protocol).profile(Profile::Envoy);
        site.hear_and_stop(bootstrap(), &[("t:80", "home:1")]).await;
        let subject = Subject::start(&site.net, bootstrap(), &["t:80", "t:82"]);
        subject.until("t:80", "home:1").await;
        // Nothing listens on that port: the list was whole.
        assert!(
            subject.ports("t:82").contains("no listener of port 82"),
            "{}",
            subject.ports("t:82")
        );
        assert!(is_serving(&subject.client.status().report()));
        tell(80, "idle");
        tell(82, "idle");
        site.home.delete(ResourceKind::Listener, "0.0.0.0_81");
        site.home.delete(ResourceKind::Cluster, "home");
        site.home.go(Way::Open);
        subject.until("t:80", "idle:3").await;
        subject.until("t:82", "idle:3").await;
        let report = kept(&subject).await;
        assert!(report.resource(ResourceKind::Listener, "0.0.0.0_81").is_none());
        assert!(report.resource(ResourceKind::Cluster, "home").is_none());
        let history = subject.history("t:80");
        let history: Vec<&String> = history.iter().filter(|one| *one != "nothing").collect();
        assert_eq!(history, ["home:1", "idle:3"]);
    }
}

#[tokio::test(start_paused = true)]
async fn cp_2_a_fallback_that_lives_is_better_than_the_copy() {
    let site = Site::new();
    let spare = site.net.plane(SPARE);
    let bootstrap = || site.bootstrap(Protocol::Delta).insecure(SPARE);
    site.home.tell("t", "home", 1);
    site.hear_and_stop(bootstrap(), &[("t", "home:1")]).await;
    assert_eq!(spare.log().streams, 0);
    spare.tell("t", "spare", 9);
    let subject = Subject::start(&site.net, bootstrap(), &["t"]);
    subject.until("t", "spare:9").await;
    assert_eq!(subject.history("t"), ["home:1", "spare:9"]);
    site.home.go(Way::Open);
    subject.until("t", "home:1").await;
    assert!(!is_serving(&subject.client.status().report()));
}

/// The last good value of a resource that comes back broken is the copy's (invariant 9).
#[tokio::test(start_paused = true)]
async fn cp_2_what_is_refused_leaves_the_copys_value_in_use() {
    for protocol in BOTH {
        let site = Site::new();
        site.home.tell("t", "home", 1);
        site.hear_and_stop(site.bootstrap(protocol), &[("t", "home:1")]).await;
        site.home.set(ResourceKind::Cluster, "home", bad_cluster("home"));
        site.home.set(ResourceKind::Endpoints, "home", endpoints("home", &[2]));
        site.home.go(Way::Open);
        let subject = site.start(protocol, &["t"]);
        subject.until("t", "home:2").await;
        let report = subject.client.status().report();
        let row = report.resource(ResourceKind::Cluster, "home").unwrap();
        assert_eq!((row.state, row.is_from_disk), (CacheState::Nacked, true));
        assert!(!is_serving(&report), "all else is the control plane's");
        // And it heals.
        site.home.set(ResourceKind::Cluster, "home", cluster("home"));
        let is_told = |report: &Report| {
            let row = report.resource(ResourceKind::Cluster, "home").unwrap();
            row.state == CacheState::Acked && !row.is_from_disk
        };
        subject.client.status().until(EVER, is_told).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn cp_2_a_copy_that_cannot_be_used_is_told_of_and_costs_nothing_but_itself() {
    for spoil in [
        |path: &Path| std::fs::write(path, "not one of ours").unwrap(),
        |path: &Path| {
            let bytes = std::fs::read(path).unwrap();
            std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        },
    ] {
        let site = Site::new();
        site.home.tell("t", "home", 1);
        site.hear_and_stop(site.bootstrap(Protocol::Sotw), &[("t", "home:1")])
            .await;
        spoil(&site.file());
        let subject = site.start(Protocol::Sotw, &["t"]);
        let is_refused = |report: &Report| report.disk.as_ref().unwrap().refused.is_some();
        subject.client.status().until(EVER, is_refused).await.unwrap();
        assert_eq!(subject.ports("t"), "nothing");
        assert_eq!(subject.link.tally().get("xds_disk", "unused"), 1);
        site.home.go(Way::Open);
        subject.until("t", "home:1").await;
        kept(&subject).await;
    }
}

/// Another node's file, put in the place of ours.
#[tokio::test(start_paused = true)]
async fn cp_2_nobody_is_served_from_the_copy_of_another_node() {
    let site = Site::new();
    site.home.tell("t", "home", 1);
    site.hear_and_stop(site.bootstrap(Protocol::Sotw), &[("t", "home:1")])
        .await;
    let other = Node {
        id: "other".into(),
        ..Node::default()
    };
    let directory = site.folder.path().to_str().unwrap();
    let bootstrap = Bootstrap::builder(other).cache_directory(directory).insecure(HOME);
    let path = crate::client::disk::of(&bootstrap.clone().build().unwrap()).unwrap();
    std::fs::copy(site.file(), path.path()).unwrap();
    let subject = Subject::start(&site.net, bootstrap, &["t"]);
    let is_refused = |report: &Report| report.disk.as_ref().unwrap().refused.is_some();
    let report = subject.client.status().until(EVER, is_refused).await.unwrap();
    let why = report.disk.as_ref().unwrap().refused.clone().unwrap();
    assert!(why.contains("of another node"), "{why}");
    assert_eq!(subject.ports("t"), "nothing");
}

#[tokio::test(start_paused = true)]
async fn cp_2_a_disk_that_fails_disturbs_nobody_and_is_tried_again() {
    let site = Site::new();
    let blocked = site.folder.path().join("blocked");
    std::fs::write(&blocked, "a file where a directory should be").unwrap();
    let builder = Bootstrap::builder(Node::default()).insecure(HOME);
    let builder = builder.cache_directory(blocked.to_str().unwrap());
    site.home.tell("t", "home", 1);
    let subject = Subject::start(&site.net, builder, &["t"]);
    subject.until("t", "home:1").await;
    let fails = |report: &Report| report.disk.as_ref().unwrap().failure.is_some();
    subject.client.status().until(EVER, fails).await.unwrap();
    site.home.cluster("home", 2);
    subject.until("t", "home:2").await;
    tokio::time::sleep(100 * SECOND).await;
    let failures = subject.link.tally().get("xds_disk", "write_failed");
    assert!((3..6).contains(&failures), "{failures} in 100 s");
    std::fs::remove_file(&blocked).unwrap();
    let report = kept(&subject).await;
    assert_eq!(report.disk.as_ref().unwrap().failure, None);
    assert_eq!(subject.link.tally().get("xds_disk", "written"), 1);
}

#[tokio::test(start_paused = true)]
async fn what_comes_in_a_burst_is_written_once_and_what_is_left_when_the_client_goes_is_written_then() {
    let site = Site::new();
    site.home.tell("t", "home", 1);
    let subject = site.start(Protocol::Delta, &["t"]);
    subject.until("t", "home:1").await;
    for port in 2..50 {
        site.home.cluster("home", port);
        subject.until("t", &format!("home:{port}")).await;
    }
    kept(&subject).await;
    assert_eq!(subject.link.tally().get("xds_disk", "written"), 1);
    site.home.cluster("home", 99);
    subject.until("t", "home:99").await;
    let tally = subject.link.tally().clone();
    drop(subject);
    settle().await;
    assert_eq!(tally.get("xds_disk", "written"), 2);
    site.home.go(Way::Down);
    let next = site.start(Protocol::Delta, &["t"]);
    next.until("t", "home:99").await;
}

/// A process that lets go of its channels before it ends has not forgotten where they went.
#[tokio::test(start_paused = true)]
async fn what_is_not_wanted_any_more_stays_on_disk_until_something_else_is() {
    let site = Site::new();
    site.home.tell("t", "home", 1);
    let mut subject = site.start(Protocol::Sotw, &["t"]);
    subject.until("t", "home:1").await;
    kept(&subject).await;
    subject.forget();
    tokio::time::sleep(100 * SECOND).await;
    assert!(subject.client.status().report().resources.is_empty());
    drop(subject);
    site.home.go(Way::Down);
    site.start(Protocol::Sotw, &["t"]).until("t", "home:1").await;
}

/// Nothing that shows a private key is written, and what is deleted is not either.
#[tokio::test(start_paused = true)]
async fn no_secret_is_on_disk() {
    let site = Site::new();
    site.home.tell("t", "home", 1);
    let snapshot = Snapshot::builder()
        .route("u", Route::to(Split::all_to("-----BEGIN PRIVATE KEY-----")))
        .cluster(Cluster::new(
            "-----BEGIN PRIVATE KEY-----",
            TlsMode::Plaintext,
            Vec::new(),
        ))
        .build()
        .unwrap();
    let tree = encode::routes(snapshot.target("u").unwrap().as_ref().unwrap());
    site.home.set(ResourceKind::Listener, "u", listener("u", "u"));
    site.home.set(ResourceKind::Route, "u", raw(ResourceKind::Route, tree));
    let subject = site.start(Protocol::Sotw, &["t", "u"]);
    subject.until("t", "home:1").await;
    let has_route = |report: &Report| {
        let row = report.resource(ResourceKind::Route, "u");
        row.is_some_and(|row| row.accepted.is_some())
    };
    subject.client.status().until(EVER, has_route).await.unwrap();
    kept(&subject).await;
    let text = String::from_utf8_lossy(&std::fs::read(site.file()).unwrap()).into_owned();
    assert!(!text.contains("-----BEGIN PRIVATE KEY"), "{text}");
    assert!(text.contains("home"));
}

/// What was to end by itself ends when it was to, wherever it is kept.
#[tokio::test(start_paused = true)]
async fn what_has_a_time_to_live_ends_on_disk_too() {
    let copy = |ends| {
        let entry = |ends, raw: Raw| Entry {
            server: HOME.into(),
            good: Some(Good {
                version: "1".into(),
                bytes: raw.bytes.into(),
                told: 900,
                ends,
            }),
        };
        let entries = [
            ((ResourceKind::Listener, "t".into()), entry(ends, listener("t", "t"))),
            ((ResourceKind::Route, "t".into()), entry(None, routes("t", "home"))),
            ((ResourceKind::Cluster, "home".into()), entry(None, cluster("home"))),
            (
                (ResourceKind::Endpoints, "home".into()),
                entry(None, endpoints("home", &[1])),
            ),
        ];
        Kept {
            written: 1000,
            entries: entries.into(),
            ..Kept::default()
        }
    };
    for (ends, lives) in [
        (None, true),
        (Some(1090), true),
        (Some(1060), false),
        (Some(1000), false),
    ] {
        let site = Site::new();
        site.home.go(Way::Down);
        let bootstrap = || site.bootstrap(Protocol::Sotw);
        let file = crate::client::disk::of(&bootstrap().build().unwrap()).unwrap();
        file.save(&copy(ends)).unwrap();
        let clock = SettableClock::at(1060);
        let subject = Subject::at(&site.net, bootstrap(), &["t"], Arc::new(clock));
        if !lives {
            tokio::time::sleep(60 * SECOND).await;
            assert_eq!(subject.history("t"), Vec::<String>::new(), "{ends:?}");
            continue;
        }
        subject.until("t", "home:1").await;
        tokio::time::sleep(29 * SECOND).await;
        assert_eq!(subject.ports("t"), "home:1");
        tokio::time::sleep(2 * SECOND).await;
        match ends {
            None => assert_eq!(subject.ports("t"), "home:1"),
            Some(_) => assert!(
                subject.ports("t").contains("time to live ended"),
                "{}",
                subject.ports("t")
            ),
        }
    }
}
