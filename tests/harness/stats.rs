//! Exact bounds for counts, so that a test of shares says how sure it is.

use std::ops::RangeInclusive;

/// The central 99.9 % interval of Binomial(`calls`, `share`), for a seeded run: it gives the same count every time.
pub fn interval_999(calls: u64, share: f64) -> RangeInclusive<u64> {
    interval(calls, share, 1e-3)
}

/// The interval of Binomial(`calls`, `share`) that a fair split leaves once in a million runs, for a run that nobody seeded.
pub fn interval_million(calls: u64, share: f64) -> RangeInclusive<u64> {
    interval(calls, share, 1e-6)
}

/// From the exact distribution function, summed in logarithms; no approximation by the normal curve.
fn interval(calls: u64, share: f64, outside: f64) -> RangeInclusive<u64> {
    let tail = outside / 2.0;
    let (mut below, mut low, mut high) = (0.0, 0, calls);
    let mut log_probability = calls as f64 * (1.0 - share).ln();
    let mut found_low = false;
    for count in 0..=calls {
        below += log_probability.exp();
        if !found_low && below > tail {
            low = count;
            found_low = true;
        }
        if below >= 1.0 - tail {
            high = count;
            break;
        }
        let odds = ((calls - count) as f64 / (count + 1) as f64).ln();
        log_probability += odds + (share / (1.0 - share)).ln();
    }
    low..=high
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_interval_of_95_to_5() {
        assert_eq!(interval_999(10_000, 0.05), 430..=573);
        assert_eq!(interval_million(10_000, 0.05), 397..=610);
    }
}
