//! Where each thing that a translation makes was written: a table beside the snapshot, for whoever has to explain it.
//!
//! Beside and not inside: clients have no use for it, a snapshot is compared to know whether anything changed, and a comment that moves a
//! line is no change. It is only made when somebody asks.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use mesh_core::config::ClusterName;
use serde::Serialize;

use crate::istio::{Meta, Place};

/// A place in a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The document, as `Kind namespace/name`.
    pub document: String,
    /// Its file.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The field, as `spec.http[0].match[1]`.
    pub field: String,
}

impl Origin {
    pub(crate) fn new(meta: &Meta, place: &Place) -> Self {
        Self {
            document: meta.to_string(),
            file: meta.file.to_string(),
            line: place.line,
            field: place.field.to_string(),
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}  {}", self.file, self.line, self.document)?;
        match self.field.as_str() {
            "" => Ok(()),
            field => write!(f, " {field}"),
        }
    }
}

/// Where what a translation made was written.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    /// The rule of each route, and its match where it has one: by the name of the tree, in the order of its routes.
    pub routes: BTreeMap<Box<str>, Vec<Vec<Origin>>>,
    /// What made a cluster what it is: the service, then rules in the order in which they count, then the subset.
    pub clusters: BTreeMap<ClusterName, Vec<Origin>>,
    /// The document of each endpoint, by its service's host.
    pub endpoints: BTreeMap<(Box<str>, SocketAddr), Origin>,
}
