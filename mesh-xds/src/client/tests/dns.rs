//! Clusters whose hosts are names, through the production client.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::plane::{BOTH, Net, Plane, Subject, settle};
use super::*;
use crate::bootstrap::{Bootstrap, Protocol};
use crate::decode::tests::kinds::{logical_dns, strict_dns};
use crate::node::Node;
use crate::resolver::Resolver;

const HOME: &str = "home:1";

/// Name servers that say what they are told to, and who asked them when.
#[derive(Clone, Default)]
struct Servers {
    answers: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    asked: Arc<Mutex<Vec<(String, Instant)>>>,
}

impl Servers {
    /// `host` is at 10.0.0.x, for each x of `last` in this order. Nowhere at all: it cannot be resolved.
    fn answer(&self, host: &str, last: &[u8]) {
        self.answers.lock().unwrap().insert(host.into(), last.into());
    }

    fn resolver(&self) -> Resolver {
        let this = self.clone();
        Resolver::new(move |host: Arc<str>| {
            this.asked.lock().unwrap().push((host.to_string(), Instant::now()));
            let answers = this.answers.lock().unwrap();
            let last = answers.get(&*host).cloned().unwrap_or_default();
            std::future::ready(match last.is_empty() {
                true => Err(std::io::Error::other("no such name")),
                false => Ok(last.into_iter().map(|last| IpAddr::from([10, 0, 0, last])).collect()),
            })
        })
    }

    /// How often `host` was asked for, in this time from now on.
    async fn asked_in(&self, host: &str, time: Duration) -> usize {
        let from = Instant::now();
        sleep(time).await;
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(name, at)| name == host && *at > from).count()
    }
}

/// Where calls go, in the order of priorities: the last number of each address.
fn places(subject: &Subject) -> Vec<(u32, u8)> {
    let snapshot = subject.link.snapshots().load();
    let cluster = snapshot.cluster(&"c".into()).unwrap().as_ref().unwrap();
    let last = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(_) => panic!("{address}"),
    };
    let places = cluster.endpoints.iter();
    places.map(|one| (one.priority, last(one.address.ip()))).collect()
}

/// A client of a target whose cluster is `cluster`.
fn begin(protocol: Protocol, cluster: Raw, servers: &Servers) -> (Subject, Arc<Plane>) {
    let net = Net::default();
    let home = net.plane(HOME);
    home.tell("t", "c", 1);
    home.set(ResourceKind::Cluster, "c", cluster);
    let bootstrap = Bootstrap::builder(Node::default()).protocol(protocol).insecure(HOME);
    (Subject::resolving(&net, bootstrap, &["t"], servers.resolver()), home)
}

#[tokio::test(start_paused = true)]
async fn a_logical_host_is_called_at_its_addresses_in_the_order_of_the_answer() {
    for protocol in BOTH {
        let servers = Servers::default();
        servers.answer("a.example", &[9, 1, 5]);
        let cluster = logical_dns("c", &["a.example"], 5);
        let (subject, _home) = begin(protocol, cluster, &servers);
        subject.until("t", "c:80+80+80").await;
        assert_eq!(places(&subject), [(0, 9), (1, 1), (2, 5)]);
        let version = subject.link.snapshots().load().version();
        for (answer, expected) in [
            (&[5, 9, 1][..], &[(0, 9), (1, 1), (2, 5)][..]),
            // The next failure leaves it as it is.
            (&[], &[(0, 9), (1, 1), (2, 5)]),
            (&[7, 5, 1], &[(0, 1), (1, 5), (2, 7)]),
            (&[2], &[(0, 2)]),
        ] {
            servers.answer("a.example", answer);
            assert_eq!(servers.asked_in("a.example", Duration::from_millis(5001)).await, 1);
            settle().await;
            assert_eq!(places(&subject), expected, "{answer:?}");
        }
        assert_eq!(
            subject.link.snapshots().load().version().0,
            version.0 + 2,
            "order is no news"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn each_address_of_a_strict_host_is_an_endpoint_like_the_others() {
    let servers = Servers::default();
    servers.answer("a.example", &[9, 1]);
    servers.answer("b.example", &[5]);
    let cluster = strict_dns("c", &["a.example", "b.example"], 5);
    let (subject, _home) = begin(Protocol::Sotw, cluster, &servers);
    subject.until("t", "c:80+80+80").await;
    assert_eq!(places(&subject), [(0, 1), (0, 9), (0, 5)]);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_never_resolved_is_told_by_name() {
    let servers = Servers::default();
    let cluster = logical_dns("c", &["a.example"], 5);
    let (subject, _home) = begin(Protocol::Delta, cluster, &servers);
    subject.until("t", "c: resolving \"a.example\": no such name").await;
    servers.answer("a.example", &[1]);
    subject.until("t", "c:80").await;
}

#[tokio::test(start_paused = true)]
async fn another_refresh_rate_holds_from_then_on() {
    for protocol in BOTH {
        let servers = Servers::default();
        servers.answer("a.example", &[1]);
        let of = |secs| strict_dns("c", &["a.example"], secs);
        let (subject, home) = begin(protocol, of(5), &servers);
        subject.until("t", "c:80").await;
        let minute = Duration::from_secs(60);
        assert!((11..=12).contains(&servers.asked_in("a.example", minute).await));
        home.set(ResourceKind::Cluster, "c", of(20));
        // It was to be asked for once more at the old rate.
        assert!((3..=4).contains(&servers.asked_in("a.example", minute).await));
        home.set(ResourceKind::Cluster, "c", of(2));
        sleep(Duration::from_secs(20)).await;
        assert!((29..=30).contains(&servers.asked_in("a.example", minute).await));
    }
}
