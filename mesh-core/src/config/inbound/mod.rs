//! What a server accepts, as configured: filter chains, each with the connections it takes and the security it asks of them
//! (Envoy `FilterChain`; gRFC A36; Istio's `virtualInbound`).
//!
//! Values and one pure choice. Which chain takes a connection is decided in `choose`, by Envoy's order; whoever accepts
//! connections asks once per connection, and shows [`Inbound::mode`] as Istio's PeerAuthentication mode of the port.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Authorization, Domain, ExpectedPeers, RateLimits, Telemetry};

mod choose;
mod prefix;
mod rules;

pub use prefix::{InvalidPrefix, IpPrefix};
pub use rules::{Entered, NotTaken, ServerRules};

/// The chains of one listening address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Inbound {
    /// The listener's name.
    pub name: Box<str>,
    /// The address it is for. gRPC asks that it be the one the server bound; Istio's `virtualInbound` is for every port of
    /// the workload and stands at a port of its own.
    pub address: SocketAddr,
    /// Chosen among by what they match. No two take the same connection by the same rule ([`ChainMatch::overlaps`]).
    pub chains: Vec<FilterChain>,
    /// Takes what no chain takes. Without it such a connection is refused.
    pub default: Option<FilterChain>,
}

/// How the connections of one kind are treated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FilterChain {
    /// Its name, for the status page; may be empty.
    pub name: Box<str>,
    /// The connections it takes.
    pub matches: ChainMatch,
    /// What is asked of them.
    pub security: InboundSecurity,
    /// By which identity it is asked, where that is TLS.
    pub identity: ChainIdentity,
    /// What is spoken on them.
    pub traffic: Traffic,
    /// What they and their requests must pass.
    pub authorization: Arc<Authorization>,
    /// How many of them there may be.
    pub limits: Arc<RateLimits>,
    /// What is told of them.
    pub telemetry: Telemetry,
}

/// Which of several identities of a process is shown, and by the roots of which peers are judged: the instances of certificate
/// providers that a filter chain or a cluster names in its TLS context (gRFC A29). Default: the workload's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainIdentity {
    /// The provider of the certificate; `None`: the workload's own identity.
    pub certificate: Option<Box<str>>,
    /// The provider of the roots; `None`: the workload's own.
    pub roots: Option<Box<str>>,
}

impl ChainIdentity {
    /// Whether it is the workload's own, as a whole.
    pub fn is_own(&self) -> bool {
        self.certificate.is_none() && self.roots.is_none()
    }
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Traffic {
    /// HTTP, gRPC included.
    Http,
    /// Bytes, which nobody in this process serves.
    Tcp,
}

/// What is asked of a client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum InboundSecurity {
    /// Nothing: the connection is not encrypted.
    Plaintext,
    /// TLS without a certificate of the client: encrypted, and nobody is known.
    OneSided,
    /// Mutual TLS.
    Mutual(Clients),
}

/// Whom a server lets in under mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Clients {
    /// Whoever shows a certificate of the workload's trusted roots: what a server means that lists no names (gRFC A29).
    Trusted,
    /// Those of them whose identity passes.
    Named(ExpectedPeers),
}

/// The connections a chain takes; what is absent or empty is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ChainMatch {
    /// The port the connection was made to.
    pub port: Option<u16>,
    /// The addresses it was made to.
    pub destinations: Vec<IpPrefix>,
    /// Server names (SNI): exact, or `*.suffix`.
    pub server_names: Vec<Domain>,
    /// Whether the client begins with TLS.
    pub transport: Option<Transport>,
    /// Protocols the client offers by ALPN, any of which is enough.
    pub protocols: Vec<Box<str>>,
    /// The addresses it comes from, as the socket says.
    pub direct_sources: Vec<IpPrefix>,
    /// Whether it comes from this machine.
    pub source_type: SourceType,
    /// The addresses it comes from.
    pub sources: Vec<IpPrefix>,
    /// The ports it comes from.
    pub source_ports: Vec<u16>,
}

/// How a client begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// With anything but a TLS handshake.
    RawBuffer,
    /// With a TLS handshake.
    Tls,
}

/// Where a connection comes from (Envoy `ConnectionSourceType`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SourceType {
    /// From anywhere.
    #[default]
    Any,
    /// From a loopback address or the address it was made to.
    SameIpOrLoopback,
    /// From anywhere else.
    External,
}

/// What is known of a connection before a byte of it is answered.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionFacts<'a> {
    /// The address it was made to.
    pub destination: SocketAddr,
    /// The address it comes from.
    pub source: SocketAddr,
    /// How it begins.
    pub transport: Transport,
    /// The server name of its TLS handshake.
    pub server_name: Option<&'a str>,
    /// The protocols that handshake offers, the preferred one first.
    pub protocols: &'a [&'a str],
}

/// Istio's word for what a port asks of its clients (PeerAuthentication `mtls.mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MtlsMode {
    /// Mutual TLS and nothing else.
    Strict,
    /// Mutual TLS, or not.
    Permissive,
    /// No mutual TLS.
    Disable,
}

impl Inbound {
    /// What a port asks of its clients, over all the chains that may take a connection to it. Strict only when each of them
    /// asks for mutual TLS, so that a doubt never reads as more security than there is; a port that no chain takes, where
    /// nobody gets in, is strict.
    pub fn mode(&self, port: u16) -> MtlsMode {
        let of_port = |wanted: Option<u16>| self.chains.iter().filter(move |chain| chain.matches.port == wanted);
        // A chain for this port hides those for every port (Envoy: the port is looked at first, without a way back).
        let own = of_port(Some(port)).next().map(|_| port);
        let takes_all = |chain: &FilterChain| {
            let matches = &chain.matches;
            *matches
                == ChainMatch {
                    port: matches.port,
                    ..ChainMatch::default()
                }
        };
        let default = self.default.iter().filter(|_| !of_port(own).any(takes_all));
        let (mut mutual, mut other) = (false, false);
        for chain in of_port(own).chain(default) {
            match chain.security {
                InboundSecurity::Mutual(_) => mutual = true,
                InboundSecurity::Plaintext | InboundSecurity::OneSided => other = true,
            }
        }
        match (mutual, other) {
            (true, true) => MtlsMode::Permissive,
            (false, true) => MtlsMode::Disable,
            (_, false) => MtlsMode::Strict,
        }
    }
}

#[cfg(test)]
mod tests;
