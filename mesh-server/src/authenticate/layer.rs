//! How the room is put into a stack.

use std::sync::Arc;

use mesh_core::Link;
use mesh_core::report::Tally;
use tower::Layer;

use super::Authenticate;
use crate::dangerous::Dangerous;
use crate::log_limit::LogLimit;

/// Refuses requests that carry no [`PeerIdentity`](crate::PeerIdentity). Part of [`MeshLayer`](crate::MeshLayer).
#[derive(Clone, Debug)]
pub struct AuthenticateLayer {
    plaintext: bool,
    tally: Tally,
    log: Arc<LogLimit>,
}

impl AuthenticateLayer {
    /// Counts what it refuses for `link`, as `request_refused`.
    pub fn new(link: &Link) -> Self {
        Self {
            plaintext: false,
            tally: link.tally().clone(),
            log: Arc::new(LogLimit::new(link.tally().clone())),
        }
    }

    /// Choices that give up the protection of the mesh.
    pub fn dangerous(self) -> Dangerous<Self> {
        Dangerous(self)
    }
}

impl Dangerous<AuthenticateLayer> {
    /// Lets requests through whose sender is not known.
    pub fn plaintext(self) -> AuthenticateLayer {
        AuthenticateLayer {
            plaintext: true,
            ..self.0
        }
    }
}

impl<S> Layer<S> for AuthenticateLayer {
    type Service = Authenticate<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Authenticate {
            inner,
            plaintext: self.plaintext,
            tally: self.tally.clone(),
            log: Arc::clone(&self.log),
        }
    }
}
