//! What an endpoint says of its own load in the headers or trailers of an answer (ORCA, gRFC A51).
//!
//! The forms: `endpoint-load-metrics-bin` with a base64 `xds.data.orca.v3.OrcaLoadReport`, which gRPC servers send; and
//! Envoy's `endpoint-load-metrics` with `BIN` and the same, `TEXT` and a list of `name=value`, or `JSON` and the message as
//! protobuf writes it there.
//!
//! All are read by hand, without a library and without allocating: this runs at the end of every call of a cluster that asks
//! for it. It is the peer's text, so every length is checked and nothing of a malformed report is used.

mod json;

use http::HeaderMap;

use crate::config::ReportedMetric;

/// The longest report looked at, decoded, in bytes. A server's trailers are rarely allowed more than 8 KiB in all.
const MAX_REPORT_BYTES: usize = 4096;

const BINARY_HEADER: &str = "endpoint-load-metrics-bin";
const TEXT_HEADER: &str = "endpoint-load-metrics";

/// A figure that an endpoint reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric<'a> {
    /// `cpu_utilization`
    Cpu,
    /// `mem_utilization`
    Memory,
    /// `application_utilization`
    Application,
    /// `rps_fractional`: calls a second.
    Rate,
    /// `eps`: failed ones a second.
    Errors,
    /// An entry of `named_metrics`.
    Named(&'a str),
}

impl Metric<'_> {
    /// Whether it is what somebody asked for by this name.
    pub fn is(self, wanted: &ReportedMetric) -> bool {
        match (wanted, self) {
            (ReportedMetric::CpuUtilization, Self::Cpu)
            | (ReportedMetric::MemUtilization, Self::Memory)
            | (ReportedMetric::ApplicationUtilization, Self::Application)
            | (ReportedMetric::AllNamed, Self::Named(_)) => true,
            (ReportedMetric::Named(wanted), Self::Named(name)) => **wanted == *name,
            _ => false,
        }
    }
}

/// Hands each figure that `headers` report to `each`, and says whether there was a well-formed report. Numbers are finite;
/// utilisations are not negative. A name that is there twice is handed over twice.
pub fn read(headers: &HeaderMap, each: impl FnMut(Metric<'_>, f64)) -> bool {
    if let Some(value) = headers.get(BINARY_HEADER) {
        return read_base64(value.as_bytes(), each).is_some();
    }
    let Some(value) = headers.get(TEXT_HEADER) else {
        return false;
    };
    match value.as_bytes().split_at_checked(4) {
        Some((b"BIN ", rest)) => read_base64(rest, each).is_some(),
        Some((b"TEXT", [b' ', rest @ ..])) => read_text(rest, each).is_some(),
        Some((b"JSON", [b' ', rest @ ..])) if rest.len() <= MAX_REPORT_BYTES => json::read(rest, each).is_some(),
        _ => false,
    }
}

/// Reads an encoded `OrcaLoadReport`; `None`, and nothing handed over, when it is malformed.
pub fn parse(message: &[u8], mut each: impl FnMut(Metric<'_>, f64)) -> Option<()> {
    // First whether it is well-formed, then what it says.
    walk(message, &mut |_, _| {})?;
    walk(message, &mut each)
}

fn read_base64(text: &[u8], each: impl FnMut(Metric<'_>, f64)) -> Option<()> {
    let mut buffer = [0; MAX_REPORT_BYTES];
    let length = decode_base64(text, &mut buffer)?;
    parse(&buffer[..length], each)
}

fn read_text(text: &[u8], mut each: impl FnMut(Metric<'_>, f64)) -> Option<()> {
    let text = std::str::from_utf8(text)
        .ok()
        .filter(|text| text.len() <= MAX_REPORT_BYTES)?;
    let pairs = || {
        text.split(',').map(|pair| {
            let (name, value) = pair.split_once('=')?;
            Some((name.trim(), value.trim().parse::<f64>().ok()?))
        })
    };
    pairs().all(|pair| pair.is_some()).then_some(())?;
    for (name, value) in pairs().flatten() {
        let metric = match name {
            "cpu_utilization" => Some(Metric::Cpu),
            "mem_utilization" => Some(Metric::Memory),
            "application_utilization" => Some(Metric::Application),
            "rps_fractional" => Some(Metric::Rate),
            "eps" => Some(Metric::Errors),
            _ => name.strip_prefix("named_metrics.").map(Metric::Named),
        };
        if let Some(metric) = metric {
            tell(metric, value, &mut each);
        }
    }
    Some(())
}

fn tell(metric: Metric<'_>, value: f64, each: &mut impl FnMut(Metric<'_>, f64)) {
    let in_range = matches!(metric, Metric::Named(_)) || value >= 0.0;
    if value.is_finite() && in_range {
        each(metric, value);
    }
}

/// The fields of `OrcaLoadReport` by number; its other fields are passed over.
fn walk(mut message: &[u8], each: &mut impl FnMut(Metric<'_>, f64)) -> Option<()> {
    while !message.is_empty() {
        match field(&mut message)? {
            (1, Value::Double(value)) => tell(Metric::Cpu, value, each),
            (2, Value::Double(value)) => tell(Metric::Memory, value, each),
            (9, Value::Double(value)) => tell(Metric::Application, value, each),
            (6, Value::Double(value)) => tell(Metric::Rate, value, each),
            (7, Value::Double(value)) => tell(Metric::Errors, value, each),
            (8, Value::Bytes(entry)) => {
                let (name, value) = entry_of_map(entry)?;
                tell(Metric::Named(name), value, each);
            }
            _ => {}
        }
    }
    Some(())
}

/// A key and a value; either may be left out where it is empty or zero.
fn entry_of_map(mut entry: &[u8]) -> Option<(&str, f64)> {
    let (mut name, mut value) = ("", 0.0);
    while !entry.is_empty() {
        match field(&mut entry)? {
            (1, Value::Bytes(bytes)) => name = std::str::from_utf8(bytes).ok()?,
            (2, Value::Double(double)) => value = double,
            _ => {}
        }
    }
    Some((name, value))
}

enum Value<'a> {
    Double(f64),
    Bytes(&'a [u8]),
    Other,
}

/// Takes one field off the front: its number and value.
fn field<'a>(message: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let tag = varint(message)?;
    let value = match tag & 7 {
        0 => {
            varint(message)?;
            Value::Other
        }
        1 => {
            let (bytes, rest) = message.split_first_chunk()?;
            *message = rest;
            Value::Double(f64::from_le_bytes(*bytes))
        }
        2 => {
            let length = usize::try_from(varint(message)?).ok()?;
            let (bytes, rest) = message.split_at_checked(length)?;
            *message = rest;
            Value::Bytes(bytes)
        }
        5 => {
            let (_, rest) = message.split_at_checked(4)?;
            *message = rest;
            Value::Other
        }
        _ => return None,
    };
    Some((tag >> 3, value))
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Decodes base64 with or without padding (gRPC over HTTP/2, `-bin` headers) into `buffer`; how long it is.
fn decode_base64(text: &[u8], buffer: &mut [u8]) -> Option<usize> {
    // A header that is there several times may be joined by commas; the first is the report.
    let text = text.split(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    let text = &text[..text.len() - padding];
    if padding > 2 || text.len() % 4 == 1 || text.len() / 4 * 3 + 2 > buffer.len() {
        return None;
    }
    let mut length = 0;
    for group in text.chunks(4) {
        let mut bits = 0;
        for byte in group {
            let six = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(six);
        }
        // As many whole bytes as the digits of the group hold, from the left of 24 bits.
        let bytes = (bits << (6 * (4 - group.len()))).to_be_bytes();
        for byte in &bytes[1..group.len()] {
            *buffer.get_mut(length)? = *byte;
            length += 1;
        }
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn heard(name: &'static str, value: &str) -> Option<Vec<(String, f64)>> {
        let value = HeaderValue::from_str(value).unwrap();
        let headers = HeaderMap::from_iter([(HeaderName::from_static(name), value)]);
        let mut all = Vec::new();
        read(&headers, |metric, value| all.push((format!("{metric:?}"), value))).then_some(all)
    }

    fn expected(list: &[(&str, f64)]) -> Option<Vec<(String, f64)>> {
        Some(list.iter().map(|(name, value)| ((*name).into(), *value)).collect())
    }

    /// cpu 0.5, rps 3 (passed over), memory 0.25, named `q` 2.0, application 1.5, as protobuf encodes them.
    const REPORT: &[u8] = &[
        0x09, 0, 0, 0, 0, 0, 0, 0xe0, 0x3f, 0x18, 3, 0x11, 0, 0, 0, 0, 0, 0, 0xd0, 0x3f, 0x42, 12, 0x0a, 1, b'q', 0x11,
        0, 0, 0, 0, 0, 0, 0, 0x40, 0x49, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f,
    ];
    const BASE64: &str = "CQAAAAAAAOA/GAMRAAAAAAAA0D9CDAoBcREAAAAAAAAAQEkAAAAAAAD4Pw";

    #[test]
    fn the_forms_that_are_read() {
        let whole = [
            ("Cpu", 0.5),
            ("Memory", 0.25),
            ("Named(\"q\")", 2.0),
            ("Application", 1.5),
        ];
        assert_eq!(heard(BINARY_HEADER, BASE64), expected(&whole));
        assert_eq!(heard(BINARY_HEADER, &format!("{BASE64}==,AAAA")), expected(&whole));
        assert_eq!(heard(TEXT_HEADER, &format!("BIN {BASE64}")), expected(&whole));
        assert_eq!(
            heard(
                TEXT_HEADER,
                "TEXT cpu_utilization=0.5, named_metrics.q=-2,eps=3,rps_fractional=9,rps=1"
            ),
            expected(&[("Cpu", 0.5), ("Named(\"q\")", -2.0), ("Errors", 3.0), ("Rate", 9.0)])
        );
        // As protobuf writes it, by either name of a field; a number may be in quotes; what is not known is passed over.
        for json in [
            r#"JSON {"cpu_utilization":0.5,"mem_utilization":0.25,"named_metrics":{"q":2},"application_utilization":1.5}"#,
            r#"JSON { "cpuUtilization": "0.5", "memUtilization" : 2.5e-1, "rps": 3, "x": [1, {"a": [true, null]}, "]"],
                "namedMetrics": {"q":2.0, "a\"b": 7}, "applicationUtilization": 15e-1, "requestCost": {} } "#,
        ] {
            assert_eq!(heard(TEXT_HEADER, &json.replace('\n', " ")), expected(&whole), "{json}");
        }
        assert_eq!(
            heard(
                TEXT_HEADER,
                r#"JSON {"cpu_utilization":-1,"mem_utilization":"NaN","named_metrics":{"q":"-Infinity"}}"#
            ),
            expected(&[])
        );
        assert_eq!(
            heard(TEXT_HEADER, r#"JSON {"rpsFractional": 9, "eps": 3}"#),
            expected(&[("Rate", 9.0), ("Errors", 3.0)])
        );
        assert_eq!(heard(TEXT_HEADER, "JSON {}"), expected(&[]));
        assert_eq!(heard(BINARY_HEADER, ""), expected(&[]));
        // What is no number of the kind is passed over.
        assert_eq!(
            heard(
                TEXT_HEADER,
                "TEXT cpu_utilization=-1,mem_utilization=inf,named_metrics.q=NaN"
            ),
            expected(&[])
        );
    }

    #[test]
    fn nothing_of_a_malformed_report_is_used() {
        for (name, value) in [
            (BINARY_HEADER, "C"),
            (BINARY_HEADER, "CQAA"),
            (BINARY_HEADER, "!!!!"),
            (BINARY_HEADER, &BASE64[..40]),
            (TEXT_HEADER, "JSON"),
            (TEXT_HEADER, "JSON "),
            (TEXT_HEADER, "JSON{}"),
            (TEXT_HEADER, "JSON []"),
            (TEXT_HEADER, r#"JSON {"cpu_utilization":0.5"#),
            (TEXT_HEADER, r#"JSON {"cpu_utilization":0.5,}"#),
            (TEXT_HEADER, r#"JSON {"cpu_utilization":0.5} x"#),
            (TEXT_HEADER, r#"JSON {"cpu_utilization":{}}"#),
            (TEXT_HEADER, r#"JSON {"cpu_utilization":0.5,"named_metrics":{"q":"x"}}"#),
            (TEXT_HEADER, r#"JSON {"cpu_utilization":0.5,"x":tru}"#),
            (TEXT_HEADER, "TEXT cpu_utilization=0.5,mem"),
            (TEXT_HEADER, "TEXT"),
            (TEXT_HEADER, ""),
            ("other", BASE64),
        ] {
            assert_eq!(heard(name, value), None, "{name}: {value}");
        }
        assert_eq!(heard(BINARY_HEADER, &"A".repeat(2 * MAX_REPORT_BYTES)), None);
        // As deep as it likes, or as long.
        let deep = format!(r#"JSON {{"x":{}{}}}"#, "[".repeat(1000), "]".repeat(1000));
        assert_eq!(heard(TEXT_HEADER, &deep), None);
        let long = format!(
            r#"JSON {{"cpu_utilization":0.5,"x":"{}"}}"#,
            "x".repeat(MAX_REPORT_BYTES)
        );
        assert_eq!(heard(TEXT_HEADER, &long), None);
        for cut in 1..REPORT.len() {
            let mut told = 0;
            if parse(&REPORT[..cut], |_, _| told += 1).is_none() {
                assert_eq!(told, 0, "cut at {cut}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_peer_are_fatal(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes, |_, _| {});
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                for name in [BINARY_HEADER, TEXT_HEADER] {
                    let headers = HeaderMap::from_iter([(HeaderName::from_static(name), value.clone())]);
                    read(&headers, |_, value| assert!(value.is_finite()));
                }
            }
        }

        #[test]
        fn no_json_of_a_peer_is_fatal(text in r#"JSON [\[\]{}":,\\a-z0-9.e+ -]{0,60}"#) {
            let headers = HeaderMap::from_iter([(HeaderName::from_static(TEXT_HEADER), HeaderValue::from_str(&text).unwrap())]);
            read(&headers, |_, value| assert!(value.is_finite()));
        }

        #[test]
        fn a_spoilt_report_is_taken_or_refused(at in 0..REPORT.len(), byte: u8) {
            let mut spoilt = REPORT.to_vec();
            spoilt[at] = byte;
            let _ = parse(&spoilt, |_, value| assert!(value.is_finite()));
        }
    }
}
