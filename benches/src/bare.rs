//! The client that is replaced: tonic's own `Channel`, over the same sockets and the same TLS.

use std::io;

use bytes::Bytes;
use examples::proto::payment_client::PaymentClient;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::Failure;
use crate::caller::{Caller, came_back};
use crate::counting::Writes;
use crate::echo::{self, Target};

pub(crate) async fn caller(server: &Target, writes: &Writes) -> Result<Bare, Failure> {
    let (address, tls, writes) = (
        server.address,
        TlsConnector::from(server.client_tls(b"h2")?),
        writes.clone(),
    );
    let connector = tower::service_fn(move |_: Uri| {
        let (tls, writes) = (tls.clone(), writes.clone());
        async move {
            let stream = writes.connect(address).await?;
            let name = ServerName::IpAddress(address.ip().into());
            Ok::<_, io::Error>(TokioIo::new(tls.connect(name, stream).await?))
        }
    });
    let channel = Endpoint::from_static("http://payment")
        .connect_with_connector(connector)
        .await?;
    Ok(Bare(PaymentClient::new(channel)))
}

/// As an application calls its sidecar.
pub(crate) async fn in_the_clear(server: &Target, writes: &Writes) -> Result<Bare, Failure> {
    let (address, writes) = (server.address, writes.clone());
    let connector = tower::service_fn(move |_: Uri| {
        let connecting = writes.clone().connect(address);
        async move { Ok::<_, io::Error>(TokioIo::new(connecting.await?)) }
    });
    let endpoint = Endpoint::from_static("http://payment");
    Ok(Bare(PaymentClient::new(
        endpoint.connect_with_connector(connector).await?,
    )))
}

#[derive(Clone)]
pub(crate) struct Bare(PaymentClient<Channel>);

impl Caller for Bare {
    async fn call(&mut self, note: Bytes) -> Result<(), Failure> {
        let sent = note.len();
        let reply = self.0.charge(echo::request(note)).await?.into_inner();
        came_back(sent, reply.note.len())
    }
}
