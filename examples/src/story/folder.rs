//! The watched folder: a copy of `examples/istio/`, edited as a person would.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::time::Instant;

use super::Failure;

/// The documents of `examples/istio/`, as they were when this was built.
const DOCUMENTS: [(&str, &str); 4] = [
    ("10-service.yaml", include_str!("../../istio/10-service.yaml")),
    (WORKLOADS, include_str!("../../istio/20-workloads.yaml")),
    (ROUTES, include_str!("../../istio/30-routes.yaml")),
    ("40-security.yaml", include_str!("../../istio/40-security.yaml")),
];
const WORKLOADS: &str = "20-workloads.yaml";
const ROUTES: &str = "30-routes.yaml";
/// The ports that the example documents name for v1 and v2, and the weights.
const PORTS: [&str; 2] = ["grpc: 50061", "grpc: 50062"];
const WEIGHTS: [&str; 2] = ["weight: 95", "weight: 5\n"];

/// A temporary folder of Istio YAML; gone when dropped.
#[derive(Debug)]
pub(super) struct Folder {
    directory: TempDir,
}

impl Folder {
    pub(super) fn create() -> Result<Self, Failure> {
        let directory = tempfile::tempdir()?;
        for (name, text) in DOCUMENTS {
            fs::write(directory.path().join(name), text)?;
        }
        Ok(Self { directory })
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes where v1 and v2 really listen.
    pub(super) fn set_ports(&self, addresses: [SocketAddr; 2]) -> Result<(), Failure> {
        let ports = addresses.map(|address| format!("grpc: {}", address.port()));
        self.edit(WORKLOADS, PORTS, [&ports[0], &ports[1]])?;
        Ok(())
    }

    /// Saves new weights for v1 and v2; when the save was complete.
    pub(super) fn set_weights(&self, v1: u32, v2: u32) -> Result<Instant, Failure> {
        let weights = [format!("weight: {v1}"), format!("weight: {v2}\n")];
        self.edit(ROUTES, WEIGHTS, [&weights[0], &weights[1]])
    }

    /// Replaces words of one document and saves it as editors do: a new file, renamed over the old.
    fn edit(&self, name: &str, from: [&str; 2], to: [&str; 2]) -> Result<Instant, Failure> {
        let (_, original) = DOCUMENTS
            .iter()
            .find(|(file, _)| *file == name)
            .ok_or("no such document")?;
        if from.iter().any(|word| !original.contains(word)) {
            return Err(format!("examples/istio/{name} no longer says {from:?}").into());
        }
        let text = original.replace(from[0], to[0]).replace(from[1], to[1]);
        save(&self.path().join(name), &text)?;
        Ok(Instant::now())
    }
}

fn save(path: &Path, text: &str) -> io::Result<()> {
    let beside: PathBuf = path.with_extension("yaml.new");
    fs::write(&beside, text)?;
    fs::rename(beside, path)
}
