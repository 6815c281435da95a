//! Each questionable resource and what is said to it; and that what is encoded is decoded to the same value.

mod cluster;
mod cp6;
mod endpoint;
pub(crate) mod istiod;
mod kinds;
mod listener;
mod roundtrip;
mod route;
mod strategies;

use std::fmt;

use prost::{Message, Name};

use super::*;
use crate::convention::PROVIDER;

pub(crate) fn context() -> Context {
    Context {
        provider: Some(PROVIDER.into()),
        ..Context::default()
    }
}

/// What a process knows that istiod takes for a sidecar.
pub(crate) fn envoy() -> Context {
    Context {
        profile: Profile::Envoy,
        ..Context::default()
    }
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
