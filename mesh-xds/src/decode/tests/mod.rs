//! Each questionable resource and what is said to it; and that what is encoded is decoded to the same value.

mod cluster;
mod common_lb;
mod cp6;
pub(crate) mod discovered;
mod endpoint;
pub(crate) mod istiod;
pub(crate) mod kinds;
mod lb;
mod limits;
mod listener;
mod others;
mod policies;
mod providers;
mod rate_limits;
mod roundtrip;
mod route;
pub(crate) mod routed;
mod served;
pub(crate) mod strategies;
mod tokens;
mod unserved;
mod varied;
mod weight;

use std::fmt;

use prost::{Message, Name};

use super::*;
use crate::convention::PROVIDER;

pub(crate) fn context() -> Context {
    Context {
        provider: Some(PROVIDER.into()),
        others: authorities(),
        ..Context::default()
    }
}

/// How much of something is tried: what the quick ring has time for, unless the wide ring says otherwise.
pub(crate) fn count(variable: &str, quick: usize) -> usize {
    match std::env::var(variable) {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => quick,
    }
}

/// What a process knows that istiod takes for a sidecar.
pub(crate) fn envoy() -> Context {
    Context {
        profile: Profile::Envoy,
        others: authorities(),
        ..Context::default()
    }
}

/// A second authority of the bootstrap, and roots by trust domain: neither is a file that a cluster could name.
pub(crate) const CA: &str = "second-ca";
pub(crate) const BUNDLE_MAP: &str = "bundle-map";

fn authorities() -> Arc<Others> {
    let judges = Provided {
        judges: true,
        ..Provided::default()
    };
    let whole = Provided {
        shows: true,
        ..judges.clone()
    };
    Arc::new(Others::from([(CA.into(), whole), (BUNDLE_MAP.into(), judges)]))
}

pub(crate) fn raw<P: Message + Name>(proto: &P) -> Raw {
    Raw {
        type_url: P::type_url(),
        bytes: proto.encode_to_vec(),
    }
}

fn read<R: Resource>(proto: &R::Proto) -> Result<R, Rejected>
where
    R::Proto: Name,
{
    decode::<R>(&raw(proto), &context())?.value
}

/// Spoils a good resource and looks which field is named.
#[track_caller]
fn refused<R: Resource + fmt::Debug>(mut good: R::Proto, field: &str, spoil: impl FnOnce(&mut R::Proto))
where
    R::Proto: Name,
{
    assert!(read::<R>(&good).is_ok(), "the resource was bad from the start");
    spoil(&mut good);
    let rejected = read::<R>(&good).expect_err(field);
    assert_eq!(rejected.field(), field, "{rejected}");
}

#[track_caller]
fn accepted<R: Resource>(mut good: R::Proto, change: impl FnOnce(&mut R::Proto)) -> R
where
    R::Proto: Name,
{
    change(&mut good);
    read::<R>(&good).unwrap()
}

/// A listener that brings its routes along, as encoded.
pub(crate) fn listener_with(target: &str, routes: &[u8]) -> Raw {
    use crate::proto::hcm::{HttpConnectionManager, http_connection_manager::RouteSpecifier};
    use crate::proto::{listener, pack, route};
    let bytes = crate::encode::listener(target, target, &crate::encode::Calls::default());
    let mut proto = listener::Listener::decode(&*bytes).unwrap();
    let any = proto.api_listener.as_mut().unwrap().api_listener.as_mut().unwrap();
    let mut manager = HttpConnectionManager::decode(&*any.value).unwrap();
    let routes = route::RouteConfiguration::decode(routes).unwrap();
    manager.route_specifier = Some(RouteSpecifier::RouteConfig(routes));
    *any = pack(&manager);
    raw(&proto)
}

/// A listener whose connection manager limits streams, in seconds.
pub(crate) fn limited_listener(target: &str, routes: &str, idle: i64, max_stream: i64) -> Raw {
    use crate::proto::hcm::HttpConnectionManager;
    use crate::proto::{listener, pack, protobuf::Duration};
    let bytes = crate::encode::listener(target, routes, &crate::encode::Calls::default());
    let mut proto = listener::Listener::decode(&*bytes).unwrap();
    let any = proto.api_listener.as_mut().unwrap().api_listener.as_mut().unwrap();
    let mut manager = HttpConnectionManager::decode(&*any.value).unwrap();
    manager.stream_idle_timeout = Some(Duration {
        seconds: idle,
        nanos: 0,
    });
    let options = manager.common_http_protocol_options.get_or_insert_default();
    options.max_stream_duration = Some(Duration {
        seconds: max_stream,
        nanos: 0,
    });
    *any = pack(&manager);
    raw(&proto)
}

/// These routes, the first of which says this: longest stream, longest gRPC call, timeout.
pub(crate) fn routes_saying(routes: &Raw, [stream, grpc, timeout]: [Option<i64>; 3]) -> Raw {
    use crate::proto::protobuf;
    use crate::proto::route::{RouteConfiguration, route, route_action::MaxStreamDuration};
    let seconds = |seconds: i64| protobuf::Duration { seconds, nanos: 0 };
    let mut proto = RouteConfiguration::decode(&*routes.bytes).unwrap();
    let route = &mut proto.virtual_hosts[0].routes[0];
    let Some(route::Action::Route(action)) = &mut route.action else {
        panic!("{route:?}")
    };
    action.timeout = timeout.map(seconds);
    action.max_stream_duration = Some(MaxStreamDuration {
        max_stream_duration: stream.map(seconds),
        grpc_timeout_header_max: grpc.map(seconds),
        ..MaxStreamDuration::default()
    });
    raw(&proto)
}
