//! The identities by which clusters are called, followed so that no connection outlives the one that it was agreed under: the
//! workload's own, and those of other certificate providers that clusters name (gRFC A29).
//!
//! One that was named once is followed for as long as the process is a member of its mesh, as its source keeps supplying it: there
//! are no more of them than pairs of providers in the bootstrap.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::config::{ChainIdentity, Cluster, TlsMode};
use mesh_core::identity::Identity;
use mesh_core::link::{Identities, Standing};
use mesh_core::live;
use tokio::sync::Notify;

/// See the module.
pub(super) struct Followed {
    identities: Identities,
    /// Rung when one of them is another.
    bell: Arc<Notify>,
    each: BTreeMap<ChainIdentity, One>,
}

struct One {
    reader: live::Reader<Standing>,
    /// How it stood when it was last looked at.
    seen: Arc<Standing>,
    /// Under whose name and by whose roots connections were last made.
    identity: Option<Identity>,
    _subscription: live::Subscription,
}

impl Followed {
    /// Follows the workload's own.
    pub(super) fn new(own: &live::Reader<Standing>, identities: &Identities, bell: Arc<Notify>) -> Self {
        let one = One::new(own.clone(), &bell);
        Self {
            identities: identities.clone(),
            each: BTreeMap::from([(ChainIdentity::default(), one)]),
            bell,
        }
    }

    /// From now on, also those by which this cluster is called. One that nobody supplies fails the calls, and is asked for again.
    pub(super) fn follow(&mut self, cluster: &Cluster) {
        let modes = std::iter::once(&cluster.tls).chain(cluster.tls_matches.iter().map(|one| &one.mode));
        for of in modes.filter_map(TlsMode::identity).filter(|of| !of.is_own()) {
            if !self.each.contains_key(&of)
                && let Some(reader) = self.identities.find(&of)
            {
                self.each.insert(of, One::new(reader, &self.bell));
            }
        }
    }

    /// Whether one of them changed since it was last looked at.
    pub(super) fn is_behind(&self) -> bool {
        let is_new = |one: &One| !Arc::ptr_eq(&one.seen, &one.reader.load());
        self.each.values().any(is_new)
    }

    /// Those that are no renewal of what they were when they were last looked at: of another name, or by other roots.
    pub(super) fn take_replaced(&mut self) -> Vec<ChainIdentity> {
        let mut replaced = Vec::new();
        for (of, one) in &mut self.each {
            one.seen = one.reader.load_full();
            // Without one connections go on, as far as their certificates do.
            let Ok(now) = &*one.seen else { continue };
            let before = one.identity.replace(now.clone());
            if before.is_some_and(|before| !now.is_renewal_of(&before)) {
                replaced.push(of.clone());
            }
        }
        replaced
    }
}

impl One {
    fn new(reader: live::Reader<Standing>, bell: &Arc<Notify>) -> Self {
        let bell = Arc::clone(bell);
        let _subscription = reader.on_change(move || bell.notify_one());
        // It may stand already, for who used it before: connections are made by it from now on.
        let seen = reader.load_full();
        Self {
            identity: (*seen).clone().ok(),
            seen,
            reader,
            _subscription,
        }
    }
}
