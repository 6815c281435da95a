//! What a `DestinationRule` says of traffic is what callers do: which host, and of which locality.

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
    _v2: Backend,
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

impl Rig {
    async fn start(policy: &str) -> Self {
        let ((first, one), (second, two)) = (listener().await, listener().await);
        let placed = workloads(one, two)
            .replace("    version: v1\n", "    version: v1\n  locality: eu/a\n")
            .replace("    version: v2\n", "    version: v2\n  locality: us/a\n");
        let mesh = Mesh::start(&[("workloads.yaml", &placed), ("rule.yaml", &rule(policy))]).await;
        let status = mesh.control().status();
        assert_eq!(status.accepted, 1, "{:?}", status.diagnostics);
        let (v1, member1) = mesh.serve(first, "v1").await;
        let (v2, member2) = mesh.serve(second, "v2").await;
        Self {
            mesh,
            v1,
            _v2: v2,
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
