//! Federation (gRFC A47): whose names are asked of which servers, and how targets become names of listeners.

use std::collections::BTreeMap;
use std::fmt;

use super::file::XdsAuthority;
use super::{BootstrapError, Server, server};
use crate::name::{InvalidResourceName, ResourceName, decode_percent, encode_path, is_structured};
use crate::resource::ResourceKind;

/// The template for targets that name no authority.
const DEFAULT_TEMPLATE: &str = "%s";
/// What a template has in the place of a target or an address.
const PLACE: &str = "%s";
/// The scheme of targets.
const TARGET_SCHEME: &str = "xds:";

/// An entry of `authorities`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    template: Box<str>,
    servers: Vec<Server>,
    fallback_on_reachability_only: bool,
}

impl Authority {
    /// Makes a listener's name of a target's path: every `%s` stands for the path, percent-encoded.
    pub fn client_listener_template(&self) -> &str {
        &self.template
    }

    /// The servers in order of priority: its own, or those at the top of the file.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Whether a server that cannot be reached is reason enough to fall back to the next, even if everything that is wanted
    /// is known (gRFC A95). By default both must be so (gRFC A71).
    pub fn fallback_on_reachability_only(&self) -> bool {
        self.fallback_on_reachability_only
    }
}

pub(super) fn all(
    entries: &BTreeMap<String, XdsAuthority>,
    default_servers: &[Server],
) -> Result<BTreeMap<String, Authority>, BootstrapError> {
    let read = |(name, entry): (&String, &XdsAuthority)| Ok((name.clone(), authority(name, entry, default_servers)?));
    entries.iter().map(read).collect()
}

fn authority(name: &str, entry: &XdsAuthority, default_servers: &[Server]) -> Result<Authority, BootstrapError> {
    let at = format!("authorities.{name}");
    let prefix = format!("xdstp://{name}/");
    let default = format!("{prefix}envoy.config.listener.v3.Listener/{PLACE}");
    // A name that a URI spells otherwise would never be found again.
    match ResourceName::parse(&default.replace(PLACE, "x")) {
        Ok(example) if example.authority() == Some(name) => {}
        _ => return Err(BootstrapError::at(at, "is not the authority of a URI")),
    }
    let template = match &entry.client_listener_resource_name_template {
        Some(template) if !template.is_empty() => {
            let at = format!("{at}.client_listener_resource_name_template");
            if !template.starts_with(&prefix) {
                return Err(BootstrapError::at(at, format!("does not begin with {prefix}")));
            }
            check(&at, template)?;
            template
        }
        _ => &default,
    };
    let servers = match server::all(&format!("{at}.xds_servers"), &entry.xds_servers)? {
        none if none.is_empty() => default_servers.to_vec(),
        own => own,
    };
    Ok(Authority {
        template: template.as_str().into(),
        servers,
        fallback_on_reachability_only: entry.fallback_on_reachability_only,
    })
}

/// Refuses a template that could make no name of a listener.
pub(super) fn check(at: &str, template: &str) -> Result<(), BootstrapError> {
    let example = template.replace(PLACE, "x");
    let name = ResourceName::parse_as(ResourceKind::Listener, &example);
    name.map(drop).map_err(|error| BootstrapError::at(at, error))
}

/// Makes names of listeners, for both sides of a process.
#[derive(Clone, Debug)]
pub(crate) struct ListenerNames {
    client: Box<str>,
    server: Option<Box<str>>,
    authorities: BTreeMap<Box<str>, Box<str>>,
}

impl ListenerNames {
    pub(crate) fn new(client: Option<&str>, server: Option<&str>, authorities: &BTreeMap<String, Authority>) -> Self {
        let templates = authorities.iter();
        Self {
            client: client.unwrap_or(DEFAULT_TEMPLATE).into(),
            server: server.map(Into::into),
            authorities: templates
                .map(|(name, entry)| (name.as_str().into(), entry.template.clone()))
                .collect(),
        }
    }

    pub(crate) fn client_template(&self) -> &str {
        &self.client
    }

    pub(crate) fn server_template(&self) -> Option<&str> {
        self.server.as_deref()
    }

    /// The listener of a target: a bare name, `xds:name`, `xds:///name` or `xds://AUTHORITY/name`.
    pub(crate) fn of_target(&self, target: &str) -> Result<String, InvalidTarget> {
        let invalid = |why| InvalidTarget {
            target: target.into(),
            why,
        };
        let Some(uri) = target.strip_prefix(TARGET_SCHEME) else {
            return self.expand(&self.client, target).map_err(invalid);
        };
        let (authority, path) = match uri.strip_prefix("//") {
            Some(rest) => rest.split_once('/').unwrap_or((rest, "")),
            None => ("", uri.strip_prefix('/').unwrap_or(uri)),
        };
        let template = match authority {
            "" => &self.client,
            name => self
                .authorities
                .get(name)
                .ok_or_else(|| invalid(Why::UnknownAuthority(name.into())))?,
        };
        let path = decode_percent(path).ok_or_else(|| invalid(Why::Percent))?;
        self.expand(template, &path).map_err(invalid)
    }

    /// The listener of an address that a server listens on.
    pub(crate) fn of_address(&self, address: &str) -> Result<String, NoServerListener> {
        let template = self.server.as_deref().ok_or(NoServerListener { why: None })?;
        self.expand(template, address)
            .map_err(|why| NoServerListener { why: Some(why) })
    }

    /// A name in its normal form, whose authority is known if it has one.
    fn expand(&self, template: &str, value: &str) -> Result<String, Why> {
        if value.is_empty() {
            return Err(Why::Empty);
        }
        let text = match is_structured(template) {
            true => template.replace(PLACE, &encode_path(value)),
            false => template.replace(PLACE, value),
        };
        let name = ResourceName::parse_as(ResourceKind::Listener, &text).map_err(Why::Name)?;
        match name.authority() {
            Some(authority) if !self.authorities.contains_key(authority) => {
                Err(Why::UnknownAuthority(authority.into()))
            }
            _ => Ok(name.to_string()),
        }
    }
}

/// A template without authorities.
impl From<&str> for ListenerNames {
    fn from(client: &str) -> Self {
        Self::new(Some(client), None, &BTreeMap::new())
    }
}

/// A target that stands for no listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidTarget {
    target: Box<str>,
    why: Why,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Why {
    Empty,
    Percent,
    UnknownAuthority(Box<str>),
    Name(InvalidResourceName),
}

impl InvalidTarget {
    /// The authority that the bootstrap does not know, if that is what is wrong.
    pub fn unknown_authority(&self) -> Option<&str> {
        match &self.why {
            Why::UnknownAuthority(name) => Some(name),
            _ => None,
        }
    }
}

impl fmt::Display for InvalidTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the target {:?} stands for no listener: {}", self.target, self.why)
    }
}

impl std::error::Error for InvalidTarget {}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it is empty"),
            Self::Percent => f.write_str("its percent-encoding is malformed"),
            Self::UnknownAuthority(name) => write!(f, "the bootstrap has no authority {name:?}"),
            Self::Name(error) => write!(f, "{error}"),
        }
    }
}

/// Why a server has no listener to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoServerListener {
    why: Option<Why>,
}

impl NoServerListener {
    /// Whether the bootstrap does not say how such listeners are called (`server_listener_resource_name_template`). There
    /// is no default (gRFC A36).
    pub fn is_template_missing(&self) -> bool {
        self.why.is_none()
    }
}

impl fmt::Display for NoServerListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no name for a server's listener: ")?;
        match &self.why {
            Some(why) => write!(f, "{why}"),
            None => f.write_str("the bootstrap has no server_listener_resource_name_template"),
        }
    }
}

impl std::error::Error for NoServerListener {}
