//! The door for fuzzers to the serving end: what a client says, as bytes, into the state machines of a stream, the sink of load
//! reports and the questions about clients.
//!
//! An input for a stream is one byte that says which kind of client it is, and a list of steps: one byte that says what (its
//! low three bits) and how (the others), and for those that have a text two bytes of length, lowest first, and so many bytes.
//! A length beyond the end means the rest, so that any input is a list of steps.
//!
//! What is promised after each step:
//!
//! - nothing is sent that was not asked for or is not published, and every response has a nonce of its own;
//! - whatever was said, the stream falls silent: a client cannot make the control plane talk without end;
//! - nothing waits for longer than it may, and then everything that is asked for is said;
//! - what is kept of a refusal is short, and of names there are not too many.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::Snapshot;
use mesh_core::config::{Cluster, Endpoint, Route, Split, TlsMode};
use prost::Message;
use tokio::time::Instant;

use super::ads::StreamState;
use super::clients::Acknowledged;
use super::delta::DeltaState;
use super::encoded::{Encoded, View};
use super::load::LoadBoard;
use super::machine::{MAX_NAMES, Machine};
use super::release::RELEASE_LIMIT;
use super::service::Caller;
use super::warming::WARMING_LIMIT;
use crate::csds::ClientView;
use crate::encode::{Dialect, EGRESS_ADDRESS};
use crate::node::Node;
use crate::proto::discovery::{DeltaDiscoveryRequest, DiscoveryRequest};
use crate::proto::load_stats::LoadStatsRequest;
use crate::proto::status::ClientStatusRequest;
use crate::resource::ResourceKind;
use crate::server::Peer;
use crate::wire::csds::{Question, answer};
use crate::wire::load::LoadRequest;
use crate::wire::{DeltaRequest, DeltaResponse, MAX_REFUSAL_BYTES, Request, Response, Variant};

/// The most steps that are taken of one input.
const MAX_STEPS: usize = 64;
/// The most responses to what one step can say: every kind once, twice for what is made anew, and once more for what is gone.
const MAX_RESPONSES: usize = 4 * ResourceKind::COUNT;
/// The longest that anything waits.
const LONGEST_WAIT: Duration = if WARMING_LIMIT.as_secs() > RELEASE_LIMIT.as_secs() {
    WARMING_LIMIT
} else {
    RELEASE_LIMIT
};
/// The most bytes of a report's name on the board.
const MAX_REPORTED_NAME_BYTES: usize = 512;

/// How a variant's client speaks, and what it is told.
trait Spoken: Machine {
    fn request(kind: ResourceKind, nonce: &str, names: Vec<Arc<str>>, error: Option<String>) -> RequestOf<Self>;
    fn heard(response: <Self::Variant as Variant>::Response) -> Heard;
}

type RequestOf<M> = <<M as Machine>::Variant as Variant>::Request;

struct Heard {
    kind: Option<ResourceKind>,
    nonce: String,
    resources: Vec<Vec<u8>>,
    /// By name, where the variant has them.
    names: Vec<Arc<str>>,
}

impl Spoken for StreamState {
    fn request(kind: ResourceKind, nonce: &str, names: Vec<Arc<str>>, error: Option<String>) -> Request {
        Request {
            type_url: kind.type_url().into(),
            nonce: nonce.into(),
            names,
            error,
            ..Request::default()
        }
    }

    fn heard(response: Response) -> Heard {
        Heard {
            kind: response.kind(),
            nonce: response.nonce,
            resources: response.resources.into_iter().map(|raw| raw.bytes).collect(),
            names: Vec::new(),
        }
    }
}

impl Spoken for DeltaState {
    fn request(kind: ResourceKind, nonce: &str, names: Vec<Arc<str>>, error: Option<String>) -> DeltaRequest {
        // Every other name is one to leave.
        let (even, odd): (Vec<_>, Vec<_>) = (0..).zip(names).partition(|(at, _): &(u32, _)| at % 2 == 0);
        let names = |list: Vec<(u32, Arc<str>)>| list.into_iter().map(|(_, name)| name).collect();
        DeltaRequest {
            type_url: kind.type_url().into(),
            nonce: nonce.into(),
            subscribe: names(even),
            unsubscribe: names(odd),
            error,
            ..DeltaRequest::default()
        }
    }

    fn heard(response: DeltaResponse) -> Heard {
        let names = response.resources.iter().map(|one| Arc::clone(&one.name)).collect();
        let raws = response.resources.into_iter().filter_map(|one| one.raw);
        Heard {
            kind: ResourceKind::from_type_url(&response.type_url),
            nonce: response.nonce,
            resources: raws.map(|raw| raw.bytes).collect(),
            names,
        }
    }
}

/// A stream of state of the world.
pub(crate) fn sotw_request(input: &[u8]) {
    drive::<StreamState>(input, |bytes| DiscoveryRequest::decode(bytes).ok().map(Into::into));
}

/// An incremental stream.
pub(crate) fn delta_request(input: &[u8]) {
    drive::<DeltaState>(input, |bytes| DeltaDiscoveryRequest::decode(bytes).ok().map(Into::into));
}

struct Stream<M> {
    state: M,
    published: View,
    now: Instant,
    nonces: BTreeSet<u64>,
    /// Of the newest response of each kind.
    newest: [String; ResourceKind::COUNT],
}

fn drive<M: Spoken>(mut input: &[u8], decode: impl Fn(&[u8]) -> Option<RequestOf<M>>)
where
    RequestOf<M>: Debug,
{
    let dialect = match take_byte(&mut input) {
        Some(which) if which % 4 == 1 => Dialect::Grpc,
        Some(which) if which % 4 == 2 => Dialect::Envoy(EGRESS_ADDRESS),
        Some(which) if which % 4 == 3 => Dialect::Sidecar,
        _ => Dialect::Mesh,
    };
    let views = published(dialect);
    let mut stream = Stream {
        state: M::new(dialect),
        published: views[0].clone(),
        now: Instant::now(),
        nonces: BTreeSet::new(),
        newest: Default::default(),
    };
    for _ in 0..MAX_STEPS {
        let Some(step) = take_byte(&mut input) else { break };
        let how = usize::from(step >> 3);
        let kind = ResourceKind::ALL[how % ResourceKind::COUNT];
        let request = match step & 7 {
            0 => decode(take(&mut input)),
            1 => {
                let names = String::from_utf8_lossy(take(&mut input));
                let names = names
                    .split('\n')
                    .filter(|name| !name.is_empty())
                    .map(Arc::from)
                    .collect();
                Some(M::request(kind, &stream.newest[kind.index()], names, None))
            }
            2 => {
                let why = String::from_utf8_lossy(take(&mut input)).into_owned();
                // As it comes over the wire: cut.
                let message = crate::wire::refused(why);
                Some(M::request(
                    kind,
                    &stream.newest[kind.index()],
                    Vec::new(),
                    Some(message),
                ))
            }
            3 => {
                stream.published = views[how % views.len()].clone();
                None
            }
            4 => {
                stream.now += if how % 2 == 0 {
                    LONGEST_WAIT
                } else {
                    Duration::from_millis(1)
                };
                None
            }
            5 => Some(M::request(kind, &how.to_string(), Vec::new(), None)),
            6 => Some(M::request(kind, "", vec!["*".into()], None)),
            _ => {
                stream.speaks();
                None
            }
        };
        if let Some(request) = request
            && stream.state.on_request(request).is_err()
        {
            return;
        }
        stream.is_bounded();
    }
    stream.falls_silent();
}

impl<M: Spoken> Stream<M> {
    fn speaks(&mut self) -> bool {
        let Some(response) = self.state.next_response(&self.published, self.now) else {
            return false;
        };
        let heard = M::heard(response);
        let kind = heard.kind.expect("the kind is one of these");
        let asked = self.state.report().into_iter().find(|one| one.kind == kind);
        asked.expect("nothing comes that was not asked for");
        let nonce: u64 = heard.nonce.parse().expect("a nonce of ours is a number");
        assert!(self.nonces.insert(nonce), "a nonce came twice");
        let set = self.published.of(kind);
        for name in &heard.names {
            assert!(set.resources.contains_key(name), "{kind} {name} is not published");
        }
        // What is held for the routes may be gone already.
        if kind != ResourceKind::Cluster {
            for bytes in &heard.resources {
                assert!(
                    set.resources.iter().any(|(_, one)| **one == **bytes),
                    "{kind} is not published"
                );
            }
        }
        self.newest[kind.index()] = heard.nonce;
        true
    }

    fn is_bounded(&self) {
        for one in self.state.report() {
            assert!(one.names.len() <= MAX_NAMES);
            if let Acknowledged::Refused(why) = one.acknowledged {
                assert!(why.len() <= MAX_REFUSAL_BYTES);
            }
        }
    }

    fn falls_silent(&mut self) {
        for wait in [Duration::ZERO, LONGEST_WAIT] {
            self.now += wait;
            let spoken = (0..=MAX_RESPONSES).take_while(|_| self.speaks()).count();
            assert!(spoken <= MAX_RESPONSES, "it never falls silent");
            if let Some(wakes) = self.state.wakes() {
                assert!(wakes > self.now && wait.is_zero(), "something waits for too long");
            }
        }
    }
}

/// What may be published: nothing, one thing, another, and both.
fn published(dialect: Dialect) -> [View; 4] {
    let snapshot = |names: &[&str], port| {
        let mut builder = Snapshot::builder();
        for name in names {
            let endpoint = Endpoint::new(([127, 0, 0, 1], port).into());
            builder = builder.cluster(Cluster::new(*name, TlsMode::Plaintext, vec![endpoint]));
        }
        if let Some(last) = names.last() {
            builder = builder.route("t:80", Route::to(Split::all_to(*last)));
        }
        builder.build().expect("every cluster is there")
    };
    let mut before: Option<Encoded> = None;
    [(&[][..], 0), (&["a"], 1), (&["b"], 1), (&["a", "b"], 2)].map(|(names, port)| {
        let encoded = Encoded::new(&snapshot(names, port), before.as_ref(), 1).expect("clients would take it");
        let view = encoded.view(dialect);
        before = Some(encoded);
        view
    })
}

/// Load reports, each with two bytes of length: what is kept is what could be counted, under names of bounded length.
pub(crate) fn load_report(mut input: &[u8]) {
    let board = LoadBoard::default();
    let caller = Caller {
        node: Arc::default(),
        peer: Peer::default(),
    };
    let told = (0..MAX_STEPS).map_while(|_| (!input.is_empty()).then(|| take(&mut input)));
    let reports = told.filter_map(|bytes| LoadStatsRequest::decode(bytes).ok());
    let reports: Vec<LoadRequest> = reports.map(LoadRequest::from).collect();
    for report in &reports {
        let once = LoadRequest::from(LoadStatsRequest::from(report.clone()));
        let twice = LoadRequest::from(LoadStatsRequest::from(once.clone()));
        assert_eq!(
            once.clusters, twice.clusters,
            "a report that travels is a report that travelled"
        );
    }
    let count = reports.len() as u64;
    let shown = super::load::shown(&board, caller, reports);
    assert_eq!(shown.reports, count);
    for load in &shown.clusters {
        assert!(load.total.cluster.as_str().len() <= MAX_REPORTED_NAME_BYTES);
        for locality in load.total.localities.iter().chain(&load.window.localities) {
            assert!(
                locality
                    .figures
                    .keys()
                    .all(|name| name.len() <= MAX_REPORTED_NAME_BYTES)
            );
        }
    }
}

/// A question about clients: it is refused with the field's path, or answered about any node.
pub(crate) fn status_request(input: &[u8]) {
    let Ok(request) = ClientStatusRequest::decode(input) else {
        return;
    };
    let asked = request.node_matchers.len();
    match Question::try_from(request) {
        Err(status) => {
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(status.message().starts_with("node_matchers["), "{status}");
        }
        Ok(question) => {
            assert_eq!(question.has_matchers, asked > 0);
            let text =
                r#"{"id":"sidecar~10.0.0.1~p.n~n.svc","metadata":{"NAMESPACE":"n","L":{"a":[1,"x",null,true]}}}"#;
            let nodes: [Node; 2] = [Node::default(), serde_json::from_str(text).expect("a node")];
            let about = nodes.into_iter().filter(|node| question.is_about(node));
            let view = |node| ClientView {
                node,
                ..ClientView::default()
            };
            let told = answer(about.map(view).collect(), false);
            assert!(told.config.len() <= 2 && (asked > 0 || told.config.len() == 2));
        }
    }
}

fn take_byte(input: &mut &[u8]) -> Option<u8> {
    let (first, rest) = input.split_first()?;
    *input = rest;
    Some(*first)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Steps that mean something more often than bytes from anywhere do.
    fn steps() -> impl Strategy<Value = Vec<u8>> {
        let text = prop_oneof![
            "[ab\n*:8t0]{0,9}",
            Just("cluster \"a\": no; ...".to_owned()),
            Just("a: b: no".to_owned())
        ];
        let step = (any::<u8>(), text).prop_map(|(step, text)| match step & 7 {
            0..=2 => [&[step, text.len() as u8, 0], text.as_bytes()].concat(),
            _ => vec![step],
        });
        (0u8..3, prop::collection::vec(step, 0..MAX_STEPS))
            .prop_map(|(dialect, steps)| [vec![dialect], steps.concat()].concat())
    }

    proptest! {
        #[test]
        fn whatever_clients_say_the_serving_end_keeps_its_promises(steps in steps()) {
            sotw_request(&steps);
            delta_request(&steps);
        }

        #[test]
        fn bytes_from_anywhere_are_no_harm_to_the_serving_end(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            sotw_request(&bytes);
            delta_request(&bytes);
            load_report(&bytes);
            status_request(&bytes);
        }
    }
}
