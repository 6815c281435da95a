//! A future that is polled when it is woken, and not whenever its task is.
//!
//! What is waited for beside a connection happens once in minutes, if ever; the connection's task runs twice a call.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use pin_project_lite::pin_project;

pin_project! {
    /// Resolves as the inner future does.
    pub(super) struct Apart<F> {
        #[pin]
        inner: F,
        bell: Arc<Bell>,
        waker: Waker,
    }
}

struct Bell {
    /// The inner future was woken and not polled since.
    rung: AtomicBool,
    /// The task's.
    waker: Mutex<Option<Waker>>,
}

impl<F> Apart<F> {
    pub(super) fn new(inner: F) -> Self {
        let bell = Arc::new(Bell {
            // Nobody has polled it.
            rung: AtomicBool::new(true),
            waker: Mutex::default(),
        });
        Self {
            inner,
            waker: Waker::from(Arc::clone(&bell)),
            bell,
        }
    }
}

impl<F: Future> Future for Apart<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        {
            let mut waker = this.bell.waker.lock().unwrap_or_else(PoisonError::into_inner);
            if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
        }
        // The waker first: who rings from here on either is seen here or wakes the task.
        if !this.bell.rung.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        this.inner.poll(&mut Context::from_waker(this.waker))
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn it_is_polled_when_it_is_woken_and_only_then() {
        let (bell, polls) = (Notify::new(), AtomicUsize::new(0));
        let inner = async {
            let mut rung = pin!(bell.notified());
            poll_fn(|cx| {
                polls.fetch_add(1, Ordering::Relaxed);
                rung.as_mut().poll(cx)
            })
            .await;
        };
        let mut apart = pin!(Apart::new(inner));
        for _ in 0..10 {
            let polled = poll_fn(|cx| Poll::Ready(apart.as_mut().poll(cx))).await;
            assert!(polled.is_pending());
        }
        assert_eq!(polls.load(Ordering::Relaxed), 1);
        // The task waits, and is woken through it.
        let ((), ()) = tokio::join!(apart, async { bell.notify_one() });
        assert_eq!(polls.load(Ordering::Relaxed), 2);
    }
}
