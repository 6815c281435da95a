//! The page: who calls whom now, how well, and whether everybody uses what was published. Served on loopback by `meshctl run`.
//!
//! ```text
//! LoadBoard (what clients report) ──┐
//! SnapshotCache (who is connected) ─┼─ topology (pure) ─ api (JSON) ─ serve ─ assets: a page that asks for it every few seconds
//! Publisher (what was published) ───┘
//! ```
//!
//! It needs nothing but the control plane: no Prometheus, no build step, nobody's server but this. What it shows it computes of load
//! reports when it is asked, so that nobody who does not look pays for it; it keeps nothing and changes nothing. The shape of its
//! answer is in `docs/page.md`.

mod api;
mod assets;
mod numbers;
mod rules;
mod serve;
#[cfg(test)]
mod tests;
mod topology;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use mesh_xds::server::{LoadBoard, SnapshotCache};

use crate::publish::Publisher;

pub(crate) use serve::serve;

/// How old an answer may be when it is given again: who reloads a thousand times a second has it computed twice.
const FRESH: Duration = Duration::from_millis(500);

/// Where the page's numbers come from.
#[derive(Debug)]
pub(crate) struct Page {
    cache: SnapshotCache,
    loads: LoadBoard,
    publisher: Arc<Publisher>,
    last: Mutex<Option<(Instant, Bytes)>>,
}

impl Page {
    pub(crate) fn new(cache: SnapshotCache, loads: LoadBoard, publisher: Arc<Publisher>) -> Self {
        Self {
            cache,
            loads,
            publisher,
            last: Mutex::default(),
        }
    }

    /// The answer at this moment. It holds the lock while it computes, so that nobody computes the same beside it.
    fn json(&self, now: Instant) -> Bytes {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, json)) = &*last
            && now.saturating_duration_since(*at) < FRESH
        {
            return json.clone();
        }
        let json = Bytes::from(serde_json::to_vec(&self.mesh(SystemTime::now())).expect("texts and numbers are JSON"));
        *last = Some((now, json.clone()));
        json
    }

    fn mesh(&self, now: SystemTime) -> api::Mesh {
        let seen = topology::Seen {
            clients: self.cache.clients(),
            loads: self.loads.snapshot(),
            snapshots: self.publisher.snapshots(),
            status: self.publisher.status().borrow().clone(),
            interval: self.loads.interval(),
        };
        topology::mesh(&seen, now)
    }
}
