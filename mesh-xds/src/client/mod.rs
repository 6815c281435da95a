//! The client's end: one task, one stream, and what the process knows of the mesh.
//!
//! ```text
//! wire - ads (protocol, cache) - assemble (whole trees) - Link (snapshot) - the data plane
//!         ^ stream.rs moves bytes between them; status.rs shows what happened
//! ```

pub(crate) mod ads;
mod assemble;
mod backoff;
pub(crate) mod cache;
mod report;
mod state;
mod status;
mod stream;
mod targets;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use mesh_core::link::Parts;
use mesh_core::{Link, Snapshot, live};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};

use crate::bootstrap::{Bootstrap, Protocol};
use crate::connect::Access;
use crate::connector::Connector;
use crate::decode::Context;
use crate::error::StartError;
use crate::node::Node;
use crate::wire::{Delta, Sotw};
use crate::{convention, identity};

pub(crate) use backoff::Backoff;
pub use report::{Connection, Phase, RawBytes, Report, ResourceStatus};
pub use status::{ConfigStatus, NotYet};

/// Optional abilities that gRPC clients announce: no overprovisioning factor, and resources may come in envelopes.
const FEATURES: [&str; 2] = [
    "envoy.lb.does_not_support_overprovisioning",
    "xds.config.resource-in-sotw",
];

/// The membership of this process in a mesh, fed by a control plane.
///
/// It runs one task with one ADS stream, for any number of targets, and one more where the bootstrap has a certificate
/// provider. Both end when this and every clone of its [`link`](Self::link) are dropped.
#[derive(Clone)]
pub struct XdsClient {
    link: Link,
    status: ConfigStatus,
}

impl XdsClient {
    /// Starts with the production parts.
    ///
    /// It does not wait: a control plane that cannot be reached is tried again for ever, and calls say why they wait.
    ///
    /// # Errors
    ///
    /// When there is no tokio runtime around.
    pub fn start(bootstrap: Bootstrap) -> Result<Self, StartError> {
        Self::builder(bootstrap).start()
    }

    /// For a client with injected parts.
    pub fn builder(bootstrap: Bootstrap) -> XdsClientBuilder {
        XdsClientBuilder {
            bootstrap,
            parts: Parts::default(),
            connector: Connector::default(),
        }
    }

    /// What channels and servers are made from.
    pub fn link(&self) -> Link {
        self.link.clone()
    }

    /// What the stream is doing.
    pub fn status(&self) -> &ConfigStatus {
        &self.status
    }
}

impl fmt::Debug for XdsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XdsClient").field("status", &self.status).finish()
    }
}

/// See [`XdsClient::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct XdsClientBuilder {
    bootstrap: Bootstrap,
    parts: Parts,
    connector: Connector,
}

impl XdsClientBuilder {
    /// Randomness and wall time.
    pub fn parts(mut self, parts: Parts) -> Self {
        self.parts = parts;
        self
    }

    /// How the control plane and the CA are dialled.
    pub fn connector(mut self, connector: Connector) -> Self {
        self.connector = connector;
        self
    }

    /// Starts the tasks.
    ///
    /// # Errors
    ///
    /// When there is no tokio runtime around.
    pub fn start(self) -> Result<XdsClient, StartError> {
        let runtime = Handle::try_current().map_err(StartError::no_runtime)?;
        let Self {
            bootstrap,
            parts,
            connector,
        } = self;
        let (source, link) = Link::new(parts);
        let provider = bootstrap.identity_provider();
        let context = Context {
            provider: provider.map(|(name, _)| name.into()),
            profile: bootstrap.profile(),
        };
        let shows_identity = provider.is_some() && bootstrap.server().credentials.shows_identity();
        let bell = Arc::new(Notify::new());
        let ring = Arc::clone(&bell);
        let interest_changes = link.interest().on_change(move || ring.notify_one());
        let (reports, receiver) = watch::channel(Arc::new(Report::default()));
        let status = ConfigStatus::new(receiver, link.applied());
        // The senders go with the link; their receivers then tell the tasks to end.
        let (alive, gone) = oneshot::channel::<()>();
        link.keep_alive((alive, interest_changes));
        let stop = async move { drop(gone.await) };
        let begin = Begin {
            link: &link,
            snapshots: source.snapshots,
            context,
            reports,
            bell,
            connector: connector.clone(),
            shows_identity,
        };
        match bootstrap.protocol() {
            Protocol::Sotw => drop(runtime.spawn(begin.task::<Sotw>(&bootstrap).run(stop))),
            Protocol::Delta => drop(runtime.spawn(begin.task::<Delta>(&bootstrap).run(stop))),
        }
        if let Some((_, provider)) = bootstrap.identity_provider() {
            let (alive, gone) = oneshot::channel::<()>();
            link.keep_alive(alive);
            let supply = identity::Supply::new(provider.clone(), connector, &link, source.identity);
            runtime.spawn(supply.run(async move { drop(gone.await) }));
        }
        Ok(XdsClient { link, status })
    }
}

/// What the stream's task is made of, whichever variant of the protocol it speaks.
struct Begin<'a> {
    link: &'a Link,
    snapshots: live::Writer<Snapshot>,
    context: Context,
    reports: watch::Sender<Arc<Report>>,
    bell: Arc<Notify>,
    connector: Connector,
    shows_identity: bool,
}

impl Begin<'_> {
    fn task<V: ads::Variant>(self, bootstrap: &Bootstrap) -> stream::Task<V> {
        let assembler = assemble::Assembler::new(assemble::Naming {
            profile: self.context.profile,
            names: bootstrap.listener_names().clone(),
        });
        let ads = ads::AdsState::<V>::new(Arc::new(node(bootstrap.node())), self.context);
        let server = bootstrap.server().clone();
        let name = server.uri.to_string();
        stream::Task {
            state: state::State::new(self.link, self.snapshots, ads, assembler, self.reports, name),
            bell: self.bell,
            access: Access::new(
                server,
                self.connector,
                Arc::clone(self.link.wall_clock()),
                self.link.entropy(),
            ),
            identity: self.shows_identity.then(|| self.link.identity().clone()),
            backoff: Backoff::new(self.link.entropy().clone()),
        }
    }
}

/// The node as the file says, with what only the client can say.
fn node(node: &Node) -> Node {
    Node {
        user_agent: convention::OUR_USER_AGENT.into(),
        user_agent_version: env!("CARGO_PKG_VERSION").into(),
        features: FEATURES.map(String::from).into(),
        ..node.clone()
    }
}
