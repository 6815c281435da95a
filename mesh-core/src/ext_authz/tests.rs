//! What is sent, and what answers do, case by case.

use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};

use super::*;
use crate::config::{
    AppendAction, AskedAbout, CheckBody, CheckService, CheckSettings, ExtAuthz, GrpcCheck, HttpCheck, OnFailure,
    SentHeaders, StringMatch,
};
use crate::route::RequestHead;

/// One that asks about everything, by gRPC, as Envoy's defaults have it.
pub(crate) fn grpc() -> ExtAuthz {
    ExtAuthz {
        name: "envoy.filters.http.ext_authz".into(),
        after: 0,
        disabled: false,
        about: AskedAbout::Everything,
        cluster: "authz".into(),
        service: CheckService::Grpc(GrpcCheck::default()),
        timeout: ExtAuthz::DEFAULT_TIMEOUT,
        on_failure: OnFailure::default(),
        body: None,
        headers: SentHeaders::default(),
        server_name: false,
        claims: false,
        max_denied_body: ExtAuthz::MAX_DENIED_BODY_BYTES,
    }
}

fn exact(names: &[&str]) -> Vec<StringMatch> {
    names.iter().map(|name| StringMatch::Exact((*name).into())).collect()
}

fn request() -> Request<()> {
    Request::post("https://shop.test/pay?x=1&y=2")
        .header("authorization", "Bearer a")
        .header("x-a", "1")
        .header("x-a", "2")
        .header("x-b", HeaderValue::from_bytes(b"\xffb").unwrap())
        .header("content-length", "4")
        .header("host", "shop.test")
        .body(())
        .unwrap()
}

fn names(all: &[(String, String)]) -> Vec<&str> {
    all.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn by_grpc_everything_is_sent_once_each_as_text() {
    let request = request();
    let head = RequestHead::of(&request, "");
    let partial = ReadBody {
        bytes: Bytes::from_static(b"abcd"),
        partial: true,
    };
    let all = grpc().grpc_headers(&head, Some(&partial));
    let value = |name: &str| all.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
    assert_eq!(value(":path"), Some("/pay?x=1&y=2"));
    assert_eq!(
        (value(":authority"), value(":method")),
        (Some("shop.test"), Some("POST"))
    );
    assert_eq!((value("x-a"), value("x-b")), (Some("1,2"), Some("!b")));
    assert_eq!((value("host"), value(PARTIAL_BODY)), (None, Some("true")));
    // Raw ones keep their bytes and their number.
    let raw = grpc().raw_grpc_headers(&head, None);
    assert!(raw.contains(&("x-b".into(), b"\xffb".to_vec())));
    assert_eq!(raw.iter().filter(|(name, _)| name == "x-a").count(), 2);
    // Only what is allowed, and never what is not.
    let only = ExtAuthz {
        headers: SentHeaders {
            allowed: Some(vec![
                StringMatch::Prefix("x-".into()),
                StringMatch::Exact(":path".into()),
            ]),
            disallowed: exact(&["x-b"]),
            raw: false,
        },
        ..grpc()
    };
    assert_eq!(names(&only.grpc_headers(&head, None)), [":path", "x-a"]);
}

#[test]
fn by_http_nothing_is_sent_that_nobody_named_but_who_it_is() {
    let request = request();
    let head = RequestHead::of(&request, "");
    let check = HttpCheck {
        path_prefix: "/check".into(),
        add: vec![(HeaderName::from_static("x-a"), HeaderValue::from_static("ours"))],
        ..HttpCheck::default()
    };
    let sent = grpc().http_request(&check, "authz:80", &head, None).unwrap();
    assert_eq!(sent.uri(), "http://authz:80/check/pay?x=1&y=2");
    assert_eq!((sent.method().as_str(), sent.body().len()), ("POST", 0));
    assert_eq!(sent.headers()["authorization"], "Bearer a");
    assert_eq!(sent.headers()["x-forwarded-host"], "shop.test");
    assert_eq!(sent.headers().get_all("x-a").iter().collect::<Vec<_>>(), ["ours"]);
    assert!(!sent.headers().contains_key("x-b") && !sent.headers().contains_key("content-length"));
    // Named, but for what frames the message.
    let named = ExtAuthz {
        headers: SentHeaders {
            allowed: Some(exact(&["x-a", "x-b", "content-length", "host"])),
            ..SentHeaders::default()
        },
        ..grpc()
    };
    let plain = HttpCheck::default();
    let sent = named.http_request(&plain, "authz", &head, None).unwrap();
    assert_eq!(
        (&sent.headers()["x-a"], &sent.headers()["x-b"]),
        (&HeaderValue::from_static("1,2"), &HeaderValue::from_static("!b"))
    );
    assert!(!sent.headers().contains_key("content-length") && !sent.headers().contains_key("host"));
    // A body, and another path.
    let body = ReadBody {
        bytes: Bytes::from_static(b"abcd"),
        partial: false,
    };
    let elsewhere = HttpCheck {
        path_override: Some("/auth".into()),
        ..HttpCheck::default()
    };
    let sent = grpc().http_request(&elsewhere, "authz", &head, Some(&body)).unwrap();
    assert_eq!((sent.uri().path(), &sent.body()[..]), ("/auth", &b"abcd"[..]));
    assert_eq!(sent.headers()[PARTIAL_BODY], "false");
    let broken = HttpCheck {
        path_prefix: "no slash".into(),
        ..HttpCheck::default()
    };
    assert_eq!(
        grpc().http_request(&broken, "authz", &head, None).unwrap_err(),
        CheckFailure::Malformed
    );
    // What has no path is asked about nobody else's: behind a host a `*` would be another host.
    let server_wide = Request::options("*").header("host", "shop.test").body(()).unwrap();
    let head = RequestHead::of(&server_wide, "");
    for check in [
        HttpCheck::default(),
        HttpCheck {
            path_prefix: "/check".into(),
            ..HttpCheck::default()
        },
    ] {
        let asked = grpc().http_request(&check, "authz:80", &head, None);
        assert_eq!(asked.unwrap_err(), CheckFailure::Malformed);
    }
}

#[test]
fn a_route_says_more_than_its_filter() {
    let body = |max_bytes| CheckBody {
        max_bytes,
        allow_partial: true,
        as_bytes: false,
    };
    let authorizer = ExtAuthz {
        body: Some(body(10)),
        ..grpc()
    };
    let said = |body| CheckSettings {
        body,
        ..CheckSettings::default()
    };
    assert_eq!(authorizer.body_of(None), Some(body(10)));
    assert_eq!(authorizer.body_of(Some(&said(None))), Some(body(10)));
    assert_eq!(authorizer.body_of(Some(&said(Some(None)))), None);
    assert_eq!(authorizer.body_of(Some(&said(Some(Some(body(3)))))), Some(body(3)));
}

fn header(name: &str, value: &str, action: AppendAction) -> (String, Vec<u8>, AppendAction) {
    (name.into(), value.into(), action)
}

#[test]
fn a_yes_by_grpc_changes_the_request_and_nothing_that_frames_it() {
    let answer = CheckAnswer {
        code: 0,
        said: Said::Ok {
            headers: vec![
                header("x-a", "set", AppendAction::OverwriteIfExistsOrAdd),
                header("x-c", "more", AppendAction::AppendIfExistsOrAdd),
                header("x-a", "not", AppendAction::AddIfAbsent),
                header("x-none", "not", AppendAction::OverwriteIfExists),
            ],
            remove: vec!["authorization".into(), ":path".into(), "Host".into()],
            response: vec![header("x-seen", "1", AppendAction::AppendIfExistsOrAdd)],
            query_remove: vec!["x".into()],
            query_set: vec![("z".into(), "a b&c".into())],
        },
    };
    let Verdict::Allowed(allowed) = grpc().grpc_verdict(answer) else {
        panic!("not a yes")
    };
    let mut request = request();
    *request.uri_mut() = "https://shop.test/pay?%78=1&y=2".parse().unwrap();
    allowed.apply(&mut request).unwrap();
    assert_eq!(request.uri(), "https://shop.test/pay?y=2&z=a%20b%26c");
    let headers = request.headers();
    assert_eq!(headers.get_all("x-a").iter().collect::<Vec<_>>(), ["set"]);
    assert!(headers["x-c"] == "more" && !headers.contains_key("x-none"));
    assert!(!headers.contains_key("authorization") && headers.contains_key("host"));
    assert_eq!(allowed.downstream.len(), 1);

    for name in [
        "host",
        ":path",
        "content-length",
        "transfer-encoding",
        "connection",
        "",
        "a b",
    ] {
        let headers = vec![header(name, "x", AppendAction::OverwriteIfExistsOrAdd)];
        let said = Said::Ok {
            headers,
            remove: Vec::new(),
            response: Vec::new(),
            query_remove: Vec::new(),
            query_set: Vec::new(),
        };
        let verdict = grpc().grpc_verdict(CheckAnswer { code: 0, said });
        assert_eq!(verdict, Verdict::Failed(CheckFailure::Malformed), "{name:?}");
    }
}

#[test]
fn whatever_else_an_answer_by_grpc_is_it_is_no_yes() {
    let denied = |status, headers| Said::Denied {
        status,
        headers,
        body: "no, and a long no".into(),
    };
    let verdict = |code, said| grpc().grpc_verdict(CheckAnswer { code, said });
    let Verdict::Denied(no) = verdict(16, denied(401, vec![header("x-why", "late", AppendAction::default())])) else {
        panic!("not a no")
    };
    assert_eq!(
        (no.status.as_u16(), no.headers.len(), &no.body[..2]),
        (401, 1, &b"no"[..])
    );
    let Verdict::Denied(no) = verdict(7, Said::Nothing) else {
        panic!("not a no")
    };
    assert_eq!((no.status.as_u16(), no.body.len()), (403, 0));
    assert!(matches!(verdict(7, denied(0, Vec::new())), Verdict::Denied(no) if no.status == 403));
    let many = vec![header("x-a", "x", AppendAction::default()); MAX_ANSWER_HEADERS + 1];
    let malformed = [
        verdict(0, denied(403, Vec::new())),
        verdict(7, denied(99, Vec::new())),
        verdict(7, denied(100, Vec::new())),
        verdict(7, denied(-1, Vec::new())),
        verdict(7, denied(403, many)),
        verdict(7, denied(403, vec![header("x-a", "a\r\nb", AppendAction::default())])),
    ];
    for (index, verdict) in malformed.into_iter().enumerate() {
        assert_eq!(verdict, Verdict::Failed(CheckFailure::Malformed), "{index}");
    }
    assert_eq!(verdict(0, Said::Error), Verdict::Failed(CheckFailure::Failed));
    let short = ExtAuthz {
        max_denied_body: 2,
        ..grpc()
    };
    let answer = CheckAnswer {
        code: 7,
        said: denied(403, Vec::new()),
    };
    assert!(matches!(short.grpc_verdict(answer), Verdict::Denied(no) if no.body == "no"));
}

#[test]
fn an_answer_by_http_goes_where_the_configuration_says() {
    let check = HttpCheck {
        upstream: exact(&["x-user"]),
        upstream_append: exact(&["x-group"]),
        client_on_deny: Some(exact(&["x-why"])),
        client_on_allow: exact(&["x-seen"]),
        ..HttpCheck::default()
    };
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("x-user", "a"),
        ("x-user", "b"),
        ("x-group", "g"),
        ("x-seen", "1"),
        ("x-why", "late"),
        ("www-authenticate", "Bearer"),
        ("content-length", "4"),
        (TO_REMOVE, "authorization, host , x-a"),
    ] {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let verdict = |status: u16, check: &HttpCheck| {
        grpc().http_verdict(
            check,
            StatusCode::from_u16(status).unwrap(),
            &headers,
            Bytes::from_static(b"page"),
        )
    };
    let Verdict::Allowed(allowed) = verdict(200, &check) else {
        panic!("not a yes")
    };
    let mut request = request();
    request
        .headers_mut()
        .insert("x-user", HeaderValue::from_static("forged"));
    request.headers_mut().insert("x-group", HeaderValue::from_static("own"));
    allowed.apply(&mut request).unwrap();
    let values = |name: &str| {
        request
            .headers()
            .get_all(name)
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (values("x-user"), values("x-group")),
        (vec!["a", "b"], vec!["own", "g"])
    );
    assert!(values("authorization").is_empty() && values("x-a").is_empty() && !values("host").is_empty());
    let seen = |mutations: &[Mutation]| {
        mutations
            .iter()
            .map(|one| one.name.as_str().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(seen(&allowed.downstream), ["x-seen"]);

    let Verdict::Denied(no) = verdict(302, &check) else {
        panic!("not a no")
    };
    assert_eq!((no.status.as_u16(), &no.body[..]), (302, &b"page"[..]));
    let mut told = seen(&no.headers);
    told.sort();
    assert_eq!(told, ["www-authenticate", "x-why"]);
    // All of them, but for what frames the answer.
    let Verdict::Denied(no) = verdict(401, &HttpCheck::default()) else {
        panic!("not a no")
    };
    assert!(seen(&no.headers).contains(&"x-user".into()) && !seen(&no.headers).contains(&"content-length".into()));
    // Other successes are no yes; 5xx is nothing at all.
    assert!(matches!(verdict(204, &check), Verdict::Denied(_)));
    assert_eq!(verdict(503, &check), Verdict::Failed(CheckFailure::Failed));
}

#[test]
fn what_failed_passes_only_where_the_configuration_says_so() {
    let mut headers = HeaderMap::new();
    assert_eq!(
        OnFailure::default().verdict(CheckFailure::TimedOut, &mut headers),
        Err(StatusCode::FORBIDDEN)
    );
    let open = OnFailure {
        allow: true,
        tell: true,
        status: StatusCode::BAD_GATEWAY,
    };
    assert_eq!(open.verdict(CheckFailure::TimedOut, &mut headers), Ok(()));
    assert_eq!(headers[FAILURE_ALLOWED], "true");
    for why in [CheckFailure::NoAuthorizer, CheckFailure::BodyNotRead] {
        assert_eq!(open.verdict(why, &mut headers), Err(StatusCode::BAD_GATEWAY), "{why}");
    }
    let shut = OnFailure { allow: false, ..open };
    assert_eq!(
        shut.verdict(CheckFailure::TimedOut, &mut headers),
        Err(StatusCode::BAD_GATEWAY)
    );
}
