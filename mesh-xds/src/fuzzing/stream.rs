//! A whole stream: the input says what the control plane sends, when the stream breaks, how time passes and what is wanted,
//! and a real client (protocol, cache, assembly) hears it.
//!
//! An input that begins with 0xff is a sidecar's stream, any other one a gRPC client's. The rest is a list of steps: one byte that says what (its low three bits) and how (the others), for some two bytes of
//! length, lowest first, and as many bytes. A length beyond the end means the rest, so that any input is a list of steps.
//!
//! What is promised after each step:
//!
//! - every response of a subscribed type is answered by exactly one ACK or NACK with its nonce, in order, and in state of the
//!   world the newest alone; nothing else is; a NACK has a reason of bounded length, and an ACK has none;
//! - versions, nonces, names and the node are said as the protocol has it, so that the control plane knows exactly what is
//!   wanted whenever there is nothing more to send;
//! - a good value is never lost while its name is wanted, whatever comes, unless it had a time to live and that is over;
//! - what changed of a resource is told to those who follow the cache;
//! - what was assembled step by step is what a fresh assembly makes of the same cache, whenever nothing is waited for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_core::Snapshot;
use mesh_core::config::RouteTree;
use prost::Message;

use super::resource;
use crate::bootstrap::{ListenerNames, Profile};
use crate::client::ads::{AdsState, Needs, Variant};
use crate::client::assemble::{Assembler, Naming, Wanted};
use crate::client::cache::{Changed, Row, Trouble};
use crate::decode::{self, Context, Resource};
use crate::node::Node;
use crate::resource::{ClusterSpec, Endpoints, Extension, Listener, ResourceKind};
use crate::wire::{self, Delta, DeltaRequest, DeltaResponse, Raw, Request, Response, Sotw, Versioned};

/// The most steps that are taken of one input: more find nothing new and only cost time.
const MAX_STEPS: usize = 64;
/// As long as any refusal is held back.
const HELD: Duration = Duration::from_secs(120);
/// Between two requests.
const A_MOMENT: Duration = Duration::from_millis(200);
/// More than a resource is waited for.
const LONG: Duration = Duration::from_secs(20);
/// The most bytes of a NACK's reason: 4 KiB, and how it begins and ends.
const MAX_REASON_BYTES: usize = 4096 + 512;
/// The most requests that may follow one step: more are a loop.
const MAX_REQUESTS: usize = 1024;
/// What a gRPC client may call, what a sidecar may, and where either may serve.
const GRPC_TARGETS: [&str; 3] = ["t", "u", "v"];
const ENVOY_TARGETS: [&str; 3] = ["t:80", "u:80", "v:81"];
const SERVED: &str = "10.0.0.1:80";
/// Begins the stream of a sidecar.
pub(super) const SIDECAR: u8 = 0xff;
/// What every host name resolves to.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));

/// Both variants, as a control plane speaks and hears them.
pub(super) trait Speak: Variant {
    /// A response of these resources, and of one name that is no more.
    fn response(
        kind: ResourceKind,
        count: u32,
        resources: Vec<(Arc<str>, Raw)>,
        removed: Option<Arc<str>>,
    ) -> Self::Response;

    /// What came over the wire.
    fn decode(bytes: &[u8]) -> Option<Self::Response>;

    /// The same on the wire.
    fn encode(response: Self::Response) -> Vec<u8> {
        let message: Self::ResponseMessage = response.into();
        message.encode_to_vec()
    }

    /// The version of a response, where it has one as a whole.
    fn version(response: &Self::Response) -> Option<String>;

    /// What a request says.
    fn said(request: Self::Request) -> Said;
}

/// What a request says, in either variant.
pub(super) struct Said {
    kind: ResourceKind,
    version: Option<String>,
    nonce: String,
    error: Option<String>,
    has_node: bool,
    names: Names,
}

enum Names {
    All(Vec<Arc<str>>),
    Change { more: Vec<Arc<str>>, fewer: Vec<Arc<str>> },
}

/// Takes the steps of an input; what was published last.
pub(super) fn drive<V: Speak>(mut input: &[u8]) -> Snapshot {
    let profile = match input.split_first() {
        Some((&SIDECAR, rest)) => {
            input = rest;
            Profile::Envoy
        }
        _ => Profile::Grpc,
    };
    let mut client = Client::<V>::new(profile);
    for _ in 0..MAX_STEPS {
        let Some((&step, rest)) = input.split_first() else {
            break;
        };
        input = rest;
        let how = step >> 3;
        match step & 7 {
            0 => {
                if let Some(response) = V::decode(take(&mut input)) {
                    client.hear(response);
                }
            }
            1 | 2 => client.resource(how, take(&mut input), step & 7 == 2),
            3 => client.removed(how, take(&mut input)),
            4 => client.reconnect(),
            5 => client.wait(if how & 1 == 0 { LONG } else { A_MOMENT }),
            6 => client.want(how),
            _ => client.silent = how & 1 == 1,
        }
        client.follow();
        if !client.silent {
            client.drain();
        }
    }
    client.drain();
    client.snapshot
}

fn take<'a>(input: &mut &'a [u8]) -> &'a [u8] {
    let (length, rest) = match input {
        [low, high, rest @ ..] => (usize::from(u16::from_le_bytes([*low, *high])), rest),
        _ => (0, &input[input.len()..]),
    };
    let (taken, rest) = rest.split_at(length.min(rest.len()));
    *input = rest;
    taken
}

/// A real client, and what its control plane may expect of it.
struct Client<V: Variant> {
    ads: AdsState<V>,
    profile: Profile,
    assembler: Assembler,
    wanted: Wanted,
    /// The host names that are looked up.
    lookups: BTreeSet<Arc<str>>,
    /// Of those, which have resolved.
    resolved: BTreeSet<Arc<str>>,
    needs: Needs,
    snapshot: Snapshot,
    now: Instant,
    /// Numbers the responses.
    count: u32,
    /// Resources that go into the next response.
    pending: Vec<(ResourceKind, Arc<str>, Raw)>,
    rows: Rows,
    /// The client does not send for a while.
    silent: bool,
    server: Server,
}

/// What the control plane knows.
#[derive(Default)]
struct Server {
    /// Answers that are due.
    owed: BTreeMap<ResourceKind, VecDeque<Owed>>,
    /// The version that was accepted last, where a response has one.
    accepted: BTreeMap<ResourceKind, String>,
    /// What the client has subscribed to on this stream.
    names: BTreeMap<ResourceKind, BTreeSet<Arc<str>>>,
    has_node: bool,
}

struct Owed {
    nonce: String,
    is_refusal: bool,
    /// The names that it refuses.
    refused: Vec<Arc<str>>,
}

/// Everything about a resource that somebody may follow.
type Rows = BTreeMap<Changed, (Arc<str>, Option<(Arc<str>, usize)>, Option<Trouble>)>;

impl<V: Speak> Client<V> {
    fn new(profile: Profile) -> Self {
        let mut client = Self {
            ads: AdsState::new(Arc::new(Node::default()), resource::context(profile)),
            profile,
            assembler: assembler(profile),
            wanted: Wanted::default(),
            lookups: BTreeSet::new(),
            resolved: BTreeSet::new(),
            needs: Needs::default(),
            snapshot: Snapshot::empty(),
            now: Instant::now(),
            count: 0,
            pending: Vec::new(),
            rows: Rows::new(),
            silent: false,
            server: Server::default(),
        };
        client.ads.stream_opened();
        client.want(0b011);
        client.follow();
        client.drain();
        client
    }

    /// One resource, alone or with those before it.
    fn resource(&mut self, how: u8, bytes: &[u8], is_more: bool) {
        let kind = kind(how);
        let raw = Raw {
            type_url: kind.type_url().into(),
            bytes: bytes.into(),
        };
        let name = name(kind, &raw).unwrap_or_else(|| GRPC_TARGETS[0].into());
        self.pending.push((kind, name, raw));
        if !is_more {
            let of_kind = |(one, name, raw)| (one == kind).then_some((name, raw));
            let resources = std::mem::take(&mut self.pending)
                .into_iter()
                .filter_map(of_kind)
                .collect();
            self.count += 1;
            self.hear(V::response(kind, self.count, resources, None));
        }
    }

    fn removed(&mut self, how: u8, bytes: &[u8]) {
        let name = Arc::from(String::from_utf8_lossy(bytes));
        self.count += 1;
        self.hear(V::response(kind(how), self.count, Vec::new(), Some(name)));
    }

    fn hear(&mut self, response: V::Response) {
        if !self.ads.can_receive() {
            self.drain();
        }
        let (kind, nonce) = (V::kind(&response), V::nonce(&response).to_owned());
        let version = V::version(&response);
        let received = self.ads.hear(response, self.now);
        let rejected = &received.taken.rejected;
        assert!(received.kind.is_some() || rejected.is_empty());
        assert!(received.kind.is_none() || received.kind == kind);
        let Some(kind) = received.kind else {
            return;
        };
        for rejected in rejected {
            assert_eq!(rejected.kind(), kind);
            resource::bounded(rejected);
        }
        let is_bad = !rejected.is_empty();
        let mut refused: Vec<Arc<str>> = rejected.iter().map(|rejected| rejected.resource().into()).collect();
        let owed = self.server.owed.entry(kind).or_default();
        if !V::ANSWERS_EACH {
            // What an answer would have refused that was not sent, the newest does, if it is refused still.
            let earlier = std::mem::take(owed).into_iter().flat_map(|owed| owed.refused);
            let is_refused = |name: &Arc<str>| {
                let row = self.ads.cache().row(kind, name);
                matches!(row.and_then(|row| row.trouble), Some(Trouble::Refused(_)))
            };
            refused.extend(earlier.filter(is_refused));
        }
        owed.push_back(Owed {
            nonce,
            is_refusal: !refused.is_empty(),
            refused,
        });
        if let Some(version) = version.filter(|_| !is_bad) {
            self.server.accepted.insert(kind, version);
        }
    }

    fn reconnect(&mut self) {
        self.ads.stream_closed();
        assert!(!self.ads.has_request(self.now));
        self.server = Server {
            accepted: std::mem::take(&mut self.server.accepted),
            ..Server::default()
        };
        self.ads.stream_opened();
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        // There is no other control plane that could be asked where this one is mute.
        self.ads.is_found_mute(self.now);
        // Whatever a time to live ended is forgotten; what is good without one stays.
        self.ads.on_timer(self.now);
        for key in self.rows.keys().cloned().collect::<Vec<_>>() {
            let ended =
                |row: &Row<'_>| matches!(row.trouble, Some(Trouble::Absent(why)) if why.contains("time to live"));
            if self.ads.cache().row(key.0, &key.1).is_some_and(|row| ended(&row)) {
                self.rows.entry(key).and_modify(|row| row.1 = None);
            }
        }
        assert!(self.ads.deadline(self.now).is_none_or(|deadline| self.now < deadline));
        for host in &self.lookups {
            self.assembler.resolved(host, Ok(vec![ADDRESS]));
            self.resolved.insert(Arc::clone(host));
        }
    }

    fn want(&mut self, which: u8) {
        let targets = match self.profile {
            Profile::Grpc => GRPC_TARGETS,
            Profile::Envoy => ENVOY_TARGETS,
        };
        let is_set = |bit: usize| which >> bit & 1 == 1;
        let wanted = targets.iter().enumerate().filter(|(index, _)| is_set(*index));
        self.wanted = Wanted {
            targets: wanted.map(|(_, name)| Arc::from(*name)).collect(),
            inbound: is_set(3).then(|| SERVED.into()).into_iter().collect(),
        };
    }

    /// What follows every event: assembly and subscription, as the client's task does them.
    fn follow(&mut self) {
        let changed = self.ads.take_changed();
        self.compare(&changed);
        let assembly = self.assembler.assemble(&self.wanted, self.ads.cache(), &changed);
        if let Some(needs) = assembly.needs {
            self.ads.subscribe(&needs);
            self.needs = needs;
        }
        if let Some(lookups) = assembly.lookups {
            self.lookups = lookups.into_keys().collect();
            self.resolved.retain(|host| self.lookups.contains(host));
        }
        let changed = self.ads.take_changed();
        self.compare(&changed);
        if let Some(snapshot) = assembly.snapshot {
            assert!(self.snapshot.version() < snapshot.version());
            self.snapshot = snapshot;
        }
        self.is_what_a_fresh_one_makes();
    }

    fn is_what_a_fresh_one_makes(&self) {
        let mut fresh = assembler(self.profile);
        for host in &self.resolved {
            fresh.resolved(host, Ok(vec![ADDRESS]));
        }
        let whole = fresh.assemble(&self.wanted, self.ads.cache(), &[]);
        if whole.waiting.is_some_and(|waiting| waiting.is_empty()) {
            let snapshot = whole.snapshot.unwrap_or_else(Snapshot::empty);
            assert!(
                snapshot.is_same_as(&self.snapshot),
                "{snapshot:#?}\nis not\n{:#?}",
                self.snapshot
            );
            assert_eq!(whole.needs.as_ref(), Some(&self.needs));
        }
    }

    /// No good value was lost, and no change went untold.
    fn compare(&mut self, told: &[Changed]) {
        let mut rows = Rows::new();
        for row in self.ads.cache().rows() {
            let good = row.bytes.zip(row.accepted);
            let good = good.map(|(bytes, version)| (Arc::clone(version), bytes.as_ptr() as usize));
            let key = (row.kind, Arc::clone(row.name));
            rows.insert(key, (Arc::clone(row.received), good, row.trouble.cloned()));
        }
        let is_told = |key: &Changed| told.contains(key);
        for (key, before) in &self.rows {
            match rows.get(key) {
                None => assert!(is_told(key) && !self.is_wanted(key), "{key:?} is forgotten"),
                Some(now) => {
                    assert!(before.1.is_none() || now.1.is_some(), "{key:?} lost its good value");
                    assert!(before == now || is_told(key), "{key:?} changed unheard");
                }
            }
        }
        assert!(rows.keys().all(|key| self.rows.contains_key(key) || is_told(key)));
        self.rows = rows;
    }

    fn is_wanted(&self, key: &Changed) -> bool {
        self.needs[key.0.index()].contains(&key.1)
    }

    /// Sends whatever there is to send.
    fn drain(&mut self) {
        for _ in 0..MAX_REQUESTS {
            self.now += A_MOMENT;
            if !self.ads.has_request(self.now) && self.server.is_owed() {
                // A refusal is held back.
                self.now += HELD;
            }
            if !self.ads.has_request(self.now) {
                assert!(self.ads.next_request(self.now).is_none());
                return self.all_is_said();
            }
            let request = self.ads.next_request(self.now).expect("there is something to send");
            self.server.hear(V::said(request));
        }
        panic!("there is no end of requests");
    }

    fn all_is_said(&self) {
        assert!(!self.server.is_owed(), "an answer is missing");
        for kind in ResourceKind::ALL {
            let said = self.server.names.get(&kind).cloned().unwrap_or_default();
            let wanted = match self.needs.wants_everything(kind) {
                true => BTreeSet::new(),
                false => self.needs[kind.index()].clone(),
            };
            assert_eq!(said, wanted, "what is wanted of {kind}");
        }
    }
}

impl Server {
    fn is_owed(&self) -> bool {
        self.owed.values().any(|owed| !owed.is_empty())
    }

    fn hear(&mut self, said: Said) {
        let Said { kind, nonce, error, .. } = said;
        assert_eq!(said.has_node, !std::mem::replace(&mut self.has_node, true), "who asks");
        let owed = self.owed.entry(kind).or_default();
        match owed.iter().position(|owed| owed.nonce == nonce) {
            Some(place) => {
                // One that accepts may overtake others.
                let is_refusal = owed.remove(place).is_some_and(|owed| owed.is_refusal);
                assert_eq!(error.is_some(), is_refusal, "the answer to {nonce:?}");
            }
            None => {
                assert!(error.is_none(), "nothing was there to be refused");
                // With versions, what comes without an answer is taken for consent.
                assert!(said.version.is_none() || owed.is_empty(), "an answer was left out");
            }
        }
        if let Some(error) = error {
            assert!(
                !error.is_empty() && error.len() <= MAX_REASON_BYTES,
                "{} bytes",
                error.len()
            );
        }
        if let Some(version) = said.version {
            let accepted = self.accepted.get(&kind).map_or("", String::as_str);
            let is_afresh = version.is_empty() && nonce.is_empty();
            assert!(
                is_afresh || version == accepted,
                "version {version:?}, not {accepted:?}"
            );
        }
        let names = self.names.entry(kind).or_default();
        match said.names {
            Names::All(all) => *names = all.into_iter().collect(),
            Names::Change { more, fewer } => {
                for name in fewer {
                    assert!(names.remove(&name), "{name:?} was not subscribed to");
                }
                names.extend(more);
            }
        }
    }
}

impl Speak for Sotw {
    fn response(kind: ResourceKind, count: u32, resources: Vec<(Arc<str>, Raw)>, _: Option<Arc<str>>) -> Response {
        Response {
            type_url: kind.type_url().into(),
            version: count.to_string(),
            nonce: count.to_string(),
            resources: resources.into_iter().map(|(_, raw)| raw).collect(),
            errors: Vec::new(),
        }
    }

    fn decode(bytes: &[u8]) -> Option<Response> {
        <Self as wire::Variant>::ResponseMessage::decode(bytes)
            .ok()
            .map(Into::into)
    }

    fn version(response: &Response) -> Option<String> {
        Some(response.version.clone())
    }

    fn said(request: Request) -> Said {
        Said {
            kind: ResourceKind::from_type_url(&request.type_url).expect("a known type is asked for"),
            version: Some(request.version),
            nonce: request.nonce,
            error: request.error,
            has_node: request.node.is_some(),
            names: Names::All(request.names),
        }
    }
}

impl Speak for Delta {
    fn response(
        kind: ResourceKind,
        count: u32,
        resources: Vec<(Arc<str>, Raw)>,
        removed: Option<Arc<str>>,
    ) -> DeltaResponse {
        let version: Arc<str> = count.to_string().into();
        let one = |(name, raw)| Versioned {
            name,
            version: Arc::clone(&version),
            raw: Some(raw),
            ttl: None,
        };
        DeltaResponse {
            type_url: kind.type_url().into(),
            version: count.to_string(),
            nonce: count.to_string(),
            resources: resources.into_iter().map(one).collect(),
            removed: removed.into_iter().collect(),
            errors: Vec::new(),
        }
    }

    fn decode(bytes: &[u8]) -> Option<DeltaResponse> {
        <Self as wire::Variant>::ResponseMessage::decode(bytes)
            .ok()
            .map(Into::into)
    }

    fn version(_: &DeltaResponse) -> Option<String> {
        None
    }

    fn said(request: DeltaRequest) -> Said {
        Said {
            kind: ResourceKind::from_type_url(&request.type_url).expect("a known type is asked for"),
            version: None,
            nonce: request.nonce,
            error: request.error,
            has_node: request.node.is_some(),
            names: Names::Change {
                more: request.subscribe,
                fewer: request.unsubscribe,
            },
        }
    }
}

fn kind(how: u8) -> ResourceKind {
    ResourceKind::ALL[usize::from(how) % ResourceKind::ALL.len()]
}

/// The name inside a resource, if it has one.
fn name(kind: ResourceKind, raw: &Raw) -> Option<Arc<str>> {
    fn of<R: Resource>(raw: &Raw) -> Option<Arc<str>> {
        let decoded = decode::decode::<R>(raw, &Context::default());
        decoded.ok().map(|decoded| decoded.name)
    }
    match kind {
        ResourceKind::Listener => of::<Listener>(raw),
        ResourceKind::Route => of::<RouteTree>(raw),
        ResourceKind::Cluster => of::<ClusterSpec>(raw),
        ResourceKind::Endpoints => of::<Endpoints>(raw),
        ResourceKind::ExtensionConfig => of::<Extension>(raw),
    }
}

fn assembler(profile: Profile) -> Assembler {
    Assembler::new(Naming {
        profile,
        names: ListenerNames::new(None, Some("%s"), &BTreeMap::new()),
    })
}
