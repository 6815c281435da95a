//! Who is connected with which certificate: what the replacement of the root counts by.
//!
//! A certificate that is younger than a phase of that says that its process knows what the phase says (`ca/rotation`). Connections last longer
//! than that takes, so those that were made with an older one are ended soon after their workload was given a newer one, and come again
//! with it. Workloads keep what they have meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_core::identity::SpiffeId;
use tokio::sync::Notify;

use crate::ca::Acknowledged;

/// The most names that are told of those that are waited for.
const MAX_WAITING_SHOWN: usize = 20;

/// The connections of workloads. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connected(Arc<Mutex<Registered>>);

#[derive(Debug, Default)]
struct Registered {
    next: u64,
    connections: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    id: SpiffeId,
    /// When the certificate was issued, in seconds since 1970.
    issued: u64,
    come_again: Arc<Notify>,
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub(super) struct Counted {
    connected: Connected,
    number: u64,
    /// Rings when it is to be made again.
    pub(super) come_again: Arc<Notify>,
}

impl Connected {
    /// Counts one more.
    pub(super) fn enter(&self, id: SpiffeId, issued: u64) -> Counted {
        let come_again = Arc::new(Notify::new());
        let mut registered = self.registered();
        let number = registered.next;
        registered.next += 1;
        let entry = Entry {
            id,
            issued,
            come_again: Arc::clone(&come_again),
        };
        registered.connections.insert(number, entry);
        Counted {
            connected: self.clone(),
            number,
            come_again,
        }
    }

    /// How many were made with a certificate that was issued after `since`.
    pub(crate) fn acknowledged(&self, since: u64) -> Acknowledged {
        let registered = self.registered();
        let waiting = registered.connections.values().filter(|entry| entry.issued <= since);
        let mut names: Vec<String> = waiting.map(|entry| entry.id.to_string()).collect();
        let connected = registered.connections.len();
        let acknowledged = connected - names.len();
        names.sort_unstable();
        names.dedup();
        names.truncate(MAX_WAITING_SHOWN);
        Acknowledged {
            connected,
            acknowledged,
            waiting: names,
        }
    }

    /// A workload of that name was given a certificate: those of its connections that were made with one from before `since` are ended.
    pub(crate) fn renewed(&self, id: &SpiffeId, since: u64) {
        let registered = self.registered();
        let old = registered.connections.values();
        old.filter(|entry| entry.id == *id && entry.issued <= since)
            .for_each(|entry| entry.come_again.notify_one());
    }

    fn registered(&self) -> MutexGuard<'_, Registered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.connected.registered().connections.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_by_the_age_of_their_certificates() {
        let connected = Connected::default();
        let id = |name: &str| SpiffeId::parse(&format!("spiffe://d/ns/n/sa/{name}")).unwrap();
        let old = connected.enter(id("a"), 100);
        let _new = connected.enter(id("a"), 101);
        let _other = connected.enter(id("b"), 101);
        let told = |since| {
            let counts = connected.acknowledged(since);
            (counts.connected, counts.acknowledged, counts.waiting)
        };
        // Of the very second nobody can say whether it was before.
        assert_eq!(told(100), (3, 2, vec![id("a").to_string()]));
        assert_eq!(told(99), (3, 3, vec![]));
        assert_eq!(told(101).1, 0);
        drop(old);
        assert_eq!(told(100), (2, 2, vec![]));
    }
}
