//! Which of an authority's control planes are connected, and whose word counts (gRFC A71).
//!
//! The first is asked first. The next is asked besides only while all before it fail *and* something that is wanted is not
//! known: an outage that costs nothing is no reason to listen to somebody else. The word of one counts at a time. Another
//! that answers becomes the candidate, and takes over when it has told everything that is wanted, so that no configuration
//! is ever made of two of them. Those before the one whose word counts go on trying, and take it back in the same way; those
//! after it are let go.
//!
//! Here is nothing but the decision: positions in the list of priority, and two facts about each.

/// What is known of one control plane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Condition {
    /// The last attempt ended without a word from it.
    pub(super) failing: bool,
    /// It has answered on the stream that is open.
    pub(super) answers: bool,
}

/// See the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Roles {
    /// How many are connected, from the first.
    open: usize,
    /// Whose word counts.
    source: usize,
    /// Who is to take over.
    candidate: Option<usize>,
}

impl Default for Roles {
    fn default() -> Self {
        Self {
            open: 1,
            source: 0,
            candidate: None,
        }
    }
}

impl Roles {
    /// Those at the start where `source`, behind all control planes, is one that is never connected: a copy on disk.
    pub(super) fn behind(source: usize) -> Self {
        Self {
            source,
            ..Self::default()
        }
    }

    /// Whether this one is to be connected.
    pub(super) fn is_open(&self, position: usize) -> bool {
        position < self.open
    }

    pub(super) fn source(&self) -> usize {
        self.source
    }

    pub(super) fn candidate(&self) -> Option<usize> {
        self.candidate
    }

    /// The one to look at when asking what comes next.
    pub(super) fn next_source(&self) -> usize {
        self.candidate.unwrap_or(self.source)
    }

    /// Whether all that are connected fail.
    pub(super) fn all_fail(&self, of: &[Condition]) -> bool {
        of[..self.open].iter().all(|one| one.failing)
    }

    /// Connects one more, if all before it fail; whether there was one.
    pub(super) fn fall_back(&mut self, of: &[Condition]) -> bool {
        let next = self.open < of.len() && self.all_fail(of);
        self.open += usize::from(next);
        next
    }

    /// Chooses the candidate anew; whether it is another one. One of higher priority than the source always is better; one
    /// of lower priority only while the source does not answer.
    pub(super) fn elect(&mut self, of: &[Condition]) -> bool {
        let is_better = |position: &usize| of[*position].answers && *position != self.source;
        let mut better = (0..self.open).filter(is_better);
        let candidate = better.find(|position| *position < self.source || of[self.source].failing);
        let is_new = candidate != self.candidate;
        self.candidate = candidate;
        // A source that answers again needs nobody behind it.
        if candidate.is_none() && of[self.source].answers {
            self.open = self.source + 1;
        }
        is_new
    }

    /// The candidate becomes the source, and those after it are let go. Returns who was the source.
    pub(super) fn take_over(&mut self) -> Option<usize> {
        let candidate = self.candidate.take()?;
        self.open = candidate + 1;
        Some(std::mem::replace(&mut self.source, candidate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNTRIED: Condition = Condition {
        failing: false,
        answers: false,
    };
    const FAILS: Condition = Condition {
        failing: true,
        answers: false,
    };
    const ANSWERS: Condition = Condition {
        failing: false,
        answers: true,
    };

    fn roles(open: usize, source: usize, candidate: Option<usize>) -> Roles {
        Roles {
            open,
            source,
            candidate,
        }
    }

    #[test]
    fn the_next_is_connected_only_when_all_before_it_fail() {
        for (of, before, after) in [
            ([UNTRIED, UNTRIED, UNTRIED], 1, 1),
            ([ANSWERS, UNTRIED, UNTRIED], 1, 1),
            ([FAILS, UNTRIED, UNTRIED], 1, 2),
            ([FAILS, UNTRIED, UNTRIED], 2, 2),
            ([FAILS, ANSWERS, UNTRIED], 2, 2),
            ([FAILS, FAILS, UNTRIED], 2, 3),
            ([FAILS, FAILS, FAILS], 3, 3),
        ] {
            let mut roles = roles(before, 0, None);
            assert_eq!(roles.fall_back(&of), before != after);
            assert_eq!(roles.open, after, "{of:?}");
        }
    }

    #[test]
    fn the_candidate_is_the_best_that_answers() {
        for (of, before, after) in [
            // The source answers: nobody else is needed.
            ([ANSWERS, ANSWERS, UNTRIED], roles(2, 0, Some(1)), roles(1, 0, None)),
            // It lost its stream after an answer, which is not failing.
            ([UNTRIED, ANSWERS, UNTRIED], roles(2, 0, None), roles(2, 0, None)),
            ([FAILS, ANSWERS, UNTRIED], roles(2, 0, None), roles(2, 0, Some(1))),
            ([FAILS, ANSWERS, ANSWERS], roles(3, 0, Some(2)), roles(3, 0, Some(1))),
            ([FAILS, FAILS, ANSWERS], roles(3, 0, Some(1)), roles(3, 0, Some(2))),
            // A higher one is back: it is the candidate whether or not the source answers.
            ([ANSWERS, ANSWERS, UNTRIED], roles(2, 1, None), roles(2, 1, Some(0))),
            ([ANSWERS, FAILS, ANSWERS], roles(3, 1, Some(2)), roles(3, 1, Some(0))),
            ([FAILS, ANSWERS, ANSWERS], roles(3, 2, None), roles(3, 2, Some(1))),
            // It is gone again before it took over.
            ([UNTRIED, ANSWERS, UNTRIED], roles(2, 1, Some(0)), roles(2, 1, None)),
        ] {
            let mut roles = before;
            assert_eq!(roles.elect(&of), before.candidate != after.candidate, "{of:?}");
            assert_eq!(roles, after, "{of:?}");
        }
    }

    #[test]
    fn taking_over_lets_go_of_those_behind() {
        let mut three = roles(3, 2, Some(0));
        assert_eq!(three.take_over(), Some(2));
        assert_eq!(three, roles(1, 0, None));
        assert_eq!(three.take_over(), None);
        let mut down = roles(3, 0, Some(2));
        assert_eq!(down.take_over(), Some(0));
        assert_eq!(down, roles(3, 2, None));
        assert!(down.is_open(0) && down.is_open(2) && !roles(1, 0, None).is_open(1));
    }
}
