//! Who waits at a door that has room for so many: of more, the one that came first gives way.
//!
//! A peer that is still a stranger costs whoever floods the door one packet, and good ones are through in a few milliseconds. Where the
//! place is free again only when its holder's time is up, a few silent strangers a second hold all places, and whoever comes waits
//! behind them. Here who is slow makes room for who comes, as in a kernel's table of half-open connections: to push a good peer out, a
//! flood has to bring as many strangers as there are places while that peer shakes hands.

use std::collections::VecDeque;

/// Those at the door, in the order in which they came, each with what it is told by.
#[derive(Debug)]
pub struct Crowd<T> {
    room: usize,
    next: u64,
    waiting: VecDeque<(u64, T)>,
}

impl<T> Crowd<T> {
    /// Room for so many, one at least.
    pub fn new(room: usize) -> Self {
        Self {
            room: room.max(1),
            next: 0,
            waiting: VecDeque::new(),
        }
    }

    /// One more comes. Its number, for [`Crowd::leave`]; and what the one is told by that has to go.
    ///
    /// ```
    /// use mesh_core::crowd::Crowd;
    /// let mut crowd = Crowd::new(2);
    /// let (first, _) = crowd.enter("first");
    /// crowd.enter("second");
    /// assert_eq!(crowd.enter("third").1, Some("first"));
    /// assert_eq!(crowd.leave(first), None, "it has gone");
    /// ```
    pub fn enter(&mut self, told_by: T) -> (u64, Option<T>) {
        let number = self.next;
        self.next += 1;
        self.waiting.push_back((number, told_by));
        let gone = match self.waiting.len() > self.room {
            true => self.waiting.pop_front(),
            false => None,
        };
        (number, gone.map(|(_, told_by)| told_by))
    }

    /// One leaves, if it has not gone already.
    pub fn leave(&mut self, number: u64) -> Option<T> {
        let place = self.waiting.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        self.waiting.remove(place).map(|(_, told_by)| told_by)
    }

    /// The one that came first leaves, to make room elsewhere.
    pub fn first(&mut self) -> Option<T> {
        self.waiting.pop_front().map(|(_, told_by)| told_by)
    }

    /// How many are there.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_gives_way_and_who_leaves_makes_room() {
        let mut crowd = Crowd::new(3);
        let numbers: Vec<u64> = (0..3).map(|who| crowd.enter(who).0).collect();
        assert_eq!(crowd.leave(numbers[1]), Some(1));
        assert_eq!(crowd.enter(3).1, None);
        assert_eq!(crowd.enter(4).1, Some(0));
        assert_eq!(crowd.enter(5).1, Some(2));
        assert_eq!((crowd.leave(numbers[0]), crowd.len()), (None, 3));
        assert_eq!((crowd.first(), crowd.len()), (Some(3), 2));
    }
}
