//! Where the calls of one host set are counted, when the control plane asks for load reports; and which of them are dropped.
//!
//! It stands beside the hosts and not in them: a host outlives a change of its locality, and of what is asked. What is counted
//! lives in the link's [`Loads`], so it survives a swap as well.

use std::sync::Arc;

use http::HeaderMap;
use mesh_core::balance::dropped;
use mesh_core::config::{Cluster, Endpoint, Locality};
use mesh_core::entropy::Draw;
use mesh_core::report::{Counted, Drops, Load, Loads};

use crate::error::{Error, Kind};
use crate::status::is_grpc;

/// The counters of a host set.
#[derive(Debug)]
pub(crate) struct Counting {
    /// In the order of the hosts; empty when nobody asks.
    loads: Box<[Arc<Load>]>,
    drops: Option<Arc<Drops>>,
}

impl Counting {
    /// For `cluster` and its hosts, which are made from `endpoints` in this order.
    pub(super) fn new<'a>(cluster: &Cluster, endpoints: impl Iterator<Item = &'a Endpoint>, loads: &Loads) -> Self {
        let Some(reporting) = &cluster.load_reporting else {
            return Self {
                loads: Box::default(),
                drops: None,
            };
        };
        // Neighbours mostly stand in the same place, which is looked up once.
        let mut last: Option<(&Arc<Locality>, Arc<Load>)> = None;
        let of_each = endpoints.map(|endpoint| match &last {
            Some((locality, load)) if Arc::ptr_eq(locality, &endpoint.locality) => Arc::clone(load),
            _ => {
                let load = loads.load(&cluster.name, reporting, &endpoint.locality);
                last = Some((&endpoint.locality, Arc::clone(&load)));
                load
            }
        });
        Self {
            loads: of_each.collect(),
            drops: Some(loads.drops(&cluster.name, reporting)),
        }
    }

    /// Fails a call that is to be dropped, as often as the configuration says (gRFC A27, Envoy `drop_overloads`).
    pub(crate) fn admit(&self, cluster: &Cluster, draw: &mut Draw) -> Result<(), Error> {
        let Some(overload) = dropped(&cluster.drops, draw) else {
            return Ok(());
        };
        if let Some(drops) = &self.drops {
            drops.count(&overload.category);
        }
        Err(Error::new(Kind::Dropped(overload.category.clone())))
    }

    /// A call was not made, for a limit of its cluster. Load reports tell it as a drop without a category (gRFC A32).
    pub(crate) fn overflowed(&self) {
        if let Some(drops) = &self.drops {
            drops.count_uncategorised();
        }
    }

    /// Begins to count a call to a host, if anybody asks.
    pub(crate) fn begin(&self, host: usize, headers: &HeaderMap) -> Option<Counted> {
        let load = self.loads.get(host)?;
        Some(Counted::begin(Arc::clone(load), is_grpc(headers)))
    }
}
