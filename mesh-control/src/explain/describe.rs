//! `meshctl describe`: which documents apply to a service, in the order in which they count.
//!
//! It is the table beside a translation, read by service instead of by request: what is listed is what was used, and not what looks as if
//! it might be.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use mesh_core::config::Cluster;
use serde::Serialize;

use super::{ExplainRefusal, MAX_PROPOSED, scope};
use crate::diagnostic::Diagnostic;
use crate::source::Reading;
use crate::translate::{self, Mesh, Origin};

/// A service and what was written for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Description {
    /// Its host.
    pub host: String,
    /// The namespace of the clients.
    pub clients: String,
    /// What was written, by what it is for.
    pub sections: Vec<Described>,
}

/// What was written for one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Described {
    /// What it is for.
    pub about: String,
    /// Where, what counts first before what comes after.
    pub origins: Vec<Origin>,
}

/// Describes a service, by its host, as clients of a namespace see it; a short host is of `namespace`. Pure.
///
/// # Errors
///
/// When the documents have errors, or the clients know no such service.
pub fn describe(
    reading: &Reading,
    mesh: &Mesh,
    (service, namespace): (&str, &str),
    clients: &str,
) -> Result<Description, ExplainRefusal> {
    let errors: Vec<_> = crate::analyze(reading, mesh)
        .into_iter()
        .filter(Diagnostic::is_error)
        .collect();
    if !errors.is_empty() {
        return Err(ExplainRefusal::Analysis(errors));
    }
    let documents = &reading.documents;
    let translation = translate::trace(documents, mesh, &scope(documents, mesh, clients));
    let (Some(snapshot), Some(origins)) = (&translation.snapshot, &translation.origins) else {
        return Err(ExplainRefusal::Analysis(translation.diagnostics));
    };
    let host = translate::full_host(service, namespace, mesh);
    let all = || {
        snapshot
            .clusters()
            .iter()
            .filter_map(|(_, cluster)| cluster.as_ref().ok())
    };
    let host_of = |cluster: &Cluster| {
        cluster
            .service
            .as_ref()
            .map_or_else(String::new, |one| one.host().to_owned())
    };
    let mut own: Vec<_> = all().filter(|cluster| host_of(cluster) == host).collect();
    own.sort_by(|one, other| one.name.cmp(&other.name));
    let Some(first) = own.first() else {
        let known: BTreeSet<String> = all().map(|cluster| host_of(cluster)).collect();
        return Err(ExplainRefusal::NoTarget {
            target: host,
            known: known.into_iter().take(MAX_PROPOSED).collect(),
        });
    };
    let provider = first.service.as_ref().map_or("", |service| service.namespace());
    let mut sections = Vec::new();
    let mut add = |about: String, origins: Vec<Origin>| {
        if !origins.is_empty() {
            sections.push(Described { about, origins });
        }
    };
    let addresses: BTreeSet<SocketAddr> = own
        .iter()
        .flat_map(|cluster| cluster.endpoints.iter().map(|endpoint| endpoint.address))
        .collect();
    for cluster in &own {
        if let Some(routes) = origins.routes.get(cluster.name.as_str()) {
            add(
                format!("routes of {}, tried in this order", cluster.name),
                routes.concat(),
            );
        }
        let written = origins.clusters.get(&cluster.name).cloned().unwrap_or_default();
        add(format!("cluster {}", cluster.name), written);
    }
    for address in addresses {
        let at = origins.endpoints.get(&(host.as_str().into(), address)).cloned();
        let server = translate::server_origins(documents, mesh, provider, address);
        let policies = server.policies.into_iter().map(|(_, origin)| origin);
        let all = at.into_iter().chain(server.mode).chain(server.tokens).chain(policies);
        add(format!("server {address}"), all.collect());
    }
    Ok(Description {
        host,
        clients: clients.to_owned(),
        sections,
    })
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, as clients in namespace {} see it", self.host, self.clients)?;
        for section in &self.sections {
            write!(f, "\n{}", section.about)?;
            section
                .origins
                .iter()
                .try_for_each(|origin| write!(f, "\n  {origin}"))?;
        }
        Ok(())
    }
}
