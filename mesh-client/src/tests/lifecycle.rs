//! When connections end: with their endpoint, their rules, their certificates, their age.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use mesh_core::Link;
use mesh_core::config::{
    Cluster, Connections, Endpoint, ExpectedPeers, MutualTls, Route, Snapshot, Split, TlsMode, Version,
};
use mesh_core::identity::Identity;
use mesh_core::identity::tls::{ClientAuth, server_config};
use mesh_core::link::{Parts, Source};
use mesh_core::testing::{SettableClock, TestCa};
use rustls::time_provider::TimeProvider;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::net::{Net, Plain, address, call, channel, one_cluster, post, say, text};
use crate::{Channel, Error};

pub(super) const PAYMENT: &str = "spiffe://cluster.local/ns/default/sa/payment";
pub(super) const CHECKOUT: &str = "spiffe://cluster.local/ns/default/sa/checkout";

/// Server `n` answers by its number, once `released`; it counts the requests that came.
fn held(
    net: &Net,
    n: u8,
    tls: Option<Arc<rustls::ServerConfig>>,
) -> (Arc<AtomicUsize>, tokio::sync::watch::Sender<bool>) {
    let (release, released) = tokio::sync::watch::channel(false);
    let came = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&came);
    let name: &'static str = ["", "one", "two"][usize::from(n)];
    net.serve_with(n, many_streams(), tls, move |request, respond| {
        counter.fetch_add(1, Ordering::Relaxed);
        let mut released = released.clone();
        async move {
            if request.uri().path() == "/pkg.Service/Method" {
                released.wait_for(|go| *go).await.unwrap();
            }
            say(respond, name);
        }
    });
    (came, release)
}

fn many_streams() -> h2::server::Builder {
    let mut settings = h2::server::Builder::new();
    settings.max_concurrent_streams(250);
    settings
}

fn quick() -> http::Request<Full<Bytes>> {
    let mut request = post("");
    *request.uri_mut() = http::Uri::from_static("/quick");
    request
}

fn begin(channel: &Plain) -> JoinHandle<Result<String, Error>> {
    let channel = channel.clone();
    tokio::spawn(async move {
        let response = call(&channel, post("")).await?;
        Ok(text(response).await)
    })
}

/// Lets everything happen that needs no time.
pub(super) async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

pub(super) fn publish(source: &Source, version: u64, cluster: Cluster) {
    let snapshot = Snapshot::builder()
        .version(Version(version))
        .route("t", Route::to(Split::all_to("c")))
        .cluster(cluster);
    source.snapshots.publish(snapshot.build().unwrap());
}

fn plain(servers: &[u8]) -> Cluster {
    Cluster::new(
        "c",
        TlsMode::Plaintext,
        servers.iter().map(|n| Endpoint::new(address(*n))).collect(),
    )
}

fn mutual_as(expected: &str, sni: &str) -> TlsMode {
    TlsMode::Mutual(MutualTls {
        expected: ExpectedPeers::exactly([expected]),
        sni: Some(sni.into()),
        ..MutualTls::default()
    })
}

pub(super) fn secured(expected: &str) -> Cluster {
    Cluster::new("c", mutual_as(expected, "payment"), vec![Endpoint::new(address(1))])
}

pub(super) fn server_tls(identity: &Identity, clock: Arc<dyn TimeProvider>) -> Arc<rustls::ServerConfig> {
    server_config(identity, ClientAuth::Required, clock, &[b"h2", b"http/1.1"]).unwrap()
}

fn word(error: &Error) -> &'static str {
    let cause = std::error::Error::source(error).unwrap();
    cause.downcast_ref::<crate::connect::ConnectError>().unwrap().as_str()
}

#[tokio::test(start_paused = true)]
async fn ep_12_a_removed_endpoint_finishes_what_it_has_and_gets_nothing_more() {
    let net = Net::default();
    let (came, release) = held(&net, 1, None);
    let (_, release_two) = held(&net, 2, None);
    release_two.send(true).unwrap();
    let (source, link) = net.link();
    publish(&source, 1, plain(&[1]));
    let channel = channel(&link);
    assert_eq!(text(call(&channel, quick()).await.unwrap()).await, "one");
    let calls: Vec<_> = (0..100).map(|_| begin(&channel)).collect();
    settle().await;
    let before = came.load(Ordering::Relaxed);
    assert_eq!(before, 101);
    publish(&source, 2, plain(&[2]));
    settle().await;
    for _ in 0..100 {
        assert_eq!(text(call(&channel, post("")).await.unwrap()).await, "two");
    }
    assert_eq!((came.load(Ordering::Relaxed), net.open(1)), (before, 1));
    release.send(true).unwrap();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), "one");
    }
    settle().await;
    assert_eq!(net.open(1), 0, "it is closed when it is empty");
}

#[tokio::test(start_paused = true)]
async fn ep_12_what_does_not_finish_is_cut_off_after_30_s() {
    let net = Net::default();
    let (_came, _release) = held(&net, 1, None);
    let (source, link) = net.link();
    publish(&source, 1, plain(&[1]));
    let channel = channel(&link);
    assert_eq!(text(call(&channel, quick()).await.unwrap()).await, "one");
    let call = begin(&channel);
    settle().await;
    let begun = Instant::now();
    publish(&source, 2, plain(&[]));
    let error = call.await.unwrap().unwrap_err();
    let took = begun.elapsed();
    assert!(error.may_have_been_processed(), "{error}");
    assert!((30..=31).contains(&took.as_secs()), "{took:?}");
    settle().await;
    assert_eq!(net.open(1), 0);
}

/// Its age and its last request end a connection's service, and not the calls that it has; its endpoint's end does.
#[tokio::test(start_paused = true)]
async fn ep_12_calls_outlast_the_age_of_their_connection_and_not_their_endpoint() {
    let old = Connections {
        max_age: Some(Duration::from_secs(20)),
        ..Connections::default()
    };
    let used = Connections {
        max_requests: NonZeroU32::new(1),
        ..Connections::default()
    };
    for settings in [old, used] {
        let net = Net::default();
        let (_came, release) = held(&net, 1, None);
        let (source, link) = net.link();
        let cluster = |servers: &[u8]| Cluster {
            connections: Arc::new(settings.clone()),
            ..plain(servers)
        };
        publish(&source, 1, cluster(&[1]));
        let channel = channel(&link);
        let first = begin(&channel);
        tokio::time::sleep(Duration::from_secs(60)).await;
        // Whoever calls next finds that the first's connection takes no more.
        assert_eq!(text(call(&channel, quick()).await.unwrap()).await, "one");
        assert_eq!(net.dials(), 2);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let second = begin(&channel);
        release.send(true).unwrap();
        assert_eq!(first.await.unwrap().unwrap(), "one");
        assert_eq!(second.await.unwrap().unwrap(), "one");
        release.send(false).unwrap();
        let third = begin(&channel);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(text(call(&channel, quick()).await.unwrap()).await, "one");
        let begun = Instant::now();
        publish(&source, 2, cluster(&[]));
        assert!(third.await.unwrap().is_err());
        let took = begun.elapsed();
        assert!((30..=31).contains(&took.as_secs()), "{took:?}");
        settle().await;
        assert_eq!(net.open(1), 0);
    }
}

/// A call that waits for a connection to an endpoint which is removed meanwhile goes to another.
#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_a_removed_endpoint_goes_elsewhere() {
    let net = Net::default();
    let (_, release) = held(&net, 2, None);
    release.send(true).unwrap();
    let (source, link) = Link::new(Parts::default());
    let (hold, held_back) = tokio::sync::watch::channel(true);
    let servers = net.clone();
    crate::use_connector(&link, move |to: std::net::SocketAddr| -> crate::connect::Connecting {
        let (servers, mut held_back) = (servers.clone(), held_back.clone());
        Box::pin(async move {
            if to == address(1) {
                held_back.wait_for(|hold| !*hold).await.unwrap();
            }
            servers.connect(to)
        })
    })
    .unwrap();
    publish(&source, 1, plain(&[1]));
    let channel = channel(&link);
    let waiting = begin(&channel);
    settle().await;
    publish(&source, 2, plain(&[2]));
    settle().await;
    held(&net, 1, None);
    hold.send(false).unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), "two");
}

pub(super) struct Meshed {
    pub(super) ca: TestCa,
    pub(super) net: Net,
    pub(super) source: Source,
    link: Link,
    pub(super) clock: SettableClock,
}

/// In the first second of 2030.
pub(super) const NOW: u64 = 1_893_456_000;

impl Meshed {
    pub(super) fn new() -> Self {
        let (ca, net, clock) = (TestCa::new("cluster.local"), Net::default(), SettableClock::at(NOW));
        let (source, link) = net.link_with(Parts {
            wall_clock: Arc::new(clock.clone()),
            ..Parts::default()
        });
        source.identity.publish(Ok(ca.identity(CHECKOUT)));
        Self {
            ca,
            net,
            source,
            link,
            clock,
        }
    }

    fn serve(&self, identity: &Identity) -> (Arc<AtomicUsize>, tokio::sync::watch::Sender<bool>) {
        held(&self.net, 1, Some(server_tls(identity, Arc::new(self.clock.clone()))))
    }

    pub(super) fn channel(&self) -> Plain {
        Channel::<Full<Bytes>>::new(&self.link, "t")
    }
}

#[tokio::test(start_paused = true)]
async fn hs_7_tightened_rules_hold_for_the_next_call_and_open_streams_finish() {
    let other = "spiffe://cluster.local/ns/default/sa/other";
    let mesh = Meshed::new();
    let (came, release) = mesh.serve(&mesh.ca.identity(PAYMENT));
    publish(&mesh.source, 1, secured(PAYMENT));
    let channel = mesh.channel();
    assert_eq!(text(call(&channel, quick()).await.unwrap()).await, "one");
    let open = begin(&channel);
    settle().await;
    assert_eq!(came.load(Ordering::Relaxed), 2);
    publish(&mesh.source, 2, secured(other));
    tokio::time::sleep(Duration::from_millis(100)).await;
    for _ in 0..10 {
        let error = call(&channel, quick()).await.unwrap_err();
        assert_eq!(word(&error), "wrong_identity");
    }
    assert_eq!(came.load(Ordering::Relaxed), 2, "nothing was begun under the old rules");
    release.send(true).unwrap();
    assert_eq!(open.await.unwrap().unwrap(), "one");
    settle().await;
    assert_eq!(mesh.net.open(1), 0);
}

#[tokio::test(start_paused = true)]
async fn hs_7_other_roots_end_what_was_agreed_under_the_old_ones() {
    let mesh = Meshed::new();
    let (came, _release) = mesh.serve(&mesh.ca.identity(PAYMENT));
    publish(&mesh.source, 1, secured(PAYMENT));
    let channel = mesh.channel();
    assert_eq!(text(call(&channel, quick()).await.unwrap()).await, "one");
    // A renewal changes nothing for connections that there are.
    mesh.source.identity.publish(Ok(mesh.ca.identity(CHECKOUT)));
    settle().await;
    assert_eq!(text(call(&channel, quick()).await.unwrap()).await, "one");
    assert_eq!((mesh.net.dials(), mesh.net.open(1)), (1, 1));
    let stranger = TestCa::new("cluster.local");
    let mixed = Identity::new(mesh.ca.svid(CHECKOUT), stranger.bundle());
    mesh.source.identity.publish(Ok(mixed));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let error = call(&channel, quick()).await.unwrap_err();
    assert_eq!(word(&error), "unknown_issuer");
    assert_eq!((came.load(Ordering::Relaxed), mesh.net.open(1)), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn hs_7_plaintext_connections_are_closed_when_tls_is_asked_for() {
    let mesh = Meshed::new();
    let (came, _release) = held(&mesh.net, 1, None);
    publish(&mesh.source, 1, plain(&[1]));
    let channel = channel(&mesh.link);
    assert_eq!(text(call(&channel, quick()).await.unwrap()).await, "one");
    publish(&mesh.source, 2, secured(PAYMENT));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let error = call(&channel, quick()).await.unwrap_err();
    assert_eq!(word(&error), "tls");
    assert_eq!((came.load(Ordering::Relaxed), mesh.net.open(1)), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn ep_13_a_server_with_a_new_identity_on_the_same_address_is_refused() {
    let mesh = Meshed::new();
    mesh.serve(&mesh.ca.identity(PAYMENT));
    publish(&mesh.source, 1, secured(PAYMENT));
    let channel = mesh.channel();
    assert_eq!(text(call(&channel, quick()).await.unwrap()).await, "one");
    // It restarts as another.
    mesh.net.stop(1).await;
    let (came, _release) = mesh.serve(&mesh.ca.identity("spiffe://cluster.local/ns/default/sa/other"));
    let error = call(&channel, quick()).await.unwrap_err();
    assert_eq!((word(&error), came.load(Ordering::Relaxed)), ("wrong_identity", 0));
}

#[tokio::test(start_paused = true)]
async fn ep_13_clusters_of_different_security_share_no_connection() {
    let mesh = Meshed::new();
    let (came, _release) = mesh.serve(&mesh.ca.identity(PAYMENT));
    let both = [PAYMENT, "spiffe://cluster.local/ns/default/sa/canary"];
    let modes = [
        mutual_as(PAYMENT, "payment"),
        // Another name to send, another set of identities, nobody that is there.
        mutual_as(PAYMENT, "v2.payment"),
        TlsMode::Mutual(MutualTls {
            expected: ExpectedPeers::exactly(both),
            sni: Some("payment".into()),
            ..MutualTls::default()
        }),
        mutual_as("spiffe://cluster.local/ns/default/sa/other", "payment"),
    ];
    let mut builder = Snapshot::builder().version(Version(1));
    for (n, mode) in modes.into_iter().enumerate() {
        let name = format!("c{n}");
        let cluster = Cluster::new(name.as_str(), mode, vec![Endpoint::new(address(1))]);
        builder = builder
            .route(&format!("t{n}"), Route::to(Split::all_to(name.as_str())))
            .cluster(cluster);
    }
    mesh.source.snapshots.publish(builder.build().unwrap());
    for n in 0..3 {
        let channel = Channel::<Full<Bytes>>::new(&mesh.link, &format!("t{n}"));
        for _ in 0..2 {
            assert_eq!(text(call(&channel, quick()).await.unwrap()).await, "one");
        }
        assert_eq!(mesh.net.dials(), n + 1);
    }
    let channel = Channel::<Full<Bytes>>::new(&mesh.link, "t3");
    let error = call(&channel, quick()).await.unwrap_err();
    assert_eq!((word(&error), came.load(Ordering::Relaxed)), ("wrong_identity", 6));
}

#[tokio::test(start_paused = true)]
async fn id_10_a_connection_is_replaced_before_either_certificate_expires() {
    for client_ends_first in [true, false] {
        let mesh = Meshed::new();
        let short = |id| Identity::new(mesh.ca.leaf(id).valid(NOW - 10, NOW + 600).svid(), mesh.ca.bundle());
        let long = |id| mesh.ca.identity(id);
        let (server, client) = match client_ends_first {
            true => (long(PAYMENT), short(CHECKOUT)),
            false => (short(PAYMENT), long(CHECKOUT)),
        };
        mesh.source.identity.publish(Ok(client));
        let (_, release) = mesh.serve(&server);
        publish(&mesh.source, 1, secured(PAYMENT));
        let channel = mesh.channel();
        assert_eq!(text(call(&channel, quick()).await.unwrap()).await, "one");
        let open = begin(&channel);
        settle().await;
        // Both ends are renewed in time; nothing has to be made anew for that.
        mesh.source.identity.publish(Ok(long(CHECKOUT)));
        mesh.serve(&long(PAYMENT));
        mesh.clock.set(NOW + 520);
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert_eq!(text(call(&channel, quick()).await.unwrap()).await, "one");
        assert_eq!(mesh.net.dials(), 1);
        // At nine tenths. Wall time may jump: it is looked at every 10 s.
        mesh.clock.set(NOW + 560);
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert_eq!(text(call(&channel, quick()).await.unwrap()).await, "one");
        assert_eq!(
            (mesh.net.dials(), mesh.net.open(1)),
            (2, 2),
            "the old one still has a call"
        );
        // It is not cut off for being replaced, only when its certificate has ended, and then after the limit.
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert!(!open.is_finished());
        release.send(true).unwrap();
        assert_eq!(open.await.unwrap().unwrap(), "one");
        settle().await;
        assert_eq!(mesh.net.open(1), 1);
    }
}

async fn with_settings(settings: Connections) -> (Net, Plain, (Source, Link)) {
    let net = Net::default();
    let (_, release) = held(&net, 1, None);
    release.send(true).unwrap();
    let (source, link) = net.link();
    source
        .snapshots
        .publish(one_cluster(&[1], |_, cluster| cluster.connections = Arc::new(settings)));
    let channel = channel(&link);
    (net, channel, (source, link))
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_at_its_age_give_or_take_a_tenth() {
    let (net, channel, _link) = with_settings(Connections {
        max_age: Some(Duration::from_secs(100)),
        ..Connections::default()
    })
    .await;
    let mut changes = Vec::new();
    let mut since = Instant::now();
    while changes.len() < 20 {
        let before = net.dials();
        assert_eq!(text(call(&channel, quick()).await.unwrap()).await, "one");
        if net.dials() != before {
            changes.push(since.elapsed().as_secs());
            since = Instant::now();
        }
        assert!(net.open(1) <= 2);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let ages = &changes[1..];
    assert!(ages.iter().all(|age| (90..=111).contains(age)), "{ages:?}");
    assert!(ages.iter().min() != ages.iter().max(), "{ages:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_serves_no_more_requests_than_it_may() {
    let (net, channel, _link) = with_settings(Connections {
        max_requests: NonZeroU32::new(7),
        ..Connections::default()
    })
    .await;
    for n in 0..70 {
        assert_eq!(text(call(&channel, quick()).await.unwrap()).await, "one", "call {n}");
    }
    assert_eq!(net.dials(), 10);
}

/// Calls that begin at once.
fn at_once(
    channel: &Plain,
    count: usize,
    request: fn() -> http::Request<Full<Bytes>>,
) -> Vec<JoinHandle<Result<String, Error>>> {
    let one = |_| {
        let channel = channel.clone();
        tokio::spawn(async move { Ok(text(call(&channel, request()).await?).await) })
    };
    (0..count).map(one).collect()
}

/// However few calls a connection carries, a burst of them is served, over as many connections.
#[tokio::test(start_paused = true)]
async fn a_burst_is_served_however_few_calls_a_connection_carries() {
    for most in [1, 2, 7] {
        let (net, channel, _link) = with_settings(Connections {
            max_requests: NonZeroU32::new(most),
            ..Connections::default()
        })
        .await;
        for call in at_once(&channel, 60, quick) {
            assert_eq!(call.await.unwrap().unwrap(), "one");
        }
        let needed = 60usize.div_ceil(most as usize);
        // Those that were made side by side may be more than were needed in the end.
        assert!((needed..needed + 10).contains(&net.dials()), "{most}: {}", net.dials());
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_meets_as_many_connections_as_an_endpoint_may_have() {
    let net = Net::default();
    let (release, released) = tokio::sync::watch::channel(false);
    let came = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&came);
    let mut settings = h2::server::Builder::new();
    settings.max_concurrent_streams(100);
    net.serve_with(1, settings, None, move |_, respond| {
        counter.fetch_add(1, Ordering::Relaxed);
        let mut released = released.clone();
        async move {
            released.wait_for(|go| *go).await.unwrap();
            say(respond, "one");
        }
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| ()));
    let channel = channel(&link);
    let calls = at_once(&channel, 1_000, quick);
    for _ in 0..10_000 {
        if came.load(Ordering::Relaxed) == 1_000 {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!((came.load(Ordering::Relaxed), net.dials()), (1_000, 10));
    release.send_replace(true);
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), "one");
    }
}

/// Whoever is not there is not dialled ten times at once for it.
#[tokio::test(start_paused = true)]
async fn a_burst_of_calls_to_nobody_is_one_dial() {
    let net = Net::default();
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |route, cluster| {
        route.retry = mesh_core::config::RetryPolicy::never();
        cluster.connections = Arc::new(Connections {
            max_requests: NonZeroU32::new(1),
            ..Connections::default()
        });
    }));
    let channel = channel(&link);
    for call in at_once(&channel, 60, quick) {
        call.await.unwrap().unwrap_err();
    }
    assert_eq!(net.dials(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_connection_is_closed_in_its_time_and_one_in_use_is_not() {
    let (net, channel, _link) = with_settings(Connections {
        idle_timeout: Some(Duration::from_secs(3)),
        ..Connections::default()
    })
    .await;
    for _ in 0..20 {
        assert_eq!(text(call(&channel, quick()).await.unwrap()).await, "one");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert_eq!((net.dials(), net.open(1)), (1, 1));
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(net.open(1), 0);
    assert_eq!(text(call(&channel, quick()).await.unwrap()).await, "one");
    assert_eq!(net.dials(), 2);
}

/// Three tries in a row of which the peer did not show a sign, and its connection is left alone.
#[tokio::test(start_paused = true)]
async fn ep_3_three_silent_tries_in_a_row_end_a_connections_service() {
    let net = Net::default();
    let (_, release) = held(&net, 1, None);
    release.send(true).unwrap();
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |route, _| {
        route.retry.per_try_timeout = Some(Duration::from_millis(500));
        route.retry.retries = 0;
    }));
    let channel = channel(&link);
    assert_eq!(text(call(&channel, quick()).await.unwrap()).await, "one");
    net.freeze(true);
    // Side by side they count once: they prove one silence.
    let side_by_side: Vec<_> = (0..20).map(|_| begin(&channel)).collect();
    for call in side_by_side {
        assert!(call.await.unwrap().unwrap_err().is_timeout());
    }
    for _ in 0..2 {
        assert_eq!(net.dials(), 1);
        assert!(call(&channel, post("")).await.unwrap_err().is_timeout());
    }
    net.freeze(false);
    assert_eq!(text(call(&channel, quick()).await.unwrap()).await, "one");
    assert_eq!(net.dials(), 2);
}

#[tokio::test(start_paused = true)]
async fn ep_5_a_handshake_that_never_ends_is_given_up_and_another_endpoint_called() {
    let mesh = Meshed::new();
    let (_, release) = held(
        &mesh.net,
        2,
        Some(server_tls(&mesh.ca.identity(PAYMENT), Arc::new(mesh.clock.clone()))),
    );
    release.send(true).unwrap();
    mesh.net.serve_raw(1, None, |mut io| async move {
        // It reads what comes, up to its end, and says nothing.
        let _ = tokio::io::copy(&mut io, &mut tokio::io::sink()).await;
    });
    let endpoints = vec![Endpoint::new(address(1)), Endpoint::new(address(2))];
    let cluster = Cluster {
        connect_timeout: Duration::from_secs(1),
        ..Cluster::new("c", mutual_as(PAYMENT, "payment"), endpoints)
    };
    publish(&mesh.source, 1, cluster);
    let channel = mesh.channel();
    let mut slowest = Duration::ZERO;
    for n in 0..200 {
        let begun = Instant::now();
        assert_eq!(text(call(&channel, quick()).await.unwrap()).await, "two", "call {n}");
        slowest = slowest.max(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(
        slowest >= Duration::from_secs(1) && slowest < Duration::from_millis(1_200),
        "{slowest:?}"
    );
    tokio::time::sleep(Duration::from_secs(5)).await;
    // Of what was dialled and given up nothing is left open.
    assert_eq!((mesh.net.open(1), mesh.net.open(2)), (0, 1));
    assert!(mesh.net.dials() < 20, "{}", mesh.net.dials());
}
