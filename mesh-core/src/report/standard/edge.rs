//! Where the calls of one pair are counted: by how they ended, in a table that only grows and is never locked.
//!
//! The table is a few chains of cells that are each set once. A call walks the chain of its end, which is one or two cells long in
//! any but odd times, and adds. Only the first call of a new end allocates.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::numbers::Numbers;
use super::{Amounts, EdgeLabels, End};

/// The most ends of one pair that are told apart; a server chooses its status, so there must be some number. What is beyond counts in
/// one series, whose `response_code` is `other`.
pub(super) const MAX_SERIES: u32 = 32;
/// The chains of a table: a power of two.
const CHAINS: usize = 8;

/// One pair's counters. Held by whoever counts in it; see [`Edges`](super::Edges).
#[derive(Debug)]
pub struct Edge {
    labels: EdgeLabels,
    chains: [OnceLock<Box<Series>>; CHAINS],
    other: OnceLock<Box<Numbers>>,
    length: AtomicU32,
    room: Arc<Room>,
    request_messages: AtomicU64,
    response_messages: AtomicU64,
}

/// How many series all edges have together, and how many calls found no place for one of their own.
#[derive(Debug, Default)]
pub(super) struct Room {
    series: AtomicU32,
    most: u32,
    overflown: AtomicU64,
}

#[derive(Debug)]
struct Series {
    end: u64,
    numbers: Numbers,
    next: OnceLock<Box<Self>>,
}

impl Edge {
    pub(super) fn new(labels: EdgeLabels, room: Arc<Room>) -> Self {
        Self {
            labels,
            chains: Default::default(),
            other: OnceLock::new(),
            length: AtomicU32::new(0),
            room,
            request_messages: AtomicU64::new(0),
            response_messages: AtomicU64::new(0),
        }
    }

    /// Whom it is about.
    pub fn labels(&self) -> &EdgeLabels {
        &self.labels
    }

    /// A call ended.
    #[inline]
    pub fn count(&self, end: End, amounts: Amounts) {
        self.numbers(end.pack()).add(amounts);
    }

    /// Messages of gRPC were sent by the caller, and by the called.
    #[inline]
    pub fn messages(&self, request: u64, response: u64) {
        if request > 0 {
            self.request_messages.fetch_add(request, Ordering::Relaxed);
        }
        if response > 0 {
            self.response_messages.fetch_add(response, Ordering::Relaxed);
        }
    }

    #[inline]
    fn numbers(&self, end: u64) -> &Numbers {
        // The flags are few and the codes many: all of them reach the top.
        let chain = end.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - CHAINS.ilog2());
        let mut cell = &self.chains[chain as usize];
        while let Some(series) = cell.get() {
            if series.end == end {
                return &series.numbers;
            }
            cell = &series.next;
        }
        self.append(cell, end)
    }

    /// The first call of its kind.
    #[cold]
    fn append<'a>(&'a self, mut cell: &'a OnceLock<Box<Series>>, end: u64) -> &'a Numbers {
        if !self.take_place() {
            self.room.overflown.fetch_add(1, Ordering::Relaxed);
            return self.other.get_or_init(Box::default);
        }
        loop {
            let mut is_new = false;
            let series = cell.get_or_init(|| {
                is_new = true;
                Box::new(Series {
                    end,
                    numbers: Numbers::default(),
                    next: OnceLock::new(),
                })
            });
            if series.end == end {
                if !is_new {
                    // Another call was faster.
                    self.give_back(1);
                    self.length.fetch_sub(1, Ordering::Relaxed);
                }
                return &series.numbers;
            }
            cell = &series.next;
        }
    }

    fn take_place(&self) -> bool {
        let take = |count: &AtomicU32, most: u32| {
            let more = |taken: u32| (taken < most).then_some(taken + 1);
            count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
        };
        if !take(&self.length, MAX_SERIES) {
            return false;
        }
        let is_room = take(&self.room.series, self.room.most);
        if !is_room {
            self.length.fetch_sub(1, Ordering::Relaxed);
        }
        is_room
    }

    fn give_back(&self, places: u32) {
        self.room.series.fetch_sub(places, Ordering::Relaxed);
    }

    /// All series, in order of their ends; the one of all other ends last, with none.
    pub(super) fn series(&self) -> Vec<(Option<End>, &Numbers)> {
        let mut all = Vec::new();
        for chain in &self.chains {
            let mut cell = chain;
            while let Some(series) = cell.get() {
                all.push((Some(End::unpack(series.end)), &series.numbers));
                cell = &series.next;
            }
        }
        all.sort_by_key(|(end, _)| *end);
        all.extend(self.other.get().map(|numbers| (None, &**numbers)));
        all
    }

    /// Of requests and of answers.
    pub(super) fn message_counts(&self) -> [u64; 2] {
        [&self.request_messages, &self.response_messages].map(|count| count.load(Ordering::Relaxed))
    }

    /// A number that is greater whenever anything was counted.
    pub(super) fn activity(&self) -> u64 {
        let calls: u64 = self.series().iter().map(|(_, numbers)| numbers.calls()).sum();
        calls + self.message_counts().iter().sum::<u64>()
    }

    /// Calls that found no place for how they ended, where its room is its own.
    pub(super) fn overflown(&self) -> u64 {
        self.room.overflown()
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let places = *self.length.get_mut();
        self.give_back(places);
    }
}

impl Room {
    pub(super) fn new(most: u32) -> Self {
        Self {
            most,
            ..Self::default()
        }
    }

    pub(super) fn taken(&self) -> u32 {
        self.series.load(Ordering::Relaxed)
    }

    pub(super) fn overflown(&self) -> u64 {
        self.overflown.load(Ordering::Relaxed)
    }
}
