//! How a call ended, as far as labels tell it: one number, by which an edge finds its series.

use super::Flags;

/// The label `request_protocol`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Anything that is HTTP and not gRPC.
    #[default]
    Http,
    /// Its content type says so.
    Grpc,
}

/// How one call ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct End {
    /// What was spoken.
    pub protocol: Protocol,
    /// The HTTP status, 0 where there was none: a label of three digits at most.
    pub code: u16,
    /// The gRPC status, if the call was gRPC and there was one.
    pub grpc: Option<u8>,
    /// Envoy's flags.
    pub flags: Flags,
}

/// Where the parts stand: the flags below, and on top a bit so that no end is 0.
const CODE: u32 = 32;
const GRPC: u32 = 44;
const PROTOCOL: u32 = 56;
const SOME: u64 = 1 << 63;

impl End {
    /// An ordinary answer.
    pub fn http(code: u16) -> Self {
        Self {
            code,
            ..Self::default()
        }
    }

    /// An ordinary answer of gRPC, whose HTTP status is 200.
    pub fn grpc(status: u8) -> Self {
        Self {
            protocol: Protocol::Grpc,
            code: 200,
            grpc: Some(status),
            flags: Flags::default(),
        }
    }

    #[inline]
    pub(super) fn pack(self) -> u64 {
        let code = u64::from(self.code & 0xfff) << CODE;
        let grpc = self.grpc.map_or(0, |status| u64::from(status) + 1) << GRPC;
        let protocol = (self.protocol as u64) << PROTOCOL;
        SOME | protocol | grpc | code | u64::from(self.flags.bits())
    }

    pub(super) fn unpack(packed: u64) -> Self {
        let grpc = (packed >> GRPC) & 0xfff;
        Self {
            protocol: match (packed >> PROTOCOL) & 1 {
                0 => Protocol::Http,
                _ => Protocol::Grpc,
            },
            code: ((packed >> CODE) & 0xfff) as u16,
            grpc: grpc.checked_sub(1).map(|status| status as u8),
            flags: Flags::from_bits(packed as u32),
        }
    }
}

impl Protocol {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_out_again_and_no_two_are_alike() {
        let mut seen = std::collections::BTreeSet::new();
        for protocol in [Protocol::Http, Protocol::Grpc] {
            for code in [0, 100, 200, 503, 999] {
                for grpc in [None, Some(0), Some(16), Some(255)] {
                    for flags in [Flags::default(), Flags::named(["UF", "URX"]), Flags::named(["DR"])] {
                        let end = End {
                            protocol,
                            code,
                            grpc,
                            flags,
                        };
                        assert_eq!(End::unpack(end.pack()), end);
                        assert!(end.pack() != 0 && seen.insert(end.pack()), "{end:?}");
                    }
                }
            }
        }
    }
}
