//! Services and their subsets to clusters. Each port of a service is a cluster, and so is each subset of each port; Istio's
//! names for them are `outbound|port|subset|host`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::{
    CircuitBreakers, Cluster, ClusterName, ExpectedPeers, LbPolicy, LoadReporting, MutualTls, Protocol,
    Service as Named, TlsMode,
};

use super::authentication::Authentication;
use super::service::Service;
use super::{ClientScope, Findings, Mesh, Origin, endpoint, host};
use crate::diagnostic::{Code, Severity};
use crate::istio::{DestinationRule, Document, Documents, Port, Subset};

/// Istio's `connectTimeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Istio sets every circuit breaker to "no limit" unless a DestinationRule says otherwise.
const BREAKERS: CircuitBreakers = CircuitBreakers::UNLIMITED;
/// Power of two choices (Envoy's default).
const LB: LbPolicy = LbPolicy::LEAST_REQUEST;

pub(super) fn name(host: &str, port: u32, subset: &str) -> ClusterName {
    format!("outbound|{port}|{subset}|{host}").into()
}

/// The cluster of one port of a service, or of one subset of it.
pub(super) fn build(
    service: &Service<'_>,
    port: &Port,
    subset: Option<&Subset>,
    authentication: &Authentication<'_>,
    findings: &mut Findings,
) -> Cluster {
    let everything = BTreeMap::new();
    let labels = subset.map_or(&everything, |subset| &subset.labels);
    let subset = subset.map_or("", |subset| subset.name.as_str());
    let endpoints = endpoint::endpoints(service, port, labels, authentication, findings);
    let number = *port.number;
    let all_plaintext = endpoints.plaintext > 0 && endpoints.plaintext == endpoints.list.len();
    let tls = if service.internal && !all_plaintext {
        TlsMode::Mutual(MutualTls {
            expected: ExpectedPeers::exactly(endpoints.identities.iter().map(String::as_str)),
            sni: Some(format!("outbound_.{number}_.{subset}_.{}", service.host).into()),
            ..MutualTls::default()
        })
    } else {
        TlsMode::Plaintext
    };
    // Who does not look at what single endpoints say calls them with TLS, and is refused rather than overheard.
    let some_plaintext =
        (service.internal && !all_plaintext && endpoints.plaintext > 0).then(endpoint::plaintext_match);
    let name = name(&service.host, number, subset);
    Cluster {
        lb: LB,
        connect_timeout: CONNECT_TIMEOUT,
        tls_matches: some_plaintext.into_iter().collect(),
        breakers: BREAKERS,
        // Who calls whom, and how it ends, is what an operator looks for first.
        load_reporting: Some(LoadReporting::of(name.as_str()).with_calls()),
        service: Some(Arc::new(Named::new(&service.host, "", service.meta.namespace()))),
        ..Cluster::new(name, tls, endpoints.list)
    }
}

/// Has a cluster called in its port's protocol. One of `HTTP` is agreed upon under TLS, and HTTP/1.1 where some endpoint is called in
/// the clear (Istio without `h2UpgradePolicy`): such a server need not know anything else.
pub(super) fn speak(port: &Port, cluster: &mut Cluster) {
    if port.is_http {
        let agrees = cluster.tls != TlsMode::Plaintext && cluster.tls_matches.is_empty();
        let protocol = match (&port.protocol, agrees) {
            // Of a port of which nobody said anything: what its callers speak (Istio).
            (None, _) => Protocol::Request,
            (Some(_), true) => Protocol::Negotiated,
            (Some(_), false) => Protocol::Http1,
        };
        Arc::make_mut(&mut cluster.connections).protocol = protocol;
    }
}

/// The subsets of a service as a client sees them, oldest first.
///
/// Rules are looked for in the client's namespace, then in the service's, then in the root namespace; the first of these
/// that has one wins entirely. Within it the most specific host wins, and rules of that same host are merged.
pub(super) fn subsets<'a>(
    service: &Service<'_>,
    documents: &'a Documents,
    mesh: &Mesh,
    scope: &ClientScope,
    findings: &mut Findings,
) -> Vec<&'a Subset> {
    let rules = governing(service, documents, mesh, scope);
    let mut subsets: Vec<&Subset> = Vec::new();
    for rule in rules {
        for subset in &rule.spec.subsets {
            if subsets.iter().any(|older| *older.name == *subset.name) {
                let message = format!(
                    "subset {:?} of {:?} is defined by an older rule already",
                    *subset.name, service.host
                );
                findings.say(
                    &rule.meta,
                    Severity::Warning,
                    Code::Duplicate,
                    &subset.name.place,
                    message,
                );
            } else {
                subsets.push(subset);
            }
        }
    }
    subsets
}

/// The rules of a service that count for a client: of one namespace, and of one host.
pub(super) fn governing<'a>(
    service: &Service<'_>,
    documents: &'a Documents,
    mesh: &Mesh,
    scope: &ClientScope,
) -> Vec<&'a Document<DestinationRule>> {
    let client = &*scope.namespace;
    // A client in the root namespace meets that namespace's rules last, like everybody else.
    let own = (client != &*mesh.root_namespace).then_some(client);
    let levels = [own, Some(service.meta.namespace()), Some(&*mesh.root_namespace)];
    let level = levels
        .into_iter()
        .flatten()
        .map(|namespace| rules(service, documents, mesh, client, namespace));
    level.into_iter().find(|rules| !rules.is_empty()).unwrap_or_default()
}

/// What makes a cluster what it is: its service, the rules that count, and the subset of one of them.
pub(super) fn origins(
    service: &Service<'_>,
    rules: &[&Document<DestinationRule>],
    subset: Option<&Subset>,
) -> Vec<Origin> {
    let own = Origin::new(service.meta, &service.meta.place);
    let of_rules = rules.iter().map(|rule| match subset {
        Some(subset) if rule.spec.subsets.iter().any(|one| std::ptr::eq(one, subset)) => {
            Origin::new(&rule.meta, &subset.place)
        }
        _ => Origin::new(&rule.meta, &rule.spec.host.place),
    });
    std::iter::once(own).chain(of_rules).collect()
}

/// Whether any rule of any namespace, seen by this client or not, defines a subset of a service.
pub(super) fn is_subset_anywhere(service: &Service<'_>, subset: &str, documents: &Documents, mesh: &Mesh) -> bool {
    documents.destination_rules.iter().any(|rule| {
        let pattern = host::resolve(&rule.spec.host, rule.meta.namespace(), &mesh.domain);
        host::fit(&pattern, &service.host).is_some() && rule.spec.subsets.iter().any(|known| *known.name == *subset)
    })
}

/// The rules of one namespace that apply to a service, all of the same host.
fn rules<'a>(
    service: &Service<'_>,
    documents: &'a Documents,
    mesh: &Mesh,
    client: &str,
    namespace: &str,
) -> Vec<&'a Document<DestinationRule>> {
    let candidates = documents.destination_rules.iter().filter(|rule| {
        let names = rule.spec.export_to.iter().map(|name| name.as_str());
        rule.meta.namespace() == namespace && host::is_visible(names, namespace, client)
    });
    let fitting: Vec<_> = candidates
        .filter_map(|rule| {
            let pattern = host::resolve(&rule.spec.host, namespace, &mesh.domain);
            host::fit(&pattern, &service.host).map(|fit| (fit, rule))
        })
        .collect();
    let best = fitting.iter().map(|(fit, _)| *fit).min();
    let of_best = fitting.into_iter().filter(|(fit, _)| Some(*fit) == best);
    of_best.map(|(_, rule)| rule).collect()
}
