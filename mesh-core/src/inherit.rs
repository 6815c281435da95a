//! What an inbound request passes on to the calls that are made while it is handled: what is left of its time, whether it
//! is a retry already, and which trace it is part of. Without the handler's help.
//!
//! The server sets it around the handler's future and its response body, the client reads it when a call begins. The two know
//! nothing of each other; they meet here. It is a scope of the *poll*, as tokio's task-locals are, without tokio: the value is
//! put in its thread's place before the inner future is polled and taken back after. Nothing is allocated for it.
//!
//! What a handler spawns is another task with a place of its own, and inherits nothing, unless it is wrapped:
//! `tokio::spawn(mesh_core::inherit::carry(work))`. That is a choice: work that goes on after the answer is often not bound by
//! the answer's deadline.
//!
//! One thing goes the other way. A call whose retries are used up says so ([`note_exhausted`]), and the server then marks a
//! failing answer as not to be retried, so that the tries of a chain of services do not multiply.

use std::cell::Cell;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use crate::trace::TraceHeaders;

thread_local! {
    static CURRENT: Cell<Option<Inherited>> = const { Cell::new(None) };
}

/// What a request passes on.
#[derive(Debug, Default)]
pub struct Inherited {
    deadline: Option<Instant>,
    is_retry: bool,
    source: Option<IpAddr>,
    trace: Option<Arc<TraceHeaders>>,
    exhausted: Exhausted,
}

#[derive(Debug, Default)]
enum Exhausted {
    #[default]
    No,
    Yes,
    /// Told by tasks that carry it too.
    Shared(Arc<AtomicBool>),
}

impl Inherited {
    /// Of a request that must be answered by `deadline`, if it must.
    pub fn new(deadline: Option<Instant>) -> Self {
        Self {
            deadline,
            ..Self::default()
        }
    }

    /// The request is itself another try of somebody who has tries left.
    #[must_use]
    pub fn as_retry(self, is_retry: bool) -> Self {
        Self { is_retry, ..self }
    }

    /// It came from there.
    #[must_use]
    pub fn came_from(self, source: Option<IpAddr>) -> Self {
        Self { source, ..self }
    }

    /// It says this of its trace.
    #[must_use]
    pub fn in_trace(self, trace: Option<Arc<TraceHeaders>>) -> Self {
        Self { trace, ..self }
    }

    /// What it says of its trace, if anything.
    pub fn trace(&self) -> Option<&Arc<TraceHeaders>> {
        self.trace.as_ref()
    }

    /// Where it came from, if that is known.
    pub fn source(&self) -> Option<IpAddr> {
        self.source
    }

    /// When it must be answered.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether it is itself another try.
    pub fn is_retry(&self) -> bool {
        self.is_retry
    }

    /// Whether a call that was made for it used up its retries.
    pub fn is_exhausted(&self) -> bool {
        match &self.exhausted {
            Exhausted::No => false,
            Exhausted::Yes => true,
            Exhausted::Shared(told) => told.load(Ordering::Relaxed),
        }
    }

    fn exhaust(&mut self) {
        match &self.exhausted {
            Exhausted::Shared(told) => told.store(true, Ordering::Relaxed),
            _ => self.exhausted = Exhausted::Yes,
        }
    }

    /// The same for another task; what either finds out, both know.
    fn share(&mut self) -> Self {
        let told = match &self.exhausted {
            Exhausted::Shared(told) => Arc::clone(told),
            _ => Arc::new(AtomicBool::new(self.is_exhausted())),
        };
        self.exhausted = Exhausted::Shared(Arc::clone(&told));
        Self {
            deadline: self.deadline,
            is_retry: self.is_retry,
            source: self.source,
            trace: self.trace.clone(),
            exhausted: Exhausted::Shared(told),
        }
    }
}

/// Looks at what the request that is being handled here passes on; `None` outside of one.
pub fn with<R>(look: impl FnOnce(&mut Inherited) -> R) -> Option<R> {
    // Taken out and put back: `look` finds no value if it asks again, which is harmless, and there is no borrow to panic on.
    CURRENT.with(|current| {
        let mut inherited = current.take()?;
        let found = look(&mut inherited);
        current.set(Some(inherited));
        Some(found)
    })
}

/// Says that a call made here used up its retries, or was told not to retry.
pub fn note_exhausted() {
    with(Inherited::exhaust);
}

/// Runs `work` with `inherited` in its thread's place. Whatever `work` does, the place is as before after it.
pub fn enter<R>(inherited: &mut Option<Inherited>, work: impl FnOnce() -> R) -> R {
    struct Leave<'a> {
        inherited: &'a mut Option<Inherited>,
        outer: Option<Inherited>,
    }
    impl Drop for Leave<'_> {
        fn drop(&mut self) {
            *self.inherited = CURRENT.replace(self.outer.take());
        }
    }
    let outer = CURRENT.replace(inherited.take());
    let _leave = Leave { inherited, outer };
    work()
}

/// A future that inherits what the place it is made in does: for work that is spawned.
///
/// ```
/// # async fn handler() {
/// let work = async { /* calls that must be answered in the request's time */ };
/// let task = mesh_core::inherit::carry(work); // tokio::spawn(task)
/// # task.await;
/// # }
/// ```
pub fn carry<F: Future>(work: F) -> Carried<F> {
    Carried {
        work: Box::pin(work),
        inherited: with(Inherited::share),
    }
}

/// See [`carry`].
#[derive(Debug)]
pub struct Carried<F> {
    // Boxed, since it is as big as the work is, and a task is allocated for it anyway.
    work: Pin<Box<F>>,
    inherited: Option<Inherited>,
}

impl<F: Future> Future for Carried<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        enter(&mut this.inherited, || this.work.as_mut().poll(cx))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn deadline() -> Option<Instant> {
        with(|inherited| inherited.deadline()).flatten()
    }

    #[allow(clippy::disallowed_methods, reason = "any instant will do: only equality matters")]
    fn some_time() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_scope_holds_inside_and_not_outside() {
        let at = some_time();
        let mut scope = Some(Inherited::new(Some(at)));
        assert_eq!(deadline(), None);
        enter(&mut scope, || {
            assert_eq!(deadline(), Some(at));
            let mut inner = Some(Inherited::new(None));
            enter(&mut inner, || assert_eq!(deadline(), None));
            assert_eq!(deadline(), Some(at));
            note_exhausted();
        });
        assert_eq!(deadline(), None);
        assert!(scope.unwrap().is_exhausted());
        note_exhausted();
    }

    #[test]
    fn a_panic_leaves_the_place_as_it_was() {
        let mut scope = Some(Inherited::new(Some(some_time())));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            enter(&mut scope, || panic!("as handlers do"));
        }));
        assert!(panicked.is_err() && deadline().is_none() && scope.is_some());
    }

    #[test]
    fn carried_work_inherits_in_another_thread_and_tells_back() {
        let at = some_time();
        let mut scope = Some(Inherited::new(Some(at)).as_retry(true));
        let carried = enter(&mut scope, || {
            carry(async move {
                note_exhausted();
                (deadline(), with(|inherited| inherited.is_retry()))
            })
        });
        let run = move || {
            let mut carried = carried;
            Pin::new(&mut carried).poll(&mut Context::from_waker(Waker::noop()))
        };
        let found = std::thread::spawn(run).join().unwrap();
        assert_eq!(found, Poll::Ready((Some(at), Some(true))));
        assert!(scope.unwrap().is_exhausted());
    }
}
