//! What was refused, as it came: for whoever asks why (CSDS, `failed_configuration`). Nothing here reads it again.
//!
//! It is a courtesy to operators, so it has little room, and what finds none is not kept: a control plane that sends nothing
//! but garbage must not fill the memory of its clients with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most bytes of one refused resource that are kept. It is kept whole or not at all: half of one cannot be read.
const MAX_BYTES: usize = 64 * 1024;
/// The most bytes of all refused resources of one kind: so that the five kinds stay near what one CSDS answer can hold.
const MAX_TOTAL_BYTES: usize = 1024 * 1024;

/// How much is kept at the moment.
#[derive(Debug, Default)]
pub(super) struct Room(Arc<AtomicUsize>);

/// A refused resource. Dropped, it gives its room back.
#[derive(Debug)]
pub(super) struct Kept {
    bytes: Arc<Vec<u8>>,
    used: Arc<AtomicUsize>,
}

impl Room {
    /// Keeps it, if it is small enough and there is room. Nothing at all is not kept either.
    pub(super) fn keep(&self, bytes: Arc<Vec<u8>>) -> Option<Kept> {
        let used = self.0.load(Ordering::Relaxed);
        if bytes.is_empty() || bytes.len() > MAX_BYTES || used + bytes.len() > MAX_TOTAL_BYTES {
            return None;
        }
        // A table is changed by one at a time, so nobody took the room meanwhile.
        self.0.fetch_add(bytes.len(), Ordering::Relaxed);
        Some(Kept {
            bytes,
            used: Arc::clone(&self.0),
        })
    }
}

impl Kept {
    pub(super) fn bytes(&self) -> &Arc<Vec<u8>> {
        &self.bytes
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_has_a_room_of_its_own_and_gives_it_back() {
        let room = Room::default();
        let of = |size: usize| room.keep(vec![7; size].into());
        assert!(of(0).is_none() && of(MAX_BYTES + 1).is_none());
        let mut kept: Vec<Kept> = std::iter::from_fn(|| of(MAX_BYTES)).collect();
        assert_eq!(kept.len(), MAX_TOTAL_BYTES / MAX_BYTES);
        assert!(of(1).is_none(), "it is full");
        kept.pop();
        assert_eq!(of(10).map(|one| one.bytes().len()), Some(10));
        drop(kept);
        assert_eq!(room.0.load(Ordering::Relaxed), 0);
    }
}
