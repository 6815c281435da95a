//! What reaches a client beside the stream of its configuration: the answers of the services for load and status, files
//! that somebody else writes, and what endpoints report of themselves.
//!
//! Whatever they hold, a client stays within its bounds, what is understood is understood the same way twice, and what is
//! not has a reason that is short.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::{HeaderMap, HeaderValue};
use mesh_core::report::Loads;
use mesh_core::report::orca::{self, Metric};

use crate::client::load::state::{LoadState, MAX_INTERVAL, MIN_INTERVAL};
use crate::credentials::token::Token;
use crate::identity::bundle_map;
use crate::node::Node;
use crate::pem;
use crate::wire::bytes;

/// The most bytes of a reason.
const MAX_REASON_BYTES: usize = 1024;
/// The most bytes of a report of an endpoint that is looked at.
const MAX_ORCA_BYTES: usize = 4096;
/// More reports than follow one answer.
const MAX_REPORTS: usize = 4;

/// A `LoadStatsResponse`: it is obeyed within bounds, or the stream is of no use.
pub fn load_response(input: &[u8]) {
    let Some(response) = bytes::read_load_response(input) else {
        return;
    };
    let again = bytes::read_load_response(&bytes::load_response(response.clone()));
    assert_eq!(again.as_ref(), Some(&response));
    let (loads, now) = (Loads::default(), Instant::now());
    let reader = loads.reader(now);
    let mut state = LoadState::new(&reader, Arc::new(Node::default()));
    let asked = response.interval;
    match state.receive(response, now) {
        Err(_) => assert!(asked.is_none_or(|interval| interval.is_zero())),
        Ok(()) => {
            let due = state.due().expect("a report is due") - now;
            assert!((MIN_INTERVAL..=MAX_INTERVAL).contains(&due), "{due:?}");
            let reports = std::iter::from_fn(|| state.next_request(now + due));
            assert!(
                reports.take(MAX_REPORTS).count() < MAX_REPORTS,
                "there is no end of reports"
            );
            assert!(state.due().is_none_or(|due| due > now + Duration::ZERO));
        }
    }
}

/// A `ClientStatusResponse`: what it says is said on as it was understood.
pub fn status_response(input: &[u8]) {
    if let Some(views) = bytes::read_status_response(input) {
        // What has no word of its own is left out the first time. As text, since metadata may hold what is not equal to itself.
        let once = bytes::read_status_response(&bytes::status_response(views)).expect("what was encoded is an answer");
        let told = format!("{once:?}");
        let twice = bytes::read_status_response(&bytes::status_response(once)).expect("what was encoded is an answer");
        assert_eq!(told, format!("{twice:?}"));
    }
}

/// The file of a `jwt_token_file`: what is sent of it is what it holds, and none of it is shown.
pub fn token(file: &[u8]) {
    match Token::read(file) {
        Err(why) => assert!(why.to_string().len() <= MAX_REASON_BYTES),
        Ok(token) => {
            let header = token.header();
            assert!(header.is_sensitive());
            assert_eq!(header.as_bytes().strip_prefix(b"Bearer "), Some(file.trim_ascii()));
            assert!(format!("{token:?}").len() <= MAX_REASON_BYTES);
        }
    }
}

/// A file of certificates, or of a key.
pub fn pem_file(file: &[u8]) {
    match pem::certificates(file) {
        Err(why) => assert!(!why.to_string().is_empty()),
        Ok(certificates) => assert!(!certificates.is_empty()),
    }
    if let Err(why) = pem::private_key(file) {
        assert!(!why.to_string().is_empty());
    }
}

/// A map of trust bundles.
pub fn trust_bundle_map(file: &[u8]) {
    match bundle_map::parse(file) {
        Err(why) => assert!(!why.to_string().is_empty()),
        Ok(domains) => assert_eq!(bundle_map::parse(file).ok(), Some(domains)),
    }
}

/// What an endpoint reports of its load: a header's value, and the message that the other forms carry. Every form says the
/// same, and of a malformed one nothing is handed over.
pub fn orca_report(input: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(input) {
        for name in ["endpoint-load-metrics", "endpoint-load-metrics-bin"] {
            figures(|each| {
                orca::read(
                    &HeaderMap::from_iter([(http::HeaderName::from_static(name), value.clone())]),
                    each,
                )
            });
        }
    }
    if input.len() <= MAX_ORCA_BYTES {
        let message = figures(|each| orca::parse(input, each).is_some());
        for text in [STANDARD.encode(input), STANDARD_NO_PAD.encode(input)] {
            let forms = [
                ("endpoint-load-metrics-bin", text.clone()),
                ("endpoint-load-metrics", format!("BIN {text}")),
            ];
            for (name, value) in forms {
                let value = HeaderValue::try_from(value).expect("base64 is a header's value");
                let headers = HeaderMap::from_iter([(http::HeaderName::from_static(name), value)]);
                assert_eq!(figures(|each| orca::read(&headers, each)), message, "{name}");
            }
        }
    }
}

/// What `read` hands over, by name and to the bit; `None` where it was malformed.
fn figures(read: impl FnOnce(&mut dyn FnMut(Metric<'_>, f64)) -> bool) -> Option<Vec<(String, u64)>> {
    let mut found = Vec::new();
    let well_formed = read(&mut |metric, value: f64| {
        assert!(value.is_finite() && (value >= 0.0 || matches!(metric, Metric::Named(_))));
        found.push((format!("{metric:?}"), value.to_bits()));
    });
    assert!(well_formed || found.is_empty(), "a malformed report was used");
    well_formed.then_some(found)
}

/// Inputs by target.
pub(super) fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    const JWT: &[u8] = b"eyJhbGciOiJub25lIn0.eyJleHAiOjQxMDI0NDQ4MDB9.c2ln\n";
    const MAP: &[u8] = br#"{"trust_domains":{"a.example":{"spiffe_sequence":7,"keys":[
{"kty":"EC","use":"x509-svid","x5c":["MAA="]},{"use":"jwt-svid"}]},"b.example":{}}}"#;
    const PEM: &[u8] = b"text\n-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n\
-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";
    const TEXT: &[u8] = b"TEXT cpu_utilization=0.5,named_metrics.q=-1e3,eps=2";
    const JSON: &[u8] =
        br#"JSON {"cpu_utilization":0.5,"rps_fractional":9,"named_metrics":{"q":-1},"request_cost":{}}"#;
    // Field 1 is 0.5, field 8 is a name and 2.
    const MESSAGE: &[u8] = b"\x09\0\0\0\0\0\0\xe0\x3f\x42\x0c\x0a\x01q\x11\0\0\0\0\0\0\0\x40";
    let asks = |interval| {
        bytes::load_response(crate::wire::load::LoadResponse {
            clusters: vec!["c".into()],
            all: true,
            interval,
        })
    };
    vec![
        ("load_response", "ten-seconds", asks(Some(Duration::from_secs(10)))),
        ("load_response", "for-ever", asks(Some(Duration::MAX))),
        ("load_response", "no-interval", asks(None)),
        ("status_response", "whole", bytes::some_status()),
        ("status_response", "empty", Vec::new()),
        ("token", "jwt", JWT.into()),
        ("token", "without-an-end", b"e30.e30.".to_vec()),
        ("pem_file", "both", PEM.into()),
        ("trust_bundle_map", "two", MAP.into()),
        ("orca_report", "text", TEXT.into()),
        ("orca_report", "json", JSON.into()),
        ("orca_report", "message", MESSAGE.into()),
    ]
}
