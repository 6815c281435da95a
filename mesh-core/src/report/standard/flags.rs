//! Envoy's response flags as a set: the label `response_flags`.

use std::fmt;
use std::ops::BitOr;

/// By Envoy's names, in the order in which Envoy writes several (`ResponseFlagUtils`): `UF,URX`, and never the other way.
const NAMES: [&str; 29] = [
    "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC", "URX", "SI", "IH",
    "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR",
];

/// Some of Envoy's response flags.
///
/// ```
/// use mesh_core::report::standard::Flags;
/// assert_eq!(Flags::default().to_string(), "-");
/// assert_eq!(Flags::named(["URX", "UF"]).to_string(), "UF,URX");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flags(u32);

impl Flags {
    /// The time for it ran out.
    pub const TIMED_OUT: Self = Self(1 << 2);
    /// The answer was reset by who gave it.
    pub const RESET: Self = Self(1 << 4);
    /// Too many requests for a local limit.
    pub const RATE_LIMITED: Self = Self(1 << 11);
    /// An external authorizer said no, or did not answer.
    pub const UNAUTHORIZED_EXTERNALLY: Self = Self(1 << 12);
    /// The caller went away.
    pub const DOWNSTREAM_CLOSED: Self = Self(1 << 14);

    /// Those of these names; what is none of Envoy's is left out.
    pub fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let bit = |name: &str| NAMES.iter().position(|known| *known == name);
        let bits = names.into_iter().filter_map(bit);
        Self(bits.fold(0, |set, bit| set | 1 << bit))
    }

    /// Their names, in Envoy's order.
    pub fn iter(self) -> impl Iterator<Item = &'static str> {
        let all = NAMES.into_iter().enumerate();
        all.filter(move |(bit, _)| self.0 & (1 << bit) != 0)
            .map(|(_, name)| name)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn bits(self) -> u32 {
        self.0
    }

    pub(super) fn from_bits(bits: u32) -> Self {
        Self(bits & ((1 << NAMES.len()) - 1))
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut flags = self.iter();
        f.write_str(flags.next().unwrap_or("-"))?;
        flags.try_for_each(|flag| write!(f, ",{flag}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_ones_are_where_envoy_has_them() {
        assert_eq!(Flags::TIMED_OUT | Flags::RESET, Flags::named(["UT", "UR"]));
        assert_eq!(Flags::RATE_LIMITED, Flags::named(["RL"]));
        assert_eq!(Flags::UNAUTHORIZED_EXTERNALLY, Flags::named(["UAEX"]));
        assert_eq!(Flags::DOWNSTREAM_CLOSED, Flags::named(["DC"]));
        assert!(Flags::named(["-", "XX"]).is_empty());
        let all = Flags::named(NAMES);
        assert_eq!(all.iter().collect::<Vec<_>>(), NAMES);
        assert_eq!(Flags::from_bits(all.bits()), all);
        assert_eq!(Flags::from_bits(u32::MAX), all);
    }
}
