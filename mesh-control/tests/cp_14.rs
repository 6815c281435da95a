//! CP-14: whatever is written into the watched folder, the last good configuration stays, the mistake is counted and logged
//! with its place, and memory stays where it was.
//!
//! In a process of its own, with one test: its memory is measured as the system counts it.

#![allow(clippy::unwrap_used, reason = "a test")]
#![cfg(target_os = "linux")]
#![allow(clippy::print_stdout, reason = "the figures are shown with `--nocapture`")]

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mesh_control::{ControlPlane, Status};
use mesh_core::Link;
use mesh_xds::XdsClient;
use tempfile::TempDir;
use tokio::sync::Notify;
use tracing_subscriber::fmt::MakeWriter;

/// The longest any wait may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest from a good save to its publication, by promise, whatever was broken before it.
const RECOVERY: Duration = Duration::from_secs(1);
/// How often a mending that was late is looked at again, on a machine that others use too.
const TRIES: usize = 3;
/// The most that the process may ever hold, the test and its client with it.
const MAX_RESIDENT_KIB: u64 = 100 * 1024;
/// What is too large: a hundred times what a file may have.
const HUGE_MIB: usize = 100;
/// The file that everything is done to.
const FILE: &str = "30-routes.yaml";

/// What is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

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

/// A control plane over a folder, and a client of it.
struct Watched {
    folder: TempDir,
    control: ControlPlane,
    link: Link,
    log: Log,
    good: String,
}

impl Watched {
    async fn new() -> Self {
        let log = Log::default();
        let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false);
        tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let examples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/istio");
        for entry in fs::read_dir(examples).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        let builder = ControlPlane::builder(folder.path()).plaintext(([127, 0, 0, 1], 0).into());
        let control = builder.start().await.unwrap();
        let bootstrap = control.plaintext_bootstrap("default", "anybody").unwrap();
        let link = XdsClient::start(bootstrap).unwrap().link();
        let good = fs::read_to_string(folder.path().join(FILE)).unwrap();
        Self {
            folder,
            control,
            link,
            log,
            good,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(FILE)
    }

    /// The good document, in which the first version has `weight` of a hundred.
    fn weighing(&self, weight: u32) -> String {
        let (v1, v2) = (format!("weight: {weight}"), format!("weight: {}\n", 100 - weight));
        self.good.replace("weight: 95", &v1).replace("weight: 5\n", &v2)
    }

    /// Writes beside the file and renames over it: nothing is ever half there.
    fn replace(&self, bytes: impl AsRef<[u8]>) {
        let beside = self.folder.path().join(".beside");
        fs::write(&beside, bytes).unwrap();
        fs::rename(beside, self.path()).unwrap();
    }

    async fn until(&self, what: &str, like: impl FnMut(&Status) -> bool) -> Status {
        let mut changes = self.control.status_changes();
        let wait = tokio::time::timeout(PATIENCE, changes.wait_for(like)).await;
        wait.unwrap_or_else(|_| panic!("waited for {what}")).unwrap().clone()
    }

    /// Waits until the client's first version has `weight`.
    async fn until_weighs(&self, weight: u32) {
        let bell = Arc::new(Notify::new());
        let ring = Arc::clone(&bell);
        let _told = self.link.snapshots().on_change(move || ring.notify_one());
        let wait = async {
            while self.weight() != Some(weight) {
                bell.notified().await;
            }
        };
        let wait = tokio::time::timeout(PATIENCE, wait).await;
        wait.unwrap_or_else(|_| panic!("waited for weight {weight}"));
    }

    fn weight(&self) -> Option<u32> {
        let snapshot = self.link.snapshots().load_full();
        let tree = snapshot.target("payment-service")?.as_ref().ok()?;
        let split = tree.virtual_hosts[0].routes[0].split()?;
        split.clusters().first().map(|share| share.weight.0)
    }

    /// A save that must be refused: the error as it was told, counted and logged. The client keeps `weight`.
    async fn refused(&self, what: &str, weight: u32, save: impl FnOnce(&Self)) -> String {
        let counted = || self.control.tally().get("configuration", "rejected");
        let (before, counted_before) = (self.control.status().rejected, counted());
        save(self);
        let status = self.until(what, |status| status.rejected > before).await;
        let error = status.diagnostics.iter().find(|finding| finding.is_error());
        let error = error.unwrap().to_string();
        assert!(error.starts_with(FILE), "{what}: {error}");
        assert!(counted() > counted_before, "{what} was not counted");
        let log = String::from_utf8_lossy(&self.log.0.lock().unwrap()).into_owned();
        assert!(log.contains(&error), "{what}: not logged: {error}");
        assert_eq!(self.weight(), Some(weight), "{what}");
        println!("{what}: {error}");
        error
    }

    /// A save is broken and another mends it; how long the mending took. Only what is late [`TRIES`] times in a row counts as late: what
    /// else runs on the machine is not in the way of each.
    async fn recovers(&self, weight: u32) -> Duration {
        let mut least = self.mended(weight).await;
        for _ in 1..TRIES {
            if least < RECOVERY {
                break;
            }
            self.refused("once more", weight, |watched| watched.replace("a: ["))
                .await;
            least = least.min(self.mended(weight).await);
        }
        least
    }

    /// A good save; how long until it was published.
    async fn mended(&self, weight: u32) -> Duration {
        let before = self.control.status().accepted;
        self.replace(self.weighing(weight));
        let start = Instant::now();
        self.until("a good save", |status| status.accepted > before).await;
        let took = start.elapsed();
        self.until_weighs(weight).await;
        took
    }
}

/// The largest this process ever was.
fn largest_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Lists of lists of aliases: ten thousand million leaves when written out.
fn alias_bomb() -> String {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let below = format!("*a{}", level - 1);
        writeln!(text, "a{level}: &a{level} [{}]", vec![below; 10].join(", ")).unwrap();
    }
    text
}

/// Whether an error says on which line, after the file's name.
fn has_line(error: &str) -> bool {
    let rest = error.strip_prefix(FILE).and_then(|rest| rest.strip_prefix(':'));
    rest.is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cp_14_whatever_is_written_keeps_the_last_good_and_the_memory() {
    let watched = Watched::new().await;
    let _wanted = watched.link.interest().watch("payment-service");
    watched.until_weighs(95).await;
    let before = largest_kib();
    half_written(&watched).await;
    let mut recoveries = broken(&watched).await;
    recoveries.push(huge(&watched).await);
    // Windows' line ends are no mistake.
    watched.replace(watched.weighing(31).replace('\n', "\r\n"));
    watched.until_weighs(31).await;
    assert!(!watched.control.status().is_rejected());
    swapped(&watched).await;
    let largest = largest_kib();
    recoveries.sort_unstable();
    let (median, slowest) = (recoveries[recoveries.len() / 2], recoveries[recoveries.len() - 1]);
    println!(
        "CP-14: memory: {before} KiB before, {largest} KiB at most; recovery: median {median:?}, slowest {slowest:?}"
    );
    assert!(largest < MAX_RESIDENT_KIB, "{largest} KiB");
    assert!(slowest < RECOVERY, "{recoveries:?}");
}

/// A writer that has not finished: its first half would parse, and is not believed. Another file that is saved meanwhile
/// shows that the folder was read.
async fn half_written(watched: &Watched) {
    let accepted = watched.control.status().accepted;
    let whole = watched.weighing(60);
    let (head, tail) = whole.split_at(whole.find("---\n").unwrap());
    let mut writer = fs::File::create(watched.path()).unwrap();
    writer.write_all(head.as_bytes()).unwrap();
    let beside = watched.folder.path().join("40-other.yaml");
    let other = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: other}\n";
    fs::write(
        beside.with_extension("tmp"),
        format!("{other}spec: {{address: 127.0.0.9}}\n"),
    )
    .unwrap();
    fs::rename(beside.with_extension("tmp"), &beside).unwrap();
    let status = watched
        .until("the other file", |status| status.accepted > accepted)
        .await;
    assert!(!status.is_rejected(), "{:?}", status.diagnostics);
    assert_eq!(watched.weight(), Some(95));
    writer.write_all(tail.as_bytes()).unwrap();
    drop(writer);
    watched.until_weighs(60).await;
}

/// Whole saves of what nobody meant, and how long each recovery took.
async fn broken(watched: &Watched) -> Vec<Duration> {
    let good = &watched.good;
    let cut = good.find("weight: 95").unwrap() + 4;
    let cases: [(&str, Vec<u8>, bool); 7] = [
        ("truncated", good.as_bytes()[..cut].to_vec(), true),
        (
            "a syntax error",
            good.replace("  http:", "  http: [").into_bytes(),
            true,
        ),
        (
            "an unknown field",
            good.replace("weight: 95", "wieght: 95").into_bytes(),
            true,
        ),
        ("an alias bomb", alias_bomb().into_bytes(), true),
        ("deep nesting", "[".repeat(900_000).into_bytes(), true),
        ("not UTF-8", [good.as_bytes(), &[0xff]].concat(), false),
        ("empty", Vec::new(), false),
    ];
    let (mut weight, mut recoveries) = (60, Vec::new());
    for (what, text, names_line) in cases {
        let error = watched.refused(what, weight, |watched| watched.replace(text)).await;
        assert!(!names_line || has_line(&error), "{what}: {error}");
        weight -= 1;
        recoveries.push(watched.recovers(weight).await);
    }
    recoveries
}

/// 100 MB, written in pieces so that the test itself does not hold them.
async fn huge(watched: &Watched) -> Duration {
    let weight = watched.weight().unwrap();
    let write = |watched: &Watched| {
        let beside = watched.folder.path().join(".huge");
        let mut file = fs::File::create(&beside).unwrap();
        for _ in 0..HUGE_MIB {
            file.write_all(&[b'#'; 1024 * 1024]).unwrap();
        }
        drop(file);
        fs::rename(beside, watched.path()).unwrap();
    };
    watched.refused("100 MB", weight, write).await;
    watched.recovers(30).await
}

/// A folder as Kubernetes mounts it: links into `..data`, which is itself a link and is swapped.
async fn swapped(watched: &Watched) {
    use std::os::unix::fs::symlink;
    let root = watched.folder.path();
    for (version, weight) in [("..v1", 32), ("..v2", 33)] {
        fs::create_dir(root.join(version)).unwrap();
        fs::write(root.join(version).join(FILE), watched.weighing(weight)).unwrap();
    }
    symlink("..v1", root.join("..data")).unwrap();
    symlink(format!("..data/{FILE}"), root.join(".link")).unwrap();
    fs::rename(root.join(".link"), watched.path()).unwrap();
    watched.until_weighs(32).await;
    symlink("..v2", root.join("..data_tmp")).unwrap();
    fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    watched.until_weighs(33).await;
}
