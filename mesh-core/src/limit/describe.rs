//! What a request is described by.

use std::borrow::Cow;
use std::io::Write;
use std::net::IpAddr;

use super::Asked;
use crate::config::{DescribeBy, Describing, DescriptorEntry};
use crate::route::{header_passes, parameter};

/// One entry of a descriptor.
#[derive(Clone, Debug)]
pub(super) struct Entry<'a> {
    key: &'a str,
    value: Said<'a>,
}

#[derive(Clone, Debug)]
enum Said<'a> {
    Bytes(Cow<'a, [u8]>),
    /// As text, and its length.
    Address([u8; ADDRESS_BYTES], usize),
}

/// What an address and the number of its bits take, written.
const ADDRESS_BYTES: usize = 48;

impl Entry<'_> {
    const NONE: Self = Self {
        key: "",
        value: Said::Bytes(Cow::Borrowed(b"")),
    };

    pub(super) fn key(&self) -> &str {
        self.key
    }

    pub(super) fn value(&self) -> &[u8] {
        match &self.value {
            Said::Bytes(bytes) => bytes,
            Said::Address(text, length) => &text[..*length],
        }
    }
}

/// The entries of one descriptor: few, and in place.
#[derive(Debug)]
pub(super) struct Entries<'a> {
    all: [Entry<'a>; Describing::MAX_PARTS],
    used: usize,
}

/// The descriptor of a request; `None`: there is none.
pub(super) fn describe<'a>(by: &'a Describing, asked: &Asked<'a>, cluster: Option<&'a str>) -> Option<Entries<'a>> {
    let mut entries = Entries {
        all: [const { Entry::NONE }; Describing::MAX_PARTS],
        used: 0,
    };
    for part in &by.by {
        if let Some(entry) = describe_by(part, asked, cluster)? {
            *entries.all.get_mut(entries.used)? = entry;
            entries.used += 1;
        }
    }
    // Envoy: a list that comes to nothing describes nothing.
    (entries.used > 0).then_some(entries)
}

/// One entry, or none; or no descriptor at all.
fn describe_by<'a>(part: &'a DescribeBy, asked: &Asked<'a>, cluster: Option<&'a str>) -> Option<Option<Entry<'a>>> {
    let head = &asked.head;
    let text = |key: &'a str, value: &'a str| Entry {
        key,
        value: Said::Bytes(value.as_bytes().into()),
    };
    match part {
        DescribeBy::Generic(entry) => Some(Some(text(&entry.key, &entry.value))),
        DescribeBy::Header {
            subject,
            key,
            skip_if_absent,
        } => match head.value(subject) {
            Some(value) => Some(Some(Entry {
                key,
                value: Said::Bytes(value),
            })),
            None => skip_if_absent.then_some(None),
        },
        DescribeBy::Query {
            name,
            key,
            skip_if_absent,
        } => match parameter(head.uri.query().unwrap_or_default(), name) {
            Some(value) => Some(Some(text(key, value))),
            None => skip_if_absent.then_some(None),
        },
        DescribeBy::RemoteAddress => {
            let address = asked.source?.to_canonical();
            Some(Some(written(DescribeBy::REMOTE_ADDRESS, format_args!("{address}"))?))
        }
        DescribeBy::MaskedRemoteAddress { v4, v6 } => {
            let (address, bits) = match asked.source?.to_canonical() {
                IpAddr::V4(address) => {
                    let bits = (*v4).min(32);
                    let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                    (IpAddr::from((address.to_bits() & mask).to_be_bytes()), bits)
                }
                IpAddr::V6(address) => {
                    let bits = (*v6).min(128);
                    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                    (IpAddr::from((address.to_bits() & mask).to_be_bytes()), bits)
                }
            };
            let entry = written(DescribeBy::MASKED_REMOTE_ADDRESS, format_args!("{address}/{bits}"));
            Some(Some(entry?))
        }
        DescribeBy::HeaderValueMatch { entry, headers, expect } => {
            let pass = headers.iter().all(|test| header_passes(test, head));
            (pass == *expect).then(|| Some(text(&entry.key, &entry.value)))
        }
        DescribeBy::DestinationCluster => Some(Some(text(DescribeBy::DESTINATION_CLUSTER, cluster?))),
    }
}

fn written<'a>(key: &'a str, what: std::fmt::Arguments<'_>) -> Option<Entry<'a>> {
    let mut text = [0; ADDRESS_BYTES];
    let mut rest = &mut text[..];
    rest.write_fmt(what).ok()?;
    let length = ADDRESS_BYTES - rest.len();
    Some(Entry {
        key,
        value: Said::Address(text, length),
    })
}

impl<'a> Entries<'a> {
    pub(super) fn all(&self) -> &[Entry<'a>] {
        &self.all[..self.used]
    }

    /// Whether a bucket for `wanted` is for this descriptor: each entry is that of its place.
    pub(super) fn fit(&self, wanted: &[DescriptorEntry]) -> bool {
        self.used == wanted.len()
            && self.all().iter().zip(wanted).all(|(entry, wanted)| {
                *entry.key == *wanted.key && (wanted.value.is_empty() || entry.value() == wanted.value.as_bytes())
            })
    }
}
