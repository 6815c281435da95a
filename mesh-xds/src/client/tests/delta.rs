//! The rules of the incremental variant, where they differ from those in [`ads`](super::ads).

use std::time::{Duration, Instant};

use mesh_core::config::RouteTree;

use super::*;
use crate::client::ads::{AdsState, Needs};
use crate::client::cache::{Found, Trouble};
use crate::decode::Context;
use crate::node::Node;
use crate::resource::{ClusterSpec, Endpoints, Listener};
use crate::wire::{Delta, DeltaRequest, DeltaResponse, ResourceError, Versioned, enveloped, of_version};

const LDS: ResourceKind = ResourceKind::Listener;
const RDS: ResourceKind = ResourceKind::Route;
const CDS: ResourceKind = ResourceKind::Cluster;
const EDS: ResourceKind = ResourceKind::Endpoints;

struct Stream {
    ads: AdsState<Delta>,
    now: Instant,
    needs: Needs,
}

impl Stream {
    /// Subscribed and connected, with the first requests sent.
    fn open(kind: ResourceKind, wanted: &[&str]) -> (Self, Vec<DeltaRequest>) {
        let node = Node {
            id: "me".into(),
            ..Node::default()
        };
        let mut stream = Self {
            ads: AdsState::new(Arc::new(node), Context::default()),
            now: Instant::now(),
            needs: Needs::default(),
        };
        stream.wants(kind, wanted);
        stream.ads.stream_opened();
        let first = stream.sent();
        (stream, first)
    }

    fn wants(&mut self, kind: ResourceKind, wanted: &[&str]) {
        self.needs[kind.index()] = names(wanted).into_iter().collect();
        self.ads.subscribe(&self.needs);
    }

    fn sent(&mut self) -> Vec<DeltaRequest> {
        let mut sent = Vec::new();
        while let Some(request) = self.ads.next_request(self.now) {
            sent.push(request);
        }
        sent
    }

    /// The one request that a response is answered with.
    #[track_caller]
    fn answer(&mut self, response: DeltaResponse) -> DeltaRequest {
        self.ads.hear(response, self.now);
        let mut sent = self.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0)
    }

    /// The accepted version of a resource, and what is wrong with it.
    fn row(&self, name: &str) -> (Option<String>, Option<Trouble>) {
        let row = self.ads.cache().rows().find(|row| &**row.name == name).unwrap();
        (row.accepted.map(|version| version.to_string()), row.trouble.cloned())
    }
}

fn one(name: &str, version: &str, raw: Raw) -> Versioned {
    Versioned {
        name: name.into(),
        version: version.into(),
        raw: Some(raw),
        ttl: None,
    }
}

fn changes(kind: ResourceKind, nonce: &str, resources: Vec<Versioned>, removed: &[&str]) -> DeltaResponse {
    DeltaResponse {
        type_url: kind.type_url().into(),
        nonce: nonce.into(),
        resources,
        removed: names(removed),
        ..DeltaResponse::default()
    }
}

fn empty(kind: ResourceKind, nonce: &str) -> DeltaRequest {
    DeltaRequest {
        type_url: kind.type_url().into(),
        nonce: nonce.into(),
        ..DeltaRequest::default()
    }
}

#[test]
fn the_first_request_says_every_name_and_an_acknowledgement_nothing_but_its_nonce() {
    let (mut stream, first) = Stream::open(LDS, &["b", "a"]);
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].node.as_ref().unwrap().id, "me");
    assert_eq!(first[0].subscribe, names(&["a", "b"]));
    assert_eq!((first[0].nonce.as_str(), first[0].held.len()), ("", 0));
    let ack = stream.answer(changes(LDS, "n", vec![one("a", "1", listener("a", "r"))], &[]));
    assert_eq!(ack, empty(LDS, "n"));
    assert!(matches!(stream.ads.cache().find::<Listener>("a"), Found::Value(_)));
}

#[test]
fn every_response_is_answered_and_in_order() {
    let (mut stream, _) = Stream::open(CDS, &["a", "b"]);
    stream
        .ads
        .hear(changes(CDS, "1", vec![one("a", "1", cluster("a"))], &[]), stream.now);
    stream.ads.hear(
        changes(CDS, "2", vec![one("b", "1", bad_cluster("b"))], &[]),
        stream.now,
    );
    stream
        .ads
        .hear(changes(CDS, "3", vec![one("b", "2", cluster("b"))], &[]), stream.now);
    let sent = stream.sent();
    let said: Vec<_> = sent
        .iter()
        .map(|one| (one.nonce.as_str(), one.error.is_some()))
        .collect();
    assert_eq!(said, [("1", false), ("2", true), ("3", false)]);
}

#[test]
fn after_the_first_only_differences_are_said() {
    let (mut stream, _) = Stream::open(RDS, &["a", "b"]);
    stream.wants(RDS, &["b", "c"]);
    let said = stream.sent().remove(0);
    assert_eq!((said.subscribe, said.unsubscribe), (names(&["c"]), names(&["a"])));
    // With an answer it is one request.
    stream.ads.hear(
        changes(RDS, "1", vec![one("b", "1", routes("b", "x"))], &[]),
        stream.now,
    );
    stream.wants(RDS, &["b"]);
    let said = stream.sent();
    assert_eq!(
        (said.len(), said[0].nonce.as_str(), &said[0].unsubscribe),
        (1, "1", &names(&["c"]))
    );
    // What was forgotten and is wanted again must be sent again, so it is asked for again.
    stream.wants(RDS, &[]);
    stream.wants(RDS, &["b"]);
    let said = stream.sent().remove(0);
    assert_eq!((said.subscribe, said.unsubscribe), (names(&["b"]), names(&[])));
}

#[test]
fn cp_5_a_bad_resource_is_refused_by_name_and_only_the_accepted_ones_are_held() {
    let (mut stream, _) = Stream::open(CDS, &["a", "b"]);
    stream.answer(changes(
        CDS,
        "1",
        vec![one("a", "1", cluster("a")), one("b", "1", cluster("b"))],
        &[],
    ));
    let nack = stream.answer(changes(
        CDS,
        "2",
        vec![one("b", "2", bad_cluster("b")), one("a", "2", cluster("a"))],
        &[],
    ));
    let error = nack.error.unwrap();
    assert!(
        error.contains("\"b\"") && error.contains("instance_name") && !error.contains("\"a\""),
        "{error}"
    );
    assert_eq!(nack.nonce, "2");
    assert_eq!(stream.row("a"), (Some("2".into()), None));
    let (accepted, trouble) = stream.row("b");
    assert_eq!(accepted.as_deref(), Some("1"));
    assert!(matches!(trouble, Some(Trouble::Refused(_))));
    // A disputed resource is not claimed on the next stream: it comes again, and heals if it is good by then.
    stream.ads.stream_closed();
    stream.ads.stream_opened();
    let first = stream.sent().remove(0);
    assert_eq!(first.held, [("a".into(), "2".into())]);
    assert_eq!((first.subscribe, first.nonce.as_str()), (names(&["a", "b"]), ""));
    stream.answer(changes(CDS, "1", vec![one("b", "1", cluster("b"))], &[]));
    assert_eq!(stream.row("b"), (Some("1".into()), None));
}

#[test]
fn a_resource_that_cannot_be_read_has_the_name_it_was_sent_under() {
    let (mut stream, _) = Stream::open(EDS, &["a", "b"]);
    let garbage = raw(EDS, vec![0xff; 8]);
    let nack = stream.answer(changes(
        EDS,
        "1",
        vec![one("a", "1", garbage), one("b", "1", endpoints("x", &[1]))],
        &[],
    ));
    let error = nack.error.unwrap();
    assert!(
        error.contains("endpoints \"a\"") && error.contains("endpoints \"b\": name: is \"x\" inside"),
        "{error}"
    );
    for name in ["a", "b"] {
        assert!(matches!(stream.row(name).1, Some(Trouble::Refused(_))), "{name}");
    }
}

#[test]
fn what_is_removed_does_not_exist_and_needs_no_timer() {
    let (mut stream, _) = Stream::open(EDS, &["a", "b"]);
    assert!(stream.ads.deadline(stream.now).is_some());
    assert_eq!(
        stream.answer(changes(EDS, "1", vec![], &["a", "b", "not-asked-for"])),
        empty(EDS, "1")
    );
    assert!(matches!(
        stream.ads.cache().find::<Endpoints>("a"),
        Found::None(Trouble::Absent(_))
    ));
    assert_eq!(stream.ads.deadline(stream.now), None);
    stream.answer(changes(EDS, "2", vec![one("a", "1", endpoints("a", &[1]))], &[]));
    assert!(matches!(stream.ads.cache().find::<Endpoints>("a"), Found::Value(_)));
}

#[test]
fn cp_8_what_is_removed_goes_on_serving_whatever_its_kind() {
    let all = [
        (LDS, listener("a", "r")),
        (RDS, routes("a", "c")),
        (CDS, cluster("a")),
        (EDS, endpoints("a", &[1])),
    ];
    for (kind, resource) in all {
        let (mut stream, _) = Stream::open(kind, &["a"]);
        stream.answer(changes(kind, "1", vec![one("a", "1", resource)], &[]));
        assert_eq!(stream.answer(changes(kind, "2", vec![], &["a"])).error, None);
        let (accepted, trouble) = stream.row("a");
        assert_eq!(accepted.as_deref(), Some("1"), "{kind}");
        assert!(
            matches!(trouble, Some(Trouble::Absent(why)) if why.contains("deleted")),
            "{kind}"
        );
    }
}

#[test]
fn absence_from_a_response_says_nothing() {
    let (mut stream, _) = Stream::open(CDS, &["a", "b"]);
    stream.answer(changes(CDS, "1", vec![one("a", "1", cluster("a"))], &[]));
    stream.answer(changes(CDS, "2", vec![one("b", "1", cluster("b"))], &[]));
    assert_eq!((stream.row("a").1, stream.row("b").1), (None, None));
}

#[test]
fn a_heartbeat_is_acknowledged_and_changes_nothing() {
    let (mut stream, _) = Stream::open(CDS, &["a", "b"]);
    stream.answer(changes(CDS, "1", vec![one("a", "1", cluster("a"))], &[]));
    let beat = |name: &str| Versioned {
        name: name.into(),
        version: "1".into(),
        raw: None,
        ttl: None,
    };
    let ack = stream.answer(changes(CDS, "2", vec![beat("a"), beat("b")], &[]));
    assert_eq!(ack, empty(CDS, "2"));
    assert_eq!(stream.row("a"), (Some("1".into()), None));
    assert!(matches!(stream.ads.cache().find::<ClusterSpec>("b"), Found::Pending));
    assert!(stream.ads.deadline(stream.now).is_some(), "b was never seen");
}

#[test]
fn an_error_about_a_resource_is_data_and_one_about_the_control_plane_passes() {
    let (mut stream, _) = Stream::open(RDS, &["a", "b"]);
    let error = |name: &str, code| ResourceError {
        name: name.into(),
        code,
        message: "no".into(),
    };
    let told = DeltaResponse {
        errors: vec![error("a", 5), error("b", 14)],
        ..changes(RDS, "1", vec![], &[])
    };
    assert_eq!(stream.answer(told), empty(RDS, "1"));
    assert!(matches!(
        stream.ads.cache().find::<RouteTree>("a"),
        Found::None(Trouble::Absent(_))
    ));
    assert!(matches!(
        stream.ads.cache().find::<RouteTree>("b"),
        Found::None(Trouble::Failed(_))
    ));
}

#[test]
fn types_that_are_unknown_or_were_not_asked_for_are_not_answered() {
    let (mut stream, _) = Stream::open(LDS, &["a"]);
    let mut unknown = changes(LDS, "1", vec![], &["a"]);
    unknown.type_url = "type.googleapis.com/x.Y".into();
    assert!(stream.ads.hear(unknown, stream.now).kind.is_none());
    assert!(
        stream
            .ads
            .hear(changes(CDS, "1", vec![], &["a"]), stream.now)
            .kind
            .is_none()
    );
    assert!(stream.sent().is_empty());
}

/// Two types, a bad resource of the one after another, and a good one of the other behind them.
#[test]
fn cp_6_refusals_of_one_type_hold_up_no_other() {
    let (mut stream, _) = Stream::open(CDS, &["a", "b"]);
    stream.wants(EDS, &["e"]);
    stream.sent();
    let start = stream.now;
    let mut refused = Vec::new();
    for nonce in 1..=300 {
        assert!(stream.ads.can_receive());
        let bad = vec![one("a", &nonce.to_string(), bad_cluster("a"))];
        stream.ads.hear(changes(CDS, &nonce.to_string(), bad, &[]), stream.now);
        refused.extend(stream.sent());
    }
    assert_eq!(
        stream.answer(changes(EDS, "e", vec![one("e", "1", endpoints("e", &[1]))], &[])),
        empty(EDS, "e")
    );
    assert!(matches!(stream.ads.cache().find::<Endpoints>("e"), Found::Value(_)));
    // So does an answer that accepts one of the same type.
    stream.ads.hear(
        changes(CDS, "bad", vec![one("a", "x", bad_cluster("a"))], &[]),
        stream.now,
    );
    assert_eq!(
        stream.answer(changes(CDS, "b", vec![one("b", "1", cluster("b"))], &[])),
        empty(CDS, "b")
    );
    // And a name that is asked for, which is no answer.
    stream.wants(CDS, &["a", "b", "c"]);
    let asked = stream.sent();
    assert_eq!(
        (asked.len(), asked[0].nonce.as_str(), &asked[0].subscribe),
        (1, "", &names(&["c"]))
    );
    // The first went at once, and of the others the newest go together.
    assert_eq!(stream.ads.deadline(stream.now), Some(start + Duration::from_secs(1)));
    stream.now = start + Duration::from_secs(1);
    refused.extend(stream.sent());
    let nonces: Vec<&str> = refused.iter().map(|one| one.nonce.as_str()).collect();
    assert_eq!((nonces.len(), &nonces[..2], nonces[32]), (33, &["1", "270"][..], "bad"));
    // What is refused after that waits again.
    stream.ads.hear(
        changes(CDS, "n", vec![one("a", "y", bad_cluster("a"))], &[]),
        stream.now,
    );
    assert!(stream.sent().is_empty());
}

/// A control plane that does not read its answers is not read either, and nothing it may have sent is given up on.
#[test]
fn cp_4_nothing_is_given_up_on_while_nothing_is_read() {
    let (mut stream, _) = Stream::open(EDS, &["a", "e"]);
    for nonce in 1..=32 {
        assert!(stream.ads.can_receive());
        let good = vec![one("a", &nonce.to_string(), endpoints("a", &[nonce]))];
        stream.ads.hear(changes(EDS, &nonce.to_string(), good, &[]), stream.now);
    }
    assert!(!stream.ads.can_receive());
    stream.now += Duration::from_secs(100);
    assert_eq!(stream.ads.deadline(stream.now), None);
    assert!(!stream.ads.on_timer(stream.now));
    assert_eq!(stream.sent().len(), 32);
    let deadline = stream.ads.deadline(stream.now).unwrap();
    assert_eq!(deadline, stream.now + Duration::from_secs(15));
    assert!(stream.ads.on_timer(deadline));
    assert!(matches!(
        stream.ads.cache().find::<Endpoints>("e"),
        Found::None(Trouble::Absent(_))
    ));
}

#[test]
fn everything_is_asked_for_with_nothing_said_first() {
    let (mut stream, _) = Stream::open(LDS, &[]);
    let mut all = Needs::default();
    all.want_everything(CDS);
    all[CDS.index()] = names(&["a", "missing"]).into_iter().collect();
    stream.ads.subscribe(&all);
    let sent = stream.sent();
    assert_eq!((sent.len(), sent[0].subscribe.len(), sent[0].held.len()), (1, 0, 0));
    stream.answer(changes(
        CDS,
        "1",
        vec![one("a", "1", cluster("a")), one("b", "1", cluster("b"))],
        &[],
    ));
    assert!(matches!(stream.ads.cache().find::<ClusterSpec>("b"), Found::Value(_)));
    assert!(matches!(
        stream.ads.cache().find::<ClusterSpec>("missing"),
        Found::None(Trouble::Absent(_))
    ));
    stream.answer(changes(CDS, "2", vec![], &["b", "a"]));
    assert!(
        matches!(stream.ads.cache().find::<ClusterSpec>("b"), Found::None(_)),
        "nobody looks at it"
    );
    assert!(
        matches!(stream.ads.cache().find::<ClusterSpec>("a"), Found::Value(_)),
        "its last value is kept"
    );
    stream.ads.stream_closed();
    stream.ads.stream_opened();
    let sent = stream.sent();
    assert_eq!((sent.len(), sent[0].subscribe.len()), (1, 0));
}

/// A heartbeat of a resource in an envelope of its own may say that one's version, or the one outside.
#[test]
fn a_heartbeat_in_an_envelope_may_say_either_version() {
    let ttl = Duration::from_secs(3);
    for (told, outside, inside, expected) in [
        ("r7", "1", "r7", true),
        ("r7", "2", "r7", true),
        ("r7", "1", "", true),
        ("r7", "2", "1", true),
        ("r7", "1", "r8", false),
        ("r7", "2", "", false),
        ("", "1", "r7", true),
        ("", "2", "r7", false),
        ("", "2", "", false),
    ] {
        let (mut stream, _) = Stream::open(RDS, &["a"]);
        let one = |version: &str, own: &str, resource| Versioned {
            name: "a".into(),
            version: version.into(),
            raw: Some(of_version(own, enveloped("a", resource, ttl))),
            ttl: None,
        };
        stream.answer(changes(RDS, "1", vec![one("1", told, Some(routes("a", "c")))], &[]));
        stream.now += ttl / 2;
        stream.answer(changes(RDS, "2", vec![one(outside, inside, None)], &[]));
        stream.now += ttl - Duration::from_secs(1);
        stream.ads.on_timer(stream.now);
        let is_there = matches!(stream.ads.cache().find::<RouteTree>("a"), Found::Value(_));
        assert_eq!(
            is_there, expected,
            "{told:?} as \"1\", a heartbeat of {inside:?} in {outside:?}"
        );
    }
}

#[test]
fn a_heartbeat_renews_a_time_to_live() {
    let (mut stream, _) = Stream::open(RDS, &["a"]);
    let second = Duration::from_secs(1);
    let lives = |raw| Versioned {
        ttl: Some(10 * second),
        ..Versioned {
            name: "a".into(),
            version: "1".into(),
            raw,
            ttl: None,
        }
    };
    stream.answer(changes(RDS, "1", vec![lives(Some(routes("a", "c")))], &[]));
    stream.now += 9 * second;
    stream.answer(changes(RDS, "2", vec![lives(None)], &[]));
    assert_eq!(stream.ads.deadline(stream.now), Some(stream.now + 10 * second));
    stream.now += 10 * second;
    assert!(stream.ads.on_timer(stream.now));
    assert!(matches!(
        stream.ads.cache().find::<RouteTree>("a"),
        Found::None(Trouble::Absent(_))
    ));
}
