//! How many requests at once are good for a server, found out by how long they take (Envoy's gradient controller).
//!
//! A server that takes all that comes answers nobody in time once more comes than it can do: each request waits for all before it, and
//! its caller has gone when its turn comes. A number set by hand is right until the service changes. So it is measured: now and then only
//! a few requests at once are let in, and what they take is what a request takes that waits for none; from then on the limit is worked out
//! anew in short windows, by how much longer requests took in the last one. It grows by more than it found good (the square root of it), so
//! that it finds out when more is possible, and a server that gets slower for another reason than load is measured anew.
//!
//! In one thing it differs: the limit is no more than twice of what ran at once in its window. Envoy's grows to its maximum while little is
//! asked, and a burst then finds it there: as many are let in at once as nobody ever tried.
//!
//! Pure: it takes the times, and a draw for when to measure again.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::AdaptiveConcurrency;
use crate::entropy::Draw;

/// The most times kept of one window; of more, which are kept is left to chance.
const MAX_TIMES: usize = 4096;

/// So many windows in a row at the least limit, and the shortest time is measured anew: it may no longer be true (Envoy).
const MAX_PINNED: u32 = 5;

/// See the module.
#[derive(Debug)]
pub struct GradientController {
    config: AdaptiveConcurrency,
    limit: AtomicU32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Requests that began before ran beside more than may run now: their times say nothing.
    epoch: Instant,
    times: Vec<Duration>,
    /// How many there were, kept or not.
    seen: u64,
    /// The most that ran at once.
    at_once: u32,
    phase: Phase,
    shortest: Duration,
    measure_at: Instant,
    pinned: u32,
}

#[derive(Debug)]
enum Phase {
    /// It is found out how long requests take that wait for none; what the limit is to be then.
    Measuring { then: u32 },
    /// Until this moment times are gathered.
    Window { until: Instant },
}

impl GradientController {
    /// Begins with the least limit, which it measures the shortest time at.
    pub fn new(config: AdaptiveConcurrency, now: Instant) -> Self {
        let least = config.min_concurrency.max(1);
        Self {
            limit: AtomicU32::new(least),
            state: Mutex::new(State {
                epoch: now,
                times: Vec::with_capacity(MAX_TIMES),
                seen: 0,
                at_once: 0,
                phase: Phase::Measuring { then: least },
                shortest: Duration::ZERO,
                measure_at: now,
                pinned: 0,
            }),
            config,
        }
    }

    /// How many requests may be worked on at once now.
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// A request that began at `began` was answered `now`, when `at_once` were worked on. One that was cancelled says nothing and is not to
    /// be told.
    pub fn observe(&self, began: Instant, now: Instant, at_once: u32, draw: &mut Draw) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.at_once = state.at_once.max(at_once);
        if began < state.epoch {
            return;
        }
        state.add(now.saturating_duration_since(began), draw);
        match state.phase {
            Phase::Measuring { then } => {
                if state.seen >= u64::from(self.config.min_rtt_requests.max(1)) {
                    state.shortest = state.take(self.config.percentile.get());
                    state.measure_at = now + self.pause(draw);
                    state.begin(now, self.config.update_interval);
                    self.limit.store(then, Ordering::Relaxed);
                }
            }
            Phase::Window { until } if now >= until => {
                let limit = self.update(&mut state);
                self.limit.store(limit, Ordering::Relaxed);
                state.begin(now, self.config.update_interval);
                if state.pinned >= MAX_PINNED || now >= state.measure_at {
                    state.pinned = 0;
                    state.epoch = now;
                    state.phase = Phase::Measuring { then: limit };
                    self.limit.store(self.least(), Ordering::Relaxed);
                }
            }
            Phase::Window { .. } => {}
        }
    }

    /// The limit after a window.
    fn update(&self, state: &mut State) -> u32 {
        let sample = state.take(self.config.percentile.get()).as_secs_f64();
        let buffer = f64::from(self.config.buffer.get()) / 100.0;
        let expected = state.shortest.as_secs_f64() * (1.0 + buffer);
        // Nothing measurable is as fast as it can be.
        let gradient = if sample > 0.0 { expected / sample } else { 2.0 };
        let good = f64::from(self.limit()) * gradient.clamp(0.5, 2.0);
        let least = self.least();
        let most = (self.config.max_concurrency)
            .min(state.at_once.saturating_mul(2))
            .max(least);
        state.at_once = 0;
        let limit = (good + good.sqrt()).clamp(f64::from(least), f64::from(most)) as u32;
        state.pinned = if limit == least { state.pinned + 1 } else { 0 };
        limit
    }

    fn least(&self) -> u32 {
        self.config.min_concurrency.max(1)
    }

    fn pause(&self, draw: &mut Draw) -> Duration {
        let interval = self.config.min_rtt_interval;
        let most = interval.as_nanos() * u128::from(self.config.jitter.get()) / 100;
        interval + Duration::from_nanos(draw.below(u64::try_from(most).unwrap_or(u64::MAX)))
    }
}

impl State {
    fn add(&mut self, time: Duration, draw: &mut Draw) {
        self.seen += 1;
        if self.times.len() < MAX_TIMES {
            self.times.push(time);
            return;
        }
        let place = draw.below(self.seen) as usize;
        if let Some(kept) = self.times.get_mut(place) {
            *kept = time;
        }
    }

    /// The time that stands for all that were gathered, which are forgotten.
    fn take(&mut self, percentile: u32) -> Duration {
        let last = self.times.len().saturating_sub(1);
        let place = last * percentile as usize / 100;
        let time = match self.times.is_empty() {
            true => Duration::ZERO,
            false => *self.times.select_nth_unstable(place).1,
        };
        self.times.clear();
        self.seen = 0;
        time
    }

    fn begin(&mut self, now: Instant, window: Duration) {
        self.phase = Phase::Window { until: now + window };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::Entropy;

    const MS: Duration = Duration::from_millis(1);

    /// A service that does one thing at a time, each in `work`, and callers that wait for so long.
    struct Service {
        controller: GradientController,
        entropy: Entropy,
        now: Instant,
        queue: VecDeque<Instant>,
        /// When what is worked on will be done.
        done_at: Option<Instant>,
        answered: u32,
        in_time: u32,
        shed: u32,
        slowest: Duration,
    }

    const PATIENCE: Duration = Duration::from_millis(250);

    impl Service {
        fn new(limited: bool) -> Self {
            #[allow(clippy::disallowed_methods, reason = "some instant is needed to count from")]
            let now = Instant::now();
            let config = AdaptiveConcurrency {
                min_concurrency: if limited { 3 } else { u32::MAX },
                max_concurrency: if limited { 1000 } else { u32::MAX },
                ..AdaptiveConcurrency::default()
            };
            Self {
                controller: GradientController::new(config, now),
                entropy: Entropy::seeded(1),
                now,
                queue: VecDeque::new(),
                done_at: None,
                answered: 0,
                in_time: 0,
                shed: 0,
                slowest: Duration::ZERO,
            }
        }

        /// One millisecond, in which so many requests come and each takes `work`.
        fn step(&mut self, come: u32, work: Duration) {
            self.now += MS;
            for _ in 0..come {
                match self.queue.len() < self.controller.limit() as usize {
                    true => self.queue.push_back(self.now),
                    false => self.shed += 1,
                }
            }
            if self.done_at.is_some_and(|at| at <= self.now)
                && let Some(began) = self.queue.pop_front()
            {
                let took = self.now - began;
                self.answered += 1;
                self.in_time += u32::from(took <= PATIENCE);
                self.slowest = self.slowest.max(took);
                let at_once = self.queue.len() as u32 + 1;
                self.controller
                    .observe(began, self.now, at_once, &mut self.entropy.draw());
                self.done_at = None;
            }
            if self.done_at.is_none() && !self.queue.is_empty() {
                self.done_at = Some(self.now + work);
            }
        }

        fn count(&mut self, steps: u32, come: impl Fn(u32) -> u32) -> (u32, u32) {
            (self.in_time, self.shed, self.slowest) = (0, 0, Duration::ZERO);
            (0..steps).for_each(|step| self.step(come(step), 10 * MS));
            (self.in_time, self.shed)
        }
    }

    /// One request in 11 ms is all that it can do, and ten times as many come.
    #[test]
    fn ov_1_ten_times_as_many_cost_no_answers() {
        let mut service = Service::new(true);
        // Until it has measured, and found its limit.
        service.count(10_000, |step| u32::from(step % 11 == 0));
        let (peak, _) = service.count(10_000, |step| u32::from(step % 11 == 0));
        let (goodput, shed) = service.count(10_000, |step| u32::from(step % 11 != 0));
        assert!(goodput * 100 >= peak * 80, "{goodput} of {peak}, {shed} were shed");
        assert!(service.slowest <= 2 * PATIENCE, "{:?}", service.slowest);
        // Without a limit each waits for all before it.
        let mut open = Service::new(false);
        let (collapsed, _) = open.count(10_000, |step| u32::from(step % 11 != 0));
        assert!(collapsed * 2 < peak, "{collapsed} of {peak}");
    }

    #[test]
    fn the_limit_follows_what_the_service_can_do() {
        let mut service = Service::new(true);
        service.count(20_000, |_| 1);
        let limit = service.controller.limit();
        assert!((3..=12).contains(&limit), "{limit}");
        // Ten times as slow, as if a database were: what it can do is measured anew, and it is not stuck.
        (0..100_000).for_each(|_| service.step(1, 100 * MS));
        let before = service.answered;
        (0..10_000).for_each(|_| service.step(1, 100 * MS));
        assert!(service.answered - before >= 80, "{}", service.answered - before);
    }

    #[test]
    fn what_began_before_a_measurement_says_nothing_of_it() {
        let service = Service::new(true);
        let mut draw = service.entropy.draw();
        for _ in 0..1_000 {
            service.controller.observe(service.now - MS, service.now, 1, &mut draw);
        }
        assert_eq!(service.controller.limit(), 3);
        for _ in 0..50 {
            service.controller.observe(service.now, service.now + MS, 1, &mut draw);
        }
        assert!(matches!(
            service.controller.state.lock().unwrap().phase,
            Phase::Window { .. }
        ));
    }

    #[test]
    fn a_window_of_many_keeps_some() {
        let service = Service::new(true);
        let mut draw = service.entropy.draw();
        let mut state = service.controller.state.lock().unwrap();
        for time in 0..100_000u32 {
            state.add(time * MS, &mut draw);
        }
        assert_eq!(state.times.len(), MAX_TIMES);
        let median = state.take(50);
        // The standard deviation of a median of 4,096 is 0.8 % of the range.
        assert!((45_000..=55_000).contains(&median.as_millis()), "{median:?}");
        assert_eq!(state.take(50), Duration::ZERO);
    }
}
