//! A copy as bytes: one that is whole, and ours, can be told from every other.
//!
//! ```text
//! "MESHCOPY" | version, 4 bytes | length of the body, 8 bytes | SHA-256 of all other bytes | body
//! ```
//!
//! The body is a list of protobuf messages, each behind its length: a [`Head`], then a [`Resource`] for each. Numbers before it
//! are big-endian. What a later version of the format adds, an earlier one must not guess at: it refuses it.
//!
//! The sum finds what a disk or a crash did. It proves nothing about who wrote the file, whose owner and mode are asked for
//! that; and what is read is judged as a control plane's word is.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prost::Message;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::crypto::hash::Hash;

use super::kept::{Entry, Good, Kept};
use crate::resource::ResourceKind;
use crate::wire::weigh::{Shape, TooHeavy, weigh};

const MAGIC: [u8; 8] = *b"MESHCOPY";
const VERSION: u32 = 1;
const SUM_BYTES: usize = 32;
/// Magic, version, length.
const FRONT_BYTES: usize = 8 + 4 + 8;
const BODY_AT: usize = FRONT_BYTES + SUM_BYTES;

/// The most memory that the beginning of a body takes: a few lines about each control plane. What follows it is taken one by one, and
/// is no more in memory than in the file.
const MAX_HEAD_BYTES: usize = 1024 * 1024;
/// Its lists are of texts.
const HEAD: Shape = Shape {
    first: 4 * size_of::<String>(),
    more: 2 * size_of::<String>(),
    heavy: &[],
};

/// Why bytes are no copy that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// More than this many bytes.
    TooLarge(usize),
    /// It does not begin as one.
    NoCopy,
    /// A format that is not known here.
    Version(u32),
    /// Fewer bytes, or more, than it says.
    Length,
    /// Some byte is another one.
    Sum,
    /// Whole, and yet not what it should be.
    Body(Box<str>),
    /// Of another node, or of other control planes.
    Foreign,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(limit) => write!(f, "it is larger than {limit} bytes"),
            Self::NoCopy => f.write_str("it is no copy of a configuration"),
            Self::Version(version) => write!(f, "its format is {version}, and {VERSION} is known here"),
            Self::Length => f.write_str("it is cut off, or longer than it says"),
            Self::Sum => f.write_str("it is damaged: its sum does not match"),
            Self::Body(why) => write!(f, "it cannot be read: {why}"),
            Self::Foreign => f.write_str("it is of another node, or of other control planes"),
        }
    }
}

/// The beginning of a body.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Head {
    /// Who wrote it, and whom it heard: see [`Whose`](super::file::Whose).
    #[prost(string, repeated, tag = "1")]
    pub(super) whose: Vec<String>,
    #[prost(uint64, tag = "2")]
    pub(super) written: u64,
    /// The types, by URL, that were told whole.
    #[prost(string, repeated, tag = "3")]
    pub(super) listed: Vec<String>,
}

/// A resource, or that there was none.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Resource {
    #[prost(string, tag = "1")]
    pub(super) type_url: String,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    /// The control plane that told it.
    #[prost(string, tag = "3")]
    pub(super) server: String,
    #[prost(string, tag = "4")]
    pub(super) version: String,
    #[prost(bytes = "vec", optional, tag = "5")]
    pub(super) value: Option<Vec<u8>>,
    #[prost(uint64, tag = "6")]
    pub(super) told: u64,
    #[prost(uint64, optional, tag = "7")]
    pub(super) ends: Option<u64>,
}

/// Writes a copy of at most `limit` bytes.
pub(crate) fn write(kept: &Kept, whose: &[String], limit: usize) -> Result<Vec<u8>, Unreadable> {
    let listed = ResourceKind::ALL.into_iter().filter(|kind| kept.listed[kind.index()]);
    let head = Head {
        whose: whose.to_vec(),
        written: kept.written,
        listed: listed.map(|kind| kind.type_url().into()).collect(),
    };
    let mut body = head.encode_length_delimited_to_vec();
    for ((kind, name), entry) in &kept.entries {
        let mut resource = Resource {
            type_url: kind.type_url().into(),
            name: String::from(&**name),
            server: String::from(&*entry.server),
            ..Resource::default()
        };
        if let Some(good) = &entry.good {
            resource.version = String::from(&*good.version);
            resource.value = Some(good.bytes.to_vec());
            (resource.told, resource.ends) = (good.told, good.ends);
        }
        // A message grows a vector by what it needs.
        if resource.encode_length_delimited(&mut body).is_err() || BODY_AT + body.len() > limit {
            return Err(Unreadable::TooLarge(limit));
        }
    }
    Ok(seal(&body))
}

/// Puts a body behind what tells that it is one.
pub(crate) fn seal(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BODY_AT + body.len());
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_be_bytes());
    bytes.extend((body.len() as u64).to_be_bytes());
    let sum = sum(&[&bytes, body]);
    bytes.extend(sum);
    bytes.extend(body);
    bytes
}

/// What may be the body of these bytes, whether they are a copy or not.
#[cfg(feature = "fuzzing")]
pub(crate) fn body_of(bytes: &[u8]) -> &[u8] {
    bytes.get(BODY_AT..).unwrap_or_default()
}

/// Reads a copy that `whose` wrote.
pub(crate) fn read(bytes: &[u8], whose: &[String]) -> Result<Kept, Unreadable> {
    let mut body = open(bytes)?;
    let malformed = |error: prost::DecodeError| Unreadable::Body(error.to_string().into());
    let heavy = |error: TooHeavy| Unreadable::Body(error.to_string().into());
    weigh(first(body), &HEAD, MAX_HEAD_BYTES).map_err(heavy)?;
    let head = Head::decode_length_delimited(&mut body).map_err(malformed)?;
    if head.whose != whose {
        return Err(Unreadable::Foreign);
    }
    let mut listed = [false; ResourceKind::COUNT];
    for kind in head.listed.iter().filter_map(|url| ResourceKind::from_type_url(url)) {
        listed[kind.index()] = true;
    }
    let mut entries = BTreeMap::new();
    while !body.is_empty() {
        let resource = Resource::decode_length_delimited(&mut body).map_err(malformed)?;
        // Of what else there may be nothing is asked here: a secret least of all.
        let Some(kind) = ResourceKind::from_type_url(&resource.type_url) else {
            continue;
        };
        let (version, told, ends) = (resource.version.into(), resource.told, resource.ends);
        let good = resource.value.map(|value| Good {
            version,
            bytes: value.into(),
            told,
            ends,
        });
        let server = resource.server.into();
        entries.insert((kind, Arc::from(resource.name)), Entry { server, good });
    }
    Ok(Kept {
        written: head.written,
        listed,
        entries,
    })
}

/// The first message of a body, or what there is of it.
fn first(body: &[u8]) -> &[u8] {
    let mut rest = body;
    let length = prost::decode_length_delimiter(&mut rest).unwrap_or_default();
    &rest[..length.min(rest.len())]
}

/// The body of a whole copy.
fn open(bytes: &[u8]) -> Result<&[u8], Unreadable> {
    let rest = bytes.strip_prefix(&MAGIC).ok_or(Unreadable::NoCopy)?;
    let (version, rest) = rest.split_first_chunk().ok_or(Unreadable::Length)?;
    let version = u32::from_be_bytes(*version);
    if version != VERSION {
        return Err(Unreadable::Version(version));
    }
    let (length, rest) = rest.split_first_chunk().ok_or(Unreadable::Length)?;
    let (told, body) = rest.split_first_chunk::<SUM_BYTES>().ok_or(Unreadable::Length)?;
    if u64::from_be_bytes(*length) != body.len() as u64 {
        return Err(Unreadable::Length);
    }
    match sum(&[&bytes[..FRONT_BYTES], body]) == *told {
        true => Ok(body),
        false => Err(Unreadable::Sum),
    }
}

/// SHA-256, by the library that TLS has it from.
pub(super) fn sum(parts: &[&[u8]]) -> [u8; SUM_BYTES] {
    let mut context = sha256().start();
    parts.iter().for_each(|part| context.update(part));
    let mut sum = [0; SUM_BYTES];
    sum.copy_from_slice(context.finish().as_ref());
    sum
}

fn sha256() -> &'static dyn Hash {
    let suite = TLS13_AES_128_GCM_SHA256.tls13();
    suite.expect("it is a suite of TLS 1.3").common.hash_provider
}
