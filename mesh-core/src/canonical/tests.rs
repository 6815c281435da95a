//! Istio's table of paths (its normalisation test and documentation), Envoy's order, and what is refused beyond them.

use http::{Request, Version};
use proptest::prelude::*;

use super::*;

use PathNormalization::{Base, DecodeAndMergeSlashes, MergeSlashes};

fn path(path: &str, paths: PathNormalization) -> Result<String, NotCanonical> {
    let request = Request::get(path).header("host", "a").body(()).unwrap();
    canonical(request, paths).map(|request| request.uri().path().to_owned())
}

fn canonical(mut request: Request<()>, paths: PathNormalization) -> Result<Request<()>, NotCanonical> {
    Rewrite::of(&request, paths)?.apply(&mut request);
    // A fixed point, or two rooms in a row would not see the same.
    assert_eq!(
        Rewrite::of(&request, paths).map(|again| again.is_empty()),
        Ok(true),
        "{request:?}"
    );
    Ok(request)
}

#[test]
fn az_1_paths_by_istios_table() {
    for (given, base, merge, decode) in [
        ("/app", "/app", "/app", "/app"),
        ("/app#foo", "/app", "/app", "/app"),
        ("/app/../admin", "/admin", "/admin", "/admin"),
        ("/app/../../../admin", "/admin", "/admin", "/admin"),
        ("/app//", "/app//", "/app/", "/app/"),
        ("//app", "//app", "/app", "/app"),
        ("/app/%2f", "/app/%2F", "/app/%2F", "/app/"),
        ("/app%2Fadmin", "/app%2Fadmin", "/app%2Fadmin", "/app/admin"),
        ("/app%5Cadmin", "/app%5Cadmin", "/app%5Cadmin", "/app/admin"),
        ("/app\\admin", "/app/admin", "/app/admin", "/app/admin"),
        ("/app/\\admin", "/app//admin", "/app/admin", "/app/admin"),
        ("/app\\..\\admin", "/admin", "/admin", "/admin"),
        ("/xyz%30..//abc", "/xyz0..//abc", "/xyz0../abc", "/xyz0../abc"),
        ("/app/%2E./admin", "/admin", "/admin", "/admin"),
        ("/app/%2e%2e/admin", "/admin", "/admin", "/admin"),
        ("/app/%2e%2e%2fadmin", "/app/..%2Fadmin", "/app/..%2Fadmin", "/admin"),
        ("//../admin", "/admin", "/admin", "/admin"),
        ("/a//../admin", "/a/admin", "/a/admin", "/a/admin"),
        ("/app/.", "/app/", "/app/", "/app/"),
        ("/app/..", "/", "/", "/"),
        ("/app/./admin", "/app/admin", "/app/admin", "/app/admin"),
        ("/%61dmin", "/admin", "/admin", "/admin"),
        ("/ADMIN", "/ADMIN", "/ADMIN", "/ADMIN"),
        ("/admin%20", "/admin%20", "/admin%20", "/admin%20"),
        ("/admin;a=b", "/admin;a=b", "/admin;a=b", "/admin;a=b"),
        (
            "/%252e%252e/admin",
            "/%252e%252e/admin",
            "/%252e%252e/admin",
            "/%252e%252e/admin",
        ),
        ("/app%252fadmin", "/app%252fadmin", "/app%252fadmin", "/app%252fadmin"),
        ("/%c0%2e/admin", "/%C0./admin", "/%C0./admin", "/%C0./admin"),
        ("/%c0%ae/admin", "/%C0%AE/admin", "/%C0%AE/admin", "/%C0%AE/admin"),
        ("/caf\u{e9}", "/caf%C3%A9", "/caf%C3%A9", "/caf%C3%A9"),
        ("/.../x", "/.../x", "/.../x", "/.../x"),
        ("/.hidden", "/.hidden", "/.hidden", "/.hidden"),
        ("/%7E", "/~", "/~", "/~"),
        ("/%3Fx", "/%3Fx", "/%3Fx", "/%3Fx"),
        ("/users/a%40shop", "/users/a@shop", "/users/a@shop", "/users/a@shop"),
        ("/v1/x%3Adel", "/v1/x:del", "/v1/x:del", "/v1/x:del"),
        ("/a|b", "/a%7Cb", "/a%7Cb", "/a%7Cb"),
        ("/a%7cb", "/a%7Cb", "/a%7Cb", "/a%7Cb"),
        ("/%7Bx%7D", "/%7Bx%7D", "/%7Bx%7D", "/%7Bx%7D"),
        ("/", "/", "/", "/"),
    ] {
        for (paths, expected) in [(Base, base), (MergeSlashes, merge), (DecodeAndMergeSlashes, decode)] {
            assert_eq!(path(given, paths).as_deref(), Ok(expected), "{given} {paths:?}");
        }
    }
    assert_eq!(PathNormalization::default(), DecodeAndMergeSlashes);
}

#[test]
fn az_1_every_escape_is_one_of_four_things() {
    for byte in 0..=u8::MAX {
        for text in [format!("/%{byte:02x}x"), format!("/%{byte:02X}x")] {
            let expected = match byte {
                0 => Err(NotCanonical::PathNul),
                b'/' | b'\\' => Ok("/x".to_owned()),
                byte if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte) => {
                    Ok(format!("/{}x", char::from(byte)))
                }
                byte => Ok(format!("/%{byte:02X}x")),
            };
            assert_eq!(path(&text, DecodeAndMergeSlashes), expected, "{text}");
        }
    }
}

#[test]
fn az_1_paths_without_a_canonical_form_are_refused_whatever_the_normalisation() {
    for (given, reason) in [
        ("/a%00b", NotCanonical::PathNul),
        ("/%", NotCanonical::PathEscape),
        ("/%2", NotCanonical::PathEscape),
        ("/%zz", NotCanonical::PathEscape),
        ("/%%32e", NotCanonical::PathEscape),
        ("/..;/admin", NotCanonical::PathParameters),
        ("/.;a=b/admin", NotCanonical::PathParameters),
        ("/%2e%2e;/admin", NotCanonical::PathParameters),
        ("/..%3b/admin", NotCanonical::PathParameters),
        ("*", NotCanonical::PathForm),
        ("admin", NotCanonical::PathForm),
    ] {
        for paths in [Base, MergeSlashes, DecodeAndMergeSlashes] {
            assert_eq!(path(given, paths), Err(reason), "{given} {paths:?}");
        }
    }
}

#[test]
fn the_query_is_left_alone_and_the_asterisk_is_for_options() {
    let request = Request::get("/a//b?c=//d/../%2f").header("host", "a").body(()).unwrap();
    assert_eq!(canonical(request, MergeSlashes).unwrap().uri(), "/a/b?c=//d/../%2f");
    let request = Request::options("*").header("host", "a").body(()).unwrap();
    assert_eq!(canonical(request, MergeSlashes).unwrap().uri(), "*");
}

#[test]
fn az_4_authorities() {
    let same = |text: &str| Ok(text.to_owned());
    for (given, expected) in [
        ("payment.shop", same("payment.shop")),
        ("Payment.SHOP", same("payment.shop")),
        ("payment.shop.", same("payment.shop")),
        ("payment.shop.:8080", same("payment.shop:8080")),
        ("payment.shop:", same("payment.shop")),
        ("payment.shop:08080", same("payment.shop:8080")),
        ("payment.shop:443", same("payment.shop:443")),
        ("XN--BCHER-KVA.example", same("xn--bcher-kva.example")),
        ("10.0.0.1:80", same("10.0.0.1:80")),
        ("[::1]", same("[::1]")),
        ("[0:0:0:0:0:0:0:1]:80", same("[::1]:80")),
        ("[2001:DB8::A]:80", same("[2001:db8::a]:80")),
        ("[::1]:", same("[::1]")),
        ("[::1%25eth0]", Err(NotCanonical::AuthorityForm)),
        ("[::1", Err(NotCanonical::AuthorityForm)),
        ("[::1]x", Err(NotCanonical::AuthorityForm)),
        ("::1", Err(NotCanonical::AuthorityForm)),
        ("payment.shop..", Err(NotCanonical::AuthorityForm)),
        (".", Err(NotCanonical::AuthorityForm)),
        (":80", Err(NotCanonical::AuthorityForm)),
        ("payment.shop:0", Err(NotCanonical::AuthorityForm)),
        ("payment.shop:65536", Err(NotCanonical::AuthorityForm)),
        ("payment.shop:+80", Err(NotCanonical::AuthorityForm)),
        ("payment.shop:80:80", Err(NotCanonical::AuthorityForm)),
        ("payment%2eshop", Err(NotCanonical::AuthorityForm)),
        ("payment.shop,other", Err(NotCanonical::AuthorityForm)),
        ("payment.shop/x", Err(NotCanonical::AuthorityForm)),
        ("payment shop", Err(NotCanonical::AuthorityForm)),
        ("admin@payment.shop", Err(NotCanonical::AuthorityUserinfo)),
        ("", Err(NotCanonical::AuthorityMissing)),
    ] {
        let request = Request::get("/").header("host", given).body(()).unwrap();
        let found = canonical(request, Base).map(|request| authority(request.uri(), request.headers()).to_owned());
        assert_eq!(found, expected, "host {given:?}");
        // The same of an authority, as far as a URI can hold it.
        let uri = http::uri::Builder::new()
            .scheme("https")
            .authority(given)
            .path_and_query("/")
            .build();
        if let Ok(uri) = uri {
            let request = Request::get(uri).version(Version::HTTP_2).body(()).unwrap();
            let found = canonical(request, Base).map(|request| authority(request.uri(), request.headers()).to_owned());
            assert_eq!(found, expected, "authority {given:?}");
        }
    }
    let long = format!("{}.a", "a".repeat(260));
    let request = Request::get("/").header("host", long).body(()).unwrap();
    assert_eq!(Rewrite::of(&request, Base), Err(NotCanonical::AuthorityForm));
}

#[test]
fn az_4_the_authority_and_the_host_are_one_or_the_request_is_refused() {
    let of = |version, authority: &str, hosts: &[&str]| {
        let mut request = Request::get(format!("https://{authority}/")).version(version);
        if authority.is_empty() {
            request = Request::get("/").version(version);
        }
        for host in hosts {
            request = request.header("host", *host);
        }
        let request = canonical(request.body(()).unwrap(), Base)?;
        let host = request
            .headers()
            .get("host")
            .map(|host| host.to_str().unwrap().to_owned());
        Ok((authority_of(&request), host))
    };
    let both = |authority: &str, host: Option<&str>| Ok((authority.to_owned(), host.map(str::to_owned)));
    for (version, authority, hosts, expected) in [
        (Version::HTTP_2, "a", &["a"][..], both("a", None)),
        (Version::HTTP_2, "A", &["a."], both("a", None)),
        (Version::HTTP_2, "a", &["b"], Err(NotCanonical::AuthorityConflict)),
        (Version::HTTP_2, "a", &["a", "a"], Err(NotCanonical::HostRepeated)),
        (Version::HTTP_2, "", &["A"], both("a", Some("a"))),
        (Version::HTTP_2, "", &[], Err(NotCanonical::AuthorityMissing)),
        (Version::HTTP_11, "", &[], Err(NotCanonical::AuthorityMissing)),
        (Version::HTTP_11, "", &["a", "b"], Err(NotCanonical::HostRepeated)),
        (Version::HTTP_11, "a", &["A"], both("a", Some("a"))),
        (Version::HTTP_11, "a", &["b"], Err(NotCanonical::AuthorityConflict)),
        (Version::HTTP_11, "a:80", &["a"], Err(NotCanonical::AuthorityConflict)),
    ] {
        assert_eq!(
            of(version, authority, hosts),
            expected,
            "{version:?} {authority} {hosts:?}"
        );
    }
}

fn authority_of(request: &Request<()>) -> String {
    authority(request.uri(), request.headers()).to_owned()
}

#[test]
fn methods_are_of_upper_case() {
    for (given, expected) in [
        ("GET", None),
        ("PROPFIND", None),
        ("M-SEARCH", None),
        ("get", Some(NotCanonical::Method)),
        ("Post", Some(NotCanonical::Method)),
        ("CONNECT", Some(NotCanonical::Connect)),
    ] {
        let request = Request::builder().method(given).uri("/").header("host", "a");
        let found = Rewrite::of(&request.body(()).unwrap(), Base).err();
        assert_eq!(found, expected, "{given}");
    }
}

#[test]
fn az_6_what_a_sender_has_no_right_to_say_is_taken_out() {
    let gone = [
        "x-forwarded-client-cert",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "forwarded",
        "x-real-ip",
        "x-original-url",
        "x-rewrite-url",
        "x-envoy-external-address",
        "x-envoy-internal",
        "x-envoy-peer-metadata",
        "x-envoy-retry-on",
        "x-mesh-peer",
        "true-client-ip",
        "cf-connecting-ip",
        "fly-client-ip",
        "fastly-client-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-originating-ip",
        "x-remote-ip",
        "x-forwarded",
        "x-host",
        "x-original-host",
    ];
    let kept = [
        "x-request-id",
        "x-envoy-expected-rq-timeout-ms",
        "x-envoy-attempt-count",
        "x-envoy-original-path",
        "x-forwardedfor",
        "x-hosts",
        "authorization",
    ];
    let mut request = Request::get("/").header("host", "a");
    for name in gone.iter().chain(&kept) {
        request = request.header(*name, "1").header(*name, "1");
    }
    let mut request = request.body(()).unwrap();
    assert_eq!(
        Rewrite::of(&request, Base),
        Err(NotCanonical::HeaderRepeated),
        "two of authorization"
    );
    request
        .headers_mut()
        .insert("authorization", HeaderValue::from_static("1"));
    let request = canonical(request, Base).unwrap();
    for name in gone {
        assert!(!request.headers().contains_key(name), "{name}");
    }
    for name in kept {
        assert!(request.headers().contains_key(name), "{name}");
    }
}

#[test]
fn az_5_headers_that_say_one_thing_stand_there_once_and_cookies_become_one() {
    for name in ["content-type", "authorization", "content-length"] {
        let request = Request::get("/")
            .header("host", "a")
            .header(name, "1")
            .header(name, "1");
        let found = Rewrite::of(&request.body(()).unwrap(), Base);
        assert_eq!(found, Err(NotCanonical::HeaderRepeated), "{name}");
    }
    let request = Request::get("/")
        .header("host", "a")
        .header("cookie", "a=1")
        .header("cookie", "b=2");
    let request = canonical(request.body(()).unwrap(), Base).unwrap();
    let cookies: Vec<_> = request.headers().get_all("cookie").iter().collect();
    assert_eq!(cookies, ["a=1; b=2"]);
}

/// Over HTTP/1.1 these blanks are no part of a value, and over HTTP/2 they are: one request, and a denial by value that is evaded.
#[test]
fn az_5_a_value_neither_begins_nor_ends_with_a_blank() {
    for value in [" admin", "admin ", "\tadmin", "admin\t", " ", "\t"] {
        let request = Request::get("/").header("host", "a").header("x-role", value);
        let found = Rewrite::of(&request.body(()).unwrap(), Base);
        assert_eq!(found, Err(NotCanonical::HeaderBlank), "{value:?}");
    }
    for value in ["", "a b", "a\tb"] {
        let request = Request::get("/").header("host", "a").header("x-role", value);
        assert!(Rewrite::of(&request.body(()).unwrap(), Base).is_ok(), "{value:?}");
    }
}

#[test]
fn reasons_have_words_of_their_own() {
    let words: std::collections::BTreeSet<_> = NotCanonical::ALL.map(NotCanonical::as_str).into();
    assert_eq!(words.len(), NotCanonical::ALL.len());
}

proptest! {
    /// Canonical twice is canonical once, and nothing is left in the path that could be read in another way.
    #[test]
    fn az_1_what_is_canonical_stays_and_has_one_reading(
        given in "(/|//|\\\\|%2[fF]|%5[cC]|\\.|\\.\\.|%2[eE]|a|%61|;|%3b|@|%40|\\||%7c|\"|%25|2e|%c3%a9|\u{e9}){0,12}",
        kind in 0..3,
    ) {
        let paths = [Base, MergeSlashes, DecodeAndMergeSlashes][kind as usize];
        if let Ok(found) = path(&format!("/{given}"), paths) {
            prop_assert!(found.starts_with('/') && !found.contains('\\'), "{found}");
            prop_assert!(found.split('/').all(|segment| segment != "." && segment != ".."), "{found}");
            prop_assert!(paths == Base || !found.contains("//"), "{found}");
            prop_assert!(paths != DecodeAndMergeSlashes || !(found.contains("%2F") || found.contains("%5C")), "{found}");
            prop_assert!(!found.contains("%61") && !found.contains("%2E"), "{found}");
            prop_assert!(!found.contains("%3B") && !found.contains("%40"), "{found}");
            prop_assert!(!found.contains(['|', '{', '"']), "{found}");
            // What a handler takes out of it says nothing that has another spelling.
            let again = path(&found, paths);
            prop_assert_eq!(again, Ok(found));
        }
    }
}
