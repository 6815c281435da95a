//! Makes one connection, within one limit for all of it: TCP, TLS with the peer's identity checked, the protocol's beginning.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::{Carrier, Connections, TlsMode};
use mesh_core::identity::Identity;
use rustls::pki_types::UnixTime;

use super::http1::{self, Http1};
use super::http2::{self, Connection, Keeping};
use super::pool::Pool;
use super::terms::Terms;
use super::watched::{Reads, Watched};
use super::{ConnectError, ConnectKind, Io, TlsConfigs, tls};

/// How a connection is secured.
#[derive(Clone)]
pub(crate) enum Security {
    Plaintext,
    Tls {
        mode: Arc<TlsMode>,
        /// The workload's, where the mode needs it.
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
}

/// What became of it.
pub(super) enum Made {
    Http2(Arc<Connection>),
    Http1(Http1),
}

/// Makes a connection for `pool`, whose rules were those of `epoch` when this began.
pub(super) async fn dial(pool: &Arc<Pool>, plan: &Plan, epoch: u32) -> Result<Made, ConnectError> {
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
            Security::Plaintext => begin(io, plan.carrier == Carrier::Http2, None, reads, pool, plan, epoch).await,
            Security::Tls {
                mode,
                identity,
                configs,
            } => {
                let identity = identity.as_ref();
                let secured = tls::handshake(io, address, mode, identity, configs, plan.carrier).await?;
                begin(secured.io, secured.http2, secured.not_after, reads, pool, plan, epoch).await
            }
        }
    };
    match tokio::time::timeout(plan.timeout, whole).await {
        Ok(result) => result,
        Err(_elapsed) => Err(ConnectError::new(ConnectKind::Timeout(plan.timeout))),
    }
}

async fn begin<T: Io>(
    io: T,
    http2: bool,
    not_after: Option<UnixTime>,
    reads: Reads,
    pool: &Arc<Pool>,
    plan: &Plan,
    epoch: u32,
) -> Result<Made, ConnectError> {
    let means = pool.means();
    let clock = Arc::clone(&means.wall_clock);
    let terms = Terms::new(&plan.settings, http2, not_after, clock, &means.entropy);
    if http2 {
        let pool = Arc::downgrade(pool);
        let keeping = Keeping { terms, reads, pool };
        http2::handshake(io, &plan.settings.http2, keeping)
            .await
            .map(Made::Http2)
    } else {
        http1::handshake(io, terms, epoch, pool.place()).await.map(Made::Http1)
    }
}
