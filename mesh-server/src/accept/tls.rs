//! The workload's newest identity as rustls configurations, rebuilt when a new one is published and not per handshake.

use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::Link;
use mesh_core::config::Clients;
use mesh_core::identity::Identity;
use mesh_core::identity::tls;
use rustls::ServerConfig;

use super::Refused;

/// What the server speaks, best first. A client that offers neither is refused.
pub(super) const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

/// The most configurations kept of one identity: one for each set of clients that chains let in. A listener with more of them
/// builds some anew at each handshake.
const MAX_KEPT: usize = 16;

/// The configurations of the last generation seen.
#[derive(Debug, Default)]
pub(super) struct Configs {
    last: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    generation: u64,
    configs: Vec<(Option<Clients>, Arc<ServerConfig>)>,
}

impl Configs {
    /// The configuration that shows `identity` and lets in `clients`; `None`: whoever comes, unasked.
    pub(super) fn of(
        &self,
        identity: &Identity,
        clients: Option<&Clients>,
        link: &Link,
    ) -> Result<Arc<ServerConfig>, Refused> {
        // Built under the lock: of all handshakes that come right after a renewal, one builds and the others wait for it.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.generation != identity.generation() {
            *last = Kept {
                generation: identity.generation(),
                configs: Vec::new(),
            };
        }
        let known = last.configs.iter().find(|(of, _)| of.as_ref() == clients);
        if let Some((_, config)) = known {
            return Ok(Arc::clone(config));
        }
        let clock = Arc::clone(link.wall_clock());
        let config = tls::inbound_server_config(identity, clients, clock, ALPN).map_err(Refused::config)?;
        if last.configs.len() == MAX_KEPT {
            last.configs.remove(0);
        }
        last.configs.push((clients.cloned(), Arc::clone(&config)));
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
