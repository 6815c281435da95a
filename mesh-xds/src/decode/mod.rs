//! Generated types to core values, or a refusal that names the resource and the field.
//!
//! In two steps: first the name, then the value, so that a refusal can say whose field is wrong and the other resources of
//! the same response are used (gRFC A46). A decoder that refuses says which field; whoever called it adds where that field
//! stands, so a path such as `virtual_hosts[0].routes[2].route.timeout` is only built when something is wrong.
//!
//! What gRPC drops is dropped here too, with a note for the status page. What would change a call's meaning if it were
//! ignored is refused.

mod cluster;
mod common;
mod endpoint;
mod lb;
mod listener;
mod matcher;
mod route;
pub(crate) use route::UNSERVED;
mod tls;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use prost::Message;

use crate::proto::discovery;
use crate::resource::ResourceKind;
use crate::wire::Raw;

/// The most notes kept of one resource: enough to see what is wrong, too few to fill a status page.
const MAX_NOTES: usize = 8;

/// The type of the envelope that a resource may come in (client feature `xds.config.resource-in-sotw`).
const ENVELOPE: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

/// What decoding needs to know of the process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context {
    /// The certificate provider that the workload's identity comes from; `None` when the bootstrap has none.
    pub(crate) provider: Option<Arc<str>>,
}

/// A resource that was refused: which one, which field of it, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    kind: ResourceKind,
    resource: Arc<str>,
    field: Box<str>,
    reason: Box<str>,
}

impl Rejected {
    pub(crate) fn new(kind: ResourceKind, resource: impl Into<Arc<str>>, fault: Fault) -> Self {
        Self {
            kind,
            resource: resource.into(),
            field: fault.path.into(),
            reason: fault.reason.into(),
        }
    }

    /// Says where in its response a resource stood whose name could not be read.
    pub(crate) fn at(mut self, index: usize) -> Self {
        if self.field.is_empty() {
            self.field = format!("resources[{index}]").into();
        } else {
            self.field = format!("resources[{index}].{}", self.field).into();
        }
        self
    }

    /// The resource's kind.
    pub fn kind(&self) -> ResourceKind {
        self.kind
    }

    /// The resource's name; empty when its bytes did not say.
    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// The path of the offending field, such as `virtual_hosts[0].routes[2].match.path_specifier`; empty when the resource
    /// as a whole is at fault.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What is wrong with it.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}: ", self.kind, self.resource)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Rejected {}

/// A field that is wrong, before it is known whose.
#[derive(Debug)]
pub(crate) struct Fault {
    path: String,
    reason: String,
}

impl Fault {
    pub(crate) fn new(field: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self {
            path: field.into(),
            reason: reason.to_string(),
        }
    }

    /// The same fault, seen from one level up.
    fn within(mut self, outer: impl fmt::Display) -> Self {
        self.path = match self.path.as_str() {
            "" => outer.to_string(),
            inner => format!("{outer}.{inner}"),
        };
        self
    }
}

/// What was left out of a resource that was accepted.
#[derive(Debug, Default)]
pub(crate) struct Notes(Vec<Box<str>>);

impl Notes {
    fn add(&mut self, note: impl fmt::Display) {
        if self.0.len() < MAX_NOTES {
            self.0.push(note.to_string().into());
        }
    }

    pub(crate) fn into_inner(self) -> Vec<Box<str>> {
        self.0
    }
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

/// Takes a resource out of its envelope, if it has one.
///
/// The name on the envelope is not looked at: the one inside decides, as in grpc-go.
pub(crate) fn unwrap(raw: Raw) -> Result<Raw, Fault> {
    if raw.type_url != ENVELOPE {
        return Ok(raw);
    }
    let envelope = discovery::Resource::decode(&*raw.bytes).map_err(|error| Fault::new("", error))?;
    let inner = envelope
        .resource
        .ok_or_else(|| Fault::new("resource", "the envelope is empty"))?;
    Ok(Raw {
        type_url: inner.type_url,
        bytes: inner.value,
    })
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
