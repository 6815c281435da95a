//! Order and completeness, for both variants and every dialect: a client that does what the real ones do lives through many
//! publishes, and after each single response what it holds is looked at. Both ends lag: what one says the other hears when it
//! pleases, in the order in which it was said, and more is published meanwhile.
//!
//! The client asks as its kind does: gRPC by name, along the references, as it learns them, and for the clusters of the calls
//! in its hands, which it holds for as long as they please; Envoy for all listeners and clusters, and for routes and
//! endpoints by the names in those.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use mesh_core::entropy::{Draw, Entropy};

use super::*;
use crate::server::delta::DeltaState;
use crate::server::encoded::View;
use crate::server::machine::Overdue;
use crate::server::warming::WARMING_LIMIT;
use crate::wire::{DeltaRequest, DeltaResponse};

mod steps;

const ENVOY: Dialect = Dialect::Envoy(crate::encode::EGRESS_ADDRESS);
const DIALECTS: [Dialect; 3] = [Dialect::Mesh, Dialect::Grpc, ENVOY];
const LIVES: u64 = 100;
const PUBLISHES: u32 = 20;
/// The most that happens between two publishes: sometimes nothing, sometimes all that there is to say.
const MAX_STEPS: u64 = 40;
/// More than any change takes; a server that never falls silent ends here.
const MAX_MESSAGES: usize = 1_000;

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
    fn hear(&mut self, view: &View) -> Option<Heard> {
        self.hear_at(view, Instant::now())
    }
    fn hear_at(&mut self, view: &View, now: Instant) -> Option<Heard>;
}

impl Spoken for StreamState {
    const WHOLE: bool = true;

    fn say(&mut self, kind: ResourceKind, _: Option<&Names>, new: &Names, nonce: &str, error: Option<&str>) {
        let names: Vec<&str> = new.iter().map(|name| &**name).collect();
        let mut request = request(kind, nonce, &names);
        request.error = error.map(String::from);
        self.on_request(request).unwrap();
    }

    fn hear_at(&mut self, view: &View, now: Instant) -> Option<Heard> {
        let response: Response = self.next_response(view, now)?;
        Some(Heard {
            kind: response.kind().unwrap(),
            nonce: response.nonce,
            resources: response.resources.into_iter().map(|raw| raw.bytes.into()).collect(),
            removed: response.errors.into_iter().map(|error| error.name.into()).collect(),
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

    fn hear_at(&mut self, view: &View, now: Instant) -> Option<Heard> {
        let response: DeltaResponse = self.next_response(view, now)?;
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
    /// The same, as far as the server has heard.
    heard: BTreeMap<ResourceKind, Names>,
    /// What the server told of what the client asks for, as far as it has heard.
    told: BTreeMap<ResourceKind, Names>,
    /// Of the newest responses that the client has, and that the server made.
    nonces: BTreeMap<ResourceKind, String>,
    newest: BTreeMap<ResourceKind, String>,
    held: BTreeMap<ResourceKind, BTreeMap<Arc<str>, Arc<[u8]>>>,
    /// The clusters that an Envoy uses: those whose endpoints it got once it had them. One that changes it uses as it was.
    warm: Names,
    /// The clusters that a client of names holds for calls that began on routes that it has no more.
    calls: Names,
    up: VecDeque<Said>,
    down: VecDeque<Told>,
}

/// On its way from the server, with what it knew when it said so: what was published, and what of this kind the client had.
struct Told {
    heard: Heard,
    published: View,
    had: Names,
}

/// On its way to the server.
struct Said {
    kind: ResourceKind,
    old: Option<Names>,
    new: Names,
    nonce: String,
}

impl<M: Spoken> Life<M> {
    fn new(dialect: Dialect) -> Self {
        Self {
            server: M::new(dialect),
            dialect,
            names: BTreeMap::new(),
            asked: BTreeMap::new(),
            heard: BTreeMap::new(),
            told: BTreeMap::new(),
            nonces: BTreeMap::new(),
            newest: BTreeMap::new(),
            held: ResourceKind::ALL.map(|kind| (kind, BTreeMap::new())).into(),
            warm: Names::new(),
            calls: Names::new(),
            up: VecDeque::new(),
            down: VecDeque::new(),
        }
    }

    fn is_envoy(&self) -> bool {
        self.dialect == ENVOY
    }

    fn asks_for_all(&self, kind: ResourceKind) -> bool {
        self.is_envoy() && kind.absence_means_deleted()
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
        if !self.asks_for_all(kind) {
            // What it asks for no more it drops.
            self.held.get_mut(&kind).unwrap().retain(|name, _| names.contains(name));
        }
        let old = self.asked.insert(kind, names.clone());
        self.up.push_back(Said {
            kind,
            old,
            new: names,
            nonce: nonce.into(),
        });
    }

    /// Something is published; then something happens, or something else, so many times. Both ends lag as they like: what
    /// is said is heard later, and more is published meanwhile.
    fn live(&mut self, now: &View, draw: &mut Draw, steps: u64) {
        for kind in ResourceKind::ALL {
            for (name, bytes) in now.of(kind).resources.iter() {
                self.names.insert((kind, Arc::clone(bytes)), Arc::clone(name));
            }
        }
        for _ in 0..steps {
            match draw.below(10) {
                0..3 => drop(self.server_speaks(now)),
                3..6 => drop(self.server_hears()),
                6..9 => drop(self.client_hears()),
                _ => self.calls_end(),
            }
        }
    }

    /// Until nobody has anything to say.
    fn rest(&mut self, now: &View) {
        self.calls_end();
        for _ in 0..MAX_MESSAGES {
            if !(self.server_hears() || self.server_speaks(now) || self.client_hears()) {
                if self.calls.is_empty() {
                    return self.is_current(now);
                }
                self.calls_end();
            }
        }
        panic!("they never fall silent");
    }

    fn server_hears(&mut self) -> bool {
        let Some(said) = self.up.pop_front() else { return false };
        let Said { kind, old, new, nonce } = said;
        self.server.say(kind, old.as_ref(), &new, &nonce, None);
        // In state of the world nothing is taken from an answer to anything but the newest response.
        if !M::WHOLE || nonce.is_empty() || self.newest.get(&kind) == Some(&nonce) {
            let all = self.asks_for_all(kind);
            self.told
                .entry(kind)
                .or_default()
                .retain(|name| all || new.contains(name));
            self.heard.insert(kind, new);
        }
        true
    }

    fn server_speaks(&mut self, now: &View) -> bool {
        let Some(heard) = self.server.hear(now) else {
            return false;
        };
        let kind = heard.kind;
        let wanted = self.heard.get(&kind);
        let wanted = wanted.unwrap_or_else(|| panic!("{kind} was not asked for"));
        for bytes in &heard.resources {
            let name = &self.names[&(kind, Arc::clone(bytes))];
            assert!(
                self.asks_for_all(kind) || wanted.contains(name),
                "{kind} {name} was not asked for"
            );
        }
        let brought = heard
            .resources
            .iter()
            .map(|bytes| &self.names[&(kind, Arc::clone(bytes))]);
        let told = self.told.entry(kind).or_default();
        let had = told.clone();
        told.extend(brought.cloned());
        self.newest.insert(kind, heard.nonce.clone());
        self.down.push_back(Told {
            heard,
            published: now.clone(),
            had,
        });
        true
    }

    fn client_hears(&mut self) -> bool {
        let Some(told) = self.down.pop_front() else {
            return false;
        };
        let kind = told.heard.kind;
        let mut before: Names = self.held[&kind].keys().cloned().collect();
        // What the server did not know to be there it could not keep.
        before.retain(|name| told.had.contains(name));
        let routed: Names = self.routed().collect();
        self.take(&told.heard);
        if !self.is_envoy() {
            // Some calls of every cluster that it has are on their way when the routes change.
            let (led, has): (Names, _) = (self.routed().collect(), &self.held[&CDS]);
            let left = routed.difference(&led).filter(|name| has.contains_key(*name));
            self.calls.extend(left.cloned());
        }
        self.looks_whole(kind, &before, &told.published);
        self.answer(&told.heard);
        true
    }

    fn take(&mut self, heard: &Heard) {
        let kind = heard.kind;
        let all = self.asks_for_all(kind);
        let (asked, held) = (&self.asked[&kind], self.held.get_mut(&kind).unwrap());
        if M::WHOLE && kind.absence_means_deleted() {
            held.clear();
        }
        for bytes in &heard.resources {
            let name = &self.names[&(kind, Arc::clone(bytes))];
            // What was on its way when it was dropped is nobody's.
            if all || asked.contains(name) {
                held.insert(Arc::clone(name), Arc::clone(bytes));
            }
        }
        for name in &heard.removed {
            held.remove(name);
        }
        let clusters = &self.held[&CDS];
        self.warm.retain(|name| clusters.contains_key(name));
        if kind == EDS {
            let names = heard
                .resources
                .iter()
                .map(|bytes| &self.names[&(EDS, Arc::clone(bytes))]);
            self.warm
                .extend(names.filter(|name| clusters.contains_key(*name)).cloned());
        }
    }

    /// What a client would do by what it holds now.
    fn answer(&mut self, heard: &Heard) {
        self.nonces.insert(heard.kind, heard.nonce.clone());
        let asked = self.asked[&heard.kind].clone();
        self.ask(heard.kind, asked, &heard.nonce);
        self.ask_along();
    }

    /// The calls on clusters that no route leads to end, and the client lets go of them.
    fn calls_end(&mut self) {
        self.calls.clear();
        self.ask_along();
    }

    /// Asks for what is referred to, and for nothing else.
    fn ask_along(&mut self) {
        let wanted: BTreeMap<ResourceKind, Names> = if self.is_envoy() {
            let ports = self.held[&LDS]
                .keys()
                .map(|name| name.trim_start_matches("egress_").into());
            [(RDS, ports.collect()), (EDS, self.held[&CDS].keys().cloned().collect())].into()
        } else {
            // The listener t:80 names the routes t:80.
            let routes = self.held[&LDS].keys().cloned().collect();
            let clusters: Names = self.routed().chain(self.calls.iter().cloned()).collect();
            [(RDS, routes), (CDS, clusters.clone()), (EDS, clusters)].into()
        };
        for (kind, names) in wanted {
            let changed = self.asked.get(&kind) != Some(&names);
            if changed && (!names.is_empty() || self.asked.contains_key(&kind)) {
                let nonce = self.nonces.get(&kind).filter(|_| M::WHOLE).cloned();
                self.ask(kind, names, &nonce.unwrap_or_default());
            }
        }
    }

    /// The clusters that the routes name which it holds, and which a listener names.
    fn routed(&self) -> impl Iterator<Item = Arc<str>> + use<M> {
        let is_used = |name: &str| self.is_envoy() || self.held[&LDS].contains_key(name);
        let trees: Vec<RouteTree> = self.held[&RDS]
            .iter()
            .filter(|(name, _)| is_used(name))
            .map(|(_, bytes)| {
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

    /// After every single response, where `before` is what was held of its kind, and `then` what was published when the
    /// server said it.
    fn looks_whole(&self, kind: ResourceKind, before: &Names, then: &View) {
        let about = format!("{:?}, incremental {}", self.dialect, !M::WHOLE);
        let routed: Names = self.routed().collect();
        let needed: Names = routed.union(&self.calls).cloned().collect();
        for name in before.iter().filter(|name| !self.held[&kind].contains_key(*name)) {
            // Nothing that was there and is there passes through absence, and no route and no call loses its cluster.
            assert!(
                !then.of(kind).resources.contains_key(name),
                "{about}: {kind} {name} went away"
            );
            assert!(
                !matches!(kind, CDS | EDS) || !needed.contains(name),
                "{about}: {kind} {name} went away, which a route leads to or a call needs"
            );
        }
        // Who asks for all uses a cluster before it has the route to it, however long that takes.
        for cluster in routed.iter().filter(|_| self.is_envoy()) {
            assert!(
                self.warm.contains(cluster),
                "{about}: a route to {cluster}, which is not warm"
            );
        }
    }

    /// When nothing more is said.
    fn is_current(&self, now: &View) {
        for (kind, asked) in &self.asked {
            let all = self.asks_for_all(*kind);
            for (name, bytes) in now.of(*kind).resources.iter() {
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
                let gone = |name: &&Arc<str>| !now.of(*kind).resources.contains_key(name);
                assert_eq!(self.held[kind].keys().find(gone), None, "{:?} {kind}", self.dialect);
            }
        }
        if self.is_envoy() {
            assert!(self.held[&CDS].keys().eq(&self.warm), "a cluster is not warm");
        }
    }
}

/// `t:80` and perhaps `u:80`, each to one of three clusters that are there.
fn random_snapshot(draw: &mut Draw) -> Snapshot {
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

/// What is published is encoded for every dialect at once, so the three live through the same.
fn lives<M: Spoken>() {
    for seed in 0..LIVES {
        let mut draw = Entropy::seeded(seed).draw();
        let mut published = vec![encoded(&random_snapshot(&mut draw), None, 1)];
        for generation in 2..=u64::from(PUBLISHES) {
            let next = encoded(&random_snapshot(&mut draw), published.last(), generation);
            published.push(next);
        }
        for dialect in DIALECTS {
            let mut life = Life::<M>::new(dialect);
            life.begin();
            let (last, earlier) = published.split_last().expect("something is published");
            for published in earlier {
                let steps = draw.below(MAX_STEPS);
                life.live(&published.view(dialect), &mut draw, steps);
                if draw.below(4) == 0 {
                    life.rest(&published.view(dialect));
                }
            }
            life.live(&last.view(dialect), &mut draw, 0);
            life.rest(&last.view(dialect));
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
