//! How many resources came, good and bad: the counts behind gRFC A78's `resource_updates_valid` and `_invalid`.

use crate::resource::ResourceKind;

/// How many kinds there are.
const KINDS: usize = ResourceKind::ALL.len();

/// The resources that one control plane sent since the start, changed or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Updates {
    valid: [u64; KINDS],
    invalid: [u64; KINDS],
}

impl Updates {
    /// How many of this kind were good.
    pub fn valid(&self, kind: ResourceKind) -> u64 {
        self.valid[kind.index()]
    }

    /// How many of this kind were refused.
    pub fn invalid(&self, kind: ResourceKind) -> u64 {
        self.invalid[kind.index()]
    }

    /// Counts a response of `resources` resources, so many of them `refused`.
    pub(crate) fn count(&mut self, kind: ResourceKind, resources: usize, refused: usize) {
        self.valid[kind.index()] += resources.saturating_sub(refused) as u64;
        self.invalid[kind.index()] += refused as u64;
    }
}
