//! Localities and priorities, whatever their members are: addresses, or names that are still to be resolved.
//!
//! Envoy and gRPC choose a locality by weight and then an endpoint in it, if they do so at all; whether, is the cluster's to say.
//! So an endpoint keeps the weight it was given, and what localities weigh stands beside them, where it is anything else than
//! what their endpoints weigh together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_core::config::{Localities, Locality, LocalityWeight, Metadata, Weight};

use super::Shared;
use crate::bootstrap::Profile;
use crate::decode::{Context, Fault, Notes, metadata};
use crate::proto::core;
use crate::proto::endpoint::{
    ClusterLoadAssignment, Endpoint as EndpointProto, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};

/// What stands in a locality and takes a share of the traffic.
pub(in crate::decode) trait Member {
    fn weight(&self) -> Weight;
}

/// Makes a member of an endpoint; `None` leaves it out.
pub(in crate::decode) trait Read<T> {
    fn read(&mut self, proto: &EndpointProto, place: Place<'_>, notes: &mut Notes) -> Result<Option<T>, Fault>;
}

/// Where an endpoint stands and what stands beside its address.
pub(in crate::decode) struct Place<'a> {
    pub(in crate::decode) weight: Weight,
    pub(in crate::decode) health: i32,
    pub(in crate::decode) priority: u32,
    pub(in crate::decode) locality: &'a Arc<Locality>,
    pub(in crate::decode) metadata: Arc<Metadata>,
}

/// Reads all members, by priority, and what is said of their localities.
pub(in crate::decode) fn flatten<T: Member, R: Read<T>>(
    proto: &ClusterLoadAssignment,
    localities_named: bool,
    context: &Context,
    notes: &mut Notes,
    reader: &mut R,
) -> Result<(Vec<T>, Localities), Fault> {
    // A control plane that weighs no locality means to pool them, as Envoy does; where some are weighed, one that is
    // not gets nothing (gRFC A27; Envoy, where localities are chosen by weight).
    let pooled = proto
        .endpoints
        .iter()
        .all(|locality| locality.load_balancing_weight.is_none());
    let mut groups = Groups {
        priorities: BTreeMap::new(),
        localities: BTreeSet::new(),
        shared: Shared::default(),
        localities_named: localities_named && context.profile == Profile::Grpc,
        left_out: context.profile == Profile::Grpc,
        pooled,
        reader,
    };
    for (index, locality) in proto.endpoints.iter().enumerate() {
        groups
            .add(locality, notes)
            .map_err(|fault| fault.within(format_args!("endpoints[{index}]")))?;
    }
    let (members, weights) = groups.flatten(context.profile)?;
    let localities = Localities {
        weights,
        overprovisioning_factor: overprovisioning_factor(proto)?,
        weighted_health: proto
            .policy
            .as_ref()
            .is_some_and(|policy| policy.weighted_priority_health),
    };
    Ok((members, localities))
}

fn overprovisioning_factor(proto: &ClusterLoadAssignment) -> Result<u32, Fault> {
    let policy = proto.policy.as_ref();
    match policy.and_then(|policy| policy.overprovisioning_factor.as_ref()) {
        None => Ok(Localities::DEFAULT_OVERPROVISIONING_FACTOR),
        Some(factor) if factor.value == 0 => Err(Fault::new("policy.overprovisioning_factor", "must be more than 0")),
        Some(factor) => Ok(factor.value),
    }
}

/// A locality that takes part.
struct Group<T> {
    locality: Arc<Locality>,
    members: Vec<T>,
    /// Sum of the members' weights.
    sum: u64,
    weight: u64,
}

struct Groups<'a, T, R> {
    priorities: BTreeMap<u32, Vec<Group<T>>>,
    localities: BTreeSet<(u32, [String; 3])>,
    shared: Shared,
    localities_named: bool,
    /// A locality without a weight is left out, since it would get nothing.
    left_out: bool,
    pooled: bool,
    reader: &'a mut R,
}

impl<T: Member, R: Read<T>> Groups<'_, T, R> {
    fn add(&mut self, proto: &LocalityLbEndpoints, notes: &mut Notes) -> Result<(), Fault> {
        if proto.lb_config.is_some() {
            return Err(Fault::new("lb_config", "LEDS is not supported"));
        }
        let weight = proto.load_balancing_weight.as_ref().map(|weight| weight.value);
        let weighs_nothing = weight == Some(0) || (weight.is_none() && !self.pooled);
        if weighs_nothing && self.left_out {
            notes.add("a locality without a weight was left out");
            return Ok(());
        }
        let locality = self.locality(proto)?;
        let mut members = Vec::with_capacity(proto.lb_endpoints.len());
        for (index, lb_endpoint) in proto.lb_endpoints.iter().enumerate() {
            let member = self
                .member(lb_endpoint, proto, &locality, notes)
                .map_err(|fault| fault.within(format_args!("lb_endpoints[{index}]")))?;
            members.extend(member);
        }
        let sum = members.iter().map(|member| u64::from(member.weight().0)).sum();
        if sum > u64::from(u32::MAX) {
            return Err(Fault::new("lb_endpoints", "weights sum to more than 4294967295"));
        }
        let weight = match (weight, self.pooled) {
            (Some(weight), _) => weight.into(),
            (None, true) => sum,
            (None, false) => 0,
        };
        let group = Group {
            locality,
            members,
            sum,
            weight,
        };
        self.priorities.entry(proto.priority).or_default().push(group);
        Ok(())
    }

    /// gRPC asks that each locality say which it is, and that none be there twice in one priority (gRFC A27). Envoy does not.
    fn locality(&mut self, proto: &LocalityLbEndpoints) -> Result<Arc<Locality>, Fault> {
        let unnamed = core::Locality::default();
        let id = match &proto.locality {
            Some(id) => id,
            None if self.localities_named => return Err(Fault::new("locality", "is missing")),
            None => &unnamed,
        };
        if self.localities_named {
            let key = [id.region.clone(), id.zone.clone(), id.sub_zone.clone()];
            if !self.localities.insert((proto.priority, key)) {
                return Err(Fault::new("locality", "is there twice in one priority"));
            }
        }
        Ok(Arc::new(Locality {
            region: id.region.as_str().into(),
            zone: id.zone.as_str().into(),
            sub_zone: id.sub_zone.as_str().into(),
        }))
    }

    fn member(
        &mut self,
        proto: &LbEndpoint,
        group: &LocalityLbEndpoints,
        locality: &Arc<Locality>,
        notes: &mut Notes,
    ) -> Result<Option<T>, Fault> {
        let Some(HostIdentifier::Endpoint(endpoint)) = &proto.host_identifier else {
            return Err(Fault::new("endpoint", "is missing"));
        };
        let weight = match &proto.load_balancing_weight {
            None => Weight::ONE,
            Some(weight) if weight.value == 0 => return Err(Fault::new("load_balancing_weight", "must be at least 1")),
            Some(weight) => Weight(weight.value),
        };
        let metadata = metadata::of_endpoint(proto.metadata.as_ref(), group.metadata.as_ref(), notes)?;
        let place = Place {
            weight,
            health: proto.health_status,
            priority: group.priority,
            locality,
            metadata: self.shared.one(metadata),
        };
        let member = self.reader.read(endpoint, place, notes);
        member.map_err(|fault| fault.within("endpoint"))
    }

    /// gRPC refuses a priority that is missing below another (gRFC A27); to Envoy it is an empty one.
    fn flatten(self, profile: Profile) -> Result<(Vec<T>, Arc<[LocalityWeight]>), Fault> {
        let (mut all, mut weights, mut as_written) = (Vec::new(), Vec::new(), true);
        for (expected, (priority, groups)) in (0..).zip(self.priorities) {
            if priority != expected && profile == Profile::Grpc {
                let reason = format!("priority {expected} is missing below priority {priority}");
                return Err(Fault::new("endpoints", reason));
            }
            let total: u64 = groups.iter().map(|group| group.weight).sum();
            if total > u64::from(u32::MAX) {
                let reason = "locality weights sum to more than 4294967295 in one priority";
                return Err(Fault::new("endpoints", reason));
            }
            let mut of_priority: BTreeMap<Arc<Locality>, u64> = BTreeMap::new();
            for group in groups {
                as_written &= group.weight == group.sum;
                // One that is there twice weighs what both do; the sum of all is no more than a weight can be.
                if !group.members.is_empty() {
                    *of_priority.entry(group.locality).or_default() += group.weight;
                }
                all.extend(group.members);
            }
            weights.extend(of_priority.into_iter().map(|(locality, weight)| LocalityWeight {
                priority,
                locality,
                weight: Weight(u32::try_from(weight).unwrap_or(u32::MAX)),
            }));
        }
        let weights = if as_written { Arc::default() } else { weights.into() };
        Ok((all, weights))
    }
}
