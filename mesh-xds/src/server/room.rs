//! Places of streams: so many in all, and of these so many for one peer and on one connection.
//!
//! A place is taken before a client has said anything, since a stream costs something from its first moment. So nobody may take
//! them all: not one connection, and not one identity over many (or one address, where connections show no identity).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_core::identity::SpiffeId;

use super::peer::{Line, Peer};

/// The most streams at once. Each costs a task and a few kilobytes; a mesh of this size has several control planes.
pub(super) const MAX_STREAMS: usize = 10_000;
/// The most of one identity, or of one address without: the others find room whatever it does.
pub(super) const MAX_STREAMS_OF_ONE: usize = MAX_STREAMS / 2;
/// The most on one connection. gRPC has a stream for each target of a process, and puts them on one.
pub(super) const MAX_STREAMS_OF_CONNECTION: usize = 200;

/// Who a stream counts for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Whose {
    Identity(SpiffeId),
    Address(IpAddr),
}

impl Whose {
    /// `None` of a connection that nobody knows anything of.
    pub(super) fn of(peer: &Peer) -> Option<Self> {
        let identity = peer.identity.clone().map(Self::Identity);
        identity.or_else(|| Some(Self::Address(peer.address?.ip())))
    }
}

/// See the module's documentation. Clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct Room(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by: HashMap<Whose, usize>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    room: Room,
    line: Line,
    whose: Option<Whose>,
}

impl Room {
    /// A place for another stream of this connection, if there is one.
    pub(super) fn take(&self, line: &Line) -> Option<Place> {
        let whose = Whose::of(line.peer());
        let mut taken = self.lock();
        let of_one = whose.as_ref().and_then(|whose| taken.by.get(whose)).copied();
        let is_full = taken.all == MAX_STREAMS || of_one == Some(MAX_STREAMS_OF_ONE);
        if is_full || !line.begin(MAX_STREAMS_OF_CONNECTION) {
            return None;
        }
        taken.all += 1;
        if let Some(whose) = &whose {
            *taken.by.entry(whose.clone()).or_default() += 1;
        }
        drop(taken);
        Some(Place {
            room: self.clone(),
            line: line.clone(),
            whose,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.lock().all
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.line.end();
        let mut taken = self.room.lock();
        taken.all -= 1;
        if let Some(whose) = &self.whose
            && let Some(count) = taken.by.get_mut(whose)
        {
            *count -= 1;
            if *count == 0 {
                taken.by.remove(whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(identity: Option<&str>, host: u8) -> Line {
        Line::from(Peer {
            identity: identity.map(|id| SpiffeId::parse(id).unwrap()),
            address: Some(([127, 0, 0, host], 1).into()),
            ..Peer::default()
        })
    }

    #[test]
    fn cp_11_neither_a_connection_nor_a_peer_takes_all_places() {
        let room = Room::default();
        let one = line(Some("spiffe://d/a"), 1);
        let mut places: Vec<Place> = std::iter::from_fn(|| room.take(&one)).collect();
        assert_eq!(places.len(), MAX_STREAMS_OF_CONNECTION);
        // On as many connections as it likes, from anywhere.
        let more = (0..100).map(|host| line(Some("spiffe://d/a"), host));
        let more: Vec<Place> = more
            .flat_map(|line| (0..100).map_while(|_| room.take(&line)).collect::<Vec<_>>())
            .collect();
        places.extend(more);
        assert_eq!(places.len(), MAX_STREAMS_OF_ONE);
        assert!(
            room.take(&line(Some("spiffe://d/b"), 1)).is_some(),
            "another at the same address"
        );
        assert!(room.take(&line(None, 1)).is_some());
        drop(places);
        assert!(room.take(&one).is_some());
        assert_eq!(room.taken(), 0);
        assert!(room.lock().by.is_empty());
    }

    #[test]
    fn cp_11_there_is_a_most_of_all() {
        let room = Room::default();
        let lines = (0..=255).map(|host| line(None, host));
        let places: Vec<Place> = lines
            .flat_map(|line| (0..100).map_while(|_| room.take(&line)).collect::<Vec<_>>())
            .collect();
        assert_eq!(places.len(), MAX_STREAMS);
    }
}
