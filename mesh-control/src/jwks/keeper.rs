//! Which source is asked when, and what is known of each. Pure: times and draws come in, and outcomes.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_core::config::Jwks;
use mesh_core::entropy::Draw;
use tokio::time::Instant;

use super::JwksSource;

/// The pause after a first failure; each further one doubles it, up to the interval (Istio: 10 s).
const FIRST_PAUSE: Duration = Duration::from_secs(10);

/// What is known of every source that is wanted.
#[derive(Debug)]
pub(super) struct Keeper {
    interval: Duration,
    kept: BTreeMap<JwksSource, Kept>,
}

#[derive(Debug)]
struct Kept {
    timeout: Duration,
    /// The last good ones.
    keys: Option<Jwks>,
    /// Until when they are good, where they were fetched before this process began.
    until: Option<Instant>,
    /// Why the last fetch failed.
    failure: Option<String>,
    /// How many in a row did.
    failures: u32,
    asked_once: bool,
    /// When it is asked; `None`: it is being asked.
    due: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            kept: BTreeMap::new(),
        }
    }

    /// Other sources are wanted from now on. What is known of those that are not is forgotten; of those that are new, `restore` knows the
    /// keys that were fetched before this process began, and how long they are good for.
    pub(super) fn want(
        &mut self,
        sources: BTreeMap<JwksSource, Duration>,
        now: Instant,
        restore: impl Fn(&JwksSource) -> Option<(Jwks, Duration)>,
    ) {
        self.kept.retain(|source, _| sources.contains_key(source));
        for (source, timeout) in sources {
            let restored = match self.kept.contains_key(&source) {
                true => None,
                false => restore(&source),
            };
            let (keys, left) = restored.unzip();
            let kept = self.kept.entry(source).or_insert_with(|| Kept {
                timeout,
                keys,
                until: left.map(|left| now + left),
                failure: None,
                failures: 0,
                asked_once: false,
                due: Some(now),
            });
            kept.timeout = timeout;
        }
    }

    /// What is to be asked now, `room` of them at most, and how long each may take; and when to look again.
    pub(super) fn due(&mut self, now: Instant, room: usize) -> (Vec<(JwksSource, Duration)>, Option<Instant>) {
        let mut due: Vec<(&JwksSource, &mut Kept)> = self
            .kept
            .iter_mut()
            .filter(|(_, kept)| kept.due.is_some_and(|due| due <= now))
            .collect();
        // Who waits longest is asked first.
        due.sort_by_key(|(_, kept)| kept.due);
        let taken = due.into_iter().take(room).map(|(source, kept)| {
            kept.due = None;
            (source.clone(), kept.timeout)
        });
        let taken = taken.collect();
        // What found no room is asked when a fetch ends.
        let next = self.kept.values().filter_map(|kept| kept.due.filter(|due| *due > now));
        (taken, next.min())
    }

    /// What came of asking. Whether there is something new to publish or to say.
    pub(super) fn took(
        &mut self,
        source: &JwksSource,
        outcome: Result<Jwks, String>,
        now: Instant,
        draw: &mut Draw,
    ) -> bool {
        let interval = self.interval;
        // Nobody wants it any more.
        let Some(kept) = self.kept.get_mut(source) else {
            return false;
        };
        let first = !std::mem::replace(&mut kept.asked_once, true);
        match outcome {
            Ok(keys) => {
                kept.failures = 0;
                // Nine tenths to eleven tenths: many control planes do not ask at once.
                kept.due = Some(now + interval.mul_f64(0.9 + share(draw) * 0.2));
                let recovered = kept.failure.take().is_some();
                let changed = kept.keys.as_ref() != Some(&keys);
                kept.keys = Some(keys);
                kept.until = None;
                first || changed || recovered
            }
            Err(why) => {
                let doubled = FIRST_PAUSE.saturating_mul(1 << kept.failures.min(16));
                kept.failures = kept.failures.saturating_add(1);
                kept.due = Some(now + doubled.min(interval).mul_f64(0.5 + share(draw) * 0.5));
                let another = kept.failure.as_ref() != Some(&why);
                kept.failure = Some(why);
                // Those from before a restart are not kept for ever: nobody here has seen that they are still told.
                let over = kept.until.take_if(|until| *until <= now).is_some();
                if over {
                    kept.keys = None;
                }
                first || another || over
            }
        }
    }

    pub(super) fn keys(&self, source: &JwksSource) -> Option<&Jwks> {
        self.kept.get(source)?.keys.as_ref()
    }

    pub(super) fn asked_all_once(&self) -> bool {
        self.kept.values().all(|kept| kept.asked_once)
    }

    /// What is to be said of a source, if anything is amiss.
    pub(super) fn complaint(&self, source: &JwksSource, issuer: &str) -> Option<String> {
        let kept = self.kept.get(source)?;
        let refused = format!("tokens of {issuer:?} are refused until there are");
        match (&kept.keys, &kept.failure) {
            (Some(_), None) if !kept.asked_once => Some(format!(
                "{source} has not been asked for keys yet: those from before the restart stay until it is"
            )),
            (Some(_), Some(why)) if kept.until.is_some() => Some(format!(
                "{source} gives no keys now: those from before the restart stay, for a day since they were fetched: {why}"
            )),
            (None, None) => Some(format!("{source} has not been asked for keys yet: {refused}")),
            (None, Some(why)) => Some(format!("{source} has given no keys: {refused}: {why}")),
            (Some(_), Some(why)) => Some(format!("{source} gives no keys now: the last good ones stay: {why}")),
            (Some(keys), None) if keys.keys().is_empty() => {
                Some(format!("{source} gives no key of a kind that is known: {refused}"))
            }
            (Some(_), None) => None,
        }
    }
}

/// From 0 to 1.
fn share(draw: &mut Draw) -> f64 {
    draw.below(1 << 32) as f64 / (1_u64 << 32) as f64
}
