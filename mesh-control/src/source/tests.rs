//! What a watched folder reads, when it reads again, and what it refuses to read.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc;

use super::{Reading, watch};
use crate::istio::Documents;

const ENTRY: &str =
    "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: a}\nspec: {address: 127.0.0.1}\n";

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
