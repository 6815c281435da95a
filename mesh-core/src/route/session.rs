//! Which host the calls of a session go to, as the caller says, and what the caller is told of it (Envoy `StatefulSession`,
//! gRFCs A55, A60 and A61).
//!
//! What a caller holds is the base64 of one of these, and all are read:
//!
//! - `ADDRESS`: gRPC at first, and Envoy in headers;
//! - `ADDRESS;CLUSTER`: gRPC, so that a session stays in its share of a split too (A60);
//! - `ADDRESS,ADDRESS;CLUSTER`: gRPC, where an endpoint has several addresses (A61);
//! - a message of an address and the second at which it ends: Envoy in cookies.
//!
//! The third is what is written. What a caller brings is a wish, never a permission: an address that is not one of the
//! cluster's leads nowhere.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::SET_COOKIE;
use http::{HeaderName, HeaderValue};

use super::filters::in_force;
use super::{RequestHead, choose, cookie, set_cookie};
use crate::config::{
    ClusterName, FilterKind, Route, RouteTree, Session, SessionCookie, SessionState, Split, VirtualHost,
    WeightedCluster,
};
use crate::entropy::Draw;

/// The most bytes that are looked into of what a caller brings: a dozen addresses and a long name.
const MAX_BYTES: usize = 1024;

/// Padded when it is written, and read either way.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How calls that a route gives to a share are kept with a host, if they are. Of several filters the first is heard.
pub fn session_of<'a>(
    tree: &'a RouteTree,
    host: &'a VirtualHost,
    route: &'a Route,
    share: &'a WeightedCluster,
) -> Option<&'a std::sync::Arc<Session>> {
    in_force(tree, host, route, share).find_map(|kind| match kind {
        FilterKind::Session(session) => Some(session),
        FilterKind::Fault(_) => None,
    })
}

/// What a caller brought of its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Where its host is; each is good.
    pub addresses: Vec<SocketAddr>,
    /// The cluster that it is in, where that was said.
    pub cluster: Option<Box<str>>,
    /// Whether the call fails where its host cannot be called.
    pub strict: bool,
}

impl Held {
    /// Whether a call that went to this host went where it was to go.
    fn is_at(&self, host: SocketAddr, cluster: &ClusterName) -> bool {
        let same = |held: &str| *held == *cluster.as_str();
        self.addresses.contains(&host) && self.cluster.as_deref().is_none_or(same)
    }
}

/// The share that a call goes to, and the host in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The share's index.
    pub share: usize,
    /// What the caller brought; `None`: any host is good.
    pub held: Option<Held>,
}

/// As [`choose`], where calls of a session stay in the share that they were given once (gRFC A60), as long as it has a weight.
///
/// `session` says how the calls of each share are kept; `now` is the wall clock, in seconds since 1970.
pub fn choose_kept<'a>(
    split: &Split,
    session: impl Fn(usize) -> Option<&'a Session>,
    head: &RequestHead<'_>,
    now: impl Fn() -> u64,
    draw: &mut Draw,
) -> Choice {
    // The shares of a route mostly go by one session, which is read once.
    let mut last: Option<(&Session, Option<Held>)> = None;
    let mut held = |share: usize| {
        let session = session(share)?;
        match &last {
            Some((known, held)) if std::ptr::eq(*known, session) => held.clone(),
            _ => last.insert((session, read(session, head, &now))).1.clone(),
        }
    };
    for (share, cluster) in split.clusters().iter().enumerate() {
        if let Some(held) = held(share)
            && held.cluster.as_deref() == Some(cluster.cluster.as_str())
        {
            return Choice {
                share,
                held: Some(held),
            };
        }
    }
    let share = choose(split, draw);
    Choice {
        share,
        held: held(share),
    }
}

/// The header that an answer from `host` is given so that the caller comes back to it; `None` where it holds that already.
///
/// Of a request that [the session is for](Session::is_for).
pub fn keep(
    session: &Session,
    held: Option<&Held>,
    host: SocketAddr,
    cluster: &ClusterName,
) -> Option<(HeaderName, HeaderValue)> {
    if held.is_some_and(|held| held.is_at(host, cluster)) {
        return None;
    }
    let value = BASE64.encode(format!("{host};{cluster}"));
    match session.state.as_ref()? {
        SessionState::Cookie(cookie) => {
            let seconds = cookie.ttl.as_secs();
            let value = set_cookie(&cookie.name, &value, seconds, &cookie.path, &cookie.attributes)?;
            Some((SET_COOKIE, value))
        }
        SessionState::Header(name) => Some((name.clone(), HeaderValue::try_from(value).ok()?)),
    }
}

impl Session {
    /// Whether it is for requests of this path and query: a cookie may be for some (RFC 6265 5.1.4).
    pub fn is_for(&self, path: &str) -> bool {
        match &self.state {
            Some(SessionState::Cookie(SessionCookie { path: of, .. })) => {
                let rest = path.strip_prefix(&**of);
                rest.is_some_and(|rest| {
                    rest.is_empty() || of.is_empty() || of.ends_with('/') || rest.starts_with(['/', '?', '#'])
                })
            }
            Some(SessionState::Header(_)) => true,
            None => false,
        }
    }
}

fn read(session: &Session, head: &RequestHead<'_>, now: impl Fn() -> u64) -> Option<Held> {
    if !session.is_for(head.path_and_query()) {
        return None;
    }
    let (value, ends) = match session.state.as_ref()? {
        SessionState::Cookie(kind) => (cookie(head.headers, &kind.name)?, !kind.ttl.is_zero()),
        SessionState::Header(name) => (head.headers.get(name)?.as_bytes(), false),
    };
    if value.len() > MAX_BYTES {
        return None;
    }
    let bytes = BASE64.decode(value).ok()?;
    let text = |bytes| std::str::from_utf8(bytes).ok().and_then(named);
    let (addresses, cluster) = text(&bytes).or_else(|| {
        let message = Message::read(&bytes)?;
        let is_over = match message.expires {
            0 => ends,
            expires => now() > expires,
        };
        text(message.address).filter(|_| !is_over)
    })?;
    Some(Held {
        addresses,
        cluster,
        strict: session.strict,
    })
}

/// Addresses, and perhaps a cluster.
fn named(text: &str) -> Option<(Vec<SocketAddr>, Option<Box<str>>)> {
    let (addresses, cluster) = match text.split_once(';') {
        Some((addresses, cluster)) => (addresses, Some(cluster.into())),
        None => (text, None),
    };
    let addresses: Result<Vec<SocketAddr>, _> = addresses.split(',').map(str::parse).collect();
    Some((addresses.ok()?, cluster))
}

/// What Envoy puts into a cookie (`envoy.Cookie`): a message of an address (1) and of the second at which it ends (2).
struct Message<'a> {
    address: &'a [u8],
    expires: u64,
}

impl<'a> Message<'a> {
    fn read(mut bytes: &'a [u8]) -> Option<Self> {
        const ADDRESS: u8 = 1 << 3 | 2;
        const EXPIRES: u8 = 2 << 3;
        let mut message = Self {
            address: &[],
            expires: 0,
        };
        while let Some((tag, rest)) = bytes.split_first() {
            bytes = rest;
            let number = varint(&mut bytes)?;
            match *tag {
                ADDRESS => (message.address, bytes) = bytes.split_at_checked(usize::try_from(number).ok()?)?,
                EXPIRES => message.expires = number,
                _ => return None,
            }
        }
        Some(message)
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
