//! Envoy's response flags, several of them where several are true.

use std::fmt;

use mesh_core::retry::Why;

/// What an access log of Envoy's would show for a call: its flags, joined by commas, or `-`.
///
/// A failed call tells its own ([`Error::response_flags`](crate::Error::response_flags)); an answer that was not tried again for
/// one of these reasons carries it in its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseFlags {
    pub(crate) retries: Option<RetriesEnd>,
    pub(crate) last: Option<&'static str>,
}

/// Why there was no other try, where Envoy has a flag for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetriesEnd {
    /// All were made.
    Exhausted,
    /// The budget or a limit of retries in flight said no.
    OverBudget,
}

impl RetriesEnd {
    pub(crate) fn of(why: Why) -> Option<Self> {
        match why {
            Why::Exhausted => Some(Self::Exhausted),
            Why::OverBudget => Some(Self::OverBudget),
            Why::NotNamed | Why::Unsafe | Why::Told => None,
        }
    }

    fn flag(self) -> &'static str {
        match self {
            Self::Exhausted => "URX",
            Self::OverBudget => "UO",
        }
    }
}

impl ResponseFlags {
    /// The flags, the reason for no other try first.
    pub fn iter(&self) -> impl Iterator<Item = &'static str> {
        let retries = self.retries.map(RetriesEnd::flag);
        let last = self.last.filter(|last| Some(*last) != retries);
        // A fault that held a call up before it ended it has two.
        let last = last.into_iter().flat_map(|flags| flags.split(','));
        retries.into_iter().chain(last)
    }
}

impl fmt::Display for ResponseFlags {
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
    fn flags_are_joined() {
        let flags = |retries, last| ResponseFlags { retries, last }.to_string();
        assert_eq!(flags(Some(RetriesEnd::Exhausted), Some("UF")), "URX,UF");
        assert_eq!(flags(Some(RetriesEnd::OverBudget), Some("UO")), "UO");
        assert_eq!(flags(None, Some("UH")), "UH");
        assert_eq!(flags(Some(RetriesEnd::Exhausted), None), "URX");
        assert_eq!(flags(None, None), "-");
        let fault = ResponseFlags {
            retries: None,
            last: Some("DI,FI"),
        };
        assert_eq!(fault.iter().collect::<Vec<_>>(), ["DI", "FI"]);
    }
}
