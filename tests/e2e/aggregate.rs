//! A cluster that stands for others is called as those say, over real sockets and TLS: each of its leaves has its own limits, its
//! own outlier detection, its own identities, and its own name where load is reported (gRFCs A32, A37, A74, A75).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use examples::proto::payment_client::PaymentClient;
use examples::proto::{ChargeReply, ChargeRequest};
use mesh_client::{Channel, ClusterStatus, clusters};
use mesh_core::Link;
use mesh_core::config::{
    Cluster, Consecutive, DropOverload, ExpectedPeers, Failover, Health, LoadReporting, MutualTls, OutlierDetection,
    OutlierRules, Percent, RetryOn, RetryPolicy, Route, Snapshot, Split, TlsMode, Version,
};
use mesh_core::link::Source;
use mesh_core::report::{Counts, Window};
use mesh_core::testing::TestCa;
use tests::{Backend, caller, mutual, soon};
use tonic::{Code, Response, Status};

type Client = PaymentClient<Channel<tonic::body::Body>>;
type Call = Pin<Box<dyn Future<Output = Result<Response<ChargeReply>, Status>> + Send>>;
type Calls = Vec<Call>;

/// Who serves the payments of the second leaf.
const OTHER: &str = "spiffe://cluster.local/ns/elsewhere/sa/payment";

/// Target `payment` goes to what stands for `near` and, where that cannot be called, `far`; target `far` goes there by itself.
struct Rig {
    near: Backend,
    far: Backend,
    source: Source,
    link: Link,
    version: u64,
}

fn expecting(id: &str) -> TlsMode {
    TlsMode::Mutual(MutualTls {
        expected: ExpectedPeers::exactly([id]),
        sni: None,
        ..MutualTls::default()
    })
}

impl Rig {
    async fn new() -> Self {
        let ca = TestCa::new("cluster.local");
        let (near, far) = (
            Backend::serve(&ca, "near").await,
            Backend::serve_as(ca.identity(OTHER), "far").await,
        );
        let (source, link) = caller(&ca);
        Self {
            near,
            far,
            source,
            link,
            version: 0,
        }
    }

    fn leaves(&self) -> [Cluster; 2] {
        let mut near = Cluster::new("near", mutual(), vec![self.near.endpoint()]);
        let mut far = Cluster::new("far", expecting(OTHER), vec![self.far.endpoint()]);
        for leaf in [&mut near, &mut far] {
            leaf.common_lb.failover = Failover::FirstReady;
            leaf.load_reporting = Some(LoadReporting::of(leaf.name.as_str()));
        }
        [near, far]
    }

    /// Publishes the whole and the second leaf by itself, and waits until both are what is called.
    async fn publish(&mut self, leaves: [Cluster; 2]) {
        self.publish_with(RetryPolicy::never(), leaves).await;
    }

    /// As [`publish`](Self::publish), with calls that are tried again.
    async fn publish_with(&mut self, retry: RetryPolicy, leaves: [Cluster; 2]) {
        self.version += 1;
        let route = |to: &str| Route {
            retry: retry.clone(),
            ..Route::to(Split::all_to(to))
        };
        let far = leaves[1].clone();
        let whole = Cluster::aggregate("whole".into(), leaves.map(Arc::new).into());
        let builder = Snapshot::builder().version(Version(self.version));
        let builder = builder.route("payment", route("whole")).route("far", route("far"));
        let snapshot = builder.cluster(whole).cluster(far).build().unwrap();
        self.source.snapshots.publish(snapshot);
        // The first channel makes the manager that applies it.
        let _channel: Channel<tonic::body::Body> = Channel::new(&self.link, "payment");
        let applied = async {
            while **self.link.applied().load() != Version(self.version) {
                tokio::task::yield_now().await;
            }
        };
        soon("the clusters", applied).await;
    }

    fn client(&self, target: &str) -> Client {
        PaymentClient::new(Channel::new(&self.link, target))
    }

    fn status(&self, name: &str) -> ClusterStatus {
        let found = clusters(&self.link).into_iter().find(|one| one.name.as_str() == name);
        found.expect("the cluster is live")
    }
}

fn unhealthy(mut leaf: Cluster) -> Cluster {
    for endpoint in Arc::make_mut(&mut leaf.endpoints) {
        endpoint.health = Health::Unhealthy;
    }
    leaf
}

async fn charge(client: &Client) -> Result<String, Status> {
    let answer = client.clone().charge(ChargeRequest::default()).await;
    answer.map(|reply| reply.into_inner().version)
}

fn calls(client: &Client, count: usize) -> Calls {
    let one = || {
        let mut client = client.clone();
        Box::pin(async move { client.charge(ChargeRequest::default()).await }) as Call
    };
    (0..count).map(|_| one()).collect()
}

/// Those that are on their way, and what the refused ones were told.
async fn begun(calls: Calls) -> (Calls, Vec<Status>) {
    let (on_their_way, over) = tests::begun(calls).await;
    let refused = over.into_iter();
    let refused = refused.map(|answer| answer.expect_err("no connection is there yet"));
    (on_their_way, refused.collect())
}

async fn all_succeed(calls: Calls, version: &str) {
    for call in calls {
        assert_eq!(call.await.unwrap().into_inner().version, version);
    }
}

#[tokio::test]
async fn each_leaf_has_its_own_limit_which_it_keeps_for_calls_of_its_own() {
    let mut rig = Rig::new().await;
    let limited = |rig: &Rig| {
        let [mut near, mut far] = rig.leaves();
        near.breakers.default.max_requests = 2;
        far.breakers.default.max_requests = 3;
        [near, far]
    };
    let leaves = limited(&rig);
    rig.publish(leaves).await;
    let whole = rig.client("payment");
    let (on_their_way, refused) = begun(calls(&whole, 6)).await;
    assert_eq!((on_their_way.len(), refused.len()), (2, 4));
    for status in refused {
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("over the limit: max_requests"), "{status}");
    }
    assert_eq!(rig.status("near").default.requests.used, 2);
    assert_eq!(rig.status("far").default.requests.used, 0);
    all_succeed(on_their_way, "near").await;
    assert_eq!(rig.status("near").default.requests.used, 0);

    // With the first leaf out the second one's limit counts, and whoever calls it by itself finds it used.
    let [near, far] = limited(&rig);
    rig.publish([unhealthy(near), far]).await;
    let alone = rig.client("far");
    let (through, refused) = begun(calls(&whole, 2)).await;
    assert_eq!((through.len(), refused.len()), (2, 0));
    let (by_itself, refused) = begun(calls(&alone, 4)).await;
    assert_eq!((by_itself.len(), refused.len()), (1, 3));
    let (more, refused) = begun(calls(&whole, 1)).await;
    assert_eq!((more.len(), refused.len()), (0, 1));
    all_succeed(through, "far").await;
    all_succeed(by_itself, "far").await;
    assert_eq!(charge(&alone).await.unwrap(), "far");
    assert_eq!(rig.status("far").default.requests.used, 0);
}

/// The first failure of `near` takes its host out; `far` is not watched, however often it fails.
#[tokio::test]
async fn each_leaf_has_its_own_outlier_detection() {
    let mut rig = Rig::new().await;
    let [mut near, far] = rig.leaves();
    let mut detection = OutlierDetection {
        max_ejection_percent: Percent::ALL,
        ..OutlierDetection::new(OutlierRules::Envoy)
    };
    detection.consecutive_5xx = Consecutive {
        count: 1,
        enforcing: Percent::ALL,
    };
    detection.success_rate.enforcing = Percent::ZERO;
    near.outlier = Some(detection);
    rig.publish([near, far]).await;
    let whole = rig.client("payment");
    rig.far.payments.fail(1.0);
    rig.near.payments.fail(1.0);
    assert!(charge(&whole).await.is_err());
    assert_eq!((rig.near.handled(), rig.far.handled()), (1, 0));
    let ejected = || {
        let ejected = rig.status("near").ejected;
        ejected.iter().map(|one| one.address).collect::<Vec<_>>()
    };
    assert_eq!(ejected(), [rig.near.address]);
    // The whole takes over what became of its leaf.
    let goes_on = async {
        while rig.far.handled() < 8 {
            assert!(charge(&whole).await.is_err());
        }
    };
    soon("calls at the second leaf", goes_on).await;
    let at_near = rig.near.handled();
    rig.far.payments.fail(0.0);
    assert_eq!(charge(&whole).await.unwrap(), "far");
    assert_eq!(rig.near.handled(), at_near);
    assert_eq!((ejected(), rig.status("far").ejected), (vec![rig.near.address], vec![]));
}

/// Each leaf's peers are asked who they are by the leaf's own rule, and a peer of one is nobody in the other.
#[tokio::test]
async fn each_leaf_has_its_own_identities() {
    let mut rig = Rig::new().await;
    let leaves = rig.leaves();
    rig.publish(leaves).await;
    let whole = rig.client("payment");
    assert_eq!(charge(&whole).await.unwrap(), "near");
    let [near, far] = rig.leaves();
    rig.publish([unhealthy(near), far]).await;
    assert_eq!(charge(&whole).await.unwrap(), "far");
    // Both ends as they are, with the rules swapped: neither is called.
    for near_is_out in [false, true] {
        let [mut near, mut far] = rig.leaves();
        std::mem::swap(&mut near.tls, &mut far.tls);
        if near_is_out {
            near = unhealthy(near);
        }
        rig.publish([near, far]).await;
        let (near, far) = (rig.near.handled(), rig.far.handled());
        let status = charge(&whole).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!((rig.near.handled(), rig.far.handled()), (near, far));
    }
}

/// A try that failed is followed by another as far as the leaf allows that it went to.
#[tokio::test]
async fn each_leaf_has_its_own_limit_of_retries() {
    let retry = RetryPolicy {
        retries: 2,
        on: RetryOn::INTERNAL,
        explicit: true,
        ..RetryPolicy::never()
    };
    let tries = |max: Option<u32>| if max.is_none() { 3 } else { 1 };
    for [near_max, far_max] in [[Some(0), None], [None, Some(0)]] {
        let mut rig = Rig::new().await;
        rig.near.payments.fail(1.0);
        rig.far.payments.fail(1.0);
        let [mut near, mut far] = rig.leaves();
        (near.breakers.default.retries.max, far.breakers.default.retries.max) = (near_max, far_max);
        rig.publish_with(retry.clone(), [near.clone(), far.clone()]).await;
        let whole = rig.client("payment");
        assert!(charge(&whole).await.is_err());
        assert_eq!((rig.near.handled(), rig.far.handled()), (tries(near_max), 0));
        rig.publish_with(retry.clone(), [unhealthy(near), far]).await;
        assert!(charge(&whole).await.is_err());
        assert_eq!(
            (rig.near.handled(), rig.far.handled()),
            (tries(near_max), tries(far_max))
        );
    }
}

/// What is reported of each cluster: its service, its counts, and what of it was dropped, with and without a category.
fn told(window: &Window) -> Vec<(&str, &str, Counts, u64, u64)> {
    let clusters = window.clusters.iter();
    let mut told: Vec<_> = clusters
        .map(|one| {
            let by_category = one.drops.values().sum();
            (
                one.cluster.as_str(),
                &*one.service,
                one.counts(),
                by_category,
                one.uncategorised_drops,
            )
        })
        .collect();
    told.sort_by_key(|one| one.0);
    told
}

#[tokio::test]
async fn load_is_reported_under_the_name_of_each_leaf() {
    let mut rig = Rig::new().await;
    let reader = rig.link.loads().reader(Instant::now());
    let [mut near, far] = rig.leaves();
    near.breakers.default.max_requests = 3;
    rig.publish([near, far]).await;
    let whole = rig.client("payment");
    let (on_their_way, refused) = begun(calls(&whole, 5)).await;
    assert_eq!((on_their_way.len(), refused.len()), (3, 2));
    all_succeed(on_their_way, "near").await;
    let [near, far] = rig.leaves();
    rig.publish([unhealthy(near), far]).await;
    rig.far.payments.fail(1.0);
    for _ in 0..4 {
        assert!(charge(&whole).await.is_err());
    }
    // What a leaf wants dropped is dropped of its calls.
    let [near, mut far] = rig.leaves();
    far.drops = [DropOverload {
        category: "lb".into(),
        per_million: DropOverload::ALL,
    }]
    .into();
    rig.publish([unhealthy(near), far.clone()]).await;
    for _ in 0..6 {
        assert_eq!(charge(&whole).await.unwrap_err().code(), Code::Unavailable);
    }
    let [near, _] = rig.leaves();
    rig.publish([near, far]).await;
    assert_eq!(charge(&whole).await.unwrap(), "near");
    let counts = |issued, succeeded, errored| Counts {
        issued,
        succeeded,
        errored,
        in_progress: 0,
    };
    assert_eq!(
        told(&reader.take(Instant::now())),
        [
            ("far", "far", counts(4, 0, 4), 6, 0),
            ("near", "near", counts(4, 4, 0), 0, 2),
        ]
    );
}
