//! What so many calls of a client come to, of whichever program's allocator.

use std::alloc::System;

use bytes::Bytes;
use serde_json::{Value, json};
use stats_alloc::{Region, StatsAlloc};
use tokio::task::LocalSet;

use crate::Failure;
use crate::caller::Caller;

/// `calls` in all, by `concurrent` callers that each wait for one answer before the next call.
pub(crate) async fn measure(
    client: &(impl Caller + 'static),
    allocator: &'static StatsAlloc<System>,
    writes: &dyn Fn() -> u64,
    calls: usize,
    concurrent: usize,
) -> Result<Cost, Failure> {
    let note = Bytes::from(vec![b'x'; 1024]);
    let each = calls / concurrent;
    let writes_before = writes();
    let region = Region::new(allocator);
    let local = LocalSet::new();
    let mut callers = Vec::with_capacity(concurrent);
    for _ in 0..concurrent {
        let (mut client, note) = (client.clone(), note.clone());
        callers.push(local.spawn_local(async move {
            for _ in 0..each {
                client.call(note.clone()).await?;
            }
            Ok::<_, Failure>(())
        }));
    }
    local
        .run_until(async {
            for caller in callers {
                caller.await??;
            }
            Ok::<_, Failure>(())
        })
        .await?;
    let heap = region.change();
    let calls = (each * concurrent) as f64;
    Ok(Cost {
        allocations: heap.allocations as f64 / calls,
        reallocations: heap.reallocations as f64 / calls,
        bytes: heap.bytes_allocated as f64 / calls,
        writes: (writes() - writes_before) as f64 / calls,
    })
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) allocations: f64,
    reallocations: f64,
    bytes: f64,
    writes: f64,
}

impl Cost {
    pub(crate) fn median(mut rounds: Vec<Self>) -> Self {
        rounds.sort_by(|a, b| a.allocations.total_cmp(&b.allocations));
        rounds[rounds.len() / 2]
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "allocations": self.allocations,
            "reallocations": self.reallocations,
            "bytes": self.bytes,
            "writes": self.writes,
        })
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.2} allocations, {:.0} bytes, {:.3} writes",
            self.allocations, self.bytes, self.writes
        )
    }
}
