//! Who is at the other end, as proof: a value of this type exists only for a verified handshake.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;

use mesh_core::identity::SpiffeId;

use super::ConnectionInfo;

/// The verified identity of the workload that sent a request, found in the request's extensions.
///
/// It cannot be made outside this crate, so a handler that holds one need not ask whether anybody checked. A request that
/// came in plaintext has none.
///
/// ```
/// use mesh_server::PeerIdentity;
///
/// async fn whoami(request: http::Request<mesh_server::RequestBody>) -> String {
///     match request.extensions().get::<PeerIdentity>() {
///         Some(peer) => peer.id().to_string(),
///         None => "somebody".to_owned(),
///     }
/// }
/// ```
#[derive(Clone)]
pub struct PeerIdentity {
    /// One that has a peer: it is only ever made by [`PeerIdentity::of`].
    connection: ConnectionInfo,
}

impl PeerIdentity {
    /// The peer of a connection, if it has one.
    pub(super) fn of(connection: &ConnectionInfo) -> Option<Self> {
        connection.peer_id().map(|_| Self {
            connection: connection.clone(),
        })
    }

    /// The peer's SPIFFE id.
    pub fn id(&self) -> &SpiffeId {
        self.connection
            .peer_id()
            .expect("it is only made of connections with one")
    }

    /// Where its connection came from.
    pub fn address(&self) -> SocketAddr {
        self.connection.source()
    }

    /// The connection that it was verified on.
    pub fn connection(&self) -> &ConnectionInfo {
        &self.connection
    }
}

impl PartialEq for PeerIdentity {
    fn eq(&self, other: &Self) -> bool {
        (self.id(), self.address()) == (other.id(), other.address())
    }
}

impl Eq for PeerIdentity {}

impl Hash for PeerIdentity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.id(), self.address()).hash(state);
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id().fmt(f)
    }
}

impl fmt::Debug for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PeerIdentity").field(self.id()).finish()
    }
}
