//! The rules of the protocol, one by one. What is not there, and what is refused, have files of their own.

use std::time::{Duration, Instant};

use mesh_core::config::RouteTree;

use super::*;
use crate::client::CacheState;
use crate::client::ads::{AdsState, Needs, Rules};
use crate::client::cache::{Found, Trouble};
use crate::decode::Context;
use crate::node::Node;
use crate::resource::{ClusterSpec, Endpoints, Listener};
use crate::wire::{Request, ResourceError, Sotw, enveloped, of_version};

mod absent;
mod refusals;

fn needs(wanted: &[(ResourceKind, &[&str])]) -> Needs {
    let mut needs = Needs::default();
    for (kind, list) in wanted {
        needs[kind.index()].extend(names(list));
    }
    needs
}

struct Stream {
    ads: AdsState<Sotw>,
    now: Instant,
}

impl Stream {
    /// Subscribed and connected, with the first requests sent.
    fn open(wanted: &[(ResourceKind, &[&str])]) -> (Self, Vec<Request>) {
        let node = Node {
            id: "me".into(),
            ..Node::default()
        };
        let mut stream = Self {
            ads: AdsState::new(Arc::new(node), Context::default()),
            now: Instant::now(),
        };
        stream.ads.subscribe(&needs(wanted));
        assert!(stream.sent().is_empty(), "nothing is sent without a stream");
        stream.ads.stream_opened();
        let first = stream.sent();
        (stream, first)
    }

    fn sent(&mut self) -> Vec<Request> {
        let mut sent = Vec::new();
        while let Some(request) = self.ads.next_request(self.now) {
            sent.push(request);
        }
        assert!(!self.ads.has_request(self.now));
        sent
    }

    /// The one request that a response is answered with.
    #[track_caller]
    fn answer(&mut self, response: Response) -> Request {
        self.ads.hear(response, self.now);
        let mut sent = self.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0)
    }
}

const LDS: ResourceKind = ResourceKind::Listener;
const RDS: ResourceKind = ResourceKind::Route;
const CDS: ResourceKind = ResourceKind::Cluster;
const EDS: ResourceKind = ResourceKind::Endpoints;

#[test]
fn first_requests_carry_the_node_once_and_skip_types_nobody_wants() {
    let (_, first) = Stream::open(&[(LDS, &["b", "a"]), (CDS, &["c"])]);
    let [lds, cds] = &first[..] else { panic!("{first:?}") };
    assert_eq!(lds.node.as_ref().unwrap().id, "me");
    assert_eq!(cds.node, None);
    assert_eq!(
        (lds.names.clone(), lds.version.as_str(), lds.nonce.as_str()),
        (names(&["a", "b"]), "", "")
    );
    assert_eq!(cds.type_url, CDS.type_url());
}

#[test]
fn a_good_response_is_acknowledged_with_its_version_and_nonce() {
    let (mut stream, _) = Stream::open(&[(LDS, &["a"])]);
    let mut good = response(LDS, "1", vec![listener("a", "r")]);
    good.nonce = "n".into();
    let ack = stream.answer(good);
    assert_eq!((ack.version.as_str(), ack.nonce.as_str(), ack.error), ("1", "n", None));
    assert!(matches!(stream.ads.cache().find::<Listener>("a"), Found::Value(_)));
}

#[test]
fn cp_5_a_bad_resource_is_refused_by_name_and_the_good_ones_beside_it_are_used() {
    let (mut stream, _) = Stream::open(&[(CDS, &["a", "b"])]);
    assert_eq!(
        stream
            .answer(response(CDS, "1", vec![cluster("a"), cluster("b")]))
            .version,
        "1"
    );
    let before = match stream.ads.cache().find::<ClusterSpec>("b") {
        Found::Value(spec) => spec,
        other => panic!("{other:?}"),
    };
    let nack = stream.answer(response(CDS, "2", vec![cluster("a"), bad_cluster("b")]));
    assert_eq!((nack.version.as_str(), nack.nonce.as_str()), ("1", "2"));
    let error = nack.error.unwrap();
    assert!(
        error.contains("\"b\"") && error.contains("instance_name") && error.contains("\"me\""),
        "{error}"
    );
    // The last good one stays, and what came well is accepted by itself.
    match stream.ads.cache().find::<ClusterSpec>("b") {
        Found::Value(spec) => assert!(Arc::ptr_eq(&spec, &before)),
        other => panic!("{other:?}"),
    }
    let accepted = |name: &str| {
        let rows: Vec<_> = stream.ads.cache().rows().filter(|row| &**row.name == name).collect();
        (rows[0].accepted.cloned(), rows[0].trouble.cloned())
    };
    assert_eq!(accepted("a"), (Some("2".into()), None));
    assert!(matches!(accepted("b"), (Some(version), Some(Trouble::Refused(_))) if &*version == "1"));
}

#[test]
fn cp_5_a_refused_resource_without_a_good_one_says_why() {
    let (mut stream, _) = Stream::open(&[(CDS, &["b"])]);
    let nack = stream.answer(response(CDS, "1", vec![bad_cluster("b")]));
    assert_eq!(nack.version, "");
    match stream.ads.cache().find::<ClusterSpec>("b") {
        Found::None(Trouble::Refused(rejected)) => assert_eq!(rejected.resource(), "b"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn bytes_that_cannot_be_read_are_refused_by_their_place() {
    let (mut stream, _) = Stream::open(&[(LDS, &["a"])]);
    let broken = raw(LDS, vec![0xff, 0xff]);
    let nack = stream.answer(response(LDS, "1", vec![listener("a", "r"), broken]));
    assert!(nack.error.unwrap().contains("resources[1]"));
    assert!(matches!(stream.ads.cache().find::<Listener>("a"), Found::Value(_)));
}

#[test]
fn a_name_that_comes_twice_is_refused() {
    let (mut stream, _) = Stream::open(&[(LDS, &["a"])]);
    let twice = vec![listener("a", "r"), listener("a", "s")];
    assert!(
        stream
            .answer(response(LDS, "1", twice))
            .error
            .unwrap()
            .contains("twice")
    );
}

#[test]
fn cp_9_versions_outlive_a_stream_and_nonces_do_not() {
    let (mut stream, _) = Stream::open(&[(LDS, &["a"])]);
    stream.answer(response(LDS, "7", vec![listener("a", "r")]));
    stream.ads.stream_closed();
    assert_eq!((stream.sent().len(), stream.ads.deadline(stream.now)), (0, None));
    stream.ads.stream_opened();
    let again = stream.sent().remove(0);
    assert_eq!((again.version.as_str(), again.nonce.as_str()), ("7", ""));
    assert!(again.node.is_some());
    // What was known is known, with no age limit and no new timer.
    assert!(matches!(stream.ads.cache().find::<Listener>("a"), Found::Value(_)));
    assert_eq!(stream.ads.deadline(stream.now), None);
}

#[test]
fn subscriptions_are_the_whole_list_and_the_last_one_out_says_nothing_is_wanted() {
    let (mut stream, _) = Stream::open(&[(RDS, &["a"])]);
    stream.answer(response(RDS, "1", vec![routes("a", "c")]));
    stream.ads.subscribe(&needs(&[(RDS, &["a", "b"])]));
    let more = stream.sent().remove(0);
    assert_eq!(
        (more.names, more.version.as_str(), more.nonce.as_str()),
        (names(&["a", "b"]), "1", "1")
    );
    stream.ads.subscribe(&needs(&[]));
    assert!(stream.sent().remove(0).names.is_empty());
    assert!(
        matches!(stream.ads.cache().find::<RouteTree>("a"), Found::Pending),
        "what is not wanted is forgotten"
    );
    // An empty list must not be the first word of the next stream: it would ask for everything.
    stream.ads.stream_closed();
    stream.ads.stream_opened();
    assert!(stream.sent().is_empty());
}

#[test]
fn cp_7_a_name_that_was_dropped_and_is_wanted_again_is_asked_for_without_a_nonce() {
    let (mut stream, _) = Stream::open(&[(EDS, &["a", "b"])]);
    stream.answer(response(EDS, "1", vec![endpoints("a", &[1]), endpoints("b", &[1])]));
    // The control plane sees no difference between these lists, or ignored one that crossed with a response.
    for _ in 0..2 {
        stream.ads.subscribe(&needs(&[(EDS, &["b"])]));
        stream.ads.subscribe(&needs(&[(EDS, &["a", "b"])]));
        let again = stream.sent().remove(0);
        assert_eq!(
            (again.version.as_str(), again.nonce.as_str(), again.names),
            ("", "", names(&["a", "b"]))
        );
        stream.answer(response(EDS, "1", vec![endpoints("a", &[1]), endpoints("b", &[1])]));
    }
    // An answer that waits goes first, with its nonce.
    stream.ads.subscribe(&needs(&[(EDS, &["b"])]));
    stream
        .ads
        .hear(response(EDS, "2", vec![endpoints("b", &[2])]), stream.now);
    stream.ads.subscribe(&needs(&[(EDS, &["a", "b"])]));
    let nonces: Vec<String> = stream.sent().into_iter().map(|request| request.nonce).collect();
    assert_eq!(nonces, ["2", ""]);
    // An empty list is never said so: it would ask for everything.
    stream
        .ads
        .hear(response(EDS, "3", vec![endpoints("b", &[3])]), stream.now);
    stream.ads.subscribe(&needs(&[]));
    stream.ads.subscribe(&needs(&[(EDS, &["b"])]));
    assert_eq!(stream.ads.next_request(stream.now).unwrap().nonce, "3");
    stream.ads.subscribe(&needs(&[]));
    let last = stream.sent().remove(0);
    assert_eq!((last.nonce.as_str(), last.names.len()), ("3", 0));
}

#[test]
fn a_change_that_comes_with_an_answer_is_one_request() {
    let (mut stream, _) = Stream::open(&[(RDS, &["a"])]);
    stream.ads.hear(response(RDS, "1", vec![routes("a", "c")]), stream.now);
    stream.ads.subscribe(&needs(&[(RDS, &["a", "b"])]));
    let sent = stream.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].nonce.as_str(), sent[0].names.len()), ("1", 2));
}

#[test]
fn only_the_newest_response_is_answered() {
    let (mut stream, _) = Stream::open(&[(LDS, &["a"])]);
    for version in ["1", "2", "3"] {
        stream
            .ads
            .hear(response(LDS, version, vec![listener("a", "r")]), stream.now);
    }
    let sent = stream.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].version.as_str(), sent[0].nonce.as_str()), ("3", "3"));
}

#[test]
fn types_that_are_unknown_or_were_not_asked_for_are_not_answered() {
    let (mut stream, _) = Stream::open(&[(LDS, &["a"])]);
    let mut unknown = response(LDS, "1", vec![]);
    unknown.type_url = "type.googleapis.com/x.Y".into();
    assert!(stream.ads.hear(unknown, stream.now).kind.is_none());
    assert!(
        stream
            .ads
            .hear(response(CDS, "1", vec![cluster("c")]), stream.now)
            .kind
            .is_none()
    );
    assert!(stream.sent().is_empty());
}

#[test]
fn the_same_bytes_again_are_the_same_value_and_clear_what_was_wrong() {
    let (mut stream, _) = Stream::open(&[(CDS, &["c"])]);
    let value = |stream: &Stream| match stream.ads.cache().find::<ClusterSpec>("c") {
        Found::Value(spec) => spec,
        other => panic!("{other:?}"),
    };
    stream.answer(response(CDS, "1", vec![cluster("c")]));
    let first = value(&stream);
    stream.answer(response(CDS, "2", vec![bad_cluster("c")]));
    stream.answer(response(CDS, "3", vec![cluster("c")]));
    assert!(Arc::ptr_eq(&first, &value(&stream)));
    let row = stream.ads.cache().rows().next().unwrap();
    assert_eq!((row.trouble, row.accepted.map(|version| &**version)), (None, Some("3")));
}
