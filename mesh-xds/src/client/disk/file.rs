//! Where a copy is, and the care it takes to read and to replace a file that others may have touched.
//!
//! Blocking: for threads that may block.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fmt, process};

use super::format::{self, Unreadable};
use super::kept::Kept;
use crate::bootstrap::{Bootstrap, Profile, Server};

/// The most bytes of a copy, written or read: 10,000 clusters with 100,000 endpoints take about a third of it. What is larger
/// would take a start longer than a control plane does.
pub(super) const MAX_COPY_BYTES: usize = 64 * 1024 * 1024;
/// How many bytes of the digest are in a file's name: no two processes meet by chance.
const NAME_BYTES: usize = 16;

/// Makes the names of files that are being written differ within a process.
static WRITES: AtomicU64 = AtomicU64::new(0);

/// Who is told what by whom: two processes that differ in it have different files, in one directory too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Whose(pub(crate) Vec<String>);

impl Whose {
    /// By the node's id, the shape it is told things in, and the control planes of each authority in order.
    pub(super) fn of(bootstrap: &Bootstrap) -> Self {
        let shape = match bootstrap.profile() {
            Profile::Grpc => "grpc",
            Profile::Envoy => "envoy",
        };
        let mut whose = vec![format!("node {}", bootstrap.node().id), format!("shape {shape}")];
        let named = bootstrap.authorities().iter();
        let named = named.map(|(name, authority)| (name.as_str(), authority.servers()));
        let line = |name: &str, server: &Server| format!("server {name:?} {}", server.uri);
        for (name, servers) in std::iter::once(("", bootstrap.servers())).chain(named) {
            whose.extend(servers.iter().map(|server| line(name, server)));
        }
        Self(whose)
    }

    fn digest(&self) -> String {
        // A length before each, so that no two lists are the same bytes.
        let lengths: Vec<[u8; 8]> = self.0.iter().map(|line| (line.len() as u64).to_be_bytes()).collect();
        let lines = self.0.iter().zip(&lengths);
        let parts: Vec<&[u8]> = lines
            .flat_map(|(line, length)| [&length[..], line.as_bytes()])
            .collect();
        let sum = format::sum(&parts);
        sum[..NAME_BYTES].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The file of one process.
#[derive(Clone, Debug)]
pub(in crate::client) struct CopyFile {
    path: PathBuf,
    whose: Whose,
    limit: usize,
}

/// Why a file is not used.
#[derive(Debug)]
pub(in crate::client) enum Unused {
    /// What is in it.
    Unreadable(Unreadable),
    /// It is no plain file, or became another one while it was opened.
    NoFile,
    /// Its owner is somebody else.
    Owner(u32),
    /// Others than its owner may write it: its mode.
    Writable(u32),
    /// The system.
    System(io::Error),
}

impl fmt::Display for Unused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(why) => why.fmt(f),
            Self::NoFile => f.write_str("it is no plain file"),
            Self::Owner(owner) => write!(f, "it belongs to user {owner}, who is not this process's"),
            Self::Writable(mode) => write!(f, "others may write it: its mode is {mode:o}"),
            Self::System(error) => error.fmt(f),
        }
    }
}

impl CopyFile {
    pub(super) fn new(directory: &Path, whose: Whose, limit: usize) -> Self {
        let path = directory.join(format!("xds-{}.copy", whose.digest()));
        Self { path, whose, limit }
    }

    pub(in crate::client) fn path(&self) -> &Path {
        &self.path
    }

    /// What was kept; `None` where nothing was. A file that cannot be used is put aside as `.bad`, in the place of the one that
    /// was before it; where that fails it stays, and the next good copy replaces it.
    pub(super) fn load(&self) -> Result<Option<Kept>, Unused> {
        self.sweep();
        let loaded = self.read().and_then(|bytes| match bytes {
            Some(bytes) => format::read(&bytes, &self.whose.0)
                .map(Some)
                .map_err(Unused::Unreadable),
            None => Ok(None),
        });
        if matches!(
            loaded,
            Err(Unused::Unreadable(_) | Unused::Owner(_) | Unused::Writable(_))
        ) {
            drop(fs::rename(&self.path, self.beside("bad")));
        }
        loaded
    }

    /// Replaces the copy as a whole: whoever reads, after a crash too, finds the old one or the new.
    pub(in crate::client) fn save(&self, kept: &Kept) -> Result<(), Unused> {
        let bytes = format::write(kept, &self.whose.0, self.limit).map_err(Unused::Unreadable)?;
        let directory = self.directory();
        make(directory).map_err(Unused::System)?;
        let write = WRITES.fetch_add(1, Ordering::Relaxed);
        let temporary = self.beside(&format!("{}-{write}.tmp", process::id()));
        let replaced = written(&temporary, &bytes).and_then(|()| fs::rename(&temporary, &self.path));
        if let Err(error) = replaced {
            drop(fs::remove_file(&temporary));
            return Err(Unused::System(error));
        }
        // The name is on the disk when the directory is.
        #[cfg(unix)]
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(Unused::System)?;
        Ok(())
    }

    fn read(&self) -> Result<Option<Vec<u8>>, Unused> {
        // Before it is opened: a pipe would be waited for.
        let named = match fs::symlink_metadata(&self.path) {
            Ok(named) => named,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Unused::System(error)),
        };
        if !named.is_file() {
            return Err(Unused::NoFile);
        }
        let file = File::open(&self.path).map_err(Unused::System)?;
        let opened = file.metadata().map_err(Unused::System)?;
        trusted(&named, &opened)?;
        let limit = self.limit as u64;
        let mut bytes = Vec::new();
        // One that grows meanwhile is read no further.
        if opened.len() <= limit {
            file.take(limit + 1).read_to_end(&mut bytes).map_err(Unused::System)?;
        }
        match opened.len() > limit || bytes.len() > self.limit {
            true => Err(Unused::Unreadable(Unreadable::TooLarge(self.limit))),
            false => Ok(Some(bytes)),
        }
    }

    /// Removes what a process that died while it wrote left behind. One that is writing now fails, says so, and tries again.
    fn sweep(&self) {
        let prefix = self.beside("");
        let Ok(files) = fs::read_dir(self.directory()) else {
            return;
        };
        for path in files.filter_map(|file| Some(file.ok()?.path())) {
            let (text, prefix) = (path.to_string_lossy(), prefix.to_string_lossy());
            if text.starts_with(&*prefix) && text.ends_with(".tmp") {
                drop(fs::remove_file(&path));
            }
        }
    }

    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or_else(|| Path::new("."))
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".");
        name.push(ending);
        name.into()
    }
}

fn written(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn make(directory: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match directory.as_os_str().is_empty() {
        true => Ok(()),
        false => builder.create(directory),
    }
}

/// Whether nobody but this process's user can have written what was opened.
#[cfg(unix)]
fn trusted(named: &Metadata, opened: &Metadata) -> Result<(), Unused> {
    use std::os::unix::fs::MetadataExt as _;
    if (named.dev(), named.ino()) != (opened.dev(), opened.ino()) {
        return Err(Unused::NoFile);
    }
    let user = user().map_err(Unused::System)?;
    judge(opened.uid(), user, opened.mode())
}

#[cfg(not(unix))]
fn trusted(_: &Metadata, _: &Metadata) -> Result<(), Unused> {
    Ok(())
}

#[cfg(unix)]
pub(super) fn judge(owner: u32, user: u32, mode: u32) -> Result<(), Unused> {
    const OTHERS_WRITE: u32 = 0o022;
    match (owner == user, mode & OTHERS_WRITE) {
        (false, _) => Err(Unused::Owner(owner)),
        (true, 0) => Ok(()),
        (true, _) => Err(Unused::Writable(mode & 0o7777)),
    }
}

/// Who this process is: a pipe belongs to who makes it.
#[cfg(unix)]
pub(super) fn user() -> io::Result<u32> {
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::MetadataExt as _;
    let (reader, _) = io::pipe()?;
    Ok(File::from(OwnedFd::from(reader)).metadata()?.uid())
}
