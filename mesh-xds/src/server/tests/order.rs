//! Order and completeness, for both variants and every dialect: a client that does what the real ones do lives through a
//! hundred publishes, and after each single response what it holds is looked at.
//!
//! The client asks as its kind does: gRPC by name, along the references, as it learns them; Envoy for all listeners and
//! clusters, and for routes and endpoints by the names in those.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::entropy::Entropy;

use super::*;
use crate::server::delta::DeltaState;
use crate::server::encoded::View;
use crate::wire::{DeltaRequest, DeltaResponse};

const ENVOY: Dialect = Dialect::Envoy(crate::encode::EGRESS_ADDRESS);
const DIALECTS: [Dialect; 3] = [Dialect::Mesh, Dialect::Grpc, ENVOY];
const LIVES: u64 = 50;
const PUBLISHES: u32 = 20;
/// More than any change takes; a server that never falls silent ends here.
const MAX_RESPONSES: usize = 100;

type Names = BTreeSet<Arc<str>>;

/// A response of either variant.
struct Heard {
    kind: ResourceKind,
    nonce: String,
    resources: Vec<Arc<[u8]>>,
    removed: Vec<Arc<str>>,
}

/// How a variant is spoken.
trait Spoken: Machine {
    /// Whether a response to LDS and CDS is all there is.
    const WHOLE: bool;

    fn say(&mut self, kind: ResourceKind, old: Option<&Names>, new: &Names, nonce: &str, error: Option<&str>);
    fn hear(&mut self, view: &View) -> Option<Heard>;
}

impl Spoken for StreamState {
    const WHOLE: bool = true;

    fn say(&mut self, kind: ResourceKind, _: Option<&Names>, new: &Names, nonce: &str, error: Option<&str>) {
        let names: Vec<&str> = new.iter().map(|name| &**name).collect();
        let mut request = request(kind, nonce, &names);
        request.error = error.map(String::from);
        self.on_request(request).unwrap();
    }

    fn hear(&mut self, view: &View) -> Option<Heard> {
        let response: Response = self.next_response(view)?;
        Some(Heard {
            kind: response.kind().unwrap(),
            nonce: response.nonce,
            resources: response.resources.into_iter().map(|raw| raw.bytes.into()).collect(),
            removed: Vec::new(),
        })
    }
}

impl Spoken for DeltaState {
    const WHOLE: bool = false;

    fn say(&mut self, kind: ResourceKind, old: Option<&Names>, new: &Names, nonce: &str, error: Option<&str>) {
        let none = Names::new();
        let old = old.unwrap_or(&none);
        self.on_request(DeltaRequest {
            type_url: kind.type_url().into(),
            nonce: nonce.into(),
            subscribe: new.difference(old).cloned().collect(),
            unsubscribe: old.difference(new).cloned().collect(),
            error: error.map(String::from),
            ..DeltaRequest::default()
        })
        .unwrap();
    }

    fn hear(&mut self, view: &View) -> Option<Heard> {
        let response: DeltaResponse = self.next_response(view)?;
        let kind = response.kind().unwrap();
        let resources = response.resources.into_iter();
        Some(Heard {
            kind,
            nonce: response.nonce,
            resources: resources.map(|one| one.raw.unwrap().bytes.into()).collect(),
            removed: response.removed,
        })
    }
}

struct Life<M> {
    server: M,
    dialect: Dialect,
    /// Every name that bytes went by so far.
    names: BTreeMap<(ResourceKind, Arc<[u8]>), Arc<str>>,
    /// What the client is subscribed to; an empty set of listeners or clusters is all of them.
    asked: BTreeMap<ResourceKind, Names>,
    held: BTreeMap<ResourceKind, BTreeMap<Arc<str>, Arc<[u8]>>>,
}

impl<M: Spoken> Life<M> {
    fn new(dialect: Dialect) -> Self {
        Self {
            server: M::new(dialect),
            dialect,
            names: BTreeMap::new(),
            asked: BTreeMap::new(),
            held: ResourceKind::ALL.map(|kind| (kind, BTreeMap::new())).into(),
        }
    }

    fn is_envoy(&self) -> bool {
        self.dialect == ENVOY
    }

    fn begin(&mut self) {
        if self.is_envoy() {
            self.ask(CDS, Names::new(), "");
            self.ask(LDS, Names::new(), "");
        } else {
            self.ask(LDS, ["t:80".into(), "u:80".into()].into(), "");
        }
    }

    fn ask(&mut self, kind: ResourceKind, names: Names, nonce: &str) {
        self.server.say(kind, self.asked.get(&kind), &names, nonce, None);
        if !(self.is_envoy() && kind.absence_means_deleted()) {
            // What it asks for no more it drops.
            self.held.get_mut(&kind).unwrap().retain(|name, _| names.contains(name));
        }
        self.asked.insert(kind, names);
    }

    /// Hears all that there is to hear.
    fn live(&mut self, now: &View) {
        for kind in ResourceKind::ALL {
            for (name, bytes) in &now.of(kind).resources {
                self.names.insert((kind, Arc::clone(bytes)), Arc::clone(name));
            }
        }
        for _ in 0..MAX_RESPONSES {
            let Some(heard) = self.server.hear(now) else {
                return self.is_current(now);
            };
            assert!(self.asked.contains_key(&heard.kind), "{} was not asked for", heard.kind);
            let before = self.held[&heard.kind].keys().cloned().collect();
            self.take(&heard);
            self.looks_whole(heard.kind, &before, now);
            self.answer(&heard);
        }
        panic!("it never falls silent");
    }

    fn take(&mut self, heard: &Heard) {
        let held = self.held.get_mut(&heard.kind).unwrap();
        if M::WHOLE && heard.kind.absence_means_deleted() {
            held.clear();
        }
        for bytes in &heard.resources {
            let name = &self.names[&(heard.kind, Arc::clone(bytes))];
            let wanted = &self.asked[&heard.kind];
            let all = heard.kind.absence_means_deleted() && self.dialect == ENVOY;
            assert!(all || wanted.contains(name), "{} {name} was not asked for", heard.kind);
            held.insert(Arc::clone(name), Arc::clone(bytes));
        }
        for name in &heard.removed {
            held.remove(name);
        }
    }

    /// What a client would do by what it holds now.
    fn answer(&mut self, heard: &Heard) {
        let asked = self.asked[&heard.kind].clone();
        self.ask(heard.kind, asked, &heard.nonce);
        let wanted: BTreeMap<ResourceKind, Names> = if self.is_envoy() {
            let ports = self.held[&LDS]
                .keys()
                .map(|name| name.trim_start_matches("egress_").into());
            [(RDS, ports.collect()), (EDS, self.held[&CDS].keys().cloned().collect())].into()
        } else {
            // The listener t:80 names the routes t:80.
            let routes = self.held[&LDS].keys().cloned().collect();
            let clusters: Names = self.routed().collect();
            [(RDS, routes), (CDS, clusters.clone()), (EDS, clusters)].into()
        };
        for (kind, names) in wanted {
            let changed = self.asked.get(&kind) != Some(&names);
            if changed && (!names.is_empty() || self.asked.contains_key(&kind)) {
                self.ask(kind, names, "");
            }
        }
    }

    /// The clusters that the routes it holds name.
    fn routed(&self) -> impl Iterator<Item = Arc<str>> + use<M> {
        let trees: Vec<RouteTree> = self.held[&RDS]
            .values()
            .map(|bytes| {
                let raw = crate::wire::Raw {
                    type_url: RDS.type_url().into(),
                    bytes: bytes.to_vec(),
                };
                decode::<RouteTree>(&raw, &Context::default()).unwrap().value.unwrap()
            })
            .collect();
        let names: Vec<Arc<str>> = trees
            .iter()
            .flat_map(RouteTree::clusters)
            .map(|name| name.as_str().into())
            .collect();
        names.into_iter()
    }

    /// After every single response, where `before` is what was held of its kind.
    fn looks_whole(&self, kind: ResourceKind, before: &Names, now: &View) {
        let about = format!("{:?}, incremental {}", self.dialect, !M::WHOLE);
        let routed: Names = self.routed().collect();
        for name in before.iter().filter(|name| !self.held[&kind].contains_key(*name)) {
            // Nothing that was there and is there passes through absence, and no route loses the cluster it leads to.
            assert!(
                !now.of(kind).resources.contains_key(name),
                "{about}: {kind} {name} went away"
            );
            assert!(
                kind != CDS || !routed.contains(name),
                "{about}: a route leads to {name}, which went away"
            );
        }
        // Who asks for all has a cluster and its endpoints before the route to it.
        for cluster in routed.iter().filter(|_| self.is_envoy()) {
            assert!(
                self.held[&CDS].contains_key(cluster),
                "{about}: a route to {cluster}, which is not there"
            );
            assert!(
                self.held[&EDS].contains_key(cluster),
                "{about}: {cluster} has no endpoints yet"
            );
        }
    }

    /// When nothing more is said.
    fn is_current(&self, now: &View) {
        for (kind, asked) in &self.asked {
            let all = self.is_envoy() && kind.absence_means_deleted();
            for (name, bytes) in &now.of(*kind).resources {
                if all || asked.contains(name) {
                    assert_eq!(
                        self.held[kind].get(name),
                        Some(bytes),
                        "{:?} {kind} {name}",
                        self.dialect
                    );
                }
            }
            if kind.absence_means_deleted() {
                let gone = |name: &&Arc<str>| !now.of(*kind).resources.contains_key(*name);
                assert_eq!(self.held[kind].keys().find(gone), None, "{:?} {kind}", self.dialect);
            }
        }
    }
}

/// `t:80` and perhaps `u:80`, each to one of three clusters that are there.
fn random_snapshot(draw: &mut mesh_core::entropy::Draw) -> Snapshot {
    let mut builder = Snapshot::builder();
    let there: Vec<&str> = ["a", "b", "c"].into_iter().filter(|_| draw.below(3) > 0).collect();
    for name in &there {
        let endpoint = Endpoint::new(([127, 0, 0, 1], 1 + draw.below(3) as u16).into());
        let mut cluster = Cluster::new(*name, TlsMode::Plaintext, vec![endpoint]);
        cluster.breakers.default.max_requests = 1 + draw.below(3) as u32;
        builder = builder.cluster(cluster);
    }
    for target in ["t:80", "u:80"] {
        if !there.is_empty() && draw.below(4) > 0 {
            let cluster = there[draw.below(there.len() as u64) as usize];
            builder = builder.route(target, Route::to(Split::all_to(cluster)));
        }
    }
    builder.build().unwrap()
}

fn lives<M: Spoken>() {
    for dialect in DIALECTS {
        for seed in 0..LIVES {
            let mut draw = Entropy::seeded(seed).draw();
            let mut life = Life::<M>::new(dialect);
            let mut published: Option<Encoded> = None;
            life.begin();
            for generation in 1..=u64::from(PUBLISHES) {
                let next = encoded(&random_snapshot(&mut draw), published.as_ref(), generation);
                life.live(&next.view(dialect));
                published = Some(next);
            }
        }
    }
}

#[test]
fn state_of_the_world_is_whole_after_every_response_in_every_dialect() {
    lives::<StreamState>();
}

#[test]
fn incremental_is_whole_after_every_response_in_every_dialect() {
    lives::<DeltaState>();
}

fn names(list: &[&str]) -> Names {
    list.iter().map(|name| Arc::from(*name)).collect()
}

/// Cluster `c` with this bound, and one endpoint that stays.
fn bounded(max_requests: u32) -> Snapshot {
    let endpoint = Endpoint::new(([127, 0, 0, 1], 1).into());
    let mut cluster = Cluster::new("c", TlsMode::Plaintext, vec![endpoint]);
    cluster.breakers.default.max_requests = max_requests;
    Snapshot::builder().cluster(cluster).build().unwrap()
}

fn warms<M: Spoken>() {
    for dialect in DIALECTS {
        let one = encoded(&bounded(1), None, 1);
        let two = encoded(&bounded(2), Some(&one), 2);
        let mut server = M::new(dialect);
        for kind in [CDS, EDS] {
            server.say(kind, None, &names(&["c"]), "", None);
            let heard = server.hear(&one.view(dialect)).unwrap();
            server.say(kind, Some(&names(&["c"])), &names(&["c"]), &heard.nonce, None);
        }
        assert_eq!(server.hear(&two.view(dialect)).unwrap().kind, CDS);
        let again = server
            .hear(&two.view(dialect))
            .map(|heard| (heard.kind, heard.resources.len()));
        let expected = (dialect == ENVOY).then_some((EDS, 1));
        assert_eq!(again, expected, "{dialect:?}");
        assert!(server.hear(&two.view(dialect)).is_none());
    }
}

#[test]
fn envoy_is_sent_the_endpoints_of_a_changed_cluster_again_and_nobody_else_is() {
    warms::<StreamState>();
    warms::<DeltaState>();
}

/// What is said without a nonce is answered, a refusal is known by its error, and what was refused is not sent again.
fn answers<M: Spoken>() {
    for dialect in DIALECTS {
        for kind in [CDS, EDS] {
            let one = encoded(&bounded(1), None, 1);
            let mut server = M::new(dialect);
            server.say(kind, None, &names(&["c"]), "", None);
            assert_eq!(server.hear(&one.view(dialect)).unwrap().resources.len(), 1);
            // Once more without a nonce, as for the first time.
            server.say(kind, None, &names(&["c"]), "", None);
            let heard = server.hear(&one.view(dialect)).unwrap();
            assert_eq!(heard.resources.len(), 1, "{dialect:?} {kind}");
            let same = names(&["c"]);
            server.say(kind, Some(&same), &same, &heard.nonce, Some("no"));
            assert!(server.hear(&one.view(dialect)).is_none(), "{dialect:?} {kind}");
            let report = server.report();
            assert_eq!(
                report[0].acknowledged,
                Acknowledged::Refused("no".into()),
                "{dialect:?} {kind}"
            );
            // Something else is worth a try.
            let endpoint = Endpoint::new(([127, 0, 0, 1], 2).into());
            let mut cluster = Cluster::new("c", TlsMode::Plaintext, vec![endpoint]);
            cluster.breakers.default.max_requests = 2;
            let two = encoded(&Snapshot::builder().cluster(cluster).build().unwrap(), Some(&one), 2);
            assert_eq!(server.hear(&two.view(dialect)).unwrap().resources.len(), 1);
        }
    }
}

#[test]
fn requests_are_answered_and_refusals_known_in_every_dialect() {
    answers::<StreamState>();
    answers::<DeltaState>();
}

#[test]
fn an_envoy_elsewhere_has_the_same_ports_there_and_is_told_when_they_change() {
    let bind = Dialect::Envoy([127, 0, 0, 2].into());
    let target = |names: &[&str]| {
        let mut builder = Snapshot::builder().cluster(Cluster::new("c", TlsMode::Plaintext, Vec::new()));
        for name in names {
            builder = builder.route(name, Route::to(Split::all_to("c")));
        }
        builder.build().unwrap()
    };
    let one = encoded(&target(&["t:80"]), None, 1);
    let same = encoded(&target(&["t:80", "u:80"]), Some(&one), 2);
    let more = encoded(&target(&["t:80", "u:81"]), Some(&same), 3);
    let version = |encoded: &Encoded| Arc::clone(&encoded.view(bind).of(LDS).version);
    assert_eq!(version(&one), version(&same), "the routes changed, the ports did not");
    assert_ne!(version(&same), version(&more));
    let (here, there) = (one.view(ENVOY), one.view(bind));
    assert_ne!(here.of(LDS).resources, there.of(LDS).resources);
    for kind in [RDS, CDS, EDS] {
        assert!(Arc::ptr_eq(here.of(kind), there.of(kind)));
    }
}
