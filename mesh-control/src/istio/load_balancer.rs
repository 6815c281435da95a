//! `loadBalancer` of a traffic policy: which endpoint, and of which locality (Istio).

use std::time::Duration;

use super::fields::Fields;
use super::value::{At, Place, Sink, Value};
use super::values::duration;
use crate::diagnostic::{Code, Severity};

/// The block. What is not there is Istio's default: the less busy of two.
#[derive(Clone, Debug, Default)]
pub struct LoadBalancer {
    /// `simple` or `consistentHash`.
    pub policy: Option<Policy>,
    /// `warmup`, and the older `warmupDurationSecs`.
    pub warmup: Option<Warmup>,
    /// `localityLbSetting`; none: the mesh's.
    pub locality: Option<LocalitySetting>,
}

/// Which endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// `LEAST_REQUEST`, `LEAST_CONN`
    LeastRequest,
    /// `ROUND_ROBIN`
    RoundRobin,
    /// `RANDOM`
    Random,
    /// `consistentHash`
    Hash(Box<ConsistentHash>),
}

/// `consistentHash`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistentHash {
    /// What of a request is hashed.
    pub key: HashKey,
    /// `ringHash.minimumRingSize`, and the older one.
    pub ring_size: Option<u32>,
    /// `maglev.tableSize`; the block alone is 65,537.
    pub table_size: Option<At<u32>>,
}

/// What is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// `httpHeaderName`
    Header(At<String>),
    /// `httpCookie`
    Cookie {
        /// Its name.
        name: At<String>,
        /// Its path.
        path: String,
        /// How long one lasts that a caller without it is given; none: it is given none.
        ttl: Option<Duration>,
        /// What else is said of it.
        attributes: Vec<(String, String)>,
    },
    /// `useSourceIp`
    SourceIp,
    /// `httpQueryParameterName`
    Query(String),
}

/// `warmup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warmup {
    /// After how long an endpoint has all of its share.
    pub duration: Duration,
    /// What it has at once, in percent. Default 10.
    pub minimum_percent: u32,
    /// In thousandths. Default 1,000.
    pub aggression_per_mille: u32,
}

/// `localityLbSetting`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalitySetting {
    /// `enabled`. Default true.
    pub enabled: bool,
    /// Which of three.
    pub rule: LocalityRule,
    /// Where it stands.
    pub place: Place,
}

/// How localities are chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalityRule {
    /// The nearest first, and where each region's calls go next: from, to.
    Failover(Vec<(String, String)>),
    /// By what callers in a locality send where: from, and percent by locality.
    Distribute(Vec<(String, Vec<(String, u32)>)>),
    /// The endpoints that have the most of these labels in common with the caller first: `KEY`, or `KEY=VALUE`.
    Priority(Vec<String>),
}

impl LoadBalancer {
    pub(super) fn read(value: Value, sink: &mut Sink<'_>) -> Option<Self> {
        let mut fields = value.object(sink)?;
        let place = fields.place.clone();
        let simple = fields.string("simple", sink).and_then(|simple| by_name(&simple, sink));
        let hash = fields
            .take("consistentHash")
            .and_then(|value| ConsistentHash::read(value, sink));
        if simple.is_some() && hash.is_some() {
            sink.schema(&place, "only one of simple and consistentHash can be given");
        }
        let older = fields
            .take("warmupDurationSecs")
            .and_then(|value| duration(value, sink));
        let older = older.map(|at| Warmup::of(at.value));
        let warmup = fields
            .take("warmup")
            .and_then(|value| Warmup::read(value, sink))
            .or(older);
        let policy = hash.map(|hash| Policy::Hash(Box::new(hash))).or(simple);
        let starts_slowly = matches!(policy, None | Some(Policy::LeastRequest | Policy::RoundRobin));
        if warmup.is_some() && !starts_slowly {
            let message = "warmup has no effect but with ROUND_ROBIN and LEAST_REQUEST";
            sink.say(Severity::Warning, Code::NotServed, &place, message);
        }
        let locality = fields.take("localityLbSetting");
        let locality = locality.and_then(|value| LocalitySetting::read(value, sink));
        fields.unserved(&["zoneAwareLbSetting"], sink);
        fields.finish(sink);
        Some(Self {
            policy,
            warmup: warmup.filter(|_| starts_slowly),
            locality,
        })
    }
}

fn by_name(simple: &At<String>, sink: &mut Sink<'_>) -> Option<Policy> {
    match simple.as_str() {
        "UNSPECIFIED" => None,
        "LEAST_REQUEST" | "LEAST_CONN" => Some(Policy::LeastRequest),
        "ROUND_ROBIN" => Some(Policy::RoundRobin),
        "RANDOM" => Some(Policy::Random),
        "PASSTHROUGH" => {
            let message = "PASSTHROUGH goes where a proxy caught a connection going: there is none here";
            sink.say(Severity::Error, Code::Refused, &simple.place, message);
            None
        }
        other => {
            let known = "LEAST_REQUEST, ROUND_ROBIN, RANDOM";
            sink.schema(&simple.place, format!("{other:?} is not one of {known}"));
            None
        }
    }
}

impl ConsistentHash {
    fn read(value: Value, sink: &mut Sink<'_>) -> Option<Self> {
        let mut fields = value.object(sink)?;
        let place = fields.place.clone();
        let mut keys = Vec::new();
        keys.extend(fields.string("httpHeaderName", sink).map(HashKey::Header));
        keys.extend(
            fields
                .string("httpQueryParameterName", sink)
                .map(|name| HashKey::Query(name.value)),
        );
        let source = fields.take("useSourceIp").and_then(|value| value.boolean(sink));
        keys.extend(source.filter(|at| at.value).map(|_| HashKey::SourceIp));
        keys.extend(fields.take("httpCookie").and_then(|value| cookie(value, sink)));
        let older = fields
            .take("minimumRingSize")
            .and_then(|value| value.number(8_388_608, sink));
        let mut ring_size = older.map(|at| at.value);
        if let Some(mut ring) = fields.take("ringHash").and_then(|value| value.object(sink)) {
            let size = ring
                .take("minimumRingSize")
                .and_then(|value| value.number(8_388_608, sink));
            ring_size = size.map(|at| at.value).or(ring_size);
            ring.finish(sink);
        }
        let mut table_size = None;
        if let Some(mut maglev) = fields.take("maglev").and_then(|value| value.object(sink)) {
            let own = maglev.place.clone();
            let size = maglev.take("tableSize").and_then(|value| value.number(5_000_011, sink));
            table_size = Some(size.unwrap_or(At {
                value: 65_537,
                place: own,
            }));
            maglev.finish(sink);
        }
        fields.finish(sink);
        if keys.len() != 1 {
            let message =
                "exactly one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName is required";
            sink.schema(&place, message);
            return None;
        }
        Some(Self {
            key: keys.remove(0),
            ring_size: ring_size.filter(|size| *size > 0),
            table_size,
        })
    }
}

fn cookie(value: Value, sink: &mut Sink<'_>) -> Option<HashKey> {
    let mut fields = value.object(sink)?;
    let name = fields.required_string("name", sink);
    let path = fields.string("path", sink).map(|at| at.value);
    let ttl = fields.take("ttl").and_then(|value| duration(value, sink));
    let attributes = fields.list("attributes", sink, |value, sink| {
        let mut fields = value.object(sink)?;
        let name = fields.required_string("name", sink);
        let value = fields.string("value", sink).map(|at| at.value);
        fields.finish(sink);
        Some((name?.value, value.unwrap_or_default()))
    });
    fields.finish(sink);
    Some(HashKey::Cookie {
        name: name?,
        path: path.unwrap_or_default(),
        ttl: ttl.map(|at| at.value),
        attributes,
    })
}

impl Warmup {
    fn of(duration: Duration) -> Self {
        Self {
            duration,
            minimum_percent: 10,
            aggression_per_mille: 1_000,
        }
    }

    fn read(value: Value, sink: &mut Sink<'_>) -> Option<Self> {
        let mut fields = value.object(sink)?;
        let place = fields.place.clone();
        let time = fields.take("duration").and_then(|value| duration(value, sink));
        let percent = fields
            .take("minimumPercent")
            .and_then(|value| value.thousandths(100, sink));
        let aggression = fields
            .take("aggression")
            .and_then(|value| value.thousandths(1_000, sink));
        fields.finish(sink);
        let Some(time) = time else {
            sink.schema(&place, "duration is required");
            return None;
        };
        let default = Self::of(time.value);
        Some(Self {
            minimum_percent: percent.map_or(default.minimum_percent, |at| at.value / 1_000),
            aggression_per_mille: aggression.map_or(default.aggression_per_mille, |at| at.value),
            ..default
        })
    }
}

impl LocalitySetting {
    /// Reads the block, of the mesh as of a rule.
    pub(super) fn read(value: Value, sink: &mut Sink<'_>) -> Option<Self> {
        let mut fields = value.object(sink)?;
        let place = fields.place.clone();
        let enabled = fields.take("enabled").and_then(|value| value.boolean(sink));
        let distribute = fields.list("distribute", sink, distribution);
        let failover = fields.list("failover", sink, |value, sink| {
            let mut fields = value.object(sink)?;
            let (from, to) = (fields.required_string("from", sink), fields.required_string("to", sink));
            fields.finish(sink);
            Some((from?.value, to?.value))
        });
        let labels = fields.strings("failoverPriority", sink);
        fields.finish(sink);
        if !distribute.is_empty() && (!failover.is_empty() || !labels.is_empty()) {
            sink.schema(&place, "distribute cannot stand beside failover or failoverPriority");
        }
        if let Some((from, _)) = failover.iter().find(|(from, to)| from == to) {
            sink.schema(&place, format!("failover from {from:?} leads back to it"));
        }
        if !failover.is_empty() && !labels.is_empty() {
            let message = "failover beside failoverPriority is not served: the labels decide";
            sink.say(Severity::Warning, Code::NotServed, &place, message);
        }
        let rule = if !distribute.is_empty() {
            LocalityRule::Distribute(distribute)
        } else if !labels.is_empty() {
            LocalityRule::Priority(labels.into_iter().map(|at| at.value).collect())
        } else {
            LocalityRule::Failover(failover)
        };
        Some(Self {
            enabled: enabled.is_none_or(|at| at.value),
            rule,
            place,
        })
    }
}

fn distribution(value: Value, sink: &mut Sink<'_>) -> Option<(String, Vec<(String, u32)>)> {
    let mut fields: Fields = value.object(sink)?;
    let place = fields.place.clone();
    let from = fields.required_string("from", sink);
    let to = fields.take("to");
    let to = to.and_then(|value| value.map(sink, |value, sink| value.number(100, sink).map(|at| at.value)));
    fields.finish(sink);
    let to: Vec<(String, u32)> = to.unwrap_or_default().into_iter().collect();
    // As Istio's own validation.
    if to.iter().map(|(_, percent)| percent).sum::<u32>() != 100 {
        sink.schema(&place, "the shares of a distribution must sum to 100");
    }
    Some((from?.value, to))
}
