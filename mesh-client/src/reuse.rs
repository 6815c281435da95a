//! Boxes that are used again.
//!
//! What a call keeps aside is large, and moves through every room inside of the call's future. In a box it moves as a pointer;
//! and a box that the thread kept from an earlier call costs no allocation.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::thread::LocalKey;

/// The most that a thread keeps of each kind: so many calls begin or end in it before one allocates.
const MAX_KEPT: usize = 64;

/// The boxes of a thread.
pub(crate) type Kept<T> = RefCell<Vec<Box<T>>>;

/// What can be emptied and used again.
pub(crate) trait Reuse: Default + 'static {
    /// Where a thread keeps those that are empty.
    fn kept() -> &'static LocalKey<Kept<Self>>;

    /// Lets go of all that it holds.
    fn clear(&mut self);
}

/// A box that goes back to its thread, emptied, when it is dropped.
pub(crate) struct Reused<T: Reuse> {
    /// There until it is dropped.
    value: Option<Box<T>>,
}

impl<T: Reuse> Reused<T> {
    /// An empty one.
    #[inline]
    pub(crate) fn take() -> Self {
        // A thread that is ending keeps nothing any more.
        let kept = T::kept().try_with(|kept| kept.borrow_mut().pop());
        Self {
            value: Some(kept.ok().flatten().unwrap_or_default()),
        }
    }
}

impl<T: Reuse> Drop for Reused<T> {
    fn drop(&mut self) {
        let Some(mut value) = self.value.take() else { return };
        // Outside of the list's borrow: what it held may run somebody else's code.
        value.clear();
        let _ = T::kept().try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < MAX_KEPT {
                kept.push(value);
            }
        });
    }
}

impl<T: Reuse> Deref for Reused<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.value.as_ref().expect("there until it is dropped")
    }
}

impl<T: Reuse> DerefMut for Reused<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("there until it is dropped")
    }
}

impl<T: Reuse + std::fmt::Debug> std::fmt::Debug for Reused<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[derive(Default)]
    struct Held(Option<Rc<()>>);

    impl Reuse for Held {
        fn kept() -> &'static LocalKey<Kept<Self>> {
            thread_local! {
                static KEPT: Kept<Held> = const { RefCell::new(Vec::new()) };
            }
            &KEPT
        }

        fn clear(&mut self) {
            self.0 = None;
        }
    }

    #[test]
    fn a_box_comes_back_empty_and_only_so_many_are_kept() {
        let value = Rc::new(());
        let mut first = Reused::<Held>::take();
        first.0 = Some(Rc::clone(&value));
        let place: *const Held = &*first;
        drop(first);
        assert_eq!(Rc::strong_count(&value), 1);
        let again = Reused::<Held>::take();
        assert!(std::ptr::eq(place, &*again) && again.0.is_none());
        let many: Vec<_> = (0..2 * MAX_KEPT).map(|_| Reused::<Held>::take()).collect();
        drop(many);
        Held::kept().with_borrow(|kept| assert_eq!(kept.len(), MAX_KEPT));
    }
}
