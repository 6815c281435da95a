//! What a caller may hold of its session, what that leads to, and when it is told anew (gRFCs A55, A60, A61; Envoy).

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use http::header::SET_COOKIE;

use crate::Entropy;
use crate::config::{Session, SessionCookie, SessionState, Split};
use crate::route::{Choice, Held, RequestHead, choose_kept, keep};

fn cookie(ttl: u64, path: &str) -> Session {
    Session {
        state: Some(SessionState::Cookie(SessionCookie {
            name: "who".into(),
            ttl: Duration::from_secs(ttl),
            path: path.into(),
            attributes: [("SameSite".into(), "Lax".into())].into(),
        })),
        strict: false,
    }
}

fn header() -> Session {
    Session {
        state: Some(SessionState::Header(http::HeaderName::from_static("x-host"))),
        strict: true,
    }
}

/// Envoy's message.
fn message(address: &str, expires: u64) -> Vec<u8> {
    let mut bytes = vec![0x0a, address.len() as u8];
    bytes.extend(address.as_bytes());
    if expires > 0 {
        bytes.push(0x10);
        let mut left = expires;
        while left >= 0x80 {
            bytes.push(left as u8 | 0x80);
            left >>= 7;
        }
        bytes.push(left as u8);
    }
    bytes
}

fn chosen(split: &Split, session: &Session, request: &Request<()>, seed: u64) -> Choice {
    let head = RequestHead::of(request, "shop");
    let mut draw = Entropy::seeded(seed).draw();
    choose_kept(split, |_| Some(session), &head, || 1_000, &mut draw)
}

fn held(session: &Session, headers: &[(&str, String)], uri: &str) -> Option<Held> {
    let request = headers.iter().fold(Request::get(uri), |request, (name, value)| {
        request.header(*name, value.as_str())
    });
    chosen(&Split::all_to("c"), session, &request.body(()).unwrap(), 1).held
}

fn at(addresses: &[&str], cluster: Option<&str>, strict: bool) -> Option<Held> {
    Some(Held {
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        cluster: cluster.map(Box::from),
        strict,
    })
}

#[test]
fn every_form_is_read() {
    let one = "10.0.0.1:80";
    let cases: [(&[u8], u64, Option<Held>); 16] = [
        (b"10.0.0.1:80", 0, at(&[one], None, false)),
        (b"[::1]:80", 0, at(&["[::1]:80"], None, false)),
        (b"10.0.0.1:80;c|v1", 0, at(&[one], Some("c|v1"), false)),
        (b"10.0.0.1:80;a;b", 0, at(&[one], Some("a;b"), false)),
        (b"10.0.0.1:80,[::1]:80;c", 0, at(&[one, "[::1]:80"], Some("c"), false)),
        (&message(one, 0), 0, at(&[one], None, false)),
        // Ends now, which is not yet over; has ended; says no end where there must be one.
        (&message(one, 1_000), 60, at(&[one], None, false)),
        (&message(one, 999), 60, None),
        (&message(one, 0), 60, None),
        (&message(one, 1_700_000_000), 0, at(&[one], None, false)),
        (b"", 0, None),
        (b"10.0.0.1", 0, None),
        (b"shop:80;c", 0, None),
        (b"10.0.0.1:80,;c", 0, None),
        // More bytes are said than there are; a number without an end.
        (b"\x0a\x7f1", 0, None),
        (b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 0, None),
    ];
    for (bytes, ttl, expected) in cases {
        let value = STANDARD.encode(bytes);
        let quoted = format!("other=1; who=\"{value}\"");
        assert_eq!(
            held(&cookie(ttl, "/"), &[("cookie", quoted)], "/a"),
            expected,
            "{bytes:?}"
        );
        let unpadded = format!("who={}", value.trim_end_matches('='));
        assert_eq!(
            held(&cookie(ttl, ""), &[("cookie", unpadded)], "/a"),
            expected,
            "{bytes:?}"
        );
    }
    let value = STANDARD.encode("10.0.0.1:80;c");
    let by_header = held(&header(), &[("x-host", value.clone())], "/a");
    assert_eq!(by_header, at(&[one], Some("c"), true));
    for wrong in ["", "%%%", "MTAuMC4wLjE6ODA*", &"A".repeat(2_000)] {
        assert_eq!(held(&header(), &[("x-host", wrong.into())], "/a"), None, "{wrong}");
    }
    // Nowhere to look.
    assert_eq!(held(&Session::default(), &[("x-host", value)], "/a"), None);
}

/// RFC 6265 5.1.4.
#[test]
fn a_cookie_is_for_its_path_and_what_lies_below() {
    let cases = [
        ("", "/", true),
        ("/", "/", true),
        ("/", "/any/where?x", true),
        ("/foo", "/foo", true),
        ("/foo", "/foo/bar", true),
        ("/foo", "/foo?x=1", true),
        ("/foo", "/foobar", false),
        ("/foo", "/", false),
        ("/foo/", "/foo/bar", true),
        ("/foo/", "/foo", false),
    ];
    for (path, uri, expected) in cases {
        assert_eq!(cookie(0, path).is_for(uri), expected, "{path} {uri}");
        let value = format!("who={}", STANDARD.encode("10.0.0.1:80"));
        let found = held(&cookie(0, path), &[("cookie", value)], uri);
        assert_eq!(found.is_some(), expected, "{path} {uri}");
    }
    assert!(header().is_for("/foo"));
    assert!(!Session::default().is_for("/foo"));
}

#[test]
fn a_session_stays_in_its_share_as_long_as_that_has_a_weight() {
    let request = |text: &str| {
        let value = STANDARD.encode(text);
        Request::get("/").header("x-host", value).body(()).unwrap()
    };
    let split = Split::weighted([("v1".into(), 999_999), ("v2".into(), 1)]).unwrap();
    let none = Split::weighted([("v1".into(), 1), ("v2".into(), 0)]).unwrap();
    for seed in 0..20 {
        let stays = chosen(&split, &header(), &request("10.0.0.1:80;v2"), seed);
        assert_eq!((stays.share, stays.held), (1, at(&["10.0.0.1:80"], Some("v2"), true)));
        // Where it had been is no share any more: any is drawn, and the address may be one of its hosts too.
        for (split, text) in [
            (&none, "10.0.0.1:80;v2"),
            (&split, "10.0.0.1:80;v3"),
            (&split, "10.0.0.1:80"),
        ] {
            let moves = chosen(split, &header(), &request(text), seed);
            assert_eq!(moves.share, 0, "{text}");
            assert!(moves.held.is_some());
        }
    }
    // Shares may have sessions of their own, or none.
    let own = [None, Some(cookie(0, "/"))];
    let both = request("10.0.0.1:80;v1");
    let choice = choose_kept(
        &split,
        |share| own[share].as_ref(),
        &RequestHead::of(&both, "shop"),
        || 0,
        &mut Entropy::seeded(1).draw(),
    );
    assert_eq!((choice.share, choice.held), (0, None));
}

#[test]
fn the_caller_is_told_of_its_host_only_when_it_is_another() {
    let host: SocketAddr = "10.0.0.1:80".parse().unwrap();
    let told = |session: &Session, held: Option<Held>| keep(session, held.as_ref(), host, &"v1".into());
    let value = STANDARD.encode("10.0.0.1:80;v1");
    let (name, text) = told(&cookie(60, "/foo"), None).unwrap();
    assert_eq!(name, SET_COOKIE);
    let expected = format!("who=\"{value}\"; Max-Age=60; Path=/foo; SameSite=Lax; HttpOnly");
    assert_eq!(text, expected.as_str());
    let (name, text) = told(&header(), None).unwrap();
    assert_eq!((name.as_str(), text.to_str().unwrap()), ("x-host", value.as_str()));
    let cases = [
        (at(&["10.0.0.1:80"], Some("v1"), false), false),
        (at(&["10.0.0.9:80", "10.0.0.1:80"], Some("v1"), false), false),
        // Others write no cluster.
        (at(&["10.0.0.1:80"], None, false), false),
        (at(&["10.0.0.1:80"], Some("v2"), false), true),
        (at(&["10.0.0.2:80"], Some("v1"), false), true),
    ];
    for (held, anew) in cases {
        assert_eq!(told(&header(), held.clone()).is_some(), anew, "{held:?}");
        assert_eq!(told(&cookie(0, ""), held.clone()).is_some(), anew, "{held:?}");
    }
    // What is written is read.
    let again = held(&header(), &[("x-host", value)], "/");
    assert_eq!(again, at(&["10.0.0.1:80"], Some("v1"), true));
}
