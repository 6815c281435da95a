//! What a request is described by, so that a bucket may be for a part of all requests (Envoy `RateLimit` and its `Action`).

use super::super::{HeaderMatch, Subject};

/// A list of parts, which together are one descriptor. Where one of them has nothing to say of a request, there is none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Describing {
    /// Filters of this stage look at it.
    pub stage: u32,
    /// Its parts, in order: which entry stands where tells descriptors apart.
    pub by: Vec<DescribeBy>,
}

impl Describing {
    /// The most parts of one descriptor.
    pub const MAX_PARTS: usize = 16;
}

/// One part.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DescribeBy {
    /// The same words for all requests.
    Generic(DescriptorEntry),
    /// What a header says.
    Header {
        /// The header.
        subject: Subject,
        /// The entry's key.
        key: Box<str>,
        /// Without the header, there is no entry, but still a descriptor.
        skip_if_absent: bool,
    },
    /// A parameter of the query.
    Query {
        /// The parameter.
        name: Box<str>,
        /// The entry's key.
        key: Box<str>,
        /// Without the parameter, there is no entry, but still a descriptor.
        skip_if_absent: bool,
    },
    /// The address that the connection comes from (`remote_address`). There is nobody between the peer and this process.
    RemoteAddress,
    /// So many bits of it (`masked_remote_address`).
    MaskedRemoteAddress {
        /// Of an IPv4 address, 32 at most.
        v4: u8,
        /// Of an IPv6 address, 128 at most.
        v6: u8,
    },
    /// These words, where headers pass.
    HeaderValueMatch {
        /// The entry.
        entry: DescriptorEntry,
        /// What is asked, all of it.
        headers: Vec<HeaderMatch>,
        /// Whether they are to pass, or not to.
        expect: bool,
    },
    /// The cluster that the request's route names (`destination_cluster`).
    DestinationCluster,
}

impl DescribeBy {
    /// The key of [`DescribeBy::RemoteAddress`] (Envoy).
    pub const REMOTE_ADDRESS: &'static str = "remote_address";
    /// The key of [`DescribeBy::MaskedRemoteAddress`] (Envoy).
    pub const MASKED_REMOTE_ADDRESS: &'static str = "masked_remote_address";
    /// The key of [`DescribeBy::DestinationCluster`] (Envoy).
    pub const DESTINATION_CLUSTER: &'static str = "destination_cluster";
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DescriptorEntry {
    /// The key.
    pub key: Box<str>,
    /// The value. Empty, where a bucket is for it: any value, and a bucket for each (Envoy's dynamic descriptors).
    pub value: Box<str>,
}

impl DescriptorEntry {
    /// `key`, with `value`.
    pub fn new(key: impl Into<Box<str>>, value: impl Into<Box<str>>) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
        }
    }
}
