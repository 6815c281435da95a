//! The parts of the story's mesh: a control plane, two services and a caller, each with a membership of its own.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_client::Channel;
use mesh_control::ControlPlane;
use mesh_core::Link;
use mesh_server::MeshLayer;
use mesh_xds::XdsClient;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tower::Layer as _;

use super::Failure;
use super::folder::Folder;
use crate::load::{Client, Tally};
use crate::proto::payment_client::PaymentClient;
use crate::service::Payments;

/// The namespace and service accounts of the example documents.
const NAMESPACE: &str = "default";
const PAYMENT_ACCOUNT: &str = "payment";
const CHECKOUT_ACCOUNT: &str = "checkout";

/// The running mesh; what is dropped with it ends with it.
pub(super) struct Mesh {
    control: Option<ControlPlane>,
    pub(super) v1: Service,
    pub(super) v2: Service,
    client: Client,
    _checkout: XdsClient,
}

impl Mesh {
    pub(super) async fn start(folder: &Folder) -> Result<Self, Failure> {
        let listeners = [
            TcpListener::bind("127.0.0.1:0").await?,
            TcpListener::bind("127.0.0.1:0").await?,
        ];
        folder.set_ports([listeners[0].local_addr()?, listeners[1].local_addr()?])?;
        let control = ControlPlane::builder(folder.path()).start().await?;
        let [first, second] = listeners;
        let v1 = Service::start(&control, first, "v1").await?;
        let v2 = Service::start(&control, second, "v2").await?;
        let checkout = XdsClient::start(control.bootstrap(NAMESPACE, CHECKOUT_ACCOUNT)?)?;
        let channel = Channel::new(&checkout.link(), "xds:///payment-service");
        channel.ready().await;
        let client = PaymentClient::new(channel);
        Ok(Self {
            control: Some(control),
            v1,
            v2,
            client,
            _checkout: checkout,
        })
    }

    pub(super) fn control_address(&self) -> String {
        self.control
            .as_ref()
            .map_or_else(String::new, |control| control.address().to_string())
    }

    pub(super) async fn call(&self, tally: &Tally, calls: u64, concurrency: usize) {
        tally.run(&self.client, calls, concurrency).await;
    }

    /// Stops the control plane; everything else stays.
    pub(super) async fn without_control_plane(mut self) -> Self {
        if let Some(control) = self.control.take() {
            control.shutdown().await;
        }
        self
    }
}

/// One version of the payment service, joined to the mesh.
pub(super) struct Service {
    pub(super) address: SocketAddr,
    pub(super) payments: Payments,
    pub(super) link: Link,
    _xds: XdsClient,
    task: JoinHandle<()>,
}

impl Service {
    async fn start(control: &ControlPlane, listener: TcpListener, version: &str) -> Result<Self, Failure> {
        let xds = XdsClient::start(control.bootstrap(NAMESPACE, PAYMENT_ACCOUNT)?)?;
        let link = xds.link();
        joined(&link).await;
        let address = listener.local_addr()?;
        let payments = Payments::new(version, Duration::ZERO);
        let app = MeshLayer::new(&link).layer(payments.clone().into_service());
        let serving = mesh_server::serve(listener, &link, app);
        let task = tokio::spawn(async move {
            serving.await;
        });
        Ok(Self {
            address,
            payments,
            link,
            _xds: xds,
            task,
        })
    }

    /// Who it is.
    pub(super) fn id(&self) -> String {
        match &**self.link.identity().load() {
            Ok(identity) => identity.id().to_string(),
            Err(reason) => reason.to_string(),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits until the workload has an identity.
async fn joined(link: &Link) {
    let bell = std::sync::Arc::new(Notify::new());
    let ring = std::sync::Arc::clone(&bell);
    let _subscription = link.identity().on_change(move || ring.notify_one());
    while link.identity().load().is_err() {
        bell.notified().await;
    }
}
