//! The small values that several kinds share: durations, string tests, selectors, visibility.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fields::Fields;
use super::value::{At, Place, Sink, Value};

/// The longest duration a rule may ask for. Protobuf allows 10,000 years; a timer does not.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// A test of a string (Istio `StringMatch`): exactly one of three.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringMatch {
    /// The whole string.
    Exact(String),
    /// Its beginning, by characters.
    Prefix(String),
    /// The whole string, by RE2 pattern.
    Regex(String),
    /// `{}`: that it is there at all. Only headers may be tested so.
    Present,
}

/// Which workloads a document means: those that carry all these labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// Where the selector stands.
    pub place: Place,
}

impl Selector {
    /// Whether `labels` has all of the selector's.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        has_all(labels, &self.labels)
    }

    /// Reads `name: { <labels>: {...} }`.
    pub(super) fn read(fields: &mut Fields, name: &str, labels: &str, sink: &mut Sink<'_>) -> Option<Self> {
        let mut inner = fields.take(name)?.object(sink)?;
        // Without labels it would mean everybody.
        inner.no_nulls(sink);
        let place = inner.place.clone();
        let labels = inner.labels(labels, sink);
        inner.finish(sink);
        Some(Self { labels, place })
    }
}

/// Whether `labels` has all of `wanted`.
pub fn has_all(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

impl StringMatch {
    pub(super) fn read(value: Value, sink: &mut Sink<'_>) -> Option<At<Self>> {
        let mut fields = value.object(sink)?;
        let place = fields.place.clone();
        let mut found = Vec::new();
        for (name, make) in [
            ("exact", Self::Exact as fn(String) -> Self),
            ("prefix", Self::Prefix),
            ("regex", Self::Regex),
        ] {
            if let Some(text) = fields.string(name, sink) {
                found.push(make(text.value));
            }
        }
        fields.finish(sink);
        if found.len() > 1 {
            sink.schema(&place, "only one of exact, prefix and regex can be given");
            return None;
        }
        let value = found.pop().unwrap_or(Self::Present);
        Some(At { value, place })
    }
}

/// Reads a duration as protobuf's JSON and Go write it: `1.5s`, `250ms`, `1h30m`.
pub(super) fn duration(value: Value, sink: &mut Sink<'_>) -> Option<At<Duration>> {
    let text = value.string(sink)?;
    let Some(value) = parse_duration(&text) else {
        let message = format!(
            "{:?} is not a duration such as 1.5s, 250ms or 1m30s, of at most a year",
            text.value
        );
        sink.schema(&text.place, message);
        return None;
    };
    Some(At {
        value,
        place: text.place,
    })
}

/// Reads a duration such as `1.5s`, `250ms` or `1h30m`, of at most a year.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanos = 0u128;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (digits, tail) = rest.split_at(number);
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        nanos = nanos.checked_add(scaled(digits, unit_nanos(unit)?)?)?;
        rest = tail;
    }
    let nanos = u64::try_from(nanos).ok().filter(|_| !text.is_empty())?;
    Some(Duration::from_nanos(nanos)).filter(|duration| *duration <= MAX_DURATION)
}

fn unit_nanos(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// `digits`, a decimal number, times `unit`, without the rounding of a float. Digits below a nanosecond are dropped.
fn scaled(digits: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.checked_mul(unit)?;
    let mut share = unit;
    for digit in fraction.chars() {
        share /= 10;
        total = total.checked_add(share * u128::from(digit.to_digit(10)?))?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let cases = [
            ("1.5s", Some(1_500_000_000)),
            ("250ms", Some(250_000_000)),
            ("1h1m1s", Some(3_661_000_000_000)),
            (".5s", Some(500_000_000)),
            ("0s", Some(0)),
            ("0", Some(0)),
            ("0.000000001s", Some(1)),
            ("", None),
            ("1", None),
            ("s", None),
            (".s", None),
            ("1.2.3s", None),
            ("-1s", None),
            ("1d", None),
            ("9000h", None),
            ("99999999999999999999999999999999999999999h", None),
        ];
        for (text, nanos) in cases {
            assert_eq!(parse_duration(text), nanos.map(Duration::from_nanos), "{text:?}");
        }
    }
}
