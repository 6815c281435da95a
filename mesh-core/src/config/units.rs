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

/// A part of all calls, by chance (Envoy `FractionalPercent`). As many as all or more take every call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fraction {
    /// How many.
    pub of: u32,
    /// Out of how many.
    pub per: Per,
}

/// What a [`Fraction`] counts in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Per {
    /// Percent.
    #[default]
    Hundred,
    /// Hundredths of a percent.
    TenThousand,
    /// Parts of a million.
    Million,
}

impl Per {
    /// As a number.
    pub fn count(self) -> u32 {
        match self {
            Self::Hundred => 100,
            Self::TenThousand => 10_000,
            Self::Million => 1_000_000,
        }
    }
}

impl Fraction {
    /// Every call.
    pub const ALL: Self = Self::percent(100);

    /// So many of a hundred.
    pub const fn percent(of: u32) -> Self {
        Self { of, per: Per::Hundred }
    }

    /// Whether the call that drew `lot`, a number from all of `u64`, is one of them.
    ///
    /// A greater fraction holds every call that a smaller one does: of one lot, so that a share that is widened keeps its
    /// calls (Envoy uses one random value for all of a request's runtime fractions).
    pub fn holds(self, lot: u64) -> bool {
        let per = u64::from(self.per.count());
        ((u128::from(lot) * u128::from(per)) >> 64) < u128::from(self.of)
    }
}
