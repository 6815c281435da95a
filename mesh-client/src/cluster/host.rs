//! One live endpoint. The configuration's `Endpoint` says where it is wanted; this holds its connections and counters, and
//! survives every swap that leaves its address and its security alone.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use mesh_core::Entropy;
use mesh_core::balance::levels::Member;
use mesh_core::balance::{Load, Reported};
use mesh_core::config::{ClientWeights, TlsMode};
use mesh_core::outlier::Monitor;
use tokio::time::Instant;

use super::handle::Parts;
use super::out_of_band::Asking;
use crate::connect::Pool;

/// A live endpoint.
///
/// What a pick looks at stands first and together: of a hundred thousand hosts each that is looked at is a cache miss, and is to be
/// one and not two.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Host {
    in_flight: AtomicU32,
    weight: AtomicU32,
    /// Set once a dial failed, cleared by the next success: so that a pick need not look into the pool in good times.
    failing: std::sync::atomic::AtomicBool,
    /// Set once its cluster watches for outliers. What is held against a host is held against its address, so a host that is
    /// made anew is given the monitor of the one before.
    monitor: OnceLock<Arc<Monitor>>,
    pool: Arc<Pool>,
    address: SocketAddr,
    /// What its connections are made with; `None`: they are not encrypted.
    tls: Option<Arc<TlsMode>>,
    /// What it goes by where calls are hashed, if not by its address. Looked at only when a picker is made.
    hash_key: Mutex<Option<Box<str>>>,
    /// What it reports of itself.
    reported: OnceLock<Box<Reported>>,
    /// Set while it is asked for that between calls. Boxed, since few hosts are and there may be a hundred thousand.
    asking: Mutex<Option<Box<Asking>>>,
}

impl Host {
    pub(crate) fn new(address: SocketAddr, weight: u32, tls: Option<Arc<TlsMode>>, parts: &Parts) -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            weight: AtomicU32::new(weight.max(1)),
            failing: false.into(),
            monitor: OnceLock::new(),
            pool: Arc::new(Pool::new(address, Arc::clone(&parts.means))),
            address,
            tls,
            hash_key: Mutex::default(),
            reported: OnceLock::new(),
            asking: Mutex::default(),
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

    /// What its calls are told to, where its cluster watches for outliers or did.
    pub(crate) fn monitor(&self) -> Option<&Arc<Monitor>> {
        self.monitor.get()
    }

    /// Puts it under observation. One that is already keeps its monitor, which the detector takes over.
    pub(super) fn watch(&self, monitor: Arc<Monitor>) {
        // It is there already.
        let _ = self.monitor.set(monitor);
    }

    pub(crate) fn reweigh(&self, weight: u32) {
        let weight = weight.max(1);
        // Most updates leave most hosts alone, and what is not written stays in everybody's caches.
        if self.weight.load(Ordering::Relaxed) != weight {
            self.weight.store(weight, Ordering::Relaxed);
        }
    }

    /// Takes over what the control plane wants it to go by where calls are hashed.
    pub(super) fn rename(&self, hash_key: Option<&str>) {
        let mut known = self.hash_key.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_deref() != hash_key {
            *known = hash_key.map(Box::from);
        }
    }

    /// Keeps what it reports of itself from now on.
    pub(super) fn listen(&self) {
        self.reported
            .get_or_init(|| Box::new(Reported::new(Instant::now().into_std())));
    }

    /// Asks it for that between calls, where `settings` say so; else it is asked no more.
    pub(super) fn ask(self: &Arc<Self>, settings: Option<&ClientWeights>, entropy: &Entropy) {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let before = asking.take().map(|before| *before);
        let now = settings.and_then(|settings| Asking::of(self, settings, entropy, before));
        *asking = now.map(Box::new);
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

    fn hash_key(&self, key: &mut String) {
        match &*self.hash_key.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(known) => key.push_str(known),
            // As Envoy and gRPC write it: an IPv6 address in brackets.
            None => write!(key, "{}", self.address).expect("text takes text"),
        }
    }

    fn is_connected(&self) -> bool {
        self.pool.is_connected()
    }

    fn reported(&self) -> Option<&Reported> {
        self.reported.get().map(|reported| &**reported)
    }
}

impl Member for Host {
    fn is_ejected(&self) -> bool {
        self.monitor.get().is_some_and(|monitor| monitor.is_ejected())
    }
}
