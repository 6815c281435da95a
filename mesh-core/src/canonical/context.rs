//! What a request says of the trace that it is part of (W3C Trace Context, W3C Baggage), held to what those allow.
//!
//! Handlers pass these headers on with the calls that they make, and whoever receives those passes them on again: what one caller makes
//! long is long for a whole chain of services. So they are as long as their standards say and no longer when a handler sees them. What is
//! not of their form is taken out, and what is too much is cut off between two members.

use http::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// The longest `traceparent`: that of version 00 has 55 bytes, and later ones may go on.
const MAX_TRACEPARENT_BYTES: usize = 128;
/// The most members of `tracestate` (Trace Context 3.3.1.1), and how much of it everybody passes on (3.3.1.5).
const MAX_TRACESTATE_MEMBERS: usize = 32;
const MAX_TRACESTATE_BYTES: usize = 512;
/// How much of `baggage` everybody passes on (Baggage 3.3.2).
const MAX_BAGGAGE_MEMBERS: usize = 64;
const MAX_BAGGAGE_BYTES: usize = 8192;

/// Whether it is one of them.
pub(super) fn is_context(name: &HeaderName) -> bool {
    *name == TRACEPARENT || *name == TRACESTATE || *name == BAGGAGE
}

/// Whether [`bound`] has something to do.
pub(super) fn is_unbound(headers: &HeaderMap) -> bool {
    let trace = is_traced(headers);
    (!trace && (headers.contains_key(TRACEPARENT) || headers.contains_key(TRACESTATE)))
        || exceeds(headers, &TRACESTATE, MAX_TRACESTATE_MEMBERS, MAX_TRACESTATE_BYTES)
        || exceeds(headers, &BAGGAGE, MAX_BAGGAGE_MEMBERS, MAX_BAGGAGE_BYTES)
}

/// Takes out what is not of their form, and cuts off what is too much.
pub(super) fn bound(headers: &mut HeaderMap) {
    if !is_traced(headers) {
        // What a state belongs to is not known (Trace Context 4.3).
        headers.remove(TRACEPARENT);
        headers.remove(TRACESTATE);
    }
    cut(headers, TRACESTATE, MAX_TRACESTATE_MEMBERS, MAX_TRACESTATE_BYTES);
    cut(headers, BAGGAGE, MAX_BAGGAGE_MEMBERS, MAX_BAGGAGE_BYTES);
}

/// Whether there is one `traceparent` and it is one.
fn is_traced(headers: &HeaderMap) -> bool {
    let mut all = headers.get_all(TRACEPARENT).iter();
    match (all.next(), all.next()) {
        (Some(one), None) => is_traceparent(one.as_bytes()),
        _ => false,
    }
}

fn is_traceparent(value: &[u8]) -> bool {
    let hex = |bytes: &[u8]| bytes.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let id = |bytes: &[u8]| hex(bytes) && bytes.iter().any(|byte| *byte != b'0');
    let [version @ .., _] = &value[..value.len().min(3)] else {
        return false;
    };
    let has_form = value.len() >= 55
        && value.len() <= MAX_TRACEPARENT_BYTES
        && [2, 35, 52].iter().all(|dash| value[*dash] == b'-')
        && hex(version)
        && id(&value[3..35])
        && id(&value[36..52])
        && hex(&value[53..55]);
    has_form
        && match version {
            b"ff" => false,
            b"00" => value.len() == 55,
            _ => value.len() == 55 || value[55] == b'-',
        }
}

fn members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let values = headers.get_all(name).iter();
    let members = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    members.map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// Every byte is one that can be seen, or a blank: nothing of another encoding.
fn is_text(member: &[u8]) -> bool {
    member.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t'))
}

fn exceeds(headers: &HeaderMap, name: &HeaderName, most: usize, most_bytes: usize) -> bool {
    let bytes: usize = headers.get_all(name).iter().map(|value| value.len() + 1).sum();
    bytes > most_bytes + 1 || members(headers, name).count() > most || !members(headers, name).all(is_text)
}

/// Keeps the first members that there is room for.
fn cut(headers: &mut HeaderMap, name: HeaderName, most: usize, most_bytes: usize) {
    if !exceeds(headers, &name, most, most_bytes) {
        return;
    }
    let mut kept: Vec<u8> = Vec::new();
    for member in members(headers, &name).filter(|member| is_text(member)).take(most) {
        let comma = usize::from(!kept.is_empty());
        if kept.len() + comma + member.len() > most_bytes {
            break;
        }
        kept.extend(&b","[..comma]);
        kept.extend(member);
    }
    match HeaderValue::try_from(kept) {
        Ok(value) if !value.is_empty() => drop(headers.insert(name, value)),
        _ => drop(headers.remove(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::sanitize;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn sanitized(headers: &[(HeaderName, &[u8])]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.clone(), HeaderValue::from_bytes(value).unwrap());
        }
        // One pass says whether there is anything to do, and never wrongly.
        let before = map.clone();
        let unbound = is_unbound(&map);
        sanitize(&mut map);
        assert_eq!(unbound, before != map, "{headers:?}");
        map
    }

    #[test]
    fn fl_8_a_traceparent_is_one_or_none() {
        let long = format!("01-{}-{}", &PARENT[3..], "a".repeat(200));
        let later = format!("01-{}-more", &PARENT[3..]);
        for (value, stays) in [
            (PARENT, true),
            (&later, true),
            ("", false),
            ("00", false),
            (&PARENT[..54], false),
            (&PARENT.replace("00-4", "ff-4"), false),
            (&PARENT.replace("4bf9", "4BF9"), false),
            (
                &PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
                false,
            ),
            (&PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)), false),
            (&format!("{PARENT}-more"), false),
            (&long, false),
            (&"0".repeat(8192), false),
        ] {
            let headers = sanitized(&[(TRACEPARENT, value.as_bytes()), (TRACESTATE, b"a=1")]);
            assert_eq!(headers.contains_key(TRACEPARENT), stays, "{value}");
            assert_eq!(headers.contains_key(TRACESTATE), stays, "{value}");
        }
        let twice = sanitized(&[(TRACEPARENT, PARENT.as_bytes()), (TRACEPARENT, PARENT.as_bytes())]);
        assert!(twice.is_empty());
    }

    #[test]
    fn fl_8_what_is_too_much_is_cut_off_between_members() {
        let member = |number: usize| format!("key-{number:04}=value");
        let list = |count: usize| (0..count).map(member).collect::<Vec<_>>().join(",");
        let of = |name: &HeaderName, values: &[&[u8]]| {
            let mut all = vec![(TRACEPARENT, PARENT.as_bytes())];
            all.extend(values.iter().map(|value| (name.clone(), *value)));
            let headers = sanitized(&all);
            let values: Vec<_> = headers
                .get_all(name)
                .iter()
                .map(|value| value.to_str().unwrap().to_owned())
                .collect();
            values.join(",")
        };
        assert_eq!(of(&BAGGAGE, &[list(64).as_bytes()]), list(64));
        assert_eq!(of(&BAGGAGE, &[list(65).as_bytes()]), list(64));
        assert_eq!(of(&BAGGAGE, &[list(10_000).as_bytes()]), list(64));
        assert_eq!(
            of(&BAGGAGE, &[list(40).as_bytes(), list(40).as_bytes()]),
            [list(40), list(24)].join(",")
        );
        assert_eq!(of(&TRACESTATE, &[list(33).as_bytes()]), list(32));
        // By bytes.
        let big = format!("a={}", "x".repeat(4_000));
        let three = [&*big, &*big, &*big].join(",");
        assert_eq!(of(&BAGGAGE, &[three.as_bytes()]), [&*big, &*big].join(","));
        assert_eq!(of(&BAGGAGE, &[format!("a={}", "x".repeat(9_000)).as_bytes()]), "");
        assert_eq!(of(&TRACESTATE, &[big.as_bytes()]), "");
        // What is no text goes, and the rest stays.
        assert_eq!(of(&BAGGAGE, &[b"a=1,b=\xc3\x28,c=3"]), "a=1,c=3");
    }
}
