//! Files that only their owner may read: written whole or not at all, refused when others could have read them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use zeroize::Zeroizing;

use super::CaError;
use super::error::Kind;

/// The most bytes of a state file; a root with its key has about a thousand.
const MAX_BYTES: u64 = 64 * 1024;

/// Makes a directory that only its owner may enter, unless it is there: then nobody else may write there, who could put other files in the
/// place of those that are looked at.
pub(crate) fn make_directory(path: &Path) -> Result<(), CaError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(path)
        .map_err(|error| CaError::io("create", path, error))?;
    let metadata = fs::metadata(path).map_err(|error| CaError::io("read", path, error))?;
    match is_open_to_others(&metadata) {
        true => Err(Kind::Exposed(path.to_owned()).into()),
        false => Ok(()),
    }
}

/// Takes a directory for the process that serves it, until the file that is given is closed. The system takes it back from a process that
/// ends in any way, so there is no stale one to be removed by hand.
pub(crate) fn lock_directory(directory: &Path) -> Result<File, CaError> {
    make_directory(directory)?;
    let path = directory.join("lock");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(&path).map_err(|error| CaError::io("open", &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Kind::InUse(directory.to_owned()).into()),
        Err(fs::TryLockError::Error(error)) => Err(CaError::io("lock", &path, error)),
    }
}

#[cfg(unix)]
fn is_open_to_others(metadata: &fs::Metadata) -> bool {
    std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o022 != 0
}

#[cfg(not(unix))]
fn is_open_to_others(_: &fs::Metadata) -> bool {
    false
}

/// Replaces `path` by a file of mode 0600 that holds `bytes`: temporary file, sync, rename.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), CaError> {
    let temporary = write_temporary(path, bytes)?;
    fs::rename(&temporary, path).map_err(|error| {
        drop(fs::remove_file(&temporary));
        CaError::io("write", path, error)
    })
}

/// As [`write`], but keeps a file that is there: `false` says that somebody else was first.
pub(super) fn create(path: &Path, bytes: &[u8]) -> Result<bool, CaError> {
    let temporary = write_temporary(path, bytes)?;
    // A link, unlike a rename, does not replace.
    let linked = fs::hard_link(&temporary, path);
    drop(fs::remove_file(&temporary));
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(CaError::io("create", path, error)),
    }
}

/// Reads a file that only its owner may read; `None` when there is none.
pub(super) fn read(path: &Path) -> Result<Option<Zeroizing<String>>, CaError> {
    read_up_to(path, MAX_BYTES)
}

/// As [`read`], of a file that may have so many bytes; what is beyond is not read.
pub(crate) fn read_up_to(path: &Path, most: u64) -> Result<Option<Zeroizing<String>>, CaError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(CaError::io("read", path, error)),
    };
    if !metadata.is_file() || is_exposed(&metadata) {
        return Err(Kind::Exposed(path.to_owned()).into());
    }
    let mut text = Zeroizing::new(String::new());
    let read = File::open(path).and_then(|file| {
        // What was looked at is what was opened: between the two somebody may have put another file, or a link, there.
        match is_same(&metadata, &file.metadata()?) {
            true => file.take(most).read_to_string(&mut text).map(Some),
            false => Ok(None),
        }
    });
    match read {
        Ok(Some(_)) if !is_ours(path, &metadata) => Err(Kind::Exposed(path.to_owned()).into()),
        Ok(Some(_)) => Ok(Some(text)),
        Ok(None) => Err(Kind::Exposed(path.to_owned()).into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CaError::io("read", path, error)),
    }
}

/// Whether two looks were at one file.
#[cfg(unix)]
fn is_same(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(not(unix))]
fn is_same(_: &fs::Metadata, _: &fs::Metadata) -> bool {
    true
}

/// Whether a file belongs to whom its directory belongs to, which this program made.
#[cfg(unix)]
fn is_ours(path: &Path, metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let directory = path.parent().and_then(|parent| fs::metadata(parent).ok());
    directory.is_some_and(|directory| directory.uid() == metadata.uid())
}

#[cfg(not(unix))]
fn is_ours(_: &Path, _: &fs::Metadata) -> bool {
    true
}

#[cfg(unix)]
pub(super) fn is_exposed(metadata: &fs::Metadata) -> bool {
    std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0
}

#[cfg(not(unix))]
pub(super) fn is_exposed(_: &fs::Metadata) -> bool {
    false
}

fn write_temporary(path: &Path, bytes: &[u8]) -> Result<PathBuf, CaError> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(
        ".{}.{}.tmp",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    ));
    let temporary = path.with_file_name(name);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    match written {
        Ok(()) => Ok(temporary),
        Err(error) => {
            drop(fs::remove_file(&temporary));
            Err(CaError::io("write", path, error))
        }
    }
}
