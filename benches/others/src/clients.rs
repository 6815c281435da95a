//! tonic's own balancing over four servers, and tonic-xds, which a control plane tells whom to call. Both with tonic's own TLS.

use std::fs;
use std::io::BufRead as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic_xds::{BootstrapConfig, XdsChannelBuilder, XdsChannelConfig, XdsChannelGrpc, XdsUri};

use crate::Failure;
use crate::caller::{Caller, came_back};
use crate::proto::ChargeRequest;
use crate::proto::payment_client::PaymentClient;

/// Whom to call, and as whom.
#[derive(Deserialize)]
pub(crate) struct Whom {
    servers: Vec<SocketAddr>,
    plane: Option<SocketAddr>,
    chain: PathBuf,
    key: PathBuf,
    root: PathBuf,
}

impl Whom {
    /// The first line of standard input.
    pub(crate) fn told() -> Result<Self, Failure> {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }
}

#[derive(Clone)]
pub(crate) enum Client {
    Balanced(PaymentClient<Channel>),
    Xds(PaymentClient<XdsChannelGrpc>),
}

impl Client {
    pub(crate) fn new(name: &str, whom: &Whom) -> Result<Self, Failure> {
        match name {
            "balance_list" => balanced(whom),
            "tonic_xds" => xds(whom),
            other => Err(format!("no client {other:?}").into()),
        }
    }
}

fn balanced(whom: &Whom) -> Result<Client, Failure> {
    let identity = Identity::from_pem(fs::read(&whom.chain)?, fs::read(&whom.key)?);
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(fs::read(&whom.root)?))
        .identity(identity)
        .domain_name("payment");
    let mut endpoints = Vec::new();
    for server in &whom.servers {
        let endpoint = Endpoint::from_shared(format!("https://{server}"))?;
        endpoints.push(endpoint.tls_config(tls.clone())?);
    }
    Ok(Client::Balanced(PaymentClient::new(Channel::balance_list(
        endpoints.into_iter(),
    ))))
}

fn xds(whom: &Whom) -> Result<Client, Failure> {
    let plane = whom.plane.ok_or("no control plane")?;
    let bootstrap = json!({
        "xds_servers": [{
            "server_uri": format!("http://{plane}"),
            "channel_creds": [{ "type": "insecure" }],
            "server_features": ["xds_v3"],
        }],
        "node": { "id": "others" },
        "certificate_providers": {
            "default": {
                "plugin_name": "file_watcher",
                "config": {
                    "certificate_file": whom.chain,
                    "private_key_file": whom.key,
                    "ca_certificate_file": whom.root,
                },
            },
        },
    });
    let config = XdsChannelConfig::new(XdsUri::parse("xds:///payment")?)
        .with_bootstrap(BootstrapConfig::from_json(&bootstrap.to_string())?);
    let channel = XdsChannelBuilder::new(config).build_grpc_channel()?;
    Ok(Client::Xds(PaymentClient::new(channel)))
}

impl Caller for Client {
    async fn call(&mut self, note: Bytes) -> Result<(), Failure> {
        let sent = note.len();
        let request = ChargeRequest {
            note,
            ..ChargeRequest::default()
        };
        let reply = match self {
            Self::Balanced(client) => client.charge(request).await?,
            Self::Xds(client) => client.charge(request).await?,
        };
        came_back(sent, reply.into_inner().note.len())
    }
}
