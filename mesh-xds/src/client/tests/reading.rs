//! A large response is read apart from everything else: nobody who tells or asks something meanwhile waits for it.
//!
//! The reading is stopped by taking the only thread there is for it, so what runs is what users run.

use std::sync::mpsc;

use tokio::runtime::Builder;
use tokio::task::{spawn_blocking, yield_now};

use super::plane::{BOTH, EVER, Net, Subject};
use super::*;
use crate::bootstrap::{AuthorityEntry, Bootstrap, Protocol, ServerEntry};
use crate::csds;
use crate::node::Node;

/// More than are read in the task itself.
const MANY: u16 = 10_000;
/// More turns than anything takes that needs no time: while the thread is taken, virtual time stands still.
const TURNS: usize = 10_000;

/// The name of a resource of the authority `a.example`.
fn away(kind: &str, id: &str) -> String {
    format!("xdstp://a.example/envoy.config.{kind}/{id}")
}

fn of_port(cluster: &str, port: u16) -> Raw {
    let endpoints = (0..MANY).map(|n| Endpoint::new(([10, 0, (n >> 8) as u8, n as u8], port).into()));
    let endpoints: Vec<Endpoint> = endpoints.collect();
    raw(
        ResourceKind::Endpoints,
        encode::endpoints(&cluster.into(), &endpoints, &[], &Localities::default()),
    )
}

/// How many endpoints there are, and the port of the last.
fn hosts(subject: &Subject, cluster: &str) -> (usize, u16) {
    let snapshot = subject.link.snapshots().load_full();
    let cluster = snapshot.cluster(&cluster.into()).unwrap().as_ref().unwrap();
    let last = cluster.endpoints.last().unwrap();
    (cluster.endpoints.len(), last.address.port())
}

async fn nobody_waits_for_a_large_response(protocol: Protocol) {
    let net = Net::default();
    let (home, other) = (net.plane("home:1"), net.plane("away:1"));
    home.tell("plain", "c", 1);
    let (listener_name, routes_name) = (
        away("listener.v3.Listener", "shop"),
        away("route.v3.RouteConfiguration", "r"),
    );
    let cluster_name = away("cluster.v3.Cluster", "d");
    other.set(
        ResourceKind::Listener,
        &listener_name,
        listener(&listener_name, &routes_name),
    );
    other.set(ResourceKind::Route, &routes_name, routes(&routes_name, &cluster_name));
    other.cluster(&cluster_name, 2);
    let authority = AuthorityEntry::default().server(ServerEntry::insecure("away:1"));
    let bootstrap = Bootstrap::builder(Node::default())
        .protocol(protocol)
        .insecure("home:1");
    let target = "xds://a.example/shop";
    let mut subject = Subject::start(&net, bootstrap.authority("a.example", authority), &["plain", target]);
    subject.until("plain", "c:1").await;
    subject.until(target, &format!("{cluster_name}:2")).await;

    let (release, held) = mpsc::channel::<()>();
    let (began, begun) = tokio::sync::oneshot::channel();
    let thread = spawn_blocking(move || {
        began.send(()).unwrap();
        // An error: the other end was dropped.
        let _ = held.recv();
    });
    begun.await.unwrap();
    let responses = || subject.client.status().report().connections[0].responses;
    let before = responses();
    home.set(ResourceKind::Endpoints, "c", of_port("c", 3));
    for _ in 0..TURNS {
        yield_now().await;
    }
    assert_eq!(
        (responses(), hosts(&subject, "c")),
        (before, (1, 1)),
        "it came and is being read"
    );
    // The one behind it is not read before it.
    home.set(ResourceKind::Endpoints, "c", endpoints("c", &[4, 5]));
    // Another control plane is heard.
    other.cluster(&cluster_name, 6);
    subject.until(target, &format!("{cluster_name}:6")).await;
    // What is wanted is looked at, and whoever asks is answered.
    subject.want("new");
    let name: Arc<str> = "new".into();
    let asked = |report: &crate::client::Report| report.resource(ResourceKind::Listener, &name).is_some();
    subject.client.status().until(EVER, asked).await.unwrap();
    let told = csds::told_by(&subject.client);
    let mut resources = told.iter().flat_map(|client| &client.resources);
    assert!(resources.any(|resource| resource.name == "new"));
    assert_eq!(
        (
            subject.client.status().report().connections[0].responses,
            hosts(&subject, "c")
        ),
        (before, (1, 1))
    );

    drop(release);
    thread.await.unwrap();
    subject.until("plain", "c:4+5").await;
    let history = subject.history("plain");
    let lengths: Vec<usize> = history.iter().map(|ports| ports.split('+').count()).collect();
    assert!(
        lengths.ends_with(&[1, usize::from(MANY), 2]),
        "in the order in which they came: {lengths:?}"
    );
    assert!(home.log().nacks.is_empty() && other.log().nacks.is_empty());
}

#[test]
fn a_large_response_is_read_while_others_are_heard_and_answered() {
    for protocol in BOTH {
        let mut builder = Builder::new_current_thread();
        let builder = builder.enable_all().max_blocking_threads(1).start_paused(true);
        builder
            .build()
            .unwrap()
            .block_on(nobody_waits_for_a_large_response(protocol));
    }
}
