//! What a server goes by at one moment, and what that means for a connection.
//!
//! Asked twice of each connection: when it comes, and again whenever the rules change while it is open, so that a connection
//! never outlives the rule that let it in. Whatever is not known keeps people out: no listener, no chain, no HTTP.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::{ChainIdentity, Clients, ConnectionFacts, Inbound, InboundSecurity, Traffic, Transport};
use crate::authorize::Facts;
use crate::config::{Authorization, RateLimits, Reason, ReasonKind, Snapshot, Telemetry};
use crate::identity::SpiffeId;
use crate::limit::Scope;

/// What holds where nothing was configured.
static MUTUAL: InboundSecurity = InboundSecurity::Mutual(Clients::Trusted);

/// What a server goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerRules {
    /// No connection is taken, for this reason (gRFC A36 "not serving").
    Closed(Reason),
    /// Each is asked for mutual TLS: what holds where nobody configures servers.
    Strict,
    /// The chains of a listener decide.
    Listener(Arc<Inbound>),
}

/// How a connection was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered<'a> {
    /// In plaintext.
    Plaintext,
    /// Under TLS, without a certificate of its own.
    OneSided,
    /// Under mutual TLS, as this peer.
    Mutual(&'a SpiffeId),
}

impl ServerRules {
    /// What `snapshot` says of a server at `address`, written as `ip:port`. `governed`: the source of the snapshot also
    /// configures servers, so that silence means "not yet" and not "nothing to say".
    pub fn of(snapshot: &Snapshot, address: Option<&str>, governed: bool) -> Self {
        let any = snapshot.any_inbound();
        match address.and_then(|address| snapshot.inbound(address)) {
            Some(Ok(inbound)) => Self::Listener(Arc::clone(inbound)),
            None if any.is_some() => any.map_or(Self::Strict, |any| Self::Listener(Arc::clone(any))),
            Some(Err(reason)) if governed => Self::Closed(reason.clone()),
            None if governed => {
                let text = "the server's own configuration was not heard yet";
                Self::Closed(Reason::new(ReasonKind::Waiting, text))
            }
            _ => Self::Strict,
        }
    }

    /// Whether both are the same value, without looking into a listener.
    pub fn is_same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Listener(a), Self::Listener(b)) => Arc::ptr_eq(a, b),
            (a, b) => a == b,
        }
    }

    /// Whether how a connection begins has to be looked at before its chain is known. `false` where everybody is served in
    /// plaintext (Istio's DISABLE), so that a protocol in which the server speaks first works there.
    pub fn looks_at_beginning(&self) -> bool {
        let Self::Listener(inbound) = self else { return true };
        inbound.chains.iter().chain(&inbound.default).any(|chain| {
            let matches = &chain.matches;
            chain.security != InboundSecurity::Plaintext
                || matches.transport.is_some()
                || !matches.server_names.is_empty()
                || !matches.protocols.is_empty()
        })
    }

    /// What is asked of a connection. `floor`: code wants mutual TLS whatever the configuration says; it then says which
    /// clients are let in, and no more.
    ///
    /// # Errors
    ///
    /// When the connection is not taken at all.
    pub fn security(&self, facts: &ConnectionFacts<'_>, floor: bool) -> Result<&InboundSecurity, NotTaken> {
        let inbound = match self {
            Self::Closed(reason) => return Err(NotTaken::Closed(reason.clone())),
            Self::Strict => return of_transport(&MUTUAL, facts.transport),
            Self::Listener(inbound) => inbound,
        };
        let chain = inbound.chain_for(facts).ok_or(NotTaken::NoChain)?;
        let security = match &chain.security {
            InboundSecurity::Plaintext | InboundSecurity::OneSided if floor => &MUTUAL,
            security => security,
        };
        let security = of_transport(security, facts.transport)?;
        match chain.traffic {
            Traffic::Http => Ok(security),
            Traffic::Tcp => Err(NotTaken::NotHttp),
        }
    }

    /// What the requests of a connection must pass; `None`: nobody says anything of that.
    ///
    /// # Errors
    ///
    /// When the connection is not taken at all, so that nothing that comes by it may pass.
    pub fn authorization(&self, facts: &ConnectionFacts<'_>) -> Result<Option<&Arc<Authorization>>, NotTaken> {
        match self {
            Self::Closed(reason) => Err(NotTaken::Closed(reason.clone())),
            Self::Strict => Ok(None),
            Self::Listener(inbound) => {
                let chain = inbound.chain_for(facts).ok_or(NotTaken::NoChain)?;
                Ok(Some(&chain.authorization).filter(|authorization| !authorization.is_empty()))
            }
        }
    }

    /// Which identity is shown to a connection, and by whose roots it is judged. The workload's own where nothing is configured.
    pub fn identity(&self, facts: &ConnectionFacts<'_>) -> ChainIdentity {
        match self {
            Self::Listener(inbound) => inbound.chain_for(facts).map(|chain| chain.identity.clone()),
            Self::Closed(_) | Self::Strict => None,
        }
        .unwrap_or_default()
    }

    /// All identities that may be shown beside the workload's own.
    pub fn other_identities(&self) -> BTreeSet<&ChainIdentity> {
        let Self::Listener(inbound) = self else {
            return BTreeSet::new();
        };
        let chains = inbound.chains.iter().chain(&inbound.default);
        let encrypted = chains.filter(|chain| chain.security != InboundSecurity::Plaintext);
        encrypted
            .map(|chain| &chain.identity)
            .filter(|identity| !identity.is_own())
            .collect()
    }

    /// How many requests of a connection there may be, and whose limit that is; `None`: nobody says anything of that.
    pub fn limits(&self, facts: &ConnectionFacts<'_>) -> Option<(Scope, &Arc<RateLimits>)> {
        let Self::Listener(inbound) = self else { return None };
        let chain = inbound.chain_for(facts).filter(|chain| !chain.limits.is_empty())?;
        let scope = Scope {
            listener: inbound.name.clone(),
            chain: chain.name.clone(),
            port: facts.destination.port(),
        };
        Some((scope, &chain.limits))
    }

    /// What is told of the requests of a connection; `None`: nobody says anything of that.
    pub fn telemetry(&self, facts: &ConnectionFacts<'_>) -> Option<&Telemetry> {
        let Self::Listener(inbound) = self else { return None };
        inbound.chain_for(facts).map(|chain| &chain.telemetry)
    }

    /// Whether a connection passes what its chain asks of connections (Envoy's network RBAC filter).
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn permits(&self, facts: &ConnectionFacts<'_>, entered: Entered<'_>) -> Result<(), NotTaken> {
        let Some(authorization) = self.authorization(facts)? else {
            return Ok(());
        };
        let known = Facts {
            source: Some(facts.source.ip()),
            destination: Some(facts.destination),
            server_name: facts.server_name,
            peer: match entered {
                Entered::Mutual(id) => Some(id),
                Entered::Plaintext | Entered::OneSided => None,
            },
            claims: None,
            head: None,
        };
        // What only reports is reported of requests.
        let passes = authorization.connection_passes(&known, &mut |_| ());
        passes.map_err(|_| NotTaken::Forbidden)
    }

    /// Whether a connection that was let in would be let in again.
    ///
    /// # Errors
    ///
    /// When it would not.
    pub fn holds(&self, facts: &ConnectionFacts<'_>, entered: Entered<'_>, floor: bool) -> Result<(), NotTaken> {
        match (self.security(facts, floor)?, entered) {
            (InboundSecurity::Mutual(clients), Entered::Mutual(id)) if clients.admit(id) => {}
            (InboundSecurity::Mutual(_), Entered::Mutual(_)) => return Err(NotTaken::WrongIdentity),
            (InboundSecurity::Plaintext, Entered::Plaintext) | (InboundSecurity::OneSided, Entered::OneSided) => {}
            _ => return Err(NotTaken::OtherSecurity),
        }
        self.permits(facts, entered)
    }
}

impl Clients {
    /// Whether a verified peer is one of them.
    pub fn admit(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Trusted => true,
            Self::Named(expected) => expected.admits(id.as_str()),
        }
    }
}

/// A chain that asks for TLS takes no plaintext, and the other way round, also where its match leaves that open.
fn of_transport(security: &InboundSecurity, transport: Transport) -> Result<&InboundSecurity, NotTaken> {
    match (security, transport) {
        (InboundSecurity::Plaintext, Transport::Tls) => Err(NotTaken::TlsNotSpoken),
        (InboundSecurity::OneSided | InboundSecurity::Mutual(_), Transport::RawBuffer) => Err(NotTaken::Plaintext),
        _ => Ok(security),
    }
}

/// Why a server does not take a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotTaken {
    /// The server takes none.
    Closed(Reason),
    /// No chain is for it (Envoy `filter_chain_not_found`, response flag NR).
    NoChain,
    /// It is in plaintext where TLS is asked for.
    Plaintext,
    /// It is in TLS where plaintext is spoken: the application's own, as Istio sees it, which nobody here serves.
    TlsNotSpoken,
    /// Its chain is for other traffic than HTTP.
    NotHttp,
    /// Its peer is none of the clients that are let in.
    WrongIdentity,
    /// It was let in under rules that asked for something else.
    OtherSecurity,
    /// A policy forbids it.
    Forbidden,
}

impl NotTaken {
    /// A stable lower-case word, fit for a metric label.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Closed(_) => "not_serving",
            Self::NoChain => "no_filter_chain",
            Self::Plaintext => "plaintext",
            Self::TlsNotSpoken => "tls_not_spoken",
            Self::NotHttp => "not_http",
            Self::WrongIdentity => "wrong_identity",
            Self::OtherSecurity => "security_changed",
            Self::Forbidden => "forbidden",
        }
    }
}

impl fmt::Display for NotTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(reason) => write!(f, "the server takes no connections now: {reason}"),
            Self::NoChain => f.write_str("no filter chain is for this connection"),
            Self::Plaintext => f.write_str("the peer spoke plaintext to a port that requires mutual TLS"),
            Self::TlsNotSpoken => f.write_str("the peer spoke TLS where the server speaks plaintext"),
            Self::NotHttp => f.write_str("the connection's filter chain is not for HTTP"),
            Self::WrongIdentity => f.write_str("the peer is none of the clients that are let in"),
            Self::OtherSecurity => f.write_str("connections of this kind are no longer let in"),
            Self::Forbidden => f.write_str("a policy forbids the connection"),
        }
    }
}

impl std::error::Error for NotTaken {}
