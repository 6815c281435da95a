//! A call while there is no configuration yet.

use std::time::Duration;

use examples::proto::ChargeRequest;
use examples::proto::payment_client::PaymentClient;
use mesh_client::Channel;
use mesh_xds::{Bootstrap, XdsClient};
use tests::{listener, soon};
use tokio::time::Instant;
use tonic::{Code, Request};

#[tokio::test]
async fn cp_2_a_call_without_a_control_plane_fails_with_the_reason_inside_its_deadline() {
    // A port that nobody listens on any more.
    let (taken, nobody) = listener().await;
    drop(taken);
    let bootstrap = format!(
        r#"{{"xds_servers": [{{"server_uri": "{nobody}", "channel_creds": [{{"type": "insecure"}}]}}], "node": {{"id": "n"}}}}"#
    );
    let xds = XdsClient::start(Bootstrap::from_json(&bootstrap).unwrap()).unwrap();
    let channel = Channel::builder(&xds.link(), "xds:///payment")
        .dangerous()
        .plaintext()
        .build();
    let mut client = PaymentClient::new(channel);
    let mut request = Request::new(ChargeRequest::default());
    request.set_timeout(Duration::from_millis(800));
    let began = Instant::now();
    let status = soon("the call to fail", client.charge(request)).await.unwrap_err();
    println!("after {:?}: {status}", began.elapsed());
    assert_eq!(status.code(), Code::Unavailable);
    let told = format!("waiting for control plane: connecting to {nobody}: ");
    for part in [told.as_str(), "refused", "\"payment\""] {
        assert!(status.message().contains(part), "{status}");
    }
    // Far less than the 15 s of a call without a deadline.
    assert!(began.elapsed() < Duration::from_secs(5));
}
