//! Join tokens: what a workload shows before it has a certificate.
//!
//! A token is `ID.SECRET`: a public id to find its record by, and 128 random bits of which only the SHA-256 is kept. It is
//! bound to one SPIFFE id. It works once and for ten minutes, or, made so on purpose, any number of times for as long as was
//! said: a process that restarts must be able to join again, and its token then lies in a file of mode 0600.
//!
//! With a state directory each record is a file, so that `meshctl bootstrap` can make a token for a control plane that runs:
//! the folder is the only truth, nothing is cached. A single use is settled by `unlink`: of two callers that come at once with
//! one token, the file system lets exactly one remove the record.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::constant_time;
use mesh_core::identity::SpiffeId;
use serde::{Deserialize, Serialize};

use super::CaError;
use super::common::{hex, sha256_hex};
use super::error::Kind;
use super::records::Records;

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
            Self::Used => "used by somebody else, or taken away, at this moment",
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

/// What is kept of a token, by its public id.
#[derive(Clone, Serialize, Deserialize)]
struct Record {
    /// The SPIFFE id it proves.
    identity: String,
    /// SHA-256 of the secret.
    secret_sha256: String,
    /// The Unix second it ends.
    expires: u64,
    reusable: bool,
}

/// Every token that waits for its use.
pub(super) struct TokenStore {
    records: Records<Record>,
}

impl TokenStore {
    pub(super) fn in_memory() -> Self {
        Self {
            records: Records::in_memory(),
        }
    }

    pub(super) fn open(state: &Path) -> Result<Self, CaError> {
        Ok(Self {
            records: Records::open(state, FOLDER, "is not a token record")?,
        })
    }

    /// Makes a token for `identity`. Longer lifetimes than allowed are cut.
    pub(super) fn issue(&self, identity: &SpiffeId, lifetime: Lifetime, now: u64) -> Result<JoinToken, CaError> {
        let (lasting, reusable) = match lifetime {
            Lifetime::SingleUse(lasting) => (lasting.min(MAX_SINGLE_USE_LIFETIME), false),
            Lifetime::Reusable(lasting) => (lasting.min(MAX_REUSABLE_LIFETIME), true),
        };
        let (_, waiting) = self.records.part(is_id, |record| now >= record.expires)?;
        if waiting >= MAX_TOKENS {
            return Err(Kind::TooManyTokens.into());
        }
        let (mut id, mut secret) = ([0; ID_BYTES], [0; SECRET_BYTES]);
        aws_lc_rs::rand::fill(&mut id).map_err(|_| Kind::Random)?;
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| Kind::Random)?;
        let (id, secret) = (hex(&id), hex(&secret));
        let record = Record {
            identity: identity.as_str().to_owned(),
            secret_sha256: sha256_hex(secret.as_bytes()),
            expires: now + lasting.as_secs(),
            reusable,
        };
        self.records.put(&id, record)?;
        Ok(JoinToken(format!("{id}.{secret}")))
    }

    /// Whom a token proves. It is not used up by this: see [`redeem`](Self::redeem).
    pub(super) fn check(&self, token: &str, now: u64) -> Result<Grant, Refusal> {
        let (id, secret) = token.split_once('.').ok_or(Refusal::Malformed)?;
        // Also what keeps an id from being a path.
        if !is_id(id) || !is_hex(secret, SECRET_BYTES) {
            return Err(Refusal::Malformed);
        }
        let record = self.records.get(id).map_err(Refusal::Broken)?.ok_or(Refusal::Unknown)?;
        let same = constant_time::verify_slices_are_equal(
            sha256_hex(secret.as_bytes()).as_bytes(),
            record.secret_sha256.as_bytes(),
        );
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

    /// Uses a token up, unless it is reusable. Of several that try, one succeeds. A reusable one has to be there still: it may have been
    /// taken away since it was looked at.
    pub(super) fn redeem(&self, grant: &Grant) -> Result<(), Refusal> {
        let is_there = match grant.reusable {
            true => self.records.get(&grant.id).map(|record| record.is_some()),
            false => self.records.remove(&grant.id),
        };
        match is_there.map_err(Refusal::Broken)? {
            true => Ok(()),
            false => Err(Refusal::Used),
        }
    }

    /// Removes every token of `identity`; how many those were.
    pub(super) fn forget(&self, identity: &SpiffeId) -> Result<usize, CaError> {
        let (gone, _) = self
            .records
            .part(is_id, |record| record.identity == identity.as_str())?;
        Ok(gone)
    }
}

fn is_id(text: &str) -> bool {
    is_hex(text, ID_BYTES)
}

fn is_hex(text: &str, bytes: usize) -> bool {
    text.len() == 2 * bytes && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
