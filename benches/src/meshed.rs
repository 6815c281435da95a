//! Ours, with what the lean path does for every call: route, 95/5 split, least request, route timeout, retry armed, budget,
//! breaker.

use std::time::Duration;

use bytes::Bytes;
use examples::proto::payment_client::PaymentClient;
use mesh_client::connect::{Connecting, Io};
use mesh_client::{Channel, use_connector};
use mesh_core::Link;
use mesh_core::config::{Cluster, Endpoint, ExpectedPeers, MutualTls, Route, Snapshot, Split, TlsMode};

use crate::Failure;
use crate::counting::Writes;
use crate::echo::{self, Caller, Server};
use crate::pki::SERVER_ID;

pub(crate) fn caller(server: &Server, writes: &Writes) -> Result<Meshed, Failure> {
    let link = Link::fixed(snapshot(server)?, Some(server.client.clone()));
    let writes = writes.clone();
    use_connector(&link, move |address| -> Connecting {
        let writes = writes.clone();
        Box::pin(async move { Ok(Box::new(writes.connect(address).await?) as Box<dyn Io>) })
    })?;
    Ok(Meshed(PaymentClient::new(Channel::new(&link, "xds:///payment"))))
}

fn snapshot(server: &Server) -> Result<Snapshot, Failure> {
    let split = Split::weighted([("payment-v1".into(), 95), ("payment-v2".into(), 5)])?;
    let mut route = Route::to(split);
    route.timeout = Some(Duration::from_secs(10));
    let tls = || {
        TlsMode::Mutual(MutualTls {
            expected: ExpectedPeers::exactly([SERVER_ID]),
            sni: None,
        })
    };
    let cluster = |name: &str| Cluster::new(name, tls(), vec![Endpoint::new(server.address)]);
    let builder = Snapshot::builder().route("payment", route);
    Ok(builder
        .cluster(cluster("payment-v1"))
        .cluster(cluster("payment-v2"))
        .build()?)
}

#[derive(Clone)]
pub(crate) struct Meshed(PaymentClient<Channel<tonic::body::Body>>);

impl Caller for Meshed {
    async fn call(&mut self, note: Bytes) -> Result<(), Failure> {
        self.0.charge(echo::request(note)).await?;
        Ok(())
    }
}
