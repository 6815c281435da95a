//! What a watched folder reads, when it reads again, and what it refuses to read.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc;

use super::{Reading, watch};
use crate::istio::Documents;

const ENTRY: &str =
    "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: a}\nspec: {address: 127.0.0.1}\n";

/// Documents of these names.
fn entries(names: &[&str]) -> String {
    let each = names
        .iter()
        .map(|name| ENTRY.replace("{name: a}", &format!("{{name: {name}}}")));
    each.collect::<Vec<_>>().join("---\n")
}

/// The readings of a folder, as they come.
struct Watched {
    readings: mpsc::UnboundedReceiver<Reading>,
    task: tokio::task::JoinHandle<()>,
}

impl Watched {
    fn new(folder: &Path) -> Self {
        let (sender, readings) = mpsc::unbounded_channel();
        let task = tokio::spawn(watch(folder.to_owned(), move |reading| drop(sender.send(reading))));
        Self { readings, task }
    }

    /// The first reading that has the workload `name`, and that all until then, this one too, had those in `always`.
    async fn until_there(&mut self, name: &str, always: &[&str]) -> Vec<String> {
        let wait = async {
            loop {
                let reading = self.readings.recv().await.unwrap();
                let entries = reading.documents.workload_entries.iter();
                let names: Vec<String> = entries.map(|entry| entry.meta.name.to_string()).collect();
                let has = |wanted: &&str| names.iter().any(|name| name == wanted);
                assert!(always.iter().all(has), "{names:?} has not all of {always:?}");
                if has(&name) {
                    return names;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .expect("the change is seen")
    }

    /// The next reading with `entries` workload entries and `errors` errors. Readings in between may be of half a change.
    async fn until(&mut self, entries: usize, errors: usize) {
        let wait = async {
            loop {
                let reading = self.readings.recv().await.unwrap();
                let found = reading.diagnostics.iter().filter(|finding| finding.is_error()).count();
                if (reading.documents.workload_entries.len(), found) == (entries, errors) {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .expect("the change is seen");
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn writes_renames_and_removals_are_seen() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    fs::write(file("ignored.txt"), "[").unwrap();
    fs::write(file(".hidden.yaml"), "[").unwrap();
    let mut watched = Watched::new(folder.path());
    watched.until(0, 0).await;
    fs::write(file("a.yaml"), ENTRY).unwrap();
    watched.until(1, 0).await;
    // An editor's way: write aside, rename over.
    fs::write(file("a.yaml.swp"), format!("{ENTRY}---\n{ENTRY}")).unwrap();
    fs::rename(file("a.yaml.swp"), file("a.yaml")).unwrap();
    watched.until(2, 0).await;
    fs::write(file("b.json"), "{").unwrap();
    watched.until(2, 1).await;
    fs::remove_file(file("b.json")).unwrap();
    watched.until(2, 0).await;
    fs::remove_file(file("a.yaml")).unwrap();
    watched.until(0, 0).await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_swapped_data_link_is_followed_as_kubernetes_swaps_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    for (version, text) in [("..v1", ENTRY.to_owned()), ("..v2", format!("{ENTRY}---\n{ENTRY}"))] {
        fs::create_dir(file(version)).unwrap();
        fs::write(file(version).join("a.yaml"), text).unwrap();
    }
    std::os::unix::fs::symlink("..v1", file("..data")).unwrap();
    std::os::unix::fs::symlink("..data/a.yaml", file("a.yaml")).unwrap();
    let mut watched = Watched::new(folder.path());
    watched.until(1, 0).await;
    std::os::unix::fs::symlink("..v2", file("..data_tmp")).unwrap();
    fs::rename(file("..data_tmp"), file("..data")).unwrap();
    watched.until(2, 0).await;
}

#[tokio::test]
async fn a_folder_that_is_replaced_is_found_again() {
    let parent = tempfile::tempdir().unwrap();
    let (folder, aside) = (parent.path().join("f"), parent.path().join("g"));
    fs::create_dir(&folder).unwrap();
    let mut watched = Watched::new(&folder);
    watched.until(0, 0).await;
    fs::rename(&folder, &aside).unwrap();
    watched.until(0, 1).await;
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.yaml"), ENTRY).unwrap();
    watched.until(1, 0).await;
    fs::write(folder.join("b.yaml"), ENTRY).unwrap();
    watched.until(2, 0).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_save_that_pauses_between_two_documents_is_not_taken_for_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    fs::write(file("a.yaml"), entries(&["one", "two", "three"])).unwrap();
    let mut watched = Watched::new(folder.path());
    watched.until_there("three", &[]).await;
    let mut writer = fs::File::create(file("a.yaml")).unwrap();
    writer.write_all(entries(&["one"]).as_bytes()).unwrap();
    writer.write_all(b"---\n").unwrap();
    let mut new = fs::File::create(file("new.yaml")).unwrap();
    new.write_all(entries(&["half"]).as_bytes()).unwrap();
    // Somebody else's save does not wait for them, and shows that the folder was read.
    fs::write(file("b.yaml"), entries(&["other"])).unwrap();
    let names = watched.until_there("other", &["one", "two", "three"]).await;
    assert_eq!(names, ["one", "two", "three", "other"]);
    writer.write_all(entries(&["two", "four"]).as_bytes()).unwrap();
    drop(writer);
    let names = watched.until_there("four", &["one", "two", "other"]).await;
    assert_eq!(names, ["one", "two", "four", "other"]);
    drop(new);
    watched.until_there("half", &["four", "other"]).await;
}

#[tokio::test]
async fn a_file_that_is_renamed_away_and_written_anew_is_never_absent() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    fs::write(file("a.yaml"), entries(&["one"])).unwrap();
    let mut watched = Watched::new(folder.path());
    watched.until_there("one", &[]).await;
    fs::rename(file("a.yaml"), file("a.yaml~")).unwrap();
    // A rename over another file is believed at once, while the first one is still missing.
    fs::write(file("b.tmp"), entries(&["other"])).unwrap();
    fs::rename(file("b.tmp"), file("b.yaml")).unwrap();
    watched.until_there("other", &["one"]).await;
    fs::write(file("a.yaml"), entries(&["one", "two"])).unwrap();
    watched.until_there("two", &["one", "other"]).await;
}

#[tokio::test]
async fn a_removal_is_believed_after_what_was_saved_later() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    fs::write(file("a.yaml"), entries(&["one"])).unwrap();
    let mut watched = Watched::new(folder.path());
    watched.until_there("one", &[]).await;
    fs::remove_file(file("a.yaml")).unwrap();
    fs::write(file("b.yaml"), entries(&["other"])).unwrap();
    watched.until_there("other", &["one"]).await;
    watched.until(1, 0).await;
    fs::remove_file(file("b.yaml")).unwrap();
    watched.until(0, 0).await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_pipe_or_a_socket_is_named_and_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let made = std::process::Command::new("mkfifo").arg(file("pipe.yaml")).status();
    assert!(made.unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(file("socket.yaml")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", file("zero.yaml")).unwrap();
    // On a thread of its own: were the pipe opened, nothing could end it but a writer.
    let (sender, mut read) = mpsc::channel(1);
    let path = folder.path().to_owned();
    std::thread::spawn(move || drop(sender.blocking_send(Reading::of(&path))));
    let reading = tokio::time::timeout(Duration::from_secs(20), read.recv()).await;
    let findings = reading.expect("nothing blocks").unwrap().diagnostics;
    let why = "error[MSH0001]: not a regular file: pipes, sockets and devices are not read";
    let expected = ["pipe.yaml", "socket.yaml", "zero.yaml"].map(|name| format!("{name}: {why}"));
    assert_eq!(findings.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
}

#[test]
fn a_folder_in_the_folder_is_named_unless_it_is_hidden() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    for (name, text) in [("..2026", ENTRY), ("prod", "["), ("sub.yaml", "["), (".git", "[")] {
        fs::create_dir(file(name)).unwrap();
        fs::write(file(name).join("a.yaml"), text).unwrap();
    }
    #[cfg(unix)]
    for (target, name) in [("..2026", "..data"), ("..data/a.yaml", "a.yaml"), ("prod", "link")] {
        std::os::unix::fs::symlink(target, file(name)).unwrap();
    }
    let reading = Reading::of(folder.path());
    let findings: Vec<String> = reading.diagnostics.iter().map(ToString::to_string).collect();
    let why = "warning[MSH0014]: a folder in the folder: what is in it is not read; put its files beside the others";
    let expected: &[&str] = if cfg!(unix) {
        &["link", "prod", "sub.yaml"]
    } else {
        &["prod", "sub.yaml"]
    };
    assert_eq!(
        findings,
        expected.iter().map(|name| format!("{name}: {why}")).collect::<Vec<_>>()
    );
    assert_eq!(reading.documents.workload_entries.len(), usize::from(cfg!(unix)));
}

#[test]
fn a_file_whose_ending_is_in_capitals_is_named_and_not_read() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.yaml", "deny.YAML", "deny.Json", ".deny.YAML", "readme.MD"] {
        fs::write(folder.path().join(name), ENTRY).unwrap();
    }
    let reading = Reading::of(folder.path());
    let findings: Vec<String> = reading.diagnostics.iter().map(ToString::to_string).collect();
    let why = "warning[MSH0016]: not read: .yaml, .yml and .json are, in small letters";
    assert_eq!(
        findings,
        ["deny.Json", "deny.YAML"].map(|name| format!("{name}: {why}"))
    );
    assert_eq!(reading.documents.workload_entries.len(), 1);
}

#[tokio::test]
async fn a_folder_that_is_made_in_a_watched_one_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let mut watched = Watched::new(folder.path());
    watched.until(0, 0).await;
    fs::create_dir(folder.path().join("prod")).unwrap();
    let told = async {
        loop {
            let reading = watched.readings.recv().await.unwrap();
            if reading.diagnostics.iter().any(|finding| &*finding.file == "prod") {
                return;
            }
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(20), told).await;
    told.expect("the folder is seen");
}

#[test]
fn what_cannot_be_read_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("big.yaml"),
        vec![b'#'; Documents::MAX_FILE_BYTES + 1],
    )
    .unwrap();
    fs::write(folder.path().join("empty.yaml"), b"").unwrap();
    fs::write(folder.path().join("latin.yaml"), b"a: \xe9").unwrap();
    let findings: Vec<String> = Reading::of(folder.path())
        .diagnostics
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        findings,
        [
            "big.yaml: error[MSH0001]: larger than 1048576 bytes",
            "empty.yaml: error[MSH0001]: empty: half written, or to be removed",
            "latin.yaml: error[MSH0001]: not UTF-8"
        ]
    );
    assert!(Reading::of(&folder.path().join("nowhere")).diagnostics[0].is_error());
}
