//! Who may call what is what `AuthorizationPolicy` says: from a saved file to the next request of a connection that is open.

use std::time::Duration;

use examples::load::{Client, Tally};
use examples::proto::payment_client::PaymentClient;
use examples::proto::{ChargeReply, ChargeRequest};
use mesh_client::Channel;
use mesh_xds::XdsClient;
use tests::{Mesh, listener, routes, soon, workloads};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Streaming};

/// A pause between two looks: a server does not say what it goes by.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: default}}
spec: {spec}
"
    )
}

/// Lets one account call the service, and nobody else: the document of the examples.
fn only(account: &str) -> String {
    const EXAMPLE: &str = include_str!("../../examples/policies/only-checkout.yaml");
    EXAMPLE.replace("sa/checkout", &format!("sa/{account}"))
}

/// A member that calls the service, as `account`.
async fn caller(mesh: &Mesh, account: &str) -> (Client, XdsClient) {
    let xds = mesh.join(account);
    let channel = Channel::new(&xds.link(), "payment-service");
    soon("the target's configuration", channel.ready()).await;
    (PaymentClient::new(channel), xds)
}

/// Of ten calls, how many were answered, and what the others were told.
async fn calls(client: &mut Client) -> (u64, String) {
    let tally = Tally::default();
    for _ in 0..10 {
        soon("a call", tally.call(client)).await;
    }
    let counts = tally.counts();
    (10 - counts.failed, format!("{:?}", counts.errors))
}

async fn until(client: &mut Client, answered: u64) {
    let changed = async {
        while calls(client).await.0 != answered {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    soon("the policy to reach the server", changed).await;
}

#[tokio::test]
async fn policies_hold_for_the_next_request_and_a_broken_one_changes_nothing() {
    let ((first, v1), (_unserved, v2)) = (listener().await, listener().await);
    let mesh = Mesh::start(&[("workloads.yaml", &workloads(v1, v2)), ("routes.yaml", &routes(100, 0))]).await;
    let (backend, _member) = mesh.serve(first, "v1").await;
    let (mut checkout, _checkout) = caller(&mesh, "checkout").await;
    let (mut stranger, _stranger) = caller(&mesh, "stranger").await;
    // Nothing is said: whoever is of the mesh may call.
    until(&mut checkout, 10).await;
    until(&mut stranger, 10).await;

    // One may, and the other may not, over the connections that both have.
    mesh.save("policies.yaml", &only("checkout"));
    until(&mut stranger, 0).await;
    let before = backend.handled();
    let (answered, told) = calls(&mut stranger).await;
    assert!(answered == 0 && told.contains("RBAC: access denied"), "{told}");
    assert_eq!((calls(&mut checkout).await.0, backend.handled()), (10, before + 10));
    let denied = backend.link.tally().get("authorization_denied", "rbac");
    assert!(denied >= 20, "{denied}");

    // A denial of the method's path comes before what is allowed.
    let no_charges = policy(
        "no-charges",
        "{action: DENY, rules: [{to: [{operation: {paths: ['*/Charge']}}]}]}",
    );
    mesh.save("policies.yaml", &(only("checkout") + &no_charges));
    until(&mut checkout, 0).await;
    mesh.save("policies.yaml", &only("checkout"));
    until(&mut checkout, 10).await;

    // A document that cannot be understood leaves the last good one, for both.
    mesh.save("policies.yaml", &only("stranger").replace("principals:", "principal:"));
    mesh.until_read(mesh_control::Status::is_rejected).await;
    assert_eq!((calls(&mut checkout).await.0, calls(&mut stranger).await.0), (10, 0));

    // The other way about; and nobody at all.
    mesh.save("policies.yaml", &only("stranger"));
    until(&mut checkout, 0).await;
    assert_eq!(calls(&mut stranger).await.0, 10);
    mesh.save("policies.yaml", &policy("nobody", "{}"));
    until(&mut stranger, 0).await;
    assert_eq!(calls(&mut checkout).await.0, 0);
    // Open connections stayed open through all of it.
    assert_eq!(backend.link.tally().total("connection_revoked"), 0);
}

/// A stream that both ends keep open: what says the next request, and what brings the replies.
async fn stream(client: &Client) -> (mpsc::UnboundedSender<ChargeRequest>, Streaming<ChargeReply>) {
    let (sender, requests) = mpsc::unbounded_channel();
    sender.send(ChargeRequest::default()).unwrap();
    let mut client = client.clone();
    let replies = client.charge_many(UnboundedReceiverStream::new(requests));
    let replies = soon("the answer to begin", replies).await.unwrap();
    (sender, replies.into_inner())
}

/// A stream ends with the rule that let it in, whatever its two ends still have to say, and so for the handler too; another's goes on.
#[tokio::test]
async fn az_a_stream_ends_with_the_rule_that_let_it_in() {
    let ((first, v1), (_unserved, v2)) = (listener().await, listener().await);
    let mesh = Mesh::start(&[("workloads.yaml", &workloads(v1, v2)), ("routes.yaml", &routes(100, 0))]).await;
    let (backend, _member) = mesh.serve(first, "v1").await;
    let ((checkout, _one), (stranger, _other)) = (caller(&mesh, "checkout").await, caller(&mesh, "stranger").await);
    let ((ask, mut replies), (ask_too, mut others)) = (stream(&checkout).await, stream(&stranger).await);
    for replies in [&mut replies, &mut others] {
        assert!(soon("a reply", replies.message()).await.unwrap().is_some());
    }
    mesh.save("policies.yaml", &only("checkout"));
    // Nobody says anything more on it: the rule alone ends it.
    let ended = soon("the stream to end", others.message()).await.unwrap_err();
    assert_eq!(ended.code(), Code::PermissionDenied, "{ended}");
    let gone = async {
        while ask_too.send(ChargeRequest::default()).is_ok() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    soon("the requests to be taken back", gone).await;
    let handled = backend.handled();
    ask.send(ChargeRequest::default()).unwrap();
    assert!(soon("a reply", replies.message()).await.unwrap().is_some());
    assert_eq!(backend.handled(), handled + 1);
    assert_eq!(backend.link.tally().get("request_withdrawn", "rbac"), 1);
    assert_eq!(backend.link.tally().total("connection_revoked"), 0);
}
