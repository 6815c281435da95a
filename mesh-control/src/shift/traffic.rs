//! Whether the traffic follows weights that were shifted, by what the control plane's page tells of its clients' reports.
//!
//! Reports come every few seconds and count calls since a client's stream began, so what is judged is the difference of two
//! answers, and the first holds calls of before. A share is as wanted when chance may well have made it: four standard deviations of so many
//! calls. Of a weight of 0 or 100 chance makes nothing: one call elsewhere, and it does not follow yet.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

/// The fewest calls that say anything about shares.
pub const MIN_CALLS: u64 = 20;

/// A destination of a shift: what it is called, its weight in percent, and its cluster without port, as `subset|host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its subset, or its host as it is written where it has none.
    pub name: String,
    /// Of a hundred.
    pub weight: u32,
    /// Its subset, and its whole host.
    pub cluster: String,
}

/// Calls, and how many of them failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// All.
    pub all: u64,
    /// Those that failed.
    pub failed: u64,
}

/// The calls to each destination, since the streams of the clients that are connected began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic(Vec<(Target, Calls)>);

impl Traffic {
    /// Reads an answer of `/api/v1/mesh`.
    pub fn of(answer: &Value, targets: &[Target]) -> Self {
        let mut found: BTreeMap<String, Calls> = BTreeMap::new();
        let all = answer["edges"].as_array().into_iter().flatten();
        for cluster in all.flat_map(|edge| edge["clusters"].as_array().into_iter().flatten()) {
            // `outbound|port|subset|host`
            let name = cluster["cluster"].as_str().unwrap_or_default();
            let Some(short) = name.splitn(3, '|').nth(2) else {
                continue;
            };
            let total = |what: &str| cluster["numbers"][what]["total"].as_u64().unwrap_or(0);
            let calls = found.entry(short.to_owned()).or_default();
            calls.all = calls.all.saturating_add(total("calls"));
            calls.failed = calls.failed.saturating_add(total("failed"));
        }
        let of = |target: &Target| found.get(&target.cluster).copied().unwrap_or_default();
        Self(targets.iter().map(|target| (target.clone(), of(target))).collect())
    }

    /// What came since an earlier answer. Clients that went away take their calls with them; then there are fewer.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |target: &Target| {
            let mut all = earlier.0.iter();
            all.find(|(other, _)| other.cluster == target.cluster)
                .map_or_else(Calls::default, |(_, calls)| *calls)
        };
        let each = self.0.iter().map(|(target, now)| {
            let before = before(target);
            let came = Calls {
                all: now.all.saturating_sub(before.all),
                failed: now.failed.saturating_sub(before.failed),
            };
            (target.clone(), came)
        });
        Self(each.collect())
    }

    /// All calls.
    pub fn calls(&self) -> u64 {
        self.0.iter().map(|(_, calls)| calls.all).sum()
    }

    /// All that failed.
    pub fn failed(&self) -> u64 {
        self.0.iter().map(|(_, calls)| calls.failed).sum()
    }

    /// Whether it is divided as it should be; `None`: there are too few calls to say so.
    pub fn follows(&self) -> Option<bool> {
        let all = self.calls();
        if all < MIN_CALLS {
            return None;
        }
        let as_wanted = |(target, calls): &(Target, Calls)| {
            let (wanted, found) = (f64::from(target.weight) / 100.0, calls.all as f64 / all as f64);
            let chance = 4.0 * (wanted * (1.0 - wanted) / all as f64).sqrt();
            (found - wanted).abs() <= chance
        };
        Some(self.0.iter().all(as_wanted))
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.calls();
        write!(f, "{all} calls, {} failed", self.failed())?;
        for (target, calls) in &self.0 {
            let share = calls.all as f64 * 100.0 / all.max(1) as f64;
            write!(f, "; {} {share:.1} % (wanted {})", target.name, target.weight)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn targets(weights: [u32; 2]) -> Vec<Target> {
        let each = ["v1", "v2"].into_iter().zip(weights);
        each.map(|(name, weight)| Target {
            name: name.into(),
            weight,
            cluster: format!("{name}|pay.shop.svc.cluster.local"),
        })
        .collect()
    }

    fn answer(v1: [u64; 2], v2: [u64; 2]) -> Value {
        let cluster = |name: &str, [all, failed]: [u64; 2]| {
            json!({
                "cluster": format!("outbound|80|{name}|pay.shop.svc.cluster.local"),
                "numbers": {"calls": {"window": 1, "total": all}, "failed": {"window": 1, "total": failed}},
            })
        };
        // Two callers, and what is another service's.
        json!({"edges": [
            {"clusters": [cluster("v1", v1), cluster("v3", [1000, 0])]},
            {"clusters": [cluster("v1", [10, 1]), cluster("v2", v2)]},
        ]})
    }

    #[test]
    fn what_came_since_is_divided_as_it_should_be_or_not() {
        let weights = targets([90, 10]);
        let before = Traffic::of(&answer([1000, 5], [0, 0]), &weights);
        assert_eq!((before.calls(), before.failed()), (1010, 6));
        for (v1, v2, expected) in [
            (1000, 0, None),
            (1018, 1, None),
            (1018, 2, Some(true)),
            (1900, 100, Some(true)),
            (1860, 140, Some(false)),
            (2000, 0, Some(false)),
            (1950, 50, Some(false)),
        ] {
            let now = Traffic::of(&answer([v1, 5], [v2, 0]), &weights).since(&before);
            assert_eq!(now.follows(), expected, "{now}");
        }
    }

    #[test]
    fn nothing_goes_where_nothing_should() {
        let all = targets([100, 0]);
        let none = Traffic::of(&answer([0, 0], [0, 0]), &all);
        let now = |v2: u64| Traffic::of(&answer([5000, 0], [v2, 2]), &all).since(&none);
        assert_eq!(now(0).follows(), Some(true));
        assert_eq!(now(1).follows(), Some(false));
        assert_eq!(
            now(1).to_string(),
            "5001 calls, 2 failed; v1 100.0 % (wanted 100); v2 0.0 % (wanted 0)"
        );
    }

    #[test]
    fn clients_that_went_away_take_nothing_from_others() {
        let weights = targets([50, 50]);
        let (before, now) = (answer([900, 9], [800, 0]), answer([10, 0], [830, 0]));
        let came = Traffic::of(&now, &weights).since(&Traffic::of(&before, &weights));
        assert_eq!((came.calls(), came.failed()), (30, 0));
        assert_eq!(Traffic::of(&json!({}), &weights).follows(), None);
    }
}
