//! Makes one connection, within one limit for all of it: TCP, TLS with the peer's identity checked, the protocol's beginning.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::{Carrier, Connections, Service, TlsMode};
use mesh_core::identity::Identity;
use rustls::pki_types::UnixTime;

use super::http1::{self, Http1};
use super::http2::{self, Connection, Keeping};
use super::pool::Pool;
use super::terms::Terms;
use super::watched::{Reads, Watched};
use super::{ConnectError, ConnectKind, Io, TlsConfigs, tls};
use crate::cluster::{ConnectionPlace, Room};
use crate::telemetry::Party;

/// How a connection is secured.
#[derive(Clone)]
pub(crate) enum Security {
    Plaintext,
    Tls {
        mode: Arc<TlsMode>,
        /// The one that the mode needs, where it needs one.
        identity: Option<Identity>,
        configs: Arc<TlsConfigs>,
    },
}

/// What a connection is made by.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) security: Security,
    pub(crate) settings: Arc<Connections>,
    /// What it must be able to carry.
    pub(crate) carrier: Carrier,
    /// For all of it.
    pub(crate) timeout: Duration,
    /// What may be taken of the cluster for it.
    pub(crate) room: Room,
    /// What calls over it are for, where the configuration tells.
    pub(crate) service: Option<Arc<Service>>,
}

/// What became of it.
pub(super) enum Made {
    Http2(Arc<Connection>),
    Http1(Http1),
}

impl Made {
    /// It counts among its cluster's connections until it is gone.
    fn counts(mut self, place: ConnectionPlace) -> Self {
        match &mut self {
            Self::Http2(connection) => connection.counts(place),
            Self::Http1(connection) => connection.counts(place),
        }
        self
    }
}

/// Makes a connection for `pool`, in its `place` among those of the cluster, whose rules were those of `epoch` when this began.
pub(super) async fn dial(
    pool: &Arc<Pool>,
    plan: &Plan,
    place: ConnectionPlace,
    epoch: u32,
) -> Result<Made, ConnectError> {
    let whole = async {
        let address = pool.address();
        let io = pool
            .means()
            .connector
            .connect_with(address, &plan.settings)
            .await
            .map_err(ConnectError::tcp)?;
        let reads = Reads::default();
        let io = Watched::new(io, reads.clone());
        match &plan.security {
            Security::Plaintext => {
                let agreed = Agreed {
                    http2: plan.carrier == Carrier::Http2,
                    not_after: None,
                    party: Party::default(),
                };
                begin(io, agreed, reads, pool, plan, epoch).await
            }
            Security::Tls {
                mode,
                identity,
                configs,
            } => {
                let identity = identity.as_ref();
                let secured = tls::handshake(io, address, mode, identity, configs, plan.carrier).await?;
                let own = pool.means().link.upgrade().map(|link| link.workload());
                let agreed = Agreed {
                    http2: secured.http2,
                    not_after: secured.not_after,
                    party: Party::new(secured.peer, &own.unwrap_or_default(), plan.service.as_deref()),
                };
                begin(secured.io, agreed, reads, pool, plan, epoch).await
            }
        }
    };
    match tokio::time::timeout(plan.timeout, whole).await {
        Ok(result) => result.map(|made| made.counts(place)),
        Err(_elapsed) => Err(ConnectError::new(ConnectKind::Timeout(plan.timeout))),
    }
}

/// What was found out of a connection before its protocol begins.
struct Agreed {
    http2: bool,
    not_after: Option<UnixTime>,
    party: Party,
}

async fn begin<T: Io>(
    io: T,
    agreed: Agreed,
    reads: Reads,
    pool: &Arc<Pool>,
    plan: &Plan,
    epoch: u32,
) -> Result<Made, ConnectError> {
    let Agreed {
        http2,
        not_after,
        party,
    } = agreed;
    let means = pool.means();
    let clock = Arc::clone(&means.wall_clock);
    let terms = Terms::new(&plan.settings, http2, not_after, clock, &means.entropy);
    if http2 {
        let pool = Arc::downgrade(pool);
        let keeping = Keeping {
            terms,
            reads,
            pool,
            party,
        };
        http2::handshake(io, &plan.settings.http2, keeping)
            .await
            .map(Made::Http2)
    } else {
        http1::handshake(io, terms, epoch, pool.place(), party)
            .await
            .map(Made::Http1)
    }
}
