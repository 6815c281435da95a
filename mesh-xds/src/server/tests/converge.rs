//! CP-7: whatever happened on the way, both ends agree soon after it is quiet. Pure state machines, no sockets.
//!
//! Each seed is one life of a client and its control plane: publishes, changes of subscription, resources that the client
//! refuses, messages that cross, come twice or are lost with their stream. Types overtake one another; within a type order
//! holds, as HTTP/2 promises it.
//!
//! It is quiet when nothing more happens and no end of a cluster waits to be told. Then both ends agree in two round trips, in
//! both variants, in every life and with nothing excepted. What is in flight at the last event counts among the two.
//!
//! An end that waits is make before break, and not disagreement: routes led to a cluster that is gone, this client goes on
//! asking for it, and so may have calls on their way there (see [`release`](super::super::release)). It is the one thing that
//! two round trips after the last event may still lack, and it is bounded by itself, to the nanosecond:
//! [`RELEASE_LIMIT`] after the client settled on other routes it is told, and not before. A client has settled when it answered
//! the newest routes. In the incremental variant that is two round trips after the last event: it says what it wants and is
//! told the routes, and answers. In state of the world it is three, since a list of names that crossed with a response has
//! its old nonce, by which a server must not take it (xDS protocol, "ACK/NACK and resource type instance version"): it is said
//! again with the answer to that response.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Debug;
use std::mem;
use std::time::{Duration, Instant};

use mesh_core::config::{ExpectedPeers, MutualTls};
use mesh_core::entropy::{Draw, Entropy};

use super::*;
use crate::client::ads::{AdsState, Needs, Variant};
use crate::client::cache::{Cached, Found, Row, Trouble};
use crate::resource::{Endpoints, Listener};
use crate::server::ads::StreamState;
use crate::server::delta::DeltaState;
use crate::server::release::RELEASE_LIMIT;
use crate::wire::Raw;

const SEEDS: u64 = 1_000;
const STEPS: u32 = 120;
/// What CP-7 allows.
const ROUND_TRIPS: u32 = 2;
/// How long a client may hold a refusal back.
const HELD_BACK_AT_MOST: Duration = Duration::from_secs(120);
const TARGETS: [&str; 3] = ["t0", "t1", "t2"];
const CLUSTERS: [&str; 5] = ["c0", "c1", "c2", "c3", "c4"];

type Queues<T> = [VecDeque<T>; ResourceKind::COUNT];

struct World<M: Machine<Variant = V>, V: Variant> {
    draw: Draw,
    now: Instant,
    published: Encoded,
    generation: u64,
    client: AdsState<V>,
    needs: Needs,
    server: M,
    up: VecDeque<V::Request>,
    down: Queues<V::Response>,
    /// Where the routes led that were published while this stream lasts.
    led: BTreeSet<Arc<str>>,
    /// All listeners and clusters are asked for, as a sidecar does. Names are looked at all the same.
    everything: bool,
}

impl<M: Machine<Variant = V>, V: Variant> World<M, V>
where
    V::Request: Clone,
    V::Response: Clone,
{
    fn new(seed: u64, everything: bool) -> Self {
        let mut draw = Entropy::seeded(seed).draw();
        let first = random_snapshot(&mut draw);
        let mut world = Self {
            draw,
            now: Instant::now(),
            published: encoded(&first, None, 1),
            generation: 1,
            client: AdsState::new(Arc::default(), Context::default()),
            needs: Needs::default(),
            server: M::new(dialect(everything)),
            up: VecDeque::new(),
            down: Queues::default(),
            led: BTreeSet::new(),
            everything,
        };
        world.want();
        world.client.stream_opened();
        world
    }

    fn step(&mut self) {
        match self.draw.below(20) {
            0 => self.publish(),
            1 => self.want(),
            2 if self.draw.below(3) == 0 => self.lose_the_stream(),
            3 => self.now += Duration::from_millis(self.draw.below(200)),
            4..8 => self.up.extend(self.client.next_request(self.now)),
            8..12 => {
                let times = self.times();
                if let Some(request) = self.up.pop_front() {
                    (0..times).for_each(|_| self.server.on_request(request.clone()).unwrap());
                }
            }
            12..16 => self.respond(),
            _ => {
                let (kind, times) = (self.draw.below(4) as usize, self.times());
                if let Some(response) = self.down[kind].pop_front() {
                    (0..times).for_each(|_| drop(self.client.hear(response.clone(), self.now)));
                }
            }
        }
        self.client.on_timer(self.now);
    }

    fn times(&mut self) -> u64 {
        1 + u64::from(self.draw.below(5) == 0)
    }

    fn publish(&mut self) {
        self.generation += 1;
        let next = random_snapshot(&mut self.draw);
        self.published = encoded(&next, Some(&self.published), self.generation);
    }

    fn want(&mut self) {
        let names = [&TARGETS[..], &TARGETS, &CLUSTERS, &CLUSTERS];
        for (kind, names) in names.into_iter().enumerate() {
            let chosen = names.iter().filter(|_| self.draw.below(3) > 0);
            self.needs[kind] = chosen.map(|name| Arc::from(*name)).collect();
        }
        if self.everything {
            self.needs.want_everything(LDS);
            self.needs.want_everything(CDS);
        }
        self.client.subscribe(&self.needs);
    }

    fn lose_the_stream(&mut self) {
        self.client.stream_closed();
        self.up.clear();
        self.down = Queues::default();
        self.led.clear();
        if V::ANSWERS_EACH {
            // It says what it holds, and not why.
            self.led.extend(self.needs[CDS.index()].iter().cloned());
        }
        self.server = M::new(dialect(self.everything));
        self.client.stream_opened();
    }

    fn respond(&mut self) {
        let view = self.published.view(Dialect::Mesh);
        let leads = view.of(RDS).clusters.values();
        self.led.extend(leads.flat_map(|clusters| clusters.iter().cloned()));
        if let Some(response) = self
            .server
            .next_response(&self.published.view(Dialect::Mesh), self.now.into())
        {
            let kind = V::kind(&response).expect("only what was asked for is sent");
            self.down[kind.index()].push_back(response);
        }
    }

    /// Everything that is said reaches the other end, there and back.
    fn round_trip(&mut self) {
        self.client_speaks();
        for _ in 0..100 {
            self.respond();
        }
        for response in self.down.iter_mut().flat_map(mem::take) {
            assert!(self.client.can_receive());
            self.client.hear(response, self.now);
        }
    }

    /// It says all that it has to say; time passes only where it must, for refusals that are held back.
    fn client_speaks(&mut self) {
        while self.client.has_request(self.now + HELD_BACK_AT_MOST) {
            match self.client.next_request(self.now) {
                Some(request) => self.up.push_back(request),
                None => self.now += Duration::from_secs(1),
            }
        }
        for request in mem::take(&mut self.up) {
            self.server.on_request(request).unwrap();
        }
    }

    /// Whether the client asks for a cluster that is gone, or for its endpoints, and has not heard so.
    fn an_end_waits(&self) -> bool {
        self.waits_for_an_end_of::<ClusterSpec>() || self.waits_for_an_end_of::<Endpoints>()
    }

    fn waits_for_an_end_of<R: Cached>(&self) -> bool {
        let view = self.published.view(Dialect::Mesh);
        let is_there = |name: &Arc<str>| view.of(R::KIND).resources.contains_key(name);
        let mut gone = self.needs[R::KIND.index()].iter().filter(|name| !is_there(name));
        gone.any(|name| !self.knows_that_it_is_gone::<R>(name))
    }

    /// The last good value may be kept, with the word that it is no more.
    fn knows_that_it_is_gone<R: Cached>(&self, name: &str) -> bool {
        match self.client.cache().find::<R>(name) {
            Found::Value(_) => matches!(self.trouble(R::KIND, name), Some(Trouble::Absent(_))),
            Found::None(trouble) => matches!(trouble, Trouble::Absent(_)),
            Found::Pending => false,
        }
    }

    /// Nothing is said a moment before the first end that waits may be told. Time goes on until then.
    #[track_caller]
    fn wait_for_an_end(&mut self, seed: u64, latest: Instant) {
        let wakes = self.server.wakes().map(tokio::time::Instant::into_std);
        let wakes = wakes.unwrap_or_else(|| panic!("seed {seed}: an end waits, and its time has not begun"));
        assert!(
            wakes <= latest,
            "seed {seed}: an end waits for {:?} too long",
            wakes - latest
        );
        self.now = wakes - Duration::from_nanos(1);
        self.says_nothing(seed);
        self.now = wakes;
    }

    #[track_caller]
    fn agrees(&mut self, seed: u64, held: bool) {
        self.agrees_on::<Listener>(seed, false);
        self.agrees_on::<RouteTree>(seed, false);
        self.agrees_on::<ClusterSpec>(seed, held);
        self.agrees_on::<Endpoints>(seed, held);
    }

    #[track_caller]
    fn is_at_rest(&mut self, seed: u64) {
        self.client_speaks();
        self.says_nothing(seed);
    }

    #[track_caller]
    fn says_nothing(&mut self, seed: u64) {
        let view = self.published.view(Dialect::Mesh);
        let response = self.server.next_response(&view, self.now.into());
        assert!(response.is_none(), "seed {seed}: it has something to say");
    }

    /// The control plane knows whether its clusters are refused.
    #[track_caller]
    fn is_reported(&self, seed: u64) {
        let wanted = &self.needs[CDS.index()];
        let is_refused = |row: Row<'_>| {
            let is_wanted = self.everything || wanted.contains(row.name);
            row.kind == CDS && is_wanted && matches!(row.trouble, Some(Trouble::Refused(_)))
        };
        let refused = self.client.cache().rows().any(is_refused);
        let report = self.server.report();
        let clusters = report.iter().find(|subscription| subscription.kind == CDS);
        let known = clusters.is_some_and(|clusters| matches!(clusters.acknowledged, Acknowledged::Refused(_)));
        // In state of the world a refusal is of a response, and outlives the subscription to what was bad in it.
        let outlived = known && !V::ANSWERS_EACH;
        assert!(known == refused || outlived, "seed {seed}: {report:?}");
    }

    #[track_caller]
    fn agrees_on<R: Cached + PartialEq + Debug>(&self, seed: u64, held: bool) {
        let set = self.published.view(Dialect::Mesh);
        let set = set.of(R::KIND);
        for name in &self.needs[R::KIND.index()] {
            let trouble = self.trouble(R::KIND, name);
            let about = format!("seed {seed}: {} {name:?}: {trouble:?}", R::KIND);
            let Some(bytes) = set.resources.get(name) else {
                let held = held && self.led.contains(name);
                let knows = self.knows_that_it_is_gone::<R>(name);
                assert!(held || knows, "{about}; {held} {:?}", self.led);
                continue;
            };
            let raw = Raw {
                type_url: R::KIND.type_url().into(),
                bytes: bytes.to_vec(),
            };
            match decode::<R>(&raw, &Context::default()).unwrap().value {
                Ok(value) => {
                    assert_eq!(trouble, None, "{about}");
                    let found = self.client.cache().find::<R>(name);
                    assert!(matches!(found, Found::Value(found) if *found == value), "{about}");
                }
                Err(_) => assert!(matches!(trouble, Some(Trouble::Refused(_))), "{about}"),
            }
        }
    }

    fn trouble(&self, kind: ResourceKind, name: &str) -> Option<Trouble> {
        let mut rows = self.client.cache().rows();
        let row = rows.find(|row| row.kind == kind && &**row.name == name);
        row.and_then(|row| row.trouble.cloned())
    }
}

/// Who asks for everything is a sidecar. What it is told is in gRPC's shape here too: of that the machines know nothing.
fn dialect(everything: bool) -> Dialect {
    match everything {
        true => Dialect::Sidecar,
        false => Dialect::Mesh,
    }
}

/// Targets that route to clusters, some of which are not there and some of which this client refuses.
fn random_snapshot(draw: &mut Draw) -> Snapshot {
    let mut builder = Snapshot::builder();
    let mut there = Vec::new();
    for name in CLUSTERS {
        if draw.below(4) == 0 {
            continue;
        }
        // Refused by a process whose bootstrap has no certificate provider.
        let tls = match draw.below(4) {
            0 => TlsMode::Mutual(MutualTls {
                expected: ExpectedPeers::default(),
                sni: None,
            }),
            _ => TlsMode::Plaintext,
        };
        let endpoint = Endpoint::new(([127, 0, 0, 1], 1 + draw.below(3) as u16).into());
        let mut cluster = Cluster::new(name, tls, vec![endpoint]);
        cluster.breakers.default.max_requests = 1 + draw.below(2) as u32;
        builder = builder.cluster(cluster);
        there.push(name);
    }
    for target in TARGETS {
        if there.is_empty() || draw.below(4) == 0 {
            continue;
        }
        let cluster = there[draw.below(there.len() as u64) as usize];
        builder = builder.route(target, Route::to(Split::all_to(cluster)));
    }
    builder.build().unwrap()
}

/// Whether `everything` is asked for; `settled_after` so many round trips after the last event the client has settled on the newest routes.
#[track_caller]
fn converges<M: Machine<Variant = V>, V: Variant>(everything: bool, settled_after: u32)
where
    V::Request: Clone,
    V::Response: Clone,
{
    let mut waited = 0;
    for seed in 0..SEEDS {
        let mut world = World::<M, V>::new(seed, everything);
        for _ in 0..STEPS {
            world.step();
        }
        for trip in 1..=settled_after {
            world.round_trip();
            if trip >= ROUND_TRIPS {
                world.agrees(seed, true);
            }
        }
        let latest = world.now + RELEASE_LIMIT;
        waited += u32::from(world.an_end_waits());
        // Each that waits is told at its own time, and there are no more of them than clusters.
        for _ in CLUSTERS {
            if world.an_end_waits() {
                world.wait_for_an_end(seed, latest);
                world.round_trip();
            }
        }
        world.agrees(seed, false);
        world.is_at_rest(seed);
        world.is_reported(seed);
    }
    // Who asks for everything never lets go of a cluster: its answer to the routes is all.
    assert_eq!(waited > 0, !everything, "{waited} ends of clusters waited");
}

#[test]
fn cp_7_state_of_the_world_converges_in_two_round_trips() {
    converges::<StreamState, _>(false, 3);
}

#[test]
fn cp_7_incremental_converges_in_two_round_trips() {
    converges::<DeltaState, _>(false, 2);
}

#[test]
fn cp_7_incremental_converges_where_everything_is_asked_for() {
    converges::<DeltaState, _>(true, 2);
}

#[test]
fn cp_7_state_of_the_world_converges_where_everything_is_asked_for() {
    converges::<StreamState, _>(true, 3);
}
