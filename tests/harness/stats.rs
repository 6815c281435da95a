//! Exact bounds for counts, so that a test of shares says how sure it is.

/// The central 99.9 % interval of Binomial(`calls`, `share`): a fair split falls outside once in a thousand runs.
///
/// From the exact distribution function, summed in logarithms; no approximation by the normal curve.
pub fn interval_999(calls: u64, share: f64) -> std::ops::RangeInclusive<u64> {
    const TAIL: f64 = 0.000_5;
    let (mut below, mut low, mut high) = (0.0, 0, calls);
    let mut log_probability = calls as f64 * (1.0 - share).ln();
    let mut found_low = false;
    for count in 0..=calls {
        below += log_probability.exp();
        if !found_low && below > TAIL {
            low = count;
            found_low = true;
        }
        if below >= 1.0 - TAIL {
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
    }
}
