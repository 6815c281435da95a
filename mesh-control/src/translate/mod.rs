//! Documents to the core's [`Snapshot`], as one client's namespace sees them. Pure: the same documents give the same result.
//!
//! The second room of the flow `YAML → istio → translate → publish`. Here defaults are applied, names are resolved, and
//! whatever one document says of another is checked. A mistake is a [`Diagnostic`] with the position of the value it is in;
//! one error refuses the whole translation, since half of a change is a change nobody wrote.
//!
//! Istio decides much by the client's namespace (which rules it sees, which short names it may use), hence one snapshot
//! for each namespace and not one for the mesh.

mod cluster;
mod endpoint;
mod host;
mod retry;
mod route;
mod service;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_core::config::{Cluster, ClusterName, Domain, Reason, ReasonKind, RouteTree, Snapshot, VirtualHost};

use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::istio::{Document, Documents, Meta, Place, VirtualService};
use service::{Registry, Service};

/// What holds for the whole mesh (Istio's mesh config).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// The trust domain of every identity.
    pub trust_domain: Box<str>,
    /// What short names are completed with.
    pub domain: Box<str>,
    /// The namespace whose rules concern everybody.
    pub root_namespace: Box<str>,
}

impl Default for Mesh {
    /// Istio's defaults: `cluster.local` twice, and `istio-system`.
    fn default() -> Self {
        Self {
            trust_domain: "cluster.local".into(),
            domain: "cluster.local".into(),
            root_namespace: "istio-system".into(),
        }
    }
}

/// Who the configuration is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientScope {
    /// The client's namespace.
    pub namespace: Box<str>,
}

impl ClientScope {
    /// Clients in `namespace`.
    pub fn namespace(namespace: impl Into<Box<str>>) -> Self {
        Self {
            namespace: namespace.into(),
        }
    }
}

/// What became of the documents.
#[derive(Debug)]
pub struct Translation {
    /// The configuration; `None` when a finding is an error.
    pub snapshot: Option<Snapshot>,
    /// Everything found, in the order of files and positions.
    pub diagnostics: Vec<Diagnostic>,
}

/// Every namespace that a document is in, and that a client may therefore tell apart from others.
pub fn namespaces(documents: &Documents, mesh: &Mesh) -> BTreeSet<Box<str>> {
    let metas = [
        documents.virtual_services.iter().map(|d| &d.meta).collect::<Vec<_>>(),
        documents.destination_rules.iter().map(|d| &d.meta).collect(),
        documents.service_entries.iter().map(|d| &d.meta).collect(),
        documents.workload_entries.iter().map(|d| &d.meta).collect(),
    ];
    let named = metas.into_iter().flatten().map(|meta| meta.namespace().into());
    named.chain(["default".into(), mesh.root_namespace.clone()]).collect()
}

/// Translates `documents` for clients of `scope`.
pub fn translate(documents: &Documents, mesh: &Mesh, scope: &ClientScope) -> Translation {
    let mut findings = Findings::default();
    let registry = Registry::new(documents, mesh, &mut findings);
    let clusters = clusters(documents, mesh, scope, &registry, &mut findings);
    let mut view = View {
        documents,
        mesh,
        scope,
        registry: &registry,
        clusters: &clusters,
        missing: BTreeMap::new(),
        findings: &mut findings,
    };
    check_rules(&mut view);
    let targets = targets(&mut view);
    let missing = view.missing;
    let diagnostics: Vec<Diagnostic> = findings.0.into_iter().collect();
    if diagnostics.iter().any(Diagnostic::is_error) {
        return Translation {
            snapshot: None,
            diagnostics,
        };
    }
    let mut builder = Snapshot::builder();
    for (target, tree) in targets {
        builder = builder.target(target, Ok(tree));
    }
    for (name, why) in missing {
        builder = builder.resolved_cluster(name, Err(Reason::new(ReasonKind::NoCluster, why)));
    }
    for cluster in clusters.into_values() {
        builder = builder.cluster(cluster);
    }
    let snapshot = builder.build().expect("a route is only built to a cluster that is there or known to be missing");
    Translation {
        snapshot: Some(snapshot),
        diagnostics,
    }
}

/// What the rooms of a translation share.
struct View<'d, 'v> {
    documents: &'d Documents,
    mesh: &'v Mesh,
    scope: &'v ClientScope,
    registry: &'v Registry<'d>,
    /// Every cluster that this client sees.
    clusters: &'v BTreeMap<ClusterName, Cluster>,
    /// Clusters that routes name and this client must not see, with the reason.
    missing: BTreeMap<ClusterName, String>,
    findings: &'v mut Findings,
}

impl<'d> View<'d, '_> {
    /// The rules that this client sees, oldest first.
    fn visible_rules(&self) -> impl Iterator<Item = &'d Document<VirtualService>> {
        self.documents.virtual_services.iter().filter(|rule| {
            let gateways = &rule.spec.gateways;
            let names = rule.spec.export_to.iter().map(|name| name.as_str());
            (gateways.is_empty() || gateways.iter().any(|name| name.as_str() == "mesh"))
                && host::is_visible(names, rule.meta.namespace(), &self.scope.namespace)
        })
    }
}

/// The findings so far. A set: a rule is looked at once for each port of each service it covers.
#[derive(Debug, Default)]
struct Findings(BTreeSet<Diagnostic>);

impl Findings {
    fn say(&mut self, meta: &Meta, severity: Severity, code: Code, place: &Place, message: impl Into<String>) {
        self.0.insert(meta.diagnose(severity, code, place, message));
    }
}

fn clusters(
    documents: &Documents,
    mesh: &Mesh,
    scope: &ClientScope,
    registry: &Registry<'_>,
    findings: &mut Findings,
) -> BTreeMap<ClusterName, Cluster> {
    let mut clusters = BTreeMap::new();
    for service in registry.services().filter(|service| service.is_visible(&scope.namespace)) {
        let subsets = cluster::subsets(service, documents, mesh, scope, findings);
        for port in service.ports {
            for subset in std::iter::once(None).chain(subsets.iter().copied().map(Some)) {
                let cluster = cluster::build(service, port, subset, findings);
                clusters.insert(cluster.name.clone(), cluster);
            }
        }
    }
    clusters
}

/// What can be wrong with a rule whether or not a service of this client uses it.
fn check_rules(view: &mut View<'_, '_>) {
    let rules: Vec<_> = view.visible_rules().collect();
    let mut owners: BTreeMap<String, &Meta> = BTreeMap::new();
    for rule in rules {
        for name in &rule.spec.hosts {
            let full = host::resolve(name, rule.meta.namespace(), &view.mesh.domain);
            if !view.registry.services().any(|service| host::fit(&full, &service.host).is_some()) {
                let message = format!("no service has host {full:?}: the rule takes no request there");
                view.findings.say(&rule.meta, Severity::Warning, Code::NoSuchHost, &name.place, message);
            }
            if let Some(owner) = owners.get(&full) {
                let message = format!("{owner} has rules for {full:?} already; the older document counts");
                view.findings.say(&rule.meta, Severity::Warning, Code::ConflictingHosts, &name.place, message);
            } else {
                owners.insert(full, &rule.meta);
            }
        }
        route::build(view, rule, None);
    }
    for rule in &view.documents.destination_rules {
        let full = host::resolve(&rule.spec.host, rule.meta.namespace(), &view.mesh.domain);
        if !view.registry.services().any(|service| host::fit(&full, &service.host).is_some()) {
            let message = format!("no service has host {full:?}: the rule has no effect");
            view.findings.say(&rule.meta, Severity::Warning, Code::NoSuchHost, &rule.spec.host.place, message);
        }
    }
}

/// The listeners that a client may ask for: every name of every service, with each port, and bare for its lowest one.
fn targets(view: &mut View<'_, '_>) -> BTreeMap<String, Arc<RouteTree>> {
    let mut targets = BTreeMap::new();
    let mut aliased = Vec::new();
    let registry = view.registry;
    for service in registry.services().filter(|service| service.is_visible(&view.scope.namespace)) {
        for port in service.ports {
            let number = *port.number;
            let names = host::aliases(&service.host, &view.scope.namespace, &view.mesh.domain);
            let tree = Arc::new(tree(view, service, number, &names));
            let bare = service.lowest_port() == Some(number);
            for (index, name) in names.into_iter().enumerate() {
                let asked = bare.then(|| name.clone()).into_iter().chain([format!("{name}:{number}")]);
                if index == 0 {
                    targets.extend(asked.map(|name| (name, Arc::clone(&tree))));
                } else {
                    aliased.extend(asked.map(|name| (name, Arc::clone(&tree))));
                }
            }
        }
    }
    // A service that is really called so comes before one for which it is a short form.
    for (name, tree) in aliased {
        targets.entry(name).or_insert(tree);
    }
    targets
}

fn tree(view: &mut View<'_, '_>, service: &Service<'_>, port: u32, names: &[String]) -> RouteTree {
    let domains = names.iter().flat_map(|name| [name.clone(), format!("{name}:{port}")]);
    let host = VirtualHost {
        name: format!("{}:{port}", service.host).into(),
        domains: domains.map(|name| Domain::Exact(name.into())).collect(),
        routes: route::routes(view, service, port),
    };
    RouteTree {
        name: (*cluster::name(&service.host, port, "").as_str()).into(),
        virtual_hosts: vec![host],
    }
}
