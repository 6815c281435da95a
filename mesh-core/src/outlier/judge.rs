//! Who did worse than may be, of the hosts of a cluster in one interval: the arithmetic alone.

use std::net::SocketAddr;

use super::Cause;
use super::monitor::Tallied;
use crate::config::{OutlierDetection, OutlierRules};

/// Whose errors are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// What hosts answered; without a split, with what they did not.
    External,
    /// Whether they answered.
    Local,
}

/// A host with enough requests: the percentage of its successes.
struct Rated {
    address: SocketAddr,
    percent: f64,
}

/// The outliers among `windows`, which are the hosts in service. Those by success rate first, then those by failure percentage;
/// in each the worst first, since there may be no room for all.
pub(super) fn outliers(
    config: &OutlierDetection,
    origin: Origin,
    windows: &[(SocketAddr, [Tallied; 2])],
) -> Vec<(SocketAddr, Cause)> {
    let (by_rate, by_share) = match origin {
        Origin::External => (Cause::SuccessRate, Cause::FailurePercentage),
        Origin::Local => (Cause::SuccessRateLocalOrigin, Cause::FailurePercentageLocalOrigin),
    };
    let (rate, share) = (config.success_rate, config.failure_percentage);
    let mut found = Vec::new();
    let rated = rate_all(windows, origin, rate.request_volume);
    if is_enough(&rated, rate.minimum_hosts) {
        let threshold = threshold(&rated, rate.stdev_factor);
        let below = rated.iter().filter(|host| host.percent < threshold);
        found.extend(below.map(|host| (host.address, by_rate)));
    }
    let rated = rate_all(windows, origin, share.request_volume);
    if is_enough(&rated, share.minimum_hosts) {
        let too_many = f64::from(share.threshold.get());
        let fails = |host: &&Rated| match config.rules {
            OutlierRules::Grpc => 100.0 - host.percent > too_many,
            OutlierRules::Envoy => 100.0 - host.percent >= too_many,
        };
        found.extend(rated.iter().filter(fails).map(|host| (host.address, by_share)));
    }
    found
}

/// The hosts that had at least `volume` requests, and one at all; the worst first.
fn rate_all(windows: &[(SocketAddr, [Tallied; 2])], origin: Origin, volume: u32) -> Vec<Rated> {
    let rate = |(address, both): &(SocketAddr, [Tallied; 2])| {
        let Tallied { successes, failures } = both[origin as usize];
        let total = u64::from(successes) + u64::from(failures);
        (total >= u64::from(volume.max(1))).then(|| Rated {
            address: *address,
            percent: 100.0 * f64::from(successes) / total as f64,
        })
    };
    let mut rated: Vec<Rated> = windows.iter().filter_map(rate).collect();
    rated.sort_by(|a, b| a.percent.total_cmp(&b.percent).then(a.address.cmp(&b.address)));
    rated
}

fn is_enough(rated: &[Rated], minimum: u32) -> bool {
    !rated.is_empty() && rated.len() >= minimum as usize
}

/// Below it are too few successes: so many standard deviations (of the whole, not of a sample) below the mean.
fn threshold(rated: &[Rated], stdev_factor: u32) -> f64 {
    let count = rated.len() as f64;
    let mean = rated.iter().map(|host| host.percent).sum::<f64>() / count;
    let variance = rated.iter().map(|host| (host.percent - mean).powi(2)).sum::<f64>() / count;
    mean - variance.sqrt() * f64::from(stdev_factor) / 1000.0
}
