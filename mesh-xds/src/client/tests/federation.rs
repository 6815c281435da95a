//! Several authorities (gRFC A47).

use std::time::Duration;

use super::plane::{BOTH, Net, Subject, Way, settle};
use super::*;
use crate::bootstrap::{AuthorityEntry, Bootstrap, BootstrapBuilder, Protocol, ServerEntry};
use crate::node::Node;

const HOME: &str = "home:1";
const AWAY: &str = "away:1";

/// A name of the authority `a.example`.
fn of(kind: &str, id: &str) -> String {
    format!("xdstp://a.example/envoy.config.{kind}/{id}")
}

fn listener_name(id: &str) -> String {
    of("listener.v3.Listener", id)
}

fn builder(protocol: Protocol, away: &str) -> BootstrapBuilder {
    let authority = AuthorityEntry::default().server(ServerEntry::insecure(away));
    let builder = Bootstrap::builder(Node::default()).protocol(protocol).insecure(HOME);
    builder.authority("a.example", authority)
}

#[tokio::test(start_paused = true)]
async fn each_authority_is_asked_of_its_own_and_one_may_name_what_is_anothers() {
    for protocol in BOTH {
        let net = Net::default();
        let (home, away) = (net.plane(HOME), net.plane(AWAY));
        home.tell("plain", "home", 1);
        // A listener and routes of the one authority, and a cluster of the other.
        let routes_name = of("route.v3.RouteConfiguration", "r");
        let target = "xds://a.example/shop";
        away.set(
            ResourceKind::Listener,
            &listener_name("shop"),
            listener(&listener_name("shop"), &routes_name),
        );
        away.set(ResourceKind::Route, &routes_name, routes(&routes_name, "home"));
        let subject = Subject::start(&net, builder(protocol, AWAY), &["plain", target]);
        subject.until("plain", "home:1").await;
        subject.until(target, "home:1").await;
        let plain = |name: &Arc<str>| !name.starts_with("xdstp:");
        assert!(home.log().asked.iter().all(|(_, name)| plain(name)));
        assert!(away.log().asked.iter().all(|(_, name)| !plain(name)));
        let report = subject.client.status().report();
        let authorities: Vec<_> = report.connections.iter().map(|one| one.authorities.clone()).collect();
        assert_eq!(authorities, [vec![String::new()], vec!["a.example".to_owned()]]);
        // One authority's outage is not the other's.
        away.go(Way::Down);
        settle().await;
        home.cluster("home", 11);
        subject.until("plain", "home:11").await;
        assert_eq!(subject.ports(target), "home:11");
    }
}

#[tokio::test(start_paused = true)]
async fn two_spellings_of_a_name_are_one_resource() {
    let net = Net::default();
    let (_home, away) = (net.plane(HOME), net.plane(AWAY));
    let spelt = |context: &str| format!("{}?{context}", of("route.v3.RouteConfiguration", "r"));
    away.set(
        ResourceKind::Listener,
        &listener_name("shop"),
        listener(&listener_name("shop"), &spelt("b=2&a=1")),
    );
    // The plane knows it by its normal form and spells it in a third way inside.
    let cluster_name = of("cluster.v3.Cluster", "c");
    let inside = routes(&spelt("b=2&%61=1"), &cluster_name);
    away.set(ResourceKind::Route, &spelt("a=1&b=2"), inside);
    away.set(ResourceKind::Cluster, &cluster_name, cluster(&cluster_name));
    away.set(ResourceKind::Endpoints, &cluster_name, endpoints(&cluster_name, &[5]));
    let target = "xds://a.example/shop";
    let subject = Subject::start(&net, builder(Protocol::Sotw, AWAY), &[target]);
    subject.until(target, &format!("{cluster_name}:5")).await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_authority_is_told_at_once() {
    let net = Net::default();
    let home = net.plane(HOME);
    home.tell("t", "xdstp://nobody/envoy.config.cluster.v3.Cluster/c", 1);
    let subject = Subject::start(&net, builder(Protocol::Sotw, AWAY), &["t", "xds://elsewhere/x"]);
    settle().await;
    settle().await;
    let (target, cluster) = (subject.ports("xds://elsewhere/x"), subject.ports("t"));
    assert!(
        target.starts_with("error") && target.contains("\"elsewhere\""),
        "{target}"
    );
    assert!(cluster.contains("no authority \"nobody\""), "{cluster}");
    assert!(home.log().asked.iter().all(|(_, name)| !name.starts_with("xdstp:")));
}

#[tokio::test(start_paused = true)]
async fn equal_servers_of_two_authorities_share_a_stream() {
    let net = Net::default();
    let home = net.plane(HOME);
    home.tell("plain", "home", 1);
    let name = listener_name("shop");
    home.set(ResourceKind::Listener, &name, listener(&name, "plain"));
    let target = "xds://a.example/shop";
    let subject = Subject::start(&net, builder(Protocol::Sotw, HOME), &["plain", target]);
    subject.until("plain", "home:1").await;
    subject.until(target, "home:1").await;
    assert_eq!((home.log().dials.len(), home.log().streams), (1, 1));
    assert_eq!(subject.client.status().report().connections.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_shared_fallback_serves_one_authority_and_is_let_go_of_by_the_other() {
    for protocol in BOTH {
        let net = Net::default();
        let (home, away) = (net.plane(HOME), net.plane(AWAY));
        home.tell("plain", "home", 1);
        away.tell("plain", "away", 2);
        away.set(
            ResourceKind::Listener,
            &listener_name("shop"),
            listener(&listener_name("shop"), "plain"),
        );
        home.go(Way::Down);
        // Away is the second of the nameless authority, and the first of the other.
        let authority = AuthorityEntry::default().server(ServerEntry::insecure(AWAY));
        let builder = Bootstrap::builder(Node::default()).protocol(protocol);
        let builder = builder.insecure(HOME).insecure(AWAY).authority("a.example", authority);
        let target = "xds://a.example/shop";
        let subject = Subject::start(&net, builder, &["plain", target]);
        subject.until("plain", "away:2").await;
        subject.until(target, "away:2").await;
        assert_eq!(away.log().streams, 1);
        home.go(Way::Open);
        subject.until("plain", "home:1").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!((away.log().open, away.log().streams), (1, 1), "it goes on for its own");
        assert_eq!(subject.ports(target), "home:1", "the routes are the other authority's");
    }
}

#[tokio::test(start_paused = true)]
async fn cp_10_an_authority_may_fall_back_although_nothing_is_lacking() {
    for (protocol, only) in BOTH
        .into_iter()
        .flat_map(|protocol| [(protocol, false), (protocol, true)])
    {
        let net = Net::default();
        let (home, away, other) = (net.plane(HOME), net.plane(AWAY), net.plane("other:1"));
        home.tell("plain", "one", 1);
        home.tell("else", "two", 2);
        let name = listener_name("shop");
        away.set(ResourceKind::Listener, &name, listener(&name, "plain"));
        other.set(ResourceKind::Listener, &name, listener(&name, "else"));
        let authority = AuthorityEntry::default().server(ServerEntry::insecure(AWAY));
        let authority = authority.server(ServerEntry::insecure("other:1"));
        let authority = match only {
            true => authority.fallback_on_reachability_only(),
            false => authority,
        };
        let builder = Bootstrap::builder(Node::default()).protocol(protocol).insecure(HOME);
        let target = "xds://a.example/shop";
        let subject = Subject::start(&net, builder.authority("a.example", authority), &[target]);
        subject.until(target, "one:1").await;
        away.go(Way::Down);
        if only {
            subject.until(target, "two:2").await;
            away.go(Way::Open);
            subject.until(target, "one:1").await;
        } else {
            tokio::time::sleep(Duration::from_secs(600)).await;
            assert_eq!((other.log().dials.len(), subject.ports(target)), (0, "one:1".into()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_wants_any_more_is_not_listened_for() {
    let net = Net::default();
    let home = net.plane(HOME);
    home.tell("t", "home", 1);
    let mut subject = Subject::of(&net, Protocol::Sotw, &[HOME], &["t"]);
    subject.until("t", "home:1").await;
    subject.forget();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(home.log().open, 0);
    assert!(subject.client.status().report().resources.is_empty());
    subject.want("t");
    subject.until("t", "home:1").await;
    assert_eq!(home.log().streams, 2);
}
