//! How the peer of a connection behaves, and when it is shown out: it takes its requests back as fast as it sends them, it takes
//! nothing of what it has asked for, or it says nothing for an hour.
//!
//! All of it is counted on the way of each request, by a few additions and one look at the clock, and judged beside it: the watch
//! wakes once in some minutes, and only premature resets end a connection at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::places::{Full, Places};

/// How long a connection may be without a request before it is drained (Envoy's `idle_timeout` of connections, Istio's
/// `connectionPool.tcp.idleTimeout`).
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// How long a peer may take nothing of an answer that it has asked for (Envoy's `stream_flush_timeout`); it is ended before the
/// second such span is over. Silence of the service does not count, so that streams may wait for as long as they like. One stream cannot be
/// ended from outside while its peer makes no room for it (hyper asks nobody then), so its connection is: at once where nothing of it
/// moves, and else drained, so that what moves may end.
pub(super) const FLUSH_TIMEOUT: Duration = Duration::from_secs(300);

/// A request that its peer takes back within this time, unanswered, was taken back prematurely (Envoy's
/// `premature_reset_min_stream_lifetime_seconds`).
const PREMATURE: Duration = Duration::from_secs(1);

/// A connection is ended when more than half of so many requests, or of all where there are more, were taken back prematurely
/// (Envoy's `premature_reset_total_stream_count`).
const MAX_PREMATURE_OF: u64 = 500;

/// How many spans are told apart: this one, the one before, and one to spare.
const SPANS: usize = 4;

/// Why a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing was asked for long.
    Idle,
    /// What was asked for is not taken.
    Stalled,
    /// Of what was asked for one answer is not taken, while others are.
    StalledStream,
    /// What was asked for is taken back.
    PrematureResets,
    /// Nothing is asked, and others need the place.
    CrowdedOut,
}

impl Verdict {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Stalled => "stalled",
            Self::StalledStream => "stalled_stream",
            Self::PrematureResets => "premature_resets",
            Self::CrowdedOut => "crowded_out",
        }
    }
}

/// What is counted of one connection.
#[derive(Debug)]
pub(super) struct Conduct {
    places: Arc<Places>,
    /// Requests ever.
    begun: AtomicU64,
    /// From which request on none is served.
    refused_from: AtomicU64,
    /// Requests whose answer has not ended.
    live: AtomicUsize,
    ended: AtomicU64,
    premature: AtomicU64,
    /// Answers that have something for the peer which it has not taken, by the span in which that began.
    waiting: [AtomicUsize; SPANS],
    /// Which span it is.
    span: AtomicUsize,
    /// Pieces of answers that the peer has made room for.
    taken: AtomicU64,
    offended: Notify,
    /// Others need its place.
    crowded: Notify,
    opened: Instant,
    /// When the last request began, in milliseconds since then.
    last_begun: AtomicU64,
}

impl Conduct {
    pub(super) fn new(places: Arc<Places>) -> Arc<Self> {
        Arc::new(Self {
            places,
            begun: AtomicU64::new(0),
            refused_from: AtomicU64::new(u64::MAX),
            live: AtomicUsize::new(0),
            ended: AtomicU64::new(0),
            premature: AtomicU64::new(0),
            waiting: Default::default(),
            span: AtomicUsize::new(0),
            taken: AtomicU64::new(0),
            offended: Notify::new(),
            crowded: Notify::new(),
            opened: Instant::now(),
            last_begun: AtomicU64::new(0),
        })
    }

    /// Those of the server.
    pub(super) fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// One more request came. Whether it may be served, as far as where it ends is clear.
    pub(super) fn begin(&self) -> bool {
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        number < self.refused_from.load(Ordering::Relaxed)
    }

    /// The request of this number, counted from one, says twice where it ends: neither it nor what follows is served.
    pub(super) fn refuse_from(&self, number: u64) {
        self.refused_from.fetch_min(number, Ordering::Relaxed);
    }

    /// How many requests have come.
    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// How long it has been without a request, if it is: since the last one began, or since the connection did.
    pub(super) fn quiet_for(&self) -> Option<Duration> {
        let last = Duration::from_millis(self.last_begun.load(Ordering::Relaxed));
        self.is_quiet().then(|| self.opened.elapsed().saturating_sub(last))
    }

    /// Others need its place, and it is told to go.
    pub(super) fn crowd_out(&self) {
        self.crowded.notify_one();
    }

    /// Resolves when it is to go.
    pub(super) async fn crowded(&self) {
        self.crowded.notified().await;
    }

    /// Whether no request's answer is awaited.
    pub(super) fn is_quiet(&self) -> bool {
        self.live.load(Ordering::Relaxed) == 0
    }

    /// A place for a request, if the server has one.
    pub(super) fn take_place(self: &Arc<Self>) -> Result<Place, Full> {
        self.places.take()?;
        self.live.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        let since = begun.saturating_duration_since(self.opened).as_millis();
        self.last_begun
            .store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(Place {
            conduct: Arc::clone(self),
            begun,
            answered: false,
            waiting: None,
        })
    }

    /// Ends when the connection is to be ended. `idle` is the time it may be without a request; zero is for ever.
    pub(super) async fn judge(&self, idle: Duration) -> Verdict {
        tokio::select! {
            () = self.offended.notified() => Verdict::PrematureResets,
            () = self.gives_way() => Verdict::CrowdedOut,
            verdict = self.watch(idle) => verdict,
        }
    }

    /// Resolves when it is to go and asks for nothing.
    async fn gives_way(&self) {
        loop {
            self.crowded().await;
            if self.is_quiet() {
                return;
            }
        }
    }

    async fn watch(&self, idle: Duration) -> Verdict {
        let period = if idle.is_zero() {
            FLUSH_TIMEOUT
        } else {
            FLUSH_TIMEOUT.min(idle)
        };
        let (mut begun, mut taken) = (0, 0);
        let mut since = Instant::now();
        loop {
            sleep(period).await;
            let (now_begun, now_taken) = (self.begun(), self.taken.load(Ordering::Relaxed));
            // What began to wait in the span before this one has waited for a whole one.
            let span = self.span.fetch_add(1, Ordering::Relaxed);
            let last = &self.waiting[span.wrapping_sub(1) % SPANS];
            if last.load(Ordering::Relaxed) > 0 {
                return match now_taken == taken {
                    true => Verdict::Stalled,
                    false => Verdict::StalledStream,
                };
            }
            if now_begun != begun || !self.is_quiet() {
                since = Instant::now();
            } else if !idle.is_zero() && since.elapsed() >= idle {
                return Verdict::Idle;
            }
            (begun, taken) = (now_begun, now_taken);
        }
    }

    fn end(&self, premature: bool) {
        let ended = self.ended.fetch_add(1, Ordering::Relaxed) + 1;
        if !premature {
            return;
        }
        let premature = self.premature.fetch_add(1, Ordering::Relaxed) + 1;
        if premature * 2 > ended.max(MAX_PREMATURE_OF) {
            self.offended.notify_one();
        }
    }
}

/// The place of one request among those that the server works on, held until the answer's body has ended or is dropped.
#[derive(Debug)]
pub(super) struct Place {
    conduct: Arc<Conduct>,
    begun: Instant,
    answered: bool,
    /// Since which span the peer has something to take.
    waiting: Option<usize>,
}

impl Place {
    /// There is an answer; its body is the peer's to take.
    pub(super) fn answer(&mut self, has_body: bool) {
        self.answered = true;
        self.conduct.places.answered(self.begun);
        self.wait(has_body);
    }

    /// The peer has made room for a piece of the answer. Whether there was a piece to take, and more may come, is told after.
    pub(super) fn take(&mut self) {
        self.conduct.taken.fetch_add(1, Ordering::Relaxed);
        self.wait(false);
    }

    /// Whether the peer has now something to take.
    pub(super) fn wait(&mut self, waiting: bool) {
        if waiting == self.waiting.is_some() {
            return;
        }
        match self.waiting.take() {
            Some(span) => drop(self.conduct.waiting[span].fetch_sub(1, Ordering::Relaxed)),
            None => {
                let span = self.conduct.span.load(Ordering::Relaxed) % SPANS;
                self.conduct.waiting[span].fetch_add(1, Ordering::Relaxed);
                self.waiting = Some(span);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.wait(false);
        self.conduct.places.give_back();
        self.conduct.live.fetch_sub(1, Ordering::Relaxed);
        self.conduct.end(!self.answered && self.begun.elapsed() < PREMATURE);
    }
}
