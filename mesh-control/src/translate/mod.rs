//! Documents to the core's [`Snapshot`], as one client's namespace sees them. Pure: the same documents give the same result.
//!
//! The second room of the flow `YAML → istio → translate → publish`. Here defaults are applied, names are resolved, and
//! whatever one document says of another is checked. A mistake is a [`Diagnostic`] with the position of the value it is in;
//! one error refuses the whole translation, since half of a change is a change nobody wrote.
//!
//! Istio decides much by the client's namespace (which rules it sees, which short names it may use), hence one snapshot
//! for each namespace and not one for the mesh.

mod analysis;
mod authentication;
mod authorization;
mod check;
mod cluster;
mod effects;
mod endpoint;
mod gateway;
mod host;
mod imports;
mod limits;
mod locality;
mod matches;
mod origins;
mod policy;
#[cfg(test)]
mod policy_tests;
mod retry;
mod route;
mod service;
mod slices;
mod split;
mod target;
mod telemetry;
#[cfg(test)]
mod tests;
mod tokens;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use mesh_core::config::{self, Cluster, ClusterName, HashPolicy, Reason, ReasonKind, Snapshot};

use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::istio::{Document, Documents, Meta, Place, PolicyAction, Selector, VirtualService};
use authentication::Authentication;
use authorization::Policies;
pub(crate) use endpoint::DEFAULT_SERVICE_ACCOUNT;
pub use locality::{ClientPlace, places};
pub use origins::{Origin, Origins};
use service::Registry;

/// What holds for the whole mesh (Istio's mesh config).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// The trust domain of every identity.
    pub trust_domain: Box<str>,
    /// Other names of it (Istio `trustDomainAliases`): a workload of one of them is expected and admitted wherever the same of the mesh's own
    /// is. Whether its certificate is believed is for the roots of that domain, which this does not concern.
    pub trust_domain_aliases: Vec<Box<str>>,
    /// What short names are completed with.
    pub domain: Box<str>,
    /// The namespace whose rules concern everybody.
    pub root_namespace: Box<str>,
    /// Whether keys of issuers may be fetched in plaintext from other hosts than this one.
    pub plaintext_jwks: bool,
}

impl Mesh {
    /// With what the documents' own mesh config adds: other names of the trust domain.
    fn told_by(&self, documents: &Documents) -> Cow<'_, Self> {
        let mut configs = documents.mesh_configs.iter();
        let config = configs.find(|config| config.meta.namespace() == &*self.root_namespace);
        match config.map(|config| &config.spec.trust_domain_aliases) {
            None => Cow::Borrowed(self),
            Some(aliases) if aliases.is_empty() => Cow::Borrowed(self),
            Some(aliases) => Cow::Owned(Self {
                trust_domain_aliases: self.trust_domain_aliases.iter().chain(aliases).cloned().collect(),
                ..self.clone()
            }),
        }
    }

    /// The trust domain, and then its aliases.
    pub(crate) fn trust_domains(&self) -> impl Iterator<Item = &str> {
        let aliases = self.trust_domain_aliases.iter().map(|alias| &**alias);
        std::iter::once(&*self.trust_domain).chain(aliases)
    }

    /// Whether a name is one of them; `cluster.local` is whatever the mesh's own is (Istio).
    pub(crate) fn is_called(&self, domain: &str) -> bool {
        domain == "cluster.local" || self.trust_domains().any(|known| known == domain)
    }
}

impl Default for Mesh {
    /// Istio's defaults: `cluster.local` twice, and `istio-system`.
    fn default() -> Self {
        Self {
            trust_domain: "cluster.local".into(),
            trust_domain_aliases: Vec::new(),
            domain: "cluster.local".into(),
            root_namespace: "istio-system".into(),
            plaintext_jwks: false,
        }
    }
}

/// Who the configuration is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientScope {
    /// The client's namespace; empty for all those that no document names.
    pub namespace: Box<str>,
    /// Where the client is, as far as anything turns on that ([`places`]).
    pub place: ClientPlace,
}

impl ClientScope {
    /// Clients in `namespace`.
    pub fn namespace(namespace: impl Into<Box<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            place: ClientPlace::default(),
        }
    }

    /// Those of them that are there.
    #[must_use]
    pub fn at(self, place: ClientPlace) -> Self {
        Self { place, ..self }
    }

    /// What its clients' group is called: the namespace, and the place after it if there is one.
    pub fn group(&self) -> Box<str> {
        match self.place.text() {
            nowhere if nowhere.is_empty() => self.namespace.clone(),
            // No namespace has an @ in its name.
            place => format!("{}@{place}", self.namespace).into(),
        }
    }

    /// Clients in a namespace that no document names. No rule tells them apart: they see what is exported to all, and no
    /// short name is theirs.
    pub fn unnamed() -> Self {
        Self::namespace("")
    }
}

impl fmt::Display for ClientScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str("a namespace that no document names");
        }
        write!(f, "namespace {:?}", self.namespace)
    }
}

/// What became of the documents.
#[derive(Debug)]
pub struct Translation {
    /// The configuration; `None` when a finding is an error.
    pub snapshot: Option<Snapshot>,
    /// Everything found, in the order of files and positions.
    pub diagnostics: Vec<Diagnostic>,
    /// Where it was all written, if that was asked for ([`trace`]).
    pub origins: Option<Origins>,
}

/// Every namespace that a document is in or is exported to. Clients of any other are all told the same
/// ([`ClientScope::unnamed`]).
pub fn namespaces(documents: &Documents, mesh: &Mesh) -> BTreeSet<Box<str>> {
    let (rules, subsets) = (&documents.virtual_services, &documents.destination_rules);
    let (services, workloads) = (&documents.service_entries, &documents.workload_entries);
    let (modes, policies) = (&documents.peer_authentications, &documents.authorization_policies);
    let tokens = &documents.request_authentications;
    let (of_cluster, slices, pods) = (&documents.services, &documents.endpoint_slices, &documents.pods);
    let routes = &documents.gateway_routes;
    let owners = (rules.iter().map(|d| &d.meta))
        .chain(subsets.iter().map(|d| &d.meta))
        .chain(services.iter().map(|d| &d.meta))
        .chain(workloads.iter().map(|d| &d.meta))
        .chain(modes.iter().map(|d| &d.meta))
        .chain(policies.iter().map(|d| &d.meta))
        .chain(tokens.iter().map(|d| &d.meta))
        .chain(of_cluster.iter().map(|d| &d.meta))
        .chain(slices.iter().map(|d| &d.meta))
        .chain(pods.iter().map(|d| &d.meta))
        .chain(routes.iter().map(|d| &d.meta))
        .chain(documents.sidecars.iter().map(|d| &d.meta))
        .chain(documents.telemetries.iter().map(|d| &d.meta))
        .chain(documents.workload_groups.iter().map(|d| &d.meta))
        .map(Meta::namespace);
    let audiences = (rules.iter().flat_map(|d| &d.spec.export_to))
        .chain(subsets.iter().flat_map(|d| &d.spec.export_to))
        .chain(services.iter().flat_map(|d| &d.spec.export_to))
        .chain(of_cluster.iter().flat_map(|d| &d.spec.export_to))
        .map(|at| at.as_str())
        .filter(|name| !["", "*", ".", "~"].contains(name));
    let always = ["default", &*mesh.root_namespace];
    owners.chain(audiences).chain(always).map(Box::from).collect()
}

/// The full name of a host that a document of `namespace` names.
pub(crate) fn full_host(name: &str, namespace: &str, mesh: &Mesh) -> String {
    host::resolve(name, namespace, &mesh.domain)
}

/// What was written for a server at an address.
#[derive(Debug)]
pub(crate) struct ServerOrigins {
    /// What says how it takes connections; `None`: nothing does, and it is STRICT.
    pub(crate) mode: Option<Origin>,
    /// Its policies, with what they do.
    pub(crate) policies: Vec<(PolicyAction, Origin)>,
    /// What says whose tokens it believes.
    pub(crate) tokens: Vec<Origin>,
}

/// The documents that mean a server of `namespace` at an address.
pub(crate) fn server_origins(
    documents: &Documents,
    mesh: &Mesh,
    namespace: &str,
    address: std::net::SocketAddr,
) -> ServerOrigins {
    let mesh = &*mesh.told_by(documents);
    // What is wrong with documents was said when they were translated.
    let mut said = Findings::default();
    let registry = Registry::new(documents, mesh, &ClientScope::namespace(namespace), &mut said);
    let authentication = Authentication::new(documents, mesh, &mut said);
    let (mode, labels) = authentication.origin(documents, namespace, &registry, address);
    let means = |meta: &Meta, selector: Option<&Selector>| {
        let mut labels = labels.iter();
        labels.any(|labels| authorization::means((meta, selector), namespace, labels, mesh))
    };
    let policies = documents.authorization_policies.iter();
    let policies = policies.filter(|one| means(&one.meta, one.spec.selector.as_ref()));
    let tokens = documents.request_authentications.iter();
    let tokens = tokens.filter(|one| means(&one.meta, one.spec.selector.as_ref()));
    ServerOrigins {
        mode,
        policies: policies
            .map(|one| (one.spec.action, Origin::new(&one.meta, &one.meta.place)))
            .collect(),
        tokens: tokens.map(|one| Origin::new(&one.meta, &one.meta.place)).collect(),
    }
}

/// What is to be said of documents whoever asks, beside what [`translate`] finds for a client: rules that can never do what they seem to.
/// It finds no error: nothing in it keeps documents from being published.
pub fn analysis(documents: &Documents, mesh: &Mesh) -> BTreeSet<Diagnostic> {
    let mut findings = Findings::default();
    analysis::find(documents, &mesh.told_by(documents), &mut findings);
    findings.0
}

/// Translates `documents` for clients of `scope`.
pub fn translate(documents: &Documents, mesh: &Mesh, scope: &ClientScope) -> Translation {
    translated(documents, mesh, scope, None)
}

/// Translates `documents` for clients of `scope`, and keeps where everything was written.
pub fn trace(documents: &Documents, mesh: &Mesh, scope: &ClientScope) -> Translation {
    translated(documents, mesh, scope, Some(Origins::default()))
}

fn translated(documents: &Documents, mesh: &Mesh, scope: &ClientScope, mut origins: Option<Origins>) -> Translation {
    let mesh = &*mesh.told_by(documents);
    let mut findings = Findings::default();
    let registry = Registry::new(documents, mesh, scope, &mut findings);
    let authentication = Authentication::new(documents, mesh, &mut findings);
    tokens::check_sources(documents, mesh, &mut findings);
    let policies = Policies::new(documents, mesh, &mut findings);
    let policies = policies.with_providers(scope, &registry, &mut findings);
    let (clusters, hashes) = clusters(
        documents,
        mesh,
        scope,
        (&registry, &authentication),
        origins.as_mut(),
        &mut findings,
    );
    let listeners = authentication.listeners(documents, &policies, (scope, &registry), &mut findings);
    let undescribed = authentication.undescribed(documents, &policies, (scope, &registry), &mut findings);
    authentication.warn_of_nobody(documents, mesh, (scope, &registry), &mut findings);
    let telemetry = authentication.told().of_clients(&scope.namespace);
    let mut view = View {
        documents,
        mesh,
        scope,
        registry: &registry,
        clusters: &clusters,
        hashes: &hashes,
        telemetry: &telemetry,
        missing: BTreeMap::new(),
        origins: origins.as_mut(),
        findings: &mut findings,
    };
    check::check_rules(&mut view);
    let targets = target::targets(&mut view);
    let missing = view.missing;
    let diagnostics: Vec<Diagnostic> = findings.0.into_iter().collect();
    if diagnostics.iter().any(Diagnostic::is_error) {
        return Translation {
            snapshot: None,
            diagnostics,
            origins,
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
    for (address, inbound) in listeners {
        builder = builder.inbound(address, Ok(inbound));
    }
    builder = builder.any_inbound(undescribed);
    let snapshot = builder
        .build()
        .expect("a route is only built to a cluster that is there or known to be missing");
    Translation {
        snapshot: Some(snapshot),
        diagnostics,
        origins,
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
    /// What calls to some of them are hashed by.
    hashes: &'v BTreeMap<ClusterName, HashPolicy>,
    /// What this client tells of its calls.
    telemetry: &'v config::Telemetry,
    /// Clusters that routes name and this client must not see, with the reason.
    missing: BTreeMap<ClusterName, String>,
    /// Where everything was written, if that is asked for.
    origins: Option<&'v mut Origins>,
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
                && self.registry.imports.has_rule(rule)
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
    (registry, authentication): (&Registry<'_>, &Authentication<'_>),
    mut origins: Option<&mut Origins>,
    findings: &mut Findings,
) -> (BTreeMap<ClusterName, Cluster>, BTreeMap<ClusterName, HashPolicy>) {
    let (mut clusters, mut hashes) = (BTreeMap::new(), BTreeMap::new());
    let of_mesh = locality::of_mesh(documents, mesh);
    for service in registry
        .services()
        .filter(|service| service.is_visible(&scope.namespace))
    {
        let rules = cluster::governing(service, documents, mesh, scope);
        let subsets = cluster::subsets(service, documents, mesh, scope, findings);
        for port in service.ports {
            for subset in std::iter::once(None).chain(subsets.iter().copied().map(Some)) {
                let mut cluster = cluster::build(service, port, subset, authentication, findings);
                let policy = policy::resolve(&rules, subset, *port.number);
                if let Some(policy) = &policy {
                    let hash = policy.apply(&mut cluster, findings);
                    hashes.extend(hash.map(|hash| (cluster.name.clone(), hash)));
                }
                cluster::speak(port, &mut cluster);
                locality::arrange(policy.as_ref(), of_mesh, scope, &mut cluster, findings);
                if let Some(origins) = origins.as_deref_mut() {
                    let written = cluster::origins(service, &rules, subset);
                    origins.clusters.insert(cluster.name.clone(), written);
                    origins.endpoints.extend(service.origins(port));
                }
                clusters.insert(cluster.name.clone(), cluster);
            }
        }
    }
    (clusters, hashes)
}
