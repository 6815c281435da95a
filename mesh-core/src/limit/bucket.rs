//! What was taken of a bucket: one number, changed by compare and swap.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Quota;
use super::describe::Entry;
use crate::config::{DescriptorEntry, TokenBucket};

/// When it was empty, or would have been: what it holds is the time since then, in tokens. In nanoseconds of the clock of its
/// [`Buckets`](super::Buckets); a new one was empty before all time, and is full.
#[derive(Debug)]
pub(super) struct Bucket {
    empty_at: AtomicI64,
}

impl Default for Bucket {
    fn default() -> Self {
        Self {
            empty_at: AtomicI64::new(i64::MIN),
        }
    }
}

impl Bucket {
    /// Takes a token, if there is one; and what is left.
    pub(super) fn take(&self, of: &TokenBucket, now: i64) -> (bool, Quota) {
        let (token, since) = (of.token_ns(), full_since(of, now));
        let take = |empty_at: i64| {
            let later = empty_at.max(since).saturating_add(token);
            (later <= now).then_some(later)
        };
        let taken = self.empty_at.fetch_update(Ordering::AcqRel, Ordering::Acquire, take);
        let empty_at = match taken {
            Ok(before) => before.max(since).saturating_add(token),
            Err(before) => before.max(since),
        };
        let left = now.saturating_sub(empty_at).max(0);
        let quota = Quota {
            limit: of.max(),
            remaining: u32::try_from(left / token).unwrap_or_else(|_| of.max()),
            reset: Duration::from_nanos(empty_at.saturating_sub(since).unsigned_abs()),
        };
        (taken.is_ok(), quota)
    }

    pub(super) fn is_full(&self, of: &TokenBucket, now: i64) -> bool {
        self.empty_at.load(Ordering::Acquire) <= full_since(of, now)
    }
}

/// A bucket that was empty then, or before, is full.
fn full_since(of: &TokenBucket, now: i64) -> i64 {
    now.saturating_sub(of.token_ns().saturating_mul(of.max().into()))
}

/// A bucket for each value of a descriptor that names none.
#[derive(Debug, Default)]
pub(super) struct Dynamic {
    values: Mutex<Vec<Value>>,
}

#[derive(Debug)]
struct Value {
    of: Box<[Box<[u8]>]>,
    bucket: Bucket,
    asked_at: i64,
}

impl Dynamic {
    /// Takes a token of the bucket for `entries`, which fit `wanted`. Of more than `most` values, the one that was asked for longest ago
    /// is forgotten.
    pub(super) fn take(
        &self,
        (wanted, of): (&[DescriptorEntry], &TokenBucket),
        entries: &[Entry<'_>],
        most: u32,
        now: i64,
    ) -> (bool, Quota) {
        let open = || wanted.iter().zip(entries).filter(|(wanted, _)| wanted.value.is_empty());
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let is = |value: &Value| {
            open()
                .map(|(_, entry)| entry.value())
                .eq(value.of.iter().map(|of| &**of))
        };
        if let Some(value) = values.iter_mut().find(|value| is(value)) {
            value.asked_at = now;
            return value.bucket.take(of, now);
        }
        if values.len() >= most.max(1) as usize {
            let oldest = values.iter().enumerate().min_by_key(|(_, value)| value.asked_at);
            if let Some((oldest, _)) = oldest {
                values.swap_remove(oldest);
            }
        }
        let value = Value {
            of: open().map(|(_, entry)| entry.value().into()).collect(),
            bucket: Bucket::default(),
            asked_at: now,
        };
        let taken = value.bucket.take(of, now);
        values.push(value);
        taken
    }
}
