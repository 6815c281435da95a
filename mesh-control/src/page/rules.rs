//! What the published configuration says of a group of clients: which service a cluster is of, what its version is called, and the
//! shares that rules give it.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::Snapshot;
use mesh_core::config::{Cluster, HeaderMatch, Health, PathMatch, QueryMatch, Route, RouteMatch, Service};
use mesh_core::report::standard::{UNKNOWN, Workload};

use super::api;

/// The most rules that are shown of one service.
const MAX_RULES: usize = 50;
/// The longest match that is shown, in characters.
const MAX_MATCH: usize = 120;

/// A service or an application: its namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Id {
    pub(super) fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    pub(super) fn of(workload: &Workload) -> Self {
        Self::new(workload.namespace(), workload.canonical_name())
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What is known of a cluster.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) service: Id,
    pub(super) host: Option<String>,
    /// Its version, and its port where its service has several.
    pub(super) name: String,
    /// The share that rules give it, if they agree.
    pub(super) configured: Option<f64>,
    pub(super) endpoints: [usize; 2],
}

/// What one group of clients was told.
#[derive(Debug, Default)]
pub(super) struct Told {
    clusters: BTreeMap<String, Known>,
    rules: BTreeMap<Id, Vec<api::Rule>>,
}

impl Told {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let clusters = || {
            snapshot
                .clusters()
                .iter()
                .filter_map(|(_, cluster)| cluster.as_ref().ok())
        };
        let applications = applications(clusters().map(|cluster| &**cluster));
        let mut ports: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for cluster in clusters() {
            let Name { port, host, .. } = Name::of(cluster.name.as_str());
            ports.entry(host).or_default().insert(port);
        }
        let known = clusters().map(|cluster| {
            let name = Name::of(cluster.name.as_str());
            let service = service(cluster);
            let id = applications.get(service.host());
            let version = match (name.subset, version(cluster)) {
                ("", Some(version)) => version,
                ("", None) => "all".to_owned(),
                (subset, _) => subset.to_owned(),
            };
            let known = Known {
                service: id
                    .cloned()
                    .unwrap_or_else(|| Id::new(service.namespace(), service.name())),
                host: service.is_known().then(|| service.host().to_owned()),
                name: match ports.get(name.host) {
                    Some(ports) if ports.len() > 1 => format!("{version} :{}", name.port),
                    _ => version,
                },
                configured: None,
                endpoints: [
                    cluster
                        .endpoints
                        .iter()
                        .filter(|one| one.health == Health::Healthy)
                        .count(),
                    cluster.endpoints.len(),
                ],
            };
            (cluster.name.as_str().to_owned(), known)
        });
        let mut told = Self {
            clusters: known.collect(),
            rules: BTreeMap::new(),
        };
        told.rules(snapshot);
        told
    }

    pub(super) fn cluster(&self, name: &str) -> Option<&Known> {
        self.clusters.get(name)
    }

    pub(super) fn clusters(&self) -> impl Iterator<Item = &Known> {
        self.clusters.values()
    }

    /// The rules by which calls to a service are divided.
    pub(super) fn rules_of(&self, service: &Id) -> &[api::Rule] {
        self.rules.get(service).map_or(&[], Vec::as_slice)
    }

    /// Of a service whose rules name some of its clusters the others get nothing.
    fn rules(&mut self, snapshot: &Snapshot) {
        let trees = snapshot.targets().values().filter_map(|tree| tree.as_ref().ok());
        let hosts = trees.flat_map(|tree| &tree.virtual_hosts);
        let mut shares: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
        for route in hosts.flat_map(|host| &host.routes) {
            let Some(rule) = self.rule(route) else { continue };
            let split = route.split().into_iter().flat_map(|split| split.clusters());
            for (cluster, share) in split.zip(&rule.shares) {
                shares
                    .entry(cluster.cluster.as_str())
                    .or_default()
                    .insert(share.share.to_bits());
            }
            let to = rule.shares.first().and_then(|first| self.clusters.get(&first.cluster));
            let Some(to) = to.map(|known| known.service.clone()) else {
                continue;
            };
            let rules = self.rules.entry(to).or_default();
            // A target has several names, each with a tree of its own.
            if !rules.contains(&rule) && rules.len() < MAX_RULES {
                rules.push(rule);
            }
        }
        for (name, known) in &mut self.clusters {
            known.configured = match shares.get(name.as_str()) {
                Some(all) if all.len() == 1 => all.first().map(|bits| f64::from_bits(*bits)),
                Some(_) => None,
                None => self.rules.contains_key(&known.service).then_some(0.0),
            };
        }
    }

    fn rule(&self, route: &Route) -> Option<api::Rule> {
        let split = route.split()?;
        let total = f64::from(split.total());
        let shares = split.clusters().iter().map(|one| api::Share {
            cluster: one.cluster.as_str().to_owned(),
            name: self
                .clusters
                .get(one.cluster.as_str())
                .map_or_else(|| one.cluster.as_str().to_owned(), |known| known.name.clone()),
            share: f64::from(one.weight.0) / total,
        });
        Some(api::Rule {
            matches: describe(&route.matches),
            shares: shares.collect(),
        })
    }
}

/// The parts of Istio's names of clusters, which our own have: `outbound|port|subset|host`. Another name is a host.
pub(super) struct Name<'a> {
    port: &'a str,
    pub(super) subset: &'a str,
    pub(super) host: &'a str,
}

impl<'a> Name<'a> {
    pub(super) fn of(name: &'a str) -> Self {
        match name.split('|').collect::<Vec<_>>()[..] {
            [_, port, subset, host] => Self { port, subset, host },
            _ => Self {
                port: "",
                subset: "",
                host: name,
            },
        }
    }
}

fn service(cluster: &Cluster) -> Service {
    match &cluster.service {
        Some(service) => (**service).clone(),
        None => Service::of_authority(Name::of(cluster.name.as_str()).host),
    }
}

/// The application behind each host, where all of its endpoints are of one: by that name its processes call others.
fn applications<'a>(clusters: impl Iterator<Item = &'a Cluster>) -> BTreeMap<String, Id> {
    let mut of_hosts: BTreeMap<String, BTreeSet<Id>> = BTreeMap::new();
    for cluster in clusters {
        let all = of_hosts.entry(service(cluster).host().to_owned()).or_default();
        all.extend(workloads(cluster).map(|workload| Id::of(&workload)));
    }
    let one = |(host, all): (String, BTreeSet<Id>)| {
        let mut all = all.into_iter();
        let first = all.next().filter(|id| id.name != UNKNOWN && all.next().is_none())?;
        Some((host, first))
    };
    of_hosts.into_iter().filter_map(one).collect()
}

/// The version of a cluster whose endpoints all are of one.
fn version(cluster: &Cluster) -> Option<String> {
    let versions: BTreeSet<_> = workloads(cluster)
        .map(|workload| workload.canonical_revision().to_owned())
        .collect();
    let mut versions = versions.into_iter();
    let first = versions.next().filter(|version| version != "latest")?;
    versions.next().is_none().then_some(first)
}

fn workloads(cluster: &Cluster) -> impl Iterator<Item = Workload> {
    let endpoints = cluster.endpoints.iter();
    let mut last = None;
    let told = endpoints.filter_map(|endpoint| endpoint.metadata.value("istio", "workload"));
    // Neighbours mostly are the same.
    told.filter(move |told| last.replace(*told) != Some(*told))
        .map(Workload::of_endpoint)
}

/// What a rule takes, in a few words.
fn describe(matches: &RouteMatch) -> String {
    let mut words = match &matches.path {
        PathMatch::Prefix(prefix) if prefix.is_empty() => "everything".to_owned(),
        PathMatch::Exact(path) => path.to_string(),
        PathMatch::Prefix(prefix) | PathMatch::Segments(prefix) => format!("{prefix}*"),
        PathMatch::Regex(pattern) => format!("~ {}", pattern.as_str()),
        PathMatch::Template(_) => "a template".to_owned(),
    };
    let headers = matches.headers.iter().map(|HeaderMatch { subject, invert, .. }| {
        let not = if *invert { "not " } else { "" };
        format!("{not}{subject}")
    });
    let query = matches.query.iter().map(|QueryMatch { name, .. }| format!("?{name}"));
    let part = matches.fraction.iter().map(|_| "a part by chance".to_owned());
    for more in headers.chain(query).chain(part) {
        words.push_str(", ");
        words.push_str(&more);
    }
    if words.chars().count() > MAX_MATCH {
        words = words.chars().take(MAX_MATCH).chain(['…']).collect();
    }
    words
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh_core::config::{Endpoint, Metadata, Split, TlsMode};

    use super::*;

    fn cluster(subset: &str, workload: &str) -> Cluster {
        let endpoint = Endpoint {
            metadata: Arc::new(Metadata::new([("istio", "workload", workload)]).unwrap()),
            ..Endpoint::new(([127, 0, 0, 1], 80).into())
        };
        let name = format!("outbound|80|{subset}|pay.shop.svc.cluster.local");
        Cluster::new(name, TlsMode::Plaintext, vec![endpoint])
    }

    #[test]
    fn clusters_are_versions_of_the_application_behind_them() {
        let [v1, v2] = ["v1", "v2"].map(|v| cluster(v, &format!("payment-{v};shop;payment;{v};")));
        let split = Split::weighted([(v1.name.clone(), 95), (v2.name.clone(), 5)]).unwrap();
        let snapshot = Snapshot::builder()
            .route("pay", Route::to(split.clone()))
            .route("pay.shop", Route::to(split))
            .cluster(cluster("", "payment-v1;shop;payment;v1;"))
            .cluster(v1.clone())
            .cluster(v2.clone());
        let told = Told::of(&snapshot.build().unwrap());
        let known = |cluster: &Cluster| told.cluster(cluster.name.as_str()).unwrap();
        assert_eq!(known(&v1).service.to_string(), "shop/payment");
        assert_eq!((known(&v2).name.as_str(), known(&v2).configured), ("v2", Some(0.05)));
        // The same rule under two names of the target; the cluster without a subset gets nothing by it.
        assert_eq!(told.rules_of(&Id::new("shop", "payment")).len(), 1);
        let whole = known(&cluster("", ""));
        assert_eq!((whole.name.as_str(), whole.configured), ("v1", Some(0.0)));
        assert_eq!(whole.host.as_deref(), Some("pay.shop.svc.cluster.local"));
    }

    #[test]
    fn rules_that_disagree_configure_nothing() {
        let [v1, v2] = ["v1", "v2"].map(|v| cluster(v, ""));
        let snapshot = Snapshot::builder()
            .route("a", Route::to(Split::all_to(v1.name.clone())))
            .route(
                "b",
                Route::to(Split::weighted([(v1.name.clone(), 1), (v2.name.clone(), 1)]).unwrap()),
            )
            .cluster(v1.clone())
            .cluster(v2.clone());
        let told = Told::of(&snapshot.build().unwrap());
        let known = |cluster: &Cluster| told.cluster(cluster.name.as_str()).unwrap();
        assert_eq!((known(&v1).configured, known(&v2).configured), (None, Some(0.5)));
        // Nobody says whose the endpoints are: the service stands for itself.
        assert_eq!(known(&v1).service, Id::new("shop", "pay"));
    }
}
