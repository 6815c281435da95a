//! The table of limits, and their forms on the wire.

use http::HeaderValue;

use super::*;
use crate::config::Split;

fn ms(millis: u64) -> Option<Duration> {
    Some(Duration::from_millis(millis))
}

/// Timeout, `max_stream`, `grpc_max`.
fn route(timeout: Option<Duration>, max_stream: Option<Duration>, grpc_max: Option<Duration>) -> Route {
    Route {
        timeout,
        limits: TimeLimits {
            max_stream,
            grpc_max,
            ..TimeLimits::default()
        },
        ..Route::to(Split::all_to("c"))
    }
}

#[test]
fn the_shortest_limit_that_is_meant_for_the_call_holds() {
    let zero = Some(Duration::ZERO);
    let grpc = |grpc_timeout| Caller {
        grpc: true,
        grpc_timeout,
        ..Caller::default()
    };
    let http = Caller::default();
    let inherited = |caller: Caller, inherited| Caller { inherited, ..caller };
    let asked = |caller: Caller, asked| Caller { asked, ..caller };
    let cases = [
        // Nothing is said, or said to be endless.
        (route(None, None, None), http, None),
        (route(None, zero, None), grpc(None), None),
        // HTTP: whatever comes first.
        (route(ms(9), None, ms(2)), http, Some((9, Of::Route))),
        (route(ms(9), ms(5), None), http, Some((5, Of::MaxStream))),
        (route(ms(9), ms(5), None), asked(http, ms(3)), Some((3, Of::Route))),
        (route(ms(9), ms(5), None), asked(http, zero), Some((5, Of::MaxStream))),
        // gRPC: what is meant for it stands in the place of what is not (gRFC A31).
        (route(ms(9), None, None), grpc(None), Some((9, Of::Route))),
        (route(ms(2), ms(5), None), grpc(None), Some((5, Of::MaxStream))),
        (route(ms(2), zero, None), grpc(None), None),
        (route(ms(2), ms(3), ms(7)), grpc(None), Some((7, Of::Route))),
        (route(ms(2), ms(3), zero), grpc(None), None),
        // The caller's own.
        (route(ms(9), None, None), grpc(ms(4)), Some((4, Of::Caller))),
        (route(ms(9), None, ms(3)), grpc(ms(4)), Some((3, Of::Route))),
        (route(None, None, zero), grpc(ms(4)), Some((4, Of::Caller))),
        (
            route(ms(9), None, None),
            asked(grpc(ms(20)), ms(30)),
            Some((20, Of::Caller)),
        ),
        // What is left of the inbound request, but for the margin.
        (
            route(ms(9), None, None),
            inherited(http, ms(5)),
            Some((4, Of::Inherited)),
        ),
        (
            route(None, None, None),
            inherited(grpc(ms(5)), ms(9)),
            Some((5, Of::Caller)),
        ),
        (route(None, None, None), inherited(http, zero), Some((0, Of::Inherited))),
    ];
    for (index, (route, caller, expected)) in cases.into_iter().enumerate() {
        let found = limits(&route, &caller)
            .least()
            .map(|limit| (limit.total.as_millis() as u64, limit.of));
        assert_eq!(found, expected, "case {index}: {route:?} {caller:?}");
    }
}

/// A route's timeout is the answer's; what is said of streams and of gRPC calls, and what callers say, is of all of it.
#[test]
fn only_a_routes_timeout_begins_with_the_end_of_the_request() {
    let grpc = |grpc_timeout| Caller {
        grpc: true,
        grpc_timeout,
        ..Caller::default()
    };
    let whole = |total: u64, of| {
        Some(Limit {
            total: Duration::from_millis(total),
            of,
        })
    };
    let cases = [
        (route(ms(9), None, None), grpc(None), (ms(9), None)),
        (route(ms(9), None, None), grpc(ms(4)), (ms(9), whole(4, Of::Caller))),
        (
            route(ms(9), ms(12), None),
            Caller::default(),
            (ms(9), whole(12, Of::MaxStream)),
        ),
        (route(ms(9), ms(12), None), grpc(None), (None, whole(12, Of::MaxStream))),
        (route(ms(9), None, ms(7)), grpc(ms(8)), (None, whole(7, Of::Route))),
    ];
    for (route, caller, expected) in cases {
        let found = limits(&route, &caller);
        assert_eq!((found.answer, found.whole), expected, "{route:?} {caller:?}");
    }
}

#[test]
fn an_offset_is_taken_off_the_callers_time() {
    let mut route = route(None, None, None);
    route.limits.grpc_offset = ms(3);
    for (given, expected) in [(10, 7), (4, 1), (3, 3), (2, 2)] {
        let caller = Caller {
            grpc: true,
            grpc_timeout: ms(given),
            ..Caller::default()
        };
        assert_eq!(
            limits(&route, &caller).least().unwrap().total,
            Duration::from_millis(expected)
        );
    }
}

#[test]
fn grpc_timeouts() {
    let cases = [
        ("1H", Some(Duration::from_secs(3600))),
        ("2M", Some(Duration::from_secs(120))),
        ("3S", Some(Duration::from_secs(3))),
        ("99999999m", Some(Duration::from_millis(99_999_999))),
        ("5u", Some(Duration::from_micros(5))),
        ("6n", Some(Duration::from_nanos(6))),
        ("123456789n", None),
        ("S", None),
        ("", None),
        ("+1S", None),
        ("1x", None),
        ("1é", None),
    ];
    for (text, expected) in cases {
        let value = HeaderValue::from_bytes(text.as_bytes()).unwrap();
        assert_eq!(parse_grpc_timeout(&value), expected, "{text:?}");
    }
}

#[test]
fn what_is_told_is_never_longer() {
    let nanos = Duration::from_nanos;
    for (left, expected) in [
        (nanos(1_999_999), "1m"),
        (nanos(40_000_000), "40m"),
        (Duration::from_millis(99_999_999), "99999999m"),
        (Duration::from_millis(100_000_999), "100000S"),
        (Duration::from_secs(100_000_000), "27777H"),
    ] {
        let (grpc, millis) = whole_millis(left);
        assert_eq!(grpc, expected);
        assert!(parse_grpc_timeout(&grpc).unwrap() <= left && parse_millis(&millis).unwrap() <= left);
    }
    assert_eq!(whole_millis(Duration::ZERO).0, "1m");
    assert_eq!(parse_millis(&HeaderValue::from_static("0")), None);
}
