//! The kinds of cluster.

use mesh_core::config::ClusterName;
use prost::Name;

use super::dns;
use super::unserved::is_forward_proxy;
use crate::bootstrap::Profile;
use crate::decode::common::{from_this_stream, unpack};
use crate::decode::{Context, Fault, Notes, endpoint};
use crate::proto::aggregate::ClusterConfig;
use crate::proto::cluster::{
    Cluster as Proto,
    cluster::{ClusterDiscoveryType, CustomClusterType, DiscoveryType, EdsClusterConfig},
};
use crate::resource::{Discovery, DnsKind, Endpoints};

/// How names of the federation's kind begin (gRFC A47).
const FEDERATED: &str = "xdstp:";
/// The most clusters that an aggregate names: as many as one may stand for.
const MAX_MEMBERS: usize = 256;

pub(super) fn discovery(proto: &Proto, context: &Context, notes: &mut Notes) -> Result<Discovery, Fault> {
    let kind = match &proto.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(*kind)
            .map_err(|_| Fault::new("type", format!("{kind} is not a kind of cluster")))?,
        Some(ClusterDiscoveryType::ClusterType(custom))
            if context.profile == Profile::Envoy && is_forward_proxy(custom) =>
        {
            // What it says of its cache is a proxy's: here the process's resolver is asked.
            notes.add("a request's authority is resolved by the process itself: dns_cache_config is not looked at");
            return Ok(Discovery::OriginalDestination);
        }
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            return aggregate(custom).map_err(|fault| fault.within("cluster_type"));
        }
        // Envoy's default.
        None if context.profile == Profile::Envoy => DiscoveryType::Static,
        None => return Err(Fault::new("type", "is missing")),
    };
    match kind {
        DiscoveryType::Eds => eds(proto),
        DiscoveryType::Static => inline(proto, context, notes).map(Discovery::Static),
        DiscoveryType::StrictDns => dns::cluster(proto, DnsKind::Strict, context, notes).map(Discovery::Dns),
        DiscoveryType::LogicalDns => dns::cluster(proto, DnsKind::Logical, context, notes).map(Discovery::Dns),
        DiscoveryType::OriginalDst => Ok(Discovery::OriginalDestination),
    }
}

fn eds(proto: &Proto) -> Result<Discovery, Fault> {
    let config = proto
        .eds_cluster_config
        .as_ref()
        .ok_or_else(|| Fault::new("eds_cluster_config", "is missing"))?;
    let name = service_name(config, &proto.name).map_err(|fault| fault.within("eds_cluster_config"))?;
    Ok(Discovery::Eds(name.into()))
}

fn service_name<'a>(config: &'a EdsClusterConfig, cluster: &'a str) -> Result<&'a str, Fault> {
    from_this_stream("eds_config", config.eds_config.as_ref())?;
    match config.service_name.as_str() {
        "" if cluster.starts_with(FEDERATED) => Err(Fault::new(
            "service_name",
            "is missing, and the cluster's own xdstp: name cannot name its endpoints (gRFC A47)",
        )),
        "" => Ok(cluster),
        name => Ok(name),
    }
}

fn inline(proto: &Proto, context: &Context, notes: &mut Notes) -> Result<Endpoints, Fault> {
    let Some(assignment) = &proto.load_assignment else {
        // Istio's BlackHoleCluster.
        return Ok(Endpoints::default());
    };
    endpoint::read(assignment, false, context, notes).map_err(|fault| fault.within("load_assignment"))
}

fn aggregate(custom: &CustomClusterType) -> Result<Discovery, Fault> {
    let any = custom
        .typed_config
        .as_ref()
        .ok_or_else(|| Fault::new("typed_config", "is missing"))?;
    if any.type_url != ClusterConfig::type_url() {
        let reason = format!(
            "cluster type {:?} with {:?} is not supported",
            custom.name, any.type_url
        );
        return Err(Fault::new("typed_config", reason));
    }
    let names = unpack::<ClusterConfig>("typed_config", any)?.clusters;
    if names.is_empty() {
        return Err(Fault::new("typed_config.clusters", "is empty (gRFC A37)"));
    }
    if names.len() > MAX_MEMBERS {
        let reason = format!("has {} names, more than {MAX_MEMBERS}", names.len());
        return Err(Fault::new("typed_config.clusters", reason));
    }
    if let Some(index) = names.iter().position(String::is_empty) {
        return Err(Fault::new(format!("typed_config.clusters[{index}]"), "is empty"));
    }
    Ok(Discovery::Aggregate(names.into_iter().map(ClusterName::from).collect()))
}
