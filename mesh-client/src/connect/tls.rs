//! Mutual TLS to an endpoint, with the peer's SPIFFE identity checked against what the cluster expects.
//!
//! One rustls configuration serves all handshakes of a cluster under one identity: building it parses keys and roots, which
//! a storm of reconnects must not repeat.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::config::MutualTls;
use mesh_core::identity::Identity;
use mesh_core::identity::tls::client_config;
use mesh_core::identity::verify::Refusal;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::time_provider::TimeProvider;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::coalesce::Coalesce;
use super::{ConnectError, ConnectKind, Io};

const ALPN_H2: &[u8] = b"h2";

/// The newest TLS configuration of one cluster.
pub(crate) struct TlsConfigs {
    wall_clock: Arc<dyn TimeProvider>,
    cached: Mutex<Option<Cached>>,
}

struct Cached {
    generation: u64,
    tls: Arc<MutualTls>,
    config: Arc<ClientConfig>,
}

impl TlsConfigs {
    pub(crate) fn new(wall_clock: Arc<dyn TimeProvider>) -> Self {
        Self {
            wall_clock,
            cached: Mutex::default(),
        }
    }

    fn for_handshake(&self, identity: &Identity, tls: &Arc<MutualTls>) -> Result<Arc<ClientConfig>, ConnectError> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hit) = &*cached
            && hit.generation == identity.generation()
            && (Arc::ptr_eq(&hit.tls, tls) || hit.tls == *tls)
        {
            return Ok(Arc::clone(&hit.config));
        }
        let config = client_config(identity, &tls.expected, Arc::clone(&self.wall_clock), &[ALPN_H2])
            .map_err(|error| ConnectError::new(ConnectKind::Config(error)))?;
        *cached = Some(Cached {
            generation: identity.generation(),
            tls: Arc::clone(tls),
            config: Arc::clone(&config),
        });
        Ok(config)
    }
}

impl std::fmt::Debug for TlsConfigs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsConfigs").finish_non_exhaustive()
    }
}

/// Shakes hands as a client.
pub(super) async fn handshake(
    io: Box<dyn Io>,
    address: SocketAddr,
    identity: &Identity,
    tls: &Arc<MutualTls>,
    configs: &TlsConfigs,
) -> Result<Coalesce<TlsStream<Box<dyn Io>>>, ConnectError> {
    let config = configs.for_handshake(identity, tls)?;
    let stream = TlsConnector::from(config)
        .connect(server_name(tls, address), io)
        .await
        .map_err(explain)?;
    match stream.get_ref().1.alpn_protocol() {
        Some(ALPN_H2) => Ok(Coalesce::new(stream)),
        _ => Err(ConnectError::new(ConnectKind::Alpn)),
    }
}

/// What is sent as SNI. It names no one the peer is checked against (the SPIFFE id does that), so an endpoint without a
/// usable name is called by its address, which sends none.
fn server_name(tls: &MutualTls, address: SocketAddr) -> ServerName<'static> {
    tls.sni
        .as_deref()
        .and_then(|name| ServerName::try_from(name.to_owned()).ok())
        .unwrap_or_else(|| ServerName::IpAddress(address.ip().into()))
}

fn explain(error: std::io::Error) -> ConnectError {
    let refusal = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .and_then(Refusal::from_error);
    ConnectError::new(match refusal {
        Some(refusal) => ConnectKind::PeerRefused(refusal.clone()),
        None => ConnectKind::Tls(error),
    })
}
