//! `Listener`, of which there are four kinds: what a gRPC client asks for by a target's name (an API listener, gRFC A27), what
//! a sidecar would catch outbound requests with, what a server accepts connections by (gRFC A36, Istio's `virtualInbound`),
//! and those that are for proxies alone.

use super::common::unpack;
use super::{Context, Fault, Notes, Resource};
use crate::bootstrap::Profile;
use crate::proto::core::TrafficDirection;
use crate::proto::hcm::HttpConnectionManager;
use crate::proto::listener::Listener as Proto;
use crate::resource::{Listener, ResourceKind};

mod chain;
mod discovered;
mod filters;
mod guarded;
mod inbound;
mod manager;
mod network;
mod outbound;
mod routed;

pub(crate) use discovered::Discovered;
pub(crate) use inbound::Asks;
pub(crate) use routed::Guarding;

/// Which end of a call a listener's filters stand at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

impl Resource for Listener {
    const KIND: ResourceKind = ResourceKind::Listener;
    type Proto = Proto;

    fn name(proto: &Proto) -> &str {
        &proto.name
    }

    fn decode(proto: &Proto, context: &Context, notes: &mut Notes) -> Result<Self, Fault> {
        if let Some(api) = &proto.api_listener {
            let any = api
                .api_listener
                .as_ref()
                .ok_or_else(|| Fault::new("api_listener", "is empty"))?;
            let manager = unpack::<HttpConnectionManager>("api_listener", any)?;
            let http = manager::http(&manager, &proto.name, context, notes);
            return http.map(Self::Api).map_err(|fault| fault.within("api_listener"));
        }
        let direction = TrafficDirection::try_from(proto.traffic_direction).unwrap_or_default();
        match (direction, context.profile) {
            (TrafficDirection::Inbound, _) | (TrafficDirection::Unspecified, Profile::Grpc) => {
                inbound::inbound(proto, context, notes)
            }
            (_, Profile::Envoy) => outbound::outbound(proto, context, notes),
            (TrafficDirection::Outbound, Profile::Grpc) => Err(Fault::new(
                "api_listener",
                "is missing: only API listeners are for gRPC clients",
            )),
        }
    }
}
