//! One look at the folder: which files there are, and the text of each or why it cannot be read.
//!
//! Only regular files are opened, after following links. To open a named pipe blocks until somebody writes to it, and to read
//! a device need never end: either would wedge the reading thread, and with it the shutdown that waits for that thread.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::istio::Documents;

/// The most files that are read, with the folders that are not.
pub const MAX_FILES: usize = 10_000;
/// The most bytes that are read of all files together.
const MAX_TOTAL_BYTES: usize = 64 * 1024 * 1024;

/// The text of a file, or why there is none. Shared: what is seen and what is believed are mostly the same.
pub(super) type Text = Result<Arc<str>, Unread>;

/// Why something in the folder has no text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// It cannot be read.
    Because(Arc<str>),
    /// It is a folder, or a link to one: what is in there is nobody's configuration, and whoever put it there should know.
    Folder,
    /// Its name is nearly one that is read: somebody may think that it is in effect.
    Name,
}

/// The files by name, or why the folder cannot be read.
pub(super) type Sight = Result<BTreeMap<OsString, Text>, Arc<str>>;

/// Looks at the folder.
pub(super) fn see(folder: &Path) -> Sight {
    let paths = list(folder).map_err(|error| Arc::from(format!("cannot be read: {error}")))?;
    let mut files = BTreeMap::new();
    let mut total = 0;
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_owned();
        if path.is_dir() {
            files.insert(name, Err(Unread::Folder));
            continue;
        }
        if !is_read(&name) {
            files.insert(name, Err(Unread::Name));
            continue;
        }
        let text = read(&path, MAX_TOTAL_BYTES - total);
        match text {
            // Removed between the list and the read: as if it had not been there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            text => {
                total += text.as_ref().map_or(0, String::len);
                let why = |error: io::Error| Unread::Because(error.to_string().into());
                files.insert(name, text.map(Arc::from).map_err(why));
            }
        }
    }
    Ok(files)
}

/// The texts of the folder's files, by name.
pub(crate) fn texts(folder: &Path) -> io::Result<BTreeMap<String, String>> {
    let files = see(folder).map_err(|why| io::Error::other(format!("{}: {why}", folder.display())))?;
    let texts = files.into_iter().filter_map(|(name, text)| {
        let name = name.to_string_lossy().into_owned();
        match text {
            Ok(text) => Some(Ok((name, text.to_string()))),
            Err(Unread::Because(why)) => Some(Err(io::Error::other(format!("{name}: {why}")))),
            Err(Unread::Folder | Unread::Name) => None,
        }
    });
    texts.collect()
}

/// One file, with as much room as all files of a folder have together.
pub(super) fn see_file(path: &Path) -> Text {
    let text = read(path, MAX_TOTAL_BYTES);
    text.map(Arc::from)
        .map_err(|error| Unread::Because(format!("cannot be read: {error}").into()))
}

/// Whether a file of that name is read. Hidden ones are not: editors and Kubernetes keep their own things there.
pub(super) fn is_read(name: &OsStr) -> bool {
    let extension = Path::new(name).extension();
    !is_hidden(name)
        && extension.is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

/// Whether a file of that name would be read but for its case: `deny.YAML`, which somebody may take for being in effect.
fn is_nearly_read(name: &OsStr) -> bool {
    let extension = Path::new(name).extension();
    let known = |extension: &OsStr| {
        let known = ["yaml", "yml", "json"];
        known.iter().any(|known| extension.eq_ignore_ascii_case(known))
    };
    !is_hidden(name) && !is_read(name) && extension.is_some_and(known)
}

/// Hidden folders are nobody's either, and nothing to be told of: `..data` and what it points to, `.git`.
fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if !is_read(name) && !is_nearly_read(name) && (is_hidden(name) || !path.is_dir()) {
            continue;
        }
        paths.push(path);
        if paths.len() > MAX_FILES {
            return Err(io::Error::other(format!("more than {MAX_FILES} files and folders")));
        }
    }
    // The room for all texts together is given out in the order of names, whatever order the system lists them in.
    paths.sort();
    Ok(paths)
}

fn read(path: &Path, room: usize) -> io::Result<String> {
    let most = Documents::MAX_FILE_BYTES;
    let mut bytes = Vec::new();
    open(path)?.take(most as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > most {
        return Err(io::Error::other(format!("larger than {most} bytes")));
    }
    if bytes.is_empty() {
        return Err(io::Error::other("empty: half written, or to be removed"));
    }
    if bytes.len() > room {
        return Err(io::Error::other(format!(
            "the files of the folder have more than {MAX_TOTAL_BYTES} bytes together"
        )));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("not UTF-8"))
}

/// Opens a regular file. Asked twice: before, since to open anything else may block; after, since it may have been replaced.
fn open(path: &Path) -> io::Result<File> {
    let regular = |metadata: Metadata| {
        if metadata.is_file() {
            return Ok(());
        }
        Err(io::Error::other(
            "not a regular file: pipes, sockets and devices are not read",
        ))
    };
    regular(fs::metadata(path)?)?;
    let file = File::open(path)?;
    regular(file.metadata()?)?;
    Ok(file)
}
