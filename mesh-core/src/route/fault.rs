//! Whether a call is held up or ended on purpose, and how (Envoy's fault filter, gRFC A33).

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use super::RequestHead;
use super::filters::in_force;
use super::matching::header_passes;
use crate::config::{
    Abort, Delay, Fault, FaultAbort, FaultDelay, FilterKind, Fraction, Route, RouteTree, VirtualHost, WeightedCluster,
};
use crate::entropy::Draw;

const DELAY: &str = "x-envoy-fault-delay-request";
const DELAY_PERCENTAGE: &str = "x-envoy-fault-delay-request-percentage";
const ABORT: &str = "x-envoy-fault-abort-request";
const ABORT_GRPC: &str = "x-envoy-fault-abort-grpc-request";
const ABORT_PERCENTAGE: &str = "x-envoy-fault-abort-request-percentage";
const NODE: &str = "x-envoy-downstream-service-node";

/// What is done to one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Injection {
    /// How long it is held up, first.
    pub delay: Duration,
    /// What it ends with then: a status and the answer's body.
    pub abort: Option<(Aborted, Box<str>)>,
    /// A fault was due, and too many are active.
    pub limited: bool,
}

/// What a call ends with, as each kind of caller is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted {
    /// The HTTP status.
    pub http: StatusCode,
    /// The gRPC status.
    pub grpc: u8,
}

impl Aborted {
    /// An HTTP status, and the gRPC status that it stands for (gRFC A33; "HTTP to gRPC Status Code Mapping").
    pub fn with_http(status: StatusCode) -> Self {
        let grpc = match status.as_u16() {
            400 => 13,
            401 => 16,
            403 => 7,
            404 => 12,
            429 | 502..=504 => 14,
            _ => 2,
        };
        Self { http: status, grpc }
    }

    /// A gRPC status, and the HTTP status that it stands for (`google.rpc.Code`, Envoy).
    pub fn with_grpc(code: u8) -> Self {
        let http = match code {
            0 => 200,
            1 => 499,
            3 | 9 | 11 => 400,
            4 => 504,
            5 => 404,
            6 | 10 => 409,
            7 => 403,
            8 => 429,
            12 => 501,
            14 => 503,
            16 => 401,
            _ => 500,
        };
        Self {
            http: StatusCode::from_u16(http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            grpc: code,
        }
    }
}

impl Injection {
    /// Whether nothing is done.
    pub fn is_nothing(&self) -> bool {
        self.delay.is_zero() && self.abort.is_none()
    }
}

/// The faults that can meet the calls that a route gives to a share, in order: of each filter what is said closest to it.
pub fn faults_of(tree: &RouteTree, host: &VirtualHost, route: &Route, share: &WeightedCluster) -> Vec<Arc<Fault>> {
    let faults = in_force(tree, host, route, share).filter_map(|kind| match kind {
        FilterKind::Fault(fault) => Some(fault),
        FilterKind::Session(_) => None,
    });
    let concerned = |fault: &&Arc<Fault>| {
        let cluster = fault.upstream_cluster.as_ref();
        cluster.is_none_or(|cluster| *cluster == share.cluster)
    };
    faults.filter(concerned).cloned().collect()
}

/// Draws for the faults of a call. `active` is how many calls of the process are held by faults now.
pub fn inject(faults: &[Arc<Fault>], head: &RequestHead<'_>, active: u32, draw: &mut Draw) -> Injection {
    let mut injection = Injection::default();
    for fault in faults.iter().filter(|fault| concerns(fault, head)) {
        let delay = fault
            .delay
            .as_ref()
            .and_then(|delay| delayed(delay, head.headers, draw));
        let abort = fault
            .abort
            .as_ref()
            .and_then(|abort| aborted(abort, head.headers, draw));
        if delay.is_none() && abort.is_none() {
            continue;
        }
        if fault.max_active.is_some_and(|max| active >= max) {
            injection.limited = true;
            continue;
        }
        injection.delay = injection.delay.saturating_add(delay.unwrap_or_default());
        if let Some(status) = abort {
            let body = fault.abort.as_ref().map(|abort| abort.body.clone()).unwrap_or_default();
            injection.abort = Some((status, body));
            break;
        }
    }
    injection
}

fn concerns(fault: &Fault, head: &RequestHead<'_>) -> bool {
    let node = || head.headers.get(NODE).map(|node| node.as_bytes());
    (fault.downstream_nodes.is_empty() || {
        let node = node();
        fault.downstream_nodes.iter().any(|one| Some(one.as_bytes()) == node)
    }) && fault.headers.iter().all(|test| header_passes(test, head))
}

fn delayed(delay: &FaultDelay, headers: &HeaderMap, draw: &mut Draw) -> Option<Duration> {
    let (time, fraction) = match delay.delay {
        Delay::Fixed(time) => (time, delay.fraction),
        Delay::Header => (
            Duration::from_millis(number(headers, DELAY)?),
            capped(delay.fraction, headers, DELAY_PERCENTAGE),
        ),
    };
    (!time.is_zero() && fraction.holds(draw.next())).then_some(time)
}

fn aborted(abort: &FaultAbort, headers: &HeaderMap, draw: &mut Draw) -> Option<Aborted> {
    let (status, fraction) = match abort.abort {
        Abort::Http(status) => (Aborted::with_http(status), abort.fraction),
        Abort::Grpc(code) => (Aborted::with_grpc(code), abort.fraction),
        Abort::Header => (asked(headers)?, capped(abort.fraction, headers, ABORT_PERCENTAGE)),
    };
    fraction.holds(draw.next()).then_some(status)
}

/// The end that a request asks for; an HTTP status before a gRPC one.
fn asked(headers: &HeaderMap) -> Option<Aborted> {
    let status = number(headers, ABORT).and_then(|status| u16::try_from(status).ok());
    let status = status.filter(|status| (200..600).contains(status));
    if let Some(status) = status.and_then(|status| StatusCode::from_u16(status).ok()) {
        return Some(Aborted::with_http(status));
    }
    let code = number(headers, ABORT_GRPC).and_then(|code| u8::try_from(code).ok());
    code.map(Aborted::with_grpc)
}

/// The chance that a request asks for, which is at most the one that was configured.
fn capped(fraction: Fraction, headers: &HeaderMap, name: &str) -> Fraction {
    let asked = number(headers, name).and_then(|asked| u32::try_from(asked).ok());
    Fraction {
        of: asked.map_or(fraction.of, |asked| asked.min(fraction.of)),
        ..fraction
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}
