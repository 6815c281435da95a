//! What the root and the leaves have in common: when they begin, how their dates and serials are made, and how bytes are shown.

use std::time::Duration;

use aws_lc_rs::digest;
use rcgen::SerialNumber;
use time::OffsetDateTime;

use super::CaError;
use super::error::Kind;

/// How far a certificate's beginning lies in the past, for peers whose clocks are behind: two minutes (Istio), and one more so
/// that a clock that is behind by these two has some room.
pub(super) const BACKDATED: Duration = Duration::from_secs(180);

/// 127 random bits: positive, and never the same twice.
pub(super) fn random_serial() -> Result<SerialNumber, CaError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Kind::Random)?;
    bytes[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&bytes))
}

pub(super) fn date(seconds: u64) -> Result<OffsetDateTime, CaError> {
    let seconds = i64::try_from(seconds).map_err(|_| Kind::Clock)?;
    Ok(OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| Kind::Clock)?)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}
