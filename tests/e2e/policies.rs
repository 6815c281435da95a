//! What a `DestinationRule` says of traffic is what callers do: which host, and of which locality.

use std::net::SocketAddr;

use examples::load::Client;
use examples::proto::ChargeRequest;
use examples::proto::payment_client::PaymentClient;
use mesh_client::Channel;
use mesh_xds::{Bootstrap, XdsClient};
use serde_json::{Value, json};
use tests::{Backend, Mesh, PATIENCE, begun, listener, soon, workloads};

/// Version 1 in the zone `eu/a`, version 2 in `us/a`.
struct Rig {
    mesh: Mesh,
    v1: Backend,
    v2: Backend,
    _members: [XdsClient; 2],
}

fn rule(policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: payment, namespace: default}}
spec:
  host: payment-service
  trafficPolicy: {policy}
"
    )
}

/// The workloads, each in its place.
fn placed(one: SocketAddr, two: SocketAddr) -> String {
    workloads(one, two)
        .replace("    version: v1\n", "    version: v1\n  locality: eu/a\n")
        .replace("    version: v2\n", "    version: v2\n  locality: us/a\n")
}

impl Rig {
    async fn start(policy: &str) -> Self {
        Self::by(&rule(policy)).await
    }

    /// By these documents, beside those of the workloads.
    async fn by(documents: &str) -> Self {
        let ((first, one), (second, two)) = (listener().await, listener().await);
        let mesh = Mesh::start(&[("workloads.yaml", &placed(one, two)), ("rule.yaml", documents)]).await;
        let status = mesh.control().status();
        assert_eq!(status.accepted, 1, "{:?}", status.diagnostics);
        let (v1, member1) = mesh.serve(first, "v1").await;
        let (v2, member2) = mesh.serve(second, "v2").await;
        Self {
            mesh,
            v1,
            v2,
            _members: [member1, member2],
        }
    }

    /// A caller that says where it is.
    async fn caller(&self, region: &str, zone: &str) -> (Client, XdsClient) {
        let bootstrap = self.mesh.control().bootstrap("default", "checkout").unwrap();
        let mut json: Value = serde_json::from_str(&bootstrap.to_json()).unwrap();
        json["node"]["locality"] = json!({"region": region, "zone": zone});
        let xds = XdsClient::start(Bootstrap::from_json(&json.to_string()).unwrap()).unwrap();
        let channel = Channel::new(&xds.link(), "xds:///payment-service");
        soon("the target's configuration", channel.ready()).await;
        (PaymentClient::new(channel), xds)
    }

    /// Says this from now on, and waits until a caller goes by it.
    async fn say(&self, policy: &str, caller: &XdsClient) {
        let before = self.mesh.control().status().accepted;
        self.mesh.save("rule.yaml", &rule(policy));
        self.mesh.until_read(|status| status.accepted > before).await;
        caller.status().applied(PATIENCE).await.unwrap();
    }
}

async fn charge(client: &Client, user: &str) -> Result<String, tonic::Status> {
    let mut request = tonic::Request::new(ChargeRequest::default());
    request.metadata_mut().insert("x-user", user.parse().unwrap());
    let answer = client.clone().charge(request).await?;
    Ok(answer.into_inner().version)
}

/// How many of twenty calls version 1 took.
async fn of_v1(client: &Client, user: impl Fn(u32) -> String) -> u32 {
    let mut count = 0;
    for call in 0..20 {
        count += u32::from(charge(client, &user(call)).await.unwrap() == "v1");
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_chooses_the_way_hosts_are_chosen() {
    let hash = "{loadBalancer: {consistentHash: {httpHeaderName: x-user}}}";
    let rig = Rig::start(hash).await;
    let (client, xds) = rig.caller("eu", "a").await;
    for user in ["ann", "bob", "eve"] {
        let all = of_v1(&client, |_| user.to_owned()).await;
        assert!(all == 0 || all == 20, "{user}: {all}");
    }
    let both = of_v1(&client, |call| format!("user-{call}")).await;
    assert!((1..20).contains(&both), "{both}");
    rig.say("{loadBalancer: {simple: ROUND_ROBIN}}", &xds).await;
    // One user's calls were all with one host before.
    let in_turn = async { while of_v1(&client, |_| "ann".to_owned()).await != 10 {} };
    soon("the rule to reach the caller", in_turn).await;
    assert_eq!(of_v1(&client, |_| "ann".to_owned()).await, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_stay_near_and_go_farther_when_nobody_near_answers() {
    let rig = Rig::start("{outlierDetection: {consecutive5xxErrors: 1}}").await;
    let (eu, _eu_member) = rig.caller("eu", "a").await;
    let (us, _us_member) = rig.caller("us", "b").await;
    assert_eq!(of_v1(&eu, |_| "ann".to_owned()).await, 20);
    assert_eq!(of_v1(&us, |_| "ann".to_owned()).await, 0);
    rig.v1.stop().await;
    // A call or two find out that nobody is there.
    let mut failed = 0;
    while charge(&eu, "ann").await.is_err() {
        failed += 1;
        assert!(failed < 20, "nobody takes over");
    }
    assert_eq!(of_v1(&eu, |_| "ann".to_owned()).await, 0);
}

/// How many of eight calls at once are let in; the others are told of the limit.
async fn let_in(client: &Client) -> usize {
    let one = || {
        let client = client.clone();
        Box::pin(async move { charge(&client, "ann").await })
    };
    let (on_their_way, over) = begun((0..8).map(|_| one()).collect()).await;
    for answer in over {
        let status = answer.unwrap_err();
        assert!(status.message().contains("over the limit: max_requests"), "{status}");
    }
    let count = on_their_way.len();
    for call in on_their_way {
        call.await.unwrap();
    }
    count
}

/// What a rule says of the service's port stands above what it says of all.
///
/// On one thread, so that nobody answers while the calls begin.
#[tokio::test]
async fn so_many_calls_at_once_are_let_in_as_a_rule_says() {
    let limit = |max: u32| format!("{{connectionPool: {{http: {{http2MaxRequests: {max}}}}}}}");
    let rig = Rig::start(&limit(2)).await;
    let (client, xds) = rig.caller("eu", "a").await;
    assert_eq!(let_in(&client).await, 2);
    let by_port = |all: u32, port: u32, own: u32| {
        let pool = |max: u32| format!("connectionPool: {{http: {{http2MaxRequests: {max}}}}}");
        format!(
            "{{{}, portLevelSettings: [{{port: {{number: {port}}}, {}}}]}}",
            pool(all),
            pool(own)
        )
    };
    for (policy, expected) in [(limit(5), 5), (by_port(1, 50051, 3), 3), (by_port(4, 9, 1), 4)] {
        rig.say(&policy, &xds).await;
        let in_effect = async { while let_in(&client).await != expected {} };
        soon("the limit to reach the caller", in_effect).await;
        assert_eq!(let_in(&client).await, expected);
    }
}

/// Shares among regions, which is where all calls of a region go, however near another endpoint is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_distributed_among_localities_as_a_rule_says() {
    let away =
        "{outlierDetection: {}, loadBalancer: {localityLbSetting: {distribute: [{from: 'eu/*', to: {'us/*': 100}}]}}}";
    let rig = Rig::start(away).await;
    let (eu, xds) = rig.caller("eu", "a").await;
    let (us, _us_member) = rig.caller("us", "b").await;
    assert_eq!(of_v1(&eu, |_| "ann".to_owned()).await, 0);
    // Nothing is said of those who call from there, and nobody is kept near where shares are said (Istio).
    let both = async { while !(1..20).contains(&of_v1(&us, |_| "ann".to_owned()).await) {} };
    soon("calls from elsewhere to be spread", both).await;
    rig.say(&away.replace("'us/*': 100", "'eu/*': 100"), &xds).await;
    let in_effect = async { while of_v1(&eu, |_| "ann".to_owned()).await != 20 {} };
    soon("the shares to reach the caller", in_effect).await;
    assert_eq!(of_v1(&eu, |_| "ann".to_owned()).await, 20);
}

/// To where a rule says, from a region in which there is nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_fail_over_to_the_region_that_a_rule_names() {
    let to = |region: &str| {
        format!(
            "{{outlierDetection: {{}}, loadBalancer: {{localityLbSetting: {{failover: [{{from: ap, to: {region}}}]}}}}}}"
        )
    };
    let rig = Rig::start(&to("us")).await;
    let (ap, xds) = rig.caller("ap", "a").await;
    assert_eq!(of_v1(&ap, |_| "ann".to_owned()).await, 0);
    rig.say(&to("eu"), &xds).await;
    let in_effect = async { while of_v1(&ap, |_| "ann".to_owned()).await != 20 {} };
    soon("the rule to reach the caller", in_effect).await;
    let by_label = "{outlierDetection: {}, loadBalancer: {localityLbSetting: {failoverPriority: ['topology.kubernetes.io/region']}}}";
    rig.say(by_label, &xds).await;
    let both = async { while !(1..20).contains(&of_v1(&ap, |_| "ann".to_owned()).await) {} };
    soon("calls to be spread", both).await;
    let (us, _us_member) = rig.caller("us", "b").await;
    assert_eq!(of_v1(&us, |_| "ann".to_owned()).await, 0);
}

/// What `MeshConfig` says of localities holds for services of which no rule says anything else, and changes like any document.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mesh_s_word_on_localities_holds_where_no_rule_says_another() {
    let config = |to: &str| {
        format!(
            "apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data:
  meshNetworks: 'networks: {{}}'
  mesh: |-
    defaultConfig:
      discoveryAddress: istiod.istio-system.svc:15012
    localityLbSetting:
      distribute:
      - from: eu/*
        to:
          '{to}/*': 100
"
        )
    };
    let rig = Rig::by(&config("us")).await;
    let (eu, xds) = rig.caller("eu", "a").await;
    assert_eq!(of_v1(&eu, |_| "ann".to_owned()).await, 0);
    let until = async |documents: &str, of_20: std::ops::RangeInclusive<u32>| {
        let before = rig.mesh.control().status().accepted;
        rig.mesh.save("rule.yaml", documents);
        rig.mesh.until_read(|status| status.accepted > before).await;
        xds.status().applied(PATIENCE).await.unwrap();
        let in_effect = async { while !of_20.contains(&of_v1(&eu, |_| "ann".to_owned()).await) {} };
        soon("the word to reach the caller", in_effect).await;
        assert!(of_20.contains(&of_v1(&eu, |_| "ann".to_owned()).await));
    };
    until(&config("eu"), 20..=20).await;
    // A rule's own word stands in its place as a whole, be it that there is none to be.
    let off = rule("{loadBalancer: {simple: ROUND_ROBIN, localityLbSetting: {enabled: false}}}");
    until(&format!("{}---\n{off}", config("us")), 10..=10).await;
    let other = rule("{loadBalancer: {localityLbSetting: {distribute: [{from: 'eu/*', to: {'eu/*': 100}}]}}}");
    until(&format!("{}---\n{other}", config("us")), 20..=20).await;
    // That of another namespace is not the mesh's.
    let elsewhere = config("us").replace("namespace: istio-system", "namespace: default");
    let in_turn = rule("{loadBalancer: {simple: ROUND_ROBIN}}");
    until(&format!("{elsewhere}---\n{in_turn}"), 10..=10).await;
}

/// A host that comes while others serve gets a tenth of its share at first; the window is an hour, so it stays at that here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_new_is_warmed_up_as_a_rule_says() {
    for (policy, expected) in [
        (
            "{loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 3600s}}}",
            9..=11,
        ),
        (
            "{loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 3600s, minimumPercent: 50}}}",
            35..=38,
        ),
        ("{loadBalancer: {simple: ROUND_ROBIN}}", 55..=55),
    ] {
        let rig = Rig::start(policy).await;
        let whole = std::fs::read_to_string(rig.mesh.path("workloads.yaml")).unwrap();
        let (without, _) = whole.rsplit_once("---").unwrap();
        let until = async |text: &str, caller: &XdsClient| {
            let before = rig.mesh.control().status().accepted;
            rig.mesh.save("workloads.yaml", text);
            rig.mesh.until_read(|status| status.accepted > before).await;
            caller.status().applied(PATIENCE).await.unwrap();
        };
        let (client, xds) = rig.caller("eu", "a").await;
        until(without, &xds).await;
        let alone = async { while of_v1(&client, |_| "ann".to_owned()).await != 20 {} };
        soon("the host to go", alone).await;
        until(&whole, &xds).await;
        let both = async { while charge(&client, "ann").await.unwrap() != "v2" {} };
        soon("the host to be called", both).await;
        let mut of_new = 0;
        for _ in 0..110 {
            of_new += u32::from(charge(&client, "ann").await.unwrap() == "v2");
        }
        assert!(expected.contains(&of_new), "{policy}: {of_new}");
    }
}

/// A service whose subsets are called by a header, with a rule that says this of all and of single subsets.
async fn by_subset(policy: &str, of_v1: &str, of_all: &str) -> Rig {
    let subset = |name: &str, labels: &str, policy: &str| {
        let policy = if policy.is_empty() {
            String::new()
        } else {
            format!(", trafficPolicy: {policy}")
        };
        format!("  - {{name: {name}, labels: {{{labels}}}{policy}}}\n")
    };
    let routes = ["v1", "v2", "all"].map(|name| {
        format!(
            "  - match: [{{headers: {{x-subset: {{exact: {name}}}}}}}]
    route: [{{destination: {{host: payment-service, subset: {name}}}}}]
    retries: {{attempts: 0}}
"
        )
    });
    let documents = format!(
        "{}  subsets:
{}{}{}---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: payment, namespace: default}}
spec:
  hosts: [payment-service]
  http:
{}  - route: [{{destination: {{host: payment-service}}}}]
    retries: {{attempts: 0}}
",
        rule(policy),
        subset("v1", "version: v1", of_v1),
        subset("v2", "version: v2", ""),
        subset("all", "app: payment", of_all),
        routes.concat(),
    );
    Rig::by(&documents).await
}

async fn charge_at(client: &Client, subset: &str, user: &str) -> Result<String, tonic::Status> {
    let mut request = tonic::Request::new(ChargeRequest::default());
    request.metadata_mut().insert("x-user", user.parse().unwrap());
    request.metadata_mut().insert("x-subset", subset.parse().unwrap());
    let answer = client.clone().charge(request).await?;
    Ok(answer.into_inner().version)
}

/// On one thread, so that nobody answers while the calls begin.
#[tokio::test]
async fn a_subset_has_its_own_limits() {
    let limit = |max: u32| format!("{{connectionPool: {{http: {{http2MaxRequests: {max}}}}}}}");
    let rig = by_subset(&limit(1), &limit(3), "").await;
    let (client, _xds) = rig.caller("eu", "a").await;
    for (subset, expected) in [("v1", 3), ("v2", 1), ("all", 1)] {
        let one = || {
            let client = client.clone();
            Box::pin(async move { charge_at(&client, subset, "ann").await })
        };
        let (on_their_way, over) = begun((0..5).map(|_| one()).collect()).await;
        assert_eq!((on_their_way.len(), over.len()), (expected, 5 - expected), "{subset}");
        for call in on_their_way {
            call.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subset_has_its_own_balancing() {
    let rig = by_subset(
        "{loadBalancer: {simple: ROUND_ROBIN}}",
        "",
        "{loadBalancer: {consistentHash: {httpHeaderName: x-user}}}",
    )
    .await;
    let (client, _xds) = rig.caller("eu", "a").await;
    assert_eq!(of_v1(&client, |_| "ann".to_owned()).await, 10);
    for user in ["ann", "bob", "eve"] {
        let mut count = 0;
        for _ in 0..20 {
            count += u32::from(charge_at(&client, "all", user).await.unwrap() == "v1");
        }
        assert!(count == 0 || count == 20, "{user}: {count}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subset_has_its_own_outlier_detection() {
    let after = |errors: u32| format!("{{outlierDetection: {{consecutive5xxErrors: {errors}}}}}");
    let rig = by_subset(&after(100), &after(1), "").await;
    let (client, _xds) = rig.caller("eu", "a").await;
    rig.v1.payments.fail(1.0);
    rig.v2.payments.fail(1.0);
    for _ in 0..5 {
        charge_at(&client, "v1", "ann").await.unwrap_err();
        charge_at(&client, "v2", "ann").await.unwrap_err();
    }
    // The one was taken out by its first failure, and is that subset's alone.
    assert_eq!((rig.v1.handled(), rig.v2.handled()), (1, 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subset_has_its_own_mode_of_tls() {
    let rig = by_subset("{tls: {mode: ISTIO_MUTUAL}}", "{tls: {mode: DISABLE}}", "").await;
    let (client, _xds) = rig.caller("eu", "a").await;
    let status = charge_at(&client, "v1", "ann").await.unwrap_err();
    assert!(status.message().contains("plaintext"), "{status}");
    assert_eq!(charge_at(&client, "v2", "ann").await.unwrap(), "v2");
    // And v1 is called in its other subsets.
    let both = async { while charge_at(&client, "all", "ann").await.unwrap() != "v1" {} };
    soon("the other subset", both).await;
}
