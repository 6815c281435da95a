//! Timers for calls: cheap to set and to take back, since nearly all of them never go off.
//!
//! A timer of the runtime is an allocation, a place in a wheel behind a lock, and work for the driver each time it parks. A
//! call's limit needs none of it: it is set, and taken back a moment later. So alarms stand in a short list, and one task
//! sleeps until the earliest of them. An alarm that is later than that, as the limits of following calls are, wakes nobody.
//!
//! The task is the link's and ends with it; alarms that are set go off no more then, and neither do connections live on.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Lists, so that threads rarely meet at one lock. A power of two.
const LISTS: usize = 16;
/// Stands for no alarm at all.
const NEVER: u64 = u64::MAX;

/// The alarms of a link.
pub(crate) struct Alarms {
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    base: Instant,
    lists: [Mutex<List>; LISTS],
    /// When the task looks next, in nanoseconds after `base`. Alarms before it ring the bell.
    next_look: AtomicU64,
    bell: Notify,
    turn: AtomicU64,
    /// How often alarms went off: while it does not move, none has.
    gone_off: AtomicU64,
}

#[derive(Default)]
struct List {
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
}

struct Entry {
    at: u64,
    /// `None`: it went off.
    waker: Option<Waker>,
}

impl Alarms {
    /// Starts the task.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub(crate) fn start() -> Arc<Self> {
        let shared = Arc::new(Shared {
            base: Instant::now(),
            lists: Default::default(),
            next_look: AtomicU64::new(NEVER),
            bell: Notify::new(),
            turn: AtomicU64::new(0),
            gone_off: AtomicU64::new(0),
        });
        let task = tokio::spawn(run(Arc::clone(&shared))).abort_handle();
        Arc::new(Self { shared, task })
    }

    /// An alarm that goes off `after` from `now`, which whoever asks has looked up already. Nothing is listed before it is waited
    /// for.
    pub(crate) fn from(self: &Arc<Self>, now: Instant, after: Duration) -> Alarm {
        let at = self.shared.since_base(now).saturating_add(nanos(after));
        Alarm {
            alarms: Arc::clone(self),
            at,
            place: None,
            gone_off_before: 0,
        }
    }
}

impl Drop for Alarms {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn since_base(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.base))
    }

    fn lock(&self, list: usize) -> MutexGuard<'_, List> {
        self.lists[list].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes what is due; when the earliest of the others is.
    fn look(&self, now: u64) -> u64 {
        // Until all lists were seen every new alarm rings: it may stand in one that was seen already.
        self.next_look.store(NEVER, Ordering::SeqCst);
        let mut earliest = NEVER;
        for list in 0..LISTS {
            let mut due = Vec::new();
            for entry in self.lock(list).entries.iter_mut().flatten() {
                if entry.at <= now {
                    due.extend(entry.waker.take());
                } else {
                    earliest = earliest.min(entry.at);
                }
            }
            if !due.is_empty() {
                self.gone_off.fetch_add(1, Ordering::Relaxed);
            }
            due.into_iter().for_each(Waker::wake);
        }
        self.next_look.store(earliest, Ordering::SeqCst);
        earliest
    }
}

async fn run(shared: Arc<Shared>) {
    loop {
        let earliest = shared.look(shared.since_base(Instant::now()));
        let due = async {
            match earliest {
                NEVER => std::future::pending().await,
                at => tokio::time::sleep_until(shared.base + Duration::from_nanos(at)).await,
            }
        };
        tokio::select! {
            () = shared.bell.notified() => {}
            () = due => {}
        }
    }
}

/// One alarm. Dropping it takes it back.
pub(crate) struct Alarm {
    alarms: Arc<Alarms>,
    at: u64,
    place: Option<(usize, usize)>,
    /// How often others had gone off when it was listed.
    gone_off_before: u64,
}

impl Alarm {
    /// Whether it went off. Cheap, and true only after it was waited for.
    pub(crate) fn has_gone_off(&self) -> bool {
        let Some((list, entry)) = self.place else { return false };
        if self.alarms.shared.gone_off.load(Ordering::Relaxed) == self.gone_off_before {
            return false;
        }
        let list = self.alarms.shared.lock(list);
        list.entries[entry].as_ref().is_some_and(|entry| entry.waker.is_none())
    }

    /// Sets it anew, to go off at `at`.
    pub(crate) fn again(&mut self, at: Instant) {
        *self = self.alarms.from(at, Duration::ZERO);
    }

    /// Ready once it is time.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let shared = &self.alarms.shared;
        if let Some((list, entry)) = self.place {
            let mut list = shared.lock(list);
            return match list.entries[entry].as_mut().and_then(|entry| entry.waker.as_mut()) {
                None => Poll::Ready(()),
                Some(waker) => {
                    waker.clone_from(cx.waker());
                    Poll::Pending
                }
            };
        }
        self.gone_off_before = shared.gone_off.load(Ordering::Relaxed);
        let list = shared.turn.fetch_add(1, Ordering::Relaxed) as usize % LISTS;
        let entry = shared.lock(list).insert(Entry {
            at: self.at,
            waker: Some(cx.waker().clone()),
        });
        self.place = Some((list, entry));
        if self.at < shared.next_look.load(Ordering::SeqCst) {
            shared.bell.notify_one();
        }
        Poll::Pending
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some((list, entry)) = self.place {
            let taken = self.alarms.shared.lock(list).remove(entry);
            // Outside of the lock: dropping a waker may run somebody else's code.
            drop(taken);
        }
    }
}

impl List {
    fn insert(&mut self, entry: Entry) -> usize {
        match self.free.pop() {
            Some(place) => {
                self.entries[place] = Some(entry);
                place
            }
            None => {
                self.entries.push(Some(entry));
                self.entries.len() - 1
            }
        }
    }

    fn remove(&mut self, place: usize) -> Option<Entry> {
        self.free.push(place);
        self.entries[place].take()
    }
}

/// About 584 years at most, which is for ever.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(NEVER - 1)
}

impl fmt::Debug for Alarms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alarms").finish_non_exhaustive()
    }
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alarm").field("at", &self.at).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    impl Alarms {
        fn after(self: &Arc<Self>, after: Duration) -> Alarm {
            self.from(Instant::now(), after)
        }
    }

    async fn goes_off(alarms: &Arc<Alarms>, after: Duration) -> Duration {
        let began = Instant::now();
        let mut alarm = alarms.after(after);
        assert!(!alarm.has_gone_off());
        poll_fn(|cx| alarm.poll(cx)).await;
        assert!(alarm.has_gone_off());
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn alarms_go_off_in_time_whatever_their_order() {
        let alarms = Alarms::start();
        let millis = [500, 20, 300, 20, 1, 10_000, 77, 0];
        let mut waiting = tokio::task::JoinSet::new();
        for after in millis {
            let alarms = Arc::clone(&alarms);
            waiting.spawn(async move { (after, goes_off(&alarms, Duration::from_millis(after)).await) });
        }
        while let Some(done) = waiting.join_next().await {
            let (after, took) = done.unwrap();
            let late = took.checked_sub(Duration::from_millis(after)).unwrap();
            assert!(late <= Duration::from_millis(1), "{after} ms went off {late:?} late");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_one_is_heard_of_while_the_task_sleeps() {
        let alarms = Alarms::start();
        let mut long = alarms.after(Duration::from_secs(3600));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(long.poll(&mut cx).is_pending());
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(goes_off(&alarms, Duration::from_secs(1)).await < Duration::from_millis(1_002));
        assert!(!long.has_gone_off());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_taken_back_leaves_its_place_to_the_next() {
        let alarms = Alarms::start();
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..10_000 {
            let mut alarm = alarms.after(Duration::from_secs(1));
            assert!(alarm.poll(&mut cx).is_pending());
        }
        for list in 0..LISTS {
            assert!(alarms.shared.lock(list).entries.len() <= 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_waker_is_woken() {
        let alarms = Alarms::start();
        let mut alarm = alarms.after(Duration::from_millis(10));
        assert!(alarm.poll(&mut Context::from_waker(Waker::noop())).is_pending());
        poll_fn(|cx| alarm.poll(cx)).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_threads_lose_none() {
        let alarms = Alarms::start();
        let mut waiting = tokio::task::JoinSet::new();
        for n in 0..2_000u64 {
            let alarms = Arc::clone(&alarms);
            waiting.spawn(async move { goes_off(&alarms, Duration::from_micros(n * 37 % 5_000)).await });
        }
        let all = async {
            while let Some(done) = waiting.join_next().await {
                done.unwrap();
            }
        };
        // A bound on a hang, not on time.
        tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
    }
}
