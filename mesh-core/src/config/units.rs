//! Small numbers with a unit, so that a signature says which one it takes.

use std::fmt;

/// The number of a snapshot within one process: greater is newer. It says nothing about the control plane's versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A relative share; 0 means none. What it is a share of is the sum of its siblings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(pub u32);

impl Weight {
    /// The share of a thing that was given no weight.
    pub const ONE: Self = Self(1);
}
