//! Calls that go by the name of the endpoint that each try finds (Envoy `auto_host_rewrite`, gRFC A81).

use std::sync::Arc;

use http::HeaderValue;
use http::header::HOST;
use mesh_core::Link;
use mesh_core::config::{
    Action, Cluster, Domain, Endpoint, HostRewrite, LbPolicy, RetryOn, RetryPolicy, Rewrite, Route, RouteTree,
    Snapshot, Split, TlsMode, VirtualHost,
};
use mesh_core::link::Parts;
use tokio::sync::{mpsc, watch};

use super::net::{Net, Plain, address, call, channel, one_cluster, post, say_status};
use crate::Channel;

/// gRPC would send `a%2Fb:80`; here such a target is called by requests that name somebody, and the others are told why not.
#[tokio::test(start_paused = true)]
async fn a_target_whose_name_is_no_authority_is_called_by_requests_that_name_one() {
    for target in ["xds:///a/b:80", "xds:a/b:80", "xds://a.example/a/b:80", "a/b:80", "a b"] {
        let net = Net::default();
        net.serve(1, |request, respond| {
            let named = request.uri().authority().map(ToString::to_string);
            assert_eq!(named.as_deref(), Some("shop:80"));
            async move { say_status(respond, 200) }
        });
        let (source, link) = net.link();
        let name = match target.strip_prefix("xds:") {
            Some(rest) if !rest.starts_with("//") => rest,
            Some(rest) => rest.strip_prefix("///").unwrap_or(target),
            None => target,
        };
        let cluster = Cluster::new("c", TlsMode::Plaintext, vec![Endpoint::new(address(1))]);
        let route = Route::to(Split::all_to("c"));
        let snapshot = Snapshot::builder().route(name, route).cluster(cluster).build().unwrap();
        source.snapshots.publish(snapshot);
        let channel: Plain = Channel::builder(&link, target).dangerous().plaintext().build();
        let refused = call(&channel, post("")).await.unwrap_err().to_string();
        assert!(
            refused.contains("the target's name cannot be one"),
            "{target}: {refused}"
        );
        let mut request = post("");
        request.headers_mut().insert(HOST, "shop:80".parse().unwrap());
        assert_eq!(call(&channel, request).await.unwrap().status(), 200, "{target}");
    }
}

fn by_name(route: &mut Route) {
    let Action::Forward(forward) = &mut route.action else {
        panic!("{route:?}")
    };
    forward.rewrite = Some(Box::new(Rewrite {
        host: Some(HostRewrite::Endpoint),
        append_forwarded_host: true,
        path: None,
    }));
}

fn named(n: u8, name: Option<&str>) -> Endpoint {
    Endpoint {
        hostname: name.map(Arc::from),
        ..Endpoint::new(address(n))
    }
}

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
        by_name(route);
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

/// A try whose endpoint is removed while it waits for a connection looks for another, and is not called by the name of the first.
#[tokio::test(start_paused = true)]
async fn a_try_that_looks_elsewhere_forgets_the_first_endpoints_name() {
    for (name, expected) in [
        (None, ("shop", None)),
        (Some("two.example"), ("two.example", Some("shop"))),
    ] {
        let net = Net::default();
        let (seen, mut sees) = mpsc::unbounded_channel();
        net.serve(2, move |request, respond| {
            let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
            let forwarded = request.headers().get("x-forwarded-host").map(text);
            let authority = request.uri().authority().map(ToString::to_string);
            seen.send((authority, forwarded)).unwrap();
            async move { say_status(respond, 200) }
        });
        let (source, link) = Link::new(Parts::default());
        let (hold, held) = watch::channel(true);
        let servers = net.clone();
        crate::use_connector(&link, move |to: std::net::SocketAddr| -> crate::connect::Connecting {
            let (servers, mut held) = (servers.clone(), held.clone());
            Box::pin(async move {
                if to == address(1) {
                    held.wait_for(|hold| !*hold).await.unwrap();
                }
                servers.connect(to)
            })
        })
        .unwrap();
        let publish = |endpoint: Endpoint| {
            source.snapshots.publish(one_cluster(&[], |route, cluster| {
                by_name(route);
                cluster.endpoints = [endpoint].into();
            }));
        };
        publish(named(1, Some("one.example")));
        let channel = channel(&link);
        let mut request = post("");
        request.headers_mut().insert(HOST, "shop".parse().unwrap());
        let waiting = tokio::spawn({
            let channel = channel.clone();
            async move { call(&channel, request).await.map(|response| response.status()) }
        });
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        publish(named(2, name));
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        hold.send(false).unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), 200);
        let (authority, forwarded) = sees.try_recv().unwrap();
        assert_eq!(
            (authority.as_deref(), forwarded.as_deref()),
            (Some(expected.0), expected.1)
        );
    }
}

/// The authority that a target names says whom to ask, and is none of its calls' (gRFC A47).
#[tokio::test(start_paused = true)]
async fn calls_have_the_name_of_their_target_in_whichever_form_it_is() {
    for (target, asked, of_calls) in [
        ("t", "t", "t"),
        ("xds:t", "t", "t"),
        ("xds:///t:80", "t:80", "t:80"),
        ("xds://a.example/t", "xds://a.example/t", "t"),
        ("xds://a.example/t:80", "xds://a.example/t:80", "t:80"),
        ("xds://a.example/[::1]:80", "xds://a.example/[::1]:80", "[::1]:80"),
    ] {
        let net = Net::default();
        let (seen, mut sees) = mpsc::unbounded_channel();
        net.serve(1, move |request, respond| {
            seen.send(request.uri().authority().map(ToString::to_string)).unwrap();
            async move { say_status(respond, 200) }
        });
        let (source, link) = net.link();
        let whole = one_cluster(&[1], |_, _| {});
        let tree = whole.target("t").unwrap().as_ref().unwrap();
        // A virtual host that is for the name alone.
        let host = VirtualHost::new(
            "h",
            vec![Domain::parse(of_calls).unwrap()],
            tree.virtual_hosts[0].routes.clone(),
        );
        let tree = RouteTree::new("r", vec![host]);
        let cluster = whole.cluster(&"c".into()).unwrap().as_ref().unwrap();
        let snapshot = Snapshot::builder()
            .target(asked, Ok(Arc::new(tree)))
            .cluster((**cluster).clone());
        source.snapshots.publish(snapshot.build().unwrap());
        let channel: Plain = Channel::builder(&link, target).dangerous().plaintext().build();
        assert_eq!(link.interest().wanted(), [Arc::from(asked)], "{target}");
        let response = call(&channel, post("")).await.unwrap();
        assert_eq!(response.status(), 200, "{target}");
        assert_eq!(sees.try_recv().unwrap().as_deref(), Some(of_calls), "{target}");
    }
}
