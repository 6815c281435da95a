//! The load of one turn, and the client's end of the orders: closed loops, and open ones whose latency counts from when a call was due.
//!
//! A closed loop of so many callers tells what a call costs; each waits for its answer, so a slow moment hides the calls that were not made
//! in it. An open loop makes calls at a fixed rate whatever happens to them, and counts what each waited from the moment at which it was due
//! (coordinated omission), also where the caller itself was late. The moments come from a thread of their own, since tokio's clock ticks in
//! milliseconds; it ends with the turn, so its time is not in what is read of the process afterwards.
//!
//! Shared with the package `others`, so it names nothing of the mesh.

use std::cell::RefCell;
use std::io::{self, BufRead as _, Write as _};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::Failure;
use crate::caller::Caller;

/// What each call sends, and gets back.
const NOTE: usize = 1024;
/// The most calls of an open loop in flight; what is due beyond them fails. At some 30 KiB each they take 120 MiB.
const MAX_OPEN: usize = 4096;
/// The longest that the last calls of a turn are waited for.
const LAST_CALLS: Duration = Duration::from_secs(5);
/// Before the first turn: connections, tables and buffers have their size then.
const WARM_UP: [Order; 2] = [
    Order {
        how: Loop::Closed { concurrent: 64 },
        millis: 300,
    },
    Order {
        how: Loop::Closed { concurrent: 1 },
        millis: 100,
    },
];

/// How calls are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Loop {
    Closed { concurrent: usize },
    Open { rate: u32 },
}

/// One turn.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) how: Loop,
    pub(crate) millis: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Turn {
    pub(crate) calls: u64,
    pub(crate) failed: u64,
    pub(crate) seconds: f64,
    pub(crate) latencies: Histogram,
    pub(crate) error: Option<String>,
}

impl Turn {
    fn ended(&mut self, outcome: Result<(), Failure>, since: Instant) {
        match outcome {
            Ok(()) => {
                self.calls += 1;
                self.latencies.add(since.elapsed());
            }
            Err(failure) => {
                self.failed += 1;
                self.error = Some(failure.to_string());
            }
        }
    }
}

/// Nanoseconds in buckets that are 1/64 of their value wide at most.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Histogram(Vec<u64>);

impl Histogram {
    const BITS: u32 = 6;

    fn add(&mut self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = Self::bucket(nanos);
        if self.0.len() <= bucket {
            self.0.resize(bucket + 1, 0);
        }
        self.0[bucket] += 1;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (ours, theirs) in self.0.iter_mut().zip(&other.0) {
            *ours += theirs;
        }
    }

    /// In microseconds: what `share` of all are not above. 0 of nothing.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let total: u64 = self.0.iter().sum();
        let mut left = (total as f64 * share).ceil() as u64;
        for (bucket, count) in self.0.iter().enumerate() {
            if left <= *count && *count > 0 {
                return Self::middle(bucket) / 1000.0;
            }
            left -= (*count).min(left);
        }
        0.0
    }

    fn bucket(nanos: u64) -> usize {
        if nanos < 1 << Self::BITS {
            return nanos as usize;
        }
        let octave = nanos.ilog2() - Self::BITS;
        let within = (nanos >> octave) - (1 << Self::BITS);
        ((u64::from(octave + 1) << Self::BITS) + within) as usize
    }

    fn middle(bucket: usize) -> f64 {
        let (octave, within) = (bucket >> Self::BITS, bucket & ((1 << Self::BITS) - 1));
        match octave {
            0 => within as f64,
            _ => (((1 << Self::BITS) + within) as f64 + 0.5) * 2f64.powi(octave as i32 - 1),
        }
    }
}

/// The client's whole life: warms up, says so, and does a turn for each line of its standard input until that closes.
pub(crate) fn obey(runtime: &Runtime, client: &(impl Caller + 'static)) -> Result<(), Failure> {
    for order in WARM_UP {
        let turn = runtime.block_on(run(client, order))?;
        if let Some(error) = turn.error {
            return Err(format!("warming up: {error}").into());
        }
    }
    say(&"ready")?;
    // Connections have their upkeep while nobody asks for anything.
    let (told, mut orders) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if told.send(line).is_err() {
                return;
            }
        }
    });
    while let Some(line) = runtime.block_on(orders.recv()) {
        say(&runtime.block_on(run(client, serde_json::from_str(&line)?))?)?;
    }
    Ok(())
}

fn say(what: &impl Serialize) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(what)?)?;
    out.flush()?;
    Ok(())
}

async fn run(client: &(impl Caller + 'static), order: Order) -> Result<Turn, Failure> {
    let (turn, length) = (
        Rc::new(RefCell::new(Turn::default())),
        Duration::from_millis(order.millis),
    );
    let (began, local) = (Instant::now(), LocalSet::new());
    let all = local.run_until(async {
        match order.how {
            Loop::Closed { concurrent } => closed(client, concurrent, began + length, &turn).await,
            Loop::Open { rate } => open(client, rate, length, &turn).await,
        }
    });
    match tokio::time::timeout(length + LAST_CALLS, all).await {
        Ok(ended) => ended?,
        // What is still in flight ends with the set of its tasks.
        Err(_) => turn.borrow_mut().ended(Err("some calls did not end".into()), began),
    }
    turn.borrow_mut().seconds = began.elapsed().as_secs_f64();
    Ok(turn.take())
}

async fn closed(
    client: &(impl Caller + 'static),
    concurrent: usize,
    until: Instant,
    turn: &Rc<RefCell<Turn>>,
) -> Result<(), Failure> {
    let note = Bytes::from(vec![b'x'; NOTE]);
    let mut callers = Vec::with_capacity(concurrent);
    for _ in 0..concurrent {
        let (mut client, note, turn) = (client.clone(), note.clone(), Rc::clone(turn));
        callers.push(tokio::task::spawn_local(async move {
            let mut now = Instant::now();
            while now < until {
                let outcome = client.call(note.clone()).await;
                turn.borrow_mut().ended(outcome, now);
                now = Instant::now();
            }
        }));
    }
    for caller in callers {
        caller.await?;
    }
    Ok(())
}

async fn open(
    client: &(impl Caller + 'static),
    rate: u32,
    length: Duration,
    turn: &Rc<RefCell<Turn>>,
) -> Result<(), Failure> {
    let note = Bytes::from(vec![b'x'; NOTE]);
    let (due, mut dues) = mpsc::unbounded_channel();
    let pacer = std::thread::spawn(move || {
        let (began, gap) = (Instant::now(), Duration::from_secs(1) / rate);
        let last = (length.as_secs_f64() * f64::from(rate)) as u32;
        for number in 0..last {
            let at = began + gap * number;
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            if due.send(at).is_err() {
                return;
            }
        }
    });
    let (mut callers, in_flight) = (Vec::new(), Rc::new(()));
    while let Some(at) = dues.recv().await {
        if Rc::strong_count(&in_flight) > MAX_OPEN {
            turn.borrow_mut().ended(Err("too many calls in flight".into()), at);
            continue;
        }
        let place = Rc::clone(&in_flight);
        let (mut client, note, turn) = (client.clone(), note.clone(), Rc::clone(turn));
        callers.push(tokio::task::spawn_local(async move {
            let outcome = client.call(note).await;
            turn.borrow_mut().ended(outcome, at);
            drop(place);
        }));
    }
    for caller in callers {
        caller.await?;
    }
    pacer.join().map_err(|_| "the pacer failed")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_within_a_64th_of_what_was_added() {
        for nanos in [0, 1, 63, 64, 65, 127, 128, 1_000, 12_345, 1_000_000, 987_654_321] {
            let mut one = Histogram::default();
            one.add(Duration::from_nanos(nanos));
            let told = one.quantile(0.5) * 1000.0;
            assert!((told - nanos as f64).abs() <= nanos as f64 / 64.0, "{nanos}: {told}");
        }
    }

    #[test]
    fn quantiles_are_those_of_all_that_was_merged() {
        let (mut low, mut high) = (Histogram::default(), Histogram::default());
        (0..99).for_each(|_| low.add(Duration::from_micros(10)));
        high.add(Duration::from_millis(1));
        low.merge(&high);
        assert!((low.quantile(0.5) - 10.0).abs() < 0.2);
        assert!((low.quantile(0.99) - 10.0).abs() < 0.2);
        assert!((low.quantile(0.999) - 1000.0).abs() < 16.0);
        assert!(Histogram::default().quantile(0.5).abs() < f64::EPSILON);
    }
}
