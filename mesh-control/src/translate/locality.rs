//! Which localities a client calls, by where it is itself (Istio's locality load balancing).
//!
//! By default the nearest first: endpoints of the client's own sub-zone, then zone, then region, then of a region that its own
//! fails over to, then the rest. That needs outlier detection, or nothing would ever fail over. Or a rule says what share of
//! the calls of a locality goes where; or by which labels nearness goes. A rule says so of its service, the mesh's configuration of
//! every service whose rule does not.
//!
//! Envoy's numbers of priorities have no gaps, so what nobody is in is not counted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_core::config::{Cluster, Endpoint, Locality, LocalityWeight, Weight};

use super::policy::Resolved;
use super::slices::Slices;
use super::{ClientScope, Findings, Mesh};
use crate::diagnostic::{Code, Severity};
use crate::istio::{Documents, LocalityRule, LocalitySetting, Meta};

/// Of so many places clients are told apart: more would make more snapshots than a control plane should hold. The others are
/// told what clients of no known place are.
const MAX_PLACES: usize = 64;

/// Where a client is, as far as anything turns on that. What is not known of it is no endpoint's.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientPlace {
    parts: Vec<Box<str>>,
}

impl ClientPlace {
    /// A region, then a zone in it, then a sub-zone, as far as they are said.
    pub fn new<'a>(parts: impl IntoIterator<Item = &'a str>) -> Self {
        let parts = parts.into_iter().take(3).take_while(|part| !part.is_empty());
        Self {
            parts: parts.map(Box::from).collect(),
        }
    }

    /// It, and what it lies in, the narrowest first; the last is nowhere.
    pub fn wider(&self) -> impl Iterator<Item = Self> {
        let parts = self.parts.clone();
        (0..=parts.len()).rev().map(move |count| Self {
            parts: parts[..count].to_vec(),
        })
    }

    /// `region/zone/sub-zone`; empty: nowhere.
    pub fn text(&self) -> String {
        self.parts.join("/")
    }

    fn region(&self) -> Option<&str> {
        self.parts.first().map(|part| &**part)
    }

    /// How many parts it has in common with a locality, from the left.
    fn shared(&self, locality: &Locality) -> usize {
        let theirs = [&locality.region, &locality.zone, &locality.sub_zone];
        self.parts
            .iter()
            .zip(theirs)
            .take_while(|(own, their)| own == their)
            .count()
    }
}

/// What the mesh's configuration says of localities, and where it stands.
pub(super) fn of_mesh<'a>(documents: &'a Documents, mesh: &Mesh) -> Option<(&'a Meta, &'a LocalitySetting)> {
    let mut configs = documents.mesh_configs.iter();
    let config = configs.find(|config| config.meta.namespace() == &*mesh.root_namespace)?;
    Some((&config.meta, config.spec.locality.as_ref()?))
}

/// The places that clients are told apart by: those of endpoints and of rules, if any rule looks at where a client is.
pub fn places(documents: &Documents, mesh: &Mesh) -> BTreeSet<ClientPlace> {
    let of_mesh = of_mesh(documents, mesh).map(|(_, setting)| setting);
    let policies = documents.destination_rules.iter().flat_map(|rule| {
        let of_subsets = rule.spec.subsets.iter().filter_map(|subset| subset.policy.as_ref());
        rule.spec.policy.iter().chain(of_subsets)
    });
    let policies: Vec<_> = policies.filter(|policy| policy.speaks_of_localities()).collect();
    // Of the mesh's words those of failover count for services alone that a rule has watched.
    let distributes = of_mesh.is_some_and(|setting| matches!(setting.rule, LocalityRule::Distribute(_)));
    if policies.is_empty() && !distributes {
        return BTreeSet::new();
    }
    let written = (documents.workload_entries.iter().map(|entry| &entry.spec))
        .chain(
            documents
                .service_entries
                .iter()
                .flat_map(|entry| entry.spec.endpoints.iter().map(|at| &at.value)),
        )
        .filter_map(|entry| entry.locality.as_ref())
        .map(|at| at.as_str());
    let of_cluster: Vec<String> = Slices::new(documents).places().collect();
    let written = written.chain(of_cluster.iter().map(String::as_str));
    let named = policies
        .iter()
        .flat_map(|policy| policy.localities())
        .chain(of_mesh)
        .flat_map(|setting| match &setting.rule {
            LocalityRule::Failover(rules) => rules.iter().map(|(from, _)| from.as_str()).collect::<Vec<_>>(),
            LocalityRule::Distribute(rules) => rules.iter().map(|(from, _)| from.as_str()).collect(),
            LocalityRule::Priority(_) => Vec::new(),
        });
    let all = written
        .chain(named)
        .map(|text| ClientPlace::new(text.split('/').take_while(|part| *part != "*")));
    let all: BTreeSet<ClientPlace> = all.flat_map(|place| place.wider().collect::<Vec<_>>()).collect();
    all.into_iter()
        .filter(|place| !place.parts.is_empty())
        .take(MAX_PLACES)
        .collect()
}

/// Puts the endpoints of a cluster in the order in which a client calls them: by its rule, or else as the mesh says.
pub(super) fn arrange(
    policy: Option<&Resolved<'_>>,
    of_mesh: Option<(&Meta, &LocalitySetting)>,
    scope: &ClientScope,
    cluster: &mut Cluster,
    findings: &mut Findings,
) {
    let own = policy.and_then(|policy| Some((policy.meta(), policy.load_balancer?.locality.as_ref()?)));
    let said = own.or(of_mesh);
    if said.is_some_and(|(_, setting)| !setting.enabled) {
        return;
    }
    let failover = LocalityRule::Failover(Vec::new());
    let fails_over = policy.is_some_and(Resolved::fails_over);
    match said.map_or(&failover, |(_, setting)| &setting.rule) {
        LocalityRule::Distribute(rules) => distribute(rules, scope, cluster),
        rule if !fails_over => {
            // The mesh's is for those that are watched.
            if let (Some((meta, setting)), false) = (own, *rule == failover) {
                let message = "failover needs outlierDetection, without which nothing fails over";
                findings.say(meta, Severity::Warning, Code::NoFailover, &setting.place, message);
            }
        }
        LocalityRule::Failover(rules) => {
            let next = rules
                .iter()
                .find(|(from, _)| Some(from.as_str()) == scope.place.region());
            prioritise(cluster, |endpoint| match scope.place.shared(&endpoint.locality) {
                0 => match next {
                    Some((_, to)) if *endpoint.locality.region != **to => 4,
                    _ => 3,
                },
                shared => 3 - shared as u32,
            });
        }
        LocalityRule::Priority(labels) => by_labels(labels, said, scope, cluster, findings),
    }
}

/// Numbers priorities by rank, without gaps; where there is more than one, a locality is chosen first.
fn prioritise(cluster: &mut Cluster, rank: impl Fn(&Endpoint) -> u32) {
    let mut endpoints = cluster.endpoints.to_vec();
    let ranks: BTreeSet<u32> = endpoints.iter().map(&rank).collect();
    let numbers: BTreeMap<u32, u32> = ranks.into_iter().zip(0..).collect();
    for endpoint in &mut endpoints {
        endpoint.priority = numbers[&rank(endpoint)];
    }
    cluster.common_lb.by_locality = true;
    cluster.endpoints = endpoints.into();
}

/// What a caller's locality says of where its calls go: the percent of a place are shared by its localities as their endpoints
/// weigh. Endpoints of a place that is not named get none.
fn distribute(rules: &[(String, Vec<(String, u32)>)], scope: &ClientScope, cluster: &mut Cluster) {
    let here = |pattern: &str| {
        let own = ClientPlace::new(pattern.split('/').take_while(|part| *part != "*"));
        scope.place.parts.starts_with(&own.parts)
    };
    let Some((_, shares)) = rules.iter().find(|(from, _)| here(from)) else {
        return;
    };
    let mut sums: BTreeMap<Arc<Locality>, u64> = BTreeMap::new();
    for endpoint in cluster.endpoints.iter() {
        *sums.entry(Arc::clone(&endpoint.locality)).or_default() += u64::from(endpoint.weight.0);
    }
    let inside = |pattern: &str, locality: &Locality| {
        let place = ClientPlace::new(pattern.split('/').take_while(|part| *part != "*"));
        place.parts.len() == place.shared(locality)
    };
    // Of two patterns the first that fits a locality has it.
    let of = |locality: &Locality| shares.iter().position(|(to, _)| inside(to, locality));
    let mut totals = vec![0u64; shares.len()];
    for (locality, sum) in &sums {
        if let Some(index) = of(locality) {
            totals[index] += sum;
        }
    }
    let weights = sums.iter().map(|(locality, sum)| {
        let weight = of(locality).map_or(0, |index| {
            let share = u64::from(shares[index].1) * SHARE_STEPS;
            (share * sum / totals[index].max(1)).max(u64::from(share > 0))
        });
        LocalityWeight {
            priority: 0,
            locality: Arc::clone(locality),
            weight: Weight(u32::try_from(weight).unwrap_or(u32::MAX)),
        }
    });
    let weights: Vec<LocalityWeight> = weights.collect();
    // Istio takes out what gets nothing.
    let serves = |endpoint: &Endpoint| {
        weights
            .iter()
            .any(|one| one.locality == endpoint.locality && one.weight.0 > 0)
    };
    let endpoints: Vec<Endpoint> = cluster
        .endpoints
        .iter()
        .filter(|endpoint| serves(endpoint))
        .cloned()
        .collect();
    cluster.localities.weights = weights.into_iter().filter(|one| one.weight.0 > 0).collect();
    cluster.endpoints = endpoints.into();
    cluster.common_lb.by_locality = true;
}

/// How finely a percent is divided among localities.
const SHARE_STEPS: u64 = 1_000;

/// The labels of places, which is all that is known of a client here.
const PLACE_LABELS: [&str; 3] = [
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.istio.io/subzone",
];

/// The more labels from the left an endpoint has in common with the client, the sooner it is called.
fn by_labels(
    labels: &[String],
    said: Option<(&Meta, &LocalitySetting)>,
    scope: &ClientScope,
    cluster: &mut Cluster,
    findings: &mut Findings,
) {
    let place = |label: &str| PLACE_LABELS.iter().position(|known| *known == label);
    let unknown = labels.iter().find(|label| place(label).is_none());
    if let (Some(label), Some((meta, setting))) = (unknown, said) {
        let message = format!(
            "label {label:?} is not known of clients and endpoints here: only those of region, zone and sub-zone are"
        );
        findings.say(meta, Severity::Warning, Code::NotServed, &setting.place, message);
        return;
    }
    let has = |label: &String, endpoint: &Endpoint| {
        let part = place(label).unwrap_or_default();
        let theirs = [
            &endpoint.locality.region,
            &endpoint.locality.zone,
            &endpoint.locality.sub_zone,
        ];
        scope.place.parts.get(part) == Some(theirs[part])
    };
    prioritise(cluster, |endpoint| {
        let shared = labels.iter().take_while(|label| has(label, endpoint)).count();
        (labels.len() - shared) as u32
    });
}
