//! A range of addresses (Envoy `CidrRange`).

use std::fmt;
use std::net::IpAddr;

/// An address and how many of its bits count. The others are zero, so that equal ranges are equal values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IpPrefix {
    address: IpAddr,
    bits: u8,
}

impl IpPrefix {
    /// The range of the addresses that begin like `address`, in `bits` bits.
    ///
    /// # Errors
    ///
    /// When the address does not have that many.
    ///
    /// ```
    /// use mesh_core::config::IpPrefix;
    /// let range = IpPrefix::new("10.1.2.3".parse().unwrap(), 16).unwrap();
    /// assert!(range.contains("10.1.9.9".parse().unwrap()) && !range.contains("10.2.0.1".parse().unwrap()));
    /// assert_eq!(range.to_string(), "10.1.0.0/16");
    /// ```
    pub fn new(address: IpAddr, bits: u32) -> Result<Self, InvalidPrefix> {
        let address = address.to_canonical();
        let invalid = InvalidPrefix { address, bits };
        let masked = match address {
            IpAddr::V4(v4) if bits <= 32 => IpAddr::from((v4.to_bits() & leading_v4(bits)).to_be_bytes()),
            IpAddr::V6(v6) if bits <= 128 => IpAddr::from((v6.to_bits() & leading_v6(bits)).to_be_bytes()),
            _ => return Err(invalid),
        };
        Ok(Self {
            address: masked,
            bits: u8::try_from(bits).map_err(|_| invalid)?,
        })
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits count: of two ranges that hold an address, the one with more is the more specific.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether `address` is in the range. An IPv4 address in IPv6 clothes is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = u32::from(self.bits);
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (own.to_bits() ^ other.to_bits()) & leading_v4(bits) == 0,
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits() ^ other.to_bits()) & leading_v6(bits) == 0,
            _ => false,
        }
    }
}

fn leading_v4(bits: u32) -> u32 {
    u32::MAX.checked_shl(32 - bits).unwrap_or(0)
}

fn leading_v6(bits: u32) -> u128 {
    u128::MAX.checked_shl(128 - bits).unwrap_or(0)
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// A range with more bits than its address has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPrefix {
    address: IpAddr,
    bits: u32,
}

impl fmt::Display for InvalidPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} does not have {} bits", self.address, self.bits)
    }
}

impl std::error::Error for InvalidPrefix {}
