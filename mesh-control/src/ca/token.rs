//! Join tokens: what a workload shows before it has a certificate.
//!
//! A token is `ID.SECRET`: a public id to find its record by, and 128 random bits of which only the SHA-256 is kept. It is
//! bound to one SPIFFE id. It works once and for ten minutes, or, made so on purpose, any number of times for as long as was
//! said: a process that restarts must be able to join again, and its token then lies in a file of mode 0600.
//!
//! With a state directory each record is a file, so that `meshctl bootstrap` can make a token for a control plane that runs:
//! the folder is the only truth, nothing is cached. A single use is settled by `unlink`: of two callers that come at once with
//! one token, the file system lets exactly one remove the record.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::{constant_time, digest};
use mesh_core::identity::SpiffeId;
use serde::{Deserialize, Serialize};

use super::error::Kind;
use super::issue::hex;
use super::{CaError, files};

/// The longest a single-use token waits for its use.
pub const MAX_SINGLE_USE_LIFETIME: Duration = Duration::from_secs(600);
/// The longest a reusable token works.
const MAX_REUSABLE_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// The most tokens that wait at once; a caller in a loop must not fill the disk.
const MAX_TOKENS: usize = 10_000;
/// Where the records are in a state directory.
const FOLDER: &str = "tokens";

const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 16;

/// A join token. It proves an identity to whoever shows it: no `Debug` and no `Display` shows it.
#[derive(Clone)]
pub struct JoinToken(String);

impl JoinToken {
    /// The token, to be handed to the workload it is for.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(..)")
    }
}

/// How often and how long a token works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Once, within this time; at most ten minutes.
    SingleUse(Duration),
    /// Any number of times within this time; at most a year.
    Reusable(Duration),
}

impl Default for Lifetime {
    fn default() -> Self {
        Self::SingleUse(MAX_SINGLE_USE_LIFETIME)
    }
}

/// What is kept of a token.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// The SPIFFE id it proves.
    identity: String,
    /// SHA-256 of the secret.
    secret_sha256: String,
    /// The Unix second it ends.
    expires: u64,
    reusable: bool,
}

/// Why a token proves nothing. Callers are told only that it does; the log says why.
#[derive(Debug)]
pub(super) enum Refusal {
    Malformed,
    Unknown,
    WrongSecret,
    Expired,
    Used,
    Broken(CaError),
}

impl Refusal {
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unknown => "unknown or used",
            Self::WrongSecret => "wrong secret",
            Self::Expired => "expired",
            Self::Used => "used by somebody else at this moment",
            Self::Broken(_) => "the record cannot be read",
        }
    }
}

/// A token that was found good, and not used yet.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) identity: SpiffeId,
    id: String,
    reusable: bool,
}

/// Every token that waits for its use.
pub(super) enum TokenStore {
    Memory(Mutex<BTreeMap<String, Record>>),
    Folder(PathBuf),
}

impl TokenStore {
    pub(super) fn in_memory() -> Self {
        Self::Memory(Mutex::default())
    }

    pub(super) fn open(state: &Path) -> Result<Self, CaError> {
        let folder = state.join(FOLDER);
        files::make_directory(&folder)?;
        Ok(Self::Folder(folder))
    }

    /// Makes a token for `identity`. Longer lifetimes than allowed are cut.
    pub(super) fn issue(&self, identity: &SpiffeId, lifetime: Lifetime, now: u64) -> Result<JoinToken, CaError> {
        let (lasting, reusable) = match lifetime {
            Lifetime::SingleUse(lasting) => (lasting.min(MAX_SINGLE_USE_LIFETIME), false),
            Lifetime::Reusable(lasting) => (lasting.min(MAX_REUSABLE_LIFETIME), true),
        };
        if self.sweep(now)? >= MAX_TOKENS {
            return Err(Kind::TooManyTokens.into());
        }
        let (mut id, mut secret) = ([0; ID_BYTES], [0; SECRET_BYTES]);
        aws_lc_rs::rand::fill(&mut id).map_err(|_| Kind::Random)?;
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| Kind::Random)?;
        let (id, secret) = (hex(&id), hex(&secret));
        let record = Record {
            identity: identity.as_str().to_owned(),
            secret_sha256: sha256(&secret),
            expires: now + lasting.as_secs(),
            reusable,
        };
        self.put(&id, record)?;
        Ok(JoinToken(format!("{id}.{secret}")))
    }

    /// Whom a token proves. It is not used up by this: see [`redeem`](Self::redeem).
    pub(super) fn check(&self, token: &str, now: u64) -> Result<Grant, Refusal> {
        let (id, secret) = token.split_once('.').ok_or(Refusal::Malformed)?;
        // Also what keeps an id from being a path.
        if !is_hex(id, ID_BYTES) || !is_hex(secret, SECRET_BYTES) {
            return Err(Refusal::Malformed);
        }
        let record = self.get(id).map_err(Refusal::Broken)?.ok_or(Refusal::Unknown)?;
        let same = constant_time::verify_slices_are_equal(sha256(secret).as_bytes(), record.secret_sha256.as_bytes());
        if same.is_err() {
            return Err(Refusal::WrongSecret);
        }
        if now >= record.expires {
            return Err(Refusal::Expired);
        }
        Ok(Grant {
            identity: SpiffeId::parse(&record.identity).map_err(|_| Refusal::Unknown)?,
            id: id.to_owned(),
            reusable: record.reusable,
        })
    }

    /// Uses a token up, unless it is reusable. Of several that try, one succeeds.
    pub(super) fn redeem(&self, grant: &Grant) -> Result<(), Refusal> {
        if grant.reusable || self.remove(&grant.id).map_err(Refusal::Broken)? {
            Ok(())
        } else {
            Err(Refusal::Used)
        }
    }

    fn put(&self, id: &str, record: Record) -> Result<(), CaError> {
        match self {
            Self::Memory(records) => {
                records.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), record);
                Ok(())
            }
            Self::Folder(folder) => {
                let json = serde_json::to_vec(&record).expect("a record of texts and numbers is JSON");
                files::write(&folder.join(id), &json)
            }
        }
    }

    fn get(&self, id: &str) -> Result<Option<Record>, CaError> {
        match self {
            Self::Memory(records) => Ok(records.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()),
            Self::Folder(folder) => {
                let path = folder.join(id);
                let Some(text) = files::read(&path)? else { return Ok(None) };
                let why = "is not a token record";
                serde_json::from_str(&text).map(Some).map_err(|_| Kind::Malformed { path, why }.into())
            }
        }
    }

    fn remove(&self, id: &str) -> Result<bool, CaError> {
        match self {
            Self::Memory(records) => {
                Ok(records.lock().unwrap_or_else(PoisonError::into_inner).remove(id).is_some())
            }
            Self::Folder(folder) => {
                let path = folder.join(id);
                match fs::remove_file(&path) {
                    Ok(()) => Ok(true),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                    Err(error) => Err(CaError::io("remove", &path, error)),
                }
            }
        }
    }

    /// Removes what has expired and counts the rest.
    fn sweep(&self, now: u64) -> Result<usize, CaError> {
        match self {
            Self::Memory(records) => {
                let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
                records.retain(|_, record| now < record.expires);
                Ok(records.len())
            }
            Self::Folder(folder) => {
                let entries = fs::read_dir(folder).map_err(|error| CaError::io("read", folder, error))?;
                let mut waiting = 0;
                for entry in entries.flatten() {
                    let name = entry.file_name();
                    let Some(id) = name.to_str().filter(|name| is_hex(name, ID_BYTES)) else { continue };
                    match self.get(id) {
                        Ok(Some(record)) if now >= record.expires => {
                            self.remove(id)?;
                        }
                        Ok(None) => {}
                        _ => waiting += 1,
                    }
                }
                Ok(waiting)
            }
        }
    }
}

fn sha256(text: &str) -> String {
    hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

fn is_hex(text: &str, bytes: usize) -> bool {
    text.len() == 2 * bytes && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
