//! What is told of each state of a resource, and what becomes of it on the wire.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prost::Message as _;

use tonic::Extensions;

use super::local::{self, Local};
use super::remote;
use super::service::Tell;
use super::view::{ClientView, Failure, ResourceView, Seen, Sync};
use crate::client::{CacheState, RawBytes, ResourceStatus};
use crate::convention::SEEN;
use crate::decode::{Fault, Rejected};
use crate::node::Node;
use crate::resource::ResourceKind;
use crate::server::{Acknowledged, SubscriptionReport};
use crate::wire::csds::{Question, answer};

fn at(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(second)
}

fn status(state: CacheState) -> ResourceStatus {
    ResourceStatus::new(ResourceKind::Cluster, "c", state)
}

/// With a value of version 1 that came at second 10.
fn serving(state: CacheState) -> ResourceStatus {
    let mut status = status(state);
    status.received = "1".into();
    status.accepted = Some("1".into());
    status.bytes = Some(RawBytes(Arc::new(b"value".to_vec())));
    status.updated = Some(at(10));
    status
}

fn refused(mut status: ResourceStatus) -> ResourceStatus {
    let fault = Fault::new("lb_policy", "is not supported");
    status.rejected = Some(Rejected::new(ResourceKind::Cluster, "c", fault));
    status.rejected_bytes = Some(RawBytes(Arc::new(b"refused".to_vec())));
    status.received = "2".into();
    status.failed = Some(at(20));
    status
}

fn absent(mut status: ResourceStatus) -> ResourceStatus {
    status.absent = Some("gone".into());
    status.failed = Some(at(20));
    status
}

fn unavailable(mut status: ResourceStatus) -> ResourceStatus {
    status.unavailable = Some("ill".into());
    status.failed = Some(at(20));
    status
}

#[test]
fn each_state_is_told_with_the_value_in_use_and_what_is_wrong() {
    use CacheState::{Acked, DoesNotExist, Nacked, ReceivedError, Requested, Timeout};
    // The state; the version in use; the version refused and why, if something is wrong.
    let table = [
        (status(Requested), "", None),
        (serving(Acked), "1", None),
        (refused(status(Nacked)), "", Some(("2", "lb_policy"))),
        (refused(serving(Nacked)), "1", Some(("2", "lb_policy"))),
        (absent(status(DoesNotExist)), "", Some(("", "gone"))),
        (absent(serving(DoesNotExist)), "1", Some(("", "gone"))),
        (unavailable(status(ReceivedError)), "", Some(("", "ill"))),
        (unavailable(serving(ReceivedError)), "1", Some(("", "ill"))),
        (unavailable(status(Timeout)), "", Some(("", "ill"))),
    ];
    for (status, version, failure) in table {
        let view = local::resource(&status);
        let about = format!("{view:?}");
        assert_eq!((view.state, view.sync), (Some(status.state), Sync::Unknown), "{about}");
        assert_eq!(view.version, version, "{about}");
        assert_eq!(view.contents.is_some(), !version.is_empty(), "{about}");
        assert_eq!(view.updated, (!version.is_empty()).then(|| at(10)), "{about}");
        let told = view.failure.as_ref();
        assert_eq!(told.is_some(), failure.is_some(), "{about}");
        if let (Some(told), Some((refused, why))) = (told, failure) {
            assert_eq!((told.version.as_str(), told.at), (refused, Some(at(20))), "{about}");
            assert!(told.details.contains(why), "{about}");
            assert_eq!(told.configuration.is_some(), status.state == Nacked, "{about}");
        }
        assert_eq!(view.is_refused(), status.state == Nacked, "{about}");
    }
}

#[test]
fn what_is_from_disk_is_asked_for_and_told_to_be_from_there() {
    let mut status = serving(CacheState::Requested);
    status.is_from_disk = true;
    let view = local::resource(&status);
    assert_eq!((view.state, view.version.as_str()), (Some(CacheState::Requested), "1"));
    assert!(view.failure.unwrap().details.contains("from the copy on disk"));
    // What is wrong is worth more words.
    let view = local::resource(&refused(status));
    assert!(view.failure.unwrap().details.contains("lb_policy"));
}

#[test]
fn contents_with_a_private_key_are_not_told() {
    let mut status = serving(CacheState::Acked);
    status.bytes = Some(RawBytes(Arc::new(
        b"\x0a\x20-----BEGIN EC PRIVATE KEY-----\nAAAA".to_vec(),
    )));
    let view = local::resource(&status);
    assert_eq!((view.contents, view.version.as_str()), (None, "1"));
    let mut refused = refused(status);
    refused.rejected_bytes = refused.bytes.clone();
    let failure = local::resource(&refused).failure.unwrap();
    assert_eq!((failure.configuration, failure.version.as_str()), (None, "2"));
}

#[test]
fn a_client_takes_no_matchers() {
    let mut question = Question::default();
    question.has_matchers = true;
    let refused = Local::new(Vec::new())
        .tell(&question, &Extensions::default())
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
}

#[test]
fn each_answer_of_a_client_is_a_word_of_the_control_plane() {
    let kind = ResourceKind::Cluster;
    let refused = || Acknowledged::Refused("why".into());
    // What was sent, and accepted, last.
    let table = [
        (
            None,
            None,
            Acknowledged::Waiting,
            Sync::NotSent,
            Some(CacheState::Requested),
        ),
        (Some("1"), None, Acknowledged::Waiting, Sync::Stale, None),
        (Some("2"), Some("1"), Acknowledged::Waiting, Sync::Stale, None),
        (
            Some("1"),
            Some("1"),
            Acknowledged::Accepted,
            Sync::Synced,
            Some(CacheState::Acked),
        ),
        (Some("1"), None, refused(), Sync::Error, Some(CacheState::Nacked)),
        (Some("2"), Some("1"), refused(), Sync::Error, Some(CacheState::Nacked)),
    ];
    for (sent, accepted, acknowledged, sync, state) in table {
        let report = SubscriptionReport {
            kind,
            names: Vec::new(),
            sent: sent.map(Arc::from),
            accepted: accepted.map(Arc::from),
            acknowledged,
            refused_at: (sync == Sync::Error).then(|| at(30)),
        };
        let view = remote::subscription(&report);
        assert_eq!(
            (view.sync, view.state, view.version.as_str()),
            (sync, state, accepted.unwrap_or_default())
        );
        let expected = Failure {
            details: "why".into(),
            version: sent.unwrap_or_default().into(),
            at: Some(at(30)),
            configuration: None,
        };
        assert_eq!(view.failure, (sync == Sync::Error).then_some(expected));
    }
}

#[test]
fn what_is_told_crosses_the_wire_unchanged() {
    let states = CacheState::ALL.map(Some).into_iter().chain([None]);
    let resources = states.map(|state| ResourceView {
        type_url: ResourceKind::Cluster.type_url().into(),
        name: "c".into(),
        version: "1".into(),
        contents: Some(RawBytes(Arc::new(b"value".to_vec()))),
        updated: Some(at(10)),
        sync: Sync::Unknown,
        state,
        failure: Some(Failure {
            details: "why".into(),
            version: "2".into(),
            at: Some(at(20)),
            configuration: Some(RawBytes(Arc::new(b"refused".to_vec()))),
        }),
    });
    let syncs = [Sync::Synced, Sync::NotSent, Sync::Stale, Sync::Error];
    let types = syncs.map(|sync| ResourceView {
        sync,
        ..ResourceView::default()
    });
    let client = ClientView {
        node: Node {
            id: "me".into(),
            ..Node::default()
        },
        scope: "#mesh".into(),
        resources: resources.chain(types).collect(),
    };
    let mut told = answer(vec![client.clone()], false).config;
    assert_eq!(ClientView::from(told.remove(0)), client);
    let bare = ClientView::from(answer(vec![client.clone()], true).config.remove(0));
    assert!(bare.resources.iter().all(|resource| resource.contents.is_none()));
    let mut failures = bare.resources.iter().filter_map(|resource| resource.failure.as_ref());
    assert!(failures.all(|failure| failure.configuration.is_none()));
    assert_eq!(bare.resources.len(), client.resources.len());
}

#[test]
fn an_answer_leaves_out_contents_before_it_grows_too_large() {
    const LIMIT: usize = 4 * 1024 * 1024;
    let resource = |index: usize| ResourceView {
        name: format!("c{index}"),
        contents: Some(RawBytes(vec![0; 100_000].into())),
        ..ResourceView::default()
    };
    let client = ClientView {
        resources: (0..100).map(resource).collect(),
        ..ClientView::default()
    };
    let answer = answer(vec![client], false);
    let size = answer.encoded_len();
    assert!(size <= LIMIT && size > LIMIT - 200_000, "{size}");
    let view = ClientView::from(answer.config.into_iter().next().unwrap());
    let with_contents = view.resources.iter().filter(|one| one.contents.is_some()).count();
    assert_eq!((view.resources.len(), with_contents), (100, 41));
}

#[test]
fn what_was_refused_goes_before_what_is_in_use() {
    let resource = |index: usize| ResourceView {
        name: format!("c{index}"),
        contents: Some(RawBytes(vec![0; 100_000].into())),
        failure: (index >= 90).then(|| Failure {
            configuration: Some(RawBytes(vec![1; 60_000].into())),
            ..Failure::default()
        }),
        ..ResourceView::default()
    };
    let client = ClientView {
        resources: (0..100).map(resource).collect(),
        ..ClientView::default()
    };
    let answer = answer(vec![client], false);
    assert!(answer.encoded_len() <= 4 * 1024 * 1024);
    let view = ClientView::from(answer.config.into_iter().next().unwrap());
    let failures = view.resources.iter().filter_map(|one| one.failure.as_ref());
    assert_eq!(failures.filter(|failure| failure.configuration.is_some()).count(), 10);
    assert_eq!(view.resources.iter().filter(|one| one.contents.is_some()).count(), 35);
}

#[test]
fn a_client_cannot_say_what_the_control_plane_saw() {
    let mut node = Node::default();
    node.metadata.insert(
        SEEN.into(),
        serde_json::json!({ "identity": "spiffe://a/forged", "group": "g" }),
    );
    let seen = Seen {
        identity: None,
        address: Some("127.0.0.1:1".into()),
        group: "shop".into(),
    };
    seen.note(&mut node);
    let view = ClientView {
        node,
        ..ClientView::default()
    };
    assert_eq!(view.seen(), Some(seen));
}
