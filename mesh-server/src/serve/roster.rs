//! Who is connected, and who gives way when places for connections run out.
//!
//! A connection that asks for nothing costs its peer nothing, and one peer can hold all places with them. So when somebody comes and no
//! place is free, the connection gives way that has been without a request for longest, those first that never had one: a mesh peer that
//! has been idle connects again when it next calls. One with a request in flight never does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::conduct::Conduct;

/// A connection that has been without a request for less gives way to nobody.
const QUIET_GRACE: Duration = Duration::from_secs(5);

/// The connections of a server.
#[derive(Debug, Default)]
pub(super) struct Roster {
    seats: Mutex<Seats>,
}

#[derive(Debug, Default)]
struct Seats {
    next: u64,
    taken: BTreeMap<u64, Weak<Conduct>>,
}

/// One connection's, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    roster: Arc<Roster>,
    number: u64,
}

impl Roster {
    pub(super) fn enter(self: &Arc<Self>, conduct: &Arc<Conduct>) -> Seat {
        let mut seats = self.lock();
        let number = seats.next;
        seats.next += 1;
        seats.taken.insert(number, Arc::downgrade(conduct));
        Seat {
            roster: Arc::clone(self),
            number,
        }
    }

    /// Tells the connection to go that is needed least, if there is one.
    pub(super) fn make_room(&self) {
        let seats = self.lock();
        let candidates = seats.taken.values().filter_map(Weak::upgrade).filter_map(|conduct| {
            let quiet = conduct.quiet_for().filter(|quiet| *quiet >= QUIET_GRACE)?;
            Some((conduct.begun() == 0, quiet, conduct))
        });
        let least = candidates.max_by_key(|(unused, quiet, _)| (*unused, *quiet));
        if let Some((_, _, conduct)) = least {
            conduct.crowd_out();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seats> {
        // A map is whole whatever its holder was doing when it panicked.
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.roster.lock().taken.remove(&self.number);
    }
}
