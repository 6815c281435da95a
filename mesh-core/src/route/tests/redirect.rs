//! Where redirects lead (the rules of Envoy's `RedirectAction`).

use http::StatusCode;

use super::*;
use crate::config::{PathRewrite, Redirect, RedirectPath, Substitution};

fn redirect(change: impl FnOnce(&mut Redirect)) -> Redirect {
    let mut redirect = Redirect {
        status: StatusCode::MOVED_PERMANENTLY,
        scheme: None,
        host: None,
        port: None,
        path: None,
        strip_query: false,
    };
    change(&mut redirect);
    redirect
}

#[test]
fn locations() {
    let whole = |text: &str| Some(RedirectPath::Whole(text.into()));
    let prefix = |text: &str| Some(RedirectPath::Rewritten(PathRewrite::Prefix(text.into())));
    let regex = Substitution::new("/old/(.*)", r"/new/\1").unwrap();
    let regex = Some(RedirectPath::Rewritten(PathRewrite::Regex(regex)));
    let cases = [
        (redirect(|_| {}), "http://a/old/x?q", "http://a/old/x?q"),
        (
            redirect(|r| r.scheme = Some("https".into())),
            "http://a/x",
            "https://a/x",
        ),
        (
            redirect(|r| r.scheme = Some("https".into())),
            "http://a:80/x",
            "https://a/x",
        ),
        (
            redirect(|r| r.scheme = Some("https".into())),
            "http://a:8080/x",
            "https://a:8080/x",
        ),
        (
            redirect(|r| r.scheme = Some("http".into())),
            "https://a:443/x",
            "http://a/x",
        ),
        (redirect(|r| r.port = Some(8443)), "https://a:443/x", "https://a:8443/x"),
        (
            redirect(|r| r.host = Some("b".into())),
            "http://a:1/x?q",
            "http://b/x?q",
        ),
        (
            redirect(|r| r.host = Some("b:2".into())),
            "http://a:1/x",
            "http://b:2/x",
        ),
        (redirect(|r| r.path = whole("/new")), "http://a/x?q", "http://a/new?q"),
        (redirect(|r| r.path = whole("/new?n")), "http://a/x?q", "http://a/new?n"),
        (
            redirect(|r| (r.path, r.strip_query) = (whole("/new"), true)),
            "http://a/x?q",
            "http://a/new",
        ),
        (
            redirect(|r| (r.path, r.strip_query) = (whole("/new?n"), true)),
            "http://a/x?q",
            "http://a/new?n",
        ),
        (redirect(|r| r.strip_query = true), "http://a/x?q", "http://a/x"),
        (
            redirect(|r| r.path = prefix("/new")),
            "http://a/old/x?q",
            "http://a/new/x?q",
        ),
        (
            redirect(|r| (r.path, r.strip_query) = (prefix("/new"), true)),
            "http://a/old/x?q",
            "http://a/new/x",
        ),
        (redirect(|r| r.path = regex), "http://a/old/x?q", "http://a/new/x?q"),
        (redirect(|r| r.scheme = Some("https".into())), "/x", "https://payment/x"),
    ];
    let matches = matches(|matches| matches.path = PathMatch::Prefix("/old".into()));
    for (redirect, uri, expected) in cases {
        assert_eq!(
            location(&redirect, &matches, &head(&request(uri, &[]))),
            expected,
            "{redirect:?} of {uri}"
        );
    }
}
