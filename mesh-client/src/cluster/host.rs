//! One live endpoint. The configuration's `Endpoint` says where it is wanted; this holds its connections and counters, and
//! survives every swap that leaves its address and its security alone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use mesh_core::balance::Load;
use mesh_core::config::TlsMode;
use tokio::time::Instant;

use super::handle::Parts;
use crate::connect::Pool;

/// A live endpoint.
#[derive(Debug)]
pub(crate) struct Host {
    address: SocketAddr,
    weight: AtomicU32,
    in_flight: AtomicU32,
    /// Set once a dial failed, cleared by the next success: so that a pick need not look into the pool in good times.
    failing: std::sync::atomic::AtomicBool,
    /// What its connections are made with; `None`: they are not encrypted.
    tls: Option<Arc<TlsMode>>,
    pool: Arc<Pool>,
}

impl Host {
    pub(crate) fn new(address: SocketAddr, weight: u32, tls: Option<Arc<TlsMode>>, parts: &Parts) -> Self {
        Self {
            address,
            weight: AtomicU32::new(weight.max(1)),
            in_flight: AtomicU32::new(0),
            failing: false.into(),
            tls,
            pool: Arc::new(Pool::new(address, Arc::clone(&parts.means))),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its connections are made with; never [`TlsMode::Plaintext`].
    pub(crate) fn tls(&self) -> Option<&Arc<TlsMode>> {
        self.tls.as_ref()
    }

    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    pub(crate) fn reweigh(&self, weight: u32) {
        self.weight.store(weight.max(1), Ordering::Relaxed);
    }

    pub(crate) fn mark_failing(&self, failing: bool) {
        self.failing.store(failing, Ordering::Relaxed);
    }

    pub(crate) fn begin_call(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end_call(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Load for Host {
    fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn is_available(&self) -> bool {
        !self.failing.load(Ordering::Relaxed) || !self.pool.is_backing_off(Instant::now())
    }

    fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }
}
