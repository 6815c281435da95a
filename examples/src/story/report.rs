//! The figures of the story, and its verdict.

use serde_json::{Value, json};

use crate::load::Counts;

/// The central 99.9 % of Binomial(10000, 0.05): what 10,000 calls at 95/5 send to v2, in all but one run of a thousand.
const V2_GETS: std::ops::RangeInclusive<u64> = 430..=573;
/// What they send to v2 in all but one run of a million: nobody seeds this run, and a verdict must not be broken by chance.
const V2_MAY_GET: std::ops::RangeInclusive<u64> = 397..=610;
/// The revert that is promised, and the one beyond which the verdict turns: machines are noisy.
const REVERT_GOAL_MS: f64 = 100.0;
const REVERT_LIMIT_MS: f64 = 500.0;

/// What happened.
#[derive(Clone, Debug)]
pub struct Report {
    /// All calls of all phases.
    pub calls: u64,
    /// Calls that failed for another reason than v2's own injected errors.
    pub failed_by_mesh: u64,
    /// Who answered at 95/5.
    pub split: Split,
    /// Whether plaintext was refused without a handler run.
    pub plaintext_refused: bool,
    /// From the file's save to the start of the last call that reached v2, in milliseconds.
    pub revert_ms: f64,
    /// Calls that failed while the weight went to 0, other than v2's own.
    pub failed_during_revert: u64,
    /// Calls that succeeded after the control plane was stopped.
    pub served_after_control_plane_stopped: u64,
    /// Calls that were made then.
    pub alone_calls: u64,
}

/// Calls by version.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    /// Taken by v1.
    pub v1: u64,
    /// Taken by v2.
    pub v2: u64,
}

impl Report {
    /// Whether every promise was kept; else which were not.
    pub fn broken(&self) -> Vec<&'static str> {
        let promises = [
            (self.failed_by_mesh == 0, "a call failed in the mesh"),
            (
                V2_MAY_GET.contains(&self.split.v2),
                "the split is not 95/5: a fair one is this far off once in a million runs",
            ),
            (self.plaintext_refused, "plaintext was answered"),
            (self.revert_ms <= REVERT_LIMIT_MS, "the revert took longer than 500 ms"),
            (self.failed_during_revert == 0, "a call failed during the revert"),
            (
                self.served_after_control_plane_stopped == self.alone_calls,
                "a call failed after the control plane was stopped",
            ),
        ];
        promises
            .into_iter()
            .filter(|(kept, _)| !kept)
            .map(|(_, broken)| broken)
            .collect()
    }

    /// One JSON object.
    pub fn json(&self) -> Value {
        let broken = self.broken();
        json!({
            "calls": self.calls,
            "failed_by_mesh": self.failed_by_mesh,
            "split": { "v1": self.split.v1, "v2": self.split.v2 },
            "split_within_99_9_percent": V2_GETS.contains(&self.split.v2),
            "plaintext_refused": self.plaintext_refused,
            "revert_ms": (self.revert_ms * 10.0).round() / 10.0,
            "failed_during_revert": self.failed_during_revert,
            "served_after_control_plane_stopped": self.served_after_control_plane_stopped,
            "verdict": if broken.is_empty() { "ok" } else { "broken" },
            "broken": broken,
        })
    }

    /// The verdict for people.
    pub fn verdict(&self) -> String {
        let broken = self.broken();
        if !broken.is_empty() {
            return format!("VERDICT: broken: {}", broken.join("; "));
        }
        let slow = if self.revert_ms > REVERT_GOAL_MS {
            " (slower than the goal of 100 ms)"
        } else {
            ""
        };
        format!(
            "VERDICT: ok. {} calls, 0 failed in the mesh; 95/5 gave v2 {} of {}; weight 0 took effect in {:.1} ms{slow}; \
             {} of {} calls served without a control plane.",
            self.calls,
            self.split.v2,
            self.split.v1 + self.split.v2,
            self.revert_ms,
            self.served_after_control_plane_stopped,
            self.alone_calls,
        )
    }
}

/// Counts as a line for people: shares as a bar of forty.
pub(super) fn bar(counts: &Counts) -> String {
    const WIDTH: u64 = 40;
    let (v1, v2) = (counts.of("v1"), counts.of("v2"));
    let all = (v1 + v2).max(1);
    // A share that is there at all is seen.
    let of_v2 = if v2 == 0 {
        0
    } else {
        (WIDTH * v2).div_ceil(all).min(WIDTH)
    };
    let bar = "█".repeat((WIDTH - of_v2) as usize) + &"▒".repeat(of_v2 as usize);
    let share = 100.0 * v2 as f64 / all as f64;
    format!("{bar} v1 {v1} v2 {v2} ({share:.1} %) errors {}", counts.failed)
}
