//! How the connections of a cluster are made, used and let go (Istio `connectionPool`; Envoy `HttpProtocolOptions` and
//! `upstream_connection_options`).
//!
//! Not in it: how many there may be, which is a circuit breaker's, and how they are secured, which is [`TlsMode`](super::TlsMode)'s.

use std::num::NonZeroU32;
use std::time::Duration;

use http::Version;

/// How the connections of a cluster are made, used and let go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Connections {
    /// Which HTTP is spoken.
    pub protocol: Protocol,
    /// Settings of HTTP/2 connections.
    pub http2: Http2Settings,
    /// How long a connection without a call is kept (Envoy `idle_timeout`). `None`: as the data plane sees fit, 1 h over HTTP/2
    /// and less over HTTP/1.1. Zero: for ever.
    pub idle_timeout: Option<Duration>,
    /// How old a connection becomes before it takes no more calls (Envoy `max_connection_duration`), give or take a tenth.
    /// `None`: as old as its certificates allow.
    pub max_age: Option<Duration>,
    /// After how many requests a connection takes no more (Envoy `max_requests_per_connection`). `None`: never.
    pub max_requests: Option<NonZeroU32>,
    /// Probes of the operating system on a quiet connection (Envoy `tcp_keepalive`). `None`: none.
    pub tcp_keep_alive: Option<TcpKeepAlive>,
}

/// Which HTTP is spoken to the endpoints of a cluster.
///
/// A gRPC call is carried over HTTP/2 whatever is said here: nothing else can carry its trailers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/2, without TLS too ("prior knowledge", RFC 9113 3.3). What gRPC assumes of every cluster.
    #[default]
    Http2,
    /// HTTP/1.1. What Envoy assumes of a cluster that says nothing.
    Http1,
    /// That of the request (Envoy `use_downstream_protocol_config`; Istio's ports of no known protocol, and
    /// `useClientProtocol`).
    Request,
    /// Whichever the peer prefers under TLS (ALPN), and HTTP/1.1 without (Envoy `auto_config`).
    Negotiated,
}

/// What one request may be carried over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Carrier {
    /// HTTP/2 only.
    Http2,
    /// HTTP/1.1 only.
    Http1,
    /// Either of them.
    Any,
}

impl Protocol {
    /// What a request of `version` is carried over. `grpc` is asked only where it matters.
    pub fn carrier(self, version: Version, grpc: impl FnOnce() -> bool) -> Carrier {
        match self {
            Self::Http2 => Carrier::Http2,
            Self::Request if version == Version::HTTP_2 => Carrier::Http2,
            _ if grpc() => Carrier::Http2,
            Self::Http1 | Self::Request => Carrier::Http1,
            Self::Negotiated => Carrier::Any,
        }
    }
}

/// Settings of HTTP/2 connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Http2Settings {
    /// The most streams at once on one connection, if the peer allows as many (Envoy `max_concurrent_streams` on a cluster).
    /// `None`: as many as the peer allows.
    pub max_streams: Option<NonZeroU32>,
    /// What one response may run ahead of its reader, in bytes: at most [`MAX_WINDOW`](Self::MAX_WINDOW).
    pub stream_window: Option<u32>,
    /// What all responses of a connection may run ahead of their readers, in bytes: at most [`MAX_WINDOW`](Self::MAX_WINDOW).
    pub connection_window: Option<u32>,
    /// How a connection with calls in flight is asked for a sign of life. `None`: every 10 s, for 5 s; after two in a row without a call
    /// that begins or anything of an answer, every 5 minutes, since gRPC servers end a connection that is asked more often (gRFC A8).
    pub keep_alive: Option<KeepAlive>,
}

impl Http2Settings {
    /// The widest window HTTP/2 knows (RFC 9113 6.9.1).
    pub const MAX_WINDOW: u32 = (1 << 31) - 1;
    /// The narrowest that Envoy's API allows: HTTP/2's first window (RFC 9113 6.9.2).
    pub const MIN_WINDOW: u32 = (1 << 16) - 1;
}

/// How often a peer is asked for a sign of life, and how long it may take (Envoy `connection_keepalive`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeepAlive {
    /// Between two pings, while calls are in flight.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// Probes of the operating system on a quiet connection (Envoy `TcpKeepalive`). `None`: as the system has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TcpKeepAlive {
    /// How many may stay without an answer.
    pub probes: Option<u32>,
    /// How long a connection is quiet before the first.
    pub time: Option<Duration>,
    /// Between two.
    pub interval: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_carries_a_request() {
        let (one, two) = (Version::HTTP_11, Version::HTTP_2);
        let cases = [
            (Protocol::Http2, one, false, Carrier::Http2),
            (Protocol::Http1, two, false, Carrier::Http1),
            (Protocol::Http1, two, true, Carrier::Http2),
            (Protocol::Request, one, false, Carrier::Http1),
            (Protocol::Request, two, false, Carrier::Http2),
            (Protocol::Request, one, true, Carrier::Http2),
            (Protocol::Negotiated, two, false, Carrier::Any),
            (Protocol::Negotiated, one, true, Carrier::Http2),
        ];
        for (protocol, version, grpc, expected) in cases {
            assert_eq!(
                protocol.carrier(version, || grpc),
                expected,
                "{protocol:?} {version:?} {grpc}"
            );
        }
    }
}
