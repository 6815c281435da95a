//! The pause before another try.

use std::time::Duration;

use http::HeaderMap;

use super::World;
use crate::config::{Backoff, ResetFormat, RetryPolicy};
use crate::entropy::Draw;

/// The least pause: a draw of nothing would make a loop that never rests.
const LEAST: Duration = Duration::from_micros(1);

/// Envoy's full jitter: uniform below `base * (2^n - 1)`, at most `max`.
pub(super) fn jittered(backoff: Backoff, retry: u32, draw: &mut Draw) -> Duration {
    let factor = 2u32.saturating_pow(retry.min(31)) - 1;
    let bound = backoff.base().saturating_mul(factor).min(backoff.max());
    Duration::from_nanos(draw.below(nanos(bound))).max(LEAST)
}

/// The pause that the answer asks for, and up to half as much more, so that those who were turned away together do not come
/// back together (Envoy `JitteredLowerBoundBackOffStrategy`).
pub(super) fn asked_for(policy: &RetryPolicy, headers: &HeaderMap, world: &mut World<'_>) -> Option<Duration> {
    let rate_limited = policy.rate_limited.as_ref()?;
    let now = world.unix_seconds;
    let read = |header: &crate::config::ResetHeader| {
        let number: u64 = headers.get(&header.name)?.to_str().ok()?.trim().parse().ok()?;
        let seconds = match header.format {
            ResetFormat::Seconds => number,
            // One that is past asks for nothing.
            ResetFormat::UnixTimestamp => number.checked_sub(now?)?,
        };
        Some(Duration::from_secs(seconds)).filter(|pause| *pause <= rate_limited.max)
    };
    let least = rate_limited.headers.iter().find_map(read)?;
    Some(least + Duration::from_nanos(world.draw.below(nanos(least / 2))))
}

fn nanos(duration: Duration) -> u64 {
    duration.as_nanos().min(u128::from(u64::MAX)) as u64
}
