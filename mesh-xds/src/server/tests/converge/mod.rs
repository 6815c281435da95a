//! CP-7: whatever happened on the way, both ends agree soon after it is quiet. Pure state machines, no sockets.
//!
//! Each seed is one life of a client and its control plane: publishes, changes of subscription, resources of every kind that
//! the client refuses among others of the same response, messages that cross, come twice or are lost with their stream.
//! Types overtake one another in both directions; within a type order holds, as HTTP/2 promises it.
//!
//! It is quiet when nothing more happens. Two round trips later both ends agree, in both variants and both shapes, in every
//! life, on every name of every kind: what is published is used, or refused and known to be; what is not published is known
//! to be gone. What is in flight at the last event counts among the two.
//!
//! One rule makes both ends agree on something other than what is published, and is held to as strictly: the end of a cluster
//! waits (make before break; xDS protocol, "Eventual consistency considerations"). Routes led to a cluster that is gone, this
//! client goes on asking for it, and so may have calls on their way there (see [`release`](super::super::release)). Then
//!
//! - what both ends have of it, and of its endpoints, is what was told last;
//! - it is told [`RELEASE_LIMIT`] after the client settled on other routes: to the nanosecond, and not before; to one that
//!   asks for all clusters, and so never lets go of one, it is told when it settled;
//! - that costs one round trip more for each that waits;
//! - a client that refuses the newest routes uses the old ones, so for it nothing ends before there are routes that it uses.
//!
//! A client has settled when it uses the newest listeners and routes, and said so, which is among the two trips. In state of the
//! world it takes one more where a list of names crossed with a response: it has its old nonce, by which a server must not
//! take it (xDS protocol, "ACK/NACK and resource type instance version"), and is said again with the answer to that response.
//!
//! Time passes without messages where refusals are held back, as far apart as attempts that fail (CP-5). It is no trip.

mod published;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Debug;
use std::mem;
use std::time::{Duration, Instant};

use mesh_core::entropy::{Draw, Entropy};

use super::*;
use crate::client::ads::{AdsState, Needs, Variant};
use crate::client::cache::{Cached, Found, Row, Trouble};
use crate::resource::{Endpoints, Extension, Listener};
use crate::server::delta::DeltaState;
use crate::server::encoded::View;
use crate::server::release::RELEASE_LIMIT;
use crate::wire::{Delta, Raw, Sotw};

use published::{CLUSTERS, NAMES, Shape};

/// Of each variant and shape. The wide ring has more.
const SEEDS: usize = 200;
const STEPS: u32 = 160;
/// What CP-7 allows.
const ROUND_TRIPS: u32 = 2;
/// How long a client may hold a refusal back.
const HELD_BACK_AT_MOST: Duration = Duration::from_secs(120);

type Queues<T> = [VecDeque<T>; ResourceKind::COUNT];

/// What is looked at of messages on their way.
trait Said: Variant {
    fn asked(request: &Self::Request) -> (ResourceKind, &str);

    /// The names that the client asks for and has forgotten: what is gone by then cannot be told again.
    fn asked_anew(request: &Self::Request) -> &[Arc<str>];

    /// The resources of a response, and the names that it says are not there.
    fn told(response: &Self::Response) -> (Vec<&[u8]>, Vec<&str>);
}

impl Said for Sotw {
    fn asked(request: &Self::Request) -> (ResourceKind, &str) {
        (asked_for(&request.type_url), &request.nonce)
    }

    /// A name that was dropped and is wanted again is asked for as if for the first time.
    fn asked_anew(request: &Self::Request) -> &[Arc<str>] {
        let is_whole = asked_for(&request.type_url).absence_means_deleted();
        match request.nonce.is_empty() && !is_whole {
            true => &request.names,
            false => &[],
        }
    }

    fn told(response: &Self::Response) -> (Vec<&[u8]>, Vec<&str>) {
        let resources = response.resources.iter().map(|raw| &raw.bytes[..]);
        let absent = response.errors.iter().map(|error| &*error.name);
        (resources.collect(), absent.collect())
    }
}

impl Said for Delta {
    fn asked(request: &Self::Request) -> (ResourceKind, &str) {
        (asked_for(&request.type_url), &request.nonce)
    }

    fn asked_anew(request: &Self::Request) -> &[Arc<str>] {
        &request.subscribe
    }

    fn told(response: &Self::Response) -> (Vec<&[u8]>, Vec<&str>) {
        let raws = response.resources.iter().filter_map(|one| one.raw.as_ref());
        let removed = response.removed.iter().map(|name| &**name);
        (raws.map(|raw| &raw.bytes[..]).collect(), removed.collect())
    }
}

fn asked_for(type_url: &str) -> ResourceKind {
    ResourceKind::from_type_url(type_url).expect("only known kinds are asked for")
}

struct World<M: Machine<Variant = V>, V: Variant> {
    draw: Draw,
    now: Instant,
    shape: Shape,
    published: View,
    generation: u64,
    client: AdsState<V>,
    needs: Needs,
    server: M,
    up: Queues<V::Request>,
    down: Queues<V::Response>,
    /// The newest nonce of each kind.
    newest: [String; ResourceKind::COUNT],
    /// The kinds of listeners and routes whose newest list came with the answer to an older response.
    crossed: BTreeSet<ResourceKind>,
    /// Nothing more happens.
    is_quiet: bool,
    /// Where the routes led that were published while this stream lasts.
    led: BTreeSet<Arc<str>>,
    /// What the client was told last on this stream.
    told: [BTreeMap<Arc<str>, Arc<[u8]>>; ResourceKind::COUNT],
}

impl<M: Machine<Variant = V>, V: Said> World<M, V>
where
    V::Request: Clone,
    V::Response: Clone,
{
    fn new(seed: u64, shape: Shape) -> Self {
        let mut draw = Entropy::seeded(seed).draw();
        let published = shape.publish(&mut draw, None, 1);
        let mut world = Self {
            draw,
            now: Instant::now(),
            shape,
            published,
            generation: 1,
            client: AdsState::new(Arc::default(), shape.context()),
            needs: Needs::default(),
            server: M::new(shape.dialect()),
            up: Queues::default(),
            down: Queues::default(),
            newest: Default::default(),
            crossed: BTreeSet::new(),
            is_quiet: false,
            led: BTreeSet::new(),
            told: Default::default(),
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
            4..8 => drop(self.say()),
            8..12 => {
                let (kind, times) = (self.any_kind(), self.times());
                if let Some(request) = self.up[kind].pop_front() {
                    (0..times).for_each(|_| self.reaches_the_server(request.clone()));
                }
            }
            12..16 => drop(self.respond()),
            _ => {
                let (kind, times) = (self.any_kind(), self.times());
                if let Some(response) = self.down[kind].pop_front() {
                    (0..times).for_each(|_| drop(self.client.hear(response.clone(), self.now)));
                }
            }
        }
        self.client.on_timer(self.now);
    }

    fn any_kind(&mut self) -> usize {
        self.draw.below(ResourceKind::COUNT as u64) as usize
    }

    fn times(&mut self) -> u64 {
        1 + u64::from(self.draw.below(5) == 0)
    }

    fn publish(&mut self) {
        self.generation += 1;
        self.published = self
            .shape
            .publish(&mut self.draw, Some(&self.published), self.generation);
    }

    fn want(&mut self) {
        for (kind, names) in NAMES.into_iter().enumerate() {
            let chosen = names.iter().filter(|_| self.draw.below(3) > 0);
            self.needs[kind] = chosen.map(|name| Arc::from(*name)).collect();
        }
        if self.asks_for_everything() {
            self.needs.want_everything(LDS);
            self.needs.want_everything(CDS);
        }
        self.client.subscribe(&self.needs);
    }

    fn asks_for_everything(&self) -> bool {
        self.shape == Shape::Envoy
    }

    fn lose_the_stream(&mut self) {
        self.client.stream_closed();
        (self.up, self.down) = Default::default();
        (self.newest, self.told) = Default::default();
        self.led.clear();
        self.crossed.clear();
        if V::ANSWERS_EACH {
            // It says what it holds, and not why.
            let rows = self.client.cache().rows().filter(|row| row.kind == CDS);
            self.led.extend(rows.map(|row| Arc::clone(row.name)));
        }
        self.server = M::new(self.shape.dialect());
        self.client.stream_opened();
    }

    fn say(&mut self) -> bool {
        let Some(request) = self.client.next_request(self.now) else {
            return false;
        };
        self.up[V::asked(&request).0.index()].push_back(request);
        true
    }

    fn reaches_the_server(&mut self, request: V::Request) {
        let (kind, nonce) = V::asked(&request);
        let is_late = !nonce.is_empty() && *nonce != self.newest[kind.index()];
        // In the incremental variant a change is a difference, which is taken from every request.
        if is_late && !V::ANSWERS_EACH && matches!(kind, LDS | RDS) {
            self.crossed.insert(kind);
        } else if !self.is_quiet {
            self.crossed.remove(&kind);
        }
        for name in V::asked_anew(&request) {
            self.told[kind.index()].remove(name);
        }
        self.server.on_request(request).unwrap();
    }

    fn respond(&mut self) -> bool {
        let leads = self.published.of(RDS).clusters.values();
        self.led.extend(leads.flat_map(|clusters| clusters.iter().cloned()));
        let Some(response) = self.server.next_response(&self.published, self.now.into()) else {
            return false;
        };
        let kind = V::kind(&response).expect("only what was asked for is sent");
        let (resources, absent) = V::told(&response);
        let told = &mut self.told[kind.index()];
        if kind.absence_means_deleted() && !V::ANSWERS_EACH {
            told.clear();
        }
        for name in absent {
            told.remove(name);
        }
        for bytes in resources {
            told.insert(self.shape.whose(kind, bytes), bytes.into());
        }
        self.newest[kind.index()] = V::nonce(&response).into();
        self.down[kind.index()].push_back(response);
        true
    }

    /// Everything that is said reaches the other end, there and back.
    fn round_trip(&mut self) {
        self.client_speaks();
        while self.respond() {}
        for response in self.down.iter_mut().flat_map(mem::take) {
            assert!(self.client.can_receive());
            self.client.hear(response, self.now);
        }
    }

    /// It says all that it has to say; time passes only where it must, for refusals that are held back.
    fn client_speaks(&mut self) {
        while self.client.has_request(self.now + HELD_BACK_AT_MOST) {
            if !self.say() {
                self.now += Duration::from_secs(1);
            }
        }
        for request in mem::take(&mut self.up).into_iter().flatten() {
            self.reaches_the_server(request);
        }
    }

    /// Whether the client asks for a cluster that is gone, or for its endpoints, and has not heard so.
    fn an_end_waits(&self) -> bool {
        self.waits_for_an_end_of::<ClusterSpec>() || self.waits_for_an_end_of::<Endpoints>()
    }

    fn waits_for_an_end_of<R: Cached>(&self) -> bool {
        let kind = R::KIND;
        let mut gone = NAMES[kind.index()].iter().filter(|name| !self.is_published(kind, name));
        gone.any(|name| {
            // Where everything is asked for, what it has counts.
            let has = self.everything_of(kind) && self.client.cache().row(kind, name).is_some();
            let counts = self.needs[kind.index()].contains(*name) || has;
            counts && !self.knows_that_it_is_gone::<R>(name)
        })
    }

    fn is_published(&self, kind: ResourceKind, name: &str) -> bool {
        self.published.of(kind).resources.contains_key(name)
    }

    /// The last good value may be kept, with the word that it is no more.
    fn knows_that_it_is_gone<R: Cached>(&self, name: &str) -> bool {
        match self.client.cache().find::<R>(name) {
            Found::Value(_) => matches!(self.trouble(R::KIND, name), Some(Trouble::Absent(_))),
            Found::None(trouble) => matches!(trouble, Trouble::Absent(_)),
            Found::Pending => false,
        }
    }

    /// Whether the client uses older routes than it was told, and said so.
    fn routes_are_refused(&self) -> bool {
        let report = self.server.report().into_iter();
        let mut routes = report.filter(|subscription| matches!(subscription.kind, LDS | RDS));
        routes.any(|subscription| matches!(subscription.acknowledged, Acknowledged::Refused(_)))
    }

    /// Nothing is said a moment before the first end that waits may be told. Time goes on until then; whether there is such a time.
    #[track_caller]
    fn wait_for_an_end(&mut self, seed: u64, latest: Instant) -> bool {
        let Some(wakes) = self.server.wakes().map(tokio::time::Instant::into_std) else {
            assert!(
                self.routes_are_refused(),
                "seed {seed}: an end waits, and its time has not begun"
            );
            return false;
        };
        assert!(
            wakes <= latest,
            "seed {seed}: an end waits for {:?} too long",
            wakes - latest
        );
        self.now = wakes - Duration::from_nanos(1);
        self.says_nothing(seed);
        self.now = wakes;
        true
    }

    /// Both ends have the same. That ends of clusters wait is `allowed`, or is over.
    #[track_caller]
    fn agrees(&mut self, seed: u64, allowed: bool) {
        self.agrees_on::<Listener>(seed, false);
        self.agrees_on::<RouteTree>(seed, false);
        self.agrees_on::<ClusterSpec>(seed, allowed);
        self.agrees_on::<Endpoints>(seed, allowed);
        self.agrees_on::<Extension>(seed, false);
    }

    #[track_caller]
    fn is_at_rest(&mut self, seed: u64) {
        self.client_speaks();
        self.says_nothing(seed);
        assert!(!self.client.has_request(self.now), "seed {seed}: the client goes on");
    }

    #[track_caller]
    fn says_nothing(&mut self, seed: u64) {
        let response = self.server.next_response(&self.published, self.now.into());
        assert!(response.is_none(), "seed {seed}: it has something to say");
    }

    /// The control plane knows of each kind whether something of it is refused.
    #[track_caller]
    fn is_reported(&self, seed: u64, kind: ResourceKind) {
        let is_wanted = |row: &Row<'_>| self.everything_of(kind) || self.needs[kind.index()].contains(row.name);
        // Of what waits for its end from another stream the client alone knows.
        let is_told =
            |row: &Row<'_>| self.is_published(kind, row.name) || self.told[kind.index()].contains_key(row.name);
        let is_refused = |row: Row<'_>| {
            let counts = row.kind == kind && is_wanted(&row) && is_told(&row);
            counts && matches!(row.trouble, Some(Trouble::Refused(_)))
        };
        let refused = self.client.cache().rows().any(is_refused);
        let report = self.server.report();
        let told = report.iter().find(|subscription| subscription.kind == kind);
        let known = told.is_some_and(|told| matches!(told.acknowledged, Acknowledged::Refused(_)));
        // In state of the world a refusal is of a response, and outlives the subscription to what was bad in it.
        let outlived = known && !V::ANSWERS_EACH;
        assert!(
            known == refused || outlived,
            "seed {seed}: {kind}: refused {refused}: {report:?}"
        );
    }

    fn everything_of(&self, kind: ResourceKind) -> bool {
        self.needs.wants_everything(kind)
    }

    #[track_caller]
    fn agrees_on<R: Cached + PartialEq + Debug>(&self, seed: u64, allowed: bool) {
        let kind = R::KIND;
        let wanted = &self.needs[kind.index()];
        for name in NAMES[kind.index()] {
            let published = self.published.of(kind).resources.get(name);
            let about = || format!("seed {seed}: {kind} {name:?}: {:?}", self.trouble(kind, name));
            match published {
                _ if !wanted.contains(*name) && !self.everything_of(kind) => {
                    let row = self.client.cache().row(kind, name);
                    assert!(row.is_none(), "{}: it is not asked for", about());
                }
                Some(bytes) => self.has::<R>(name, bytes, &about()),
                None if self.knows_that_it_is_gone::<R>(name) => {}
                // What nobody looks at is forgotten with its end.
                None if !wanted.contains(*name) && self.client.cache().row(kind, name).is_none() => {}
                None => {
                    // Endpoints stay with their cluster.
                    let is_held = allowed && self.led.contains(*name) && !self.is_published(CDS, name);
                    assert!(is_held, "{}: led to: {:?}", about(), self.led);
                    // Of what was told on another stream the client alone knows.
                    if let Some(bytes) = self.told[kind.index()].get(*name) {
                        self.has::<R>(name, bytes, &about());
                    }
                }
            }
        }
    }

    /// It uses exactly this, or refuses it.
    #[track_caller]
    fn has<R: Cached + PartialEq + Debug>(&self, name: &str, bytes: &[u8], about: &str) {
        let raw = Raw {
            type_url: R::KIND.type_url().into(),
            bytes: bytes.into(),
        };
        let trouble = self.trouble(R::KIND, name);
        match decode::<R>(&raw, &self.shape.context()).unwrap().value {
            Ok(value) => {
                assert_eq!(trouble, None, "{about}");
                let found = self.client.cache().find::<R>(name);
                assert!(matches!(found, Found::Value(found) if *found == value), "{about}");
            }
            Err(_) => assert!(matches!(trouble, Some(Trouble::Refused(_))), "{about}"),
        }
    }

    fn trouble(&self, kind: ResourceKind, name: &str) -> Option<Trouble> {
        let row = self.client.cache().row(kind, name);
        row.and_then(|row| row.trouble.cloned())
    }
}

#[track_caller]
fn converges<M: Machine<Variant = V>, V: Said>(shape: Shape)
where
    V::Request: Clone,
    V::Response: Clone,
{
    let (mut waited, mut crossed) = (0, 0);
    for seed in 0..crate::decode::tests::count("CP_7_SEEDS", SEEDS) as u64 {
        let mut world = World::<M, V>::new(seed, shape);
        for _ in 0..STEPS {
            world.step();
        }
        world.is_quiet = true;
        for _ in 0..ROUND_TRIPS {
            world.round_trip();
        }
        world.agrees(seed, true);
        if !world.crossed.is_empty() {
            crossed += 1;
            world.round_trip();
            world.agrees(seed, true);
        }
        let latest = world.now + RELEASE_LIMIT;
        waited += u32::from(world.an_end_waits());
        // Each that waits is told at its own time, and there are no more of them than clusters.
        for _ in CLUSTERS {
            if world.an_end_waits() && world.wait_for_an_end(seed, latest) {
                world.round_trip();
            }
        }
        world.agrees(seed, world.routes_are_refused());
        world.is_at_rest(seed);
        for kind in ResourceKind::ALL {
            world.is_reported(seed, kind);
        }
    }
    assert!(waited > 0, "no end of a cluster waited");
    assert_eq!(crossed > 0, !V::ANSWERS_EACH, "{crossed} lists crossed");
}

#[test]
fn cp_7_state_of_the_world_converges_in_two_round_trips() {
    converges::<StreamState, _>(Shape::Grpc);
}

#[test]
fn cp_7_incremental_converges_in_two_round_trips() {
    converges::<DeltaState, _>(Shape::Grpc);
}

#[test]
fn cp_7_incremental_converges_where_everything_is_asked_for() {
    converges::<DeltaState, _>(Shape::Envoy);
}

#[test]
fn cp_7_state_of_the_world_converges_where_everything_is_asked_for() {
    converges::<StreamState, _>(Shape::Envoy);
}
