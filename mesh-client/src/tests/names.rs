//! Calls that go by the name of the endpoint that each try finds (Envoy `auto_host_rewrite`, gRFC A81).

use std::sync::Arc;

use http::header::HOST;
use mesh_core::config::{Action, Endpoint, HostRewrite, LbPolicy, RetryOn, RetryPolicy, Rewrite};
use tokio::sync::mpsc;

use super::net::{Net, address, call, channel, one_cluster, post, say_status};

#[tokio::test(start_paused = true)]
async fn each_try_goes_by_its_endpoints_name() {
    let net = Net::default();
    let (seen, mut sees) = mpsc::unbounded_channel();
    for n in 1..=3 {
        let seen = seen.clone();
        net.serve(n, move |request, respond| {
            let forwarded = request.headers().get("x-forwarded-host").cloned();
            let authority = request.uri().authority().map(ToString::to_string);
            seen.send((n, authority, forwarded.map(|host| host.to_str().unwrap().to_owned())))
                .unwrap();
            async move { say_status(respond, if n == 1 { 503 } else { 200 }) }
        });
    }
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1, 2, 3], |route, cluster| {
        cluster.lb = LbPolicy::PickFirst { shuffle: false };
        route.retry = RetryPolicy {
            retries: 1,
            on: RetryOn::parse("5xx"),
            explicit: true,
            ..RetryPolicy::default()
        };
        let Action::Forward(forward) = &mut route.action else {
            panic!("{route:?}")
        };
        forward.rewrite = Some(Box::new(Rewrite {
            host: Some(HostRewrite::Endpoint),
            append_forwarded_host: true,
            path: None,
        }));
        let named = |n: u8, name: Option<&str>| Endpoint {
            hostname: name.map(Arc::from),
            ..Endpoint::new(address(n))
        };
        // One without a name is called by the name that was asked for.
        cluster.endpoints = [
            named(1, Some("one.example:81")),
            named(2, Some("two.example")),
            named(3, None),
        ]
        .into();
    }));
    let channel = channel(&link);
    let mut request = post("");
    request.headers_mut().insert(HOST, "shop".parse().unwrap());
    let response = call(&channel, request.clone()).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut told = Vec::new();
    while let Ok(one) = sees.try_recv() {
        told.push(one);
    }
    let asked = |told: &[(u8, Option<String>, Option<String>)]| told[0].2.clone().unwrap();
    let shop = asked(&told);
    let expected = [(1, "one.example:81"), (2, "two.example")];
    let expected: Vec<_> = expected
        .map(|(n, name)| (n, Some(name.to_owned()), Some(shop.clone())))
        .into();
    assert_eq!(told, expected);
    assert_ne!(shop, "one.example:81", "what was asked for");
}
