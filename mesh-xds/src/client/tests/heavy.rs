//! CP-5: what would take gigabytes once it is decoded is refused by its name, unread, and the others of its response are used.

use std::time::Instant;

use super::*;
use crate::client::ads::{AdsState, Needs, Taken, Variant};
use crate::decode::{Context, ENVELOPE};
use crate::wire::{Delta, DeltaResponse, Sotw, Versioned};

/// As many times in a resource of 2 MiB.
const MANY: usize = 1 << 20;

/// A resource named `t` with so many empty messages in it, under a number of its own kind that is a list, by its key.
fn hollow(kind: ResourceKind) -> Raw {
    let key = match kind {
        ResourceKind::Listener => 0x1a,
        ResourceKind::Cluster => 0x42,
        ResourceKind::Route | ResourceKind::Endpoints | ResourceKind::ExtensionConfig => 0x12,
    };
    raw(kind, [&[0x0a, 1, b't'][..], &[key, 0].repeat(MANY)].concat())
}

fn heard<V: Variant>(kind: ResourceKind, response: V::Response) -> Taken {
    let mut ads = AdsState::<V>::new(Arc::default(), Context::default());
    let mut needs = Needs::default();
    needs[kind.index()] = ["t", "u"].map(Arc::from).into();
    ads.subscribe(&needs);
    ads.stream_opened();
    let now = Instant::now();
    ads.next_request(now).unwrap();
    ads.hear(response, now).taken
}

#[test]
fn cp_5_what_grows_too_large_is_refused_by_its_name() {
    for kind in ResourceKind::ALL {
        let sotw = Response {
            type_url: kind.type_url().into(),
            version: "1".into(),
            nonce: "1".into(),
            resources: vec![hollow(kind)],
            errors: Vec::new(),
        };
        let resource = Versioned {
            name: "t".into(),
            version: "1".into(),
            raw: Some(hollow(kind)),
            ttl: None,
        };
        let delta = DeltaResponse {
            type_url: kind.type_url().into(),
            nonce: "1".into(),
            resources: vec![resource],
            ..DeltaResponse::default()
        };
        for taken in [heard::<Sotw>(kind, sotw), heard::<Delta>(kind, delta)] {
            let [rejected] = &taken.rejected[..] else {
                panic!("{kind}: {taken:?}");
            };
            assert_eq!((rejected.kind(), rejected.resource()), (kind, "t"));
            assert!(rejected.to_string().contains("MiB of memory"), "{rejected}");
        }
    }
}

#[test]
fn cp_5_beside_it_the_others_are_used() {
    let taken = heard::<Sotw>(
        ResourceKind::Cluster,
        response(
            ResourceKind::Cluster,
            "1",
            vec![hollow(ResourceKind::Cluster), cluster("u")],
        ),
    );
    assert_eq!((taken.valid, taken.rejected.len()), (1, 1));
}

/// An envelope has lists of its own.
#[test]
fn cp_5_an_envelope_that_grows_too_large_is_refused() {
    let envelope = Raw {
        type_url: ENVELOPE.into(),
        bytes: [0x22, 0].repeat(MANY),
    };
    let taken = heard::<Sotw>(
        ResourceKind::Cluster,
        response(ResourceKind::Cluster, "1", vec![envelope]),
    );
    assert!(taken.rejected[0].to_string().contains("MiB of memory"), "{taken:?}");
}
