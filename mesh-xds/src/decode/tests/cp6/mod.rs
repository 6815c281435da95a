//! One bad resource among 999 good ones, for every way of being bad that is known (CP-6): the 999 are taken, the bad one keeps
//! its last good value, and the refusal names it and the field and nothing else (gRFCs A46 and A29).

mod actions;
mod authorizers;
mod clusters;
mod endpoints;
mod guards;
mod listeners;
mod retries;
mod routes;
mod servers;

use std::time::Instant;

use super::*;
use crate::client::ads::{AdsState, Needs, Variant};
use crate::client::cache::{Cached, Found, Trouble};
use crate::node::Node;
use crate::resource::ResourceKind;
use crate::wire::{Delta, DeltaRequest, DeltaResponse, Request, Response, Sotw, Versioned};

/// A way of being bad, and the field that it shows in.
type Mutator<P> = (&'static str, fn(&mut P));

const GOOD: usize = 999;
const FEW: usize = 19;
const BAD: &str = "the-bad-one";

/// Says a resource's name in its place.
trait Named {
    fn rename(&mut self, name: &str);
}

macro_rules! named {
    ($($proto:ty: $field:ident),*) => {
        $(impl Named for $proto {
            fn rename(&mut self, name: &str) {
                self.$field = name.into();
            }
        })*
    };
}

named!(
    crate::proto::listener::Listener: name,
    crate::proto::route::RouteConfiguration: name,
    crate::proto::cluster::Cluster: name,
    crate::proto::endpoint::ClusterLoadAssignment: cluster_name
);

/// A variant of the protocol, as a control plane speaks it.
trait Speak: Variant {
    /// A response of these resources, all of this version; its nonce is that.
    fn response(kind: ResourceKind, version: &str, resources: Vec<(Arc<str>, Raw)>) -> Self::Response;

    /// What a request answers, and what it refuses.
    fn answer(request: Self::Request) -> (String, Option<String>);
}

impl Speak for Sotw {
    fn response(kind: ResourceKind, version: &str, resources: Vec<(Arc<str>, Raw)>) -> Response {
        Response {
            type_url: kind.type_url().into(),
            version: version.into(),
            nonce: version.into(),
            resources: resources.into_iter().map(|(_, raw)| raw).collect(),
            errors: Vec::new(),
        }
    }

    fn answer(request: Request) -> (String, Option<String>) {
        (request.nonce, request.error)
    }
}

impl Speak for Delta {
    fn response(kind: ResourceKind, version: &str, resources: Vec<(Arc<str>, Raw)>) -> DeltaResponse {
        let one = |(name, raw)| Versioned {
            name,
            version: version.into(),
            raw: Some(raw),
            ttl: None,
        };
        DeltaResponse {
            type_url: kind.type_url().into(),
            nonce: version.into(),
            resources: resources.into_iter().map(one).collect(),
            ..DeltaResponse::default()
        }
    }

    fn answer(request: DeltaRequest) -> (String, Option<String>) {
        (request.nonce, request.error)
    }
}

/// Runs a table in both variants of the protocol: `base` is good, and bad after any of `mutators`; `small` is what the others
/// are. There are 999 of those beside the first, which is what CP-6 asks; that they are used does not depend on what is wrong with the
/// bad one, so each of the rest stands among fewer, unless the wide ring asks for all.
#[track_caller]
fn table<R: Cached>(context: Context, base: &R::Proto, small: &R::Proto, mutators: &[Mutator<R::Proto>])
where
    R::Proto: Name + Named + Clone,
{
    let few = count("CP_6_OTHERS", FEW);
    spoken::<Sotw, R>(context.clone(), base, small, GOOD, &mutators[..1]);
    spoken::<Delta, R>(context.clone(), base, small, GOOD, &mutators[..1]);
    spoken::<Sotw, R>(context.clone(), base, small, few, mutators);
    spoken::<Delta, R>(context, base, small, few, mutators);
}

#[track_caller]
fn spoken<V: Speak, R: Cached>(
    context: Context,
    base: &R::Proto,
    small: &R::Proto,
    others: usize,
    mutators: &[Mutator<R::Proto>],
) where
    R::Proto: Name + Named + Clone,
{
    let names: Vec<String> = (0..others).map(|n| format!("good-{n:03}")).collect();
    let mut ads = AdsState::<V>::new(Arc::new(Node::default()), context);
    let mut needs = Needs::default();
    needs[R::KIND.index()].extend(names.iter().map(|name| Arc::from(name.as_str())));
    needs[R::KIND.index()].insert(BAD.into());
    ads.subscribe(&needs);
    ads.stream_opened();
    let mut now = Instant::now();
    while ads.next_request(now).is_some() {}

    let named = |proto: &R::Proto, name: &str| {
        let mut proto = proto.clone();
        proto.rename(name);
        raw(&proto)
    };
    let good: Vec<(Arc<str>, Raw)> = names
        .iter()
        .map(|name| (Arc::from(name.as_str()), named(small, name)))
        .collect();
    let response = |version: usize, bad: Raw| {
        let resources = good.iter().cloned().chain([(BAD.into(), bad)]);
        V::response(R::KIND, &version.to_string(), resources.collect())
    };
    let received = ads.hear(response(0, named(base, BAD)), now);
    assert_eq!(received.taken.rejected, [], "the resources were bad from the start");
    let Found::Value(last_good) = ads.cache().find::<R>(BAD) else {
        panic!("a good resource was not taken")
    };
    let accepted = V::answer(ads.next_request(now).unwrap());
    assert_eq!(accepted, ("0".into(), None));
    for (index, (field, spoil)) in mutators.iter().enumerate() {
        let mut bad = base.clone();
        bad.rename(BAD);
        spoil(&mut bad);
        let version = index + 1;
        let received = ads.hear(response(version, raw(&bad)), now);
        let [rejected] = &received.taken.rejected[..] else {
            panic!("mutator {index} ({field}): {:?}", received.taken.rejected)
        };
        assert_eq!(
            (rejected.resource(), rejected.field()),
            (BAD, *field),
            "mutator {index}: {rejected}"
        );
        // Refusals that follow one another are held back.
        while !ads.has_request(now) {
            now = ads.deadline(now).unwrap();
        }
        let (nonce, error) = V::answer(ads.next_request(now).unwrap());
        assert_eq!(nonce, version.to_string());
        let error = error.unwrap();
        assert!(
            error.contains(BAD) && error.contains(field) && !error.contains("good-"),
            "{error}"
        );
        let text = version.to_string();
        for name in &names {
            let row = ads.cache().row(R::KIND, name).unwrap();
            assert_eq!(
                (row.accepted.map(|version| &**version), row.trouble),
                (Some(&*text), None)
            );
        }
        let row = ads.cache().row(R::KIND, BAD).unwrap();
        assert_eq!(row.accepted.map(|version| &**version), Some("0"));
        assert!(matches!(row.trouble, Some(Trouble::Refused(_))));
        assert!(matches!(ads.cache().find::<R>(BAD), Found::Value(value) if Arc::ptr_eq(&value, &last_good)));
    }
}

/// A field that no version of the API has, behind a message.
fn with_unknown_field(bytes: &mut Vec<u8>) {
    // Tag 20,000, a varint.
    bytes.extend([0x80, 0xe2, 0x09, 0x01]);
}

#[test]
fn cp_6_an_unknown_field_is_tolerated_where_it_can_guard_nothing() {
    fn tolerated<R: Resource + PartialEq + fmt::Debug>(proto: &R::Proto)
    where
        R::Proto: Name,
    {
        let mut unknown = raw(proto);
        with_unknown_field(&mut unknown.bytes);
        let value = decode::<R>(&unknown, &context()).unwrap().value.unwrap();
        assert_eq!(value, read::<R>(proto).unwrap());
    }
    use istiod::proxyless;
    tolerated::<crate::resource::Listener>(&proxyless::listener());
    tolerated::<mesh_core::config::RouteTree>(&proxyless::routes());
    tolerated::<crate::resource::ClusterSpec>(&proxyless::cluster(istiod::CLUSTER));
    tolerated::<crate::resource::Endpoints>(&istiod::endpoints(istiod::CLUSTER));
}
