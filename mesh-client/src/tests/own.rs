//! Answers that a route gives by itself, and heads that it edits.

use http::StatusCode;
use http::uri::Authority;
use mesh_core::config::{
    Action, AppendAction, Cluster, DirectResponse, Domain, HeaderEdit, HeaderFormat, HeaderRules, HostRewrite,
    PathMatch, PathRewrite, Redirect, RedirectPath, Rewrite, Route, RouteTree, Snapshot, Split, TlsMode, VirtualHost,
};
use mesh_core::link::Source;
use tokio::sync::mpsc;

use super::net::{Net, address, call, channel, grpc, grpc_status, one_cluster, post, say, text};
use crate::Error;

fn publish(source: &Source, route: Route) {
    source
        .snapshots
        .publish(Snapshot::builder().route("t", route).build().unwrap());
}

fn redirect() -> Route {
    Route::doing(Action::Redirect(Box::new(Redirect {
        status: StatusCode::PERMANENT_REDIRECT,
        scheme: Some("https".into()),
        host: None,
        port: None,
        path: Some(RedirectPath::Whole("/new".into())),
        strip_query: false,
    })))
}

/// What a proxy answers with where a host is not in the registry (Istio `REGISTRY_ONLY`).
fn respond(status: StatusCode, body: &'static str) -> Route {
    Route::doing(Action::Respond(DirectResponse {
        status,
        body: body.into(),
    }))
}

#[tokio::test]
async fn a_redirect_is_answered_and_a_grpc_caller_is_told_that_it_cannot_be_served() {
    let (source, link) = Net::default().link();
    publish(&source, redirect());
    let channel = channel(&link);
    let response = call(&channel, post("")).await.unwrap();
    assert_eq!(response.status(), 308);
    assert_eq!(response.headers()["location"], "https://t/new");
    assert_eq!((response.body().peer(), text(response).await.as_str()), (None, ""));
    let response = call(&channel, grpc()).await.unwrap();
    let error = response.extensions().get::<Error>().unwrap().clone();
    assert_eq!((error.status().as_u16(), error.response_flag()), (308, "-"));
    assert!(!error.may_have_been_processed() && !error.is_no_route());
    let (code, message) = grpc_status(response).await;
    assert_eq!(code, "2", "what 308 is worth to gRPC");
    assert!(message.contains("308"), "{message}");
}

#[tokio::test]
async fn a_direct_response_has_its_status_its_body_and_edited_headers() {
    let (source, link) = Net::default().link();
    let mut route = respond(StatusCode::BAD_GATEWAY, "no such host");
    let value = HeaderFormat::parse("%RESPONSE_CODE% for %REQ(:path)%").unwrap();
    let mut rules = HeaderRules::default();
    let edit = HeaderEdit::new("x-why".parse().unwrap(), value, AppendAction::AppendIfExistsOrAdd).unwrap();
    rules.response.add = vec![edit];
    route.headers = rules.shared();
    publish(&source, route);
    let channel = channel(&link);
    let response = call(&channel, post("")).await.unwrap();
    assert_eq!(response.status(), 502);
    assert_eq!(response.headers()["content-type"], "text/plain");
    assert_eq!(response.headers()["x-why"], "502 for /pkg.Service/Method");
    assert_eq!(http_body::Body::size_hint(response.body()).exact(), Some(12));
    assert_eq!(text(response).await, "no such host");
    assert_eq!(grpc_status(call(&channel, grpc()).await.unwrap()).await.0, "14");
    publish(&source, respond(StatusCode::OK, ""));
    tokio::task::yield_now().await;
    let response = call(&channel, post("")).await.unwrap();
    assert!(http_body::Body::is_end_stream(response.body()));
    assert_eq!((response.status(), response.headers().len()), (StatusCode::OK, 0));
}

#[tokio::test]
async fn a_route_that_is_not_served_fails_its_calls_instead_of_letting_them_fall_through() {
    let net = Net::default();
    net.serve(1, |_, respond| async { say(respond, "wrong") });
    let (source, link) = net.link();
    let host = |routes: Vec<Route>| {
        let routes = routes.into_iter().map(Into::into).collect();
        let tree = RouteTree::new("t", vec![VirtualHost::new("h", vec![Domain::Any], routes)]);
        let cluster = Cluster::new(
            "c",
            TlsMode::Plaintext,
            vec![mesh_core::config::Endpoint::new(address(1))],
        );
        Snapshot::builder()
            .target("t", Ok(tree.into()))
            .cluster(cluster)
            .build()
            .unwrap()
    };
    let unserved = Route::doing(Action::Unserved("cluster_header".into()));
    source
        .snapshots
        .publish(host(vec![unserved, Route::to(Split::all_to("c"))]));
    let error = call(&channel(&link), post("")).await.unwrap_err();
    assert!(
        error.is_no_route() && error.to_string().contains("cluster_header"),
        "{error}"
    );
    assert_eq!((error.status().as_u16(), error.response_flag()), (404, "NR"));
}

/// All tries have the same head, which is edited once; and the answer that is committed to is edited.
#[tokio::test]
async fn heads_are_edited_on_the_way_out_and_back_once_for_all_tries() {
    let net = Net::default();
    let (seen, mut heads) = mpsc::unbounded_channel();
    net.serve(1, move |request, mut respond| {
        let first = !request.headers().contains_key("grpc-previous-rpc-attempts");
        seen.send((request.uri().to_string(), request.headers().clone()))
            .unwrap();
        async move {
            if first {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
            } else {
                say(respond, "ok");
            }
        }
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |route, _| {
        let edit = |name: &str, value: &str| {
            let value = HeaderFormat::parse(value).unwrap();
            HeaderEdit::new(name.parse().unwrap(), value, AppendAction::AppendIfExistsOrAdd).unwrap()
        };
        let mut rules = HeaderRules::default();
        rules.request.add = vec![edit("x-out", "%REQ(:path)%")];
        rules.response.add = vec![edit("x-back", "%REQ(x-id)%")];
        route.headers = rules.shared();
        route.matches.path = PathMatch::Prefix("/pkg.".into());
        let Action::Forward(forward) = &mut route.action else {
            panic!("it forwards")
        };
        forward.rewrite = Some(Box::new(Rewrite {
            host: Some(HostRewrite::Literal(Authority::from_static("other:1"))),
            append_forwarded_host: true,
            path: Some(PathRewrite::Prefix("/v2.".into())),
        }));
    }));
    let mut request = post("");
    request
        .headers_mut()
        .insert("x-id", http::HeaderValue::from_static("7"));
    let response = call(&channel(&link), request).await.unwrap();
    assert_eq!(response.headers()["x-back"], "7");
    assert_eq!(text(response).await, "ok");
    for _ in 0..2 {
        let (uri, headers) = heads.recv().await.unwrap();
        assert_eq!(uri, "http://other:1/v2.Service/Method");
        let of = |name: &str| headers.get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(of("x-out"), ["/pkg.Service/Method"]);
        assert_eq!(of("x-forwarded-host"), ["t"]);
        assert_eq!(of("x-envoy-original-path"), ["/pkg.Service/Method"]);
    }
    assert!(heads.try_recv().is_err());
}

#[tokio::test]
async fn a_path_that_cannot_be_rewritten_fails_the_call_before_anything_is_sent() {
    let net = Net::default();
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |route, _| {
        route.matches.path = PathMatch::Prefix("/".into());
        let Action::Forward(forward) = &mut route.action else {
            panic!("it forwards")
        };
        let path = Some(PathRewrite::Prefix("no-slash".into()));
        forward.rewrite = Some(Box::new(Rewrite {
            path,
            ..Rewrite::default()
        }));
    }));
    let error = call(&channel(&link), post("")).await.unwrap_err();
    assert_eq!((error.status().as_u16(), net.dials()), (400, 0), "{error}");
}
