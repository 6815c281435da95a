//! Whom this process calls at all, whatever the control plane says.
//!
//! A control plane is trusted for naming, not for keys: it says which identities a destination may show, and cannot make a
//! certificate for any of them unless it is the CA as well. So one that lies, or was taken over, can point a service at an
//! attacker who has a certificate of his own, by naming him. What it cannot do is widen what the application pinned in code.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{SpiffeId, TrustDomain};
use crate::config::ExpectedPeers;

/// The peers that are called, beyond what each cluster expects. Nothing is pinned by default; cheap to clone.
///
/// ```
/// use mesh_core::identity::{Pins, SpiffeId, TrustDomain};
/// let pins = Pins::default().trust_domains([TrustDomain::parse("cluster.local").unwrap()]);
/// let admits = |id| pins.admits(&SpiffeId::parse(id).unwrap());
/// assert!(admits("spiffe://cluster.local/ns/a/sa/b") && !admits("spiffe://other.example/ns/a/sa/b"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    domains: Option<Arc<BTreeSet<TrustDomain>>>,
    ids: Option<Arc<ExpectedPeers>>,
}

impl Pins {
    /// Only peers of these trust domains. Without one, nobody.
    #[must_use]
    pub fn trust_domains(mut self, domains: impl IntoIterator<Item = TrustDomain>) -> Self {
        self.domains = Some(Arc::new(domains.into_iter().collect()));
        self
    }

    /// Only peers whose id passes one of these tests: for a process that knows all its destinations. Without a test, nobody.
    #[must_use]
    pub fn ids(mut self, ids: ExpectedPeers) -> Self {
        self.ids = Some(Arc::new(ids));
        self
    }

    /// Whether anything is pinned.
    pub fn are_set(&self) -> bool {
        self.domains.is_some() || self.ids.is_some()
    }

    /// Whether a peer may be called.
    pub fn admits(&self, id: &SpiffeId) -> bool {
        let domain = self.domains.as_ref();
        let ids = self.ids.as_ref();
        domain.is_none_or(|domains| domains.contains(id.trust_domain()))
            && ids.is_none_or(|ids| ids.admits(id.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pinned_narrows_and_an_empty_pin_admits_nobody() {
        let id = SpiffeId::parse("spiffe://a/ns/n/sa/s").unwrap();
        let domain = |name| TrustDomain::parse(name).unwrap();
        let ids = |id| ExpectedPeers::exactly([id]);
        let cases = [
            (Pins::default(), true),
            (Pins::default().trust_domains([domain("b"), domain("a")]), true),
            (Pins::default().trust_domains([domain("b")]), false),
            (Pins::default().trust_domains([]), false),
            (Pins::default().ids(ids(id.as_str())), true),
            (Pins::default().ids(ids("spiffe://a/ns/n/sa/other")), false),
            (Pins::default().ids(ExpectedPeers::default()), false),
            (
                Pins::default().trust_domains([domain("b")]).ids(ids(id.as_str())),
                false,
            ),
        ];
        for (pins, admitted) in cases {
            assert_eq!(pins.admits(&id), admitted, "{pins:?}");
        }
    }
}
