//! Connections that end although nobody wants them to, and those that must wait.

use std::time::Duration;

use tokio::time::Instant;

use super::*;

/// Finding: TLS authenticates once, so a connection would outlive the certificate that opened it.
#[tokio::test(start_paused = true)]
async fn id_10_a_connection_ends_with_the_first_certificate() {
    let mesh = Mesh::new();
    let (dial, listener) = pipes();
    let _server = tokio::spawn(serve(listener, &mesh.link, axum::Router::<()>::new()).into_future());
    let svid = mesh.ca.leaf(CLIENT).valid(1, NOW_SECONDS + 90).svid();
    let short = mesh.client_as(&Identity::new(svid, mesh.ca.bundle()));
    let (mut sender, connection) = h2(shake_hands(dial.connect(), short).await.unwrap()).await.unwrap();
    assert_eq!(get(&mut sender).await.unwrap().0, 404);
    let begin = Instant::now();
    connection.await.unwrap().unwrap();
    assert_eq!(begin.elapsed().as_secs(), 90);
    get(&mut sender).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn connections_over_the_limit_wait_for_a_place() {
    let mesh = Mesh::new();
    let (dial, listener) = pipes();
    let serving = serve(listener, &mesh.link, axum::Router::<()>::new()).max_connections(1);
    let _server = tokio::spawn(serving.into_future());
    let first = shake_hands(dial.connect(), mesh.client()).await.unwrap();
    let second = shake_hands(dial.connect(), mesh.client());
    let mut second = std::pin::pin!(second);
    // Under a paused clock this passes only when nothing else can happen.
    let waited = tokio::time::timeout(Duration::from_secs(1), &mut second).await;
    assert!(waited.is_err());
    drop(first);
    second.await.unwrap();
}
