//! `DestinationRule`s against the services they are for: subsets of nobody, and TLS that the other end does not speak or nobody checks.

use std::collections::BTreeMap;

use crate::diagnostic::{Code, Severity};
use crate::istio::{
    ClientTls, DestinationRule, Document, Documents, Location, Mode, Port, TlsWord, TrafficPolicy, has_all,
};
use crate::translate::authentication::Authentication;
use crate::translate::endpoint::{self, Member};
use crate::translate::slices::Slices;
use crate::translate::{Findings, Mesh, host};

/// A service, its ports, and who is in it.
struct Known<'a> {
    host: String,
    ports: &'a [Port],
    internal: bool,
    members: Vec<Member<'a>>,
    /// The labels of those who may register themselves.
    to_come: Vec<&'a BTreeMap<String, String>>,
}

pub(super) fn find(documents: &Documents, mesh: &Mesh, findings: &mut Findings) {
    // What is wrong with these is said by whoever translates them.
    let mut said = Findings::default();
    let authentication = Authentication::new(documents, mesh, &mut said);
    let mut services: Vec<Known<'_>> = documents
        .service_entries
        .iter()
        .flat_map(|document| {
            let members = endpoint::members(document, documents, mesh, &mut said);
            let location = document.spec.location.as_ref().map(|location| location.value);
            let selector = document.spec.workload_selector.as_ref();
            let to_come = endpoint::to_come(documents, document.meta.namespace());
            let to_come = to_come.filter(|labels| selector.is_some_and(|selector| selector.selects(labels)));
            let to_come: Vec<_> = to_come.collect();
            document.spec.hosts.iter().map(move |name| Known {
                host: host::resolve(name, document.meta.namespace(), &mesh.domain),
                ports: &document.spec.ports,
                internal: location == Some(Location::MeshInternal),
                members: members.clone(),
                to_come: to_come.clone(),
            })
        })
        .collect();
    let slices = Slices::new(documents);
    let of_cluster = documents
        .services
        .iter()
        .filter(|document| document.spec.unserved.is_none());
    services.extend(of_cluster.map(|document| {
        Known {
            host: host::of_cluster(&document.meta.name, document.meta.namespace(), &mesh.domain),
            ports: &document.spec.ports,
            internal: true,
            members: slices.members(document, mesh, &mut said),
            to_come: match document.spec.selector.is_empty() {
                true => Vec::new(),
                false => endpoint::to_come(documents, document.meta.namespace())
                    .filter(|labels| has_all(labels, &document.spec.selector))
                    .collect(),
            },
        }
    }));
    let mut by_host: BTreeMap<&str, Vec<&Known<'_>>> = BTreeMap::new();
    for service in &services {
        by_host.entry(&service.host).or_default().push(service);
    }
    for rule in &documents.destination_rules {
        let pattern = host::resolve(&rule.spec.host, rule.meta.namespace(), &mesh.domain);
        // Most rules are for one host, of thousands.
        let meant: Vec<&Known<'_>> = match pattern.starts_with('*') {
            false => by_host.get(pattern.as_str()).cloned().unwrap_or_default(),
            true => services
                .iter()
                .filter(|service| host::fit(&pattern, &service.host).is_some())
                .collect(),
        };
        empty_subsets(rule, &meant, findings);
        let of_rule = rule.spec.policy.as_ref();
        let of_subsets = rule.spec.subsets.iter();
        let of_subsets = of_subsets.map(|subset| (subset.policy.as_ref(), Some(&subset.labels)));
        for (policy, labels) in [(of_rule, None)].into_iter().chain(of_subsets) {
            let Some(policy) = policy else { continue };
            let blocks = std::iter::once((None, &policy.blocks));
            let ports = policy.ports.iter().map(|(port, blocks)| (Some(port.value), blocks));
            for (port, blocks) in blocks.chain(ports) {
                let Some(tls) = &blocks.tls else { continue };
                unverified(rule, tls, port, findings);
                callers_files(rule, tls, findings);
                let members = meant.iter().filter(|service| service.internal).flat_map(|service| {
                    let members = service.members.iter();
                    let members = members.filter(|member| labels.is_none_or(|labels| has_all(member.labels, labels)));
                    members.map(move |member| (service.ports, member))
                });
                conflicts(rule, (tls, port, policy), members, &authentication, findings);
            }
        }
    }
}

fn empty_subsets(rule: &Document<DestinationRule>, meant: &[&Known<'_>], findings: &mut Findings) {
    if meant.is_empty() {
        return;
    }
    for subset in &rule.spec.subsets {
        let there = meant
            .iter()
            .flat_map(|service| &service.members)
            .map(|member| member.labels);
        let to_come = meant.iter().flat_map(|service| service.to_come.iter().copied());
        if !there.chain(to_come).any(|labels| has_all(labels, &subset.labels)) {
            let message = format!(
                "no endpoint of {:?} has the labels of subset {:?}",
                *rule.spec.host, *subset.name
            );
            findings.say(&rule.meta, Severity::Warning, Code::EmptySubset, &subset.place, message);
        }
    }
}

fn unverified(rule: &Document<DestinationRule>, tls: &ClientTls, port: Option<u32>, findings: &mut Findings) {
    if !matches!(tls.mode, TlsWord::Simple | TlsWord::Mutual) {
        return;
    }
    let code = match port {
        None => Code::UnverifiedServer,
        Some(_) => Code::UnverifiedServerPort,
    };
    if tls.unverified {
        let message =
            "insecureSkipVerify: nobody asks who the server is, and only a client whose code allows that calls it";
        findings.say(&rule.meta, Severity::Warning, code, &tls.place, message);
    } else if tls.roots.is_none() && tls.credential.is_none() {
        let message = "without caCertificates the roots of the caller's system vouch for the server";
        findings.say(&rule.meta, Severity::Info, code, &tls.place, message);
    }
    if !tls.unverified && tls.sni.is_none() && tls.names.is_empty() {
        let message = "neither sni nor subjectAltNames: there is no name to hold the server's certificate against";
        findings.say(&rule.meta, Severity::Warning, Code::Nameless, &tls.place, message);
    }
}

/// What is in each caller's files is no certificate provider of a gRPC client's bootstrap: it is told a cluster without endpoints.
fn callers_files(rule: &Document<DestinationRule>, tls: &ClientTls, findings: &mut Findings) {
    let has_files = tls.certificate.is_some() || tls.roots.is_some() || tls.credential.is_some();
    // Without a name it cannot be called by anybody, which is said already.
    let has_name = tls.unverified || tls.sni.is_some() || !tls.names.is_empty();
    if matches!(tls.mode, TlsWord::Simple | TlsWord::Mutual) && has_files && has_name {
        let message = "gRPC clients of another make know certificate providers alone, and no files or secrets: their calls to this host fail";
        let severity = match tls.mode {
            TlsWord::Mutual => Severity::Warning,
            // Roots in a file are what a server outside of the mesh is to be judged by, and most meshes have no such clients.
            _ => Severity::Info,
        };
        findings.say(&rule.meta, severity, Code::CallersFiles, &tls.place, message);
    }
}

/// Says the first workload that does not take what a rule has its callers speak.
fn conflicts<'a>(
    rule: &Document<DestinationRule>,
    (tls, port, policy): (&ClientTls, Option<u32>, &TrafficPolicy),
    members: impl Iterator<Item = (&'a [Port], &'a Member<'a>)>,
    authentication: &Authentication<'_>,
    findings: &mut Findings,
) {
    for (ports, member) in members {
        // A port with settings of its own is not meant by what holds for the others.
        let meant = ports.iter().filter(|one| match port {
            Some(port) => *one.number == port,
            None => !policy.at(*one.number).1,
        });
        for address in meant.filter_map(|port| member.address_at(port)) {
            let mode = authentication.mode(member.namespace(), member.labels, address.port());
            let why = match (tls.mode, mode) {
                (TlsWord::IstioMutual, Mode::Disable) => "takes plaintext alone",
                (TlsWord::Disable | TlsWord::Simple | TlsWord::Mutual, Mode::Strict) => {
                    "takes the mesh's mutual TLS alone"
                }
                _ => continue,
            };
            let message = format!("{address} {why} (PeerAuthentication): calls there fail");
            findings.say(&rule.meta, Severity::Warning, Code::TlsConflict, &tls.place, message);
            return;
        }
    }
}
