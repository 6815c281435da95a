//! Which trace a request is part of, as its headers say it: W3C Trace Context, Baggage, and the id that Envoy gives requests.
//!
//! A trace holds together only if every service says in its calls what it was told itself, and applications forget to. So it is passed on
//! with the rest of what calls inherit ([`crate::inherit`]), as it came: who makes no span changes nothing of it, and the next one who does
//! finds the last one's. What the application says by itself comes first.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The span that a request belongs to (W3C Trace Context 3.2).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What vendors say of the trace (3.3).
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// What the application says along all of the way (W3C Baggage).
pub const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
/// What logs call a request (Envoy).
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest that vendors' words are passed on, in bytes: the W3C asks for 512 at least.
const MAX_STATE_BYTES: usize = 512;
/// The longest baggage that is passed on, in bytes: what the W3C asks for.
const MAX_BAGGAGE_BYTES: usize = 8192;
/// The longest id of a request that is passed on, in bytes. A UUID has 36.
const MAX_ID_BYTES: usize = 128;

/// What a request says of its trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceHeaders {
    parent: Option<HeaderValue>,
    state: Option<HeaderValue>,
    baggage: Option<HeaderValue>,
    id: Option<HeaderValue>,
}

impl TraceHeaders {
    /// Whether a header of this name is one of them.
    #[inline]
    pub fn has(name: &str) -> bool {
        matches!(name, "traceparent" | "tracestate" | "baggage" | "x-request-id")
    }

    /// What `headers` say; `None`: nothing that is to be passed on. What is not well-formed is not, nor what is too long.
    pub fn of(headers: &HeaderMap) -> Option<Arc<Self>> {
        let parent = only(headers, &TRACEPARENT).filter(|value| is_traceparent(value.as_bytes()));
        let told = Self {
            // Without a parent it says nothing (3.3).
            state: parent.and_then(|_| joined(headers, &TRACESTATE, MAX_STATE_BYTES)),
            parent: parent.cloned(),
            baggage: joined(headers, &BAGGAGE, MAX_BAGGAGE_BYTES),
            id: only(headers, &REQUEST_ID)
                .filter(|id| id.len() <= MAX_ID_BYTES)
                .cloned(),
        };
        let says = told.parent.is_some() || told.baggage.is_some() || told.id.is_some();
        says.then(|| Arc::new(told))
    }

    /// Says it in a call, where that says nothing itself. Baggage stays inside: it may be about whom a request is for, and who is not of the
    /// mesh has no business with that.
    pub fn pass_on(&self, headers: &mut HeaderMap, inside: bool) {
        if let Some(parent) = &self.parent
            && !headers.contains_key(TRACEPARENT)
        {
            headers.insert(TRACEPARENT, parent.clone());
            // That of another trace says nothing of this one.
            headers.remove(TRACESTATE);
            headers.extend(self.state.clone().map(|state| (TRACESTATE, state)));
        }
        let own = [
            (BAGGAGE, self.baggage.as_ref().filter(|_| inside)),
            (REQUEST_ID, self.id.as_ref()),
        ];
        for (name, value) in own {
            if let Some(value) = value
                && !headers.contains_key(&name)
            {
                headers.insert(name, value.clone());
            }
        }
    }

    /// The id of the request.
    pub fn request_id(&self) -> Option<&HeaderValue> {
        self.id.as_ref()
    }
}

/// The value of a header that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut all = headers.get_all(name).iter();
    all.next().filter(|_| all.next().is_none())
}

/// The values of a header that is a list.
fn joined(headers: &HeaderMap, name: &HeaderName, max: usize) -> Option<HeaderValue> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?;
    let Some(second) = all.next() else {
        return Some(first).filter(|value| value.len() <= max).cloned();
    };
    let mut bytes = first.as_bytes().to_vec();
    for value in std::iter::once(second).chain(all) {
        if bytes.len() + value.len() >= max {
            return None;
        }
        bytes.push(b',');
        bytes.extend_from_slice(value.as_bytes());
    }
    HeaderValue::from_bytes(&bytes).ok()
}

/// `00-<32 digits>-<16 digits>-<2 digits>`; later versions may say more behind that (3.2.4).
fn is_traceparent(value: &[u8]) -> bool {
    let digits = |range: std::ops::Range<usize>| {
        let digits = value.get(range);
        digits.is_some_and(|digits| digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')))
    };
    let is_some =
        |range: std::ops::Range<usize>| digits(range.clone()) && value[range].iter().any(|digit| *digit != b'0');
    let dashes = [2, 35, 52].iter().all(|at| value.get(*at) == Some(&b'-'));
    let end = match value.get(..2) {
        Some(b"00") => value.len() == 55,
        _ => value.len() == 55 || value.get(55) == Some(&b'-'),
    };
    dashes && end && digits(0..2) && value[..2] != *b"ff" && is_some(3..35) && is_some(36..52) && digits(53..55)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let one = |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
        let mut headers = HeaderMap::new();
        for (name, value) in all.iter().map(one) {
            headers.append::<HeaderName>(name, value);
        }
        headers
    }

    fn passed(told: &[(&'static str, &str)], own: &[(&'static str, &str)], inside: bool) -> HeaderMap {
        let mut own = headers(own);
        if let Some(told) = TraceHeaders::of(&headers(told)) {
            told.pass_on(&mut own, inside);
        }
        own
    }

    #[test]
    fn what_a_request_says_its_calls_say_too() {
        let told = [
            ("traceparent", PARENT),
            ("tracestate", "a=1"),
            ("tracestate", "b=2"),
            ("baggage", "user=7"),
            ("x-request-id", "id"),
        ];
        assert!(told.iter().all(|(name, _)| TraceHeaders::has(name)));
        let expected = [
            ("traceparent", PARENT),
            ("tracestate", "a=1,b=2"),
            ("baggage", "user=7"),
            ("x-request-id", "id"),
        ];
        assert_eq!(passed(&told, &[], true), headers(&expected));
        let outside = [expected[0], expected[1], expected[3]];
        assert_eq!(passed(&told, &[], false), headers(&outside));
        // What the application says itself is its own word, and the state is of its parent's trace.
        let own = [("traceparent", "other"), ("baggage", "own=1"), ("x-request-id", "own")];
        assert_eq!(passed(&told, &own, true), headers(&own));
        assert_eq!(
            passed(&[told[0]], &[("tracestate", "stale=1")], true),
            headers(&[("traceparent", PARENT)])
        );
    }

    #[test]
    fn what_is_not_well_formed_or_too_long_is_not_passed_on() {
        let zeros = PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        for parent in [
            "",
            "00",
            &PARENT[..54],
            &PARENT.replace("00-", "ff-"),
            &PARENT.replace("00f067aa0ba902b7", "0000000000000000"),
            &PARENT.to_uppercase(),
            &format!("{PARENT}-x"),
            &zeros,
        ] {
            assert_eq!(
                TraceHeaders::of(&headers(&[("traceparent", parent), ("tracestate", "a=1")])),
                None,
                "{parent}"
            );
        }
        let later = format!("{}-more", PARENT.replace("00-4", "01-4"));
        assert!(TraceHeaders::of(&headers(&[("traceparent", &later)])).is_some());
        let twice = [("traceparent", PARENT), ("traceparent", PARENT)];
        assert_eq!(TraceHeaders::of(&headers(&twice)), None);
        let long = |bytes: usize| "x".repeat(bytes);
        assert_eq!(
            TraceHeaders::of(&headers(&[("baggage", &long(MAX_BAGGAGE_BYTES + 1))])),
            None
        );
        let half = long(MAX_BAGGAGE_BYTES / 2);
        assert_eq!(
            TraceHeaders::of(&headers(&[("baggage", &half), ("baggage", &half)])),
            None
        );
        assert_eq!(
            TraceHeaders::of(&headers(&[("x-request-id", &long(MAX_ID_BYTES + 1))])),
            None
        );
        let told = TraceHeaders::of(&headers(&[
            ("traceparent", PARENT),
            ("tracestate", &long(MAX_STATE_BYTES + 1)),
        ]));
        assert_eq!(told.unwrap().state, None);
    }
}
