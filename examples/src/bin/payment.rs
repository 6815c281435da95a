//! One version of the payment service, as an application would run it.
//!
//! `GRPC_XDS_BOOTSTRAP=payment.json payment --version v1 --listen 127.0.0.1:50061`

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use examples::logs;
use examples::service::Payments;
use mesh_core::{Link, Snapshot};
use mesh_server::MeshLayer;
use mesh_xds::{Bootstrap, ClientStatusService, XdsClient};
use tokio::net::TcpListener;
use tower::Layer as _;

/// Takes payments, over the mesh.
#[derive(Debug, Parser)]
struct Arguments {
    /// What it calls itself in its replies: v1 or v2.
    #[arg(long, default_value = "v1")]
    version: String,
    /// Where it listens.
    #[arg(long, default_value = "127.0.0.1:50061")]
    listen: SocketAddr,
    /// The share of calls that it fails on purpose, between 0 and 1.
    #[arg(long, default_value_t = 0.0)]
    fail_rate: f64,
    /// How long it takes for each payment, in milliseconds.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Where health, counters and the status of its configuration are served in plaintext, on loopback.
    #[arg(long, default_value = "127.0.0.1:0")]
    admin: SocketAddr,
    /// Lets the admin port be on another address than loopback, where a kubelet's probes reach it and everybody else who may.
    #[arg(long)]
    dangerous_admin_anywhere: bool,
    /// Serves plaintext to anybody, without a control plane: for trying things.
    #[arg(long)]
    insecure: bool,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    logs("info");
    let arguments = Arguments::parse();
    let payments = Payments::new(&arguments.version, Duration::from_millis(arguments.delay_ms));
    payments.fail(arguments.fail_rate);
    let service = payments.into_service();
    let listener = TcpListener::bind(arguments.listen).await?;
    let stop = examples::stop_signal()?;
    let address = listener.local_addr()?;
    tracing::info!(%address, version = arguments.version, "listening");
    let serves = move || tracing::info!(%address, version = arguments.version, "serving");
    let drained = if arguments.insecure {
        serves();
        let nowhere = Link::fixed(Snapshot::empty(), None);
        let app = MeshLayer::new(&nowhere).dangerous().plaintext().layer(service);
        mesh_server::serve(listener, &nowhere, app)
            .dangerous()
            .plaintext()
            .with_graceful_shutdown(stop)
            .await
    } else {
        let client = XdsClient::start(Bootstrap::from_env()?)?;
        let mesh = client.link();
        let admin = TcpListener::bind(arguments.admin).await?;
        tracing::info!(address = %admin.local_addr()?, "admin port");
        let status = ClientStatusService::new(&client);
        let admin = mesh_server::admin::serve(admin, &mesh).mount(ClientStatusService::PATH, status);
        let _admin = examples::admin(admin, arguments.dangerous_admin_anywhere);
        // Until then every connection is refused: whoever waits for this line finds a server that can say who it is.
        let identified = examples::identified(mesh.identity().clone());
        let _serves = tokio::spawn(async move {
            identified.await;
            serves();
        });
        let app = MeshLayer::new(&mesh).layer(service);
        mesh_server::serve(listener, &mesh, app)
            .with_graceful_shutdown(stop)
            .await
    };
    tracing::info!(cut = drained.cut(), "ended");
    Ok(())
}
