//! Certificates and roots for servers outside of the mesh, by name.
//!
//! A configuration names what it wants (Istio `credentialName`) and never holds it. In a cluster a sidecar would be sent the
//! secret by its control plane; here no key crosses that stream, so what has a name is provided by the application, from
//! wherever it keeps its secrets.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::CertificateDer;

use super::ClientCertificate;

/// What names stand for. Clones are one list. An entry may be replaced at any time: the next handshake uses the new one.
#[derive(Clone, Default)]
pub struct Credentials {
    named: Arc<RwLock<HashMap<Box<str>, Provided>>>,
}

/// What one name stands for.
#[derive(Clone, Debug)]
pub struct Provided {
    /// What is shown under this name.
    pub certificate: Option<ClientCertificate>,
    /// What others are judged by under this name.
    pub roots: Option<Arc<[CertificateDer<'static>]>>,
    generation: u64,
}

/// The next generation, process-wide, as identities have it.
static GENERATION: AtomicU64 = AtomicU64::new(1);

impl Credentials {
    /// Sets what is shown under `name`.
    pub fn provide_certificate(&self, name: impl Into<Box<str>>, certificate: ClientCertificate) {
        self.change(name.into(), |provided| provided.certificate = Some(certificate));
    }

    /// Sets what servers are judged by under `name`.
    pub fn provide_roots(&self, name: impl Into<Box<str>>, roots: Vec<CertificateDer<'static>>) {
        self.change(name.into(), |provided| provided.roots = Some(roots.into()));
    }

    /// Forgets a name. Connections that were made under it go on.
    pub fn remove(&self, name: &str) {
        self.named.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// What `name` stands for now.
    pub fn get(&self, name: &str) -> Option<Provided> {
        self.named
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    fn change(&self, name: Box<str>, change: impl FnOnce(&mut Provided)) {
        let mut named = self.named.write().unwrap_or_else(PoisonError::into_inner);
        let provided = named.entry(name).or_insert_with(|| Provided {
            certificate: None,
            roots: None,
            generation: 0,
        });
        change(provided);
        provided.generation = GENERATION.fetch_add(1, Ordering::Relaxed);
    }
}

impl Provided {
    /// A number that moves with each change: the key of caches of what is made from it.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = self.named.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_set().entries(named.keys()).finish()
    }
}
