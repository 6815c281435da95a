//! Generated types to core values, or a refusal that names the resource and the field.
//!
//! In two steps: first the name, then the value, so that a refusal can say whose field is wrong and the other resources of
//! the same response are used (gRFC A46). A decoder that refuses says which field; whoever called it adds where that field
//! stands, so a path such as `virtual_hosts[0].routes[2].route.timeout` is only built when something is wrong.
//!
//! What gRPC drops is dropped here too, with a note for the status page. What would change a call's meaning if it were
//! ignored is refused.

mod address;
mod cluster;
mod common;
mod endpoint;
mod ext_authz;
mod extension;
mod fault;
mod jwt;
mod limit;
mod listener;
mod matcher;
mod metadata;
mod overrides;
mod rbac;
mod refusal;
mod route;
mod session;
mod telemetry;
mod tls;
mod token;
mod weight;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::Credential;
use prost::Message;

use crate::bootstrap::Profile;
use crate::proto::discovery;
use crate::resource::ResourceKind;
use crate::wire::{Raw, time_to_live};

pub(crate) use listener::{Asks, Discovered, Guarding};
#[cfg(feature = "server")]
pub(crate) use matcher::string_match;
pub use refusal::Rejected;
pub(crate) use refusal::{Fault, Notes, clip};
pub(crate) use weight::admit;

/// The type of the envelope that a resource may come in (client feature `xds.config.resource-in-sotw`).
pub(crate) const ENVELOPE: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

/// What decoding needs to know of the process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context {
    /// The certificate provider that the workload's identity comes from; `None` when the bootstrap has none.
    pub(crate) provider: Option<Arc<str>>,
    /// The other certificate providers of the bootstrap, by instance name.
    pub(crate) others: Arc<Others>,
    /// Whose rules the control plane writes by.
    pub(crate) profile: Profile,
    /// Whether the bootstrap trusts the control plane to say by which names endpoints are called (gRFC A81). Who writes for
    /// sidecars always may (Envoy).
    pub(crate) trusted: bool,
}

/// What certificate providers have, by instance name.
pub(crate) type Others = BTreeMap<Box<str>, Provided>;

/// What one has: of a `file_watcher` that has one half of an identity, that one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Provided {
    /// Files, which the handshakes of a cluster read.
    pub(crate) identity: Option<Credential>,
    /// A file, which they are judged by. `None` also where roots are told per trust domain.
    pub(crate) roots: Option<Box<Path>>,
    /// Whether it has a certificate that can be shown.
    pub(crate) shows: bool,
    /// Whether it has roots that peers can be judged by.
    pub(crate) judges: bool,
}

/// A kind of resource and how it is read.
pub(crate) trait Resource: Sized {
    const KIND: ResourceKind;
    type Proto: Message + Default;

    fn name(proto: &Self::Proto) -> &str;
    fn decode(proto: &Self::Proto, context: &Context, notes: &mut Notes) -> Result<Self, Fault>;
}

/// A resource whose name could be read.
#[derive(Debug)]
pub(crate) struct Decoded<R> {
    pub(crate) name: Arc<str>,
    pub(crate) value: Result<R, Rejected>,
    pub(crate) notes: Vec<Box<str>>,
}

/// What came in the place of a resource.
#[derive(Debug)]
pub(crate) enum Unwrapped {
    /// The resource itself.
    Plain(Raw),
    /// The resource, in an envelope that may say how long it lives.
    Envelope {
        raw: Raw,
        /// What the envelope says the resource is; empty where it says nothing.
        name: Arc<str>,
        /// Its own version; empty where it says none.
        version: Arc<str>,
        ttl: Option<Duration>,
    },
    /// An envelope without a resource: what the client holds lives on (xDS protocol, "TTL"). Its version is empty where it says
    /// none.
    Heartbeat {
        name: Arc<str>,
        version: Arc<str>,
        ttl: Option<Duration>,
    },
}

/// Takes a resource out of its envelope, if it has one. Whoever calls this compares the name on it with the one inside.
pub(crate) fn unwrap(raw: Raw) -> Result<Unwrapped, Fault> {
    if raw.type_url != ENVELOPE {
        return Ok(Unwrapped::Plain(raw));
    }
    let envelope = discovery::Resource::decode(&*raw.bytes).map_err(|error| Fault::new("", error))?;
    let ttl = time_to_live(envelope.ttl.as_ref());
    match envelope.resource {
        Some(inner) => Ok(Unwrapped::Envelope {
            raw: inner.into(),
            name: envelope.name.into(),
            version: envelope.version.into(),
            ttl,
        }),
        None if ttl.is_some() && !envelope.name.is_empty() => Ok(Unwrapped::Heartbeat {
            name: envelope.name.into(),
            version: envelope.version.into(),
            ttl,
        }),
        None => Err(Fault::new("resource", "the envelope is empty")),
    }
}

/// Reads one resource.
///
/// # Errors
///
/// When not even its name can be read. A resource that has a name carries its refusal inside.
pub(crate) fn decode<R: Resource>(raw: &Raw, context: &Context) -> Result<Decoded<R>, Rejected> {
    let nameless = |fault| Rejected::new(R::KIND, "", fault);
    if raw.type_url != R::KIND.type_url() {
        let reason = format!("expected a {}, not {:?}", R::KIND, raw.type_url);
        return Err(nameless(Fault::new("type_url", reason)));
    }
    let proto = R::Proto::decode(&*raw.bytes).map_err(|error| nameless(Fault::new("", error)))?;
    if R::name(&proto).is_empty() {
        return Err(nameless(Fault::new("name", "is empty")));
    }
    let name: Arc<str> = R::name(&proto).into();
    let mut notes = Notes::default();
    let value =
        R::decode(&proto, context, &mut notes).map_err(|fault| Rejected::new(R::KIND, Arc::clone(&name), fault));
    Ok(Decoded {
        name,
        value,
        notes: notes.into_inner(),
    })
}
