//! Endpoints, grouped by priority and locality.
//!
//! Every locality says what it weighs, since gRPC leaves out those that do not: where nothing else was said, the sum of its
//! endpoints' weights. No locality is empty; a cluster without endpoints has no locality.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mesh_core::config::{ClusterName, DropOverload, Endpoint, Health, Localities, Locality, Metadata, Weight};

use super::common::{address, texts, uint};
use crate::proto::core::{HealthStatus, Locality as LocalityProto, Metadata as MetadataProto};
use crate::proto::endpoint::{
    ClusterLoadAssignment, Endpoint as EndpointProto, LbEndpoint, LocalityLbEndpoints,
    cluster_load_assignment::{Policy, policy::DropOverload as DropProto},
    lb_endpoint::HostIdentifier,
};
use crate::proto::percent::{FractionalPercent, fractional_percent::DenominatorType};

pub(super) fn assignment(
    cluster: &ClusterName,
    endpoints: &[Endpoint],
    drops: &[DropOverload],
    localities: &Localities,
) -> ClusterLoadAssignment {
    let mut groups: BTreeMap<(u32, [&str; 3]), Vec<&Endpoint>> = BTreeMap::new();
    for endpoint in endpoints {
        let Locality { region, zone, sub_zone } = &*endpoint.locality;
        let key = (endpoint.priority, [&**region, &**zone, &**sub_zone]);
        groups.entry(key).or_default().push(endpoint);
    }
    let weights: Weights<'_> = localities
        .weights
        .iter()
        .map(|one| ((one.priority, &*one.locality), one.weight))
        .collect();
    ClusterLoadAssignment {
        cluster_name: cluster.to_string(),
        endpoints: groups
            .into_iter()
            .map(|((priority, _), group)| locality(priority, &group, &weights))
            .collect(),
        policy: policy(drops, localities),
        ..ClusterLoadAssignment::default()
    }
}

/// Categories are drawn for in this order, at both ends.
fn policy(drops: &[DropOverload], localities: &Localities) -> Option<Policy> {
    let factor = localities.overprovisioning_factor;
    let factor = (factor != Localities::DEFAULT_OVERPROVISIONING_FACTOR).then_some(factor);
    let drop = |drop: &DropOverload| DropProto {
        category: drop.category.clone().into(),
        drop_percentage: Some(FractionalPercent {
            numerator: drop.per_million,
            denominator: DenominatorType::Million as i32,
        }),
    };
    let weighted_priority_health = localities.weighted_health;
    (factor.is_some() || weighted_priority_health || !drops.is_empty()).then(|| Policy {
        overprovisioning_factor: factor.and_then(uint),
        weighted_priority_health,
        drop_overloads: drops.iter().map(drop).collect(),
        ..Policy::default()
    })
}

/// What localities weigh, where something was said.
type Weights<'a> = HashMap<(u32, &'a Locality), Weight>;

fn locality(priority: u32, group: &[&Endpoint], weights: &Weights<'_>) -> LocalityLbEndpoints {
    let id = group
        .first()
        .map(|endpoint| Arc::clone(&endpoint.locality))
        .unwrap_or_default();
    let weight = match weights.is_empty() {
        true => group.iter().map(|endpoint| u64::from(endpoint.weight.0)).sum(),
        false => weights.get(&(priority, &*id)).map_or(0, |weight| weight.0.into()),
    };
    LocalityLbEndpoints {
        locality: Some(LocalityProto {
            region: id.region.clone().into(),
            zone: id.zone.clone().into(),
            sub_zone: id.sub_zone.clone().into(),
        }),
        lb_endpoints: group.iter().map(|endpoint| lb_endpoint(endpoint)).collect(),
        load_balancing_weight: uint(u32::try_from(weight).unwrap_or(u32::MAX)),
        priority,
        ..LocalityLbEndpoints::default()
    }
}

fn lb_endpoint(endpoint: &Endpoint) -> LbEndpoint {
    let health = match endpoint.health {
        Health::Healthy => HealthStatus::Healthy,
        Health::Degraded => HealthStatus::Degraded,
        Health::Draining => HealthStatus::Draining,
        Health::Unhealthy => HealthStatus::Unhealthy,
    };
    LbEndpoint {
        health_status: health as i32,
        metadata: metadata(&endpoint.metadata),
        load_balancing_weight: uint(endpoint.weight.0),
        host_identifier: Some(HostIdentifier::Endpoint(EndpointProto {
            address: Some(address(endpoint.address)),
            ..EndpointProto::default()
        })),
    }
}

fn metadata(metadata: &Metadata) -> Option<MetadataProto> {
    if metadata.is_empty() {
        return None;
    }
    let mut filters: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for (filter, key, value) in metadata.iter() {
        filters.entry(filter).or_default().push((key, value));
    }
    let filters = filters
        .into_iter()
        .map(|(filter, values)| (filter.to_owned(), texts(values)));
    Some(MetadataProto {
        filter_metadata: filters.collect(),
        ..MetadataProto::default()
    })
}
