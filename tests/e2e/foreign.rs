//! A control plane without TLS, without a CA, that is not ours to configure: as the bootstrap says, so it is.

use std::time::Duration;

use examples::load::Tally;
use examples::proto::payment_client::PaymentClient;
use examples::service::Payments;
use mesh_client::Channel;
use mesh_core::Link;
use mesh_core::config::{Cluster, Endpoint, Route, Snapshot, Split, TlsMode};
use mesh_server::MeshLayer;
use mesh_xds::{Bootstrap, XdsClient};
use tests::{Mesh, listener, routes, soon, workloads};
use tower::Layer as _;

/// The plaintext port gives a client without an identity its configuration; what that configuration asks for, mutual TLS, it
/// cannot do, and says so rather than calling in the clear.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_the_plaintext_port_never_calls_a_strict_service_in_the_clear() {
    let (_keep, address) = listener().await;
    let documents = [("w.yaml", workloads(address, address)), ("r.yaml", routes(95, 5))];
    let mesh = Mesh::start(&documents.each_ref().map(|(name, text)| (*name, text.as_str()))).await;
    let bootstrap = mesh
        .control()
        .plaintext_bootstrap("default", "visitor")
        .expect("there is a plaintext port");
    let xds = XdsClient::start(bootstrap).unwrap();
    let channel = Channel::builder(&xds.link(), "xds:///payment-service")
        .dangerous()
        .plaintext()
        .build();
    soon("configuration", channel.ready()).await;
    let tally = Tally::default();
    tally.call(&mut PaymentClient::new(channel)).await;
    let failure = tally.counts().last_error;
    assert!(failure.contains("names certificate provider \"default\""), "{failure}");
}

/// Plaintext works where every side was told to: a service with `--insecure` and a cluster without TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_without_mutual_tls_is_called_when_the_code_allows_it() {
    let (socket, address) = listener().await;
    let nowhere = Link::fixed(Snapshot::empty(), None);
    let payments = Payments::new("v1", Duration::ZERO);
    let app = MeshLayer::new(&nowhere)
        .dangerous()
        .plaintext()
        .layer(payments.into_service());
    let server = tokio::spawn(
        mesh_server::serve(socket, &nowhere, app)
            .dangerous()
            .plaintext()
            .into_future(),
    );
    let (ads, port) = listener().await;
    let cache = mesh_xds::server::SnapshotCache::new();
    let cluster = Cluster::new("payments", TlsMode::Plaintext, vec![Endpoint::new(address)]);
    let snapshot = Snapshot::builder()
        .route("payment-service", Route::to(Split::all_to("payments")))
        .cluster(cluster);
    cache.publish("all", &snapshot.build().unwrap()).unwrap();
    let service = mesh_xds::server::AdsService::new(cache, |_: &mesh_xds::server::Caller| Ok("all".into()));
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(ads);
    let control = tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming),
    );
    let bootstrap = format!(
        r#"{{"xds_servers": [{{"server_uri": "{port}", "channel_creds": [{{"type": "insecure"}}]}}], "node": {{"id": "n"}}}}"#
    );
    let xds = XdsClient::start(Bootstrap::from_json(&bootstrap).unwrap()).unwrap();
    let channel = Channel::builder(&xds.link(), "xds:///payment-service")
        .dangerous()
        .plaintext()
        .build();
    let tally = Tally::default();
    soon("the calls", tally.run(&PaymentClient::new(channel), 100, 4)).await;
    assert_eq!(
        (tally.counts().ok, tally.counts().of("v1")),
        (100, 100),
        "{:?}",
        tally.counts().errors
    );
    control.abort();
    server.abort();
}
