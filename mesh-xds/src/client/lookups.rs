//! The resolving of the host names that clusters are made of (Envoy `STRICT_DNS`, `LOGICAL_DNS`; gRFC A37).
//!
//! What is to be resolved is found by assembly; here is decided when, and done. A name is asked for at once when it is new,
//! and again when its answer is as old as the cluster's `dns_refresh_rate`; what the answer means is assembly's again. The
//! number of questions at once is bounded, and so is the time each may take.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::resolver::Resolver;

/// The most names asked for at once: the system's resolver takes a thread for each.
const MAX_AT_ONCE: usize = 16;
/// The longest that one question may take, longer than a resolver's own first retry.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Stands in for "nothing to do" in a timer that must have a time.
const FAR: Duration = Duration::from_secs(24 * 60 * 60);

/// The names that are wanted, and how often each is to be resolved again.
pub(super) type Names = BTreeMap<Arc<str>, Duration>;

/// What a question came to.
pub(super) type Outcome = Result<Vec<IpAddr>, Arc<str>>;

/// Resolves what is wanted, and tells what came of it, until whoever wants it is gone.
///
/// Dropping the future abandons the questions that are open.
pub(super) async fn run(mut wanted: watch::Receiver<Names>, resolver: Resolver, tell: impl Fn(&Arc<str>, Outcome)) {
    let (mut schedule, mut open) = (Schedule::default(), JoinSet::new());
    loop {
        schedule.want(&wanted.borrow_and_update(), now());
        for host in schedule.due(now()) {
            let resolver = resolver.clone();
            open.spawn(async move {
                let answer = timeout(LOOKUP_TIMEOUT, resolver.resolve(Arc::clone(&host))).await;
                let outcome = match answer {
                    Ok(Ok(addresses)) => Ok(addresses),
                    Ok(Err(error)) => Err(error.to_string().into()),
                    Err(_) => Err(format!("no answer in {} s", LOOKUP_TIMEOUT.as_secs()).into()),
                };
                (host, outcome)
            });
        }
        let wake = schedule.next().map_or_else(|| Instant::now() + FAR, Instant::from_std);
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            Some(done) = open.join_next() => {
                // A question that panicked is asked again in its time; nothing else is known of it.
                if let Ok((host, outcome)) = done
                    && schedule.answered(&host, now())
                {
                    tell(&host, outcome);
                }
            }
            () = sleep_until(wake) => {}
        }
    }
}

/// When each name is to be asked for. Pure.
#[derive(Debug, Default)]
struct Schedule {
    names: BTreeMap<Arc<str>, Entry>,
}

#[derive(Debug)]
struct Entry {
    refresh: Duration,
    due: std::time::Instant,
    is_open: bool,
    /// One that is not is kept until its question is answered, since that counts until then.
    is_wanted: bool,
}

impl Schedule {
    /// Takes in what is wanted now.
    fn want(&mut self, wanted: &Names, now: std::time::Instant) {
        for (name, entry) in &mut self.names {
            entry.is_wanted = wanted.contains_key(name);
        }
        self.names.retain(|_, entry| entry.is_wanted || entry.is_open);
        for (name, refresh) in wanted {
            let entry = self.names.entry(Arc::clone(name)).or_insert(Entry {
                refresh: *refresh,
                due: now,
                is_open: false,
                is_wanted: true,
            });
            if !entry.is_open {
                // An answer is never older than it may be.
                entry.due = entry.due.min(now + *refresh);
            }
            entry.refresh = *refresh;
        }
    }

    /// The names to ask for now, which are open from here on.
    fn due(&mut self, now: std::time::Instant) -> Vec<Arc<str>> {
        let open = self.names.values().filter(|entry| entry.is_open).count();
        let due = self
            .names
            .iter_mut()
            .filter(|(_, entry)| !entry.is_open && entry.due <= now);
        let taken = due.take(MAX_AT_ONCE.saturating_sub(open));
        taken
            .map(|(name, entry)| {
                // If no word ever comes of it, this is when it counts as asked for in vain.
                (entry.is_open, entry.due) = (true, now + LOOKUP_TIMEOUT + entry.refresh);
                Arc::clone(name)
            })
            .collect()
    }

    /// Notes that a question was answered; whether anybody wants to know.
    fn answered(&mut self, name: &str, now: std::time::Instant) -> bool {
        let Some(entry) = self.names.get_mut(name) else {
            return false;
        };
        (entry.is_open, entry.due) = (false, now + entry.refresh);
        let is_wanted = entry.is_wanted;
        if !is_wanted {
            self.names.remove(name);
        }
        is_wanted
    }

    /// When there is something to ask for. While the most questions are open, an answer comes first.
    fn next(&self) -> Option<std::time::Instant> {
        let open = self.names.values().filter(|entry| entry.is_open).count();
        let waiting = self.names.values().filter(|entry| !entry.is_open);
        waiting.filter(|_| open < MAX_AT_ONCE).map(|entry| entry.due).min()
    }
}

/// tokio's time, which a test may pause.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn no_more_than_so_many_names_are_asked_for_at_once() {
        let (mut schedule, start) = (Schedule::default(), std::time::Instant::now());
        let second = Duration::from_secs(1);
        let wanted: Names = (0..40).map(|n| (Arc::from(format!("h{n}")), 5 * second)).collect();
        schedule.want(&wanted, start);
        let first = schedule.due(start);
        assert_eq!(
            (first.len(), schedule.due(start).len(), schedule.next()),
            (MAX_AT_ONCE, 0, None)
        );
        for name in &first {
            schedule.answered(name, start + second);
        }
        assert_eq!(schedule.next(), Some(start), "others have waited since the start");
        let second_batch = schedule.due(start + second);
        assert_eq!(second_batch.len(), MAX_AT_ONCE);
        assert!(second_batch.iter().all(|name| !first.contains(name)));
        schedule.want(&Names::new(), start + second);
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn questions_that_nobody_wants_answered_any_more_count_until_they_are() {
        let (mut schedule, start) = (Schedule::default(), std::time::Instant::now());
        let mut open = Vec::new();
        for round in 0..20 {
            let wanted = (0..16).map(|n| (Arc::from(format!("h{round}-{n}")), LOOKUP_TIMEOUT));
            schedule.want(&wanted.collect(), start);
            open.extend(schedule.due(start));
        }
        assert_eq!((open.len(), schedule.next()), (MAX_AT_ONCE, None));
        assert!(!schedule.answered(&open[0], start), "nobody wants to know");
        assert_eq!(schedule.due(start).len(), 1);
        // One that is wanted again meanwhile is not asked for twice.
        let again = Names::from([(Arc::clone(&open[1]), LOOKUP_TIMEOUT)]);
        schedule.want(&again, start);
        assert!(schedule.due(start).is_empty() && schedule.answered(&open[1], start));
        assert_eq!(schedule.next(), Some(start + LOOKUP_TIMEOUT));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_resolved_at_once_and_again_in_its_time() {
        let asked: Arc<Mutex<Vec<Duration>>> = Arc::default();
        let (log, start) = (Arc::clone(&asked), Instant::now());
        let resolver = Resolver::new(move |_| {
            log.lock().unwrap().push(start.elapsed());
            let answer = match log.lock().unwrap().len() {
                1 => Err(io::Error::other("not yet")),
                _ => Ok(vec![IpAddr::from([10, 0, 0, 1])]),
            };
            std::future::ready(answer)
        });
        let (wants, wanted) = watch::channel(Names::from([("a".into(), Duration::from_secs(5))]));
        let told: Arc<Mutex<Vec<bool>>> = Arc::default();
        let tell = Arc::clone(&told);
        let running = tokio::spawn(run(wanted, resolver, move |_, outcome| {
            tell.lock().unwrap().push(outcome.is_ok());
        }));
        tokio::time::sleep(Duration::from_secs(12)).await;
        let seconds: Vec<u64> = asked.lock().unwrap().iter().map(Duration::as_secs).collect();
        assert_eq!(seconds, [0, 5, 10]);
        assert_eq!(*told.lock().unwrap(), [false, true, true]);
        drop(wants);
        running.await.unwrap();
    }
}
