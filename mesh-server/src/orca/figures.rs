//! The figures of a report, who may set them, and how they are written (`xds.data.orca.v3.OrcaLoadReport`).

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Instant;

use http::HeaderValue;

use super::Shared;
use super::meter::Meter;

/// The most names of a report, costs and utilisations and others together: what is said of one more is not told. Clients read
/// reports of 4 KiB.
const MAX_NAMES: usize = 32;
/// The longest of them, in bytes.
const MAX_NAME: usize = 64;

/// What is known of a load. What nobody said is not told.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Figures {
    cpu: Option<f64>,
    memory: Option<f64>,
    application: Option<f64>,
    rate: Option<f64>,
    errors: Option<f64>,
    named: BTreeMap<(Map, Box<str>), f64>,
}

/// The maps of a report, by their numbers there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Map {
    Cost = 4,
    Utilization = 5,
    Named = 8,
}

/// What the application says of the whole server. Clones are the same; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ServerLoad {
    shared: Shared<State>,
}

#[derive(Debug, Default)]
struct State {
    figures: Figures,
    meter: Meter,
}

/// What a handler says of its call, found among the extensions of its request. What it says stands in the place of what was said of
/// the server, for this call's report. Figures that make no sense (not finite, less than nothing) are not told. Cheap to clone.
///
/// What is said once an answer that is no gRPC has begun comes too late for it.
#[derive(Clone, Debug, Default)]
pub struct CallLoad {
    shared: Shared<Figures>,
}

impl ServerLoad {
    /// Nothing is known but what is counted: calls and failed calls a second, over the last ten seconds.
    pub fn new() -> Self {
        Self::default()
    }

    /// How much of its CPU is used: 1 is all of it, and it may be more (`cpu_utilization`). `None`: that is not known any more.
    pub fn cpu(&self, used: Option<f64>) {
        self.change(|figures| figures.cpu = used.filter(|used| is_amount(*used)));
    }

    /// How much of its memory is used, 0 to 1 (`mem_utilization`).
    pub fn memory(&self, used: Option<f64>) {
        self.change(|figures| figures.memory = used.filter(|used| is_share(*used)));
    }

    /// How busy it is by its own measure: 1 is as much as it should be, and it may be more (`application_utilization`). Clients go
    /// by it rather than by the CPU's where it is there.
    pub fn application(&self, used: Option<f64>) {
        self.change(|figures| figures.application = used.filter(|used| is_amount(*used)));
    }

    /// Calls it serves a second (`rps_fractional`), in the place of what is counted; `None`: what is counted.
    pub fn rate(&self, calls: Option<f64>) {
        self.change(|figures| figures.rate = calls.filter(|calls| is_amount(*calls)));
    }

    /// Failed calls a second (`eps`), likewise.
    pub fn errors(&self, calls: Option<f64>) {
        self.change(|figures| figures.errors = calls.filter(|calls| is_amount(*calls)));
    }

    /// How much of a resource with a name of the application's is used, 0 to 1 (`utilization`).
    pub fn utilization(&self, name: &str, used: Option<f64>) {
        self.change(|figures| figures.name(Map::Utilization, name, used.filter(|used| is_share(*used))));
    }

    /// Any other figure (`named_metrics`), by which clients may be told to weigh (gRFC A114).
    pub fn named(&self, name: &str, value: Option<f64>) {
        self.change(|figures| figures.name(Map::Named, name, value.filter(|value| value.is_finite())));
    }

    /// A call has ended.
    pub(super) fn ended(&self, failed: bool, now: Instant) {
        self.lock().meter.count(failed, now);
    }

    /// What is to be told now, of a call or beside all calls.
    pub(super) fn report(&self, call: Option<&CallLoad>, now: Instant) -> Report {
        let (mut figures, [rate, errors]) = {
            let mut state = self.lock();
            (state.figures.clone(), state.meter.rates(now))
        };
        if let Some(call) = call {
            figures.overlay(&call.lock());
        }
        figures.rate = figures.rate.or(Some(rate));
        figures.errors = figures.errors.or(Some(errors));
        Report(figures.encode())
    }

    fn change(&self, change: impl FnOnce(&mut Figures)) {
        change(&mut self.lock().figures);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Figures are whole whatever their holder was doing when it panicked.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallLoad {
    /// What the call cost, of whatever has a name (`request_cost`).
    pub fn cost(&self, name: &str, cost: f64) {
        if cost.is_finite() {
            self.lock().name(Map::Cost, name, Some(cost));
        }
    }

    /// As [`ServerLoad::cpu`].
    pub fn cpu(&self, used: f64) {
        if is_amount(used) {
            self.lock().cpu = Some(used);
        }
    }

    /// As [`ServerLoad::memory`].
    pub fn memory(&self, used: f64) {
        if is_share(used) {
            self.lock().memory = Some(used);
        }
    }

    /// As [`ServerLoad::application`].
    pub fn application(&self, used: f64) {
        if is_amount(used) {
            self.lock().application = Some(used);
        }
    }

    /// As [`ServerLoad::rate`].
    pub fn rate(&self, calls: f64) {
        if is_amount(calls) {
            self.lock().rate = Some(calls);
        }
    }

    /// As [`ServerLoad::errors`].
    pub fn errors(&self, calls: f64) {
        if is_amount(calls) {
            self.lock().errors = Some(calls);
        }
    }

    /// As [`ServerLoad::utilization`].
    pub fn utilization(&self, name: &str, used: f64) {
        if is_share(used) {
            self.lock().name(Map::Utilization, name, Some(used));
        }
    }

    /// As [`ServerLoad::named`].
    pub fn named(&self, name: &str, value: f64) {
        if value.is_finite() {
            self.lock().name(Map::Named, name, Some(value));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Figures> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_amount(value: f64) -> bool {
    value.is_finite() && value >= 0.0
}

fn is_share(value: f64) -> bool {
    (0.0..=1.0).contains(&value)
}

impl Figures {
    fn name(&mut self, map: Map, name: &str, value: Option<f64>) {
        let key = (map, Box::from(name));
        match value {
            None => drop(self.named.remove(&key)),
            Some(value) if name.len() <= MAX_NAME => {
                if self.named.len() < MAX_NAMES || self.named.contains_key(&key) {
                    self.named.insert(key, value);
                }
            }
            Some(_) => {}
        }
    }

    /// What `over` says stands above what was said.
    fn overlay(&mut self, over: &Self) {
        self.cpu = over.cpu.or(self.cpu);
        self.memory = over.memory.or(self.memory);
        self.application = over.application.or(self.application);
        self.rate = over.rate.or(self.rate);
        self.errors = over.errors.or(self.errors);
        for ((map, name), value) in &over.named {
            self.name(*map, name, Some(*value));
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut message = Vec::with_capacity(64);
        for (number, value) in [
            (1, self.cpu),
            (2, self.memory),
            (9, self.application),
            (6, self.rate),
            (7, self.errors),
        ] {
            // Nothing is how protobuf writes zero.
            if let Some(value) = value.filter(|value| *value != 0.0) {
                double(number, value, &mut message);
            }
        }
        for ((map, name), value) in &self.named {
            let mut entry = vec![1 << 3 | 2, name.len() as u8];
            entry.extend_from_slice(name.as_bytes());
            double(2, *value, &mut entry);
            message.extend([(*map as u8) << 3 | 2, entry.len() as u8]);
            message.extend(entry);
        }
        message
    }
}

// What is written as the length of an entry fits into one byte of it.
const _: () = assert!(MAX_NAME + 11 < 0x80);

fn double(number: u8, value: f64, message: &mut Vec<u8>) {
    message.push(number << 3 | 1);
    message.extend(value.to_le_bytes());
}

/// An encoded report.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Report(pub(super) Vec<u8>);

impl Report {
    /// As the value of a header; `None`: nothing is known.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        (!self.0.is_empty()).then(|| base64(&self.0))
    }
}

/// Without padding, as gRPC writes binary metadata.
fn base64(bytes: &[u8]) -> HeaderValue {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        let digits = (0..=group.len()).map(|digit| DIGITS[(bits >> (18 - 6 * digit) & 63) as usize]);
        text.extend(digits);
    }
    HeaderValue::from_bytes(&text).expect("digits of base64 may stand in a header")
}
