//! Entries that give one port of a host different protocols (Istio), where some client sees both.

use std::collections::{BTreeMap, BTreeSet};

use super::MAX_COMPARED;
use crate::diagnostic::{Code, Severity};
use crate::istio::{Document, Documents, Port, ServiceEntry};
use crate::translate::{Findings, Mesh, host, namespaces};

/// A port, and the entry that declares it.
type Declared<'a> = (&'a Document<ServiceEntry>, &'a Port);

pub(super) fn find(documents: &Documents, mesh: &Mesh, findings: &mut Findings) {
    let clients = namespaces(documents, mesh);
    let mut seen: BTreeMap<(String, u32), Vec<Declared<'_>>> = BTreeMap::new();
    for document in &documents.service_entries {
        for name in &document.spec.hosts {
            let host = host::resolve(name, document.meta.namespace(), &mesh.domain);
            for port in &document.spec.ports {
                let others = seen.entry((host.clone(), *port.number)).or_default();
                let other = others.iter().find(|(other, theirs)| {
                    !std::ptr::eq(*other, document) && differ(theirs, port) && meet(other, document, &clients)
                });
                if let (Some((other, theirs)), Some(own)) = (other, &port.protocol) {
                    let theirs = theirs.protocol.as_ref().map_or("", |protocol| protocol.value);
                    let message = format!(
                        "port {} of {host:?} is {} here and {theirs} in {}",
                        *port.number, **own, other.meta
                    );
                    let (meta, place) = (&document.meta, &own.place);
                    findings.say(meta, Severity::Warning, Code::ConflictingProtocols, place, message);
                }
                if others.len() < MAX_COMPARED {
                    others.push((document, port));
                }
            }
        }
    }
}

fn differ(one: &Port, other: &Port) -> bool {
    let word = |port: &Port| port.protocol.as_ref().map(|protocol| protocol.value);
    matches!((word(one), word(other)), (Some(one), Some(other)) if one != other)
}

/// Whether a client sees both; the empty name stands for those that no document names.
fn meet(one: &Document<ServiceEntry>, other: &Document<ServiceEntry>, clients: &BTreeSet<Box<str>>) -> bool {
    let sees = |client: &str, entry: &Document<ServiceEntry>| {
        let names = entry.spec.export_to.iter().map(|name| name.as_str());
        host::is_visible(names, entry.meta.namespace(), client)
    };
    let mut clients = clients.iter().map(|client| &**client).chain([""]);
    clients.any(|client| sees(client, one) && sees(client, other))
}
