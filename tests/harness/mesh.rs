//! A whole mesh in one process: a watched folder, the embedded control plane, members that join with a token.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use mesh_client::Channel;
use mesh_control::{ControlPlane, ControlPlaneBuilder};
use mesh_core::Link;
use mesh_xds::XdsClient;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::Instant;

use examples::load::Client;
use examples::proto::payment_client::PaymentClient;

use crate::{Backend, PATIENCE, soon};

/// The control plane, its folder, and the members that joined.
#[derive(Debug)]
pub struct Mesh {
    /// The control plane; `None` once it was stopped.
    pub control: Option<ControlPlane>,
    folder: TempDir,
}

impl Mesh {
    /// A control plane over `documents`, each a file.
    pub async fn start(documents: &[(&str, &str)]) -> Self {
        Self::start_with(documents, |builder| builder).await
    }

    /// As [`start`](Self::start), with what else `edit` makes of the control plane.
    pub async fn start_with(
        documents: &[(&str, &str)],
        edit: impl FnOnce(ControlPlaneBuilder) -> ControlPlaneBuilder,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mesh = Self { control: None, folder };
        for (name, text) in documents {
            mesh.save(name, text);
        }
        let loopback = "127.0.0.1:0".parse().expect("an address");
        let builder = ControlPlane::builder(mesh.folder.path()).plaintext(loopback);
        let control = edit(builder).start().await;
        Self {
            control: Some(control.expect("the control plane starts")),
            ..mesh
        }
    }

    /// Writes a document beside its place and renames it over; when it was saved.
    pub fn save(&self, name: &str, text: &str) -> Instant {
        let beside = self.folder.path().join(format!(".{name}.new"));
        std::fs::write(&beside, text).expect("the folder can be written");
        std::fs::rename(beside, self.path(name)).expect("the folder can be written");
        Instant::now()
    }

    /// Where a document is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The running control plane.
    ///
    /// # Panics
    ///
    /// After it was stopped.
    pub fn control(&self) -> &ControlPlane {
        self.control.as_ref().expect("the control plane runs")
    }

    /// Stops the control plane.
    pub async fn stop_control(&mut self) {
        soon(
            "the control plane to stop",
            self.control.take().expect("it runs").shutdown(),
        )
        .await;
    }

    /// A member of namespace `default` that joins with a token of its own.
    pub fn join(&self, account: &str) -> XdsClient {
        let bootstrap = self.control().bootstrap("default", account).expect("a bootstrap");
        XdsClient::start(bootstrap).expect("the client starts")
    }

    /// Joins as the payment service and serves `version` on `listener`.
    pub async fn serve(&self, listener: TcpListener, version: &str) -> (Backend, XdsClient) {
        let xds = self.join("payment");
        let link = xds.link();
        identity(&link).await;
        let backend = Backend::serve_on(listener, link.clone(), version);
        admitted(&link, &backend.address.to_string()).await;
        (backend, xds)
    }

    /// Joins as checkout; a client of `target`, ready to call.
    pub async fn checkout(&self, target: &str) -> (Client, XdsClient) {
        let xds = self.join("checkout");
        let channel = Channel::new(&xds.link(), target);
        soon("the target's configuration", channel.ready()).await;
        (PaymentClient::new(channel), xds)
    }

    /// Waits until the control plane read the folder once more, and how it liked it.
    pub async fn until_read(&self, mut like: impl FnMut(&mesh_control::Status) -> bool) -> mesh_control::Status {
        let mut changes = self.control().status_changes();
        let status = soon(
            "the control plane to read its folder",
            changes.wait_for(|status| like(status)),
        )
        .await;
        status.expect("the control plane runs").clone()
    }
}

/// Waits until a member has an identity.
pub async fn identity(link: &Link) {
    let bell = std::sync::Arc::new(tokio::sync::Notify::new());
    let ring = std::sync::Arc::clone(&bell);
    let _subscription = link.identity().on_change(move || ring.notify_one());
    soon("an identity", async {
        while link.identity().load().is_err() {
            bell.notified().await;
        }
    })
    .await;
}

/// Waits until the control plane has said whom a server at `address` lets in.
pub async fn admitted(link: &Link, address: &str) {
    let bell = std::sync::Arc::new(tokio::sync::Notify::new());
    let ring = std::sync::Arc::clone(&bell);
    let _subscription = link.snapshots().on_change(move || ring.notify_one());
    soon("the server's configuration", async {
        while !matches!(link.snapshots().load().inbound(address), Some(Ok(_))) {
            bell.notified().await;
        }
    })
    .await;
}

/// A listener on a free port of loopback.
pub async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound listener has an address");
    (listener, address)
}

/// The service and its two workloads.
pub fn workloads(v1: SocketAddr, v2: SocketAddr) -> String {
    let workload = |version: &str, port: u16| {
        format!(
            "---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata:
  name: payment-{version}
  namespace: default
spec:
  address: 127.0.0.1
  ports:
    grpc: {port}
  labels:
    app: payment
    version: {version}
  serviceAccount: payment
"
        )
    };
    format!("{SERVICE}{}{}", workload("v1", v1.port()), workload("v2", v2.port()))
}

const SERVICE: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: payment-service
  namespace: default
spec:
  hosts: [payment-service.default.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - number: 50051
    name: grpc
    protocol: GRPC
  workloadSelector:
    labels:
      app: payment
";

/// The subsets and a split by weight.
pub fn routes(v1: u32, v2: u32) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: payment-service
  namespace: default
spec:
  host: payment-service
  subsets:
  - name: v1
    labels:
      version: v1
  - name: v2
    labels:
      version: v2
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: payment-service
  namespace: default
spec:
  hosts: [payment-service]
  http:
  - route:
    - destination:
        host: payment-service
        subset: v1
      weight: {v1}
    - destination:
        host: payment-service
        subset: v2
      weight: {v2}
"
    )
}

/// Two versions served and a caller, at 95/5: what most tests begin with.
#[derive(Debug)]
pub struct Canary {
    /// The mesh.
    pub mesh: Mesh,
    /// Version 1.
    pub v1: Backend,
    /// Version 2.
    pub v2: Backend,
    /// The caller.
    pub client: Client,
    /// The caller's membership.
    pub checkout: XdsClient,
    _members: [XdsClient; 2],
}

impl Canary {
    /// Starts everything.
    pub async fn start() -> Self {
        let ((first, one), (second, two)) = (listener().await, listener().await);
        let documents = [("workloads.yaml", workloads(one, two)), ("routes.yaml", routes(95, 5))];
        let mesh = Mesh::start(&documents.each_ref().map(|(name, text)| (*name, text.as_str()))).await;
        let (v1, member1) = mesh.serve(first, "v1").await;
        let (v2, member2) = mesh.serve(second, "v2").await;
        let (client, checkout) = mesh.checkout("xds:///payment-service").await;
        Self {
            mesh,
            v1,
            v2,
            client,
            checkout,
            _members: [member1, member2],
        }
    }

    /// Waits until what the control plane published last serves the caller's requests.
    pub async fn in_effect(&self) {
        self.checkout
            .status()
            .applied(PATIENCE)
            .await
            .expect("the newest configuration takes effect");
    }

    /// The longest a weight change may take to reach the last call, on a noisy machine.
    pub const REVERT_LIMIT: Duration = Duration::from_millis(500);
}
