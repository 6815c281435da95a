//! Where a cluster can be called, as configured. The live counterpart, with its connections and counters, is the data
//! plane's `Host`.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Metadata, Weight};

/// One address of a cluster (Envoy `LbEndpoint`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where to connect.
    pub address: SocketAddr,
    /// Its share among the endpoints of its locality, or of its priority where localities are not weighed.
    pub weight: Weight,
    /// What the control plane says of its health.
    pub health: Health,
    /// 0 is tried first; a greater number serves when those before it cannot take all calls ([`CommonLb`](super::CommonLb)).
    pub priority: u32,
    /// Where it stands.
    pub locality: Arc<Locality>,
    /// Its name, an authority, which a route may have its calls go by (Envoy `auto_host_rewrite`, gRFC A81).
    pub hostname: Option<Arc<str>>,
    /// What else is said of it, its locality's values included. Shared, since most endpoints of a cluster say the same.
    pub metadata: Arc<Metadata>,
}

impl Endpoint {
    /// A healthy endpoint of weight 1 and priority 0, without a locality.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            weight: Weight::ONE,
            health: Health::Healthy,
            priority: 0,
            locality: Arc::default(),
            hostname: None,
            metadata: Arc::default(),
        }
    }

    /// What it goes by where calls are hashed, if not by its address (Envoy; gRFC A76).
    pub fn hash_key(&self) -> Option<&str> {
        self.metadata
            .value("envoy.lb", "hash_key")
            .filter(|key| !key.is_empty())
    }
}

/// How many endpoints are the same at the beginning of two lists, and how many of the others at their end: of an update to many,
/// nearly all are, and only what lies between is worth a look.
pub fn alike(before: &[Endpoint], after: &[Endpoint]) -> [usize; 2] {
    if std::ptr::eq(before, after) {
        return [after.len(), 0];
    }
    let mut same = Same::default();
    let pairs = before.iter().zip(after);
    let start = pairs.take_while(|(a, b)| same.are(a, b)).count();
    let pairs = before[start..].iter().rev().zip(after[start..].iter().rev());
    let end = pairs.take_while(|(a, b)| same.are(a, b)).count();
    [start, end]
}

/// Compares endpoints. Those of a list share what they say alike, and those of two lists do not: what was found to be the same is
/// the same for the next.
#[derive(Default)]
struct Same<'a> {
    locality: Option<[&'a Arc<Locality>; 2]>,
    metadata: Option<[&'a Arc<Metadata>; 2]>,
}

impl<'a> Same<'a> {
    fn are(&mut self, a: &'a Endpoint, b: &'a Endpoint) -> bool {
        let Endpoint {
            address,
            weight,
            health,
            priority,
            locality,
            hostname,
            metadata,
        } = a;
        *address == b.address
            && (weight, health, priority) == (&b.weight, &b.health, &b.priority)
            && *hostname == b.hostname
            && one(&mut self.locality, [locality, &b.locality])
            && one(&mut self.metadata, [metadata, &b.metadata])
    }
}

/// Whether two values are the same, which the last two were that were.
fn one<'a, T: Eq>(last: &mut Option<[&'a Arc<T>; 2]>, [a, b]: [&'a Arc<T>; 2]) -> bool {
    if let Some([last_a, last_b]) = last
        && Arc::ptr_eq(last_a, a)
        && Arc::ptr_eq(last_b, b)
    {
        return true;
    }
    let is_same = a == b;
    if is_same {
        *last = Some([a, b]);
    }
    is_same
}

/// The control plane's word on an endpoint (Envoy `HealthStatus`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// Healthy, or nobody said otherwise.
    Healthy,
    /// Works, but worse than it should: called when no endpoint is healthy (Envoy).
    Degraded,
    /// Finishing: gets no new call.
    Draining,
    /// Not to be called.
    Unhealthy,
}

impl Health {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Healthy, Self::Degraded, Self::Draining, Self::Unhealthy];
}

/// Some of the words on an endpoint's health (Envoy `HealthStatusSet`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HealthSet(u8);

impl HealthSet {
    /// Those of endpoints that new calls go to.
    pub const CALLABLE: Self = Self(bit(Health::Healthy) | bit(Health::Degraded));

    /// Whether it is one of them.
    pub fn contains(self, health: Health) -> bool {
        self.0 & bit(health) != 0
    }

    /// Those that are in it, in the order of [`Health::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Health> {
        Health::ALL.into_iter().filter(move |health| self.contains(*health))
    }
}

impl FromIterator<Health> for HealthSet {
    fn from_iter<T: IntoIterator<Item = Health>>(all: T) -> Self {
        Self(all.into_iter().fold(0, |set, health| set | bit(health)))
    }
}

const fn bit(health: Health) -> u8 {
    1 << health as u8
}

/// A share of a cluster's calls that the control plane wants failed without being sent (Envoy `drop_overloads`, gRFC A27).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DropOverload {
    /// The name it is counted by.
    pub category: Box<str>,
    /// How many calls in a million: at most [`ALL`](Self::ALL).
    pub per_million: u32,
}

impl DropOverload {
    /// Every call.
    pub const ALL: u32 = 1_000_000;
}

/// Region, zone and sub-zone, each possibly empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locality {
    /// Region.
    pub region: Box<str>,
    /// Zone within the region.
    pub zone: Box<str>,
    /// Sub-zone within the zone.
    pub sub_zone: Box<str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_lists_have_in_common_at_either_end() {
        let list = |ports: &[u16]| -> Vec<Endpoint> {
            let endpoint = |port: &u16| Endpoint::new(([127, 0, 0, 1], *port).into());
            ports.iter().map(endpoint).collect()
        };
        for (before, after, expected) in [
            (&[][..], &[][..], [0, 0]),
            (&[1, 2, 3], &[1, 2, 3], [3, 0]),
            (&[1, 2, 3], &[1, 9, 3], [1, 1]),
            (&[1, 2, 3], &[1, 3], [1, 1]),
            (&[1, 1], &[1, 1, 1], [2, 0]),
            (&[1, 1, 2], &[1, 2], [1, 1]),
            (&[1, 2], &[], [0, 0]),
            (&[1, 2], &[3, 4], [0, 0]),
        ] {
            assert_eq!(alike(&list(before), &list(after)), expected, "{before:?} and {after:?}");
        }
        let one = list(&[1, 2]);
        assert_eq!(alike(&one, &one), [2, 0]);
    }

    /// Whatever it is that is said of an endpoint.
    #[test]
    fn every_word_of_an_endpoint_counts() {
        let before = Endpoint::new(([127, 0, 0, 1], 1).into());
        let changes: [fn(&mut Endpoint); 7] = [
            |one| one.address.set_port(2),
            |one| one.weight = Weight(2),
            |one| one.health = Health::Degraded,
            |one| one.priority = 1,
            |one| {
                one.locality = Arc::new(Locality {
                    zone: "a".into(),
                    ..Locality::default()
                })
            },
            |one| one.hostname = Some("a".into()),
            |one| one.metadata = Arc::new(Metadata::new([("a", "b", "c")]).unwrap()),
        ];
        for change in changes {
            let mut after = before.clone();
            change(&mut after);
            let (before, after) = ([before.clone(), before.clone()], [before.clone(), after]);
            assert_eq!(alike(&before, &after), [1, 0], "{:?}", after[1]);
        }
    }
}
