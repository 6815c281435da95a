//! The workload's newest identity as a rustls configuration, rebuilt when a new one is published and not per handshake.

use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::Link;
use mesh_core::identity::Identity;
use mesh_core::identity::tls::{self, ClientAuth};
use rustls::ServerConfig;

use super::Refused;

/// What the server speaks, best first. A client that offers neither is refused.
pub(super) const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

/// The configuration of the last generation seen.
#[derive(Debug, Default)]
pub(super) struct Configs {
    last: Mutex<Option<(u64, Arc<ServerConfig>)>>,
}

impl Configs {
    /// The configuration that shows `identity`.
    pub(super) fn of(&self, identity: &Identity, link: &Link) -> Result<Arc<ServerConfig>, Refused> {
        // Built under the lock: of all handshakes that come right after a renewal, one builds and the others wait for it.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((generation, config)) = &*last
            && *generation == identity.generation()
        {
            return Ok(Arc::clone(config));
        }
        let clock = Arc::clone(link.wall_clock());
        let config = tls::server_config(identity, ClientAuth::Required, clock, ALPN).map_err(Refused::config)?;
        *last = Some((identity.generation(), Arc::clone(&config)));
        Ok(config)
    }
}

/// The identity to show now.
///
/// # Errors
///
/// When there is none, or its certificate has expired: peers would refuse it, and say so less clearly.
pub(crate) fn usable_identity(link: &Link) -> Result<Identity, Refused> {
    let standing = link.identity().load_full();
    let identity = (*standing)
        .as_ref()
        .map_err(|reason| Refused::no_identity(reason.clone()))?;
    match link.wall_clock().current_time() {
        Some(now) if now <= identity.svid().not_after() => Ok(identity.clone()),
        _ => Err(Refused::own_certificate_expired()),
    }
}
