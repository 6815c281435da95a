//! How many calls a second, and how many of them failed.
//!
//! Counted in two windows, the last and the one that runs, of which the last counts by what is left of it: so a rate neither jumps
//! where one ends, nor needs a list of times.

use std::time::{Duration, Instant};

/// Over how long calls are counted.
pub(super) const WINDOW: Duration = Duration::from_secs(10);

/// Counts calls.
#[derive(Debug, Default)]
pub(super) struct Meter {
    windows: Option<Windows>,
}

#[derive(Debug)]
struct Windows {
    /// Since when it is counted at all.
    began: Instant,
    /// Since when the one that runs does.
    since: Instant,
    /// All calls and failed ones, in that one and in the one before.
    now: [u64; 2],
    before: [u64; 2],
}

impl Meter {
    /// One more.
    pub(super) fn count(&mut self, failed: bool, now: Instant) {
        let [all, errors] = &mut self.at(now).now;
        *all += 1;
        *errors += u64::from(failed);
    }

    /// Calls and failed calls a second.
    pub(super) fn rates(&mut self, now: Instant) -> [f64; 2] {
        let windows = self.at(now);
        let passed = now.saturating_duration_since(windows.since).as_secs_f64();
        let counted = now.saturating_duration_since(windows.began).as_secs_f64();
        let window = WINDOW.as_secs_f64();
        let left = 1.0 - passed / window;
        // What has just begun has a rate of so long as it runs, and not of a window; a moment is no time to tell one by.
        let over = counted.clamp(1.0, window);
        let rate = |of: usize| (windows.now[of] as f64 + windows.before[of] as f64 * left) / over;
        [rate(0), rate(1)]
    }

    /// The windows as they are at a moment.
    fn at(&mut self, now: Instant) -> &mut Windows {
        let windows = self.windows.get_or_insert(Windows {
            began: now,
            since: now,
            now: [0, 0],
            before: [0, 0],
        });
        let passed = now.saturating_duration_since(windows.since);
        if passed >= 2 * WINDOW {
            (windows.began, windows.since) = (now, now);
            (windows.before, windows.now) = ([0, 0], [0, 0]);
        } else if passed >= WINDOW {
            windows.since += WINDOW;
            windows.before = std::mem::take(&mut windows.now);
        }
        windows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_a_second_are_those_of_the_last_ten() {
        let begin = Instant::now();
        let mut meter = Meter::default();
        assert_eq!(meter.rates(begin), [0.0, 0.0]);
        let go_on = |meter: &mut Meter, from: u64, seconds: u64, each: u64| {
            for second in from..from + seconds {
                for call in 0..each {
                    let now = begin + Duration::from_millis(second * 1_000 + call * 1_000 / each);
                    meter.count(call % 4 == 0, now);
                }
            }
        };
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        // A moment after the first calls.
        meter.count(true, begin);
        assert_eq!(meter.rates(begin), [1.0, 1.0]);
        go_on(&mut meter, 0, 5, 20);
        let close = |rates: [f64; 2], expected: [f64; 2]| {
            let is_close = rates
                .iter()
                .zip(expected)
                .all(|(rate, wanted)| (rate - wanted).abs() < 0.5);
            assert!(is_close, "{rates:?}, not {expected:?}");
        };
        close(meter.rates(at(5)), [20.0, 5.0]);
        go_on(&mut meter, 5, 30, 20);
        close(meter.rates(at(35)), [20.0, 5.0]);
        go_on(&mut meter, 35, 20, 40);
        close(meter.rates(at(55)), [40.0, 10.0]);
        // Nobody calls any more.
        close(meter.rates(at(59)), [40.0 * 0.6, 10.0 * 0.6]);
        assert_eq!(meter.rates(at(80)), [0.0, 0.0]);
    }
}
