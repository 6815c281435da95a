//! Who is at the other end, as proof: a value of this type exists only for a verified handshake.

use std::fmt;
use std::net::SocketAddr;

use mesh_core::identity::SpiffeId;

/// The verified identity of the workload that sent a request, found in the request's extensions.
///
/// It cannot be made outside this crate, so a handler that holds one need not ask whether anybody checked. A request that
/// came in plaintext has none.
///
/// ```
/// use mesh_server::PeerIdentity;
///
/// async fn whoami(request: http::Request<hyper::body::Incoming>) -> String {
///     match request.extensions().get::<PeerIdentity>() {
///         Some(peer) => peer.id().to_string(),
///         None => "somebody".to_owned(),
///     }
/// }
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PeerIdentity {
    id: SpiffeId,
    address: SocketAddr,
}

impl PeerIdentity {
    /// To be called with the id of a chain that the verifier accepted, and nothing else.
    pub(super) fn verified(id: SpiffeId, address: SocketAddr) -> Self {
        Self { id, address }
    }

    /// The peer's SPIFFE id.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Where its connection came from.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

impl fmt::Debug for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PeerIdentity").field(&self.id).finish()
    }
}
