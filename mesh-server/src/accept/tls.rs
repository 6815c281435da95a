//! The newest identities as rustls configurations, rebuilt when a new one is published and not per handshake. A chain shows the
//! workload's own, or names another one of the process (gRFC A29).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::Link;
use mesh_core::config::{ChainIdentity, Clients, Reason, ReasonKind};
use mesh_core::identity::Identity;
use mesh_core::identity::tls;
use mesh_core::link::Standing;
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
    /// As many as there are identities that chains ever named: pairs of the bootstrap's certificate providers, at the most.
    last: Mutex<BTreeMap<ChainIdentity, Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    generation: u64,
    configs: Vec<(Option<Clients>, Arc<ServerConfig>)>,
}

impl Configs {
    /// The configuration that shows `identity`, which is the newest of `shown`, and lets in `clients`; `None`: whoever comes, unasked.
    pub(super) fn of(
        &self,
        shown: &ChainIdentity,
        identity: &Identity,
        clients: Option<&Clients>,
        link: &Link,
    ) -> Result<Arc<ServerConfig>, Refused> {
        // Built under the lock: of all handshakes that come right after a renewal, one builds and the others wait for it.
        let mut all = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let last = all.entry(shown.clone()).or_default();
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

/// The identity to show now, where `shown` is asked for.
///
/// # Errors
///
/// When there is none, or its certificate has expired: peers would refuse it, and say so less clearly.
pub(super) fn usable(link: &Link, shown: &ChainIdentity) -> Result<Identity, Refused> {
    if shown.is_own() {
        return usable_identity(link);
    }
    let unknown = || {
        let text = "a filter chain shows the identity of a certificate provider that this process does not have";
        Refused::no_identity(Reason::new(ReasonKind::NoIdentity, text))
    };
    let reader = link.identities().find(shown).ok_or_else(unknown)?;
    valid(&reader.load_full(), link)
}

/// The workload's own identity, if it can be shown now.
///
/// # Errors
///
/// As [`usable`].
pub(crate) fn usable_identity(link: &Link) -> Result<Identity, Refused> {
    valid(&link.identity().load_full(), link)
}

fn valid(standing: &Standing, link: &Link) -> Result<Identity, Refused> {
    let identity = standing
        .as_ref()
        .map_err(|reason| Refused::no_identity(reason.clone()))?;
    match link.wall_clock().current_time() {
        Some(now) if now <= identity.svid().not_after() => Ok(identity.clone()),
        _ => Err(Refused::own_certificate_expired()),
    }
}
